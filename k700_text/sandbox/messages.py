"""What the sandbox server and its services say to one another: requests, responses, scripted answers and the log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came.

    Attributes:
        method: ``GET`` or ``HEAD``, as sent.
        target: path and query as sent, still percent-encoded.
        headers: values by lower-case name.
    """

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        """The path, percent-decoded."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> dict[str, str]:
        """The parameters; of a repeated one the last."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

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


@dataclass(frozen=True, slots=True)
class Answer:
    """One scripted answer; without a ``status`` it is the service's ordinary answer, late, cut or not at all.

    Attributes:
        status: HTTP status; None for the ordinary answer.
        headers: headers to send beside Content-Length.
        body: text is sent as UTF-8, a mapping as JSON.
        delay_seconds: wait before the answer.
        truncate: send half of the body that was announced, then close the connection.
        reset: close the connection without an answer.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | str | Mapping[str, Any] = b""
    delay_seconds: float = 0.0
    truncate: bool = False
    reset: bool = False

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
class LoggedRequest:
    """One line of the server's log.

    Attributes:
        time: seconds by the server's clock, when the request was read.
        method: ``GET``, ``HEAD``, ...
        path: path, percent-decoded.
        query: parameters.
        service: the service that answered; ``unknown`` for a path that no service has.
        youtube_ids: the videos asked about, as spelled.
        status: status sent; 0 where the connection was closed without an answer.
        user_agent: the client's User-Agent.
        headers: all headers by lower-case name.
    """

    time: float
    method: str
    path: str
    query: Mapping[str, str]
    service: str
    youtube_ids: tuple[str, ...]
    status: int
    user_agent: str
    headers: Mapping[str, str]


class Service(Protocol):
    """One service of the sandbox."""

    name: str

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns the ids that a request asks about."""

    def answer(self, request: Request) -> Response:
        """Returns the ordinary answer."""


def plain(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """Returns a plain-text response."""
    return Response(status, (("Content-Type", "text/html; charset=UTF-8"), *headers), text.encode())
