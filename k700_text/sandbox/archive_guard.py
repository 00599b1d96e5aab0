"""How the web archive enforces its limits: 429 at first, and no connection at all for those who go on.

Section 4.2 of the service contracts: 30 index requests and 600 captures a minute; an address that goes on for more than
a minute after a 429 meets a firewall for an hour, for twice as long each further time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType

from k700_text.sandbox.messages import Response

HARD_LIMITS: Mapping[str, int] = MappingProxyType({"wayback-cdx": 30, "wayback": 600})
"""Requests a minute that are still answered, by service."""

PATIENCE_SECONDS = 60.0
"""How long a client may go on after a 429."""

QUIET_SECONDS = 30.0
"""A pause of this length counts as having listened to the 429."""

FIRST_BLOCK_SECONDS = 3600.0
"""Length of the first firewall block; the next is twice as long."""

_TOO_MANY = (
    b"<html><head><title>429 Too Many Requests</title></head><body><h1>Too Many Requests</h1>"
    b"<p>You have sent too many requests in a given amount of time.</p></body></html>"
)


class ArchiveGuard:
    """Counts the requests of one client and decides what it gets; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent = {service: deque[float]() for service in HARD_LIMITS}
        self._warned_at: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._until = float("-inf")
        self._block_seconds = FIRST_BLOCK_SECONDS

    def is_blocked(self, now: float) -> bool:
        """Tells whether the firewall is up."""
        return now < self._until

    def block(self, until: float) -> None:
        """Puts the firewall up until a moment, whatever the client did."""
        with self._lock:
            self._until = max(self._until, until)

    def refuse(self, service: str, now: float) -> Response | None:
        """Returns the refusal of a request, None for one within the limits.

        Args:
            service: who is asked; services of other hosts have no limits here.
            now: seconds by the server's clock.
        """
        if service not in HARD_LIMITS:
            return None
        with self._lock:
            self._watch_patience(service, now)
            recent = self._recent[service]
            while recent and recent[0] <= now - 60:
                recent.popleft()
            if len(recent) < HARD_LIMITS[service]:
                recent.append(now)
                return None
            self._warned_at.setdefault(service, now)
        return too_many_requests(service)

    def _watch_patience(self, service: str, now: float) -> None:
        if now - self._last.get(service, now) >= QUIET_SECONDS:
            self._warned_at.pop(service, None)
        self._last[service] = now
        if now - self._warned_at.get(service, now) > PATIENCE_SECONDS:
            self._until = max(self._until, now + self._block_seconds)
            self._block_seconds *= 2
            self._warned_at.clear()


def too_many_requests(service: str) -> Response:
    """Returns the archive's 429: no Retry-After; captures carry two headers of the limiter."""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "text/html; charset=utf-8"), ("Server", "nginx"))
    if service == "wayback":
        headers += (("x-rl", "1"), ("x-ts", "429"))
    return Response(429, headers, _TOO_MANY)
