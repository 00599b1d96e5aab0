"""Evaluates a trained model: ``python -m lava_model.evaluate <task> --option value ...``.

stdout is the answer (a table, or one JSON object with ``--json``), stderr is progress. Exit codes: 0 done, 1 failed,
2 usage, 130 interrupted.
"""

from __future__ import annotations

from k700_text.starting import end_at_once

if __name__ == "__main__":
    end_at_once()  # before the imports below, which take time

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from k700_text.checks import Count, CountOrNone, at_least
from k700_text.files.atomic import check_target, write_whole
from k700_text.terminal import shown
from lava_model.config import Device, Settings
from lava_model.errors import ConfigError, DataError
from lava_model.program import EXIT_COMPLETE, import_modules, run_program, say, tell

PROGRAM = "python -m lava_model.evaluate"
JSON_VERSION = 1

HELP = f"""usage: {PROGRAM} TASK [OPTIONS]

tasks:
  linear-probe   a linear classifier on frozen features of a folder of labelled clips, beside its controls

example:
  {PROGRAM} linear-probe --checkpoint runs/lava --data clips --groups videos.csv --out probe.json

{PROGRAM} TASK --help tells the options of a task; --debug shows the traceback of a failure.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbeOptions(Settings):
    """Fits a linear classifier on frozen features of a folder of labelled clips (DATA/<label>/**/*.mp4).

    Train and test never share a source video. The frozen trunk alone and the same model without training are probed on
    the same folds. Example: python -m lava_model.evaluate linear-probe --checkpoint runs/lava --data clips
    """

    checkpoint: str = ""
    """Exported model, run folder or step_*.pt file. Required."""
    data: str = ""
    """Folder with one sub-folder of clips per class. Required."""
    groups: str | None = None
    """CSV that tells each clip's source video: clip and youtube_id (or group). Without it, file names tell."""
    modalities: Literal["video", "audio+video"] = "video"
    """audio+video: each scaled to unit length and concatenated, zeros where there is no sound."""
    protocol: str = "logistic"
    """logistic, lava (the paper's) or mil-nce."""
    views: Count | None = None
    """Time windows of each clip; none: as the protocol says."""
    folds: Annotated[int, at_least(2)] = 5
    """Train/test divisions of a draw; fewer where a class has fewer source videos."""
    seeds: Count = 1
    """Draws of the folds: more give a steadier mean."""
    control_seeds: Count = 1
    """Untrained models to average in the random_init control."""
    batch_size: Count = 16
    """Views encoded together."""
    workers: CountOrNone = 0
    """Reading processes; 0 reads in this one."""
    device: Device = "auto"
    """auto (cuda if there is one), cpu, cuda or cuda:N."""
    cache: str | None = None
    """Folder that keeps features; none: lava_model/features in the user's cache folder."""
    out: str | None = None
    """File for the JSON record."""
    json: bool = False
    """Print the record as one JSON object instead of the table."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the task that the command line names and returns the exit code."""
    try:
        return run_program(_run, arguments, interrupted="run the same command again")
    except SystemExit as stop:  # --help of a task
        return int(stop.code or 0)


def _run(words: list[str]) -> int:
    arguments = [word for word in words if word != "--debug"]
    if not arguments:
        raise ConfigError(f"no task given: expected one of {', '.join(_TASKS)} (see {PROGRAM} --help)")
    if arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return EXIT_COMPLETE
    task, options = arguments[0], arguments[1:]
    if task not in _TASKS:
        raise ConfigError(f"unknown task {task!r}: expected one of {', '.join(_TASKS)} (see {PROGRAM} --help)")
    _TASKS[task](options)
    return EXIT_COMPLETE


def _linear_probe(arguments: list[str]) -> None:
    from lava_model.settings import override

    options = override(LinearProbeOptions(), arguments, program=f"{PROGRAM} linear-probe")
    missing = [name for name in ("checkpoint", "data") if not getattr(options, name)]
    if missing:
        raise ConfigError(f"{' and '.join(f'--{name}' for name in missing)} must be given (see linear-probe --help)")
    out = None if options.out is None else _checked_out(Path(options.out))
    import_modules("lava_model.evaluation.folder_probe", purpose="evaluation")
    from lava_model.evaluation.folder_probe import probe_folder

    record = probe_folder(options, say=say, on_progress=_Progress("views"))
    if out is not None:
        write_whole(out, json.dumps(record, indent=2, default=str) + "\n")
    if options.json:
        print(json.dumps({"command": "evaluate linear-probe", "version": JSON_VERSION, **record}, default=str))
    else:
        _print_probe(record)


_TASKS: dict[str, Callable[[list[str]], None]] = {"linear-probe": _linear_probe}


def _checked_out(path: Path) -> Path:
    """Finds out now, not after hours, that the record cannot be written."""
    if not path.parent.is_dir():
        raise DataError(f"no folder {path.parent} for --out: make it first")
    check_target(path)
    return path


def _print_probe(record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from lava_model.evaluation.results import table_rows

    data = record["data"]
    title = (
        f"linear probe, {record['modalities']}: {data['num_probed']} clips, {len(data['classes'])} classes, "
        f"{data['num_groups']} source videos, protocol {record['protocol']['name']}"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("features", "top-1 accuracy %", "per fold %"):
        table.add_column(heading)
    for row in table_rows(record):
        table.add_row(*(Text(shown(cell)) for cell in row))
    Console(highlight=False).print(table)
    tell(record["verdict"])


class _Progress:
    """One line on stderr: rewritten in a terminal, one for each tenth elsewhere."""

    def __init__(self, what: str) -> None:
        self.what, self.last_tenth = what, -1

    def __call__(self, done: int, total: int) -> None:
        tenth = 10 * done // total
        if sys.stderr.isatty():
            print(f"\r{done}/{total} {self.what}", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif tenth != self.last_tenth:
            say(f"{done}/{total} {self.what}")
        self.last_tenth = tenth


if __name__ == "__main__":
    sys.exit(main())
