"""Common Crawl: the list of crawls, their indexes, and the WARC files that hold one watch page per record.

``/collinfo.json`` and ``/CC-MAIN-...-index`` are the index host's, ``/crawl-data/...`` the data host's. A record's file
is made up when it is asked for: the video's id is part of the file's name.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from k700_text.records import Availability
from k700_text.sandbox.messages import Request, Response
from k700_text.sandbox.scene import seeded
from k700_text.sandbox.services.objects import ranged, xml_error
from k700_text.sandbox.services.watch_page import watch_page
from k700_text.sandbox.services.wayback import parse_watch_url
from k700_text.sandbox.world import SandboxVideo, World

CRAWLS: Mapping[str, datetime] = MappingProxyType(
    {
        "CC-MAIN-2022-33": datetime(2022, 8, 7, tzinfo=UTC),
        "CC-MAIN-2019-30": datetime(2019, 7, 15, tzinfo=UTC),
        "CC-MAIN-2016-30": datetime(2016, 7, 23, tzinfo=UTC),
    }
)
"""When each crawl began; newest first, as the service lists them."""
CRAWLED = 0.1
"""Share of the living videos in each crawl."""
CRAWL_LENGTH = timedelta(days=10)

_INDEX = re.compile(r"/(?P<crawl>CC-MAIN-\d{4}-\d{2})-index")
_FILE = re.compile(r"/(?P<name>crawl-data/(?P<crawl>CC-MAIN-\d{4}-\d{2})/.+-(?P<id>.{11})\.warc\.gz)")
_JSON = ("Content-Type", "application/json")
_PADDING = b"\0"


class CommonCrawlIndex:
    """``/collinfo.json``, and one index per crawl: JSON lines, or 404 with a message where there is nothing."""

    name = "common-crawl-index"

    def __init__(self, world: World) -> None:
        self._world = world

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""
        return path == "/collinfo.json" or _INDEX.fullmatch(path) is not None

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns the id of the watch page asked for."""
        asked = parse_watch_url(request.query.get("url", "").removesuffix("*"))
        return () if asked is None else (asked.youtube_id,)

    def answer(self, request: Request) -> Response:
        """Returns the list of crawls, or the records of a page."""
        found = _INDEX.fullmatch(request.path)
        if found is None:
            return Response(200, (_JSON,), json.dumps([_collection(crawl) for crawl in CRAWLS]).encode())
        ids = self.youtube_ids(request)
        record = Record.find(self._world, found["crawl"], ids[0]) if ids else None
        if record is None:
            message = f"No Captures found for: {request.query.get('url', '')}"
            return Response(404, (_JSON,), json.dumps({"message": message}).encode())
        return Response(200, (("Content-Type", "text/x-ndjson"),), (json.dumps(record.row()) + "\n").encode())


class CommonCrawlData:
    """``/crawl-data/...warc.gz``: read by range, one gzip member per record."""

    name = "common-crawl"

    def __init__(self, world: World) -> None:
        self._world = world

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""
        return path.startswith("/crawl-data/")

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns the id in the file's name."""
        found = _FILE.fullmatch(request.path)
        return (found["id"],) if found else ()

    def answer(self, request: Request) -> Response:
        """Returns the asked range of a file (206), all of it without one, 404 for a file that there is not."""
        found = _FILE.fullmatch(request.path)
        record = Record.find(self._world, found["crawl"], found["id"]) if found else None
        if found is None or record is None or record.filename != found["name"]:
            return xml_error(404, "NoSuchKey", "The specified key does not exist.")
        body = _PADDING * record.offset + record.member + _PADDING * 100
        headers = (("Content-Type", "application/octet-stream"), ("Accept-Ranges", "bytes"), ("Server", "AmazonS3"))
        return ranged(request.header("range"), Response(200, headers, body))


class Record:
    """One crawled watch page.

    Args:
        video: what the page shows.
        crawl: name of the crawl.
    """

    def __init__(self, video: SandboxVideo, crawl: str) -> None:
        rng = seeded("common crawl record", video.youtube_id, crawl)
        self.video = video
        self.captured_at = CRAWLS[crawl] + CRAWL_LENGTH * rng.random()
        self.offset = rng.randrange(100, 20_000)
        segment = f"crawl-data/{crawl}/segments/{rng.randrange(10**12)}.{rng.randrange(100)}/warc"
        self.filename = f"{segment}/{crawl}-{self.captured_at:%Y%m%d%H%M%S}-{video.youtube_id}.warc.gz"
        self.member = _member(video, self.captured_at)

    @classmethod
    def find(cls, world: World, crawl: str, youtube_id: str) -> Record | None:
        """Returns the record of a video in a crawl, None without one."""
        video = world.video(youtube_id)
        if crawl not in CRAWLS or video.availability is Availability.MALFORMED or video.published_at > CRAWLS[crawl]:
            return None
        was_gone = video.died_at is not None and video.died_at <= CRAWLS[crawl] + CRAWL_LENGTH
        is_crawled = seeded("common crawl", world.seed, crawl, youtube_id).random() < CRAWLED
        return cls(video, crawl) if is_crawled and not was_gone else None

    @property
    def url(self) -> str:
        """The address that was crawled."""
        return f"https://www.youtube.com/watch?v={self.video.youtube_id}"

    def row(self) -> dict[str, str]:
        """Returns the record's line in the index."""
        digest = seeded("crawl digest", self.filename).choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=32)
        return {
            "urlkey": f"com,youtube)/watch?v={self.video.youtube_id.lower()}",
            "timestamp": self.captured_at.strftime("%Y%m%d%H%M%S"),
            "url": self.url,
            "mime": "text/html",
            "mime-detected": "text/html",
            "status": "200",
            "digest": "".join(digest),
            "length": str(len(self.member)),
            "offset": str(self.offset),
            "filename": self.filename,
            "languages": "eng",
        }


def _collection(crawl: str) -> dict[str, str]:
    index = f"https://index.commoncrawl.org/{crawl}"
    return {"id": crawl, "name": crawl, "timegate": f"{index}/", "cdx-api": f"{index}-index"}


def _member(video: SandboxVideo, captured_at: datetime) -> bytes:
    page = watch_page(video, captured_at).encode()
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n\r\n" % len(page)
    head = (
        "WARC/1.0\r\nWARC-Type: response\r\n"
        f"WARC-Date: {captured_at:%Y-%m-%dT%H:%M:%SZ}\r\n"
        f"WARC-Target-URI: https://www.youtube.com/watch?v={video.youtube_id}\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http) + len(page)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + http + page + b"\r\n\r\n", 6, mtime=0)
