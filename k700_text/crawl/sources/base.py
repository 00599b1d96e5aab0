"""What every source of titles offers to the crawler, and the meanings of a status that all of them share."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import ClassVar, Protocol

from k700_text.config import Pace
from k700_text.crawl.clock import utc_now
from k700_text.crawl.limiter import parse_retry_after
from k700_text.crawl.transport import Response, Transport, host_of, local_redirect, raise_if_blocked
from k700_text.errors import RateLimitedError, TransportError
from k700_text.records import TitleOutcome

MAX_REDIRECTS = 5
FAULT_STATUSES = frozenset({408, 500, 502, 503, 504, 520, 521, 522, 523, 524, 599})
RATE_LIMIT_STATUSES = frozenset({420, 429})

_DURATION = re.compile(
    r"P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?"
)
_UNIT_SECONDS = {"weeks": 604800.0, "days": 86400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}


class Get(Protocol):
    """Sends one request within the limits of its lane and host."""

    def __call__(
        self, url: str, params: Mapping[str, str] | None = None, *, method: str = "GET", lane: str | None = None
    ) -> Response:
        """Returns the answer, whatever its status; a redirect is an answer too (see ``follow``).

        Args:
            url: where to ask; without a query where ``params`` are given.
            params: the query.
            method: ``GET`` or ``HEAD``.
            lane: which of the source's lanes the request counts on; the source's own when None.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePlan:
    """What asking a source would cost.

    Attributes:
        source: its name.
        num_ids: videos to ask about, at most.
        num_requests: requests for them, at most.
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
        name: as in ``--sources`` and in the ledger.
        host: whose pauses apply; when one source is told to wait, every source of the host waits.
        batch_size: videos per request.
        pace: how fast the service may be asked: the limits of the lane that carries the source's name.
        other_lanes: paces of further services that ``fetch`` asks, by lane; a lane is shared by all who name it.
        requests_per_batch: requests that a batch costs at most.
        daily_quota: quota units a day, None where the service has none; a request costs one.
        knows_titles: False for a witness, which only tells whether a video is alive; it is asked about videos whose
            state the others leave open.
        is_live: it knows the present. Sources of the past (an archive) are asked only about videos that the live ones
            have answered: a block of a live service does not pour its load on an archive.
        refused_seconds: how long to stay away after a refused connection (a firewall), None: as any other fault.
        place: under which name the host's pauses are kept; the host's own when empty.
        brings_own_transport: it does not use ``get``; the crawler takes one place in its lane for each batch, and
            gives it the transport of the crawl in ``transport``.
    """

    name: ClassVar[str]
    host: ClassVar[str]
    batch_size: ClassVar[int] = 1
    pace: ClassVar[Pace]
    other_lanes: ClassVar[Mapping[str, Pace]] = MappingProxyType({})
    requests_per_batch: ClassVar[int] = 1
    daily_quota: ClassVar[int | None] = None
    knows_titles: ClassVar[bool] = True
    is_live: ClassVar[bool] = True
    refused_seconds: ClassVar[float | None] = None
    brings_own_transport: ClassVar[bool] = False

    place: str = ""
    transport: Transport | None = None

    def plan(self, num_ids: int, rate: float, daily_quota: int | None) -> SourcePlan:
        """Returns what asking about so many videos costs at most.

        Args:
            num_ids: number of videos.
            rate: requests per second.
            daily_quota: requests a day, None: as many as one likes.
        """
        num_requests = math.ceil(num_ids / self.batch_size) * self.requests_per_batch
        full_days = max(0, math.ceil(num_requests / daily_quota) - 1) if daily_quota else 0
        rest = num_requests - full_days * (daily_quota or 0)
        return SourcePlan(
            source=self.name,
            num_ids=num_ids,
            num_requests=num_requests,
            quota_units=num_requests if daily_quota else 0,
            hours=full_days * 24 + rest / rate / 3600,
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


def follow(
    get: Get, url: str, params: Mapping[str, str] | None = None, *, method: str = "GET", lane: str | None = None
) -> tuple[str, Response]:
    """Asks and follows redirects within the host; returns the last address and its answer.

    Every hop is a request of its own within the limits. A redirect to another host is not followed: it is the answer.

    Raises:
        TransportError: too many redirects.
    """
    for _ in range(MAX_REDIRECTS + 1):
        response = get(url, params, method=method, lane=lane)
        target = local_redirect(url, response)
        if target is None:
            return url, response
        url, params = target, None
    raise TransportError(f"{host_of(url)} redirects in a circle", host=host_of(url))


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
    """Returns the seconds that the answer asks us to wait, if it names a time.

    A date is taken relative to the answer's own Date: our clock may be wrong.
    """
    try:
        now = parsedate_to_datetime(response.headers.get("date", ""))
    except (ValueError, OverflowError):
        now = utc_now()
    return parse_retry_after(response.headers, now if now.tzinfo else now.replace(tzinfo=UTC))


def parse_duration(text: object) -> float | None:
    """Returns the seconds of an ISO 8601 duration; None for zero (live, unprocessed) and for anything else.

    Args:
        text: for example ``PT2M33S`` or ``P1DT2H``.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    seconds = sum(_UNIT_SECONDS[unit] * float(value) for unit, value in match.groupdict().items() if value)
    return seconds if 0 < seconds < math.inf else None


def parse_time(text: object) -> datetime | None:
    """Returns the moment (UTC) that an RFC 3339 text names, None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
