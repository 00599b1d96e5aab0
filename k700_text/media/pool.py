"""Running one function over many files in processes that may die: a crash or a kill costs one file, not the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any, TypeVar

from k700_text.errors import UsageError

_Result = TypeVar("_Result")
_JOBS_IN_FLIGHT_PER_WORKER = 3


def num_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each_result(
    function: Callable[..., _Result], jobs: Sequence[tuple[Any, ...]], *, workers: int
) -> Iterator[tuple[int, _Result | None]]:
    """Yields (index of the job, result) as the jobs finish; the result is None if the process died of that job.

    Args:
        function: what to call; importable by name, raises nothing.
        jobs: its arguments, for every call.
        workers: processes; 1 runs everything in this one.

    Raises:
        UsageError: processes cannot be started.
    """
    if workers <= 1:
        for index, job in enumerate(jobs):
            yield index, function(*job)
        return
    todo = list(reversed(range(len(jobs))))
    while todo:
        suspects = yield from _run_pool(function, jobs, todo, workers)
        for index in suspects:
            # One of these killed its process: each gets one of its own, so that only the guilty one is lost.
            guilty = yield from _run_pool(function, jobs, [index], 1)
            if guilty:
                yield index, None


def _run_pool(
    function: Callable[..., _Result], jobs: Sequence[tuple[Any, ...]], todo: list[int], workers: int
) -> Generator[tuple[int, _Result | None], None, list[int]]:
    """Works ``todo`` off from its end; returns the jobs that were running when a process died."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_prepare_worker)
    running: dict[Future[_Result], int] = {}
    try:
        _start(pool)
        while todo or running:
            with _interrupts_held_back():
                while todo and len(running) < workers * _JOBS_IN_FLIGHT_PER_WORKER:
                    running[pool.submit(function, *jobs[todo[-1]])] = todo[-1]
                    todo.pop()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = future.result()
                yield running.pop(future), result
    except BrokenProcessPool:
        return sorted(running.values())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return []


def _start(pool: ProcessPoolExecutor) -> None:
    try:
        with _interrupts_held_back():
            started = pool.submit(os.getpid)
        started.result()
    except BrokenProcessPool as error:
        raise UsageError(
            "worker processes do not start: use 1 worker, or call this under `if __name__ == '__main__':`"
        ) from error


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Processes started inside inherit a blocked Ctrl-C: the parent alone decides, and no worker prints a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    # A parent killed with -9 cannot stop its workers; without this they would wait for ever.
    connection.wait([sentinel])
    os._exit(1)
