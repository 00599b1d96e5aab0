"""Brings the ledgers of several crawls (shards, machines, an older copy) into one.

An answer is a fact with a time: answers are united, never weighed against each other here. The same answer (video,
source, time, hash) is taken once, so merging twice changes nothing and the order of the ledgers does not matter. Where
two ledgers disagree, both answers are kept, and the manifest decides as for any two answers: the newest of a source,
two sources for "gone".

- Where two ledgers read the same answer differently (one was parsed again by newer rules), the reading that the result
  has already stays; ``k700-text manifest --reparse`` reads all of them anew.
- Quota units are kept by the ledger that booked them (the larger figure of the same one), and add up.
- Of two pauses of a host the later one holds.
- A video on any removal list is removed from the result, at once and for good.
- Which videos are wanted, and an unfinished ``--retry-failed``, are matters of a run and stay behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k700_text.crawl.ledger import Ledger, purge_removed
from k700_text.crawl.ledger_checks import MAX_EVIDENCE_BYTES, PUBLISHED_COLUMNS, Damage, fault_of, fault_of_values
from k700_text.crawl.ledger_store import (
    OUTCOME_COLUMNS,
    Connection,
    connect_read_only,
    readable_text,
    translated,
    version_of,
)
from k700_text.errors import UsageError

PAGE_ROWS = 10_000
PAGE_BYTES = 64 << 20
# Runs of another ledger mean nothing here; 0 is no run's number.
_ELSEWHERE = 0
_COPIED = (*OUTCOME_COLUMNS, "attempt", "checksum", "evidence_sha256", "evidence")
_INSERT = (
    f"INSERT INTO outcomes ({', '.join(_COPIED)}, run) SELECT {', '.join(f':{name}' for name in _COPIED)}, {_ELSEWHERE}"
    " WHERE NOT EXISTS (SELECT 1 FROM outcomes WHERE youtube_id = :youtube_id AND source = :source"
    " AND fetched_at = :fetched_at AND evidence_sha256 IS :evidence_sha256)"
    " AND NOT EXISTS (SELECT 1 FROM removed WHERE youtube_id = :youtube_id)"
)
_OTHER_TABLES = (
    (
        "SELECT source, day, ledger, (units + :parts - 1) / :parts FROM quota",
        "INSERT INTO quota VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET units = max(units, excluded.units)",
    ),
    (
        "SELECT host, until, level, rates FROM hosts",
        "INSERT INTO hosts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET until = excluded.until,"
        " level = excluded.level, rates = excluded.rates WHERE excluded.until > until",
    ),
    ("SELECT youtube_id, listed_at FROM removed", "INSERT OR IGNORE INTO removed VALUES (?, ?)"),
)


@dataclass(frozen=True, slots=True)
class MergeSummary:
    """What a merge brought.

    Attributes:
        num_ledgers: ledgers read.
        num_read: answers in them.
        num_new: answers that the result did not hold before.
        num_removed: videos on the removal list of the result.
        num_damaged: answers that were damaged, and were left out.
        damage: which.
    """

    num_ledgers: int
    num_read: int
    num_new: int
    num_removed: int
    num_damaged: int = 0
    damage: tuple[str, ...] = ()


def merge_ledgers(target: Ledger, sources: Sequence[Path]) -> MergeSummary:
    """Takes everything that other ledgers hold into one; they stay as they are.

    Killed in between, it is simply done again. When it returns, the result is on disk for good: the others may be
    deleted. Damaged answers are left out and counted.

    Args:
        target: the ledger that grows.
        sources: ledgers of this or an older version.

    Raises:
        LedgerError: one is missing, damaged, foreign or of a newer version; the ones before it are merged.
        UsageError: the target is among the sources.
    """
    num_read = num_new = 0
    damaged = []
    for source in sources:
        if source.exists() and source.samefile(target.path):
            raise UsageError(f"{source} cannot be merged into itself: name the other ledgers only")
        read, new, damage = _copy(source, target)
        num_read, num_new = num_read + read, num_new + new
        if damage.num_rows:
            damaged.append((damage.num_rows, f"{source}: left out: {damage}"))
    with target.transaction() as into:
        num_removed = int(into.execute("SELECT count(*) FROM removed").fetchone()[0])
        into.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
    num_damaged = sum(number for number, _ in damaged)
    return MergeSummary(len(sources), num_read, num_new, num_removed, num_damaged, tuple(text for _, text in damaged))


def seed_part(part: Ledger, whole: Path, *, holds: Callable[[str], bool], num_parts: int) -> None:
    """Gives the ledger of a part what a whole one knows about its videos, pauses and the removal list.

    Of the quota units booked so far each part bears its share: together they spend what is left. Merged back, nothing
    of all this counts twice.

    Args:
        part: the ledger of the part.
        whole: the ledger of all.
        holds: tells whether a video belongs to the part.
        num_parts: how many parts there are.

    Raises:
        LedgerError: one of them cannot be read or written.
    """
    _copy(whole, part, holds=holds, num_parts=num_parts)


def _copy(
    source: Path, target: Ledger, *, holds: Callable[[str], bool] | None = None, num_parts: int = 1
) -> tuple[int, int, Damage]:
    """Copies what is new in a ledger; returns how many answers were read, how many were new, and what was damaged."""
    num_read = num_new = 0
    damage = Damage()
    connection = connect_read_only(source)
    try:
        with translated(source):
            connection.text_factory = readable_text
            _copy_tables(connection, target, num_parts)
            for page in _pages(_rows(connection, damage)):
                rows = [row for row in page if _is_sound(row, damage) and (holds is None or holds(row["youtube_id"]))]
                num_read += len(rows)
                with target.transaction() as into:
                    num_new += into.executemany(_INSERT, rows).rowcount if rows else 0
    finally:
        connection.close()
    return num_read, num_new, damage


_Row = dict[str, Any]


def _is_sound(row: _Row, damage: Damage) -> bool:
    """Tells whether a row is as it was written, and may be so: of foreign ledgers both must hold."""
    published = [row[name] for name in (*PUBLISHED_COLUMNS, "checksum")]
    fault = fault_of(published) or fault_of_values(published)
    if fault is None and not (isinstance(row["attempt"], int) and isinstance(row["http_status"], int | None)):
        fault = "attempt or http_status cannot be so"
    if fault is not None:
        damage.add(published, fault)
    return fault is None


def _pages(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    """Yields rows in lists that are bounded in number and in bytes."""
    page: list[_Row] = []
    num_bytes = 0
    for row in rows:
        page.append(row)
        num_bytes += len(row["evidence"] or b"")
        if len(page) == PAGE_ROWS or num_bytes > PAGE_BYTES:
            yield page
            page, num_bytes = [], 0
    if page:
        yield page


def _rows(connection: Connection, damage: Damage) -> Iterator[_Row]:
    """Yields all rows of a ledger; where SQLite finds the table malformed, all that can be reached."""
    checksum = "checksum" if version_of(connection) >= 3 else "NULL"
    evidence = f"CASE WHEN length(evidence) <= {MAX_EVIDENCE_BYTES} THEN evidence END"
    spelled = {"checksum": checksum, "evidence": evidence}
    sql = f"SELECT outcome_id, {', '.join(spelled.get(name, name) for name in _COPIED)} FROM outcomes"
    last = None
    try:
        for outcome_id, *values in connection.execute(f"{sql} ORDER BY outcome_id"):
            yield dict(zip(_COPIED, values, strict=True))
            last = outcome_id
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # The disk, or a lock: no damage of this file.
            raise
    else:
        return
    for outcome_id in sorted(each for each in _ids_of_index(connection) if last is None or each > last):
        try:
            found = connection.execute(f"{sql} WHERE outcome_id = ?", (outcome_id,)).fetchall()
        except sqlite3.DatabaseError:
            found = []
        yield from (dict(zip(_COPIED, values, strict=True)) for _, *values in found)
        if not found:
            damage.add(("number", outcome_id), "it cannot be read")


def _ids_of_index(connection: Connection) -> set[int]:
    """Returns the rows that the index knows, from both of its ends."""
    ids: set[int] = set()
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.DatabaseError):
            sql = f"SELECT outcome_id FROM outcomes INDEXED BY outcomes_by_video ORDER BY youtube_id {order}"
            for (outcome_id,) in connection.execute(sql):
                ids.add(outcome_id)
    return ids


def _copy_tables(connection: Connection, target: Ledger, num_parts: int) -> None:
    """Copies quota, pauses and the removal list, and honours it at once."""
    if version_of(connection) < 2:
        return  # It had no removal list, and one pace per host: nothing that must not be lost.
    # Read before the target is touched: what is wrong with one file is not said of the other.
    rows = [connection.execute(select, {"parts": num_parts}).fetchall() for select, _ in _OTHER_TABLES]
    with target.transaction() as into:
        for (_, insert), values in zip(_OTHER_TABLES, rows, strict=True):
            into.executemany(insert, values)
        purge_removed(into)
