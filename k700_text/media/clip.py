"""What reading a clip file gives and what it may cost: the vocabulary of the decoder, free of any decoder."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from k700_text.config import AudioConfig

FrameArray = NDArray[np.uint8]
Waveform = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What one pass over a file may cost; more is a DecodeError.

    Attributes:
        max_pixels: pixels of one frame.
        max_frames: video and audio frames decoded in one pass.
        max_seconds: wall time of one pass.
        max_audio_seconds: length of one stretch of audio.
    """

    max_pixels: int = 4096 * 4096
    max_frames: int = 1_000_000
    max_seconds: float = 60.0
    max_audio_seconds: float = 600.0


DEFAULT_LIMITS = DecodeLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipInfo:
    """What a file declares about itself; nothing of it is measured, and durations are often wrong.

    Attributes:
        container: FFmpeg's name of the file format.
        has_video_stream: there is a video stream (cover art is not one).
        has_audio_stream: there is an audio stream.
        frame_rate: average frames per second, None if not declared.
        video_duration_seconds: length of the video stream, None if not declared.
        audio_duration_seconds: length of the audio stream, None if not declared.
        file_end_seconds: clip time at which the whole file ends, that is its longest stream; None if not declared.
        audio_sample_rate: hertz, None without audio.
        audio_channels: None without audio.
    """

    container: str
    has_video_stream: bool
    has_audio_stream: bool
    frame_rate: float | None
    video_duration_seconds: float | None
    audio_duration_seconds: float | None
    file_end_seconds: float | None
    audio_sample_rate: int | None
    audio_channels: int | None


@dataclass(frozen=True, slots=True)
class FrameMark:
    """When one frame is shown (seconds of clip time), for how long, and its size as it is shown, in square pixels."""

    time_seconds: float
    duration_seconds: float
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """One decoded piece of audio: clip time of its first sample, and its channels, float32 (channels, N)."""

    time_seconds: float
    channels: Waveform
    sample_rate: int


class PixelFormat(StrEnum):
    """How the pixels of cut frames lie in memory."""

    RGB24 = "rgb24"
    """uint8 (T, size, size, 3): red, green, blue, full range."""
    YUV420P = "yuv420p"
    """uint8 (T, size * 3 / 2, size), known as I420: size rows of luma, then size / 4 rows that hold the size / 2
    square of blue difference, then as many of red difference. ITU-R BT.601, limited range, whatever the file has."""


class Box(NamedTuple):
    """A square of a frame as it is shown (turned, mirrored, its pixels made square), pixels."""

    left: int
    top: int
    side: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The square that is cut out of every frame of a clip, and what it is turned into.

    Attributes:
        size: height and width of the result, pixels; even.
        share: side of the square, as a share of the frame's short side, above 0 to 1.
        along_short_side: where the square lies along the short side, as a share of the room there is, 0..1.
        along_long_side: the same along the long side.
        is_mirrored: the result is a mirror image, left to right.
        pixel_format: of the result.
    """

    size: int
    share: float
    along_short_side: float = 0.5
    along_long_side: float = 0.5
    is_mirrored: bool = False
    pixel_format: PixelFormat = PixelFormat.RGB24

    def __post_init__(self) -> None:
        if self.size < 2 or self.size % 2:
            raise ValueError(f"size must be even and at least 2, got {self.size}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one cut frame."""
        if self.pixel_format is PixelFormat.RGB24:
            return (self.size, self.size, 3)
        return (self.size * 3 // 2, self.size)

    def box(self, width: int, height: int) -> Box:
        """Returns the square in a frame of this size.

        Its corner and side are even, so that the colour planes of 4:2:0 are cut at the same place and both pixel
        formats show the same; only frames of less than 4 pixels are taken whole.
        """
        short = min(width, height)
        if short < 4:
            return Box(0, 0, short)
        side = min(short - short % 2, max(2, 2 * round(short * self.share / 2)))
        is_upright = height > width
        across, down = self.along_short_side, self.along_long_side
        if not is_upright:
            across, down = down, across
        return Box(2 * int(across * (width - side) / 2), 2 * int(down * (height - side) / 2), side)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogMelTrack:
    """A stretch of stored log-mel spectrogram, time first, as prepared shards hold it.

    Attributes:
        log_mel: float16 (F, M), natural log of the mel power.
        mean_square: float32 (F,), mean square of what is heard in the hop that begins at each frame (``levels``).
    """

    log_mel: NDArray[np.float16]
    mean_square: NDArray[np.float32]


class OpenClip(Protocol):
    """A clip that is open for reading: a file, a file with a packet table, or a record of a prepared shard.

    All times are seconds of clip time. Every method raises DecodeError for what cannot be read, ValueError for an
    argument out of range.
    """

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def has_video(self) -> bool:
        """There is a video stream."""

    @property
    def has_audio(self) -> bool:
        """There is an audio stream."""

    @property
    def frame_grid_seconds(self) -> float | None:
        """Time between frames of a prepared clip, whose windows begin on that grid; None for a clip as it came."""

    @property
    def video_end_seconds(self) -> float | None:
        """Clip time at which the video ends, if known by measurement and not by what the file says."""

    def video_seconds(self) -> float:
        """Returns the length of the video, 0 without one."""

    def audio_seconds(self) -> float | None:
        """Returns the clip time at which the audio ends, None if nothing tells."""

    def read_cut(self, start_seconds: float, num_frames: int, frame_rate: float, cut: Cut) -> FrameArray:
        """Returns the frames shown at ``start_seconds + k / frame_rate``, cut: uint8 (T, *cut.shape)."""

    def read_log_mel(self, start_seconds: float | None, config: AudioConfig) -> tuple[NDArray[np.float32], float]:
        """Returns a log-mel spectrogram, float32 (M, F), and the level of its audio as heard, RMS in full scale.

        It covers ``config.window_seconds`` from the start given; the whole clip, spread over F frames, for None.
        """

    def close(self) -> None:
        """Closes it; safe to call twice."""
