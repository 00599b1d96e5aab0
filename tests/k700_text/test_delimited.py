from __future__ import annotations

import csv
import io
import random
import time
from collections.abc import Callable, Sequence

import pytest

from k700_text.delimited import BrokenRow, Names, RowReader, Spelling, delimiter_of, spelling_of

HEADER = ("id", "title", "text")
Writer = Callable[[Sequence[Sequence[str]]], str]


def is_row(names: Names, cells: Sequence[str]) -> bool:
    return cells[0].startswith("id-")


def read(text: str, delimiter: str | None = None, chunk: int = 512) -> list[Sequence[str]]:
    """Reads as a dump is read: the spelling from the beginning, then the rows."""
    lines = io.StringIO(text, newline="").readlines()
    spelling = spelling_of(iter(lines), delimiter or delimiter_of(lines[0]), is_row)
    names = tuple(spelling.cells(lines[0]))
    reader = RowReader(iter(lines[1:]), spelling, names, is_row, rows_at_once=chunk)
    return [tuple(row) if not isinstance(row, BrokenRow) else row for _, rows in reader.chunks() for row in rows]


def csv_writer(delimiter: str = ",", **options: object) -> Writer:
    def written(rows: Sequence[Sequence[str]]) -> str:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=delimiter, **options).writerows([HEADER, *rows])  # type: ignore[arg-type]
        return text.getvalue()

    return written


def database(rows: Sequence[Sequence[str]]) -> str:
    """A table of a database: no quotes, a backslash before what has a meaning (COPY of PostgreSQL, mysql -B)."""
    escapes = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
    return "".join("\t".join(cell.translate(escapes) for cell in row) + "\n" for row in [HEADER, *rows])


def outfile(rows: Sequence[Sequence[str]]) -> str:
    """MySQL's INTO OUTFILE: the end of a line itself stands behind the backslash."""
    escapes = str.maketrans({"\\": "\\\\", "\t": "\\\t", "\n": "\\\n"})
    return "".join("\t".join(cell.translate(escapes) for cell in row) + "\n" for row in [HEADER, *rows])


def spark(rows: Sequence[Sequence[str]]) -> str:
    """CSV of Spark: quotes where needed, and a backslash before a quote."""
    lines = []
    for row in [HEADER, *rows]:
        cells = ['"' + cell.replace('"', '\\"') + '"' if set(cell) & set('",') else cell for cell in row]
        lines.append(",".join(cells) + "\n")
    return "".join(lines)


def plain(rows: Sequence[Sequence[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in [HEADER, *rows])


QUOTES = ['"all of it"', '"begins" so', 'ends "so"', '5" pipe', '"never closed', 'a "b" c', '"']
COMMAS = ["one, two", "a; b", ",", "x,y,z"]
LINES = ["first\nsecond", "a\n\nb, c, d", "\n", 'he\n"said"\nso', "crlf\r\nline"]
SLASHES = ["AC\\DC", "\\", "//\\\\", "C:\\new", "\\_o_/"]
WRITERS: dict[str, tuple[Writer, list[str]]] = {
    "minimal": (csv_writer(), QUOTES + COMMAS + LINES + SLASHES),
    "all quoted": (csv_writer(quoting=csv.QUOTE_ALL), QUOTES + COMMAS + LINES + SLASHES),
    "semicolons": (csv_writer(";"), QUOTES + COMMAS + LINES),
    "tabs, quoted": (csv_writer("\t"), QUOTES + LINES + ["a\tb"]),
    "tabs, all quoted": (csv_writer("\t", quoting=csv.QUOTE_ALL), QUOTES + LINES + ["a\tb"]),
    "database": (database, QUOTES + COMMAS + LINES + SLASHES + ["a\tb"]),
    "outfile": (outfile, QUOTES + COMMAS + SLASHES + ["first\nsecond", "a\tb"]),
    "spark": (spark, ['a "b" c', '"all of it"', '5" pipe', "one, two", "C:\\new", "AC\\DC"]),
    "plain": (plain, QUOTES + COMMAS + SLASHES),
}


def rows_of(words: list[str], number: int, seed: int) -> list[tuple[str, ...]]:
    rng = random.Random(seed)
    special = lambda: rng.choice(words) if rng.random() < 0.3 else rng.choice(["plain", "two words", ""])  # noqa: E731
    return [(f"id-{index}", special(), special()) for index in range(number)]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_what_a_writer_writes_is_read(name: str, chunk: int) -> None:
    written, words = WRITERS[name]
    rows = rows_of(words, 300, seed=chunk)
    assert read(written(rows), chunk=chunk) == rows


@pytest.mark.parametrize("name", ["minimal", "all quoted", "semicolons", "tabs, quoted"])
@pytest.mark.parametrize("chunk", [1, 512])
@pytest.mark.parametrize("stray", ['{0}{1}"open{1}x', '"{0}{1}y{1}x', '{0}{1}"a" b{1}x', '{0}{1}y{1}x"{1}"'])
def test_a_stray_quote_costs_its_own_line(name: str, chunk: int, stray: str) -> None:
    """Wherever the line stands, the last one too, the others are read as if it were not there."""
    written, words = WRITERS[name]
    rows = rows_of(words, 60, seed=3)
    mark = delimiter_of(written([]))
    end = "\n" if "\r\n" not in written([]) else "\r\n"
    for place in (0, 30, 60):
        head, tail = written(rows[:place]), written(rows[place:]).removeprefix(written([]))
        found = read(head + stray.format("id-stray", mark) + end + tail, chunk=chunk)
        assert [row for row in found if not isinstance(row, BrokenRow) and row[0] != "id-stray"] == rows
        assert len(found) == len(rows) + 1


def test_a_file_that_shows_one_open_quote_is_not_quoted() -> None:
    rows = [("id-1", "one", "x"), ("id-2", '"two', "x"), ("id-3", "more", "x")]
    for mark in ",\t;":
        assert read("".join(mark.join(row) + "\n" for row in [HEADER, *rows])) == rows


@pytest.mark.parametrize(
    ("written", "mark"), [(csv_writer("\t"), "\t"), (plain, "\t"), (csv_writer(), ","), (spark, ",")]
)
def test_the_first_quote_may_come_late(written: Writer, mark: str) -> None:
    rows = [(f"id-{index}", "x" * 90, "") for index in range(4000)]
    rows += [("id-a", '"Weird" one', 'a "b" c'), ("id-b", "last", 'the "end"')]
    assert read(written(rows)) == rows


def test_a_quote_in_the_header_hides_no_row() -> None:
    lines = ['"id,title,text', "id-1,a,b", 'id-2,"c, d",e']
    assert len(read("\n".join(lines))) == 2


def test_without_further_lines_every_physical_line_is_a_row() -> None:
    text = 'a,"b\nc,d\n\ne,"f ""g"""\n"h",i"\n'
    chunks = list(RowReader(iter(text.splitlines(keepends=True)), Spelling(), ("x", "y")).chunks())
    broken = [("a quote is not closed",), ("a quote within a cell",)]
    assert chunks == [([2, 3, 5, 6], [broken[0], ["c", "d"], ["e", 'f "g"'], broken[1]])]
    assert [isinstance(row, BrokenRow) for row in chunks[0][1]] == [True, False, False, True]


@pytest.mark.parametrize("line", ['id-1,"open,x\n', '"open\n', '"a" b\n', 'a,"b\n"c\n', "id-1,a\\\n"])
@pytest.mark.parametrize("escaped", [False, True])
def test_hostile_lines_take_time_in_proportion(line: str, escaped: bool) -> None:
    def seconds(number: int) -> float:
        started = time.process_time()
        lines = [each + "\n" for each in (line * number).splitlines()]
        reader = RowReader(iter(lines), Spelling(is_escaped=escaped), HEADER, is_row)
        num_rows = sum(len(rows) for _, rows in reader.chunks())
        assert num_rows >= number // 2
        return time.process_time() - started

    seconds(100)
    assert seconds(20_000) < 40 * max(seconds(2_000), 0.02)
