"""A sheet of clips: what is drawn, what is read of it, and that nothing foreign gets out of its place."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from k700_text.cli.main import _invoke
from k700_text.data.clips import ClipSource, clip_source
from k700_text.data.dataset import KineticsAVT
from k700_text.errors import ManifestError, MissingExtraError, UsageError
from k700_text.media.prepare import PrepareRun, run_plan
from k700_text.media.shards import PreparedSettings
from k700_text.report import lettering, pictures, sheet
from k700_text.report.lettering import Lettering
from k700_text.report.page import sheet_html
from k700_text.report.pictures import mel_png, sheet_png
from k700_text.report.sheet import NO_FILE, make_sheet
from tests.k700_text.media_files import clip_id_of, frame_number, make_clip, tone, write_manifest

HOSTILE = [
    "<script>alert(1)</script>",
    "</bdi></article><img src=x onerror=alert(1)>",
    '" onload="alert(1)',
    "&lt;b&gt; &amp; \x1b[31m\x00\x9b",
    "\u202eright to left\u2066",
    "javascript:alert(1) `'",
]


class Tags(HTMLParser):
    """Collects the tags and attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clip 0 is whole, 1 has no sound, 2 is silent, 3 is no clip; of 4 there is no file."""
    root = tmp_path_factory.mktemp("clips")
    make_clip(root / f"{clip_id_of(0)}.mp4", seconds=2.0)
    make_clip(root / f"{clip_id_of(1)}.mp4", seconds=1.0, audio=None)
    make_clip(root / f"{clip_id_of(2)}.mp4", seconds=1.0, audio=tone(1.0, amplitude=0.0))
    (root / f"{clip_id_of(3)}.mp4").write_bytes(b"junk" * 999)
    return root


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows: list[dict[str, Any]] = [
        {"clip_id": clip_id_of(number), "label": f"label {number % 2}", "title": f"title {number}"}
        for number in range(5)
    ]
    return write_manifest(tmp_path_factory.mktemp("manifest") / "train.parquet", rows)


def test_what_is_seen_and_heard(manifest: Path, clips: Path) -> None:
    shown = make_sheet([manifest], str(clips), count=99).clips
    assert [each.row["clip_id"] for each in shown] == [clip_id_of(number) for number in range(5)]
    whole, mute, silent, junk, absent = shown
    assert whole.frames is not None and [round(frame_number(each)) for each in whole.frames] == pytest.approx(
        [6, 18, 31, 43], abs=1
    )
    assert whole.level_dbfs == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.3) and not whole.problems
    assert list(mute.problems) == ["no audio stream"] and mute.frames is not None and mute.log_mel is None
    assert silent.level_dbfs is None and silent.log_mel is not None
    assert junk.frames is None and "no media file" in junk.problems[0]
    assert list(absent.problems) == [NO_FILE]


def test_prepared_shards_tell_what_was_skipped(manifest: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "prepared"
    settings = PreparedSettings(short_side=32, shard_size=10)
    run_plan(PrepareRun(root=clips, out=out, settings=settings, manifests=[manifest], workers=0, num_samples=0))
    shown = make_sheet([manifest], str(out)).clips
    assert shown[0].frames is not None and shown[0].log_mel is not None
    assert shown[3].problems[0].startswith("skipped when clips were prepared: ")
    assert list(shown[4].problems) == [NO_FILE]
    dropped = KineticsAVT(manifest, out).dropped
    assert dropped == {"skipped when clips were prepared": 1, "without a clip file": 1}


def test_a_draw_is_repeatable_and_chooses_by_where(manifest: Path) -> None:
    def drawn(**options: Any) -> list[str]:
        return [each.row["clip_id"] for each in make_sheet([manifest], **options).clips]

    assert drawn(count=2, seed=3) == drawn(count=2, seed=3)
    assert len({tuple(drawn(count=2, seed=seed)) for seed in range(9)}) > 3
    assert drawn(where="label == 'label 1'") == [clip_id_of(1), clip_id_of(3)]
    with pytest.raises(UsageError, match="did you mean has_text"):
        drawn(where="has_txt")
    with pytest.raises(UsageError, match="cannot be read"):
        drawn(where="__import__('os')")
    with pytest.raises(ManifestError, match="no row for which"):
        drawn(where="label == 'none'")


def test_nothing_foreign_is_more_than_text(tmp_path: Path) -> None:
    rows = [
        {"clip_id": clip_id_of(number), "title": text, "label": text, "title_source": text, "availability": text}
        for number, text in enumerate(HOSTILE)
    ]
    manifest = write_manifest(tmp_path / f"{HOSTILE[2]}.parquet".replace("/", ""), rows)
    page = Tags(sheet_html(make_sheet([manifest])))
    known = "html head meta title style body h1 main article h2 p span div bdi img"
    assert {tag for tag, _ in page.tags} <= {*known.split()}
    assert not any(name.startswith("on") or name in ("src", "href") for _, names in page.tags for name in names)
    for text in (HOSTILE[0], HOSTILE[1], HOSTILE[2]):
        assert page.texts.count(text) == 2
    assert not set("".join(page.texts)) & set("\x00\x1b\x9b")
    # Direction marks stay within the element that isolates them.
    assert all(names.get("dir") == "auto" for tag, names in page.tags if tag == "bdi")
    Image.open(io.BytesIO(sheet_png(make_sheet([manifest])))).verify()


def test_silence_is_dark_and_loud_is_light() -> None:
    floor = np.full((80, 256), np.log(1e-6), np.float32)
    tone_mel = floor.copy()
    tone_mel[10] = 0.0
    dark, light = (np.asarray(Image.open(io.BytesIO(mel_png(each))).convert("L")) for each in (floor, tone_mel))
    assert dark.max() < 100 and light[69].min() > 200 and light[:60].max() < 100


@pytest.mark.parametrize("suffix", [".html", ".PNG"])
def test_the_command_writes_a_whole_file(
    suffix: str, manifest: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"sheet{suffix}"
    command = ["show", str(manifest), "--clips", str(clips), "--out", str(out)]
    _invoke([*command, "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["num_clips"] == 5 and set(answer["problems"]) == {clip_id_of(number) for number in (1, 3, 4)}
    if suffix == ".html":
        page = Tags(out.read_text(encoding="utf-8"))
        assert [tag for tag, _ in page.tags].count("article") == 5
        pictures_shown = [str(names["src"]) for tag, names in page.tags if tag == "img"]
        assert len(pictures_shown) == 3 * 4 + 2 and all(each.startswith("data:image/") for each in pictures_shown)
    else:
        with Image.open(out) as picture:
            assert picture.size[0] > 1000
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_what_cannot_be_is_one_line(
    manifest: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"\.html or \.png"):
        _invoke(["show", str(manifest), "--out", "sheet.pdf"])
    with pytest.raises(UsageError, match="no such folder"):
        _invoke(["show", str(manifest), "--clips", str(tmp_path / "absent"), "--out", str(tmp_path / "s.html")])
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install pillow"):
        _invoke(["show", str(manifest), "--out", str(tmp_path / "s.html")])
    shutil.rmtree(tmp_path)


class Crashing:
    """A source of clips of which one kills its reader; clips of others are read as they are."""

    def __init__(self, source: ClipSource, bad: str) -> None:
        self._source, self._bad = source, bad

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def open(self, place: Any, note: Any) -> Any:
        if self._bad in str(place):
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGSEGV)
        return self._source.open(place, note)


@pytest.mark.slow
def test_a_clip_that_kills_its_reader_costs_itself(
    manifest: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheet, "clip_source", lambda *words: Crashing(clip_source(*words), clip_id_of(0)))
    shown = make_sheet([manifest.parent], str(clips), workers=1).clips
    assert (
        shown[0].problems == ["cannot be read: its process died of SIGSEGV, twice"]
        and shown[0].row["title"] == "title 0"
    )
    assert shown[1].frames is not None and shown[2].frames is not None


def test_a_sheet_is_written_with_every_font_of_the_machine(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the letters of pictures elsewhere: where a font has a character, no box stands for it, and lines are cut."""
    used: list[Lettering] = []

    class Noted(Lettering):
        def __post_init__(self) -> None:
            super().__post_init__()
            used.append(self)

    monkeypatch.setattr(lettering, "Lettering", Noted)
    title = "日本語 😂 \U00016800 and more, beyond the width of a clip " * 9
    rows = [{"clip_id": clip_id_of(0), "title": title}]
    picture = Image.open(io.BytesIO(sheet_png(make_sheet([write_manifest(tmp_path / "train.parquet", rows)]))))
    alone = Lettering()
    alone.write(ImageDraw.Draw(Image.new("L", (9, 9))), (0, 0), title)
    assert used[0].not_drawn == alone.not_drawn
    margin = picture.convert("L").crop((picture.width - 16, 22 + 32, picture.width, 22 + 32 + 22))
    assert margin.getextrema() == (255, 255)
