"""Damaged media files from a seed: bit flips, overwritten runs, truncations, holes, and MP4 boxes spliced about."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

from tests.k700_text.media_files import SAMPLES, make_clip

_CONTAINERS = ("mkv", "mov", "ts", "flv")
_BOXES_WITH_BOXES = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"dinf"})

Mutation = Callable[[bytes, np.random.Generator], bytes]


def base_files(folder: Path, *, max_bytes: int = 1_500_000) -> list[Path]:
    """Makes one small clip in every container, and adds the real files that are there and not larger than this."""
    clip = make_clip(folder / "base.mp4", seconds=2.0)
    made = [clip, *(_remuxed(clip, folder / f"base.{ending}") for ending in _CONTAINERS)]
    real = [path for path in SAMPLES.glob("*/*.*") if path.suffix in {".mp4", ".mov", ".mkv", ".avi"}]
    return made + sorted(path for path in real if path.stat().st_size <= max_bytes)


def _remuxed(source: Path, target: Path) -> Path:
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        streams = {stream: write.add_stream_from_template(stream) for stream in read.streams}
        for packet in read.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream]
                write.mux(packet)
    return target


def mutated(bases: list[Path], number: int, folder: Path) -> Path:
    """Writes damaged file ``number`` and returns its path, which names its base and its damage."""
    rng = np.random.default_rng([700, number])
    base = bases[number % len(bases)]
    names = [name for name in MUTATIONS if not name.startswith("box") or base.suffix in (".mp4", ".mov")]
    name = names[int(rng.integers(len(names)))]
    target = folder / f"{number:05d}_{name}_{base.stem}{base.suffix}"
    target.write_bytes(MUTATIONS[name](base.read_bytes(), rng))
    return target


def _flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for position in rng.integers(len(data), size=int(2 ** rng.uniform(0, 9))):
        changed[position] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _flip_header_bits(data: bytes, rng: np.random.Generator) -> bytes:
    # Most containers tell what they hold within the first or the last pages.
    changed = bytearray(data)
    for position in rng.integers(min(4096, len(data)), size=int(2 ** rng.uniform(0, 5))):
        place = int(position) if rng.random() < 0.5 else len(data) - 1 - int(position)
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _overwrite_run(data: bytes, rng: np.random.Generator) -> bytes:
    start, length = int(rng.integers(len(data))), int(2 ** rng.uniform(3, 15))
    filler = rng.bytes(length) if rng.random() < 0.5 else bytes([int(rng.choice([0, 255]))]) * length
    return (data[:start] + filler + data[start + length :])[: len(data)]


def _truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data)))]


def _lose_head(data: bytes, rng: np.random.Generator) -> bytes:
    return data[int(2 ** rng.uniform(0, 16)) :]


def _cut_hole(data: bytes, rng: np.random.Generator) -> bytes:
    start, length = int(rng.integers(len(data))), int(2 ** rng.uniform(0, 16))
    return data[:start] + data[start + length :]


def _insert_garbage(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(data)))
    return data[:start] + rng.bytes(int(2 ** rng.uniform(0, 14))) + data[start:]


def _repeat_piece(data: bytes, rng: np.random.Generator) -> bytes:
    first, last = sorted(int(place) for place in rng.integers(len(data), size=2))
    piece = data[first : min(last, first + 200_000)]
    return data[:first] + piece * int(rng.integers(2, 6)) + data[first:]


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """Yields (start, end, type) of every box, those inside others too."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        if size < 8 or start + size > end:
            return
        yield start, start + size, kind
        if kind in _BOXES_WITH_BOXES:
            yield from _boxes(data, start + 8, start + size)
        start += size


def _random_box(data: bytes, rng: np.random.Generator) -> tuple[int, int, bytes]:
    boxes = [box for box in _boxes(data, 0, len(data)) if box[2] != b"mdat"]
    return boxes[int(rng.integers(len(boxes)))]


def _drop_box(data: bytes, rng: np.random.Generator) -> bytes:
    start, end, _ = _random_box(data, rng)
    return data[:start] + data[end:]


def _double_box(data: bytes, rng: np.random.Generator) -> bytes:
    start, end, _ = _random_box(data, rng)
    return data[:end] + data[start:end] * int(rng.integers(1, 20)) + data[end:]


def _swap_box(data: bytes, rng: np.random.Generator) -> bytes:
    one, other = sorted((_random_box(data, rng), _random_box(data, rng)))
    if one[1] > other[0]:
        return _drop_box(data, rng)
    return (
        data[: one[0]] + data[other[0] : other[1]] + data[one[1] : other[0]] + data[one[0] : one[1]] + data[other[1] :]
    )


def _lie_in_box(data: bytes, rng: np.random.Generator) -> bytes:
    """Writes extreme numbers over 32-bit words of a box: sizes, counts, durations, widths, sample rates."""
    start, end, _ = _random_box(data, rng)
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        word = start + 4 * int(rng.integers(max(1, (end - start) // 4)))
        value = int(rng.choice([0, 1, 2, 8, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x00FFFFFF]))
        changed[word : word + 4] = value.to_bytes(4, "big")
    return bytes(changed)[: max(len(data), end)]


def _nest_boxes(data: bytes, rng: np.random.Generator) -> bytes:
    start, end, kind = _random_box(data, rng)
    inner = data[start:end]
    for _ in range(int(2 ** rng.uniform(0, 10))):
        inner = struct.pack(">I4s", len(inner) + 8, kind) + inner
    return data[:start] + inner + data[end:]


MUTATIONS: dict[str, Mutation] = {
    "flip_bits": _flip_bits,
    "flip_header_bits": _flip_header_bits,
    "overwrite_run": _overwrite_run,
    "truncate": _truncate,
    "lose_head": _lose_head,
    "cut_hole": _cut_hole,
    "insert_garbage": _insert_garbage,
    "repeat_piece": _repeat_piece,
    "box_drop": _drop_box,
    "box_double": _double_box,
    "box_swap": _swap_box,
    "box_lie": _lie_in_box,
    "box_nest": _nest_boxes,
}
