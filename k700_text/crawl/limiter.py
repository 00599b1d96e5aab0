"""One limiter per host, shared by all workers: pace, concurrency, cool-downs.

Requests are given slots on a time grid of ``1 / rate``; a slot is reserved before the wait, so that late wake-ups do
not lower the rate and no burst ever exceeds it. When the host asks for a pause (or shows a block page) the rate is
halved and nobody asks until the pause is over; then the rate recovers slowly. The pause is handed to ``save``, so
that a restart honours it.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from k700_text.errors import ConfigError

MIN_RETRY_AFTER_SECONDS = 1.0
MAX_RETRY_AFTER_SECONDS = 24 * 3600.0
MIN_RATE = 1 / 60
RECOVERY_SUCCESSES = 10
RECOVERY_FRACTION = 0.05
# web-contracts section 1.4: 15 minutes, then 1 hour, then 6 hours.
BLOCK_PAUSES = (900.0, 3600.0, 21600.0)


class Clock:
    """Time and waiting; replaced in tests."""

    def monotonic(self) -> float:
        """Returns seconds that only grow."""
        return time.monotonic()

    def now(self) -> datetime:
        """Returns the time of day (UTC)."""
        return datetime.now(UTC)

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Waits; returns True, early, once ``stop`` is set."""
        return stop.wait(seconds) if seconds > 0 else stop.is_set()


class CoolDown(Exception):  # noqa: N818 - not a failure: control flow between limiter and crawler
    """The host must be left alone for longer than the caller wants to wait; ``until`` tells when it is over."""

    def __init__(self, until: datetime) -> None:
        self.until = until
        super().__init__(f"cooling down until {until:%Y-%m-%dT%H:%M:%SZ}")


class Stopped(Exception):  # noqa: N818 - not a failure: control flow between limiter and crawler
    """The crawl is being stopped; nothing was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a host may be asked.

    Attributes:
        start_rate: requests per second at the start.
        max_rate: requests per second that the rate may grow to; equal to start_rate for a fixed pace.
        concurrency: requests under way at the same time.
        pauses: seconds to wait after a rate limit that names no time, by how often it happened.
    """

    start_rate: float
    max_rate: float
    concurrency: int
    pauses: Sequence[float] = BLOCK_PAUSES

    def __post_init__(self) -> None:
        if not 0 < self.start_rate <= self.max_rate or not math.isfinite(self.max_rate):
            raise ConfigError(f"rate must be above 0 and finite, got {self.start_rate} to {self.max_rate} per second")
        if self.concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1, got {self.concurrency}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """What a restart must know about a host.

    Attributes:
        until: nobody asks before this time (UTC).
        level: how many pauses without a success in between.
        rate: requests per second after the pause.
    """

    until: datetime
    level: int
    rate: float


def parse_retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Returns the seconds that a Retry-After header asks for, 1 s to 24 h; None without a readable header.

    Args:
        headers: by lower-case name.
        now: time of day (UTC), for the date form.
    """
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        seconds = float(text) if text.replace(".", "", 1).isdigit() else _seconds_until(text, now)
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, MIN_RETRY_AFTER_SECONDS), MAX_RETRY_AFTER_SECONDS)


def _seconds_until(http_date: str, now: datetime) -> float:
    moment = parsedate_to_datetime(http_date)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds()


class HostLimiter:
    """Gives slots for requests to one host.

    Args:
        pace: rates and concurrency.
        state: what an earlier run saved, if anything.
        save: called with the new state at each pause.
        clock: time and waiting.
        max_wait_seconds: longest pause to sit out; a longer one raises CoolDown.
    """

    def __init__(
        self,
        pace: Pace,
        *,
        state: HostState | None = None,
        save: Callable[[HostState], None] = lambda state: None,
        clock: Clock | None = None,
        max_wait_seconds: float = 60.0,
    ) -> None:
        self._pace = pace
        self._save = save
        self._clock = clock or Clock()
        self._max_wait_seconds = max_wait_seconds
        self._lock = threading.Lock()
        self._free = threading.Semaphore(pace.concurrency)
        self._next_slot = self._clock.monotonic()
        self._rate = min(state.rate, pace.max_rate) if state else pace.start_rate
        self._level = state.level if state else 0
        self._until = state.until if state else None
        self._paused_at = -math.inf
        self._successes = 0

    @property
    def rate(self) -> float:
        """Requests per second at present."""
        return self._rate

    @contextmanager
    def slot(self, stop: threading.Event) -> Iterator[float]:
        """Waits for the right to send one request and holds it; gives the time at which it began.

        Raises:
            CoolDown: a pause is on that is longer than the caller waits.
            Stopped: ``stop`` was set.
        """
        while not self._free.acquire(timeout=0.5):
            if stop.is_set():
                raise Stopped
        try:
            yield self._wait_for_turn(stop)
        finally:
            self._free.release()

    def _wait_for_turn(self, stop: threading.Event) -> float:
        while True:
            with self._lock:
                pause = self._pause_seconds()
                if pause > self._max_wait_seconds:
                    assert self._until is not None
                    raise CoolDown(self._until)
                now = self._clock.monotonic()
                turn = max(self._next_slot, now + pause)
                self._next_slot = turn + 1 / self._rate
            if self._clock.wait(turn - now, stop):
                raise Stopped
            # Somebody may have been told to pause while we waited: then this slot is void.
            with self._lock:
                if self._pause_seconds() <= 0:
                    return self._clock.monotonic()

    def _pause_seconds(self) -> float:
        return (self._until - self._clock.now()).total_seconds() if self._until else 0.0

    def succeeded(self) -> None:
        """Tells that the host served a request: after some of them the rate grows a little."""
        with self._lock:
            self._successes += 1
            if self._successes >= RECOVERY_SUCCESSES:
                self._successes = 0
                self._level = 0
                self._rate = min(self._pace.max_rate, self._rate + RECOVERY_FRACTION * self._pace.max_rate)

    def throttled(self, began: float, retry_after_seconds: float | None, pauses: Sequence[float] | None = None) -> None:
        """Tells that the host asked to slow down: halves the rate and pauses everybody.

        Args:
            began: when the refused request began; requests that were already under way at the last pause only
                prolong it.
            retry_after_seconds: the time the host named, if any; a lower bound.
            pauses: pause lengths by level where the host named no time; the pace's own when None.
        """
        with self._lock:
            is_news = began >= self._paused_at
            if retry_after_seconds is None and not is_news:
                return
            steps = self._pace.pauses if pauses is None else pauses
            seconds = retry_after_seconds
            if seconds is None:
                # Jitter keeps several machines from coming back in the same second; never shorter than asked.
                seconds = steps[min(self._level, len(steps) - 1)] * random.uniform(1.0, 1.1)
            if is_news:
                self._paused_at = self._clock.monotonic()
                self._level += 1
                self._successes = 0
                self._rate = max(self._rate / 2, min(MIN_RATE, self._pace.start_rate))
            self._hold(seconds)

    def hold(self, seconds: float) -> None:
        """Pauses everybody without lowering the rate (a busy server that named a time)."""
        with self._lock:
            self._hold(seconds)

    def hold_until(self, until: datetime) -> None:
        """Pauses everybody until a time of day (a daily quota), without lowering the rate."""
        with self._lock:
            self._hold((until - self._clock.now()).total_seconds())

    def _hold(self, seconds: float) -> None:
        until = self._clock.now() + timedelta(seconds=seconds)
        self._until = max(until, self._until) if self._until else until
        self._save(HostState(until=self._until, level=self._level, rate=self._rate))
