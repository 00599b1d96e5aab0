"""The web archive: playback of archived watch pages, and the index of captures.

``/web/<timestamp><modifier>/<url>`` redirects to the closest capture, and answers an exact one with the page as it was.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from k700_text.sandbox.messages import Request, Response
from k700_text.sandbox.scene import seeded
from k700_text.sandbox.services.watch_page import consent_page, dead_page, watch_page
from k700_text.sandbox.world import SandboxVideo, World

_PLAYBACK = re.compile(r"/web/(?P<timestamp>\d{1,14})(?P<modifier>[a-z]{2}_)?/(?P<url>.+)", re.DOTALL)
_WATCH = re.compile(r"(?:https?(?::|%3A)//?)?(?:www\.)?youtube\.com(?::80)?/watch\?v=(?P<id>[^&#]+)", re.IGNORECASE)
_CONSENT_SINCE = datetime(2020, 11, 1, tzinfo=UTC)
_STAMP = "%Y%m%d%H%M%S"
_HTML = ("Content-Type", "text/html; charset=utf-8")
_CDX_FIELDS = ("urlkey", "timestamp", "original", "mimetype", "statuscode", "digest", "length")


class Wayback:
    """Playback of captures of watch pages."""

    name = "wayback"

    def __init__(self, world: World) -> None:
        self._world = world

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""
        return path.startswith("/web/")

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns the id of the watch page asked for."""
        found = _PLAYBACK.fullmatch(request.target)
        youtube_id = watch_page_id(found["url"]) if found else None
        return () if youtube_id is None else (youtube_id,)

    def answer(self, request: Request) -> Response:
        """Returns the capture, a redirect to the closest one, or 404 without Memento-Datetime."""
        found = _PLAYBACK.fullmatch(request.target)
        ids = self.youtube_ids(request)
        video = self._world.video(ids[0]) if ids else None
        if found is None or video is None or not video.captures:
            body = "<html><body><h1>Hrm.</h1><p>The Wayback Machine has not archived that URL.</p></body></html>"
            return Response(404, (_HTML,), body.encode())
        base = f"http://{request.header('host') or 'web.archive.org'}/web"
        captured_at = closest_capture(video, found["timestamp"])
        stamp = captured_at.strftime(_STAMP)
        if stamp != found["timestamp"]:
            location = f"{base}/{stamp}{found['modifier'] or ''}/{_original(video)}"
            return Response(302, (_HTML, ("Location", location), ("X-Archive-Redirect-Reason", "found capture")))
        return Response(200, (_HTML, *_memento_headers(video, captured_at, base)), captured_page(video, captured_at))


class WaybackIndex:
    """``/cdx/search/cdx``: the captures of one watch page, as JSON rows or text lines."""

    name = "wayback-cdx"

    def __init__(self, world: World) -> None:
        self._world = world

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""
        return path == "/cdx/search/cdx"

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns the id of the watch page asked for."""
        youtube_id = watch_page_id(request.query.get("url", "").rstrip("*"))
        return () if youtube_id is None else (youtube_id,)

    def answer(self, request: Request) -> Response:
        """Returns the captures, oldest first; nothing at all where there is none."""
        query = request.query
        if "url" not in query:
            return Response(400, (("Content-Type", "text/plain"),), b"The required parameter 'url' was not found")
        ids = self.youtube_ids(request)
        rows = _cdx_rows(self._world.video(ids[0])) if ids else []
        since, until = query.get("from", "0").ljust(14, "0"), query.get("to", "9").ljust(14, "9")
        rows = [row for row in rows if since <= row["timestamp"] <= until]
        limit = int(query.get("limit") or len(rows))
        rows = rows[:limit] if limit >= 0 else rows[limit:]
        names = [name for name in query.get("fl", ",".join(_CDX_FIELDS)).split(",") if name in _CDX_FIELDS]
        table = [[row[name] for name in names] for row in rows]
        if query.get("output") == "json":
            body = json.dumps([names, *table] if table else [])
            return Response(200, (("Content-Type", "application/json"),), body.encode())
        lines = "".join(" ".join(row) + "\n" for row in table)
        return Response(200, (("Content-Type", "text/plain"),), lines.encode())


def watch_page_id(url: str) -> str | None:
    """Returns the id in the plain form of a watch URL (the only form that is archived here), else None."""
    found = _WATCH.fullmatch(url)
    return found["id"] if found else None


def closest_capture(video: SandboxVideo, timestamp: str) -> datetime:
    """Returns the capture closest to a timestamp of 1 to 14 digits; the video has captures.

    Missing digits are those of the earliest moment (2015 is its first second); less than a year is one of the ends of
    time, so that ``0`` gives the oldest capture and ``2`` the newest.
    """
    if len(timestamp) < 4:
        return video.captures[-1] if timestamp.startswith("2") else video.captures[0]
    wanted = _parse_stamp(timestamp)
    return min(video.captures, key=lambda captured_at: abs(captured_at - wanted))


def _parse_stamp(timestamp: str) -> datetime:
    digits = timestamp + "00000101000000"[len(timestamp) :]
    # Stamps with day 00 or month 00 exist in the archive.
    year, month, day = max(int(digits[:4]), 1), min(max(int(digits[4:6]), 1), 12), max(int(digits[6:8]), 1)
    clock = timedelta(hours=int(digits[8:10]), minutes=int(digits[10:12]), seconds=int(digits[12:14]))
    return datetime(year, month, 1, tzinfo=UTC) + timedelta(days=day - 1) + clock


def captured_page(video: SandboxVideo, captured_at: datetime) -> bytes:
    """Returns the watch page as the archive saw it: alive, dead, or hidden behind a consent page."""
    if video.died_at is not None and captured_at >= video.died_at:
        return dead_page(video, captured_at).encode()
    if captured_at >= _CONSENT_SINCE and seeded("consent", video.youtube_id, captured_at).random() < 0.05:
        return consent_page().encode()
    return watch_page(video, captured_at).encode()


def _original(video: SandboxVideo) -> str:
    return f"http://www.youtube.com/watch?v={video.youtube_id}"


def _memento_headers(video: SandboxVideo, captured_at: datetime, base: str) -> tuple[tuple[str, str], ...]:
    def link(moment: datetime, relation: str) -> str:
        address = f"{base}/{moment.strftime(_STAMP)}/{_original(video)}"
        return f'<{address}>; rel="{relation}"; datetime="{format_datetime(moment, usegmt=True)}"'

    links = (
        f'<{_original(video)}>; rel="original"',
        f'<{base}/timemap/link/{_original(video)}>; rel="timemap"; type="application/link-format"',
        link(video.captures[0], "first memento"),
        link(captured_at, "memento"),
        link(video.captures[-1], "last memento"),
    )
    return (
        ("Memento-Datetime", format_datetime(captured_at, usegmt=True)),
        ("Link", ", ".join(links)),
        ("x-archive-src", f"sandbox-{captured_at:%Y%m}.warc.gz"),
        ("x-archive-orig-content-type", "text/html; charset=utf-8"),
    )


def _cdx_rows(video: SandboxVideo) -> list[dict[str, str]]:
    key = f"com,youtube)/watch?v={video.youtube_id.lower()}"
    rows = []
    for captured_at in video.captures:
        page = captured_page(video, captured_at)
        digest = "".join(seeded("digest", page).choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=32))
        values = (key, captured_at.strftime(_STAMP), _original(video), "text/html", "200", digest, str(len(page)))
        rows.append(dict(zip(_CDX_FIELDS, values, strict=True)))
    return rows
