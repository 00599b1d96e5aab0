"""The web archive: playback of archived watch pages, and of what else was captured of a video.

``/web/<timestamp><modifier>/<url>`` redirects to the closest capture, and answers an exact one with the page as it was,
faults of the capture included.
"""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass
from datetime import timedelta
from email.utils import format_datetime
from urllib.parse import parse_qsl

from k700_text.sandbox.captures import (
    DATA_PARAMETERS,
    AddressForm,
    Capture,
    CaptureKind,
    case_twin,
    closest,
    keyed,
)
from k700_text.sandbox.messages import Request, Response
from k700_text.sandbox.scene import seeded
from k700_text.sandbox.services.oembed import oembed_values
from k700_text.sandbox.services.watch_page import (
    CONSENT_TITLES,
    consent_page,
    dead_page,
    embed_page,
    huge_page,
    page_data,
    sorry_page,
    watch_page,
    windows_1252_page,
)
from k700_text.sandbox.world import World

_PLAYBACK = re.compile(r"/web/(?P<timestamp>\d{1,14})(?P<modifier>[a-z]{2}_)?/(?P<url>.+)", re.DOTALL)
_WATCH = re.compile(
    r"(?:https?(?::|%3A)//?)?(?:www\.)?youtube\.com(?::80)?/watch\?v=(?P<id>[^&#*]+)(?P<more>[^#]*)", re.IGNORECASE
)
_OTHERS = {
    AddressForm.EMBED: re.compile(r"(?:https?(?::|%3A)//?)?(?:www\.)?youtube\.com/embed/([^/?&#]+)", re.IGNORECASE),
    AddressForm.PLAYER: re.compile(r"(?:https?(?::|%3A)//?)?(?:www\.)?youtube\.com/v/([^/?&#]+)", re.IGNORECASE),
    AddressForm.SHORT_LINK: re.compile(r"(?:https?(?::|%3A)//?)?youtu\.be/([^/?&#]+)", re.IGNORECASE),
    AddressForm.MOBILE: re.compile(r"(?:https?(?::|%3A)//?)?m\.youtube\.com/watch\?v=([^&#]+)", re.IGNORECASE),
}
_OEMBED = re.compile(r"(?:https?(?::|%3A)//?)?(?:www\.)?youtube\.com/oembed\?([^#]+)", re.IGNORECASE)
_HTML = ("Content-Type", "text/html; charset=utf-8")
_NEVER_ARCHIVED = b"<html><body><h1>Hrm.</h1><p>The Wayback Machine has not archived that URL.</p></body></html>"
_EXCLUDED = b"<html><body><p>This URL has been excluded from the Wayback Machine.</p></body></html>"
_OFFLINE = b"<html><body><p>Sorry, the Wayback Machine is temporarily offline.</p></body></html>"
_MOVES = (CaptureKind.REDIRECT, CaptureKind.CIRCLE, CaptureKind.MOVED)
_HUGE_BYTES = (2 << 20, 4 << 20)

EXCLUSION = ("X-Archive-Wayback-Runtime-Error", "AdministrativeAccessControlException: Blocked Site Error")


@dataclass(frozen=True, slots=True)
class WatchUrl:
    """A watch URL or another address of a video: the id, and what follows it (``&feature=...``, or nothing)."""

    youtube_id: str
    parameters: str = ""
    form: AddressForm = AddressForm.WATCH


def parse_watch_url(url: str) -> WatchUrl | None:
    """Returns the parts of a watch URL that begins with the id; None for any other address."""
    found = _WATCH.fullmatch(url)
    return WatchUrl(found["id"], found["more"]) if found else None


def parse_any_url(url: str) -> WatchUrl | None:
    """Returns the parts of any address of a video that is ever captured; None for any other address.

    The archive makes no difference between http and https, nor between the orders of parameters; an address within
    another one is told apart by its scheme.
    """
    for form, pattern in _OTHERS.items():
        if found := pattern.fullmatch(url):
            return WatchUrl(found[1], form=form)
    if found := _OEMBED.fullmatch(url):
        query = dict(parse_qsl(found[1]))
        inner = parse_watch_url(query.get("url", ""))
        if inner is None or query.keys() != {"url", "format"} or query["format"] != "json":
            return None
        is_https = query["url"].startswith("https:")
        return WatchUrl(inner.youtube_id, form=AddressForm.OEMBED if is_https else AddressForm.OEMBED_OF_HTTP)
    return parse_watch_url(url)


class Wayback:
    """Playback of captures of watch pages."""

    name = "wayback"

    def __init__(self, world: World) -> None:
        self._world = world

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""
        return path.startswith("/web/") or path == "/sry"

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns the id of the watch page asked for."""
        found = _PLAYBACK.fullmatch(request.target)
        asked = parse_any_url(found["url"]) if found else None
        return () if asked is None else (asked.youtube_id,)

    def answer(self, request: Request) -> Response:
        """Returns the capture, a redirect to the closest one, 404 without Memento-Datetime, or that it is excluded."""
        if request.path == "/sry":
            return Response(503, (_HTML,), _OFFLINE)
        found = _PLAYBACK.fullmatch(request.target)
        asked = parse_any_url(found["url"]) if found else None
        if found is None or asked is None:
            return Response(404, (_HTML,), _NEVER_ARCHIVED)
        captures = self._captures(asked)
        if captures and self._world.archive.is_excluded(asked.youtube_id):
            status = self._world.archive.exclusion_status(asked.youtube_id)
            return Response(status, (_HTML, EXCLUSION) if status == 403 else (_HTML,), _EXCLUDED)
        if not captures:
            return Response(404, (_HTML,), _NEVER_ARCHIVED)
        base = f"http://{request.header('host') or 'web.archive.org'}/web"
        capture = closest(captures, found["timestamp"])
        modifier = found["modifier"] or ""
        if capture.stamp != found["timestamp"]:
            location = f"{base}/{capture.stamp}{modifier}/{capture.original}"
            return Response(302, (_HTML, ("Location", location), ("X-Archive-Redirect-Reason", "found capture")))
        return self._play(request, capture, memento_headers(captures, capture, base), f"{base}/{{}}{modifier}/")

    def _captures(self, asked: WatchUrl) -> tuple[Capture, ...]:
        captures = self._world.archive.under_key(asked.youtube_id, asked.form)
        return tuple(capture for capture in captures if capture.key_parameters == keyed(asked.parameters))

    def _play(self, request: Request, capture: Capture, memento: tuple[tuple[str, str], ...], base: str) -> Response:
        body, content_type = captured_body(self._world, capture)
        headers = (("Content-Type", content_type), *memento, ("x-archive-orig-content-type", content_type))
        if capture.kind in _MOVES:
            later = capture.captured_at + timedelta(seconds=1)
            start_page = "http://www.youtube.com/" if capture.kind is CaptureKind.REDIRECT else None
            target = start_page or capture.leads_to or capture.original
            location = f"{base.format(later.strftime('%Y%m%d%H%M%S'))}{target}"
            if base.endswith("id_/"):
                return Response(capture.kind.status, (*headers, ("Location", location)))
            # For people the archive shows a page that tells of the redirect.
            text = f"<html><body>Got an HTTP {capture.kind.status} response at crawl time: {location}</body></html>"
            return Response(200, headers, text.encode())
        if capture.kind is CaptureKind.DOUBLE_ENCODING:
            coding = "gzip" if request.takes_gzip else "identity"
            body = gzip.compress(body, 6, mtime=0) if request.takes_gzip else body
            headers = (*headers, ("Content-Encoding", coding), ("Content-Encoding", ""))
        return Response(capture.kind.status, headers, body)


def captured_body(world: World, capture: Capture) -> tuple[bytes, str]:
    """Returns the bytes of a capture as the site sent them, and their Content-Type."""
    kind, youtube_id = capture.kind, capture.youtube_id
    rng = seeded("captured body", youtube_id, capture.stamp)
    if kind in _MOVES:
        return b"", _HTML[1]
    if kind is CaptureKind.NOT_FOUND:
        return b"<html><head><title>404 Not Found</title></head><body>Not Found</body></html>", _HTML[1]
    if kind is CaptureKind.SORRY:
        return sorry_page().encode(), _HTML[1]
    if kind is CaptureKind.CONSENT:
        return consent_page(rng.choice(("en", *CONSENT_TITLES))).encode(), _HTML[1]
    shown = case_twin(youtube_id) if kind is CaptureKind.WRONG_ID else youtube_id
    video = world.video(shown or youtube_id)
    if capture.form.is_oembed:
        return json.dumps(oembed_values(video)).encode(), "application/json"
    if capture.parameters == DATA_PARAMETERS:
        return page_data(video, is_dead=kind is CaptureKind.DEAD).encode(), "application/json; charset=utf-8"
    if capture.form is AddressForm.EMBED:
        return embed_page(video, capture.page_at, is_dead=kind is CaptureKind.DEAD).encode(), _HTML[1]
    if kind is CaptureKind.DEAD:
        return dead_page(video, capture.page_at).encode(), _HTML[1]
    page = watch_page(video, capture.page_at)
    if kind is CaptureKind.HUGE:
        return huge_page(page, rng.randrange(*_HUGE_BYTES)).encode(), _HTML[1]
    if kind is CaptureKind.WINDOWS_1252:
        # Told by the page, by the header, by both, or by nothing at all.
        in_page, in_header = rng.random() < 0.5, rng.random() < 0.5
        return windows_1252_page(page, declares_charset=in_page), _charset("windows-1252" if in_header else None)
    return page.encode(), _HTML[1]


def _charset(name: str | None) -> str:
    return "text/html" if name is None else f"text/html; charset={name}"


def memento_headers(captures: tuple[Capture, ...], capture: Capture, base: str) -> tuple[tuple[str, str], ...]:
    """Returns the headers that only captures carry: when they were made, and which others there are."""

    def link(other: Capture, relation: str) -> str:
        moment = format_datetime(other.captured_at, usegmt=True)
        return f'<{base}/{other.stamp}/{other.original}>; rel="{relation}"; datetime="{moment}"'

    place = captures.index(capture)
    links = [
        f'<{capture.original}>; rel="original"',
        f'<{base}/timemap/link/{capture.original}>; rel="timemap"; type="application/link-format"',
        link(captures[0], "first memento"),
        *([link(captures[place - 1], "prev memento")] if place else []),
        link(capture, "memento"),
        *([link(captures[place + 1], "next memento")] if place + 1 < len(captures) else []),
        link(captures[-1], "last memento"),
    ]
    return (
        ("Memento-Datetime", format_datetime(capture.captured_at, usegmt=True)),
        ("Link", ", ".join(links)),
        ("x-archive-src", f"sandbox-{capture.captured_at:%Y%m}.warc.gz"),
    )
