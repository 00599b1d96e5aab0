"""The ledger's file: its tables, its rows, opening it, and SQLite's errors as one clear line each."""

from __future__ import annotations

import hashlib
import sqlite3
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

from k700_text.confidential import hide, is_echoed
from k700_text.crawl.ledger_checks import PUBLISHED_COLUMNS, checksum_of_written
from k700_text.errors import LedgerError
from k700_text.our_files import LEDGER_APPLICATION_ID, kind_of_ours
from k700_text.records import Availability, OutcomeStatus, TitleOutcome

LEDGER_VERSION = 3
BUSY_SECONDS = 5.0
_CACHE_KILOBYTES = 16 << 10
_CHECKPOINT_PAGES = 4000
_PIECE_BYTES = 1 << 20
# Beside this size deflate's tables cost more than they save: 12 instead of 77 microseconds for an oEmbed answer.
_SMALL_EVIDENCE_BYTES = 1 << 14

Connection = sqlite3.Connection
Cursor = sqlite3.Cursor

_INDEX = "CREATE INDEX outcomes_by_video ON outcomes (youtube_id, source, status, fetched_at, run, availability);"
_TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE removed (youtube_id TEXT PRIMARY KEY, listed_at TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE quota (source TEXT NOT NULL, day TEXT NOT NULL, ledger TEXT NOT NULL, units INTEGER NOT NULL,
                    PRIMARY KEY (source, day, ledger)) WITHOUT ROWID;
CREATE TABLE hosts (host TEXT PRIMARY KEY, until TEXT NOT NULL, level INTEGER NOT NULL, rates TEXT NOT NULL);
"""
_SCHEMA = f"""
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
    checksum INTEGER,
    evidence_sha256 TEXT,
    evidence BLOB
);
{_INDEX}
CREATE TABLE wanted (youtube_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE runs (run INTEGER PRIMARY KEY, started_at TEXT NOT NULL);
{_TABLES}
"""
# Version 1 knew one ledger per crawl and one pace per host.
_UPGRADE_FROM_1 = f"""
DROP INDEX outcomes_by_video; {_INDEX}
ALTER TABLE quota RENAME TO quota_1;
{_TABLES}
INSERT INTO hosts SELECT host, until, level, '{{}}' FROM cooldowns;
DROP TABLE cooldowns;
INSERT INTO quota SELECT source, day, 'upgraded', units FROM quota_1;
DROP TABLE quota_1;
"""

# Version 2 had no checksums; its rows stay without (``manifest --reparse`` gives them one).
_UPGRADE_FROM_2 = "ALTER TABLE outcomes ADD COLUMN checksum INTEGER;"

# What an answer was taken to mean: the part of a row that a better rule may write anew.
DERIVED_COLUMNS = (
    *("status", "availability", "title", "raw_title", "title_language", "captured_at", "published_at"),
    *("video_duration_seconds", "web_has_audio", "reason"),
)
OUTCOME_COLUMNS = ("youtube_id", "source", "http_status", "fetched_at", *DERIVED_COLUMNS)
_OUTCOME_VALUES = f"({', '.join('?' * (len(OUTCOME_COLUMNS) + 5))})"
INSERT_OUTCOME = (
    f"INSERT INTO outcomes ({', '.join(OUTCOME_COLUMNS)}, checksum, evidence_sha256, evidence, run, attempt)"
    f" VALUES {_OUTCOME_VALUES}"
)
# SQLite gives the interpreter away at every statement, and among busy threads it takes long to get it back.
_ROWS_PER_STATEMENT = (64, 8, 1)


def insert_outcomes(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Inserts rows of ``INSERT_OUTCOME`` in as few statements as may be."""
    start = 0
    for size in _ROWS_PER_STATEMENT:
        statement = INSERT_OUTCOME + f", {_OUTCOME_VALUES}" * (size - 1)
        while len(rows) - start >= size:
            connection.execute(statement, list(chain.from_iterable(rows[start : start + size])))
            start += size


def row_of(outcome: TitleOutcome) -> tuple[Any, ...]:
    """Returns the values of OUTCOME_COLUMNS, then the checksum, the hash and the compressed evidence.

    The one way of what a server said into a ledger: what is confidential ends here.
    """
    if is_echoed():
        outcome = _without_secrets(outcome)
    evidence = outcome.evidence
    values = (
        outcome.youtube_id,
        outcome.source,
        outcome.http_status,
        stamp(outcome.fetched_at),
        *derived_of(outcome),
    )
    return (
        *values,
        checksum_of_row(values),
        hashlib.sha256(evidence).hexdigest() if evidence is not None else None,
        _compress(evidence) if evidence is not None else None,
    )


def _without_secrets(outcome: TitleOutcome) -> TitleOutcome:
    names = ("title", "raw_title", "reason", "title_language")
    found: dict[str, str] = {name: text for name in names if (text := getattr(outcome, name)) is not None}
    hidden: dict[str, Any] = {
        name: hide(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")
        for name, text in found.items()
    }
    return replace(outcome, evidence=None if outcome.evidence is None else hide(outcome.evidence), **hidden)


published_of = itemgetter(*map(OUTCOME_COLUMNS.index, PUBLISHED_COLUMNS))
"""Returns the values of PUBLISHED_COLUMNS, of those of OUTCOME_COLUMNS."""


def checksum_of_row(values: Sequence[Any]) -> int:
    """Returns the checksum of the values of OUTCOME_COLUMNS."""
    return checksum_of_written(published_of(values))


def published_sql(connection: Connection) -> str:
    """Returns PUBLISHED_COLUMNS and the checksum, as a SELECT of this ledger's version names them."""
    return f"{', '.join(PUBLISHED_COLUMNS)}, {checksum_sql(connection)}"


def checksum_sql(connection: Connection) -> str:
    """Returns the checksum, as a SELECT of this ledger's version names it."""
    return "checksum" if version_of(connection) >= 3 else "NULL AS checksum"


def derived_of(outcome: TitleOutcome) -> tuple[Any, ...]:
    """Returns the values of DERIVED_COLUMNS."""
    return (
        outcome.status.value,
        outcome.availability.value,
        outcome.title,
        _storable(outcome.raw_title),
        _storable(outcome.title_language),
        stamp(outcome.captured_at),
        stamp(outcome.published_at),
        outcome.video_duration_seconds,
        outcome.web_has_audio,
        outcome.reason,
    )


def outcome_of(row: Sequence[Any]) -> TitleOutcome:
    """Returns the outcome of a row of OUTCOME_COLUMNS, without its evidence."""
    return TitleOutcome(
        youtube_id=row[0],
        source=row[1],
        http_status=row[2],
        fetched_at=datetime.fromisoformat(row[3]),
        status=OutcomeStatus(row[4]),
        availability=Availability(row[5]),
        title=row[6],
        raw_title=row[7],
        title_language=row[8],
        captured_at=datetime.fromisoformat(row[9]) if row[9] else None,
        published_at=datetime.fromisoformat(row[10]) if row[10] else None,
        video_duration_seconds=row[11],
        web_has_audio=None if row[12] is None else bool(row[12]),
        reason=row[13],
    )


def _compress(evidence: bytes) -> bytes:
    if len(evidence) > _SMALL_EVIDENCE_BYTES:
        return zlib.compress(evidence)
    deflate = zlib.compressobj(wbits=12, memLevel=5)
    return deflate.compress(evidence) + deflate.flush()


def _storable(text: str | None) -> str | None:
    """Replaces lone surrogates (legal in JSON, illegal in UTF-8); the evidence keeps them as they came."""
    return text.encode("utf-8", "replace").decode() if text is not None else None


def readable_text(text: bytes) -> str:
    """Reads text of a ledger that may be damaged; what is no UTF-8 is marked."""
    return text.decode("utf-8", "replace")


def stamp(moment: datetime | None) -> str | None:
    """Returns a moment as the ledger spells it: ISO 8601, UTC."""
    if moment is None:
        return None
    return (moment if moment.tzinfo is UTC else moment.astimezone(UTC)).isoformat()


def connect(path: Path, *, is_for_many_rows: bool = False) -> Connection:
    """Opens a ledger for writing; the file is made where there is none.

    Args:
        path: the file.
        is_for_many_rows: ids come in any order, so the index is touched all over: more of it is kept in memory.
    """
    with translated(path):
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # NORMAL: a killed process loses nothing; a power cut loses at most the last commits, never the file.
            connection.execute("PRAGMA synchronous = NORMAL")
            if is_for_many_rows:
                connection.execute(f"PRAGMA cache_size = {-_CACHE_KILOBYTES}")
                connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection


def connect_read_only(path: Path) -> Connection:
    """Opens an existing ledger of this or an older version for reading; a crawl may be writing it.

    Raises:
        LedgerError: missing, damaged, foreign or of a newer version.
    """
    if not path.is_file():
        raise LedgerError(f"no such ledger: {path} (k700-text crawl makes it)")
    address = path.resolve().as_uri()
    with translated(path):
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


def prepare(connection: Connection, path: Path) -> None:
    """Makes the tables of an empty file, upgrades those of an older version; closes the connection if it cannot.

    Raises:
        LedgerError: foreign, or of a newer version.
    """
    is_named = False
    is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    script = _SCHEMA if is_empty else ""
    if not is_empty:
        versions = _versions(connection)
        problem = _version_problem(versions, path)
        if problem:
            connection.close()
            raise LedgerError(problem)
        script = {1: _UPGRADE_FROM_1 + _UPGRADE_FROM_2, 2: _UPGRADE_FROM_2}.get(versions[1], "")
        is_named = versions[1] == 2
    if script:
        stamps = f"PRAGMA application_id = {LEDGER_APPLICATION_ID}; PRAGMA user_version = {LEDGER_VERSION};"
        name = "" if is_named else f"INSERT INTO settings VALUES ('ledger', '{uuid.uuid4().hex}');"
        connection.executescript(f"BEGIN; {script} {name} {stamps} COMMIT;")


def version_of(connection: Connection) -> int:
    """Returns the version of the tables of an open ledger."""
    return _versions(connection)[1]


def _versions(connection: Connection) -> tuple[int, int]:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    return int(application), int(connection.execute("PRAGMA user_version").fetchone()[0])


def _version_problem(versions: tuple[int, int], path: Path) -> str | None:
    application, version = versions
    if application != LEDGER_APPLICATION_ID:
        return f"{path} is an SQLite file, but not a ledger of k700-text: choose another --out"
    if not 1 <= version <= LEDGER_VERSION:
        return (
            f"{path} has ledger version {version}, this version reads up to {LEDGER_VERSION}: "
            "use the k700-text that wrote it"
        )
    return None


DAMAGED = (
    "{path} is damaged: restore a copy, or take what can be read of it into a new one with"
    " k700-text merge {path} --out FOLDER, and crawl there what is missing"
)
_PROBLEMS: Mapping[int, str] = {
    sqlite3.SQLITE_FULL: "the disk is full while writing {path}: free some space and run the same command to continue",
    sqlite3.SQLITE_BUSY: "{path} is locked by another program: close it and run the same command to continue",
    sqlite3.SQLITE_LOCKED: "{path} is locked by another program: close it and run the same command to continue",
    sqlite3.SQLITE_READONLY: "no permission to write {path}: choose another --out",
    sqlite3.SQLITE_CANTOPEN: "cannot open {path}: check that it is a file and that its folder can be used",
    sqlite3.SQLITE_PERM: "no permission to use {path}: choose another --out",
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: "{path} is not a ledger (not an SQLite file{kind}): move it away or choose another --out",
    sqlite3.SQLITE_IOERR: (
        "reading or writing {path} fails: check the disk (failing, full or over quota?) and run again; the ledger"
        " itself may be whole"
    ),
}


def _can_be_read(path: Path) -> bool:
    """Tells whether the disk gives every byte of a ledger: SQLite calls it damage, too, where a read fails."""
    for each in (path, path.with_name(path.name + "-wal")):
        try:
            with each.open("rb", buffering=0) as file:
                while file.read(_PIECE_BYTES):
                    pass
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


MEND = "k700-text manifest --reparse mends what the kept answers tell, and drops the rest, for crawl to ask again"


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Turns what values cause that are none of ours into one clear line."""
    try:
        yield
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise LedgerError(DAMAGED.format(path=path)) from error


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into one clear line."""
    try:
        yield
    except sqlite3.Error as error:
        if isinstance(error, sqlite3.OperationalError) and "decode" in str(error):
            raise LedgerError(f"{path} holds text that is damaged: {MEND}") from error
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_CORRUPT and not _can_be_read(path):
            code = sqlite3.SQLITE_IOERR
        text = _PROBLEMS.get(code, "{path} cannot be used as a ledger (" + str(error).replace("{", "(") + ")")
        kind = kind_of_ours(path)
        raise LedgerError(text.format(path=path, kind=f", but {kind}" if kind else "")) from error
