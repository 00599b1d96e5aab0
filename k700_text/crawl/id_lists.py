"""Plain lists of videos: ids or addresses, one a line or in a column of a table (csv, tsv, Parquet).

A list annotates no spans of time, so that a row of its manifest is a whole video.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from k700_text.annotation_files import BLOCK_BYTES, MAX_FILE_BYTES, opened, peek, sha256_of
from k700_text.annotations import Annotations, Problems, malformed_rows, split_of_name
from k700_text.clip_table import ClipTableBuilder, VideoTable
from k700_text.crawl.sources.dumps import ID_COLUMNS, spelling
from k700_text.crawl.watch_pages import youtube_id_of
from k700_text.delimited import BrokenRow, Names, RowReader, Spelling, delimiter_of, header_of, spelling_of
from k700_text.errors import AnnotationError
from k700_text.file_kinds import foreign_kind
from k700_text.records import Split
from k700_text.schema import declared_bytes
from k700_text.terminal import readable

STANDARD_INPUT = "-"
DEFAULT_SPLIT = Split.TEST
"""Of videos whose split nothing tells: the only one whose rows need no label."""

_SPLIT_COLUMNS = ("split", "subset")
# An address may hold "#" too, but never behind a space.
_COMMENT = re.compile(r"(?:^|\s)#.*$", re.DOTALL)
_PARQUET_ROWS = 10_000
_MAX_LINE_BYTES = 4 * BLOCK_BYTES


class _Entry(NamedTuple):
    """What stands in one place of a list: the cells that may name its video, and its split where a column has it."""

    place: str
    cells: Sequence[str]
    split: str = ""


def load_id_lists(
    paths: Sequence[str | Path],
    *,
    split: Split | None = None,
    as_split: Split | None = None,
    skip_invalid: bool = False,
) -> Annotations:
    """Reads lists of videos into sorted rows of whole videos; each video is kept once.

    Args:
        paths: text, csv, tsv or Parquet; ``-`` is the standard input.
        split: keep the rows of this split only.
        as_split: the split of videos of which neither a column nor the name of the file tells it; None: ``test``.
        skip_invalid: leave lines that name no video out (they are listed in ``skipped``) in place of failing.

    Raises:
        AnnotationError: a list is missing, unreadable, empty or too large, or a line names no video (all of them are
            listed), and always where there are more than MAX_PROBLEMS of those.
    """
    builder = ClipTableBuilder()
    problems: list[str] = Problems("list of videos")
    digests: list[str] = []
    for path in paths:
        is_input = str(path) == STANDARD_INPUT
        name = "standard input" if is_input else Path(path).name
        default = split_of_name(name) or as_split or DEFAULT_SPLIT
        num_before = len(builder) + len(problems)
        with opened(Path("/dev/stdin" if is_input else path), "list of videos") as file:
            digests.append(sha256_of(file))
            for entry in _entries(name, file):
                _take(entry, default, builder, problems)
        if len(builder) + len(problems) == num_before:
            raise AnnotationError(f"{name} names no video: expected ids or addresses, one a line or in a column")
    if problems and not (skip_invalid and len(builder)):
        raise malformed_rows(problems, "list")
    found, num_repeated = builder.finish(split)
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
    return Annotations(VideoTable(found.spans()), sha256, tuple(problems), num_repeated)


def id_in_line(line: str) -> str | None:
    """Returns the id that a line of a list names, by itself or by an address; empty where there is but a comment.

    Args:
        line: ``#`` begins a comment at its start, behind a space, and behind an id.
    """
    text = _COMMENT.sub("", line).strip()
    return (youtube_id_of(text) or youtube_id_of(text.partition("#")[0])) if text else ""


def _take(entry: _Entry, default: str, builder: ClipTableBuilder, problems: list[str]) -> None:
    youtube_id = next(filter(None, map(id_in_line, entry.cells)), None)
    if youtube_id is None:
        problems.append(f"{entry.place}: {readable(', '.join(entry.cells), 80)!r} names no YouTube video")
        return
    try:
        split = Split.parse(entry.split.strip() or default)
    except ValueError as error:
        problems.append(f"{entry.place}: {readable(str(error))}")
        return
    builder.extend([youtube_id], [split], [0.0], [0.0], [None])


def _entries(name: str, file: BinaryIO) -> Iterator[_Entry]:
    head = peek(file)
    if head[:4] == b"PAR1":
        yield from _of_parquet(name, file)
        return
    kind = foreign_kind(head)
    if kind is not None:
        raise AnnotationError(f"{name} is {kind}")
    _check_lines(name, file)
    encoding = "utf-16" if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    # What cannot be decoded is in no id: its line is told as it is seen.
    text = io.TextIOWrapper(file, encoding, errors="replace", newline="")
    try:
        yield from _of_text(name, text)
    finally:
        text.detach()  # Else it would close the file, which is not its own.


def _check_lines(name: str, file: BinaryIO) -> None:
    """Refuses a file with a line that is held in memory for nothing: zeros, or a film."""
    file.seek(0)
    length = 0
    while block := file.read(BLOCK_BYTES):
        end = max(block.rfind(b"\n"), block.rfind(b"\r"))
        length = len(block) - end - 1 if end >= 0 else length + len(block)
        if length > _MAX_LINE_BYTES:
            raise AnnotationError(f"{name} has a line of more than {_MAX_LINE_BYTES:,} bytes: it is no list of videos")
    file.seek(0)


def _of_text(name: str, text: io.TextIOWrapper) -> Iterator[_Entry]:
    number, first = next(((number, line) for number, line in enumerate(text, 1) if id_in_line(line) != ""), (0, ""))
    first = header_of(first)
    delimiter = delimiter_of(first)
    cells = Spelling(delimiter).cells(first)
    names = () if isinstance(cells, BrokenRow) else tuple(cells)
    if _id_places(names):
        yield from _of_table(name, text, number, delimiter)
        return
    # No header: the cell of the first line that names a video tells the column.
    column = 0 if id_in_line(first) else next((place for place, cell in enumerate(names) if id_in_line(cell)), 0)
    if len(names) > 2 and not any(map(id_in_line, (first, *names))):
        raise _no_column(name, names)
    text.seek(0)
    for number, line in enumerate(text, 1):
        line = header_of(line) if number == 1 else line
        if id_in_line(line) == "":
            continue
        cells = [line] if id_in_line(line) else Spelling(delimiter).cells(line)
        at = slice(column, column + 1) if len(cells) > column and not isinstance(cells, BrokenRow) else slice(0)
        yield _Entry(f"{name} line {number}", cells[at] or [line.strip()])


def _of_table(name: str, text: io.TextIOWrapper, header_number: int, delimiter: str) -> Iterator[_Entry]:
    """Reads the rows behind a header, in whatever line of the file it stands."""

    def is_row(names: Names, cells: Sequence[str]) -> bool:
        return any(youtube_id_of(cells[place]) for place in _id_places(names) if place < len(cells))

    _go_to(text, header_number)
    told = spelling_of(text, delimiter, is_row, _id_places)
    _go_to(text, header_number)
    names = tuple(told.cells(header_of(text.readline())))
    places, splits = _id_places(names), _places(names, _SPLIT_COLUMNS)
    for numbers, rows in RowReader(text, told, names, is_row, _id_places).chunks():
        for number, row in zip(numbers, rows, strict=True):
            place = f"{name} line {number + header_number - 1}"
            if isinstance(row, BrokenRow) or len(row) <= max(places):
                yield _Entry(place, row)
            elif any(map(str.strip, row)) and not row[0].lstrip().startswith("#"):
                yield _Entry(place, [row[each] for each in places], row[splits[0]] if splits else "")


def _go_to(text: io.TextIOWrapper, number: int) -> None:
    """Goes to the beginning of a line, counted from 1."""
    text.seek(0)
    for _ in range(number - 1):
        text.readline()


def _of_parquet(name: str, file: BinaryIO) -> Iterator[_Entry]:
    try:
        table = pq.ParquetFile(file)
        names = tuple(table.schema_arrow.names)
        places, splits = _id_places(names), _places(names, _SPLIT_COLUMNS)
        if not places:
            raise _no_column(name, names)
        read = [names[each] for each in (*places, *splits[:1])]
        if (num_bytes := declared_bytes(table.metadata, read)) > MAX_FILE_BYTES:
            raise AnnotationError(f"{name} claims {num_bytes} bytes of ids, more than {MAX_FILE_BYTES}: split it")
        number = 0
        for batch in table.iter_batches(_PARQUET_ROWS, columns=read):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                cells = ["" if cell is None else str(cell) for cell in row]
                yield _Entry(f"{name} row {number}", cells[: len(places)], cells[-1] if splits else "")
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise AnnotationError(f"{name} is a damaged Parquet file ({readable(str(error))}): write it again") from error


def _id_places(names: Names) -> Sequence[int]:
    return _places(names, ID_COLUMNS)


def _places(names: Names, wanted: Sequence[str]) -> Sequence[int]:
    """Returns the places of columns by their names, in the order of what is wanted."""
    spellings = list(map(spelling, names))
    return [spellings.index(each) for each in wanted if each in spellings]


def _no_column(name: str, names: Names) -> AnnotationError:
    found = readable(", ".join(names), 200)
    return AnnotationError(f"{name} has no column of ids or addresses (found: {found}): call it youtube_id or url")
