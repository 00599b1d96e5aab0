"""From decoded frames to the pixels that are asked for: cut, scaled, turned, mirrored, in one colour system.

Everything becomes 4:2:0 of eight bits in the file's own colour matrix first, and is cut and scaled there, so that both
pixel formats show the same. All frames of a window become RGB in one call of swscale at the end: as one tall image,
which costs a third less than frame by frame.

Axes: T frames, H height, W width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from numpy.typing import NDArray

from k700_text.errors import DecodeError
from k700_text.media.clip import Cut, DecodeLimits, FrameArray, PixelFormat
from k700_text.media.decode.colours import (
    USUAL_TINT,
    Planes,
    Tint,
    as_420,
    as_usual,
    make_usual,
    new_i420,
    rows_of,
    tint_of,
)
from k700_text.media.decode.shape import Area, is_upended, shown_size, square_size, stored_area

# A triangle as wide as the step when shrinking: the antialiased bilinear scaling of torchvision, to 66 dB.
_CUT_SCALING = Interpolation.BILINEAR
# FFmpeg refuses images of more than 2 ** 28 pixels, and counts 128 more to each row.
_TALL_PIXELS = 2**26
_PREPARE_SCALING = Interpolation.BICUBIC
# Changing the matrix of YUV pixels is 1.6 levels too dark without; prepared frames are worth three times the time.
_EXACT_COLOURS = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP


class FrameCutter:
    """Collects the frames of one window, cut as asked for; whoever decodes them.

    Args:
        cut: square, size and pixel format.
        num_frames: T.
        limits: ``max_pixels`` is kept.
        name: of the clip, for messages.
        pixel_aspect: width of a stored pixel for its height.
    """

    def __init__(
        self, cut: Cut, num_frames: int, *, limits: DecodeLimits, name: str, pixel_aspect: float = 1.0
    ) -> None:
        self._cut = cut
        self._pixel_aspect = pixel_aspect
        self._num_frames = num_frames
        self._limits = limits
        self._name = name
        self._tints: list[Tint | None] = [None] * num_frames
        self._to_420, self._to_colours = VideoReformatter(), VideoReformatter()
        self._scalers: dict[tuple[int, int], tuple[VideoReformatter, VideoFrame]] = {}
        self._areas: dict[tuple[int, int, int], Area] = {}
        self._pixels, self._planes = new_i420(num_frames, cut.size, cut.size)

    def put(
        self, first: int, count: int, frame: VideoFrame, orientation: int, pixel_aspect: float | None = None
    ) -> None:
        """Writes the cut of one decoded frame into positions ``first`` to ``first + count - 1``.

        Args:
            first: position.
            count: how many positions show this frame.
            frame: as decoded; not kept.
            orientation: how it is mirrored and turned before it is shown, see ``shape``.
            pixel_aspect: of this frame, where it may change midway; None: as for all.

        Raises:
            DecodeError: the frame has more pixels than the limit.
        """
        check_pixels(frame, self._limits, self._name)
        size = self._square_size(frame.width, frame.height, pixel_aspect or self._pixel_aspect)
        area = self._area(*size, orientation)
        if min(area.width, area.height) < 2:
            planes, tint = self._from_single_pixel(frame, area), USUAL_TINT
        else:
            whole, tint = as_420(frame, self._to_420)
            if size != (frame.width, frame.height):
                # Whole, as prepared shards have it, not the cut alone: its corner would lie between stored pixels.
                whole = self._scaled(whole, *size, _PREPARE_SCALING)
            planes = whole.cut(*area)
            if (area.width, area.height) != (self._cut.size, self._cut.size):
                planes = self._scaled(planes, self._cut.size, self._cut.size, _CUT_SCALING)
        last = first + count
        self._part(first, last).write(planes.oriented(orientation))
        self._tints[first:last] = [tint] * count

    def frames(self) -> FrameArray:
        """Returns the cut frames, uint8 (T, *cut.shape); once, after every position was written."""
        if self._cut.is_mirrored:
            for plane in self._planes:
                _mirror(plane)
        if self._cut.pixel_format is PixelFormat.RGB24:
            pieces = [self._rgb(*stretch) for stretch in self._stretches()]
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        for first, last, tint in self._stretches():
            if tint != USUAL_TINT:
                make_usual(self._part(first, last), tint)
        return self._pixels

    def _area(self, width: int, height: int, orientation: int) -> Area:
        """Returns the part of a frame before it is turned; nearly always that of the frame before."""
        kind = width, height, orientation
        if kind not in self._areas:
            self._areas[kind] = stored_area(self._cut.box(*shown_size(*kind, 1.0)), *kind)
        return self._areas[kind]

    def _square_size(self, width: int, height: int, pixel_aspect: float) -> tuple[int, int]:
        """Returns the size at which a stored frame has square pixels; an even one where that is another."""
        square = square_size(width, height, pixel_aspect)
        if square == (width, height) or min(width, height) < 2:
            return width, height
        check_num_pixels(*square, self._limits, self._name)
        return square[0] - square[0] % 2, square[1] - square[1] % 2

    def _stretches(self) -> Iterator[tuple[int, int, Tint]]:
        """Yields first and last position (exclusive) of frames that are converted together, and their colours."""
        at_once = max(1, _TALL_PIXELS // (self._cut.size * (self._cut.size + 128)))
        end = 0
        # The colours of a stream may change midway.
        for tint, group in itertools.groupby(self._tints):
            if tint is None:
                raise ValueError(f"{self._name}: positions of the window were never written")
            begin, end = end, end + len(list(group))
            for first in range(begin, end, at_once):
                yield first, min(end, first + at_once), tint

    def _scaled(self, planes: Planes, width: int, height: int, interpolation: Interpolation) -> Planes:
        rows, columns = planes.y.shape
        if (columns, rows) not in self._scalers:
            self._scalers[columns, rows] = VideoReformatter(), VideoFrame(columns, rows, "yuv420p")
        scaler, scratch = self._scalers[columns, rows]
        Planes.of(scratch).write(planes)
        image = scaler.reformat(scratch, width=width, height=height, interpolation=interpolation, threads=1)
        return Planes.of(image)

    def _from_single_pixel(self, frame: VideoFrame, area: Area) -> Planes:
        """Returns a square of one colour, of a frame that is one pixel wide or high."""
        colours = self._to_420.reformat(frame, format="rgb24", threads=1).to_ndarray()[area.top, area.left]
        square = np.empty((self._cut.size, self._cut.size, 3), dtype=np.uint8)
        square[...] = colours
        image = VideoFrame.from_ndarray(square, format="rgb24")
        return as_420(image, self._to_colours)[0]

    def _tall(self, first: int, last: int) -> VideoFrame:
        """Returns some of the frames as one image, one below the other."""
        image = VideoFrame(self._cut.size, (last - first) * self._cut.size, "yuv420p")
        Planes.of(image).split(last - first).write(self._part(first, last))
        return image

    def _rgb(self, first: int, last: int, tint: Tint) -> FrameArray:
        image = self._to_colours.reformat(
            self._tall(first, last),
            format="rgb24",
            src_colorspace=tint.matrix,
            src_color_range=tint.range,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
        size = self._cut.size
        plane = image.planes[0]
        # A view where rows are not padded: copying would cost as much as the conversion.
        pixels: FrameArray = rows_of(plane)[:, : 3 * size].reshape(last - first, size, size, 3)
        return pixels

    def _part(self, first: int, last: int) -> Planes:
        return Planes(*(plane[first:last] for plane in self._planes))


class FrameScaler:
    """Turns whole frames into I420 of one even size, the first one's, its short side scaled down to the one given."""

    def __init__(self, short_side: int, *, limits: DecodeLimits, name: str, pixel_aspect: float = 1.0) -> None:
        if short_side < 2 or short_side % 2:
            raise ValueError(f"short_side must be even and at least 2, got {short_side}")
        self._short_side = short_side
        self._pixel_aspect = pixel_aspect
        self._limits = limits
        self._name = name
        self._size: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()

    def picture(self, frame: VideoFrame, orientation: int) -> FrameArray:
        """Returns a frame as it is shown, uint8 (H * 3 / 2, W): I420, BT.601, limited range.

        Raises:
            DecodeError: the frame has more pixels than the limit.
        """
        check_pixels(frame, self._limits, self._name)
        if self._size is None:
            shown = shown_size(frame.width, frame.height, orientation, self._pixel_aspect)
            self._size = _even_size(*shown, self._short_side)
        width, height = self._size
        stored = (height, width) if is_upended(orientation) else (width, height)
        planes = self._planes(frame, stored).oriented(orientation)
        pixels, target = new_i420(1, height, width)
        target.write(planes)
        picture: FrameArray = pixels[0]
        return picture

    def _planes(self, frame: VideoFrame, size: tuple[int, int]) -> Planes:
        width, height = size
        if (frame.width - width, frame.height - height) in ((0, 0), (0, 1), (1, 0), (1, 1)):
            # Of an odd size the last row or column is left out: no pixel is a mixture then.
            planes, meaning = as_420(frame, self._reformatter)
            if meaning == USUAL_TINT:
                return planes.cut(0, 0, width, height)
        tint = tint_of(frame)
        scaling = _PREPARE_SCALING if tint == USUAL_TINT else _PREPARE_SCALING | _EXACT_COLOURS
        image = as_usual(frame, tint, self._reformatter, width=width, height=height, interpolation=scaling)
        return Planes.of(image)


def check_pixels(frame: VideoFrame, limits: DecodeLimits, name: str) -> None:
    """Raises DecodeError if a frame has more pixels than the limit."""
    check_num_pixels(frame.width, frame.height, limits, name)


def check_num_pixels(width: int, height: int, limits: DecodeLimits, name: str) -> None:
    """Raises DecodeError if that is more pixels than the limit."""
    if width * height > limits.max_pixels:
        raise DecodeError(f"{name}: frames of {width}x{height} pixels are above the limit", path=name)


def _even_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    scale = min(1.0, short_side / min(width, height))
    if scale == 1.0:
        return max(2, width - width % 2), max(2, height - height % 2)
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))


def _mirror(plane: FrameArray) -> None:
    """Mirrors images (..., H, W) left to right, in place."""
    width = plane.shape[-1]
    for size in (8, 4, 2):
        if width % size == 0:
            # Whole words backwards and their bytes swapped: 2.6 times as fast as byte by byte.
            words: NDArray[Any] = plane.view(f"<u{size}")
            words[...] = words[..., ::-1].byteswap()
            return
    plane[...] = plane[..., ::-1].copy()
