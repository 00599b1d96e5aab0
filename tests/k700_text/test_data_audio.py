from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np
import pytest
import torch

from k700_text.config import AudioConfig
from k700_text.data import audio as audio_module
from k700_text.data.audio import log_mel, silent_log_mel, with_noise
from k700_text.errors import MissingExtraError
from tests.k700_text.media_files import tone

CONFIG = AudioConfig()


def reference_log_mel(waveform: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Log-mel by its definition, in float64: reflected edges, Hann window of 400 in an FFT of 512, HTK triangles."""
    padded = np.pad(waveform.astype(np.float64), 256, mode="reflect")
    window = np.zeros(512)
    window[56:456] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([padded[i * 160 : i * 160 + 512] for i in range(256)])
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * math.log10(1 + 8000 / 700), 82) / 2595) - 1)
    hertz = np.linspace(0, 8000, 257)
    rising = (hertz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz[:, None]) / (edges[2:] - edges[1:-1])
    return np.log(power @ np.maximum(0, np.minimum(rising, falling)) + 1e-6).T


def test_it_is_the_textbook_log_mel() -> None:
    waveform = np.random.default_rng(0).normal(0, 0.1, 40_960).astype(np.float32)
    mel = log_mel(waveform, CONFIG)
    assert mel.shape == (80, 256) and mel.dtype == torch.float32
    assert np.abs(mel.numpy() - reference_log_mel(waveform)).max() < 2e-3


def test_every_band_hears_something() -> None:
    mel = log_mel(np.random.default_rng(0).normal(0, 0.1, 40_960).astype(np.float32), CONFIG)
    assert mel.mean(1).min() > math.log(CONFIG.log_floor) + 1


def test_a_higher_tone_lies_in_a_higher_band() -> None:
    bands = [int(log_mel(tone(2.56, hz, 16_000), CONFIG).mean(1).argmax()) for hz in (100, 400, 1600, 6400)]
    assert bands == sorted(bands) and len(set(bands)) == 4


@pytest.mark.parametrize("num_samples", [1600, 40_000, 40_960, 160_000])
def test_any_length_is_spread_over_the_same_frames(num_samples: int) -> None:
    waveform = tone(num_samples / 16_000, 440, 16_000)
    mel = log_mel(waveform, CONFIG)
    assert mel.shape == (80, 256) and torch.isfinite(mel).all()
    assert int(mel[:, 128].argmax()) == int(log_mel(tone(2.56, 440, 16_000), CONFIG)[:, 128].argmax())


def test_silence_and_noise() -> None:
    assert not silent_log_mel(CONFIG).any() and silent_log_mel(CONFIG).shape == (80, 256)
    floor = log_mel(np.zeros(40_960, dtype=np.float32), CONFIG)
    assert torch.allclose(floor, torch.full((80, 256), math.log(1e-6)))
    noise = with_noise(floor, np.random.default_rng(0), CONFIG) - floor
    assert noise.std() == pytest.approx(0.01, rel=0.05) and noise.dtype == torch.float32


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ModuleNotFoundError("No module named 'torchaudio'"), "pip install"),
        (RuntimeError("Detected that PyTorch and TorchAudio were compiled with\ndifferent CUDA"), "one version"),
        (OSError("undefined symbol: x"), "one version"),
    ],
)
def test_a_torchaudio_that_does_not_fit_is_one_line(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, message: str
) -> None:
    real_import = builtins.__import__

    def failing_import(name: str, *rest: Any) -> Any:
        if name.startswith("torchaudio"):
            raise failure
        return real_import(name, *rest)

    audio_module._mel_transform.cache_clear()
    monkeypatch.setattr(builtins, "__import__", failing_import)
    with pytest.raises(MissingExtraError, match=message) as caught:
        log_mel(np.zeros(40_960, dtype=np.float32), CONFIG)
    assert "\n" not in str(caught.value)
