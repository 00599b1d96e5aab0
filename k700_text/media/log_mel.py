"""Log-mel spectrograms in plain numpy: one definition for raw clips, for prepared shards, and for the loader.

Centred, reflected Hann windows, power spectrum, HTK mel triangles without normalisation, natural log: the formula to
3e-4 on real sound in float32, where torchaudio's MelSpectrogram, which rounds the corners of its bands, is 1.2e-3 off.
It takes about as long as that (``benchmarks/log_mel.py``), and needs no torch.

Axes: M mel bands, F mel frames, N samples.
"""

from __future__ import annotations

import functools
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from k700_text.config import AudioConfig
from k700_text.media.clip import LogMelTrack, Waveform
from k700_text.media.levels import Sound

MAX_CLIP_AUDIO_SECONDS = 60.0
"""What is read of a clip's audio where the whole of it is asked for."""

FloatArray = NDArray[np.float32]
# Larger blocks are fresh pages for every call: with 256 frames at once a window takes 1.5 to 2.5 times as long.
_FRAMES_AT_ONCE = 32
# OpenBLAS spreads larger products over all cores, which then wait for more by spinning: 8 ms of CPU time for 0.1 ms of
# work, in every process that reads clips.
_ROWS_AT_ONCE = 8


class ReadsAudio(Protocol):
    """What gives its audio as a waveform."""

    def audio_seconds(self) -> float | None:
        """Returns the length as declared, None if nothing is."""

    def read_sound(self, start_seconds: float, duration_seconds: float, sample_rate: int) -> Sound:
        """Returns a stretch as mono float32 (N,), and how loud it is."""


def mel_power(waveform: Waveform, config: AudioConfig) -> FloatArray:
    """Returns the power in every mel band, float32 (M, F), F = N // hop_length, at least 1.

    Frame k is centred on sample ``k * hop_length``.

    Args:
        waveform: mono, float32 (N,), at ``config.sample_rate``; not empty.
        config: bands, hop and window.
    """
    num_frames = max(1, len(waveform) // config.hop_length)
    padded = _reflected(waveform, config.fft_size // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, config.fft_size)[:: config.hop_length][:num_frames]
    hann, triangles = _hann(config), mel_triangles(config)
    bands = np.empty((config.num_mels, num_frames), dtype=np.float32)
    for first in range(0, num_frames, _FRAMES_AT_ONCE):
        spectrum = np.fft.rfft(windows[first : first + _FRAMES_AT_ONCE] * hann, axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        bands[:, first : first + _FRAMES_AT_ONCE] = _product(power, triangles).T
    return bands


def _product(rows: FloatArray, matrix: FloatArray) -> FloatArray:
    """Returns the product of rows (any, K) and a matrix (K, M), on this core alone."""
    num_whole = len(rows) - len(rows) % _ROWS_AT_ONCE
    product = np.empty((len(rows), matrix.shape[1]), dtype=np.float32)
    pieces = product[:num_whole].reshape(-1, _ROWS_AT_ONCE, matrix.shape[1])
    np.matmul(rows[:num_whole].reshape(-1, _ROWS_AT_ONCE, len(matrix)), matrix, out=pieces)
    np.matmul(rows[num_whole:], matrix, out=product[num_whole:])
    return product


def log_mel(waveform: Waveform, config: AudioConfig) -> FloatArray:
    """Returns the natural log of the mel power, float32 (M, F), F = ``config.num_mel_frames`` whatever the length.

    A waveform of another length than ``config.window_seconds`` is spread over the F frames: its mel power is averaged
    into that many equal parts.

    Args:
        waveform: mono, float32 (N,), at ``config.sample_rate``; not empty.
        config: bands, hop and window.
    """
    return spread_log(mel_power(waveform, config), config)


def spread_log(power: FloatArray, config: AudioConfig) -> FloatArray:
    """Returns the natural log of a mel power (M, any), its frames averaged into ``config.num_mel_frames`` parts."""
    if power.shape[1] != config.num_mel_frames:
        power = _averaged(power, config.num_mel_frames)
    spectrogram: FloatArray = np.log(power + np.float32(config.log_floor))
    return spectrogram


def read_log_mel(clip: ReadsAudio, start_seconds: float | None, config: AudioConfig) -> tuple[FloatArray, float]:
    """Returns the log-mel (M, F) of a stretch of a clip's audio, and its level: ``OpenClip.read_log_mel`` of raw clips.

    Raises:
        DecodeError: the audio cannot be read.
    """
    duration_seconds = config.window_seconds
    if start_seconds is None:
        duration_seconds = min(clip.audio_seconds() or duration_seconds, MAX_CLIP_AUDIO_SECONDS)
    sound = clip.read_sound(start_seconds or 0.0, duration_seconds, config.sample_rate)
    return log_mel(sound.waveform, config), sound.loudness.level(0.0, duration_seconds)


def log_mel_track(sound: Sound, config: AudioConfig) -> LogMelTrack:
    """Returns what ``prepare`` stores of a whole clip's audio, at ``config.sample_rate``; not empty."""
    power = mel_power(sound.waveform, config)
    return LogMelTrack(
        log_mel=np.log(power.T + np.float32(config.log_floor)).astype(np.float16),
        mean_square=hop_levels(sound, config),
    )


def hop_levels(sound: Sound, config: AudioConfig) -> FloatArray:
    """Returns the mean square of what is heard in every hop, float32 (F,), F as in ``mel_power``."""
    num_hops = max(1, len(sound.waveform) // config.hop_length)
    edges_seconds = np.arange(num_hops + 1, dtype=np.float64) * (config.hop_length / config.sample_rate)
    return sound.loudness.mean_squares(edges_seconds).astype(np.float32)


def track_window(track: LogMelTrack, first: int, config: AudioConfig) -> tuple[FloatArray, float]:
    """Returns the window that begins at a frame of a stored spectrogram, float32 (M, F), and its level (RMS).

    Outside the track stands the log of silence. Beginning at a whole hop is 5 ms off at most.
    """
    return _window_of(track, first, config.num_mel_frames, config)


def whole_track(track: LogMelTrack, config: AudioConfig) -> tuple[FloatArray, float]:
    """Returns a stored spectrogram spread over ``config.num_mel_frames`` frames, float32 (M, F), and its level."""
    window, level = _window_of(track, 0, len(track.log_mel), config)
    power = np.maximum(np.exp(window) - np.float32(config.log_floor), 0)
    return spread_log(power, config), level


def _window_of(track: LogMelTrack, first: int, num_frames: int, config: AudioConfig) -> tuple[FloatArray, float]:
    silence = np.float32(np.log(config.log_floor))
    window = np.full((track.log_mel.shape[1], num_frames), silence, dtype=np.float32)
    begin, end = max(0, first), min(len(track.log_mel), first + num_frames)
    if begin >= end:
        return window, 0.0
    window[:, begin - first : end - first] = track.log_mel[begin:end].T
    return window, float(np.sqrt(track.mean_square[begin:end].sum() / num_frames))


def _reflected(waveform: Waveform, margin: int) -> Waveform:
    # A waveform shorter than the margin cannot be reflected that far.
    if len(waveform) > margin:
        return np.pad(waveform, margin, mode="reflect")
    return np.pad(waveform, margin)


def _averaged(power: FloatArray, num_parts: int) -> FloatArray:
    """Returns the means of ``num_parts`` equal parts along the last axis; parts may share a frame at their borders."""
    num_frames = power.shape[1]
    edges = np.arange(num_parts + 1) * num_frames
    first, last = edges[:-1] // num_parts, -(-edges[1:] // num_parts)
    sums = np.concatenate([np.zeros((len(power), 1)), np.cumsum(power, axis=1, dtype=np.float64)], axis=1)
    means: FloatArray = ((sums[:, last] - sums[:, first]) / (last - first)).astype(np.float32)
    return means


@functools.cache
def _hann(config: AudioConfig) -> FloatArray:
    """Returns the periodic Hann window, centred in the length of the FFT."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.window_length) / config.window_length)
    before = (config.fft_size - config.window_length) // 2
    after = config.fft_size - config.window_length - before
    return np.pad(window, (before, after)).astype(np.float32)


@functools.cache
def mel_triangles(config: AudioConfig) -> FloatArray:
    """Returns the weight of every FFT bin in every band, float32 (bins, M): triangles that meet on the HTK scale."""
    nyquist_hz = config.sample_rate / 2
    mels = np.linspace(0.0, 2595.0 * np.log10(1.0 + nyquist_hz / 700.0), config.num_mels + 2)
    corners_hz = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    bins_hz = np.linspace(0.0, nyquist_hz, config.fft_size // 2 + 1)[:, None]
    rising = (bins_hz - corners_hz[:-2]) / np.diff(corners_hz)[:-1]
    falling = (corners_hz[2:] - bins_hz) / np.diff(corners_hz)[1:]
    triangles: FloatArray = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    return triangles
