"""Validated, frozen settings."""

from __future__ import annotations

from dataclasses import dataclass

from k700_text.errors import ConfigError


def require_positive(**values: float) -> None:
    """Raises ConfigError, naming all of them, if any value is not above zero."""
    problems = [f"{name} must be above 0, got {value}" for name, value in values.items() if not value > 0]
    if problems:
        raise ConfigError(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoConfig:
    """How frames are cut from a clip (LAVA paper, section 3)."""

    num_frames: int = 16
    """Frames of a sample."""
    frame_rate: float = 10.0
    """Frames per second that a sample is taken at; chosen by timestamp, never by index."""
    size: int = 224
    """Height and width of a sample, pixels."""
    short_side: int = 256
    """Length the short side is scaled to before the square is cropped, pixels; goes with ``size`` (256 with 224)."""
    horizontal_flip: float = 0.5
    """Probability of a mirror image in training."""

    def __post_init__(self) -> None:
        require_positive(num_frames=self.num_frames, frame_rate=self.frame_rate, size=self.size)
        if not 0 <= self.horizontal_flip <= 1:
            raise ConfigError(f"horizontal_flip must be in 0..1, got {self.horizontal_flip}")
        if self.short_side < self.size:
            raise ConfigError(f"short_side ({self.short_side}) must be at least size ({self.size})")

    @property
    def window_seconds(self) -> float:
        """Length of the time window that a sample covers."""
        return self.num_frames / self.frame_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioConfig:
    """How the log-mel spectrogram is made: 256 frames of 10 ms at 16 kHz, 2.56 s (LAVA paper, section 3)."""

    sample_rate: int = 16_000
    """Hertz; every clip is mixed to mono (mean of the channels) and resampled to this."""
    num_mels: int = 80
    """Mel bands, HTK scale, 0 Hz to half the sample rate."""
    num_mel_frames: int = 256
    """Time steps of a sample."""
    hop_length: int = 160
    """Samples between mel frames."""
    window_length: int = 400
    """Samples of the Hann window; also the FFT size's lower bound."""
    fft_size: int = 512
    """Samples of the FFT."""
    log_floor: float = 1e-6
    """Added to the mel power before the natural log."""
    noise_std: float = 0.01
    """Standard deviation of the Gaussian noise added to the log-mel in training (LAVA paper, section 3)."""
    window: str = "aligned"
    """``aligned``: centred on the video window; ``clip``: spread over the clip from its start."""

    def __post_init__(self) -> None:
        require_positive(
            sample_rate=self.sample_rate,
            num_mels=self.num_mels,
            num_mel_frames=self.num_mel_frames,
            hop_length=self.hop_length,
            window_length=self.window_length,
            log_floor=self.log_floor,
        )
        if self.fft_size < self.window_length:
            raise ConfigError(f"fft_size ({self.fft_size}) must be at least window_length ({self.window_length})")
        if self.window not in ("aligned", "clip"):
            raise ConfigError(f"audio window must be 'aligned' or 'clip', got {self.window!r}")

    @property
    def window_seconds(self) -> float:
        """Length of audio that a sample covers."""
        return self.num_mel_frames * self.hop_length / self.sample_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """How a title becomes token ids (LAVA paper, section 3)."""

    max_length: int = 128
    """Token ids of a sample, bos and eos included; shorter titles are padded, longer ones cut."""
    vocab_size: int = 48_000
    """Entries of the tokenizer asked for in training it; small corpora give fewer."""

    def __post_init__(self) -> None:
        if self.max_length < 3:
            raise ConfigError(f"max_length must be at least 3 (bos, one token, eos), got {self.max_length}")
        require_positive(vocab_size=self.vocab_size)
