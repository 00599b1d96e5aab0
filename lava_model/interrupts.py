"""Signals that ask a run to stop: they are noted, and obeyed where stopping loses nothing."""

from __future__ import annotations

import math
import os
import signal
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Self

from k700_text.starting import ends_surely, patience

_STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Context in which SIGTERM, SIGUSR1 and Ctrl-C only set ``signal_name``; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._previous: dict[int, signal._HANDLER] = {}
        self._patience = ExitStack()

    def __enter__(self) -> Self:
        # A step, and a checkpoint of gigabytes, may take any time; schedulers send more than one of their signals.
        self._patience.enter_context(patience(math.inf, ended_by=(signal.SIGINT,)))
        for number in _STOPPING:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._patience.close()

    @property
    def is_asked(self) -> bool:
        """Whether one of them came."""
        return self.signal_name is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal_name is not None and not ends_surely():
            raise KeyboardInterrupt
        if self.signal_name is None:
            # Not by print, whose buffer this very moment may be half full.
            os.write(
                2,
                b"stopping: this step is finished and saved (Ctrl-C again ends at once, with what was saved before)\n",
            )
        self.signal_name = signal.Signals(number).name
