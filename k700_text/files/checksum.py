"""A checksum in the file that it is of: neither JSON nor Arrow has one, and both read altered values without a word.

A seal is a text of fixed length that the writer puts where its format has room for a value. Arrow keeps the schema, and
a seal among its metadata, at both ends of a file: the first and the last occurrence are the seal, what looks like one
in between is data.
"""

from __future__ import annotations

import zlib

_MARK = b"crc32:"
OPEN_SEAL = "crc32:00000000"
"""What to write in the place of the seal."""


def sealed(data: bytes) -> bytes:
    """Returns the content of a file that holds ``OPEN_SEAL`` with the seal in its place."""
    return _with_seal(data, f"crc32:{zlib.crc32(data):08x}")


def is_sealed(data: bytes) -> bool:
    """Returns whether the content of a file is the very one that was sealed."""
    return _MARK in data and sealed(_with_seal(data, OPEN_SEAL)) == data


def _with_seal(data: bytes, seal: str) -> bytes:
    changed = bytearray(data)
    for place in (data.find(_MARK), data.rfind(_MARK)):
        changed[place : place + len(seal)] = seal.encode()
    return bytes(changed)
