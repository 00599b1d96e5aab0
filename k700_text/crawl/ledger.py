"""What was asked and answered, on disk: an append-only SQLite table that survives a killed crawl.

One process writes (a lock file makes sure), through one thread that commits in batches: an answer is either
recorded or will be asked again. Reading (``LedgerReader``) works beside a running crawl.
"""

from __future__ import annotations

import fcntl
import hashlib
import queue
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from k700_text.crawl.limiter import HostState
from k700_text.errors import LedgerError
from k700_text.records import Availability, OutcomeStatus, TitleOutcome

LEDGER_VERSION = 1
APPLICATION_ID = 0x4B373030  # "K700"
BATCH_OUTCOMES = 500
BATCH_SECONDS = 0.2
QUEUE_OUTCOMES = 5000
BUSY_SECONDS = 5.0

_SCHEMA = """
CREATE TABLE outcomes (
    outcome_id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    youtube_id TEXT NOT NULL,
    source TEXT NOT NULL,
    status TEXT NOT NULL,
    availability TEXT NOT NULL,
    title TEXT,
    raw_title TEXT,
    title_language TEXT,
    captured_at TEXT,
    published_at TEXT,
    video_duration_seconds REAL,
    web_has_audio INTEGER,
    http_status INTEGER,
    reason TEXT,
    fetched_at TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    evidence_sha256 TEXT,
    evidence BLOB
);
CREATE INDEX outcomes_by_video ON outcomes (youtube_id, source, status, run);
CREATE TABLE wanted (youtube_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE runs (run INTEGER PRIMARY KEY, started_at TEXT NOT NULL);
CREATE TABLE quota (source TEXT NOT NULL, day TEXT NOT NULL, units INTEGER NOT NULL, PRIMARY KEY (source, day));
CREATE TABLE cooldowns (host TEXT PRIMARY KEY, until TEXT NOT NULL, level INTEGER NOT NULL, rate REAL NOT NULL);
"""
_INSERT = (
    "INSERT INTO outcomes (run, youtube_id, source, status, availability, title, raw_title, title_language,"
    " captured_at, published_at, video_duration_seconds, web_has_audio, http_status, reason, fetched_at, attempt,"
    " evidence_sha256, evidence) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_OUTCOME_COLUMNS = (
    "youtube_id, source, status, availability, title, raw_title, title_language, captured_at, published_at,"
    " video_duration_seconds, web_has_audio, http_status, reason, fetched_at"
)
# A source is through with a video once it answered, or failed on it in this very run; a title ends the search.
_PENDING = """
FROM wanted AS w WHERE w.youtube_id > :after
AND NOT EXISTS (SELECT 1 FROM outcomes AS o WHERE o.youtube_id = w.youtube_id AND o.source = :source
                AND (o.status <> 'transient' OR o.run = :run))
AND NOT EXISTS (SELECT 1 FROM outcomes AS o WHERE o.youtube_id = w.youtube_id AND o.status = 'title')
"""
_ANSWERED_BY = """
AND EXISTS (SELECT 1 FROM outcomes AS o WHERE o.youtube_id = w.youtube_id AND o.source = :{name}
            AND (o.status <> 'transient' OR o.run = :run))
"""


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
        self._lock_file = _lock(path)
        self._closed = False
        try:
            self._reading = _connect(path)
            with _translated(path):
                _prepare(self._reading, path)
                started = _stamp(datetime.now(UTC))
                with self._reading:
                    self.run = self._reading.execute("INSERT INTO runs (started_at) VALUES (?)", (started,)).lastrowid
        except LedgerError:
            self._lock_file.close()
            raise
        self._reading_lock = threading.Lock()
        self._failure: LedgerError | None = None
        self._queue: queue.Queue[tuple[str, tuple[Any, ...]] | threading.Event | None] = queue.Queue(QUEUE_OUTCOMES)
        self._writer = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._writer.start()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Writes what is queued and closes the file."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._writer.join()
        self._reading.close()
        self._lock_file.close()
        if self._failure:
            raise self._failure

    def want(self, youtube_ids: Iterable[str]) -> int:
        """Sets the videos this run is about, in place of the former ones, and returns how many they are."""
        with self._reading_lock, _translated(self.path), self._reading:
            self._reading.execute("DELETE FROM wanted")
            self._reading.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((each,) for each in youtube_ids))
            return int(self._reading.execute("SELECT count(*) FROM wanted").fetchone()[0])

    def record(self, outcome: TitleOutcome, attempt: int = 1) -> None:
        """Queues an outcome; it is on disk at the latest after ``flush``."""
        self._submit(_INSERT, _row_of(outcome, self.run, attempt))

    def flush(self) -> None:
        """Returns when everything queued so far is committed."""
        done = threading.Event()
        self._check()
        self._queue.put(done)
        done.wait()
        self._check()

    def pending(self, source: str, *, after: str = "", limit: int = 1000, answered_by: Sequence[str] = ()) -> list[str]:
        """Returns wanted ids that the source has still to be asked about, in order of id.

        Args:
            source: name of the source.
            after: start behind this id.
            limit: how many at most.
            answered_by: only ids that all of these sources are through with (the cascade).
        """
        tail = f"ORDER BY w.youtube_id LIMIT {limit}"
        rows = self._select("SELECT w.youtube_id", source, after, answered_by, tail, self.run)
        return [row[0] for row in rows]

    def num_pending(self, source: str, *, with_failed: bool = False) -> int:
        """Returns for how many wanted ids no source has a title yet and this one has not answered.

        Args:
            source: name of the source.
            with_failed: count those too that it failed on in this run; the next run asks them again.
        """
        return int(self._select("SELECT count(*)", source, "", (), "", -1 if with_failed else self.run)[0][0])

    def _select(
        self, head: str, source: str, after: str, answered_by: Sequence[str], tail: str, run: int | None
    ) -> list[Any]:
        names = {f"s{index}": name for index, name in enumerate(answered_by)}
        conditions = "".join(_ANSWERED_BY.format(name=name) for name in names)
        values = {"source": source, "after": after, "run": run, **names}
        with self._reading_lock, _translated(self.path):
            return self._reading.execute(f"{head} {_PENDING} {conditions} {tail}", values).fetchall()

    def add_quota(self, source: str, day: str, units: int) -> None:
        """Books quota units spent on a day (of the service's own time zone)."""
        self._submit(
            "INSERT INTO quota VALUES (?, ?, ?) ON CONFLICT (source, day) DO UPDATE SET units = units + excluded.units",
            (source, day, units),
        )

    def quota_used(self, source: str, day: str) -> int:
        """Returns the quota units booked for a day."""
        self.flush()
        with self._reading_lock, _translated(self.path):
            row = self._reading.execute(
                "SELECT units FROM quota WHERE source = ? AND day = ?", (source, day)
            ).fetchone()
        return int(row[0]) if row else 0

    def save_host(self, host: str, state: HostState) -> None:
        """Keeps a host's pause for the next run."""
        self._submit(
            "INSERT OR REPLACE INTO cooldowns VALUES (?, ?, ?, ?)", (host, _stamp(state.until), state.level, state.rate)
        )

    def host(self, host: str) -> HostState | None:
        """Returns a host's pause as an earlier run left it."""
        with self._reading_lock, _translated(self.path):
            row = self._reading.execute("SELECT until, level, rate FROM cooldowns WHERE host = ?", (host,)).fetchone()
        return HostState(until=datetime.fromisoformat(row[0]), level=row[1], rate=row[2]) if row else None

    def wanted_videos(self) -> Iterator[Video]:
        """Yields what is known about each wanted video that has outcomes, in order of id."""
        self.flush()
        yield from _videos(self.path, "WHERE youtube_id IN (SELECT youtube_id FROM wanted)")

    def _submit(self, sql: str, values: tuple[Any, ...]) -> None:
        self._check()
        self._queue.put((sql, values))

    def _check(self) -> None:
        if self._failure:
            raise self._failure

    def _write(self) -> None:
        """Runs in the writer thread: commits batches until told to end; after a failure it only empties the queue."""
        connection = _connect(self.path)
        is_open = True
        while is_open:
            is_open, statements, waiters = self._next_batch()
            if statements and not self._failure:
                try:
                    with _translated(self.path), connection:
                        for sql, values in statements:
                            connection.execute(sql, values)
                except LedgerError as error:
                    self._failure = error
            for waiter in waiters:
                waiter.set()
        connection.close()

    def _next_batch(self) -> tuple[bool, list[tuple[str, tuple[Any, ...]]], list[threading.Event]]:
        statements: list[tuple[str, tuple[Any, ...]]] = []
        waiters: list[threading.Event] = []
        item = self._queue.get()
        deadline = time.monotonic() + BATCH_SECONDS
        while True:
            if item is None:
                return False, statements, waiters
            if isinstance(item, threading.Event):
                # Somebody waits for exactly this: commit at once.
                return True, statements, [item]
            statements.append(item)
            remaining = deadline - time.monotonic()
            if len(statements) >= BATCH_OUTCOMES or remaining <= 0:
                return True, statements, waiters
            try:
                item = self._queue.get(timeout=remaining)
            except queue.Empty:
                return True, statements, waiters


@dataclass(frozen=True, slots=True)
class Video:
    """All final outcomes of one video, by source and then by time (the newest last)."""

    youtube_id: str
    outcomes: tuple[TitleOutcome, ...]


def read_videos(path: Path) -> Iterator[Video]:
    """Yields what a ledger knows about each video, in order of id; a crawl may be running meanwhile.

    Evidence is left out.

    Raises:
        LedgerError: missing, damaged or of another version.
    """
    yield from _videos(path, "")


def _videos(path: Path, where: str) -> Iterator[Video]:
    connection = _connect_read_only(path)
    join = "AND" if where else "WHERE"
    sql = (
        f"SELECT {_OUTCOME_COLUMNS} FROM outcomes {where} {join} status <> 'transient'"
        " ORDER BY youtube_id, source, fetched_at, outcome_id"
    )
    try:
        with _translated(path):
            for youtube_id, rows in groupby(connection.execute(sql), key=lambda row: str(row[0])):
                yield Video(youtube_id, tuple(map(_outcome_of, rows)))
    finally:
        connection.close()


def _row_of(outcome: TitleOutcome, run: int | None, attempt: int) -> tuple[Any, ...]:
    evidence = outcome.evidence
    return (
        run,
        outcome.youtube_id,
        outcome.source,
        outcome.status.value,
        outcome.availability.value,
        outcome.title,
        _storable(outcome.raw_title),
        _storable(outcome.title_language),
        _stamp(outcome.captured_at),
        _stamp(outcome.published_at),
        outcome.video_duration_seconds,
        outcome.web_has_audio,
        outcome.http_status,
        outcome.reason,
        _stamp(outcome.fetched_at),
        attempt,
        hashlib.sha256(evidence).hexdigest() if evidence is not None else None,
        zlib.compress(evidence) if evidence is not None else None,
    )


def _outcome_of(row: Sequence[Any]) -> TitleOutcome:
    return TitleOutcome(
        youtube_id=row[0],
        source=row[1],
        status=OutcomeStatus(row[2]),
        availability=Availability(row[3]),
        title=row[4],
        raw_title=row[5],
        title_language=row[6],
        captured_at=datetime.fromisoformat(row[7]) if row[7] else None,
        published_at=datetime.fromisoformat(row[8]) if row[8] else None,
        video_duration_seconds=row[9],
        web_has_audio=None if row[10] is None else bool(row[10]),
        http_status=row[11],
        reason=row[12],
        fetched_at=datetime.fromisoformat(row[13]),
    )


def _storable(text: str | None) -> str | None:
    """Replaces lone surrogates (legal in JSON, illegal in UTF-8); the evidence keeps them as they came."""
    return text.encode("utf-8", "replace").decode() if text is not None else None


def _stamp(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment is not None else None


def _lock(path: Path) -> Any:
    """Takes the lock that keeps a second writer out; the file itself stays."""
    lock_path = path.with_name(path.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = lock_path.open("a")
    except OSError as error:
        raise LedgerError(f"cannot write beside the ledger {path}: {error.strerror}; choose another --out") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise LedgerError(f"another crawl is using {path}: wait for it to end, or choose another --out") from error
    return handle


def _connect(path: Path) -> sqlite3.Connection:
    with _translated(path):
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # NORMAL: a killed process loses nothing; a power cut loses at most the last commits, never the file.
            connection.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection


def _connect_read_only(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise LedgerError(f"no such ledger: {path} (k700-text crawl makes it)")
    address = path.resolve().as_uri()
    with _translated(path):
        connection = sqlite3.connect(f"{address}?mode=ro", uri=True, timeout=BUSY_SECONDS, check_same_thread=False)
        try:
            version = _versions(connection)
        except sqlite3.OperationalError:
            connection.close()
            if path.with_name(path.name + "-wal").exists():
                raise
            # A folder without write access: SQLite cannot make its index of a log there, and there is no log.
            connection = sqlite3.connect(f"{address}?immutable=1", uri=True, check_same_thread=False)
            version = _versions(connection)
        except sqlite3.DatabaseError:
            connection.close()
            raise
    problem = _version_problem(version, path)
    if problem:
        connection.close()
        raise LedgerError(problem)
    return connection


def _versions(connection: sqlite3.Connection) -> tuple[int, int]:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    return int(application), int(connection.execute("PRAGMA user_version").fetchone()[0])


def _version_problem(versions: tuple[int, int], path: Path) -> str | None:
    application, version = versions
    if application != APPLICATION_ID:
        return f"{path} is an SQLite file, but not a ledger of k700-text: choose another --out"
    if version != LEDGER_VERSION:
        return (
            f"{path} has ledger version {version}, this version reads {LEDGER_VERSION}: use the k700-text that wrote it"
        )
    return None


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if is_empty:
        stamps = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {LEDGER_VERSION};"
        connection.executescript(f"BEGIN; {_SCHEMA} {stamps} COMMIT;")
        return
    problem = _version_problem(_versions(connection), path)
    if problem:
        connection.close()
        raise LedgerError(problem)


_PROBLEMS: Mapping[int, str] = {
    sqlite3.SQLITE_FULL: "the disk is full while writing {path}: free some space and run the same command to continue",
    sqlite3.SQLITE_BUSY: "{path} is locked by another program: close it and run the same command to continue",
    sqlite3.SQLITE_LOCKED: "{path} is locked by another program: close it and run the same command to continue",
    sqlite3.SQLITE_READONLY: "no permission to write {path}: choose another --out",
    sqlite3.SQLITE_CANTOPEN: "cannot open {path}: check that it is a file and that its folder can be used",
    sqlite3.SQLITE_PERM: "no permission to use {path}: choose another --out",
    sqlite3.SQLITE_CORRUPT: "{path} is damaged: move it away and crawl again, or restore a copy",
    sqlite3.SQLITE_NOTADB: "{path} is not a ledger (not an SQLite file): move it away or choose another --out",
    sqlite3.SQLITE_IOERR: "reading or writing {path} fails: check the disk (full or over quota?) and run again",
}


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into one clear line."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        text = _PROBLEMS.get(code, "{path} cannot be used as a ledger (" + str(error).replace("{", "(") + ")")
        raise LedgerError(text.format(path=path)) from error
