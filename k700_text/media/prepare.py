"""Preparing clips: from files as they come to shards that train fast.

The unit of work is a shard. It appears whole or not at all, so that a run that was killed, or for which the disk was
too small, goes on with the shards that are missing, and ends with the same bytes as a run that was left alone.
"""

from __future__ import annotations

import faulthandler
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from k700_text.errors import K700TextError, UsageError
from k700_text.files.atomic import remove_parts, whole_file
from k700_text.files.lock import FileLock
from k700_text.files.plain import write_plain
from k700_text.media.clip import DecodeLimits
from k700_text.media.encode import QUALITIES
from k700_text.media.estimate import PrepareEstimate, estimate
from k700_text.media.files import some_names
from k700_text.media.measure import as_text
from k700_text.media.pool import check_engine, each_result, num_cores
from k700_text.media.prepare_plan import PreparePlan, ShardTask, make_plan, row_keys, shard_rows
from k700_text.media.record import ClipTask, prepare_clip, skipped
from k700_text.media.shards import (
    SETTINGS_FILE,
    PreparedSettings,
    ShardWriter,
    finished_shards,
    write_index,
)

LOCK_FILE = ".prepare.lock"
MAX_CLIP_SECONDS = 120.0
KILLS_ITS_PROCESS = "crashes or hangs the decoder"

_MARK_SUFFIX = ".at"
_NUM_SAMPLES = 8
_MAX_GUILTY_PER_SHARD = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSummary:
    """What became of every clip; the first is the sum of all the others but ``num_with_loss``.

    Attributes:
        num_clips: rows of the manifests; clip files without a manifest.
        num_done: clips in shards.
        num_with_loss: those of them that lack a stream, or a part of one, that their file was to have.
        num_skipped: clips of which nothing can be read.
        num_missing: clips that have no file.
        num_repeated: rows that name a clip once more, with another label; it is stored once.
        num_left: clips that are not prepared yet.
        left_out: what is no clip file though it might seem one: paths by what is wrong with them.
        reasons: number of clips by reason for a loss or a skip.
        num_shards: finished shards in the folder.
        num_bytes: their size.
    """

    num_clips: int
    num_done: int
    num_with_loss: int
    num_skipped: int
    num_missing: int
    num_repeated: int
    num_left: int
    left_out: Mapping[str, Sequence[str]]
    reasons: Mapping[str, int]
    num_shards: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRun:
    """What to prepare and how.

    Attributes:
        root: folder of clips.
        out: folder of shards; made when needed.
        settings: of the shards.
        manifests: Parquet files; without any, every clip file is prepared.
        workers: processes, or Ray workers of one core; all cores when None.
        engine: one of ``pool.ENGINES``.
        max_clip_seconds: time after which reading one clip is given up.
        retry_skipped: take up again what was skipped.
        num_samples: clips that the estimate prepares.
    """

    root: Path
    out: Path
    settings: PreparedSettings = field(default_factory=PreparedSettings)
    manifests: Sequence[Path] = ()
    workers: int | None = None
    engine: str = "local"
    max_clip_seconds: float = MAX_CLIP_SECONDS
    retry_skipped: bool = False
    num_samples: int = _NUM_SAMPLES

    @property
    def limits(self) -> DecodeLimits:
        """What reading one clip may cost."""
        return DecodeLimits(
            max_seconds=self.max_clip_seconds, max_audio_seconds=max(600.0, self.settings.max_seconds + 1)
        )

    @property
    def deadline_seconds(self) -> float:
        """Time after which a process that does not get on with one clip is ended: it passes the limits above."""
        return 3 * self.max_clip_seconds + 30


def plan_run(run: PrepareRun) -> tuple[PreparePlan, PrepareEstimate]:
    """Returns what there is to do and what it will cost; writes nothing.

    Raises:
        UsageError: there is nothing to prepare, or the folder holds shards of other settings.
        ManifestError: a manifest cannot be read.
        StorageError: the rows of a finished shard are damaged.
    """
    _check(run)
    plan = make_plan(
        run.root, run.out, run.manifests, shard_size=run.settings.shard_size, retry_skipped=run.retry_skipped
    )
    forecast = estimate(
        plan,
        run.root,
        run.out,
        run.settings,
        run.limits,
        num_samples=run.num_samples,
        workers=run.workers or num_cores(),
        max_clip_seconds=run.deadline_seconds,
    )
    return plan, forecast


def left_out_lines(plan: PreparePlan) -> list[str]:
    """Returns a line for each kind of thing that might seem a clip file and is none."""
    return [f"left out: {len(paths)} {reason}: {some_names(paths)}" for reason, paths in plan.left_out.items()]


def run_plan(
    run: PrepareRun,
    *,
    on_estimate: Callable[[PreparePlan, PrepareEstimate], None] = lambda plan, forecast: None,
    on_progress: Callable[[int, int], None] = lambda num_done, num_clips: None,
    say: Callable[[str], None] = lambda text: None,
) -> PrepareSummary:
    """Prepares what is not prepared yet, and returns what became of every clip.

    Args:
        run: what and how.
        on_estimate: told what it will cost before it begins.
        on_progress: called with the number of finished clips and of all clips of this run.
        say: told what a person should know.

    Raises:
        UsageError, ManifestError, StorageError: as in ``plan_run``.
        LockedError: another run is writing into the folder.
        OSError: the folder cannot be written; what is finished is kept.
        MissingExtraError: the engine is not installed.
        K700TextError: a shard cannot be written whatever is left out.
    """
    _check(run)
    run.out.mkdir(parents=True, exist_ok=True)
    with _lock(run.out):
        _tidy(run.out)
        plan, forecast = plan_run(run)
        for line in left_out_lines(plan):
            say(line)
        on_estimate(plan, forecast)
        if not (run.out / SETTINGS_FILE).exists():
            with whole_file(run.out / SETTINGS_FILE) as file:
                file.write(run.settings.to_json().encode())
        try:
            _write_shards(run, plan, on_progress, say)
        except KeyboardInterrupt:
            write_index(run.out)
            raise
        finally:
            _tidy(run.out)
        write_index(run.out)
        return _summarise(run, plan)


def _check(run: PrepareRun) -> None:
    check_engine(run.engine)
    if not run.root.is_dir():
        raise UsageError(f"{run.root}: {'not a folder' if run.root.exists() else 'no such folder'}")
    if run.settings.quality not in QUALITIES:
        raise UsageError(f"unknown quality {run.settings.quality!r}: expected one of {', '.join(QUALITIES)}")
    if run.out.exists() and not run.out.is_dir():
        raise UsageError(f"{run.out} is a file: name a folder for the shards")
    path = run.out / SETTINGS_FILE
    if not path.exists():
        # Shards of somebody else would be written over.
        foreign = next((each.name for kind in ("*.tar", "*.arrow") for each in run.out.glob(kind)), None)
        if foreign is not None:
            raise UsageError(f"{run.out} holds {foreign} but no {SETTINGS_FILE}: name another folder for the shards")
        return
    there, asked = asdict(PreparedSettings.from_json(path.read_bytes(), str(path))), asdict(run.settings)
    differing = [f"{name} {there[name]} (now asked for: {asked[name]})" for name in there if there[name] != asked[name]]
    if differing:
        raise UsageError(
            f"{run.out} holds shards with {', '.join(differing)}: use the same settings, or another folder"
        )


def _lock(folder: Path) -> FileLock:
    """Keeps a second run out of the folder."""
    return FileLock(folder / LOCK_FILE, f"another prepare is writing into {folder}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob:
    """One shard to write, with all that a worker needs to know.

    Attributes:
        out: folder of shards.
        root: folder of clips.
        task: the shard.
        settings: of all shards.
        limits: what reading one clip may cost.
        guilty: ids of clips that have killed a worker, which are not to be touched.
        deadline_seconds: the process ends itself if one clip takes longer; None in a process that must live.
    """

    out: Path
    root: Path
    task: ShardTask
    settings: PreparedSettings
    limits: DecodeLimits
    guilty: frozenset[str] = frozenset()
    deadline_seconds: float | None = None

    @property
    def mark(self) -> Path:
        """The file that names the clip being worked at: what is left of a process that died tells of which."""
        return self.out / f".{self.task.name}{_MARK_SUFFIX}"


def write_shard(job: ShardJob) -> int:
    """Writes a shard, and returns the number of clips in it; clips whose files have gone are left out.

    Raises:
        UsageError: the folder of clips has gone.
        OSError: the shard cannot be written.
    """
    if not job.root.is_dir():
        raise UsageError(f"{job.root}: the folder of clips has gone: bring it back and run the same command again")
    num_clips = 0
    with ShardWriter(job.out, job.task.name) as writer, _dead_man_switch(job) as begin:
        for clip in job.task.clips:
            if _is_gone(job.root / clip.clip_file):
                continue
            begin(clip)
            if clip.clip_id in job.guilty:
                record = skipped(clip, job.root, KILLS_ITS_PROCESS)
            else:
                record = prepare_clip(clip, job.root, job.settings, job.limits)
            if record.members:
                writer.add(record.row, record.members, record.packets)
            else:
                writer.skip(record.row)
            num_clips += 1
        if num_clips:
            writer.finish()
    job.mark.unlink(missing_ok=True)
    return num_clips


def _is_gone(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # Reading it will tell why it cannot be read.
    return False


@contextmanager
def _dead_man_switch(job: ShardJob) -> Iterator[Callable[[ClipTask], None]]:
    """Gives what is to be called before every clip: it notes the clip, and winds up the clock."""
    if job.deadline_seconds is None:
        yield lambda clip: None
        return
    seconds = job.deadline_seconds
    with Path(os.devnull).open("w") as nowhere:

        def begin(clip: ClipTask) -> None:
            write_plain(job.mark, clip.clip_id)
            # A thread of its own that needs no interpreter: it works while a decoder loops for ever.
            faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)

        try:
            yield begin
        finally:
            faulthandler.cancel_dump_traceback_later()


def _tidy(out: Path) -> None:
    """Removes what killed processes left; nobody may be writing into the folder."""
    remove_parts(out)
    for mark in out.glob(f".*{_MARK_SUFFIX}"):
        mark.unlink(missing_ok=True)


def _write_shards(
    run: PrepareRun, plan: PreparePlan, on_progress: Callable[[int, int], None], say: Callable[[str], None]
) -> None:
    jobs: Iterator[ShardJob] = (
        ShardJob(
            out=run.out.absolute(),
            root=run.root.absolute(),
            task=task,
            settings=run.settings,
            limits=run.limits,
            deadline_seconds=run.deadline_seconds,
        )
        for task in plan.shards()
    )
    num_done = 0
    on_progress(num_done, plan.num_pending)
    while True:
        again: list[ShardJob] = []
        # Closed and not left to the garbage collector: workers must be gone before anything else is done.
        with closing(_each_shard(run, jobs, say)) as results:
            for job, num_clips in results:
                if num_clips is None:
                    again.append(_without_guilty(job, say))
                    continue
                num_done += len(job.task.clips)
                on_progress(num_done, plan.num_pending)
        if not again:
            return
        jobs = iter(again)


def _each_shard(
    run: PrepareRun, jobs: Iterator[ShardJob], say: Callable[[str], None]
) -> Generator[tuple[ShardJob, int | None]]:
    """Yields each job with the number of its clips, None if its process died of it."""
    running: dict[int, ShardJob] = {}

    def noted() -> Iterator[tuple[ShardJob]]:
        for index, job in enumerate(jobs):
            running[index] = job
            yield (job,)

    results: Any = each_result(
        write_shard,
        noted(),
        workers=run.workers,
        engine=run.engine,
        # Clips end their process by themselves; this is for what even they cannot end.
        max_seconds_per_job=run.deadline_seconds * (run.settings.shard_size + 1),
        must_see=(run.root, run.out),
        on_lost=lambda index, why: say(f"shard {running[index].task.name}: its process {why}"),
    )
    with closing(results):
        for index, result in results:
            yield running.pop(index), result


def _without_guilty(job: ShardJob, say: Callable[[str], None]) -> ShardJob:
    """Returns the job again, to be done without the clip that its process died of."""
    guilty = job.mark.read_text(encoding="utf-8") if job.mark.exists() else None
    if guilty is None or guilty in job.guilty or len(job.guilty) >= _MAX_GUILTY_PER_SHARD:
        raise K700TextError(
            f"{job.out}: shard {job.task.name} cannot be written, its process dies again and again: check that there "
            "is memory enough, or use fewer --workers; the same command continues"
        )
    say(f"shard {job.task.name}: once more, without {guilty}")
    return replace(job, guilty=job.guilty | {guilty})


def _summarise(run: PrepareRun, plan: PreparePlan) -> PrepareSummary:
    rows = shard_rows(run.out)
    keys = row_keys(rows)
    rows = rows.append_column("key", keys).filter(pc.is_in(keys, value_set=row_keys(plan.wanted).combine_chunks()))
    is_skipped = pc.equal(rows["record_bytes"], 0)
    stored = rows.filter(pc.invert(is_skipped)).group_by("key").aggregate([("reason", "max")])
    not_stored = rows.filter(is_skipped)
    not_stored = not_stored.filter(pc.invert(pc.is_in(not_stored["key"], value_set=stored["key"].combine_chunks())))
    # A clip that was tried more than once counts with what came of it last.
    reasons = dict(zip(not_stored["key"].to_pylist(), not_stored["reason"].to_pylist(), strict=True))
    num_skipped = len(reasons)
    losses = stored["reason_max"].drop_null()
    counts = Counter(reason for text in [*reasons.values(), *losses.to_pylist()] for reason in text.split("; "))
    shards = finished_shards(run.out)
    return PrepareSummary(
        num_clips=plan.num_rows,
        num_done=len(stored),
        num_with_loss=len(losses),
        num_skipped=num_skipped,
        num_missing=plan.num_missing,
        num_repeated=plan.num_repeated,
        num_left=len(plan.wanted) - len(stored) - num_skipped,
        left_out={reason: [as_text(path) for path in paths] for reason, paths in plan.left_out.items()},
        reasons=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        num_shards=len(shards),
        num_bytes=sum((run.out / f"{name}.tar").stat().st_size for name in shards),
    )
