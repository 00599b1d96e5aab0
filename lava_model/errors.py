"""Every error that lava_model raises on purpose.

::

    LavaError                  one clear line: what, which, what to do
    ├── ConfigError            lists every problem of a configuration at once (exit code 2)
    ├── MissingExtraError      an optional dependency is not installed
    ├── DataError              training or evaluation data that do not fit the model or are too few
    ├── WeightsError           trunk weights that cannot be found or do not fit
    ├── CheckpointError        a checkpoint or model folder that cannot be read, written or used here
    ├── HubError               the Hugging Face Hub cannot be reached or refuses
    ├── OutputError            a file of the run that cannot be written
    ├── TrackingError          numbers cannot be sent where they were asked to go
    ├── RankLostError          another process of the run ended or does not answer
    └── NonFiniteLossError     the loss or its gradient is not a number; .report_path names the culprits' file
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from k700_text.terminal import one_line


class LavaError(Exception):
    """Root of all errors of this package; its text is one clear line for the user, whatever the text quotes."""

    exit_code = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class ConfigError(LavaError):
    """One or more configuration values are out of range, unknown or at odds; lists all of them."""

    exit_code = 2

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("; ".join(self.problems))


class MissingExtraError(LavaError, ImportError):
    """An optional dependency is missing; the text says what to install. An ImportError to those who expect one."""


class DataError(LavaError):
    """Data that do not fit the model or are too few to train on."""


class WeightsError(LavaError):
    """Trunk weights that cannot be found, read or fitted."""


class CheckpointError(LavaError):
    """A checkpoint or exported model that cannot be read, written or used with this configuration."""


class HubError(LavaError):
    """The Hugging Face Hub cannot be reached, has no such model, or refuses."""


class OutputError(LavaError):
    """A log, record or other file of a run that cannot be written."""


class TrackingError(LavaError):
    """A place for a run's numbers, beside its log, that cannot be used: no key, no network."""


class RankLostError(LavaError):
    """Another process of the run ended, or did not answer in time; this one cannot go on without it."""


class NonFiniteLossError(LavaError):
    """The loss or its gradient is infinite or not a number; ``report_path`` lists the clips of the batch."""

    def __init__(self, message: str, *, report_path: Path) -> None:
        self.report_path = report_path
        super().__init__(message)
