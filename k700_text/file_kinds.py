"""What a file is by its first bytes, so that one of a kind that is not read here is refused with what to do."""

from __future__ import annotations

import re
from pathlib import Path

HEAD_BYTES = 4096

_UNPACK = "unpack it, and name the table that is in it"
_EXPORT = "export the table as CSV or Parquet"
_AGAIN = "download the file itself"
_NO_TABLE = "name a table"

_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xfd7zXZ\0", "an xz file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", _UNPACK),
    (b"\x04\x22\x4d\x18", "an LZ4 file", _UNPACK),
    (b"\x1f\x8b", "a gzip file", _UNPACK),
    (b"\x1f\x9d", "a file of compress (.Z)", _UNPACK),
    (b"LZIP\x01", "an lzip file", _UNPACK),
    (b"\xff\x06\0\0sNaPpY", "a Snappy file", _UNPACK),
    (b"!<arch>\n", "an ar archive", _UNPACK),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or export the sheet as CSV"),
    (b"PK\x05\x06", "an empty zip archive", _AGAIN),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"SQLite format 3\0", "an SQLite database", _EXPORT),
    (b"PAR1", "a Parquet file", "export it as CSV"),
    (b"ARROW1\0\0", "an Arrow file", _EXPORT),
    (b"FEA1\0", "a Feather file of version 1", _EXPORT),
    (b"Obj\x01", "an Avro file", _EXPORT),
    (b"\x93NUMPY", "a NumPy array", _EXPORT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _EXPORT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or Office file", _EXPORT),
    (b"%PDF-", "a PDF document", _NO_TABLE),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture", _NO_TABLE),
    (b"\xff\xd8\xff", "a JPEG picture", _NO_TABLE),
    (b"GIF8", "a GIF picture", _NO_TABLE),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer", "fetch the file itself with git lfs pull"),
    (b"\xff\xfe\0\0", "UTF-32 text", "save it as UTF-8"),
)
_PATTERNS: tuple[tuple[bytes, str, str], ...] = (
    (rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", "a bzip2 file", _UNPACK),
    # These letters begin names of columns too.
    (rb"ORC[\0-\x1f\x80-\xff]", "an ORC file", _EXPORT),
    (rb"PARE[\0-\x1f\x80-\xff]", "an encrypted Parquet file", "decrypt it, or export it as CSV"),
    (rb"\x5d\0\0[\0-\xff]{2}(?:\xff{8}|[\0-\xff]{5}\0{3})", "an LZMA file", _UNPACK),
    (rb"\x80[\x02-\x05][\0-\xff]*", "a Python pickle", _EXPORT),
    (rb"\s*(?i:<!doctype html|<html|<head|<script)", "a web page", f"{_AGAIN}, in a browser if it wants a login"),
    (rb"\s*<(?:\?xml|!DOCTYPE|[A-Za-z]+[ >])", "an XML or HTML document", _AGAIN),
    (rb"(?:[^\0]\0){4}|(?:\0[^\0]){4}", "UTF-16 text without a byte order mark", "save it as UTF-8"),
)
# No text has these, and a damaged cell is not in the first line.
_BINARY = re.compile(rb"[\0-\x08\x0e-\x1f\x7f]")


def foreign_kind(head: bytes) -> str | None:
    """Returns what a file is that is no table of text, and what to do; None where it may be one.

    Args:
        head: its first bytes, some hundred or more; what its caller can read otherwise is told apart before.
    """
    if head[257:262] == b"ustar":
        return f"a tar archive: {_UNPACK}"
    for start, kind, remedy in _KINDS:
        if head.startswith(start):
            return f"{kind}: {remedy}"
    for pattern, kind, remedy in _PATTERNS:
        if re.match(pattern, head):
            return f"{kind}: {remedy}"
    is_utf16 = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    if not is_utf16 and _BINARY.search(head[:HEAD_BYTES].partition(b"\n")[0]):
        return "binary data of an unknown kind: name a table of text"
    return None


def kind_of_file(path: str | Path) -> str | None:
    """Returns what a file is that is no Parquet, and what to do; None where it may be, or cannot be read."""
    try:
        if not Path(path).is_file():  # a pipe would be waited for
            return None
        with Path(path).open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return None
    return None if head.startswith(b"PAR1") else foreign_kind(head)


def visible(text: str) -> str:
    """Returns text without what nobody sees: byte order marks within a file, marks of width zero."""
    return "".join(each for each in text if each.isprintable() or each.isspace())
