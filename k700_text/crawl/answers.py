"""The ledger's answers as light rows, for those who read all of them: no record is built for each.

An answer stays as the ledger spells it (times as ISO 8601 text in UTC, which sort as they are). It offers what
``verdict.judge`` asks for, and what becomes a column of the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from k700_text.crawl.ledger_store import connect_read_only, stamp, translated
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

    @property
    def status(self) -> OutcomeStatus:
        """Never a fault: those are not read."""
        return OutcomeStatus.NO_TITLE if self.title is None else OutcomeStatus.TITLE

    @property
    def fetched_at(self) -> datetime:
        """When it came (UTC)."""
        return datetime.fromisoformat(self.fetched)


_COLUMNS = (
    "youtube_id, source, availability, fetched_at, title, title_language, captured_at, published_at,"
    " video_duration_seconds, web_has_audio"
)


# What Answer._make does, without a call of Python's own for each of a million rows.
_answer_of: Callable[[tuple[Any, ...]], Answer] = partial(tuple.__new__, Answer)


def read_answers(path: Path, *, leave_out: tuple[str, datetime] | None = None) -> Iterator[tuple[str, list[Answer]]]:
    """Yields every video that a ledger knows and its final answers, in order of id; a crawl may be running meanwhile.

    The answers of a video are in order of source, then status, then time.

    Args:
        path: the ledger.
        leave_out: a source, and the time before which its answers are left out.

    Raises:
        LedgerError: missing, damaged or of another version.
    """
    values = (leave_out[0], stamp(leave_out[1])) if leave_out is not None else ()
    condition = "AND NOT (source = ? AND fetched_at < ?)" if leave_out is not None else ""
    sql = f"SELECT {_COLUMNS} FROM outcomes WHERE status <> 'transient' {condition}"
    # The order of the ledger's index: nothing has to be sorted.
    sql += " ORDER BY youtube_id, source, status, fetched_at"
    connection = connect_read_only(path)
    try:
        with translated(path):
            yield from _by_video(connection.execute(sql, values))
    finally:
        connection.close()


def _by_video(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[str, list[Answer]]]:
    """Groups rows by their id; half the time of ``itertools.groupby`` where most groups are of one."""
    youtube_id = ""
    answers: list[Answer] = []
    for row in rows:
        if row[0] != youtube_id:
            if answers:
                yield youtube_id, answers
            youtube_id, answers = row[0], []
        answers.append(_answer_of(row))
    if answers:
        yield youtube_id, answers
