"""The Ray engine of ``pool``: one actor per core of the cluster, each at one job at a time.

Actors and not tasks, because only so it is known when a job began, and a hanging one can be stopped in time. An actor
that dies is replaced; its job is tried again on another one, because on a cluster it is mostly the node that went.
"""

from __future__ import annotations

import platform
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Generic

from k700_text.errors import K700TextError, UsageError
from k700_text.media.pool import OnLost, Outcome, Result, num_cores
from k700_text.ray_session import RayError, num_cpus, ray, ray_session

MAX_ATTEMPTS = 4
_POLL_SECONDS = 1.0
_MAX_FAILED_STARTS = 5

_Job = tuple[int, tuple[Any, ...]]


def run_on_cluster(
    function: Callable[..., Result],
    jobs: Iterable[tuple[Any, ...]],
    *,
    workers: int | None,
    max_seconds: float | None,
    must_see: Sequence[str | Path],
    on_lost: OnLost,
) -> Iterator[tuple[int, Result | None]]:
    """Does what ``pool.each_result`` promises, on a Ray cluster."""
    with ray_session(workers or num_cores()):
        crew = _Crew(function, max_seconds, [str(Path(path).absolute()) for path in must_see], on_lost)
        try:
            yield from crew.run(iter(enumerate(jobs)), workers or num_cpus())
        finally:
            crew.dismiss()


class _Actor(Generic[Result]):
    """What runs in a process of the cluster."""

    def __init__(self, function: Callable[..., Result]) -> None:
        self._function = function

    def look(self, paths: Sequence[str]) -> str | None:
        """Returns what is wrong if a path cannot be seen from here."""
        unseen = next((path for path in paths if not Path(path).exists()), None)
        return unseen and f"node {platform.node()} does not see {unseen}: it has to be on storage that all nodes share"

    def work(self, job: tuple[Any, ...]) -> Outcome[Result]:
        """Does a job."""
        return Outcome.of(self._function, job)


class _Worker:
    """An actor as this process sees it.

    Attributes:
        answer: what it is to answer next: first what it sees, then the outcome of its job; None while it waits.
        job: what it works at.
        deadline: time (monotonic) at which the job has to be done; None without a limit.
    """

    def __init__(self, function: Callable[..., Any], must_see: Sequence[str]) -> None:
        options = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
        self._actor = ray.remote(_Actor).options(**options).remote(function)
        self.answer: Any = self._actor.look.remote(must_see)
        self.job: _Job | None = None
        self.deadline: float | None = None

    def give(self, job: _Job, max_seconds: float | None) -> None:
        """Hands it a job."""
        self.job = job
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self.answer = self._actor.work.remote(job[1])

    def kill(self) -> None:
        """Ends its process at once, if it is there; without Ray, as when Python ends, it is not."""
        if ray.is_initialized():
            ray.kill(self._actor)


class _Crew(Generic[Result]):
    """The actors, and how often each job was begun in vain."""

    def __init__(
        self, function: Callable[..., Result], max_seconds: float | None, must_see: Sequence[str], on_lost: OnLost
    ) -> None:
        self._function = function
        self._max_seconds = max_seconds
        self._must_see = must_see
        self._on_lost = on_lost
        self._workers: list[_Worker] = []
        self._waiting: deque[_Job] = deque()
        self._num_deaths: Counter[int] = Counter()
        self._num_failed_starts = 0

    def run(self, jobs: Iterator[_Job], size: int) -> Iterator[tuple[int, Result | None]]:
        """Works all jobs off with up to ``size`` actors."""
        self._waiting.extend(islice(jobs, size))
        while self._waiting or any(worker.job for worker in self._workers):
            for worker in self._workers:
                self._feed(worker)
            num_busy = sum(worker.job is not None for worker in self._workers)
            while len(self._workers) < min(size, num_busy + len(self._waiting)):
                self._workers.append(_Worker(self._function, self._must_see))
            for worker in self._answering():
                done, outcome = self._answer(worker)
                # The next job first: the worker is not to wait for whoever takes the results.
                self._waiting.extend(islice(jobs, max(0, size - len(self._waiting))))
                self._feed(worker)
                if done is not None:
                    yield done, outcome.result() if outcome is not None else None
            for late in self._stop_late():
                yield late, None

    def dismiss(self) -> None:
        """Ends all actors."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def _feed(self, worker: _Worker) -> None:
        if worker.answer is None and self._waiting and worker in self._workers:
            worker.give(self._waiting.popleft(), self._max_seconds)

    def _answering(self) -> list[_Worker]:
        """Waits a while, and returns the workers that have answered or died."""
        by_answer = {worker.answer: worker for worker in self._workers if worker.answer is not None}
        if not by_answer:
            return []
        deadlines = [worker.deadline for worker in self._workers if worker.deadline is not None]
        timeout = max(0.0, min([_POLL_SECONDS, *(deadline - time.monotonic() for deadline in deadlines)]))
        if not ray.wait(list(by_answer), timeout=timeout)[0]:
            return []
        # The first one gives the signal; all that is there is taken.
        ready, _ = ray.wait(list(by_answer), num_returns=len(by_answer), timeout=0)
        return [by_answer[answer] for answer in ready]

    def _answer(self, worker: _Worker) -> tuple[int | None, Outcome[Result] | None]:
        """Returns the job that has ended, None if none has, and its outcome, None if it is lost."""
        job, answer = worker.job, worker.answer
        worker.job = worker.answer = worker.deadline = None
        try:
            message = ray.get(answer)
        except RayError as error:
            self._workers.remove(worker)
            worker.kill()
            return self._mourn(job, str(error).strip()), None
        if job is not None:
            return job[0], message
        self._num_failed_starts = 0
        if message is not None:
            raise UsageError(message)
        return None, None

    def _mourn(self, job: _Job | None, error: str) -> int | None:
        """Decides about the job of an actor that is gone; returns it if it is lost."""
        if job is None:
            self._num_failed_starts += 1
            if self._num_failed_starts >= _MAX_FAILED_STARTS:
                reason = error.rpartition("\n")[2]
                raise K700TextError(f"workers cannot begin: {reason}; install the same k700-text[cluster] on all nodes")
            return None
        self._num_deaths[job[0]] += 1
        if self._num_deaths[job[0]] < MAX_ATTEMPTS:
            self._waiting.append(job)
            return None
        del self._num_deaths[job[0]]
        self._on_lost(job[0], f"died, {MAX_ATTEMPTS} times")
        return job[0]

    def _stop_late(self) -> list[int]:
        """Kills the workers that are out of time; returns their jobs."""
        now = time.monotonic()
        late = [each for each in self._workers if each.deadline is not None and each.deadline <= now]
        # Whoever takes the results may have taken so long that an answer lies here since.
        late = [each for each in late if not ray.wait([each.answer], timeout=0)[0]]
        for worker in late:
            self._workers.remove(worker)
            worker.kill()
            assert worker.job is not None
            self._on_lost(worker.job[0], f"was stopped: it took more than {self._max_seconds:g} s")
        return [worker.job[0] for worker in late if worker.job is not None]
