"""How object stores answer for one file: ranges, conditions, and errors as XML."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from k700_text.sandbox.messages import Request, Response

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_XML = ("Content-Type", "application/xml; charset=UTF-8")
_CRC32C_POLYNOMIAL = 0x82F63B78


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One file of an object store.

    Attributes:
        body: its bytes.
        etag: names this version of it, in quotes.
        headers: what else the store says about it.
    """

    body: bytes
    etag: str
    headers: tuple[tuple[str, str], ...] = ()

    def answer(self, request: Request) -> Response:
        """Returns the file (200), a range of it (206), 304, 412 or 416, as the request's conditions have it."""
        headers = (("ETag", self.etag), ("Accept-Ranges", "bytes"), *self.headers)
        if request.header("if-none-match") == self.etag:
            return Response(304, headers)
        if request.header("if-match") not in ("", "*", self.etag):
            return xml_error(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")
        whole = Response(200, headers, self.body)
        is_current = request.header("if-range") in ("", self.etag)
        return ranged(request.header("range"), whole) if is_current else whole


def ranged(header: str, whole: Response) -> Response:
    """Returns the part of a response that a Range header asks for; all of it for none and for a broken one."""
    found = _RANGE.fullmatch(header.strip())
    if found is None or found[1] == found[2] == "":
        return whole
    size = len(whole.body)
    if found[1]:
        start, end = int(found[1]), min(int(found[2] or size - 1), size - 1)
    else:
        start, end = max(size - int(found[2]), 0), size - 1
    if start > end or start >= size:
        return Response(416, (*whole.headers, ("Content-Range", f"bytes */{size}")))
    headers = (*whole.headers, ("Content-Range", f"bytes {start}-{end}/{size}"))
    return Response(206, headers, whole.body[start : end + 1])


def xml_error(status: int, code: str, message: str) -> Response:
    """Returns an error as object stores spell it."""
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Response(status, (_XML,), body.encode())


def crc32c(data: bytes) -> bytes:
    """Returns the Castagnoli checksum (4 bytes, big-endian), which some stores declare beside the md5."""
    table, crc = _crc32c_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return (crc ^ 0xFFFFFFFF).to_bytes(4)


@cache
def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_CRC32C_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)
