"""Whether a file is several, written one behind the other: FFmpeg reads on from one to the next, but cannot seek so."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_EBML = b"\x1a\x45\xdf\xa3"
# An EBML header says soon what it is the header of; the same four bytes within pictures do not.
_EBML_HEADER_BYTES = 64
_RIFF = struct.Struct("<4sI4s")


def has_second_header(path: Path, format_name: str) -> bool:
    """Returns whether a Matroska, WebM or AVI file is followed by another one, in the same file."""
    if format_name == "avi":
        return _has_second_riff(path)
    return format_name == "matroska,webm" and _has_second_ebml(path)


def _has_second_ebml(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.find(_EBML, len(_EBML))
        while place >= 0:
            header = content[place : place + _EBML_HEADER_BYTES]
            if b"matroska" in header or b"webm" in header:
                return True
            place = content.find(_EBML, place + len(_EBML))
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
