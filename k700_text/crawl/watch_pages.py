"""Reads archived watch pages of every era: what a page says, and whether that is the title of the video asked about.

Two steps, both pure. ``read_page`` takes the facts out of a page; they are small, are kept as evidence, and judge
nothing. ``judge_page`` decides: facts kept by an earlier run can be judged again by better rules.

Eras (web-contracts section 4.6): ``YouTube - X`` and ``swfArgs`` (2005-2009); ``PLAYER_CONFIG`` (2010-2012);
``X - YouTube``, ``ytplayer.config`` and Open Graph (2013-2017); ``ytInitialData`` with a player response in
``ytplayer.config`` (2018 to mid-2020); ``ytInitialPlayerResponse`` (since then).

Which video a page is about is decided by the strongest place that names one: the player's data, then the canonical
link and ``og:url``, then the rest. If it names another video, the page is refused. Where no place names any (first
pages of 2005, odd layouts), the page must have a player, and the address under which it was captured must name the
video, letter by letter.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from k700_text.crawl.page_text import decode_page, find_data, parse_json, read_tags
from k700_text.crawl.sources.base import parse_time
from k700_text.junk_titles import BLOCK_PAGE, CONSENT_PAGE, DEAD_PAGE, JUNK_TITLE, junk_reason
from k700_text.records import YOUTUBE_ID_PATTERN
from k700_text.titles import clean_plain_title, unescape

# Raised whenever ``read_page`` learns something: pages that were kept whole are then read again.
READER_VERSION = 1

WRONG_ID, NO_ID, UNREADABLE, EMPTY_TITLE = "wrong_id", "no_id", "unreadable", "empty_title"

# Several reasons may apply to one page: the first of these is reported.
_REASONS = (CONSENT_PAGE, BLOCK_PAGE, NO_ID, WRONG_ID, EMPTY_TITLE, JUNK_TITLE, DEAD_PAGE, UNREADABLE)

_MAX_TEXT = 4000
_MAX_PLAYER_IDS = 4
_PLAYABLE = "OK"
_HOSTS = ("youtube.com", "youtube-nocookie.com")
_ID_PATHS = frozenset({"embed", "v", "e", "shorts", "live"})
_PLAYER_ID = re.compile(r"(?i:video_id)[\"']?\s{0,3}(?:[=:,]|value=)\s{0,3}[\"']?([\w-]{11})(?![\w-])")
_ITEMPROPS = {"name": "itemprop_name", "videoId": "itemprop_id", "identifier": "itemprop_id"}
_META_TITLES = {"og:title": "og_title", "twitter:title": "twitter_title", "title": "meta_title"}
_UNAVAILABLE_MARKS = ('id="unavailable-message"', 'id="watch-unavailable', 'class="yt-alert yt-alert-error')
_PLAYER_MARKS = (
    "FlashObject",
    "SWFObject",
    "swfArgs",
    "movie_player",
    "player.swf",
    "player2.swf",
    "watch-player",
    "ytplayer",
)
_CAPTCHA_MARKS = ('id="captcha-form"', "unusual traffic from your computer network")

_MARKS = "\\s\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff"
_SITE_PREFIX = re.compile(rf"^[{_MARKS}]*YouTube[{_MARKS}]+-(?:[{_MARKS}]+|$)")
_SITE_SUFFIX = re.compile(rf"(?:^|[{_MARKS}])-[{_MARKS}]+YouTube[{_MARKS}]*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedVideo:
    """What one piece of data in a page says about the video that it shows.

    Attributes:
        place: ``player`` (ytInitialPlayerResponse), ``data`` (ytInitialData), ``args`` (configuration of an old
            player), ``args_player`` (a player response within it).
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFacts:
    """What a page says, as spelled; the texts and addresses are HTML with its entities, except in ``stated``.

    Attributes:
        title_tag: text of the ``title`` element.
        og_title: meta ``og:title``.
        twitter_title: meta ``twitter:title``.
        meta_title: meta ``title``.
        itemprop_name: meta with itemprop ``name``.
        canonical: address of the link ``canonical``.
        og_url: meta ``og:url``.
        itemprop_id: meta with itemprop ``videoId`` or ``identifier``.
        stated: what the data in the scripts says, the best source of titles first.
        player_ids: ids that addresses and parameters of a player name anywhere in the page, at most 4.
        is_damaged: some bytes of the page could not be read.
        has_consent_form: it asks for consent.
        has_captcha: it asks whether the reader is human.
        is_unavailable: it shows the message of a video that does not play.
        has_player: it has a player of some kind.
    """

    title_tag: str | None = None
    og_title: str | None = None
    twitter_title: str | None = None
    meta_title: str | None = None
    itemprop_name: str | None = None
    canonical: str | None = None
    og_url: str | None = None
    itemprop_id: str | None = None
    stated: tuple[StatedVideo, ...] = ()
    player_ids: tuple[str, ...] = ()
    is_damaged: bool = False
    has_consent_form: bool = False
    has_captcha: bool = False
    is_unavailable: bool = False
    has_player: bool = False

    @property
    def page_id(self) -> str | None:
        """The video that the page is about, by the strongest place that names one."""
        stated = {each.place: each.video_id for each in self.stated}
        for place in ("player", "args_player", "args"):
            if stated.get(place):
                return stated[place]
        return next(iter(self.linked_ids), None) or stated.get("data") or self.itemprop_id

    @property
    def linked_ids(self) -> tuple[str, ...]:
        """The videos that the page's own addresses name, the canonical link first."""
        return tuple(each for url in (self.canonical, self.og_url) if (each := id_in_url(url)) is not None)

    def to_json(self) -> dict[str, Any]:
        """Returns the facts for ``json.dumps``, without what is absent."""
        values = {name: value for name, value in asdict(self).items() if value not in (None, (), False)}
        if self.stated:
            values["stated"] = [
                {name: value for name, value in asdict(each).items() if value not in (None, ())} for each in self.stated
            ]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PageFacts:
        """Returns the facts that ``to_json`` wrote; names that this version does not know are left out."""
        known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        known["stated"] = tuple(_stated_from_json(each) for each in known.get("stated", ()))
        known["player_ids"] = tuple(known.get("player_ids", ()))
        return cls(**known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The title that a page gives to a video, or why it gives none.

    Attributes:
        title: cleaned; None if there is none.
        raw_title: as the page spells it, with entities and the site's name where it came from HTML.
        reason: why there is no title: ``wrong_id``, ``no_id``, ``consent_page``, ``block_page``, ``dead_page``,
            ``empty_title``, ``junk_title`` or ``unreadable``; None if there is one.
        duration_seconds: length of the video, where the page says it.
        published_at: publication time (UTC), where the page says it to the second.
    """

    title: str | None = None
    raw_title: str | None = None
    reason: str | None = None
    duration_seconds: float | None = None
    published_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A text that may be the title.

    Attributes:
        spelled: as the page spells it.
        text: as read: without entities and the site's name; None where a page title lacks the site's name.
        whole: as read, with the site's name.
        is_trusted: data about this very video, which plays, says so: then it may even look like junk.
    """

    spelled: str
    text: str | None
    whole: str
    is_trusted: bool = False


def id_in_url(url: str | None) -> str | None:
    """Returns the id of the video that an address is of, in any of the site's forms (web-contracts section 0).

    Args:
        url: an address, also without scheme or host; HTML entities are understood.
    """
    try:
        parts = urlsplit(html.unescape(url or "").strip())
        host = (parts.hostname or "").lower()
    except ValueError:
        return None
    if not host and parts.path and not parts.path.startswith("/"):
        return None if parts.scheme else id_in_url(f"//{url}")
    path = parts.path.strip("/").split("/")
    if host == "youtu.be":
        found = path[0]
    elif host and not any(host == each or host.endswith(f".{each}") for each in _HOSTS):
        return None
    elif path[0] in ("watch", "watch_popup"):
        found = parse_qs(parts.query).get("v", [""])[0]
    else:
        found = path[1] if len(path) > 1 and path[0] in _ID_PATHS else ""
    return found if YOUTUBE_ID_PATTERN.fullmatch(found) else None


def read_page(body: bytes, content_type: str) -> PageFacts:
    """Returns what a page says. Never fails: of what is not a page it says nothing.

    Args:
        body: the page as captured; may be cut off, damaged, huge or hostile.
        content_type: the header of the answer; empty where there was none.
    """
    text, is_damaged = decode_page(body, content_type)
    return PageFacts(
        stated=tuple(_read_stated(text)),
        player_ids=_read_player_ids(text),
        is_damaged=is_damaged,
        is_unavailable=any(mark in text for mark in _UNAVAILABLE_MARKS),
        has_player=any(mark in text for mark in _PLAYER_MARKS),
        **_read_markup(text),
    )


def _read_markup(text: str) -> dict[str, Any]:
    """Returns the facts of the page's tags; of repeated ones the first counts."""
    facts: dict[str, Any] = {"has_captcha": any(mark in text for mark in _CAPTCHA_MARKS)}
    for tag, attributes in read_tags(text):
        content = attributes.get("content", "")[:_MAX_TEXT]
        if tag == "title":
            facts.setdefault("title_tag", attributes.get("", "")[:_MAX_TEXT])
        elif tag == "form":
            action = attributes.get("action", "")
            facts["has_consent_form"] = facts.get("has_consent_form", False) or "//consent." in action
        elif tag == "link":
            if attributes.get("rel", "").lower() == "canonical":
                facts.setdefault("canonical", attributes.get("href", "")[:_MAX_TEXT])
        elif attributes.get("itemprop") in _ITEMPROPS:
            facts.setdefault(_ITEMPROPS[attributes["itemprop"]], content)
        else:
            name = (attributes.get("property") or attributes.get("name") or "").lower()
            if name in _META_TITLES:
                facts.setdefault(_META_TITLES[name], content)
            elif name == "og:url":
                facts.setdefault("og_url", content)
    return facts


def _read_player_ids(text: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for match in _PLAYER_ID.finditer(text):
        found.setdefault(match[1])
        if len(found) == _MAX_PLAYER_IDS:
            break
    return tuple(found)


def _read_stated(text: str) -> list[StatedVideo]:
    """Returns the facts of the page's data; of each place the first that says anything counts."""
    found: dict[str, StatedVideo] = {}
    for name, value in find_data(text):
        for stated in _stated_by(name, value):
            if stated != StatedVideo(place=stated.place):
                found.setdefault(stated.place, stated)
    return [found[place] for place in ("player", "data", "args", "args_player") if place in found]


def _stated_by(name: str, value: Mapping[str, Any]) -> Iterator[StatedVideo]:
    if name == "ytInitialPlayerResponse":
        yield _from_player("player", value)
    elif name == "ytInitialData":
        yield _from_data(value)
    else:
        arguments = value if name == "swfArgs" else _part(value, "args")
        yield _from_arguments(arguments)
        response = arguments.get("raw_player_response") or parse_json(arguments.get("player_response"))
        yield _from_player("args_player", response if isinstance(response, dict) else {})


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
    parts = [_part(each, "videoPrimaryInfoRenderer") for each in (contents if isinstance(contents, list) else [])[:50]]
    titles = [title for part in parts if (title := _shown_text(part.get("title"))) is not None]
    endpoint = _part(data, "currentVideoEndpoint", "watchEndpoint")
    return StatedVideo(place="data", video_id=_text(endpoint.get("videoId")), titles=tuple(titles[:1]))


def _from_arguments(arguments: Mapping[str, Any]) -> StatedVideo:
    title, video_id = _text(arguments.get("title")), _text(arguments.get("video_id"))
    has_failed = arguments.get("errorcode") or arguments.get("status") == "fail"
    return StatedVideo(
        place="args",
        video_id=video_id,
        titles=() if title is None else (title,),
        # Old players were configured with title and id only where they were to play.
        playability="ERROR" if has_failed else _PLAYABLE if video_id and title is not None else None,
        message=_text(arguments.get("reason")),
        duration_seconds=_seconds(arguments.get("length_seconds") or arguments.get("l")),
    )


def _part(value: object, *path: str) -> Mapping[str, Any]:
    """Returns an object within an object, empty where there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value[:_MAX_TEXT] if isinstance(value, str) else None


def _shown_text(value: object) -> str | None:
    """Returns a text that may be plain, ``simpleText`` or in ``runs``."""
    if not isinstance(value, dict):
        return _text(value)
    runs = value.get("runs")
    if not isinstance(runs, list):
        return _text(value.get("simpleText"))
    return "".join(_text(_part(run).get("text")) or "" for run in runs[:100])[:_MAX_TEXT] if runs else None


def _seconds(value: object) -> float | None:
    text = str(value) if isinstance(value, int | str) else ""
    return float(text) if text.isascii() and text.isdigit() and 0 < len(text) < 8 and int(text) else None


def _stated_from_json(values: Mapping[str, Any]) -> StatedVideo:
    known = {each.name: values[each.name] for each in fields(StatedVideo) if each.name in values}
    return StatedVideo(**{**known, "titles": tuple(known.get("titles", ()))})


def judge_page(facts: PageFacts, youtube_id: str, *, page_url: str | None = None) -> Judgement:
    """Returns the title that a page gives to a video, or why it gives none; order of web-contracts section 4.6.

    Args:
        facts: what the page says.
        youtube_id: the video asked about.
        page_url: the address under which the page was captured; it decides where the page itself names no video.
    """
    page_id = facts.page_id
    is_other = page_id != youtube_id if page_id else bool(facts.player_ids) and youtube_id not in facts.player_ids
    if is_other:
        return Judgement(reason=WRONG_ID)
    is_named = page_id == youtube_id or facts.player_ids == (youtube_id,)
    is_certain = is_named or (facts.has_player and id_in_url(page_url) == youtube_id)
    reasons = set(_reasons_of_page(facts))
    for candidate in _candidates(facts, youtube_id):
        title = None if candidate.text is None else clean_plain_title(candidate.text)
        reason = _reason_against(candidate, title, youtube_id, facts)
        if reason is None and is_certain:
            return _found(facts, youtube_id, title, candidate)
        reasons.add(reason or NO_ID)
    if any(each not in (None, youtube_id) for each in (*facts.linked_ids, *(each.video_id for each in facts.stated))):
        reasons.add(WRONG_ID)
    return Judgement(reason=next(reason for reason in _REASONS if reason in reasons))


def _reasons_of_page(facts: PageFacts) -> Iterator[str]:
    """Yields what speaks against the page as a whole, if it gives no title."""
    yield UNREADABLE
    if facts.has_consent_form:
        yield CONSENT_PAGE
    if facts.has_captcha:
        yield BLOCK_PAGE
    if facts.is_unavailable or any(each.playability not in (None, _PLAYABLE) for each in facts.stated):
        yield DEAD_PAGE


def _reason_against(candidate: _Candidate, title: str | None, youtube_id: str, facts: PageFacts) -> str | None:
    """Returns why a text is not the title, None if it is."""
    if title is not None and facts.is_damaged and "\ufffd" in title:
        return UNREADABLE
    if candidate.is_trusted:
        return None if title else EMPTY_TITLE
    whole = clean_plain_title(candidate.whole)
    if whole is None:
        return JUNK_TITLE if candidate.whole.strip() else DEAD_PAGE
    return junk_reason(whole, youtube_id) or (UNREADABLE if title is None else None)


def _candidates(facts: PageFacts, youtube_id: str) -> Iterator[_Candidate]:
    """Yields the texts that may be the title, the best first; those that other videos own are left out."""
    is_refused = any(each.playability not in (None, _PLAYABLE) for each in facts.stated)
    for stated in facts.stated:
        if stated.video_id in (None, youtube_id):
            is_trusted = stated.video_id == youtube_id and stated.playability == _PLAYABLE and not is_refused
            yield from (_Candidate(title, title, title, is_trusted) for title in stated.titles)
    is_foreign_form = (facts.has_consent_form or facts.has_captcha) and not facts.stated
    if all(each == youtube_id for each in facts.linked_ids) and not is_foreign_form:
        yield from _html_candidates(facts)


def _html_candidates(facts: PageFacts) -> Iterator[_Candidate]:
    # A page that names no video has no business with these; its name on the tab bears the site's.
    named = (facts.og_title, facts.twitter_title, facts.meta_title, facts.itemprop_name) if facts.page_id else ()
    others = [_Candidate(each, unescape(each), unescape(each)) for each in named if each is not None]
    if facts.title_tag is None:
        yield from others
        return
    whole = unescape(facts.title_tag)
    has_prefix, has_suffix = _SITE_PREFIX.search(whole) is not None, _SITE_SUFFIX.search(whole) is not None
    text = _SITE_PREFIX.sub("", whole) if has_prefix else _SITE_SUFFIX.sub("", whole) if has_suffix else None
    tag = _Candidate(facts.title_tag, text, whole)
    # Every era puts the site's name around the video's. Where both sides have it, one belongs to the video's name.
    yield from (*others, tag) if has_prefix and has_suffix else (tag, *others)


def _found(facts: PageFacts, youtube_id: str, title: str | None, candidate: _Candidate) -> Judgement:
    about = [each for each in facts.stated if each.video_id == youtube_id]
    return Judgement(
        title=title,
        raw_title=candidate.spelled,
        duration_seconds=next((each.duration_seconds for each in about if each.duration_seconds), None),
        published_at=next((moment for each in about if (moment := parse_time(each.published))), None),
    )
