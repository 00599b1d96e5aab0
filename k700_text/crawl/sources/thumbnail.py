"""Thumbnails: no title, but a second opinion on whether a video lives (web-contracts section 1.5).

The picture of a public or unlisted video is served; that of a deleted or private one is not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import quote

from k700_text.config import PACES
from k700_text.crawl.clock import utc_now
from k700_text.crawl.sources.base import Get, Source, follow, raise_for_status
from k700_text.crawl.transport import Response
from k700_text.errors import BlockedError, ParseError
from k700_text.records import Availability, OutcomeStatus, TitleOutcome

NAME = "thumbnail"
HOST = "i.ytimg.com"
URL = f"https://{HOST}/vi"

_KEPT_HEADERS = ("content-type", "content-length", "etag", "last-modified")


class Thumbnail(Source):
    """A witness of life: asks for the head of a picture.

    Args:
        url: where the pictures are.
    """

    name = NAME
    host = HOST
    # No limit is published: pictures come from a cache that serves whole pages of them. Still, start low.
    pace = PACES[NAME]
    knows_titles = False

    def __init__(self, url: str = URL) -> None:
        self._url = url

    def fetch(self, ids: Sequence[str], get: Get) -> list[TitleOutcome]:
        """Asks about one video; see the base class."""
        (youtube_id,) = ids
        url = f"{self._url}/{quote(youtube_id, safe='')}/hqdefault.jpg"
        last_url, response = follow(get, url, method="HEAD")
        if f"/{youtube_id}/" not in last_url:
            raise ParseError(f"{NAME} answered with the picture of something else", source=NAME, youtube_id=youtube_id)
        return [parse(response, youtube_id, utc_now())]


def parse(response: Response, youtube_id: str, fetched_at: datetime) -> TitleOutcome:
    """Returns what an answer says about a video.

    Args:
        response: the answer, without a body.
        youtube_id: the video asked about.
        fetched_at: when the answer came (UTC).

    Raises:
        RateLimitedError: status 429 or 420.
        BlockedError: a page in place of a picture, or a redirect to one.
        TransportError: a fault of the server.
        ParseError: an unknown status, or something that is no picture.
    """
    raise_for_status(response, HOST)
    is_seen = response.status == 200
    if is_seen:
        _check_picture(response, youtube_id)
    elif response.status not in (404, 410):
        raise ParseError(f"{NAME} answered with status {response.status}", source=NAME, youtube_id=youtube_id)
    kept = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    return TitleOutcome(
        youtube_id=youtube_id,
        source=NAME,
        status=OutcomeStatus.NO_TITLE,
        availability=Availability.PUBLIC if is_seen else Availability.NOT_FOUND,
        reason="seen" if is_seen else "not_found",
        http_status=response.status,
        fetched_at=fetched_at,
        evidence=json.dumps({"status": response.status, **kept}, separators=(",", ":")).encode(),
    )


def _check_picture(response: Response, youtube_id: str) -> None:
    # An answer to HEAD has no body in which a block page could be recognised: its type must do.
    content_type = response.headers.get("content-type", "").lower()
    if content_type.startswith("text/html"):
        raise BlockedError(f"{HOST} shows a block page (status {response.status})", host=HOST)
    if not content_type.startswith("image/"):
        raise ParseError(f"{NAME} answered with no picture", source=NAME, youtube_id=youtube_id)


def parse_evidence(youtube_id: str, evidence: bytes, http_status: int | None, fetched_at: datetime) -> TitleOutcome:
    """Returns the outcome of a kept answer.

    Raises:
        ParseError: the evidence is no kept answer.
    """
    try:
        kept = json.loads(evidence)
        response = Response(kept.pop("status"), dict(kept), b"", 0.0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParseError(f"evidence of {NAME} about {youtube_id} cannot be read", source=NAME) from error
    return parse(response, youtube_id, fetched_at)
