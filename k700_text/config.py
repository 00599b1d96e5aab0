"""Validated, frozen settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

from k700_text.checks import Count, NotNegative, Positive, Share, at_least, faults_of
from k700_text.errors import ConfigError


def refuse_faults(settings: object) -> None:
    """Raises ConfigError, naming all of them, if fields are not what their types say."""
    if problems := faults_of(settings):
        raise ConfigError(problems)


def require_positive(**values: float) -> None:
    """Raises ConfigError, naming all of them, if any value is not above zero and finite."""
    outside = {name: value for name, value in values.items() if not 0 < value < math.inf}
    problems = [f"{name} must be above 0 and finite, got {value}" for name, value in outside.items()]
    if problems:
        raise ConfigError(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoConfig:
    """How frames are cut from a clip (LAVA paper, section 3)."""

    num_frames: Count = 16
    """Frames of a sample."""
    frame_rate: Positive = 10.0
    """Frames per second that a sample is taken at; chosen by timestamp, never by index."""
    size: Count = 224
    """Height and width of a sample, pixels."""
    short_side: Count = 256
    """Length the short side is scaled to before the square is cropped, pixels; goes with ``size`` (256 with 224)."""
    horizontal_flip: Share = 0.5
    """Probability of a mirror image in training."""
    pixel_format: Literal["rgb24", "yuv420p"] = "rgb24"
    """``rgb24``, or ``yuv420p``: half the bytes and no conversion in the loader, for who converts on the device."""

    def __post_init__(self) -> None:
        refuse_faults(self)
        if self.size % 2:
            raise ConfigError(f"size must be even, got {self.size}")
        if self.short_side < self.size:
            raise ConfigError(f"short_side ({self.short_side}) must be at least size ({self.size})")

    @property
    def window_seconds(self) -> float:
        """Length of the time window that a sample covers."""
        return self.num_frames / self.frame_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioConfig:
    """How the log-mel spectrogram is made: 256 frames of 10 ms at 16 kHz, 2.56 s (LAVA paper, section 3)."""

    sample_rate: Count = 16_000
    """Hertz; every clip is mixed to mono (mean of the channels) and resampled to this."""
    num_mels: Count = 80
    """Mel bands, HTK scale, 0 Hz to half the sample rate."""
    num_mel_frames: Count = 256
    """Time steps of a sample."""
    hop_length: Count = 160
    """Samples between mel frames."""
    window_length: Count = 400
    """Samples of the Hann window; also the FFT size's lower bound."""
    fft_size: Count = 512
    """Samples of the FFT."""
    log_floor: Positive = 1e-6
    """Added to the mel power before the natural log."""
    noise_std: NotNegative = 0.01
    """Standard deviation of the Gaussian noise added to the log-mel in training (LAVA paper, section 3)."""
    window: Literal["aligned", "clip"] = "aligned"
    """``aligned``: centred on the video window; ``clip``: spread over the clip from its start."""

    def __post_init__(self) -> None:
        refuse_faults(self)
        if self.fft_size < self.window_length:
            raise ConfigError(f"fft_size ({self.fft_size}) must be at least window_length ({self.window_length})")

    @property
    def window_seconds(self) -> float:
        """Length of audio that a sample covers."""
        return self.num_mel_frames * self.hop_length / self.sample_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """How a title becomes token ids (LAVA paper, section 3)."""

    max_length: Annotated[int, at_least(3, "for bos, one token, eos")] = 128
    """Token ids of a sample, bos and eos included; shorter titles are padded, longer ones cut."""
    vocab_size: Count = 48_000
    """Entries of the tokenizer asked for in training it; small corpora give fewer."""

    def __post_init__(self) -> None:
        refuse_faults(self)


_HOUR = 3600.0
# web-contracts section 1.4: 15 minutes, then 1 hour, then 6 hours.
BLOCK_PAUSES = (900.0, _HOUR, 6 * _HOUR)
# Section 4.2: the archive names no time; who goes on after a minute is shut out for an hour, then twice as long.
_ARCHIVE_PAUSES = (60.0, _HOUR, 2 * _HOUR, 4 * _HOUR, 8 * _HOUR, 16 * _HOUR, 24 * _HOUR)
# Section 2.4.
_BURST_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
# Section 3.5: an hour, doubling to 72.
CHECK_PAUSES = tuple(_HOUR * hours for hours in (1, 2, 4, 8, 16, 32, 64, 72))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a host may be asked.

    Attributes:
        start_rate: requests per second at the start.
        max_rate: requests per second that the rate may grow to; equal to start_rate for a fixed pace.
        concurrency: requests under way at the same time.
        pauses: seconds to wait after a rate limit that names no time, by how often it happened.
    """

    start_rate: float
    max_rate: float
    concurrency: int
    pauses: Sequence[float] = BLOCK_PAUSES

    def __post_init__(self) -> None:
        if not 0 < self.start_rate <= self.max_rate or not math.isfinite(self.max_rate):
            raise ConfigError(f"rate must be above 0 and finite, got {self.start_rate} to {self.max_rate} per second")
        if self.concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1, got {self.concurrency}")


# How fast each service is asked unless a person says otherwise (``--rate``): within its published limits, and where it
# publishes none, well below what has led to blocks. Each source file reads its own line.
PACES: Mapping[str, Pace] = MappingProxyType(
    {
        # Section 7: 4 calls a second.
        "data-api": Pace(start_rate=4.0, max_rate=4.0, concurrency=4, pauses=_BURST_PAUSES),
        # Section 1.4: no limit is published, 25/s led to a block of hours; start low, grow to 5/s.
        "oembed": Pace(start_rate=1.0, max_rate=5.0, concurrency=4),
        # No limit is published for pictures.
        "thumbnail": Pace(start_rate=2.0, max_rate=8.0, concurrency=4),
        # Section 4.2: 600 captures and 30 questions to the index a minute; 8/s and 24 a minute are safe.
        "wayback": Pace(start_rate=8.0, max_rate=8.0, concurrency=8, pauses=_ARCHIVE_PAUSES),
        "wayback-cdx": Pace(start_rate=0.4, max_rate=0.4, concurrency=2, pauses=_ARCHIVE_PAUSES),
        # Section 6: a few a second.
        "archive-item": Pace(start_rate=2.0, max_rate=2.0, concurrency=4),
        # Section 3.6: about 300 videos an hour in a guest session.
        "yt-dlp": Pace(start_rate=300 / _HOUR, max_rate=300 / _HOUR, concurrency=1, pauses=CHECK_PAUSES),
    }
)
# Section 2.3: units a day of a new project of the Data API.
DATA_API_DAILY_QUOTA = 10_000
