"""Which window of a clip a sample shows, which square of it, mirrored or not. The decoder does the cutting."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from k700_text.config import VideoConfig
from k700_text.media.clip import Cut, PixelFormat

_SAME_TICK = 1e-6


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

    def start_seconds(self, duration_seconds: float, config: VideoConfig, grid_seconds: float | None = None) -> float:
        """Returns where the window starts in a clip of the given length; 0 if the clip is shorter than the window.

        Args:
            duration_seconds: length of the clip.
            config: length of the window.
            grid_seconds: time between the frames of a prepared clip: the start goes down to one of them, so that the
                window needs no frame before it. None leaves it where it is.
        """
        start_seconds = self.time * max(0.0, duration_seconds - config.window_seconds)
        if grid_seconds is None:
            return start_seconds
        return math.floor(start_seconds / grid_seconds + _SAME_TICK) * grid_seconds

    def cut(self, config: VideoConfig) -> Cut:
        """Returns the square to cut: as if the short side were scaled to ``config.short_side`` and cropped then."""
        return Cut(
            size=config.size,
            share=config.size / config.short_side,
            along_short_side=self.along_short_side,
            along_long_side=self.along_long_side,
            is_mirrored=self.is_mirrored,
            pixel_format=PixelFormat(config.pixel_format),
        )


def _spread(index: int, count: int) -> float:
    return 0.5 if count == 1 else index / (count - 1)
