"""Watch pages of every era as the archive keeps them, cut down to what matters, and the pages that hide a video."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from typing import Any

from tests.k700_text.crawling import POSSIBLE_ID

OTHER_ID = "jNQXAC9IVRw"
# Differs from POSSIBLE_ID only by case.
TWIN_ID = POSSIBLE_ID.swapcase()[:10] + POSSIBLE_ID[10]


def document(head: str, body: str = "", charset: str = '<meta charset="utf-8">') -> str:
    return f'<!DOCTYPE html><html lang="en"><head>{charset}{head}</head><body>{body}</body></html>'


def script(code: str) -> str:
    return f"<script>{code}</script>"


def in_script(value: object) -> str:
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def watch_url(youtube_id: str) -> str:
    return f"https://www.youtube.com/watch?v={youtube_id}"


def links(youtube_id: str) -> str:
    url = watch_url(youtube_id)
    return f'<link rel="canonical" href="{url}"><meta property="og:url" content="{url}">'


def player_response(title: str | None, youtube_id: str, status: str = "OK") -> dict[str, Any]:
    response: dict[str, Any] = {"playabilityStatus": {"status": status}}
    if title is not None:
        response["videoDetails"] = {"videoId": youtube_id, "title": title, "lengthSeconds": "61"}
        response["microformat"] = {
            "playerMicroformatRenderer": {
                "title": {"simpleText": title},
                "publishDate": "2012-05-01T13:00:00-07:00",
            }
        }
    return response


def initial_data(title: str, youtube_id: str | None = None) -> dict[str, Any]:
    primary = {"videoPrimaryInfoRenderer": {"title": {"runs": [{"text": title[:3]}, {"text": title[3:]}]}}}
    contents = [{"itemSectionRenderer": {}}, primary]
    data: dict[str, Any] = {"contents": {"twoColumnWatchNextResults": {"results": {"results": {"contents": contents}}}}}
    if youtube_id is not None:
        data["currentVideoEndpoint"] = {"watchEndpoint": {"videoId": youtube_id}}
    return data


def page_2005(title: str, youtube_id: str) -> str:
    """The first year: the only id is in the address of the player."""
    code = f'var fo = new FlashObject("player.swf?video_id={youtube_id}&l=19", "movie_player", 425, 350, 7);'
    return document(f"<title>YouTube - {html.escape(title)}</title>", f"<h1>{html.escape(title)}</h1>{script(code)}")


def page_2006(title: str, youtube_id: str) -> str:
    """Arguments of the player as JavaScript: names without quotes, strings in single ones."""
    code = f"var swfArgs = {{hl:'en',video_id:'{youtube_id}',l:'19',t:'OEgsToPDskI=',sk:'x\\'y',}};"
    return document(f"<title>YouTube - {html.escape(title)}</title>", script(code))


def page_2009(title: str, youtube_id: str) -> str:
    """swfConfig, a canonical link without a host, the name of the site on a line of its own."""
    config = {"url": "watch_as3.swf", "args": {"video_id": youtube_id, "title": title, "length_seconds": 61}}
    head = f'<title>YouTube\n - {html.escape(title)}\n</title><link rel="canonical" href="/watch?v={youtube_id}">'
    return document(head, script(f"var swfConfig = {in_script(config)};"))


def page_2010(title: str, youtube_id: str) -> str:
    config = {"assets": {}, "args": {"video_id": youtube_id, "title": title, "length_seconds": 61}}
    code = f"yt.setConfig({{'VIDEO_ID': \"{youtube_id}\", 'PLAYER_CONFIG': {in_script(config)}}});"
    return document(
        f"<title>YouTube - {html.escape(title)}</title>", f'<div id="watch-userbanner"></div>{script(code)}'
    )


def page_2011(title: str, youtube_id: str) -> str:
    """Marks of direction around the title, as the site put them."""
    config = {"args": {"video_id": youtube_id, "title": title}}
    head = f"<title>\u202a{html.escape(title)}\u202c\u200f - YouTube</title>{links(youtube_id)}"
    return document(head, script(f"yt.playerConfig = {in_script(config)};"))


def page_2013(title: str, youtube_id: str) -> str:
    config = {"args": {"video_id": youtube_id, "title": title, "length_seconds": "61"}, "assets": {}}
    head = f"<title>{html.escape(title)} - YouTube</title>{links(youtube_id)}{meta_titles(title)}"
    body = f'<meta itemprop="name" content="{html.escape(title)}"><meta itemprop="videoId" content="{youtube_id}">'
    return document(head, body + script(f"var ytplayer = ytplayer || {{}};ytplayer.config = {in_script(config)};"))


def page_2018(title: str, youtube_id: str) -> str:
    arguments = {"video_id": youtube_id, "player_response": json.dumps(player_response(title, youtube_id))}
    body = script(f"ytplayer.config = {in_script({'args': arguments})};ytplayer.load();")
    body += script(f'window["ytInitialData"] = {in_script(initial_data(title, youtube_id))};')
    return document(f"<title>{html.escape(title)} - YouTube</title>{links(youtube_id)}{meta_titles(title)}", body)


def page_2020(title: str, youtube_id: str) -> str:
    body = script(f"var ytInitialPlayerResponse = {in_script(player_response(title, youtube_id))};var meta = 1;")
    body += script(f"var ytInitialData = {in_script(initial_data(title, youtube_id))};")
    return document(f"<title>{html.escape(title)} - YouTube</title>{links(youtube_id)}{meta_titles(title)}", body)


def page_2020_window(title: str, youtube_id: str) -> str:
    """The same, assigned to members of ``window``, the data as JSON in a string of escapes."""
    data = "".join(f"\\x{ord(each):02x}" if each in '{}":,[]' else each for each in in_script(initial_data(title)))
    data = data.replace("\\u", "\\\\u")
    body = script(f"window[\"ytInitialPlayerResponse\"] = null;var ytInitialData = JSON.parse('{data}');")
    body += script(f'window["ytInitialPlayerResponse"]={in_script(player_response(title, youtube_id))};')
    return document(f"<title>{html.escape(title)} - YouTube</title>{links(youtube_id)}", body)


def page_without_data(title: str, youtube_id: str) -> str:
    """Nothing but HTML: scripts are missing or written in an unknown way."""
    return document(f"<title>{html.escape(title)} - YouTube</title>{links(youtube_id)}{meta_titles(title)}")


def meta_titles(title: str) -> str:
    text = html.escape(title)
    return (
        f'<meta property="og:title" content="{text}"><meta name="twitter:title" content="{text}">'
        f'<meta name="title" content="{text}">'
    )


PAGES: dict[str, Callable[[str, str], str]] = {
    page.__name__: page
    for page in (
        *(page_2005, page_2006, page_2009, page_2010, page_2011, page_2013, page_2018, page_2020),
        *(page_2020_window, page_without_data),
    )
}

DEAD_PAGES = {
    "2007": document("<title>YouTube - Broadcast Yourself.</title>", '<div class="errorBox">removed by the user</div>'),
    "2010": document("<title>YouTube\n - Broadcast Yourself.\n</title>"),
    "2014": document("<title>YouTube</title>", '<h1 id="unavailable-message">This video is unavailable.</h1>'),
    "2018": document(
        "<title>YouTube</title>", script('ytplayer.config = {"args":{"status":"fail","errorcode":"150"}};')
    ),
    "2020": document(
        "<title> - YouTube</title>",
        script(f"var ytInitialPlayerResponse = {in_script(player_response(None, '', 'ERROR'))};"),
    ),
    "2021 with links": document(
        f"<title> - YouTube</title>{links(POSSIBLE_ID)}",
        script(f"var ytInitialPlayerResponse = {in_script(player_response(None, '', 'LOGIN_REQUIRED'))};"),
    ),
    "named": document(f"<title>Video unavailable - YouTube</title>{links(POSSIBLE_ID)}"),
}

CONSENT_PAGES = {
    "en": document("<title>Before you continue to YouTube</title>"),
    "de": document("<title>Bevor Sie zu YouTube weitergehen</title>"),
    "el": document("<title>Πριν συνεχίσετε στο YouTube</title>"),
    "unknown language": document(
        '<title>Qabla ma tkompli fuq YouTube</title><meta property="og:title" content="Qabla ma tkompli fuq YouTube">',
        '<form action="https://consent.youtube.com/save" method="POST"></form>',
    ),
}

BLOCK_PAGES = {
    "sorry": document("<title>Sorry for the interruption</title>"),
    "captcha": document(f"<title>{watch_url(POSSIBLE_ID)}</title>", '<form id="captcha-form" action="index"></form>'),
    "text": document("<title>Error</title>", "Our systems have detected unusual traffic from your computer network."),
}

LOGIN_PAGE = document("<title>Sign in - Google Accounts</title>", '<form action="/ServiceLoginAuth"></form>')
