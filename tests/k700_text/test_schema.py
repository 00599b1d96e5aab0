from __future__ import annotations

import random
import re
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k700_text import schema
from k700_text.errors import ManifestError, SchemaMismatchError
from k700_text.records import ClipProbe
from k700_text.schema import MANIFEST_SCHEMA, PROBE_SCHEMA, read_table, with_metadata

# DESIGN section 4, group by group: readers of released files rely on names and order.
DESIGN_COLUMNS = re.split(
    r"\s+",
    """
clip_id youtube_id split label start_seconds end_seconds
title title_source title_fetched_at title_captured_at title_language
availability availability_sources published_at video_duration_seconds web_has_audio
video_status num_frames frame_rate width height clip_duration_seconds
audio_status audio_sample_rate audio_channels audio_rms_dbfs audio_peak_dbfs audio_silent_fraction
has_video has_audio has_text
""".strip(),
)


def test_the_manifest_has_the_columns_of_the_design() -> None:
    assert MANIFEST_SCHEMA.names == DESIGN_COLUMNS


def test_the_probe_table_has_a_column_for_every_field_of_its_record() -> None:
    assert set(PROBE_SCHEMA.names) == {field.name for field in fields(ClipProbe)}


def empty(schema: pa.Schema, path: Path) -> Path:
    pq.write_table(schema.empty_table(), path)
    return path


def test_a_file_of_ours_is_read(tmp_path: Path) -> None:
    path = empty(with_metadata(MANIFEST_SCHEMA, annotations_sha256="ab"), tmp_path / "val.parquet")
    assert read_table(path, MANIFEST_SCHEMA, ["title"]).column_names == ["title"]


def test_another_version_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = empty(MANIFEST_SCHEMA.with_metadata({b"k700_text.schema_version": b"99"}), tmp_path / "val.parquet")
    with pytest.raises(
        SchemaMismatchError, match=r"val\.parquet has schema version 99, this version reads 1"
    ) as caught:
        read_table(path, MANIFEST_SCHEMA)
    assert (caught.value.expected, caught.value.actual) == ("1", "99")


def test_a_missing_or_retyped_column_is_named(tmp_path: Path) -> None:
    schema = with_metadata(MANIFEST_SCHEMA)
    index = schema.get_field_index("title")
    with pytest.raises(SchemaMismatchError, match=r"a\.parquet: column title is missing: write it again"):
        read_table(empty(schema.remove(index), tmp_path / "a.parquet"), MANIFEST_SCHEMA)
    with pytest.raises(SchemaMismatchError, match="column title is int64, expected string"):
        read_table(empty(schema.set(index, pa.field("title", pa.int64())), tmp_path / "b.parquet"), MANIFEST_SCHEMA)


def test_what_is_not_parquet_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ManifestError, match=r"cannot read .*x\.parquet as Parquet"):
        read_table(tmp_path / "x.parquet", MANIFEST_SCHEMA)
    with pytest.raises(ManifestError, match=r"no such file: .*nowhere"):
        read_table(tmp_path / "nowhere.parquet", MANIFEST_SCHEMA)


def test_text_that_is_no_utf8_is_damage_not_a_value(tmp_path: Path) -> None:
    field = schema.PROBE_SCHEMA.field("clip_file")
    columns = {each.name: pa.array([None], each.type) for each in schema.PROBE_SCHEMA if each.name != field.name}
    damaged = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xc3\x28"))
    table = pa.table({"clip_file": damaged, **columns}, schema=schema.with_metadata(schema.PROBE_SCHEMA))
    pq.write_table(table, tmp_path / "probe.parquet")
    with pytest.raises(ManifestError, match="damaged"):
        schema.read_table(tmp_path / "probe.parquet", schema.PROBE_SCHEMA)


def test_columns_of_more_bytes_than_bearable_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {each.name: pa.array([None] * 100, each.type) for each in schema.PROBE_SCHEMA}
    columns["clip_file"] = pa.array(["a" * 1000 + str(number) for number in range(100)])
    table = pa.table(columns, schema=schema.with_metadata(schema.PROBE_SCHEMA))
    pq.write_table(table, tmp_path / "probe.parquet", compression="zstd")
    monkeypatch.setattr(schema, "MAX_TABLE_BYTES", 50_000)
    with pytest.raises(ManifestError, match="more than 50000"):
        schema.read_table(tmp_path / "probe.parquet", schema.PROBE_SCHEMA)
    assert len(schema.read_table(tmp_path / "probe.parquet", schema.PROBE_SCHEMA, ["video_status"])) == 100


@pytest.mark.parametrize("is_stored", [True, False])
def test_text_that_is_written_once_and_named_many_times_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    monkeypatch.setattr(schema, "MAX_TABLE_BYTES", 50_000_000)
    path = tmp_path / "a.parquet"
    for num_rows in (100, 1000):
        titles = pa.DictionaryArray.from_arrays(pa.array([0] * num_rows, pa.int32()), pa.array(["x" * 100_000]))
        pq.write_table(pa.table({"title": titles}), path, store_schema=is_stored)
        assert path.stat().st_size < 200_000
        if num_rows == 100:
            assert schema.read_columns(path, ["title"]).num_rows == 100
    with pytest.raises(ManifestError, match="unpacks to 100000000 bytes of text"):
        schema.read_columns(path, ["title"])


def test_a_table_whose_names_are_no_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"clip_file": ["a.mp4"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"clip_file", b"clip\xff\xfele"))
    with pytest.raises(ManifestError, match=r"cannot read .*a\.parquet as Parquet"):
        read_table(path, PROBE_SCHEMA)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_of_a_table_are_read_or_one_line(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"clip_file": f"a/{number}é.mp4", "video_status": "usable", "file_bytes": number} for number in range(50)]
    pq.write_table(pa.Table.from_pylist(rows, with_metadata(PROBE_SCHEMA)), path)
    content = path.read_bytes()
    rng = random.Random(seed)
    num_refused = 0
    for _ in range(20):
        damaged = bytearray(content)
        place = rng.randrange(len(content) // 2)  # Of a damaged footer some end the process within Arrow.
        damaged[place : place + 8] = rng.randbytes(8)
        path.write_bytes(damaged if rng.random() < 0.7 else content[:place])
        try:
            assert len(read_table(path, PROBE_SCHEMA)) == len(rows)
        except ManifestError as error:
            assert "\n" not in str(error)
            num_refused += 1
    assert num_refused > 3
