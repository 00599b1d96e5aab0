from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from k700_text.cli.steps import Steps
from k700_text.errors import K700TextError
from lava_model import Lava, demo


def run_demo(out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lava_model.demo", "--small", "--json", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )


@pytest.mark.slow
def test_the_whole_chain_and_the_whole_chain_again(tmp_path: Path) -> None:
    out = tmp_path / "demo run"
    first = run_demo(out)
    assert first.returncode == 0, first.stderr
    summary = json.loads(first.stdout)
    assert summary["crawl_train"]["titles_by_source"]["data-api"] > 0
    assert summary["crawl_val"]["titles_by_source"]["oembed"] > 0
    assert summary["stats"]["num_complete"] > 0 and summary["pretrain"]["finished"]
    assert set(summary["probe_result"]["scores"]) == {"learned", "trunk_only", "random_init"}
    assert (out / "batch.png").stat().st_size > 10_000 and (out / "summary.json").exists()
    assert pq.read_table(out / "titles" / "train.parquet").num_rows == summary["stats"]["clips_by_split"]["train"]
    assert Lava.from_pretrained(out / "run" / "export").config.num_frames == 8
    manifest = (out / "titles" / "train.parquet").read_bytes()

    second = run_demo(out)
    assert second.returncode == 0, second.stderr
    assert f"continuing {out}" in second.stderr and second.stderr.count("(finished before") == 10
    again = json.loads(second.stdout)
    assert {**again, "seconds": 0} == {**summary, "seconds": 0}

    # A clip that went is made again, and what rests on the clips looks at them again; each finds the rest done.
    sorted((out / "sandbox" / "clips").rglob("*.mp4"))[0].unlink()
    third = run_demo(out)
    assert third.returncode == 0, third.stderr
    again = json.loads(third.stdout)
    assert again["sandbox"]["clip_files"]["written"] == again["probe"]["num_measured"] == 1
    assert "is finished at step" in third.stderr
    assert again["probe_result"]["scores"] == summary["probe_result"]["scores"]
    assert (out / "titles" / "train.parquet").read_bytes() == manifest


def test_what_every_step_needs_is_checked_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "NEEDED_PACKAGES", ("torch", "no_such_package", "another_one"))
    assert demo.main(["--out", str(tmp_path / "run")]) == 1
    shown = capsys.readouterr().err
    assert "error: the demo needs no_such_package, another_one: pip install 'k700-text[train]'" in shown
    assert not (tmp_path / "run").exists()


def test_a_step_that_fails_is_named_with_its_exit_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps = Steps(total=3)
    with pytest.raises(K700TextError, match=r"step 1 \(count\) ended with exit code 1"):
        steps.run("count", ["k700_text", "annotations", tmp_path / "no where.csv"], environment={"SOME": "thing"})
    shown = capfd.readouterr().err
    assert "[1/3] count" in shown
    assert f"$ SOME=thing k700-text annotations '{tmp_path}/no where.csv'" in shown
    assert "no such annotation file" in shown


def test_a_step_returns_the_answer_of_its_command(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("label,youtube_id,time_start,time_end,split\nyoga,abcdefghijk,1,11,train\n", encoding="utf-8")
    assert Steps(total=1).run("count", ["k700_text", "annotations", path])["clips"] == 1
