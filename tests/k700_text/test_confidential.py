"""What is sent to a service as a key rests nowhere, however a server echoes it."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from k700_text import confidential
from k700_text.confidential import MASK, hide, hide_in_text, is_echoed, keep_secret, note_answer
from k700_text.crawl.crawler import CrawlSettings, crawl
from k700_text.crawl.ledger import Ledger
from k700_text.crawl.registry import make_sources
from k700_text.crawl.transport import Endpoints, Transport
from k700_text.errors import K700TextError, TransportError
from tests.k700_text.crawling import call, make_ids, write_annotations

# Made up, of the form of Google's; in two parts, so that no scanner takes them for real ones.
KEY = "AIza" + "SyMade_up-for_tests-0123456789-abcdefg"
OTHER_KEY = "AIza" + "SyAnother_one-for_tests-9876543210-hijk"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test knows the words of another."""
    monkeypatch.setattr(confidential, "_words", {})
    monkeypatch.setattr(confidential, "_is_echoed", False)


def every(form: str, step: int = 1) -> Callable[[str], str]:
    return lambda key: "".join(form % ord(char) if not index % step else char for index, char in enumerate(key))


ECHOES: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "backwards": lambda key: key[::-1],
    "in hexadecimal": lambda key: key.encode().hex(),
    "in base64": lambda key: base64.b64encode(key.encode()).decode(),
    "in base64 behind one": lambda key: base64.b64encode(b"k" + key.encode() + b"&x").decode(),
    "in base64 behind two": lambda key: base64.urlsafe_b64encode(b"k=" + key.encode() + b"&").decode(),
    "percent": every("%%%02x"),
    "some percent": every("%%%02X", 5),
    "percent twice": every("%%25%02X"),
    "JSON": every("\\u%04x"),
    "JSON in JSON": every("\\\\u%04X", 3),
    "script": every("\\x%02x"),
    "HTML": every("&#%d;", 2),
    "HTML, hexadecimal": every("&#x%X;"),
    "in two pieces": lambda key: f'{key[:18]}" + "{key[18:]}',
    "an address": lambda key: quote(f"https://host/?key={key}&part=snippet", safe=""),
    "an address in JSON": lambda key: f"?part=x\\u0026key\\u003d{key}\\u0026id=y",
}


@pytest.mark.parametrize("name", ECHOES)
def test_a_word_is_hidden_in_every_disguise(name: str) -> None:
    keep_secret(KEY)
    echo = ECHOES[name](KEY)
    hidden = hide(f'{{"before": "{echo}", "title": "é"}}'.encode())
    assert MASK in hidden and hidden.startswith(b'{"before": "') and hidden.endswith(', "title": "é"}'.encode())
    # What is left of the echo tells less than half of the key.
    assert not any(KEY[start : start + 14].encode() in hidden for start in range(len(KEY) - 13))
    assert echo.encode() not in hidden
    note_answer(echo.encode())
    assert is_echoed()


def test_other_words_stay_as_they_are() -> None:
    keep_secret(KEY)
    keep_secret("short")
    for text in (
        "short",
        OTHER_KEY,
        "100 % \\u00e9 &#65; %41",
        "lone \ud800",
        KEY[:10],
    ):
        assert hide_in_text(text) == text
        note_answer(text.encode("utf-8", "surrogatepass"))
    assert not is_echoed()


def test_only_the_newest_words_are_kept() -> None:
    cookies = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(confidential.MAX_WORDS + 5)]
    for cookie in cookies:
        keep_secret(cookie)
    assert hide_in_text(cookies[0]) == cookies[0]
    assert hide_in_text(cookies[-1]) == "(secret)"


class Mirror:
    """Answers as the Data API does, and echoes the request everywhere."""

    def __init__(self, echo: Callable[[str], str], status: int = 200) -> None:
        self._echo, self._status = echo, status
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while request := connection.recv(65536).decode():
                key = request.partition("key=")[2].partition("&")[0].partition(" ")[0]
                ids = request.partition("&id=")[2].partition("&")[0].split("%2C")
                echo = self._echo(key)
                items = [
                    {"id": each, "etag": echo, "snippet": {"title": f"t {echo}", "defaultLanguage": echo}}
                    for each in ids
                ]
                answer = json.dumps({"kind": echo, "items": items, "error": {"message": echo, "status": echo}})
                # As the server chose to spell it.
                body = answer.replace(json.dumps(echo)[1:-1], echo).encode()
                head = f"HTTP/1.1 {self._status} {key}\r\nX-Echo: {key}\r\nLocation: /x?key={key}\r\n"
                connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def mirror(request: pytest.FixtureRequest) -> Iterator[Mirror]:
    made = Mirror(*request.param)
    yield made
    made.close()


def files_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def evidence_of(ledger: Path) -> str:
    import sqlite3
    import zlib

    rows = sqlite3.connect(ledger).execute("SELECT * FROM outcomes").fetchall()
    return "\n".join(str([zlib.decompress(each) if isinstance(each, bytes) else each for each in row]) for row in rows)


@pytest.mark.parametrize(
    "mirror", [(str,), (every("\\u%04x"),), (lambda key: f"?key={key}",), (every("%%%02x"),)], indirect=True
)
def test_a_key_that_a_mirror_echoes_does_not_reach_the_ledger(mirror: Mirror, tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ids = make_ids(3)
        ledger.want(ids)
        sources = make_sources(
            ["data-api"], endpoints=Endpoints({"data-api": mirror.url}), environment={"YOUTUBE_API_KEY": KEY}
        )
        summary = crawl(ledger, sources, CrawlSettings(rates={"data-api": 100.0}), num_ids=len(ids))
    assert summary.sources[0].num_titles == len(ids)
    said = evidence_of(tmp_path / "ledger.sqlite") + files_of(tmp_path).decode("latin-1") + str(summary.as_dict())
    # Not even once all escapes are undone.
    for text in (said, said.encode().decode("unicode_escape", "replace"), bytes.fromhex("00").decode() + said):
        assert KEY not in text and KEY[:20] not in text and KEY[-20:] not in text
    assert "(secret)" in said


@pytest.mark.parametrize(
    "mirror",
    [(str, 200), *(pytest.param((str, status), marks=pytest.mark.slow) for status in (302, 400, 403, 500))],
    indirect=True,
)
def test_a_key_is_on_no_stream_and_in_no_file_of_a_crawl(mirror: Mirror, tmp_path: Path) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(2))
    for options in (["--plan"], ["--json", "--debug"]):
        words = ["crawl", "--annotations", annotations, "--out", tmp_path / "out", "--sources", "data-api"]
        words += ["--endpoint", f"data-api={mirror.url}", "--rate", "data-api=1000", "--max-wait", "0"]
        done = call(*words, *options, YOUTUBE_API_KEY=KEY)
        assert KEY not in done.stdout + done.stderr and KEY.encode() not in files_of(tmp_path)
        assert KEY not in evidence_of(tmp_path / "out" / "_ledger.sqlite")


def test_the_password_of_a_proxy_is_in_no_message_and_no_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    login = "somebody:correct%20horse"
    mirror = Mirror(lambda key: "")
    monkeypatch.setenv("HTTP_PROXY", mirror.url.replace("//", f"//{login}@"))
    transport = Transport()
    try:
        for url in ("http://titles.example/a", f"http://titles.example/a?key={KEY}"):
            keep_secret(KEY)
            transport.get(url)
        echoed = base64.b64encode(b"somebody:correct horse").decode()
        assert hide_in_text(f"{login} correct horse {echoed}") == "(secret) (secret) (secret)"
        assert "titles.example" in caplog.text or "/a" in caplog.text
        assert KEY not in caplog.text and "correct" not in caplog.text
    finally:
        transport.close()
        mirror.close()
    monkeypatch.setenv("HTTP_PROXY", f"http://{login}@127.0.0.1:9")
    with pytest.raises(K700TextError) as caught:
        Transport().get(f"http://titles.example/?key={KEY}")
    assert isinstance(caught.value, TransportError)
    assert "correct" not in str(caught.value) and KEY not in str(caught.value)
