"""How far encoded frames are from what went in: PSNR and SSIM, as FFmpeg's filters of these names compute them.

Axes: H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from k700_text.media.clip import FrameArray

MAX_PSNR_DB = 100.0
"""What identical frames count as."""

_PEAK = 255.0
# Of Wang et al. 2004, for sums over windows of 64 pixels.
_C1 = 0.01**2 * _PEAK**2 * 64
_C2 = 0.03**2 * _PEAK**2 * 64 * 63


def luma(frame: FrameArray) -> FrameArray:
    """Returns the luma of an I420 frame: uint8 (H, W) of uint8 (H * 3 / 2, W)."""
    return frame[: len(frame) // 3 * 2]


def psnr_db(frames: Sequence[FrameArray], references: Sequence[FrameArray]) -> float:
    """Returns the peak signal-to-noise ratio of the luma over all frames, dB; both lists I420, of the same length."""
    errors = [
        float(np.square(luma(frame).astype(np.int32) - luma(reference)).mean())
        for frame, reference in zip(frames, references, strict=True)
    ]
    mean = sum(errors) / len(errors)
    return min(MAX_PSNR_DB, 10 * math.log10(_PEAK**2 / mean)) if mean else MAX_PSNR_DB


def ssim(frames: Sequence[FrameArray], references: Sequence[FrameArray]) -> float:
    """Returns the structural similarity of the luma, mean over all frames, at most 1.

    Windows are 8 x 8 pixels, 4 apart.
    """
    values = [_frame_ssim(luma(a), luma(b)) for a, b in zip(frames, references, strict=True)]
    return sum(values) / len(values)


def _frame_ssim(frame: FrameArray, reference: FrameArray) -> float:
    if min(frame.shape) < 8:
        raise ValueError(f"frames must be at least 8 pixels high and wide, got {frame.shape}")
    a, b = frame.astype(np.float32), reference.astype(np.float32)
    sum_a, sum_b = _window_sums(a), _window_sums(b)
    squares, products = _window_sums(a * a + b * b), _window_sums(a * b)
    variances = 64 * squares - sum_a**2 - sum_b**2
    covariance = 64 * products - sum_a * sum_b
    similarity = (2 * sum_a * sum_b + _C1) * (2 * covariance + _C2)
    return float((similarity / ((sum_a**2 + sum_b**2 + _C1) * (variances + _C2))).mean())


def _window_sums(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the sums over windows of 8 x 8 pixels that begin at every fourth one."""
    height, width = (size // 4 for size in image.shape)
    blocks = image[: 4 * height, : 4 * width].reshape(height, 4, width, 4).sum(axis=(1, 3), dtype=np.float64)
    sums: NDArray[np.float64] = blocks[:-1, :-1] + blocks[1:, :-1] + blocks[:-1, 1:] + blocks[1:, 1:]
    return sums
