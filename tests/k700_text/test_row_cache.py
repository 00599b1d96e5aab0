from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from k700_text.config import AudioConfig
from k700_text.data import row_cache
from k700_text.data.clips import ClipSource, clip_source
from k700_text.data.row_cache import open_rows
from k700_text.data.rows import RowQuery
from k700_text.data.store import RowFile
from k700_text.errors import ManifestError, UsageError
from tests.k700_text.media_files import clip_id_of, write_manifest


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "k700-text"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    root = tmp_path / "clips"
    for number in range(4):
        path = root / f"label {number % 2}" / f"{clip_id_of(number)}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "train.parquet", rows(range(5)))


def rows(numbers: Any, **values: Any) -> list[dict[str, Any]]:
    return [{"clip_id": clip_id_of(number), "title": f"title {number}", **values} for number in numbers]


def opened(manifest: Path | list[Path], clips: Any, **options: Any) -> RowFile:
    query = RowQuery.of(manifest, options.pop("split", None), options.pop("require", ("video",)))
    return open_rows(query, clip_source(clips, None, AudioConfig()))


def served(file: RowFile) -> list[str]:
    return [file.row(index).clip_id for index in range(len(file))]


@pytest.fixture
def selections(monkeypatch: pytest.MonkeyPatch) -> list[RowQuery]:
    """Grows with every query that was not answered from the cache."""
    made: list[RowQuery] = []
    select_rows = row_cache.select_rows

    def counted(query: RowQuery, source: ClipSource) -> Any:
        made.append(query)
        return select_rows(query, source)

    monkeypatch.setattr(row_cache, "select_rows", counted)
    return made


def test_rows_are_selected_once(manifest: Path, clips: Path, selections: list[RowQuery]) -> None:
    first, second = opened(manifest, clips), opened(manifest, clips)
    assert served(first) == served(second) == [clip_id_of(number) for number in range(4)]
    assert first.path == second.path and first.path.parent == Path(f"{manifest}.cache") and len(selections) == 1
    assert second.about["dropped"] == {"without a clip file": 1}
    assert second.row(0).place == f"label 0/{clip_id_of(0)}.mp4"
    # Another name of the same folder and file.
    clips.with_name("link").symlink_to(clips)
    assert opened(manifest, clips.with_name("link")).path == first.path and len(selections) == 1


def test_every_query_has_rows_of_its_own(manifest: Path, clips: Path, selections: list[RowQuery]) -> None:
    write_manifest(manifest, [*rows([0, 1], has_audio=False), *rows([2, 3], split="val")])
    for _ in range(2):
        assert served(opened(manifest, clips, split="validate")) == [clip_id_of(number) for number in (2, 3)]
        assert served(opened(manifest, clips, split="train")) == [clip_id_of(number) for number in (0, 1)]
        assert served(opened(manifest, clips, require=("audio",))) == [clip_id_of(number) for number in (2, 3)]
        assert len(served(opened(manifest, clips, require=()))) == 4
        assert len(served(opened([manifest, manifest], clips))) == 8
    assert len(selections) == 5


def test_a_manifest_that_was_written_again_is_read_again(
    manifest: Path, clips: Path, selections: list[RowQuery]
) -> None:
    assert len(served(opened(manifest, clips))) == 4
    before = manifest.stat()
    write_manifest(manifest, rows([3, 2, 1, 0, 4]))
    # Of the same size, and with its old date.
    manifest.write_bytes(manifest.read_bytes() + b"" * max(0, before.st_size - manifest.stat().st_size))
    os.utime(manifest, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert served(opened(manifest, clips)) == [clip_id_of(number) for number in (3, 2, 1, 0)]
    # And as it was before: what was selected then still holds.
    write_manifest(manifest, rows(range(5)))
    assert served(opened(manifest, clips)) == [clip_id_of(number) for number in range(4)]
    assert len(selections) == 2


@pytest.mark.parametrize("change", ["added", "added in a new folder", "removed", "renamed", "folder renamed"])
def test_a_change_of_the_clips_is_seen(manifest: Path, clips: Path, change: str) -> None:
    assert len(served(opened(manifest, clips))) == 4
    file, new_name = clips / "label 1" / f"{clip_id_of(1)}.mp4", f"{clip_id_of(4)}.mp4"
    if change == "added":
        file.with_name(new_name).touch()
    elif change == "added in a new folder":
        (clips / "a" / "b").mkdir(parents=True)
        assert len(served(opened(manifest, clips))) == 4
        (clips / "a" / "b" / new_name).touch()
    elif change == "removed":
        file.unlink()
    elif change == "renamed":
        file.rename(file.with_name(new_name))
    else:
        file.parent.rename(clips / "other")
    found = opened(manifest, clips)
    names = {path.name: path.relative_to(clips).as_posix() for path in clips.rglob("*.mp4")}
    expected = {number: names.get(f"{clip_id_of(number)}.mp4") for number in range(5)}
    assert [found.row(index).place for index in range(len(found))] == [path for path in expected.values() if path]


def test_clips_that_change_at_once_are_seen(manifest: Path, clips: Path) -> None:
    # File systems stamp in ticks: without care the second change would be taken for the first.
    for number in range(4, 24):
        write_manifest(manifest, rows(range(number + 1)))
        (clips / f"{clip_id_of(number)}.mp4").touch()
        assert len(served(opened(manifest, clips))) == number + 1


def test_manifests_may_lie_among_the_clips(clips: Path, selections: list[RowQuery]) -> None:
    train, val = (write_manifest(clips / f"{name}.parquet", rows([0, 1])) for name in ("train", "val"))
    for _ in range(3):
        assert len(opened(train, clips)) == len(opened(val, clips)) == 2
    # The second cache folder is a change of the clips' folder; what is written into caches is none.
    assert len(selections) <= 3


@pytest.mark.parametrize("damage", ["empty", "truncated", "other"])
def test_a_damaged_cache_is_made_again(manifest: Path, clips: Path, damage: str) -> None:
    path = opened(manifest, clips).path
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "other": b"x" * len(content)}[damage])
    (path.parent / "manifests.json").write_text("{" if damage == "empty" else '["text"]')
    again = opened(manifest, clips)
    assert len(served(again)) == 4 and again.path != path


def test_a_folder_that_cannot_be_written_to_is_left_alone(manifest: Path, clips: Path, user_cache: Path) -> None:
    # A file in its place: permissions do not stop the root user.
    Path(f"{manifest}.cache").touch()
    first, second = opened(manifest, clips), opened(manifest, clips)
    assert first.path == second.path and first.path.is_relative_to(user_cache)
    assert len(served(second)) == 4
    other = write_manifest(manifest.with_name("val.parquet"), rows([2]))
    Path(f"{other}.cache").touch()
    assert opened(other, clips).path.parent != first.path.parent


def test_without_any_place_for_a_cache_the_rows_are_for_now(
    manifest: Path, clips: Path, user_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(f"{manifest}.cache").touch()
    user_cache.parent.touch()
    (tmp_path / "t").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    file = opened(manifest, clips)
    assert len(served(file)) == 4 and file.path.parent == tmp_path / "t"
    del file
    assert not list((tmp_path / "t").iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(ManifestError, match="set TMPDIR"):
        opened(manifest, clips)


def test_a_mapping_is_never_kept(manifest: Path, clips: Path) -> None:
    mapping = {clip_id_of(number): clips / f"{number}.mp4" for number in (1, 3)}
    file = opened(manifest, mapping)
    assert served(file) == [clip_id_of(1), clip_id_of(3)] and file.row(1).place == str(clips / "3.mp4")
    assert not Path(f"{manifest}.cache").exists()


def test_old_files_of_ours_are_removed_and_no_others(
    manifest: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_cache, "_NUM_KEPT", 2)
    in_use = opened(manifest, clips)
    foreign = in_use.path.parent / "mine.arrow"
    foreign.touch()
    abandoned, under_way = (in_use.path.parent / f".rows-{name}.part" for name in ("old", "new"))
    abandoned.touch()
    under_way.touch()
    os.utime(abandoned, (0, 0))
    os.utime(in_use.path, (0, 0))
    for number in range(4):
        write_manifest(manifest, rows(range(number + 1)))
        newest = opened(manifest, clips)
        assert len(newest) == number + 1
    left = {path for path in in_use.path.parent.iterdir() if path.name.startswith("rows-")}
    assert {in_use.path, newest.path} <= left and len(left) == 3
    assert foreign.exists() and under_way.exists() and not abandoned.exists()


def _open(manifest: Path, clips: Path, results: Any) -> None:
    results.put(served(opened(manifest, clips)))


def test_processes_may_make_it_at_once(manifest: Path, clips: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_open, args=(manifest, clips, results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=30) for _ in processes] == [[clip_id_of(number) for number in range(4)]] * 4
    for process in processes:
        process.join()
    assert not list(Path(f"{manifest}.cache").glob(".*.part"))


def test_bad_input_is_one_clear_line(manifest: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        opened(tmp_path / "absent.parquet", clips)
    with pytest.raises(ManifestError, match="cannot read"):
        opened(tmp_path, clips)
    with pytest.raises(UsageError, match="no such folder"):
        opened(manifest, tmp_path / "absent")
    with pytest.raises(UsageError, match="not a folder"):
        opened(manifest, manifest)
    with pytest.raises(ValueError, match="at least one manifest"):
        opened([], clips)
