"""How stored pictures are shown: mirrored, turned, and of pixels that may be wider than high.

An orientation is one number: so many quarter turns to the left, 0 to 3, and MIRRORED more where the picture is
mirrored left to right before it is turned. All eight ways to put a rectangle on a grid are that.
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import numpy as np
from av.video.frame import VideoFrame

from k700_text.media.clip import Box, FrameArray

MIRRORED = 4
"""Added to the quarter turns of an orientation."""

# The widest pixels of the standards are 2.9 as wide as high (80:33), of old films scanned 4: beyond is damage.
_MAX_PIXEL_ASPECT = 10.0
_MATRIX = struct.Struct("=9i")


class Area(NamedTuple):
    """A rectangle of a frame as it is stored, pixels."""

    left: int
    top: int
    width: int
    height: int


def orientation_of(frame: VideoFrame) -> int:
    """Returns how a decoded frame is mirrored and turned before it is shown, 0 to 7."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None or matrix.buffer_size != _MATRIX.size:
        return 0
    right_x, right_y, _, down_x, down_y, *_ = _MATRIX.unpack(bytes(matrix))
    across, along = math.hypot(right_x, down_x), math.hypot(right_y, down_y)
    if not across or not along:
        return 0  # it leaves no picture to see
    is_mirrored = right_x * down_y < right_y * down_x
    if is_mirrored:
        right_x, right_y = -right_x, -right_y
    turns = round(math.atan2(-right_y / along, right_x / across) / (math.pi / 2)) % 4
    return turns + MIRRORED if is_mirrored else turns


def oriented(pixels: FrameArray, orientation: int) -> FrameArray:
    """Returns a view of pixels (H, W, ...) mirrored and turned as an orientation says."""
    if orientation >= MIRRORED:
        pixels = pixels[:, ::-1]
    return np.rot90(pixels, orientation % MIRRORED)


def is_upended(orientation: int) -> bool:
    """Returns whether the rows of the stored picture are shown as columns."""
    return orientation % 2 == 1


def pixel_aspect_of(stream: Any) -> float:
    """Returns how wide the pixels of a stream are for their height; 1 where it says nothing, or what cannot be."""
    try:
        aspect = float(stream.sample_aspect_ratio or 1)
    except ArithmeticError:
        return 1.0
    return aspect if 1 / _MAX_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT else 1.0


def square_size(width: int, height: int, pixel_aspect: float) -> tuple[int, int]:
    """Returns the size at which a stored picture has square pixels: what is squeezed grows, nothing shrinks."""
    if pixel_aspect >= 1:
        return round(width * pixel_aspect), height
    return width, round(height / pixel_aspect)


def shown_size(width: int, height: int, orientation: int, pixel_aspect: float) -> tuple[int, int]:
    """Returns the size that a stored picture is shown at."""
    width, height = square_size(width, height, pixel_aspect)
    return (height, width) if is_upended(orientation) else (width, height)


def stored_area(box: Box, width: int, height: int, orientation: int) -> Area:
    """Returns where a square of the shown picture lies before that is turned; its corner is even.

    In a turned picture of odd size that is one pixel beside what was asked for.

    Args:
        box: the square, in the picture as it is shown.
        width: of the picture before it is turned, in square pixels.
        height: of the same.
        orientation: of ``orientation_of``.
    """
    right, bottom = box.left + box.side, box.top + box.side
    left, top = (
        (box.left, box.top),
        (width - bottom, box.left),
        (width - right, height - bottom),
        (box.top, height - right),
    )[orientation % MIRRORED]
    if orientation >= MIRRORED:
        left = width - box.side - left
    return Area(left - left % 2, top - top % 2, box.side, box.side)
