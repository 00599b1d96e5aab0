from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k700_text.config import AudioConfig
from k700_text.data import row_cache
from k700_text.data.clips import ClipSource, clip_source
from k700_text.data.row_cache import open_rows
from k700_text.data.rows import RowQuery
from k700_text.data.store import RowFile
from k700_text.errors import ManifestError, SchemaMismatchError, UsageError
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


def opened(manifest: Any, clips: Any, **options: Any) -> RowFile:
    query = RowQuery.of(manifest, options.pop("split", None), options.pop("require", ("video",)), **options)
    return open_rows(query, clip_source(clips, None, AudioConfig()))


def cache_of(manifest: Path) -> Path:
    return manifest.with_name(f".{manifest.name}.cache")


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
    assert first.path == second.path and first.path.parent == cache_of(manifest) and len(selections) == 1
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
    cache_of(manifest).touch()
    first, second = opened(manifest, clips), opened(manifest, clips)
    assert first.path == second.path and first.path.is_relative_to(user_cache)
    assert len(served(second)) == 4
    other = write_manifest(manifest.with_name("val.parquet"), rows([2]))
    cache_of(other).touch()
    assert opened(other, clips).path.parent != first.path.parent


def test_without_any_place_for_a_cache_the_rows_are_for_now(
    manifest: Path, clips: Path, user_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_of(manifest).touch()
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
    assert not cache_of(manifest).exists()


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
    assert not list(cache_of(manifest).glob(".*.part"))


def test_bad_input_is_one_clear_line(manifest: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        opened(tmp_path / "absent.parquet", clips)
    with pytest.raises(ManifestError, match="no manifest in"):
        opened(clips, clips)
    with pytest.raises(UsageError, match="no such folder"):
        opened(manifest, tmp_path / "absent")
    with pytest.raises(UsageError, match="not a folder"):
        opened(manifest, manifest)
    with pytest.raises(ValueError, match="at least one manifest"):
        opened([], clips)


FRAMES: dict[str, Callable[[pa.Table], Any]] = {
    "pyarrow": lambda table: table,
    "reader": lambda table: table.to_reader(),
    "pandas": lambda table: table.to_pandas(),
    "filtered pandas": lambda table: table.to_pandas().iloc[::-1].iloc[::-1],
    # As polars and relations of DuckDB: nothing but the stream, of views.
    "stream": lambda table: Stream(
        table.cast(pa.schema([(f.name, STREAMED.get(f.type, f.type)) for f in table.schema]))
    ),
}
STREAMED = {pa.string(): pa.string_view()}


class Stream:
    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("kind", FRAMES)
def test_a_table_in_memory_gives_the_rows_of_its_file(manifest: Path, clips: Path, user_cache: Path, kind: str) -> None:
    expected = served(opened(manifest, clips))
    shutil.rmtree(cache_of(manifest))
    assert served(opened(FRAMES[kind](pq.read_table(manifest)), clips)) == expected
    # It has no place and no stamp: nothing is kept.
    assert not cache_of(manifest).exists() and not user_cache.exists()


def test_tables_files_and_folders_go_together(manifest: Path, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    other = write_manifest(tmp_path / "more" / "val.parquet", rows([3]))
    whole = [*served(opened(manifest, clips)), clip_id_of(3)]
    for both in (
        [manifest, other],
        [manifest, other.parent],
        [manifest, pq.read_table(other)],
        [pd.read_parquet(manifest), other],
    ):
        assert served(opened(both, clips)) == whole


def test_the_rows_of_every_choice_are_kept_apart(manifest: Path, clips: Path) -> None:
    """Any two queries that differ give other rows, also where they meet what others have left in the cache."""
    choices: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [0, 1, 2, 3]),
        ({"clip_ids": [clip_id_of(2), clip_id_of(0), clip_id_of(2)]}, [0, 2]),
        ({"clip_ids": []}, []),
        ({"where": "title != 'title 1'"}, [0, 2, 3]),
        ({"where": "title == 'title 1'"}, [1]),
        ({"where": "title != 'title 1'", "clip_ids": pa.array([clip_id_of(1), clip_id_of(3)])}, [3]),
    ]
    for _ in range(2):
        for options, numbers in choices:
            assert served(opened(manifest, clips, **options)) == [clip_id_of(number) for number in numbers]


def test_a_column_that_people_added_may_be_named(manifest: Path, clips: Path) -> None:
    frame = pd.read_parquet(manifest).assign(score=[0.1, 0.9, 0.2, 0.8, 0.7])
    frame["kind"] = pd.Categorical(["x", "y", "x", "x", "x"])
    assert served(opened(frame, clips, where="score > 0.5 and kind in ['x']")) == [clip_id_of(3)]
    with pytest.raises(
        UsageError, match=r"where: the table has no column 'scroe': (did you mean score|it has clip_id)"
    ):
        opened(frame, clips, where="scroe > 0.5")


def test_few_columns_are_needed(manifest: Path, clips: Path, tmp_path: Path) -> None:
    pd.read_parquet(manifest)[["clip_id"]].to_parquet(tmp_path / "ids.parquet")
    assert served(opened(tmp_path / "ids.parquet", clips)) == [clip_id_of(number) for number in range(4)]
    pd.read_parquet(manifest)[["clip_id", "title"]].to_parquet(tmp_path / "titles.parquet")
    assert len(opened(tmp_path / "titles.parquet", clips, require=["text"])) == 5
    for options, column in (
        ({"require": ["text"]}, "title"),
        ({"needs_titles": True}, "title"),
        ({"split": "train"}, "split"),
    ):
        with pytest.raises(SchemaMismatchError, match=f"rewritten by another program, .*{column} is missing"):
            opened(tmp_path / "ids.parquet", clips, **options)


def test_ids_that_no_manifest_has_are_counted_with_examples(manifest: Path, clips: Path) -> None:
    ids = [clip_id_of(number) for number in (0, 91, 92, 93, 94)]
    for _ in range(2):  # told from the cache, too
        assert opened(manifest, clips, clip_ids=ids).about["unknown_clip_ids"] == [4, *ids[1:4]]
    for bad, message in ((ids[0], "put it into a list"), ([ids[0], 3], "must be texts, got 3"), ([None], "got None")):
        with pytest.raises(ValueError, match=message):
            opened(manifest, clips, clip_ids=bad)
    with pytest.raises(ValueError, match="a path, a table or a data frame, not int"):
        opened([3], clips)


def test_a_cache_of_before_is_cleared_unless_it_is_in_use(manifest: Path, clips: Path) -> None:
    earlier = Path(f"{manifest}.cache")
    opened(manifest, clips)
    shutil.copytree(cache_of(manifest), earlier)
    in_use = RowFile(next(earlier.glob("rows-*.arrow")))
    opened(manifest, clips)
    assert served(RowFile(in_use.path)) == served(in_use) and in_use.path.parent == earlier
    del in_use
    opened(manifest, clips)
    assert not earlier.exists()
    (earlier / "mine").mkdir(parents=True)  # a folder of somebody else
    opened(manifest, clips)
    assert (earlier / "mine").exists()


class Lazy:
    """A plan of rows, as a LazyFrame: it holds none, and what it does when it is asked for some is its own affair."""

    def collect(self) -> None: ...

    def __getitem__(self, index: int) -> None:
        raise TypeError("not subscriptable")


def test_a_lazy_frame_is_told_to_be_collected(clips: Path) -> None:
    with pytest.raises(ValueError, match=r"not \w+ Lazy: collect\(\) it"):
        opened(Lazy(), clips)
