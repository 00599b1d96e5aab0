"""The live site as yt-dlp sees it: the watch page, and the player and next calls of its API (web-contracts section 3).

The page answers 200 also for dead videos; what became of them stands in the player's answer inside. What the site says
about us instead of the video (bot check, session limit, captcha, another video) is scripted by ``refuse``.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from k700_text.records import Availability
from k700_text.sandbox.messages import Answer, Request, Response
from k700_text.sandbox.scene import seeded
from k700_text.sandbox.world import SandboxVideo, World

PAGE_PATH = "/watch"
PLAYER_PATH, NEXT_PATH = "/youtubei/v1/player", "/youtubei/v1/next"
SCRIPT_PATH = "/s/player/5a9db0c0/player_ias.vflset/en_US/base.js"

_UNAVAILABLE = "Video unavailable"
_VISITOR = "CgtzYW5kYm94c2FuZCgB"
# Status, reason and subreason of videos that are not played. The apostrophes are the site's own.
_REFUSED: Mapping[Availability, tuple[str, str, str]] = MappingProxyType(
    {
        Availability.NOT_FOUND: ("ERROR", _UNAVAILABLE, ""),
        Availability.MALFORMED: ("ERROR", _UNAVAILABLE, ""),
        Availability.PRIVATE: (
            "LOGIN_REQUIRED",
            "Private video",
            "Sign in if you\u2019ve been granted access to this video",
        ),
        Availability.REMOVED: ("ERROR", _UNAVAILABLE, "This video has been removed by the uploader"),
        Availability.TERMINATED: (
            "ERROR",
            _UNAVAILABLE,
            "This video is no longer available because the YouTube account associated with this video has been "
            "terminated.",
        ),
        Availability.COPYRIGHT: (
            "ERROR",
            _UNAVAILABLE,
            "This video is no longer available due to a copyright claim by Sandbox Music",
        ),
        Availability.POLICY: (
            "ERROR",
            _UNAVAILABLE,
            "This video has been removed for violating YouTube\u2019s policy on spam, deceptive practices, and scams",
        ),
        Availability.AGE_RESTRICTED: (
            "LOGIN_REQUIRED",
            "Sign in to confirm your age",
            "This video may be inappropriate for some users.",
        ),
        Availability.GEO_BLOCKED: (
            "UNPLAYABLE",
            _UNAVAILABLE,
            "The uploader has not made this video available in your country",
        ),
        Availability.MEMBERS_ONLY: (
            "UNPLAYABLE",
            "Join this channel to get access to members-only content like this video, and other exclusive perks.",
            "",
        ),
    }
)


class Refusal(StrEnum):
    """What the site says instead of playing a video that is alive."""

    BOT_CHECK = "bot_check"
    """A person is asked for; the title still stands in the page."""
    SESSION_LIMIT = "session_limit"
    """Too many videos in this session, announced behind "Video unavailable"."""
    RESTRICTED_NETWORK = "restricted_network"
    """A filter of our network, announced behind "Video unavailable"."""
    CAPTCHA = "captcha"
    """A captcha is asked for."""
    WRONG_ID = "wrong_id"
    """Every answer is about another video."""
    UPCOMING = "upcoming"
    """Not yet shown: true of the video, not of us."""


_SAID: Mapping[Refusal, tuple[str, str, str]] = MappingProxyType(
    {
        Refusal.BOT_CHECK: ("LOGIN_REQUIRED", "Sign in to confirm you\u2019re not a bot", ""),
        Refusal.SESSION_LIMIT: ("ERROR", _UNAVAILABLE, "This content isn\u2019t available, try again later."),
        Refusal.RESTRICTED_NETWORK: (
            "ERROR",
            _UNAVAILABLE,
            "This video is restricted. Please check the Google Workspace administrator and/or the network "
            "administrator restrictions.",
        ),
        Refusal.CAPTCHA: ("UNPLAYABLE", "Playback is not available right now", ""),
        Refusal.UPCOMING: ("LIVE_STREAM_OFFLINE", "Premieres in 3 hours", ""),
    }
)


class Streams(StrEnum):
    """Which streams a video has."""

    BOTH = "both"
    NO_AUDIO = "no_audio"
    AUDIO_ONLY = "audio_only"


class Player:
    """``/watch?v=<ID>``, ``/youtubei/v1/player``, ``/youtubei/v1/next``, and the player's script, of which one line."""

    name = "player"
    methods = ("GET", "HEAD", "POST")

    def __init__(self, world: World) -> None:
        self._world = world

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""
        return path in (PAGE_PATH, PLAYER_PATH, NEXT_PATH, SCRIPT_PATH)

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns the id in the query of the page or in the posted JSON."""
        asked = request.query.get("v") if request.path == PAGE_PATH else _posted(request).get("videoId")
        return (asked,) if isinstance(asked, str) and asked else ()

    def answer(self, request: Request) -> Response:
        """Returns the page, the script, or the JSON of the call."""
        is_call = request.path in (PLAYER_PATH, NEXT_PATH)
        if is_call != (request.method == "POST"):
            return _html(405, "Method Not Allowed").with_headers(("Allow", "POST" if is_call else "GET, HEAD"))
        if request.path == SCRIPT_PATH:
            return Response(200, (("Content-Type", "text/javascript"),), b"var _yt_player={signatureTimestamp:20640};")
        ids = self.youtube_ids(request)
        if not ids:
            # The page without a video is the start page; the calls find fault with their argument.
            return _invalid_argument() if is_call else _html(200, "<html><title>YouTube</title></html>")
        video = self._world.video(ids[0])
        if not is_call:
            return _page(video, player_response(video), initial_data(video))
        return _json(initial_data(video) if request.path == NEXT_PATH else player_response(video, has_urls=True))


def refuse(world: World, youtube_id: str, refusal: Refusal) -> list[Answer]:
    """Returns the answers to the page and to the player call after it, for ``SandboxServer.script("player", ...)``."""
    if refusal is Refusal.WRONG_ID:
        others = (world.video(each) for each in world.random_ids("another video") if each != youtube_id)
        shown = next(each for each in others if each.availability is Availability.PUBLIC)
        player = player_response(shown, has_urls=True)
    else:
        shown, player = world.video(youtube_id), _refusing(refusal)
    return [Answer.of(_page(shown, player, initial_data(shown, has_title=True))), Answer.of(_json(player))]


def streams_of(video: SandboxVideo) -> Streams:
    """Returns which streams a video has: most have both, some no audio, a few nothing but audio."""
    chance = seeded("streams", video.youtube_id).random()
    return Streams.NO_AUDIO if chance < 0.06 else Streams.AUDIO_ONLY if chance < 0.09 else Streams.BOTH


def player_response(video: SandboxVideo, *, has_urls: bool = False) -> dict[str, Any]:
    """Returns what the player is told about a video.

    Args:
        video: the video.
        has_urls: with addresses of the streams, as the API gives them; the page of the web client has none.
    """
    response: dict[str, Any] = {"responseContext": {"visitorData": _VISITOR}}
    refused = _REFUSED.get(video.availability)
    response["playabilityStatus"] = (
        {"status": "OK", "playableInEmbed": video.is_embeddable} if refused is None else _playability(*refused)
    )
    # Answers ERROR and LOGIN_REQUIRED say nothing about the video itself.
    if refused is None or refused[0] == "UNPLAYABLE":
        response["videoDetails"] = _details(video)
        response["microformat"] = {"playerMicroformatRenderer": _microformat(video)}
    if refused is None:
        response["streamingData"] = {"expiresInSeconds": "21540", "adaptiveFormats": _formats(video, has_urls)}
    return response


def initial_data(video: SandboxVideo, *, has_title: bool | None = None) -> dict[str, Any]:
    """Returns what stands around the player: the title also where the player refuses a video that is alive."""
    endpoint = {"clickTrackingParams": "CAAQ", "watchEndpoint": {"videoId": video.youtube_id}}
    if not (video.availability.is_alive if has_title is None else has_title):
        contents: list[dict[str, Any]] = [{"itemSectionRenderer": {"contents": [{"backgroundPromoRenderer": {}}]}}]
        return {"contents": _results(contents), "currentVideoEndpoint": endpoint}
    badges = {Availability.UNLISTED: ["PRIVACY_UNLISTED"]}.get(video.availability, [])
    primary: dict[str, Any] = {
        "title": {"runs": [{"text": video.title}]},
        "dateText": {"simpleText": f"{video.published_at:%b} {video.published_at.day}, {video.published_at.year}"},
        "badges": [{"metadataBadgeRenderer": {"icon": {"iconType": each}}} for each in badges],
    }
    if video.availability is Availability.MEMBERS_ONLY:
        primary["badges"] = [{"metadataBadgeRenderer": {"style": "BADGE_STYLE_TYPE_MEMBERS_ONLY"}}]
    owner = {"owner": {"videoOwnerRenderer": {"title": {"runs": [{"text": video.author_name}]}}}}
    overlay = {"playerOverlayVideoDetailsRenderer": {"title": {"simpleText": video.title}}}
    contents = [{"videoPrimaryInfoRenderer": primary}, {"videoSecondaryInfoRenderer": owner}]
    return {
        "contents": _results(contents),
        "currentVideoEndpoint": endpoint,
        "playerOverlays": {"playerOverlayRenderer": {"videoDetails": overlay}},
    }


def _refusing(refusal: Refusal) -> dict[str, Any]:
    playability = _playability(*_SAID[refusal])
    if refusal is Refusal.CAPTCHA:
        playability["errorScreen"] = {"playerCaptchaViewModel": {"siteKey": "sandbox"}}
    return {"responseContext": {"visitorData": _VISITOR}, "playabilityStatus": playability}


def _playability(status: str, reason: str, subreason: str) -> dict[str, Any]:
    renderer: dict[str, Any] = {"reason": {"simpleText": reason}}
    if subreason:
        renderer["subreason"] = {"runs": [{"text": subreason}]}
    return {
        "status": status,
        "reason": reason,
        "errorScreen": {"playerErrorMessageRenderer": renderer},
    }


def _details(video: SandboxVideo) -> dict[str, Any]:
    return {
        "videoId": video.youtube_id,
        "title": video.title,
        "lengthSeconds": str(video.duration_seconds),
        "channelId": video.channel_id,
        "shortDescription": f"By {video.author_name}",
        "author": video.author_name,
        "viewCount": str(seeded("views", video.youtube_id).randrange(10**6)),
        "isPrivate": False,
        "isLiveContent": False,
    }


def _microformat(video: SandboxVideo) -> dict[str, Any]:
    # With seconds and the offset of the site's own time zone, in winter as in summer.
    published = (video.published_at - timedelta(hours=8)).strftime("%Y-%m-%dT%H:%M:%S-08:00")
    return {
        "title": {"simpleText": video.title},
        "lengthSeconds": str(video.duration_seconds),
        "publishDate": published,
        "uploadDate": published,
        "category": "Sports",
        "isFamilySafe": video.availability is not Availability.AGE_RESTRICTED,
        "isUnlisted": video.availability is Availability.UNLISTED,
        "availableCountries": ["JP"] if video.availability is Availability.GEO_BLOCKED else ["DE", "JP", "US"],
        "externalChannelId": video.channel_id,
    }


def _formats(video: SandboxVideo, has_urls: bool) -> list[dict[str, Any]]:
    kinds = [
        (134, 'video/mp4; codecs="avc1.4d401e"', {"width": 640, "height": 360, "fps": 30, "qualityLabel": "360p"}),
        (243, 'video/webm; codecs="vp9"', {"width": 640, "height": 360, "fps": 30, "qualityLabel": "360p"}),
        (140, 'audio/mp4; codecs="mp4a.40.2"', {"audioSampleRate": "44100", "audioChannels": 2}),
        (251, 'audio/webm; codecs="opus"', {"audioSampleRate": "48000", "audioChannels": 2}),
    ]
    streams = streams_of(video)
    left_out = {Streams.NO_AUDIO: "audio/", Streams.AUDIO_ONLY: "video/"}.get(streams, "none")
    address = f"https://rr1---sn-sandbox.googlevideo.com/videoplayback?id={video.youtube_id}&itag="
    return [
        {
            "itag": itag,
            "mimeType": mime_type,
            "bitrate": 128_000,
            "approxDurationMs": str(video.duration_seconds * 1000),
            "quality": "medium",
            **({"url": f"{address}{itag}"} if has_urls else {}),
            **facts,
        }
        for itag, mime_type, facts in kinds
        if not mime_type.startswith(left_out)
    ]


def _results(contents: list[dict[str, Any]]) -> dict[str, Any]:
    return {"twoColumnWatchNextResults": {"results": {"results": {"contents": contents}}}}


def _page(video: SandboxVideo, player: Mapping[str, Any], data: Mapping[str, Any]) -> Response:
    title = html.escape(video.title)
    head = "<title> - YouTube</title>"
    if "videoDetails" in player:
        address = f"https://www.youtube.com/watch?v={video.youtube_id}"
        head = (
            f'<title>{title} - YouTube</title><link rel="canonical" href="{address}"><meta name="title" '
            f'content="{title}"><meta property="og:url" content="{address}">'
            f'<meta property="og:title" content="{title}">'
        )
    config = {
        "INNERTUBE_CONTEXT": {
            "client": {"clientName": "WEB", "clientVersion": "2.20260708.00.00", "hl": "en", "visitorData": _VISITOR}
        },
        "INNERTUBE_CONTEXT_CLIENT_NAME": 1,
        "PLAYER_JS_URL": SCRIPT_PATH,
    }
    text = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f"<script>ytcfg.set({_script_json(config)});</script>{head}</head>"
        f"<body><script>var ytInitialPlayerResponse = {_script_json(player)};</script>"
        f"<script>var ytInitialData = {_script_json(data)};</script></body></html>\n"
    )
    return _html(200, text)


def _script_json(value: object) -> str:
    # As the site does it: a title must not be able to end the script.
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _html(status: int, text: str) -> Response:
    return Response(
        status, (("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-cache")), text.encode()
    )


def _json(value: Mapping[str, Any], status: int = 200) -> Response:
    return Response(status, (("Content-Type", "application/json; charset=UTF-8"),), json.dumps(value).encode())


def _invalid_argument() -> Response:
    message = "Request contains an invalid argument."
    return _json({"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}, 400)


def _posted(request: Request) -> dict[str, Any]:
    try:
        value = json.loads(request.body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
