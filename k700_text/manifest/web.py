"""What the ledger's answers about each video come to: the title and the web columns of the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from k700_text import schema
from k700_text.crawl.answers import Answer, read_answers
from k700_text.crawl.sources import origin, source_rank
from k700_text.crawl.sources.data_api import NAME as DATA_API
from k700_text.crawl.verdict import judge_final, judge_one
from k700_text.records import Availability

VIDEOS_PER_TABLE = 5_000

WEB_COLUMNS = tuple(column.name for column in schema.MANIFEST_COLUMNS if column.group in (schema.TITLE, schema.WEB))
_TYPES = [schema.MANIFEST_SCHEMA.field(name).type for name in ("youtube_id", *WEB_COLUMNS)]

# The id and the values of the columns, in their order.
_Row = tuple[Any, ...]
_NEVER_ASKED: _Row = ("", None, None, None, None, None, Availability.UNKNOWN.value, (), None, None, None)


def web_tables(ledger: Path | None, *, api_since: datetime | None = None) -> Iterator[pa.Table]:
    """Yields youtube_id and the web columns of the videos of a ledger, in order of id, piece by piece.

    The last row of every table has the empty id and the values of a video that was never asked about; the last table
    consists of it alone.

    Args:
        ledger: what a crawl left, None for nothing.
        api_since: leave out answers of the Data API that are older.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    if ledger is not None:
        leave_out = (DATA_API, api_since) if api_since is not None else None
        videos = read_answers(ledger, leave_out=leave_out)
        while rows := [_row(*video) for video in islice(videos, VIDEOS_PER_TABLE)]:
            yield _table([*rows, _NEVER_ASKED])
    yield _table([_NEVER_ASKED])


def _table(rows: Iterable[_Row]) -> pa.Table:
    values: Iterator[Sequence[Any]] = zip(*rows, strict=True)
    arrays = [_array(column, kind) for column, kind in zip(values, _TYPES, strict=True)]
    return pa.Table.from_arrays(arrays, names=["youtube_id", *WEB_COLUMNS])


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(kind) or pa.types.is_boolean(kind):
        # Text and 0 or 1 as yet: Arrow converts a column faster than Python makes an object of each value.
        return pa.array(values).cast(kind)
    return pa.array(values, kind)


def _row(youtube_id: str, answers: list[Answer]) -> _Row:
    """Returns a video's values: the title of the best source (its newest one), else the first known of the rest."""
    if len(answers) == 1:
        return _row_of_one(answers[0])
    answers.reverse()  # Of each source titles first, and the newest one of them.
    answers.sort(key=_rank)
    titled = next((answer for answer in answers if answer.title is not None), None)
    web = (*judge_final(youtube_id, answers), *_rest(answers))
    if titled is None:
        return (youtube_id, None, None, None, None, None, *web)
    title = (titled.title, _service_of(titled.source), titled.fetched, titled.captured, titled.title_language)
    return (youtube_id, *title, *web)


def _row_of_one(answer: Answer) -> _Row:
    """Returns what ``_row`` does where one source answered: most videos, so it is taken apart in one go."""
    youtube_id, source, availability, fetched, title, language, captured, *rest = answer[:10]
    web = judge_one(youtube_id, source, availability)
    if title is None:
        return (youtube_id, None, None, None, None, None, *web, *rest)
    return (youtube_id, title, _service_of(source), fetched, captured, language, *web, *rest)


def _rest(answers: Sequence[Answer]) -> tuple[str | None, float | None, int | None]:
    """Returns upload time, length and whether there is audio, as the first answers tell that know."""
    published, duration, has_audio = answers[0][7:10]
    for answer in answers[1:]:
        published = answer.published if published is None else published
        duration = answer.video_duration_seconds if duration is None else duration
        has_audio = answer.web_has_audio if has_audio is None else has_audio
    return published, duration, has_audio


def _rank(answer: Answer) -> tuple[int, str]:
    return _rank_of(answer.source)


_rank_of = lru_cache(source_rank)
_service_of = lru_cache(origin)
