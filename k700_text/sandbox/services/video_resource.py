"""One video as the Data API describes it, part by part."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from hashlib import sha1
from types import MappingProxyType
from typing import Any

from k700_text.records import Availability
from k700_text.sandbox.scene import seeded
from k700_text.sandbox.world import SandboxVideo

PARTS = frozenset(
    {
        "id", "snippet", "contentDetails", "status", "localizations", "statistics", "topicDetails",
        "recordingDetails", "player", "liveStreamingDetails", "fileDetails", "processingDetails", "suggestions",
    }
)  # fmt: skip
KNOWN_FIELDS = PARTS | {
    "kind", "etag", "items", "pageInfo", "totalResults", "resultsPerPage", "nextPageToken", "prevPageToken",
    "publishedAt", "channelId", "title", "description", "thumbnails", "default", "medium", "high", "standard",
    "maxres", "url", "width", "height", "channelTitle", "tags", "categoryId", "liveBroadcastContent",
    "defaultLanguage", "localized", "defaultAudioLanguage", "duration", "dimension", "definition", "caption",
    "licensedContent", "regionRestriction", "allowed", "blocked", "contentRating", "ytRating", "projection",
    "uploadStatus", "failureReason", "rejectionReason", "privacyStatus", "license", "embeddable",
    "publicStatsViewable", "madeForKids", "viewCount", "likeCount", "commentCount", "embedHtml",
}  # fmt: skip


def video_resource(video: SandboxVideo, parts: Collection[str], language: str | None) -> dict[str, Any]:
    """Returns an item of ``videos.list``.

    Args:
        video: a video that can be watched.
        parts: the parts asked for; those that the sandbox knows nothing about are left out, as empty ones are.
        language: the ``hl`` parameter.
    """
    item: dict[str, Any] = {"kind": "youtube#video", "etag": "", "id": video.youtube_id}
    if "snippet" in parts:
        item["snippet"] = _snippet(video, language)
    for name, make in _MAKERS.items():
        if name in parts and (values := make(video)):
            item[name] = values
    item["etag"] = sha1(json.dumps(item).encode(), usedforsecurity=False).hexdigest()[:27]
    return item


def iso_duration(seconds: int) -> str:
    """Returns a length in ISO 8601 as the service spells it: ``PT1M2S``, ``P1DT2H``; ``P0D`` for none."""
    if seconds == 0:
        return "P0D"
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    time = "".join(f"{value}{unit}" for value, unit in ((hours, "H"), (minutes, "M"), (rest, "S")) if value)
    return f"P{f'{days}D' if days else ''}{f'T{time}' if time else ''}"


def _snippet(video: SandboxVideo, language: str | None) -> dict[str, Any]:
    rng = seeded("snippet", video.youtube_id)
    description = f"Filmed on a phone.\nSubscribe! id={video.youtube_id}"
    snippet: dict[str, Any] = {
        "publishedAt": video.published_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "channelId": video.channel_id,
        "title": video.title,
        "description": description,
        "thumbnails": {
            size: {"url": f"https://i.ytimg.com/vi/{video.youtube_id}/{name}.jpg", "width": width, "height": height}
            for size, name, width, height in (("default", "default", 120, 90), ("high", "hqdefault", 480, 360))
        },
        "channelTitle": video.author_name,
        "categoryId": str(rng.choice((10, 17, 22, 24))),
        "liveBroadcastContent": "none",
        "localized": {"title": video.translations.get(language or "", video.title), "description": description},
    }
    if rng.random() < 0.7:
        snippet["tags"] = ["fun", "vlog", "日常"][: rng.randint(1, 3)]
    if video.language is not None:
        snippet["defaultLanguage"] = video.language
        if rng.random() < 0.5:
            snippet["defaultAudioLanguage"] = video.language
    return snippet


def _content_details(video: SandboxVideo) -> dict[str, Any]:
    rng = seeded("details", video.youtube_id)
    details: dict[str, Any] = {
        "duration": _duration(video),
        "dimension": "2d",
        "definition": rng.choice(("hd", "sd")),
        "caption": rng.choice(("true", "false")),
        "licensedContent": rng.random() < 0.3,
        "contentRating": {},
        "projection": "rectangular",
    }
    if video.availability is Availability.AGE_RESTRICTED:
        details["contentRating"] = {"ytRating": "ytAgeRestricted"}
    if video.availability is Availability.GEO_BLOCKED:
        details["regionRestriction"] = rng.choice(({"blocked": ["DE", "US"]}, {"allowed": ["JP"]}))
    return details


def _duration(video: SandboxVideo) -> str:
    if video.duration_seconds:
        return iso_duration(video.duration_seconds)
    # Both spellings of nothing occur.
    return seeded("no duration", video.youtube_id).choice(("P0D", "PT0S"))


def _status(video: SandboxVideo) -> dict[str, Any]:
    is_unlisted = video.availability is Availability.UNLISTED
    return {
        "uploadStatus": "processed",
        "privacyStatus": "unlisted" if is_unlisted else "public",
        "license": "youtube",
        "embeddable": video.is_embeddable,
        "publicStatsViewable": True,
        "madeForKids": False,
    }


def _localizations(video: SandboxVideo) -> dict[str, Any]:
    if video.language is None or not video.translations:
        return {}
    titles = {video.language: video.title, **video.translations}
    return {language: {"title": title, "description": ""} for language, title in titles.items()}


def _statistics(video: SandboxVideo) -> dict[str, Any]:
    views = seeded("views", video.youtube_id).randrange(10, 10_000_000)
    return {"viewCount": str(views), "likeCount": str(views // 50), "commentCount": str(views // 900)}


_MAKERS: Mapping[str, Callable[[SandboxVideo], dict[str, Any]]] = MappingProxyType(
    {
        "contentDetails": _content_details,
        "status": _status,
        "localizations": _localizations,
        "statistics": _statistics,
    }
)
