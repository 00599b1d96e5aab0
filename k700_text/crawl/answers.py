"""The ledger's answers as light rows, for those who read all of them: no record is built for each.

An answer stays as the ledger spells it (times as ISO 8601 text in UTC, which sort as they are). It offers what
``verdict.judge`` asks for, and what becomes a column of the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from k700_text.crawl.ledger_checks import MAX_EVIDENCE_BYTES, Damage, are_intact, unpacked
from k700_text.crawl.ledger_store import (
    DAMAGED,
    MEND,
    Connection,
    Cursor,
    connect_read_only,
    published_sql,
    stamp,
    translated,
)
from k700_text.errors import LedgerError
from k700_text.records import OutcomeStatus


class Answer(NamedTuple):
    """A final outcome of the ledger (``title`` or ``no_title``), fields as in ``TitleOutcome``, times as text."""

    youtube_id: str
    source: str
    availability: str
    fetched: str
    title: str | None
    title_language: str | None
    captured: str | None
    published: str | None
    video_duration_seconds: float | None
    web_has_audio: int | None
    spelled_status: str
    checksum: int | None

    @property
    def status(self) -> OutcomeStatus:
        """Never a fault: those are not read."""
        return OutcomeStatus.NO_TITLE if self.title is None else OutcomeStatus.TITLE

    @property
    def fetched_at(self) -> datetime:
        """When it came (UTC)."""
        return datetime.fromisoformat(self.fetched)


_ROWS_AT_ONCE = 1000

# What Answer._make does, without a call of Python's own for each of a million rows.
_answer_of: Callable[[tuple[Any, ...]], Answer] = partial(tuple.__new__, Answer)


def read_answers(path: Path, *, leave_out: tuple[str, datetime] | None = None) -> Iterator[tuple[str, list[Answer]]]:
    """Yields every video that a ledger knows and its final answers, in order of id; a crawl may be running meanwhile.

    The answers of a video are in order of source, then status, then time.

    Args:
        path: the ledger.
        leave_out: a source, and the time before which its answers are left out.

    Raises:
        LedgerError: missing, damaged or of another version. Damaged answers are told, all together, at the end.
    """
    values = (leave_out[0], stamp(leave_out[1])) if leave_out is not None else ()
    condition = "AND NOT (source = ? AND fetched_at < ?)" if leave_out is not None else ""
    connection = connect_read_only(path)
    damage = Damage()
    try:
        with translated(path):
            connection.execute("BEGIN")  # All is read as it is at one moment.
            _check_index(connection, path)
            sql = f"SELECT {published_sql(connection)} FROM outcomes WHERE status <> 'transient' {condition}"
            # The order of the ledger's index: nothing has to be sorted.
            sql += " ORDER BY youtube_id, source, status, fetched_at"
            pages = _sound(connection.execute(sql, values), damage)
            yield from _by_video(chain.from_iterable(pages), path)
    finally:
        connection.close()
    if damage.num_rows:
        raise LedgerError(f"{path}: {damage}: {MEND}")


def _check_index(connection: Connection, path: Path) -> None:
    """Rows are found through the index: one that lost some of them would take their titles along, without a word."""
    num_rows, num_found = connection.execute(
        # The second is counted in the index, which is smaller.
        "SELECT (SELECT count(*) FROM outcomes NOT INDEXED), (SELECT count(*) FROM outcomes)"
    ).fetchone()
    if num_rows != num_found:
        raise LedgerError(DAMAGED.format(path=path))


def _sound(cursor: Cursor, damage: Damage) -> Iterator[Iterable[tuple[Any, ...]]]:
    """Yields the rows that are as they were written, in pages."""
    while rows := cursor.fetchmany(_ROWS_AT_ONCE):
        yield rows if are_intact(rows) else damage.sound(rows)


def _by_video(rows: Iterable[tuple[Any, ...]], path: Path) -> Iterator[tuple[str, list[Answer]]]:
    """Groups rows by their id; half the time of ``itertools.groupby`` where most groups are of one."""
    youtube_id = ""
    answers: list[Answer] = []
    for row in rows:
        if row[0] != youtube_id:
            if answers:
                yield youtube_id, answers
                if row[0] < youtube_id:  # The index leads to one video twice, and past another.
                    raise LedgerError(DAMAGED.format(path=path))
            youtube_id, answers = row[0], []
        answers.append(_answer_of(row))
    if answers:
        yield youtube_id, answers


def check_answers(path: Path) -> None:
    """Reads a whole ledger and compares every answer with its checksum, and its evidence with its hash.

    Raises:
        LedgerError: what is damaged, all together.
    """
    for _ in read_answers(path):
        pass
    damage = Damage()
    connection = connect_read_only(path)
    evidence = f"CASE WHEN length(evidence) <= {MAX_EVIDENCE_BYTES} THEN evidence END"
    sql = f"SELECT youtube_id, source, evidence_sha256, {evidence} FROM outcomes WHERE evidence IS NOT NULL"
    try:
        with translated(path):
            for youtube_id, source, sha256, packed in connection.execute(sql):
                if unpacked(packed, sha256) is None:
                    damage.add((youtube_id, source), "its evidence does not fit its hash")
    finally:
        connection.close()
    if damage.num_rows:
        raise LedgerError(f"{path}: {damage}; titles and states are as they were written")
