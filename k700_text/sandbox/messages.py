"""What the sandbox server and its services say to one another: requests, responses, scripted answers and the log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote

READ_METHODS = ("GET", "HEAD")


@dataclass(frozen=True)
class Request:
    """One request as it came.

    Attributes:
        method: ``GET``, ``HEAD`` or ``POST``, as sent.
        target: path and query as sent, still percent-encoded.
        headers: values by lower-case name.
        body: what was posted.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @cached_property
    def path(self) -> str:
        """The path, percent-decoded."""
        return unquote(self.target.partition("?")[0])

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """The parameters in their order, repeated ones too."""
        return parse_qsl(self.target.partition("?")[2], keep_blank_values=True)

    @cached_property
    def query(self) -> dict[str, str]:
        """The parameters; of a repeated one the last."""
        return dict(self.pairs)

    def header(self, name: str) -> str:
        """Returns a header's value, empty where it was not sent."""
        return self.headers.get(name.lower(), "")

    @property
    def takes_gzip(self) -> bool:
        """The client says that it can read gzip."""
        return "gzip" in self.header("accept-encoding").lower()


@dataclass(frozen=True, slots=True)
class Response:
    """One answer: header names may repeat; ``is_chunked`` sends the body without a length, as the service does."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    is_chunked: bool = False

    def with_headers(self, *headers: tuple[str, str]) -> Response:
        """Returns the same response with more headers."""
        return replace(self, headers=(*self.headers, *headers))

    def header(self, name: str) -> str:
        """Returns the first value of a header, empty where there is none."""
        return next((value for each, value in self.headers if each.lower() == name), "")


@dataclass(frozen=True, slots=True)
class Answer:
    """One scripted answer; without a ``status`` it is the service's ordinary answer, late, slow, cut or not at all.

    Attributes:
        status: HTTP status; None for the ordinary answer.
        headers: headers to send beside Content-Length.
        body: text is sent as UTF-8, a mapping as JSON.
        delay_seconds: wait before the answer.
        dribble_seconds: send the body in small pieces over this time.
        truncate: send half of the body that was announced, then close the connection.
        reset: close the connection without an answer.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | str | Mapping[str, Any] = b""
    delay_seconds: float = 0.0
    dribble_seconds: float = 0.0
    truncate: bool = False
    reset: bool = False

    @classmethod
    def of(cls, response: Response) -> Answer:
        """Returns the scripted answer that sends a response as it is (its header names do not repeat)."""
        return cls(response.status, dict(response.headers), response.body)

    def response(self) -> Response:
        """Returns the scripted response; ``status`` is set."""
        assert self.status is not None
        headers = tuple(self.headers.items())
        if isinstance(self.body, Mapping):
            body = json.dumps(self.body, ensure_ascii=False).encode()
            if not any(name.lower() == "content-type" for name, _ in headers):
                headers = (*headers, ("Content-Type", "application/json; charset=UTF-8"))
        else:
            body = self.body.encode() if isinstance(self.body, str) else self.body
        return Response(self.status, headers, body)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What goes over the wire for one request.

    Attributes:
        response: the answer; None: close the connection without one.
        date: the Date header: an HTTP date by the server's clock.
        truncate: send half of the body, then close the connection.
        dribble_seconds: send the body in small pieces over this time.
    """

    response: Response | None
    date: str
    truncate: bool = False
    dribble_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One line of the server's log.

    Attributes:
        time: seconds by the server's clock, when the request was read.
        answered_at: seconds by the server's clock, when its answer was ready to be sent.
        method: ``GET``, ``HEAD``, ...
        target: path and query as sent.
        service: the service that answered; ``unknown`` for a path that no service has.
        youtube_ids: the videos asked about, as spelled.
        status: status sent; 0 where the connection was closed without an answer.
        headers: all headers by lower-case name.
        retry_after: the Retry-After header that was sent; empty without one.
        fault: what the storm did to the request; empty where it was left alone.
    """

    time: float
    answered_at: float
    method: str
    target: str
    service: str
    youtube_ids: tuple[str, ...]
    status: int
    headers: Mapping[str, str]
    retry_after: str = ""
    fault: str = ""

    @property
    def path(self) -> str:
        """The path, percent-decoded."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> dict[str, str]:
        """The parameters; of a repeated one the last."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def user_agent(self) -> str:
        """The client's User-Agent."""
        return self.headers.get("user-agent", "")


class Service(Protocol):
    """One service of the sandbox.

    A service that also takes other methods than GET and HEAD names all of its methods in an attribute ``methods``.
    """

    name: str

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns the ids that a request asks about."""

    def answer(self, request: Request) -> Response:
        """Returns the ordinary answer."""


def methods_of(service: Service) -> tuple[str, ...]:
    """Returns the methods that a service takes."""
    methods: tuple[str, ...] = getattr(service, "methods", READ_METHODS)
    return methods
