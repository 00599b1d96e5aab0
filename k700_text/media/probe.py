"""Measuring clip files: what decodes, how long it is, whether there is sound in it."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from k700_text import schema
from k700_text.config import require_positive
from k700_text.errors import ConfigError, DecodeError, UsageError
from k700_text.media.clip import AudioBlock, DecodeLimits, FrameMark, Waveform
from k700_text.media.decode import ClipReader
from k700_text.media.files import find_clip_files
from k700_text.media.journal import ProbeJournal, Stamp
from k700_text.media.levels import SILENCE_DBFS, from_dbfs, to_dbfs
from k700_text.media.pool import each_result
from k700_text.records import AudioStatus, ClipProbe, VideoStatus

_BATCH_ROWS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """What "usable" means; recorded in the probe file."""

    silence_dbfs: float = SILENCE_DBFS
    """Level (RMS of the mono mix) below which audio is near-silent, dB re full scale."""
    min_covered_share: float = 0.9
    """Share of the clip that a stream has to cover to be usable, 0..1."""
    block_seconds: float = 0.05
    """Length of the blocks that ``audio_silent_fraction`` counts."""
    max_seconds: float = 600.0
    """Wall time that one file may take."""

    def __post_init__(self) -> None:
        require_positive(block_seconds=self.block_seconds, max_seconds=self.max_seconds)
        if not 0 <= self.min_covered_share <= 1:
            raise ConfigError(f"min_covered_share must be in 0..1, got {self.min_covered_share}")
        if not -200 <= self.silence_dbfs <= 0:
            raise ConfigError(f"silence_dbfs must be in -200..0, got {self.silence_dbfs}")

    def as_json(self) -> str:
        """Returns the settings as one line of JSON, the same for the same settings."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSummary:
    """Totals of a probed folder.

    Attributes:
        num_files: clip files in the folder.
        num_measured: files decoded by this run.
        num_reused: files unchanged since an earlier run.
        video_status: number of files by video status.
        audio_status: number of files by audio status.
        reasons: number of files by reason why a stream is not usable.
    """

    num_files: int
    num_measured: int
    num_reused: int
    video_status: Mapping[str, int]
    audio_status: Mapping[str, int]
    reasons: Mapping[str, int]


def probe_clip(path: str | Path, root: str | Path, settings: ProbeSettings | None = None) -> ClipProbe:
    """Returns the measurement of one clip file, from one full decoding pass; a bad file is a result, not an error.

    Args:
        path: the file.
        root: folder that ``clip_file`` is to be relative to.
        settings: thresholds; the defaults when None.
    """
    settings = settings or ProbeSettings()
    clip_file = _as_text(Path(os.path.relpath(path, root)).as_posix())
    if not Path(path).exists():
        return ClipProbe(
            clip_file=clip_file,
            video_status=VideoStatus.MISSING,
            audio_status=AudioStatus.MISSING,
            reason="no such file",
        )
    file_bytes = Path(path).stat().st_size
    try:
        with ClipReader(path, limits=DecodeLimits(max_seconds=settings.max_seconds)) as reader:
            return _measure(reader, clip_file, file_bytes, settings)
    except DecodeError as error:
        return _failed(clip_file, str(error).removeprefix(f"{path}: "), file_bytes)


class _VideoMeter:
    """Adds up frames."""

    def __init__(self) -> None:
        self.num_frames = 0
        self.lost_seconds = 0.0
        self.width = self.height = 0
        self._first_seconds = 0.0
        self._end_seconds = 0.0
        self._num_damaged = 0

    @property
    def duration_seconds(self) -> float:
        return self._end_seconds - self._first_seconds if self.num_frames else 0.0

    def add(self, mark: FrameMark, num_damaged: int) -> None:
        if not self.num_frames:
            self._first_seconds = mark.time_seconds
            self.width, self.height = mark.width, mark.height
        elif num_damaged != self._num_damaged:
            self.lost_seconds += max(0.0, mark.time_seconds - self._end_seconds)
        self._num_damaged = num_damaged
        self.num_frames += 1
        self._end_seconds = max(self._end_seconds, mark.time_seconds + mark.duration_seconds)


class _AudioMeter:
    """Adds up loudness, in blocks, holding no more than one block and one packet."""

    def __init__(self, settings: ProbeSettings) -> None:
        self.seconds = 0.0
        self.peak = 0.0
        self._square_sum = 0.0
        self._num_samples = 0
        self._num_blocks = 0
        self._num_silent = 0
        self._settings = settings
        self._rest: Waveform = np.zeros(0, dtype=np.float32)
        self._block = 1

    @property
    def rms(self) -> float:
        return math.sqrt(self._square_sum / self._num_samples) if self._num_samples else 0.0

    @property
    def silent_fraction(self) -> float | None:
        return self._num_silent / self._num_blocks if self._num_blocks else None

    def add(self, block: AudioBlock) -> None:
        self._block = max(1, round(block.sample_rate * self._settings.block_seconds))
        self.seconds += len(block.waveform) / block.sample_rate
        self._num_samples += len(block.waveform)
        self._square_sum += float(np.square(block.waveform, dtype=np.float64).sum())
        self.peak = max(self.peak, float(np.abs(block.waveform).max(initial=0.0)))
        samples = np.concatenate([self._rest, block.waveform])
        whole = len(samples) // self._block * self._block
        self._count(samples[:whole].reshape(-1, self._block))
        self._rest = samples[whole:]

    def finish(self) -> None:
        if len(self._rest):
            self._count(self._rest[np.newaxis])

    def _count(self, blocks: Waveform) -> None:
        power = np.square(blocks, dtype=np.float64).mean(axis=1)
        self._num_blocks += len(blocks)
        self._num_silent += int((power < from_dbfs(self._settings.silence_dbfs) ** 2).sum())


def _measure(reader: ClipReader, clip_file: str, file_bytes: int, settings: ProbeSettings) -> ClipProbe:
    video, audio = _VideoMeter(), _AudioMeter(settings)
    for event in reader.scan():
        if isinstance(event, FrameMark):
            video.add(event, reader.num_damaged_video)
        else:
            audio.add(event)
    audio.finish()
    info = reader.info
    declared = (info.video_duration_seconds or 0.0, info.audio_duration_seconds or 0.0)
    video_status, video_reason = _judge_video(reader, video, max(declared[0], video.duration_seconds), settings)
    whole_seconds = max(*declared, video.duration_seconds, audio.seconds)
    audio_status, audio_reason = _judge_audio(reader, audio, whole_seconds, settings)
    has_audio = audio.seconds > 0
    return ClipProbe(
        clip_file=clip_file,
        video_status=video_status,
        audio_status=audio_status,
        num_frames=video.num_frames if info.has_video_stream else None,
        frame_rate=video.num_frames / video.duration_seconds if video.duration_seconds > 0 else None,
        width=video.width or None,
        height=video.height or None,
        clip_duration_seconds=video.duration_seconds or audio.seconds or None,
        audio_sample_rate=info.audio_sample_rate,
        audio_channels=info.audio_channels,
        audio_rms_dbfs=to_dbfs(audio.rms),
        audio_peak_dbfs=to_dbfs(audio.peak),
        audio_silent_fraction=audio.silent_fraction if has_audio else None,
        reason="; ".join(reason for reason in (video_reason, audio_reason) if reason) or None,
        file_bytes=file_bytes,
    )


def _judge_video(
    reader: ClipReader, video: _VideoMeter, whole_seconds: float, settings: ProbeSettings
) -> tuple[VideoStatus, str]:
    if not reader.info.has_video_stream:
        return VideoStatus.NO_STREAM, "no video stream"
    if not video.num_frames:
        return VideoStatus.UNDECODABLE, "no frame of the video decodes"
    covered = video.duration_seconds - video.lost_seconds
    if covered < settings.min_covered_share * whole_seconds:
        return VideoStatus.PARTIAL, "the video covers only a part of the clip"
    return VideoStatus.USABLE, ""


def _judge_audio(
    reader: ClipReader, audio: _AudioMeter, whole_seconds: float, settings: ProbeSettings
) -> tuple[AudioStatus, str]:
    if not reader.info.has_audio_stream:
        return AudioStatus.NO_STREAM, "no audio stream"
    if not audio.seconds:
        return AudioStatus.UNDECODABLE, "nothing of the audio decodes"
    if audio.peak == 0:
        return AudioStatus.SILENT, "the audio is digital silence"
    if audio.rms < from_dbfs(settings.silence_dbfs):
        return AudioStatus.NEAR_SILENT, "the audio is nearly silent"
    if audio.seconds < settings.min_covered_share * whole_seconds:
        return AudioStatus.PARTIAL, "the audio covers only a part of the clip"
    return AudioStatus.USABLE, ""


def probe_folder(
    root: str | Path,
    out_parquet: str | Path,
    settings: ProbeSettings | None = None,
    *,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> ProbeSummary:
    """Measures every clip file below a folder into a Parquet file, sorted by ``clip_file``.

    Every finished file is noted at once in ``<out_parquet>.journal``: the same call after a kill goes on where it was,
    and decodes only files that are new or changed since. The Parquet file appears whole or not at all.

    Args:
        root: folder of clips.
        out_parquet: file to write.
        settings: thresholds; the defaults when None.
        workers: processes.
        on_progress: called with the number of finished files and of all files.

    Raises:
        UsageError: the folder is missing or holds no clip files.
        OSError: the output cannot be written.
    """
    settings = settings or ProbeSettings()
    root, out_parquet = Path(root), Path(out_parquet)
    clip_files = find_clip_files(root)
    if not clip_files:
        raise UsageError(f"{root}: holds no clip files (looked for .mp4, .mkv, .webm, .avi and the like)")
    if not out_parquet.parent.is_dir():
        raise UsageError(f"{out_parquet.parent}: no such folder, create it first")
    if out_parquet.is_dir():
        raise UsageError(f"{out_parquet} is a folder: name the Parquet file to write")
    journal = ProbeJournal(out_parquet.with_name(f"{out_parquet.name}.journal"), settings.as_json())
    stamps = {name: _stamp(root / name) for name in clip_files}
    finished = journal.keep_unchanged({_as_text(name): stamp for name, stamp in stamps.items()})
    wanted = [name for name in clip_files if _as_text(name) not in finished]
    num_done = len(finished)
    if on_progress is not None:
        on_progress(num_done, len(clip_files))
    with journal.appending() as note:
        for name, probe in _probe_all(wanted, root, settings, workers):
            note(stamps[name], probe)
            num_done += 1
            if on_progress is not None:
                on_progress(num_done, len(clip_files))
    table = _to_table(journal.rows(), settings)
    _write_atomically(table, out_parquet)
    return _summarize(table, num_measured=len(wanted))


def _probe_all(names: list[str], root: Path, settings: ProbeSettings, workers: int) -> Iterator[tuple[str, ClipProbe]]:
    jobs = [(str(root / name), str(root), settings) for name in names]
    for index, probe in each_result(probe_clip, jobs, workers=workers):
        yield names[index], probe if probe is not None else _crashed(names[index], root)


def _crashed(name: str, root: Path) -> ClipProbe:
    return _failed(_as_text(name), "the decoder crashed on it", _stamp(root / name)[0])


def _failed(clip_file: str, reason: str, file_bytes: int | None) -> ClipProbe:
    return ClipProbe(
        clip_file=clip_file,
        video_status=VideoStatus.UNDECODABLE,
        audio_status=AudioStatus.UNDECODABLE,
        reason=reason,
        file_bytes=file_bytes,
    )


def _as_text(name: str) -> str:
    """Returns a file name as text that Parquet takes: bytes that are no UTF-8 are spelled out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_size, status.st_mtime_ns)


def _to_table(rows: Iterable[dict[str, Any]], settings: ProbeSettings) -> pa.Table:
    stamped = schema.with_metadata(schema.PROBE_SCHEMA, probe_settings=settings.as_json())
    batches = []
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, _BATCH_ROWS)):
        batches.append(pa.RecordBatch.from_pylist(chunk, schema=stamped))
    return pa.Table.from_batches(batches, schema=stamped).sort_by("clip_file").combine_chunks()


def _write_atomically(table: pa.Table, path: Path) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        pq.write_table(table, part, compression="zstd")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _summarize(table: pa.Table, num_measured: int) -> ProbeSummary:
    def count(column: str) -> dict[str, int]:
        counts = Counter(part for value in table[column].to_pylist() if value for part in value.split("; "))
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    return ProbeSummary(
        num_files=len(table),
        num_measured=num_measured,
        num_reused=len(table) - num_measured,
        video_status=count("video_status"),
        audio_status=count("audio_status"),
        reasons=count("reason"),
    )
