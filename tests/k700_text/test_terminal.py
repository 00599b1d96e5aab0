"""Whatever names, labels, titles and answers of others hold: it reaches no terminal as it is."""

from __future__ import annotations

import io
import json
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from k700_text.cli import main
from k700_text.cli.common import run_guarded
from k700_text.errors import AnnotationError, DecodeError, K700TextError
from k700_text.terminal import one_line, readable, shown
from lava_model import ablate, evaluate, export, pretrain
from lava_model.errors import ConfigError, LavaError
from tests.k700_text.test_manifest_diff import write

# A window's title, a colour, text turned around, one byte that does it all, a line that goes back to its start.
HOSTILE = "\x1b]0;owned\x07\x1b[31mX\u202e\u2066\x9b\u200f\r\x00error: all is well"
FILE_NAME = HOSTILE.replace("\x00", "") + "\n"
STEERING = {"Cc", "Cf", "Zl", "Zp", "Cs"}


def harmful(text: str) -> str:
    return "".join(sign for sign in text if sign != "\n" and unicodedata.category(sign) in STEERING)


def tool(*words: str | Path) -> int:
    return run_guarded(lambda: main._invoke([str(word) for word in words]), debug=False)


def manifest(path: Path, title: str = HOSTILE) -> Path:
    ids = [f"{place:011}" for place in range(3)]
    values = {"title": title, "label": HOSTILE, "title_source": HOSTILE, "availability": HOSTILE}
    return write(path, dict.fromkeys(ids, values))


def of_annotations(folder: Path) -> Path:
    (folder / FILE_NAME).write_text(f"{HOSTILE},b\n1,2\n")
    return folder / FILE_NAME


def of_rows(folder: Path) -> Path:
    rows = f'label,youtube_id,time_start,time_end,split\n"{HOSTILE}",{HOSTILE[:3]},{HOSTILE},9,{HOSTILE}\n'
    (folder / "val.csv").write_text(rows)
    return folder / "val.csv"


def of_archive(folder: Path) -> Path:
    with tarfile.open(folder / "a.tar", "w") as archive:
        member = tarfile.TarInfo(f"{FILE_NAME}val.csv")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"a,b\n"))
    return folder / "a.tar"


def of_clips(folder: Path) -> Path:
    for label in (FILE_NAME, f"{FILE_NAME}2"):
        (folder / "clips" / label).mkdir(parents=True)
        for suffix in (".mp4", ".part", ".odd", ""):
            (folder / "clips" / label / f"{FILE_NAME}{suffix}").write_bytes(b"no clip")
    (folder / "clips" / f"{FILE_NAME}.mkv").symlink_to(FILE_NAME)
    return folder / "clips"


def of_config(folder: Path) -> Path:
    model = folder / FILE_NAME
    model.mkdir()
    (model / "config.json").write_text(json.dumps({HOSTILE: 1, "model": {HOSTILE: HOSTILE}}))
    return model


def table(folder: Path) -> Path:
    pq.write_table(pa.table({HOSTILE: [HOSTILE]}), folder / f"{FILE_NAME}.parquet")
    return folder / f"{FILE_NAME}.parquet"


COMMANDS: dict[str, Callable[[Path], int]] = {
    "annotations: a header": lambda path: tool("annotations", of_annotations(path)),
    "annotations: rows": lambda path: tool("annotations", of_rows(path)),
    "annotations: a member": lambda path: tool("annotations", of_archive(path)),
    "stats: a manifest": lambda path: tool("stats", manifest(path / f"{FILE_NAME}.parquet")),
    "stats: another table": lambda path: tool("stats", table(path)),
    "stats: no file": lambda path: tool("stats", path / FILE_NAME),
    "validate": lambda path: tool("validate", manifest(path / f"{FILE_NAME}.parquet")),
    "diff": lambda path: tool(
        "diff", manifest(path / "a.parquet"), manifest(path / "b.parquet", f"{HOSTILE}2"), "--list"
    ),
    "diff: a line feed": lambda path: tool(
        "diff", manifest(path / "a.parquet"), manifest(path / "b.parquet", "a\nerror: b"), "--list"
    ),
    "probe": lambda path: tool("probe", of_clips(path), "--out", path / "probe.parquet"),
    "prepare": lambda path: tool(
        "prepare", of_clips(path), "--manifest", manifest(path / "m.parquet"), "--out", path / FILE_NAME
    ),
    "tokenizer": lambda path: tool("tokenizer", "--manifest", table(path), "--out", path / FILE_NAME),
    "crawl: an endpoint": lambda path: tool(
        "crawl", "--annotations", of_rows(path), "--out", path / "out", f"--endpoint={HOSTILE}", f"--rate={HOSTILE}"
    ),
    "an option": lambda path: tool("stats", f"--{HOSTILE}"),
    "a command": lambda path: tool(HOSTILE),
    "merge": lambda path: tool("merge", table(path), "--out", path / "out"),
    "pretrain": lambda path: pretrain.main(
        [
            *("--manifest", str(table(path)), "--clips", str(of_clips(path))),
            *("--tokenizer", str(path / FILE_NAME), "--out", str(path / "run"), "--preset", "tiny"),
        ]
    ),
    "pretrain: an option": lambda path: pretrain.main([f"--run.{HOSTILE}", "1"]),
    "pretrain: a value": lambda path: pretrain.main(["--run.max-steps", HOSTILE]),
    "export": lambda path: export.main([str(of_config(path)), "--out", str(path / "out")]),
    "evaluate: a model": lambda path: evaluate.main(
        ["linear-probe", "--checkpoint", str(of_config(path)), "--data", str(of_clips(path))]
    ),
    "evaluate: a task": lambda path: evaluate.main([HOSTILE]),
    "ablate": lambda path: ablate.main([HOSTILE]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_shows_what_steers_a_terminal(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    COMMANDS[name](tmp_path)
    answer, messages = capfd.readouterr()
    assert answer + messages
    assert harmful(answer + messages) == ""
    # The text of others starts no line of its own.
    assert not any(line.startswith("error: all is well") for line in (answer + messages).split("\n"))
    assert messages.count("\nerror: ") + messages.startswith("error: ") <= 1


@pytest.mark.parametrize("root", [K700TextError, LavaError])
def test_the_text_of_every_error_is_one_line_that_steers_nothing(root: type[Exception]) -> None:
    found = [root, *root.__subclasses__()]
    plain = [kind for kind in found if kind.__init__ in (Exception.__init__, root.__init__)]
    assert len(plain) > 3
    for kind in plain:
        text = str(kind(f"cannot read {FILE_NAME}: {HOSTILE}"))
        assert harmful(text) == "" and "\n" not in text and "owned" in text
    assert harmful(str(DecodeError(HOSTILE, path=HOSTILE))) == ""
    assert harmful(str(AnnotationError(HOSTILE, [HOSTILE]))) == ""
    assert harmful(str(ConfigError([HOSTILE, HOSTILE]))) == ""


def test_what_people_write_is_shown_as_it_is() -> None:
    for text in ("日本語 ñandú", "Ünïcödé — “quotes”", "عربى", "ไทย", "🎉"):
        assert one_line(text) == shown(text) == readable(text) == text
    assert shown("a\nb\r\nc") == "a\nb\nc"
    assert one_line("a\tb\nc\u2028d") == "a       b c d"
    assert one_line("\ud800") == "?" and readable("x" * 400).endswith("x...")
    letters = "".join(map(chr, np.random.default_rng(0).integers(32, 0xD800, 5_000)))
    assert harmful(shown(letters)) == ""
