"""k700-text prepare: re-encodes clips once into training shards, and checks them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from k700_text.cli.common import EXIT_FAILED, EXIT_WORK_LEFT, emit_json, emit_table, say
from k700_text.cli.progress import item_progress, span
from k700_text.errors import UsageError

if TYPE_CHECKING:
    from k700_text.media.estimate import PrepareEstimate
    from k700_text.media.prepare import PrepareRun, PrepareSummary
    from k700_text.media.prepare_plan import PreparePlan
    from k700_text.media.verify import VerifySummary

_MAX_LINES = 20


def prepare(
    out: Annotated[Path, typer.Option("--out", help="Folder for the shards.", show_default=False)],
    clips: Annotated[
        Path | None, typer.Argument(metavar="CLIPS", help="Folder of clip files.", show_default=False)
    ] = None,
    manifest: Annotated[
        list[Path] | None,
        typer.Option(
            "--manifest", help="Manifest, file or folder; repeatable. Default: every clip file.", show_default=False
        ),
    ] = None,
    frame_rate: Annotated[float, typer.Option(help="Frames per second.")] = 10.0,
    short_side: Annotated[int, typer.Option(help="Pixels of the short side; smaller clips stay as they are.")] = 256,
    quality: Annotated[str, typer.Option(help="default, small or fine.")] = "default",
    audio: Annotated[
        str, typer.Option(help="log-mel, or pcm16: a waveform that any log-mel is made from.")
    ] = "log-mel",
    max_seconds: Annotated[float, typer.Option(help="What lies behind this is left out of longer clips.")] = 60.0,
    shard_size: Annotated[int, typer.Option(help="Clips of a shard.")] = 500,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: the shards are written on a Ray cluster.")] = "local",
    clip_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, max=86_400, help="Time after which reading a clip is given up.")
    ] = 120.0,
    sample: Annotated[int, typer.Option(min=0, help="Clips prepared for the estimate; 0: no estimate.")] = 8,
    retry_skipped: Annotated[bool, typer.Option("--retry-skipped", help="Try again what was skipped.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what it would cost, write nothing.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Prepare nothing: read all of OUT and check it.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Re-encodes clips once into shards that train fast; the same command continues a stopped run.

    Exit codes: 0 complete, 3 clips left, 130 interrupted, 1 failed (with --verify: something is damaged), 2 usage.

    Example: k700-text prepare clips --manifest manifests/train.parquet --out prepared
    """
    if verify:
        _verify(out, workers, engine, as_json=json)
        return
    from k700_text.media.prepare import PrepareRun, plan_run, run_plan
    from k700_text.media.shards import PreparedSettings

    if clips is None:
        raise UsageError("name the folder of clips: k700-text prepare CLIPS --out OUT (without it only with --verify)")
    run = PrepareRun(
        root=clips,
        out=out,
        settings=PreparedSettings(
            frame_rate=frame_rate,
            short_side=short_side,
            quality=quality,
            audio=audio,
            max_seconds=max_seconds,
            shard_size=shard_size,
        ),
        manifests=manifest or [],
        workers=workers,
        engine=engine,
        max_clip_seconds=clip_timeout,
        retry_skipped=retry_skipped,
        num_samples=sample,
    )
    if plan:
        _show_plan(run, *plan_run(run), as_json=json)
        return
    forecast: dict[str, Any] = {}

    def tell(found: PreparePlan, estimate: PrepareEstimate) -> None:
        forecast.update(asdict(estimate))
        for name, value in _plan_rows(found, estimate):
            say(f"{name}: {value}")

    with item_progress("prepare") as show:
        summary = run_plan(run, on_estimate=tell, on_progress=show, say=say)
    _report(run, summary, forecast, as_json=json)


def _show_plan(run: PrepareRun, found: PreparePlan, estimate: PrepareEstimate, *, as_json: bool) -> None:
    from k700_text.media.prepare import left_out_lines

    if as_json:
        counts = {
            "num_clips": found.num_rows,
            "num_finished": found.num_finished,
            "num_missing": found.num_missing,
            "num_repeated": found.num_repeated,
            "num_shards": found.num_shards,
            "left_out": {reason: len(paths) for reason, paths in found.left_out.items()},
        }
        emit_json("prepare", {"out": str(run.out), "plan": True, **counts, "estimate": asdict(estimate)})
    else:
        for line in left_out_lines(found):
            say(line)
        emit_table("prepare: plan", [("out", run.out), *_plan_rows(found, estimate)])


def _plan_rows(found: PreparePlan, estimate: PrepareEstimate) -> list[tuple[str, str]]:
    rows = [
        ("clips", f"{found.num_rows:,}"),
        ("done, or skipped as damaged, earlier", f"{found.num_finished:,}"),
        ("without a file", f"{found.num_missing:,}"),
        ("to prepare", f"{found.num_pending:,} in {found.num_shards:,} shards"),
    ]
    if estimate.clip_bytes is not None and estimate.clip_seconds is not None:
        quality = [] if estimate.psnr_db is None else [f"PSNR {estimate.psnr_db:.1f} dB, SSIM {estimate.ssim:.4f}"]
        share = "" if estimate.encoder_share is None else f" ({estimate.encoder_share:.0%} of it the video encoder)"
        rows += [
            ("sample", ", ".join([f"{estimate.num_sampled} clips, {estimate.num_failed} unreadable", *quality])),
            ("a clip", f"{estimate.clip_bytes / 1000:.0f} kB, {estimate.clip_seconds:.2f} CPU-s{share}"),
        ]
    if estimate.total_bytes is not None and estimate.wall_seconds is not None:
        room = f"{_size(estimate.free_bytes)} free"
        hours = estimate.wall_seconds * estimate.workers / 3600
        warning = "" if estimate.total_bytes < estimate.free_bytes else ": NOT ENOUGH"
        rows += [
            ("will take", f"{_size(estimate.total_bytes)} of disk ({room}{warning})"),
            ("and", f"{span(estimate.wall_seconds)} (h:mm:ss) with {estimate.workers} workers, {hours:.1f} core-hours"),
        ]
    return rows


def _report(run: PrepareRun, summary: PrepareSummary, forecast: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        emit_json("prepare", {"out": str(run.out), **asdict(summary), "estimate": forecast or None})
    else:
        reasons = list(summary.reasons.items())
        rows: list[tuple[str, object]] = [
            ("out", run.out),
            ("clips", summary.num_clips),
            ("done", summary.num_done),
            ("of these with something lost", summary.num_with_loss),
            ("skipped as damaged", summary.num_skipped),
            ("without a file", summary.num_missing),
            ("listed twice, stored once", summary.num_repeated),
            ("left", summary.num_left),
            *((f"reason: {reason}", count) for reason, count in reasons[:_MAX_LINES]),
            ("shards", summary.num_shards),
            ("size", _size(summary.num_bytes)),
        ]
        emit_table("prepare", rows)
    if summary.num_left:
        say(f"{summary.num_left} clips are left: run the same command to continue")
        raise typer.Exit(EXIT_WORK_LEFT)


def _verify(out: Path, workers: int | None, engine: str, *, as_json: bool) -> None:
    from k700_text.media.verify import verify

    with item_progress("verify") as show:
        summary = verify(out, workers=workers, engine=engine, on_progress=show)
    if as_json:
        emit_json("prepare", {"out": str(out), "verify": True, **asdict(summary)})
    else:
        emit_table("prepare: verify", [("out", out), *_verify_rows(summary)])
    if summary.damage:
        say(f"{len(summary.damage)} problems found: see {'damage' if as_json else 'the table'}")
        raise typer.Exit(EXIT_FAILED)


def _verify_rows(summary: VerifySummary) -> list[tuple[str, object]]:
    lines = [(f"{each.shard}{f', {each.clip_id}' if each.clip_id else ''}", each.reason) for each in summary.damage]
    return [
        ("shards", summary.num_shards),
        ("clips", summary.num_clips),
        ("frames decoded, in two ways", summary.num_frames),
        ("size", _size(summary.num_bytes)),
        ("damage", len(summary.damage)),
        *lines,
    ]


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
