"""Loudness as it is heard, where silence begins, and how channels become one: one definition for probe and loader.

What is heard of a channel is the channel without what nobody hears: its constant part, drift, and infrasound. In every
block of 50 ms the polynomial of degree 5 that follows it best is taken away; that leaves nothing of a constant, -66 dB
of a tone of 10 Hz, and all but 1 dB of one of 50 Hz. Of blocks that hold little but what is too high for samples at
16 kHz, which is all that a model gets, the rest counts. The level of sound is that of its loudest channel, block by
block.

Axes: C channels, N samples, K blocks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SILENCE_DBFS = -60.0
"""Level (RMS) below which audio counts as silence; the quietest real clips measured lie near -50."""
BLOCK_SECONDS = 0.05
"""Length of the blocks in which sound is listened to."""

_HIGHEST_HZ = 8000.0
# Where more than this is left of a block without what is too high, all of it counts: so it is in nearly all sound.
_MOSTLY_HIGH_SHARE = 0.25
_FEWEST_SAMPLES_TO_SPLIT = 32
_NUM_TERMS = 6  # of the polynomial in a block of BLOCK_SECONDS; shorter ones get fewer
# Channels cancel where their mean has less than this share of the power it would have, had they nothing to do with one
# another (that of one channel alone among silent ones included).
_CANCELLED_SHARE = 0.01
_UNSURE_SHARE = 1e-3
_NOTHING = 1e-12
# OpenBLAS spreads larger products over all cores: see ``log_mel``.
_BLOCKS_AT_ONCE = 8

FloatArray = NDArray[np.float32]
Channels = FloatArray | Sequence[FloatArray]
"""Float32 (C, N), or C times (N,), full scale is 1."""


def to_dbfs(amplitude: float) -> float | None:
    """Returns an amplitude in dB re full scale (1.0), None for zero."""
    return 20 * math.log10(amplitude) if amplitude > 0 else None


def from_dbfs(level_dbfs: float) -> float:
    """Returns the amplitude of a level in dB re full scale."""
    return float(10 ** (level_dbfs / 20))


class Blocks(NamedTuple):
    """What is heard of a piece of sound.

    Attributes:
        length: samples of a block; the last one may be shorter.
        power: float64 (C, K), mean square of every channel.
    """

    length: int
    power: NDArray[np.float64]

    @property
    def loudest(self) -> NDArray[np.float64]:
        """Mean square of the loudest channel, float64 (K,)."""
        loudest: NDArray[np.float64] = self.power.max(axis=0)
        return loudest


def listen(channels: FloatArray, sample_rate: int, block_seconds: float = BLOCK_SECONDS) -> Blocks:
    """Returns what is heard of channels, float32 (C, N), N at least 1."""
    num_samples = channels.shape[1]
    length = min(num_samples, block_length(sample_rate, block_seconds))
    terms = min(_NUM_TERMS, 1 + round(_NUM_TERMS * length / (sample_rate * BLOCK_SECONDS)))
    num_whole = num_samples // length
    power = np.empty((len(channels), num_whole + (num_samples % length > 0)))
    for channel, squares in zip(channels, power, strict=True):
        whole = channel[: num_whole * length].reshape(num_whole, length)
        squares[:num_whole] = _heard(whole, terms, sample_rate)
        if num_samples % length:
            # Too few samples to tell drift from sound: the rest is listened to with what comes before it.
            squares[num_whole:] = _heard(channel[np.newaxis, -length:], terms, sample_rate)
    return Blocks(length, power)


def mix(channels: FloatArray, sample_rate: int, blocks: Blocks) -> FloatArray:
    """Returns channels (C, N) as one, float32 (N,): their mean, bit for bit, but for blocks in which they cancel.

    Stereo whose channels are in opposite phase (a wire the wrong way round) is loud, and its mean is silence. Blocks
    in which that is so, and in which there is something to hear, hold a channel that is loud in them: the first that
    has at least half the power of the loudest.
    """
    if len(channels) == 1:
        alone: FloatArray = channels[0]
        return alone
    mixed = _mean(channels)
    independent = blocks.power.sum(axis=0) / len(channels) ** 2
    is_cancelled = listen(mixed[np.newaxis], sample_rate).power[0] < _CANCELLED_SHARE * independent
    is_cancelled &= blocks.loudest > from_dbfs(SILENCE_DBFS) ** 2
    if is_cancelled.any():
        # Of channels that are about as loud the first one: else two readings of one clip would be upside down.
        power = blocks.power[:, is_cancelled].sum(axis=1)
        loudest = channels[(power > 0.5 * power.max()).argmax()]
        for block in np.flatnonzero(is_cancelled).tolist():
            part = slice(block * blocks.length, (block + 1) * blocks.length)
            mixed[part] = loudest[part]
    return mixed


class Run:
    """Pieces of sound that follow one another, all of one sample rate and one number of channels.

    Attributes:
        sample_rate: hertz.
        num_channels: of every piece.
        start: place of the first sample that was not taken yet.
        end: place behind the last sample.
    """

    def __init__(self, sample_rate: int, num_channels: int, start: int = 0) -> None:
        self.sample_rate = sample_rate
        self.num_channels = num_channels
        self.start = self.end = start
        self._pieces: list[Channels] = []

    @property
    def num_values(self) -> int:
        """Samples of all channels that were not taken yet."""
        return (self.end - self.start) * self.num_channels

    def add(self, channels: Channels) -> None:
        """Adds a piece."""
        self._pieces.append(channels)
        self.end += len(channels[0])

    def take(self, multiple: int = 1) -> FloatArray:
        """Returns what was added since, as many samples as are a multiple of this: float32 (C, N)."""
        channels = np.empty((self.num_channels, self.end - self.start), np.float32)
        for number, channel in enumerate(channels):
            np.concatenate([piece[number] for piece in self._pieces], out=channel)
        num_taken = channels.shape[1] // multiple * multiple
        self._pieces = [channels[:, num_taken:]] if num_taken < channels.shape[1] else []
        self.start += num_taken
        return channels[:, :num_taken]


def block_length(sample_rate: int, block_seconds: float = BLOCK_SECONDS) -> int:
    """Returns the samples of a block."""
    return max(1, round(sample_rate * block_seconds))


class _Heard(NamedTuple):
    """When the blocks of a piece of sound begin and the last one ends, seconds, and their mean squares."""

    times: NDArray[np.float64]
    mean_square: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Loudness:
    """How loud sound is over time; what was not added is silent."""

    _pieces: list[_Heard] = field(default_factory=list)

    def add(self, start_seconds: float, num_samples: int, sample_rate: int, blocks: Blocks) -> None:
        """Adds a piece of sound that was listened to."""
        places = np.append(np.arange(blocks.power.shape[1]) * blocks.length, num_samples)
        self._pieces.append(_Heard(start_seconds + places / sample_rate, blocks.loudest))

    def mean_squares(self, edges_seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the mean square between each two of P + 1 rising times, float64 (P,)."""
        energy = np.zeros(len(edges_seconds))
        for times, mean_square in self._pieces:
            energy += np.interp(edges_seconds, times, np.append(0.0, np.cumsum(mean_square * np.diff(times))))
        return np.diff(energy) / np.diff(edges_seconds)

    def level(self, start_seconds: float, duration_seconds: float) -> float:
        """Returns the RMS of a stretch, in full scale."""
        edges = np.array([start_seconds, start_seconds + duration_seconds])
        return math.sqrt(max(0.0, float(self.mean_squares(edges)[0])))


class Sound(NamedTuple):
    """A stretch of sound.

    Attributes:
        waveform: mono, float32 (N,).
        loudness: as it was heard before it was mixed; time 0 is the first sample.
    """

    waveform: FloatArray
    loudness: Loudness

    @classmethod
    def of_mono(cls, waveform: FloatArray, sample_rate: int) -> Sound:
        """Returns a waveform that was mono all along."""
        loudness = Loudness()
        if len(waveform):
            loudness.add(0.0, len(waveform), sample_rate, listen(waveform[np.newaxis], sample_rate))
        return cls(waveform, loudness)


def _mean(channels: FloatArray) -> FloatArray:
    """Returns the mean of two channels or more, float32 (N,), rounded once."""
    mixed: FloatArray
    if len(channels) == 2:
        mixed = channels[0] + channels[1]
        mixed *= np.float32(0.5)
        return mixed
    # One channel after the other: numpy's mean over a short first axis takes three times as long.
    exact = channels[0].astype(np.float64)
    for channel in channels[1:]:
        exact += channel
    mixed = (exact / len(channels)).astype(np.float32)
    return mixed


def _heard(blocks: FloatArray, num_terms: int, sample_rate: int) -> NDArray[np.float64]:
    """Returns the mean squares of what is heard of blocks (K, length) of one channel, (K,)."""
    length = blocks.shape[1]
    basis = _polynomials(length, min(num_terms, length))
    power = np.einsum("kn,kn->k", blocks, blocks).astype(np.float64)
    low = np.empty((len(blocks), basis.shape[1]), np.float32)
    for first in range(0, len(blocks), _BLOCKS_AT_ONCE):
        part = slice(first, first + _BLOCKS_AT_ONCE)
        np.matmul(blocks[part], basis, out=low[part])
    heard = power - np.square(low, dtype=np.float64).sum(axis=1)
    # The difference of two large numbers is no good: there, what is heard is computed itself.
    unsure = np.flatnonzero((heard < _UNSURE_SHARE * power) & (power > _NOTHING * length))
    for first in range(0, len(unsure), _BLOCKS_AT_ONCE):
        some = unsure[first : first + _BLOCKS_AT_ONCE]
        rest = blocks[some] - low[some] @ basis.T
        heard[some] = np.einsum("kn,kn->k", rest, rest)
    squares: NDArray[np.float64] = np.maximum(heard, 0.0) / length
    if sample_rate > 2 * _HIGHEST_HZ and length >= _FEWEST_SAMPLES_TO_SPLIT:
        for number in _mostly_high(blocks, power, np.maximum(heard, 0.0), sample_rate):
            lows = _low_power(blocks[number] - basis @ low[number], sample_rate)
            squares[number] = lows if lows < _MOSTLY_HIGH_SHARE * squares[number] else squares[number]
    return squares


def _mostly_high(
    blocks: FloatArray, power: NDArray[np.float64], heard: NDArray[np.float64], sample_rate: int
) -> list[int]:
    """Returns which blocks (K, length) may hold little but what is too high.

    Steps from sample to sample tell that cheaply: those of a high tone are large for its level.

    Args:
        blocks: of one channel.
        power: sums of their squares, (K,).
        heard: sums of the squares of what is heard of them, (K,).
        sample_rate: hertz.
    """
    least = (1 - _MOSTLY_HIGH_SHARE) * (2 * math.sin(math.pi * _HIGHEST_HZ / sample_rate)) ** 2
    steps = 2 * (power - np.einsum("kn,kn->k", blocks[:, 1:], blocks[:, :-1])) - blocks[:, 0] ** 2 - blocks[:, -1] ** 2
    is_high = (steps > least * heard) | (heard < _UNSURE_SHARE * power)
    found: list[int] = np.flatnonzero(is_high & (heard > _NOTHING * blocks.shape[1])).tolist()
    return found


def _low_power(block: FloatArray, sample_rate: int) -> float:
    """Returns the mean square of what is low enough in a block (length,) without drift."""
    # Hann's window: at the edges of a plain block a tone spills over the whole spectrum.
    window = np.hanning(len(block) + 1)[:-1]
    bins = np.fft.rfft(block * window)[1 : math.ceil(_HIGHEST_HZ * len(block) / sample_rate)]
    return float(2 * np.square(np.abs(bins)).sum() / (len(block) * np.square(window).sum()))


@functools.lru_cache(maxsize=32)
def _polynomials(length: int, num_terms: int) -> FloatArray:
    """Returns polynomials of rising degree that are orthonormal on so many samples, float32 (length, terms)."""
    powers = np.polynomial.legendre.legvander(np.linspace(-1, 1, length), num_terms - 1)
    return np.linalg.qr(powers)[0].astype(np.float32)
