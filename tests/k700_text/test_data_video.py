from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k700_text.config import VideoConfig
from k700_text.data.video import Placement, View
from k700_text.media.clip import PixelFormat

CENTRE = View().placement()


def test_the_cut_is_the_share_of_the_short_side_that_is_configured() -> None:
    cut = CENTRE.cut(VideoConfig())
    assert (cut.size, cut.share, cut.pixel_format) == (224, 0.875, PixelFormat.RGB24)
    assert cut.box(340, 256) == (58, 16, 224)
    assert cut.box(256, 340) == (16, 58, 224)
    assert CENTRE.cut(VideoConfig(size=112, short_side=128, pixel_format="yuv420p")).shape == (168, 112)
    # The same share at every size of frame, in its middle.
    left, top, side = cut.box(1280, 720)
    assert side == 630 and abs(left - (1280 - side) / 2) <= 1 and abs(top - (720 - side) / 2) <= 1


def test_views_spread_over_the_longer_side_and_over_time() -> None:
    def box(index: int, width: int, height: int) -> tuple[int, int]:
        return View(spatial_index=index, num_spatial=3).placement().cut(VideoConfig()).box(width, height)[:2]

    assert [box(index, 340, 256) for index in range(3)] == [(0, 16), (58, 16), (116, 16)]
    assert [box(index, 256, 340) for index in range(3)] == [(16, 0), (16, 58), (16, 116)]
    starts = [View(temporal_index=i, num_temporal=3).placement().start_seconds(10.0, VideoConfig()) for i in range(3)]
    assert starts == pytest.approx([0.0, 4.2, 8.4])
    assert CENTRE.start_seconds(10.0, VideoConfig()) == pytest.approx(4.2)
    assert CENTRE.start_seconds(1.0, VideoConfig()) == 0.0


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 30), st.sampled_from([0.1, 1 / 12, 0.04, 1 / 30]))
def test_a_window_of_a_prepared_clip_starts_at_a_frame_and_ends_inside(time: float, length: float, grid: float) -> None:
    placement = Placement(time=time, along_short_side=0.5, along_long_side=0.5, is_mirrored=False)
    free = placement.start_seconds(length, VideoConfig())
    start = placement.start_seconds(length, VideoConfig(), grid)
    assert start / grid == pytest.approx(round(start / grid), abs=1e-6)
    # Down to a frame, never beyond one that is a rounding error away.
    assert start <= free + 1e-6 * grid and free - start < grid


@pytest.mark.parametrize("arguments", [{"temporal_index": 1}, {"spatial_index": -1}, {"num_temporal": 0}])
def test_no_such_view(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="no such view"):
        View(**arguments)


def test_training_draws_uniformly_and_mirrors_as_often_as_configured() -> None:
    rng = np.random.default_rng(0)
    drawn = [Placement.random(rng, VideoConfig(horizontal_flip=0.2)) for _ in range(2000)]
    assert np.mean([placement.is_mirrored for placement in drawn]) == pytest.approx(0.2, abs=0.03)
    assert np.mean([placement.time for placement in drawn]) == pytest.approx(0.5, abs=0.03)
    assert not any(Placement.random(rng, VideoConfig(horizontal_flip=0.0)).is_mirrored for _ in range(50))
    assert all(placement.cut(VideoConfig()).is_mirrored == placement.is_mirrored for placement in drawn)
