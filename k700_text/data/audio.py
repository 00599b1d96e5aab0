"""From a waveform to a log-mel spectrogram.

Axes: M mel bands, F mel frames.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from k700_text.config import AudioConfig
from k700_text.errors import MissingExtraError
from k700_text.media.clip import Waveform


def log_mel(waveform: Waveform, config: AudioConfig) -> Tensor:
    """Returns the natural log of the mel power, float32 (M, F), F = ``config.num_mel_frames`` whatever the length.

    A waveform of another length than ``config.window_seconds`` is spread over the F frames: its mel power is averaged
    into that many equal parts.

    Args:
        waveform: mono, float32 (N,), at ``config.sample_rate``.
        config: bands, hop and window.

    Raises:
        MissingExtraError: torchaudio is missing, or was built for another torch.
    """
    with torch.no_grad():
        power = _mel_transform(config)(torch.from_numpy(waveform))
        # Centred windows give one frame more than there are hops.
        power = power[:, : max(1, len(waveform) // config.hop_length)]
        if power.shape[1] != config.num_mel_frames:
            power = F.adaptive_avg_pool1d(power[None], config.num_mel_frames)[0]
        return torch.log(power + config.log_floor)


def silent_log_mel(config: AudioConfig) -> Tensor:
    """Returns what stands for absent audio: zeros, float32 (M, F)."""
    return torch.zeros(config.num_mels, config.num_mel_frames)


def with_noise(log_mel_MF: Tensor, rng: np.random.Generator, config: AudioConfig) -> Tensor:
    """Returns the spectrogram with Gaussian noise of ``config.noise_std`` added (training only)."""
    noise = rng.standard_normal(tuple(log_mel_MF.shape), dtype=np.float32)
    return log_mel_MF + config.noise_std * torch.from_numpy(noise)


@functools.cache
def _mel_transform(config: AudioConfig) -> Callable[[Tensor], Tensor]:
    try:
        from torchaudio.transforms import MelSpectrogram
    except ImportError as error:
        raise MissingExtraError(f"torchaudio is not usable ({error}): pip install 'k700-text[data]'") from error
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise MissingExtraError(
            f"torchaudio does not fit torch {torch.__version__} ({reason}): install both in one version and for one "
            "CUDA, as in constraints.txt"
        ) from error
    transform: Callable[[Tensor], Tensor] = MelSpectrogram(
        sample_rate=config.sample_rate,
        n_fft=config.fft_size,
        win_length=config.window_length,
        hop_length=config.hop_length,
        n_mels=config.num_mels,
        mel_scale="htk",
    )
    return transform
