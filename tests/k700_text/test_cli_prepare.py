"""The command: what it prints, the codes it ends with, and its failures in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from k700_text.cli.main import _invoke
from k700_text.errors import ConfigError, StorageError, UsageError
from tests.k700_text.media_files import clip_id_of, make_clip, write_manifest
from tests.k700_text.preparing import make_clips, prepare_here

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ["--shard-size", "3", "--short-side", "32", "--workers", "1"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli")
    make_clips(root)
    prepare_here(root / "clips", root / "out", root / "manifest.parquet", shard_size=3, short_side=32)
    return root


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    _invoke(["prepare", *map(str, words), "--json"])
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_plan_prints_what_it_would_cost_and_writes_nothing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prepare", world / "clips", "--out", tmp_path / "out", "--manifest", world / "manifest.parquet", *SMALL]
    _invoke([*map(str, words), "--sample", "3", "--plan"])
    text = capsys.readouterr().out
    for part in ("9 in 4 shards", "3 clips", "PSNR", "SSIM", "kB", "CPU-s", "video encoder", "MB of disk", "workers"):
        assert part in text, text
    assert not (tmp_path / "out").exists()


def test_a_whole_run_and_one_with_nothing_to_do(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [world / "clips", "--out", tmp_path / "out", "--manifest", world / "manifest.parquet", *SMALL]
    first = answer(capsys, *words, "--sample", "2")
    assert (first["command"], first["version"], first["out"]) == ("prepare", 1, str(tmp_path / "out"))
    counts = ("num_clips", "num_done", "num_skipped", "num_missing", "num_repeated", "num_left")
    assert [first[name] for name in counts] == [11, 7, 2, 1, 1, 0]
    assert first["num_shards"] == 4 and first["estimate"]["num_sampled"] == 2
    again = answer(capsys, *words)
    assert again["estimate"]["num_pending"] == 0 and again["num_done"] == 7
    _invoke(["prepare", *map(str, words)])
    assert "of these with something lost" in capsys.readouterr().out


def test_verify_finds_nothing_and_then_the_damaged_clip(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    prepare_here(world / "clips", out, world / "manifest.parquet", shard_size=3, short_side=32)
    assert answer(capsys, "--out", out, "--verify", "--workers", "1")["damage"] == []
    path = out / "val-000000.tar"
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    path.write_bytes(data)
    words = [sys.executable, "-m", "k700_text", "prepare", "--out", out, "--verify", "--workers", "1"]
    checked = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 1 and checked.stderr.count("\n") == 1
    assert clip_id_of(4) in checked.stdout and "checksums do not fit" in checked.stdout


def test_several_manifests_may_follow_one_option(world: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    manifests = []
    for number, split in enumerate(("train", "val")):
        make_clip(clips / f"{clip_id_of(number)}.mp4", seconds=1.0)
        rows = [{"clip_id": clip_id_of(number), "split": split}]
        manifests.append(write_manifest(tmp_path / f"{split}.parquet", rows))
    words = [sys.executable, "-m", "k700_text", "prepare", clips, "--out", tmp_path / "out", "--sample", "0"]
    done = subprocess.run(
        [*words, "--json", "--workers", "1", "--manifest", *manifests],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_done"] == 2
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["train-000000.tar", "val-000000.tar"]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--out", "OUT"], UsageError, "name the folder of clips"),
        (["absent", "--out", "OUT"], UsageError, "absent: no such folder"),
        (["CLIPS", "--out", "OUT", "--quality", "best"], UsageError, "unknown quality 'best'"),
        (["CLIPS", "--out", "OUT", "--audio", "mp3"], ConfigError, "audio must be 'log-mel' or 'pcm16'"),
        (["CLIPS", "--out", "OUT", "--short-side", "255"], ConfigError, "short_side must be even"),
        (["CLIPS", "--out", "OUT", "--engine", "x"], UsageError, "unknown engine 'x'"),
        (["CLIPS", "--out", "PREPARED", "--quality", "fine"], UsageError, "holds shards with short_side 32"),
        (["--out", "OUT", "--verify"], StorageError, "no prepared shards there"),
    ],
)
def test_mistakes_are_one_clear_line(
    world: Path, tmp_path: Path, words: list[str], error: type[Exception], message: str
) -> None:
    places = {"OUT": tmp_path / "out", "CLIPS": world / "clips", "PREPARED": world / "out"}
    with pytest.raises(error, match=message):
        _invoke(["prepare", *(str(places.get(word, word)) for word in words)])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e10", "0"])
def test_a_time_limit_is_one_that_a_clock_can_hold(world: Path, tmp_path: Path, seconds: str) -> None:
    with pytest.raises(typer.Exit) as ended:
        _invoke(["prepare", str(world / "clips"), "--out", str(tmp_path / "out"), "--clip-timeout", seconds])
    assert ended.value.exit_code == 2 and not (tmp_path / "out").exists()
