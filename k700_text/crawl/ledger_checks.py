"""Whether the answers of a ledger are as they were written: a checksum per row, and what values may be at all.

The checksum of a row is over what becomes part of a manifest. The evidence has a hash of its own. Rows of ledgers of
before version 3 have no checksum; of those only the values are checked.
"""

from __future__ import annotations

import hashlib
import marshal
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import repeat
from operator import eq, itemgetter
from typing import Any

from k700_text.records import YOUTUBE_ID_PATTERN, Availability, OutcomeStatus
from k700_text.titles import MAX_TITLE_LENGTH

PUBLISHED_COLUMNS = (
    *("youtube_id", "source", "availability", "fetched_at", "title", "title_language", "captured_at", "published_at"),
    *("video_duration_seconds", "web_has_audio", "status"),
)
"""What a manifest is made from; the order is that of the checksum, and must not change."""
MAX_EVIDENCE_BYTES = 64 << 20
"""Unpacked; an answer has at most half of it."""

_CHECKSUM = len(PUBLISHED_COLUMNS)
_published = itemgetter(slice(_CHECKSUM))
_FORMAT = 2  # of marshal: the same bytes for the same values, in every version of Python.
_MAX_WORD = 200
_UNCLEAN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_STATES = frozenset(each.value for each in Availability)
_STATUSES = frozenset(each.value for each in OutcomeStatus)


def checksum_of(published: Sequence[Any]) -> int:
    """Returns the CRC-32 of the values of PUBLISHED_COLUMNS, as SQLite gives them back."""
    return zlib.crc32(marshal.dumps(tuple(published), _FORMAT))


def checksum_of_written(published: tuple[Any, ...]) -> int:
    """Returns the checksum that a row will have, from values of PUBLISHED_COLUMNS as they are written."""
    seconds, has_audio = published[8:10]
    if seconds is not None or has_audio is not None:
        # SQLite gives numbers back as what their columns are, and NaN as nothing.
        seconds = None if seconds is None or seconds != seconds else float(seconds)
        has_audio = None if has_audio is None else int(has_audio)
        published = (*published[:8], seconds, has_audio, published[10])
    return checksum_of(published)


def are_intact(rows: Sequence[Sequence[Any]]) -> bool:
    """Tells whether all rows (PUBLISHED_COLUMNS, then the checksum) are as they were written.

    Without a call of Python's own per row: of a million rows it takes a second.
    """
    found = map(zlib.crc32, map(marshal.dumps, map(_published, rows), repeat(_FORMAT)))
    return all(map(eq, found, map(itemgetter(_CHECKSUM), rows)))


def fault_of(row: Sequence[Any]) -> str | None:
    """Returns what is wrong with a row (PUBLISHED_COLUMNS, then the checksum), None where nothing is."""
    if row[_CHECKSUM] is not None:
        return None if checksum_of(row[:_CHECKSUM]) == row[_CHECKSUM] else "its checksum does not fit"
    return fault_of_values(row)


def fault_of_values(row: Sequence[Any]) -> str | None:
    """Returns which value of a row (PUBLISHED_COLUMNS first) cannot be, None where all can."""
    youtube_id, source, availability, fetched, title, language, captured, published, seconds, audio, status = row[:11]
    checks = {
        "youtube_id": isinstance(youtube_id, str) and YOUTUBE_ID_PATTERN.fullmatch(youtube_id) is not None,
        "source": _is_text(source, _MAX_WORD),
        "status": status in _STATUSES,
        "availability": availability in _STATES,
        "title": (status == OutcomeStatus.TITLE.value) == (title is not None)
        and (title is None or _is_text(title, MAX_TITLE_LENGTH)),
        "title_language": language is None or _is_text(language, _MAX_WORD),
        "fetched_at": _is_time(fetched),
        "captured_at": captured is None or _is_time(captured),
        "published_at": published is None or _is_time(published),
        "video_duration_seconds": seconds is None
        or (isinstance(seconds, int | float) and math.isfinite(seconds) and seconds >= 0),
        "web_has_audio": audio in (None, 0, 1),
    }
    wrong = [name for name, is_right in checks.items() if not is_right]
    return f"{wrong[0]} cannot be so" if wrong else None


def _is_text(value: Any, most: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= most and not _UNCLEAN.search(value)


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def unpacked(evidence: Any, sha256: Any) -> bytes | None:
    """Returns the evidence as it came, None where it is damaged, or unpacks to more than an answer may have."""
    if not isinstance(evidence, bytes):
        return None
    packed = zlib.decompressobj()
    try:
        content = packed.decompress(evidence, MAX_EVIDENCE_BYTES)
    except zlib.error:
        return None
    is_whole = packed.eof and not packed.unused_data
    return content if is_whole and hashlib.sha256(content).hexdigest() == sha256 else None


class Damage:
    """Damaged rows: how many, and which the first ones are."""

    _MOST_NAMED = 3

    def __init__(self) -> None:
        self.num_rows = 0
        self._named: list[str] = []

    def add(self, row: Sequence[Any], fault: str) -> None:
        """Takes a row (youtube_id and source first)."""
        self.num_rows += 1
        if len(self._named) < self._MOST_NAMED:
            self._named.append(f"{str(row[0])[:20]!r} of {str(row[1])[:20]!r}: {fault}")

    def sound(self, rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Yields the rows that are as they should be, and takes the others."""
        for row in rows:
            fault = fault_of(row)
            if fault is None:
                yield row
            else:
                self.add(row, fault)

    def __str__(self) -> str:
        more = "; ..." if self.num_rows > len(self._named) else ""
        answers = "answer" if self.num_rows == 1 else "answers"
        return f"{self.num_rows} damaged {answers} ({'; '.join(self._named)}{more})"
