"""What every source of titles offers to the crawler, and the meanings of a status that all of them share."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Protocol

from k700_text.crawl.limiter import Pace, parse_retry_after
from k700_text.crawl.transport import Response, raise_if_blocked
from k700_text.errors import RateLimitedError, TransportError
from k700_text.records import TitleOutcome

FAULT_STATUSES = frozenset({408, 500, 502, 503, 504, 520, 521, 522, 523, 524, 599})
RATE_LIMIT_STATUSES = frozenset({420, 429})

_DURATION = re.compile(
    r"P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?"
)
_UNIT_SECONDS = {"weeks": 604800.0, "days": 86400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}


class Get(Protocol):
    """Sends one request within the limits of the host."""

    def __call__(self, url: str, params: Mapping[str, str]) -> Response:
        """Returns the answer, whatever its status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePlan:
    """What asking a source would cost.

    Attributes:
        source: its name.
        num_ids: videos to ask about, at most.
        num_requests: requests for them.
        quota_units: units of a daily quota, 0 where the service has none.
        hours: time at the source's pace, days of waiting for a quota included.
    """

    source: str
    num_ids: int
    num_requests: int
    quota_units: int
    hours: float


class Source(ABC):
    """One service that knows titles.

    Attributes:
        name: as in ``--sources`` and in the manifest.
        host: whose limits apply; sources of one host share a limiter.
        batch_size: videos per request.
        pace: how fast the host may be asked.
        daily_quota: quota units a day, None where the service has none; a request costs one.
    """

    name: ClassVar[str]
    host: ClassVar[str]
    batch_size: ClassVar[int] = 1
    pace: ClassVar[Pace]
    daily_quota: ClassVar[int | None] = None

    def plan(self, num_ids: int, rate: float | None = None) -> SourcePlan:
        """Returns what asking about so many videos costs.

        Args:
            num_ids: number of videos.
            rate: requests per second; the source's own top rate when None.
        """
        num_requests = math.ceil(num_ids / self.batch_size)
        hours = num_requests / (rate or self.pace.max_rate) / 3600
        if self.daily_quota is None:
            return SourcePlan(source=self.name, num_ids=num_ids, num_requests=num_requests, quota_units=0, hours=hours)
        full_days = max(0, math.ceil(num_requests / self.daily_quota) - 1)
        rest = num_requests - full_days * self.daily_quota
        hours = full_days * 24 + rest / (rate or self.pace.max_rate) / 3600
        return SourcePlan(
            source=self.name, num_ids=num_ids, num_requests=num_requests, quota_units=num_requests, hours=hours
        )

    @abstractmethod
    def fetch(self, ids: Sequence[str], get: Get) -> list[TitleOutcome]:
        """Asks about up to ``batch_size`` videos and returns the outcomes that are certain by now.

        Raises:
            RateLimitedError: the host wants us to slow down; nothing is known about the videos.
            BlockedError: a block page.
            QuotaExhaustedError: the daily quota is used up.
            CredentialError: the key is refused.
            TransportError: no usable answer; worth another try.
            ParseError: an answer that is not what the service documents; worth another try.
        """

    def drain(self) -> list[TitleOutcome]:
        """Returns outcomes held back until now, when no request is under way."""
        return []


def raise_for_status(response: Response, host: str) -> None:
    """Raises for the statuses that say nothing about a video, whatever the service.

    Raises:
        RateLimitedError: 420, 429.
        BlockedError: a block page under any status.
        TransportError: a fault of the server.
    """
    if response.status in RATE_LIMIT_STATUSES:
        raise RateLimitedError(
            f"{host} asks to slow down (status {response.status})", host=host, retry_after_seconds=retry_after(response)
        )
    raise_if_blocked(response, host)
    if response.status in FAULT_STATUSES:
        raise TransportError(f"{host} has a fault (status {response.status})", host=host)


def retry_after(response: Response) -> float | None:
    """Returns the seconds that the answer asks us to wait, if it names a time."""
    return parse_retry_after(response.headers, datetime.now(UTC))


def parse_duration(text: object) -> float | None:
    """Returns the seconds of an ISO 8601 duration; None for zero (live, unprocessed) and for anything else.

    Args:
        text: for example ``PT2M33S`` or ``P1DT2H``.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    seconds = sum(_UNIT_SECONDS[unit] * float(value) for unit, value in match.groupdict().items() if value)
    return seconds or None


def parse_time(text: object) -> datetime | None:
    """Returns the moment (UTC) that an RFC 3339 text names, None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
