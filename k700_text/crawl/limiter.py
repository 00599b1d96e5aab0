"""One limiter per host, shared by all workers: pauses and circuit breaker for the host, pace for each of its lanes.

A host may publish one limit for each of its services (the web archive: 24 a minute for its index, 8 a second for
captures): a lane has the pace of one service, and all lanes share the host's pauses.

Requests are given slots on a time grid of ``1 / rate``; a slot is reserved before the wait, so that late wake-ups do
not lower the rate and no burst ever exceeds it. When the host asks for a pause (or shows a block page) the lane's rate
is halved and nobody asks the host until the pause is over; then the rate recovers slowly. Failures in a row open the
circuit breaker: a pause, then one request at a time until one is answered. Pauses are handed to ``save``, so that a
restart honours them.
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

from k700_text.config import Pace
from k700_text.crawl.clock import utc_now

MIN_RETRY_AFTER_SECONDS = 1.0
MAX_RETRY_AFTER_SECONDS = 24 * 3600.0
MIN_RATE = 1 / 60
RECOVERY_SUCCESSES = 10
RECOVERY_FRACTION = 0.05
# Jitter keeps several machines from coming back in the same second.
MAX_JITTER = 1.1
# Section 8, rule 7.
BREAKER_FAILURES = 10
BREAKER_PAUSES = (60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0)
_HALF_OPEN_POLL_SECONDS = 0.05


class Clock:
    """Time and waiting; replaced in tests."""

    def monotonic(self) -> float:
        """Returns seconds that only grow."""
        return time.monotonic()

    def now(self) -> datetime:
        """Returns the time of day (UTC)."""
        return utc_now()

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
class HostState:
    """What a restart must know about a host.

    Attributes:
        until: nobody asks before this time (UTC).
        level: how many pauses without a success in between.
        rates: requests per second after the pause, by lane; lanes that were never slowed down are left out.
    """

    until: datetime
    level: int
    rates: Mapping[str, float]


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
    """Pauses and circuit breaker of one host, and the lanes to its services.

    Args:
        state: what an earlier run saved, if anything.
        save: called with the new state at each pause.
        clock: time and waiting.
        max_wait_seconds: longest pause to sit out; a longer one raises CoolDown.
    """

    def __init__(
        self,
        *,
        state: HostState | None = None,
        save: Callable[[HostState], None] = lambda state: None,
        clock: Clock | None = None,
        max_wait_seconds: float = 60.0,
    ) -> None:
        self.clock = clock or Clock()
        self.lock = threading.RLock()
        self.max_wait_seconds = max_wait_seconds
        self._save = save
        self._until = state.until if state else None
        self._level = state.level if state else 0
        self._rates = dict(state.rates) if state else {}
        self._paused_at = -math.inf
        self._failures_in_a_row = 0
        self._num_openings = 0
        self._is_half_open = False
        self._probe: object | None = None

    def lane(self, name: str, pace: Pace) -> Lane:
        """Returns a new lane; the rate that an earlier run was slowed down to still holds."""
        return Lane(self, name, pace, min(self._rates.get(name, pace.start_rate), pace.max_rate))

    def pause_seconds(self) -> float:
        """Returns how long nobody may ask; 0 or less: now.

        Raises:
            CoolDown: longer than the caller waits.
        """
        with self.lock:
            seconds = self.remaining_seconds()
            # Our own jitter must not turn the archive's minute into one that nobody waits for.
            if seconds > self.max_wait_seconds * MAX_JITTER:
                assert self._until is not None
                raise CoolDown(self._until)
            return seconds

    def remaining_seconds(self) -> float:
        """Returns how long the pause that is on will last; 0 or less: none is."""
        until = self._until
        return (until - self.clock.now()).total_seconds() if until else 0.0

    def pause(self, began: float, seconds: float | None, steps: Sequence[float], slowed: Mapping[str, float]) -> bool:
        """Pauses everybody and returns whether this is news: not the echo of a pause that is already on.

        Args:
            began: when the refused request began; requests that were already under way at the last pause only
                prolong it.
            seconds: the time the host named, if any.
            steps: pause lengths by level where it named none.
            slowed: new rates by lane, if this is news.
        """
        with self.lock:
            is_news = began > self._paused_at
            if seconds is None and not is_news:
                return False
            if seconds is None:
                # Never shorter than asked.
                seconds = steps[min(self._level, len(steps) - 1)] * random.uniform(1.0, MAX_JITTER)
            if is_news:
                self._paused_at = self.clock.monotonic()
                self._level += 1
                self._rates.update(slowed)
            self.hold(seconds)
            return is_news

    def hold(self, seconds: float) -> None:
        """Pauses everybody and keeps the pause for a restart."""
        with self.lock:
            until = self.clock.now() + timedelta(seconds=seconds)
            self._until = max(until, self._until) if self._until else until
            self._save(HostState(until=self._until, level=self._level, rates=dict(self._rates)))

    def recovered(self, lane: str, rate: float) -> None:
        """Tells that the host has served for a while: the next pause is a first one again."""
        self._level = 0
        if lane in self._rates:
            self._rates[lane] = rate

    def answered(self) -> None:
        """Tells that a usable answer came: closes the circuit breaker."""
        if self._failures_in_a_row or self._is_half_open:
            with self.lock:
                self._failures_in_a_row = self._num_openings = 0
                self._is_half_open = False

    def failed(self, began: float) -> None:
        """Tells that a request brought no usable answer; the tenth in a row opens the circuit breaker."""
        with self.lock:
            if began <= self._paused_at:
                return
            self._failures_in_a_row += 1
            if self._is_half_open or self._failures_in_a_row >= BREAKER_FAILURES:
                seconds = BREAKER_PAUSES[min(self._num_openings, len(BREAKER_PAUSES) - 1)]
                self._num_openings += 1
                self._failures_in_a_row = 0
                self._is_half_open = True
                self._paused_at = self.clock.monotonic()
                self.hold(seconds)

    def try_enter(self, request: object) -> bool:
        """Returns whether a request may go: while the breaker is half open, only one at a time may."""
        with self.lock:
            if not self._is_half_open:
                return True
            if self._probe is None:
                self._probe = request
            return self._probe is request

    def leave(self, request: object) -> None:
        """Tells that a request is over."""
        with self.lock:
            if self._probe is request:
                self._probe = None


class Lane:
    """Gives slots for requests to one service of a host.

    Args:
        host: whose pauses apply.
        name: of the lane.
        pace: rates and concurrency.
        rate: requests per second to begin with.
    """

    def __init__(self, host: HostLimiter, name: str, pace: Pace, rate: float) -> None:
        self.name = name
        self._host = host
        self._clock = host.clock
        self._pace = pace
        self._rate = rate
        self._lock = host.lock
        self._free = threading.Semaphore(pace.concurrency)
        self._next_slot = self._clock.monotonic()
        self._successes = 0

    @property
    def rate(self) -> float:
        """Requests per second at present."""
        return self._rate

    @property
    def remaining_seconds(self) -> float:
        """How long the host's pause will last; 0 or less: none is on."""
        return self._host.remaining_seconds()

    @contextmanager
    def slot(self, stop: threading.Event) -> Iterator[float]:
        """Waits for the right to send one request and holds it; gives the time at which it began.

        Raises:
            CoolDown: a pause is on that is longer than the caller waits.
            Stopped: ``stop`` was set.
        """
        request = object()
        while not self._free.acquire(timeout=0.5):
            if stop.is_set():
                raise Stopped
        try:
            yield self._wait_for_turn(stop, request)
        finally:
            self._host.leave(request)
            self._free.release()

    def _wait_for_turn(self, stop: threading.Event, request: object) -> float:
        while True:
            pause = max(self._host.pause_seconds(), 0.0)
            with self._lock:
                now = self._clock.monotonic()
                turn = max(self._next_slot, now + pause)
                self._next_slot = turn + 1 / self._rate
            if self._clock.wait(turn - now, stop):
                raise Stopped
            while not self._host.try_enter(request):
                if self._clock.wait(_HALF_OPEN_POLL_SECONDS, stop):
                    raise Stopped
            # Somebody may have been told to pause while we waited: then this slot is void.
            if self._host.pause_seconds() <= 0:
                return self._clock.monotonic()
            self._host.leave(request)

    def succeeded(self) -> None:
        """Tells that the service served a request: after some of them the rate grows a little."""
        with self._lock:
            self._successes += 1
            if self._successes >= RECOVERY_SUCCESSES:
                self._successes = 0
                self._rate = min(self._pace.max_rate, self._rate + RECOVERY_FRACTION * self._pace.max_rate)
                self._host.recovered(self.name, self._rate)

    def answered(self) -> None:
        """Tells that a usable answer came: closes the host's circuit breaker."""
        self._host.answered()

    def failed(self, began: float) -> None:
        """Tells that a request, begun then, brought no usable answer."""
        self._host.failed(began)

    def throttled(self, began: float, retry_after_seconds: float | None, pauses: Sequence[float] | None = None) -> None:
        """Tells that the host asked to slow down: halves this lane's rate and pauses the host.

        Args:
            began: when the refused request began.
            retry_after_seconds: the time the host named, if any; a lower bound.
            pauses: pause lengths by level where the host named no time; the pace's own when None.
        """
        with self._lock:
            rate = max(self._rate / 2, min(MIN_RATE, self._pace.start_rate))
            steps = self._pace.pauses if pauses is None else pauses
            if self._host.pause(began, retry_after_seconds, steps, {self.name: rate}):
                self._successes = 0
                self._rate = rate

    def hold(self, seconds: float) -> None:
        """Pauses the host without lowering the rate (a busy server that named a time)."""
        self._host.hold(seconds)

    def hold_until(self, until: datetime) -> None:
        """Pauses the host until a time of day (a daily quota), without lowering the rate."""
        self._host.hold((until - self._clock.now()).total_seconds())
