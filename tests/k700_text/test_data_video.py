from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from k700_text.config import VideoConfig
from k700_text.data.video import Placement, View, cut_frames

CENTRE = View().placement()


def ramp(height: int, width: int, num_frames: int = 2) -> np.ndarray[Any, Any]:
    """Red grows to the right, green downwards, both from 0 to 255."""
    frames = np.zeros((num_frames, height, width, 3), dtype=np.uint8)
    frames[..., 0] = np.linspace(0, 255, width)
    frames[..., 1] = np.linspace(0, 255, height)[:, None]
    return frames


def test_a_short_side_of_256_is_cropped_and_not_scaled() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 256, 340, 3), dtype=np.uint8)
    square = cut_frames(frames, CENTRE, VideoConfig())
    assert square.shape == (3, 224, 224, 3) and square.dtype == torch.uint8 and square.is_contiguous()
    assert np.array_equal(square.numpy(), frames[:, 16:240, 58:282])


@pytest.mark.parametrize(("height", "width"), [(720, 1280), (1280, 720), (100, 80), (2, 5000), (1, 1), (257, 255)])
def test_every_shape_gives_the_same_square(height: int, width: int) -> None:
    square = cut_frames(ramp(height, width), CENTRE, VideoConfig())
    assert square.shape == (2, 224, 224, 3)
    # The centre of the picture is the centre of the square.
    if min(height, width) > 50:
        assert square[0, 111:113, 111:113, :2].float().mean() == pytest.approx(127.5, abs=2)


def test_the_square_shows_the_share_of_the_short_side_at_every_size() -> None:
    frames = ramp(512, 512)
    for size, short_side in ((28, 32), (112, 128), (224, 256)):
        square = cut_frames(frames, CENTRE, VideoConfig(size=size, short_side=short_side)).float()
        # 7/8 of the side: from 1/16 to 15/16 of the ramp.
        assert square[0, size // 2, 0, 0] == pytest.approx(255 / 16, abs=255 / size)
        assert square[0, size // 2, -1, 0] == pytest.approx(255 * 15 / 16, abs=255 / size)


def test_scaling_agrees_with_scaling_the_whole_frame_first() -> None:
    frames = ramp(480, 640)
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2).float(), size=(256, 341), mode="bilinear", antialias=True
    )
    expected = whole.permute(0, 2, 3, 1)[:, 16:240, 58:282]
    assert (cut_frames(frames, CENTRE, VideoConfig()).float() - expected).abs().max() <= 2


def test_views_spread_over_the_longer_side_and_over_time() -> None:
    def corner(frames: np.ndarray[Any, Any], index: int, axis: int) -> float:
        square = cut_frames(frames, View(spatial_index=index, num_spatial=3).placement(), VideoConfig())
        return float(square[0, 0, 0, axis])

    assert [corner(ramp(256, 340), index, 0) for index in range(3)] == pytest.approx([0, 43, 87], abs=1)
    assert [corner(ramp(340, 256), index, 1) for index in range(3)] == pytest.approx([0, 43, 87], abs=1)
    starts = [View(temporal_index=i, num_temporal=3).placement().start_seconds(10.0, VideoConfig()) for i in range(3)]
    assert starts == pytest.approx([0.0, 4.2, 8.4])
    assert CENTRE.start_seconds(10.0, VideoConfig()) == pytest.approx(4.2)
    assert CENTRE.start_seconds(1.0, VideoConfig()) == 0.0


@pytest.mark.parametrize("arguments", [{"temporal_index": 1}, {"spatial_index": -1}, {"num_temporal": 0}])
def test_no_such_view(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="no such view"):
        View(**arguments)


def test_mirroring_is_left_to_right_and_as_often_as_configured() -> None:
    frames = ramp(256, 256)
    plain = cut_frames(frames, CENTRE, VideoConfig())
    mirrored_placement = Placement(time=0.5, along_short_side=0.5, along_long_side=0.5, is_mirrored=True)
    assert torch.equal(cut_frames(frames, mirrored_placement, VideoConfig()), plain.flip(2))
    rng = np.random.default_rng(0)
    drawn = [Placement.random(rng, VideoConfig(horizontal_flip=0.2)) for _ in range(2000)]
    assert np.mean([placement.is_mirrored for placement in drawn]) == pytest.approx(0.2, abs=0.03)
    assert np.mean([placement.time for placement in drawn]) == pytest.approx(0.5, abs=0.03)
    assert not any(Placement.random(rng, VideoConfig(horizontal_flip=0.0)).is_mirrored for _ in range(50))
