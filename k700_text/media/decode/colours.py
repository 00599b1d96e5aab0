"""Pixels in planes, and what their numbers mean: colour matrices and ranges, and changing them by swscale.

Where nothing says which matrix a file uses it is BT.601, and its range limited, as FFmpeg takes it.

Axes: T frames, H height, W width.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from k700_text.media.clip import FrameArray
from k700_text.media.decode.shape import oriented

# AVColorSpace to the matrices that swscale knows; every other one, "unspecified" among them, is taken for BT.601.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
# The weights of red and blue in luma.
_WEIGHTS = {
    Colorspace.ITU601: (0.299, 0.114),
    Colorspace.ITU709: (0.2126, 0.0722),
    Colorspace.FCC: (0.30, 0.11),
    Colorspace.SMPTE240M: (0.212, 0.087),
    Colorspace.BT2020: (0.2627, 0.0593),
}
_PLANAR_420 = frozenset({"yuv420p", "yuvj420p"})
_FULL_RANGE_FORMATS = frozenset({"yuvj411p", "yuvj420p", "yuvj422p", "yuvj440p", "yuvj444p"})


class Tint(NamedTuple):
    """What the numbers of YUV pixels mean."""

    matrix: Colorspace
    range: ColorRange

    @classmethod
    def of(cls, frame: VideoFrame) -> Tint:
        """Returns the colour system of a frame that is YUV."""
        is_full = frame.color_range == ColorRange.JPEG or frame.format.name in _FULL_RANGE_FORMATS
        return cls(_MATRICES.get(frame.colorspace, Colorspace.ITU601), ColorRange.JPEG if is_full else ColorRange.MPEG)


USUAL_TINT = Tint(Colorspace.ITU601, ColorRange.MPEG)
"""BT.601 in limited range: what cut and prepared frames have."""


class Planes(NamedTuple):
    """4:2:0 pixels, uint8: ``y`` (T, H, W), ``u`` and ``v`` (T, H / 2, W / 2), rounded up; T may be missing."""

    y: FrameArray
    u: FrameArray
    v: FrameArray

    @classmethod
    def of(cls, frame: VideoFrame) -> Planes:
        """Returns views of a frame in planar 4:2:0, which they keep alive."""
        return cls(*[rows_of(plane)[:, : plane.width] for plane in frame.planes])

    def cut(self, left: int, top: int, width: int, height: int) -> Planes:
        """Returns views of a part whose corner and size are even."""
        rows, columns = slice(top, top + height), slice(left, left + width)
        half = slice(top // 2, (top + height) // 2), slice(left // 2, (left + width) // 2)
        return Planes(self.y[rows, columns], self.u[half], self.v[half])

    def oriented(self, orientation: int) -> Planes:
        """Returns views mirrored and turned as an orientation says, see ``shape``."""
        return Planes(*(oriented(plane, orientation) for plane in self)) if orientation else self

    def split(self, num_frames: int) -> Planes:
        """Returns views of an image that is that many frames, one below the other."""
        return Planes(*(plane.reshape(num_frames, -1, plane.shape[1]) for plane in self))

    def write(self, source: Planes) -> None:
        """Copies the pixels of other planes into these."""
        for mine, theirs in zip(self, source, strict=True):
            mine[...] = theirs


def as_rgb(frame: VideoFrame, reformatter: VideoReformatter, width: int, height: int) -> FrameArray:
    """Returns a whole frame as stored, uint8 (H, W, 3), full range."""
    tint = tint_of(frame)
    image = reformatter.reformat(
        frame,
        width=width,
        height=height,
        format="rgb24",
        src_colorspace=tint and tint.matrix,
        src_color_range=tint and tint.range,
        dst_color_range=ColorRange.JPEG,
        threads=1,
    )
    pixels: FrameArray = rows_of(image.planes[0])[:, : 3 * width].reshape(height, width, 3)
    return pixels


def as_420(frame: VideoFrame, reformatter: VideoReformatter) -> tuple[Planes, Tint]:
    """Returns a whole frame as stored in 4:2:0 of eight bits, and what its numbers mean; views where it is that."""
    tint = tint_of(frame)
    if tint is None:
        return Planes.of(as_usual(frame, None, reformatter)), USUAL_TINT
    if frame.format.name in _PLANAR_420:
        # Nearly all frames come this way.
        if frame.planes[0].line_size > 0:
            return Planes.of(frame), tint
        # Stored bottom-up, which a change of format sets right.
        frame = _in_format(frame, "yuv444p", tint, reformatter)
    return Planes.of(_in_format(frame, "yuv420p", tint, reformatter)), tint


def _in_format(frame: VideoFrame, pixel_format: str, tint: Tint, reformatter: VideoReformatter) -> VideoFrame:
    """Returns a frame in another format of YUV; what its numbers mean stays."""
    return reformatter.reformat(
        frame,
        format=pixel_format,
        src_colorspace=tint.matrix,
        dst_colorspace=tint.matrix,
        src_color_range=tint.range,
        dst_color_range=tint.range,
        threads=1,
    )


def as_usual(frame: VideoFrame, tint: Tint | None, reformatter: VideoReformatter, **scaling: Any) -> VideoFrame:
    """Returns a frame in planar 4:2:0, BT.601, limited range."""
    return reformatter.reformat(
        frame,
        format="yuv420p",
        src_colorspace=tint and tint.matrix,
        dst_colorspace=USUAL_TINT.matrix,
        src_color_range=tint and tint.range,
        dst_color_range=USUAL_TINT.range,
        threads=1,
        **scaling,
    )


def make_usual(planes: Planes, tint: Tint) -> None:
    """Changes what the numbers of even-sized pixels (T, H, W) mean to BT.601, limited range, in place.

    Exact to rounding: swscale would be 1.6 levels too dark, or mix the colours of frames that lie in one image.
    """
    ours, theirs = _rgb_from_yuv(USUAL_TINT), _rgb_from_yuv(tint)
    change = np.linalg.solve(ours, theirs).astype(np.float32)
    black, usual_black = (0 if each.range == ColorRange.JPEG else 16 for each in (tint, USUAL_TINT))
    for y, u, v in zip(*planes, strict=True):
        blue, red = u.astype(np.float32) - 128, v.astype(np.float32) - 128
        squares = y.reshape(len(u), 2, u.shape[1], 2)
        tinge = change[0, 1] * blue + change[0, 2] * red + (usual_black - change[0, 0] * black)
        _store(squares, squares * change[0, 0] + tinge[:, None, :, None])
        _store(u, change[1, 1] * blue + change[1, 2] * red + 128)
        _store(v, change[2, 1] * blue + change[2, 2] * red + 128)


def _rgb_from_yuv(tint: Tint) -> NDArray[np.float64]:
    """Returns the matrix from Y above black, and Cb and Cr around 128, to red, green and blue of 0 to 1."""
    red, blue = _WEIGHTS[tint.matrix]
    green = 1 - red - blue
    matrix = [
        [1, 0, 2 * (1 - red)],
        [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
        [1, 2 * (1 - blue), 0],
    ]
    return np.array(matrix) / ([255, 255, 255] if tint.range == ColorRange.JPEG else [219, 224, 224])


def _store(target: FrameArray, values: NDArray[np.float32]) -> None:
    values += np.float32(0.5)
    np.clip(values, 0, 255, out=values)
    target[...] = values


def tint_of(frame: VideoFrame) -> Tint | None:
    """Returns the colour system of a frame, None for one that has none: RGB, palettes and grays."""
    return Tint.of(frame) if _is_yuv(frame.format.name) else None


@functools.cache
def _is_yuv(pixel_format_name: str) -> bool:
    pixel_format = VideoFormat(pixel_format_name)
    return not (pixel_format.is_rgb or pixel_format.has_palette) and len(pixel_format.components) >= 3


def rows_of(plane: VideoPlane) -> FrameArray:
    """Returns a view of the rows of a plane, padding included."""
    rows: FrameArray = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    return rows


def new_i420(num_frames: int, height: int, width: int) -> tuple[FrameArray, Planes]:
    """Returns new I420 pixels, uint8 (T, H * 3 / 2, W), of even height and width, and their planes as views."""
    pixels = np.empty((num_frames, height * 3 // 2, width), dtype=np.uint8)
    flat, luma, chroma = pixels.reshape(num_frames, -1), height * width, height * width // 4
    half = (num_frames, height // 2, width // 2)
    return pixels, Planes(
        flat[:, :luma].reshape(num_frames, height, width),
        flat[:, luma : luma + chroma].reshape(half),
        flat[:, luma + chroma :].reshape(half),
    )
