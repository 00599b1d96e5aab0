"""A look inside a few steps with torch.profiler: a trace for a viewer and a table of the costliest operations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from k700_text.files.atomic import write_whole
from lava_model.config import PretrainConfig
from lava_model.distributed import Ranks
from lava_model.files import writing

_WARM_UP_STEPS = 3
"""Steps before the recording: the first ones allocate, choose kernels and compile."""
_NUM_ROWS = 30


class Profile:
    """Context of the training steps; writes ``profile/trace.json`` (Chrome, Perfetto) and ``profile/operations.txt``.

    Recording starts after three steps and takes ``run.profile_steps``; fewer where the run ends earlier. A step that is
    followed by an evaluation or a checkpoint is recorded with it. Without ``profile_steps`` nothing happens.
    """

    def __init__(
        self,
        config: PretrainConfig,
        out: Path,
        device: torch.device,
        ranks: Ranks | None = None,
        *,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Prepares the recording.

        Args:
            config: of the run.
            out: run folder.
            device: that is trained on.
            ranks: which process this is; only the main one records. None: the only one.
            say: takes the line that tells where the files are.
        """
        self.num_steps = config.run.profile_steps if ranks is None or ranks.is_main else 0
        self.folder = out / "profile"
        self.device = device
        self._say = say
        self._profiler: Any = None

    def __enter__(self) -> Self:
        """Starts the profiler where steps are to be recorded.

        Raises:
            OutputError: the folder cannot be made.
        """
        if self.num_steps:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            self._profiler = self._make()
            self._profiler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends a recording that is still going on."""
        self._stop()

    def step(self) -> None:
        """Tells that an optimiser step is done; after the last one that is recorded, writes the files.

        Raises:
            OutputError: they cannot be written.
        """
        if self._profiler is not None:
            self._profiler.step()
            if self._profiler.step_num >= _WARM_UP_STEPS + self.num_steps:
                self._stop()

    def _stop(self) -> None:
        profiler, self._profiler = self._profiler, None
        if profiler is not None:
            profiler.stop()

    def _make(self) -> Any:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        return torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(wait=0, warmup=_WARM_UP_STEPS, active=self.num_steps, repeat=1),
            on_trace_ready=self._write,
            acc_events=True,  # changes nothing in one cycle; without it torch warns of others
        )

    def _write(self, profiler: Any) -> None:
        order = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=_NUM_ROWS)
        with writing(self.folder):
            profiler.export_chrome_trace(str(self.folder / "trace.json"))
            write_whole(self.folder / "operations.txt", table + "\n")
        self._say(f"the profile of {self.num_steps} steps is in {self.folder}")
