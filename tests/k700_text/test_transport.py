from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import requests
import urllib3

from k700_text.crawl import transport as module
from k700_text.crawl.sources.base import follow, retry_after
from k700_text.crawl.transport import (
    CONTACT_VARIABLE,
    Endpoints,
    Limits,
    Response,
    Transport,
    is_block_page,
    local_redirect,
    user_agent,
)
from k700_text.errors import NetworkDownError, RefusedError, TransportError, UsageError
from k700_text.sandbox.messages import Answer
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World
from tests.k700_text.crawling import answer

SECRET = "AIza-secret-key"


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(World(seed=0)) as running:
        yield running


@pytest.fixture
def client() -> Iterator[Transport]:
    transport = Transport(Limits(connect_seconds=2.0, read_seconds=0.5, total_seconds=1.0, max_body_bytes=5000))
    yield transport
    transport.close()


@contextmanager
def raw_server(*pieces: bytes, pause: float = 0.0) -> Iterator[str]:
    """Answers one connection with bytes as they are, a pause after each piece."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            try:
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(pause)
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/x"
    finally:
        thread.join(5.0)
        listener.close()


def test_get_returns_any_status_and_tells_who_we_are(server: SandboxServer, client: Transport) -> None:
    server.script("oembed", [Answer(status=404, headers={"X-Thing": "y"}, body="Not Found")])
    response = client.get(f"{server.url}/oembed", {"url": "a b&c", "format": "json"})
    assert (response.status, response.headers["x-thing"], response.body) == (404, "y", b"Not Found")
    (logged,) = server.requests
    assert logged.query["url"] == "a b&c"
    assert logged.user_agent.startswith("k700-text/")
    assert logged.user_agent.endswith(" gzip") and logged.headers["accept-encoding"] == "gzip"
    assert "cookie" not in logged.headers


def test_the_contact_goes_into_the_user_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONTACT_VARIABLE, raising=False)
    assert "+" not in user_agent()
    monkeypatch.setenv(CONTACT_VARIABLE, "mailto:someone@example.org")
    assert "(+mailto:someone@example.org)" in user_agent()
    monkeypatch.setenv(CONTACT_VARIABLE, "a\r\nX-Evil: 1")
    with pytest.raises(UsageError, match="plain e-mail address"):
        user_agent()


def test_connections_are_kept(server: SandboxServer, client: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = urllib3.connection.HTTPConnection.connect

    def connect(connection: urllib3.connection.HTTPConnection) -> None:
        opened.append(connection)
        original(connection)

    monkeypatch.setattr(urllib3.connection.HTTPConnection, "connect", connect)
    for _ in range(5):
        client.get(f"{server.url}/oembed")
    assert len(opened) == 1


def test_gzip_is_undone_and_still_bounded(server: SandboxServer, client: Transport) -> None:
    for size in (4000, 5_000_000):
        body = gzip.compress(b"x" * size)
        server.script("oembed", [Answer(status=200, headers={"Content-Encoding": "gzip"}, body=body)])
    assert client.get(f"{server.url}/oembed").body == b"x" * 4000
    with pytest.raises(TransportError, match="more than 5000 bytes"):
        client.get(f"{server.url}/oembed")


def test_redirects_within_the_host_are_followed_and_others_returned(server: SandboxServer, client: Transport) -> None:
    lanes: list[str | None] = []

    def get(
        url: str, params: Mapping[str, str] | None = None, *, method: str = "GET", lane: str | None = None
    ) -> Response:
        lanes.append(lane)
        return client.get(url, params, method=method)

    url = f"{server.url}/oembed"
    server.script("oembed", [Answer(status=302, headers={"Location": "/oembed?moved=1"}), Answer(status=204)])
    last, response = follow(get, url, {"a": "b"}, lane="x")
    assert (last, response.status) == (f"{url}?moved=1", 204)
    assert [logged.query for logged in server.requests] == [{"a": "b"}, {"moved": "1"}]
    assert lanes == ["x", "x"]  # Every hop is a request within the limits.
    for target in ("https://www.google.com/sorry/index", "/sorry/index", "http://127.0.0.1:9/"):
        server.script("oembed", [Answer(status=302, headers={"Location": target})])
        assert follow(get, url)[1].status == 302
    server.script("oembed", [Answer(status=301, headers={"Location": "/oembed"})] * 9)
    with pytest.raises(TransportError, match="circle"):
        follow(get, url)


def test_a_head_request_brings_the_headers_and_keeps_the_connection(server: SandboxServer, client: Transport) -> None:
    for _ in range(3):
        response = client.get(f"{server.url}/vi/dQw4w9WgXcQ/hqdefault.jpg", method="HEAD")
        assert response.headers["content-type"] == "image/jpeg" and response.body == b""
    assert [logged.method for logged in server.requests] == ["HEAD"] * 3


def test_an_empty_second_content_encoding_does_no_harm(client: Transport) -> None:
    body = gzip.compress(b"the page")
    with raw_server(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Encoding: \r\nX-A: 1\r\nX-A: 2\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    ) as url:
        response = client.get(url)
    assert response.body == b"the page" and response.headers["x-a"] == "1, 2"


def test_a_date_in_retry_after_counts_from_the_answers_own_date() -> None:
    headers = {"retry-after": "Mon, 01 Jun 2026 12:05:00 GMT", "date": "Mon, 01 Jun 2026 12:04:00 GMT"}
    assert retry_after(answer(429, headers=headers)) == 60.0


def test_a_refused_connection_has_its_own_error(client: Transport) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(RefusedError, match="refuses connections"):
            client.get(f"http://127.0.0.1:{closed.getsockname()[1]}/")


@pytest.mark.parametrize(
    ("scripted", "message"),
    [
        (Answer(reset=True), "failed"),
        (Answer(status=200, body="x" * 100, truncate=True), "failed"),
        (Answer(status=200, body="x", delay_seconds=1.0), "in time"),
        (Answer(status=200, body=b"no gzip", headers={"Content-Encoding": "gzip"}), "failed"),
    ],
)
def test_faults_are_translated(server: SandboxServer, client: Transport, scripted: Answer, message: str) -> None:
    server.script("oembed", [scripted])
    with pytest.raises(TransportError, match=message) as caught:
        client.get(f"{server.url}/oembed", {"key": SECRET})
    assert caught.value.host == "127.0.0.1"
    assert client.get(f"{server.url}/oembed").status == 400


def test_a_dripping_answer_ends_at_the_total_time(client: Transport) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
    began = time.monotonic()
    with raw_server(head, *[b"x"] * 30, pause=0.1) as url, pytest.raises(TransportError, match="more than 1 s"):
        client.get(url)
    assert time.monotonic() - began < 4


def test_what_is_not_http_is_an_error(client: Transport) -> None:
    with raw_server(b"220 mail.example ESMTP\r\n") as url, pytest.raises(TransportError):
        client.get(url)


def test_a_refused_connection(client: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TransportError, match="refuses connections") as caught:
        client.get(f"http://127.0.0.1:{port}/", {"key": SECRET})
    assert not isinstance(caught.value, NetworkDownError)


def test_no_name_resolution_is_a_network_that_is_down(client: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(NetworkDownError, match=r"cannot reach nowhere\.example") as caught:
        client.get("https://nowhere.example/v3", {"key": SECRET})
    assert SECRET not in str(caught.value) and caught.value.__suppress_context__


def test_no_foreign_error_passes_untranslated() -> None:
    for library in (requests.exceptions, urllib3.exceptions):
        for name, kind in vars(library).items():
            is_error = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
            if is_error and kind.__module__ == library.__name__:
                assert issubclass(kind, module.FOREIGN_ERRORS), name
                error = kind.__new__(kind)
                with pytest.raises(TransportError), module._translated("https://host.example/?key=x"):
                    raise error


def test_a_proxy_is_honoured(server: SandboxServer, client: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    client.get("http://titles.example/oembed", {"url": "x"})
    assert [logged.path for logged in server.requests] != []


def test_endpoints_replace_the_origin_and_keep_the_path() -> None:
    places = Endpoints({"oembed": "http://127.0.0.1:8000/"})
    assert places.resolve("oembed", "https://www.youtube.com/oembed") == "http://127.0.0.1:8000/oembed"
    assert places.resolve("other", "https://www.youtube.com/oembed") == "https://www.youtube.com/oembed"


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://x",
        "http://",
        "http://h/path",
        "http://h:port",
        "http://h?x=1",
        "http://[x",
        "http://u:p@h",
        "",
    ],
)
def test_an_endpoint_that_is_no_origin_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="endpoint oembed="):
        Endpoints({"oembed": url})


HTML = {"content-type": "text/html; charset=utf-8"}


@pytest.mark.parametrize(
    ("response", "is_block"),
    [
        (answer(200, b"<!doctype html><title>Before you continue</title>", HTML), True),
        (answer(403, b"\n <html>", {}), True),
        (answer(302, b"", {"location": "https://www.google.com/sorry/index?q=1"}), True),
        (answer(302, b"", {"location": "https://consent.youtube.com/m?x"}), True),
        (answer(302, b"", {"location": "https://www.youtube.com/other"}), False),
        (answer(302, b"", {"location": "http://[::1/sorry"}), False),
        (answer(404, b"Not Found", HTML), False),
        (answer(503, b"<html>Error 503", HTML), False),
        (answer(503, b"<html>our systems have detected unusual traffic", HTML), True),
        (answer(200, {"title": "<html>"}, {"content-type": "application/json"}), False),
    ],
)
def test_block_pages(response: Response, is_block: bool) -> None:
    assert is_block_page(response) is is_block


def test_a_response_does_not_print_its_body() -> None:
    assert "secret" not in repr(answer(200, b"secret"))


@pytest.mark.parametrize("location", ["http://[::1/", "http://[x]/", "//a\u2100b/"])
def test_a_redirect_to_what_is_no_address_is_an_answer(location: str) -> None:
    assert local_redirect("http://h/x", answer(302, b"", {"location": location})) is None
