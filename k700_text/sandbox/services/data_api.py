"""The video site's Data API, ``videos.list``: up to 50 ids a call, absent ids just absent, a daily quota."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Collection
from datetime import date, datetime
from hashlib import sha1
from typing import Any
from zoneinfo import ZoneInfo

from k700_text.sandbox.messages import Request, Response
from k700_text.sandbox.scene import seeded
from k700_text.sandbox.services.data_api_errors import HEADERS, error, invalid_key, quota_exceeded
from k700_text.sandbox.services.fields import parse_fields, select, unknown_names
from k700_text.sandbox.services.video_resource import KNOWN_FIELDS, PARTS, video_resource
from k700_text.sandbox.world import World

MAX_IDS = 50
DEFAULT_DAILY_QUOTA = 10_000
_PACIFIC = ZoneInfo("America/Los_Angeles")


class DataApi:
    """``/youtube/v3/videos``.

    Args:
        world: where the videos live.
        clock: seconds since 1970; decides which Pacific day a call is charged to.
        daily_quota: calls a day.
        api_keys: the keys that are accepted; None accepts any.
    """

    name = "data-api"

    def __init__(
        self,
        world: World,
        clock: Callable[[], float],
        daily_quota: int = DEFAULT_DAILY_QUOTA,
        api_keys: Collection[str] | None = None,
    ) -> None:
        self._world, self._clock = world, clock
        self._daily_quota, self._api_keys = daily_quota, api_keys
        self._lock = threading.Lock()
        self._day: date | None = None
        self._used = 0

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""
        return path == "/youtube/v3/videos"

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns the ids of the ``id`` parameter."""
        return tuple(part.strip() for part in request.query.get("id", "").split(",") if part.strip())

    def answer(self, request: Request) -> Response:
        """Returns the videos that exist, or an error in the API's envelope; every call with a good key costs 1 unit."""
        refusal = self._refuse_key(request) or self._charge() or self._refuse_parameters(request)
        if refusal is not None:
            return _compressed(request, refusal)
        query = request.query
        parts = [part.strip() for part in query["part"].split(",")]
        result = self._list(request, parts, query.get("hl"))
        if "fields" in query:
            result = select(result, parse_fields(query["fields"]))
        compact = query.get("prettyPrint") == "false"
        body = json.dumps(result, ensure_ascii=False, indent=None if compact else 2).encode()
        etag = f'"{sha1(body, usedforsecurity=False).hexdigest()[:27]}"'
        if request.header("if-none-match") == etag:
            return Response(304, (*HEADERS, ("ETag", etag)))
        return _compressed(request, Response(200, (*HEADERS, ("ETag", etag)), body))

    def _list(self, request: Request, parts: list[str], language: str | None) -> dict[str, Any]:
        ids = list(dict.fromkeys(self.youtube_ids(request)))
        seeded("order", *ids).shuffle(ids)
        videos = [self._world.video(youtube_id) for youtube_id in ids]
        items = [video_resource(video, parts, language) for video in videos if video.availability.is_alive]
        return {
            "kind": "youtube#videoListResponse",
            "etag": sha1(json.dumps(items).encode(), usedforsecurity=False).hexdigest()[:27],
            "items": items,
            "pageInfo": {"totalResults": len(items), "resultsPerPage": len(items)},
        }

    def _refuse_key(self, request: Request) -> Response | None:
        key = request.query.get("key", "") or request.header("x-goog-api-key")
        if not key:
            message = (
                "Method doesn't allow unregistered callers (callers without established identity). "
                "Please use API Key or other form of API consumer identity to call this API."
            )
            return error(403, message, "forbidden", "global", status="PERMISSION_DENIED")
        if self._api_keys is not None and key not in self._api_keys:
            return invalid_key()
        return None

    def _charge(self) -> Response | None:
        today = datetime.fromtimestamp(self._clock(), _PACIFIC).date()
        with self._lock:
            if today != self._day:
                self._day, self._used = today, 0
            if self._used >= self._daily_quota:
                return quota_exceeded()
            self._used += 1
        return None

    def _refuse_parameters(self, request: Request) -> Response | None:
        query = request.query
        parts = [part.strip() for part in query.get("part", "").split(",") if part.strip()]
        if not parts:
            return error(400, "Required parameter: part", "required", "global", ("part", "parameter"))
        unknown = [part for part in parts if part not in PARTS]
        if unknown:
            return error(400, f"'{unknown[0]}'", "unknownPart", "youtube.part", ("part", "parameter"))
        ids = self.youtube_ids(request)
        if not ids:
            message = "No filter selected. Expected one of: myRating, id, chart"
            return error(400, message, "missingRequiredParameter", "youtube.parameter", ("parameters.", "other"))
        if len(ids) > MAX_IDS:
            message = "The request specifies an invalid filter parameter."
            return error(400, message, "invalidFilters", "youtube.parameter", ("parameters.", "other"))
        return _refuse_fields(query["fields"]) if "fields" in query else None


def _refuse_fields(text: str) -> Response | None:
    try:
        unknown = unknown_names(parse_fields(text), KNOWN_FIELDS)
    except ValueError:
        unknown = [text]
    if not unknown:
        return None
    message = f"Invalid field selection {unknown[0]}"
    return error(400, message, "invalidParameter", "global", ("fields", "parameter"), status="INVALID_ARGUMENT")


def _compressed(request: Request, response: Response) -> Response:
    # Google compresses only when the User-Agent says gzip, too.
    if not (response.body and request.takes_gzip and "gzip" in request.header("user-agent").lower()):
        return response
    body = gzip.compress(response.body, 6, mtime=0)
    return Response(response.status, (*response.headers, ("Content-Encoding", "gzip")), body)
