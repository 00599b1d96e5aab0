from __future__ import annotations

import random
import zlib
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k700_text.media.packets import DROPPABLE, KEY, ClipPackets, PacketTable


def table_of(pts: list[int], flags: list[int], **values: Any) -> PacketTable:
    count = len(pts)
    defaults: dict[str, Any] = {
        "codec": "h264",
        "extradata": b"\x01d\x00\x1f",
        "time_base": Fraction(1, 30_000),
        "offsets": np.arange(count, dtype=np.int64) * 700 + 48,
        "sizes": np.arange(count, dtype=np.int64) % 7 * 100 + 1,
        "origin": Fraction(0),
        "end_ticks": max(pts) + 1001,
    }
    return PacketTable(pts=np.array(pts, np.int64), flags=np.array(flags, np.uint8), **{**defaults, **values})


@st.composite
def tables(draw: st.DrawFn) -> PacketTable:
    """Groups of pictures, each shown after the one before, in any order within a group and in uneven steps."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    pts, flags, now = [], [], draw(st.integers(-5000, 5000))
    for length in draw(st.lists(st.integers(1, 12), min_size=1, max_size=5)):
        times = []
        for _ in range(length):
            times.append(now)
            now += rng.choice([1, 1001, 1001, 2002, 9009])
        key, *rest = times
        rng.shuffle(rest)
        pts += [key, *rest]
        flags += [KEY, *(rng.choice([0, DROPPABLE]) for _ in rest)]
    origin = Fraction(draw(st.integers(-9000, 9000)), draw(st.sampled_from([1, 7])))
    return table_of(pts, flags, origin=origin)


def naive_selection(table: PacketTable, wanted: list[float]) -> tuple[list[int], list[int]]:
    """The definition: the last picture not after each time; all of its group before it but what nobody needs."""
    seconds = [float((int(pts) - table.origin) * table.time_base) for pts in table.pts]
    by_time = sorted(range(len(table)), key=lambda packet: seconds[packet])
    shown = []
    for time in wanted:
        begun = [packet for packet in by_time if seconds[packet] - 1e-6 <= time]
        shown.append(begun[-1] if begun else by_time[0])
    fed = set()
    for last in shown:
        packet = last
        while True:
            if packet in shown or not table.flags[packet] & DROPPABLE:
                fed.add(packet)
            if table.flags[packet] & KEY:
                break
            packet -= 1
    return sorted(fed), shown


@given(tables(), st.floats(-1, 3), st.integers(1, 20), st.sampled_from([2.0, 10.0, 25.0, 29.97, 240.0]))
def test_selection_is_what_is_needed_and_no_more(table: PacketTable, start: float, count: int, rate: float) -> None:
    wanted = [start + index / rate for index in range(count)]
    selection = table.select(wanted)
    assert (selection.packets, selection.shown) == naive_selection(table, wanted)


@given(tables(), st.sampled_from([-2e-6, -5e-7, 0.0, 5e-7]))
def test_a_picture_is_shown_from_a_microsecond_before_its_time(table: PacketTable, beside: float) -> None:
    order = np.argsort(table.pts)
    shown = table.select((table.seconds[order] + beside).tolist()).shown
    assert shown == (order if beside > -1e-6 else order[[0, *range(len(order) - 1)]]).tolist()


def test_groups_without_a_wanted_picture_are_left_out() -> None:
    table = table_of([1001 * index for index in range(12)], [KEY, 0, DROPPABLE, 0] * 3)
    assert table.select([0.0, 0.301]).packets == [0, 8, 9]


@given(tables(), tables(), st.booleans())
def test_tables_come_back_from_bytes(video: PacketTable, audio: PacketTable, has_audio: bool) -> None:
    video = replace(
        video, width=340, height=256, orientation=7, pixel_aspect=4 / 3, colour=(1, 2), declared_seconds=10.01
    )
    audio = replace(audio, codec="aac", sample_rate=44_100, heard_from=-7)
    clip = ClipPackets(video=video, audio=audio if has_audio else None)
    blob = clip.to_bytes()
    again = ClipPackets.from_bytes(blob)
    assert again.to_bytes() == blob
    assert (again.audio is not None) == has_audio
    for before, after in ((clip.video, again.video), (clip.audio, again.audio)):
        for field in fields(PacketTable) if before is not None else ():
            old, new = getattr(before, field.name), getattr(after, field.name)
            assert type(new) is type(old) and np.array_equal(new, old), field.name


def test_a_table_takes_a_few_bytes_a_packet() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(100, 9000, 300)
    table = table_of([512 * index for index in range(300)], [KEY, *[0] * 299])
    table = replace(table, sizes=sizes, offsets=np.cumsum(sizes) - sizes)
    assert len(ClipPackets(video=table, audio=None).to_bytes()) < 300 * 4


def test_bytes_that_are_no_table_are_refused() -> None:
    blob = ClipPackets(video=table_of([0, 1001], [KEY, 0]), audio=None).to_bytes()
    plain = zlib.decompress(blob)
    bad = [b"", b"not zlib", blob[:-1]]
    bad += [zlib.compress(content) for content in (b"", plain + b"x", b"\x01\x01\x01" + plain[3:])]
    bad += [zlib.compress(plain[:size]) for size in range(len(plain))]
    for damaged in bad:
        with pytest.raises(ValueError, match=r"^not a packet table"):
            ClipPackets.from_bytes(damaged)
    with pytest.raises(ValueError, match="version 99"):
        ClipPackets.from_bytes(zlib.compress(b"\x63" + plain[1:]))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_table_or_refused(data: bytes) -> None:
    try:
        ClipPackets.from_bytes(zlib.compress(b"\x01\x01\x00" + data))
    except ValueError:
        return


def test_every_damaged_byte_is_noticed() -> None:
    blob = ClipPackets(video=table_of([0, 1001, 2002], [KEY, 0, 0]), audio=None).to_bytes()
    for position in range(2, len(blob)):
        damaged = bytearray(blob)
        damaged[position] ^= 0x55
        with pytest.raises(ValueError):
            ClipPackets.from_bytes(bytes(damaged))


def test_tables_that_cannot_be_decoded_are_refused() -> None:
    with pytest.raises(ValueError, match="needs packets"):
        table_of([0, 1], [KEY])
    with pytest.raises(ValueError, match="no key packet"):
        table_of([0, 1], [0, KEY])
