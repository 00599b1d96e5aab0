"""HTTP for everybody else: bounded requests, one error vocabulary, and the only import of ``requests``.

A request is bounded in time and in size. Redirects are not followed here (each hop needs its place in the limits), no
cookies are kept, and addresses never appear in messages, because an address may hold an API key.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

import requests
import urllib3
from requests.structures import CaseInsensitiveDict

import k700_text
from k700_text.errors import BlockedError, NetworkDownError, RefusedError, TransportError, UsageError

CONTACT_VARIABLE = "K700_TEXT_CONTACT"

FOREIGN_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    urllib3.exceptions.ProxySchemeUnsupported,
    UnicodeError,
    OSError,
)

_CHUNK_BYTES = 1 << 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a request may take and how much it may bring."""

    connect_seconds: float = 10.0
    """Time to open the connection."""
    read_seconds: float = 20.0
    """Longest silence within an answer."""
    total_seconds: float = 60.0
    """Time of the whole request."""
    max_body_bytes: int = 32 << 20
    """Size of the decoded answer."""


@dataclass(frozen=True, slots=True)
class Response:
    """One answer.

    Attributes:
        status: HTTP status code.
        headers: by lower-case name.
        body: decoded (decompressed) bytes.
        elapsed_seconds: from sending the request to the last byte.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    elapsed_seconds: float

    def __repr__(self) -> str:
        return f"Response(status={self.status}, {len(self.body)} bytes, {self.elapsed_seconds:.3f} s)"


class Endpoints:
    """Where each source's service is: its own address, or the one the user gave.

    Args:
        overrides: URL by source name; replaces scheme, host and port, the path stays the service's own.

    Raises:
        UsageError: an URL is not ``http(s)://host[:port]``.
    """

    def __init__(self, overrides: Mapping[str, str] | None = None) -> None:
        self._overrides = {source: _origin(source, url) for source, url in (overrides or {}).items()}

    def is_own(self, source: str) -> bool:
        """Returns whether the source's own, real service is asked."""
        return source not in self._overrides

    def origin(self, source: str) -> str | None:
        """Returns the address given for a source (scheme, host and port), None for its own."""
        return None if self.is_own(source) else urlunsplit((*self._overrides[source], "", "", ""))

    def resolve(self, source: str, url: str) -> str:
        """Returns the URL to ask instead of ``url`` for this source."""
        if self.is_own(source):
            return url
        return urlunsplit((*self._overrides[source], *urlsplit(url)[2:]))


def _origin(source: str, url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        is_origin = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_origin = False
    if not is_origin or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UsageError(f"endpoint {source}={url} is not an address: expected http(s)://host[:port] without a path")
    if "@" in parts.netloc:
        # They would do nothing here but get into the ledger; nor are they repeated.
        raise UsageError(f"endpoint {source}=... holds a name or password: expected http(s)://host[:port]")
    return parts.scheme, parts.netloc


def user_agent() -> str:
    """Returns who we say we are: product, version and, from K700_TEXT_CONTACT, where the person is to be reached.

    Raises:
        UsageError: the contact holds what a header cannot.
    """
    contact = os.environ.get(CONTACT_VARIABLE, "").strip()
    if not (contact.isascii() and contact.isprintable()):
        raise UsageError(f"{CONTACT_VARIABLE} must be a plain e-mail address or URL, got {contact!r}")
    about = f"+{contact}" if contact else "crawler of Kinetics-700 titles"
    # The word gzip is what Google APIs ask for before they compress (web-contracts section 2.1).
    return f"k700-text/{k700_text.__version__} ({about}) gzip"


class Transport:
    """Sends GET and HEAD requests; safe to share between threads (each has its own pooled session).

    The usual variables are honoured: HTTPS_PROXY, HTTP_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE.

    Args:
        limits: bounds of a request.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._user_agent = user_agent()
        self._local = threading.local()
        self._sessions: list[requests.Session] = []

    def get(self, url: str, params: Mapping[str, str] | None = None, *, method: str = "GET") -> Response:
        """Returns the answer, whatever its status; redirects are answers, too.

        Raises:
            NetworkDownError: no name resolution, no route.
            RefusedError: nobody listens, or a firewall.
            TransportError: reset, timed out, cut off or too large.
        """
        started = time.monotonic()
        full_url = f"{url}?{urlencode(params)}" if params else url
        with self._open(full_url, {}, method) as raw:
            return self._read(raw, full_url, started)

    @contextmanager
    def stream(self, url: str, headers: Mapping[str, str]) -> Iterator[tuple[int, Mapping[str, str], Iterator[bytes]]]:
        """Opens a large answer: gives its status, headers (lower-case) and chunks as stored (never decompressed).

        Raises:
            NetworkDownError: no name resolution, no route.
            TransportError: as ``get``; also while the chunks are read.
        """
        with self._open(url, {**headers, "Accept-Encoding": "identity"}) as raw:
            yield raw.status, _lower_case(raw.headers), self._chunks(raw, url)

    def close(self) -> None:
        """Closes the connections of all threads."""
        for session in self._sessions:
            session.close()

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            self._local.session = session
            self._local.environment = {}
            self._sessions.append(session)
        return session

    def _environment(self, session: requests.Session, url: str) -> dict[str, Any]:
        """Returns proxy and certificate settings for a host; read once per thread, because reading them is slow."""
        parts = urlsplit(url)
        known: dict[tuple[str, str], dict[str, Any]] = self._local.environment
        key = (parts.scheme, parts.netloc)
        if key not in known:
            settings = session.merge_environment_settings(url, {}, True, None, None)
            known[key] = {name: settings[name] for name in ("proxies", "verify", "cert")}
        return known[key]

    @contextmanager
    def _open(self, url: str, headers: Mapping[str, str], method: str = "GET") -> Iterator[urllib3.HTTPResponse]:
        session = self._session()
        request = requests.PreparedRequest()
        request.method = method
        request.url = url
        request.headers = CaseInsensitiveDict(
            {"User-Agent": self._user_agent, "Accept-Encoding": "gzip", "Accept": "*/*", **headers}
        )
        timeout = (self._limits.connect_seconds, self._limits.read_seconds)
        with _translated(url):
            # The adapter is used directly: no cookies, no automatic redirects, and half the time of Session.send.
            answer = session.get_adapter(url).send(
                request, stream=True, timeout=timeout, **self._environment(session, url)
            )
        raw = answer.raw
        _mend_encoding(raw.headers)
        is_complete = False
        try:
            yield raw
            is_complete = True
        finally:
            if is_complete and getattr(raw, "length_remaining", None) in (0, None):
                raw.release_conn()
            else:
                raw.close()

    def _read(self, raw: urllib3.HTTPResponse, url: str, started: float) -> Response:
        limits = self._limits
        chunks: list[bytes] = []
        num_bytes = 0
        with _translated(url):
            while chunk := raw.read1(_CHUNK_BYTES, decode_content=True):
                chunks.append(chunk)
                num_bytes += len(chunk)
                if num_bytes > limits.max_body_bytes:
                    raise TransportError(
                        f"{host_of(url)} sent more than {limits.max_body_bytes} bytes in one answer", host=host_of(url)
                    )
                if time.monotonic() - started > limits.total_seconds:
                    raise TransportError(
                        f"{host_of(url)} took more than {limits.total_seconds:g} s for one answer", host=host_of(url)
                    )
        return Response(raw.status, _lower_case(raw.headers), b"".join(chunks), time.monotonic() - started)

    @staticmethod
    def _chunks(raw: urllib3.HTTPResponse, url: str) -> Iterator[bytes]:
        with _translated(url):
            while chunk := raw.read(_CHUNK_BYTES, decode_content=False):
                yield chunk


def _lower_case(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns the headers by lower-case name; the values of a repeated one are joined by commas."""
    return {name.lower(): headers[name] for name in headers}


def _mend_encoding(headers: MutableMapping[str, str]) -> None:
    """Drops the empty second Content-Encoding that the web archive sends (web-contracts section 4.3)."""
    encodings = [word for part in headers.get("Content-Encoding", "").split(",") if (word := part.strip())]
    if "Content-Encoding" in headers:
        headers["Content-Encoding"] = ", ".join(encodings)


def host_of(url: str) -> str:
    """Returns the host of an address, to name it in messages."""
    return urlsplit(url).hostname or url.partition("?")[0]


def local_redirect(url: str, response: Response) -> str | None:
    """Returns where to go on, or None: not a redirect, or one to another host, or away from encryption."""
    location = response.headers.get("location")
    if response.status not in _REDIRECTS or not location:
        return None
    try:
        target = urljoin(url, location)
        before, after = urlsplit(url), urlsplit(target)
    except ValueError:
        return None  # No address at all.
    is_upgrade = before.scheme == "http" and after.scheme == "https" and before.hostname == after.hostname
    is_local = before.scheme == after.scheme and before.netloc == after.netloc
    return target if (is_local or is_upgrade) and not after.path.startswith("/sorry") else None


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turns every foreign error of a request into ours; the only place that knows them."""
    try:
        yield
    except FOREIGN_ERRORS as error:
        # "from None": the foreign text holds the whole address, and so maybe the API key.
        raise _translate(error, host_of(url)) from None


def _translate(error: BaseException, host: str) -> TransportError:
    chain = list(_causes(error))
    if any(_is_network_down(cause) for cause in chain):
        return NetworkDownError(f"cannot reach {host}: no name resolution or no route to it", host=host)
    if any(isinstance(cause, requests.exceptions.SSLError | urllib3.exceptions.SSLError) for cause in chain):
        return TransportError(
            f"{host} shows a certificate that is not trusted here: set REQUESTS_CA_BUNDLE if a proxy re-signs it",
            host=host,
        )
    if any(isinstance(cause, requests.exceptions.ProxyError | urllib3.exceptions.ProxyError) for cause in chain):
        return TransportError(f"the proxy refuses to reach {host}: check HTTPS_PROXY and NO_PROXY", host=host)
    # Before the timeouts: urllib3 counts a refused connection among them.
    if any(isinstance(cause, ConnectionRefusedError) for cause in chain):
        return RefusedError(f"{host} refuses connections", host=host)
    if any(isinstance(cause, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError) for cause in chain):
        return TransportError(f"{host} did not answer in time", host=host)
    return TransportError(f"the connection to {host} failed ({type(chain[-1]).__name__})", host=host)


def _is_network_down(error: BaseException) -> bool:
    if isinstance(error, socket.gaierror | urllib3.exceptions.NameResolutionError):
        return True
    return isinstance(error, OSError) and error.errno in _NO_ROUTE


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and everything it wraps, by any of the ways that libraries wrap."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        current = waiting.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]


def is_block_page(response: Response) -> bool:
    """Tells whether a plain-data service answered with a page for people (unusual traffic, captcha, consent).

    Any HTML counts, under any status, also a redirect to a "sorry" page; but a server fault's page (5xx) counts
    only if it speaks of traffic.
    """
    if response.status in _REDIRECTS:
        try:
            target = urlsplit(response.headers.get("location", ""))
        except ValueError:
            return False
        return "/sorry" in target.path or (target.hostname or "").startswith(("sorry.", "consent."))
    start = response.body[:4096].lstrip().lower()
    is_html = "text/html" in response.headers.get("content-type", "").lower() or start.startswith(
        (b"<!doctype html", b"<html")
    )
    if response.status >= 500:
        return is_html and (b"unusual traffic" in start or b"/sorry/" in start)
    # A status line in plain words is sent as text/html by some front ends: a page has tags.
    return is_html and b"<" in start


def raise_if_blocked(response: Response, host: str) -> None:
    """Raises BlockedError for a block page."""
    if is_block_page(response):
        raise BlockedError(f"{host} shows a block page (status {response.status})", host=host)
