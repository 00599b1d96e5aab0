"""Reads archived watch pages of every era: what a page says, and whether that is the title of the video asked about.

Two steps, both pure. ``read_page`` takes the facts out of a page; they are small, are kept as evidence, and judge
nothing. ``judge_page`` decides: facts kept by an earlier run can be judged again by better rules.

Eras (web-contracts section 4.6): ``YouTube - X`` and ``swfArgs`` (2005-2009); ``PLAYER_CONFIG`` (2010-2012);
``X - YouTube``, ``ytplayer.config`` and Open Graph (2013-2017); ``ytInitialData`` with a player response in
``ytplayer.config`` (2018 to mid-2020); ``ytInitialPlayerResponse`` (since then). Pages for embedding, and answers that
are data altogether, are read as well (``stated_videos``).

Which video a page is about is decided by the strongest place that names one: the player's data, then the page's own
addresses (the canonical link and ``og:url``, else those meant for other programs), then the rest. If it names another
video, the page is refused. If an address of its own names no video, it is the page of something else (a channel, a
playlist, the start page): then only data about exactly this video counts. Where none of these places names anything
(the first years), the page must be one of those years: since the site's name stands last in titles, every page of a
video states its address. Nothing in it may speak of something else, and it must have a player with the video's id, or
any player under a captured address that names the video, letter by letter.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from k700_text.crawl.page_text import decode_page, find_data, is_answer, parse_answer, read_tags
from k700_text.crawl.sources.base import parse_time
from k700_text.crawl.stated_videos import MAX_TEXT, PLAYABLE, StatedVideo, stated_in_answer, stated_in_scripts
from k700_text.junk_titles import BLOCK_PAGE, CONSENT_PAGE, DEAD_PAGE, JUNK_TITLE, is_listing_title, junk_reason
from k700_text.records import YOUTUBE_ID_PATTERN
from k700_text.titles import clean_plain_title, unescape

# Raised whenever ``read_page`` learns something: pages that were kept whole are then read again.
READER_VERSION = 3

WRONG_ID, NO_ID, UNREADABLE, EMPTY_TITLE = "wrong_id", "no_id", "unreadable", "empty_title"

# Several reasons may apply to one page: the first of these is reported.
_REASONS = (CONSENT_PAGE, BLOCK_PAGE, NO_ID, WRONG_ID, EMPTY_TITLE, JUNK_TITLE, DEAD_PAGE, UNREADABLE)

_MAX_PLAYER_IDS = 4
_MAX_OTHER_URLS = 8
_HOST = re.compile(
    r"youtu\.be|(?:.+\.)?(?:youtube\.(?:com?\.)?[a-z]{2}|youtube(?:kids|-nocookie)?\.com|youtube\.googleapis\.com)"
)
_ID_PATHS = frozenset({"embed", "v", "e", "shorts", "live"})
# Parameter that bears the id, by the first part of the path; the start page did so in 2005.
_ID_PARAMETERS = {
    **dict.fromkeys(("", "watch", "watch.php", "watch_popup", "details"), "v"),
    **dict.fromkeys(("get_video_info", "get_video"), "video_id"),
}
_PICTURE = re.compile(
    r"(?:https?:)?(?://)?(?:[a-z0-9-]+\.)*(?:ytimg|youtube)\.com/vi(?:_webp|_lc)?/(?P<youtube_id>[A-Za-z0-9_-]{11})/",
    re.IGNORECASE,
)
_FEED_PATH = ["feeds", "api", "videos"]
# Players of a playlist and of a channel's broadcast stand where others have an id, and are as long as one.
_NO_IDS = frozenset({"videoseries", "live_stream"})
# What archives put before the addresses in pages that they rewrite.
_REWRITTEN = re.compile(r"(?:https?:)?(?://[^/]+)?(?:/\w{1,20})?/\d{4,14}(?:[a-z]{2}_)?/(?=https?:)")
# Addresses for apps: around one of the web, or of the app's own, the id or the path standing where a host does.
_FOR_APPS = re.compile(r"(?i:(?:android|ios)-app://[^/]+/(?:https?|vnd\.youtube)/|vnd\.youtube[\w.]*:/*)")
_AFTER_ID = re.compile(r"[?&]")
_PLAYER_ID = re.compile(r"(?i:video_id)[\"']?\s{0,3}(?:[=:,]|value=)\s{0,3}[\"']?([\w-]{11})(?![\w-])")
_ITEMPROPS = {"name": "itemprop_name", "videoId": "itemprop_id", "identifier": "itemprop_id"}
_KINDS_ELSEWHERE = ("profile", "yt-fb-app:")
_FEED_ELSEWHERE = re.compile(r"/rss/user/|/users/|/playlists/|[?&;](?:channel_id|playlist_id|user)=")
_META_URLS = frozenset({"twitter:url", "al:web:url", "al:android:url", "al:ios:url"})
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
_HEAD_END = re.compile(r"<(?i:/head|body)(?=[\s>/])")
_CAPTCHA_MARKS = ('id="captcha-form"', "unusual traffic from your computer network")

_MARKS = "\\s\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff"
_SITE_PREFIX = re.compile(rf"^[{_MARKS}]*YouTube[{_MARKS}]+-(?:[{_MARKS}]+|$)")
_SITE_SUFFIX = re.compile(rf"(?:^|[{_MARKS}])-[{_MARKS}]+YouTube[{_MARKS}]*$")
# Sisters of the site put their whole name there, and into what they tell other programs.
_SISTER_SUFFIX = re.compile(rf"(?:^|[{_MARKS}]-[{_MARKS}]+)YouTube (?:Music|Gaming|Kids|TV)[{_MARKS}]*$")


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
        other_urls: the page's address as told to other programs (small screens, apps, oEmbed), at most 8.
        itemprop_id: meta with itemprop ``videoId`` or ``identifier``.
        stated: what the data in the scripts says, the best source of titles first.
        player_ids: ids that addresses and parameters of a player name anywhere in the page, at most 4.
        is_damaged: some bytes of the page could not be read.
        has_consent_form: it asks for consent.
        has_captcha: it asks whether the reader is human.
        is_unavailable: it shows the message of a video that does not play.
        has_player: it has a player of some kind.
        is_listing: its data shows a channel, a playlist or results of a search.
        has_listing_mark: its head calls it a channel's or a playlist's, or offers the feed of one.
        is_cut_off: the end of its head is missing, and with it perhaps what it says of itself.
    """

    title_tag: str | None = None
    og_title: str | None = None
    twitter_title: str | None = None
    meta_title: str | None = None
    itemprop_name: str | None = None
    canonical: str | None = None
    og_url: str | None = None
    other_urls: tuple[str, ...] = ()
    itemprop_id: str | None = None
    stated: tuple[StatedVideo, ...] = ()
    player_ids: tuple[str, ...] = ()
    is_damaged: bool = False
    has_consent_form: bool = False
    has_captcha: bool = False
    is_unavailable: bool = False
    has_player: bool = False
    is_listing: bool = False
    has_listing_mark: bool = False
    is_cut_off: bool = False

    @property
    def page_id(self) -> str | None:
        """The video that the page is about, by the strongest place that names one."""
        stated = {each.place: each.video_id for each in self.stated}
        for place in ("player", "args_player", "args", "embed", "oembed", "feed"):
            if stated.get(place):
                return stated[place]
        return next(iter(self.linked_ids), None) or stated.get("data") or self.itemprop_id

    @property
    def own_urls(self) -> tuple[str, ...]:
        """The site's addresses that the page calls its own, the canonical link first."""
        first = [url for url in map(_absolute, (self.canonical, self.og_url)) if _site_parts(url)]
        if first:
            return tuple(first)
        others = [url for url in map(_absolute, self.other_urls) if _site_parts(url)]
        # The author's may stand among them, but only a page without a video names none.
        return tuple([url for url in others if id_in_url(url)] or others)

    @property
    def linked_ids(self) -> tuple[str, ...]:
        """The videos that the page's own addresses name, the canonical link first."""
        return tuple(each for url in self.own_urls if (each := id_in_url(url)) is not None)

    @property
    def may_be_early(self) -> bool:
        """It may be the page of a video though it does not say of which: it is early, and calls itself nothing else."""
        calls_itself = (self.canonical or "").strip() or (self.og_url or "").strip()
        title = unescape(self.title_tag or "")
        is_late = _SITE_SUFFIX.search(title) is not None and _SITE_SUFFIX.sub("", title).strip() != ""
        is_early = _SITE_PREFIX.search(title) is not None or (self.is_unavailable and not is_late)
        return is_early and not (calls_itself or self.has_listing_mark)

    @property
    def is_elsewhere(self) -> bool:
        """It is the page of something else than a video: by one of its own addresses, or by what its data shows."""
        return self.is_listing or len(self.linked_ids) < len(self.own_urls)

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
        for name in ("player_ids", "other_urls"):
            known[name] = tuple(known.get(name, ()))
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
        text: as read: without entities (HTML only) and the site's name; None where a page title lacks the site's name.
        whole: as read, with the site's name.
        is_about: data about this very video says so.
        is_trusted: and the video plays: then it may even look like junk.
    """

    spelled: str
    text: str | None
    whole: str
    is_about: bool = False
    is_trusted: bool = False

    @classmethod
    def of_html(cls, spelled: str, suffix: re.Pattern[str] | None) -> _Candidate:
        """Returns the text of an attribute: its entities are decoded here, once, and nowhere else."""
        whole = unescape(spelled)
        return cls(spelled, whole if suffix is None else suffix.sub("", whole), whole)


def id_in_url(url: str | None) -> str | None:
    """Returns the id of the video that an address is of, in any of the site's forms (web-contracts section 0).

    Args:
        url: an address, also without scheme or host, of a page, a player, or an answer about one video; HTML entities
            are understood.
    """
    parts = _site_parts(url)
    if parts is None:
        return None
    path = _AFTER_ID.split(parts.path)[0].strip("/").split("/")
    # For a while the site's scripts wrote parameters behind "#!".
    query = parts.query or parts.fragment.removeprefix("!")
    if parts.hostname == "youtu.be":
        found = path[0]
    elif path[0] == "oembed":
        return id_in_url(parse_qs(query).get("url", [""])[0])
    elif path[0] in _ID_PARAMETERS:
        found = parse_qs(query).get(_ID_PARAMETERS[path[0]], [""])[0]
    elif path[:-1] == _FEED_PATH or (len(path) > 1 and path[0] in _ID_PATHS):
        found = path[3] if path[:-1] == _FEED_PATH else path[1]
    else:
        return None
    found = _AFTER_ID.split(found)[0]
    return found if YOUTUBE_ID_PATTERN.fullmatch(found) and found not in _NO_IDS else None


def youtube_id_of(text: str) -> str | None:
    """Returns the id that a cell or line of somebody's table names: as such, by an address, or by a picture's address.

    Args:
        text: spaces around it do not count. Words that are as long as an id cannot be told from one.
    """
    text = text.strip()
    if YOUTUBE_ID_PATTERN.fullmatch(text):
        return text
    picture = _PICTURE.match(text)
    return picture["youtube_id"] if picture else id_in_url(text)


def _site_parts(url: str | None) -> SplitResult | None:
    """Returns the parts of an address that is the site's own, also without scheme or host; None for any other."""
    text = _REWRITTEN.sub("", html.unescape(url or "").strip(), count=1)
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").lower()
    except ValueError:
        return None
    if not host and not parts.path.startswith("/"):
        return None if parts.scheme or not parts.path else _site_parts(f"//{text}")
    return parts if not host or _HOST.fullmatch(host) else None


def _absolute(url: str | None) -> str:
    """Returns an address in a page as one of the web; one that begins within the site as its path."""
    text = _REWRITTEN.sub("", html.unescape(url or "").strip(), count=1)
    inner = _FOR_APPS.sub("", text, count=1) if _FOR_APPS.match(text) else None
    if inner is not None:
        text = f"https://youtu.be/{inner}" if YOUTUBE_ID_PATTERN.fullmatch(_AFTER_ID.split(inner)[0]) else inner
    if text.startswith("?"):
        return f"/watch{text}"
    first = re.split(r"[/?#]", text, maxsplit=1)[0]
    is_within = first and ":" not in first and ("." not in first or first in _ID_PARAMETERS)
    return f"/{text}" if is_within else text


def read_page(body: bytes, content_type: str) -> PageFacts:
    """Returns what a page says. Never fails: of what is not a page it says nothing.

    Args:
        body: the page as captured; may be cut off, damaged, huge or hostile.
        content_type: the header of the answer; empty where there was none.
    """
    text, is_damaged = decode_page(body, content_type)
    if is_answer(text):
        return PageFacts(stated=stated_in_answer(parse_answer(text)), is_damaged=is_damaged)
    stated, is_listing = stated_in_scripts(find_data(text))
    return PageFacts(
        stated=stated,
        player_ids=_read_player_ids(text),
        is_damaged=is_damaged,
        is_unavailable=any(mark in text for mark in _UNAVAILABLE_MARKS),
        has_player=any(mark in text for mark in _PLAYER_MARKS),
        is_listing=is_listing,
        is_cut_off=_HEAD_END.search(text) is None,
        **_read_markup(text),
    )


def _read_markup(text: str) -> dict[str, Any]:
    """Returns the facts of the page's tags; of repeated ones the first counts."""
    facts: dict[str, Any] = {"has_captcha": any(mark in text for mark in _CAPTCHA_MARKS)}
    other_urls: list[str] = []
    for tag, attributes in read_tags(text):
        content = attributes.get("content", "")[:MAX_TEXT]
        if tag == "title":
            facts.setdefault("title_tag", attributes.get("", "")[:MAX_TEXT])
        elif tag == "form":
            action = attributes.get("action", "")
            facts["has_consent_form"] = facts.get("has_consent_form", False) or "//consent." in action
        elif tag == "link":
            if "canonical" in attributes.get("rel", "").lower().split():
                facts.setdefault("canonical", attributes.get("href", "")[:MAX_TEXT])
            elif _offers_feed_elsewhere(attributes):
                facts["has_listing_mark"] = True
            elif _tells_own_address(attributes):
                other_urls.append(attributes.get("href", "")[:MAX_TEXT])
        elif attributes.get("itemprop") in _ITEMPROPS:
            facts.setdefault(_ITEMPROPS[attributes["itemprop"]], content)
        else:
            name = (attributes.get("property") or attributes.get("name") or "").lower()
            if name in _META_TITLES:
                facts.setdefault(_META_TITLES[name], content)
            elif name == "og:url":
                facts.setdefault("og_url", content)
            elif name == "og:type" and content.strip().lower().startswith(_KINDS_ELSEWHERE):
                facts["has_listing_mark"] = True
            elif name in _META_URLS:
                other_urls.append(content)
    return {**facts, "other_urls": tuple(other_urls[:_MAX_OTHER_URLS])}


def _tells_own_address(link: Mapping[str, str]) -> bool:
    """Tells a link to another form of this page from a link to something that it mentions."""
    relations = link.get("rel", "").lower().split()
    is_for_app = _FOR_APPS.match(link.get("href", "").strip()) is not None
    is_form = "media" in link or link.get("type", "").endswith("+oembed") or is_for_app
    return "shortlink" in relations or ("alternate" in relations and is_form) or link.get("itemprop") == "url"


def _offers_feed_elsewhere(link: Mapping[str, str]) -> bool:
    """Tells a link to the feed of a channel or a playlist, which pages of videos do not offer."""
    is_feed = link.get("type", "").strip().lower() in ("application/rss+xml", "application/atom+xml")
    return is_feed and _FEED_ELSEWHERE.search(link.get("href", "")) is not None


def _read_player_ids(text: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for match in _PLAYER_ID.finditer(text):
        found.setdefault(match[1])
        if len(found) == _MAX_PLAYER_IDS:
            break
    return tuple(found)


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
    is_certain = _is_certain(facts, youtube_id, page_url)
    reasons = set(_reasons_of_page(facts))
    for candidate in _candidates(facts, youtube_id, is_certain=is_certain):
        title = None if candidate.text is None else clean_plain_title(candidate.text)
        reason = _reason_against(candidate, title, youtube_id, facts)
        if reason is None and (is_certain or candidate.is_about):
            return _found(facts, youtube_id, title, candidate)
        reasons.add(reason or (WRONG_ID if facts.is_elsewhere else NO_ID))
    if any(each not in (None, youtube_id) for each in (*facts.linked_ids, *(each.video_id for each in facts.stated))):
        reasons.add(WRONG_ID)
    return Judgement(reason=next(reason for reason in _REASONS if reason in reasons))


def _is_certain(facts: PageFacts, youtube_id: str, page_url: str | None) -> bool:
    """Tells whether the page as a whole is that of the video: then its tags are about it, too."""
    if facts.is_elsewhere:
        return False
    if facts.page_id is not None:
        return facts.page_id == youtube_id
    if not facts.may_be_early:
        return False
    if facts.player_ids == (youtube_id,):
        return True
    # What is cut off may have been the page of something else.
    has_place = not facts.is_cut_off and (facts.has_player or facts.is_unavailable)
    return has_place and id_in_url(page_url) == youtube_id


def _reasons_of_page(facts: PageFacts) -> Iterator[str]:
    """Yields what speaks against the page as a whole, if it gives no title."""
    yield UNREADABLE
    if facts.has_consent_form:
        yield CONSENT_PAGE
    if facts.has_captcha:
        yield BLOCK_PAGE
    if facts.is_unavailable or any(each.playability not in (None, PLAYABLE) for each in facts.stated):
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
    # A channel's page plays one of its videos: only an address of its own, or data about the video, says more.
    if not (facts.linked_ids or candidate.is_about) and is_listing_title(whole):
        return WRONG_ID
    return junk_reason(whole, youtube_id) or (UNREADABLE if title is None else None)


def _candidates(facts: PageFacts, youtube_id: str, *, is_certain: bool) -> Iterator[_Candidate]:
    """Yields the texts that may be the title, the best first; those that other videos own are left out."""
    is_refused = any(each.playability not in (None, PLAYABLE) for each in facts.stated)
    for stated in facts.stated:
        if stated.video_id in (None, youtube_id):
            is_about = stated.video_id == youtube_id
            is_trusted = is_about and stated.playability == PLAYABLE and not is_refused
            yield from (_Candidate(title, title, title, is_about, is_trusted) for title in stated.titles)
    is_foreign_form = (facts.has_consent_form or facts.has_captcha) and not facts.stated
    if all(each == youtube_id for each in facts.linked_ids) and not is_foreign_form:
        yield from _html_candidates(facts, is_certain=is_certain)


def _html_candidates(facts: PageFacts, *, is_certain: bool) -> Iterator[_Candidate]:
    # On the page of something else these are its own; the name on the tab bears the site's.
    named = (facts.og_title, facts.twitter_title, facts.meta_title, facts.itemprop_name) if is_certain else ()
    whole = unescape(facts.title_tag or "")
    has_prefix = _SITE_PREFIX.search(whole) is not None
    is_sister = not has_prefix and _SISTER_SUFFIX.search(whole) is not None
    suffix = _SISTER_SUFFIX if is_sister else _SITE_SUFFIX
    others = [_Candidate.of_html(each, suffix if is_sister else None) for each in named if each is not None]
    if facts.title_tag is None:
        yield from others
        return
    has_suffix = suffix.search(whole) is not None
    text = _SITE_PREFIX.sub("", whole) if has_prefix else suffix.sub("", whole) if has_suffix else None
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
