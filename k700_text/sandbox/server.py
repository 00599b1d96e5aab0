"""The sandbox's HTTP/1.1 server: all services on one port, each under the path that it has on its real host.

It keeps connections alive, answers what the services would answer, plays scripted answers first, and logs every
request.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable
from http import HTTPStatus
from socketserver import StreamRequestHandler, TCPServer, ThreadingMixIn
from types import TracebackType

from k700_text.records import Clip
from k700_text.sandbox.messages import Answer, LoggedRequest, Request, Response, Service
from k700_text.sandbox.services.annotations import Annotations
from k700_text.sandbox.services.archive_item import ArchiveItem
from k700_text.sandbox.services.data_api import DEFAULT_DAILY_QUOTA, DataApi
from k700_text.sandbox.services.oembed import Oembed
from k700_text.sandbox.services.thumbnail import Thumbnail
from k700_text.sandbox.services.wayback import Wayback, WaybackIndex
from k700_text.sandbox.world import World

UNKNOWN = "unknown"
_MAX_HEADERS = 100
_MAX_LINE = 65_536
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class SandboxServer:
    """Serves a world until the context is left.

    ``with SandboxServer(World(seed=0)) as server:`` then ask ``server.url`` + the service's own path.

    Args:
        world: where the videos live.
        clips: what the annotation archives list; without any, they answer 404.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        clock: seconds since 1970; stamps the log and decides when the quota is renewed.
        daily_quota: calls a day of the data API.
        api_keys: keys that the data API accepts; None accepts any.

    Raises:
        OSError: the port is taken.
    """

    def __init__(
        self,
        world: World,
        *,
        clips: Iterable[Clip] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
        daily_quota: int = DEFAULT_DAILY_QUOTA,
        api_keys: Collection[str] | None = None,
    ) -> None:
        self.world = world
        self._clock = clock
        self._services: tuple[Service, ...] = (
            Oembed(world),
            DataApi(world, clock, daily_quota, api_keys),
            Thumbnail(world),
            Wayback(world),
            WaybackIndex(world),
            ArchiveItem(world),
            Annotations(clips),
        )
        self._scripts: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self._log: list[LoggedRequest] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._listener = _Listener((host, port), self)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,), name="sandbox", daemon=True)

    def __enter__(self) -> SandboxServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._listener.shutdown()
        self._listener.close_connections()
        self._listener.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listener.server_address[1])

    @property
    def url(self) -> str:
        """Scheme, host and port: what goes behind ``--endpoint SOURCE=``."""
        return f"http://{self._listener.server_address[0]!s}:{self.port}"

    @property
    def services(self) -> tuple[str, ...]:
        """Names of the services."""
        return tuple(service.name for service in self._services)

    @property
    def requests(self) -> tuple[LoggedRequest, ...]:
        """The log so far, in the order in which the requests were answered."""
        with self._lock:
            return tuple(self._log)

    def count(self, service: str | None = None) -> int:
        """Returns how many requests a service (or ``unknown``, or all of them when None) got."""
        return sum(service in (None, logged.service) for logged in self.requests)

    def ids_asked(self, service: str) -> Counter[str]:
        """Returns how often each id was asked of a service."""
        return Counter(
            youtube_id for logged in self.requests if logged.service == service for youtube_id in logged.youtube_ids
        )

    def script(self, service: str, answers: Iterable[Answer]) -> None:
        """Queues answers that a service gives before it returns to its ordinary ones.

        Raises:
            ValueError: there is no such service.
        """
        if service not in (*self.services, UNKNOWN):
            raise ValueError(f"no service {service!r}: expected one of {', '.join((*self.services, UNKNOWN))}")
        with self._lock:
            self._scripts[service].extend(answers)

    def handle(self, request: Request) -> tuple[Response | None, bool]:
        """Answers one request and logs it.

        Returns:
            The response (None: close the connection without one), and whether to cut its body.
        """
        now = self._clock()
        path = request.path
        service = next((service for service in self._services if service.owns(path)), None)
        name = UNKNOWN if service is None else service.name
        with self._lock:
            script = self._scripts.get(name)
            answer = script.popleft() if script else Answer()
        if answer.delay_seconds:
            self._stopping.wait(answer.delay_seconds)
        response: Response | None = None
        if not answer.reset:
            response = answer.response() if answer.status is not None else _ordinary(service, request)
        logged = LoggedRequest(
            time=now,
            method=request.method,
            path=path,
            query=request.query,
            service=name,
            youtube_ids=() if service is None else service.youtube_ids(request),
            status=0 if response is None else response.status,
            user_agent=request.header("user-agent"),
            headers=request.headers,
        )
        with self._lock:
            self._log.append(logged)
        return response, answer.truncate


def _ordinary(service: Service | None, request: Request) -> Response:
    if service is None:
        return Response(404, (("Content-Type", "text/plain; charset=utf-8"),), b"no service has this path\n")
    if request.method not in ("GET", "HEAD"):
        return Response(405, (("Allow", "GET, HEAD"), ("Content-Type", "text/plain")), b"Method Not Allowed")
    return service.answer(request)


class _Listener(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], sandbox: SandboxServer) -> None:
        self.sandbox = sandbox
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        try:
            super().__init__(address, _Connection)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{address[0]}:{address[1]}") from error

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        assert isinstance(request, socket.socket)
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        assert isinstance(request, socket.socket)
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Ends the connections that clients keep alive; their threads then close them."""
        with self._open_lock:
            for connection in self._open:
                _hang_up(connection)

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Stays silent about clients that went away; anything else is our own bug and is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Connection(StreamRequestHandler):
    """One connection. Parsed by hand: the standard handler's header parser costs more than all the rest."""

    disable_nagle_algorithm = True
    server: _Listener

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
        self.rfile.read(int(length) if length.isdecimal() else 0)
        request = Request(words[0], _origin_form(words[1]), headers)
        response, truncate = self.server.sandbox.handle(request)
        if response is None:
            _hang_up(self.connection)
            return False
        wants_close = headers.get("connection", "").lower() == "close"
        is_last = truncate or wants_close or words[2] == "HTTP/1.0"
        head, body = serialise(response, words[0], is_last=is_last, is_http10=words[2] == "HTTP/1.0")
        self.wfile.write(head + (body[: len(body) // 2] if truncate else body))
        return not is_last

    def _read_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(_MAX_HEADERS):
            line = self.rfile.readline(_MAX_LINE).decode("latin-1").strip()
            if not line:
                break
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return headers


def _origin_form(target: str) -> str:
    """Returns the target without scheme and host, which a client may send (and does to a proxy)."""
    if not target.startswith("http://"):
        return target
    return "/" + target.removeprefix("http://").partition("/")[2]


def serialise(response: Response, method: str, *, is_last: bool, is_http10: bool) -> tuple[bytes, bytes]:
    """Returns the head and the body of a response as they go over the wire."""
    names = {name.lower() for name, _ in response.headers}
    lines = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Unknown')}"]
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
