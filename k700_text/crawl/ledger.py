"""What was asked and answered, on disk: an append-only SQLite table that survives a killed crawl.

One process writes (a lock file makes sure), through one thread that commits in batches: an answer is either
recorded or will be asked again. Reading (``read_videos``) works beside a running crawl. Answers are never altered;
what they were taken to mean may be written anew (``reparse``), and answers about videos on the removal list, or kept
longer than a service allows, are deleted.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from k700_text.crawl.ledger_checks import (
    MAX_EVIDENCE_BYTES,
    PUBLISHED_COLUMNS,
    Damage,
    fault_of,
    fault_of_values,
    unpacked,
)
from k700_text.crawl.ledger_store import (
    DERIVED_COLUMNS,
    INSERT_OUTCOME,
    MEND,
    OUTCOME_COLUMNS,
    Connection,
    checksum_of_row,
    checksum_sql,
    connect,
    connect_read_only,
    damage_told,
    derived_of,
    outcome_of,
    prepare,
    published_of,
    readable_text,
    row_of,
    stamp,
    translated,
)
from k700_text.crawl.ledger_writer import LedgerWriter
from k700_text.crawl.limiter import HostState
from k700_text.crawl.pending import PendingQuery
from k700_text.errors import LedgerError, LockedError
from k700_text.files.lock import FileLock
from k700_text.records import TitleOutcome

REPARSE_PAGE = 10  # an answer has 32 MB at most

Parse = Callable[[str, str, bytes, int | None, datetime], TitleOutcome | None]


class Ledger:
    """The crawl's writer; opening it creates the file where there is none.

    Args:
        path: the SQLite file.

    Raises:
        LedgerError: in use by another process, damaged, of another version, or not writable. Every method raises it
            too once writing has failed (a full disk, say).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_file = lock_ledger(path)
        self._closed = False
        try:
            self._connection = connect(path)
            with translated(path), damage_told(path):
                prepare(self._connection, path)
                started = stamp(datetime.now(UTC))
                with self._connection:
                    cursor = self._connection.execute("INSERT INTO runs (started_at) VALUES (?)", (started,))
                    self.run = int(cursor.lastrowid or 0)
            self._writer = LedgerWriter(path, connect(path, is_for_many_rows=True))
        except LedgerError:
            self._lock_file.release()
            raise
        self._lock = threading.Lock()
        self._readers: list[Connection] = []

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Writes what is queued and closes the file."""
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        for connection in (*self._readers, self._connection):
            connection.close()
        self._lock_file.release()
        self._writer.check()

    def want(self, youtube_ids: Iterable[str]) -> int:
        """Sets the videos this run is about, in place of the former ones, and returns how many they are.

        Videos on the removal list are left out.
        """
        with self.transaction() as connection:
            connection.execute("DELETE FROM wanted")
            connection.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((each,) for each in youtube_ids))
            connection.execute("DELETE FROM wanted WHERE youtube_id IN (SELECT youtube_id FROM removed)")
            return int(connection.execute("SELECT count(*) FROM wanted").fetchone()[0])

    def wanted_ids(self) -> Iterator[str]:
        """Yields the wanted ids in order."""
        yield from self._ids("SELECT youtube_id FROM wanted ORDER BY youtube_id", ())

    def ids_with_title(self, source: str) -> Iterator[str]:
        """Yields the ids of which a source has given a title, in order."""
        sql = "SELECT DISTINCT youtube_id FROM outcomes WHERE source = ? AND status = 'title' ORDER BY youtube_id"
        yield from self._ids(sql, (source,))

    def record(self, outcome: TitleOutcome, attempt: int = 1) -> None:
        """Queues an outcome; it is on disk at the latest after ``flush``."""
        # The row is made here: compressing gives the interpreter away, and the one writing thread must not wait for it.
        self._writer.add((INSERT_OUTCOME, (*row_of(outcome), self.run, attempt)))

    def flush(self) -> None:
        """Returns when everything queued so far is committed."""
        self._writer.flush()

    def pending(self, query: PendingQuery, *, after: str = "", limit: int = 1000) -> list[str]:
        """Returns wanted ids that a source has still to be asked about, in order of id.

        Args:
            query: the source, and what counts as answered.
            after: start behind this id.
            limit: how many at most.
        """
        sql, values = query.sql("w.youtube_id", self.run, after)
        return [row[0] for row in self._read(f"{sql} ORDER BY w.youtube_id LIMIT {limit}", values)]

    def num_pending(self, query: PendingQuery, *, with_failed: bool = False) -> int:
        """Returns for how many wanted ids a source has still to be asked.

        Args:
            query: the source, and what counts as answered.
            with_failed: count those too that it failed on in this run; the next run asks them again.
        """
        sql, values = query.sql("count(*)", None if with_failed else self.run, "")
        return int(self._read(sql, values)[0][0])

    def add_quota(self, source: str, day: str, units: int) -> None:
        """Books quota units spent on a day (of the service's own time zone)."""
        self._writer.add(
            (
                "INSERT INTO quota VALUES (?, ?, (SELECT value FROM settings WHERE name = 'ledger'), ?)"
                " ON CONFLICT DO UPDATE SET units = units + excluded.units",
                (source, day, units),
            )
        )

    def quota_used(self, source: str, day: str) -> int:
        """Returns the quota units booked for a day, those of merged ledgers included."""
        self.flush()
        rows = self._read("SELECT sum(units) FROM quota WHERE source = ? AND day = ?", (source, day))
        with damage_told(self.path):
            return int(rows[0][0] or 0)

    def save_host(self, host: str, state: HostState) -> None:
        """Keeps a host's pause for the next run."""
        values = (host, stamp(state.until), state.level, json.dumps(dict(state.rates)))
        self._writer.add(("INSERT OR REPLACE INTO hosts VALUES (?, ?, ?, ?)", values))

    def host(self, host: str) -> HostState | None:
        """Returns a host's pause as an earlier run left it."""
        for until, level, rates in self._read("SELECT until, level, rates FROM hosts WHERE host = ?", (host,)):
            with damage_told(self.path):
                return HostState(until=datetime.fromisoformat(until), level=int(level), rates=dict(json.loads(rates)))
        return None

    def last_start(self) -> datetime | None:
        """Returns when the run before this one began, by the clock of then."""
        rows = self._read("SELECT started_at FROM runs WHERE run < ? ORDER BY run DESC LIMIT 1", (self.run,))
        return datetime.fromisoformat(rows[0][0]) if rows else None

    def setting(self, name: str) -> str | None:
        """Returns a remembered value."""
        rows = self._read("SELECT value FROM settings WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else None

    def remember(self, name: str, value: str | None) -> None:
        """Remembers a value over restarts; None forgets it."""
        with self.transaction() as connection:
            if value is None:
                connection.execute("DELETE FROM settings WHERE name = ?", (name,))
            else:
                connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    def remove(self, youtube_ids: Iterable[str]) -> int:
        """Puts videos on the removal list for good, deletes all answers about them; returns how many are new on it.

        They are never asked about again, and no output derived from this ledger knows anything of them.
        """
        self.flush()
        now = stamp(datetime.now(UTC))
        with self.transaction() as connection:
            before = connection.total_changes
            rows = ((each, now) for each in youtube_ids)
            connection.executemany("INSERT OR IGNORE INTO removed VALUES (?, ?)", rows)
            num_new = connection.total_changes - before
            purge_removed(connection)
            return num_new

    def num_answers_before(self, source: str, moment: datetime) -> int:
        """Returns of how many videos a source's newest answer is older than a moment."""
        sql = (
            "SELECT count(*) FROM (SELECT max(fetched_at) AS newest FROM outcomes WHERE source = ?"
            " AND status <> 'transient' GROUP BY youtube_id) WHERE newest < ?"
        )
        return int(self._read(sql, (source, stamp(moment)))[0][0])

    def forget_before(self, source: str, moment: datetime) -> int:
        """Deletes a source's answers older than a moment and returns how many they were."""
        self.flush()
        with self.transaction() as connection:
            connection.execute("PRAGMA secure_delete = ON")
            cursor = connection.execute(
                "DELETE FROM outcomes WHERE source = ? AND fetched_at < ?", (source, stamp(moment))
            )
            return cursor.rowcount

    def reparse(self, parse: Parse) -> ReparseSummary:
        """Writes anew what the kept answers mean, by today's rules; the answers themselves stay as they are.

        A damaged row is mended where its evidence gives what its checksum was made of; else it is deleted, so that the
        next crawl asks again. A row without a checksum (of an older ledger) gets one.

        Args:
            parse: gives the outcome for (source, youtube_id, evidence, http_status, fetched_at), None where it cannot.
        """
        self.flush()
        counts = ReparseSummary()
        with self.transaction() as connection:
            connection.execute("REINDEX outcomes_by_video")  # It may be what is damaged, and holds nothing of its own.
        names = ", ".join(f"{name} = ?" for name in (*DERIVED_COLUMNS, "checksum"))
        update = f"UPDATE outcomes SET {names} WHERE outcome_id = ?"
        for rows in self._pages_to_reparse():
            changes: list[tuple[Any, ...]] = []
            dropped: list[tuple[int]] = []
            for row in rows:
                found = _reparsed(_Row(*row), parse, counts)
                if found is _DROPPED:
                    dropped.append((row[0],))
                elif found is not None:
                    changes.append(found)
            with self.transaction() as connection:
                connection.executemany(update, changes)
                connection.executemany("DELETE FROM outcomes WHERE outcome_id = ?", dropped)
        return counts

    def _pages_to_reparse(self) -> Iterator[list[Any]]:
        """Yields all rows in the order of ``_Row``; what is no UTF-8 in them is marked, not refused."""
        sql = (
            f"SELECT outcome_id, http_status, raw_title, reason, evidence_sha256, evidence IS NOT NULL,"
            f" CASE WHEN length(evidence) <= {MAX_EVIDENCE_BYTES} THEN evidence END,"
            f" {', '.join(PUBLISHED_COLUMNS)}, checksum FROM outcomes WHERE outcome_id > ? ORDER BY 1 LIMIT ?"
        )
        connection = connect_read_only(self.path)
        connection.text_factory = readable_text
        try:
            after = -(2**63)
            with translated(self.path):
                while rows := connection.execute(sql, (after, REPARSE_PAGE)).fetchall():
                    after = rows[-1][0]
                    yield rows
        finally:
            connection.close()

    def wanted_videos(self) -> Iterator[Video]:
        """Yields what is known about each wanted video that has outcomes, in order of id."""
        self.flush()
        yield from _videos(self.path, "youtube_id IN (SELECT youtube_id FROM wanted)", ())

    def _read(self, sql: str, values: Any) -> list[Any]:
        """Reads on a connection of its own: a long count keeps nobody else waiting."""
        with self._lock:
            connection = self._readers.pop() if self._readers else None
        with translated(self.path):
            connection = connection or connect(self.path)
            try:
                return connection.execute(sql, values).fetchall()
            finally:
                with self._lock:
                    self._readers.append(connection)

    def _ids(self, sql: str, values: tuple[str, ...]) -> Iterator[str]:
        self.flush()
        connection = connect_read_only(self.path)
        try:
            with translated(self.path):
                for (youtube_id,) in connection.execute(sql, values):
                    yield youtube_id
        finally:
            connection.close()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Gives the connection for statements that are committed together at the end."""
        with self._lock, translated(self.path), self._connection:
            yield self._connection


@dataclass(slots=True)
class ReparseSummary:
    """What reading the kept answers again changed.

    Attributes:
        num_answers: answers read again.
        num_changed: outcomes that differ now.
        num_titles_gained: answers that have a title now and had none.
        num_titles_lost: answers whose title is none by today's rules.
        num_unreadable: answers that today's rules cannot read; they keep their old meaning.
        num_mended: damaged rows that their evidence gave back as they were.
        dropped: damaged rows that it did not; they were deleted.
        evidence_damaged: sound rows whose evidence is damaged; they keep their meaning.
    """

    num_answers: int = 0
    num_changed: int = 0
    num_titles_gained: int = 0
    num_titles_lost: int = 0
    num_unreadable: int = 0
    num_mended: int = 0
    dropped: Damage = field(default_factory=Damage)
    evidence_damaged: Damage = field(default_factory=Damage)


_DROPPED = ("dropped",)


class _Row:
    """A row that is read again: ``published`` as of PUBLISHED_COLUMNS, with the checksum behind them."""

    def __init__(self, outcome_id: int, *values: Any) -> None:
        self.outcome_id = outcome_id
        self.http_status, self.raw_title, self.reason, self.sha256, self.has_evidence, self.evidence = values[:6]
        self.published = values[6:]
        self.named = dict(zip(PUBLISHED_COLUMNS, self.published[:-1], strict=True))
        self.checksum = self.published[-1]

    @property
    def derived(self) -> tuple[Any, ...]:
        """The values of DERIVED_COLUMNS."""
        values = {**self.named, "raw_title": self.raw_title, "reason": self.reason}
        return tuple(values[name] for name in DERIVED_COLUMNS)

    def checksum_with(self, derived: Sequence[Any]) -> int:
        """Returns the checksum that the row has with other values of DERIVED_COLUMNS."""
        identity = (self.named["youtube_id"], self.named["source"], self.http_status, self.named["fetched_at"])
        return checksum_of_row((*identity, *derived))


def _reparsed(row: _Row, parse: Parse, counts: ReparseSummary) -> tuple[Any, ...] | None:
    """Returns the values of the update, _DROPPED for a row that cannot be mended, None where nothing changes."""
    fault = fault_of(row.published)
    evidence = unpacked(row.evidence, row.sha256) if row.has_evidence else None
    if row.has_evidence and evidence is None and fault is None:
        counts.evidence_damaged.add(row.published, "its evidence does not fit its hash")
    outcome = _parsed(row, evidence, parse)
    counts.num_answers += evidence is not None
    if fault is not None:
        return _mended(row, outcome, fault, counts)
    if outcome is None:
        counts.num_unreadable += evidence is not None
        return None if row.checksum is not None else (*row.derived, row.checksum_with(row.derived), row.outcome_id)
    old, new = row.derived, derived_of(outcome)
    title = DERIVED_COLUMNS.index("title")
    counts.num_titles_gained += old[title] is None and new[title] is not None
    counts.num_titles_lost += old[title] is not None and new[title] is None
    counts.num_changed += old != new
    is_same = old == new and row.checksum is not None
    return None if is_same else (*new, row.checksum_with(new), row.outcome_id)


def _parsed(row: _Row, evidence: bytes | None, parse: Parse) -> TitleOutcome | None:
    if evidence is None or not isinstance(row.http_status, int | None):
        return None
    try:
        fetched_at = datetime.fromisoformat(row.named["fetched_at"])
        return parse(row.named["source"], row.named["youtube_id"], evidence, row.http_status, fetched_at)
    except (ValueError, TypeError):
        return None  # The row's own time, damaged; the parsers raise none of these.


def _mended(row: _Row, outcome: TitleOutcome | None, fault: str, counts: ReparseSummary) -> tuple[Any, ...]:
    """Returns a damaged row as its evidence tells it; what it cannot vouch for is dropped."""
    if outcome is not None:
        new = derived_of(outcome)
        checksum = row.checksum_with(new)
        named = {**row.named, **dict(zip(DERIVED_COLUMNS, new, strict=True))}
        is_sound = fault_of_values([named[name] for name in PUBLISHED_COLUMNS]) is None
        if row.checksum in (checksum, None) and is_sound:
            counts.num_mended += 1
            return (*new, checksum, row.outcome_id)
    counts.dropped.add(row.published, fault)
    return _DROPPED


@dataclass(frozen=True, slots=True)
class Video:
    """All final outcomes of one video, by source and then by time (the newest last)."""

    youtube_id: str
    outcomes: tuple[TitleOutcome, ...]


def read_videos(path: Path, *, leave_out: tuple[str, datetime] | None = None) -> Iterator[Video]:
    """Yields what a ledger knows about each video, in order of id; a crawl may be running meanwhile.

    Evidence is left out.

    Args:
        path: the ledger.
        leave_out: a source, and the time before which its answers are left out.

    Raises:
        LedgerError: missing, damaged or of another version. Damaged answers are told, all together, at the end.
    """
    if leave_out is None:
        yield from _videos(path, "true", ())
    else:
        source, since = leave_out
        yield from _videos(path, "NOT (source = ? AND fetched_at < ?)", (source, stamp(since)))


def _videos(path: Path, condition: str, values: tuple[str | None, ...]) -> Iterator[Video]:
    connection = connect_read_only(path)
    damage = Damage()
    try:
        with translated(path):
            sql = (
                f"SELECT {', '.join(OUTCOME_COLUMNS)}, {checksum_sql(connection)} FROM outcomes"
                f" WHERE {condition} AND status <> 'transient' ORDER BY youtube_id, source, fetched_at, outcome_id"
            )
            rows = _sound(connection.execute(sql, values), damage)
            for youtube_id, of_video in groupby(rows, key=lambda row: str(row[0])):
                with damage_told(path):
                    video = Video(youtube_id, tuple(map(outcome_of, of_video)))
                yield video
    finally:
        connection.close()
    if damage.num_rows:
        raise LedgerError(f"{path}: {damage}: {MEND}")


def _sound(rows: Iterable[Sequence[Any]], damage: Damage) -> Iterator[Sequence[Any]]:
    """Yields the rows (OUTCOME_COLUMNS, then the checksum) that are as they were written; the others are damage."""
    for row in rows:
        fault = fault_of((*published_of(row), row[-1]))
        if fault is None:
            yield row
        else:
            damage.add(row, fault)


def purge_removed(connection: Connection) -> None:
    """Deletes, beyond recovery, what a ledger holds about videos on its removal list."""
    connection.execute("PRAGMA secure_delete = ON")
    for table in ("outcomes", "wanted"):
        connection.execute(f"DELETE FROM {table} WHERE youtube_id IN (SELECT youtube_id FROM removed)")


def lock_ledger(path: Path) -> FileLock:
    """Takes the lock that keeps a second writer out; the file itself stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    claim, remedy = f"another crawl is using {path}", "wait for it to end, or choose another --out"
    try:
        return FileLock(path.with_name(path.name + ".lock"), claim, remedy)
    except LockedError as error:
        raise LedgerError(str(error)) from error
    except OSError as error:
        where = error.filename or path.parent
        raise LedgerError(f"cannot write beside the ledger: {error.strerror}: {where}; choose another --out") from error
