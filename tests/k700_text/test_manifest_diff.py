from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from k700_text import schema
from k700_text.cli.main import app
from k700_text.errors import ManifestError, SchemaMismatchError
from k700_text.manifest.diff import Change, diff_manifests
from tests.k700_text.crawling import NOON

Videos = Mapping[str, Mapping[str, Any]]


def write(path: Path, videos: Videos, split: str = "val", clips_per_video: int = 1) -> Path:
    rows = []
    for youtube_id, values in sorted(videos.items()):
        for start in range(clips_per_video):
            row: dict[str, Any] = dict.fromkeys(schema.MANIFEST_SCHEMA.names)
            row |= {"clip_id": f"{youtube_id}_{start:06d}_{start + 10:06d}", "youtube_id": youtube_id, "split": split}
            row |= {"start_seconds": float(start), "end_seconds": start + 10.0, "availability_sources": []}
            row |= {"availability": "unknown", "has_text": values.get("title") is not None}
            if values.get("title") is not None:
                row |= {"title_source": "oembed", "title_fetched_at": NOON}
            rows.append(row | values)
    path.parent.mkdir(parents=True, exist_ok=True)
    stamped = schema.with_metadata(schema.MANIFEST_SCHEMA, annotations_sha256="ab", tool_version="1")
    pq.write_table(pa.Table.from_pylist(rows, stamped), path)
    return path


def states(*values: str) -> Videos:
    """Returns one video for each state, named by its place."""
    return {f"-{place:09d}A": {"availability": state} for place, state in enumerate(values)}


def changes(tmp_path: Path, before: Videos, after: Videos) -> dict[str, list[tuple[str, str | None, str | None]]]:
    found = diff_manifests(write(tmp_path / "a.parquet", before), write(tmp_path / "b.parquet", after))
    kinds: dict[str, list[tuple[str, str | None, str | None]]] = {}
    for change in found:
        kinds.setdefault(change.kind, []).append((change.youtube_id, change.before, change.after))
    assert {kind: len(entries) for kind, entries in kinds.items()} == {k: v for k, v in found.counts.items() if v}
    return kinds


def test_deaths_and_returns(tmp_path: Path) -> None:
    before = ["public", "unlisted", "private", "removed", "public", "private", "unknown", "public", "public"]
    after = ["private", "not_found", "public", "members_only", "unlisted", "terminated", "removed", "unknown", "public"]
    found = changes(tmp_path, states(*before), states(*after))
    pairs = {kind: [entry[1:] for entry in entries] for kind, entries in found.items()}
    assert pairs == {
        "died": [("public", "private"), ("unlisted", "not_found")],
        "came_back": [("private", "public"), ("removed", "members_only")],
        "state_changed": [
            ("public", "unlisted"),
            ("private", "terminated"),
            ("unknown", "removed"),
            ("public", "unknown"),
        ],
    }
    assert found["died"][0][0] == "-000000000A"


def test_titles(tmp_path: Path) -> None:
    before = {
        "NA_NA_NA_NA": {"title": "kept"},
        "aaaaaaaaaaA": {"title": "old"},
        "bbbbbbbbbbA": {"title": None},
        "ccccccccccA": {"title": "lost"},
        "ddddddddddA": {"title": "same", "title_source": "oembed"},
        "eeeeeeeeeeA": {"title": None},
        "ffffffffffA": {"title": "first", "title_source": "oembed"},
    }
    after = {
        "NA_NA_NA_NA": {"title": "kept", "title_fetched_at": NOON + timedelta(days=1)},
        "aaaaaaaaaaA": {"title": "new"},
        "bbbbbbbbbbA": {"title": "gained"},
        "ccccccccccA": {"title": None},
        "ddddddddddA": {"title": "same", "title_source": "wayback"},
        "eeeeeeeeeeA": {"title": None},
        "ffffffffffA": {"title": "second", "title_source": "data-api"},
    }
    assert changes(tmp_path, before, after) == {
        "title_changed": [("aaaaaaaaaaA", "old", "new"), ("ffffffffffA", "first", "second")],
        "title_gained": [("bbbbbbbbbbA", None, "gained")],
        "title_lost": [("ccccccccccA", "lost", None)],
        "source_changed": [("ddddddddddA", "oembed", "wayback")],
    }


def test_videos_that_come_and_go(tmp_path: Path) -> None:
    before = {"zzzzzzzzzzA": {"availability": "public"}, "aaaaaaaaaaA": {}, "-----------": {"title": "t"}}
    after = {"zzzzzzzzzzA": {"availability": "public"}, "0000000000A": {"title": "t"}}
    assert changes(tmp_path, before, after) == {
        "appeared": [("0000000000A", None, "unknown")],
        "disappeared": [("-----------", "unknown", None), ("aaaaaaaaaaA", "unknown", None)],
    }
    assert set(changes(tmp_path, {}, before)) == {"appeared"}
    assert set(changes(tmp_path, before, {})) == {"disappeared"}
    assert changes(tmp_path, {}, {}) == {}


def test_a_video_counts_once_however_many_clips_and_splits_it_is_in(tmp_path: Path) -> None:
    video = {"aaaaaaaaaaA": {"availability": "public"}}
    gone = {"aaaaaaaaaaA": {"availability": "removed"}}
    write(tmp_path / "a" / "train.parquet", video, "train", clips_per_video=3)
    write(tmp_path / "a" / "val.parquet", video, "val")
    write(tmp_path / "a" / "notes.parquet", {"bbbbbbbbbbA": {}})
    write(tmp_path / "b" / "train.parquet", gone, "train", clips_per_video=2)
    found = diff_manifests(tmp_path / "a", tmp_path / "b")
    assert list(found) == [Change("died", "aaaaaaaaaaA", "public", "removed")]
    assert (found.num_videos, found.num_clips) == ((1, 1), (4, 2))
    assert dict(found.rows())["clips"] == "4 -> 2"


def test_what_is_no_manifest_is_one_clear_line(tmp_path: Path) -> None:
    good = write(tmp_path / "a.parquet", states("public"))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no")
    for other, kind, message in (
        ("nowhere.parquet", ManifestError, "no such file"),
        ("empty", ManifestError, "no manifest in .*empty: expected at least one of train.parquet"),
        ("text.parquet", ManifestError, "as Parquet"),
        ("x.parquet", SchemaMismatchError, r"x\.parquet is not a manifest .*none of its columns"),
    ):
        for pair in ((good, tmp_path / other), (tmp_path / other, good)):
            with pytest.raises(kind, match=message):
                diff_manifests(*pair)


def run(arguments: Sequence[str]) -> str:
    done = CliRunner().invoke(app, ["diff", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command(tmp_path: Path) -> None:
    before = {"-aaaaaaaaaA": {"availability": "public", "title": "Old"}, "bbbbbbbbbbA": {}}
    after = {"-aaaaaaaaaA": {"availability": "private", "title": "New \u2764"}, "ccccccccccA": {}}
    files = [str(write(tmp_path / f"{name}.parquet", videos)) for name, videos in (("a", before), ("b", after))]
    values = json.loads(run([*files, "--json"]))
    assert values["command"] == "diff" and values["num_videos"] == [2, 2]
    assert values["counts"]["died"] == values["counts"]["appeared"] == 1 and values["counts"]["came_back"] == 0
    assert values["changes"]["died"] == [{"youtube_id": "-aaaaaaaaaA", "before": "public", "after": "private"}]
    lines = run([*files, "--list"]).splitlines()[-4:]
    assert lines == [
        "died  -aaaaaaaaaA  public -> private",
        "title_changed  -aaaaaaaaaA  Old -> New \u2764",
        "appeared  ccccccccccA  unknown",
        "disappeared  bbbbbbbbbbA  unknown",
    ]
    assert "-aaaaaaaaaA" not in run(files) and "title changed" in run(files)
