"""What structured data says about a video: the data in a page's scripts, and answers that are data altogether.

Data in scripts: ``ytInitialPlayerResponse``, ``ytInitialData``, the configuration of every old player, and that of an
embedded one. Answers: ``watch?v=ID&pbj=1`` (2015-2021) and its forerunner ``spf=navigate``, the player's and the
page's own calls (``youtubei``), ``get_video_info`` (till 2021), oEmbed, the feed of one video (``gdata``, till 2015),
and the official API's list of one video. Texts are as spelled: no HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from k700_text.crawl.page_text import parse_json
from k700_text.records import YOUTUBE_ID_PATTERN

PLAYABLE = "OK"

MAX_TEXT = 4000
_MAX_PARTS = 50
# The better source of titles first.
_PLACES = ("player", "data", "args", "args_player", "embed", "oembed", "feed")
# Pages that show videos, and are about none: by what they hold, and by what they head it with.
_LISTINGS = {
    "contents": ("BrowseResultsRenderer", "SearchResultsRenderer", "richGridRenderer", "sectionListRenderer"),
    "metadata": ("MetadataRenderer",),
    "header": ("HeaderRenderer",),
}
# In an attribute with an address: the player's title may quote one.
_PLAYER_ID = re.compile(r"(?:src|value)=[\"'][^\"'\s]{0,200}?/(?:embed|v)/([\w-]{11})(?![\w-])")
_PICTURE_ID = re.compile(r"/vi(?:_webp)?/([\w-]{11})/")
_FEED_ID = re.compile(r"(?:/videos/|:video:)([\w-]{11})")


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedVideo:
    """What one piece of data says about the video that it shows.

    Attributes:
        place: ``player`` (a player response), ``data`` (what the page shows around it), ``args`` (configuration of an
            old player), ``args_player`` (a player response within it), ``embed`` (one for an embedded player),
            ``oembed``, ``feed`` (the entry of one video, also in a list that has no other).
        video_id: the video's id, None where this place does not say it.
        titles: its title in this place, the better source first; as spelled (no HTML).
        playability: ``OK`` or why it does not play, None where this place does not say it.
        message: the reason for that as shown to people.
        duration_seconds: length of the video.
        published: publication time as spelled.
    """

    place: str
    video_id: str | None = None
    titles: tuple[str, ...] = ()
    playability: str | None = None
    message: str | None = None
    duration_seconds: float | None = None
    published: str | None = None


def stated_in_scripts(data: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[tuple[StatedVideo, ...], bool]:
    """Returns what the data of a page's scripts says, and whether it shows a listing instead of a video.

    Args:
        data: the objects with the names that they are assigned to (see ``find_data``).
    """
    found: list[StatedVideo] = []
    is_listing = False
    for name, value in data:
        if name == "ytInitialPlayerResponse":
            found.append(_from_player("player", value))
        elif name == "ytInitialData":
            found.append(_from_data(value))
            is_listing = is_listing or _is_listing(value)
        else:
            found += _from_configuration(value if name in ("swfArgs", "PLAYER_VARS") else _part(value, "args"))
    return _best_of_each_place(found), is_listing


def stated_in_answer(answer: object) -> tuple[StatedVideo, ...]:
    """Returns what an answer says that is data altogether (see ``parse_answer``)."""
    parts = answer if isinstance(answer, list) else [answer]
    return _best_of_each_place(
        stated for part in parts[:_MAX_PARTS] if isinstance(part, dict) for stated in _from_answer(part)
    )


def _best_of_each_place(found: Iterable[StatedVideo]) -> tuple[StatedVideo, ...]:
    """Of each place the first that says anything counts."""
    best: dict[str, StatedVideo] = {}
    for stated in found:
        if stated != StatedVideo(place=stated.place):
            best.setdefault(stated.place, stated)
    return tuple(best[place] for place in _PLACES if place in best)


def _from_answer(part: Mapping[str, Any]) -> Iterator[StatedVideo]:
    for response in (part, _object(part.get("playerResponse"))):
        yield _from_player("player", response)
    for data in (part, _part(part, "response")):
        yield _from_data(data)
    for arguments in (_part(part, "args"), _part(part, "player", "args"), _part(part, "data", "swfcfg", "args")):
        yield from _from_configuration(arguments)
    yield _from_oembed(part)
    yield _from_feed(part)
    yield _from_api(part)


def _from_player(place: str, response: Mapping[str, Any]) -> StatedVideo:
    details, status = _part(response, "videoDetails"), _part(response, "playabilityStatus")
    microformat = _part(response, "microformat", "playerMicroformatRenderer")
    titles = (_text(details.get("title")), _shown_text(microformat.get("title")))
    return StatedVideo(
        place=place,
        video_id=_text(details.get("videoId")),
        titles=tuple(title for title in titles if title is not None),
        playability=_text(status.get("status")),
        message=_shown_text(status.get("reason")),
        duration_seconds=_seconds(details.get("lengthSeconds") or microformat.get("lengthSeconds")),
        published=_text(microformat.get("publishDate")),
    )


def _from_data(data: Mapping[str, Any]) -> StatedVideo:
    contents = _part(data, "contents", "twoColumnWatchNextResults", "results", "results").get("contents")
    parts = contents[:_MAX_PARTS] if isinstance(contents, list) else []
    shown = [_shown_text(_part(each, "videoPrimaryInfoRenderer").get("title")) for each in parts]
    endpoint = _part(data, "currentVideoEndpoint", "watchEndpoint")
    titles = [title for title in shown if title is not None][:1]
    return StatedVideo(place="data", video_id=_text(endpoint.get("videoId")), titles=tuple(titles))


def _is_listing(data: Mapping[str, Any]) -> bool:
    return any(key.endswith(ends) for part, ends in _LISTINGS.items() for key in _part(data, part))


def _from_configuration(arguments: Mapping[str, Any]) -> Iterator[StatedVideo]:
    yield _from_arguments(arguments)
    yield _from_player("args_player", _object(arguments.get("raw_player_response") or arguments.get("player_response")))
    yield _from_embedded(arguments)


def _from_arguments(arguments: Mapping[str, Any]) -> StatedVideo:
    title, video_id = _text(arguments.get("title")), _text(arguments.get("video_id"))
    has_failed = arguments.get("errorcode") or arguments.get("status") == "fail"
    return StatedVideo(
        place="args",
        video_id=video_id,
        titles=() if title is None else (title,),
        # Old players were configured with title and id only where they were to play.
        playability="ERROR" if has_failed else PLAYABLE if video_id and title is not None else None,
        message=_text(arguments.get("reason")),
        duration_seconds=_seconds(arguments.get("length_seconds") or arguments.get("l")),
    )


def _from_embedded(arguments: Mapping[str, Any]) -> StatedVideo:
    """The preview of an embedded player has a title and no id: that stands beside it."""
    response = _object(arguments.get("embedded_player_response"))
    preview = _part(response, "embedPreview", "thumbnailPreviewRenderer")
    status = _part(response, "playabilityStatus") or _part(response, "previewPlayabilityStatus")
    title = _shown_text(preview.get("title"))
    return StatedVideo(
        place="embed",
        video_id=_text(arguments.get("video_id")) if response else None,
        titles=() if title is None else (title,),
        playability=_text(status.get("status")),
        message=_shown_text(status.get("reason")),
    )


def _from_oembed(part: Mapping[str, Any]) -> StatedVideo:
    """Its id is in the player to embed and in the address of the picture; where these differ there is none."""
    ids = {
        *_PLAYER_ID.findall(_text(part.get("html")) or ""),
        *_PICTURE_ID.findall(_text(part.get("thumbnail_url")) or ""),
    }
    title = _text(part.get("title"))
    if part.get("type") != "video" or len(ids) != 1 or title is None:
        return StatedVideo(place="oembed")
    return StatedVideo(place="oembed", video_id=ids.pop(), titles=(title,), playability=PLAYABLE)


def _from_feed(part: Mapping[str, Any]) -> StatedVideo:
    """The entry of one video, as Atom, as JSON, or in the short form of JSON."""
    entry, short = _part(part, "entry"), _only_item(_part(part, "data")) or _part(part, "data")
    found = _FEED_ID.search(_text(_part(entry, "id").get("$t")) or "")
    video_id = found[1] if found else _text(short.get("id"))
    title = _text(_part(entry, "title").get("$t")) if found else _text(short.get("title"))
    published = _text(_part(entry, "published").get("$t")) if found else _text(short.get("uploaded"))
    if video_id is None or title is None:
        return StatedVideo(place="feed")
    return StatedVideo(place="feed", video_id=video_id, titles=(title,), published=published)


def _from_api(part: Mapping[str, Any]) -> StatedVideo:
    """The official API's answer about one video; what it says of channels and lists has ids of other forms."""
    item = _only_item(part)
    snippet, video_id = _part(item, "snippet"), _text(item.get("id"))
    title = _text(snippet.get("title"))
    is_video = item.get("kind", "youtube#video") == "youtube#video" and YOUTUBE_ID_PATTERN.fullmatch(video_id or "")
    if not is_video or title is None:
        return StatedVideo(place="feed")
    return StatedVideo(place="feed", video_id=video_id, titles=(title,), published=_text(snippet.get("publishedAt")))


def _only_item(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the item of a list that has no other, empty where there is none: of several, none is the page's."""
    items = part.get("items")
    return items[0] if isinstance(items, list) and len(items) == 1 and isinstance(items[0], dict) else {}


def _object(value: object) -> Mapping[str, Any]:
    """Returns an object that may be written as JSON in a text, empty where there is none."""
    value = parse_json(value) if isinstance(value, str) else value
    return value if isinstance(value, dict) else {}


def _part(value: object, *path: str) -> Mapping[str, Any]:
    """Returns an object within an object, empty where there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value[:MAX_TEXT] if isinstance(value, str) else None


def _shown_text(value: object) -> str | None:
    """Returns a text that may be plain, ``simpleText`` or in ``runs``."""
    if not isinstance(value, dict):
        return _text(value)
    runs = value.get("runs")
    if not isinstance(runs, list):
        return _text(value.get("simpleText"))
    return "".join(_text(_part(run).get("text")) or "" for run in runs[:100])[:MAX_TEXT] if runs else None


def _seconds(value: object) -> float | None:
    text = str(value) if isinstance(value, int | str) else ""
    return float(text) if text.isascii() and text.isdigit() and 0 < len(text) < 8 and int(text) else None
