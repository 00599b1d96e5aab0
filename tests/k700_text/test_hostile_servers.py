"""Servers that hold, flood, lie or poison: a request ends in its time and within its size, whatever comes."""

from __future__ import annotations

import gzip
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from k700_text.crawl import connections
from k700_text.crawl.archive import fetch_annotations
from k700_text.crawl.sources import yt_dlp
from k700_text.crawl.sources.base import follow
from k700_text.crawl.transport import Endpoints, Limits, Transport
from k700_text.errors import NetworkDownError, TransportError
from tests.k700_text.crawling import POSSIBLE_ID

LIMITS = Limits(connect_seconds=0.6, read_seconds=0.6, total_seconds=1.0, max_body_bytes=200_000)
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GZIP = OK + b"Content-Encoding: gzip\r\n\r\n"
EMPTY = gzip.compress(b"")
BOMB = gzip.compress(bytes(50_000_000))

Attack = tuple[bytes, bytes, float]

# What is sent first, then again and again, and the pause between.
ATTACKS: dict[str, Attack] = {
    "nothing": (b"", b"", 0.1),
    "status line": (b"", b"H", 0.1),
    "status line without an end": (b"HTTP/1.1 200 ", b"O" * 1000, 0.001),
    "reason": (b"HTTP/1.1 200 ", b"O", 0.1),
    "header": (OK, b"X", 0.1),
    "headers": (OK, b"X: y\r\n", 0.1),
    "folded header": (OK + b"X: y\r\n", b" z\r\n", 0.1),
    "a huge header": (OK + b"X: ", b"y" * 10_000, 0.001),
    "many headers": (OK, b"X: y\r\n" * 1000, 0.001),
    "blank lines": (b"", b"\r\n", 0.01),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.1),
    "100 Continue, fast": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0.0),
    "103 Early Hints": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 0.01),
    "body": (OK + b"Content-Length: 9999\r\n\r\n", b"x", 0.1),
    "body without a length": (OK + b"\r\n", b"x", 0.1),
    "body without an end": (OK + b"\r\n", b"x" * 10_000, 0.0),
    "chunk size": (CHUNKED, b"0", 0.1),
    "chunk size in blanks": (CHUNKED, b" ", 0.1),
    "chunk extension": (CHUNKED + b"1;a=", b"b", 0.05),
    "chunk extension, fast": (CHUNKED + b"1;a=", b"b" * 10_000, 0.0),
    "tiny chunks": (CHUNKED, b"1\r\nx\r\n", 0.05),
    "trailer": (CHUNKED + b"2\r\nok\r\n0\r\n", b"X: y\r\n", 0.1),
    "trailer, fast": (CHUNKED + b"2\r\nok\r\n0\r\n", b"X: y\r\n" * 500, 0.0),
    "empty gzip blocks": (GZIP + EMPTY[:10], b"\0\0\0\xff\xff" * 1000, 0.0),
    "empty gzip members": (GZIP, EMPTY * 300, 0.0),
    "slow empty gzip members": (GZIP, EMPTY, 0.1),
    "a long name in gzip": (GZIP + b"\x1f\x8b\x08\x08\0\0\0\0\0\x03", b"n", 0.05),
    "deflate of nothing": (OK + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(b"")[:2], b"\0\0\0\xff\xff", 0.05),
    "gzip bomb": (GZIP + BOMB, b"", 0.1),
    "gzip bomb in gzip": (OK + b"Content-Encoding: gzip, gzip\r\n\r\n" + gzip.compress(BOMB), b"", 0.1),
    "deflate bomb": (OK + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(bytes(50_000_000)), b"", 0.1),
    "no HTTP": (b"\0\1\2\3 SSH-2.0\r\n", b"\r\n", 0.1),
    "HTTP/0.9": (b"<html>hello</html>", b"x", 0.1),
}


@contextmanager
def serving(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """Hands each connection, once something has come, to ``handle`` in a thread; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                if connection.recv(65536):
                    handle(connection)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def attacking(attack: Attack) -> Callable[[socket.socket], None]:
    first, again, pause = attack

    def handle(connection: socket.socket) -> None:
        connection.sendall(first)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            connection.sendall(again)
            time.sleep(pause)

    return handle


def ends(ask: Callable[[], object]) -> tuple[float, BaseException | None]:
    began = time.monotonic()
    try:
        ask()
    except TransportError as error:
        return time.monotonic() - began, error
    return time.monotonic() - began, None


def streamed(transport: Transport, url: str) -> None:
    with transport.stream(url, {}) as (_, _, chunks):
        num_bytes = 0
        for chunk in chunks:
            num_bytes += len(chunk)
            if num_bytes > LIMITS.max_body_bytes:
                raise TransportError("enough", host="")


def check(ask: Callable[[Transport, str], object], *, scheme: str = "http") -> None:
    """Lets all attacks go on at once."""
    transport = Transport(LIMITS)

    def one(name: str) -> tuple[str, float, BaseException | None]:
        with serving(attacking(ATTACKS[name])) as port:
            return name, *ends(lambda: ask(transport, f"{scheme}://127.0.0.1:{port}/x"))

    tracemalloc.start()
    try:
        with ThreadPoolExecutor(len(ATTACKS)) as pool:
            ended = list(pool.map(one, ATTACKS))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        transport.close()
    assert {name: seconds for name, seconds, _ in ended if seconds > LIMITS.total_seconds + 4} == {}
    assert [name for name, _, error in ended if error is None] == []
    assert peak < len(ATTACKS) * 4_000_000


def test_a_request_ends_whatever_is_sent() -> None:
    check(lambda transport, url: transport.get(url))


def test_a_stream_ends_whatever_is_sent() -> None:
    check(streamed)


def test_a_handshake_ends_whatever_is_sent() -> None:
    check(lambda transport, url: transport.get(url), scheme="https")


def test_a_tunnel_ends_whatever_the_proxy_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    def through(transport: Transport, url: str) -> None:
        # A transport of its own each: proxies are read once.
        own = Transport(LIMITS)
        monkeypatch.setenv("HTTPS_PROXY", url)
        try:
            own.get("https://titles.example/x")
        finally:
            own.close()

    for name in ("status line", "header", "100 Continue", "blank lines"):
        with serving(attacking(ATTACKS[name])) as port:
            seconds, error = ends(lambda port=port: through(Transport(), f"http://127.0.0.1:{port}"))  # type: ignore[misc]
            assert seconds < LIMITS.total_seconds + 4 and error is not None, name


def test_redirects_that_drip_end_each_in_its_time() -> None:
    def redirect(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /")
        for _ in range(3):
            connection.sendall(b"x")
            time.sleep(0.05)
        connection.sendall(b"\r\nConnection: close\r\n\r\n")

    transport = Transport(LIMITS)
    with serving(redirect) as port, pytest.raises(TransportError, match="circle"):
        follow(lambda url, *_, **__: transport.get(url), f"http://127.0.0.1:{port}/")
    transport.close()


def test_names_that_are_not_resolved_and_hosts_that_do_not_answer_end(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = Transport(LIMITS)
    hung = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *args, **options: (hung.wait(20), [])[1])
        seconds, error = ends(lambda: transport.get("http://titles.example/x"))
        hung.set()
    assert seconds < LIMITS.total_seconds + 1 and isinstance(error, NetworkDownError)
    # A host of many addresses, none of which answers: a listener whose queue is full.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))] * 20
        real = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *args, **o: entries if "example" in host else real(host, *args, **o)
        )
        seconds, error = ends(lambda: transport.get(f"http://titles.example:{port}/x"))
        assert seconds < LIMITS.total_seconds + 1 and error is not None
        for each in waiting:
            each.close()
    transport.close()


def test_a_host_is_reached_past_a_family_of_addresses_that_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of broken IPv6: what is sent there vanishes, and the resolver names it first."""
    tried: list[tuple[str, float]] = []
    pair = ours, theirs = socket.socketpair()

    def connect(address: tuple[str, int], seconds: float, **options: object) -> socket.socket:
        tried.append((address[0], seconds))
        if ":" in address[0]:
            time.sleep(seconds)
            raise TimeoutError("timed out")
        theirs.sendall(OK + b"Content-Length: 2\r\n\r\nok")
        ours.settimeout(seconds)
        return ours

    names = [(socket.AF_INET6, f"2001:db8::{number}") for number in range(4)]
    names += [(socket.AF_INET, f"192.0.2.{number}") for number in range(16)]
    entries = [(family, socket.SOCK_STREAM, 6, "", (address, 80)) for family, address in names]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    monkeypatch.setattr(connections, "create_connection", connect)
    transport = Transport(LIMITS)
    assert transport.get("http://titles.example/x").body == b"ok"
    assert [address for address, _ in tried] == ["2001:db8::0", "192.0.2.0"]
    # A good part of the time is left for the second, and all of it for what is read then.
    assert tried[1][1] > LIMITS.connect_seconds / 5
    assert ours.gettimeout() == LIMITS.read_seconds
    transport.close()
    for each in pair:
        each.close()


def test_what_a_server_sends_unasked_is_no_answer_to_the_next_request() -> None:
    def answer(body: bytes) -> bytes:
        return OK + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)

    num_connections = 0

    def poison(connection: socket.socket) -> None:
        nonlocal num_connections
        num_connections += 1
        connection.sendall(answer(b"mine"))
        time.sleep(0.1)
        connection.sendall(answer(b"title of another video"))
        if connection.recv(65536):
            connection.sendall(answer(b"late"))

    transport = Transport(LIMITS)
    with serving(poison) as port:
        for _ in range(3):
            assert transport.get(f"http://127.0.0.1:{port}/").body == b"mine"
            time.sleep(0.2)
    transport.close()
    assert num_connections == 3


def test_a_late_request_leaves_its_connection_to_nobody_and_the_others_alone() -> None:
    def slow_then_quick(connection: socket.socket) -> None:
        while True:
            connection.sendall(OK + b"Content-Length: 2\r\n\r\nok")
            if not (request := connection.recv(65536)):
                return
            time.sleep(5 if b"/slow" in request else 0)

    transport = Transport(Limits(read_seconds=3.0, total_seconds=0.5))
    with serving(slow_then_quick) as port:
        url = f"http://127.0.0.1:{port}"
        assert transport.get(f"{url}/").body == b"ok"
        with pytest.raises(TransportError, match=r"more than 0\.5 s"):
            transport.get(f"{url}/slow")
        for _ in range(200):
            assert transport.get(f"{url}/").body == b"ok"
    transport.close()


def test_gzip_is_read_to_its_end_and_no_further() -> None:
    text = b"the page " * 9000
    parts = gzip.compress(text[:500]) + gzip.compress(text[500:])
    bodies = {
        "gzip": [parts, parts + b"\0\0 trailing"],
        "deflate": [zlib.compress(text), zlib.compress(text)[2:-4]],
        "": [text],
        "gzip, deflate": [zlib.compress(parts)],
        "utf-8": [text],
    }
    transport = Transport(LIMITS)
    for encoding, packed in bodies.items():
        for body in packed:
            for is_chunked in (False, True):
                head = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % len(body)
                framed = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in (body[:7], body[7:], b""))
                sent = OK + b"Content-Encoding: %s\r\n%s\r\n\r\n" % (encoding.encode(), head)
                with serving(lambda c, sent=sent + (framed if is_chunked else body): c.sendall(sent)) as port:  # type: ignore[misc]
                    assert transport.get(f"http://127.0.0.1:{port}/").body == text, (encoding, is_chunked)
    transport.close()


@pytest.mark.parametrize("name", ["header", pytest.param("trailer", marks=pytest.mark.slow)])
def test_yt_dlp_and_the_download_of_annotations_are_under_the_same_limits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(attacking(ATTACKS[name])) as port:
        source = yt_dlp.YtDlp(f"http://127.0.0.1:{port}")
        source.transport = Transport(LIMITS)
        seconds, error = ends(lambda: source.fetch([POSSIBLE_ID], lambda *args, **options: pytest.fail("its own")))
        assert seconds < LIMITS.total_seconds + 8 and error is not None
        monkeypatch.setattr("k700_text.crawl.archive.MAX_ATTEMPTS", 1)
        monkeypatch.setattr("k700_text.crawl.archive.LIMITS", LIMITS)
        places = Endpoints({"annotations": f"http://127.0.0.1:{port}"})
        seconds, error = ends(lambda: fetch_annotations(tmp_path, endpoints=places))
        assert seconds < LIMITS.total_seconds + 4 and error is not None
