"""A picture of some samples: frames in a row, log-mel under them, a line of text above, in whatever script it is."""

from __future__ import annotations

import base64
import html
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from k700_text import Sample
from k700_text.terminal import one_line

_LINE, _GAP, _MARGIN, _TEXT_SIZE = 20, 2, 70, 13
_NOT_DRAWN = "\u25a1"
# What no font has: the sign for "missing" is drawn in its place.
_NO_CHARACTER = "\uffff"
# The first of these that a machine has are taken first: their letters go together.
_PREFERRED = ("DejaVuSans.", "NotoSans-Regular", "Arial.", "LiberationSans-Regular", "NotoSansCJK-Regular")


@dataclass(slots=True)
class Lettering:
    """Draws text with the fonts of this machine, each character with the first that has it.

    Attributes:
        not_drawn: characters that no font here has; a box stands in their place.
    """

    files: Sequence[Path] | None = None  # None: those of this machine
    not_drawn: set[str] = field(default_factory=set)
    _built_in: ImageFont.FreeTypeFont = field(init=False)
    _fonts: list[ImageFont.FreeTypeFont] = field(default_factory=list)
    _waiting: Iterator[Path] | None = None
    _chosen: dict[str, ImageFont.FreeTypeFont | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._waiting = iter(font_files() if self.files is None else self.files)
        built_in = ImageFont.load_default(_TEXT_SIZE)
        assert isinstance(built_in, ImageFont.FreeTypeFont), "Pillow without FreeType"
        self._built_in = built_in

    def write(self, canvas: ImageDraw.ImageDraw, at: tuple[float, float], text: str) -> None:
        """Writes one line of text, its left end at (x, y) of the top."""
        x, y = at
        for font, part in self._parts(one_line(text)):
            canvas.text((x, y + _TEXT_SIZE), part, fill="black", font=font, anchor="ls")
            x += font.getlength(part)

    def _parts(self, text: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        """Returns the text in parts of one font each, as long as can be: letters of one word change with each other."""
        parts: list[tuple[ImageFont.FreeTypeFont, str]] = []
        for character in text:
            font = self._font_of(character)
            if font is None:
                self.not_drawn.add(character)
                font, character = self._font_of(_NOT_DRAWN) or self._built_in, _NOT_DRAWN
            goes_on = parts and (parts[-1][0] is font or not _is_drawn(character))
            if goes_on:
                parts[-1] = (parts[-1][0], parts[-1][1] + character)
            else:
                parts.append((font, character))
        return parts

    def _font_of(self, character: str) -> ImageFont.FreeTypeFont | None:
        if not _is_drawn(character):
            return self._built_in
        if character not in self._chosen:
            self._chosen[character] = next((font for font in self._all_fonts() if _has(font, character)), None)
        return self._chosen[character]

    def _all_fonts(self) -> Iterator[ImageFont.FreeTypeFont]:
        """Gives the fonts opened so far, then opens more, and last the one of Pillow, which has little but Latin."""
        yield from list(self._fonts)
        for path in self._waiting or ():
            try:
                font = ImageFont.truetype(str(path), _TEXT_SIZE)
            except (OSError, ValueError):  # damaged, of a kind that is not read, or with letters of other sizes only
                continue
            self._fonts.append(font)
            yield font
        yield self._built_in


def _is_drawn(character: str) -> bool:
    """Returns whether a character is more than space or a sign that changes the one before."""
    return not character.isspace() and unicodedata.category(character) not in ("Cf", "Mn", "Me")


def _has(font: ImageFont.FreeTypeFont, character: str) -> bool:
    mask, missing = font.getmask(character), _missing_of(font)
    return (mask.size, bytes(mask)) != missing and any(bytes(mask))


@cache
def _missing_of(font: ImageFont.FreeTypeFont) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(_NO_CHARACTER)
    return mask.size, bytes(mask)


def font_files() -> list[Path]:
    """Returns the font files of this machine, common ones first, upright before bold and slanted."""
    home = Path("~").expanduser()
    data = os.environ.get("XDG_DATA_DIRS", "/usr/local/share:/usr/share").split(":")
    folders = [home / ".fonts", home / ".local/share/fonts", *(Path(folder, "fonts") for folder in data if folder)]
    if sys.platform == "darwin":
        folders = [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    if sys.platform == "win32":
        folders = [Path(os.environ.get("WINDIR", "C:/Windows"), "Fonts")]
    found = {
        Path(folder, name)
        for root in folders
        for folder, _, names in os.walk(root)
        for name in names
        if name.lower().endswith((".ttf", ".otf", ".ttc"))
    }
    return sorted(found, key=_order)


def _order(path: Path) -> tuple[int, bool, str]:
    place = next((number for number, name in enumerate(_PREFERRED) if path.name.startswith(name)), len(_PREFERRED))
    is_styled = any(style in path.name for style in ("Bold", "Italic", "Oblique", "Mono", "Condensed", "Light"))
    return place, is_styled, str(path)


def draw_sheet(samples: Sequence[tuple[Sample, str]], path: Path) -> set[str]:
    """Writes a picture of samples, one above the other, and beside it an HTML page, whose text any browser draws.

    Args:
        samples: with RGB frames, and the line to write above each.
        path: PNG file to write; the page is called like it, ``.html``.

    Returns:
        The characters that the fonts of this machine do not have: boxes in the picture, letters on the page.
    """
    lettering = Lettering()
    rows = [(_draw_sample(sample), line) for sample, line in samples]
    sheet = Image.new("RGB", (_MARGIN + rows[0][0].width, sum(row.height + _LINE for row, _ in rows)), "white")
    canvas = ImageDraw.Draw(sheet)
    top = 0
    for (picture, line), (sample, _) in zip(rows, samples, strict=True):
        side = 2 * sample.video.shape[1]
        lettering.write(canvas, (_GAP, top), line)
        lettering.write(canvas, (_GAP, top + _LINE + side / 2 - _TEXT_SIZE), "frames")
        lettering.write(canvas, (_GAP, top + _LINE + side + sample.log_mel.shape[0] / 2 - _TEXT_SIZE), "log-mel")
        sheet.paste(picture, (_MARGIN, top + _LINE))
        top += _LINE + picture.height
    sheet.save(path)
    path.with_suffix(".html").write_text(_page(rows), encoding="utf-8")
    return lettering.not_drawn


def _page(rows: Sequence[tuple[Image.Image, str]]) -> str:
    figures = "\n".join(
        f'<figure><figcaption dir="auto">{html.escape(one_line(line))}</figcaption>'
        f'<img alt="frames in a row, log-mel under them" src="data:image/png;base64,{_base64(picture)}"></figure>'
        for picture, line in rows
    )
    head = '<!doctype html><meta charset="utf-8"><title>One batch</title>'
    return f'{head}<body style="font-family: sans-serif">\n{figures}\n</body>\n'


def _base64(picture: Image.Image) -> str:
    output = BytesIO()
    picture.save(output, "PNG")
    return base64.b64encode(output.getvalue()).decode()


def _draw_sample(sample: Sample) -> Image.Image:
    num_frames, size = sample.video.shape[:2]
    num_mels = sample.log_mel.shape[0]
    side = 2 * size
    width = num_frames * (side + _GAP) - _GAP
    picture = Image.new("RGB", (width, side + _GAP + num_mels + 8), "white")
    for number, frame in enumerate(sample.video):
        picture.paste(Image.fromarray(frame.numpy()).resize((side, side)), (number * (side + _GAP), 0))
    mel = sample.log_mel.flip(0)  # low notes at the bottom
    gray = ((mel - mel.min()) / (mel.max() - mel.min()).clamp(min=1e-6) * 255).byte()
    picture.paste(Image.fromarray(gray.numpy()).resize((width, num_mels)), (0, side + _GAP))
    return picture
