"""One window of one clip, the same for all contenders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import av
import numpy as np

from k700_text.config import AudioConfig, VideoConfig
from k700_text.media.clip import Cut, PixelFormat

VIDEO, AUDIO = VideoConfig(), AudioConfig()
LOWEST_SHARE = 0.6


@dataclass(frozen=True)
class Window:
    """What to read: 16 frames at 10 fps from a start, a random square of them, and the audio around their middle."""

    path: Path
    start_seconds: float
    cut: Cut

    @property
    def audio_start_seconds(self) -> float:
        """Where the 2.56 seconds of audio begin; before the clip does, perhaps."""
        return self.start_seconds + (VIDEO.window_seconds - AUDIO.window_seconds) / 2

    def in_format(self, pixel_format: PixelFormat) -> Cut:
        """Returns the cut in a pixel format."""
        return replace(self.cut, pixel_format=pixel_format)

    def of(self, path: Path) -> Window:
        """Returns the same window of another file."""
        return replace(self, path=path)


def draw_rounds(paths: tuple[Path, ...], num_rounds: int, seed: int) -> Iterator[list[Window]]:
    """Yields rounds of one random window of each clip."""
    rng = np.random.default_rng(seed)
    for _ in range(num_rounds):
        yield [
            Window(
                path=path,
                start_seconds=float(rng.uniform(0, max(0.0, seconds_of(path) - VIDEO.window_seconds - 0.1))),
                cut=Cut(
                    size=VIDEO.size,
                    share=float(rng.uniform(LOWEST_SHARE, 1)),
                    along_short_side=float(rng.random()),
                    along_long_side=float(rng.random()),
                    is_mirrored=bool(rng.integers(2)),
                ),
            )
            for path in paths
        ]


@cache
def seconds_of(path: Path) -> float:
    """Returns the length of a clip's video as its file states it."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return float(stream.duration * stream.time_base)
