"""Measuring one clip file, in one pass: what decodes, how long it is, whether there is sound in it."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from k700_text.config import require_positive
from k700_text.errors import ConfigError, DecodeError
from k700_text.media.clip import AudioBlock, ClipInfo, DecodeLimits, FrameMark
from k700_text.media.decode import ClipReader
from k700_text.media.levels import SILENCE_DBFS, Run, block_length, from_dbfs, listen, to_dbfs
from k700_text.records import AudioStatus, ClipProbe, VideoStatus

# Those that stand alone, and sizes: H.264, MP4 and 4:2:0 are names.
_MAX_STEP_SECONDS = 1.0
_MAX_STILL_SECONDS = 10.0
_NUMBER = re.compile(r"(?<![\w.:])\d+([.x]\d+)*(?![\w:])")
# What is left of a constant by rounding is at most -116 dB of it.
_ROUNDING = 4e-6
# Timestamps are rounded: what begins within a moment of the end of what came before goes on.
_SAME_STRETCH_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """What "usable" means; recorded in the probe file."""

    silence_dbfs: float = SILENCE_DBFS
    """Level (RMS as heard, see ``levels``) below which audio is near-silent, dB re full scale."""
    min_covered_share: float = 0.9
    """Share of the clip that a stream has to cover to be usable, 0..1."""
    block_seconds: float = 0.05
    """Length of the blocks that ``audio_silent_fraction`` counts."""
    max_seconds: float = 600.0
    """Wall time that decoding one file may take, seconds."""

    def __post_init__(self) -> None:
        require_positive(block_seconds=self.block_seconds, max_seconds=self.max_seconds)
        if not 0 <= self.min_covered_share <= 1:
            raise ConfigError(f"min_covered_share must be in 0..1, got {self.min_covered_share}")
        if not -200 <= self.silence_dbfs <= 0:
            raise ConfigError(f"silence_dbfs must be in -200..0, got {self.silence_dbfs}")

    def as_json(self) -> str:
        """Returns the settings as one line of JSON, the same for the same settings."""
        return json.dumps(asdict(self), sort_keys=True)


def probe_clip(path: str | Path, root: str | Path, settings: ProbeSettings | None = None) -> ClipProbe:
    """Returns the measurement of one clip file, from one full decoding pass; a bad file is a result, not an error.

    Args:
        path: the file.
        root: folder that ``clip_file`` is to be relative to.
        settings: thresholds; the defaults when None.
    """
    settings = settings or ProbeSettings()
    clip_file = as_text(Path(os.path.relpath(path, root)).as_posix())
    try:
        file_bytes = Path(path).stat().st_size
    except FileNotFoundError:
        return ClipProbe(
            clip_file=clip_file,
            video_status=VideoStatus.MISSING,
            audio_status=AudioStatus.MISSING,
            reason="no such file",
        )
    except OSError:
        file_bytes = 0  # The reader tells why.
    try:
        with ClipReader(path, limits=DecodeLimits(max_seconds=settings.max_seconds)) as reader:
            return _measure(reader, clip_file, file_bytes, settings)
    except DecodeError as error:
        return failed_probe(clip_file, str(error).removeprefix(f"{path}: "), file_bytes)


class _VideoMeter:
    """Adds up frames, and the time that they are shown for.

    A frame covers the time until the next one if that comes within a second, or if the sound goes on meanwhile; else,
    and where packets are damaged in between, as long as it says itself. Ten seconds of a still are the most.
    """

    def __init__(self) -> None:
        self.num_frames = 0
        self.width = self.height = 0
        self.end_seconds = 0.0
        self._first_seconds = 0.0
        self._covered_seconds = 0.0
        self._last: FrameMark | None = None
        self._num_damaged = 0
        self._pauses: list[tuple[FrameMark, float]] = []

    @property
    def duration_seconds(self) -> float:
        return self.end_seconds - self._first_seconds if self.num_frames else 0.0

    def covered_seconds(self, heard: _Stretches) -> float:
        """Returns for how long there are frames, given where there is sound."""
        seconds = self._covered_seconds + (_shown_seconds(self._last) if self._last is not None else 0.0)
        for mark, end in self._pauses:
            is_heard = heard.within(mark.time_seconds, end) > (end - mark.time_seconds) / 2
            most = max(_shown_seconds(mark), _MAX_STILL_SECONDS if is_heard else _MAX_STEP_SECONDS)
            seconds += min(end - mark.time_seconds, most)
        return seconds

    @property
    def span(self) -> tuple[float, float]:
        """Clip times at which the first frame begins and the last one ends."""
        return self._first_seconds, self.end_seconds

    def add(self, mark: FrameMark, num_damaged: int) -> None:
        """Takes the next frame, and the number of damaged packets up to it."""
        if self._last is None:
            self._first_seconds = mark.time_seconds
            self.width, self.height = mark.width, mark.height
        elif mark.time_seconds > self._last.time_seconds:
            gap = mark.time_seconds - self._last.time_seconds
            if num_damaged != self._num_damaged:
                self._covered_seconds += min(gap, _shown_seconds(self._last))
            elif gap > _MAX_STEP_SECONDS:
                self._pauses.append((self._last, mark.time_seconds))
            else:
                self._covered_seconds += gap
        if self._last is None or mark.time_seconds > self._last.time_seconds:
            self._last = mark
        self._num_damaged = num_damaged
        self.num_frames += 1
        self.end_seconds = max(self.end_seconds, mark.time_seconds + mark.duration_seconds)


def _shown_seconds(mark: FrameMark) -> float:
    return min(mark.duration_seconds, _MAX_STILL_SECONDS)


class _Stretches:
    """Where there is sound, as stretches of clip time without longer breaks."""

    def __init__(self) -> None:
        self._stretches: list[list[float]] = []

    def add(self, block: AudioBlock) -> None:
        begin = block.time_seconds
        end = begin + block.channels.shape[1] / block.sample_rate
        if self._stretches and abs(begin - self._stretches[-1][1]) <= _SAME_STRETCH_SECONDS:
            self._stretches[-1][1] = max(self._stretches[-1][1], end)
        else:
            self._stretches.append([begin, end])

    def within(self, begin: float, end: float) -> float:
        """Returns how many seconds of a stretch have sound; what lies there twice counts once."""
        seconds = 0.0
        for first, last in sorted(self._stretches):
            seconds += max(0.0, min(end, last) - max(begin, first))
            begin = max(begin, last)
        return seconds


class _AudioMeter:
    """Adds up what is heard, holding a second of sound."""

    def __init__(self, settings: ProbeSettings) -> None:
        self.seconds = 0.0
        self.peak = 0.0
        self._energy = 0.0
        self._heard_seconds = 0.0
        self._num_blocks = 0
        self._num_silent = 0
        self._settings = settings
        self._run: Run | None = None

    @property
    def rms(self) -> float:
        """Level of what is heard; 0 where that is no more than what is left of a constant by rounding."""
        level = math.sqrt(self._energy / self._heard_seconds) if self._heard_seconds else 0.0
        return level if level > _ROUNDING * self.peak else 0.0

    @property
    def silent_fraction(self) -> float | None:
        return self._num_silent / self._num_blocks if self._num_blocks else None

    def add(self, block: AudioBlock) -> None:
        num_channels, num_samples = block.channels.shape
        self.seconds += num_samples / block.sample_rate
        run = self._run
        if run is None or (run.sample_rate, run.num_channels) != (block.sample_rate, num_channels):
            self.finish()
            run = self._run = Run(block.sample_rate, num_channels)
        run.add(block.channels)
        if run.end - run.start >= block.sample_rate:
            self._listen(run, block_length(run.sample_rate, self._settings.block_seconds))

    def finish(self) -> None:
        if self._run is not None and self._run.num_values:
            self._listen(self._run, 1)
        self._run = None

    def _listen(self, run: Run, multiple: int) -> None:
        channels = run.take(multiple)
        num_samples = channels.shape[1]
        if not num_samples:
            return
        blocks = listen(channels, run.sample_rate, self._settings.block_seconds)
        self.peak = max(self.peak, float(channels.max()), -float(channels.min()))
        lengths = np.diff(np.append(np.arange(len(blocks.loudest)) * blocks.length, num_samples))
        self._energy += float((blocks.loudest * lengths).sum()) / run.sample_rate
        self._heard_seconds += num_samples / run.sample_rate
        self._num_blocks += len(blocks.loudest)
        self._num_silent += int((blocks.loudest < from_dbfs(self._settings.silence_dbfs) ** 2).sum())


def _measure(reader: ClipReader, clip_file: str, file_bytes: int, settings: ProbeSettings) -> ClipProbe:
    video, audio, heard = _VideoMeter(), _AudioMeter(settings), _Stretches()
    for event in reader.scan():
        if isinstance(event, FrameMark):
            video.add(event, reader.num_damaged_video)
        else:
            audio.add(event)
            heard.add(event)
    audio.finish()
    info = reader.info
    cut_off_from = _cut_off_from(info, max(video.end_seconds, audio.seconds), settings)
    declared = (info.video_duration_seconds or cut_off_from, info.audio_duration_seconds or cut_off_from)
    whole_video_seconds = max(declared[0], video.duration_seconds, video.end_seconds)
    covered_seconds = video.covered_seconds(heard)
    video_status, video_reason = _judge_video(reader, video, covered_seconds, whole_video_seconds, settings)
    whole_seconds = max(*declared, video.duration_seconds, audio.seconds)
    # Windows lie where there are pictures: sound beside them is of no use.
    covered = [(audio.seconds, whole_seconds), (heard.within(*video.span), video.duration_seconds)]
    audio_status, audio_reason = _judge_audio(reader, audio, covered, settings)
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


def _cut_off_from(info: ClipInfo, longest_seconds: float, settings: ProbeSettings) -> float:
    """Returns the length declared for the file as a whole if no stream of it is that long, else 0."""
    declared = info.file_end_seconds or 0.0
    return declared if longest_seconds < settings.min_covered_share * declared else 0.0


def _judge_video(
    reader: ClipReader, video: _VideoMeter, covered: float, whole_seconds: float, settings: ProbeSettings
) -> tuple[VideoStatus, str]:
    if not reader.info.has_video_stream:
        return VideoStatus.NO_STREAM, "no video stream"
    if not video.num_frames:
        return VideoStatus.UNDECODABLE, f"no frame of the video decodes{_damage(reader.num_damaged_video)}"
    if covered < settings.min_covered_share * whole_seconds:
        damage = _damage(reader.num_damaged_video, ", ")
        return VideoStatus.PARTIAL, f"the video covers only a part: {covered:.1f} of {whole_seconds:.1f} s{damage}"
    return VideoStatus.USABLE, ""


def _judge_audio(
    reader: ClipReader, audio: _AudioMeter, covered: Sequence[tuple[float, float]], settings: ProbeSettings
) -> tuple[AudioStatus, str]:
    if not reader.info.has_audio_stream:
        return AudioStatus.NO_STREAM, "no audio stream"
    if not audio.seconds:
        problem = f"nothing of the audio decodes{_damage(reader.num_damaged_audio)}"
        return AudioStatus.UNDECODABLE, reader.odd_audio or problem
    if audio.peak == 0:
        return AudioStatus.SILENT, "the audio is digital silence"
    if audio.rms == 0:
        return AudioStatus.SILENT, "nothing of the audio is heard: it is a constant, or too high"
    if audio.rms < from_dbfs(settings.silence_dbfs):
        level = f"{20 * math.log10(audio.rms):.1f} dB, threshold {settings.silence_dbfs:g} dB"
        return AudioStatus.NEAR_SILENT, f"the audio is nearly silent: {level}"
    for covered_seconds, whole_seconds in covered:
        if covered_seconds < settings.min_covered_share * whole_seconds:
            damage = _damage(reader.num_damaged_audio, ", ")
            text = f"the audio covers only a part: {covered_seconds:.1f} of {whole_seconds:.1f} s{damage}"
            return AudioStatus.PARTIAL, text
    return AudioStatus.USABLE, ""


def _damage(num_packets: int, before: str = ": ") -> str:
    return f"{before}{num_packets} of its packets {'is' if num_packets == 1 else 'are'} damaged" if num_packets else ""


def failed_probe(clip_file: str, reason: str, file_bytes: int | None) -> ClipProbe:
    """Returns the measurement of a file of which nothing can be decoded."""
    return ClipProbe(
        clip_file=clip_file,
        video_status=VideoStatus.UNDECODABLE,
        audio_status=AudioStatus.UNDECODABLE,
        reason=reason,
        file_bytes=file_bytes,
    )


def as_text(name: str) -> str:
    """Returns a file name as text that Parquet takes: bytes that are no UTF-8 are spelled out."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


_OF_THE_MACHINE = frozenset(map(os.strerror, (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)))


def may_pass(reason: str | None) -> bool:
    """Returns whether a file could not be read for a reason that is not its own: the next run tries again."""
    return reason in _OF_THE_MACHINE


def kind_of(reason: str) -> str:
    """Returns a reason without what is special to one clip: the text before a colon, with N for numbers."""
    return _NUMBER.sub("N", reason.partition(": ")[0])
