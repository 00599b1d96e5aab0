"""Items of archive.org that mirror a video: their metadata tells its title (web-contracts section 6).

An item is looked for under the names that mirroring tools give. Anybody can make an item with any name, so it must also
say that it is about this video. Its date is the day of upload by some tools and the day of mirroring by others, and has
no time zone: it is kept as evidence, not as the publication time. It says nothing about whether the video lives now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from k700_text.config import PACES
from k700_text.crawl.clock import utc_now
from k700_text.crawl.sources.base import Get, Source, follow, raise_for_status
from k700_text.crawl.transport import Response
from k700_text.crawl.watch_pages import EMPTY_TITLE, WRONG_ID, id_in_url
from k700_text.errors import ParseError
from k700_text.junk_titles import JUNK_TITLE
from k700_text.records import OutcomeStatus, TitleOutcome
from k700_text.titles import clean_plain_title

NAME = "archive-item"
HOST = "archive.org"
URL = f"https://{HOST}/metadata"

NAME_FORMS = ("youtube-{}", "youtube_{}", "{}")
NOT_MIRRORED, DARK = "not_mirrored", "dark"

# The most telling reason of several items.
_REASONS = (DARK, WRONG_ID, JUNK_TITLE, EMPTY_TITLE, NOT_MIRRORED)
_KEPT = ("identifier", "title", "originalurl", "external-identifier", "source", "creator", "date")
_MAX_KEPT_TEXT = 2000

Item = Mapping[str, Any]


class ArchiveItem(Source):
    """Titles of mirrored videos.

    Args:
        url: where the metadata of items is.
    """

    name = NAME
    host = HOST
    pace = PACES[NAME]
    requests_per_batch = len(NAME_FORMS)
    is_live = False

    def __init__(self, url: str = URL) -> None:
        self._url = url

    def fetch(self, ids: Sequence[str], get: Get) -> list[TitleOutcome]:
        """Asks about one video, under one name after the other until an item tells its title; see the base class."""
        (youtube_id,) = ids
        items: list[Item] = []
        for form in NAME_FORMS:
            name = form.format(youtube_id)
            _, response = follow(get, f"{self._url}/{quote(name, safe='')}")
            items.append(parse_item(response, name, youtube_id))
            if _judge(items[-1], youtube_id) is None:
                break
        return [parse(items, youtube_id, utc_now())]


def parse_item(response: Response, name: str, youtube_id: str) -> Item:
    """Returns what an answer says about an item: its name, whether it is hidden, and the metadata that we keep.

    Args:
        response: the answer.
        name: of the item asked for.
        youtube_id: the video asked about, for messages.

    Raises:
        RateLimitedError, BlockedError, TransportError: see ``raise_for_status``.
        ParseError: an answer that is not what the service documents.
    """
    raise_for_status(response, HOST)
    if response.status != 200:
        raise ParseError(f"{NAME} answered with status {response.status}", source=NAME, youtube_id=youtube_id)
    try:
        answer = json.loads(response.body)
    except (ValueError, RecursionError) as error:
        raise ParseError(f"{NAME} answered 200 without JSON", source=NAME, youtube_id=youtube_id) from error
    if not isinstance(answer, dict) or "error" in answer:
        raise ParseError(f"{NAME} answered without an item", source=NAME, youtube_id=youtube_id)
    metadata = answer.get("metadata")
    if answer.get("is_dark"):
        return {"item": name, "is_dark": True}
    if not isinstance(metadata, dict):
        return {"item": name}
    kept = {key: [text[:_MAX_KEPT_TEXT] for text in _texts(metadata.get(key))] for key in _KEPT if metadata.get(key)}
    return {"item": name, "metadata": kept}


def parse(items: Sequence[Item], youtube_id: str, fetched_at: datetime) -> TitleOutcome:
    """Returns what the items found under a video's names say about it.

    Args:
        items: see ``parse_item``, in the order of asking.
        youtube_id: the video asked about.
        fetched_at: when the last answer came (UTC).
    """
    reasons = [_judge(item, youtube_id) for item in items]
    raw_title = _raw_title(items[reasons.index(None)]) if None in reasons else None
    title = clean_plain_title(raw_title) if raw_title is not None else None
    return TitleOutcome(
        youtube_id=youtube_id,
        source=NAME,
        status=OutcomeStatus.TITLE if title else OutcomeStatus.NO_TITLE,
        title=title,
        raw_title=raw_title,
        reason=None if title else next((reason for reason in _REASONS if reason in reasons), NOT_MIRRORED),
        http_status=200,
        fetched_at=fetched_at,
        evidence=json.dumps(items, separators=(",", ":")).encode(),
    )


def parse_evidence(youtube_id: str, evidence: bytes, http_status: int | None, fetched_at: datetime) -> TitleOutcome:
    """Returns the outcome of kept items.

    Raises:
        ParseError: the evidence holds none.
    """
    try:
        items = json.loads(evidence)
        if not isinstance(items, list) or not items:
            raise ValueError("no items")
        return parse(items, youtube_id, fetched_at)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParseError(f"evidence of {NAME} about {youtube_id} cannot be read", source=NAME) from error


def _judge(item: Item, youtube_id: str) -> str | None:
    """Returns why an item does not tell the video's title, None if it does."""
    if item.get("is_dark"):
        return DARK
    if not item.get("metadata"):
        return NOT_MIRRORED
    if not _is_about(item, youtube_id):
        return WRONG_ID
    raw_title = _raw_title(item)
    title = clean_plain_title(raw_title) if raw_title is not None else None
    if title is None:
        return EMPTY_TITLE
    # An item without a title of its own is called by its name. Others are the video's, however odd: there was a video.
    is_name = title in (item["item"], youtube_id, f"youtube video #{youtube_id}")
    return JUNK_TITLE if is_name else None


def _raw_title(item: Item) -> str | None:
    titles: list[str] = item["metadata"].get("title", [])
    return titles[0] if titles else None


def _is_about(item: Item, youtube_id: str) -> bool:
    """Tells whether an item says that it is about a video: by address, by identifier, or by a name with a prefix.

    A name that is the bare id may be anything, and an address may name another video: then the name does not count. A
    description counts never: it may link to other videos.
    """
    metadata = item["metadata"]
    named = {id_in_url(text) for key in ("originalurl", "source") for text in metadata.get(key, ())}
    named |= {_id_in_identifier(text) for text in metadata.get("external-identifier", ())}
    named -= {None}
    if named:
        return youtube_id in named
    if item["item"] == youtube_id:
        return False
    return item["item"] in metadata.get("identifier", ())


def _id_in_identifier(text: str) -> str | None:
    """Returns the id in an address, or in a name such as ``urn:youtube:<ID>``."""
    if text.lower().startswith("urn:youtube:"):
        text = f"https://youtu.be/{text[len('urn:youtube:') :]}"
    return id_in_url(text)


def _texts(value: object) -> list[str]:
    """Returns the texts of a field, which may be one or a list."""
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str)]
