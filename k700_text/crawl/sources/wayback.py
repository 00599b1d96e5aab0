"""The web archive: titles of videos that are gone, from pages captured while they lived (web-contracts section 4).

Two sources. ``wayback`` asks playback for the captures of the watch page closest to a few dates, two requests for most
videos, and where these have no title for one capture each of the video's other addresses, which is where most of the
hard titles are: one request for each that was never archived. ``wayback-cdx`` asks the index, which is slow, about what
playback left without a title: captures under addresses with further parameters, and more captures of the plain one.

An answer is a capture only if it bears Memento-Datetime: then its status is that of the past, and says nothing about
the archive's health. What the archive holds says nothing about whether the video lives now.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType
from urllib.parse import quote, urlencode

from k700_text.config import PACES
from k700_text.crawl.captures import (
    ARCHIVED_ERROR,
    EXCLUDED,
    NOT_ARCHIVED,
    Address,
    Play,
    Trail,
    archived_redirect,
    linked_captures,
    stamp_time,
)
from k700_text.crawl.clock import utc_now
from k700_text.crawl.sources.base import (
    FAULT_STATUSES,
    MAX_REDIRECTS,
    RATE_LIMIT_STATUSES,
    Get,
    Source,
    SourcePlan,
    retry_after,
)
from k700_text.crawl.transport import Response
from k700_text.crawl.watch_pages import WRONG_ID, id_in_url
from k700_text.errors import ParseError, RateLimitedError, TransportError
from k700_text.junk_titles import DEAD_PAGE
from k700_text.records import TitleOutcome

NAME = "wayback"
INDEX_NAME = "wayback-cdx"
HOST = "web.archive.org"
URL = f"https://{HOST}/web"
INDEX_URL = f"https://{HOST}/cdx/search/cdx"

# Section 4.2: an hour, for a firewall.
REFUSED_SECONDS = 3600.0

# Section 4.3: the clips were picked in 2016 to 2020; earlier captures show videos that were gone later.
DATES = ("20170101000000", "20130101000000", "20200101000000")
OLDEST = "20050214000000"
WATCH_ADDRESS = "http://www.youtube.com/watch?v={}"
# Captured because other sites embed the player, share the short link, or ask what to embed. The most frequent first;
# the archive makes no difference between http and https, but the address within another one is spelled as it was.
OTHER_ADDRESSES = (
    "https://www.youtube.com/embed/{}",
    "https://www.youtube.com/embed/{}?feature=oembed",
    "https://youtu.be/{}",
    "https://www.youtube.com/oembed?url=https%3A%2F%2Fwww.youtube.com%2Fwatch%3Fv%3D{}&format=json",
    "http://www.youtube.com/oembed?url=http%3A%2F%2Fwww.youtube.com%2Fwatch%3Fv%3D{}&format=json",
    "http://m.youtube.com/watch?v={}",
    "http://www.youtube.com/v/{}",
)
# Of these one capture is asked for: an early one, as late ones show videos that are gone.
OTHER_DATE = DATES[1]
MAX_CAPTURES = 4
MAX_ROWS = 500
MAX_KEPT_ROWS = 50
FIELDS = ("timestamp", "original", "mimetype", "statuscode", "digest")

_BUSY_STATUSES = FAULT_STATUSES | {413, 421}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RUNTIME_ERROR = "x-archive-wayback-runtime-error"
# In errors as the archive's programs word them, and on its pages for people (in lower case).
_EXCLUSIONS = (
    *("administrativeaccesscontrolexception", "robotaccesscontrolexception", "blockedsite", "blocked site"),
    *("excluded from the wayback machine", "due to robots.txt", "via robots.txt", "robots.txt query exclusion"),
)
_ABSENCES = (
    *("wayback machine has not archived that url", "have that page archived", "resourcenotinarchiveexception"),
)
_OFFLINE = ("temporarily offline", "temporarily unavailable")
_MAX_WORDS_BYTES = 200_000
_MARKUP = re.compile(r"<[^<>]*>")
_CLOSED_BY_LAW = 451
_LATE = "20210101000000"
_NEVER = "99999999999999"
_PLAYABLE_TYPES = frozenset(
    {"text/html", "application/xhtml+xml", "application/json", "text/javascript", "warc/revisit", "unk", "-", ""}
)


class Wayback(Source):
    """Titles from the captures of a video's addresses closest to a few dates.

    Args:
        url: where captures are played.
    """

    name = NAME
    host = HOST
    pace = PACES[NAME]
    # A redirect and a page for each date and address; two more of each where a short link leads to the page.
    requests_per_batch = 2 * (len(DATES) + 1) + 2 * len(OTHER_ADDRESSES) + 4
    is_live = False
    refused_seconds = REFUSED_SECONDS

    def __init__(self, url: str = URL) -> None:
        self._url = url

    def fetch(self, ids: Sequence[str], get: Get) -> list[TitleOutcome]:
        """Asks about one video; see the base class."""
        (youtube_id,) = ids
        player = _Player(youtube_id, get, self._url, lane=None)
        player.search(WATCH_ADDRESS.format(youtube_id), (*DATES, OLDEST))
        for address in OTHER_ADDRESSES:
            player.search(address.format(youtube_id), (OTHER_DATE,))
        player.note_end()
        return [player.outcome(NAME)]


class WaybackIndex(Source):
    """Titles from the captures that the index lists.

    Args:
        url: where the index is.
        playback_url: where captures are played.
    """

    name = INDEX_NAME
    host = HOST
    pace = PACES[INDEX_NAME]
    other_lanes = MappingProxyType({NAME: PACES[NAME]})
    requests_per_batch = 1 + MAX_CAPTURES
    is_live = False
    refused_seconds = REFUSED_SECONDS

    def __init__(self, url: str = INDEX_URL, playback_url: str = URL) -> None:
        self._url = url
        self._playback_url = playback_url

    def plan(self, num_ids: int, rate: float, daily_quota: int | None) -> SourcePlan:
        """Returns what asking costs at most; the captures are played at their own pace, beside the index."""
        index_seconds, playback_seconds = num_ids / rate, num_ids * MAX_CAPTURES / PACES[NAME].max_rate
        return SourcePlan(
            source=self.name,
            num_ids=num_ids,
            num_requests=num_ids * self.requests_per_batch,
            quota_units=0,
            hours=max(index_seconds, playback_seconds) / 3600,
        )

    def fetch(self, ids: Sequence[str], get: Get) -> list[TitleOutcome]:
        """Asks about one video; see the base class."""
        (youtube_id,) = ids
        player = _Player(youtube_id, get, self._playback_url, lane=NAME)
        response = get(f"{self._url}?{index_query(youtube_id)}")
        player.trail.status = response.status
        if is_excluded(response):
            player.trail.ending = EXCLUDED
            return [player.outcome(INDEX_NAME)]
        rows = parse_index(response, youtube_id)
        own = [row for row in rows if id_in_url(row.original) == youtube_id]
        player.trail.rows = [(row.stamp, row.original, row.digest) for row in own[:MAX_KEPT_ROWS]]
        if not own:
            player.trail.ending = WRONG_ID if rows else NOT_ARCHIVED
        for row in _by_promise(own, player):
            if player.is_done:
                break
            player.play(Address(row.stamp, row.original))
        return [player.outcome(INDEX_NAME)]


def parse_evidence(youtube_id: str, evidence: bytes, http_status: int | None, fetched_at: datetime) -> TitleOutcome:
    """Returns the outcome of kept facts of captures (``wayback``); the status is in the evidence, too."""
    return Trail.from_evidence(evidence, NAME, youtube_id).outcome(NAME, youtube_id, fetched_at)


def parse_index_evidence(
    youtube_id: str, evidence: bytes, http_status: int | None, fetched_at: datetime
) -> TitleOutcome:
    """Returns the outcome of kept facts of captures (``wayback-cdx``); the status is in the evidence, too."""
    return Trail.from_evidence(evidence, INDEX_NAME, youtube_id).outcome(INDEX_NAME, youtube_id, fetched_at)


class _Player:
    """Plays captures of one video until one tells its title, none of them twice."""

    def __init__(self, youtube_id: str, get: Get, url: str, *, lane: str | None) -> None:
        self.trail = Trail()
        self.dead_since = _NEVER
        self._youtube_id, self._get, self._url, self._lane = youtube_id, get, url, lane
        self._seen: set[tuple[str, ...]] = set()
        # The first and the last capture of the address that is searched, once the archive has named them.
        self._ends: Mapping[str, Address] = {}
        self._has_title = False
        self._is_absent = False
        self._is_mixed_up = False
        self._asked_twice: set[tuple[str, ...]] = set()
        self._fault: TransportError | ParseError | None = None

    @property
    def is_done(self) -> bool:
        """A title is found, or there is nothing more to ask for."""
        return self._has_title or self.trail.ending is not None

    def outcome(self, source: str) -> TitleOutcome:
        """Returns what was found.

        Raises:
            TransportError, ParseError: no title, and a capture that may have it could not be played.
        """
        if self._fault is not None and not self.is_done:
            raise self._fault
        return self.trail.outcome(source, self._youtube_id, utc_now())

    def search(self, original: str, dates: Iterable[str]) -> None:
        """Plays the captures of an address closest to some dates (14 digits), until one tells the title.

        Asks nothing where that is known to be a capture seen before, and no further date of what was never archived.
        """
        self._ends, self._is_absent = {}, False
        for date in dates:
            if self.is_done or self._is_absent:
                return
            first, last = self._ends.get("first"), self._ends.get("last")
            if first and date <= first.stamp:
                self.play(first)
            elif last and date >= last.stamp:
                self.play(last)
            else:
                self.play(Address(date, original, is_exact=False))

    def note_end(self) -> None:
        """Notes that no address was ever archived, if so."""
        if not (self.is_done or self.trail.plays or self._fault):
            self.trail.ending, self.trail.status = NOT_ARCHIVED, 404

    def play(self, address: Address) -> None:
        """Plays a capture, or the one to which the archive leads from there.

        Raises:
            RateLimitedError, TransportError, ParseError: the archive does not serve; where that may be the capture's
                own fault, it is remembered instead, and others can be played.
        """
        following: Address | None = address
        way: set[tuple[str, ...]] = set()
        num_plays = len(self.trail.plays)
        while following is not None and following.key not in way and len(way) <= MAX_REDIRECTS:
            if not self._is_worth_asking(following):
                return
            way.add(following.key)
            following = self._ask(following)
        # A circle of archived redirects is a capture without a title; any other is a fault of the archive.
        if following is not None and len(self.trail.plays) == num_plays:
            self._fault = TransportError(f"{HOST} redirects in a circle", host=HOST)

    def _is_worth_asking(self, address: Address) -> bool:
        """Ids that differ only by case share a key in the archive: another's capture is noted, but not played."""
        if not address.is_exact:
            return True
        if address.key in self._seen:
            return False
        if id_in_url(address.original) in (None, self._youtube_id):
            return True
        self._seen.add(address.key)
        self.trail.plays.append(Play(url=address.original, stamp=address.stamp, note=WRONG_ID))
        return False

    def _ask(self, address: Address) -> Address | None:
        """Asks for one capture; returns where to go on, None at the end of the way."""
        if address.is_exact:
            self._seen.add(address.key)
        try:
            response = self._get(f"{self._url}/{address.path}", lane=self._lane)
        except TransportError as error:
            # Of this very type: a broken answer. Whatever else concerns the archive as a whole.
            if type(error) is not TransportError or not address.is_exact:
                raise
            self._fault = error
            return None
        if "memento-datetime" in response.headers:
            following = self._see(address, response)
            if self._is_mixed_up and address.key not in self._asked_twice:
                # A mix-up on the way is over the second time; a capture of another video is what it is.
                self._asked_twice.add(address.key)
                return self._ask(address)
            return following
        if response.status in _REDIRECTS:
            target = Address.parse(response.headers.get("location", ""))
            if target is not None:
                return target
        if is_excluded(response):
            self.trail.ending, self.trail.status = EXCLUDED, 403
        elif response.status == 404 or _says(response, _ABSENCES):
            self._note_absence(address)
        else:
            self._note_fault(address, response)
        return None

    def _see(self, address: Address, response: Response) -> Address | None:
        play = Play.of_response(address, response, self._youtube_id)
        self.trail.plays.append(play)
        self.trail.status = response.status
        judged = play.judge(self._youtube_id)
        self._has_title = judged.title is not None
        self._is_mixed_up = judged.reason == WRONG_ID and id_in_url(address.original) == self._youtube_id
        if judged.reason == DEAD_PAGE:
            self.dead_since = min(self.dead_since, address.stamp)
        self._ends = {**self._ends, **linked_captures(response)}
        # An archived redirect is followed to the same video only (http to https): elsewhere is no page of it.
        target = archived_redirect(address, response)
        return target if target and id_in_url(target.original) == self._youtube_id else None

    def _note_absence(self, address: Address) -> None:
        if address.is_exact:
            self.trail.plays.append(Play(url=address.original, stamp=address.stamp, status=404, note=ARCHIVED_ERROR))
        else:
            self._is_absent = True

    def _note_fault(self, address: Address, response: Response) -> None:
        error = _error_of(response, NAME, self._youtube_id)
        if isinstance(error, RateLimitedError) or not address.is_exact:
            raise error
        self._fault = error


def is_excluded(response: Response) -> bool:
    """Tells whether the owner or robots.txt closed the captures to the public: a final answer, whatever its status."""
    if "memento-datetime" in response.headers or response.status in _BUSY_STATUSES | RATE_LIMIT_STATUSES:
        return False
    error = response.headers.get(_RUNTIME_ERROR, "")
    says_so = _says(response, _EXCLUSIONS) or any(words in error.lower() for words in _EXCLUSIONS)
    return says_so or response.status == _CLOSED_BY_LAW or (response.status == 403 and bool(error))


def _says(response: Response, words: Sequence[str]) -> bool:
    """Tells whether an answer that is no capture says one of some things; lists of captures may quote anything."""
    body = response.body[:_MAX_WORDS_BYTES].decode("utf-8", "replace")
    if body.lstrip().startswith("["):
        return False
    # As it is shown: links, line ends and fixed spaces stand within what it says.
    shown = " ".join(html.unescape(_MARKUP.sub(" ", body)).lower().split())
    return any(each in shown for each in words)


def _error_of(response: Response, source: str, youtube_id: str) -> TransportError | ParseError:
    """Returns what an answer means that is neither a capture nor a list of captures."""
    if response.status in RATE_LIMIT_STATUSES:
        return RateLimitedError(
            f"{HOST} asks to slow down (status {response.status})", host=HOST, retry_after_seconds=retry_after(response)
        )
    if response.status in _BUSY_STATUSES or _says(response, _OFFLINE):
        return TransportError(f"{HOST} has a fault (status {response.status})", host=HOST)
    if response.status in _REDIRECTS or response.status == 403:
        return TransportError(f"{HOST} turns us away (status {response.status})", host=HOST)
    return ParseError(
        f"{source} answered with status {response.status} and no capture", source=source, youtube_id=youtube_id
    )


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One capture as the index lists it.

    Attributes:
        stamp: 14 digits.
        original: the address that was captured.
        digest: of its content; empty where the index does not tell.
    """

    stamp: str
    original: str
    digest: str


def index_query(youtube_id: str) -> str:
    """Returns the query for all captures of a video's page, whatever parameters its address had."""
    return urlencode(
        [
            ("url", f"youtube.com/watch?v={youtube_id}"),
            ("matchType", "prefix"),
            ("output", "json"),
            ("fl", ",".join(FIELDS)),
            ("filter", "statuscode:200"),
            ("filter", "mimetype:(text/html|application/json)"),
            ("collapse", "digest"),
            ("limit", str(MAX_ROWS)),
        ],
        quote_via=quote,
    )


def parse_index(response: Response, youtube_id: str) -> list[IndexRow]:
    """Returns the captures that the index lists, also those of ids that differ by case; errors and media left out.

    Args:
        response: the answer.
        youtube_id: the video asked about, for messages.

    Raises:
        RateLimitedError: status 429 or 420.
        TransportError: the archive is busy, down, or refuses.
        ParseError: not a list of captures.
    """
    if response.status != 200:
        raise _error_of(response, INDEX_NAME, youtube_id)
    if not response.body.strip() and "json" in response.headers.get("content-type", "").lower():
        return []
    try:
        table = json.loads(response.body)
    except (ValueError, RecursionError) as error:
        raise ParseError(f"{INDEX_NAME} answered 200 without JSON", source=INDEX_NAME, youtube_id=youtube_id) from error
    if not isinstance(table, list) or not all(isinstance(row, list) for row in table):
        raise ParseError(f"{INDEX_NAME} answered JSON of another kind", source=INDEX_NAME, youtube_id=youtube_id)
    if not table:
        return []
    names, *rows = table
    if not {"timestamp", "original"} <= {name for name in names if isinstance(name, str)}:
        raise ParseError(f"{INDEX_NAME} answered without field names", source=INDEX_NAME, youtube_id=youtube_id)
    return list(_readable_rows(names, rows))


def _readable_rows(names: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[IndexRow]:
    for values in rows:
        if len(values) != len(names):
            # An empty row and one with a key to go on with follow where more is left.
            continue
        row = {name: value for name, value in zip(names, values, strict=True) if isinstance(value, str)}
        stamp, original = row.get("timestamp", ""), row.get("original", "")
        is_page = row.get("statuscode", "-") in ("200", "-") and row.get("mimetype", "-") in _PLAYABLE_TYPES
        if is_page and len(stamp) == 14 and stamp_time(stamp) is not None and original:
            yield IndexRow(stamp, original, row.get("digest", "").strip("-"))


def _by_promise(rows: Sequence[IndexRow], player: _Player) -> Iterator[IndexRow]:
    """Yields at most MAX_CAPTURES captures of different content, the most promising of those left first.

    Captures before a known death come first, then those that playback of the plain address does not come to by itself
    (it was asked before, and had no title), those before 2021, and those closest to the first of the dates.
    """
    left = {row.digest or row.stamp: row for row in reversed(rows)}
    reached = _reached_by_playback(rows)
    for _ in range(min(MAX_CAPTURES, len(left))):
        best = min(left.values(), key=partial(_rank, dead_since=player.dead_since, reached=reached))
        del left[best.digest or best.stamp]
        yield best


def _rank(row: IndexRow, *, dead_since: str, reached: frozenset[str]) -> tuple[bool, bool, bool, timedelta]:
    return row.stamp >= dead_since, row.stamp in reached, row.stamp >= _LATE, _distance(row.stamp, DATES[0])


def _reached_by_playback(rows: Sequence[IndexRow]) -> frozenset[str]:
    plain = [row.stamp for row in rows if "&" not in row.original]
    return frozenset(min(plain, key=partial(_distance, date)) for date in (*DATES, OLDEST) if plain)


def _distance(one: str, other: str) -> timedelta:
    first, second = stamp_time(one), stamp_time(other)
    assert first is not None and second is not None
    return abs(first - second)
