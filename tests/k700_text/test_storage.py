"""Reading byte ranges from a local folder and through fsspec: the same answers, the same failures."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from k700_text.errors import MissingExtraError, StorageError
from k700_text.files import storage as storage_module
from k700_text.files.storage import ByteRange, open_storage

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def memory() -> Iterator[str]:
    files = fsspec.filesystem("memory")
    files.pipe_file("/box/shards/a.tar", CONTENT)
    yield "memory://box/shards"
    files.rm("/box", recursive=True)


@pytest.fixture(params=["local", "file", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        url: str = request.getfixturevalue("memory")
        return url
    (tmp_path / "a.tar").write_bytes(CONTENT)
    return f"file://{tmp_path}" if request.param == "file" else str(tmp_path)


def test_ranges_files_and_existence(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage = open_storage(location)
    assert storage.exists("a.tar") and not storage.exists("b.tar")
    assert storage.read("a.tar", 300, 10) == CONTENT[300:310]
    ranges = [ByteRange("a.tar", 0, 4), ByteRange("a.tar", len(CONTENT) - 3, 3), ByteRange("a.tar", 7, 1)]
    assert storage.read_many(ranges) == [CONTENT[:4], CONTENT[-3:], CONTENT[7:8]]
    assert storage.read_file("a.tar") == CONTENT
    assert storage.local_file("a.tar").read_bytes() == CONTENT


def test_what_is_missing_or_short_is_named_with_a_remedy(location: str) -> None:
    storage = open_storage(location)
    for read in (
        lambda: storage.read("train-000007.tar", 0, 5),
        lambda: storage.read_many([ByteRange("a.tar", 0, 1), ByteRange("train-000007.tar", 0, 5)]),
        lambda: storage.read_file("train-000007.tar"),
        lambda: storage.local_file("train-000007.tar"),
    ):
        with pytest.raises(StorageError, match=r"shards/train-000007\.tar|/train-000007\.tar: no such file.*prepare"):
            read()
    with pytest.raises(StorageError, match=r"a\.tar: ends before what the index says"):
        storage.read("a.tar", len(CONTENT) - 2, 5)


def test_it_pickles_to_its_location(location: str) -> None:
    storage = open_storage(location)
    storage.read("a.tar", 0, 1)
    blob = pickle.dumps(storage)
    assert len(blob) < 300
    assert pickle.loads(blob).read("a.tar", 5, 2) == CONTENT[5:7]


def test_a_relative_path_stays_the_same_place_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path)
    storage = open_storage(".")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(storage)).read("a.tar", 0, 2) == CONTENT[:2]


def num_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_few_files_stay_open_and_all_are_closed_at_the_end(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number}.tar").write_bytes(b"%03d" % number)
    before = num_open_files()
    storage = open_storage(tmp_path)
    for _ in range(2):
        assert [storage.read(f"{number}.tar", 0, 3) for number in range(200)] == [b"%03d" % n for n in range(200)]
    assert num_open_files() <= before + 64
    del storage
    assert num_open_files() == before


def _read_in_child(storage: object, queue: object) -> None:
    queue.put([storage.read(f"{number}.tar", 0, 4) for number in range(8)])  # type: ignore[attr-defined] - test double


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_threads_and_forked_processes_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        (tmp_path / f"{number}.tar").write_bytes(number.to_bytes(4, "little"))
    monkeypatch.setattr(storage_module, "_MAX_OPEN_FILES", 3)
    storage = open_storage(tmp_path)
    expected = [number.to_bytes(4, "little") for number in range(8)]
    wrong: list[int] = []
    stop = threading.Event()

    def read_on() -> None:
        while not stop.is_set():
            wrong.extend(n for n in range(8) if storage.read(f"{n}.tar", 0, 4) != expected[n])

    threads = [threading.Thread(target=read_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        context = multiprocessing.get_context("fork")
        for _ in range(3):
            queue = context.Queue()
            child = context.Process(target=_read_in_child, args=(storage, queue))
            child.start()
            assert queue.get(timeout=20) == expected
            child.join()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_remote_storage_works_in_a_forked_process(memory: str) -> None:
    storage = open_storage(memory)
    storage.read("a.tar", 0, 1)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(storage.read("a.tar", 1, 3)))
    child.start()
    assert queue.get(timeout=20) == CONTENT[1:4]
    child.join()


def test_a_remote_file_is_fetched_once_until_it_changes(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = open_storage(memory).local_file("a.tar")
    assert first.is_relative_to(tmp_path / "k700-text") and first.read_bytes() == CONTENT
    first.write_bytes(b"kept")
    assert open_storage(memory).local_file("a.tar").read_bytes() == b"kept"
    fsspec.filesystem("memory").pipe_file("/box/shards/a.tar", CONTENT[::-1])
    second = open_storage(memory).local_file("a.tar")
    assert second != first and second.read_bytes() == CONTENT[::-1]
    assert not list(tmp_path.rglob("*.part"))


def test_without_fsspec_urls_say_what_to_install_and_paths_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingExtraError, match=r"s3://bucket/x: .*pip install 'k700-text\[data\]'"):
        open_storage("s3://bucket/x")
    (tmp_path / "a").write_bytes(b"x")
    assert open_storage(tmp_path).read("a", 0, 1) == b"x"


def test_an_address_of_an_unknown_kind_is_one_clear_line() -> None:
    with pytest.raises(StorageError, match=r"nonsense://x: .*nonsense"):
        open_storage("nonsense://x")


def test_a_store_that_fails_in_its_own_way_is_named(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(memory)

    class RefusedError(Exception):
        pass

    def fail(*_: object, **__: object) -> bytes:
        raise RefusedError("403: no\n entry")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", fail)
    with pytest.raises(StorageError, match=r"^memory://box/shards/a\.tar: 403: no entry$"):
        storage.read("a.tar", 0, 1)
