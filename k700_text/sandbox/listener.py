"""The sockets of the sandbox server: listens on a port, reads requests, writes what the server decides.

Requests are parsed by hand: the standard handler's header parser costs more than all the rest of a request.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from socketserver import StreamRequestHandler, TCPServer, ThreadingMixIn

from k700_text.sandbox.messages import Delivery, Request, Response

Handle = Callable[[Request, Callable[[float], bool]], Delivery]
"""Decides about a request; given a wait that returns True as soon as nobody wants the answer any more."""

_MAX_HEADERS = 100
_MAX_LINE = 65_536
_MAX_POST = 1 << 20
_PIECES = 20
_LOOK_SECONDS = 0.05
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Listener(ThreadingMixIn, TCPServer):
    """One open port, served by threads of its own until ``close``.

    Args:
        address: host and port; port 0 takes a free one.
        handle: decides about each request.

    Raises:
        OSError: the port is taken.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], handle: Handle) -> None:
        self.handle = handle
        self.is_closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        try:
            super().__init__(address, _Connection)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{address[0]}:{address[1]}") from error
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="sandbox", daemon=True)

    def start(self) -> None:
        """Begins to serve."""
        self._thread.start()

    def close(self) -> None:
        """Frees the port and ends all connections; from now on it is really refused."""
        self.is_closing.set()
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()
        with self._open_lock:
            for connection in self._open:
                _hang_up(connection)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Remembers the connection, and serves it in a thread."""
        assert isinstance(request, socket.socket)
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """Forgets the connection, and closes it."""
        assert isinstance(request, socket.socket)
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Stays silent about clients that went away; anything else is our own bug and is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Connection(StreamRequestHandler):
    """One connection, kept alive from request to request."""

    disable_nagle_algorithm = True
    server: Listener

    def setup(self) -> None:
        super().setup()
        self._header_lines: list[bytes] = []
        self._headers: dict[str, str] = {}

    def handle(self) -> None:
        while self._handle_one():
            pass

    def _handle_one(self) -> bool:
        line = self.rfile.readline(_MAX_LINE)
        if not line.strip():
            return False
        words = line.decode("latin-1").split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            self.wfile.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        headers = self._read_headers()
        length = headers.get("content-length", "")
        body = self.rfile.read(min(int(length), _MAX_POST)) if length.isdecimal() else b""
        delivery = self.server.handle(Request(words[0], _origin_form(words[1]), headers, body), self._wait)
        wants_close = headers.get("connection", "").lower() == "close"
        return self._deliver(delivery, words[0], is_http10=words[2] == "HTTP/1.0", wants_close=wants_close)

    def _deliver(self, delivery: Delivery, method: str, *, is_http10: bool, wants_close: bool) -> bool:
        """Sends the answer; returns whether the connection stays open."""
        if delivery.response is None:
            _hang_up(self.connection)
            return False
        is_last = delivery.truncate or wants_close or is_http10
        head, body = serialise(delivery.response, method, delivery.date, is_last=is_last, is_http10=is_http10)
        if delivery.truncate:
            body = body[: len(body) // 2]
        if not delivery.dribble_seconds:
            self.wfile.write(head + body)
            return not is_last
        self.wfile.write(head)
        size = max(1, -(-len(body) // _PIECES))
        for start in range(0, len(body), size):
            if self._wait(delivery.dribble_seconds / _PIECES):
                return False
            self.wfile.write(body[start : start + size])
        return not is_last

    def _read_headers(self) -> dict[str, str]:
        lines: list[bytes] = []
        for _ in range(_MAX_HEADERS):
            line = self.rfile.readline(_MAX_LINE)
            if line in (b"\r\n", b"\n", b""):
                break
            lines.append(line)
        if lines != self._header_lines:
            # Most clients send the same headers each time: then the log holds them once per connection.
            pairs = (line.decode("latin-1").partition(":") for line in lines)
            self._header_lines = lines
            self._headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        return self._headers

    def _wait(self, seconds: float) -> bool:
        """Waits; returns True, early, when the server closes or the client has left."""
        while seconds > 0:
            step = min(seconds, _LOOK_SECONDS)
            if self.server.is_closing.wait(step) or self._has_left():
                return True
            seconds -= step
        return self.server.is_closing.is_set()

    def _has_left(self) -> bool:
        try:
            return len(self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)) == 0
        except BlockingIOError:
            return False
        except OSError:
            return True


def _origin_form(target: str) -> str:
    """Returns the target without scheme and host, which a client may send (and does to a proxy)."""
    if not target.startswith("http://"):
        return target
    return "/" + target.removeprefix("http://").partition("/")[2]


def serialise(response: Response, method: str, date: str, *, is_last: bool, is_http10: bool) -> tuple[bytes, bytes]:
    """Returns the head and the body of a response as they go over the wire."""
    names = {name.lower() for name, _ in response.headers}
    lines = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Unknown')}", f"Date: {date}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    has_body = response.status not in (204, 304)
    is_chunked = response.is_chunked and has_body and method != "HEAD" and not is_http10
    if is_chunked:
        lines.append("Transfer-Encoding: chunked")
    elif has_body and "content-length" not in names:
        lines.append(f"Content-Length: {len(response.body)}")
    if is_last:
        lines.append("Connection: close")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
    if method == "HEAD" or not has_body:
        return head, b""
    if is_chunked:
        return head, b"%x\r\n%s\r\n0\r\n\r\n" % (len(response.body), response.body)
    return head, response.body


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # The client was quicker.
