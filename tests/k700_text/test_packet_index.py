from __future__ import annotations

import pickle
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from k700_text.errors import DecodeError, ManifestError, SchemaMismatchError, UsageError
from k700_text.media import packet_index
from k700_text.media.packet_index import PacketIndex, PacketIndexWriter, PacketRow, write_packet_index
from k700_text.media.packets import KEY, ClipPackets, PacketTable
from k700_text.schema import PACKET_INDEX_SCHEMA, VERSION_KEY

# Sorted otherwise as UTF-16, by locale or without case.
NAMES = ["a/é.mp4", "B.mp4", "a.mp4", "a b/-x.mp4", "\U0001f600.mp4", "￿.mp4", "a/z.mp4", "Ä.mp4", "a/é2.mp4"]


def packets_of_clip(number: int) -> ClipPackets:
    table = PacketTable(
        codec="h264",
        extradata=b"\x01abc",
        time_base=Fraction(1, 15_360),
        offsets=np.array([48, 1000 + number], np.int64),
        sizes=np.array([900, 80], np.int64),
        pts=np.array([0, 512], np.int64),
        flags=np.array([KEY, 0], np.uint8),
        origin=Fraction(0),
        end_ticks=1024,
    )
    return ClipPackets(video=table, audio=None)


def rows_of(names: list[str]) -> list[PacketRow]:
    return [
        PacketRow(
            clip_file=name,
            file_bytes=10_000 + number,
            mtime_ns=1_700_000_000_000_000_000 + number,
            packets=f"reason {number}" if number % 3 == 2 else packets_of_clip(number),
        )
        for number, name in enumerate(names)
    ]


def assert_holds(index: PacketIndex, rows: list[PacketRow]) -> None:
    assert len(index) == len(rows)
    for row in rows:
        number = index.find(row.clip_file)
        assert number is not None and index.clip_file(number) == row.clip_file
        assert index.stamp(number) == (row.file_bytes, row.mtime_ns)
        found = index.packets(number)
        if isinstance(row.packets, str):
            assert found is None and index.reason(number) == row.packets
        else:
            assert found is not None and found.to_bytes() == row.packets.to_bytes() and index.reason(number) is None


@pytest.mark.parametrize("batch_rows", [1, 2, 4, 100])
def test_every_clip_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int) -> None:
    monkeypatch.setattr(packet_index, "_BATCH_ROWS", batch_rows)
    rows = rows_of(NAMES)
    random.Random(batch_rows).shuffle(rows)
    assert write_packet_index(tmp_path / "index.arrow", rows) == len(rows)
    index = PacketIndex(tmp_path / "index.arrow")
    assert_holds(index, rows)
    assert [index.clip_file(number) for number in range(len(index))] == sorted(NAMES)
    for name in ("", "a", "a/", "A.mp4", "zzz", "\udcff.mp4"):
        assert index.find(name) is None


def test_batches_are_small_in_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_index, "_BATCH_BYTES", 200)
    rows = rows_of([f"{number}.mp4" for number in range(20)])
    write_packet_index(tmp_path / "index.arrow", rows)
    assert pa.ipc.open_file(tmp_path / "index.arrow").num_record_batches > 3
    assert_holds(PacketIndex(tmp_path / "index.arrow"), rows)


def test_an_index_may_be_empty_or_have_reasons_only(tmp_path: Path) -> None:
    for rows in ([], rows_of(["a", "b", "c"])[2:]):
        write_packet_index(tmp_path / "index.arrow", rows)
        assert_holds(PacketIndex(tmp_path / "index.arrow"), rows)
        assert PacketIndex(tmp_path / "index.arrow").find("b") is None


def test_it_pickles_to_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of([f"{number}.mp4" for number in range(500)])
    write_packet_index(tmp_path / "index.arrow", rows)
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(PacketIndex("index.arrow"))
    assert len(pickled) < 300
    monkeypatch.chdir("/")
    assert_holds(pickle.loads(pickled), rows)


def test_the_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "index.arrow"
    write_packet_index(path, rows_of(["old.mp4"]))

    def failing() -> Iterator[PacketRow]:
        yield from rows_of(["new.mp4"])
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_packet_index(path, failing())
    assert PacketIndex(path).find("old.mp4") == 0
    assert [file.name for file in tmp_path.iterdir()] == ["index.arrow"]


def test_a_clip_is_indexed_once_and_has_a_name_of_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.mp4 is there twice"):
        write_packet_index(tmp_path / "index.arrow", rows_of(["a.mp4", "b.mp4", "a.mp4"]))
    with pytest.raises(UsageError, match="not UTF-8"), PacketIndexWriter(tmp_path / "index.arrow") as writer:
        writer.add(rows_of(["\udcff.mp4"])[0])
    assert not list(tmp_path.iterdir())


def test_no_such_file_and_other_files_are_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "index.arrow"
    with pytest.raises(ManifestError, match="no such packet index"):
        PacketIndex(path)
    write_packet_index(path, rows_of(NAMES))
    with pytest.raises(ManifestError, match="cannot read"):
        PacketIndex(path / "below a file")
    whole = path.read_bytes()
    for content in (b"", b"no Arrow file", whole[: len(whole) // 2], whole[:-1], b"\0" * len(whole)):
        path.write_bytes(content)
        with pytest.raises(
            ManifestError, match=r"index\.arrow is no packet index, or is damaged \(.*\): make it again$"
        ):
            PacketIndex(path)
    table = pa.table({"clip_file": ["a"]})
    for foreign in (table, table.replace_schema_metadata({VERSION_KEY: b"1"})):
        with pa.ipc.new_file(path, foreign.schema) as writer:
            writer.write_table(foreign)
        with pytest.raises(SchemaMismatchError):
            PacketIndex(path)


def test_no_damage_makes_it_crash_or_lie_about_packets(tmp_path: Path) -> None:
    path = tmp_path / "index.arrow"
    rows = rows_of([f"{number:02d}.mp4" for number in range(30)])
    write_packet_index(path, rows)
    whole = path.read_bytes()
    blobs = {row.packets.to_bytes() for row in rows if isinstance(row.packets, ClipPackets)}
    rng = np.random.default_rng(0)
    num_noticed = 0
    for _ in range(300):
        content = bytearray(whole)
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            index = PacketIndex(path)
            for number in range(len(index)):
                index.find(index.clip_file(number))
                index.stamp(number), index.reason(number)
                packets = index.packets(number)
                assert packets is None or packets.to_bytes() in blobs
        except (ManifestError, DecodeError) as error:
            assert "\n" not in str(error)
            num_noticed += 1
    assert num_noticed > 50


LARGE = 100_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "index.arrow"
    packets = packets_of_clip(0)
    blob = packets.to_bytes() + bytes(500)

    # The rows are many: their tables are made once.
    class Same(ClipPackets):
        def to_bytes(self) -> bytes:
            return blob

    same = Same(video=packets.video, audio=None)
    names = (f"label {number % 700:03d}/{number * 7919 % LARGE:011d}_000000_000010.mp4" for number in range(LARGE))
    write_packet_index(path, (PacketRow(clip_file=name, file_bytes=1, mtime_ns=2, packets=same) for name in names))
    return path


MEASURE = """
import sys
from k700_text.media.packet_index import PacketIndex

def private_kilobytes():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))

PacketIndex(sys.argv[1]).packets(0)
before = private_kilobytes()
index = PacketIndex(sys.argv[1])
for number in range(0, len(index), 9):
    assert index.find(index.clip_file(number)) == number
    index._value("packets", number)
print(private_kilobytes() - before)
"""


def test_a_large_index_opens_at_once(large: Path) -> None:
    assert large.stat().st_size > 50_000_000
    index = PacketIndex(large)
    assert len(index) == LARGE and PACKET_INDEX_SCHEMA.names
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        PacketIndex(large)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.01


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="private memory is only told by Linux")
def test_reading_a_large_index_takes_no_memory(large: Path) -> None:
    answer = subprocess.run([sys.executable, "-c", MEASURE, str(large)], capture_output=True, text=True, check=True)
    assert int(answer.stdout) < 2000
