"""A storm over the services: seeded faults, as the real network and the real hosts have them.

What happens to a request depends on the storm's seed, the service, the address asked and how often it was asked before,
not on the order of requests or on threads (but for the last of the counted pauses). No address meets more than
``max_in_a_row`` faults in a row, and no service asks for more than a number of pauses, so a client that tries again and
keeps the pauses comes to an end.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from enum import StrEnum
from hashlib import blake2b
from random import Random
from types import MappingProxyType

from k700_text.errors import ConfigError
from k700_text.records import Availability
from k700_text.sandbox.archive_guard import too_many_requests
from k700_text.sandbox.messages import Answer, Request, Response, Service
from k700_text.sandbox.scene import seeded
from k700_text.sandbox.services.data_api_errors import backend_error, rate_limit_exceeded, resource_exhausted
from k700_text.sandbox.services.watch_page import sorry_page, watch_page
from k700_text.sandbox.world import SandboxVideo, World

_KEY_PARAMETER = re.compile(r"([?&]key=)[^&]*")
_HTML = "text/html; charset=utf-8"
_NO_JSON = ("upstream connect error or disconnect/reset before headers", '{"title": "half an ans', ")]}'\n[]", "null")
_SORRY_URL = "https://www.google.com/sorry/index?continue=https://www.youtube.com/"


class Fault(StrEnum):
    """What can happen to a request."""

    SERVER_ERROR = "server-error"
    """500, 502, 503, 504 or 599."""
    RESET = "reset"
    """The connection is closed without an answer."""
    TRUNCATED = "truncated"
    """Half of the announced body."""
    SLOW = "slow"
    """The body comes in drops."""
    HANG = "hang"
    """No answer for longer than a client waits."""
    RATE_LIMIT = "rate-limit"
    """429 (or the Data API's 403) that names no time."""
    RETRY_AFTER_SECONDS = "retry-after-seconds"
    """429, sometimes 503, with Retry-After in seconds."""
    RETRY_AFTER_DATE = "retry-after-date"
    """429 with Retry-After as a date."""
    BLOCK_PAGE = "block-page"
    """A page about unusual traffic under 200, 403 or 429, or a redirect to one."""
    OTHER_ID = "other-id"
    """A good answer about another video."""
    NOT_JSON = "not-json"
    """200 with something else in place of JSON; no page for people, which would be a block page."""
    EMPTY = "empty"
    """200 with nothing in it."""
    OFFLINE = "offline"
    """The archive's redirect to its page of excuses."""


DEFAULT_STORM: Mapping[Fault, float] = MappingProxyType(
    {
        Fault.SERVER_ERROR: 0.03,
        Fault.RESET: 0.015,
        Fault.TRUNCATED: 0.015,
        Fault.SLOW: 0.005,
        Fault.HANG: 0.001,
        Fault.RATE_LIMIT: 0.001,
        Fault.RETRY_AFTER_SECONDS: 0.002,
        Fault.RETRY_AFTER_DATE: 0.001,
        Fault.BLOCK_PAGE: 0.0005,
        Fault.OTHER_ID: 0.01,
        Fault.NOT_JSON: 0.005,
        Fault.EMPTY: 0.005,
        Fault.OFFLINE: 0.003,
    }
)
"""Share of the requests that meet each fault, where the service has it."""

_NETWORK = frozenset({Fault.SERVER_ERROR, Fault.RESET, Fault.TRUNCATED, Fault.SLOW, Fault.HANG})
_PAUSES = frozenset({Fault.RATE_LIMIT, Fault.RETRY_AFTER_SECONDS, Fault.RETRY_AFTER_DATE})
_COMMON = _NETWORK | _PAUSES
_BY_SERVICE: Mapping[str, frozenset[Fault]] = MappingProxyType(
    {
        "oembed": _COMMON | {Fault.BLOCK_PAGE, Fault.OTHER_ID, Fault.NOT_JSON, Fault.EMPTY},
        "data-api": _COMMON | {Fault.OTHER_ID, Fault.NOT_JSON, Fault.EMPTY},
        "wayback": _COMMON | {Fault.OTHER_ID, Fault.EMPTY, Fault.OFFLINE},
        "wayback-cdx": _COMMON | {Fault.NOT_JSON, Fault.EMPTY, Fault.OFFLINE},
        "archive-item": _COMMON | {Fault.NOT_JSON, Fault.EMPTY},
        "annotations": _NETWORK,
        "cvdf": _NETWORK,
    }
)


def faults_of(service: str) -> frozenset[Fault]:
    """Returns the faults that make sense for a service."""
    return _BY_SERVICE.get(service, _COMMON)


@dataclass(frozen=True, slots=True)
class Strike:
    """What happens to one request: the answer it gets, and whether a good answer is about another video."""

    answer: Answer = field(default_factory=Answer)
    fault: Fault | None = None
    is_about_another: bool = False

    @property
    def name(self) -> str:
        """The fault's name, empty without one."""
        return "" if self.fault is None else self.fault.value


CALM = Strike()


class Storm:
    """Decides what happens to each request; safe to share between threads.

    Args:
        seed: another seed is another storm.
        shares: share of the requests that meet each fault, where the service has it.
        hang_seconds: how long a hanging request hangs (wall clock); longer than the client waits.
        slow_seconds: how long a slow body takes (wall clock).
        retry_after_seconds: shortest and longest silence asked for (server's clock).
        max_in_a_row: faults that one address meets at most before it is answered.
        max_pauses: pauses (429 and alike) that a service asks for at most.
        max_blocks: block pages that a service shows at most.

    Attributes:
        struck: how often each fault met each service.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        shares: Mapping[Fault, float] = DEFAULT_STORM,
        hang_seconds: float = 30.0,
        slow_seconds: float = 2.0,
        retry_after_seconds: tuple[int, int] = (2, 20),
        max_in_a_row: int = 3,
        max_pauses: int = 10,
        max_blocks: int = 2,
    ) -> None:
        if any(share < 0 for share in shares.values()) or sum(shares.values()) > 1:
            raise ConfigError("shares of a storm must not be negative, and add up to at most 1")
        self._seed, self._shares = seed, shares
        self._hang_seconds, self._slow_seconds = hang_seconds, slow_seconds
        self._retry_after_seconds = retry_after_seconds
        self._max_in_a_row, self._max_pauses, self._max_blocks = max_in_a_row, max_pauses, max_blocks
        self._lock = threading.Lock()
        self._num_asked: Counter[bytes] = Counter()
        self._in_a_row: Counter[bytes] = Counter()
        self.struck: Counter[tuple[str, Fault]] = Counter()

    def strike(self, service: str, request: Request, now: float) -> Strike:
        """Returns what happens to a request.

        Args:
            service: who is asked.
            request: what is asked.
            now: seconds by the server's clock, for Retry-After dates.
        """
        # The API key is no part of what is asked.
        address = _KEY_PARAMETER.sub(r"\1", request.target)
        asked = f"{service} {request.method} {address}\0".encode("utf-8", "replace") + request.body
        key = blake2b(asked, digest_size=12).digest()
        with self._lock:
            attempt = self._num_asked[key]
            self._num_asked[key] += 1
            rng = seeded("storm", self._seed, key.hex(), attempt)
            fault = self._draw(service, rng)
            if fault is None or self._in_a_row[key] >= self._max_in_a_row or self._has_enough(service, fault):
                self._in_a_row.pop(key, None)
                return CALM
            self._in_a_row[key] += 1
            self.struck[service, fault] += 1
        return self._strike(fault, service, rng, now)

    def _draw(self, service: str, rng: Random) -> Fault | None:
        draw, suitable = rng.random(), faults_of(service)
        for fault, share in self._shares.items():
            draw -= share
            if draw < 0:
                return fault if fault in suitable else None
        return None

    def _has_enough(self, service: str, fault: Fault) -> bool:
        if fault is Fault.BLOCK_PAGE:
            return self.struck[service, fault] >= self._max_blocks
        return fault in _PAUSES and sum(self.struck[service, each] for each in _PAUSES) >= self._max_pauses

    def _strike(self, fault: Fault, service: str, rng: Random, now: float) -> Strike:
        match fault:
            case Fault.RESET:
                answer = Answer(reset=True)
            case Fault.TRUNCATED:
                answer = Answer(truncate=True)
            case Fault.SLOW:
                answer = Answer(dribble_seconds=self._slow_seconds)
            case Fault.HANG:
                answer = Answer(delay_seconds=self._hang_seconds)
            case Fault.OTHER_ID:
                return Strike(Answer(), fault, is_about_another=True)
            case Fault.SERVER_ERROR:
                answer = _server_error(service, rng)
            case Fault.RATE_LIMIT:
                answer = _rate_limit(service, rng)
            case Fault.RETRY_AFTER_SECONDS | Fault.RETRY_AFTER_DATE:
                answer = self._retry_after(fault, service, rng, now)
            case Fault.BLOCK_PAGE:
                answer = _block_page(rng)
            case Fault.NOT_JSON:
                answer = Answer(200, {"Content-Type": "application/json"}, rng.choice(_NO_JSON))
            case Fault.EMPTY:
                answer = Answer(200, {"Content-Type": "text/plain" if service == "wayback-cdx" else _HTML})
            case Fault.OFFLINE:
                answer = Answer(302, {"Location": "/sry", "Content-Type": _HTML})
        return Strike(answer, fault)

    def _retry_after(self, fault: Fault, service: str, rng: Random, now: float) -> Answer:
        seconds = rng.randint(*self._retry_after_seconds)
        # A date has whole seconds: rounded up, so that the silence is as long as meant.
        header = str(seconds) if fault is Fault.RETRY_AFTER_SECONDS else formatdate(now + seconds + 1, usegmt=True)
        is_busy = fault is Fault.RETRY_AFTER_SECONDS and rng.random() < 0.2
        answer = _server_error(service, rng, status=503) if is_busy else _rate_limit(service, rng, status=429)
        return replace(answer, headers={**answer.headers, "Retry-After": header})


def _server_error(service: str, rng: Random, status: int | None = None) -> Answer:
    statuses = (500, 502, 503, 504, 599) if service in ("wayback", "wayback-cdx") else (500, 502, 503, 504)
    status = status or rng.choice(statuses)
    if service == "data-api" and status in (500, 503):
        return Answer.of(backend_error(status))
    return Answer(status, {"Content-Type": _HTML}, f"<html><body><h1>{status} Server Error</h1></body></html>")


def _rate_limit(service: str, rng: Random, status: int | None = None) -> Answer:
    if service == "data-api":
        return Answer.of(rate_limit_exceeded() if status is None and rng.random() < 0.5 else resource_exhausted())
    if service in ("wayback", "wayback-cdx"):
        return Answer.of(too_many_requests(service))
    return Answer(429, {"Content-Type": _HTML}, "<html><body>Too Many Requests</body></html>")


def _block_page(rng: Random) -> Answer:
    status = rng.choice((200, 403, 429, 302))
    if status == 302:
        return Answer(302, {"Location": _SORRY_URL, "Content-Type": _HTML})
    return Answer(status, {"Content-Type": _HTML}, sorry_page())


def find_decoy(world: World) -> SandboxVideo:
    """Returns the video that wrong answers are about: public, with a title and archived."""
    videos = map(world.video, world.random_ids("decoys"))
    return next(
        video
        for video in videos
        if video.availability is Availability.PUBLIC and world.recoverable_title(video.youtube_id)
    )


def tell_of_another(service: Service, request: Request, decoy: SandboxVideo) -> Response:
    """Returns a service's good answer about another video than the one (or the first) that was asked about."""
    ids = service.youtube_ids(request)
    if not ids or decoy.youtube_id in ids:
        return service.answer(request)
    if service.name != "wayback":
        return service.answer(replace(request, target=request.target.replace(ids[0], decoy.youtube_id)))
    # A redirect to another address would give it away: the page itself is the other one's.
    ordinary = service.answer(request)
    if ordinary.status != 200 or not ordinary.header("memento-datetime"):
        return ordinary
    headers = tuple((name, value) for name, value in ordinary.headers if name.lower() != "content-encoding")
    return Response(200, headers, watch_page(decoy, decoy.captures[0]).encode())
