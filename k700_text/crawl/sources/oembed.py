"""The oEmbed endpoint: no key, one video a request (web-contracts section 1).

What the statuses mean is not documented by the service: 401 and 403 overlap, so neither ends the search for a title,
and only 404 counts towards "gone". A long run of 403 is a block in disguise; therefore outcomes of 403 are held back
until another status proves that the host still distinguishes videos.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from datetime import datetime

from k700_text.config import PACES
from k700_text.crawl.clock import utc_now
from k700_text.crawl.sources.base import Get, Source, follow, raise_for_status
from k700_text.crawl.transport import Response
from k700_text.errors import BlockedError, ParseError
from k700_text.records import POSSIBLE_YOUTUBE_ID_PATTERN, Availability, OutcomeStatus, TitleOutcome
from k700_text.titles import clean_plain_title

NAME = "oembed"
URL = "https://www.youtube.com/oembed"
FORBIDDEN_RUN = 20
# An answer without a title is a word or two: more than this says no more.
MAX_WORDS_BYTES = 1024

_PICTURE = re.compile(r"/vi/([^/?#]*)/")
# The frame bears the title, too, which may quote an address.
_PLAYER = re.compile(r"""\bsrc=["'][^"'?#]*/embed/([^"'/?#&]*)""")


class OEmbed(Source):
    """Titles of videos that are public or unlisted and may be embedded."""

    name = NAME
    host = "www.youtube.com"
    pace = PACES[NAME]

    def __init__(self, url: str = URL) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._held: list[TitleOutcome] = []
        self._num_forbidden = 0
        self._is_blocked = False

    def fetch(self, ids: Sequence[str], get: Get) -> list[TitleOutcome]:
        """Asks about one video; see the base class."""
        (youtube_id,) = ids
        watch_url = f"https://www.youtube.com/watch?v={youtube_id}"
        _, response = follow(get, self._url, {"url": watch_url, "format": "json"})
        return self._release(parse(response, youtube_id, utc_now()))

    def _release(self, outcome: TitleOutcome) -> list[TitleOutcome]:
        """Returns the outcome and those held back before it; holds a 403 back itself.

        Outcomes of a block are dropped, not recorded: these videos stay open and are asked again.
        """
        with self._lock:
            if outcome.http_status != 403:
                released = [*self._held, outcome]
                self._held, self._num_forbidden, self._is_blocked = [], 0, False
                return released
            self._num_forbidden += 1
            if self._num_forbidden < FORBIDDEN_RUN:
                if not self._is_blocked:
                    self._held.append(outcome)
                return []
            # Answers still under way belong to the block too, until another status proves it over.
            self._held, self._num_forbidden, self._is_blocked = [], 0, True
        raise BlockedError(f"{self.host} answered 403 to {FORBIDDEN_RUN} videos in a row", host=self.host)

    def drain(self) -> list[TitleOutcome]:
        """Returns the 403 outcomes at the end of a pass that were too few to be a block."""
        with self._lock:
            held, self._held = self._held, []
        return held


def parse(response: Response, youtube_id: str, fetched_at: datetime) -> TitleOutcome:
    """Returns what an answer says about a video.

    Args:
        response: the answer.
        youtube_id: the video asked about.
        fetched_at: when the answer came (UTC).

    Raises:
        RateLimitedError: status 429 or 420.
        BlockedError: a page for people, or a redirect to one.
        TransportError: a fault of the server.
        ParseError: an answer under 200 that is no description of this video, or an unknown status.
    """
    raise_for_status(response, OEmbed.host)
    if response.status == 200:
        return _parse_found(response, youtube_id, fetched_at)
    availability, reason = _meaning(response.status, youtube_id)
    return TitleOutcome(
        youtube_id=youtube_id,
        source=NAME,
        status=OutcomeStatus.NO_TITLE,
        availability=availability,
        reason=reason,
        http_status=response.status,
        fetched_at=fetched_at,
        evidence=response.body[:MAX_WORDS_BYTES],
    )


def parse_evidence(youtube_id: str, evidence: bytes, http_status: int | None, fetched_at: datetime) -> TitleOutcome:
    """Returns the outcome of a kept answer."""
    return parse(Response(http_status or 0, {}, evidence, 0.0), youtube_id, fetched_at)


def _meaning(status: int, youtube_id: str) -> tuple[Availability, str]:
    """Returns what a status without a title says, and its reason (section 1.3)."""
    if status == 400:
        if POSSIBLE_YOUTUBE_ID_PATTERN.fullmatch(youtube_id) is None:
            return Availability.MALFORMED, "malformed"
        return Availability.UNKNOWN, "bad_request"
    meanings = {
        401: (Availability.EMBEDDING_OFF, "embedding_off"),
        403: (Availability.PRIVATE, "private"),
        404: (Availability.NOT_FOUND, "not_found"),
        410: (Availability.NOT_FOUND, "not_found"),
    }
    if status not in meanings:
        raise ParseError(f"oembed answered with status {status}", source=NAME, youtube_id=youtube_id)
    return meanings[status]


def _parse_found(response: Response, youtube_id: str, fetched_at: datetime) -> TitleOutcome:
    try:
        answer = json.loads(response.body)
    except (ValueError, RecursionError) as error:
        raise ParseError("oembed answered 200 without JSON", source=NAME, youtube_id=youtube_id) from error
    if not isinstance(answer, dict) or not isinstance(answer.get("title"), str):
        raise ParseError("oembed answered 200 without a title", source=NAME, youtube_id=youtube_id)
    if not _is_about(answer, youtube_id):
        raise ParseError("oembed answered about another video", source=NAME, youtube_id=youtube_id)
    title = clean_plain_title(answer["title"])
    return TitleOutcome(
        youtube_id=youtube_id,
        source=NAME,
        status=OutcomeStatus.TITLE if title else OutcomeStatus.NO_TITLE,
        # Unlisted videos answer alike: public or unlisted, told apart by other sources only.
        availability=Availability.PUBLIC,
        title=title,
        raw_title=answer["title"],
        reason=None if title else "empty_title",
        http_status=200,
        fetched_at=fetched_at,
        evidence=response.body,
    )


def _is_about(answer: dict[str, object], youtube_id: str) -> bool:
    """Tells whether the addresses of the picture and of the player name this video and no other; one may be missing."""
    places = ((answer.get("thumbnail_url"), _PICTURE), (answer.get("html"), _PLAYER))
    return {name for text, form in places if isinstance(text, str) for name in form.findall(text)} == {youtube_id}
