from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from k700_text.cli.common import emit_table
from k700_text.cli.main import _repeated


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "k700_text", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("crawl --annotations a b c --out o", "crawl --annotations a --annotations b --annotations c --out o"),
        ("crawl --annotations a --annotations b --out o", "crawl --annotations a --annotations b --out o"),
        ("crawl --out o --annotations a b", "crawl --out o --annotations a --annotations b"),
        ("annotations a b --json", "annotations a b --json"),
        ("crawl --annotations", "crawl --annotations"),
        ("", ""),
    ],
)
def test_one_option_takes_several_annotation_files(typed: str, read: str) -> None:
    assert _repeated(typed.split()) == read.split()


def test_several_annotation_files_make_one_manifest(tmp_path: Path) -> None:
    for split in ("train", "val"):
        row = f"yoga,abcdefghijk,1,11,{split}\n"
        (tmp_path / f"{split}.csv").write_text(f"label,youtube_id,time_start,time_end,split\n{row}", encoding="utf-8")
    done = run("manifest", "--annotations", tmp_path / "train.csv", tmp_path / "val.csv", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "train.parquet").exists() and (tmp_path / "val.parquet").exists()


def test_debug_may_stand_anywhere_and_shows_the_traceback(tmp_path: Path) -> None:
    plain = run("annotations", tmp_path / "nowhere.csv")
    debug = run("annotations", tmp_path / "nowhere.csv", "--debug")
    assert plain.returncode == debug.returncode == 1
    assert plain.stderr.count("\n") == 1 and "no such annotation file" in plain.stderr
    assert "Traceback" in debug.stderr and "no such annotation file" in debug.stderr


def test_usage_errors_are_one_line_and_exit_code_2() -> None:
    for words in (["crawl"], ["nonsense"], ["crawl", "--nonsense"], ["validate"]):
        done = run(*words)
        assert done.returncode == 2, words
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


def test_a_table_lists_what_a_value_holds_as_a_person_would(capsys: pytest.CaptureFixture[str]) -> None:
    emit_table("some", [("labels", ["yoga", "archery"]), ("none", []), ("counts", {"a": 1200, "b": ("x", 3)})])
    shown = capsys.readouterr().out
    assert "yoga, archery" in shown and "a: 1,200" in shown and "b: x, 3" in shown
    assert "[" not in shown and "'" not in shown
