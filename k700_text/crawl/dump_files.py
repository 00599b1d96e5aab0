"""Tables of any origin, row by row: csv, tsv, JSON lines, a JSON array, Parquet; text files plain or gzipped.

The content tells the format, for tables of text the suffix too. Memory is bounded by a row (Parquet: by a row group).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from k700_text.errors import UsageError
from k700_text.json_stream import iter_json

PARQUET_BATCH_ROWS = 10_000
_HEAD_BYTES = 1 << 16

Names = tuple[str, ...]
Row = tuple[Names, Sequence[Any] | None]
_Stream = BinaryIO | gzip.GzipFile


@dataclass(frozen=True, slots=True)
class Table:
    """An open table.

    Attributes:
        names: the columns; None where every row names its own (JSON).
        rows: (names, cells) of each row; no cells where the row is damaged.
    """

    names: Names | None
    rows: Iterator[Row]


@contextmanager
def open_table(path: Path, keep: Callable[[Names], Sequence[str]]) -> Iterator[Table]:
    """Opens a table and turns every fault of the file, while it is read too, into one clear line.

    Args:
        path: the file.
        keep: tells which of the columns are wanted; the others are not read where that saves work.

    Raises:
        UsageError: missing, unreadable, damaged, or empty.
    """
    try:
        with ExitStack() as stack:
            yield _table(stack, path, keep)
    except FileNotFoundError as error:
        raise UsageError(f"no such dump: {path}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path} is a damaged gzip file ({error}): download it again") from error
    except pa.ArrowException as error:
        raise UsageError(f"{path} is a damaged Parquet file ({_first_line(error)}): download it again") from error
    except OSError as error:
        # Arrow reports damage as an OSError without a number.
        reason = f"cannot be read ({error.strerror})" if error.errno else f"is damaged ({_first_line(error)})"
        raise UsageError(f"dump {path} {reason}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _table(stack: ExitStack, path: Path, keep: Callable[[Names], Sequence[str]]) -> Table:
    stream: _Stream = stack.enter_context(path.open("rb"))
    name = path.name.lower()
    head = _peek(stream)
    if head[:2] == b"\x1f\x8b":
        stream, name = stack.enter_context(gzip.GzipFile(fileobj=stream)), name.removesuffix(".gz")
        head = _peek(stream)
    if head[:4] == b"PAR1":
        return _parquet(stream, keep)
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = stack.enter_context(io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline=""))
    beginning = head.decode(encoding, errors="replace").lstrip()
    if not beginning:
        raise UsageError(f"{path} is empty: a dump needs columns of ids and titles")
    if beginning[0] == "[":
        return Table(None, _array_rows(text, path))
    if beginning[0] == "{":
        return Table(None, _line_rows(text))
    return _csv(text, path, _delimiter(beginning, name))


def _peek(stream: _Stream) -> bytes:
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    return head


def _delimiter(beginning: str, name: str) -> str:
    """Returns what separates the names of the header line."""
    if name.endswith((".tsv", ".tab")):
        return "\t"
    header = beginning.splitlines()[0]
    return max(",\t;", key=header.count)


def _csv(text: TextIO, path: Path, delimiter: str) -> Table:
    # strict: a stray quote makes a damaged row, not a title of several rows.
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        names = tuple(next(reader))
    except (csv.Error, StopIteration) as error:
        raise UsageError(f"{path} line 1: not a header of column names ({error})") from error
    return Table(names, _csv_rows(reader, names))


def _csv_rows(reader: Iterator[list[str]], names: Names) -> Iterator[Row]:
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield names, None
            continue
        if row:
            # An unquoted comma inside a title gives a field too many, and would cut the title short.
            yield names, row if len(row) == len(names) else None


def _line_rows(text: TextIO) -> Iterator[Row]:
    for line in text:
        if not line.strip():
            continue
        try:
            yield _object_row(json.loads(line))
        except (ValueError, RecursionError):
            yield (), None


def _array_rows(text: TextIO, path: Path) -> Iterator[Row]:
    try:
        yield from map(_object_row, iter_json(text))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from error


def _object_row(value: Any) -> Row:
    return (tuple(value), tuple(value.values())) if isinstance(value, dict) else ((), None)


def _parquet(stream: _Stream, keep: Callable[[Names], Sequence[str]]) -> Table:
    file = pq.ParquetFile(stream)
    names = tuple(file.schema_arrow.names)
    return Table(names, _parquet_rows(file, tuple(keep(names))))


def _parquet_rows(file: pq.ParquetFile, names: Names) -> Iterator[Row]:
    for batch in file.iter_batches(PARQUET_BATCH_ROWS, columns=list(names)):
        for row in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
            yield names, row
