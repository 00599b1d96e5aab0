"""YouTube Data API v3, videos.list: 50 videos a request, with a key (web-contracts section 2).

The key comes from the environment variable YOUTUBE_API_KEY only; it is never stored, logged or shown. Videos that the
service leaves out of its answer are private, deleted or never existed: it does not say which.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from k700_text.confidential import keep_secret
from k700_text.config import DATA_API_DAILY_QUOTA, PACES
from k700_text.crawl.clock import utc_now
from k700_text.crawl.sources.base import (
    Get,
    Source,
    follow,
    parse_duration,
    parse_time,
    raise_for_status,
    retry_after,
)
from k700_text.crawl.transport import Response
from k700_text.errors import (
    CredentialError,
    MissingExtraError,
    ParseError,
    QuotaExhaustedError,
    RateLimitedError,
    TransportError,
)
from k700_text.records import Availability, OutcomeStatus, TitleOutcome
from k700_text.titles import clean_plain_title

NAME = "data-api"
KEY_VARIABLE = "YOUTUBE_API_KEY"
URL = "https://www.googleapis.com/youtube/v3/videos"
MAX_IDS = 50
PARTS = "snippet,contentDetails,status"
FIELDS = (
    "etag,pageInfo,items(id,etag,snippet(title,publishedAt,channelId,channelTitle,defaultLanguage,"
    "defaultAudioLanguage,liveBroadcastContent),contentDetails(duration,contentRating,regionRestriction),"
    "status(uploadStatus,failureReason,rejectionReason,privacyStatus,embeddable))"
)

_QUOTA_REASONS = frozenset({"quotaExceeded", "dailyLimitExceeded", "dailyLimitExceededUnreg", "DAILY_LIMIT_EXCEEDED"})
_BURST_REASONS = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"})
_OUR_FAULT_REASONS = frozenset({"missingRequiredParameter", "unknownPart"})
_FAULT_REASONS = frozenset({"backendError", "internalError", "INTERNAL", "UNAVAILABLE"})
_KEY_REASONS: Mapping[str, str] = {
    "keyInvalid": "is not a valid key",
    "API_KEY_INVALID": "is not a valid key",
    "keyExpired": "has expired",
    "accessNotConfigured": "belongs to a project in which the YouTube Data API v3 is not enabled",
    "SERVICE_DISABLED": "belongs to a project in which the YouTube Data API v3 is not enabled",
    "ipRefererBlocked": "may not be used from this address or referrer",
    "API_KEY_IP_ADDRESS_BLOCKED": "may not be used from this address or referrer",
    "API_KEY_HTTP_REFERRER_BLOCKED": "may not be used from this address or referrer",
    "API_KEY_SERVICE_BLOCKED": "may not be used for the YouTube Data API v3",
    "forbidden": "is refused",
    "PERMISSION_DENIED": "is refused",
    "UNAUTHENTICATED": "is refused",
}

# Why a video that is still listed is rejected (documented at videos#status.rejectionReason); all others were removed.
_REJECTED: Mapping[str, Availability] = {
    "copyright": Availability.COPYRIGHT,
    "claim": Availability.COPYRIGHT,
    "inappropriate": Availability.POLICY,
    "legal": Availability.POLICY,
    "termsOfUse": Availability.POLICY,
    "trademark": Availability.POLICY,
    "uploaderAccountClosed": Availability.TERMINATED,
    "uploaderAccountSuspended": Availability.TERMINATED,
}


class DataApi(Source):
    """Titles, upload times and durations from the official API.

    Args:
        key: the API key.
        url: where to ask.
    """

    name = NAME
    host = "www.googleapis.com"
    batch_size = MAX_IDS
    pace = PACES[NAME]
    daily_quota = DATA_API_DAILY_QUOTA

    def __init__(self, key: str, url: str = URL) -> None:
        self._key = key
        keep_secret(key)
        self._url = url

    def fetch(self, ids: Sequence[str], get: Get) -> list[TitleOutcome]:
        """Asks about up to 50 videos; see the base class. A refused batch is asked again in halves."""
        if not self._key or not self._key.isascii() or not self._key.isprintable() or " " in self._key:
            raise CredentialError(f"{KEY_VARIABLE} holds no API key, or characters that none has: set it again")
        asked = list(dict.fromkeys(ids))
        params = {
            "part": PARTS,
            "id": ",".join(asked),
            "fields": FIELDS,
            "prettyPrint": "false",
            "key": self._key,
        }
        _, response = follow(get, self._url, params)
        try:
            return parse(response, asked, utc_now())
        except BatchRefusedError:
            if len(asked) == 1:
                # An error may quote the request, and the request has the key: even one too short to be looked for.
                body = response.body.replace(self._key.encode(), b"(key)")
                return [_refused(asked[0], response.status, body, utc_now())]
            middle = len(asked) // 2
            return self.fetch(asked[:middle], get) + self.fetch(asked[middle:], get)


class BatchRefusedError(ParseError):
    """The service finds fault with the arguments: the batch is too large, or one id in it offends."""


def pacific_day(moment: datetime) -> str:
    """Returns the quota day that a moment belongs to (YYYY-MM-DD, America/Los_Angeles)."""
    return moment.astimezone(_pacific()).date().isoformat()


def next_pacific_midnight(moment: datetime) -> datetime:
    """Returns when the quota is renewed next (UTC): midnight Pacific, days of 23 and 25 hours included."""
    zone = _pacific()
    tomorrow = moment.astimezone(zone).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(), zone).astimezone(UTC)


def _pacific() -> ZoneInfo:
    try:
        return ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError as error:
        raise MissingExtraError("this system has no time zone data: pip install tzdata") from error


def parse(response: Response, ids: Sequence[str], fetched_at: datetime) -> list[TitleOutcome]:
    """Returns one outcome per id asked about, in their order.

    Args:
        response: the answer.
        ids: the videos asked about, without repeats.
        fetched_at: when the answer came (UTC).

    Raises:
        BatchRefusedError: bad arguments; worth asking about fewer videos.
        ParseError: an answer that is not what the service documents.
        QuotaExhaustedError, CredentialError, RateLimitedError, BlockedError, TransportError: see ``Source.fetch``.
    """
    if response.status != 200:
        _raise_error(response, fetched_at)
    raise_for_status(response, DataApi.host)
    answer = _json_object(response)
    items = answer.get("items", [])
    if not isinstance(items, list) or not all(map(_is_item, items)):
        raise ParseError("data-api answered 200 without a list of items", source=NAME)
    by_id = {item["id"]: item for item in items}
    if not items and "pageInfo" not in answer and "kind" not in answer and "etag" not in answer:
        # An empty object is no statement about fifty videos.
        raise ParseError("data-api answered 200 with nothing in it", source=NAME)
    if not by_id.keys() <= set(ids):
        # Somebody else's answer: what it leaves out is no statement either.
        raise ParseError("data-api answered about videos that were not asked about", source=NAME)
    frame = json.dumps({name: value for name, value in answer.items() if name != "items"}).encode()
    return [_outcome(each, by_id.get(each), frame, fetched_at) for each in ids]


def _is_item(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("id"), str)


def _outcome(youtube_id: str, item: dict[str, Any] | None, frame: bytes, fetched_at: datetime) -> TitleOutcome:
    if item is None:
        return TitleOutcome(
            youtube_id=youtube_id,
            source=NAME,
            status=OutcomeStatus.NO_TITLE,
            availability=Availability.NOT_FOUND,
            reason="not_found",
            http_status=200,
            fetched_at=fetched_at,
            evidence=frame,
        )
    snippet, details = _part(item, "snippet"), _part(item, "contentDetails")
    raw_title = snippet.get("title")
    title = clean_plain_title(raw_title) if isinstance(raw_title, str) else None
    language = snippet.get("defaultLanguage")
    return TitleOutcome(
        youtube_id=youtube_id,
        source=NAME,
        status=OutcomeStatus.TITLE if title else OutcomeStatus.NO_TITLE,
        availability=_availability(details, _part(item, "status")),
        title=title,
        raw_title=raw_title if isinstance(raw_title, str) else None,
        # Not defaultAudioLanguage: that is the language spoken in the video.
        title_language=language if isinstance(language, str) and language else None,
        published_at=parse_time(snippet.get("publishedAt")),
        video_duration_seconds=parse_duration(details.get("duration")),
        reason=None if title else "empty_title",
        http_status=200,
        fetched_at=fetched_at,
        evidence=json.dumps(item, ensure_ascii=True).encode(),
    )


def _part(item: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = item.get(name)
    return part if isinstance(part, dict) else {}


def _availability(details: Mapping[str, Any], status: Mapping[str, Any]) -> Availability:
    """Returns the state of a video that the API lists; the narrowest that is true."""
    if status.get("privacyStatus") == "private":
        return Availability.PRIVATE
    if status.get("uploadStatus") in ("deleted", "rejected", "failed"):
        return _REJECTED.get(str(status.get("rejectionReason")), Availability.REMOVED)
    if _part(details, "contentRating").get("ytRating") == "ytAgeRestricted":
        return Availability.AGE_RESTRICTED
    restriction = _part(details, "regionRestriction")
    if restriction.get("allowed") == []:
        return Availability.GEO_BLOCKED
    if status.get("embeddable") is False:
        return Availability.EMBEDDING_OFF
    return Availability.UNLISTED if status.get("privacyStatus") == "unlisted" else Availability.PUBLIC


def _json_object(response: Response) -> dict[str, Any]:
    try:
        answer = json.loads(response.body)
    except (ValueError, RecursionError) as error:
        raise ParseError(f"data-api answered {response.status} without JSON", source=NAME) from error
    if not isinstance(answer, dict):
        raise ParseError(f"data-api answered {response.status} with JSON of another kind", source=NAME)
    return answer


def _raise_error(response: Response, now: datetime) -> None:
    """Raises what an error answer means: by its reasons first, by its status only where it names none."""
    reasons = _reasons(response)
    if reasons & _QUOTA_REASONS:
        raise QuotaExhaustedError(
            "the daily quota of the YouTube Data API is used up", resume_at=next_pacific_midnight(now)
        )
    if reasons & _BURST_REASONS:
        raise RateLimitedError(
            f"{DataApi.host} asks to slow down", host=DataApi.host, retry_after_seconds=retry_after(response)
        )
    for reason in _KEY_REASONS:
        if reason in reasons:
            raise CredentialError(f"the key in {KEY_VARIABLE} {_KEY_REASONS[reason]}: set a working key and run again")
    if reasons & _FAULT_REASONS:
        raise TransportError(f"{DataApi.host} has a fault (status {response.status})", host=DataApi.host)
    raise_for_status(response, DataApi.host)
    if response.status in (401, 403):
        raise CredentialError(
            f"the key in {KEY_VARIABLE} is refused (status {response.status}): set a working key and run again"
        )
    if response.status == 400 and not reasons & _OUR_FAULT_REASONS:
        named = ", ".join(sorted(reasons)) or "no reason"
        raise BatchRefusedError(f"data-api refuses the request ({named})", source=NAME)
    raise ParseError(f"data-api answered with status {response.status}", source=NAME)


def _reasons(response: Response) -> set[str]:
    """Returns every reason an error answer names: of ``errors``, of ``details``, and its status word."""
    try:
        error = json.loads(response.body).get("error")
    except (ValueError, AttributeError, RecursionError):
        return set()
    return set(_named_reasons(error)) if isinstance(error, dict) else set()


def _named_reasons(error: Mapping[str, Any]) -> Iterator[str]:
    for group in ("errors", "details"):
        entries = error.get(group)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("reason"), str):
                yield entry["reason"]
    if isinstance(error.get("status"), str):
        yield error["status"]
    if "api key not valid" in str(error.get("message")).lower():
        yield "keyInvalid"


def _refused(youtube_id: str, status: int, body: bytes, fetched_at: datetime) -> TitleOutcome:
    """Returns the outcome of an id that the service refuses even alone: says nothing about the video."""
    return TitleOutcome(
        youtube_id=youtube_id,
        source=NAME,
        status=OutcomeStatus.NO_TITLE,
        reason="bad_request",
        http_status=status,
        fetched_at=fetched_at,
        evidence=body,
    )


def parse_evidence(youtube_id: str, evidence: bytes, http_status: int | None, fetched_at: datetime) -> TitleOutcome:
    """Returns the outcome of a kept answer: the video's item, or the frame of an answer that left it out."""
    if http_status != 200:
        return _refused(youtube_id, http_status or 0, evidence, fetched_at)
    answer = json.loads(evidence)
    return _outcome(youtube_id, answer if answer.get("id") == youtube_id else None, evidence, fetched_at)
