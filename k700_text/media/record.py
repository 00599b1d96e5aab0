"""One clip as a record of a shard: what is kept of it, and in which form."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from k700_text.errors import DecodeError, K700TextError
from k700_text.media.clip import DecodeLimits, FrameArray, Waveform
from k700_text.media.decode import ClipReader
from k700_text.media.encode import QUALITIES, EncodedVideo, encode_i420
from k700_text.media.levels import Sound
from k700_text.media.log_mel import hop_levels, log_mel_track
from k700_text.media.packets import ClipPackets
from k700_text.media.shards import PCM16, PreparedSettings, ShardRow

# What files declare is often wrong by a frame or two.
_TOLERATED_SHARE = 0.05

_Part = TypeVar("_Part")

FrameFilter = Callable[[Iterator[FrameArray]], Iterator[FrameArray]]


class ClipTask(NamedTuple):
    """A clip to prepare: its file, relative to the folder of clips, and what goes beside it."""

    clip_id: str
    split: str | None
    label: str | None
    title: str | None
    youtube_id: str | None
    start_seconds: float | None
    end_seconds: float | None
    clip_file: str


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """What a shard stores of a clip.

    Attributes:
        row: its index row, where its parts lie left out.
        members: suffix and content of its parts, under ``video``, ``audio``, ``level`` and ``json``.
        packets: where the packets of the video lie in its own file; None without one.
    """

    row: ShardRow
    members: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    packets: ClipPackets | None = None


def prepare_clip(
    task: ClipTask,
    root: str | Path,
    settings: PreparedSettings,
    limits: DecodeLimits,
    watch: FrameFilter = lambda frames: frames,
) -> ClipRecord:
    """Returns the record of one clip; one of which nothing can be read gives a row that says why.

    Args:
        task: the clip.
        root: folder that its file is relative to.
        settings: of the shards.
        limits: what reading the file may cost.
        watch: sees the frames on their way to the encoder.
    """
    path = Path(root) / task.clip_file
    source_bytes = _size_of(path)
    try:
        with ClipReader(path, limits=limits) as reader:
            return _record_of(reader, task, source_bytes, settings, watch)
    except DecodeError as error:
        return ClipRecord(_row(task, source_bytes, reason=_reason(error, path)))


def skipped(task: ClipTask, root: str | Path, reason: str) -> ClipRecord:
    """Returns the record of a clip that is not to be touched again."""
    path = Path(root) / task.clip_file
    return ClipRecord(_row(task, _size_of(path), reason=reason))


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _record_of(
    reader: ClipReader, task: ClipTask, source_bytes: int, settings: PreparedSettings, watch: FrameFilter
) -> ClipRecord:
    problems: list[str] = []
    video = _kept("video", reader, lambda: _video_of(reader, settings, watch), problems)
    audio = _kept("audio", reader, lambda: _audio_of(reader, settings), problems)
    if video is not None and _lacks_end(reader):
        problems.append("video: its end is missing, the rest is kept")
    if _is_cut(reader, video, settings):
        problems.append(f"longer than {settings.max_seconds:g} s, the rest is left out")
    if video is None and audio is None:
        problems = problems or ["neither video nor audio in it"]
    row = _row(task, source_bytes, reason="; ".join(problems) or None)
    if video is None and audio is None:
        return ClipRecord(row)
    members: dict[str, tuple[str, bytes]] = {}
    packets = None
    if video is not None:
        row = replace(
            row,
            has_video=True,
            num_frames=video.num_frames,
            width=video.width,
            height=video.height,
            video_seconds=video.num_frames / settings.frame_rate,
        )
        members["video"] = ("mp4", video.data)
        packets = ClipPackets(video=video.packets, audio=None)
    if audio is not None:
        num_steps, parts = _stored(audio, settings)
        row = replace(
            row, has_audio=True, audio_seconds=len(audio.waveform) / settings.sample_rate, num_audio_steps=num_steps
        )
        members |= parts
    members["json"] = ("json", _description(task, row, settings))
    return ClipRecord(row, members, packets)


def _kept(kind: str, reader: ClipReader, read: Callable[[], _Part | None], problems: list[str]) -> _Part | None:
    """Returns what ``read`` gives; adds to the problems if there is less of it than there was to be."""
    try:
        part = read()
    # An encoder that refuses a clip is as bad as a decoder that does.
    except K700TextError as error:
        problems.append(f"{kind}: {_reason(error, reader.path)}")
        return None
    num_damaged = reader.num_damaged_video if kind == "video" else reader.num_damaged_audio
    if part is not None and num_damaged:
        problems.append(f"{kind}: damaged packets, the rest is kept")
    return part


def _lacks_end(reader: ClipReader) -> bool:
    """Returns whether the file was cut off, which no packet shows where the cut lies between two."""
    declared = reader.info.video_duration_seconds or reader.info.file_end_seconds or 0.0
    return reader.missing_video_seconds > _TOLERATED_SHARE * declared


def _is_cut(reader: ClipReader, video: EncodedVideo | None, settings: PreparedSettings) -> bool:
    """Returns whether a clip is longer than what is taken of it; what files declare alone is often wrong."""
    most = settings.max_seconds + 1 / settings.frame_rate
    if video is None:
        return (reader.audio_seconds() or 0.0) > most
    is_full = video.num_frames >= settings.max_seconds * settings.frame_rate
    return is_full and reader.video_seconds() > most


def _video_of(reader: ClipReader, settings: PreparedSettings, watch: FrameFilter) -> EncodedVideo | None:
    if not reader.has_video:
        return None
    frames = reader.resampled(settings.frame_rate, settings.short_side, max_seconds=settings.max_seconds)
    return encode_i420(watch(frames), frame_rate=settings.frame_rate, quality=QUALITIES[settings.quality])


def _audio_of(reader: ClipReader, settings: PreparedSettings) -> Sound | None:
    if not reader.has_audio:
        return None
    seconds = reader.audio_seconds() or reader.video_seconds() or settings.max_seconds
    return reader.read_sound(0.0, min(seconds, settings.max_seconds), settings.sample_rate)


def _stored(sound: Sound, settings: PreparedSettings) -> tuple[int, dict[str, tuple[str, bytes]]]:
    """Returns the steps of the audio, and its members."""
    if settings.audio == PCM16:
        # Mixed to mono, channels that are alone with their sound are softer than they are heard.
        return len(sound.waveform), {
            "audio": ("wav", wav_bytes(sound.waveform, settings.sample_rate)),
            "level": ("level.npy", npy_bytes(hop_levels(sound, settings.audio_config()))),
        }
    track = log_mel_track(sound, settings.audio_config())
    return len(track.log_mel), {
        "audio": ("mel.npy", npy_bytes(track.log_mel)),
        "level": ("level.npy", npy_bytes(track.mean_square)),
    }


def npy_bytes(array: NDArray[Any]) -> bytes:
    """Returns an array as the content of an ``.npy`` file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def wav_bytes(waveform: Waveform, sample_rate: int) -> bytes:
    """Returns a mono waveform as the content of a ``.wav`` file of 16 bits a sample; what is above 1 is cut off."""
    samples = np.clip(np.rint(waveform * 2.0**15), -(2**15), 2**15 - 1).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, sample_rate, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def _row(task: ClipTask, source_bytes: int, reason: str | None) -> ShardRow:
    return ShardRow(
        clip_id=task.clip_id,
        split=task.split,
        label=task.label,
        clip_file=task.clip_file,
        source_bytes=source_bytes,
        reason=reason,
    )


def _description(task: ClipTask, row: ShardRow, settings: PreparedSettings) -> bytes:
    """Returns the JSON that goes with a clip, for who reads the shards without the index."""
    known = {name: value for name, value in task._asdict().items() if value is not None}
    return json.dumps(known | described(row, settings), ensure_ascii=False).encode()


def described(row: ShardRow, settings: PreparedSettings) -> dict[str, Any]:
    """Returns what the JSON beside a clip repeats of its row."""
    facts = {
        "clip_id": row.clip_id,
        "split": row.split,
        "label": row.label,
        "clip_file": row.clip_file,
        "has_video": row.has_video,
        "has_audio": row.has_audio,
        "reason": row.reason,
        "frame_rate": settings.frame_rate if row.has_video else None,
        "num_frames": row.num_frames or None,
        "width": row.width or None,
        "height": row.height or None,
        "video_seconds": row.video_seconds if row.has_video else None,
        "audio_seconds": row.audio_seconds if row.has_audio else None,
        "audio_sample_rate": settings.sample_rate if row.has_audio else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _reason(error: K700TextError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
