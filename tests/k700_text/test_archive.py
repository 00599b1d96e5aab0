from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from k700_text.annotations import load_annotations
from k700_text.crawl.archive import FILE_NAME, fetch_annotations, is_verified
from k700_text.crawl.transport import Endpoints
from k700_text.errors import NetworkDownError, TransportError
from k700_text.records import Clip, Split
from k700_text.sandbox.messages import Answer
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World
from tests.k700_text.crawling import JumpingClock, make_ids

CLIPS = [
    Clip(youtube_id=each, split=Split.VAL, start_seconds=1.0, end_seconds=11.0, label="yoga") for each in make_ids(20)
]


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(World(seed=0), clips=CLIPS) as running:
        yield running


def fetch(server: SandboxServer, folder: Path) -> Path:
    return fetch_annotations(folder, endpoints=Endpoints({"annotations": server.url}), clock=JumpingClock())


def test_is_downloaded_once_and_can_be_read(server: SandboxServer, tmp_path: Path) -> None:
    archive = fetch(server, tmp_path / "annotations")
    assert {clip.youtube_id for clip in load_annotations([archive]).clips} == set(make_ids(20))
    record = json.loads((tmp_path / "annotations" / f"{FILE_NAME}.json").read_text())
    assert record["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert record["num_bytes"] == archive.stat().st_size and record["etag"] and record["md5"]
    assert fetch(server, tmp_path / "annotations") == archive
    assert server.count("annotations") == 1
    assert sorted(path.name for path in archive.parent.glob("[!.]*")) == [FILE_NAME, f"{FILE_NAME}.json"]


def test_a_harmed_file_is_downloaded_again(server: SandboxServer, tmp_path: Path) -> None:
    archive = fetch(server, tmp_path)
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-1] + b"x")
    assert not is_verified(archive)
    assert fetch(server, tmp_path).read_bytes() == whole


def test_continues_where_it_broke_off(server: SandboxServer, tmp_path: Path) -> None:
    server.script("annotations", [Answer(truncate=True)])
    archive = fetch(server, tmp_path)
    first, second = server.requests
    assert "range" not in first.headers
    assert second.headers["range"].startswith("bytes=") and second.headers["if-range"].startswith('"')
    assert second.status == 206
    assert is_verified(archive)


def test_continues_after_a_restart_of_the_program(server: SandboxServer, tmp_path: Path) -> None:
    server.script("annotations", [Answer(truncate=True), *[Answer(status=404)]])
    with pytest.raises(TransportError, match="status 404"):
        fetch(server, tmp_path)
    fetch(server, tmp_path)
    assert server.requests[-1].status == 206


def test_a_changed_file_is_begun_again(server: SandboxServer, tmp_path: Path) -> None:
    (tmp_path / f".{FILE_NAME}.part").write_bytes(b"of another version")
    (tmp_path / f".{FILE_NAME}.part.etag").write_text('"another"')
    assert is_verified(fetch(server, tmp_path))
    assert server.requests[0].headers["if-range"] == '"another"'


def test_a_part_longer_than_the_file_is_begun_again(server: SandboxServer, tmp_path: Path) -> None:
    etag = fetch(server, tmp_path / "a").with_name(f"{FILE_NAME}.json")
    (tmp_path / f".{FILE_NAME}.part").write_bytes(b"x" * 1_000_000)
    (tmp_path / f".{FILE_NAME}.part.etag").write_text(json.loads(etag.read_text())["etag"])
    assert is_verified(fetch(server, tmp_path))


def test_a_wrong_checksum_is_refused_and_leaves_nothing(server: SandboxServer, tmp_path: Path) -> None:
    damaged = Answer(status=200, headers={"x-goog-hash": "crc32c=x,md5=AAAA"}, body="bytes")
    server.script("annotations", [damaged] * 5)
    with pytest.raises(TransportError, match="checksum"):
        fetch(server, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".{FILE_NAME}.lock"]
    server.script("annotations", [damaged])
    assert is_verified(fetch(server, tmp_path))


def test_a_busy_server_is_asked_again(server: SandboxServer, tmp_path: Path) -> None:
    server.script("annotations", [Answer(status=503), Answer(status=429, headers={"Retry-After": "3"})])
    fetch(server, tmp_path)
    assert server.count("annotations") == 3


def test_no_network_names_the_way_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(NetworkDownError, match="--annotations FILE") as caught:
        fetch_annotations(tmp_path, clock=JumpingClock())
    assert "\n" not in str(caught.value)
