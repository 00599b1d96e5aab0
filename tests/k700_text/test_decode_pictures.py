"""Cut frames against float64 colour maths: pixels of known colours, stored in the many ways files store them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from av import VideoFrame

from k700_text.errors import DecodeError
from k700_text.media.clip import DEFAULT_LIMITS, Cut, DecodeLimits, PixelFormat
from k700_text.media.decode.pictures import FrameCutter, FrameScaler

Pixels = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float64]

# Luma weights of red and blue, by AVColorSpace (ITU-R BT.709, FCC, BT.601 twice, SMPTE 240M, BT.2020).
WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087)}
WEIGHTS |= {9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
UNSPECIFIED, LIMITED, FULL = 2, 1, 2


def smooth_picture(width: int, height: int) -> Image:
    """RGB in 0..255, (H, W, 3), of slow waves in all colours: how chroma is sited or averaged hardly matters."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = [np.sin(x / 37 + 1), np.cos(y / 29), np.sin((x + 2 * y) / 61)]
    return np.stack([127 + 90 * wave for wave in waves], axis=-1)


def to_yuv(rgb: Image, colorspace: int = 5, color_range: int = LIMITED) -> Image:
    """RGB in 0..255 to Y, Cb, Cr on the scale of eight bits, (H, W, 3)."""
    red, blue = WEIGHTS.get(colorspace, WEIGHTS[5])
    r, g, b = np.moveaxis(rgb / 255, -1, 0)
    luma = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - luma) / (2 * (1 - blue)), (r - luma) / (2 * (1 - red))
    if color_range == FULL:
        return np.stack([255 * luma, 128 + 255 * cb, 128 + 255 * cr], axis=-1)
    return np.stack([16 + 219 * luma, 128 + 224 * cb, 128 + 224 * cr], axis=-1)


def to_rgb(yuv: Image) -> Image:
    """BT.601 of limited range to RGB in 0..255."""
    luma, cb, cr = (yuv[..., 0] - 16) / 219, (yuv[..., 1] - 128) / 224, (yuv[..., 2] - 128) / 224
    red, blue = luma + 1.402 * cr, luma + 1.772 * cb
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return np.clip(255 * np.stack([red, green, blue], axis=-1), 0, 255)


def shrunk(plane: Image, across: int, down: int) -> Image:
    """Means of blocks; odd edges are repeated first."""
    padded = np.pad(plane, ((0, -len(plane) % down), (0, -plane.shape[1] % across)), mode="edge")
    height, width = padded.shape
    return padded.reshape(height // down, down, width // across, across).mean(axis=(1, 3))


def fill(frame: VideoFrame, planes: list[Image], dtype: str) -> VideoFrame:
    for target, values in zip(frame.planes, planes, strict=True):
        assert (target.height, target.width) == values.shape[:2]
        rows = np.zeros((target.height, target.line_size), np.uint8)
        stored = np.ascontiguousarray(np.round(values).astype(dtype)).reshape(target.height, -1).view(np.uint8)
        rows[:, : stored.shape[1]] = stored
        target.update(rows.tobytes())
    return frame


def stored_frame(rgb: Image, name: str, colorspace: int = UNSPECIFIED, color_range: int = 0) -> VideoFrame:
    """A frame of this picture in a pixel format; range as the tags and the format say."""
    height, width = rgb.shape[:2]
    frame = VideoFrame(width, height, name)
    frame.colorspace, frame.color_range = colorspace, color_range
    if name == "rgb24":
        return fill(frame, [rgb], "u1")
    if name == "gbrp":
        return fill(frame, [rgb[..., 1], rgb[..., 2], rgb[..., 0]], "u1")
    is_full = color_range == FULL or name.startswith("yuvj")
    y, u, v = np.moveaxis(to_yuv(rgb, colorspace, FULL if is_full else LIMITED), -1, 0)
    across, down = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "nv1": (2, 2), "411": (4, 1)}[
        name.removeprefix("yuv").removeprefix("j")[:3]
    ]
    u, v = shrunk(u, across, down), shrunk(v, across, down)
    if name == "nv12":
        return fill(frame, [y, np.stack([u, v], axis=-1)], "u1")
    scale, dtype = (4, "<u2") if name.endswith("10le") else (1, "u1")
    return fill(frame, [y * scale, u * scale, v * scale], dtype)


def cut_one(frame: VideoFrame, pixel_format: PixelFormat = PixelFormat.RGB24, turns: int = 0, **options: Any) -> Pixels:
    cut = Cut(**{"size": 64, "share": 1.0, **options}, pixel_format=pixel_format)
    cutter = FrameCutter(cut, 1, limits=DEFAULT_LIMITS, name="clip")
    cutter.put(0, 1, frame, turns)
    return cutter.frames()[0]


def as_yuv(i420: Pixels) -> Image:
    """I420 (S * 3 / 2, S) to (S, S, 3), chroma repeated."""
    size = i420.shape[1]
    flat = i420.reshape(-1).astype(np.float64)
    chroma = flat[size * size :].reshape(2, size // 2, size // 2).repeat(2, 1).repeat(2, 2)
    return np.stack([flat[: size * size].reshape(size, size), *chroma], axis=-1)


def noise_frame(width: int, height: int, seed: int = 0) -> VideoFrame:
    rng = np.random.default_rng(seed)
    frame = VideoFrame(width, height, "yuv420p")
    return fill(frame, [rng.integers(16, 236, (p.height, p.width)).astype(float) for p in frame.planes], "u1")


def planes_of(frame: VideoFrame) -> list[Pixels]:
    return [np.frombuffer(memoryview(p), np.uint8).reshape(-1, p.line_size)[:, : p.width] for p in frame.planes]


STORED = [
    *[
        ("yuv420p", colorspace, color_range)
        for colorspace in (2, 1, 4, 5, 6, 7, 9)
        for color_range in (0, LIMITED, FULL)
    ],
    *[(name, UNSPECIFIED, 0) for name in ("yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "nv12", "rgb24", "gbrp")],
    *[(name, UNSPECIFIED, FULL) for name in ("yuvj420p", "yuvj422p", "yuvj444p")],
    *[(name, 1, 0) for name in ("yuv422p", "yuv444p", "yuv420p10le")],
    # As files come: the format says full range, the tag nothing; a matrix that nobody knows.
    ("yuvj420p", UNSPECIFIED, 0),
    ("yuvj420p", 1, 0),
    ("yuv420p10le", 9, FULL),
    ("yuv420p", 3, 0),
    ("yuv420p", 8, 0),
    ("rgb24", 1, FULL),
]


@pytest.mark.parametrize(("name", "colorspace", "color_range"), STORED)
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (101, 67)])
def test_colours_are_those_that_were_stored(
    name: str, colorspace: int, color_range: int, size: tuple[int, int]
) -> None:
    width, height = size
    rgb = smooth_picture(width, height)
    frame = stored_frame(rgb, name, colorspace, color_range)
    side = Cut(size=64, share=1.0).box(width, height)
    wanted = rgb[side.top : side.top + side.side, side.left : side.left + side.side]
    if side.side != 64:
        tensor = torch.from_numpy(wanted).permute(2, 0, 1)[None]
        wanted = F.interpolate(tensor, size=(64, 64), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    error = np.abs(cut_one(frame) - wanted)
    assert error.mean() < 2 and error.max() <= 8, (error.mean(), error.max())
    error = np.abs(as_yuv(cut_one(frame, PixelFormat.YUV420P)) - to_yuv(wanted))
    assert error.mean() < 1.5 and error.max() <= 7, (error.mean(), error.max())


@pytest.mark.parametrize("color_range", [LIMITED, FULL])
@pytest.mark.parametrize("colorspace", [1, 4, 5, 7, 9])
def test_another_matrix_becomes_the_usual_one_to_a_level(colorspace: int, color_range: int) -> None:
    rng = np.random.default_rng(colorspace)
    colours = rng.integers(0, 256, (8, 8, 3)).astype(np.float64).repeat(8, 0).repeat(8, 1)
    pixels = as_yuv(cut_one(stored_frame(colours, "yuv420p", colorspace, color_range), PixelFormat.YUV420P))
    error = pixels - to_yuv(colours)
    # Rounded twice: as they were stored, and now.
    assert np.abs(error).max() < 1.3 and np.abs(error.mean(axis=(0, 1))).max() < 0.2


@pytest.mark.parametrize("name", ["gray", "gray10le"])
def test_gray_is_gray(name: str) -> None:
    ramp = np.tile(np.linspace(0, 255, 64), (64, 1))
    frame = fill(VideoFrame(64, 64, name), [ramp * (4 if name == "gray10le" else 1)], "<u2" if "10" in name else "u1")
    assert np.abs(cut_one(frame) - ramp[..., None]).max() <= 4


def cut_of(size: int = 32, **options: Any) -> Cut:
    return Cut(**{"size": size, "share": 1.0, "pixel_format": PixelFormat.YUV420P, **options})


@pytest.mark.parametrize("size", [30, 32, 34])
def test_a_cut_that_is_not_scaled_copies_the_planes(size: int) -> None:
    frame = noise_frame(80, 46)
    cut = cut_of(size, share=size / 46, along_short_side=0.8, along_long_side=0.3)
    box = cut.box(80, 46)
    assert box.side == size
    cutter = FrameCutter(cut, 3, limits=DEFAULT_LIMITS, name="clip")
    cutter.put(0, 2, frame, 0)
    cutter.put(2, 1, noise_frame(80, 46, seed=1), 0)
    pixels = cutter.frames()
    y, u, v = planes_of(frame)
    left, top, half = box.left // 2, box.top // 2, size // 2
    wanted = [y[box.top :, box.left :][:size, :size], *(p[top:, left:][:half, :half] for p in (u, v))]
    assert pixels.shape == (3, size * 3 // 2, size) and pixels.dtype == np.uint8
    assert np.array_equal(pixels[0].reshape(-1), np.concatenate([plane.reshape(-1) for plane in wanted]))
    assert np.array_equal(pixels[0], pixels[1]) and not np.array_equal(pixels[1], pixels[2])


# Sizes whose planes are mirrored by words of 8, 4, 2 and 1 bytes.
@pytest.mark.parametrize("size", [32, 24, 12, 6, 34])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_mirrored_is_the_mirror_image(size: int, share: float) -> None:
    frame = noise_frame(48, 40)
    for pixel_format in PixelFormat:
        plain, mirrored = (
            cut_one(frame, pixel_format, size=size, share=share, is_mirrored=flag).astype(int) for flag in (0, 1)
        )
        if pixel_format is PixelFormat.RGB24:
            assert np.array_equal(mirrored, plain[:, ::-1])
        else:
            assert np.array_equal(as_yuv(mirrored), as_yuv(plain)[:, ::-1])


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (65, 47)])
@pytest.mark.parametrize("pixel_format", list(PixelFormat))
def test_a_turned_frame_is_cut_as_it_is_shown(turns: int, size: tuple[int, int], pixel_format: PixelFormat) -> None:
    width, height = size
    frame = stored_frame(smooth_picture(width, height), "yuv420p")
    upright = stored_frame(np.rot90(smooth_picture(width, height), turns), "yuv420p")
    options: dict[str, Any] = {"size": 32, "share": 32 / min(size), "along_short_side": 0.9, "along_long_side": 0.2}
    ours = cut_one(frame, pixel_format, turns, **options).astype(int)
    wanted = cut_one(upright, pixel_format, **options).astype(int)
    # In frames of odd size the square lies up to one pixel beside.
    assert np.abs(ours - wanted).max() <= (12 if width % 2 else 2)


def test_a_turned_frame_of_noise_is_exact() -> None:
    frame = noise_frame(64, 48)
    upright = VideoFrame(48, 64, "yuv420p")
    fill(upright, [np.rot90(plane).astype(float) for plane in planes_of(frame)], "u1")
    options: dict[str, Any] = {"size": 32, "share": 32 / 48, "along_short_side": 0.3, "along_long_side": 0.9}
    assert np.array_equal(cut_one(frame, turns=1, **options), cut_one(upright, **options))


@pytest.mark.parametrize("stored", [("yuv420p", 2, 0), ("yuv420p", 1, 0), ("yuvj420p", 2, FULL), ("yuv444p", 1, 0)])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_both_pixel_formats_show_the_same(stored: tuple[str, int, int], share: float) -> None:
    frame = stored_frame(smooth_picture(100, 80), *stored)
    for is_mirrored in (False, True):
        rgb, i420 = (cut_one(frame, each, share=share, is_mirrored=is_mirrored) for each in PixelFormat)
        assert np.abs(to_rgb(as_yuv(i420)) - rgb).mean() < 2


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5), (7, 1), (2, 2), (3, 2), (2, 9), (3, 3), (4, 5), (6, 4)])
@pytest.mark.parametrize("name", ["yuv420p", "yuv444p", "rgb24"])
@pytest.mark.parametrize("turns", [0, 1])
def test_tiny_frames(width: int, height: int, name: str, turns: int) -> None:
    rgb = np.broadcast_to(np.array([200.0, 60.0, 30.0]), (height, width, 3))
    for pixel_format in PixelFormat:
        pixels = cut_one(stored_frame(rgb, name), pixel_format, turns, is_mirrored=True)
        shown = pixels.astype(float) if pixel_format is PixelFormat.RGB24 else to_rgb(as_yuv(pixels))
        assert np.abs(shown - rgb[0, 0]).max() <= 4


def test_a_stream_may_change_its_size_and_colours_midway() -> None:
    stored = [("yuv420p", 64, 2), ("yuv420p", 96, 1), ("yuv420p", 96, 1), ("yuvj420p", 48, 2), ("rgb24", 64, 0)]
    for pixel_format in PixelFormat:
        frames = [stored_frame(smooth_picture(size, size), name, matrix) for name, size, matrix in stored]
        cut = Cut(size=48, share=0.5, pixel_format=pixel_format)
        cutter = FrameCutter(cut, len(frames), limits=DEFAULT_LIMITS, name="clip")
        for index, frame in enumerate(frames):
            cutter.put(index, 1, frame, 0)
        together = cutter.frames()
        assert together.shape == (5, *cut.shape)
        for pixels, frame in zip(together, frames, strict=True):
            alone = cut_one(frame, pixel_format, size=48, share=0.5)
            assert np.array_equal(pixels, alone)


def test_more_frames_than_one_image_may_have_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k700_text.media.decode.pictures._TALL_PIXELS", 3 * 32 * 160)
    frames = [noise_frame(32, 32, seed) for seed in range(8)]
    cutter = FrameCutter(cut_of(pixel_format=PixelFormat.RGB24), 8, limits=DEFAULT_LIMITS, name="clip")
    for index, frame in enumerate(frames):
        cutter.put(index, 1, frame, 0)
    assert np.array_equal(cutter.frames(), [cut_one(frame, size=32) for frame in frames])


@pytest.mark.parametrize("side", [50, 66, 100, 130])
def test_scaling_is_the_antialiased_bilinear_of_torchvision(side: int) -> None:
    frame = noise_frame(side, side)
    pixels = cut_one(frame, PixelFormat.YUV420P)
    y = torch.from_numpy(planes_of(frame)[0].astype(np.float32))[None, None]
    wanted = F.interpolate(y, size=(64, 64), mode="bilinear", antialias=True)[0, 0].numpy()
    error = np.abs(pixels[:64] - wanted)
    # At the borders swscale repeats the last pixel, torch leaves out what is not there.
    assert error[1:-1, 1:-1].max() <= 4 and error.mean() < 0.6, (error.max(), error.mean())


def test_frames_above_the_limit_are_refused() -> None:
    cutter = FrameCutter(cut_of(), 1, limits=DecodeLimits(max_pixels=1000), name="bomb.mp4")
    with pytest.raises(DecodeError, match=r"bomb\.mp4: frames of 64x48 pixels are above the limit"):
        cutter.put(0, 1, noise_frame(64, 48), 0)


def test_a_position_that_was_never_written_is_an_error() -> None:
    cutter = FrameCutter(cut_of(), 2, limits=DEFAULT_LIMITS, name="clip")
    cutter.put(0, 1, noise_frame(64, 48), 0)
    with pytest.raises(ValueError, match="never written"):
        cutter.frames()


class TestWholeFrames:
    @pytest.mark.parametrize(("name", "colorspace", "color_range"), STORED)
    def test_colours(self, name: str, colorspace: int, color_range: int) -> None:
        rgb = smooth_picture(120, 100)
        frame = stored_frame(rgb, name, colorspace, color_range)
        scaler = FrameScaler(50, limits=DEFAULT_LIMITS, name="clip")
        pixels = scaler.picture(frame, 0)
        assert pixels.shape == (75, 60) and pixels.dtype == np.uint8
        wanted = np.stack([shrunk(plane, 2, 2) for plane in np.moveaxis(to_yuv(rgb), -1, 0)], axis=-1)
        error = np.abs(pixels[:50] - wanted[..., 0])
        assert error.mean() < 1 and error.max() <= 5
        chroma = pixels[50:].reshape(2, 25, 30)
        error = np.abs(chroma - [shrunk(wanted[..., plane], 2, 2) for plane in (1, 2)])
        assert error.mean() < 1.5 and error.max() <= 6

    def test_what_is_small_enough_is_not_touched(self) -> None:
        frame = noise_frame(33, 21)
        pixels = FrameScaler(256, limits=DEFAULT_LIMITS, name="clip").picture(frame, 0)
        y, u, v = planes_of(frame)
        assert pixels.shape == (30, 32)
        assert np.array_equal(
            pixels.reshape(-1), np.concatenate([p.reshape(-1) for p in (y[:20, :32], u[:10, :16], v[:10, :16])])
        )

    def test_frames_are_turned_and_keep_the_size_of_the_first(self) -> None:
        scaler = FrameScaler(24, limits=DEFAULT_LIMITS, name="clip")
        for turns, size in ((1, (64, 48)), (1, (30, 30)), (0, (64, 48))):
            assert scaler.picture(noise_frame(*size), turns).shape == (48, 24)
        turned = FrameScaler(48, limits=DEFAULT_LIMITS, name="clip").picture(noise_frame(64, 48), 1)
        assert np.array_equal(turned[:64], np.rot90(planes_of(noise_frame(64, 48))[0]))

    @pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 9), (9, 1), (3, 2), (5000, 2)])
    def test_tiny_frames(self, width: int, height: int) -> None:
        rgb = np.broadcast_to(np.array([200.0, 60.0, 30.0]), (height, width, 3))
        for name in ("yuv420p", "rgb24"):
            pixels = FrameScaler(256, limits=DEFAULT_LIMITS, name="clip").picture(stored_frame(rgb, name), 0)
            assert pixels.shape[1] % 2 == 0 and pixels.shape[0] % 3 == 0
            assert np.abs(pixels[: len(pixels) * 2 // 3] - to_yuv(rgb)[0, 0, 0]).max() <= 2

    def test_frames_above_the_limit_are_refused(self) -> None:
        scaler = FrameScaler(256, limits=DecodeLimits(max_pixels=1000), name="bomb.mp4")
        with pytest.raises(DecodeError, match="64x48 pixels"):
            scaler.picture(noise_frame(64, 48), 0)
