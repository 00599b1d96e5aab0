"""Politeness as data: how fast each service may be asked, and whether a client kept to it.

The limits are those of the service contracts (sections 2.1, 4.2 and 8). They are checked on the server's side, by the
server's clock, so that no client can misjudge itself. A client spaces its requests when it sends them; on the way each
is late by up to the jitter. So a limit of N requests in W seconds counts as broken when N + 1 requests arrive in less
than W minus the jitter, and a silence counts as broken by a request that arrives later than the jitter after it was
asked for.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import MappingProxyType

from k700_text.errors import ConfigError
from k700_text.sandbox.messages import LoggedRequest

MAX_TOLD = 100
HOSTS: Mapping[str, str] = MappingProxyType(
    {
        "oembed": "www.youtube.com",
        "data-api": "www.googleapis.com",
        "thumbnail": "i.ytimg.com",
        "wayback": "web.archive.org",
        "wayback-cdx": "web.archive.org",
        "wayback-available": "archive.org",
        "archive-item": "archive.org",
    }
)
"""The real host of a service; a service that is not listed has one of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateBudget:
    """At most ``num_requests`` to a service within any ``window_seconds``."""

    service: str
    num_requests: int
    window_seconds: float


PUBLISHED_RATES = (
    RateBudget(service="wayback-cdx", num_requests=24, window_seconds=60.0),
    RateBudget(service="wayback", num_requests=8, window_seconds=1.0),
    RateBudget(service="wayback", num_requests=80, window_seconds=10.0),
    RateBudget(service="wayback", num_requests=480, window_seconds=60.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """What a polite client keeps to."""

    rates: tuple[RateBudget, ...] = PUBLISHED_RATES
    """Requests within sliding windows."""
    max_ids: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({"data-api": 50}))
    """Videos in one request, by service."""
    max_concurrent: int = 32
    """Requests under way at one host."""
    jitter_seconds: float = 0.25
    """How late a request or an answer may be on its way, by the server's clock: a clock that is N times faster than
    the wall needs N times as much. A window that is no longer than this is not checked."""

    def __post_init__(self) -> None:
        if self.jitter_seconds < 0 or self.max_concurrent < 1:
            raise ConfigError("budgets need a jitter of at least 0 s and at least one request under way")


class BudgetWatch:
    """Checks requests as they come, in little memory; safe to share between threads.

    Args:
        budgets: what is allowed.
    """

    def __init__(self, budgets: Budgets | None = None) -> None:
        self._budgets = budgets or Budgets()
        self._lock = threading.Lock()
        rates = [rate for rate in self._budgets.rates if rate.window_seconds > self._budgets.jitter_seconds]
        self._rates = {rate.service: [each for each in rates if each.service == rate.service] for rate in rates}
        self._recent = {rate: deque[float](maxlen=rate.num_requests) for rate in rates}
        self._under_way: Counter[str] = Counter()
        self._silences: dict[str, tuple[float, float]] = {}
        self._told: list[str] = []
        self._num_untold = 0

    @property
    def violations(self) -> list[str]:
        """One sentence for each broken limit, in order; past the first hundred only their number."""
        with self._lock:
            return [*self._told, *([f"and {self._num_untold} more"] if self._num_untold else [])]

    def began(self, service: str, moment: float, num_ids: int) -> None:
        """Takes note of a request.

        Args:
            service: who is asked.
            moment: seconds by the server's clock, never earlier than that of the request before.
            num_ids: videos asked about.
        """
        host = HOSTS.get(service, service)
        with self._lock:
            self._under_way[host] += 1
            if self._under_way[host] > self._budgets.max_concurrent:
                self._tell(f"{host}: {self._under_way[host]} requests under way at {moment:.3f}")
            if num_ids > self._budgets.max_ids.get(service, num_ids):
                self._tell(f"{service}: {num_ids} ids in one request at {moment:.3f}")
            self._check_silence(service, host, moment)
            for rate in self._rates.get(service, ()):
                self._check_rate(rate, moment)

    def answered(self, service: str, moment: float, retry_after: str) -> None:
        """Takes note of an answer, and of the silence that its Retry-After header (if any) asks for."""
        host = HOSTS.get(service, service)
        with self._lock:
            self._under_way[host] -= 1
            seconds = retry_after_seconds(retry_after, moment) if retry_after else None
            if seconds is not None:
                start, end = self._silences.get(host, (moment, moment))
                self._silences[host] = (start if end > moment else moment, max(end, moment + seconds))

    def _check_silence(self, service: str, host: str, moment: float) -> None:
        start, end = self._silences.get(host, (moment, moment))
        jitter = self._budgets.jitter_seconds
        if start + jitter < moment < end - jitter:
            self._tell(f"{service}: asked at {moment:.3f}, {end - moment:.3f} s before {host} may be asked again")

    def _check_rate(self, rate: RateBudget, moment: float) -> None:
        recent = self._recent[rate]
        if len(recent) == rate.num_requests:
            took = moment - recent[0]
            if took < rate.window_seconds - self._budgets.jitter_seconds:
                allowed = f"{rate.num_requests} in {rate.window_seconds:g} s are allowed"
                self._tell(
                    f"{rate.service}: {rate.num_requests + 1} requests in {took:.3f} s at {moment:.3f}: {allowed}"
                )
        recent.append(moment)

    def _tell(self, sentence: str) -> None:
        if len(self._told) < MAX_TOLD:
            self._told.append(sentence)
        else:
            self._num_untold += 1


def retry_after_seconds(header: str, now: float) -> float | None:
    """Returns the silence that a Retry-After header asks for, seconds or HTTP date; None where it is unreadable."""
    if header.isdecimal():
        return float(header)
    try:
        return parsedate_to_datetime(header).timestamp() - now
    except ValueError:
        return None


def budget_violations(log: Iterable[LoggedRequest], budgets: Budgets | None = None) -> list[str]:
    """Returns one sentence for each limit that the requests of a log break; empty for a polite client.

    Args:
        log: a server's whole log, in any order.
        budgets: what is allowed; the published limits when None.
    """
    watch = BudgetWatch(budgets)
    # At the same moment answers come first: the request that an answer made possible was not under way with it.
    events = [(logged.time, 1, logged) for logged in log]
    events += [(logged.answered_at, 0 if logged.answered_at > logged.time else 2, logged) for _, _, logged in events]
    for moment, kind, logged in sorted(events, key=lambda event: event[:2]):
        if kind == 1:
            watch.began(logged.service, moment, len(logged.youtube_ids))
        else:
            watch.answered(logged.service, moment, logged.retry_after)
    return watch.violations
