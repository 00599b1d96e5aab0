"""A sheet as one HTML file: no script, nothing from elsewhere, every text escaped."""

from __future__ import annotations

import base64
import html

from k700_text.report.pictures import jpeg, mel_png
from k700_text.report.sheet import NUM_FRAMES, Sheet, ShownClip
from k700_text.report.words import facts_of, flags_of

# Should anything slip through, a browser still runs nothing and asks nobody.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --pale: #63636a; --ground: #f4f4f6; --card: #fff; --line: #d9d9de;
  --yes: #1b6e3c; --no: #a8241c; --empty: #e6e6ea; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf0; --pale: #a0a0a8; --ground: #121214; --card: #1d1d20;
  --line: #38383d; --yes: #6fd195; --no: #ff8f86; --empty: #2a2a2e; } }
body { margin: 0 auto; padding: 1.5rem; max-width: 110rem; background: var(--ground); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 32rem), 1fr)); }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem; min-width: 0; }
h1 { font-size: 1.1rem; } h2 { font-size: 1rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
p { margin: .3rem 0; overflow-wrap: anywhere; } .pale { color: var(--pale); } .small { font-size: .85em; }
.frames { display: grid; grid-template-columns: repeat(FRAMES, 1fr); gap: 4px; margin: .5rem 0 4px; }
img { display: block; width: 100%; } .mel { height: 5rem; image-rendering: pixelated; }
.empty { background: var(--empty); color: var(--pale); padding: 1rem; text-align: center; margin: .5rem 0 4px; }
.flag { border: 1px solid currentColor; border-radius: 1em; padding: 0 .6em; margin-right: .3em; white-space: nowrap; }
.yes { color: var(--yes); } .no { color: var(--no); } .problem { color: var(--no); }
""".replace("FRAMES", str(NUM_FRAMES))


def sheet_html(sheet: Sheet) -> str:
    """Returns the page."""
    clips = "\n".join(map(_article, sheet.clips))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>Clips</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_text(sheet.about)}</h1>\n<main>\n{clips}\n</main>\n</body>\n</html>\n"
    )


def _article(clip: ShownClip) -> str:
    title, label = clip.row["title"], clip.row["label"]
    heading = _text(title) if title else '<span class="pale">no title</span>'
    flags = "".join(
        f'<span class="flag {"yes" if value == "yes" else "no" if value == "no" else "pale"}">{name}: {value}</span>'
        for name, value in flags_of(clip.row)
    )
    parts = [
        f"<h2>{heading}</h2>",
        f"<p>{_text(label) if label else '<span class=pale>no label</span>'}</p>",
        f'<p class="small">{flags}</p>',
        _frames(clip),
        _mel(clip),
        *(f'<p class="problem small">{_text(problem)}</p>' for problem in clip.problems),
        f'<p class="pale small">{" · ".join(map(_text, facts_of(clip)))}</p>',
    ]
    return "<article>\n" + "\n".join(parts) + "\n</article>"


def _frames(clip: ShownClip) -> str:
    if clip.frames is None:
        return '<div class="empty">no pictures</div>'
    frames = "".join(
        f'<img alt="frame {number + 1}" src="{_data(jpeg(each), "jpeg")}">' for number, each in enumerate(clip.frames)
    )
    return f'<div class="frames">{frames}</div>'


def _mel(clip: ShownClip) -> str:
    if clip.log_mel is None:
        return '<div class="empty">no sound</div>'
    return f'<img class="mel" alt="log-mel spectrogram" src="{_data(mel_png(clip.log_mel), "png")}">'


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _text(text: str) -> str:
    """Returns foreign text for the page: escaped, without control characters, its direction kept to itself."""
    seen = "".join(each if each >= " " and not "\x7f" <= each <= "\x9f" else "?" for each in text)
    return f'<bdi dir="auto">{html.escape(seen.encode("utf-8", "replace").decode())}</bdi>'
