"""oEmbed of the video site: JSON for videos that may be embedded, one plain-text word for all others."""

from __future__ import annotations

import gzip
import html
import json
import re
from urllib.parse import parse_qs, urlsplit

from k700_text.records import Availability
from k700_text.sandbox.messages import Request, Response
from k700_text.sandbox.scene import seeded
from k700_text.sandbox.world import SandboxVideo, World

_HEADERS = (
    ("Server", "YouTube Frontend Proxy"),
    ("Cache-Control", "no-cache, no-store, max-age=0, must-revalidate"),
    ("Pragma", "no-cache"),
    ("Expires", "Tue, 27 Apr 1971 19:44:06 GMT"),
    ("X-Content-Type-Options", "nosniff"),
    ("Vary", "Accept-Encoding, Origin, X-Origin, Referer"),
)
_WORDS = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}
_HOSTS = re.compile(r"(www\.|m\.|music\.)?youtube\.com")
_PATH_FORMS = re.compile(r"/(?:shorts|live|v)/([^/?&#]+)")
_ESCAPES = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("'", "\\u0027"))


class Oembed:
    """``/oembed?url=<watch URL>&format=json``."""

    name = "oembed"

    def __init__(self, world: World) -> None:
        self._world = world

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""
        return path in ("/oembed", "/oembed/")

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns the id in the ``url`` parameter, if there is one."""
        youtube_id = watch_id(request.query.get("url", ""))
        return () if youtube_id is None else (youtube_id,)

    def answer(self, request: Request) -> Response:
        """Returns the title as JSON (or XML), or a status with one word."""
        if request.path.endswith("/"):
            return _word(200, "Forbidden")
        query = request.query
        url = query.get("url", "")
        if urlsplit(url).path.startswith("/embed/"):
            return _word(404)
        youtube_id = watch_id(url)
        if youtube_id is None or query.get("format", "json") not in ("json", "xml"):
            return _word(400)
        video = self._world.video(youtube_id)
        status = oembed_status(video, self._world.config.private_401)
        if status != 200:
            return _word(status)
        values = oembed_values(video, is_large="maxwidth" in query)
        body, content_type = _encode(values, query.get("format", "json"))
        headers = (("Content-Type", content_type), *_HEADERS)
        if request.takes_gzip:
            return Response(200, (*headers, ("Content-Encoding", "gzip")), gzip.compress(body, 1, mtime=0), True)
        return Response(200, headers, body, True)


def oembed_status(video: SandboxVideo, private_401: float = 0.0) -> int:
    """Returns the status that oEmbed gives for a video.

    Args:
        video: the video.
        private_401: share of the private videos that are answered like those whose embedding is switched off.
    """
    if video.availability is Availability.MALFORMED:
        return 400
    if video.availability is Availability.PRIVATE:
        return 401 if seeded("private 401", video.youtube_id).random() < private_401 else 403
    if video.availability.is_gone:
        return 404
    return 200 if video.is_embeddable else 401


def oembed_values(video: SandboxVideo, *, is_large: bool = False) -> dict[str, str | int]:
    """Returns the keys of a 200 answer, in an order that differs from video to video."""
    width, height = (480, 270) if is_large else (200, 113)
    source = f"https://www.youtube.com/embed/{video.youtube_id}?feature=oembed"
    values: dict[str, str | int] = {
        "title": video.title,
        "author_name": video.author_name,
        "author_url": f"https://www.youtube.com/channel/{video.channel_id}",
        "type": "video",
        "height": height,
        "width": width,
        "version": "1.0",
        "provider_name": "YouTube",
        "provider_url": "https://www.youtube.com/",
        "thumbnail_height": 360,
        "thumbnail_width": 480,
        "thumbnail_url": f"https://i.ytimg.com/vi/{video.youtube_id}/hqdefault.jpg",
        "html": f'<iframe width="{width}" height="{height}" src="{source}" frameborder="0" '
        f'allowfullscreen title="{html.escape(video.title)}"></iframe>',
    }
    names = list(values)
    seeded("key order", video.youtube_id).shuffle(names)
    return {name: values[name] for name in names}


def watch_id(url: str) -> str | None:
    """Returns what stands in the place of the id in any watch URL of the site, well formed or not; else None."""
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if parts.netloc == "youtu.be":
        return parts.path.strip("/") or None
    if not _HOSTS.fullmatch(parts.netloc):
        return None
    if parts.path == "/watch":
        return next(iter(parse_qs(parts.query).get("v", ())), None)
    found = _PATH_FORMS.match(parts.path)
    return found[1] if found else None


def _word(status: int, word: str | None = None) -> Response:
    headers = (("Content-Type", "text/html; charset=utf-8"), *_HEADERS)
    return Response(status, headers, (word or _WORDS[status]).encode())


def _encode(values: dict[str, str | int], form: str) -> tuple[bytes, str]:
    if form == "json":
        text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
        for character, escape in _ESCAPES:
            text = text.replace(character, escape)
        return text.encode(), "application/json"
    rows = "".join(f"<{name}>{html.escape(str(value))}</{name}>" for name, value in values.items())
    return f'<?xml version="1.0" encoding="utf-8"?><oembed>{rows}</oembed>'.encode(), "text/xml; charset=UTF-8"
