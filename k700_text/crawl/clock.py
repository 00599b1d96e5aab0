"""The time of day of a crawl. The clock of a machine may be set at any moment, by a day even; a crawl's only goes on.

Pauses, quota days and the times of answers count on one time: that of the machine when the crawl began, and the seconds
that have passed since (those asleep included). A clock that is set meanwhile neither ends a pause early nor makes one
last a day, and a quota is not spent twice.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta


def _steady_seconds() -> float:
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


_start, _start_seconds = datetime.now(UTC), _steady_seconds()


def begin() -> None:
    """Takes over the machine's time of day: what is begun now goes by it to its end."""
    global _start, _start_seconds
    _start, _start_seconds = datetime.now(UTC), _steady_seconds()


def utc_now() -> datetime:
    """Returns the time of day (UTC)."""
    return _start + timedelta(seconds=_steady_seconds() - _start_seconds)
