"""Timing contenders in turn on the same windows, and the table of it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from threadpoolctl import threadpool_limits

Job = TypeVar("Job")


@contextmanager
def use_one_core() -> Iterator[None]:
    """Keeps this process on one core while it measures, one thread for each library."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        if not hasattr(os, "sched_setaffinity"):
            yield
            return
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        try:
            yield
        finally:
            os.sched_setaffinity(0, cores)


def milliseconds_in_turn(
    contenders: Mapping[str, Callable[[Job], object]], rounds: Iterable[Sequence[Job]]
) -> dict[str, float]:
    """Returns CPU milliseconds a job of each contender, all its threads: the median over rounds of the round's mean.

    Every job goes through all contenders before the next one, beginning with another one each time: what else the
    machine does meets all alike. One job of each is run before, unmeasured.
    """
    names = list(contenders)
    by_round: dict[str, list[float]] = {name: [] for name in names}
    turn = 0
    for number, jobs in enumerate(rounds):
        if number == 0:
            for name in names:
                contenders[name](jobs[0])
        spent = dict.fromkeys(names, 0.0)
        for job in jobs:
            order = names[turn % len(names) :] + names[: turn % len(names)]
            turn += 1
            for name in order:
                before = time.process_time()
                contenders[name](job)
                spent[name] += time.process_time() - before
        for name in names:
            by_round[name].append(1000 * spent[name] / len(jobs))
    return {name: statistics.median(values) for name, values in by_round.items()}


@dataclass(frozen=True)
class Target:
    """A ratio or a rate that has to be reached."""

    what: str
    wanted: float
    reached: float | None

    @property
    def verdict(self) -> str:
        """What the table says."""
        if self.reached is None:
            return "not measured: the peer is not installed"
        return "ok" if self.reached >= self.wanted else "FALLS SHORT"

    def as_json(self) -> dict[str, Any]:
        """Returns it for the JSON line."""
        return {"what": self.what, "wanted": self.wanted, "reached": self.reached}


def ratio(times: Mapping[str, float], peer: str, ours: str) -> float | None:
    """Returns how many times the peer's time is ours; None if either is missing."""
    return times[peer] / times[ours] if peer in times and ours in times else None


def print_times(title: str, times: Mapping[str, float], missing: Mapping[str, str]) -> None:
    """Prints a table of milliseconds and rates, slowest first, and what was not there."""
    width = max(map(len, [*times, *missing, title])) + 2
    print(f"\n{title:{width}}{'CPU ms/sample':>15}{'samples/s/core':>16}")
    for name, value in sorted(times.items(), key=lambda item: -item[1]):
        print(f"{name:{width}}{value:15.1f}{1000 / value:16.1f}")
    for name, why in missing.items():
        print(f"{name:{width}}{why}")


def print_targets(targets: Sequence[Target]) -> None:
    """Prints what was to be reached beside what was."""
    width = max(len(each.what) for each in targets) + 2
    print(f"\n{'':{width}}{'reached':>10}{'target':>10}")
    for each in targets:
        reached = "-" if each.reached is None else f"{each.reached:.2f}"
        print(f"{each.what:{width}}{reached:>10}{each.wanted:10.2f}  {each.verdict}")
