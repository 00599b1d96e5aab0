"""Rows of delimited text (csv, tsv), whatever its quoting: every physical line is read, or broken by itself.

Quotes are CSV's in some files and part of the text in others, and one that is not closed would swallow the rows behind
it. So the spelling of a file is told from its own lines, and a record that has the columns of the header keeps all its
lines, unless its first line is a row by itself and others are too. Behind a line that cannot be read the next physical
line is read on its own again. Where two readings give one row different ids or titles, it is broken: no guess.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any

ROWS_AT_ONCE = 512
# From the first quote or backslash of a file on, and of the lines there that tell spellings apart.
SAMPLE_CHARACTERS = 1 << 18
SAMPLE_LINES = 500
# The bound of one cell in Python's csv module, here of a record of several lines.
MAX_RECORD_CHARACTERS = 1 << 17

_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}

Names = tuple[str, ...]
# Tells from the names of the columns and from cells whether these are a row, or a line of a text that has several.
IsRow = Callable[[Names, Sequence[str]], bool]
# Places of the cells for which rows are read, ids and titles: they go over one line, others over several.
Keys = Callable[[Names], Sequence[int]]
_Rows = tuple[Sequence[int], list[Sequence[str]]]


class BrokenRow(tuple[str, ...]):
    """What could not be read; its only field is the reason."""


class _DoubtfulRow(BrokenRow):
    """What can be read, in two ways."""


@dataclass(frozen=True)
class Spelling:
    """How the cells of a file are spelled.

    Attributes:
        delimiter: what separates them.
        is_quoted: a cell in double quotes may hold delimiters, ends of lines and quotes: RFC 4180.
        is_escaped: a backslash stands before what would otherwise have a meaning: tables of databases, CSV of Spark.
    """

    delimiter: str = ","
    is_quoted: bool = True
    is_escaped: bool = False

    def cells(self, record: str) -> Sequence[str]:
        """Returns the cells of one whole record, a BrokenRow where it is none."""
        if self.is_escaped and "\\" in record:
            return self._escaped_cells(record.rstrip("\r\n"))
        try:
            return next(self.reader((record,)))
        except csv.Error as error:
            return BrokenRow(["a quote is not closed" if "unexpected end" in str(error) else str(error)])

    def is_open(self, line: str) -> bool:
        """Tells whether a record that begins with a line would go on in the next one."""
        if self.is_quoted:
            return self.stays_open(f'"{self.delimiter}{line}') is True
        text = re.sub(r"\\[^\r\n]", "", line) if self.is_escaped else ""
        return text.rstrip("\r\n")[-1:] == "\\"

    def stays_open(self, line: str) -> bool | None:
        """Tells whether a record that is open goes on behind a further line; None: this line is none of its lines."""
        if not self.is_quoted:
            return self.is_open(line)
        match = self._quoted_line.fullmatch(line)
        return None if match is None else match["closed"] is None or match["open"] is not None

    def explains(self, record: str) -> bool:
        """Tells whether a writer of this spelling could have written a record that ``cells`` can read."""
        text = record.rstrip("\r\n")
        if self.is_quoted:
            return self._quoted_record.fullmatch(text) is not None
        cells = text.split(self.delimiter)
        in_quotes = [cell for cell in cells if len(cell) > 1 and cell[0] == cell[-1] == '"']
        is_csv = len(in_quotes) == len(cells) or any('""' in cell[1:-1] for cell in in_quotes)
        is_escape = re.fullmatch(rf"(?:[^\\]|\\[tnrbfv0N\r\n\\{self.delimiter}])*+", text, re.DOTALL)
        return not is_csv and (is_escape is not None if self.is_escaped else "\\\\" not in text)

    def reader(self, lines: Iterable[str]) -> Any:
        """Returns a ``csv.reader``, which is right for lines without escapes."""
        is_plain = not self.is_quoted
        return csv.reader(
            lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE if is_plain else csv.QUOTE_MINIMAL, strict=True
        )

    @property
    def _body(self) -> str:
        return r'[^"\\]|\\.|""' if self.is_escaped else r'[^"]|""'

    @cached_property
    def _quoted_line(self) -> re.Pattern[str]:
        """A line within quotes: all of it, or up to the quote that ends them, and cells, of which the last may open."""
        mark = self.delimiter
        plain = rf'(?:[^"{mark}\r\n][^{mark}\r\n]*+)?(?={mark}|[\r\n]*\Z)'
        cells = rf'(?:{mark}(?:"(?:{self._body})*+"(?={mark}|[\r\n]*\Z)|{plain}))*+'
        closed = rf'(?P<closed>"{cells}(?P<open>{mark}"(?:{self._body})*+)?[\r\n]*)'
        return re.compile(rf"(?:{self._body})*+{closed}?", re.DOTALL)

    @cached_property
    def _quoted_record(self) -> re.Pattern[str]:
        cell = rf'(?:"(?:{self._body})*+"|[^"{self.delimiter}]*+)'
        return re.compile(rf"{cell}(?:{self.delimiter}{cell})*+", re.DOTALL)

    def _escaped_cells(self, record: str) -> Sequence[str]:
        cells: list[str] = []
        place = 0
        while match := self._escaped_cell.match(record, place):
            text = match["quoted"]
            if text is not None:
                cells.append(re.sub(r'\\(["\\\r\n])|"(")', r"\1\2", text))
            else:
                cells.append(match["plain"] if self.is_quoted else _unescaped(match["plain"]))
            place = match.end()
            if not match["end"]:
                return cells
        return BrokenRow([f"a quote or a backslash is out of place in cell {len(cells) + 1}"])

    @cached_property
    def _escaped_cell(self) -> re.Pattern[str]:
        quoted = r'"(?P<quoted>(?:[^"\\]|\\.|"")*+)"' if self.is_quoted else r"(?P<quoted>(?!))"
        plain = rf'[^"{self.delimiter}]*+' if self.is_quoted else rf"(?:[^\\{self.delimiter}]|\\.)*+"
        return re.compile(rf"(?:{quoted}|(?P<plain>{plain}))(?P<end>{self.delimiter}|\Z)", re.DOTALL)


def _unescaped(text: str) -> str:
    # \N is a cell without a value, and stays apart from the letter.
    return (
        text if text == "\\N" else re.sub(r"\\(.)", lambda match: _CONTROLS.get(match[1], match[1]), text, flags=re.S)
    )


def header_of(line: str) -> str:
    """Returns a header line without the marks before it that nobody sees: byte order marks of joined files."""
    start = next((place for place, sign in enumerate(line) if sign.isprintable() or sign.isspace()), len(line))
    return line[start:]


def delimiter_of(header: str) -> str:
    """Returns what separates the names of a header line: comma, tab or semicolon."""
    return max(",\t;", key=header.count)


def _no_keys(names: Names) -> Sequence[int]:
    return ()


def spelling_of(lines: Iterator[str], delimiter: str, is_row: IsRow, keys: Keys = _no_keys) -> Spelling:
    """Returns the spelling that explains most lines of a file, of the first that tell.

    Args:
        lines: of the file, from its header on; read up to about 260,000 characters behind the first quote.
        delimiter: what separates cells.
        is_row: tells a row from a line of a text that has several.
        keys: places of the cells that go over one line only.
    """
    quoted = [Spelling(delimiter), Spelling(delimiter, is_escaped=True)]
    plain = [Spelling(delimiter, is_quoted=False), Spelling(delimiter, is_quoted=False, is_escaped=True)]
    # Where nothing tells them apart: tables with tabs come from databases, which do not quote.
    candidates = [*plain, *quoted] if delimiter == "\t" else [*quoted, *plain]
    header = header_of(next((line for line in lines if line.strip()), ""))
    telling = _telling(lines, delimiter, header.count(delimiter))
    if not telling and '"' not in header:
        return candidates[0]
    best, most = candidates[0], (-1, 0)
    for spelling in candidates:
        explained = _explained(spelling, header, telling, is_row, keys)
        if explained > most:
            best, most = spelling, explained
        if most == (len(telling), len(telling)):
            break
    return best


def _telling(lines: Iterator[str], delimiter: str, num_delimiters: int) -> list[str]:
    """Returns lines that not every spelling reads alike, from the first quote or backslash on."""
    telling: list[str] = []
    num_characters = 0
    for line in lines:
        is_marked = '"' in line or "\\" in line
        if is_marked or (num_characters and line.count(delimiter) != num_delimiters):
            telling.append(line)
        if is_marked or num_characters:
            num_characters += len(line)
            if num_characters > SAMPLE_CHARACTERS or len(telling) == SAMPLE_LINES:
                break
    return telling


def _explained(spelling: Spelling, header: str, lines: Sequence[str], is_row: IsRow, keys: Keys) -> tuple[int, int]:
    """Returns how many lines a spelling explains, and how many of these are of rows with an id.

    The second number decides where the first is equal: a text of several lines, each with as many tabs as a row, has
    no id in most of them.
    """
    names = spelling.cells(header)
    if isinstance(names, BrokenRow) or not spelling.explains(header):
        return -1, 0
    num_lines = num_with_id = 0
    for record, cells in RowReader(iter(()), spelling, tuple(names), is_row, keys).records(list(lines)):
        is_doubtful = isinstance(cells, _DoubtfulRow)
        is_whole = not isinstance(cells, BrokenRow) and len(cells) == len(names)
        if (is_doubtful or is_whole) and spelling.explains("".join(record)):
            num_lines += len(record)
            num_with_id += len(record) if is_doubtful or is_row(tuple(names), cells) else 0
    return num_lines, num_with_id


class RowReader:
    """Reads the rows behind a header.

    Args:
        lines: physical lines with their ends.
        spelling: how cells are spelled.
        names: of the columns.
        is_row: tells a row from a line of a text that has several; None: no row goes over several lines, and a quote
            within a cell without quotes, which may be the end of such a row, is none of the text.
        keys: places of the cells that go over one line only.
        rows_at_once: lines that are read together.
    """

    def __init__(
        self,
        lines: Iterator[str],
        spelling: Spelling,
        names: Names,
        is_row: IsRow | None = None,
        keys: Keys = _no_keys,
        *,
        rows_at_once: int = ROWS_AT_ONCE,
    ) -> None:
        self._lines = lines
        self._spelling = spelling
        self._names = names
        self._is_row = is_row
        self._keys = keys(names)
        self._rows_at_once = rows_at_once
        self._are_spanning = False  # The rows of the last lines: those of the next ones too, as a rule.
        self._is_behind_broken = False  # So that the next lines may be the rest of what could not be read.

    def chunks(self) -> Iterator[tuple[Sequence[int], list[Sequence[str]]]]:
        """Yields the lines in which rows begin, counted from the header's, and the rows; BrokenRows are among them."""
        num_before = 1
        while lines := list(islice(self._lines, self._rows_at_once)):
            is_careful = self._is_behind_broken and self._is_row is not None
            found = None if self._are_spanning or is_careful else self._plain_rows(lines, num_before)
            if found is None and not is_careful:
                found = self._spanning_rows(lines, num_before)
                self._are_spanning = found is not None
            numbers, rows = found or self._careful_rows(lines, num_before)
            if not all(rows):
                numbers = [number for number, row in zip(numbers, rows, strict=True) if row]
                rows = [row for row in rows if row]
            yield numbers, rows
            num_before += len(lines)

    def _plain_rows(self, lines: Sequence[str], num_before: int) -> _Rows | None:
        """Returns a row for every line, many times faster; None unless each can be read as one."""
        if self._spelling.is_escaped and any("\\" in line for line in lines):
            return None
        try:
            rows = list(self._spelling.reader(lines))
        except csv.Error:
            return None
        is_doubtful = self._is_row is None and '"' in "".join(chain.from_iterable(rows))
        if len(rows) != len(lines) or is_doubtful:
            return None
        return range(num_before + 1, num_before + 1 + len(lines)), rows

    def _spanning_rows(self, lines: list[str], num_before: int) -> _Rows | None:
        """Returns rows of one or several lines, a few times faster; None where anything is not as it should be."""
        if self._is_row is None or self._spelling.is_escaped:
            return None
        numbers, rows, start, num_lines = [], [], 0, len(lines)
        reader = self._spelling.reader(chain(lines[:], self._further(lines)))
        try:
            while start < num_lines:
                row = next(reader)
                stop = reader.line_num
                if stop > start + 1 and (len(row) != len(self._names) or self._num_rival_rows(lines[start:stop])):
                    return None
                numbers.append(num_before + start + 1)
                rows.append(row)
                start = stop
        except csv.Error:
            return None
        return numbers, rows

    def _num_rival_rows(self, record: Sequence[str]) -> int:
        """Returns how many further lines of a record could be rows by themselves; none where the first could not."""
        num_delimiters = len(self._names) - 1
        if sum(line.count(self._spelling.delimiter) for line in record) < 2 * num_delimiters:
            return 0
        return sum(map(self._holds_row, record[1:])) if self._holds_row(record[0]) else 0

    def _further(self, lines: list[str]) -> Iterator[str]:
        for line in self._lines:
            lines.append(line)
            yield line

    def _careful_rows(self, lines: list[str], num_before: int) -> _Rows:
        """Returns all that can be read, line by line."""
        numbers: list[int] = []
        rows: list[Sequence[str]] = []
        number = num_before + 1
        for record, cells in self.records(lines):
            numbers.append(number)
            rows.append(cells)
            number += len(record)
        return numbers, rows

    def records(self, lines: list[str]) -> Iterator[tuple[list[str], Sequence[str]]]:
        """Yields (physical lines, cells) record by record; appends to ``lines`` where the last one goes on.

        A line that may be a row or a part of the record before it is a BrokenRow without lines behind that record.
        """
        start = searched = 0
        while start < len(lines):
            stop, num_doubtful = start + 1, 0
            cells = self._line_cells(lines[start])
            # Up to where an earlier search came, none begins again: the time stays that of the lines.
            if isinstance(cells, BrokenRow) and self._is_row is not None and start >= searched:
                searched, is_closed = self._search(lines, start)
                if is_closed:
                    joined, num_doubtful = self._joined(lines[start:searched])
                    cells, stop = (joined, searched) if joined is not None else (cells, stop)
                searched = max(stop, searched - 1)  # The last line may be the first of a record.
            yield lines[start:stop], cells
            yield from (([], BrokenRow(["a row, or a part of the row before"])) for _ in range(num_doubtful))
            self._is_behind_broken = isinstance(cells, BrokenRow) or len(cells) != len(self._names)
            start = stop

    def _line_cells(self, line: str) -> Sequence[str]:
        cells = self._spelling.cells(line)
        is_strict = self._is_row is None or (self._spelling.is_quoted and self._is_behind_broken)
        if is_strict and not isinstance(cells, BrokenRow) and not self._spelling.explains(line):
            return BrokenRow(["a quote within a cell"])
        return cells

    def _joined(self, record: Sequence[str]) -> tuple[Sequence[str] | None, int]:
        """Returns the cells of lines in which quotes open and close, and how many of its lines are doubtful.

        No cells: an open quote that is none of the spelling's, each line is to be read by itself.
        """
        cells = self._spelling.cells("".join(record))
        num_rivals = self._num_rival_rows(record)
        is_row = not isinstance(cells, BrokenRow) and len(cells) == len(self._names)
        if not is_row:
            # A row whose text has several lines, and a comma too many: none of them is a row.
            is_text = not self._holds_row(record[0]) and any(map(self._holds_row, record[1:]))
            return (BrokenRow(["another number of cells than the header"]), 0) if is_text else (None, 0)
        if not num_rivals:
            return cells, 0
        spanning = [place for place, cell in enumerate(cells) if "\n" in cell or "\r" in cell]
        if not self._keys or any(place in spanning for place in self._keys):
            return None, 0
        # Both readings find the same in the first line, or nothing is certain.
        is_certain = max(self._keys) < min(spanning)
        return cells if is_certain else _DoubtfulRow(["a row, or several"]), num_rivals

    def _search(self, lines: list[str], start: int) -> tuple[int, bool]:
        """Returns where the search for the end of a record stopped, and whether it was found."""
        stop, num_characters = start + 1, len(lines[start])
        is_open: bool | None = self._spelling.is_open(lines[start])
        while is_open:
            if stop == len(lines):
                lines.extend(islice(self._lines, 1))
            if stop == len(lines) or num_characters > MAX_RECORD_CHARACTERS:
                return stop, False
            is_open = self._spelling.stays_open(lines[stop])
            num_characters += len(lines[stop])
            stop += 1
        return stop, is_open is not None and stop > start + 1

    def _holds_row(self, line: str) -> bool:
        """Tells whether a physical line could be a row: it has the cells of one, and an id."""
        if self._is_row is None or line.count(self._spelling.delimiter) < len(self._names) - 1:
            return False
        cells = self._spelling.cells(line)
        if isinstance(cells, BrokenRow):
            cells = [cell.strip().strip('"') for cell in line.split(self._spelling.delimiter)]
        return len(cells) >= len(self._names) and self._is_row(self._names, cells)
