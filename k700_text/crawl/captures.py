"""What asking the web archive about one video gave: the captures seen, the evidence of them, and the outcome.

The evidence holds the facts of every page (``watch_pages``), not the pages: one has 100 kB to 2 MB. A page that the
rules did not understand is kept itself, up to MAX_KEPT_BYTES, and read again once the rules know more.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urljoin

from k700_text.crawl.page_text import decode_page
from k700_text.crawl.transport import Response
from k700_text.crawl.watch_pages import (
    EMPTY_TITLE,
    NO_ID,
    READER_VERSION,
    UNREADABLE,
    WRONG_ID,
    Judgement,
    PageFacts,
    judge_page,
    read_page,
)
from k700_text.errors import ParseError
from k700_text.junk_titles import BLOCK_PAGE, CONSENT_PAGE, DEAD_PAGE, JUNK_TITLE
from k700_text.records import OutcomeStatus, TitleOutcome

MAX_KEPT_BYTES = 512_000

EXCLUDED, NOT_ARCHIVED, ARCHIVED_ERROR = "excluded", "not_archived", "archived_error"

_NOT_UNDERSTOOD = frozenset({NO_ID, UNREADABLE})
# The most telling reason of several captures: what another capture or a better rule may cure comes first.
_REASONS = (
    *(EXCLUDED, WRONG_ID, CONSENT_PAGE, BLOCK_PAGE, JUNK_TITLE, NO_ID, UNREADABLE, EMPTY_TITLE),
    *(DEAD_PAGE, ARCHIVED_ERROR, NOT_ARCHIVED),
)
_ADDRESS = re.compile(r"/web/(\d{1,14})(?:[a-z]{2}_)?/(.+)", re.DOTALL)
_ADDRESS_KIND = re.compile(r"(https?)(?::|%3A)/*(?:www\.)?([^/?#:]*)(?::\d+)?/*([^/?#]*)", re.IGNORECASE)
_LINK = re.compile(r"<([^<>]*)>\s*;\s*rel=\"([^\"]*)\"")
_PLAIN_CHARACTERS = "%/:=&?~+!$,;'()*@"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a capture is: a time stamp of up to 14 digits, and the address that was captured.

    Attributes:
        stamp: as the archive spells it; month 00 and day 00 occur.
        original: the address that was captured.
        is_exact: the archive named this capture; False where a time is only wished for.
    """

    stamp: str
    original: str
    is_exact: bool = True

    @property
    def path(self) -> str:
        """The path of the capture as it was archived, behind ``/web/``."""
        return f"{self.stamp}id_/{quote(self.original, safe=_PLAIN_CHARACTERS)}"

    @classmethod
    def parse(cls, location: str) -> Address | None:
        """Returns the capture that an address of the archive names, None for any other address."""
        found = _ADDRESS.search(location)
        return cls(found[1], found[2], len(found[1]) == 14) if found else None

    @property
    def key(self) -> tuple[str, ...]:
        """What two addresses of one capture have in common: the moment, the scheme, and the kind of address.

        The scheme belongs to it: behind an archived redirect from http to https waits another capture of that moment.
        The rest of the address does not: the archive lists some parameters and leaves them out elsewhere.
        """
        found = _ADDRESS_KIND.match(self.original)
        return (self.stamp, *(part.lower() for part in found.groups(""))) if found else (self.stamp, self.original)


def archived_redirect(address: Address, response: Response) -> Address | None:
    """Returns where an archived redirect leads, within the archive; None for any other answer."""
    location = response.headers.get("location", "")
    if not (300 <= response.status < 400 and location):
        return None
    try:
        return Address.parse(location) or Address(address.stamp, urljoin(address.original, location))
    except ValueError:
        return None


def stamp_time(stamp: str) -> datetime | None:
    """Returns the moment (UTC) of a time stamp; month 00 and day 00 count as the first. None: not a time."""
    digits = stamp.ljust(14, "0")
    if len(digits) != 14 or not (digits.isascii() and digits.isdigit()):
        return None
    year, month, day, hours, minutes, seconds = (int(digits[:4]), *(int(digits[at : at + 2]) for at in range(4, 14, 2)))
    try:
        first = datetime(year, max(month, 1), 1, tzinfo=UTC)
        return first + timedelta(days=max(day, 1) - 1, hours=hours, minutes=minutes, seconds=seconds)
    except (ValueError, OverflowError):
        return None


def linked_captures(response: Response) -> Mapping[str, Address]:
    """Returns the captures that the ``Link`` header names, by relation (``first``, ``last``, ...)."""
    found: dict[str, Address] = {}
    for location, relations in _LINK.findall(response.headers.get("link", "")):
        address = Address.parse(location)
        if address is not None and "memento" in relations.split():
            found.update(dict.fromkeys(relations.split(), address))
    return found


def _captured_address(response: Response) -> str | None:
    """Returns which address the archive says that it captured: ids that differ only by case share a key there."""
    links = _LINK.findall(response.headers.get("link", ""))
    return next((location for location, relations in links if "original" in relations.split()), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """One capture that was seen.

    Attributes:
        url: the address that was captured.
        stamp: its time stamp.
        memento: the time of the capture as the archive's header spells it; empty where it was not played.
        status: the archived status; 0 where it was not played.
        sha256: of the page.
        note: why it gives no title, where that is known without its page.
        facts: what its page says, None without a page.
        page: the page itself where the rules did not understand it; may be cut off.
    """

    url: str
    stamp: str
    memento: str = ""
    status: int = 0
    sha256: str = ""
    note: str | None = None
    facts: PageFacts | None = None
    page: str | None = None

    @property
    def captured_at(self) -> datetime | None:
        """When the page was captured (UTC): by the header, else by the time stamp."""
        try:
            moment = parsedate_to_datetime(self.memento)
            return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
        except (ValueError, OverflowError):
            return stamp_time(self.stamp)

    def judge(self, youtube_id: str) -> Judgement:
        """Returns the title that the capture gives to a video, or why it gives none."""
        if self.facts is None:
            return Judgement(reason=self.note or ARCHIVED_ERROR)
        return judge_page(self.facts, youtube_id, page_url=self.url)

    @classmethod
    def of_response(cls, address: Address, response: Response, youtube_id: str) -> Play:
        """Returns the capture in an answer that bears Memento-Datetime."""
        about: dict[str, Any] = {
            "url": _captured_address(response) or address.original,
            "stamp": address.stamp,
            "memento": response.headers.get("memento-datetime", ""),
            "status": response.status,
            "sha256": hashlib.sha256(response.body).hexdigest(),
        }
        if response.status != 200:
            return cls(**about, note=_note_on(response.headers.get("location", "")))
        content_type = response.headers.get("content-type", "")
        play = cls(**about, facts=read_page(response.body, content_type))
        if play.judge(youtube_id).reason not in _NOT_UNDERSTOOD:
            return play
        text, _ = decode_page(response.body[:MAX_KEPT_BYTES], content_type)
        # What holds such a character is no text at all.
        return play if "\0" in text else cls(**about, facts=play.facts, page=text)

    def to_json(self) -> dict[str, Any]:
        """Returns the capture for ``json.dumps``, without what is absent."""
        names = ("url", "stamp", "memento", "status", "sha256", "note", "page")
        values = {name: getattr(self, name) for name in names if getattr(self, name)}
        return values if self.facts is None else {**values, "facts": self.facts.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], reader: int) -> Play:
        """Returns the capture that ``to_json`` wrote; a kept page is read again if it was read by an older reader."""
        known = dict(values)
        if "facts" in known:
            is_outdated = reader < READER_VERSION and "page" in known
            known["facts"] = (
                read_page(known["page"].encode("utf-8", "replace"), "")
                if is_outdated
                else PageFacts.from_json(known["facts"])
            )
        return cls(**known)


def _note_on(location: str) -> str:
    """Returns why an archived redirect (or an error, which leads nowhere) gives no title."""
    if "//consent." in location:
        return CONSENT_PAGE
    return BLOCK_PAGE if "/sorry" in location else ARCHIVED_ERROR


@dataclass(slots=True)
class Trail:
    """What asking the archive about one video gave.

    Attributes:
        plays: the captures seen, in the order of asking.
        ending: why no (further) capture can be asked for: ``excluded``, ``not_archived``, ``wrong_id``, None.
        status: of the last answer that was more than a way to another address.
        rows: captures that the index listed: time stamp, address and digest of each.
    """

    plays: list[Play] = field(default_factory=list)
    ending: str | None = None
    status: int | None = None
    rows: Sequence[Sequence[str]] = ()

    def to_evidence(self) -> bytes:
        """Returns the trail as compact JSON."""
        values = {
            "reader": READER_VERSION,
            "status": self.status,
            "plays": [play.to_json() for play in self.plays],
            **({"ending": self.ending} if self.ending else {}),
            **({"rows": self.rows} if self.rows else {}),
        }
        return json.dumps(values, separators=(",", ":")).encode()

    @classmethod
    def from_evidence(cls, evidence: bytes, source: str, youtube_id: str) -> Trail:
        """Returns the trail that ``to_evidence`` wrote.

        Raises:
            ParseError: it is not one.
        """
        try:
            values = json.loads(evidence)
            plays = [Play.from_json(each, values.get("reader", 0)) for each in values["plays"]]
            return cls(plays, values.get("ending"), values.get("status"), values.get("rows", ()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ParseError(f"evidence of {source} about {youtube_id} cannot be read", source=source) from error

    def outcome(self, source: str, youtube_id: str, fetched_at: datetime) -> TitleOutcome:
        """Returns what the trail means: the first title, else the most telling reason; nothing about the present.

        Args:
            source: who asked.
            youtube_id: the video.
            fetched_at: when the last answer came (UTC).
        """
        evidence = self.to_evidence()
        reasons = {self.ending}
        for play in self.plays:
            judged = play.judge(youtube_id)
            if judged.title is not None:
                return TitleOutcome(
                    youtube_id=youtube_id,
                    source=source,
                    status=OutcomeStatus.TITLE,
                    fetched_at=fetched_at,
                    title=judged.title,
                    raw_title=judged.raw_title,
                    captured_at=play.captured_at,
                    published_at=judged.published_at,
                    video_duration_seconds=judged.duration_seconds,
                    http_status=play.status,
                    evidence=evidence,
                )
            reasons.add(judged.reason)
        return TitleOutcome(
            youtube_id=youtube_id,
            source=source,
            status=OutcomeStatus.NO_TITLE,
            fetched_at=fetched_at,
            http_status=self.status,
            reason=next((reason for reason in _REASONS if reason in reasons), NOT_ARCHIVED),
            evidence=evidence,
        )
