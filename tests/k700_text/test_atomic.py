"""Whole files and locks: one writer at a time, nothing followed, nothing lost, nothing left."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k700_text.errors import LockedError
from k700_text.files.atomic import PartFile, whole_file, whole_path, write_whole
from k700_text.files.lock import FileLock, lock_beside
from k700_text.files.plain import open_plain

Plant = Callable[[Path, Path], None]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_new_file_has_the_rights_of_the_umask_and_an_old_one_keeps_its_own(tmp_path: Path, umask: int) -> None:
    path, by_name = tmp_path / "a", tmp_path / "b"
    before = os.umask(umask)
    try:
        write_whole(path, "new")
        with whole_path(by_name) as part:
            part.unlink()  # as libraries do that write and rename in their own way
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT, 0o600))
        assert {each.stat().st_mode & 0o777 for each in (path, by_name)} == {0o666 & ~umask}
        path.chmod(0o640)
        write_whole(path, "newer")
    finally:
        os.umask(before)
    assert path.read_text() == "newer" and path.stat().st_mode & 0o777 == 0o640 and names(tmp_path) == ["a", "b"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_what_root_writes_anew_stays_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    os.chown(path, 1234, 2345)
    path.chmod(0o2750)  # a change of owner takes this bit away
    with whole_path(path) as part:
        part.write_text("new")
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1234, 2345, 0o2750)
    assert path.read_text() == "new"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        file.write(b"x" * 1_000_000)
        assert [name.startswith(".a.") for name in names(tmp_path)] == [True, False]
        1 / 0  # noqa: B018
    with pytest.raises(ZeroDivisionError), whole_path(path) as part:
        part.write_text("half")
        1 / 0  # noqa: B018
    assert names(tmp_path) == ["a"] and path.read_text() == "old"


def symlink(victim: Path, path: Path) -> None:
    path.symlink_to(victim)


def dangling(victim: Path, path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def loop(victim: Path, path: Path) -> None:
    path.symlink_to(path.name)


def hard_link(victim: Path, path: Path) -> None:
    path.hardlink_to(victim)


def fifo(victim: Path, path: Path) -> None:
    os.mkfifo(path)


def bound_socket(victim: Path, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def folder(victim: Path, path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("plant", [symlink, dangling, loop, fifo, bound_socket, folder])
def test_what_is_no_plain_file_is_neither_followed_nor_replaced(tmp_path: Path, plant: Plant) -> None:
    victim, path = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    plant(victim, path)
    kind = path.lstat()
    opens: list[Callable[[], Any]] = [
        lambda: write_whole(path, "x"),
        lambda: open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT),
        lambda: open_plain(path, os.O_RDONLY),
        lambda: FileLock(path, "another"),
    ]
    for attempt in opens:
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.filename == str(path)
    assert victim.read_text() == "precious" and path.lstat().st_ino == kind.st_ino
    assert names(tmp_path) == ["out", "victim"]


def test_a_second_name_is_replaced_by_a_whole_file_but_never_written_into(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    hard_link(victim, path)
    with pytest.raises(OSError, match="second name"):
        open_plain(path, os.O_WRONLY | os.O_APPEND)
    with pytest.raises(OSError, match="second name"):
        FileLock(path, "another")
    write_whole(path, "new")
    assert victim.read_text() == "precious" and path.read_text() == "new"


def test_something_planted_while_a_file_is_written_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(OSError) as caught, whole_file(path) as file:
        file.write(b"x")
        path.symlink_to(tmp_path / "victim")
    assert caught.value.errno == errno.ELOOP and path.is_symlink() and names(tmp_path) == ["out"]


def test_names_as_long_as_names_may_be(tmp_path: Path) -> None:
    for name in ("x" * 255, "\u00e9" * 127, "a\nb\x1b", os.fsdecode(b"\xff\xfe" * 100)):
        write_whole(tmp_path / name, name.encode("utf-8", "surrogateescape"))
    assert len(names(tmp_path)) == 4


def write_for_ever(path: str) -> None:
    with whole_file(path) as file:
        file.write(b"x" * 1000)
        file.flush()
        os.write(1, b"writing\n")
        signal.pause()


def test_what_a_killed_writer_left_goes_with_the_next_one_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    code = "import sys; sys.path[:0] = [sys.argv[2]]; import test_atomic; test_atomic.write_for_ever(sys.argv[1])"
    words = [sys.executable, "-c", code, str(path), str(Path(__file__).parent)]
    (tmp_path / ".p.parquet.mine.part").touch()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        write_whole(path, "of another")
        assert len(list(tmp_path.glob(".p.parquet.????????.part"))) == 1
        writer.kill()
    assert len(list(tmp_path.glob(".p.parquet.????????.part"))) == 1
    write_whole(path, "again")
    assert names(tmp_path) == [".p.parquet.mine.part", "p.parquet"] and path.read_text() == "again"


def test_many_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    contents = [bytes([number]) * 50_000 for number in range(8)]
    failed: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(10):
                write_whole(path, content)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test tells of it
            failed.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and path.read_bytes() in contents and names(tmp_path) == ["out"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_names_the_file_that_it_will_be(tmp_path: Path) -> None:
    output = PartFile(tmp_path / "out")
    os.dup2(os.open("/dev/full", os.O_WRONLY), output.file.fileno())
    with pytest.raises(OSError) as caught:
        output.write(b"x" * 1_000_000)
    output.discard()
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "out")
    assert names(tmp_path) == []


def test_a_missing_folder_is_told_by_the_name_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(tmp_path / "no" / "out", "x")
    assert caught.value.filename == str(tmp_path / "no" / "out")


# --- locks ---


def test_the_second_one_is_told_who_is_first(tmp_path: Path) -> None:
    path = lock_beside(tmp_path / "p.parquet")
    with FileLock(path, "another probe is writing p.parquet"):
        with pytest.raises(LockedError) as caught:
            FileLock(path, "another probe is writing p.parquet", "wait")
        told = rf"another probe is writing p.parquet \(process {os.getpid()} on \S+ since [\d-]+ [\d:]+ UTC\): wait"
        assert re.fullmatch(told, str(caught.value))
    assert path.name == ".p.parquet.lock" and path.read_bytes() == b""
    with FileLock(path, "nobody"):
        pass


def test_a_foreign_file_and_a_lying_one_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text("notes of somebody")
    with FileLock(path, "another"), pytest.raises(LockedError, match=r"^another: stop it$"):
        FileLock(path, "another", "stop it")
    assert path.read_text() == "notes of somebody"
    path.write_text('{"pid": 1, "host": "\\u001b[31m\\u202e", "since": ' + '"' + "x" * 300 + '"}')
    with FileLock(path, "the dead hold nothing"):
        pass


def hold(path: Path, ready: Any) -> None:
    lock = FileLock(path, "another")
    # A worker of its own, which lives on.
    multiprocessing.get_context("fork").Process(target=signal.pause, daemon=False).start()
    ready.set()
    signal.pause()
    lock.release()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_killed_holder_holds_nothing_though_its_worker_lives(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold, args=(path, ready))
    holder.start()
    assert ready.wait(20) and holder.pid is not None
    (worker,) = (int(each) for each in Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split())
    try:
        with pytest.raises(LockedError, match=f"process {holder.pid} on"):
            FileLock(path, "another")
        holder.kill()
        holder.join()
        os.kill(worker, 0)
        with FileLock(path, "another"):
            assert f'"pid": {os.getpid()}' in path.read_text()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_who_waits_says_so_once_and_comes_next(tmp_path: Path) -> None:
    path, told = tmp_path / ".lock", list[str]()
    first = FileLock(path, "another")

    def on_wait(line: str) -> None:
        told.append(line)
        threading.Timer(0.1, first.release).start()

    with FileLock(path, "another", on_wait=on_wait), pytest.raises(LockedError):
        FileLock(path, "another")
    assert len(told) == 1 and told[0].endswith(": waiting for it to end")
    first.release()


def test_where_a_file_system_knows_no_locks_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    with FileLock(tmp_path / ".lock", "another"):
        write_whole(tmp_path / "out", "x")
        write_whole(tmp_path / "out", "y")
    assert names(tmp_path) == [".lock", "out"]
