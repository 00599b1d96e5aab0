"""k700-text probe: measures what a folder of clip files holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from k700_text.cli.common import emit_json, emit_table, say
from k700_text.cli.progress import phase_progress
from k700_text.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k700_text.media.probe import ProbeSummary

_MAX_REASONS = 8
_MAX_HALVES = 8


def probe(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of clip files.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.", show_default=False)],
    packets: Annotated[
        Path | None, typer.Option(help="Packet index to write as well: loading from DIR is faster with it.")
    ] = None,
    manifest: Annotated[
        list[Path] | None, typer.Option("--manifest", help="Manifest to compare DIR with, Parquet; repeatable.")
    ] = None,
    missing: Annotated[
        Path | None, typer.Option(help="CSV to write: manifest clips without a file, files without a row.")
    ] = None,
    spreadsheet: Annotated[
        bool, typer.Option("--spreadsheet", help="The CSV of --missing is for spreadsheets: no name is a formula.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: files are measured on a Ray cluster.")] = "local",
    silence_dbfs: Annotated[float, typer.Option(help="Audio below this level is near-silent, dB (RMS).")] = -60.0,
    min_covered_share: Annotated[float, typer.Option(help="Share of the clip a usable stream covers.")] = 0.9,
    clip_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, max=86_400, help="Time after which decoding a file is given up.")
    ] = 600.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measures the video and audio of every clip file of a folder; the same command continues a stopped run.

    Example: k700-text probe clips --out probe.parquet
    """
    from k700_text.media.measure import ProbeSettings
    from k700_text.media.pool import check_engine
    from k700_text.media.probe import ProbeOptions, probe_folder

    if missing is not None and not manifest:
        raise UsageError("--missing compares with a manifest: name it with --manifest")
    settings = ProbeSettings(silence_dbfs=silence_dbfs, min_covered_share=min_covered_share, max_seconds=clip_timeout)
    options = ProbeOptions(
        packets=packets,
        manifests=manifest or (),
        missing=missing,
        for_spreadsheets=spreadsheet,
        workers=workers,
        engine=check_engine(engine),
    )
    with phase_progress() as show:
        summary = probe_folder(folder, out, settings, options, on_progress=show)
    if json:
        emit_json("probe", {"out": str(out), **asdict(summary)})
    else:
        emit_table("probe", [("out", out), *_rows(summary)])
    num_failed = summary.video_status.get("undecodable", 0)
    if num_failed == summary.num_files:
        say(f"none of the {num_failed} files decodes: are these clips?")


def _rows(summary: ProbeSummary) -> list[tuple[str, object]]:
    from k700_text.media.files import some_names

    rows: list[tuple[str, object]] = [
        ("files", summary.num_files),
        ("measured now", summary.num_measured),
        ("measured earlier, unchanged", summary.num_reused),
        *((f"video {status}", count) for status, count in summary.video_status.items()),
        *((f"audio {status}", count) for status, count in summary.audio_status.items()),
        *_reason_rows("reason", summary.reasons),
    ]
    rows += [
        (f"left out: {reason}", f"{len(paths)}: {some_names(paths)}") for reason, paths in summary.left_out.items()
    ]
    if summary.half_downloads:
        rows.append(("half downloads, left out", len(summary.half_downloads)))
        # Spelled in ASCII: names of files may hold anything.
        rows += [("half download", ascii(name)) for name in summary.half_downloads[:_MAX_HALVES]]
    if summary.num_clips is not None:
        rows += [
            ("manifest clips", summary.num_clips),
            ("manifest clips without a file", summary.num_clips_without_file),
            ("files without a row", summary.num_files_without_row),
        ]
    if summary.packets is not None:
        rows += [
            ("packet index: clips indexed", summary.packets.num_indexed),
            *_reason_rows("packet index: not", summary.packets.not_indexed),
            ("packet index: clips checked", summary.packets.num_checked),
            ("packet index: of these, differing", summary.packets.num_differing),
        ]
    return rows


def _reason_rows(name: str, reasons: Mapping[str, int]) -> list[tuple[str, object]]:
    items = list(reasons.items())
    rows: list[tuple[str, object]] = [(f"{name}: {reason}", count) for reason, count in items[:_MAX_REASONS]]
    if len(items) > _MAX_REASONS:
        rows.append((f"{name}: others", sum(count for _, count in items[_MAX_REASONS:])))
    return rows
