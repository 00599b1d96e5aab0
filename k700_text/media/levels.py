"""Loudness in dB re full scale, and where silence begins: one definition for the probe and the loader."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SILENCE_DBFS = -60.0
"""Level (RMS) below which audio counts as silence; the quietest real clips measured lie near -50."""


def rms(waveform: NDArray[np.float32]) -> float:
    """Returns the root mean square of a waveform, 0 if it is empty."""
    if not len(waveform):
        return 0.0
    return math.sqrt(float(np.square(waveform, dtype=np.float64).mean()))


def to_dbfs(amplitude: float) -> float | None:
    """Returns an amplitude in dB re full scale (1.0), None for zero."""
    return 20 * math.log10(amplitude) if amplitude > 0 else None


def from_dbfs(level_dbfs: float) -> float:
    """Returns the amplitude of a level in dB re full scale."""
    return float(10 ** (level_dbfs / 20))
