"""Running one function over many jobs, in processes that may die: a crash, a hang or a kill costs one job, not the run.

Two engines do it: processes of this machine (``processes``), and workers on a Ray cluster (``cluster``).
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from k700_text.errors import UsageError

Result = TypeVar("Result")
OnLost = Callable[[int, str], None]
"""Is told the index of a job that is lost, and why: text that goes on from "its process "."""

ENGINES = ("local", "ray")


def num_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_engine(engine: str) -> str:
    """Returns the name of an engine.

    Raises:
        UsageError: there is none of that name.
    """
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}: expected one of {', '.join(ENGINES)}")
    return engine


def each_result(
    function: Callable[..., Result],
    jobs: Iterable[tuple[Any, ...]],
    *,
    workers: int | None,
    engine: str = "local",
    max_seconds_per_job: float | None = None,
    must_see: Sequence[str | Path] = (),
    on_lost: OnLost = lambda index, why: None,
) -> Iterator[tuple[int, Result | None]]:
    """Yields (index of the job, result) as the jobs finish; the result is None if the job is lost.

    A job is lost if it takes longer than it may, or if its process died of it more than once: the first time it may
    have been the system, short of memory. Workers may be killed at any moment, by this too; what a function writes has
    to bear that. Jobs are taken as they are needed, so that any number of them may come. Leaving the loop early, an
    error and an interruption end all workers.

    Args:
        function: what to call; importable by name. An error that it raises ends the run, and is raised here.
        jobs: its arguments, for every call.
        workers: processes, or Ray workers of one core; all cores (of the cluster) when None. One local worker without
            a time limit is this process itself, where a crash is a crash.
        engine: one of ``ENGINES``. Ray joins the cluster that ``RAY_ADDRESS`` names, and starts a local one without;
            the nodes need this package, and every file that the jobs name under the same name: shared storage.
        max_seconds_per_job: wall time of one job; its process is killed then.
        must_see: files that every worker has to find, asked before it gets a job.
        on_lost: called before None is yielded for a job.

    Raises:
        UsageError: workers cannot be started, or do not see what they must.
        MissingExtraError: Ray is not installed.
    """
    check_engine(engine)
    if engine == "ray":
        from k700_text.media.cluster import run_on_cluster

        yield from run_on_cluster(
            function, jobs, workers=workers, max_seconds=max_seconds_per_job, must_see=must_see, on_lost=on_lost
        )
        return
    workers = num_cores() if workers is None else workers
    if workers <= 1 and max_seconds_per_job is None:
        for index, job in enumerate(jobs):
            yield index, function(*job)
        return
    from k700_text.media.processes import run_in_processes

    yield from run_in_processes(
        function, jobs, workers=max(1, workers), max_seconds=max_seconds_per_job, on_lost=on_lost
    )


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """What calling the function gave, in a form that travels between processes."""

    value: Result | None
    error: Exception | None = None

    @classmethod
    def of(cls, function: Callable[..., Result], job: tuple[Any, ...]) -> Outcome[Result]:
        """Calls the function."""
        try:
            return cls(function(*job))
        except Exception as error:  # noqa: BLE001 - it is raised again by the process that asked.
            return cls(None, _portable(error))

    def result(self) -> Result | None:
        """Returns what the function returned.

        Raises:
            Exception: the function raised it.
        """
        if self.error is not None:
            raise self.error
        return self.value


def _portable(error: Exception) -> Exception:
    """Returns an error that survives the way: one whose constructor wants more than its text does not."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever its own code may raise there.
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
