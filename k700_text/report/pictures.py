"""Frames and spectrograms as pictures, and a whole sheet as one PNG; the only user of Pillow here."""

from __future__ import annotations

import importlib.util
import io
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from k700_text.config import AudioConfig
from k700_text.errors import MissingExtraError
from k700_text.report.sheet import FRAME_SIZE, NUM_FRAMES, Sheet, ShownClip
from k700_text.report.words import facts_of, flags_of
from k700_text.terminal import readable

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from k700_text.report.lettering import Lettering

_GAP, _LINE, _MARGIN, _MEL_HEIGHT, _TEXT_SIZE = 8, 22, 16, 96, 15
_WIDTH = NUM_FRAMES * FRAME_SIZE + (NUM_FRAMES - 1) * _GAP
_COLUMNS = 2
_NUM_LINES = 4
_HEIGHT = _NUM_LINES * _LINE + FRAME_SIZE + _GAP + _MEL_HEIGHT + 2 * _GAP
_INK, _PALE, _WRONG, _GROUND, _EMPTY = "#1c1c1e", "#6b6b70", "#b3261e", "white", "#ececef"
# Black, violet, orange, pale yellow: readable without colour too, for it grows lighter throughout.
_COLOURS = np.array([[4, 3, 20], [80, 18, 123], [182, 54, 121], [251, 136, 97], [252, 253, 191]], np.float64)


def jpeg(frame: NDArray[np.uint8]) -> bytes:
    """Returns a frame, uint8 (H, W, 3), as JPEG."""
    return _encoded(_image(frame), "JPEG", quality=85)


def mel_png(log_mel: NDArray[np.float32]) -> bytes:
    """Returns a log-mel spectrogram (M, F) as PNG in colours, low notes at the bottom."""
    return _encoded(_image(_coloured(log_mel)), "PNG")


def sheet_png(sheet: Sheet) -> bytes:
    """Returns a sheet as one PNG, in two columns; boxes are shown for letters that no font of this machine has.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    check_pillow()
    from PIL import Image, ImageDraw

    from k700_text.report.lettering import Lettering

    num_rows = -(-len(sheet.clips) // _COLUMNS)
    num_columns = min(_COLUMNS, len(sheet.clips))
    width = num_columns * (_WIDTH + 2 * _MARGIN)
    picture = Image.new("RGB", (width, _LINE + 2 * _MARGIN + num_rows * (_HEIGHT + _MARGIN)), _GROUND)
    draw, font = ImageDraw.Draw(picture), Lettering(size=_TEXT_SIZE)
    _write(draw, (_MARGIN, _MARGIN), sheet.about, font, _PALE, width)
    for number, clip in enumerate(sheet.clips):
        down, across = divmod(number, _COLUMNS)
        left = _MARGIN + across * (_WIDTH + 2 * _MARGIN)
        _draw(picture, draw, font, (left, _LINE + 2 * _MARGIN + down * (_HEIGHT + _MARGIN)), clip)
    return _encoded(picture, "PNG")


def _draw(picture: Image, draw: ImageDraw, font: Lettering, corner: tuple[int, int], clip: ShownClip) -> None:
    left, top = corner
    title, label = clip.row["title"], clip.row["label"]
    flags = "  ".join(f"{name}: {value}" for name, value in flags_of(clip.row))
    _write(draw, (left, top), title or "(no title)", font, _INK if title else _PALE)
    _write(draw, (left, top + _LINE), f"{label or '(no label)'}    {flags}", font, _INK)
    facts = facts_of(clip)
    for number, part in enumerate((facts[:4], facts[4:]), 2):
        _write(draw, (left, top + number * _LINE), " · ".join(part), font, _PALE)
    top += _NUM_LINES * _LINE
    if clip.frames is None:
        draw.rectangle((left, top, left + _WIDTH - 1, top + FRAME_SIZE - 1), _EMPTY)
    for number, frame in enumerate(() if clip.frames is None else clip.frames):
        picture.paste(_image(frame), (left + number * (FRAME_SIZE + _GAP), top))
    mel_top = top + FRAME_SIZE + _GAP
    if clip.log_mel is None:
        draw.rectangle((left, mel_top, left + _WIDTH - 1, mel_top + _MEL_HEIGHT - 1), _EMPTY)
    else:
        picture.paste(_image(_coloured(clip.log_mel)).resize((_WIDTH, _MEL_HEIGHT)), (left, mel_top))
    for number, problem in enumerate(clip.problems):
        at = top if clip.frames is None else mel_top
        _write(draw, (left + _GAP, at + _GAP + number * _LINE), problem, font, _WRONG)


def _write(
    draw: ImageDraw, place: tuple[int, int], text: str, font: Lettering, colour: str, width: int = _WIDTH
) -> None:
    """Writes one line, cut to the width of a clip."""
    font.write(draw, place, readable(text, None), colour=colour, width=width)


def _coloured(log_mel: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns colours uint8 (M, F, 3): the darkest is the floor of the logarithm, the lightest the loudest of the clip.

    Of a clip that is silent nothing is light: the lightest is 60 dB above the floor at least.
    """
    floor = math.log(AudioConfig().log_floor)
    loudest = max(float(log_mel.max()), floor + 60 * math.log(10) / 10)
    share = np.clip((log_mel[::-1] - floor) / (loudest - floor), 0, 1)
    places = np.linspace(0, 1, len(_COLOURS))
    colours = [np.interp(share, places, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(colours, axis=-1).round().astype(np.uint8)


def check_pillow() -> None:
    """Raises MissingExtraError where Pillow is not installed."""
    if importlib.util.find_spec("PIL") is None:
        raise MissingExtraError("a sheet of clips needs Pillow: pip install pillow")


def _image(pixels: NDArray[np.uint8]) -> Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels))


def _encoded(picture: Image, kind: str, **options: int) -> bytes:
    output = io.BytesIO()
    picture.save(output, kind, **options)
    return output.getvalue()
