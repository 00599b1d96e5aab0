from __future__ import annotations

import csv
import ctypes
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from k700_text.cli.common import run_guarded
from k700_text.cli.main import _invoke
from k700_text.errors import ConfigError, UsageError
from k700_text.files.plain import open_plain
from k700_text.media import packet_tables
from k700_text.media import probe as probe_module
from k700_text.media.decode import packets_of
from k700_text.media.levels import from_dbfs, to_dbfs
from k700_text.media.measure import ProbeSettings, kind_of, probe_clip
from k700_text.media.packet_index import PacketIndex
from k700_text.media.packet_tables import PacketSummary
from k700_text.media.probe import ProbeOptions, look_at, probe_folder
from k700_text.schema import PROBE_SCHEMA, PROBE_SETTINGS_KEY, read_table
from tests.k700_text.media_files import FIGHT, REAL_DATA, SAMPLES, make_clip, needs_samples, tone, write_manifest


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
    assert rows["half.mp4"]["reason"] == "the audio covers only a part: 1.0 of 2.0 s"
    assert rows["deep/quiet.mp4"]["reason"].startswith("the audio is nearly silent: -")
    assert all((row["reason"] is None) == (name == "usable.mp4") for name, row in rows.items())
    assert summary.reasons["the audio covers only a part"] == summary.reasons["the audio is nearly silent"] == 1
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
    probe_folder(clips, tmp_path / "two.parquet", options=ProbeOptions(workers=2))
    whole = (tmp_path / "one.parquet").read_bytes()
    assert (tmp_path / "two.parquet").read_bytes() == whole
    # What a kill -9 leaves: no Parquet file, and a journal whose last line is torn.
    notes = (tmp_path / ".one.parquet.journal").read_bytes().splitlines(keepends=True)
    (tmp_path / ".three.parquet.journal").write_bytes(b"".join(notes[:4]) + notes[4][:30])
    summary = probe_folder(clips, tmp_path / "three.parquet")
    assert (summary.num_reused, summary.num_measured) == (3, 4)
    assert (tmp_path / "three.parquet").read_bytes() == whole


def test_an_interrupted_run_keeps_what_it_finished(clips: Path, tmp_path: Path) -> None:
    def stop_after_two(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe_folder(clips, tmp_path / "probe.parquet", on_progress=stop_after_two)
    assert not (tmp_path / "probe.parquet").exists()
    assert probe_folder(clips, tmp_path / "probe.parquet").num_reused == 2


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


def start(root: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    program = "from k700_text.cli.main import run; run()"
    return subprocess.Popen(
        [sys.executable, "-c", program, "probe", str(root), "--out", str(out), "--workers", "2", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_lines(journal: Path, num_lines: int, run: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < num_lines:
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < deadline, "it does not get that far"
        time.sleep(0.02)


@pytest.fixture
def many(clips: Path, tmp_path: Path) -> Path:
    """A folder of so many clips that a run can be stopped in the midst of it."""
    root = tmp_path / "many"
    root.mkdir()
    content = (clips / "usable.mp4").read_bytes()
    for number in range(500):
        (root / f"{number:04d}.mp4").write_bytes(content)
    return root


def test_ctrl_c_is_quiet_and_leaves_finished_work(many: Path, tmp_path: Path) -> None:
    out, journal = tmp_path / "probe.parquet", tmp_path / ".probe.parquet.journal"
    run = start(many, out)
    wait_for_lines(journal, 20, run)
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Traceback" not in errors and errors.count("interrupted:") == 1
    assert journal.read_bytes().count(b"\n") >= 20 and not out.exists()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_killed_run_goes_on_where_it_was(many: Path, tmp_path: Path, number: signal.Signals) -> None:
    out, index = tmp_path / "probe.parquet", tmp_path / "clips.packets"
    run = start(many, out, "--packets", str(index))
    wait_for_lines(tmp_path / ".clips.packets.journal", 20, run)
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == (130 if number == signal.SIGTERM else -9) and "Traceback" not in errors
    assert not out.exists() and not index.exists()
    for path in sorted(many.iterdir())[60:]:
        path.unlink()
    lines = (tmp_path / ".clips.packets.journal").read_text().splitlines()[1:]
    noted = {line.partition('"clip_file": "')[2].partition('"')[0] for line in lines}
    summary = probe_folder(many, out, options=ProbeOptions(packets=index))
    assert summary.num_files == 60 and summary.num_reused >= len(noted & {f"{n:04d}.mp4" for n in range(60)}) > 0
    assert summary.packets is not None and summary.packets.num_indexed == 60
    probe_folder(many, tmp_path / "new.parquet", options=ProbeOptions(packets=tmp_path / "new.packets"))
    assert (tmp_path / "new.parquet").read_bytes() == out.read_bytes()
    assert (tmp_path / "new.packets").read_bytes() == index.read_bytes()


def test_a_file_that_hangs_or_crashes_the_decoder_has_a_reason(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = tmp_path / "clips", tmp_path / "probe.parquet"
    root.mkdir()
    for name in ("a_usable.mp4", "hangs.mp4", "kills.mp4", "usable.mp4"):
        (root / name).write_bytes((clips / "usable.mp4").read_bytes())
    monkeypatch.setattr(probe_module, "look_at", look_at_what_hangs_and_kills)
    monkeypatch.setattr(probe_module, "GRACE_SECONDS", 1.0)
    options = ProbeOptions(workers=2, packets=tmp_path / "clips.packets")
    summary = probe_folder(root, out, ProbeSettings(max_seconds=3.0), options)
    assert {name: row["reason"] for name, row in rows_of(out).items()} == {
        "a_usable.mp4": None,
        "hangs.mp4": "the decoder's process was stopped: it took more than 4 s",
        "kills.mp4": "the decoder's process was killed, perhaps for the memory it took, twice",
        "usable.mp4": None,
    }
    assert summary.reasons["the decoder's process was stopped"] == 1 and summary.video_status["undecodable"] == 2
    assert summary.packets is not None and summary.packets.num_indexed == 2


def look_at_what_hangs_and_kills(path: str, *others: Any) -> Any:
    if path.endswith("hangs.mp4"):
        ctypes.PyDLL(None).sleep(100)
    if path.endswith("kills.mp4"):
        os.kill(os.getpid(), signal.SIGKILL)
    return look_at(path, *others)


def test_a_disk_that_is_full_is_one_line(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, journal = tmp_path / "p.parquet", tmp_path / ".p.parquet.journal"
    probe_folder(clips, out)
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])

    def open_on_a_full_disk(path: Path, flags: int) -> int:
        return os.open("/dev/full", flags) if flags & os.O_APPEND else open_plain(path, flags)

    monkeypatch.setattr("k700_text.files.journal.open_plain", open_on_a_full_disk)
    words = ["probe", str(clips), "--out", str(out), "--workers", "1"]
    assert run_guarded(lambda: _invoke(words), debug=False) == 1
    errors = capsys.readouterr().err
    assert (
        errors.startswith(f"error: no space left on the device {journal}: free some space") and errors.count("\n") == 1
    )


def test_reasons_are_counted_by_kind() -> None:
    assert kind_of("the audio covers only a part: 4.1 of 10.0 s") == "the audio covers only a part"
    assert kind_of("frames of 4097x4097 pixels are above the limit") == "frames of N pixels are above the limit"
    assert kind_of("its video is hevc, not H.264") == "its video is hevc, not H.264"
    assert kind_of("28 packets in an MP4 of 4:2:0") == "N packets in an MP4 of 4:2:0"


class TestPacketIndex:
    def test_tables_are_made_once_and_checked(self, clips: Path, tmp_path: Path) -> None:
        index, out = tmp_path / "clips.packets", tmp_path / "probe.parquet"
        summary = probe_folder(clips, out, options=ProbeOptions(packets=index, workers=2))
        assert summary.packets == PacketSummary(
            num_indexed=5,
            num_checked=5,
            num_differing=0,
            not_indexed={
                "is no media file that FFmpeg knows, or is damaged where it begins": 1,
                "the file is empty": 1,
            },
        )
        with_tables = PacketIndex(index)
        place = with_tables.find("deep/quiet.mp4")
        status = (clips / "deep" / "quiet.mp4").stat()
        assert place is not None and with_tables.stamp(place) == (status.st_size, status.st_mtime_ns)
        made = packets_of(clips / "deep" / "quiet.mp4")
        found = with_tables.packets(place)
        assert found is not None and not isinstance(made, str) and found.to_bytes() == made.to_bytes()
        first = index.read_bytes()
        again = probe_folder(clips, out, options=ProbeOptions(packets=index))
        assert again.packets == summary.packets and again.num_measured == 0 and index.read_bytes() == first

    def test_an_index_can_be_added_without_measuring_again(
        self, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "probe.parquet"
        probe_folder(clips, out)
        first = out.read_bytes()
        monkeypatch.setattr(probe_module, "probe_clip", None)
        summary = probe_folder(clips, out, options=ProbeOptions(packets=tmp_path / "clips.packets"))
        assert summary.num_measured == 0 and summary.packets is not None and summary.packets.num_indexed == 5
        assert out.read_bytes() == first

    def test_if_one_clip_differs_all_are_checked(
        self, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root, index = tmp_path / "clips", tmp_path / "clips.packets"
        root.mkdir()
        for number in range(12):
            (root / f"{number:02d}.mp4").write_bytes((clips / "usable.mp4").read_bytes())
        checked: list[str] = []

        def check(path: str, packets: object, *, seed: int) -> str | None:
            checked.append(Path(path).stem)
            return "another picture at 0.5 s" if Path(path).stem in guilty else None

        monkeypatch.setattr(packet_tables, "check_packets", check)
        guilty: list[str] = []
        sampled = probe_folder(root, tmp_path / "p.parquet", options=ProbeOptions(packets=index)).packets
        assert sampled is not None and sampled.num_checked == len(checked) == 5
        guilty += [checked[3], next(name for name in map("{:02d}".format, range(12)) if name not in checked)]
        checked.clear()
        index.with_name(".clips.packets.journal").unlink()
        summary = probe_folder(root, tmp_path / "p.parquet", options=ProbeOptions(packets=index)).packets
        assert sorted(checked) == [f"{number:02d}" for number in range(12)]
        assert summary == PacketSummary(
            num_indexed=10, num_checked=12, num_differing=2, not_indexed={"comes out otherwise by its packets": 2}
        )
        found = PacketIndex(index)
        place = found.find(f"{guilty[1]}.mp4")
        assert place is not None and found.packets(place) is None
        assert found.reason(place) == "comes out otherwise by its packets: another picture at 0.5 s"
        assert len(found) == 12

    def test_a_clip_that_changes_gets_a_new_table(self, clips: Path, tmp_path: Path) -> None:
        root, options = tmp_path / "clips", ProbeOptions(packets=tmp_path / "clips.packets")
        root.mkdir()
        (root / "a.mp4").write_bytes((clips / "usable.mp4").read_bytes())
        (root / "b.mp4").write_bytes((clips / "usable.mp4").read_bytes())
        probe_folder(root, tmp_path / "p.parquet", options=options)
        (root / "a.mp4").write_bytes((clips / "mute.mp4").read_bytes())
        (root / "b.mp4").unlink()
        probe_folder(root, tmp_path / "p.parquet", options=options)
        index = PacketIndex(tmp_path / "clips.packets")
        packets = index.packets(0)
        assert len(index) == 1 and packets is not None and packets.audio is None
        assert index.stamp(0)[0] == (root / "a.mp4").stat().st_size

    def test_a_name_that_is_no_text_has_no_row(self, clips: Path, tmp_path: Path) -> None:
        root = tmp_path / "clips"
        root.mkdir()
        (root / os.fsdecode(b"lat\xe9.mp4")).write_bytes((clips / "usable.mp4").read_bytes())
        summary = probe_folder(root, tmp_path / "p.parquet", options=ProbeOptions(packets=tmp_path / "i")).packets
        assert summary is not None
        assert (summary.num_indexed, summary.not_indexed) == (0, {"its name is not UTF-8 text": 1})


class TestManifests:
    IDS = ("-aBcDeFgHi0_000010_000020", "_NA12345678_000000_000010", "abcdefghijk_000001_000011")

    def test_clips_without_a_file_and_files_without_a_row(
        self, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = tmp_path / "clips"
        (root / "label").mkdir(parents=True)
        names = [f"label/{self.IDS[0]}.mp4", f"{self.IDS[0]}_copy.mp4", "zzzzzzzzzzz_000000_000010.mp4", "holiday.mp4"]
        for name in names:
            (root / name).write_bytes((clips / "mute.mp4").read_bytes())
        (root / "far.mp4").symlink_to(clips / "mute.mp4")
        rows = [{"clip_id": self.IDS[0], "label": "a, b"}, {"clip_id": self.IDS[1], "label": None, "split": "val"}]
        first = write_manifest(tmp_path / "train.parquet", rows)
        second = write_manifest(tmp_path / "more.parquet", [{"clip_id": self.IDS[2], "label": 'say "x"'}, rows[0]])
        lists = tmp_path / "missing.csv"
        arguments = ["probe", str(root), "--out", str(tmp_path / "p.parquet"), "--workers", "1", "--json"]
        _invoke([*arguments, "--manifest", str(first), "--manifest", str(second), "--missing", str(lists)])
        answer = json.loads(capsys.readouterr().out)
        assert (answer["num_clips"], answer["num_clips_without_file"], answer["num_files_without_row"]) == (3, 2, 3)
        assert answer["num_links_outside"] == 1 and answer["num_files"] == 4
        with lists.open(newline="") as file:
            assert list(csv.reader(file)) == [
                ["problem", "clip_file", "clip_id", "split", "label"],
                ["the clip has no file", "", self.IDS[2], "train", 'say "x"'],
                ["the clip has no file", "", self.IDS[1], "val", ""],
                ["another file is taken for this clip", names[1], "", "", ""],
                ["the name is no clip id", names[3], "", "", ""],
                ["no row names this clip", names[2], "", "", ""],
            ]
        sheet = [*arguments, "--manifest", str(first), "--missing", str(lists), "--spreadsheet"]
        (root / "=cmd.mp4").write_bytes((clips / "mute.mp4").read_bytes())
        _invoke(sheet)
        assert lists.read_bytes().startswith(b"\xef\xbb\xbf") and b'"\'=cmd.mp4"' in lists.read_bytes()
        _invoke(sheet[:-1])
        assert not lists.read_bytes().startswith(b"\xef\xbb\xbf") and b'"=cmd.mp4"' in lists.read_bytes()
        (root / "=cmd.mp4").unlink()
        capsys.readouterr()
        _invoke([*arguments[:-1], "--manifest", str(first)])
        assert "manifest clips without a file" in capsys.readouterr().out

    def test_nothing_missing_is_an_empty_list(self, clips: Path, tmp_path: Path) -> None:
        root = tmp_path / "clips"
        root.mkdir()
        (root / f"{self.IDS[0][:11]}.mp4").write_bytes((clips / "mute.mp4").read_bytes())
        manifest = write_manifest(tmp_path / "train.parquet", [{"clip_id": self.IDS[0]}])
        options = ProbeOptions(manifests=[manifest], missing=tmp_path / "missing.csv")
        summary = probe_folder(root, tmp_path / "p.parquet", options=options)
        assert (summary.num_clips, summary.num_clips_without_file, summary.num_files_without_row) == (1, 0, 0)
        assert (tmp_path / "missing.csv").read_text().count("\n") == 1

    def test_a_list_without_a_manifest_is_a_usage_error(self, clips: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="--manifest"):
            _invoke(["probe", str(clips), "--out", str(tmp_path / "p"), "--missing", str(tmp_path / "m.csv")])


def test_half_downloads_are_no_clips_and_are_named(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, clip_id = tmp_path / "in", "abcdefghijk_000000_000010"
    root.mkdir()
    halves = [f"{clip_id}.f137.mp4", f"{clip_id}.mp4.part", "\x1b[31m[red].temp.mp4"]
    for name in (*halves, f"{clip_id}_raw.mp4"):
        (root / name).write_bytes((clips / "usable.mp4").read_bytes())
    manifest = write_manifest(tmp_path / "m.parquet", [{"clip_id": clip_id, "label": "a"}])
    command = ["probe", str(root), "--out", str(tmp_path / "p"), "--manifest", str(manifest)]
    _invoke([*command, "--missing", str(tmp_path / "m.csv"), "--json", "--workers", "1"])
    answer = json.loads(capsys.readouterr().out)
    assert sorted(answer["half_downloads"]) == sorted(halves)
    assert (answer["num_files"], answer["num_clips_without_file"], answer["num_files_without_row"]) == (1, 0, 0)
    with (tmp_path / "m.csv").open(encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    assert {(row["clip_file"], row["problem"]) for row in listed} == {
        (name, "a half download, no clip") for name in halves
    }
    _invoke([*command, "--workers", "1"])
    shown = capsys.readouterr().out
    assert f"{clip_id}.f137.mp4" in shown and "\x1b" not in shown and "[red]" in shown
    (root / f"{clip_id}_raw.mp4").unlink()
    with pytest.raises(UsageError, match=r"no clip files.*3 files in it are half downloads, such as '"):
        probe_folder(root, tmp_path / "p.parquet")


@pytest.mark.parametrize("suffix", ["mp4", "mpg", "ts", "webm", "flv"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "is a Git LFS pointer.*git lfs pull"),
        (b"/annex/objects/SHA256E-s7--00.mp4\n", "is a git-annex pointer.*git annex get"),
        (b"\xef\xbb\xbf\r\n <!DOCTYPE html><html>" + b"<p>Sign in</p>" * 900, "is a web page, not a video"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is XML"),
        (b'{"error": {"code": 403}}', "is JSON"),
        (bytes(70_000), "holds zeros where it begins"),
        (b"PK\x03\x04" + bytes(range(256)) * 9, "is a ZIP archive, not a video: unpack it"),
        (b"", "the file is empty"),
    ],
)
def test_what_is_no_media_file_is_told(tmp_path: Path, suffix: str, content: bytes, reason: str) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(content)
    probe = probe_clip(tmp_path / f"a.{suffix}", tmp_path)
    assert (probe.video_status, probe.audio_status) == ("undecodable", "undecodable")
    assert probe.reason is not None and re.match(reason, probe.reason)


def test_a_folder_of_nothing_but_links_outside_says_so(clips: Path, tmp_path: Path) -> None:
    root = tmp_path / "links"
    root.mkdir()
    (root / "a.mp4").symlink_to(clips / "usable.mp4")
    with pytest.raises(UsageError, match=r"holds no clip files.*1 links that lead out of the folder"):
        probe_folder(root, tmp_path / "p.parquet")


def test_levels() -> None:
    assert to_dbfs(1.0) == 0 and to_dbfs(0.0) is None
    assert from_dbfs(-20.0) == pytest.approx(0.1)


def check_against_truth(row: dict[str, Any], clip: dict[str, str]) -> None:
    """Compares a row with what another program has measured of the same clip.

    The columns that say where a clip is from (source_url, youtube_id, time_start, time_end, raw) are no property of
    the file. The others agree: exactly, or within what is said here.
    """
    assert clip["label"] == row["clip_file"].split("/")[0]
    assert (row["video_status"], row["num_frames"]) == ("usable", int(clip["frames"]))
    assert (row["width"], row["height"]) == (int(clip["w"]), int(clip["h"]))
    # Written with four decimals.
    assert row["frame_rate"] == pytest.approx(float(clip["fps"]), abs=1e-4)
    # The file's declared length, rounded to milliseconds: sound and all, which ends up to two frames after the video.
    assert -0.0006 <= float(clip["duration"]) - row["clip_duration_seconds"] < 2 / row["frame_rate"]
    assert clip["vfr"] == "False"
    assert row["frame_rate"] * row["clip_duration_seconds"] == pytest.approx(row["num_frames"], rel=1e-9)
    is_loud = float(clip["audio_peak"] or 0) > 0
    expected = ("usable" if is_loud else "silent") if clip["has_audio"] == "True" else "no_stream"
    assert row["audio_status"] == expected
    if expected == "usable":
        peak, level = from_dbfs(row["audio_peak_dbfs"]), from_dbfs(row["audio_rms_dbfs"])
        assert peak == pytest.approx(float(clip["audio_peak"]), abs=1e-5)
        # Of all channels and frequencies there, of the loudest channel here, and of what is heard of it.
        assert level == pytest.approx(float(clip["audio_rms"]), rel=0.04)
    else:
        assert row["audio_rms_dbfs"] is None and row["audio_peak_dbfs"] is None


class TestRealFiles:
    pytestmark = needs_samples

    def test_every_pointer_of_a_clone_without_lfs_is_told(self) -> None:
        pointers = sorted((REAL_DATA / "videos-odd" / "lfs-pointers").rglob("*.[fmw]*"))
        assert len(pointers) == 9
        for path in pointers:
            assert probe_clip(path, REAL_DATA).reason == "is a Git LFS pointer, not the file: run `git lfs pull`"

    @pytest.mark.parametrize(
        ("name", "status"),
        [("ApplyEyeMakeup_g01_c01", "usable"), ("Archery_g03_c03", "silent"), ("BaseballPitch_g01_c01", "no_stream")],
    )
    def test_the_three_states_of_audio_of_one_dataset(self, name: str, status: str) -> None:
        assert (
            probe_clip(REAL_DATA / "videos-odd" / "ucf101-strays" / f"v_{name}.avi", REAL_DATA).audio_status == status
        )

    @pytest.mark.slow
    def test_the_same_clip_twice_is_heard_alike(self) -> None:
        pairs = REAL_DATA / "videos-odd" / "vggsound-pairs"
        by_name = defaultdict(list)
        for path in sorted(pairs.rglob("*.mp4")):
            by_name[path.name].append(probe_clip(path, pairs))
        assert len(by_name) == 2
        for original, encoded in by_name.values():
            assert original.audio_status == encoded.audio_status == "usable"
            assert original.audio_rms_dbfs == pytest.approx(encoded.audio_rms_dbfs, abs=2.0)
            assert original.audio_silent_fraction == pytest.approx(encoded.audio_silent_fraction, abs=0.02)

    @pytest.mark.slow
    def test_every_column_of_the_manifest_of_sixty_clips(self, tmp_path: Path) -> None:
        probe_folder(FIGHT, tmp_path / "probe.parquet", options=ProbeOptions(workers=2))
        rows = rows_of(tmp_path / "probe.parquet")
        with (FIGHT / "manifest.csv").open(encoding="utf-8", newline="") as file:
            truth = list(csv.DictReader(file))
        assert len(truth) == len(rows) == 60
        for clip in truth:
            row = rows[clip["clip"]]
            check_against_truth(row, clip)

    def test_samples_of_other_projects(self, tmp_path: Path) -> None:
        probe_folder(SAMPLES, tmp_path / "probe.parquet", options=ProbeOptions(workers=2))
        rows = rows_of(tmp_path / "probe.parquet")
        damaged = rows.pop("decord/corrupted.mp4")
        assert (damaged["video_status"], damaged["num_frames"]) == ("partial", 29)
        assert {row["video_status"] for row in rows.values()} == {"usable"}
        assert (rows["decord/video_90.mov"]["width"], rows["decord/video_90.mov"]["height"]) == (320, 568)
        opus = rows["decord/flipping_a_pancake.mkv"]
        assert (opus["audio_status"], opus["audio_channels"], opus["audio_sample_rate"]) == ("usable", 1, 48_000)
