"""k700-text probe: measures what a folder of clip files holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from k700_text.cli.common import emit_json, emit_table, say, stderr

if TYPE_CHECKING:
    from k700_text.media.probe import ProbeSummary

_MAX_REASONS = 8


def probe(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of clip files.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.", show_default=False)],
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")] = None,
    silence_dbfs: Annotated[float, typer.Option(help="Audio below this level is near-silent, dB (RMS).")] = -60.0,
    min_covered_share: Annotated[float, typer.Option(help="Share of the clip a usable stream covers.")] = 0.9,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measures the video and audio of every clip file of a folder; the same command continues a stopped run.

    Example: k700-text probe clips --out probe.parquet
    """
    from k700_text.media.pool import num_cores
    from k700_text.media.probe import ProbeSettings, probe_folder

    settings = ProbeSettings(silence_dbfs=silence_dbfs, min_covered_share=min_covered_share)
    with _progress() as show:
        summary = probe_folder(folder, out, settings, workers=workers or num_cores(), on_progress=show)
    if json:
        emit_json("probe", {"out": str(out), **asdict(summary)})
    else:
        emit_table("probe", [("out", out), *_rows(summary)])
    num_failed = summary.video_status.get("undecodable", 0)
    if num_failed == summary.num_files:
        say(f"none of the {num_failed} files decodes: are these clips?")


def _rows(summary: ProbeSummary) -> list[tuple[str, object]]:
    reasons = list(summary.reasons.items())
    rows: list[tuple[str, object]] = [
        ("files", summary.num_files),
        ("measured now", summary.num_measured),
        ("measured earlier, unchanged", summary.num_reused),
        *((f"video {status}", count) for status, count in summary.video_status.items()),
        *((f"audio {status}", count) for status, count in summary.audio_status.items()),
        *((f"reason: {reason}", count) for reason, count in reasons[:_MAX_REASONS]),
    ]
    if len(reasons) > _MAX_REASONS:
        rows.append(("other reasons", sum(count for _, count in reasons[_MAX_REASONS:])))
    return rows


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Gives the function that shows how many files are done; nothing is drawn before its first call."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=stderr)
    task = bar.add_task("probe", total=None)

    def show(num_done: int, num_files: int) -> None:
        bar.start()
        bar.update(task, completed=num_done, total=num_files)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()
