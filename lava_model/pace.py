"""How fast a run goes: steps, the time they take, and the part of it that waits for batches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from k700_text.data.sample import Batch


@dataclass(slots=True, kw_only=True)
class Pace:
    """Steps made and the time they took, without what lies between them: evaluation and checkpoints."""

    steps: int = 0
    seconds: float = 0.0
    waited_seconds: float = 0.0

    def add(self, seconds: float, waited_seconds: float) -> None:
        """Counts a step that took so long, thereof waiting for its batches."""
        self.steps += 1
        self.seconds += seconds
        self.waited_seconds += waited_seconds

    @property
    def steps_per_second(self) -> float:
        """0 before the first step."""
        return self.steps / self.seconds if self.seconds else 0.0

    @property
    def waited_percent(self) -> float:
        """Share of the time that was spent waiting for batches."""
        return 100 * self.waited_seconds / self.seconds if self.seconds else 0.0


class TimedBatches:
    """Batches, and how long they were waited for so far."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        """Hands on what an iterator gives."""
        self._batches = batches
        self.waited_seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        started = time.perf_counter()
        batch = next(self._batches)
        self.waited_seconds += time.perf_counter() - started
        return batch


def clock(seconds: float) -> str:
    """Returns a time as hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
