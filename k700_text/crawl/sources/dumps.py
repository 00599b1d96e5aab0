"""Local files of ids and titles that the user already has: no requests at all.

Tables of any origin (csv, tsv, JSON lines, a JSON array, Parquet; text files plain or gzipped) are read row by row,
and the titles of wanted videos go to the ledger. A row that is not certain is left out and counted: one that cannot be
read, or has another number of fields than the header (an unquoted comma shifts titles), no id, no title, or the name of
an error page. Absence from a dump says nothing about a video and leaves no trace.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from k700_text.crawl.dump_files import Columns, open_table
from k700_text.crawl.summary import SourceSummary
from k700_text.crawl.watch_pages import youtube_id_of
from k700_text.delimited import Names
from k700_text.errors import UsageError
from k700_text.file_kinds import visible
from k700_text.records import OutcomeStatus, TitleOutcome
from k700_text.terminal import readable
from k700_text.titles import clean_plain_title, is_junk_title

NAME = "dumps"
BATCH_ROWS = 10_000
SAY_SECONDS = 10.0

# Compared without case, spaces, hyphens and underscores. Where several id columns are there, the first that holds an
# id in the row counts: many tables have a running number called "id" beside an address.
ID_COLUMNS = (
    *("youtubeid", "videoid", "id", "vid", "yid", "ytid", "displayid", "url", "webpageurl", "originalurl", "link"),
)
_TITLE_COLUMNS = ("title", "videotitle", "fulltitle", "name")
# Two words for one thing; of the others, "title" is the title beside "name" and yt-dlp's "fulltitle".
_RIVAL_TITLES = frozenset({"title", "videotitle"})
_LANGUAGE_COLUMNS = ("titlelanguage", "language")

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8})*")
# No title has these: a quote that was not closed has swallowed the rows that follow, or the file is damaged.
_DAMAGE = re.compile(r"[\0\r\n\ufffd]")
# How tables spell that there is no title.
_NO_TITLE = frozenset({"", "nan", "none", "null", "n/a", "na", "<na>", "undefined", "\\n"})

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_DIGITS = np.zeros(128, np.uint64)
_DIGITS[[ord(character) for character in _ALPHABET]] = np.arange(64, dtype=np.uint64)


class DumpRow(NamedTuple):
    """One row of a dump.

    Attributes:
        number: counted from 1; a header line is no row.
        youtube_id: the video, None where the row names none.
        title: as the dump spells it, None where there is none.
        language: of the title, as the dump declares it.
        is_damaged: it could not be read, or has another number of cells than the header.
    """

    number: int
    youtube_id: str | None
    title: str | None
    language: str | None = None
    is_damaged: bool = False


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the cells of a row are: the columns that may hold an id, the title, the language."""

    ids: tuple[int, ...]
    title: int
    language: int | None

    def names(self, names: Names) -> list[str]:
        places = {*self.ids, self.title, *(() if self.language is None else (self.language,))}
        return [names[place] for place in sorted(places)]


def read_dump(path: str | Path, columns: tuple[str, str] | None = None) -> Iterator[DumpRow]:
    """Yields every row of a dump, what it lacks as None; memory is bounded.

    Args:
        path: csv, tsv, JSON lines, a JSON array or Parquet; text files plain or gzipped.
        columns: names of the id and the title column; None: the usual ones. A cell of the id column may be an address.

    Raises:
        UsageError: missing, unreadable or damaged, or without such columns.
    """
    path = Path(path)
    find = lru_cache(maxsize=1024)(lambda names: _find(names, columns))

    def keep(names: Names) -> Sequence[str]:
        places = find(names)
        return places.names(names) if places else ()

    def is_row(names: Names, cells: Sequence[str]) -> bool:
        places = find(names)
        return places is not None and any(_youtube_id(cells[place]) for place in places.ids if place < len(cells))

    def keys(names: Names) -> Sequence[int]:
        places = find(names)
        return (*places.ids, places.title) if places else ()

    with open_table(path, Columns(keep, is_row, keys)) as table:
        if table.names is not None:
            _check_columns(path, table.names, find(table.names), columns)
        names: Names | None = None
        places: _Places | None = None
        first_names: Names = ()
        number, is_found = 0, table.names is not None
        for number, (row_names, cells) in enumerate(table.rows, 1):
            if row_names is not names:
                names, places = row_names, find(row_names)
                first_names, is_found = first_names or names, is_found or places is not None
            if cells is None:
                yield DumpRow(number, None, None, is_damaged=True)
            else:
                yield _row(number, cells, places) if places else DumpRow(number, None, None)
        if number and not is_found:
            raise _no_columns(path, first_names, columns)


def _row(number: int, cells: Sequence[Any], places: _Places) -> DumpRow:
    youtube_id = None
    for place in places.ids:
        youtube_id = _youtube_id(cells[place])
        if youtube_id is not None:
            break
    title = cells[places.title]
    language = cells[places.language] if places.language is not None else None
    return DumpRow(
        number,
        youtube_id,
        title if isinstance(title, str) and title.strip() else None,
        language if isinstance(language, str) and _LANGUAGE.fullmatch(language) else None,
    )


def _youtube_id(cell: Any) -> str | None:
    """Returns the id that a cell holds, as such or in an address; what is no text is no id."""
    return youtube_id_of(cell) if isinstance(cell, str) else None


def _find(names: Names, columns: tuple[str, str] | None) -> _Places | None:
    spellings = list(map(spelling, names))
    if columns is not None:
        given = [_place_of(column, names, spellings) for column in columns]
        ids, titles = ([place] if place is not None else [] for place in given)
    else:
        ids = [spellings.index(name) for name in ID_COLUMNS if name in spellings]
        titles = [spellings.index(name) for name in _TITLE_COLUMNS if name in spellings]
    languages = [spellings.index(name) for name in _LANGUAGE_COLUMNS if name in spellings]
    return _Places(tuple(ids), titles[0], languages[0] if languages else None) if ids and titles else None


def spelling(name: str) -> str:
    """Returns the name of a column as names are compared: without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]", "", visible(name)).lower()


def _place_of(column: str, names: Names, spellings: Sequence[str]) -> int | None:
    if column in names:
        return names.index(column)
    plain = spelling(column)
    return spellings.index(plain) if plain in spellings else None


def _check_columns(path: Path, names: Names, places: _Places | None, columns: tuple[str, str] | None) -> None:
    if places is None:
        raise _no_columns(path, names, columns)
    # Which of two columns holds the titles is not for us to guess; a name given letter by letter means one.
    spelled = list(names) if columns else list(map(spelling, names))
    doubled = [name for name in places.names(names) if spelled.count(name if columns else spelling(name)) > 1]
    if doubled:
        raise UsageError(f"{path} has column {readable(doubled[0])} twice: remove or rename one of them")
    rivals = [] if columns else [name for name in names if spelling(name) in _RIVAL_TITLES]
    if len(rivals) > 1:
        shown = readable(" and ".join(rivals))
        raise UsageError(f"{path} has columns {shown}: name the one of titles with --dump-columns ID,TITLE")


def _no_columns(path: Path, names: Names, columns: tuple[str, str] | None) -> UsageError:
    wanted = " and ".join(columns) if columns else "of ids and of titles"
    found = readable(", ".join(names) or "none")
    return UsageError(f"{path} has no columns {wanted} (found: {found}): name them with --dump-columns ID,TITLE")


class TitleStore(Protocol):
    """What importing needs of the ledger."""

    def wanted_ids(self) -> Iterator[str]:
        """Yields the videos of the crawl."""

    def ids_with_title(self, source: str) -> Iterator[str]:
        """Yields the videos of which a source has given a title."""

    def record(self, outcome: TitleOutcome) -> None:
        """Takes an outcome."""

    def flush(self) -> None:
        """Returns when everything recorded is on disk."""


def import_dumps(
    ledger: TitleStore,
    paths: Sequence[str | Path],
    *,
    columns: tuple[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> SourceSummary:
    """Records the titles of wanted videos that have none from a dump yet; the first file and the first row win.

    Memory does not grow with the dumps, and takes nine bytes per wanted video.

    Args:
        ledger: takes the titles.
        paths: the dumps.
        columns: names of the id and the title column; None: the usual ones.
        say: told how far it is.

    Raises:
        LedgerError: the ledger cannot be used.
        UsageError: a dump cannot be read; the titles read before it are kept.
    """
    started = time.monotonic()
    open_ids = _OpenIds(ledger.wanted_ids(), ledger.ids_with_title(NAME))
    counts: Counter[str] = Counter()
    for path in map(Path, paths):
        _import_file(ledger, open_ids, path, columns, counts, say)
    ledger.flush()
    return SourceSummary(
        source=NAME,
        num_answered=counts["titles"],
        num_titles=counts["titles"],
        num_transient=0,
        num_requests=0,
        num_left=0,
        reasons={reason: count for reason, count in sorted(counts.items()) if reason not in ("rows", "titles")},
        stopped=None,
        resume_at=None,
        elapsed_seconds=time.monotonic() - started,
    )


def _import_file(
    ledger: TitleStore,
    open_ids: _OpenIds,
    path: Path,
    columns: tuple[str, str] | None,
    total: Counter[str],
    say: Callable[[str], None],
) -> None:
    counts: Counter[str] = Counter()
    rows = read_dump(path, columns)
    said = time.monotonic()
    while batch := list(islice(rows, BATCH_ROWS)):
        counts["rows"] += len(batch)
        counts["damaged_row"] += sum(row.is_damaged for row in batch)
        counts["no_id"] += sum(row.youtube_id is None and not row.is_damaged for row in batch)
        found: dict[str, TitleOutcome] = {}
        for youtube_id, row in open_ids.those_in(batch):
            if youtube_id not in found:
                outcome = parse_evidence(youtube_id, _evidence(path, row), None, datetime.now(UTC))
                if outcome.title is None:
                    counts[outcome.reason or "no_title"] += 1
                else:
                    found[youtube_id] = outcome
        for outcome in found.values():
            ledger.record(outcome)
        open_ids.close(list(found))
        counts["titles"] += len(found)
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            say(_progress(path, counts))
    say(_progress(path, counts))
    total.update({name: count for name, count in counts.items() if count})


def _progress(path: Path, counts: Mapping[str, int]) -> str:
    rows = f"dumps: {path.name}: {counts['rows']:,} rows, {counts['titles']:,} titles of wanted videos"
    lost = [(counts["no_id"], "rows without an id"), (counts["damaged_row"], "damaged rows")]
    told = ", ".join(f"{count:,} {what}" for count, what in lost if count)
    return f"{rows} ({told})" if told else rows


def _evidence(path: Path, row: DumpRow) -> bytes:
    values = {"file": path.name, "row": row.number, "id": row.youtube_id, "title": row.title}
    if row.language is not None:
        values["language"] = row.language
    return json.dumps(values, separators=(",", ":")).encode()


def parse_evidence(youtube_id: str, evidence: bytes, http_status: int | None, fetched_at: datetime) -> TitleOutcome:
    """Returns the outcome of a kept row; without a title where today's rules see none in it.

    Args:
        youtube_id: the video.
        evidence: JSON of file, row, id, title and perhaps language.
        http_status: None: nobody was asked.
        fetched_at: when the row was read (UTC).
    """
    values = json.loads(evidence)
    raw_title = values.get("title")
    title, reason = _judged(raw_title if isinstance(raw_title, str) else "", youtube_id)
    return TitleOutcome(
        youtube_id=youtube_id,
        source=NAME,
        status=OutcomeStatus.TITLE if title else OutcomeStatus.NO_TITLE,
        title=title,
        raw_title=raw_title,
        title_language=values.get("language") if title else None,
        http_status=http_status,
        reason=reason,
        fetched_at=fetched_at,
        evidence=evidence,
    )


def _judged(raw_title: str, youtube_id: str) -> tuple[str | None, str | None]:
    """Returns the cleaned title, or why there is none."""
    title = clean_plain_title(raw_title)
    if title is None or title.casefold() in _NO_TITLE:
        return None, "no_title"
    if _DAMAGE.search(raw_title.strip()):
        return None, "damaged_title"
    if is_junk_title(title, youtube_id):
        return None, "junk_title"
    return title, None


class _OpenIds:
    """The videos that still want a title, as sorted numbers: an id is 64 bits in URL-safe base64."""

    def __init__(self, wanted: Iterable[str], done: Iterable[str]) -> None:
        chunks: list[NDArray[np.uint64]] = []
        self._impossible: set[str] = set()
        for ids in _chunks(wanted):
            numbers, is_possible = _numbers(ids)
            chunks.append(numbers[is_possible])
            self._impossible.update(each for each, is_good in zip(ids, is_possible, strict=True) if not is_good)
        self._numbers = np.sort(np.concatenate(chunks)) if chunks else np.zeros(0, np.uint64)
        self._is_open = np.ones(len(self._numbers), np.bool_)
        for ids in _chunks(done):
            self.close(ids)

    def close(self, ids: Sequence[str]) -> None:
        """Marks videos as done."""
        if ids:
            numbers, is_possible = _numbers(ids)
            is_open, places = self._find(numbers)
            self._is_open[places[is_open & is_possible]] = False
            self._impossible.difference_update(ids)

    def those_in(self, rows: Iterable[DumpRow]) -> list[tuple[str, DumpRow]]:
        """Returns the rows about open videos, in their order, with the id."""
        named = [(row.youtube_id, row) for row in rows if row.youtube_id is not None]
        if not named:
            return []
        numbers, is_possible = _numbers([youtube_id for youtube_id, _ in named])
        is_wanted = is_possible & self._find(numbers)[0]
        for index in np.flatnonzero(~is_possible):
            is_wanted[index] = named[index][0] in self._impossible
        return [named[index] for index in np.flatnonzero(is_wanted)]

    def _find(self, numbers: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        if not len(self._numbers):
            return np.zeros(len(numbers), np.bool_), np.zeros(len(numbers), np.int64)
        places = np.minimum(np.searchsorted(self._numbers, numbers), len(self._numbers) - 1)
        return (self._numbers[places] == numbers) & self._is_open[places], places


def _numbers(ids: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Returns the numbers that ids spell, and whether they are possible: the last character carries four bits only."""
    digits = _DIGITS[np.array(ids, "S11").view(np.uint8).reshape(-1, 11)]
    numbers = np.zeros(len(ids), np.uint64)
    for place in range(10):
        numbers = (numbers << np.uint64(6)) | digits[:, place]
    return (numbers << np.uint64(4)) | (digits[:, 10] >> np.uint64(2)), (digits[:, 10] & np.uint64(3)) == 0


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(ids)
    while chunk := list(islice(iterator, BATCH_ROWS)):
        yield chunk
