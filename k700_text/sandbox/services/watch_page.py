"""Watch pages of every era since 2005, cut down to what says which video it is and how it is called."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import zip_longest
from types import MappingProxyType
from typing import Any

from k700_text.sandbox.world import SandboxVideo

_PLAYER_CONFIG = datetime(2010, 1, 1, tzinfo=UTC)
_TITLE_SUFFIX = datetime(2011, 7, 1, tzinfo=UTC)
_OPEN_GRAPH = datetime(2013, 1, 1, tzinfo=UTC)
_INITIAL_DATA = datetime(2018, 1, 1, tzinfo=UTC)
_PLAYER_RESPONSE = datetime(2020, 7, 1, tzinfo=UTC)
_SCRIPT = re.compile(r"(<script.*?</script>)", re.DOTALL)
CONSENT_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "en": "Before you continue to YouTube",
        "de": "Bevor Sie zu YouTube weitergehen",
        "fr": "Avant d'accéder à YouTube",
        "es": "Antes de ir a YouTube",
        "it": "Prima di continuare su YouTube",
        "nl": "Voordat je verdergaat naar YouTube",
        "pl": "Zanim przejdziesz do YouTube",
        "pt": "Antes de continuar para o YouTube",
    }
)


def watch_page(video: SandboxVideo, captured_at: datetime) -> str:
    """Returns the page of a video that could be watched when it was captured."""
    if captured_at < _PLAYER_CONFIG:
        return _page_2005(video)
    if captured_at < _OPEN_GRAPH:
        return _page_2010(video, has_suffix=captured_at >= _TITLE_SUFFIX)
    if captured_at < _INITIAL_DATA:
        return _page_2013(video)
    return _page_2018(video) if captured_at < _PLAYER_RESPONSE else _page_2020(video)


def dead_page(video: SandboxVideo, captured_at: datetime) -> str:
    """Returns the page of a video that was gone when it was captured: it has no title of its own."""
    if captured_at < _PLAYER_RESPONSE:
        body = '<div id="unavailable-message" class="message">This video is unavailable.</div>'
        return _document("<title>YouTube</title>", body)
    status = {"status": "ERROR", "reason": "Video unavailable"}
    script = f"<script>var ytInitialPlayerResponse = {_script_json({'playabilityStatus': status})};</script>"
    return _document("<title> - YouTube</title>", script)


def embed_page(video: SandboxVideo, captured_at: datetime, *, is_dead: bool) -> str:
    """Returns the page of a player for embedding; since 2020 its title is in the preview alone, which has no id."""
    if captured_at < _PLAYER_RESPONSE:
        arguments = {"video_id": video.youtube_id} | ({} if is_dead else {"title": video.title})
        title = "YouTube" if is_dead else f"{video.title} - YouTube"
        script = f"<script>yt.setConfig({{'PLAYER_CONFIG': {_script_json({'args': arguments})}}});</script>"
        return _document(f"<title>{html.escape(title)}</title>", script)
    status = {"status": "ERROR", "reason": "Video unavailable"} if is_dead else {"status": "OK"}
    preview = {"thumbnailPreviewRenderer": {"title": {"runs": [{"text": video.title}]}}}
    response = {"previewPlayabilityStatus": status} | ({} if is_dead else {"embedPreview": preview})
    settings = {"PLAYER_VARS": {"embedded_player_response": json.dumps(response), "video_id": video.youtube_id}}
    return _document("<title>YouTube</title>", f"<script>ytcfg.set({_script_json(settings)});</script>")


def page_data(video: SandboxVideo, *, is_dead: bool) -> str:
    """Returns what the page asks for when it is not loaded anew (``pbj=1``): its data as JSON."""
    status = {"status": "ERROR", "reason": "Video unavailable"}
    player = {"playabilityStatus": status} if is_dead else _player_response(video)
    parts = [{"page": "watch"}, {"page": "watch", "playerResponse": player}]
    return json.dumps(parts if is_dead else [*parts, {"page": "watch", "response": _initial_data(video)}])


def consent_page(language: str = "en") -> str:
    """Returns the page that asks for consent in place of the video, in one of CONSENT_TITLES's languages."""
    title = CONSENT_TITLES[language]
    return _document(f"<title>{title}</title>", f"<form>{title}</form>")


def sorry_page() -> str:
    """Returns the page that the site shows to an address that comes too often."""
    text = "Our systems have detected unusual traffic from your computer network."
    return _document("<title>Sorry for the interruption</title>", f"<p>{text}</p>")


def huge_page(page: str, num_bytes: int) -> str:
    """Returns a watch page with so many bytes of comments before its scripts."""
    comment = '<li class="comment">First! Who else is here in 2012? \u2605\u2605\u2605</li>\n'
    return page.replace("<body>", "<body><ul>" + comment * (num_bytes // len(comment.encode()) + 1) + "</ul>", 1)


def windows_1252_page(page: str, *, declares_charset: bool) -> bytes:
    """Returns a page in windows-1252: other characters are written as HTML and JSON escapes.

    Args:
        page: the page in UTF-8; a text that is no UTF-8 any more is added.
        declares_charset: keep a ``meta charset`` (of windows-1252); without it the header or nothing tells.
    """
    meta = '<meta charset="windows-1252">' if declares_charset else ""
    page = page.replace('<meta charset="utf-8">', meta, 1).replace(
        "<body>", "<body><p>Caf\u00e9 \u201cna\u00efve\u201d</p>", 1
    )
    parts = _SCRIPT.split(page)
    scripts = [_json_escaped(script).encode("cp1252") for script in parts[1::2]]
    texts = [text.encode("cp1252", "xmlcharrefreplace") for text in parts[::2]]
    return b"".join(piece for pair in zip_longest(texts, scripts, fillvalue=b"") for piece in pair)


def _json_escaped(script: str) -> str:
    def escape(character: str) -> str:
        return character if character.encode("cp1252", "ignore") else json.dumps(character)[1:-1]

    return "".join(map(escape, script))


def _page_2005(video: SandboxVideo) -> str:
    arguments = {"video_id": video.youtube_id, "l": str(video.duration_seconds), "title": video.title}
    head = f"<title>YouTube - {html.escape(video.title)}</title>"
    body = (
        f'<h1 id="video_title">{html.escape(video.title)}</h1><script>var swfArgs = {_script_json(arguments)};</script>'
    )
    return _document(head, body)


def _page_2010(video: SandboxVideo, *, has_suffix: bool) -> str:
    title = html.escape(video.title)
    config = {"args": {"video_id": video.youtube_id, "title": video.title, "length_seconds": video.duration_seconds}}
    head = f"<title>{title} - YouTube</title>" if has_suffix else f"<title>YouTube - {title}</title>"
    head += f'<link rel="canonical" href="/watch?v={video.youtube_id}">'
    script = f"<script>yt.setConfig({{'PLAYER_CONFIG': {_script_json(config)}}});</script>"
    return _document(head, f'<div id="watch-userbanner"></div>{script}')


def _page_2013(video: SandboxVideo) -> str:
    config = {"args": {"video_id": video.youtube_id, "title": video.title}, "assets": {"js": "/player.js"}}
    script = (
        f"<script>var ytplayer = ytplayer || {{}};ytplayer.config = {_script_json(config)};ytplayer.load();</script>"
    )
    return _document(_modern_head(video), f'<meta itemprop="name" content="{html.escape(video.title)}">{script}')


def _page_2018(video: SandboxVideo) -> str:
    arguments = {"video_id": video.youtube_id, "player_response": json.dumps(_player_response(video))}
    scripts = (
        f"<script>var ytplayer = ytplayer || {{}};ytplayer.config = {_script_json({'args': arguments})};</script>"
        f'<script>window["ytInitialData"] = {_script_json(_initial_data(video))};</script>'
    )
    return _document(_modern_head(video), scripts)


def _page_2020(video: SandboxVideo) -> str:
    scripts = (
        f"<script>var ytInitialPlayerResponse = {_script_json(_player_response(video))};var meta = 1;</script>"
        f"<script>var ytInitialData = {_script_json(_initial_data(video))};</script>"
    )
    return _document(_modern_head(video), scripts)


def _modern_head(video: SandboxVideo) -> str:
    title, address = html.escape(video.title), f"https://www.youtube.com/watch?v={video.youtube_id}"
    return (
        f'<title>{title} - YouTube</title><link rel="canonical" href="{address}">'
        f'<meta property="og:url" content="{address}"><meta property="og:title" content="{title}">'
        f'<meta name="twitter:title" content="{title}"><meta name="title" content="{title}">'
    )


def _player_response(video: SandboxVideo) -> dict[str, Any]:
    return {
        "playabilityStatus": {"status": "OK", "playableInEmbed": video.is_embeddable},
        "videoDetails": {
            "videoId": video.youtube_id,
            "title": video.title,
            "lengthSeconds": str(video.duration_seconds),
            "channelId": video.channel_id,
            "author": video.author_name,
            "isPrivate": False,
        },
        "microformat": {
            "playerMicroformatRenderer": {
                "title": {"simpleText": video.title},
                "lengthSeconds": str(video.duration_seconds),
                "publishDate": video.published_at.strftime("%Y-%m-%d"),
                "uploadDate": video.published_at.strftime("%Y-%m-%d"),
            }
        },
    }


def _initial_data(video: SandboxVideo) -> dict[str, Any]:
    primary = {"videoPrimaryInfoRenderer": {"title": {"runs": [{"text": video.title}]}}}
    return {"contents": {"twoColumnWatchNextResults": {"results": {"results": {"contents": [primary]}}}}}


def _script_json(value: object) -> str:
    # As the site does it: a title must not be able to end the script.
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _document(head: str, body: str) -> str:
    return f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">{head}</head><body>{body}</body></html>\n'
