"""Milliseconds and bytes of a function, on a GPU or on one CPU core."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from loading.timing import use_one_core

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"


class Clock:
    """Times a function: on a GPU wall time between two moments at which it rests, on a CPU the process's CPU time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.unit = "ms" if device.type == "cuda" else "CPU ms"

    def measuring(self) -> AbstractContextManager[None]:
        """Returns a context that keeps a CPU measurement on one core, one thread for each library."""
        return nullcontext() if self.device.type == "cuda" else use_one_core()

    def milliseconds(self, function: Callable[[], object]) -> float:
        """Returns how long a call takes."""
        if self.device.type != "cuda":
            before = time.process_time()
            function()
            return 1000 * (time.process_time() - before)
        torch.cuda.synchronize(self.device)
        before = time.perf_counter()
        function()
        torch.cuda.synchronize(self.device)
        return 1000 * (time.perf_counter() - before)

    def in_turn(self, contenders: Mapping[str, Callable[[], object]], num_rounds: int) -> dict[str, float]:
        """Returns the median milliseconds of each contender.

        One call of each in every round, beginning with another one each time: what else the machine does meets all
        alike. Two rounds are run before, unmeasured.
        """
        names = list(contenders)
        times: dict[str, list[float]] = {name: [] for name in names}
        for number in range(-2, num_rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                spent = self.milliseconds(contenders[name])
                if number >= 0:
                    times[name].append(spent)
        return {name: statistics.median(values) for name, values in times.items()}

    @contextmanager
    def peak_bytes(self) -> Iterator[list[int]]:
        """Yields a list that at the end holds the most memory used meanwhile: the GPU's tensors, or resident memory.

        It stays empty where the system does not tell.
        """
        found: list[int] = []
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            yield found
            found.append(torch.cuda.max_memory_allocated(self.device))
            return
        try:
            _CLEAR.write_text(_RESET_PEAK)
            yield found
            line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
            found.append(1024 * int(line.split()[1]))
        except OSError:  # no Linux, or a container that forbids it
            yield found
