"""Whether a file is several, written one behind the other: FFmpeg reads on from one to the next, but cannot seek so."""

from __future__ import annotations

import struct
from pathlib import Path

_EBML = b"\x1a\x45\xdf\xa3"
# An EBML header says soon what it is the header of; the same four bytes within pictures do not.
_EBML_HEADER_BYTES = 64
_PIECE_BYTES = 1 << 20
_RIFF = struct.Struct("<4sI4s")


def has_second_header(path: Path, format_name: str) -> bool:
    """Returns whether a Matroska, WebM or AVI file is followed by another one, in the same file."""
    if format_name == "avi":
        return _has_second_riff(path)
    return format_name == "matroska,webm" and _has_second_ebml(path)


def _has_second_ebml(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(len(_EBML))
        held = b""
        # Read, not mapped into memory: a file that fails or shrinks meanwhile must be an error, not a crash.
        while piece := file.read(_PIECE_BYTES):
            held += piece
            place = held.find(_EBML)
            while place >= 0:
                header = held[place : place + _EBML_HEADER_BYTES]
                if b"matroska" in header or b"webm" in header:
                    return True
                place = held.find(_EBML, place + 1)
            held = held[-_EBML_HEADER_BYTES:]
    return False


def _has_second_riff(path: Path) -> bool:
    """Long AVI files go on in further chunks, of type AVIX."""
    with path.open("rb") as file:
        place = 0
        while len(head := file.read(_RIFF.size)) == _RIFF.size:
            name, num_bytes, kind = _RIFF.unpack(head)
            if name != b"RIFF" or (place and kind == b"AVI "):
                return bool(name == b"RIFF")
            place += 8 + num_bytes + num_bytes % 2
            file.seek(place)
    return False
