"""A picture of some samples: frames in a row, log-mel under them, a line of text above, in whatever script it is."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

from k700_text import Sample
from k700_text.report.lettering import Lettering as Lettering
from k700_text.report.lettering import font_files as font_files
from k700_text.terminal import one_line

_LINE, _GAP, _MARGIN, _TEXT_SIZE = 20, 2, 70, 13


def draw_sheet(samples: Sequence[tuple[Sample, str]], path: Path) -> set[str]:
    """Writes a picture of samples, one above the other, and beside it an HTML page, whose text any browser draws.

    Args:
        samples: with RGB frames, and the line to write above each.
        path: PNG file to write; the page is called like it, ``.html``.

    Returns:
        The characters that the fonts of this machine do not have: boxes in the picture, letters on the page.
    """
    lettering = Lettering(size=_TEXT_SIZE)
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
