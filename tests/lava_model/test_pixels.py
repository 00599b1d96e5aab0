"""YUV 4:2:0 on the device shows what the loader's own RGB shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from k700_text.media.clip import Cut, PixelFormat
from k700_text.media.decode import ClipReader
from k700_text.media.encode import encode_clip
from lava_model.encoders.trunk import Trunk
from lava_model.pixels import rgb_from_yuv420, yuv_from_rgb
from lava_model.presets import tiny
from tests.k700_text.media_files import SAMPLES, needs_samples

COLOURS = torch.tensor(
    [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [40, 90, 200]], dtype=torch.float
)


@pytest.fixture(scope="module")
def colourful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip whose colours change over the picture and over time."""
    path = tmp_path_factory.mktemp("clips") / "colourful.mp4"
    rows, columns = np.mgrid[:144, :176]
    frames = []
    for number in range(40):
        red, green = 255 * columns / 175, 255 * rows / 143
        blue = (columns + rows + 8 * number) % 256
        frames.append(np.stack([red, green, blue], axis=2).astype(np.uint8))
    encode_clip(path, frames, frame_rate=25.0, crf=10)
    return path


def planes_of(colours: Tensor) -> Tensor:
    """Returns one 4x4 frame in 4:2:0 of each colour (N, 3)."""
    luma, u, v = yuv_from_rgb(colours).round().to(torch.uint8).unbind(1)
    parts = [luma[:, None].expand(-1, 16), u[:, None].expand(-1, 4), v[:, None].expand(-1, 4)]
    return torch.cat(parts, dim=1).view(-1, 6, 4)


def both_formats(path: Path, size: int = 64) -> tuple[Tensor, Tensor]:
    """Returns the same frames as the loader's RGB and as RGB of its 4:2:0."""
    found = {}
    for pixel_format in PixelFormat:
        with ClipReader(path) as clip:
            cut = Cut(size=size, share=0.9, is_mirrored=True, pixel_format=pixel_format)
            found[pixel_format] = torch.from_numpy(np.ascontiguousarray(clip.read_cut(0.2, 6, 10.0, cut)))
    return found[PixelFormat.RGB24].float(), rgb_from_yuv420(found[PixelFormat.YUV420P])


def test_colours_come_back() -> None:
    rgb = rgb_from_yuv420(planes_of(COLOURS))
    assert rgb.shape == (7, 4, 4, 3) and rgb.dtype == torch.float32
    assert (rgb - COLOURS[:, None, None]).abs().max() < 2
    assert rgb.min() == 0 and rgb.max() <= 255, "what is out of range is clamped"


def test_black_and_white_are_those_of_the_standard() -> None:
    torch.testing.assert_close(yuv_from_rgb(COLOURS[:2]), torch.tensor([[16.0, 128, 128], [235.0, 128, 128]]))
    # BT.601-7, the usual bars: red is 81, 90, 240.
    torch.testing.assert_close(yuv_from_rgb(COLOURS[2]).round(), torch.tensor([81.0, 90, 240]))


def test_each_colour_lies_on_its_square() -> None:
    video = torch.full((1, 6, 4), 128, dtype=torch.uint8)
    video[0, 4, 0] = 240  # the first of the four values of u
    rgb = rgb_from_yuv420(video)[0]
    is_blue = rgb[..., 2] > rgb[..., 0] + 50
    assert is_blue.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_it_takes_any_axes_before_the_frame_and_normalises_for_nothing() -> None:
    video = torch.randint(0, 256, (2, 3, 24, 16), dtype=torch.uint8)
    rgb = rgb_from_yuv420(video)
    assert rgb.shape == (2, 3, 16, 16, 3) and rgb.is_contiguous()
    torch.testing.assert_close(rgb_from_yuv420(video[1, 2]), rgb[1, 2])
    mean, std = torch.tensor([123.0, 116.0, 103.0]), torch.tensor([58.0, 57.0, 57.5])
    normalised = rgb_from_yuv420(video, mean, std)
    torch.testing.assert_close(normalised, (rgb - mean) / std, rtol=1e-4, atol=1e-5)
    # What the convolutions of the trunk take without a copy.
    assert normalised.flatten(0, 1).movedim(3, 1).is_contiguous(memory_format=torch.channels_last)


def test_it_compiles_whole() -> None:
    video = torch.randint(0, 256, (2, 24, 16), dtype=torch.uint8)
    compiled = torch.compile(rgb_from_yuv420, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(video), rgb_from_yuv420(video))


def assert_same_picture(rgb: Tensor, converted: Tensor) -> None:
    assert rgb.std() > 20
    # swscale rounds down, up to three times a value: its RGB is a level darker on average, this one is not.
    difference = converted - rgb
    assert difference.abs().max() <= 3 and 0 <= difference.mean() < 1.5 and difference.std() < 1


def test_a_clip_shows_the_same_in_both_formats(colourful: Path) -> None:
    assert_same_picture(*both_formats(colourful))


class TestRealFiles:
    pytestmark = needs_samples

    @pytest.mark.parametrize("name", ["R6llTwEh07w", "SOX5yA1l24A"])
    def test_a_kinetics_clip_shows_the_same_in_both_formats(self, name: str) -> None:
        assert_same_picture(*both_formats(SAMPLES / "torchvision" / f"{name}.mp4"))


def test_the_trunk_sees_the_same_in_both_formats(colourful: Path) -> None:
    config = replace(tiny().model, frame_size=64, short_side=64)
    found = {}
    for pixel_format in PixelFormat:
        with ClipReader(colourful) as clip:
            frames = clip.read_cut(0.2, 4, 10.0, Cut(size=64, share=1.0, pixel_format=pixel_format))
        found[pixel_format] = Trunk(config)(torch.from_numpy(np.ascontiguousarray(frames))[None])
    rgb, yuv = found.values()
    assert rgb.shape == yuv.shape == (1, 4, 9, 128)
    assert (rgb - yuv).norm() < 0.02 * rgb.norm()
    other = Trunk(config)(torch.randint(0, 256, (1, 4, 96, 64), dtype=torch.uint8))
    assert (rgb - other).norm() > 0.2 * rgb.norm()
