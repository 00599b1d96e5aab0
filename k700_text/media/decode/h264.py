"""The little of H.264 that a packet table needs: what a packet holds, told from the first byte of each of its units.

Only what players call plain is known here: one sequence parameter set for the whole stream, pictures that begin anew
(IDR) or follow, and whether others refer to them. Whatever is not is named, so that the clip is read the long way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

_SLICE, _IDR_SLICE = 1, 5
_PARAMETER_SETS = frozenset({7, 8})
_HARMLESS = frozenset({6, 9, 12})  # supplemental information, delimiters, filler


@dataclass(frozen=True, slots=True)
class DecoderConfiguration:
    """The ``avcC`` box of a stream.

    Attributes:
        length_bytes: bytes that state the length of each unit of a packet.
        parameter_sets: the units that every decoder of this stream knows from the start.
    """

    length_bytes: int
    parameter_sets: frozenset[bytes]

    @classmethod
    def parse(cls, data: bytes) -> Self | str:
        """Returns the configuration, or why it is none of one stream of one size."""
        if len(data) < 7 or data[0] != 1:
            return "its H.264 is not stored with lengths (avcC)"
        num_sequence_sets = data[5] & 0x1F
        if num_sequence_sets != 1:
            return f"it has {num_sequence_sets} sequence parameter sets, not one"
        try:
            sequence_sets, position = _counted_units(data, num_sequence_sets, 6)
            picture_sets, _ = _counted_units(data, data[position], position + 1)
        except IndexError:
            return "its H.264 configuration (avcC) is damaged"
        return cls(length_bytes=(data[4] & 3) + 1, parameter_sets=frozenset(sequence_sets + picture_sets))


@dataclass(frozen=True, slots=True)
class PictureKind:
    """What one packet holds.

    Attributes:
        is_idr: decoding may begin with it, and nothing after it refers to what was before.
        is_droppable: no other picture refers to it.
    """

    is_idr: bool
    is_droppable: bool


def picture_kind(data: bytes | memoryview, configuration: DecoderConfiguration) -> PictureKind | str:
    """Returns what a packet of one picture holds, or why it is not one that is known here."""
    num_idr = num_slices = 0
    is_referred_to = False
    for begin, end in _units(data, configuration.length_bytes):
        if begin >= end or end > len(data):
            return "the lengths within a packet do not add up"
        kind = data[begin] & 0x1F
        if kind in (_SLICE, _IDR_SLICE):
            num_slices += 1
            num_idr += kind == _IDR_SLICE
            is_referred_to |= bool(data[begin] & 0x60)
        elif kind in _PARAMETER_SETS:
            if bytes(data[begin:end]) not in configuration.parameter_sets:
                return "it changes its parameter sets midway"
        elif kind not in _HARMLESS:
            return f"it has H.264 units of type {kind}"
    if not num_slices:
        return "a packet holds no picture"
    if 0 < num_idr < num_slices:
        return "a packet mixes key slices with others"
    return PictureKind(is_idr=num_idr > 0, is_droppable=not is_referred_to)


def _units(data: bytes | memoryview, length_bytes: int) -> list[tuple[int, int]]:
    """Returns begin and end of every unit; the last one may lie outside the data."""
    units = []
    position = 0
    while position < len(data):
        begin = position + length_bytes
        position = begin + int.from_bytes(data[position:begin], "big")
        units.append((begin, position))
        if begin >= position:
            break
    return units


def _counted_units(data: bytes, count: int, position: int) -> tuple[list[bytes], int]:
    """Returns so many units, each behind its length in two bytes, and where they end; IndexError beyond the data."""
    units = []
    for _ in range(count):
        begin = position + 2
        position = begin + (data[begin - 2] << 8 | data[begin - 1])
        if position > len(data):
            raise IndexError
        units.append(data[begin:position])
    return units, position
