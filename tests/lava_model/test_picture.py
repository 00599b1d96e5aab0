from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from k700_text import Sample
from lava_model.picture import Lettering, draw_sheet, font_files

RARE_LETTER = "\U00016800"  # of Bamum: Pillow's own font is sure not to have it


def ink(text: str, lettering: Lettering) -> bytes:
    picture = Image.new("L", (600, 30), "white")
    lettering.write(ImageDraw.Draw(picture), (0, 0), text)
    return picture.tobytes()


def lettering_of(lines: list[str]) -> Lettering:
    lettering = Lettering()
    for line in lines:
        ink(line, lettering)
    return lettering


def sample(*, num_frames: int = 3, size: int = 8) -> Sample:
    return Sample(
        video=torch.randint(0, 256, (num_frames, size, size, 3), dtype=torch.uint8),
        log_mel=torch.randn(80, 32),
        token_ids=torch.zeros(4, dtype=torch.int64),
        text_mask=torch.zeros(4, dtype=torch.bool),
        has_video=True,
        has_audio=True,
        has_text=False,
        clip_id="abcdefghijk_000001_000011",
        label="yoga",
    )


def test_latin_is_drawn_without_any_font_of_the_machine() -> None:
    lettering = Lettering(files=[])
    assert ink("circling around", lettering) != ink("circling aroond", lettering)
    assert lettering.not_drawn == set()


def test_a_character_that_no_font_has_is_told_and_a_box_takes_its_place() -> None:
    lettering = Lettering(files=[])
    assert ink(f"a{RARE_LETTER}b", lettering) != ink("ab", lettering)
    assert ink(f"a{RARE_LETTER}b", lettering) == ink("a\u25a1b", lettering)
    assert RARE_LETTER in lettering.not_drawn


@pytest.mark.parametrize("text", ["школа", "مرحبا", "ελληνικά", "日本語", "한국어", "हिन्दी", "ไทย", "😂"])
def test_every_script_is_drawn_if_a_font_has_it_and_told_if_none_has(text: str) -> None:
    lettering = Lettering()
    drawn = ink(text, lettering)
    covers = [path for path in font_files() if _covers(path, text)]
    if covers:
        assert not lettering.not_drawn
        assert drawn != ink("\u25a1" * len(text), lettering)
    else:
        assert lettering.not_drawn & set(text)


def _covers(path: Path, text: str) -> bool:
    """Returns whether a font has all of the characters, by their pictures at another size than the one in use."""
    try:
        font = ImageFont.truetype(str(path), 40)
    except OSError:
        return False
    missing = bytes(font.getmask("\uffff"))
    return all(bytes(font.getmask(letter)) != missing for letter in text)


def test_damaged_fonts_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"\0\1\0\0 no font")
    lettering = Lettering(files=[tmp_path / "broken.ttf", tmp_path / "gone.ttf"])
    ink(RARE_LETTER, lettering)
    assert RARE_LETTER in lettering.not_drawn


def test_the_sheet_has_a_page_whose_text_is_text(tmp_path: Path) -> None:
    lines = ["日本 <b>circling</b> مرحبا", f"no{RARE_LETTER}ne \x1b[2J"]
    missing = draw_sheet([(sample(), line) for line in lines], tmp_path / "batch.png")
    assert missing == lettering_of(lines).not_drawn
    page = (tmp_path / "batch.html").read_text(encoding="utf-8")
    assert "日本 &lt;b&gt;circling&lt;/b&gt; مرحبا" in page and "\x1b" not in page
    assert page.count("<img ") == 2
    with Image.open(tmp_path / "batch.png") as sheet:
        # The left margin of each row names what is to its right.
        named = sheet.convert("L").crop((0, 20, 68, sheet.height // 2))
        assert named.getextrema()[0] < 100
