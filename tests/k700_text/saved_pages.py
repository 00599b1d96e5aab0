"""Watch pages of every era as the archive keeps them, cut down to what matters, and the pages that hide a video."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode
from xml.sax.saxutils import escape

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


def page_without_canonical(title: str, youtube_id: str) -> str:
    """Says which page it is to small screens, apps and embedders only."""
    head = (
        f'<title>{html.escape(title)} - YouTube</title><link rel="shortlink" href="https://youtu.be/{youtube_id}">'
        f'<link rel="alternate" media="handheld" href="https://m.youtube.com/watch?v={youtube_id}">'
        f'<link rel="alternate" type="application/json+oembed" href="http://www.youtube.com/oembed?format=json&amp;'
        f'url=http%3A%2F%2Fwww.youtube.com%2Fwatch%3Fv%3D{youtube_id}" title="{html.escape(title)}">'
        f'<meta property="al:web:url" content="https://www.youtube.com/watch?v={youtube_id}&amp;feature=applinks">'
        '<link itemprop="url" href="https://www.youtube.com/user/somebody">'
    )
    return document(head + meta_titles(title))


def embed_page_2013(title: str, youtube_id: str) -> str:
    config = {"args": {"video_id": youtube_id, "title": title, "length_seconds": 61}, "assets": {}}
    code = f"yt.setConfig({{'VIDEO_ID': \"{youtube_id}\"}});yt.setConfig({{'PLAYER_CONFIG': {in_script(config)}}});"
    return document(f"<title>{html.escape(title)} - YouTube</title>{links(youtube_id)}", script(code))


def embed_page_2021(title: str, youtube_id: str) -> str:
    """The title stands in a preview that has no id, within the arguments of a player that have one."""
    preview = {"thumbnailPreviewRenderer": {"title": {"runs": [{"text": title}]}}}
    return embed_page({"embedPreview": preview, "previewPlayabilityStatus": {"status": "OK"}}, youtube_id)


def embed_page(response: dict[str, Any], youtube_id: str) -> str:
    settings = {"PLAYER_VARS": {"embedded_player_response": json.dumps(response), "video_id": youtube_id}}
    return document("<title>YouTube</title>", script(f"ytcfg.set({in_script(settings)});"))


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
        *(page_2020_window, page_without_data, page_without_canonical, embed_page_2013, embed_page_2021),
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


# --- answers that are data altogether ---


def pbj(title: str, youtube_id: str) -> str:
    parts = [
        {"page": "watch", "rootVe": 3832},
        {"page": "watch", "playerResponse": player_response(title, youtube_id)},
        {"page": "watch", "response": initial_data(title, youtube_id), "url": f"/watch?v={youtube_id}"},
    ]
    return json.dumps(parts)


def pbj_of_old_player(title: str, youtube_id: str) -> str:
    arguments = {"video_id": youtube_id, "player_response": json.dumps(player_response(title, youtube_id))}
    return json.dumps([{"page": "watch", "player": {"args": arguments}}, {"page": "watch", "timing": {}}])


def pbj_of_page_alone(title: str, youtube_id: str) -> str:
    return json.dumps({"page": "watch", "response": initial_data(title, youtube_id)})


def spf(title: str, youtube_id: str) -> str:
    arguments = {"video_id": youtube_id, "title": title}
    return json.dumps([{"title": f"{title} - YouTube", "data": {"swfcfg": {"args": arguments}}}, {"foot": "<script>"}])


def youtubei_player(title: str, youtube_id: str) -> str:
    return json.dumps(player_response(title, youtube_id))


def youtubei_next(title: str, youtube_id: str) -> str:
    return json.dumps(initial_data(title, youtube_id))


def video_info_2012(title: str, youtube_id: str) -> str:
    return urlencode({"status": "ok", "length_seconds": "61", "title": title, "video_id": youtube_id})


def video_info_2020(title: str, youtube_id: str) -> str:
    response = json.dumps(player_response(title, youtube_id), ensure_ascii=False)
    return urlencode({"csi_page_type": "embed", "status": "ok", "player_response": response})


def oembed(title: str, youtube_id: str) -> str:
    values = {
        "type": "video",
        "title": title,
        "html": f'<iframe src="https://www.youtube.com/embed/{youtube_id}?feature=oembed"></iframe>',
        "thumbnail_url": f"https://i.ytimg.com/vi/{youtube_id}/hqdefault.jpg",
        "provider_name": "YouTube",
    }
    return json.dumps(values)


def oembed_for_scripts(title: str, youtube_id: str) -> str:
    return f"/**/ callback_1({oembed(title, youtube_id)});"


def oembed_xml(title: str, youtube_id: str) -> str:
    values = {**json.loads(oembed(title, youtube_id)), "title": title}
    fields = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in values.items())
    return f'<?xml version="1.0" encoding="utf-8"?>\n<oembed>{fields}</oembed>'


def feed_atom(title: str, youtube_id: str) -> str:
    return (
        "<?xml version='1.0' encoding='UTF-8'?><entry xmlns='http://www.w3.org/2005/Atom'"
        " xmlns:media='http://search.yahoo.com/mrss/'>"
        f"<id>http://gdata.youtube.com/feeds/api/videos/{youtube_id}</id><published>2012-05-01T20:00:00.000Z</published>"
        f"<title type='text'>{escape(title)}</title><content type='text'>&lt;title&gt;no&lt;/title&gt;</content>"
        "<media:group><media:title type='plain'>no</media:title></media:group></entry>"
    )


def feed_json(title: str, youtube_id: str) -> str:
    entry = {"id": {"$t": f"tag:youtube.com,2008:video:{youtube_id}"}, "title": {"$t": title, "type": "text"}}
    return json.dumps({"version": "1.0", "encoding": "UTF-8", "entry": entry})


def feed_jsonc(title: str, youtube_id: str) -> str:
    return json.dumps({"apiVersion": "2.1", "data": {"id": youtube_id, "title": title, "duration": 61}})


def feed_jsonc_of_one(title: str, youtube_id: str) -> str:
    return json.dumps({"apiVersion": "2.1", "data": {"totalItems": 1, "items": [{"id": youtube_id, "title": title}]}})


def api_list(title: str, youtube_id: str) -> str:
    item = {"kind": "youtube#video", "id": youtube_id, "snippet": {"title": title}}
    return json.dumps({"kind": "youtube#videoListResponse", "items": [item]})


ANSWERS: dict[str, Callable[[str, str], str]] = {
    answer.__name__: answer
    for answer in (
        *(pbj, pbj_of_old_player, pbj_of_page_alone, spf, youtubei_player, youtubei_next),
        *(video_info_2012, video_info_2020, oembed, oembed_for_scripts, oembed_xml, feed_atom, feed_json, feed_jsonc),
        *(feed_jsonc_of_one, api_list),
    )
}


# --- pages of something else than a video ---


def elsewhere(head: str, body: str = "") -> str:
    """A page with a player, under a watch address, that is about what its head says."""
    return document(f"<title>MLB - YouTube</title>{head}{meta_titles('MLB')}", script("window.ytplayer={};") + body)


def canonical(url: str) -> str:
    return f'<link rel="canonical" href="{url}">'


_SITE = "https://www.youtube.com"
_CHANNEL = f"{_SITE}/channel/UCoLrcjPV5PbUrUyXq5mjc_A"
_FEEDS = (
    "http://www.youtube.com/rss/user/mlb/videos.rss",
    "http://gdata.youtube.com/feeds/base/users/mlb/uploads?alt=rss&amp;v=2",
    f"{_SITE}/feeds/videos.xml?channel_id=UCoLrcjPV5PbUrUyXq5mjc_A",
    f"{_SITE}/feeds/videos.xml?playlist_id=PL0123456789",
)
_FOR_APPS = (
    "android-app://com.google.android.youtube/http/www.youtube.com/user/mlb",
    "ios-app://544007664/vnd.youtube/www.youtube.com/user/mlb",
    "vnd.youtube://user/mlb",
    "vnd.youtube://www.youtube.com/user/mlb",
)
_SPELLED = (
    *('rel=" canonical " href=" /user/mlb "', "rel='canonical nofollow' href=/user/mlb", "REL=Canonical HREF=user/mlb"),
    *('rel="canonical" href="?list=PL0123456789"', 'rel="canonical" href="playlist?list=PL0123456789"'),
    *(f'rel="canonical" href="http://www.youtube.{end}/user/mlb"' for end in ("co.uk", "de", "com.br")),
    *(f'rel="canonical" href="{url}"' for url in ("https://www.youtubekids.com/", "https://www.google.com/sorry")),
    'rel="canonical" href="http://archive.org/wayback/20150304050607/https://www.youtube.com/user/mlb"',
)
PAGES_ELSEWHERE = {
    **{
        url: elsewhere(canonical(url))
        for url in (
            *(_CHANNEL, f"{_SITE}/@mlb", f"{_SITE}/c/mlb", f"{_SITE}/user/mlb", f"{_SITE}/show/mlb", f"{_SITE}/mlb"),
            *(f"{_SITE}/playlist?list=PL0123456789", f"{_SITE}/hashtag/mlb", f"{_SITE}/results?search_query=mlb"),
            *(f"{_SITE}/feed/trending", f"{_SITE}/@mlb/shorts", f"{_SITE}/live", f"{_SITE}/", "/user/mlb", "/"),
            *("//m.youtube.com/user/mlb", "http://m.youtube.com/channel/UCoLrcjPV5PbUrUyXq5mjc_A?hl=de"),
            *(f"{_SITE}/embed/videoseries?list=PL0123456789", f"{_SITE}/embed/live_stream?channel=x"),
            *(f"https://consent.youtube.com/m?continue={_SITE}/watch?v={POSSIBLE_ID}", f"{_SITE}/watch?v=too_short"),
            *(f"{_SITE}/watch", f"http://web.archive.org/web/20170304050607/{_CHANNEL}"),
        )
    },
    "og:url alone": elsewhere(f'<meta property="og:url" content="{_CHANNEL}">'),
    "og:url against canonical": elsewhere(
        f'{canonical(watch_url(POSSIBLE_ID))}<meta property="og:url" content="/c/x">'
    ),
    "handheld": elsewhere(f'<link rel="alternate" media="handheld" href="{_CHANNEL}">'),
    "twitter:url": elsewhere(f'<meta name="twitter:url" content="{_CHANNEL}">'),
    "app link": elsewhere(f'<meta property="al:android:url" content="{_CHANNEL}?feature=applinks">'),
    "itemprop": elsewhere(f'<link itemprop="url" href="{_CHANNEL}">'),
    "player of a trailer": elsewhere(
        canonical(_CHANNEL), script(f"yt.setConfig({{'VIDEO_ID': '{POSSIBLE_ID}', video_id: '{POSSIBLE_ID}'}});")
    ),
    **{
        name: elsewhere("", script(f"var ytInitialData = {in_script({part: {name: {}}})};"))
        for part, name in (
            *(("contents", "twoColumnBrowseResultsRenderer"), ("contents", "singleColumnBrowseResultsRenderer")),
            *(("contents", "twoColumnSearchResultsRenderer"), ("contents", "sectionListRenderer")),
            *(("metadata", "channelMetadataRenderer"), ("metadata", "playlistMetadataRenderer")),
            *(("header", "c4TabbedHeaderRenderer"), ("header", "hashtagHeaderRenderer")),
        )
    },
    **{
        f"{name}: {title}": document(f"<title>{title}</title>{head}", f"<div id='movie_player'></div>{body}")
        for title in ("YouTube - MLB", "MLB - YouTube")
        for body in ("", f"<embed src='/player2.swf?video_id={POSSIBLE_ID}'>")
        for name, head in (
            *(
                (f"kind {kind}", f'<meta property="og:type" content="{kind}">')
                for kind in ("profile", "yt-fb-app:channel")
            ),
            ("kind of a list", '<meta content="yt-fb-app:playlist" property="og:type">'),
            *((f"feed {url}", f'<link rel="alternate" type="application/rss+xml" href="{url}">') for url in _FEEDS),
            *((f"app {url}", f'<link rel="alternate" href="{url}">') for url in _FOR_APPS),
            *((f"app meta {url}", f'<meta property="al:ios:url" content="{url}">') for url in _FOR_APPS),
            *((f"spelled {link}", f"<link {link}>") for link in _SPELLED),
        )
    },
    **{
        f"{title} {place}": document(f"<title>{title}</title>", f"<div id='movie_player'></div>{place}")
        for title in (
            *("YouTube - mlb's Channel", "YouTube - View Play List", "YouTube - Search results for cats"),
            *(
                "YouTube\n - james\u2019 Videos",
                "YouTube - Kanal von mlb",
                "YouTube - Canal de mlb",
                "YouTube - Most Viewed",
            ),
            *("YouTube - mlbさんのチャンネル", "YouTube - Movies", "YouTube - Sign Up", "YouTube - Tag // cats"),
            *("cats - YouTube", "Movies - YouTube", "Trending - YouTube", "\u202amlb\u202c\u200f - YouTube"),
        )
        for place in ("", f"<embed src='/player2.swf?video_id={POSSIBLE_ID}'>")
    },
    "cut off in its body": elsewhere("").partition("</body>")[0],
    "cut off in its data": elsewhere("", '<script>var ytInitialData = {"contents":{"twoColumnBrowse').partition(
        "</body>"
    )[0],
    "cut off before it could say": "<html><head><title>MLB - YouTube</title><script>window.ytplayer={};</script>",
}


# --- pages of dead videos that still hold the title ---


def dead_with_links(title: str) -> str:
    return document(f"<title>YouTube</title>{links(POSSIBLE_ID)}{meta_titles(title)}", UNAVAILABLE)


def dead_with_short_link(title: str) -> str:
    head = (
        f'<link rel="shortlink" href="http://youtu.be/{POSSIBLE_ID}"><meta name="title" content="{html.escape(title)}">'
    )
    return document(f"<title>YouTube</title>{head}", UNAVAILABLE)


def dead_with_player_id(title: str) -> str:
    head = f'<title>YouTube</title><meta property="og:title" content="{html.escape(title)}">'
    return document(head, UNAVAILABLE + f'<embed src="/player.swf?video_id={POSSIBLE_ID}">')


def dead_with_nothing_but_the_address(title: str) -> str:
    return document(f'<title>YouTube</title><meta name="title" content="{html.escape(title)}">', UNAVAILABLE)


def dead_with_details(title: str) -> str:
    response = player_response(title, POSSIBLE_ID, "ERROR")
    return document("<title> - YouTube</title>", script(f"var ytInitialPlayerResponse = {in_script(response)};"))


def dead_answer_with_details(title: str) -> str:
    return json.dumps([{"page": "watch", "playerResponse": player_response(title, POSSIBLE_ID, "UNPLAYABLE")}])


UNAVAILABLE = '<div id="player-unavailable"><h1 id="unavailable-message">This video is private.</h1></div>'
DEAD_PAGES_WITH_TITLE: dict[str, Callable[[str], str]] = {
    page.__name__: page
    for page in (
        *(dead_with_links, dead_with_short_link, dead_with_player_id, dead_with_nothing_but_the_address),
        *(dead_with_details, dead_answer_with_details),
    )
}
