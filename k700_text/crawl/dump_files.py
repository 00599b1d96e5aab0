"""Tables of any origin, row by row: csv, tsv, JSON lines, a JSON array, Parquet; text files plain or gzipped.

The content tells the format, for tables of text the suffix too. Memory is bounded by a row (Parquet: by a row group).
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from k700_text.delimited import BrokenRow, IsRow, Keys, Names, RowReader, delimiter_of, header_of, spelling_of
from k700_text.errors import UsageError
from k700_text.file_kinds import foreign_kind
from k700_text.files.json_stream import iter_json
from k700_text.schema import encoded_columns
from k700_text.titles import KEEP_HALVES

PARQUET_BATCH_ROWS = 10_000
MAX_LINE_BYTES = 1 << 25
"""What a service tells about one video has a million at most."""
_HEAD_BYTES = 1 << 16
_BUFFER_BYTES = 1 << 17

_BYTES_OF = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}

Row = tuple[Names, Sequence[Any] | None]
_Stream = BinaryIO | gzip.GzipFile


@dataclass(frozen=True, slots=True)
class Columns:
    """What the reader of a table knows about columns by their names.

    Attributes:
        keep: returns which are wanted; the others are not read where that saves work.
        is_row: tells a row by its cells from a line of a text that has several.
        keys: returns the places of ids and titles, which go over one line only.
    """

    keep: Callable[[Names], Sequence[str]]
    is_row: IsRow
    keys: Keys


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
def open_table(path: Path, columns: Columns) -> Iterator[Table]:
    """Opens a table and turns every fault of the file, while it is read too, into one clear line.

    Args:
        path: the file.
        columns: what is known about the columns.

    Raises:
        UsageError: missing, unreadable, damaged, or empty.
    """
    try:
        with ExitStack() as stack:
            yield _table(stack, path, columns)
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


def _table(stack: ExitStack, path: Path, columns: Columns) -> Table:
    stream: _Stream = stack.enter_context(path.open("rb"))
    name = path.name.lower()
    head = _peek(stream)
    if head[:2] == b"\x1f\x8b":
        stream, name = stack.enter_context(gzip.GzipFile(fileobj=stream)), name.removesuffix(".gz")
        head = _peek(stream)
    if head[:4] == b"PAR1":
        return _parquet(stream, path, columns)
    kind = foreign_kind(head)
    if kind is not None:
        raise UsageError(f"{path} is {kind}; a dump is csv, tsv, JSON or Parquet, text plain or gzipped")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"[":  # An array may be one line; its entries are bounded.
        stream = io.BufferedReader(_Lines(stream, path), _BUFFER_BYTES)
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = stack.enter_context(io.TextIOWrapper(stream, encoding=encoding, errors=KEEP_HALVES, newline=""))
    beginning = head.decode(encoding, errors="replace").lstrip()
    if not beginning:
        raise UsageError(f"{path} is empty: a dump needs columns of ids and titles")
    if beginning[0] == "[":
        return Table(None, _array_rows(text, path))
    if beginning[0] == "{":
        return Table(None, _line_rows(text))
    return _csv(text, path, _delimiter(beginning, name), columns)


class _Lines(io.RawIOBase):
    """A stream of text whose lines have an end: one that does not would fill the memory.

    Args:
        stream: the bytes.
        path: the file, for the message.
    """

    def __init__(self, stream: _Stream, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._num_open = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._num_open = 0
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: Any, /) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        self._num_open = len(data) - end if end else self._num_open + len(data)
        if self._num_open > MAX_LINE_BYTES:
            raise UsageError(f"{self._path} has a line of more than {MAX_LINE_BYTES} bytes: it is damaged, or no dump")
        return len(data)


def _peek(stream: _Stream) -> bytes:
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    return head


def _delimiter(beginning: str, name: str) -> str:
    """Returns what separates the names of the header line."""
    return "\t" if name.endswith((".tsv", ".tab")) else delimiter_of(beginning.splitlines()[0])


def _csv(text: TextIO, path: Path, delimiter: str, columns: Columns) -> Table:
    spelling = spelling_of(text, delimiter, columns.is_row, columns.keys)
    text.seek(0)
    names = spelling.cells(header_of(next(line for line in text if line.strip())))
    if isinstance(names, BrokenRow):
        raise UsageError(f"{path} line 1: not a header of column names ({names[0]})")
    reader = RowReader(text, spelling, tuple(names), columns.is_row, columns.keys)
    return Table(tuple(names), _csv_rows(reader, tuple(names)))


def _csv_rows(reader: RowReader, names: Names) -> Iterator[Row]:
    width = len(names)
    for _, rows in reader.chunks():
        for row in rows:
            # An unquoted comma inside a title gives a field too many, and would cut the title short.
            yield names, row if len(row) == width and not isinstance(row, BrokenRow) else None


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


def _parquet(stream: _Stream, path: Path, columns: Columns) -> Table:
    try:
        file = pq.ParquetFile(stream)
        names = tuple(file.schema_arrow.names)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} has a column whose name is not UTF-8: rename it, or export it as CSV") from error
    wanted = tuple(columns.keep(names))
    # A value that a page names a million times stays one.
    stream.seek(0)
    file = pq.ParquetFile(stream, read_dictionary=encoded_columns(file.metadata, wanted))
    return Table(names, _parquet_rows(file, wanted))


def _parquet_rows(file: pq.ParquetFile, names: Names) -> Iterator[Row]:
    for batch in file.iter_batches(PARQUET_BATCH_ROWS, columns=list(names)):
        for row in zip(*(_values(batch.column(name)) for name in names), strict=True):
            yield names, row


def _as_bytes(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Returns the bytes of texts; what is no column of texts (lists of them, say) holds none that we read."""
    for text, binary in _BYTES_OF.items():
        if kind == text:
            return column.cast(binary)
    return pa.nulls(len(column), pa.binary())


def _values(column: pa.Array) -> list[Any]:
    """Returns the values of a column; bytes are text of a writer that does not mark it (Impala, Hive, old Spark)."""
    if pa.types.is_dictionary(column.type):
        values = _values(column.dictionary)
        return [None if place is None else values[place] for place in column.indices.to_pylist()]
    kind = column.type
    is_fixed = pa.types.is_fixed_size_binary(kind)
    if not (is_fixed or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)):
        try:
            return cast(list[Any], column.to_pylist())
        except UnicodeDecodeError:  # Marked as text, which Parquet does not check.
            column = _as_bytes(column, kind)
    # What is no UTF-8 keeps a mark by which a title is told to be damaged.
    texts = (value if value is None else value.decode("utf-8", KEEP_HALVES) for value in column.to_pylist())
    return [text.rstrip("\0") if text and is_fixed else text for text in texts]
