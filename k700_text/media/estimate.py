"""What preparing clips will cost and what it will look like, from a few of them that are prepared for real."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from k700_text.media.clip import DecodeLimits, FrameArray
from k700_text.media.encode import QUALITIES, decode_i420, encode_i420
from k700_text.media.pool import each_result
from k700_text.media.prepare_plan import PreparePlan
from k700_text.media.quality import psnr_db, ssim
from k700_text.media.record import ClipTask, prepare_clip
from k700_text.media.shards import PreparedSettings

# SSIM takes as long as encoding. Not a divisor of the distance of key frames, which are better than the others.
_SSIM_STEP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareEstimate:
    """A forecast; figures are means over the sampled clips, None where none of them could be read.

    Attributes:
        num_pending: clips to prepare.
        num_sampled: clips tried.
        num_failed: those of them that would be skipped.
        clip_bytes: size of a record.
        clip_seconds: CPU time of a clip, all of its preparation.
        encoder_share: part of that time which the video encoder takes, 0..1.
        psnr_db: of the luma, against the frames before encoding.
        ssim: the same.
        total_bytes: size of what will be written.
        free_bytes: room on the disk that it is written to.
        wall_seconds: time until it is done.
        workers: processes that it is done in.
    """

    num_pending: int
    num_sampled: int
    num_failed: int
    clip_bytes: float | None
    clip_seconds: float | None
    encoder_share: float | None
    psnr_db: float | None
    ssim: float | None
    total_bytes: int | None
    free_bytes: int
    wall_seconds: float | None
    workers: int


@dataclass(frozen=True, slots=True)
class ClipFigures:
    """What preparing one clip showed; as in ``PrepareEstimate``."""

    num_bytes: int
    seconds: float
    encoder_seconds: float
    psnr_db: float | None
    ssim: float | None
    is_skipped: bool


def estimate(
    plan: PreparePlan,
    root: str | Path,
    out: str | Path,
    settings: PreparedSettings,
    limits: DecodeLimits,
    *,
    num_samples: int,
    workers: int,
    max_clip_seconds: float,
) -> PrepareEstimate:
    """Prepares some of the clips, throws them away, and returns the forecast for all.

    Args:
        plan: what there is to do.
        root: folder of clips.
        out: folder of shards; it may not exist yet.
        settings: of the shards.
        limits: what reading one file may cost.
        num_samples: how many clips; 0 gives counts only.
        workers: processes that the work will be done in.
        max_clip_seconds: time after which the process of a clip is killed.
    """
    sample = plan.sample(num_samples)
    jobs = [(task, str(root), settings, limits) for task in sample]
    results = each_result(
        measure_clip, jobs, workers=min(workers, max(1, len(jobs))), max_seconds_per_job=max_clip_seconds
    )
    figures = [result for _, result in results if result is not None] if jobs else []
    good = [each for each in figures if not each.is_skipped]
    clip_bytes = _mean([each.num_bytes for each in figures])
    seconds = _mean([each.seconds for each in figures])
    encoder = _mean([each.encoder_seconds for each in good])
    good_seconds = _mean([each.seconds for each in good])
    return PrepareEstimate(
        num_pending=plan.num_pending,
        num_sampled=len(sample),
        num_failed=len(sample) - len(good),
        clip_bytes=_mean([each.num_bytes for each in good]),
        clip_seconds=good_seconds,
        encoder_share=None if encoder is None or not good_seconds else min(1.0, encoder / good_seconds),
        psnr_db=_mean([each.psnr_db for each in good if each.psnr_db is not None]),
        ssim=_mean([each.ssim for each in good if each.ssim is not None]),
        total_bytes=None if clip_bytes is None else round(clip_bytes * plan.num_pending),
        free_bytes=shutil.disk_usage(_existing(Path(out))).free,
        wall_seconds=None if seconds is None else seconds * plan.num_pending / workers,
        workers=workers,
    )


def measure_clip(task: ClipTask, root: str, settings: PreparedSettings, limits: DecodeLimits) -> ClipFigures:
    """Returns what preparing one clip shows."""
    kept: list[FrameArray] = []

    def watch(frames: Iterator[FrameArray]) -> Iterator[FrameArray]:
        for frame in frames:
            kept.append(frame)
            yield frame

    began = time.process_time()
    record = prepare_clip(task, root, settings, limits, watch)
    seconds = time.process_time() - began
    num_bytes = sum(len(content) for _, content in record.members.values())
    if "video" not in record.members:
        return ClipFigures(num_bytes, seconds, 0.0, None, None, record.row.reason is not None and not record.members)
    began = time.process_time()
    encode_i420(kept, frame_rate=settings.frame_rate, quality=QUALITIES[settings.quality])
    encoder_seconds = time.process_time() - began
    decoded = list(decode_i420(record.members["video"][1], task.clip_id))
    is_tiny = min(record.row.width, record.row.height) < 8
    return ClipFigures(
        num_bytes,
        seconds,
        encoder_seconds,
        psnr_db(decoded, kept),
        None if is_tiny else ssim(decoded[::_SSIM_STEP], kept[::_SSIM_STEP]),
        is_skipped=False,
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _existing(path: Path) -> Path:
    """Returns the folder, or the nearest one above it that exists."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())
