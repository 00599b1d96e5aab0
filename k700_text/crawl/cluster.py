"""A crawl on a Ray cluster: parts by a hash of the id, a task and a ledger for each, united in the end.

``OUT/_ledger.sqlite`` is the whole truth; ``OUT/_ray-parts`` holds the ledgers of the parts while they work. A run
first takes in what a killed one has left there. Then each part gets a new ledger that knows what the whole one knows
about its videos: nothing finished is asked again, whatever the number of parts was before. When the parts are done, or
stopped, their ledgers are united in the whole one, and deleted once that is on disk.

- Each part has its share of every rate and of what is left of the quota (``CrawlJob.split``).
- OUT has to be on storage that all nodes share, under the same name. Local files (dumps, annotations, removal lists)
  are read by the calling process alone.
- Workers have the environment of their node. ``YOUTUBE_API_KEY``, the contact address and proxies have to be set on
  each node before Ray is started there; the key never travels. A Ray started here inherits them from this process.
"""

from __future__ import annotations

import platform
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from k700_text.crawl.crawler import summarise
from k700_text.crawl.job import RETRY_SETTING, CrawlJob, begin_job, finish_job, plan_of, run_job, sources_of
from k700_text.crawl.ledger import Ledger
from k700_text.crawl.ledger_place import PART_PATTERNS, part_ledgers
from k700_text.crawl.merge import merge_ledgers, seed_part
from k700_text.crawl.planner import CrawlPlan
from k700_text.crawl.source_run import SourceProgress
from k700_text.crawl.summary import CrawlSummary, SourceSummary
from k700_text.errors import K700TextError, LedgerError, UsageError
from k700_text.ray_session import RayError, RayTaskError, num_nodes, ray, ray_session

# Both begin with an underscore: programs that read the folder leave them out. Earlier versions had none.
PARTS_FOLDER, EARLIER_PARTS_FOLDER = "_ray-parts", "ray-parts"
POLL_SECONDS = 0.5
# A worker that dies this often does not die by chance.
MAX_RETRIES = 20
# Requests under way are cut short.
STOP_SECONDS = 30.0
LINGER_SECONDS = 10.0

Progress = Callable[[Sequence[SourceProgress]], None]
Say = Callable[[str], None]


def run_on_ray(
    job: CrawlJob,
    youtube_ids: Iterable[str],
    *,
    parts: int | None = None,
    on_plan: Callable[[CrawlPlan], None] = lambda plan: None,
    progress: Progress = lambda sources: None,
    say: Say = lambda text: None,
) -> CrawlSummary:
    """Does a job, or goes on with it, in parts on a Ray cluster; the result is in the job's own ledger.

    Joins the cluster that ``RAY_ADDRESS`` names; without one it starts a local Ray and stops it at the end. A worker
    that dies is started again and goes on where it was. KeyboardInterrupt passes through after the parts have stopped
    and their answers are in the ledger.

    Args:
        job: what to crawl and how; its ``out`` is seen by all nodes.
        youtube_ids: all videos.
        parts: how many; one per node that computes when None.
        on_plan: told what it will cost before the first request.
        progress: called about twice a second with the sums over the parts.
        say: told what a person should know.

    Raises:
        UsageError: the job is a part already, or the cluster cannot be joined.
        LedgerError: a ledger cannot be used; a node does not see ``job.out``.
        K700TextError: whatever ended a part; the answers of the others are in the ledger by then.
    """
    if job.shard is not None:
        raise UsageError("--engine ray makes the parts itself: leave --shard out, or use --engine local")
    sources = sources_of(job)
    if not sources:
        return run_job(job, youtube_ids, on_plan=on_plan, progress=progress, say=say)
    began = time.monotonic()
    folder = job.out.absolute() / PARTS_FOLDER
    # What a part asks is decided here: a node without the key stops instead of leaving data-api out.
    part_job = replace(job, out=folder, sources=[source.name for source in sources], dumps=(), removed=())
    with Ledger(job.settle(say)) as whole:
        for left_over in (folder, folder.with_name(EARLIER_PARTS_FOLDER)):
            _take_in(whole, left_over)
        begun = begin_job(job, whole, youtube_ids, say)
        on_plan(plan_of(job, whole, sources, begun.settings, begun.num_ids))
        try:
            # A task asks for a core; a crawl mostly waits, so a local Ray may promise more than there are.
            with ray_session(parts or 1):
                num_parts = parts or num_nodes()
                say(f"ray: {num_parts} parts, in {folder} until they are done")
                ends = _run_parts(part_job.split(num_parts), whole, progress, say)
        finally:
            _take_in(whole, folder)
        for end in ends:
            if isinstance(end, _Failure):
                raise end.error()
        united = _united([end.sources for end in ends if isinstance(end, CrawlSummary)])
        finish_job(job, whole, united, say)
        return summarise(whole, (*begun.imported, *united), begun.num_ids, time.monotonic() - began)


def _take_in(whole: Ledger, folder: Path) -> None:
    """Unites the ledgers of parts, if there are any, in the whole one, and then deletes them.

    Raises:
        LedgerError: one is still being written, or damaged; nothing is deleted then.
    """
    for path in part_ledgers(folder):
        with _opened(path):
            merge_ledgers(whole, [path])
    for pattern in (*(f"{each}*" for each in PART_PATTERNS), "run-*"):
        for path in folder.glob(pattern):
            path.unlink()
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


def _opened(path: Path) -> Ledger:
    """Opens the ledger of a part; the worker of a run that was killed may take a moment to go away."""
    deadline = time.monotonic() + LINGER_SECONDS
    while True:
        try:
            return Ledger(path)
        except LedgerError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def _run_parts(parts: Sequence[CrawlJob], whole: Ledger, progress: Progress, say: Say) -> list[CrawlSummary | _Failure]:
    """Runs the parts side by side until all have ended; stops them on the way out of an error or an interruption."""
    board = ray.remote(_Board).options(num_cpus=0, max_restarts=-1).remote()
    task = ray.remote(_run_part).options(num_cpus=1, max_retries=MAX_RETRIES, scheduling_strategy="SPREAD")
    waiting: dict[Any, CrawlJob] = {}
    ends: list[CrawlSummary | _Failure] = []
    try:
        marker = _mark(parts[0].out)
        for part in parts:
            waiting[task.remote(part, _seed(part, whole), marker, board)] = part
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=POLL_SECONDS)
            progress(_read(board))
            for one in done:
                ends.append(_end(one, waiting.pop(one), say))
    finally:
        _stop(list(waiting))
    return ends


def _mark(folder: Path) -> Path:
    """Writes the file by which a node knows that it sees the very same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f"run-{uuid.uuid4().hex}"
    marker.touch()
    return marker


def _seed(part: CrawlJob, whole: Ledger) -> bytes:
    """Makes the ledger of a part and returns its ids, packed: all parts' ids together travel once."""
    assert part.shard is not None
    with Ledger(part.ledger_path) as own:
        seed_part(own, whole.path, holds=part.shard.holds, num_parts=part.shard.count)
        own.remember(RETRY_SETTING, whole.setting(RETRY_SETTING))
    return "\n".join(part.own_ids(whole.wanted_ids())).encode()


def _run_part(job: CrawlJob, packed_ids: bytes, marker: Path, board: Any) -> CrawlSummary | _Failure:
    """Crawls one part: the task that a worker runs, and runs again where another one died."""
    assert job.shard is not None
    index = job.shard.index
    try:
        if not marker.exists():
            raise LedgerError(
                f"node {platform.node()} does not see {job.out}: --out has to be a folder that all nodes share"
            )
        ids = packed_ids.decode().split()
        return run_job(job, ids, progress=lambda sources: board.post.remote(index, list(sources)))
    except K700TextError as error:
        return _Failure(type(error), error.args, vars(error))


@dataclass(frozen=True, slots=True)
class _Failure:
    """What ended a part, in a form that can be sent: an error itself cannot where its constructor wants more."""

    kind: type[K700TextError]
    args: tuple[Any, ...]
    attributes: dict[str, Any]

    def error(self) -> K700TextError:
        """Returns the error as it was."""
        error = self.kind.__new__(self.kind, *self.args)
        error.__dict__.update(self.attributes)
        return error


def _end(task: Any, part: CrawlJob, say: Say) -> CrawlSummary | _Failure:
    """Returns how a part ended; says at once if it failed, because the others may go on for days."""
    assert part.shard is not None
    try:
        end: CrawlSummary | _Failure = ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, OSError):
            raise error.cause from error
        if not isinstance(error.cause, RayError):
            raise
        reason = str(error).strip().rpartition("\n")[2]
        text = f"a worker cannot begin: {reason}; install the same k700-text[cluster] on all nodes"
        end = _Failure(K700TextError, (text,), {})
    except RayError as error:
        reason = str(error).strip().partition("\n")[0]
        end = _Failure(K700TextError, (f"a part was lost by Ray: {reason}; run the same command to continue",), {})
    if isinstance(end, _Failure):
        say(f"part {part.shard.index} of {part.shard.count} failed: {end.error()}")
    return end


def _stop(tasks: list[Any]) -> None:
    """Interrupts the parts that still work and waits until they have written what was answered."""
    if tasks:
        for task in tasks:
            ray.cancel(task)
        ray.wait(tasks, num_returns=len(tasks), timeout=STOP_SECONDS)


class _Board:
    """The actor to which the parts report how far they are."""

    def __init__(self) -> None:
        self._latest: dict[int, list[SourceProgress]] = {}

    def post(self, index: int, sources: list[SourceProgress]) -> None:
        """Takes the state of a part."""
        self._latest[index] = sources

    def read(self) -> list[SourceProgress]:
        """Returns the latest state of all parts, one entry for each part and source."""
        return [source for index in sorted(self._latest) for source in self._latest[index]]


def _read(board: Any) -> list[SourceProgress]:
    """Returns the sums over the parts; nothing while the board is being started again elsewhere."""
    try:
        return summed_progress(ray.get(board.read.remote(), timeout=POLL_SECONDS))
    except RayError:
        return []


def summed_progress(reports: Iterable[SourceProgress]) -> list[SourceProgress]:
    """Returns one entry per source for those of all parts: the slowest part decides when it is through."""
    groups: dict[str, list[SourceProgress]] = {}
    for report in reports:
        groups.setdefault(report.source, []).append(report)
    return [
        SourceProgress(
            source=source,
            done=sum(each.done for each in group),
            total=sum(each.total for each in group),
            rate=sum(each.rate for each in group),
            eta_seconds=max((each.eta_seconds for each in group if each.eta_seconds is not None), default=None),
            note=group[0].note if all(each.note for each in group) else None,
        )
        for source, group in groups.items()
    ]


def _united(parts: Sequence[Sequence[SourceSummary]]) -> list[SourceSummary]:
    """Returns one summary per source for those of all parts, in the order of the cascade."""
    return [_sum(group) for group in zip(*parts, strict=True)]


def _sum(group: Sequence[SourceSummary]) -> SourceSummary:
    reasons: Counter[str] = Counter()
    for each in group:
        reasons.update(each.reasons)
    return SourceSummary(
        source=group[0].source,
        num_answered=sum(each.num_answered for each in group),
        num_titles=sum(each.num_titles for each in group),
        num_transient=sum(each.num_transient for each in group),
        num_requests=sum(each.num_requests for each in group),
        num_left=sum(each.num_left for each in group),
        reasons=dict(sorted(reasons.items())),
        stopped=next((each.stopped for each in group if each.stopped), None),
        resume_at=min((each.resume_at for each in group if each.resume_at), default=None),
        elapsed_seconds=max(each.elapsed_seconds for each in group),
    )
