"""Re-reading everything that was prepared: is it whole, and does every clip decode?"""

from __future__ import annotations

import io
import json
import tarfile
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from k700_text.errors import DecodeError, SchemaMismatchError, StorageError
from k700_text.files.storage import open_storage
from k700_text.media.clip import Cut, FrameArray, PixelFormat
from k700_text.media.encode import decode_i420
from k700_text.media.pool import each_result
from k700_text.media.prepared import PreparedClip
from k700_text.media.record import described
from k700_text.media.shards import (
    INDEX_FILE,
    LOG_MEL,
    SETTINGS_FILE,
    PreparedSettings,
    ShardIndex,
    ShardRow,
    damaged_blocks,
    finished_shards,
    index_table,
    member_key,
    read_shard_rows,
    rows_of,
    tar_end_bytes,
)

_FRAMES_AT_ONCE = 64
_SECONDS_PER_CLIP = 60.0


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong: the shard or file, the clip (None: all of it), and how it shows."""

    shard: str
    clip_id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifySummary:
    """What re-reading a folder showed.

    Attributes:
        num_shards: shards read.
        num_clips: clips read.
        num_frames: frames decoded, each in two ways.
        num_bytes: bytes read of tar files.
        damage: everything that is wrong.
    """

    num_shards: int
    num_clips: int
    num_frames: int
    num_bytes: int
    damage: tuple[Damage, ...]


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What re-reading one shard showed; as in ``VerifySummary``."""

    num_clips: int
    num_frames: int
    num_bytes: int
    damage: tuple[Damage, ...]


def verify(
    out: str | Path,
    *,
    workers: int | None = None,
    engine: str = "local",
    on_progress: Callable[[int, int], None] = lambda num_done, num_shards: None,
) -> VerifySummary:
    """Re-reads all shards of a local folder.

    Of every shard: it is a tar that holds what its rows say and nothing else, and every stretch has its checksum. Of
    every clip: its parts are what they are to be, and its frames decode, both by the packet table and by FFmpeg's
    plain way, to the same pixels.

    Args:
        out: folder of shards.
        workers: processes, or Ray workers; all cores when None.
        engine: one of ``pool.ENGINES``.
        on_progress: called with the number of shards read and of all.

    Raises:
        StorageError: the folder holds no prepared shards, or its settings are damaged.
        SchemaMismatchError: it was written by another version.
    """
    out = Path(out).absolute()
    path = out / SETTINGS_FILE
    if not path.exists():
        raise StorageError(f"{out}: no prepared shards there (no {SETTINGS_FILE}): check the name", path=str(out))
    settings = PreparedSettings.from_json(path.read_bytes(), str(path))
    names = finished_shards(out)
    damage = list(_index_damage(out, names))
    reports: list[ShardReport] = []
    lost: dict[int, str] = {}
    on_progress(0, len(names))
    for index, report in each_result(
        verify_shard,
        [(out, name) for name in names],
        workers=workers,
        engine=engine,
        max_seconds_per_job=_SECONDS_PER_CLIP * (settings.shard_size + 1),
        must_see=(out,),
        on_lost=lost.__setitem__,
    ):
        if report is None:
            report = ShardReport(0, 0, 0, (Damage(f"{names[index]}.tar", None, f"its process {lost[index]}"),))
        reports.append(report)
        damage += report.damage
        on_progress(len(reports), len(names))
    return VerifySummary(
        num_shards=len(names),
        num_clips=sum(report.num_clips for report in reports),
        num_frames=sum(report.num_frames for report in reports),
        num_bytes=sum(report.num_bytes for report in reports),
        damage=tuple(sorted(damage, key=lambda each: (each.shard, each.clip_id or ""))),
    )


def verify_shard(out: Path, name: str) -> ShardReport:
    """Returns what re-reading one shard shows; nothing that is wrong with it raises an error."""
    shard = f"{name}.tar"
    try:
        rows = rows_of(read_shard_rows(out, name))
        storage = open_storage(out)
        settings = PreparedSettings.from_json(storage.read_file(SETTINGS_FILE), str(out / SETTINGS_FILE))
        problems = [Damage(shard, clip_id, reason) for clip_id, reason in _tar_problems(out / shard, rows, settings)]
    except (DecodeError, SchemaMismatchError, OSError) as error:
        return ShardReport(0, 0, 0, (Damage(shard, None, str(error)),))
    stored = [row for row in rows if not row.is_skipped]
    num_frames = 0
    for row in stored:
        try:
            record = storage.read(shard, row.record_offset, row.record_bytes)
            blocks = damaged_blocks(record, row.checksums, 0)
            if blocks:
                raise DecodeError(f"{len(blocks)} of its {len(row.checksums) // 4} checksums do not fit")
            num_frames += _check_video(PreparedClip(storage, row, settings), row, record) if row.has_video else 0
            _check_parts(row, record, settings)
        except DecodeError as error:
            problems.append(Damage(shard, row.clip_id, str(error)))
    return ShardReport(len(stored), num_frames, (out / shard).stat().st_size, tuple(problems))


def _check_video(clip: PreparedClip, row: ShardRow, record: bytes) -> int:
    """Returns the number of frames, which come out the same both ways.

    Raises:
        DecodeError: they do not.
    """
    begin = row.video_offset - row.record_offset
    plain = decode_i420(record[begin : begin + row.video_bytes], clip.name)
    side = min(row.width, row.height)
    cut = Cut(size=side, share=1.0, pixel_format=PixelFormat.YUV420P)
    num_plain = 0
    for first in range(0, row.num_frames, _FRAMES_AT_ONCE):
        count = min(_FRAMES_AT_ONCE, row.num_frames - first)
        fast = clip.read_cut(first * clip.frame_grid_seconds, count, 1 / clip.frame_grid_seconds, cut)
        for frame, expected in zip(fast, plain, strict=False):
            if not np.array_equal(frame, _square(expected, row, cut)):
                raise DecodeError(f"frame {num_plain} is another one by the packet table than by plain decoding")
            num_plain += 1
    num_plain += sum(1 for _ in plain)
    if num_plain != row.num_frames:
        raise DecodeError(f"{num_plain} frames decode, {row.num_frames} are in the index")
    return num_plain


def _square(frame: FrameArray, row: ShardRow, cut: Cut) -> FrameArray:
    """Returns what a cut without scaling leaves of an I420 frame."""
    box = cut.box(row.width, row.height)
    planes = [(frame[: row.height], 1), *((half, 2) for half in _chroma(frame, row))]
    parts = [
        plane[box.top // by : (box.top + box.side) // by, box.left // by : (box.left + box.side) // by].ravel()
        for plane, by in planes
    ]
    return np.concatenate(parts).reshape(cut.shape)


def _chroma(frame: FrameArray, row: ShardRow) -> FrameArray:
    return frame[row.height :].reshape(2, row.height // 2, row.width // 2)


def _check_parts(row: ShardRow, record: bytes, settings: PreparedSettings) -> None:
    """Checks what is not video, as somebody without the index would read it.

    Raises:
        DecodeError: a part is not what the row says.
    """

    def part(offset: int, size: int) -> io.BytesIO:
        return io.BytesIO(record[offset - row.record_offset :][:size])

    try:
        description = json.load(part(row.json_offset, row.json_bytes))
        for name, value in described(row, settings).items():
            if description.get(name) != value:
                raise DecodeError(f"its .json says {name} {description.get(name)}, the index {value}")
        if not row.has_audio:
            return
        if settings.audio == LOG_MEL:
            log_mel = np.load(part(row.audio_offset, row.audio_bytes), allow_pickle=False)
            level = np.load(part(row.level_offset, row.level_bytes), allow_pickle=False)
            shapes = (log_mel.shape, level.shape)
            is_right = shapes == ((row.num_audio_steps, settings.num_mels), (row.num_audio_steps,))
            is_right = is_right and bool(np.isfinite(log_mel).all() and np.isfinite(level).all())
        else:
            with wave.open(part(row.audio_offset, row.audio_bytes), "rb") as file:
                found = (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes())
            is_right = found == (1, 2, settings.sample_rate, row.num_audio_steps)
            if row.level_bytes:
                level = np.load(part(row.level_offset, row.level_bytes), allow_pickle=False)
                num_hops = max(1, row.num_audio_steps // settings.hop_length)
                is_right = is_right and level.shape == (num_hops,) and bool(np.isfinite(level).all())
    except (ValueError, EOFError, OSError, wave.Error) as error:
        raise DecodeError(f"a part of it is not of its format: {error}") from error
    if not is_right:
        raise DecodeError("its audio is not what the index says")


def _tar_problems(path: Path, rows: Sequence[ShardRow], settings: PreparedSettings) -> Iterator[tuple[str | None, str]]:
    """Yields clip and reason for every way in which a tar file is not what its rows say."""
    expected = {
        f"{member_key(row.clip_id)}.{suffix}": (row.clip_id, offset, size)
        for row in rows
        for suffix, offset, size in _places(row, settings)
    }
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                clip_id, offset, size = expected.pop(member.name, (None, 0, 0))
                if clip_id is None:
                    yield None, f"holds {member.name}, which is not in the index"
                elif (member.offset_data, member.size) != (offset, size) or not member.isfile():
                    yield clip_id, f"{member.name} is not where the index says"
    except tarfile.TarError as error:
        yield None, f"not a tar file: {error}"
    yield from _end_problems(path, max((row.record_offset + row.record_bytes for row in rows), default=0))
    for name, (clip_id, _, _) in expected.items():
        yield clip_id, f"{name} is missing from the tar file"


def _end_problems(path: Path, end: int) -> Iterator[tuple[None, str]]:
    """Yields what is wrong with a tar file behind its last clip: there are two empty blocks, or a few more."""
    with path.open("rb") as file:
        file.seek(end)
        rest = file.read(2 * tarfile.RECORDSIZE)
    if any(rest) or len(rest) != tar_end_bytes(end):
        yield None, "does not end as it was written: it was cut off, or something was written behind its last clip"


def _places(row: ShardRow, settings: PreparedSettings) -> Iterator[tuple[str, int, int]]:
    """Yields suffix, offset and size of the parts that a clip has."""
    if row.has_video:
        yield "mp4", row.video_offset, row.video_bytes
    if row.has_audio and settings.audio == LOG_MEL:
        yield "mel.npy", row.audio_offset, row.audio_bytes
    elif row.has_audio:
        yield "wav", row.audio_offset, row.audio_bytes
    if row.level_bytes:  # Waveforms had none at first.
        yield "level.npy", row.level_offset, row.level_bytes
    if not row.is_skipped:
        yield "json", row.json_offset, row.json_bytes


def _index_damage(out: Path, names: Sequence[str]) -> Iterator[Damage]:
    """Yields what is wrong with the index of all shards."""
    try:
        expected = index_table(out)
        found = ShardIndex(out / INDEX_FILE).table
        # Damaged offsets lead Arrow out of its buffers, unless they are looked at first.
        found.validate(full=True)
        if not found.select(expected.column_names).replace_schema_metadata(None).equals(expected):
            raise StorageError("is not the sum of the shards' own rows: run the same `k700-text prepare` again")
    except (DecodeError, SchemaMismatchError) as error:
        yield Damage(INDEX_FILE, None, str(error))
    except pa.ArrowInvalid as error:
        yield Damage(INDEX_FILE, None, f"is damaged ({error}): run the same `k700-text prepare` again")
    for path in sorted(out.glob("*-*.tar")):
        if path.stem not in names:
            yield Damage(path.name, None, "has no rows (.arrow): it is not finished, or its rows were removed")
    for path in sorted(out.glob("*-*.arrow")):
        if path.stem not in names:
            yield Damage(f"{path.stem}.tar", None, "is missing: copy it there again, or prepare again")
