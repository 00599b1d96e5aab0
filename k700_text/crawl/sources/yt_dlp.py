"""The watch page, read by yt-dlp: title, state and streams of one video (web-contracts section 3). Off by default.

Two requests a video: the page, and one player call as the client that yt-dlp takes where no JavaScript runs (by itself
it asks about an age-gated video once more, as an embedded player). No account is used, no JavaScript is run, no stream
is touched, nothing is read from or kept on disk. The page is asked for under our own User-Agent; the player call goes
out under the name of the client that yt-dlp speaks for (an Apple headset in 2026): the API is spoken in no other.

A bot check, captcha, session limit or rate limit stops the source, and so does a network that hides videos from those
in it. None of them is worked around.
"""

from __future__ import annotations

import io
import json
import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from k700_text.config import PACES
from k700_text.crawl.clock import utc_now
from k700_text.crawl.messages import Meaning, MessageKind, classify
from k700_text.crawl.player_wire import HOST, PlayerWire
from k700_text.crawl.sources.base import Get, Source, SourcePlan
from k700_text.crawl.transport import Transport
from k700_text.errors import BlockedError, FilteredNetworkError, ParseError, RateLimitedError, TransportError
from k700_text.records import Availability, OutcomeStatus, TitleOutcome
from k700_text.titles import clean_plain_title, is_junk_title

NAME = "yt-dlp"
URL = f"https://{HOST}/watch?v="
# Section 3.6: a session limit lasts up to an hour.
SESSION_LIMIT_SECONDS = 3600.0

_INFO_FIELDS = (
    "id", "title", "duration", "timestamp", "upload_date", "language", "age_limit", "availability", "live_status",
    "playable_in_embed", "media_type", "channel", "channel_id", "uploader_id", "categories",
)  # fmt: skip
_FORMAT_FIELDS = ("format_id", "acodec", "vcodec", "audio_channels", "asr", "language")
_STATES: Mapping[str, Availability] = {
    "public": Availability.PUBLIC,
    "unlisted": Availability.UNLISTED,
    "private": Availability.PRIVATE,
    "needs_auth": Availability.AGE_RESTRICTED,
    "subscriber_only": Availability.MEMBERS_ONLY,
    # For those who pay the service: the nearest of our states.
    "premium_only": Availability.MEMBERS_ONLY,
}
_FORMATS_MISSING = re.compile(
    r"formats? (?:have been|has been|were|was|may be|are|is|require)\b|missing (?:a url|formats)"
)
_MAX_MESSAGE = 2000
_OPTIONS: Mapping[str, Any] = {
    "quiet": True,
    "color": "no_color",
    "skip_download": True,
    "ignore_no_formats_error": True,
    # A bug of its own becomes a message, too; what the wire raised is raised again afterwards.
    "ignoreerrors": True,
    "cachedir": False,
    "extractor_retries": 0,
    "geo_bypass": False,
    "js_runtimes": {},
    "remote_components": [],
    "extractor_args": {
        "youtube": {
            "player_client": ["default"],
            "player_skip": ["js", "configs"],
            "skip": ["hls", "dash", "translated_subs"],
            # Formats are counted, never played: those that would need a token count as well, and none is fetched.
            "formats": ["missing_pot"],
            "fetch_pot": ["never"],
        }
    },
}


class YtDlp(Source):
    """Titles, states and streams from the live site, a video at a time.

    Where the title is in hand and the same answer asks for a person or for a pause, ``fetch`` returns the title, and
    the next ``fetch`` raises the check before it asks anything.

    Args:
        origin: ``scheme://host[:port]`` to ask instead of the site's own host; None asks the site.
    """

    name = NAME
    host = HOST
    pace = PACES[NAME]
    brings_own_transport = True
    requests_per_video = 3

    def __init__(self, origin: str | None = None) -> None:
        self._origin = origin
        self._lock = threading.Lock()
        self._engine: _Engine | None = None
        self._check: TransportError | None = None

    def plan(self, num_ids: int, rate: float, daily_quota: int | None) -> SourcePlan:
        """Returns what asking about so many videos costs at most.

        Args:
            num_ids: number of videos.
            rate: videos (not requests) per second.
            daily_quota: videos a day, None: as many as one likes.
        """
        plan = super().plan(num_ids, rate, daily_quota)
        return replace(plan, num_requests=num_ids * self.requests_per_video)

    def fetch(self, ids: Sequence[str], get: Get) -> list[TitleOutcome]:
        """Asks about one video; see the base class. ``get`` is not used: yt-dlp decides what it asks."""
        (youtube_id,) = ids
        with self._lock:
            check, self._check = self._check, None
            if check is not None:
                raise check
            self._engine = self._engine or _Engine(self._origin, self.transport or Transport())
            evidence = self._engine.ask(youtube_id)
            outcome = parse_evidence(youtube_id, evidence, None, utc_now())
            meaning = _Record(evidence).meaning
            self._check = _check_error(meaning) if meaning.kind.stops_host else None
            return [outcome]


def parse_evidence(youtube_id: str, evidence: bytes, http_status: int | None, fetched_at: datetime) -> TitleOutcome:
    """Returns what yt-dlp's answer says about a video.

    Args:
        youtube_id: the video asked about.
        evidence: JSON: what was kept of yt-dlp's description (``info``), its warnings and errors and the player's words
            about us (``messages``), the ids (``video_ids``) and player statuses (``statuses``) in the site's answers.
        http_status: not used: several answers make one description.
        fetched_at: when they came (UTC).

    Raises:
        RateLimitedError, BlockedError, FilteredNetworkError: the site speaks about us, and there is no title.
        TransportError: a fault on the way, and there is no title.
        ParseError: neither a description nor a known message.
    """
    record = _Record(evidence)
    if any(each != youtube_id for each in record.video_ids):
        raise _check_error(Meaning(MessageKind.BLOCKED_BY_NETWORK, "answers about another video"))
    title, fault = record.title(youtube_id)
    meaning = record.meaning
    if title is None:
        _raise_unless_about_video(record, youtube_id)
    reason = fault if record.is_playable and meaning.kind is not MessageKind.VIDEO else meaning.reason
    raw_title = record.info.get("title")
    return TitleOutcome(
        youtube_id=youtube_id,
        source=NAME,
        status=OutcomeStatus.TITLE if title else OutcomeStatus.NO_TITLE,
        availability=record.availability,
        title=title,
        raw_title=raw_title if isinstance(raw_title, str) else None,
        published_at=_published_at(record.info),
        video_duration_seconds=_positive(record.info.get("duration")) if youtube_id in record.video_ids else None,
        web_has_audio=record.has_audio if youtube_id in record.video_ids else None,
        reason=None if title else reason,
        fetched_at=fetched_at,
        evidence=evidence,
    )


class _Record:
    """Reads the evidence."""

    def __init__(self, evidence: bytes) -> None:
        record = json.loads(evidence)
        self.info: dict[str, Any] = record["info"] or {}
        self.messages: list[str] = record["messages"]
        self.video_ids: list[str] = record["video_ids"]
        self.statuses: list[str] = record["statuses"]
        # Earlier versions did not keep it: a length is told by nothing but the details.
        self._has_details: bool = record.get("is_described", bool(self.info.get("duration")))
        self.meaning = classify("\n".join(self.messages))

    @property
    def is_playable(self) -> bool:
        """The player was ready to play, to one of the clients at least."""
        return "OK" in self.statuses

    def title(self, youtube_id: str) -> tuple[str | None, str]:
        """Returns the title, or None and why. Only a structured answer that names the id makes a title certain."""
        raw = self.info.get("title")
        title = clean_plain_title(raw) if isinstance(raw, str) else None
        if title is None:
            return None, "empty_title"
        if youtube_id not in self.video_ids or self.info.get("id") != youtube_id:
            return None, "unconfirmed_title"
        if not self.is_playable and is_junk_title(title, youtube_id):
            return None, "junk_title"
        return title, ""

    @property
    def is_described(self) -> bool:
        """The player refuses, yet describes the video in full: it lives (117 of 117 recorded answers)."""
        return "UNPLAYABLE" in self.statuses and self._has_details and bool(self.video_ids)

    @property
    def availability(self) -> Availability:
        """What the refusal says, else what the description of a video that lives says."""
        said, kind = self.meaning.availability, self.meaning.kind
        if kind.stops_host or not (self.is_playable or self.is_described):
            return said
        is_headline = said is Availability.NOT_FOUND
        if said.is_gone and (self.is_playable or not is_headline):
            return Availability.UNKNOWN  # The site contradicts itself: nothing that convicts a video.
        if kind is MessageKind.VIDEO and not is_headline:
            return said
        if not self.video_ids:
            return Availability.UNKNOWN  # A description that no answer confirms.
        state = _STATES.get(str(self.info.get("availability")), Availability.PUBLIC)
        is_open = state in (Availability.PUBLIC, Availability.UNLISTED)
        return Availability.EMBEDDING_OFF if is_open and self.info.get("playable_in_embed") is False else state

    @property
    def has_audio(self) -> bool | None:
        """Whether the formats hold sound; None where no format is listed, or not all of them are."""
        formats = self.info.get("formats") or []
        if any(each["acodec"] not in (None, "none") for each in formats):
            return True
        # Storyboards are formats with neither sound nor video.
        videos = [each for each in formats if each["vcodec"] not in (None, "none")]
        is_silent = bool(videos) and all(each["acodec"] == "none" for each in videos)
        return False if is_silent and not any(map(_FORMATS_MISSING.search, self.messages)) else None


def _raise_unless_about_video(record: _Record, youtube_id: str) -> None:
    meaning = record.meaning
    if meaning.kind.stops_host:
        raise _check_error(meaning)
    if meaning.kind is MessageKind.TRANSIENT:
        raise TransportError(f"{HOST} gave yt-dlp no usable answer", host=HOST)
    is_described = bool(record.info) and bool(record.statuses)
    if meaning.kind is MessageKind.PARSER_BROKEN or (meaning.kind is MessageKind.UNKNOWN and not is_described):
        said = " ".join(record.messages[-1].split())[:200] if record.messages else "it says nothing"
        raise ParseError(
            f"yt-dlp could not read the site's answers, maybe a newer one can: {said}",
            source=NAME,
            youtube_id=youtube_id,
        )


def _check_error(meaning: Meaning) -> TransportError:
    """Returns the error for a message that is about us."""
    if meaning.kind is MessageKind.RATE_LIMITED:
        seconds = SESSION_LIMIT_SECONDS if meaning.reason == "session_limit" else None
        return RateLimitedError(f"{HOST} limits us ({meaning.reason})", host=HOST, retry_after_seconds=seconds)
    if meaning.kind is MessageKind.RESTRICTED_NETWORK:
        return FilteredNetworkError(
            f"this network is in restricted mode and hides videos of {HOST} (a filter of a school, a company or its "
            f"DNS): run {NAME} in another network",
            host=HOST,
        )
    return BlockedError(f"{HOST} turns machines at this address away ({meaning.reason})", host=HOST)


def _published_at(info: Mapping[str, Any]) -> datetime | None:
    """Returns the upload time (UTC); midnight where only the day is told."""
    timestamp, day = info.get("timestamp"), info.get("upload_date")
    try:
        if isinstance(timestamp, int | float):
            return datetime.fromtimestamp(timestamp, UTC)
        return datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC) if isinstance(day, str) else None
    except (ValueError, OverflowError, OSError):
        return None


def _positive(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value < math.inf else None


class _Log:
    """Keeps what yt-dlp warns of: the reason of a refusal stands nowhere else."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def debug(self, text: str) -> None:
        """Drops progress."""

    def warning(self, text: str) -> None:
        """Keeps a warning."""
        self.lines.append(f"WARNING: {text}"[:_MAX_MESSAGE])

    def error(self, text: str) -> None:
        """Keeps an error, which names itself so."""
        self.lines.append(text[:_MAX_MESSAGE])


class _Engine:
    """One yt-dlp for all videos of a run: one guest session, as in a browser. The only user of the package."""

    def __init__(self, origin: str | None, transport: Transport) -> None:
        import yt_dlp
        import yt_dlp.extractor
        import yt_dlp.globals
        import yt_dlp.networking.exceptions

        # Plugins could ask other hosts, or solve checks.
        yt_dlp.globals.plugin_dirs.value = []
        self._log = _Log()
        self._downloader = yt_dlp.YoutubeDL({**_OPTIONS, "logger": self._log}, auto_init=False)
        self._downloader.add_info_extractor(yt_dlp.extractor.get_info_extractor("Youtube"))
        self._wire = PlayerWire(origin, self._downloader.cookiejar, transport)
        self._downloader.urlopen = self._open
        self._networking = yt_dlp.networking
        self._version: str = yt_dlp.version.__version__

    def ask(self, youtube_id: str) -> bytes:
        """Returns the evidence about a video.

        Raises:
            TransportError: no usable answer; also as RateLimitedError, BlockedError, RefusedError, NetworkDownError.
        """
        self._log.lines.clear()
        self._wire.start(youtube_id)
        info = self._downloader.extract_info(URL + youtube_id, download=False, ie_key="Youtube", process=False)
        if self._wire.failure is not None:
            raise self._wire.failure
        record = {
            "yt_dlp": self._version,
            "info": _kept(info),
            "messages": [
                *self._log.lines,
                *([f"PLAYER: {self._wire.check}"[:_MAX_MESSAGE]] if self._wire.check else []),
            ],
            "video_ids": sorted(self._wire.video_ids),
            "statuses": self._wire.statuses,
            "is_described": self._wire.is_described,
        }
        return json.dumps(record, separators=(",", ":")).encode()

    def _open(self, request: Any) -> Any:
        """Stands in for ``YoutubeDL.urlopen``."""
        asked = self._networking.Request(request) if isinstance(request, str) else request
        response = self._wire.send(asked.url, method=asked.method, data=asked.data, headers=dict(asked.headers))
        answer = self._networking.Response(io.BytesIO(response.body), asked.url, response.headers, response.status)
        if response.status >= 400:
            raise self._networking.exceptions.HTTPError(answer)
        return answer


def _kept(info: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the part of a description that is kept as evidence; None where it describes no video."""
    if info is None or info.get("_type", "video") != "video":
        return None
    formats = [{name: each.get(name) for name in _FORMAT_FIELDS} for each in info.get("formats") or []]
    return {**{name: info.get(name) for name in _INFO_FIELDS}, "formats": formats}
