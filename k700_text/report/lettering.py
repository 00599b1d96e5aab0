"""Text in pictures, in whatever script it is, by the fonts of this machine; needs Pillow."""

from __future__ import annotations

import math
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

from k700_text.terminal import one_line

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
    size: int = 13
    not_drawn: set[str] = field(default_factory=set)
    _built_in: ImageFont.FreeTypeFont = field(init=False)
    _fonts: list[ImageFont.FreeTypeFont] = field(default_factory=list)
    _waiting: Iterator[Path] | None = None
    _chosen: dict[str, ImageFont.FreeTypeFont | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._waiting = iter(font_files() if self.files is None else self.files)
        built_in = ImageFont.load_default(self.size)
        assert isinstance(built_in, ImageFont.FreeTypeFont), "Pillow without FreeType"
        self._built_in = built_in

    def write(
        self,
        canvas: ImageDraw.ImageDraw,
        at: tuple[float, float],
        text: str,
        *,
        colour: str = "black",
        width: float = math.inf,
    ) -> None:
        """Writes one line of text, its left end at (x, y) of the top, cut with dots to a width in pixels."""
        x, y = at
        for font, part in self._cut(one_line(text), width):
            canvas.text((x, y + self.size), part, fill=colour, font=font, anchor="ls")
            x += font.getlength(part)

    def _cut(self, text: str, width: float) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        parts = self._parts(text)
        while len(text) > 1 and sum(font.getlength(part) for font, part in parts) > width:
            text = text[: max(1, int(len(text) * 0.9) - 1)]
            parts = self._parts(f"{text}…")
        return parts

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
                font = ImageFont.truetype(str(path), self.size)
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
