"""Where the numbers of a run go: always log.jsonl, TensorBoard when asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lava_model.errors import MissingExtraError
from lava_model.files import writing

Values = Mapping[str, float | int | None]


class Tracker(Protocol):
    """A place for the numbers of a step."""

    def log(self, kind: str, step: int, values: Values) -> None:
        """Records the numbers; ``kind`` is ``train`` or ``val``."""

    def close(self) -> None:
        """Writes out what is still held."""


class JsonlLog:
    """One JSON object a line, flushed at once; a resumed run never has a step twice."""

    def __init__(self, path: Path, *, resume_step: int | None) -> None:
        """Opens the log; ``last`` then holds the last numbers of each kind that are kept.

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
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
            partial.replace(path)
            self._file = path.open("a", encoding="utf-8")
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
        """Opens a new event file; steps after ``resume_step`` in earlier files are hidden.

        Raises:
            MissingExtraError: tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("--run.tensorboard needs tensorboard: pip install 'k700-text[train]'") from error
        purge_step = None if resume_step is None else resume_step + 1
        self._writer: Any = SummaryWriter(str(folder), purge_step=purge_step)

    def log(self, kind: str, step: int, values: Values) -> None:
        """Adds the numbers that are there."""
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


def _lines(path: Path) -> list[dict[str, Any]]:
    """Returns the whole lines of a log; a line cut short by a kill, or not ours, ends it."""
    lines = []
    for text in path.read_text("utf-8", "replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict) or not {"kind", "step"} <= line.keys():
            break
        lines.append(line)
    return lines
