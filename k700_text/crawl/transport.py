"""HTTP for everybody else: bounded requests, one error vocabulary, and the only import of ``requests``.

A request is bounded in time and in size, whatever the server sends (``connections``). Redirects are not followed here
(each hop needs its place in the limits), no cookies are kept, and addresses never appear in messages, because an
address may hold an API key.
"""

from __future__ import annotations

import base64
import errno
import logging
import os
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urljoin, urlsplit, urlunsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

import k700_text
from k700_text.confidential import hide_in_text, keep_secret, note_answer
from k700_text.crawl.connections import POOLS, Watchdog
from k700_text.errors import (
    BlockedError,
    CertificateError,
    NetworkDownError,
    RefusedError,
    TransportError,
    UsageError,
)

CONTACT_VARIABLE = "K700_TEXT_CONTACT"

FOREIGN_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    urllib3.exceptions.ProxySchemeUnsupported,
    UnicodeError,
    OSError,
    zlib.error,
)

_CHUNK_BYTES = 1 << 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PROXY_LOGIN = 407
_TUNNEL_STATUS = re.compile(r"Tunnel connection failed: (\d{3})")
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a request may take and how much it may bring."""

    connect_seconds: float = 10.0
    """Time to open the connection."""
    read_seconds: float = 20.0
    """Longest silence within an answer."""
    total_seconds: float = 60.0
    """Time of the whole request, from the resolution of the name to the last byte."""
    max_body_bytes: int = 32 << 20
    """Size of the answer, as it comes and decoded."""


@dataclass(frozen=True, slots=True)
class Response:
    """One answer.

    Attributes:
        status: HTTP status code.
        headers: by lower-case name.
        body: decoded (decompressed) bytes.
        elapsed_seconds: from sending the request to the last byte.
        set_cookies: the values of the headers of that name, one for each.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    elapsed_seconds: float
    set_cookies: tuple[str, ...] = ()

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


def _check_certificates() -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        bundle = os.environ.get(name)
        if bundle and not Path(bundle).is_dir():
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(bundle)
            except OSError as error:
                raise UsageError(
                    f"{name} names no readable certificates: {bundle}: {error.strerror or error}"
                ) from error


class Transport:
    """Sends requests; safe to share between threads (each has its own pooled session).

    The usual variables are honoured: HTTPS_PROXY, HTTP_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE.

    Args:
        limits: bounds of a request.

    Raises:
        UsageError: a variable names what cannot be used.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._user_agent = user_agent()
        _check_certificates()
        self._watchdog = Watchdog()
        self._local = threading.local()
        self._sessions: list[requests.Session] = []

    def get(self, url: str, params: Mapping[str, str] | None = None, *, method: str = "GET") -> Response:
        """Returns the answer, whatever its status; redirects are answers, too.

        Raises:
            NetworkDownError: no name resolution, no route.
            RefusedError: nobody listens, or a firewall.
            CertificateError: the host does not prove that it is the one asked for.
            TransportError: reset, timed out, cut off or too large.
        """
        return self.send(f"{url}?{urlencode(params)}" if params else url, method=method)

    def send(
        self, url: str, *, method: str = "GET", data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Returns the answer to a request with a body, or with headers beside or in place of the usual ones.

        Raises:
            NetworkDownError, RefusedError, CertificateError, TransportError: as ``get``.
        """
        started = time.monotonic()
        with self._open(url, headers or {}, method, data) as raw:
            body = self._read(raw, url)
            cookies = tuple(raw.headers.getlist("Set-Cookie"))
            names = _lower_case(raw.headers)
            note_answer(body)
            note_answer("\n".join(names.values()).encode("utf-8", "replace"))
            return Response(raw.status, names, body, time.monotonic() - started, cookies)

    @contextmanager
    def stream(self, url: str, headers: Mapping[str, str]) -> Iterator[tuple[int, Mapping[str, str], Iterator[bytes]]]:
        """Opens a large answer: gives its status, headers (lower-case) and chunks as stored (never decompressed).

        Raises:
            NetworkDownError: no name resolution, no route.
            TransportError: as ``get``; also while the chunks are read.
        """
        with self._open(url, {**headers, "Accept-Encoding": "identity"}) as raw:
            yield raw.status, _lower_case(raw.headers), self._chunks(raw, url)

    def hurry(self, seconds: float) -> None:
        """Gives all requests, those under way and those to come, so long at most: the crawl is to end."""
        self._watchdog.hurry(seconds)

    def close(self) -> None:
        """Closes the connections of all threads."""
        self._watchdog.close()
        for session in self._sessions:
            session.close()

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            for scheme in ("https://", "http://"):
                session.mount(scheme, _Adapter())
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
            for proxy in settings["proxies"].values():
                _keep_login_secret(proxy)
            known[key] = {name: settings[name] for name in ("proxies", "verify", "cert")}
        return known[key]

    @contextmanager
    def _open(
        self, url: str, headers: Mapping[str, str], method: str = "GET", data: bytes | None = None
    ) -> Iterator[urllib3.HTTPResponse]:
        raw: urllib3.HTTPResponse | None = None
        is_complete = False
        deadline = self._watchdog.begin(self._limits.total_seconds)
        try:
            with _translated(url):
                raw = self._sent(url, headers, method, data)
            if raw.status == _PROXY_LOGIN:
                raise _login_wanted(host_of(url))
            if raw.status < 200:
                # The answer itself is to follow, and must not be taken for that to the next request.
                raise TransportError(f"{host_of(url)} sends status {raw.status} and no answer", host=host_of(url))
            yield raw
            is_complete = not deadline.is_over
        except TransportError:
            # A connection that is shut down looks like one of many faults, or like the end of the answer.
            if not deadline.is_over:
                raise
        finally:
            self._watchdog.end(deadline)
            if raw is not None and is_complete and getattr(raw, "length_remaining", None) in (0, None):
                raw.release_conn()
            elif raw is not None:
                raw.close()
        if deadline.is_over:
            raise TransportError(
                f"{host_of(url)} took more than {self._limits.total_seconds:g} s for one answer", host=host_of(url)
            )

    def _sent(self, url: str, headers: Mapping[str, str], method: str, data: bytes | None) -> urllib3.HTTPResponse:
        """Sends a request and returns its answer, of which the body is still to be read."""
        session = self._session()
        request = requests.PreparedRequest()
        request.method = method
        request.url = url
        request.body = data
        request.headers = CaseInsensitiveDict(
            {"User-Agent": self._user_agent, "Accept-Encoding": "gzip", "Accept": "*/*", **headers}
        )
        if data is not None:
            request.headers["Content-Length"] = str(len(data))
        timeout = (self._limits.connect_seconds, self._limits.read_seconds)
        # The adapter is used directly: no cookies, no automatic redirects, and half the time of Session.send.
        answer = session.get_adapter(url).send(request, stream=True, timeout=timeout, **self._environment(session, url))
        raw: urllib3.HTTPResponse = answer.raw
        return raw

    def _read(self, raw: urllib3.HTTPResponse, url: str) -> bytes:
        """Returns the body, decoded here: piece by piece, so that no bomb unpacks beyond the bound."""
        room = self._limits.max_body_bytes
        unpackers = _unpackers(raw.headers)
        chunks: list[bytes] = []
        num_raw = num_bytes = 0
        with _translated(url):
            while chunk := raw.read1(_CHUNK_BYTES, decode_content=False):
                num_raw += len(chunk)
                for unpacker in unpackers:
                    chunk = unpacker.unpack(chunk, room)
                chunks.append(chunk)
                num_bytes += len(chunk)
                if max(num_raw, num_bytes) > room:
                    raise TransportError(f"{host_of(url)} sent more than {room} bytes in one answer", host=host_of(url))
            is_framed = raw.length_remaining is not None or getattr(raw, "chunked", False)
            # A capture whose length is right was cut off when it was archived, and may hold the title all the same.
            is_stored_so = is_framed and "Memento-Datetime" in raw.headers
            if not is_stored_so and any(unpacker.is_cut_off for unpacker in unpackers):
                raise ConnectionError("cut off")
        return b"".join(chunks)

    @staticmethod
    def _chunks(raw: urllib3.HTTPResponse, url: str) -> Iterator[bytes]:
        with _translated(url):
            while chunk := raw.read(_CHUNK_BYTES, decode_content=False):
                yield chunk


def _keep_login_secret(proxy: str) -> None:
    """Keeps the name and password in the address of a proxy secret, as they are and as they are sent."""
    login, _, _ = urlsplit(proxy).netloc.rpartition("@")
    for form in {login, unquote(login)} if login else ():
        keep_secret(form)
        keep_secret(form.partition(":")[2])
        keep_secret(base64.b64encode(form.encode("utf-8", "replace")).decode())


class _Discreet(logging.Filter):
    """Hides what is confidential where somebody looks at the log of requests: an address may hold a key."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass, but not as it was."""
        record.msg, record.args = hide_in_text(record.getMessage()), ()
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_Discreet())


class _Adapter(HTTPAdapter):
    """Opens connections that know the deadline of their request."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Makes the pools of connections to hosts."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Makes the pools of connections through a proxy."""
        manager = super().proxy_manager_for(proxy, **options)
        if isinstance(manager, urllib3.ProxyManager) and not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = POOLS
        return manager


class _Unpacker:
    """Undoes gzip or deflate, a piece at a time.

    Attributes:
        is_cut_off: what came so far is not the whole.
    """

    def __init__(self, encoding: str) -> None:
        self._is_gzip = encoding != "deflate"
        self._engine = zlib.decompressobj(zlib.MAX_WBITS + (16 if self._is_gzip else 0))
        self._has_begun = False
        self.is_cut_off = False

    def unpack(self, data: bytes, room: int) -> bytes:
        """Returns what a piece holds, but not much more than there is room for.

        Raises:
            zlib.error: it is not what it says.
        """
        parts: list[bytes] = []
        while data and room >= 0:
            if self._engine.eof:
                if not self._is_gzip:
                    break
                self._engine = zlib.decompressobj(zlib.MAX_WBITS + 16)
            try:
                parts.append(self._engine.decompress(data, room + 1))
            except zlib.error:
                if self._has_begun and (self._is_gzip and not self.is_cut_off):
                    break  # Behind a whole member there may be anything.
                if self._has_begun or self._is_gzip:
                    raise
                # Some servers leave the frame out that deflate is to have.
                self._engine = zlib.decompressobj(-zlib.MAX_WBITS)
                parts.append(self._engine.decompress(data, room + 1))
            self._has_begun = True
            self.is_cut_off = not self._engine.eof
            room -= len(parts[-1])
            data = self._engine.unconsumed_tail or self._engine.unused_data
        return b"".join(parts)


_PACKINGS = frozenset({"gzip", "x-gzip", "deflate"})
_MAX_PACKINGS = 4


def _unpackers(headers: Mapping[str, str]) -> list[_Unpacker]:
    """Returns what undoes the encodings of a body, the last one first.

    An empty one, as the web archive sends beside its own (web-contracts section 4.3), and one without meaning are none.
    """
    named = [word.strip().lower() for word in headers.get("Content-Encoding", "").split(",")]
    return [_Unpacker(word) for word in reversed(named) if word in _PACKINGS][:_MAX_PACKINGS]


def _lower_case(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns the headers by lower-case name; the values of a repeated one are joined by commas."""
    return {name.lower(): headers[name] for name in headers}


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
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CertificateError(
                f"{host} shows a certificate that is not trusted here ({_plain(cause.verify_message)}): check the "
                "clock of this machine, or set REQUESTS_CA_BUNDLE if a proxy re-signs it",
                host=host,
            )
    if any(isinstance(cause, requests.exceptions.ProxyError | urllib3.exceptions.ProxyError) for cause in chain):
        said = next((status[0] for cause in chain if (status := _TUNNEL_STATUS.findall(str(cause)))), None)
        if said == str(_PROXY_LOGIN):
            return _login_wanted(host)
        words = f" (status {said})" if said else ""
        return TransportError(f"the proxy refuses to reach {host}{words}: check HTTPS_PROXY and NO_PROXY", host=host)
    # Before the timeouts: urllib3 counts a refused connection among them.
    if any(isinstance(cause, ConnectionRefusedError) for cause in chain):
        return RefusedError(f"{host} refuses connections", host=host)
    if any(isinstance(cause, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError) for cause in chain):
        return TransportError(f"{host} did not answer in time", host=host)
    return TransportError(f"the connection to {host} failed ({type(chain[-1]).__name__})", host=host)


def _login_wanted(host: str) -> TransportError:
    return TransportError(
        f"the proxy to {host} asks for a name and a password: HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT", host=host
    )


def _plain(words: str) -> str:
    """Returns what OpenSSL says without what could steer a terminal: it may quote the certificate."""
    return "".join(each if each.isprintable() else "?" for each in words)[:200]


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
