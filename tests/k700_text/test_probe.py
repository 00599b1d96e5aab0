from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from k700_text.cli.main import _invoke
from k700_text.errors import ConfigError, UsageError
from k700_text.media import probe as probe_module
from k700_text.media.levels import from_dbfs, rms, to_dbfs
from k700_text.media.pool import each_result
from k700_text.media.probe import ProbeSettings, probe_clip, probe_folder
from k700_text.schema import PROBE_SCHEMA, PROBE_SETTINGS_KEY, read_table
from tests.k700_text.media_files import FIGHT, SAMPLES, make_clip, needs_samples, tone


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    noise = np.random.default_rng(0).normal(0, 1e-4, 88_200).astype(np.float32)
    make_clip(root / "usable.mp4")
    make_clip(root / "mute.mp4", audio=None)
    make_clip(root / "silent.mp4", audio=np.zeros(88_200, dtype=np.float32))
    make_clip(root / "deep" / "quiet.mp4", audio=noise)
    make_clip(root / "half.mp4", audio=tone(1.0))
    (root / "bad.mp4").write_bytes(b"no film" * 50)
    (root / "empty.mp4").touch()
    return root


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    return {row["clip_file"]: row for row in read_table(path, PROBE_SCHEMA).to_pylist()}


def test_every_kind_of_clip_gets_its_status(clips: Path, tmp_path: Path) -> None:
    summary = probe_folder(clips, tmp_path / "probe.parquet")
    rows = rows_of(tmp_path / "probe.parquet")
    assert {name: (row["video_status"], row["audio_status"]) for name, row in rows.items()} == {
        "bad.mp4": ("undecodable", "undecodable"),
        "deep/quiet.mp4": ("usable", "near_silent"),
        "empty.mp4": ("undecodable", "undecodable"),
        "half.mp4": ("usable", "partial"),
        "mute.mp4": ("usable", "no_stream"),
        "silent.mp4": ("usable", "silent"),
        "usable.mp4": ("usable", "usable"),
    }
    assert list(rows) == sorted(rows)
    assert rows["empty.mp4"]["reason"] == "the file is empty" and rows["empty.mp4"]["file_bytes"] == 0
    assert (summary.num_files, summary.num_measured, summary.num_reused) == (7, 7, 0)
    assert summary.video_status == {"usable": 5, "undecodable": 2}


def test_figures_are_those_of_the_clip(clips: Path) -> None:
    probe = probe_clip(clips / "usable.mp4", clips)
    assert (probe.num_frames, probe.width, probe.height) == (50, 64, 48)
    assert probe.frame_rate == pytest.approx(25.0)
    assert probe.clip_duration_seconds == pytest.approx(2.0)
    assert (probe.audio_sample_rate, probe.audio_channels) == (44_100, 1)
    assert probe.audio_rms_dbfs == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=0.4)
    assert probe.audio_peak_dbfs == pytest.approx(20 * math.log10(0.5), abs=1.0)
    assert probe.audio_silent_fraction == pytest.approx(0.0, abs=0.03)
    silent = probe_clip(clips / "silent.mp4", clips)
    assert (silent.audio_rms_dbfs, silent.audio_peak_dbfs, silent.audio_silent_fraction) == (None, None, 1.0)


def test_half_a_clip_of_sound_is_half_silent(tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4", audio=np.concatenate([tone(1.0), np.zeros(44_100, dtype=np.float32)]))
    probe = probe_clip(tmp_path / "a.mp4", tmp_path)
    assert probe.audio_status == "usable" and probe.audio_silent_fraction == pytest.approx(0.5, abs=0.04)


def test_a_vanished_file_is_missing(tmp_path: Path) -> None:
    probe = probe_clip(tmp_path / "gone.mp4", tmp_path)
    assert (probe.video_status, probe.audio_status, probe.file_bytes) == ("missing", "missing", None)


def test_thresholds_decide_and_are_recorded(clips: Path, tmp_path: Path) -> None:
    settings = ProbeSettings(silence_dbfs=-5.0, min_covered_share=0.3)
    probe_folder(clips, tmp_path / "probe.parquet", settings)
    rows = rows_of(tmp_path / "probe.parquet")
    assert rows["usable.mp4"]["audio_status"] == "near_silent"
    recorded = pq.read_schema(tmp_path / "probe.parquet").metadata[PROBE_SETTINGS_KEY]
    assert json.loads(recorded)["silence_dbfs"] == -5.0


@pytest.mark.parametrize("values", [{"silence_dbfs": 3.0}, {"min_covered_share": 1.5}, {"block_seconds": 0.0}])
def test_settings_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        ProbeSettings(**values)


def test_a_second_run_decodes_only_what_changed(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = tmp_path / "clips", tmp_path / "probe.parquet"
    root.mkdir()
    for name in ("mute.mp4", "usable.mp4", "silent.mp4", "bad.mp4"):
        (root / name).write_bytes((clips / name).read_bytes())
    probe_folder(root, out)
    first = out.read_bytes()
    decoded: list[str] = []
    monkeypatch.setattr(
        probe_module, "probe_clip", lambda path, *rest: decoded.append(Path(path).name) or probe_clip(path, *rest)
    )
    assert probe_folder(root, out).num_reused == 4 and decoded == []
    assert out.read_bytes() == first
    (root / "mute.mp4").write_bytes((clips / "half.mp4").read_bytes())
    (root / "silent.mp4").unlink()
    summary = probe_folder(root, out)
    assert decoded == ["mute.mp4"] and summary.num_files == 3
    assert rows_of(out)["mute.mp4"]["audio_status"] == "partial"
    probe_folder(root, out, ProbeSettings(min_covered_share=0.2))
    assert len(decoded) == 4


def test_the_number_of_workers_and_kills_do_not_change_a_byte(clips: Path, tmp_path: Path) -> None:
    probe_folder(clips, tmp_path / "one.parquet")
    probe_folder(clips, tmp_path / "two.parquet", workers=2)
    whole = (tmp_path / "one.parquet").read_bytes()
    assert (tmp_path / "two.parquet").read_bytes() == whole
    # What a kill -9 leaves: no Parquet file, and a journal whose last line is torn.
    notes = (tmp_path / "one.parquet.journal").read_bytes().splitlines(keepends=True)
    (tmp_path / "three.parquet.journal").write_bytes(b"".join(notes[:4]) + notes[4][:30])
    summary = probe_folder(clips, tmp_path / "three.parquet")
    assert (summary.num_reused, summary.num_measured) == (3, 4)
    assert (tmp_path / "three.parquet").read_bytes() == whole


def test_an_interrupted_run_keeps_what_it_finished(clips: Path, tmp_path: Path) -> None:
    def stop_after_two(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe_folder(clips, tmp_path / "probe.parquet", on_progress=stop_after_two)
    assert not (tmp_path / "probe.parquet").exists()
    assert probe_folder(clips, tmp_path / "probe.parquet").num_reused == 2


def _die_of_odd(number: int) -> int:
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * 10


def test_a_crash_costs_one_job() -> None:
    results = dict(each_result(_die_of_odd, [(0,), (1,), (2,), (4,)], workers=2))
    assert results == {0: 0, 1: None, 2: 20, 3: 40}


def test_missing_and_empty_folders_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        probe_folder(tmp_path / "absent", tmp_path / "out.parquet")
    with pytest.raises(UsageError, match="holds no clip files"):
        probe_folder(tmp_path, tmp_path / "out.parquet")
    with pytest.raises(UsageError, match="create it first"):
        make_clip(tmp_path / "a.mp4", 0.2)
        probe_folder(tmp_path, tmp_path / "absent" / "out.parquet")


def test_the_command_prints_one_json_object(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "probe.parquet"
    _invoke(["probe", str(clips), "--out", str(out), "--workers", "1", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["command"] == "probe" and answer["num_files"] == 7
    assert answer["audio_status"]["no_stream"] == 1 and out.exists()


def test_ctrl_c_is_quiet_and_leaves_finished_work(clips: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "clips", tmp_path / "probe.parquet"
    root.mkdir()
    content = (clips / "usable.mp4").read_bytes()
    for number in range(1500):
        (root / f"{number:04d}.mp4").write_bytes(content)
    command = [sys.executable, "-c", "from k700_text.cli.main import run; run()", "probe", str(root), "--out", str(out)]
    run = subprocess.Popen(
        [*command, "--workers", "2"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    journal = tmp_path / "probe.parquet.journal"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not journal.exists() or journal.read_bytes().count(b"\n") < 20):
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Traceback" not in errors and "interrupted" in errors
    assert journal.read_bytes().count(b"\n") >= 20 and not out.exists()


def test_a_file_name_that_is_no_text_is_measured_once(tmp_path: Path) -> None:
    root = tmp_path / "clips"
    root.mkdir()
    (root / os.fsdecode(b"lat\xe9.mp4")).write_bytes(b"no film")
    out = tmp_path / "probe.parquet"
    assert probe_folder(root, out).num_measured == 1
    assert probe_folder(root, out).num_measured == 0
    assert list(rows_of(out)) == ["lat\\xe9.mp4"]


def test_an_output_that_is_a_folder_is_refused_before_the_work(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        probe_folder(clips, tmp_path)
    assert list(tmp_path.parent.glob("*.journal")) == []


def test_sigterm_ends_as_ctrl_c_does(tmp_path: Path) -> None:
    root = tmp_path / "clips"
    root.mkdir()
    for index in range(3):
        make_clip(root / f"{index}.mp4")
    program = (
        "import os, signal\n"
        "from k700_text.media import probe\n"
        "measure = probe.probe_clip\n"
        "def stopped(path, *others):\n"
        "    if path.endswith('1.mp4'): os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return measure(path, *others)\n"
        "probe.probe_clip = stopped\n"
        "from k700_text.cli.main import run\n"
        "run()"
    )
    arguments = ["probe", str(root), "--out", str(tmp_path / "p.parquet"), "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.count("interrupted:") == 1 and "Traceback" not in done.stderr
    assert probe_folder(root, tmp_path / "p.parquet").num_reused == 1


def test_levels() -> None:
    assert to_dbfs(1.0) == 0 and to_dbfs(0.0) is None
    assert from_dbfs(-20.0) == pytest.approx(0.1)
    assert rms(np.array([3.0, -4.0], dtype=np.float32)) == pytest.approx(math.sqrt(12.5))
    assert rms(np.zeros(0, dtype=np.float32)) == 0


class TestRealFiles:
    pytestmark = needs_samples

    def test_the_audio_truth_of_all_sixty_clips(self, tmp_path: Path) -> None:
        probe_folder(FIGHT, tmp_path / "probe.parquet", workers=2)
        rows = rows_of(tmp_path / "probe.parquet")
        with (FIGHT / "manifest.csv").open(encoding="utf-8", newline="") as file:
            truth = list(csv.DictReader(file))
        assert len(truth) == 60
        for clip in truth:
            expected = "usable" if float(clip["audio_peak"] or 0) > 0 else "silent"
            row = rows[clip["clip"]]
            assert row["audio_status"] == (expected if clip["has_audio"] == "True" else "no_stream"), clip
            assert row["video_status"] == "usable"
            assert row["num_frames"] == int(clip["frames"])
            assert (row["width"], row["height"]) == (int(clip["w"]), int(clip["h"]))
            if expected == "usable":
                assert from_dbfs(row["audio_rms_dbfs"]) == pytest.approx(float(clip["audio_rms"]), rel=0.01)

    def test_samples_of_other_projects(self, tmp_path: Path) -> None:
        probe_folder(SAMPLES, tmp_path / "probe.parquet", workers=2)
        rows = rows_of(tmp_path / "probe.parquet")
        damaged = rows.pop("decord/corrupted.mp4")
        assert (damaged["video_status"], damaged["num_frames"]) == ("partial", 28)
        assert {row["video_status"] for row in rows.values()} == {"usable"}
        assert (rows["decord/video_90.mov"]["width"], rows["decord/video_90.mov"]["height"]) == (320, 568)
        opus = rows["decord/flipping_a_pancake.mkv"]
        assert (opus["audio_status"], opus["audio_channels"], opus["audio_sample_rate"]) == ("usable", 1, 48_000)
