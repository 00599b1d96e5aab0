"""Manifests that pandas, polars and DuckDB wrote; tables in memory; one of our files handed over for another.

What polars and DuckDB write is made here with pyarrow, in the Arrow types that they were seen to write.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from k700_text import schema
from k700_text.cli.main import app
from k700_text.crawl.ledger import Ledger
from k700_text.data.where import Where
from k700_text.errors import K700TextError, ManifestError, SchemaMismatchError
from k700_text.manifest.stats import manifest_stats
from k700_text.manifest_files import as_table, manifest_files, read_manifests
from k700_text.media.packet_index import PacketIndex, PacketRow, write_packet_index
from k700_text.our_files import kind_of_ours

NUM_CLIPS = 12
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def make_rows() -> list[dict[str, Any]]:
    rows = []
    for number in range(NUM_CLIPS):
        has_title, is_probed = number % 3 != 0, number % 4 != 0
        row: dict[str, Any] = dict.fromkeys(schema.MANIFEST_SCHEMA.names)
        row |= {"clip_id": f"video{number:05d}A_000001_000011", "youtube_id": f"video{number:05d}A", "split": "val"}
        row |= {"label": ("archery", "yoga")[number % 2], "start_seconds": 1.0, "end_seconds": 11.0}
        row |= {"availability": "unknown", "availability_sources": [], "has_text": has_title}
        if has_title:
            row |= {"title": f"title {number}", "title_source": "oembed", "title_fetched_at": NOON}
            row |= {"availability": "public", "availability_sources": ["oembed"]}
        if is_probed:
            row |= {"video_status": "usable", "num_frames": 250, "width": 340, "height": 256, "frame_rate": 25.0}
            row |= {"audio_status": "usable", "has_video": True, "has_audio": True}
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("titles") / "val.parquet"
    stamped = schema.with_metadata(schema.MANIFEST_SCHEMA, annotations_sha256="ab", tool_version="1")
    pq.write_table(pa.Table.from_pylist(make_rows(), stamped), path)
    return path


def by_pandas(manifest: Path, path: Path) -> None:
    frame = pd.read_parquet(manifest)
    frame[frame.has_text].to_parquet(path)


def by_pandas_nullable(manifest: Path, path: Path) -> None:
    frame = pd.read_parquet(manifest, dtype_backend="numpy_nullable")
    frame["label"] = frame["label"].astype("category")
    frame[frame.has_text].sort_values("title", ascending=False).assign(score=0.5).to_parquet(path)


def retyped(manifest: Path, path: Path, types: Callable[[pa.Field], pa.DataType]) -> None:
    table = pq.read_table(manifest).filter(pc.field("has_text"))
    columns = {field.name: table[field.name].cast(types(field)) for field in table.schema}
    pq.write_table(pa.table(columns), path)


def polars_type(field: pa.Field) -> pa.DataType:
    if field.name == "label":
        return pa.dictionary(pa.uint32(), pa.string())
    if field.name == "title_fetched_at":
        return pa.timestamp("ns", "Europe/Berlin")
    if pa.types.is_string(field.type):
        return pa.large_string()
    return pa.large_list(pa.field("element", pa.large_string())) if pa.types.is_list(field.type) else field.type


def duckdb_type(field: pa.Field) -> pa.DataType:
    if pa.types.is_boolean(field.type):
        return pa.int8()
    if pa.types.is_timestamp(field.type):
        return pa.timestamp("us")
    return pa.int64() if pa.types.is_integer(field.type) else field.type


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "pandas": by_pandas,
    "pandas, nullable": by_pandas_nullable,
    "polars": lambda manifest, path: retyped(manifest, path, polars_type),
    "duckdb": lambda manifest, path: retyped(manifest, path, duckdb_type),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_value_of_a_rewritten_manifest_is_read(manifest: Path, tmp_path: Path, writer: str) -> None:
    WRITERS[writer](manifest, tmp_path / "m.parquet")
    names = schema.MANIFEST_SCHEMA.names
    rows = read_manifests([tmp_path / "m.parquet"], names).sort_by("clip_id")
    assert rows.to_pylist() == [row for row in make_rows() if row["has_text"]]
    assert [field.type for field in rows.schema] == [field.type for field in schema.MANIFEST_SCHEMA]


@pytest.mark.parametrize("writer", WRITERS)
def test_every_command_takes_a_rewritten_manifest(manifest: Path, tmp_path: Path, writer: str) -> None:
    WRITERS[writer](manifest, tmp_path / "m.parquet")
    (tmp_path / "clips").mkdir()
    shutil.copy(__file__, tmp_path / "clips" / "video00001A_000001_000011.mp4")  # no film: that is another matter
    path, out, shards = (str(tmp_path / name) for name in ("m.parquet", "t.json", "shards"))
    for arguments, expected in (
        (["stats", path, "--json"], '"num_titles": 8'),
        (["validate", path], "rewritten by"),
        (["diff", str(manifest), path, "--json"], '"disappeared": 4'),
        (["tokenizer", "--manifest", path, "--split", "val", "--out", out, "--json"], '"titles": 8'),
        (
            ["prepare", str(tmp_path / "clips"), "--manifest", path, "--out", shards, "--plan", "--json"],
            '"num_clips": 8',
        ),
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0 and expected in done.stdout, (arguments, done.output, done.exception)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("num_frames", pa.array([250.0, 2.5]), "num_frames is double, and 2.5 in row 2 is no int32"),
        ("num_frames", pa.array([1, 2**31]), "num_frames is int64, and 2147483648 in row 2"),
        ("num_frames", pa.array([1, 2**32 - 1], pa.uint32()), "num_frames is uint32, and 4294967295 in row 2"),
        ("start_seconds", pa.array([2**53 + 1, 0]), "start_seconds is int64, and 9007199254740993 in row 1"),
        ("title_fetched_at", pa.array([1000, 1], pa.timestamp("ns")), "title_fetched_at is .* in row 2"),
        ("title_fetched_at", pa.array([0, 2**62], pa.timestamp("s")), "title_fetched_at is .* in row 2"),
        ("has_video", pa.array([1, 2]), "has_video is int64, and 2 in row 2 is no bool"),
        ("title", pa.array([b"a", b"\xff"]), "title is binary, and .* in row 2 is no string"),
        ("title", pa.array([1, 2]), "title is int64, expected string"),
        ("availability_sources", pa.array([[1], []]), "availability_sources is list.*, expected list"),
        ("has_text", pa.array(["yes", "no"]), "has_text is string, expected bool"),
    ],
)
def test_a_value_that_would_be_lost_is_named(column: str, values: pa.Array, message: str) -> None:
    with pytest.raises(SchemaMismatchError, match=rf"the table: column {message}"):
        read_manifests([pa.table({column: values})], [column])


def test_gaps_and_encodings_are_read_for_what_they_say() -> None:
    view, storage = pa.list_view(pa.string_view()), pa.array([1, 0], pa.int8())
    categories = pa.DictionaryArray.from_arrays([0, None], pa.array(["dumps"], pa.string_view()))
    table = pa.table(
        {
            "num_frames": pa.array([float("nan"), 3.0]),
            "width": pa.nulls(2),
            "has_video": pa.ExtensionArray.from_storage(pa.bool8(), storage),
            "label": pa.RunEndEncodedArray.from_arrays([2], ["yoga"]),
            "availability_sources": pa.array([["oembed"], None], view),
            "title": pa.array(["é", None], pa.string_view()),
            "title_source": categories,
        }
    )
    rows = read_manifests([table], table.column_names)
    assert rows.to_pylist() == [
        {"num_frames": None, "width": None, "has_video": True, "label": "yoga", "availability_sources": ["oembed"]}
        | {"title": "é", "title_source": "dumps"},
        {"num_frames": 3, "width": None, "has_video": False, "label": "yoga", "availability_sources": None}
        | {"title": None, "title_source": None},
    ]


def test_what_is_missing_is_said_once_with_who_is_to_blame(manifest: Path, tmp_path: Path) -> None:
    whole = pd.read_parquet(manifest)
    whole[["clip_id", "title"]].to_parquet(tmp_path / "two.parquet")
    with pytest.raises(
        SchemaMismatchError, match=r"two\.parquet was rewritten by another .* columns youtube_id, split"
    ):
        manifest_stats([tmp_path / "two.parquet"])
    whole.drop(columns="availability").to_parquet(tmp_path / "one.parquet")
    with pytest.raises(SchemaMismatchError, match=r"and column availability is missing: keep it there"):
        manifest_stats([tmp_path / "one.parquet"])
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["clip_id", "clip_id"])
    with pytest.raises(SchemaMismatchError, match="the table has several columns clip_id"):
        read_manifests([twice], ["clip_id"])


def test_has_text_is_what_the_titles_say_where_it_is_missing(manifest: Path) -> None:
    table = pq.read_table(manifest).drop_columns("has_text")
    assert read_manifests([table], ["has_text"])["has_text"].to_pylist() == [row["has_text"] for row in make_rows()]
    assert manifest_stats([table]).num_titles == 8


def test_a_blank_title_is_none_where_a_manifest_does_not_say() -> None:
    titles = ["", " \t", "\u3000", None, "x", " x "]
    table = pa.table({"clip_id": list("abcdef"), "title": titles})
    assert read_manifests([table], ["has_text"])["has_text"].to_pylist() == [False] * 4 + [True] * 2
    chosen = read_manifests([table], ["clip_id"], choice=Where("has_text"))
    assert chosen["clip_id"].to_pylist() == ["e", "f"]


def test_a_pipe_in_place_of_a_table_is_one_line_and_no_wait(manifest: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.parquet"
    os.mkfifo(pipe)
    for read in (
        lambda: read_manifests([pipe], ["clip_id"]),
        lambda: manifest_files([pipe]),
        lambda: schema.read_table(pipe, schema.PROBE_SCHEMA),
        lambda: PacketIndex(pipe),
    ):
        with pytest.raises(K700TextError, match="it is no file") as caught:
            read()
        assert "\n" not in str(caught.value)
    assert kind_of_ours(pipe) is None


def test_a_column_that_is_there_twice_is_named() -> None:
    table = pa.table([["a"], [1], [2]], names=["clip_id", "more", "more"])
    assert len(read_manifests([table], ["clip_id"])) == 1
    with pytest.raises(SchemaMismatchError, match="several columns more"):
        read_manifests([table], ["clip_id"], choice=Where("more == 1"))


def test_a_nan_in_a_further_column_is_as_unknown_as_in_ours() -> None:
    table = pa.table({"clip_id": ["a", "b", "c"], "score": [0.5, float("nan"), None]})
    for text, wanted in (("not score > 1", ["a"]), ("score != 7", ["a"]), ("score is null", ["b", "c"])):
        assert read_manifests([table], ["clip_id"], choice=Where(text))["clip_id"].to_pylist() == wanted


def test_an_id_that_is_null_is_named() -> None:
    table = pa.table({"clip_id": ["video00001A_000001_000011", None]})
    with pytest.raises(ManifestError, match="clip_id is null in 1 rows, row 2 first"):
        read_manifests([table], ["clip_id"])


def test_folders_stand_for_the_manifests_in_them(manifest: Path, tmp_path: Path) -> None:
    for name in ("train.parquet", "test.parquet", "_val.parquet", "probe.parquet", "val.csv"):
        shutil.copy(manifest, tmp_path / name)
    assert [file.name for file in manifest_files([tmp_path])] == ["train.parquet", "test.parquet"]
    (tmp_path / "parts").mkdir()
    for name in ("part-1.parquet", "part-0.parquet", ".part-2.parquet", "_SUCCESS"):
        shutil.copy(manifest, tmp_path / "parts" / name)
    found = manifest_files([tmp_path / "parts", manifest])
    assert [file.name for file in found] == ["part-0.parquet", "part-1.parquet", "val.parquet"]
    with pytest.raises(ManifestError, match="no manifest in"):
        manifest_files([manifest.parent, tmp_path / "parts" / "nowhere", Path(__file__).parent])
    for command in ("stats", "validate"):
        done = CliRunner().invoke(app, [command, str(tmp_path), str(manifest.parent), "--json"])
        assert done.exit_code == 0, done.output
    assert CliRunner().invoke(app, ["diff", str(tmp_path), str(manifest)]).exit_code == 0


def test_a_table_that_arrow_cannot_hold_is_one_line() -> None:
    with pytest.raises(ManifestError, match="the pandas DataFrame is no manifest"):
        as_table(pd.DataFrame({"clip_id": ["a", 1]}))


@pytest.fixture
def ours(manifest: Path, tmp_path: Path) -> dict[str, Path]:
    """One file of each kind."""
    probe = pa.table({name: pa.nulls(0, schema.PROBE_SCHEMA.field(name).type) for name in schema.PROBE_SCHEMA.names})
    pq.write_table(probe, tmp_path / "probe.parquet")
    write_packet_index(
        tmp_path / "packets.arrow", [PacketRow(clip_file="a.mp4", file_bytes=1, mtime_ns=2, packets="no table")]
    )
    tokenizer = CliRunner().invoke(
        app, ["tokenizer", "--manifest", str(manifest), "--split", "all", "--out", str(tmp_path / "tokenizer.json")]
    )
    assert tokenizer.exit_code == 0
    with Ledger(tmp_path / "a.sqlite"):
        pass
    names = {"probe file": "probe.parquet", "packet index": "packets.arrow", "tokenizer": "tokenizer.json"}
    return {"manifest": manifest, "ledger": tmp_path / "a.sqlite", **{k: tmp_path / v for k, v in names.items()}}


def test_one_of_our_files_for_another_is_told_in_one_line(ours: dict[str, Path], tmp_path: Path) -> None:
    from k700_text.data.text import TitleTokenizer

    annotations = tmp_path / "val.csv"
    annotations.write_text("label,youtube_id,time_start,time_end,split\nyoga,video00001A,1,11,val\n")
    for kind, path in ours.items():
        assert (kind_of_ours(path) or "").startswith(f"a {kind} (k700-text")
        if kind != "manifest":
            # A ledger can be validated, too.
            commands = [["stats"], ["diff", str(ours["manifest"])], *([] if kind == "ledger" else [["validate"]])]
            for command in commands:
                done = CliRunner().invoke(app, [*command, str(path)])
                assert isinstance(done.exception, K700TextError) and f"is a {kind} (k700-text" in str(done.exception)
        if kind != "probe file":
            words = ["manifest", "--annotations", str(annotations), "--out", str(tmp_path), "--probe", str(path)]
            done = CliRunner().invoke(app, words)
            assert isinstance(done.exception, K700TextError) and f"is a {kind} (k700-text" in str(done.exception)
        if kind != "packet index":
            with pytest.raises(K700TextError, match=rf"is a {kind} .*: name a packet index"):
                PacketIndex(path)
        if kind != "tokenizer":
            with pytest.raises(K700TextError, match=rf"is a {kind} .*: name a tokenizer"):
                TitleTokenizer(path)
        if kind != "ledger":
            with pytest.raises(K700TextError, match=rf"not a ledger .*but a {kind}"), Ledger(path):
                pass


def test_a_rewritten_probe_table_gives_the_same_manifest(tmp_path: Path) -> None:
    rows = []
    for number in range(3):
        row: dict[str, Any] = dict.fromkeys(schema.PROBE_SCHEMA.names)
        row |= {"clip_file": f"video{number:05d}A_000001_000011.mp4", "video_status": "usable", "file_bytes": 9}
        rows.append(row | {"audio_status": "no_stream", "num_frames": None if number == 1 else 250, "width": 340})
    stamped = schema.with_metadata(schema.PROBE_SCHEMA)
    pq.write_table(pa.Table.from_pylist(rows, stamped), tmp_path / "ours.parquet")
    pd.read_parquet(tmp_path / "ours.parquet").iloc[::-1].to_parquet(tmp_path / "theirs.parquet")
    annotations = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "val.csv").write_text(annotations + "".join(f"yoga,video{n:05d}A,1,11,val\n" for n in range(4)))
    made = []
    for name in ("ours", "theirs"):
        probe, out = tmp_path / f"{name}.parquet", tmp_path / name
        words = ["manifest", "--annotations", str(tmp_path / "val.csv"), "--probe", str(probe), "--out", str(out)]
        assert CliRunner().invoke(app, words).exit_code == 0
        made.append(pq.read_table(out / "val.parquet"))
    assert made[0].equals(made[1]) and made[0]["num_frames"].to_pylist() == [250, None, 250, None]


def test_a_crawl_keeps_what_a_rewritten_manifest_knows_of_the_clips(manifest: Path, tmp_path: Path) -> None:
    """It replaces the file: what was measured would be lost if it were taken for none of ours."""
    by_pandas_nullable(manifest, tmp_path / "val.parquet")
    (tmp_path / "val.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n"
        + "".join(f"{row['label']},{row['youtube_id']},1,11,val\n" for row in make_rows())
    )
    words = ["--annotations", str(tmp_path / "val.csv"), "--out", str(tmp_path), "--sources", "dumps"]
    (tmp_path / "dump.csv").write_text("youtube_id,title\nvideo00001A,a title\n")
    done = CliRunner().invoke(app, ["crawl", *words, "--dump", str(tmp_path / "dump.csv")])
    assert done.exit_code == 0, done.output
    wanted = {row["clip_id"]: row["num_frames"] for row in make_rows() if row["has_text"]}
    table = pq.read_table(tmp_path / "val.parquet")
    found = dict(zip(table["clip_id"].to_pylist(), table["num_frames"].to_pylist(), strict=True))
    assert len(found) == NUM_CLIPS and {name: found[name] for name in wanted} == wanted
