"""Log-mel spectrograms as tensors: what stands for silence, and the noise of training.

Axes: M mel bands, F mel frames.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from k700_text.config import AudioConfig
from k700_text.media.log_mel import FloatArray


def silent_log_mel(config: AudioConfig) -> Tensor:
    """Returns what stands for absent audio: zeros, float32 (M, F)."""
    return torch.zeros(config.num_mels, config.num_mel_frames)


def log_mel_tensor(log_mel_MF: FloatArray, rng: np.random.Generator | None, config: AudioConfig) -> Tensor:
    """Returns a spectrogram as a tensor, float32 (M, F).

    Args:
        log_mel_MF: float32 (M, F), of ``media.log_mel``.
        rng: adds Gaussian noise of ``config.noise_std`` drawn from it (training); None adds none.
        config: strength of the noise.
    """
    if rng is not None and config.noise_std:
        noise = rng.standard_normal(log_mel_MF.shape, dtype=np.float32)
        log_mel_MF = log_mel_MF + np.float32(config.noise_std) * noise
    return torch.from_numpy(np.ascontiguousarray(log_mel_MF))
