from __future__ import annotations

import numpy as np
import pytest
import torch

from k700_text.config import AudioConfig
from k700_text.data.audio import log_mel_tensor, silent_log_mel
from k700_text.media.log_mel import log_mel
from tests.k700_text.media_files import tone

CONFIG = AudioConfig()


def test_silence_is_zeros() -> None:
    silence = silent_log_mel(CONFIG)
    assert silence.shape == (80, 256) and silence.dtype == torch.float32 and not silence.any()


def test_a_tensor_is_the_log_mel_itself() -> None:
    mel = log_mel(tone(2.56, 440, 16_000), CONFIG)
    tensor = log_mel_tensor(mel, None, CONFIG)
    assert tensor.dtype == torch.float32 and tensor.is_contiguous() and np.array_equal(tensor.numpy(), mel)
    assert np.array_equal(log_mel_tensor(mel[:, ::-1], None, CONFIG).numpy(), mel[:, ::-1])


def test_noise_is_as_strong_as_configured_and_repeats_by_seed() -> None:
    mel = log_mel(tone(2.56, 440, 16_000), CONFIG)
    noise = log_mel_tensor(mel, np.random.default_rng(0), CONFIG).numpy() - mel
    assert noise.std() == pytest.approx(0.01, rel=0.05) and noise.dtype == np.float32
    again = log_mel_tensor(mel, np.random.default_rng(0), CONFIG).numpy() - mel
    assert np.array_equal(again, noise)
    without = log_mel_tensor(mel, np.random.default_rng(0), AudioConfig(noise_std=0.0))
    assert np.array_equal(without.numpy(), mel)
