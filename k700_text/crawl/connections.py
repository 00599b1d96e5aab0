"""Connections that end when the time of their request is over, whatever the server sends.

The timeout of a socket bounds one silence, not a request: a server that sends a byte now and then holds it for ever, in
a status line, a header, the size of a chunk, a trailer, or compressed data that unpack to nothing. So every request has
a deadline, and a watchdog (a thread) shuts the connection down when it is over: whoever waits for it wakes up at once.
A name that is not resolved and a handshake that drips are bounded in the same way.
"""

from __future__ import annotations

import ipaddress
import itertools
import math
import queue
import socket
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import urllib3
from urllib3.util.connection import allowed_gai_family, create_connection

LOOK_SECONDS = 0.1


class Deadline:
    """When one request has to be over, and the connection that it uses.

    Attributes:
        at: time (monotonic).
        is_over: the connection was shut down: whatever was read is no answer.
    """

    __slots__ = ("_copy", "_socket", "at", "is_over")

    def __init__(self, at: float) -> None:
        self.at = at
        self.is_over = False
        self._socket: Any = None
        self._copy: socket.socket | None = None

    def watch_opening(self, sock: socket.socket) -> None:
        """Names a new connection. A copy is kept: while TLS begins, the socket itself changes hands."""
        self._copy = self._socket = sock.dup()
        self._catch_up()

    def watch(self, sock: Any) -> None:
        """Names the connection on which the answer comes."""
        self._socket = sock
        self._close_copy()
        self._catch_up()

    def expire(self) -> None:
        """Shuts the connection down."""
        self.is_over = True
        self._catch_up()

    def release(self) -> None:
        """Lets the connection go."""
        self._socket = None
        self._close_copy()

    def _close_copy(self) -> None:
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def _catch_up(self) -> None:
        if self.is_over and self._socket is not None:
            # TLS within the TLS of a proxy is no socket, but has one. And past TLS, whose own way of shutting down
            # would take the connection apart under the thread that reads it.
            with suppress(OSError, ValueError):
                socket.socket.shutdown(getattr(self._socket, "socket", self._socket), socket.SHUT_RDWR)


class Watchdog:
    """Shuts the connections of late requests down."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deadlines: set[Deadline] = set()
        self._latest = math.inf
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        weakref.finalize(self, self._closed.set)

    def begin(self, seconds: float) -> Deadline:
        """Returns the deadline of a request of this thread, which has so long; to be given to ``end``."""
        with self._lock:
            deadline = Deadline(min(time.monotonic() + seconds, self._latest))
            self._deadlines.add(deadline)
            if self._thread is None:
                # It holds no reference to the watchdog: one that nobody needs any more takes its thread along.
                arguments = (self._lock, self._deadlines, self._closed)
                self._thread = threading.Thread(target=_keep_looking, args=arguments, name="watchdog", daemon=True)
                self._thread.start()
        _current.deadline = deadline
        return deadline

    def end(self, deadline: Deadline) -> None:
        """Tells that a request is over: from now on its connection may serve another one."""
        _current.deadline = None
        with self._lock:
            self._deadlines.discard(deadline)
            deadline.release()

    def hurry(self, seconds: float) -> None:
        """Gives all requests, present and coming, so long at most."""
        with self._lock:
            self._latest = min(self._latest, time.monotonic() + seconds)
            for deadline in self._deadlines:
                deadline.at = min(deadline.at, self._latest)

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()


def _keep_looking(lock: threading.Lock, deadlines: set[Deadline], closed: threading.Event) -> None:
    while not closed.wait(LOOK_SECONDS):
        # Under the lock: a connection that has been handed on is not to be shut down under its new user.
        with lock:
            now = time.monotonic()
            for deadline in deadlines:
                if deadline.at <= now:
                    deadline.expire()


class _Current(threading.local):
    deadline: Deadline | None = None


_current = _Current()


class _HTTPConnection(urllib3.connection.HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _opened(self)

    def getresponse(self) -> Any:
        _watch(self)
        return super().getresponse()


class _HTTPSConnection(urllib3.connection.HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _opened(self)

    def getresponse(self) -> Any:
        _watch(self)
        return super().getresponse()

    def _tunnel(self) -> None:
        super()._tunnel()
        # What a proxy has begun to say before it was cut short may look like consent.
        if _current.deadline is not None and _current.deadline.is_over:
            raise TimeoutError("the proxy does not open the way in time")


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


POOLS = {"http": _HTTPPool, "https": _HTTPSPool}
"""The kinds of pools whose connections know the deadline of their request, by scheme."""


def _watch(connection: Any) -> None:
    if _current.deadline is not None:
        _current.deadline.watch(connection.sock)


def _opened(connection: Any) -> socket.socket:
    """Opens a connection to the first address of a host that takes it, all in the time that one may take.

    Raises:
        OSError: none does; ``socket.gaierror`` where the name leads nowhere.
    """
    seconds = connection.timeout if isinstance(connection.timeout, int | float) else None
    until = math.inf if seconds is None else time.monotonic() + seconds
    if _current.deadline is not None:
        until = min(until, _current.deadline.at)
    problem: OSError = socket.gaierror(socket.EAI_NONAME, "the name leads to no address")
    addresses = _addresses(connection._dns_host, connection.port, until)
    for number, address in enumerate(addresses, 1):
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("no address takes the connection in time")
        if number < len(addresses):
            left /= 2  # One that swallows everything leaves time for the next.
        try:
            sock: socket.socket = create_connection(
                (address, connection.port),
                None if math.isinf(left) else left,
                source_address=connection.source_address,
                socket_options=connection.socket_options,
            )
        except OSError as error:
            problem = error
            continue
        # What comes next, TLS or the way through a proxy, has its own time.
        sock.settimeout(seconds)
        if _current.deadline is not None:
            _current.deadline.watch_opening(sock)
        return sock
    raise problem


def _addresses(host: str, port: int, until: float) -> list[str]:
    """Returns the addresses of a host; a resolver that hangs is left behind.

    Raises:
        OSError, UnicodeError: the name leads nowhere, or not in time.
    """
    with suppress(ValueError):
        return [str(ipaddress.ip_address(host.strip("[]")))]
    answer: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            found = socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM)
            answer.put(_interleaved([(entry[0], str(entry[4][0])) for entry in found]))
        except (OSError, UnicodeError) as error:
            answer.put(error)

    threading.Thread(target=resolve, name="resolver", daemon=True).start()
    try:
        found = answer.get(timeout=None if math.isinf(until) else max(0.0, until - time.monotonic()))
    except queue.Empty:
        raise socket.gaierror(socket.EAI_AGAIN, "the name is not resolved in time") from None
    if isinstance(found, Exception):
        raise found
    return found


def _interleaved(addresses: Sequence[tuple[int, str]]) -> list[str]:
    """Returns addresses with their families in turn: where IPv6 leads nowhere, IPv4 comes second (RFC 8305)."""
    sorts: dict[int, list[str]] = {}
    for family, address in addresses:
        sorts.setdefault(family, []).append(address)
    return [address for turn in itertools.zip_longest(*sorts.values()) for address in turn if address is not None]
