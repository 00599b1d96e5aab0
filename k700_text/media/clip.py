"""What reading a clip file gives and what it may cost: the vocabulary of the decoder, free of any decoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        audio_sample_rate: hertz, None without audio.
        audio_channels: None without audio.
    """

    container: str
    has_video_stream: bool
    has_audio_stream: bool
    frame_rate: float | None
    video_duration_seconds: float | None
    audio_duration_seconds: float | None
    audio_sample_rate: int | None
    audio_channels: int | None


@dataclass(frozen=True, slots=True)
class FrameMark:
    """When one frame is shown (seconds of clip time), for how long, and its size in pixels, rotation applied."""

    time_seconds: float
    duration_seconds: float
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """One decoded piece of audio: clip time of its first sample, and its mono mix, float32 (N,)."""

    time_seconds: float
    waveform: Waveform
    sample_rate: int
