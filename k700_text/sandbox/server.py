"""The sandbox's HTTP/1.1 server: all services on one port, each under the path that it has on its real host.

It keeps connections alive, answers what the services would answer, plays scripted answers first, brews a storm when it
is told to, logs every request, and checks whether its clients are polite. A second port stands for the web archive's
host: it serves the same, and can really refuse connections.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from email.utils import formatdate
from functools import cached_property, lru_cache
from types import TracebackType

from k700_text.records import Clip
from k700_text.sandbox.archive_guard import ArchiveGuard
from k700_text.sandbox.budgets import Budgets, BudgetWatch
from k700_text.sandbox.faults import CALM, Storm, Strike, find_decoy, tell_of_another
from k700_text.sandbox.listener import Listener
from k700_text.sandbox.messages import Answer, Delivery, LoggedRequest, Request, Response, Service, methods_of
from k700_text.sandbox.services.annotations import Annotations, CvdfAnnotations
from k700_text.sandbox.services.archive_item import ArchiveItem
from k700_text.sandbox.services.capture_index import WaybackIndex
from k700_text.sandbox.services.data_api import DEFAULT_DAILY_QUOTA, DataApi
from k700_text.sandbox.services.oembed import Oembed
from k700_text.sandbox.services.player import Player
from k700_text.sandbox.services.thumbnail import Thumbnail
from k700_text.sandbox.services.wayback import Wayback
from k700_text.sandbox.world import SandboxVideo, World

UNKNOWN = "unknown"
ARCHIVE_SERVICES = frozenset({"wayback", "wayback-cdx"})
"""The services of the host that has a port of its own."""

_GATE_SECONDS = 0.01


class SandboxServer:
    """Serves a world until the context is left.

    ``with SandboxServer(World(seed=0)) as server:`` then ask ``server.url`` + the service's own path.

    Args:
        world: where the videos live.
        clips: what the annotation archives list; without any, they answer 404.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        archive_port: the second port, which refuses connections while the archive's firewall is up.
        clock: seconds since 1970; stamps the log, decides when the quota is renewed, when a silence or a firewall is
            over. May be faster than the wall.
        daily_quota: calls a day of the data API.
        api_keys: keys that the data API accepts; None accepts any.
        storm: faults to answer with.
        enforce: the archive enforces its limits: 429, then the firewall.
        budgets: what counts as impolite; the published limits when None.
        log_size: requests to keep in the log (the last ones); None keeps all.

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
        archive_port: int = 0,
        clock: Callable[[], float] = time.time,
        daily_quota: int = DEFAULT_DAILY_QUOTA,
        api_keys: Collection[str] | None = None,
        storm: Storm | None = None,
        enforce: bool = False,
        budgets: Budgets | None = None,
        log_size: int | None = None,
    ) -> None:
        self.world = world
        self._clock, self._storm, self._enforces = clock, storm, enforce
        clips = tuple(clips)
        self.annotations = Annotations(clips)
        self._services: tuple[Service, ...] = (
            Oembed(world),
            DataApi(world, clock, daily_quota, api_keys),
            Thumbnail(world),
            Player(world),
            Wayback(world),
            WaybackIndex(world),
            ArchiveItem(world),
            self.annotations,
            CvdfAnnotations(clips),
        )
        self._scripts: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self._log: deque[LoggedRequest] = deque(maxlen=log_size)
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._watch, self._guard = BudgetWatch(budgets), ArchiveGuard()
        self._listener = Listener((host, port), self.handle)
        self._gate: Listener | None = self._open_gate((host, archive_port))
        self._gate_address = (host, int(self._gate.server_address[1]))
        self._stopping, self._alarm = threading.Event(), threading.Event()
        self._gatekeeper = threading.Thread(target=self._keep_gate, name="sandbox gate", daemon=True)

    def __enter__(self) -> SandboxServer:
        self._listener.start()
        assert self._gate is not None
        self._gate.start()
        self._gatekeeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._alarm.set()
        self._gatekeeper.join()
        self._listener.close()
        if self._gate is not None:
            self._gate.close()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listener.server_address[1])

    @property
    def url(self) -> str:
        """Scheme, host and port: what goes behind ``--endpoint SOURCE=``."""
        return f"http://{self._listener.server_address[0]!s}:{self.port}"

    @property
    def archive_url(self) -> str:
        """The same for the port that refuses connections while the archive's firewall is up."""
        return f"http://{self._gate_address[0]}:{self._gate_address[1]}"

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
        with self._lock:
            return self._counts.total() if service is None else self._counts[service]

    def ids_asked(self, service: str) -> Counter[str]:
        """Returns how often each id was asked of a service.

        Raises:
            ValueError: the log no longer holds all requests.
        """
        log = self.requests
        if len(log) < self.count():
            raise ValueError(f"the log holds only the last {len(log)} requests: serve with log_size=None")
        return Counter(youtube_id for logged in log if logged.service == service for youtube_id in logged.youtube_ids)

    def violations(self) -> list[str]:
        """Returns one sentence for each limit of politeness that the clients broke; empty for polite ones."""
        return self._watch.violations

    def refuse_archive(self, seconds: float) -> None:
        """Puts the archive's firewall up, whatever the clients did.

        On the archive's own port connections are refused; on the other one its services hang up.

        Args:
            seconds: how long, by the server's clock.
        """
        self._guard.block(self._clock() + seconds)
        self._alarm.set()
        while self._gate is not None and self._gatekeeper.is_alive() and self._guard.is_blocked(self._clock()):
            time.sleep(_GATE_SECONDS)

    def script(self, service: str, answers: Iterable[Answer]) -> None:
        """Queues answers that a service gives before it returns to its ordinary ones.

        Raises:
            ValueError: there is no such service.
        """
        if service not in (*self.services, UNKNOWN):
            raise ValueError(f"no service {service!r}: expected one of {', '.join((*self.services, UNKNOWN))}")
        with self._lock:
            self._scripts[service].extend(answers)

    def handle(self, request: Request, wait: Callable[[float], bool]) -> Delivery:
        """Decides what becomes of a request, and logs it.

        Args:
            request: as it came.
            wait: waits for seconds; returns True, early, when nobody wants the answer any more.
        """
        service = next((service for service in self._services if service.owns(request.path)), None)
        name = UNKNOWN if service is None else service.name
        ids = () if service is None else service.youtube_ids(request)
        with self._lock:
            began = self._clock()
            self._watch.began(name, began, len(ids))
            script = self._scripts.get(name)
            scripted = script.popleft() if script else None
        strike, response = self._decide(service, request, scripted, began, wait)
        retry_after = "" if response is None or response.status < 400 else response.header("retry-after")
        with self._lock:
            ended = self._clock()
            self._watch.answered(name, ended, retry_after)
            self._counts[name] += 1
            self._log.append(
                LoggedRequest(
                    time=began,
                    answered_at=ended,
                    method=request.method,
                    target=request.target,
                    service=name,
                    youtube_ids=ids,
                    status=0 if response is None else response.status,
                    headers=request.headers,
                    retry_after=retry_after,
                    fault=strike.name,
                )
            )
        answer = strike.answer
        return Delivery(response, _http_date(int(ended)), answer.truncate, answer.dribble_seconds)

    def _decide(
        self,
        service: Service | None,
        request: Request,
        scripted: Answer | None,
        now: float,
        wait: Callable[[float], bool],
    ) -> tuple[Strike, Response | None]:
        """Returns what happens to a request: the firewall comes first, then a script, the archive's limits, a storm."""
        name = UNKNOWN if service is None else service.name
        if name in ARCHIVE_SERVICES and self._guard.is_blocked(now):
            return CALM, None
        if scripted is not None:
            strike = Strike(scripted)
            return strike, self._respond(service, request, strike, wait)
        refusal = self._guard.refuse(name, now) if self._enforces else None
        if refusal is not None:
            if self._guard.is_blocked(now):
                self._alarm.set()
            return CALM, refusal
        strike = CALM if self._storm is None or service is None else self._storm.strike(name, request, now)
        return strike, self._respond(service, request, strike, wait)

    @cached_property
    def _decoy(self) -> SandboxVideo:
        return find_decoy(self.world)

    def _respond(
        self, service: Service | None, request: Request, strike: Strike, wait: Callable[[float], bool]
    ) -> Response | None:
        answer = strike.answer
        if (answer.delay_seconds and wait(answer.delay_seconds)) or answer.reset:
            return None
        if answer.status is not None:
            return answer.response()
        if strike.is_about_another and service is not None:
            return tell_of_another(service, request, self._decoy)
        return _ordinary(service, request)

    def _open_gate(self, address: tuple[str, int]) -> Listener:
        try:
            return Listener(address, self.handle)
        except OSError:
            self._listener.close()
            raise

    def _keep_gate(self) -> None:
        """Closes the archive's port while the firewall is up: the only thread that does."""
        self._alarm.wait()
        while not self._stopping.wait(_GATE_SECONDS):
            is_blocked = self._guard.is_blocked(self._clock())
            if is_blocked and self._gate is not None:
                self._gate.close()
                self._gate = None
            elif not is_blocked and self._gate is None:
                # Whoever took the port meanwhile may give it back: then the next round opens it.
                with suppress(OSError):
                    self._gate = Listener(self._gate_address, self.handle)
                    self._gate.start()


@lru_cache(maxsize=4)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _ordinary(service: Service | None, request: Request) -> Response:
    if service is None:
        return Response(404, (("Content-Type", "text/plain; charset=utf-8"),), b"no service has this path\n")
    methods = methods_of(service)
    if request.method not in methods:
        allowed = (("Allow", ", ".join(methods)), ("Content-Type", "text/plain"))
        return Response(405, allowed, b"Method Not Allowed")
    return service.answer(request)
