"""The sandbox's object stores: the annotation archives in both of their buckets, by range and by condition."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import tarfile
from base64 import b64decode
from collections.abc import Iterator

import pytest

from k700_text.records import Split
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.services.objects import crc32c
from k700_text.sandbox.world import World, make_kinetics
from tests.k700_text.sandboxing import Client

WORLD = World(0)
MINIATURE = make_kinetics(WORLD, num_classes=3, clips_per_class=5, val_per_class=2, test_per_class=2)
ARCHIVE = "/deepmind-media/Datasets/kinetics700_2020.tar.gz"


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(WORLD, clips=MINIATURE.clips) as running:
        yield running


@pytest.fixture
def get(server: SandboxServer) -> Iterator[Client]:
    client = Client(server.port)
    yield client
    client.close()


def test_annotation_archive_is_laid_out_like_the_official_one(get: Client) -> None:
    reply = get(ARCHIVE)
    assert reply.status == 200
    digest = hashlib.md5(reply.body).digest()
    checksums = dict(value.split("=", 1) for value in reply.headers.get_all("x-goog-hash", []))
    assert list(checksums) == ["crc32c", "md5"] and b64decode(checksums["md5"]) == digest
    assert b64decode(checksums["crc32c"]) == crc32c(reply.body)
    assert reply.headers["ETag"] == f'"{digest.hex()}"'
    with tarfile.open(fileobj=io.BytesIO(reply.body)) as tar:
        files = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        texts = {name: file.read().decode() for name, file in files.items() if file is not None}
    assert set(texts) == {
        f"kinetics700_2020/{split}.{suffix}" for split in ("train", "validate", "test") for suffix in ("csv", "json")
    }
    train = list(csv.DictReader(io.StringIO(texts["kinetics700_2020/train.csv"])))
    assert len(train) >= 15 and list(train[0]) == ["label", "youtube_id", "time_start", "time_end", "split"]
    test = list(csv.DictReader(io.StringIO(texts["kinetics700_2020/test.csv"])))
    assert len(test) == 6 and list(test[0]) == ["youtube_id", "time_start", "time_end", "split"]
    entry = json.loads(texts["kinetics700_2020/validate.json"]).popitem()[1]
    assert set(entry) == {"annotations", "duration", "subset", "url"} and entry["subset"] == "validate"


def test_annotation_archive_serves_ranges_and_304(get: Client) -> None:
    whole = get(ARCHIVE)
    size = len(whole.body)
    for header, part in ((f"bytes=10-{size * 2}", whole.body[10:]), ("bytes=0-9", whole.body[:10])):
        reply = get(ARCHIVE, Range=header)
        assert (reply.status, reply.body) == (206, part)
        assert reply.headers["Content-Range"].endswith(f"/{size}")
    assert get(ARCHIVE, Range="bytes=-5").body == whole.body[-5:]
    assert get(ARCHIVE, Range=f"bytes={size}-").status == 416
    assert get(ARCHIVE, Range="bytes=0-9", If_Range='"old"').status == 200
    assert get(ARCHIVE, If_None_Match=whole.headers["ETag"]).status == 304
    missing = get("/deepmind-media/Datasets/kinetics9000.tar.gz")
    assert missing.status == 404 and b"<Code>NoSuchKey</Code>" in missing.body
    assert get("/deepmind-media/Datasets/kinetics700.tar.gz").status == 200


def test_a_new_version_of_the_archive_ends_ranges_of_the_old_one(server: SandboxServer, get: Client) -> None:
    old = get(ARCHIVE)
    etag = old.headers["ETag"]
    assert get(ARCHIVE, If_Match=etag).status == 200
    server.annotations.republish()
    new = get(ARCHIVE)
    assert new.body != old.body and new.headers["ETag"] != etag
    assert gzip.decompress(new.body) == gzip.decompress(old.body)
    went_on = get(ARCHIVE, Range="bytes=100-", If_Range=etag)
    assert (went_on.status, went_on.body) == (200, new.body)
    assert get(ARCHIVE, Range="bytes=100-", If_Match=etag).status == 412
    assert get(ARCHIVE, If_None_Match=etag).status == 200


def test_the_other_store_tells_nobody_what_it_lacks(get: Client) -> None:
    target = "/kinetics/700_2020/annotations/val.csv"
    whole = get(target)
    rows = list(csv.DictReader(io.StringIO(whole.body.decode())))
    assert {row["youtube_id"] for row in rows} == {clip.youtube_id for clip in MINIATURE.split(Split.VAL)}
    assert re.fullmatch(r'"[0-9a-f]{32}-1"', whole.headers["ETag"])
    part = get(target, Range="bytes=5-14")
    assert (part.status, part.body) == (206, whole.body[5:15])
    assert get(target, If_None_Match=whole.headers["ETag"]).status == 304
    forbidden, missing = get("/kinetics/700_2020/annotations/nothing.csv"), get("/kinetics/nothing")
    assert forbidden.status == 403 and b"<Code>AccessDenied</Code>" in forbidden.body
    assert missing.status == 404 and b"<Code>NoSuchKey</Code>" in missing.body


def test_the_checksum_is_castagnoli() -> None:
    assert crc32c(b"123456789").hex() == "e3069283"
