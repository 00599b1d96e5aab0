"""Certificates that prove nothing and proxies that lie: about us, never about a video."""

from __future__ import annotations

import gzip
import json
import os
import socket
import sqlite3
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from k700_text.crawl.ledger import read_videos
from k700_text.crawl.ledger_place import ledger_in
from k700_text.crawl.transport import Limits, Transport
from k700_text.crawl.verdict import judge
from k700_text.errors import CertificateError, TransportError
from tests.k700_text.crawling import call, make_ids, write_annotations

PAGE = b"<!doctype html><html><head><title>Welcome - YouTube</title></head><body>Log in to the network</body></html>"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signer (``signer.pem``), and what it has signed: ``good``, ``expired``, ``foreign``; ``own`` signed itself."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        *("req", "-x509", *key, "-subj", "/CN=a signer", "-days", "30"),
        *("-keyout", folder / "signer.key", "-out", folder / "signer.pem"),
    )
    local = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    openssl(
        *("req", "-x509", *key, "-subj", "/CN=127.0.0.1", "-addext", local, "-days", "30"),
        *("-keyout", folder / "own.key", "-out", folder / "own.pem"),
    )
    for name, names in (("good", local), ("expired", local), ("foreign", "subjectAltName=DNS:other.example")):
        openssl(
            *("req", *key, "-subj", "/CN=made up", "-addext", names),
            *("-keyout", folder / f"{name}.key", "-out", folder / "request.pem"),
        )
        # Begins and ends before today where it is to be expired.
        (folder / "index").write_text("")
        (folder / "serial").write_text("01\n")
        (folder / "settings").write_text(
            f"[ca]\ndefault_ca=it\n[it]\ndatabase={folder}/index\nserial={folder}/serial\nnew_certs_dir={folder}\n"
            "default_md=sha256\npolicy=any\ncopy_extensions=copy\nunique_subject=no\n[any]\ncommonName=supplied\n"
        )
        dates = ("20200101000000Z", "20210101000000Z" if name == "expired" else "20400101000000Z")
        openssl(
            *("ca", "-batch", "-notext", "-config", folder / "settings", "-in", folder / "request.pem"),
            *("-cert", folder / "signer.pem", "-keyfile", folder / "signer.key", "-out", folder / f"{name}.pem"),
            *("-startdate", dates[0], "-enddate", dates[1]),
        )
    return folder


@contextmanager
def serving(handle: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Hands every connection to ``handle``, within TLS where a context is given; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def serve(connection: socket.socket) -> None:
        try:
            with connection if context is None else context.wrap_socket(connection, server_side=True) as wrapped:
                handle(wrapped)
        except OSError:
            return
        finally:
            connection.close()

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


def always(answer: bytes) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        while connection.recv(65536):
            connection.sendall(answer)

    return handle


@contextmanager
def secure(certificates: Path, name: str) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    with serving(always(ANSWER), context) as port:
        yield port


REASONS = {"expired": "has expired", "foreign": "certificate is not valid for", "own": "self[- ]signed certificate"}


@pytest.mark.parametrize("name", ["good", *REASONS])
def test_a_certificate_that_proves_nothing_is_named(
    name: str, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "signer.pem"))
    transport = Transport(Limits(total_seconds=5.0))
    with secure(certificates, name) as port:
        url = f"https://127.0.0.1:{port}/?key=secret-key"
        if name == "good":
            assert transport.get(url).body == b"ok"
        else:
            with pytest.raises(CertificateError, match=rf"127\.0\.0\.1 .*{REASONS[name]}") as caught:
                transport.get(url)
            assert "secret-key" not in str(caught.value) and "\n" not in str(caught.value)
    transport.close()


def test_a_limit_holds_within_tls(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "signer.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "good.pem", certificates / "good.key")
    closed = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        while not closed.wait(0.1):
            connection.sendall(b"H")

    transport = Transport(Limits(read_seconds=1.0, total_seconds=0.5))
    with serving(drip, context) as port:
        with pytest.raises(TransportError, match=r"more than 0\.5 s"):
            transport.get(f"https://127.0.0.1:{port}/")
        closed.set()
    transport.close()


@pytest.mark.parametrize(
    ("name", "source"),
    [("own", "oembed"), *(pytest.param("expired", each, marks=pytest.mark.slow) for each in ("wayback", "yt-dlp"))],
)
def test_a_crawl_stops_with_one_line_and_records_nothing(
    name: str, source: str, certificates: Path, tmp_path: Path
) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(30))
    with secure(certificates, name) as port:
        words = ["crawl", "--annotations", annotations, "--out", tmp_path, "--sources", source, "--json"]
        words += ["--endpoint", f"{source}=https://127.0.0.1:{port}", "--rate", f"{source}=1000"]
        done = call(*words, REQUESTS_CA_BUNDLE=str(certificates / "signer.pem"))
    assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
    summary = json.loads(done.stdout)
    assert summary["sources"][0]["num_left"] == 30 and "certificate" in summary["sources"][0]["stopped"]
    assert f"{source}: 30 videos left (" in done.stderr and "clock of this machine" in done.stderr
    assert list(read_videos(ledger_in(tmp_path))) == []
    assert summary["availability"] == {"unknown": 30}


def page(status: str, body: bytes = PAGE, kind: str = "text/html", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


OTHER = "AAAAAAAAAAA"
PROXIES: dict[str, bytes] = {
    "its own page": page("200 OK"),
    "its own page, packed": page("200 OK", gzip.compress(PAGE), more="Content-Encoding: gzip\r\n"),
    "its own page, cut off": page("200 OK")[:-20],
    "its own page under 404": page("404 Not Found"),
    "its own page under 410": page("410 Gone"),
    "its own words": page("200 OK", b"Access to this site is restricted. video removed", "text/plain"),
    "forbidden": page("403 Forbidden"),
    "forbidden in words": page("403 Forbidden", b"policy", "text/plain"),
    "who are you": page("407 Proxy Authentication Required", b"", more="Proxy-Authenticate: Basic\r\n"),
    "portal": page("302 Found", b"", more="Location: http://login.example/\r\n"),
    "portal of its own": page("200 OK", b'{"login": true}', "application/json"),
    "gateway": page("502 Bad Gateway"),
    "status of its own": page("599 Closed", b"", "text/plain"),
    "nothing": b"",
    "cut off": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{",
    "another's answer": page(
        "200 OK",
        json.dumps(
            {
                "title": "another's title",
                "thumbnail_url": f"https://i.ytimg.com/vi/{OTHER}/hqdefault.jpg",
                "html": f'<iframe src="https://www.youtube.com/embed/{OTHER}"></iframe>',
                "items": [{"id": OTHER, "snippet": {"title": "another's title"}}],
                "pageInfo": {"totalResults": 1},
                "metadata": {"identifier": f"youtube-{OTHER}", "title": "another's title"},
            }
        ).encode(),
        "application/json",
    ),
}


def answer_once(answer: bytes) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        if connection.recv(65536):
            connection.sendall(answer)

    return handle


ASKED = ("data-api", "oembed", "wayback", "archive-item")


def crawl_through(proxy: str, folder: Path, scheme: str, source: str) -> subprocess.CompletedProcess[str]:
    annotations = write_annotations(folder / "validate.csv", make_ids(1))
    words = ["crawl", "--annotations", annotations, "--out", folder, "--sources", source, "--max-wait", "0", "--json"]
    words += ["--endpoint", f"{source}={scheme}://titles.example", "--rate", f"{source}=1000"]
    return call(*words, HTTP_PROXY=proxy, HTTPS_PROXY=proxy, NO_PROXY="", no_proxy="", YOUTUBE_API_KEY="any")


def check_nothing_is_said_of_a_video(folder: Path) -> None:
    for video in read_videos(ledger_in(folder)):
        assert all(outcome.title is None for outcome in video.outcomes)
        state, _ = judge(video.youtube_id, video.outcomes)
        assert not state.is_gone and not state.is_alive, video.outcomes


QUICK = ("its own page", "its own page under 404", "forbidden", "cut off", "another's answer")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PROXIES]
)
def test_what_a_proxy_says_itself_gives_no_title_and_no_death(name: str, tmp_path: Path) -> None:
    from k700_text.crawl.crawler import CrawlSettings, crawl
    from k700_text.crawl.ledger import Ledger
    from k700_text.crawl.registry import make_sources
    from k700_text.crawl.transport import Endpoints
    from tests.k700_text.crawling import JumpingClock

    before = dict(os.environ)
    with serving(answer_once(PROXIES[name])) as port:
        os.environ["HTTP_PROXY"] = f"http://127.0.0.1:{port}"
        try:
            places = Endpoints(dict.fromkeys([*ASKED, "thumbnail"], "http://titles.example"))
            for source in ASKED:
                with Ledger(tmp_path / source / "_ledger.sqlite") as ledger:
                    ledger.want(make_ids(2))
                    sources = make_sources([source], endpoints=places, environment={"YOUTUBE_API_KEY": "any"})
                    settings = CrawlSettings(rates=dict.fromkeys(ASKED, 1000.0), limits=Limits(total_seconds=3.0))
                    crawl(ledger, sources, settings, num_ids=2, clock=JumpingClock())
                check_nothing_is_said_of_a_video(tmp_path / source)
        finally:
            os.environ.clear()
            os.environ.update(before)


TUNNELS = {
    "forbidden": (b"HTTP/1.1 403 Forbidden\r\n\r\n", "the proxy refuses to reach titles.example (status 403)"),
    "who are you": (b"HTTP/1.1 407 Who\r\n\r\n", "the proxy to titles.example asks for a name and a password"),
    "its own page": (page("200 OK"), "the connection to titles.example failed"),
    "consent and its own page": (b"HTTP/1.1 200 OK\r\n\r\n" + PAGE, "titles.example"),
    "closes": (b"", "titles.example"),
    "no HTTP": (b"SSH-2.0-x\r\n\r\n", "titles.example"),
}


@pytest.mark.parametrize("name", TUNNELS)
def test_a_proxy_that_opens_no_tunnel_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, words = TUNNELS[name]
    with serving(answer_once(answer)) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        transport = Transport(Limits(total_seconds=3.0))
        with pytest.raises(TransportError) as caught:
            transport.get("https://titles.example/?key=secret-key")
        transport.close()
    assert words in str(caught.value) and "secret-key" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("source", ASKED)
def test_a_crawl_through_a_proxy_that_refuses_says_so_and_keeps_all_work(source: str, tmp_path: Path) -> None:
    with serving(answer_once(TUNNELS["who are you"][0])) as port:
        done = crawl_through(f"http://name:pass-word-of-mine@127.0.0.1:{port}", tmp_path, "https", source)
    assert done.returncode in (1, 3) and "Traceback" not in done.stderr
    assert "pass-word-of-mine" not in done.stderr + done.stdout
    assert sqlite3.connect(ledger_in(tmp_path)).execute(
        "SELECT count(*) FROM outcomes WHERE status <> 'transient'"
    ).fetchone() == (0,)
