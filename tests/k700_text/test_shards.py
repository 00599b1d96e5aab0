"""Tar shards and their index: what public tools see, what is found again, what happens when writing fails."""

from __future__ import annotations

import errno
import json
import math
import pickle
import subprocess
import sys
import tarfile
import time
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from k700_text.config import AudioConfig
from k700_text.errors import ConfigError, SchemaMismatchError, StorageError
from k700_text.files.atomic import remove_parts
from k700_text.files.checksum import OPEN_SEAL, sealed
from k700_text.media.packets import KEY, ClipPackets, PacketTable
from k700_text.media.shards import (
    CHECKED_BYTES,
    INDEX_FILE,
    PreparedSettings,
    ShardIndex,
    ShardRow,
    ShardWriter,
    checksums_of,
    damaged_blocks,
    finished_shards,
    is_prepared,
    member_key,
    read_shard_rows,
    rows_of,
    write_index,
)
from k700_text.schema import SHARD_SCHEMA, with_metadata


def packets() -> ClipPackets:
    table = PacketTable(
        codec="h264",
        extradata=b"\x01d",
        time_base=Fraction(1, 10240),
        offsets=np.array([48, 100]),
        sizes=np.array([52, 20]),
        pts=np.array([0, 1024]),
        flags=np.array([KEY, 0], np.uint8),
        origin=Fraction(0),
        end_ticks=2048,
        width=64,
        height=48,
    )
    return ClipPackets(video=table, audio=None)


def row_of(clip_id: str, **values: Any) -> ShardRow:
    return ShardRow(
        **{"clip_id": clip_id, "split": "train", "label": "juggling", "clip_file": f"{clip_id}.mp4"}
        | {"source_bytes": 7}
        | values
    )


def write(folder: Path, name: str, *clip_ids: str, skipped: tuple[str, ...] = ()) -> list[ShardRow]:
    with ShardWriter(folder, name) as writer:
        for clip_id in clip_ids:
            video = clip_id.encode() * 3000
            members = {"video": ("mp4", video), "json": ("json", json.dumps({"clip_id": clip_id}).encode())}
            writer.add(row_of(clip_id, has_video=True), members, packets())
        for clip_id in skipped:
            writer.skip(row_of(clip_id, reason="the file is empty"))
        return writer.finish()


def test_tar_lists_and_reads_what_was_written(tmp_path: Path) -> None:
    write(tmp_path, "train-000000", "videoA_000001_000011", "videoB_000002_000012")
    path = tmp_path / "train-000000.tar"
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [
            "videoA_000001_000011.mp4",
            "videoA_000001_000011.json",
            "videoB_000002_000012.mp4",
            "videoB_000002_000012.json",
        ]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
        file = tar.extractfile("videoB_000002_000012.mp4")
        assert file is not None and file.read() == b"videoB_000002_000012" * 3000
    listed = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [member.name for member in members] and not listed.stderr


def test_rows_say_where_everything_lies(tmp_path: Path) -> None:
    rows = write(tmp_path, "train-000000", "a", "b", skipped=("c",))
    data = (tmp_path / "train-000000.tar").read_bytes()
    assert [row.clip_id for row in rows] == ["a", "b", "c"] and {row.shard for row in rows} == {"train-000000.tar"}
    for row in rows[:2]:
        assert data[row.video_offset :][: row.video_bytes] == row.clip_id.encode() * 3000
        assert json.loads(data[row.json_offset :][: row.json_bytes]) == {"clip_id": row.clip_id}
        record = data[row.record_offset :][: row.record_bytes]
        assert row.checksums == checksums_of(record) and not damaged_blocks(record, row.checksums, 0)
        table = ClipPackets.from_bytes(row.packets or b"").video
        assert table is not None and table.offsets.tolist() == [row.video_offset + 48, row.video_offset + 100]
    assert rows[1].record_offset == rows[0].record_offset + rows[0].record_bytes
    assert rows[2].is_skipped and rows[2].reason == "the file is empty" and rows[2].checksums == b""
    assert rows_of(read_shard_rows(tmp_path, "train-000000")) == rows


def test_checksums_point_at_the_damage() -> None:
    record = np.random.default_rng(0).bytes(5 * CHECKED_BYTES + 17)
    sums = checksums_of(record)
    assert len(sums) == 6 * 4 and int.from_bytes(sums[:4], "little") == zlib.crc32(record[:CHECKED_BYTES])
    for position in (0, CHECKED_BYTES, 3 * CHECKED_BYTES - 1, len(record) - 1):
        damaged = bytearray(record)
        damaged[position] ^= 1
        assert damaged_blocks(bytes(damaged), sums, 0) == [position // CHECKED_BYTES]
        first = position // CHECKED_BYTES
        assert damaged_blocks(bytes(damaged[first * CHECKED_BYTES :]), sums, first) == [first]
    assert damaged_blocks(record + b"more" * CHECKED_BYTES, sums, 0)


def test_the_same_clips_give_the_same_bytes_and_no_parts_stay(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "train-000000", "a", "b", skipped=("c",))
    for name in ("train-000000.tar", "train-000000.arrow"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["train-000000.arrow", "train-000000.tar"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "train-000000") as writer:
        writer.add(row_of("a"), {"json": ("json", b"{}")}, None)
        raise RuntimeError("stop")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with ShardWriter(tmp_path, "train-000000") as writer:
        writer._output.file.close()
        writer._output.file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115, PTH123 - the writer closes it
        with pytest.raises(OSError, match="No space left") as caught:
            writer.add(row_of("a"), {"video": ("mp4", b"x" * 100_000)}, None)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "train-000000.tar")
    assert not list(tmp_path.iterdir())


def test_only_leftovers_of_killed_runs_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".train-000000.tar.0123abcd.part").touch()
    kept = [".notes.part", "train-000001.tar.part", ".prepare.lock", ".mine.tar.part"]
    for name in kept:
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_shard_is_finished_with_its_rows_and_its_tar(tmp_path: Path) -> None:
    write(tmp_path, "val-000000", "a")
    write(tmp_path, "train-000001", "b")
    (tmp_path / "train-000002.tar").touch()
    write(tmp_path, "train-000003", "c")
    (tmp_path / "train-000003.tar").unlink()
    assert finished_shards(tmp_path) == ["train-000001", "val-000000"]


@pytest.mark.parametrize(
    ("clip_id", "key"),
    [
        ("-_abcDEF123_000001_000011", "-_abcDEF123_000001_000011"),
        ("label/a.b c.mp4", "label/a%2Eb%20c%2Emp4"),
        ("straße", "stra%C3%9Fe"),
        ("100%", "100%25"),
    ],
)
def test_member_names_have_one_dot_where_webdataset_cuts(clip_id: str, key: str) -> None:
    assert member_key(clip_id) == key


def test_long_names_survive(tmp_path: Path) -> None:
    clip_id = "folder/" * 30 + "clip"
    rows = write(tmp_path, "clips-000000", clip_id)
    with tarfile.open(tmp_path / "clips-000000.tar") as tar:
        assert tar.getnames() == [f"{clip_id}.mp4", f"{clip_id}.json"]
        assert [member.offset_data for member in tar] == [rows[0].video_offset, rows[0].json_offset]


def test_the_index_finds_clips_again(tmp_path: Path) -> None:
    write(tmp_path, "train-000000", "c", "a", skipped=("bad",))
    write(tmp_path, "val-000000", "b", "-x")
    assert write_index(tmp_path) == 5
    index = ShardIndex(tmp_path / INDEX_FILE)
    assert len(index) == 5
    assert [index.row(number).clip_id for number in range(5)] == ["c", "a", "bad", "b", "-x"]
    assert [index.find(each) for each in ("a", "b", "c", "-x", "bad", "absent", "")] == [1, 3, 0, 4, None, None, None]
    assert index.find_all(["b", "absent", "bad", "a", "b"]).to_pylist() == [3, None, None, 1, 3]
    assert index.find_all(pa.chunked_array([["b"], ["c"]])).to_pylist() == [3, 0]
    assert index.row(3) == rows_of(read_shard_rows(tmp_path, "val-000000"))[0]
    with pytest.raises(IndexError, match="row 5 is outside"):
        index.row(5)


def test_a_clip_that_was_skipped_once_is_found_where_it_was_stored_later(tmp_path: Path) -> None:
    write(tmp_path, "train-000000", "b", skipped=("a",))
    write(tmp_path, "train-000001", "a")
    write_index(tmp_path)
    index = ShardIndex(tmp_path / INDEX_FILE)
    assert index.find("a") == 2 and index.find_all(["a"]).to_pylist() == [2]


def test_an_index_of_nothing(tmp_path: Path) -> None:
    assert write_index(tmp_path) == 0
    index = ShardIndex(tmp_path / INDEX_FILE)
    assert len(index) == 0 and index.find("a") is None and index.find_all(["a"]).to_pylist() == [None]


def big_table(num_rows: int) -> pa.Table:
    ids = [f"{number * 7919 % num_rows:011d}_000000_000010" for number in range(num_rows)]
    columns: dict[str, Any] = {"clip_id": ids, "clip_file": ids, "packets": [b"p" * 400] * num_rows}
    for field in SHARD_SCHEMA:
        if field.name in columns:
            continue
        if field.name == "shard":
            columns["shard"] = ["train-000000.tar"] * num_rows
            continue
        if field.nullable:
            columns[field.name] = pa.nulls(num_rows, field.type)
        else:
            columns[field.name] = pa.array(np.ones(num_rows, np.int8)).cast(pa.string()).cast(field.type)
    return pa.table(
        {name: columns[name] for name in SHARD_SCHEMA.names}, schema=with_metadata(SHARD_SCHEMA, seal=OPEN_SEAL)
    )


def test_a_large_index_opens_at_once_and_pickles_to_its_path(tmp_path: Path) -> None:
    num_rows = 100_000
    table = big_table(num_rows)
    (tmp_path / "train-000000.tar").touch()
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "train-000000.arrow").write_bytes(sealed(buffer.getvalue().to_pybytes()))
    write_index(tmp_path)
    began = time.perf_counter()
    index = ShardIndex(tmp_path / INDEX_FILE)
    seconds = time.perf_counter() - began
    assert seconds < 0.05  # 1 ms where nothing else runs
    assert len(pickle.dumps(index)) < 300
    again = pickle.loads(pickle.dumps(index))
    for number in (0, 1, 65_535, 65_536, num_rows - 1):
        assert again.find(f"{number:011d}_000000_000010") == index.find_all([f"{number:011d}_000000_000010"])[0].as_py()
        assert again.row(number).clip_id == table["clip_id"][number].as_py()


@pytest.mark.parametrize("damage", [b"", b"no arrow at all", None])
def test_a_missing_or_damaged_index_is_one_clear_line(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / INDEX_FILE
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(StorageError, match=rf"{INDEX_FILE}(: no such file| is damaged).*prepare"):
        ShardIndex(path)


def test_an_index_of_another_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train-000000", "a")
    path = tmp_path / "train-000000.arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all().replace_schema_metadata({"seal": OPEN_SEAL})
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    path.write_bytes(sealed(buffer.getvalue().to_pybytes()))
    with pytest.raises(SchemaMismatchError, match="schema version none"):
        read_shard_rows(tmp_path, "train-000000")


def test_every_flipped_bit_of_the_rows_is_found_before_arrow_sees_it(tmp_path: Path) -> None:
    # A file name that looks like a seal is data.
    with ShardWriter(tmp_path, "train-000000") as writer:
        writer.skip(row_of("a", reason="crc32:00000000", clip_file="crc32:"))
        rows = writer.finish()
    assert rows_of(read_shard_rows(tmp_path, "train-000000")) == rows
    path = tmp_path / "train-000000.arrow"
    data = path.read_bytes()
    for position in range(0, len(data), 3):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :])
        with pytest.raises(StorageError, match=r"arrow is damaged \(its checksum does not fit\): restore a copy, or"):
            read_shard_rows(tmp_path, "train-000000")
    for damaged in (b"", data[:-1], data + b"x", data[: len(data) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match="is damaged"):
            read_shard_rows(tmp_path, "train-000000")


def test_a_flipped_bit_of_a_column_name_of_the_index_is_one_clear_line(tmp_path: Path) -> None:
    write(tmp_path, "train-000000", "a")
    write_index(tmp_path)
    data = (tmp_path / INDEX_FILE).read_bytes()
    position = data.rindex(b"record_bytes")
    (tmp_path / INDEX_FILE).write_bytes(data[:position] + b"\xf2" + data[position + 1 :])
    with pytest.raises(StorageError, match=r"index.arrow is damaged .*utf-8"):
        ShardIndex(tmp_path / INDEX_FILE)


def test_a_renamed_or_copied_shard_is_told_of(tmp_path: Path) -> None:
    write(tmp_path, "train-000000", "a")
    for kind in ("tar", "arrow"):
        (tmp_path / f"train-000000.{kind}").rename(tmp_path / f"train-000007.{kind}")
    with pytest.raises(StorageError, match=r"train-000007.arrow: holds the rows of train-000000.tar: give both files"):
        write_index(tmp_path)


def test_settings_survive_the_file(tmp_path: Path) -> None:
    settings = PreparedSettings(frame_rate=12.5, short_side=128, audio="pcm16", shard_size=9)
    assert PreparedSettings.from_json(settings.to_json(), "x") == settings
    assert not is_prepared(tmp_path)
    (tmp_path / "prepared.json").write_text(settings.to_json())
    assert is_prepared(tmp_path) and is_prepared(f"file://{tmp_path}")


def test_every_flipped_bit_of_the_settings_is_found() -> None:
    text = PreparedSettings().to_json().encode()
    for position in range(text.index(b"settings"), len(text)):
        for bit in (0, 4):
            damaged = text[:position] + bytes([text[position] ^ 1 << bit]) + text[position + 1 :]
            with pytest.raises(StorageError, match=r"prepared\.json is damaged"):
                PreparedSettings.from_json(damaged, "prepared.json")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", StorageError, "prepared.json is damaged"),
        ("[]", StorageError, "prepared.json is damaged"),
        ('{"format": 99}', SchemaMismatchError, "format 99, this version reads 2"),
        ('{"format": 2, "settings": {"colour": 1}}', StorageError, "colour"),
        ('{"format": 2, "settings": {"short_side": 7}}', StorageError, "short_side"),
    ],
)
def test_damaged_settings_are_one_clear_line(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PreparedSettings.from_json(text, "there/prepared.json")


@pytest.mark.parametrize(
    "values",
    [
        {"frame_rate": 0},
        {"frame_rate": 1e6},
        {"frame_rate": 1e-4},
        {"max_seconds": math.inf},
        {"short_side": 255},
        {"audio": "mp3"},
        {"shard_size": 0},
        {"max_seconds": -1},
        {"num_mels": 0},
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        PreparedSettings(**values)


def test_audio_of_another_kind_than_stored_is_refused_once_and_clearly() -> None:
    settings = PreparedSettings()
    settings.check_audio(AudioConfig(num_mel_frames=100, noise_std=0.0, window="clip"))
    with pytest.raises(ConfigError, match=r"prepared with audio num_mels 80, asked for is 64; .*--audio pcm16"):
        settings.check_audio(AudioConfig(num_mels=64))
    pcm = replace(settings, audio="pcm16")
    pcm.check_audio(AudioConfig(num_mels=64, fft_size=1024))
    with pytest.raises(ConfigError, match="sample_rate 16000, asked for is 8000"):
        pcm.check_audio(AudioConfig(sample_rate=8000))


def test_reading_shards_loads_neither_torch_nor_fsspec() -> None:
    code = "import sys, k700_text.media.prepared; print({'torch', 'fsspec', 'ray'} & set(sys.modules) or 'none')"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "none"
