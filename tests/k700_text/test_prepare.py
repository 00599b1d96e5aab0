"""Preparing clips: accounting to the last clip, kills, crashes, full disks, clips that come later, and checking."""

from __future__ import annotations

import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pyarrow as pa
import pytest

from k700_text.errors import K700TextError, LockedError, StorageError, UsageError
from k700_text.media import prepare as prepare_module
from k700_text.media import record as record_module
from k700_text.media.clip import DecodeLimits
from k700_text.media.packets import ClipPackets
from k700_text.media.prepare import (
    KILLS_ITS_PROCESS,
    PrepareRun,
    PrepareSummary,
    ShardJob,
    plan_run,
    run_plan,
    write_shard,
)
from k700_text.media.prepare_plan import make_plan
from k700_text.media.prepared import PreparedClips
from k700_text.media.record import ClipTask, prepare_clip
from k700_text.media.shards import PreparedSettings, member_key
from k700_text.media.verify import verify, verify_shard
from tests.k700_text.media_files import SAMPLES, clip_id_of, make_clip, needs_samples, write_manifest
from tests.k700_text.media_mutations import base_files, mutated
from tests.k700_text.preparing import NUM_ROWS, content, make_clips, prepare_here

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = PreparedSettings(shard_size=3, short_side=32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepare")
    make_clips(root)
    return root


@pytest.fixture(scope="module")
def prepared(world: Path) -> tuple[Path, PrepareSummary]:
    """Shards of all clips, written in processes, and what that run said."""
    run = run_of(world, world / "whole", workers=2)
    return run.out, run_plan(run)


def run_of(world: Path, out: Path, **values: Any) -> PrepareRun:
    defaults: dict[str, Any] = {
        "root": world / "clips",
        "out": out,
        "settings": SMALL,
        "manifests": [world / "manifest.parquet"],
        "workers": 1,
        "num_samples": 0,
    }
    return PrepareRun(**{**defaults, **values})


def clip_ids(out: Path) -> dict[str, str | None]:
    """Returns the reason of every clip of the index."""
    index = PreparedClips(out).index
    return {index.row(k).clip_id: index.row(k).reason for k in range(len(index))}


def test_every_clip_is_accounted_for(prepared: tuple[Path, PrepareSummary]) -> None:
    out, summary = prepared
    assert summary == PrepareSummary(
        num_clips=NUM_ROWS,
        num_done=7,
        num_with_loss=0,
        num_skipped=2,
        num_missing=1,
        num_repeated=1,
        num_left=0,
        left_out={},
        reasons={"is no media file that FFmpeg knows, or is damaged where it begins": 1, "the file is empty": 1},
        num_shards=4,
        num_bytes=sum(path.stat().st_size for path in out.glob("*.tar")),
    )
    parts = (summary.num_done, summary.num_skipped, summary.num_missing, summary.num_repeated, summary.num_left)
    assert sum(parts) == summary.num_clips
    assert sorted(clip_ids(out)) == [clip_id_of(number) for number in range(9)]
    names = {path.name for path in out.iterdir()}
    shards = ["train-000000", "train-000001", "train-000002", "val-000000"]
    files = {f"{shard}.{kind}" for shard in shards for kind in ("tar", "arrow")}
    assert names == files | {"prepared.json", "index.arrow", ".prepare.lock"}


def test_labels_are_mixed_and_the_order_is_that_of_a_hash(world: Path) -> None:
    rows = [{"clip_id": clip_id_of(number), "label": f"label {number // 100}"} for number in range(300)]
    root = world / "many"
    for row in rows:
        path = root / "clips" / row["label"] / f"{row['clip_id']}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    manifest = write_manifest(root / "m.parquet", rows)
    plan = make_plan(root / "clips", root / "out", [manifest], shard_size=100)
    shards = list(plan.shards())
    assert [shard.name for shard in shards] == ["train-000000", "train-000001", "train-000002"]
    for shard in shards:
        labels = [clip.label for clip in shard.clips]
        assert min(labels.count(f"label {k}") for k in range(3)) > 15
    again = make_plan(root / "clips", root / "out", [write_manifest(root / "n.parquet", rows[::-1])], shard_size=100)
    assert list(again.shards()) == shards and plan.num_shards == 3


def test_the_number_of_workers_and_where_it_runs_change_no_byte(
    world: Path, prepared: tuple[Path, PrepareSummary], tmp_path: Path
) -> None:
    prepare_here(world / "clips", tmp_path / "here", world / "manifest.parquet", shard_size=3, short_side=32)
    assert content(tmp_path / "here") == content(prepared[0])


def test_a_second_run_has_nothing_to_do(world: Path, prepared: tuple[Path, PrepareSummary], tmp_path: Path) -> None:
    shutil.copytree(prepared[0], tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*-*")}
    assert run_plan(run_of(world, tmp_path / "out")) == prepared[1]
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*-*")} == before


@pytest.mark.parametrize("lost", ["train-000001.arrow", "train-000000.tar", "index.arrow", "val-000000.arrow"])
def test_what_is_lost_is_made_again_to_the_byte(
    world: Path, prepared: tuple[Path, PrepareSummary], tmp_path: Path, lost: str
) -> None:
    shutil.copytree(prepared[0], tmp_path / "out")
    (tmp_path / "out" / lost).unlink()
    (tmp_path / "out" / ".train-000001.tar.0badcafe.part").write_bytes(b"torn")
    prepare_here(world / "clips", tmp_path / "out", world / "manifest.parquet", shard_size=3, short_side=32)
    (tmp_path / "out" / ".train-000001.tar.0badcafe.part").unlink()
    assert content(tmp_path / "out") == content(prepared[0])


def test_a_shard_that_was_cut_short_is_not_taken_for_done(
    world: Path, prepared: tuple[Path, PrepareSummary], tmp_path: Path
) -> None:
    shutil.copytree(prepared[0], tmp_path / "out")
    shard = tmp_path / "out" / "train-000000.tar"
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(StorageError, match=r"train-000000\.tar: ends before .* remove it and run the same command"):
        prepare_here(world / "clips", tmp_path / "out", world / "manifest.parquet", shard_size=3, short_side=32)
    shard.unlink()  # as the line says
    prepare_here(world / "clips", tmp_path / "out", world / "manifest.parquet", shard_size=3, short_side=32)
    assert content(tmp_path / "out") == content(prepared[0])


def test_a_run_killed_at_any_moment_ends_as_one_left_alone(
    world: Path, prepared: tuple[Path, PrepareSummary], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = command(world, out, "--workers", "1")
    num_killed = 0
    # Each run is killed a little later; the first at once, the last when shards are there.
    for num_files in (1, 5):
        process = subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("*-*"))) < num_files:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        num_killed += process.wait(20) == -signal.SIGKILL
    assert num_killed
    wait_for_lock(out)
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert content(out) == content(prepared[0])


def command(world: Path, out: Path, *more: str) -> list[str]:
    words = ["prepare", world / "clips", "--out", out, "--manifest", world / "manifest.parquet", "--sample", "0"]
    settings = ["--shard-size", "3", "--short-side", "32"]
    return [sys.executable, "-m", "k700_text", *map(str, words), *settings, *more]


def wait_for_lock(out: Path) -> None:
    """Workers of a killed run notice that a moment later."""
    for _ in range(100):
        if not list(out.glob(".*.part")):
            return
        time.sleep(0.05)


def test_a_full_disk_is_one_line_and_the_same_command_continues(
    world: Path, prepared: tuple[Path, PrepareSummary], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    largest = max(path.stat().st_size for path in prepared[0].glob("*.tar"))
    stopped = subprocess.run(
        command(world, out, "--workers", "1"),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        # No file may grow beyond this: to the program a disk that is full.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 20_000, largest - 20_000)),
    )
    assert stopped.returncode == 1 and "Traceback" not in stopped.stderr
    assert stopped.stderr.splitlines()[-1].startswith("error: ") and ".tar" in stopped.stderr.splitlines()[-1]
    assert not list(out.glob(".*.part"))
    done = subprocess.run(command(world, out), cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert content(out) == content(prepared[0])


DEADLY = clip_id_of(2)


def write_with_deadly_clip(job: ShardJob) -> int:
    """Stands for ``write_shard`` with a decoder that one clip kills."""

    def deadly(task: ClipTask, *rest: Any) -> Any:
        if task.clip_id == DEADLY:
            os.kill(os.getpid(), signal.SIGSEGV)
        return prepare_clip(task, *rest)

    prepare_module.prepare_clip = deadly
    return write_shard(job)


def write_with_hanging_clip(job: ShardJob) -> int:
    """Stands for ``write_shard`` with a decoder that never comes back, and lets nobody else work."""

    def hanging(task: ClipTask, *rest: Any) -> Any:
        if task.clip_id == DEADLY:
            # A call that holds the interpreter for minutes, as a decoder in C does.
            sum(range(10**11))
        return prepare_clip(task, *rest)

    prepare_module.prepare_clip = hanging
    return write_shard(replace(job, deadline_seconds=1.0))


@pytest.mark.parametrize(
    "stand_in",
    [pytest.param(each, marks=pytest.mark.slow) for each in (write_with_deadly_clip, write_with_hanging_clip)],
)
def test_a_clip_that_kills_or_hangs_its_process_costs_that_clip_only(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: Callable[[ShardJob], int]
) -> None:
    monkeypatch.setattr(prepare_module, "write_shard", stand_in)
    said: list[str] = []
    summary = run_plan(run_of(world, tmp_path / "out"), say=said.append)
    assert (summary.num_done, summary.num_skipped, summary.num_left) == (6, 3, 0)
    assert summary.reasons[KILLS_ITS_PROCESS] == 1
    assert clip_ids(tmp_path / "out")[DEADLY] == KILLS_ITS_PROCESS
    assert any(DEADLY in line for line in said)
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.endswith((".part", ".at"))]
    assert not verify(tmp_path / "out", workers=1).damage


def always_die(job: ShardJob) -> int:
    """Stands for ``write_shard`` on a machine without memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@pytest.mark.slow
def test_a_shard_that_cannot_be_written_at_all_ends_the_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_module, "write_shard", always_die)
    with pytest.raises(K700TextError, match=r"shard \S+ cannot be written, its process dies again.*memory.*--workers"):
        run_plan(run_of(world, tmp_path / "out"))


def test_other_settings_into_the_same_folder_are_refused(world: Path, prepared: tuple[Path, PrepareSummary]) -> None:
    other = replace(SMALL, quality="fine", frame_rate=5.0)
    with pytest.raises(
        UsageError, match=r"frame_rate 10.0 \(now asked for: 5.0\), quality default \(now asked for: fine"
    ):
        run_plan(run_of(world, prepared[0], settings=other))


def test_two_runs_do_not_write_into_one_folder(world: Path, prepared: tuple[Path, PrepareSummary]) -> None:
    with (
        prepare_module._lock(prepared[0]),
        pytest.raises(LockedError, match=r"another prepare is writing into .*whole \(process \d+ on .*\): wait"),
    ):
        run_plan(run_of(world, prepared[0]))


def test_clips_that_come_later_get_further_shards(
    world: Path, prepared: tuple[Path, PrepareSummary], tmp_path: Path
) -> None:
    shutil.copytree(world / "clips", tmp_path / "clips")
    shutil.copytree(prepared[0], tmp_path / "out")
    before = content(tmp_path / "out")
    make_clip(tmp_path / "clips" / f"{clip_id_of(9)}.mp4")  # had no file
    make_clip(tmp_path / "clips" / f"{clip_id_of(11)}.mp4")  # was not in the manifest
    shutil.copy(tmp_path / "clips" / f"{clip_id_of(1)}.mp4", tmp_path / "clips" / f"{clip_id_of(8)}.mp4")  # was empty
    rows = [
        {"clip_id": clip_id_of(number), "split": "val" if number == 4 else "train", "label": "any"}
        for number in range(12)
    ]
    grown = write_manifest(tmp_path / "grown.parquet", rows)
    run = run_of(world, tmp_path / "out", root=tmp_path / "clips", manifests=[grown])
    summary = run_plan(run)
    assert (summary.num_clips, summary.num_done, summary.num_skipped, summary.num_missing) == (12, 10, 1, 1)
    after = content(tmp_path / "out")
    assert {name: data for name, data in after.items() if name in before and name != "index.arrow"} == {
        name: data for name, data in before.items() if name != "index.arrow"
    }
    assert set(after) - set(before) == {"train-000003.tar", "train-000003.arrow"}
    clips = PreparedClips(tmp_path / "out")
    assert {clips.index.row(clips.find(clip_id_of(n)) or 0).shard for n in (8, 9, 11)} == {"train-000003.tar"}
    assert run_plan(run) == summary
    # What did not change is tried again when asked for only.
    retried = plan_run(replace(run, retry_skipped=True))[0]
    assert [clip.clip_id for shard in retried.shards() for clip in shard.clips] == [clip_id_of(7)]


def test_a_clip_whose_file_goes_away_meanwhile_is_left_and_not_lost(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "clips", tmp_path / "clips")
    run = run_of(world, tmp_path / "out", root=tmp_path / "clips", settings=replace(SMALL, shard_size=100))

    def lose(num_done: int, num_clips: int) -> None:
        (tmp_path / "clips" / f"{clip_id_of(0)}.mp4").unlink(missing_ok=True)

    summary = run_plan(run, on_progress=lose)
    assert (summary.num_left, summary.num_done, summary.num_skipped) == (1, 6, 2)
    assert clip_id_of(0) not in clip_ids(tmp_path / "out")


def test_an_interrupted_run_can_be_read_and_continued(
    world: Path, prepared: tuple[Path, PrepareSummary], tmp_path: Path
) -> None:
    def stop(num_done: int, num_clips: int) -> None:
        if num_done:
            raise KeyboardInterrupt

    run = run_of(world, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        run_plan(run, on_progress=stop)
    assert len(PreparedClips(run.out)) == 3 and not list(run.out.glob(".*.part"))
    run_plan(run)
    assert content(run.out) == content(prepared[0])


def test_shards_of_somebody_else_are_not_written_over(world: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train-000000.tar").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"out holds train-000000.tar but no prepared.json: name another folder"):
        run_plan(run_of(world, tmp_path / "out"))
    assert (tmp_path / "out" / "train-000000.tar").read_bytes() == b"mine"


def test_a_folder_of_clips_that_goes_away_stops_the_run(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "clips", tmp_path / "clips")
    run = run_of(world, tmp_path / "out", root=tmp_path / "clips")
    with pytest.raises(UsageError, match="the folder of clips has gone: bring it back"):
        run_plan(run, on_progress=lambda *_: shutil.rmtree(tmp_path / "clips", ignore_errors=True))
    assert not list((tmp_path / "out").glob("*.tar"))


def test_without_a_manifest_every_clip_file_is_prepared(world: Path, tmp_path: Path) -> None:
    (tmp_path / "clips" / "deep").mkdir(parents=True)
    source = world / "clips" / f"{clip_id_of(0)}.mp4"
    for name in (f"deep/{clip_id_of(0)}.mp4", f"{clip_id_of(0)}_raw.mp4", "deep/a b.x.mp4", "deep/a b.x.avi", "ä.mp4"):
        shutil.copy(source, tmp_path / "clips" / name)
    prepare_here(tmp_path / "clips", tmp_path / "out", short_side=32)
    clips = PreparedClips(tmp_path / "out")
    ids = {clips.index.row(k).clip_id: clips.index.row(k).shard for k in range(len(clips))}
    assert ids == dict.fromkeys([clip_id_of(0), "deep/a b.x.mp4", "deep/a b.x.avi", "ä.mp4"], "clips-000000.tar")
    with tarfile.open(tmp_path / "out" / "clips-000000.tar") as tar:
        assert f"{member_key('deep/a b.x.mp4')}.mp4" in tar.getnames()
    assert not verify_shard(tmp_path / "out", "clips-000000").damage


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": Path("nowhere")}, "nowhere: no such folder"),
        (
            {"settings": replace(SMALL, quality="superb")},
            "unknown quality 'superb': expected one of default, small, fine",
        ),
        ({"engine": "slurm"}, "unknown engine 'slurm'"),
    ],
)
def test_bad_arguments_are_one_clear_line(world: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_plan(run_of(world, tmp_path / "out", **change))


def test_nothing_to_prepare_is_one_clear_line(world: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="none of the 11 clips of the manifest has a file there"):
        run_plan(run_of(world, tmp_path / "out", root=tmp_path / "empty"))
    with pytest.raises(UsageError, match="empty: holds no clip files"):
        run_plan(run_of(world, tmp_path / "out", root=tmp_path / "empty", manifests=[]))
    with pytest.raises(UsageError, match="no clips in the manifest"):
        run_plan(run_of(world, tmp_path / "out", manifests=[write_manifest(tmp_path / "none.parquet", [])]))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is a file: name a folder"):
        run_plan(run_of(world, tmp_path / "file"))


def test_an_estimate_is_made_from_clips_prepared_for_real(world: Path, tmp_path: Path) -> None:
    plan, forecast = plan_run(run_of(world, tmp_path / "out", num_samples=20, workers=2))
    assert not (tmp_path / "out").exists()
    assert (plan.num_pending, plan.num_shards, forecast.num_sampled, forecast.num_failed) == (9, 4, 9, 2)
    assert forecast.psnr_db is not None and forecast.psnr_db > 40 and forecast.ssim is not None and forecast.ssim > 0.9
    assert forecast.clip_seconds is not None and forecast.wall_seconds is not None and forecast.wall_seconds > 0
    assert forecast.encoder_share is not None and 0 < forecast.encoder_share < 1
    real = prepare_here(world / "clips", tmp_path / "out", world / "manifest.parquet", shard_size=3, short_side=32)
    written = sum(path.stat().st_size for path in real.out.glob("*.tar"))
    assert forecast.total_bytes is not None and 0.5 * written < forecast.total_bytes < 2 * written


def test_colours_are_tagged_for_every_reader(prepared: tuple[Path, PrepareSummary]) -> None:
    clips = PreparedClips(prepared[0])
    row = clips.index.row(clips.find(clip_id_of(0)) or 0)
    data = (prepared[0] / row.shard).read_bytes()[row.video_offset :][: row.video_bytes]
    with av.open(io.BytesIO(data)) as container:
        context: Any = container.streams.video[0].codec_context
        # Limited range, and SMPTE 170M three times over.
        assert (context.color_range, context.colorspace, context.color_primaries, context.color_trc) == (1, 6, 6, 6)
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert keys == [k % 8 == 0 for k in range(20)]
    table = ClipPackets.from_bytes(row.packets or b"").video
    assert table is not None and table.end_seconds == pytest.approx(2.0) and len(table) == 20


def test_checking_finds_nothing_in_what_is_whole(prepared: tuple[Path, PrepareSummary]) -> None:
    summary = verify(prepared[0], workers=1)
    assert summary.damage == ()
    assert (summary.num_shards, summary.num_clips, summary.num_frames) == (4, 7, 6 * 20)
    assert summary.num_bytes == prepared[1].num_bytes


def flipped(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 16
    path.write_bytes(data)


def test_checking_names_every_damaged_clip(prepared: tuple[Path, PrepareSummary], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(prepared[0], out)
    clips = PreparedClips(out)
    rows = [clips.index.row(k) for k in range(len(clips))]
    video = next(row for row in rows if row.has_video)
    other = next(row for row in rows if row.has_audio and row.shard != video.shard)
    flipped(out / video.shard, video.video_offset + video.video_bytes // 3)
    flipped(out / other.shard, other.record_offset + 2)  # a letter of the name in the tar
    lost = next(path for path in sorted(out.glob("*.tar")) if path.name not in (video.shard, other.shard))
    lost.write_bytes(lost.read_bytes()[:30_000])
    found = {(each.shard, each.clip_id): each.reason for each in verify(out, workers=1).damage}
    assert "checksums do not fit" in found[video.shard, video.clip_id]
    assert any(shard == other.shard and "missing from the tar" in reason for (shard, _), reason in found.items())
    assert any(shard == lost.name for shard, _ in found)
    assert {shard for shard, _ in found} == {video.shard, other.shard, lost.name}


def test_checking_finds_rows_that_do_not_fit(prepared: tuple[Path, PrepareSummary], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(prepared[0], out)
    shutil.copy(out / "train-000000.arrow", out / "train-000001.arrow")
    (out / "val-000000.arrow").unlink()
    found = {(each.shard, each.clip_id is None) for each in verify(out, workers=1).damage}
    assert found >= {("index.arrow", True), ("train-000001.tar", True), ("val-000000.tar", True)}
    (out / "train-000002.tar").unlink()
    reasons = {each.shard: each.reason for each in verify(out, workers=1).damage}
    assert reasons["train-000002.tar"].startswith("is missing: copy it there again")
    with pytest.raises(StorageError, match="no prepared shards there"):
        verify(tmp_path)


def test_checking_finds_what_lies_outside_of_the_clips(prepared: tuple[Path, PrepareSummary], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(prepared[0], out)
    flipped(out / "train-000000.tar", -1)
    (out / "train-000001.tar").write_bytes((out / "train-000001.tar").read_bytes() + bytes(512))
    # The last column of the index: in which order the clips are found.
    index = pa.ipc.open_file((out / "index.arrow").read_bytes()).read_all()
    order = index["by_clip_id"].combine_chunks()
    changed = index.set_column(index.column_names.index("by_clip_id"), index.field("by_clip_id"), order[::-1])
    with pa.ipc.new_file(out / "index.arrow", changed.schema) as writer:
        writer.write_table(changed)
    found = {(each.shard, each.clip_id): each.reason for each in verify(out, workers=1).damage}
    assert set(found) == {("train-000000.tar", None), ("train-000001.tar", None), ("index.arrow", None)}
    assert "does not end as it was written" in found["train-000000.tar", None]


def test_checking_finds_rows_that_are_not_what_is_beside_the_clip(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mislabelling(task: ClipTask, *rest: Any) -> Any:
        made = prepare_clip(task, *rest)
        return replace(made, row=replace(made.row, label="other")) if task.clip_id == clip_id_of(1) else made

    monkeypatch.setattr(prepare_module, "prepare_clip", mislabelling)
    prepare_here(world / "clips", tmp_path / "out", world / "manifest.parquet", shard_size=100)
    damage = verify_shard(tmp_path / "out", "train-000000").damage
    assert [(each.clip_id, each.reason) for each in damage] == [
        (clip_id_of(1), "its .json says label label 1, the index other")
    ]


def test_a_clip_in_two_shards_counts_once(world: Path, prepared: tuple[Path, PrepareSummary], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(prepared[0], out)
    plan = make_plan(world / "clips", tmp_path / "none", [world / "manifest.parquet"], shard_size=100)
    task = next(plan.shards())
    job = ShardJob(
        out=out, root=world / "clips", task=replace(task, name="train-000009"), settings=SMALL, limits=DecodeLimits()
    )
    write_shard(job)
    summary = run_plan(run_of(world, out))
    expected = replace(prepared[1], num_shards=5, num_bytes=summary.num_bytes)
    assert summary == expected


def test_what_killed_processes_left_is_removed(
    world: Path, prepared: tuple[Path, PrepareSummary], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(prepared[0], out)
    (out / ".train-000000.at").write_text(clip_id_of(0))
    (out / ".train-000001.tar.0badcafe.part").write_bytes(b"torn")
    run_plan(run_of(world, out))
    assert content(out) == content(prepared[0])


def test_a_file_that_was_cut_off_says_so(tmp_path: Path) -> None:
    # Its header is at the beginning and tells of all that is not there.
    data = make_clip(tmp_path / "whole.mp4", audio=None).read_bytes()
    media = data.index(b"mdat")
    (tmp_path / "cut.mp4").write_bytes(data[: media + (len(data) - media) * 4 // 5])
    rows = {
        name: prepare_clip(ClipTask(name, *[None] * 6, name), tmp_path, SMALL, DecodeLimits()).row
        for name in ("whole.mp4", "cut.mp4")
    }
    assert rows["whole.mp4"].reason is None and rows["whole.mp4"].video_seconds == 2.0
    assert 0.3 < rows["cut.mp4"].video_seconds < 1.8
    assert "video: its end is missing, the rest is kept" in (rows["cut.mp4"].reason or "").split("; ")


def test_a_frame_damaged_before_the_checksum_is_found_all_the_same(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(task: ClipTask, *rest: Any) -> Any:
        # As if memory had failed between the encoder and the tar file.
        record = prepare_clip(task, *rest)
        if task.clip_id == clip_id_of(1):
            suffix, data = record.members["video"]
            record.members["video"] = (suffix, data[:1000] + bytes(60) + data[1060:])
        return record

    monkeypatch.setattr(prepare_module, "prepare_clip", damaging)
    prepare_here(world / "clips", tmp_path / "out", world / "manifest.parquet", shard_size=100)
    damage = verify_shard(tmp_path / "out", "train-000000").damage
    assert [each.clip_id for each in damage] == [clip_id_of(1)] and "checksum" not in damage[0].reason


@pytest.mark.parametrize("first", [0, 40])
def test_mutated_files_are_prepared_or_skipped_with_a_reason(tmp_path: Path, first: int) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (tmp_path / "bases").mkdir()
    bases = [path for path in base_files(tmp_path / "bases") if path.stat().st_size < 150_000]
    for number in range(first, first + 40):
        mutated(bases, number, clips)
    prepare_here(clips, tmp_path / "out", short_side=32)
    reasons = clip_ids(tmp_path / "out")
    assert len(reasons) == 40 and not verify_shard(tmp_path / "out", "clips-000000").damage
    index = PreparedClips(tmp_path / "out").index
    assert all(index.row(k).reason for k in range(40) if index.row(k).is_skipped)


def test_an_encoder_that_refuses_costs_the_video_only(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise K700TextError("cannot encode 2x2 video")

    monkeypatch.setattr(record_module, "encode_i420", refuse)
    task = ClipTask(clip_id_of(0), None, None, None, None, None, None, f"{clip_id_of(0)}.mp4")
    made = prepare_clip(task, world / "clips", SMALL, DecodeLimits())
    assert made.row.reason == "video: cannot encode 2x2 video"
    assert (made.row.has_video, made.row.has_audio) == (False, True) and set(made.members) == {"audio", "level", "json"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_local_ray_of_two_gives_the_same_bytes(
    world: Path, prepared: tuple[Path, PrepareSummary], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(REPOSITORY), "RAY_TMPDIR": "/tmp"}
    out = tmp_path / "out"
    words = command(world, out, "--engine", "ray", "--workers", "2")
    done = subprocess.run(
        words,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    assert content(out) == content(prepared[0])


class TestRealClips:
    pytestmark = needs_samples

    def test_the_worst_files_are_accounted_for(self, tmp_path: Path) -> None:
        prepare_here(SAMPLES / "decord", tmp_path / "out", short_side=64, max_seconds=2.0)
        reasons = clip_ids(tmp_path / "out")
        assert len(reasons) == 7
        index = PreparedClips(tmp_path / "out").index
        rows = {index.row(k).clip_id: index.row(k) for k in range(7)}
        assert all(row.has_video for row in rows.values())
        # Stored as they are shown.
        assert {(rows[f"video_{angle}.mov"].width > rows[f"video_{angle}.mov"].height) for angle in (0, 180)} == {
            rows["video_0.mov"].width > rows["video_0.mov"].height
        }
        assert rows["corrupted.mp4"].reason is not None
        assert not verify_shard(tmp_path / "out", "clips-000000").damage
