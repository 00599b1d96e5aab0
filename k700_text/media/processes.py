"""The local engine of ``pool``: worker processes, each at one job at a time, so that it is known who died of what."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing import connection, resource_tracker
from typing import Any, Generic

from k700_text.errors import UsageError
from k700_text.media.pool import OnLost, Outcome, Result
from k700_text.starting import held_back

_Job = tuple[int, tuple[Any, ...]]
_MAX_FAILED_STARTS = 3
_GOODBYE_SECONDS = 5.0
# The system waits 24 days at most, and takes no longer time.
_LONGEST_WAIT_SECONDS = 86_400.0


def run_in_processes(
    function: Callable[..., Result],
    jobs: Iterable[tuple[Any, ...]],
    *,
    workers: int,
    max_seconds: float | None,
    on_lost: OnLost,
) -> Iterator[tuple[int, Result | None]]:
    """Does what ``pool.each_result`` promises, in processes of this machine."""
    crew = _Crew(function, max_seconds, on_lost)
    is_done = False
    try:
        yield from crew.run(iter(enumerate(jobs)), workers)
        # If it was memory that ran out, half as many have twice as much of it.
        yield from crew.run_suspects((workers + 1) // 2)
        is_done = True
    finally:
        crew.dismiss(at_once=not is_done)


class _Worker(Generic[Result]):
    """One process, and the job that it is at.

    Attributes:
        pipe: gives None when the process is ready, then an Outcome for every job.
        is_ready: the process has said so.
        job: what it works at; None when it waits.
        deadline: time (monotonic) at which the job has to be done; None without a limit.
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, function), daemon=True)
        self.is_ready = False
        self.job: _Job | None = None
        self.deadline: float | None = None
        with _interrupts_held_back():
            self._process.start()
        theirs.close()

    def give(self, job: _Job, max_seconds: float | None) -> None:
        """Hands it a job; if it is dead, that shows when its answer is read."""
        self.job = job
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(job[1])

    def bury(self) -> str:
        """Lets the process end by itself, soon; returns how it did, as text that goes on from "its process "."""
        self.pipe.close()
        self._process.join(_GOODBYE_SECONDS)
        return self._end()

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        self.pipe.close()
        self._end()

    def _end(self) -> str:
        self._process.kill()
        self._process.join(_GOODBYE_SECONDS)
        code = self._process.exitcode
        if code is None:
            # It waits for a disk that does not answer, where no signal reaches it: it goes when the disk does.
            return "does not end"
        self._process.close()
        if code == -signal.SIGKILL:
            return "was killed, perhaps for the memory it took"
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


class _Crew(Generic[Result]):
    """The workers, and the jobs of which one has died."""

    def __init__(self, function: Callable[..., Result], max_seconds: float | None, on_lost: OnLost) -> None:
        self._function = function
        self._max_seconds = max_seconds
        self._on_lost = on_lost
        self._workers: list[_Worker[Result]] = []
        self._suspects: list[_Job] = []
        self._is_last_chance = False
        self._num_failed_starts = 0
        self._has_started = False

    def run(self, jobs: Iterator[_Job], size: int) -> Iterator[tuple[int, Result | None]]:
        """Works all jobs off with up to ``size`` workers."""
        waiting = deque(islice(jobs, size))
        while waiting or any(worker.job for worker in self._workers):
            for worker in self._workers:
                if worker.is_ready and worker.job is None and waiting:
                    worker.give(waiting.popleft(), self._max_seconds)
            num_busy = sum(worker.job is not None for worker in self._workers)
            while len(self._workers) < min(size, num_busy + len(waiting)):
                self._workers.append(_Worker(self._function))
            for worker in self._answering():
                done, outcome = self._answer(worker)
                # The next job first: the worker is not to wait for whoever takes the results.
                waiting.extend(islice(jobs, size - len(waiting)))
                if waiting and worker.is_ready and worker in self._workers:
                    worker.give(waiting.popleft(), self._max_seconds)
                if done is not None:
                    yield done, outcome.result() if outcome is not None else None

    def run_suspects(self, size: int) -> Iterator[tuple[int, Result | None]]:
        """Gives the jobs of which a process died a last chance, in new processes."""
        if self._suspects:
            self.dismiss()
            self._is_last_chance = True
            yield from self.run(iter(self._suspects), size)

    def dismiss(self, *, at_once: bool = False) -> None:
        """Ends all workers: those that wait go by themselves."""
        for worker in self._workers:
            if at_once:
                worker.kill()
            else:
                worker.bury()
        self._workers.clear()

    def _answering(self) -> list[_Worker[Result]]:
        """Waits, and returns the workers that have said something, died, or are out of time."""
        by_pipe = {worker.pipe: worker for worker in self._workers}
        deadlines = [worker.deadline for worker in self._workers if worker.deadline is not None]
        timeout = min(max(0.0, min(deadlines) - time.monotonic()), _LONGEST_WAIT_SECONDS) if deadlines else None
        ready = [by_pipe[pipe] for pipe in connection.wait(by_pipe, timeout) if isinstance(pipe, connection.Connection)]
        now = time.monotonic()
        late = [each for each in self._workers if each.deadline is not None and each.deadline <= now]
        return ready + [worker for worker in late if worker not in ready]

    def _answer(self, worker: _Worker[Result]) -> tuple[int | None, Outcome[Result] | None]:
        """Returns the job that has ended, None if none has, and its outcome, None if it is lost."""
        try:
            if not worker.pipe.poll():
                return self._stop(worker), None
            message: Outcome[Result] | None = worker.pipe.recv()
        except (EOFError, OSError):
            return self._mourn(worker), None
        job, worker.job, worker.deadline = worker.job, None, None
        if not worker.is_ready:
            worker.is_ready = self._has_started = True
            self._num_failed_starts = 0
            return None, None
        return job[0] if job is not None else None, message

    def _mourn(self, worker: _Worker[Result]) -> int | None:
        """Takes a dead worker out; returns its job if that is lost."""
        self._workers.remove(worker)
        how = worker.bury()
        if not worker.is_ready:
            self._num_failed_starts += 1
            if not self._has_started or self._num_failed_starts > _MAX_FAILED_STARTS:
                raise UsageError(
                    f"worker processes do not start (one {how}): use 1 worker, or call this under "
                    "`if __name__ == '__main__':`"
                )
            return None
        if worker.job is None:
            return None
        if not self._is_last_chance:
            self._suspects.append(worker.job)
            return None
        self._on_lost(worker.job[0], f"{how}, twice")
        return worker.job[0]

    def _stop(self, worker: _Worker[Result]) -> int:
        """Kills a worker that is out of time; returns its job."""
        assert worker.job is not None
        self._workers.remove(worker)
        worker.kill()
        self._on_lost(worker.job[0], f"was stopped: it took more than {self._max_seconds:g} s")
        return worker.job[0]


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Processes started inside inherit a blocked Ctrl-C: the parent alone decides, and no worker prints a traceback.

    Nor is the parent interrupted before it has told the process what it is for.
    """
    with held_back():
        # The first process of all starts this one as well, which ends with unblocking what was blocked.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Any, function: Callable[..., Any]) -> None:
    """What a worker does until it is sent home."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(None)
        while True:
            pipe.send(Outcome.of(function, pipe.recv()))


def _exit_after(sentinel: int) -> None:
    # A parent killed with -9 cannot stop its workers; without this they would work at their job to its end.
    connection.wait([sentinel])
    os._exit(1)
