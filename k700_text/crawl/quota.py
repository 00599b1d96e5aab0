"""A service's daily quota: what this crawl may still spend today, kept in the ledger over restarts."""

from __future__ import annotations

import threading

from k700_text.crawl.ledger import Ledger
from k700_text.crawl.limiter import Clock
from k700_text.crawl.sources.data_api import next_pacific_midnight, pacific_day
from k700_text.errors import QuotaExhaustedError


class DailyQuota:
    """Units of one source, renewed at midnight Pacific (web-contracts section 2.3).

    Args:
        source: its name.
        units: how many may be spent a day.
        ledger: where they are booked.
        clock: tells the day.
    """

    def __init__(self, source: str, units: int, ledger: Ledger, clock: Clock) -> None:
        self._source = source
        self._units = units
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._day = ""
        self._used = 0

    def is_spent(self) -> bool:
        """Tells whether our own units of the day are spent, as far as they were asked for."""
        return self._used >= self._units

    def spend(self) -> None:
        """Books one unit.

        Raises:
            QuotaExhaustedError: none is left today; nothing was booked.
        """
        now = self._clock.now()
        day = pacific_day(now)
        with self._lock:
            if day != self._day:
                self._day, self._used = day, self._ledger.quota_used(self._source, day)
            if self._used >= self._units:
                raise QuotaExhaustedError(
                    f"today's {self._units} quota units of {self._source} are spent",
                    resume_at=next_pacific_midnight(now),
                )
            self._used += 1
        self._ledger.add_quota(self._source, day, 1)
