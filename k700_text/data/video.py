"""From a clip's frames to the frames of a sample: which window, which square, mirrored or not. All in uint8.

Axes: T frames, H height, W width, C colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from k700_text.config import VideoConfig
from k700_text.media.clip import FrameArray


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One deterministic look at a clip, for evaluation.

    Attributes:
        temporal_index: which of ``num_temporal`` windows, spread evenly from the clip's start to its end.
        num_temporal: windows; a single one lies in the middle.
        spatial_index: which of ``num_spatial`` squares, spread evenly along the longer side.
        num_spatial: squares; a single one lies in the centre.
    """

    temporal_index: int = 0
    num_temporal: int = 1
    spatial_index: int = 0
    num_spatial: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.temporal_index < self.num_temporal and 0 <= self.spatial_index < self.num_spatial):
            raise ValueError(f"no such view: {self}")

    def placement(self) -> Placement:
        """Returns where this view is cut."""
        return Placement(
            time=_spread(self.temporal_index, self.num_temporal),
            along_short_side=0.5,
            along_long_side=_spread(self.spatial_index, self.num_spatial),
            is_mirrored=False,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a sample is cut out of a clip; positions are shares of the room there is, 0..1."""

    time: float
    along_short_side: float
    along_long_side: float
    is_mirrored: bool

    @classmethod
    def random(cls, rng: np.random.Generator, config: VideoConfig) -> Placement:
        """Returns a placement for training: uniform in time and space, mirrored with the configured probability."""
        time, along_short_side, along_long_side, mirror = rng.random(4).tolist()
        return cls(
            time=time,
            along_short_side=along_short_side,
            along_long_side=along_long_side,
            is_mirrored=mirror < config.horizontal_flip,
        )

    def start_seconds(self, duration_seconds: float, config: VideoConfig) -> float:
        """Returns where the window starts in a clip of the given length; 0 if the clip is shorter than the window."""
        return self.time * max(0.0, duration_seconds - config.window_seconds)


def cut_frames(frames: FrameArray, placement: Placement, config: VideoConfig) -> Tensor:
    """Returns the square of the placement, uint8 (T, size, size, C).

    The same as scaling the short side to ``config.short_side`` and cropping, but the crop comes first: what is scaled
    is never larger than the square, whatever shape the frames have.

    Args:
        frames: uint8 (T, H, W, C).
        placement: where to cut.
        config: size of the square.
    """
    height, width = frames.shape[1:3]
    side = max(1, round(min(height, width) * config.size / config.short_side))
    is_upright = height > width
    top = round((placement.along_long_side if is_upright else placement.along_short_side) * (height - side))
    left = round((placement.along_short_side if is_upright else placement.along_long_side) * (width - side))
    square = torch.from_numpy(frames[:, top : top + side, left : left + side])
    if side != config.size:
        channels_first = square.permute(0, 3, 1, 2)
        scaled = F.interpolate(channels_first, size=(config.size, config.size), mode="bilinear", antialias=True)
        square = scaled.permute(0, 2, 3, 1)
    return (square.flip(2) if placement.is_mirrored else square).contiguous()


def _spread(index: int, count: int) -> float:
    return 0.5 if count == 1 else index / (count - 1)
