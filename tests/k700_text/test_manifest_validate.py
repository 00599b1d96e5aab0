from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k700_text import schema
from k700_text.errors import ManifestError
from k700_text.manifest.validate import validate_manifest, validate_manifests
from tests.k700_text.crawling import NOON, make_ids

IDS = sorted(make_ids(3))


def good_rows() -> list[dict[str, Any]]:
    rows = []
    for each in IDS:
        row: dict[str, Any] = dict.fromkeys(schema.MANIFEST_SCHEMA.names)
        row |= {"clip_id": f"{each}_000001_000011", "youtube_id": each, "split": "val", "label": "yoga"}
        row |= {"start_seconds": 1.0, "end_seconds": 11.0, "title": "A title", "title_source": "oembed"}
        row |= {"title_fetched_at": NOON, "availability": "public", "availability_sources": ["oembed"]}
        row |= {"video_status": "usable", "audio_status": "silent"}
        rows.append(row | {"has_video": True, "has_audio": False, "has_text": True})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    stamped = schema.with_metadata(schema.MANIFEST_SCHEMA, annotations_sha256="ab", tool_version="1")
    loose = pa.schema([field.with_nullable(True) for field in stamped], metadata=stamped.metadata)
    pq.write_table(pa.Table.from_pylist(rows, loose), path)
    return path


def texts(path: Path) -> list[str]:
    return [problem.text for problem in validate_manifest(path)]


def test_a_good_file_has_no_problem(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "m.parquet", good_rows())) == []
    assert texts(write(tmp_path / "empty.parquet", [])) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"availability": "gone"}, "availability holds an unknown value"),
        ({"availability": None}, "availability is null"),
        ({"split": "validate"}, "split holds an unknown value"),
        ({"video_status": "fine"}, "video_status holds an unknown value"),
        ({"youtube_id": "short"}, "youtube_id is no id"),
        ({"clip_id": "x"}, "clip_id is no clip id"),
        ({"youtube_id": IDS[0]}, "clip_id is not of this youtube_id"),
        ({"end_seconds": 1.0}, "start_seconds and end_seconds are no span"),
        ({"start_seconds": -1.0}, "start_seconds and end_seconds are no span"),
        ({"end_seconds": float("nan")}, "start_seconds and end_seconds are no span"),
        ({"end_seconds": float("inf")}, "start_seconds and end_seconds are no span"),
        ({"clip_id": f"{IDS[1]}_000001_090000", "end_seconds": 90_000.0}, "start_seconds and end_seconds are no span"),
        ({"start_seconds": 2.0}, "clip_id does not name start_seconds"),
        ({"end_seconds": 12.5}, "clip_id does not name end_seconds"),
        ({"title": ""}, "title is empty"),
        ({"title": "a\x07b"}, "title is not clean"),
        ({"title": " a"}, "title is not clean"),
        ({"title": None}, "title_source does not go with title"),
        ({"title": None}, "has_text does not agree"),
        ({"title_fetched_at": None}, "title_fetched_at does not go with title"),
        ({"availability_sources": []}, "availability has no source"),
        ({"availability": "unknown"}, "availability unknown has sources"),
        ({"has_video": False}, "has_video does not agree with video_status"),
        ({"has_audio": True}, "has_audio does not agree with audio_status"),
        ({"has_audio": None}, "has_audio and audio_status: one is null"),
        ({"video_status": None}, "has_video and video_status: one is null"),
        ({"has_text": False}, "has_text does not agree"),
    ],
)
def test_each_fault_is_named_with_its_row(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    rows = good_rows()
    rows[1] |= changes
    found = [text for text in texts(write(tmp_path / "m.parquet", rows)) if text.startswith(message)]
    assert len(found) == 1 and "1 of 3 rows" in found[0] and str(rows[1]["clip_id"]) in found[0]


def test_order_and_repeats(tmp_path: Path) -> None:
    rows = good_rows()
    assert any("not sorted" in text for text in texts(write(tmp_path / "m.parquet", rows[::-1])))
    (text,) = texts(write(tmp_path / "m.parquet", [rows[0], rows[0], rows[1]]))
    assert text.startswith("rows repeat an earlier row")
    labels = [rows[0] | {"label": "archery"}, rows[0]]
    assert texts(write(tmp_path / "m.parquet", labels)) == []
    assert any("not sorted" in text for text in texts(write(tmp_path / "m.parquet", labels[::-1])))


def test_all_problems_come_together(tmp_path: Path) -> None:
    rows = good_rows()
    rows[0]["availability"] = "gone"
    rows[2]["has_text"] = False
    first = write(tmp_path / "a.parquet", rows)
    second = write(tmp_path / "b.parquet", good_rows()[::-1])
    problems = validate_manifests([first, second])
    assert [problem.path for problem in problems] == [str(first), str(first), str(second)]
    assert str(problems[0]).startswith(f"{first}: availability")


def test_a_schema_that_is_not_ours_lists_every_difference(tmp_path: Path) -> None:
    pq.write_table(pa.table({"clip_id": [1], "extra": ["x"]}), tmp_path / "m.parquet")
    (found,) = texts(tmp_path / "m.parquet")
    assert found.startswith("rewritten by another program, and without youtube_id, split, label")
    table = pa.table({"clip_id": [1], "extra": ["x"]}).replace_schema_metadata({schema.VERSION_KEY: b"9"})
    pq.write_table(table, tmp_path / "m.parquet")
    found = texts(tmp_path / "m.parquet")
    assert "schema version 9, expected 1" in found
    assert "column clip_id is int64, expected string" in found
    assert "column youtube_id is missing" in found and "column extra is not part of the schema" in found


def test_what_is_no_parquet_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_text("no")
    for name, message in (("m.parquet", "as Parquet"), ("absent.parquet", "no such file")):
        with pytest.raises(ManifestError, match=message):
            validate_manifest(tmp_path / name)


def test_damage_behind_a_sound_footer_is_one_clear_error(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", good_rows())
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=r"m\.parquet is damaged"):
        validate_manifest(path)
    with pytest.raises(ManifestError, match=r"m\.parquet is damaged"):
        schema.read_table(path, schema.MANIFEST_SCHEMA)
