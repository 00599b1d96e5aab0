"""The frozen records that travel between the parts: Clip, TitleOutcome, ClipProbe, and their enums."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

Modality = Literal["video", "audio", "text"]

YOUTUBE_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{11}")
# 64 bits in URL-safe base64: the 11th character carries only four of them (web-contracts section 0).
POSSIBLE_YOUTUBE_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{10}[AEIMQUYcgkosw048]")
CLIP_ID_PATTERN = re.compile(r"(?P<youtube_id>.{11})_(?P<start>\d{6,})_(?P<end>\d{6,})")

# The longest video that YouTube ever showed has 596.5 hours: 2**31 milliseconds.
LONGEST_VIDEO_SECONDS = 2_147_484
# YouTube takes no upload of more than 12 hours: what is longer is no clip of anything, but a slip of the pen.
LONGEST_CLIP_SECONDS = 43_200


class Split(StrEnum):
    """Which part of Kinetics a clip belongs to."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"

    @classmethod
    def parse(cls, text: str) -> Split:
        """Returns the split for any published spelling (``validate``, ``val``, ``holdout_test``, ...).

        Raises:
            ValueError: the spelling is not a known one.
        """
        spelling = text.strip().lower()
        known = {
            "train": cls.TRAIN,
            "training": cls.TRAIN,
            "val": cls.VAL,
            "validate": cls.VAL,
            "validation": cls.VAL,
            "test": cls.TEST,
            "testing": cls.TEST,
            "holdout_test": cls.TEST,
        }
        if spelling not in known:
            raise ValueError(f"unknown split {text!r}: expected one of {', '.join(known)}")
        return known[spelling]


class Availability(StrEnum):
    """State of a video on the web. Rate limits, bot checks and network faults are never one of these."""

    PUBLIC = "public"
    UNLISTED = "unlisted"
    EMBEDDING_OFF = "embedding_off"
    AGE_RESTRICTED = "age_restricted"
    GEO_BLOCKED = "geo_blocked"
    MEMBERS_ONLY = "members_only"
    PRIVATE = "private"
    REMOVED = "removed"
    TERMINATED = "terminated"
    COPYRIGHT = "copyright"
    POLICY = "policy"
    NOT_FOUND = "not_found"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"

    @property
    def is_alive(self) -> bool:
        """The video exists and somebody can watch it."""
        return self in _ALIVE

    @property
    def is_gone(self) -> bool:
        """The video cannot be watched by the public; see ``crawl.verdict`` for what it takes to publish it."""
        return self in _GONE


_ALIVE = frozenset(
    {
        Availability.PUBLIC,
        Availability.UNLISTED,
        Availability.EMBEDDING_OFF,
        Availability.AGE_RESTRICTED,
        Availability.GEO_BLOCKED,
        Availability.MEMBERS_ONLY,
    }
)
_GONE = frozenset(
    {
        Availability.PRIVATE,
        Availability.REMOVED,
        Availability.TERMINATED,
        Availability.COPYRIGHT,
        Availability.POLICY,
        Availability.NOT_FOUND,
        Availability.MALFORMED,
    }
)


class OutcomeStatus(StrEnum):
    """What asking one source about one video gave. Only TRANSIENT is asked again."""

    TITLE = "title"
    NO_TITLE = "no_title"
    TRANSIENT = "transient"


class VideoStatus(StrEnum):
    """What the video stream of a clip file is worth."""

    USABLE = "usable"
    NO_STREAM = "no_stream"
    PARTIAL = "partial"
    UNDECODABLE = "undecodable"
    MISSING = "missing"


class AudioStatus(StrEnum):
    """What the audio stream of a clip file is worth."""

    USABLE = "usable"
    NO_STREAM = "no_stream"
    SILENT = "silent"
    NEAR_SILENT = "near_silent"
    PARTIAL = "partial"
    UNDECODABLE = "undecodable"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One annotated time span of one video; the same video with two labels is two clips.

    Attributes:
        youtube_id: 11 characters, case-sensitive, always text.
        split: train, val or test.
        start_seconds: start of the span in the video.
        end_seconds: end of the span; greater than the start.
        label: action class; None in unlabelled test sets.
    """

    youtube_id: str
    split: Split
    start_seconds: float
    end_seconds: float
    label: str | None = None

    @property
    def clip_id(self) -> str:
        """``{youtube_id}_{start:06d}_{end:06d}``, times truncated to whole seconds (the published file names)."""
        return make_clip_id(self.youtube_id, self.start_seconds, self.end_seconds)


def make_clip_id(youtube_id: str, start_seconds: float, end_seconds: float) -> str:
    """Returns what a clip is called: ``{youtube_id}_{start:06d}_{end:06d}``, in whole seconds."""
    return f"{youtube_id}_{int(start_seconds):06d}_{int(end_seconds):06d}"


def parse_clip_id(clip_id: str) -> tuple[str, int, int]:
    """Returns (youtube_id, start, end) in whole seconds; read from the right, because ids hold ``_`` and ``-``.

    Raises:
        ValueError: the text is not a clip id.
    """
    match = CLIP_ID_PATTERN.fullmatch(clip_id)
    if match is None:
        raise ValueError(f"not a clip id: {clip_id!r} (expected <youtube_id>_<start:06d>_<end:06d>)")
    return match["youtube_id"], int(match["start"]), int(match["end"])


@dataclass(frozen=True, slots=True, kw_only=True)
class TitleOutcome:
    """What one source answered about one video: the row of the ledger.

    Attributes:
        youtube_id: the video asked about.
        source: name of the source (``data-api``, ``oembed``, ...).
        status: TITLE, NO_TITLE (final for this source) or TRANSIENT (asked again).
        availability: what this answer alone says about the video; UNKNOWN if nothing.
        fetched_at: when the answer came (UTC).
        title: cleaned title; None unless status is TITLE.
        raw_title: the title as the service spelled it.
        title_language: as declared by the service (BCP 47), else None.
        captured_at: when an archive captured the page (UTC), else None.
        published_at: upload time as told by the service (UTC), else None.
        video_duration_seconds: length of the whole video, else None.
        web_has_audio: whether the service lists an audio stream; None if it cannot tell.
        http_status: status of the deciding answer, None if there was none.
        reason: short machine-readable reason for NO_TITLE and TRANSIENT.
        evidence: the answer's bytes as received (the part about this video), else None.
    """

    youtube_id: str
    source: str
    status: OutcomeStatus
    fetched_at: datetime
    availability: Availability = Availability.UNKNOWN
    title: str | None = None
    raw_title: str | None = None
    title_language: str | None = None
    captured_at: datetime | None = None
    published_at: datetime | None = None
    video_duration_seconds: float | None = None
    web_has_audio: bool | None = None
    http_status: int | None = None
    reason: str | None = None
    evidence: bytes | None = None

    def __post_init__(self) -> None:
        if (self.status is OutcomeStatus.TITLE) != (self.title is not None):
            raise ValueError(f"a title goes with status 'title' and with no other: {self.status=}, {self.title=}")
        if self.fetched_at.tzinfo is None:
            raise ValueError("fetched_at must carry a time zone (UTC)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipProbe:
    """What measuring one clip file gave: the row of the probe table.

    Attributes:
        clip_file: path relative to the probed folder, with ``/``.
        video_status: worth of the video stream.
        num_frames: frames that decoded; None if none could be tried.
        frame_rate: frames per second, average over the file.
        width: pixels as shown: turned, and made square.
        height: pixels as shown: turned, and made square.
        clip_duration_seconds: last frame's (or sample's) end minus the first one's start, measured.
        audio_status: worth of the audio stream.
        audio_sample_rate: hertz, as stored.
        audio_channels: as stored.
        audio_rms_dbfs: level as it is heard, dB re full scale: in every block of 50 ms that of the loudest channel,
            without constant part, drift and infrasound; None if nothing is heard.
        audio_peak_dbfs: highest sample of any channel, dB re full scale; None if digital silence.
        audio_silent_fraction: share of 50 ms blocks whose level is below the silence threshold, 0..1.
        reason: why a stream is not usable, else None.
        file_bytes: size of the file; None if it is missing.
    """

    clip_file: str
    video_status: VideoStatus
    audio_status: AudioStatus
    num_frames: int | None = None
    frame_rate: float | None = None
    width: int | None = None
    height: int | None = None
    clip_duration_seconds: float | None = None
    audio_sample_rate: int | None = None
    audio_channels: int | None = None
    audio_rms_dbfs: float | None = None
    audio_peak_dbfs: float | None = None
    audio_silent_fraction: float | None = None
    reason: str | None = None
    file_bytes: int | None = None
