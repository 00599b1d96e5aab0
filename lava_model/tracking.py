"""Where the numbers of a run go: always log.jsonl, TensorBoard and Weights & Biases when asked.

The log is the record: a run stops when it cannot be written. The others are mirrors of it. What they need is asked for
before training; when one fails later, that is said once and the run goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from k700_text.files.atomic import write_whole
from k700_text.files.journal import json_lines
from k700_text.files.plain import open_plain
from lava_model.config import PretrainConfig
from lava_model.errors import MissingExtraError
from lava_model.files import writing
from lava_model.wandb_log import WandbLog

Values = Mapping[str, float | int | None]


class Tracker(Protocol):
    """A place for the numbers of a step."""

    def log(self, kind: str, step: int, values: Values) -> None:
        """Records the numbers; ``kind`` is ``train`` or ``val``."""

    def close(self) -> None:
        """Writes out what is still held."""


def open_trackers(
    config: PretrainConfig, out: Path, resume_step: int | None, *, say: Callable[[str], None] = lambda line: None
) -> list[Tracker]:
    """Returns the trackers that a run asks for; the first is its JsonlLog.

    Args:
        config: of the run.
        out: run folder.
        resume_step: the step that the run goes on from: none has later ones afterwards; None: it starts anew.
        say: takes a line for the user.

    Raises:
        OutputError: the log cannot be written.
        MissingExtraError: a package is not installed.
        TrackingError: Weights & Biases has no key or cannot be reached.
    """
    trackers: list[Tracker] = [JsonlLog(out / "log.jsonl", resume_step=resume_step)]
    try:
        if config.run.tensorboard:
            trackers.append(Mirror("TensorBoard", TensorBoardLog(out / "tensorboard", resume_step=resume_step), say))
        if config.run.wandb is not None:
            trackers.append(Mirror("Weights & Biases", WandbLog(config, out, resume_step=resume_step, say=say), say))
    except BaseException:
        for tracker in trackers:
            tracker.close()
        raise
    return trackers


class JsonlLog:
    """One JSON object a line, flushed at once; a resumed run never has a step twice."""

    def __init__(self, path: Path, *, resume_step: int | None) -> None:
        """Opens the log; ``last`` and ``last_step`` then tell the last numbers of each kind that are kept.

        Args:
            path: of the file.
            resume_step: what was logged after this step is dropped, since those steps run again; None: all of it.

        Raises:
            OutputError: it cannot be written.
        """
        kept = [] if resume_step is None else [line for line in _lines(path) if line["step"] <= resume_step]
        self._path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
            self._file = os.fdopen(open_plain(path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8")
        self.last_step = {str(line["kind"]): int(line["step"]) for line in kept}
        self.last = {str(line.pop("kind")): {k: v for k, v in line.items() if k != "step"} for line in kept}

    def log(self, kind: str, step: int, values: Values) -> None:
        """Appends a line.

        Raises:
            OutputError: it cannot be written.
        """
        with writing(self._path):
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with writing(self._path):
            self._file.close()


class TensorBoardLog:
    """TensorBoard scalars named kind/value."""

    def __init__(self, folder: Path, *, resume_step: int | None) -> None:
        """Opens a new event file; steps after ``resume_step`` in earlier files are hidden, without one all of them.

        Raises:
            MissingExtraError: tensorboard is not installed.
            OutputError: the folder cannot be written.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("--run.tensorboard needs tensorboard: pip install 'k700-text[train]'") from error
        purge_step = 0 if resume_step is None else resume_step + 1
        with writing(folder):
            self._writer: Any = SummaryWriter(str(folder), purge_step=purge_step)

    def log(self, kind: str, step: int, values: Values) -> None:
        """Adds the numbers that are there."""
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


class Mirror:
    """A tracker whose failure does not end the run: it is told once, and what follows is not sent there any more."""

    def __init__(self, name: str, tracker: Tracker, say: Callable[[str], None]) -> None:
        """Wraps a tracker.

        Args:
            name: what to call it.
            tracker: that may fail.
            say: takes the line about it.
        """
        self.name = name
        self.tracker = tracker
        self.say = say
        self.has_failed = False

    def log(self, kind: str, step: int, values: Values) -> None:
        """Records the numbers, unless it failed before."""
        self._attempt(lambda: self.tracker.log(kind, step, values))

    def close(self) -> None:
        """Closes the tracker, unless it failed before."""
        self._attempt(self.tracker.close)

    def _attempt(self, action: Callable[[], None]) -> None:
        if self.has_failed:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001  # a library's failure, of whatever kind, must not cost a run
            self.has_failed = True
            reason = " ".join(str(error).split()) or type(error).__name__
            self.say(f"note: {self.name} failed and gets no more numbers, log.jsonl has them all ({reason[:200]})")


def _lines(path: Path) -> list[dict[str, Any]]:
    """Returns the whole lines of a log; a line cut short by a kill, or not ours, ends it."""
    if not path.exists():
        return []
    lines = []
    with path.open("rb") as file:
        for _, line in json_lines(file):
            if line is None or not isinstance(line.get("step"), int) or "kind" not in line:
                break
            lines.append(line)
    return lines
