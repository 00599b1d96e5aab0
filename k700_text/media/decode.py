"""Reading clip files: the only reader of PyAV.

A clip's time starts where its video stream starts (its audio stream where it has no video), whatever the container
counts from. Frames are chosen by the time they are shown at, never by their index: files in the wild have uneven
timestamps, wrong durations and frame rates that are not what they say.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from k700_text.errors import DecodeError
from k700_text.media.clip import DEFAULT_LIMITS, AudioBlock, ClipInfo, DecodeLimits, FrameArray, FrameMark, Waveform

# Formats that hold sound or moving pictures in one file. Left out: single images and playlists, because a playlist
# can name other files and addresses, and reading a clip must open nothing but that clip.
_FORMATS = (
    "3dostr aac ac3 aiff amr ape asf au avi caf dv eac3 flac flv gif h263 h264 hevc ivf live_flv m4v matroska,webm "
    "mov,mp4,m4a,3gp,3g2,mj2 mp3 mpeg mpegts mpegvideo mxf nsv nut ogg obu rm swf tta voc w64 wav webm wtv wv "
    "yuv4mpegpipe"
).replace(" ", ",")
_OPEN_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
# AVI stores decoding times only: its presentation times are guesses that go back and forth around B-frames.
_FORMATS_WITHOUT_PTS = frozenset({"avi"})
_SAME_TIME_SECONDS = 1e-6
_AUDIO_PREROLL_SECONDS = 0.3
_AUDIO_MARGIN_SECONDS = 0.1
_AUDIO_JITTER_SECONDS = 0.02
_FULL_SCALE = {"u1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31}


class ClipReader:
    """One open clip file; a context manager.

    Attributes:
        path: the file.
        info: what the file declares.
        num_damaged_video: video packets that did not decode so far.
        num_damaged_audio: audio packets that did not decode so far.
        video_end_seconds: clip time at which the video ends, measured; None until a read reached the end.

    Raises:
        DecodeError: the file is missing, not a regular file, or holds neither video nor audio that FFmpeg knows.
    """

    def __init__(self, path: str | Path, *, limits: DecodeLimits = DEFAULT_LIMITS) -> None:
        self.path = Path(path)
        self.num_damaged_video = 0
        self.num_damaged_audio = 0
        self.video_end_seconds: float | None = None
        self._limits = limits
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._is_fresh = True
        with self._translated():
            self._container = _open(self.path)
            try:
                self._video, self._audio = _pick_streams(self._container)
                if self._video is None and self._audio is None:
                    raise DecodeError(f"{self.path}: holds no video and no audio", path=str(self.path))
                self._uses_dts = self._container.format.name in _FORMATS_WITHOUT_PTS
                self.info = _describe(self._container, self._video, self._audio)
                self._origin = self._find_origin()
            except BaseException:
                self._container.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    def read_frames(self, start_seconds: float, num_frames: int, frame_rate: float) -> FrameArray:
        """Returns the frames shown at ``start_seconds + k / frame_rate``, uint8 (T, H, W, 3), RGB, rotation applied.

        The frame shown at a time is the last one whose timestamp is not after it (to a microsecond); before the first
        frame it is the first, past the end the last.

        Raises:
            DecodeError: there is no video stream, no frame of it decodes, or a limit is exceeded.
            ValueError: an argument is out of range.
        """
        if not (math.isfinite(start_seconds) and num_frames >= 1 and frame_rate > 0):
            raise ValueError(f"bad window: {start_seconds=} {num_frames=} {frame_rate=}")
        if self._video is None:
            raise DecodeError(f"{self.path}: no video stream", path=str(self.path))
        wanted = [start_seconds + index / frame_rate for index in range(num_frames)]
        with self._translated():
            for point in _seek_points(start_seconds):
                pictures = self._pictures_shown_at(wanted, point)
                if pictures is not None:
                    return np.stack(pictures)
        raise DecodeError(f"{self.path}: no frame of its video stream decodes", path=str(self.path))

    def read_audio(self, start_seconds: float, duration_seconds: float, sample_rate: int) -> Waveform:
        """Returns a stretch of audio as mono, float32 (N,), N = round(duration * rate), nominally in [-1, 1].

        Mono is the mean of the channels. Samples stand where their timestamps put them in clip time; zeros stand where
        the stream has nothing.

        Raises:
            DecodeError: there is no audio stream, it does not decode, or a limit is exceeded.
            ValueError: an argument is out of range.
        """
        if not (math.isfinite(start_seconds) and duration_seconds > 0 and sample_rate > 0):
            raise ValueError(f"bad stretch: {start_seconds=} {duration_seconds=} {sample_rate=}")
        if self._audio is None:
            raise DecodeError(f"{self.path}: no audio stream", path=str(self.path))
        if duration_seconds > self._limits.max_audio_seconds:
            raise DecodeError(f"{self.path}: {duration_seconds:.0f} s of audio is above the limit", path=str(self.path))
        # The resampler needs a little of what lies before and after.
        first_seconds = start_seconds - _AUDIO_MARGIN_SECONDS
        total_seconds = duration_seconds + 2 * _AUDIO_MARGIN_SECONDS
        with self._translated():
            for point in _seek_points(first_seconds - _AUDIO_PREROLL_SECONDS):
                native = self._native_audio(first_seconds, total_seconds, point)
                if native is not None:
                    waveform = _resampled(native, self._native_rate(), sample_rate)
                    skipped = round(_AUDIO_MARGIN_SECONDS * sample_rate)
                    return _of_length(waveform[skipped:], round(duration_seconds * sample_rate))
        raise DecodeError(f"{self.path}: nothing of its audio stream decodes", path=str(self.path))

    def video_seconds(self) -> float:
        """Returns the length of the video stream: as declared, or measured by a full pass where nothing is declared.

        Raises:
            DecodeError: a limit is exceeded.
        """
        if self.video_end_seconds is not None:
            return self.video_end_seconds
        declared = self.info.video_duration_seconds
        if declared is not None:
            return declared
        ends = [mark.time_seconds + mark.duration_seconds for mark in self.scan() if isinstance(mark, FrameMark)]
        self.video_end_seconds = max(ends, default=0.0)
        return self.video_end_seconds

    def scan(self) -> Iterator[FrameMark | AudioBlock]:
        """Yields every frame's times and all audio, in one pass over the file from its start.

        Raises:
            DecodeError: a limit is exceeded. Damaged packets are only counted.
        """
        with self._translated():
            self._seek(None)
            yield from self._scan()

    def _scan(self) -> Iterator[FrameMark | AudioBlock]:
        video_clock = _Clock(self._video, self._uses_dts, self._origin, 1 / (self.info.frame_rate or 25.0))
        audio_clock = _Clock(self._audio, False, self._origin, 0.0)
        for frame in self._decoded(self._video, self._audio):
            if isinstance(frame, VideoFrame):
                seconds = video_clock.read(frame)
                self._check_pixels(frame)
                turned = _quarter_turns(frame) % 2 == 1
                width, height = (frame.height, frame.width) if turned else (frame.width, frame.height)
                yield FrameMark(seconds, video_clock.duration_seconds, width, height)
            else:
                seconds = audio_clock.read(frame)
                audio_clock.step_seconds = frame.samples / frame.sample_rate
                yield AudioBlock(seconds, _finite(_mono(frame)), frame.sample_rate)

    def _find_origin(self) -> Fraction:
        """Returns the container's time at which clip time is zero, seconds."""
        stream = self._video if self._video is not None else self._audio
        if self._uses_dts and self._video is not None:
            for frame in self._decoded(self._video):
                ticks = frame.dts if frame.dts is not None else frame.pts
                return Fraction(ticks or 0) * Fraction(stream.time_base)
        return Fraction(stream.start_time or 0) * Fraction(stream.time_base)

    def _pictures_shown_at(self, wanted: list[float], point: float | None) -> list[FrameArray] | None:
        """Returns a picture for every wanted time, or None if decoding has to begin earlier than at ``point``."""
        if not self._seek(point):
            return None
        clock = _Clock(self._video, self._uses_dts, self._origin, 1 / (self.info.frame_rate or 25.0))
        pictures: list[FrameArray] = []
        shown: VideoFrame | None = None
        for frame in self._decoded(self._video):
            if point is not None and shown is None and not clock.can_tell(frame):
                return None
            seconds = clock.read(frame)
            if shown is None:
                if point is not None and seconds > wanted[0] + _SAME_TIME_SECONDS:
                    return None
                shown = frame
            num_before = bisect_left(wanted, seconds - _SAME_TIME_SECONDS)
            if num_before > len(pictures):
                pictures += [self._picture(shown)] * (num_before - len(pictures))
            if len(pictures) == len(wanted):
                return pictures
            if not clock.went_back:
                shown = frame
        if shown is None:
            return None
        self.video_end_seconds = clock.time_seconds + clock.duration_seconds
        return pictures + [self._picture(shown)] * (len(wanted) - len(pictures))

    def _picture(self, frame: VideoFrame) -> FrameArray:
        self._check_pixels(frame)
        if self._size is None:
            self._size = (frame.width, frame.height)
        width, height = self._size  # a stream may change its size midway
        rgb = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        return np.rot90(rgb.to_ndarray(), _quarter_turns(frame))

    def _check_pixels(self, frame: VideoFrame) -> None:
        if frame.width * frame.height > self._limits.max_pixels:
            size = f"{frame.width}x{frame.height}"
            raise DecodeError(f"{self.path}: frames of {size} pixels are above the limit", path=str(self.path))

    def _native_rate(self) -> int:
        return int(self._audio.codec_context.sample_rate)

    def _native_audio(self, first_seconds: float, total_seconds: float, point: float | None) -> Waveform | None:
        """Returns mono audio at the stream's own rate, or None if decoding has to begin earlier than at ``point``."""
        if not self._seek(point, "audio"):
            return None
        rate = self._native_rate()
        buffer = np.zeros(round(total_seconds * rate), dtype=np.float32)
        clock = _Clock(self._audio, False, self._origin, 0.0)
        position: int | None = None
        for frame in self._decoded(self._audio):
            if frame.sample_rate != rate:
                raise DecodeError(f"{self.path}: the audio sample rate changes midway", path=str(self.path))
            if point is not None and position is None and not clock.can_tell(frame):
                return None
            seconds = clock.read(frame)
            clock.step_seconds = frame.samples / rate
            if point is not None and position is None and seconds > first_seconds:
                return None
            stamped = round((seconds - first_seconds) * rate)
            # Timestamps of some containers are rounded to milliseconds: small steps are no gaps.
            if position is None or abs(stamped - position) > _AUDIO_JITTER_SECONDS * rate:
                position = stamped
            if position >= len(buffer):
                break
            _place(buffer, position, _mono(frame))
            position += frame.samples
        return None if position is None else _finite(buffer)

    def _seek(self, point: float | None, kind: str = "video") -> bool:
        """Goes to the last key frame before ``point`` (clip time), None is the start; returns whether it could."""
        if point is None and self._is_fresh:
            return True
        stream = self._audio if kind == "audio" or self._video is None else self._video
        # Rewinding has to go before the first packet: audio begins with one whose samples are thrown away.
        instants = [self._origin + Fraction(point)] if point is not None else [self._origin - 1, self._origin]
        for instant in instants:
            with suppress(av.error.FFmpegError):
                self._container.seek(math.floor(instant / stream.time_base), stream=stream, backward=True)
                return True
        if point is None:
            self._reopen()
        return point is None

    def _reopen(self) -> None:
        """Starts over in a file that cannot be rewound: slow, and rare."""
        self._container.close()
        self._container = _open(self.path)
        self._video, self._audio = _pick_streams(self._container)

    def _decoded(self, *streams: Any) -> Iterator[Any]:
        """Yields the decoded frames of the streams; None among them is skipped.

        After a damaged video packet it goes on with the next key frame: what lies between refers to a picture that is
        not there.
        """
        self._is_fresh = False
        deadline = time.monotonic() + self._limits.max_seconds
        num_frames = 0
        is_lost = False
        for packet in self._packets([stream for stream in streams if stream is not None]):
            is_video = packet.stream.type == "video"
            if is_video and is_lost and not packet.is_keyframe and packet.size:
                continue
            frames, is_damaged = _decode(packet)
            self.num_damaged_video += is_damaged and is_video
            self.num_damaged_audio += is_damaged and not is_video
            is_lost = is_damaged if is_video else is_lost
            num_frames += len(frames)
            if num_frames > self._limits.max_frames or time.monotonic() > deadline:
                raise DecodeError(f"{self.path}: takes too long to decode, given up", path=str(self.path))
            yield from frames

    def _packets(self, streams: list[Any]) -> Iterator[Any]:
        try:
            yield from self._container.demux(streams)
        except (av.error.InvalidDataError, av.error.EOFError):
            # A truncated tail: hand out what the decoders still hold.
            for stream in streams:
                packet = av.Packet()
                packet.stream = stream
                yield packet

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns every foreign failure into a DecodeError of one line: the only place that does."""
        try:
            yield
        except (av.error.FFmpegError, OSError, ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
            raise DecodeError(f"{self.path}: {_reason(error)}", path=str(self.path)) from error


class _Clock:
    """Reads frame times of one stream in seconds of clip time, and bridges missing timestamps."""

    def __init__(self, stream: Any, uses_dts: bool, origin: Fraction, step_seconds: float) -> None:
        self.step_seconds = step_seconds
        self.time_seconds = 0.0
        self.duration_seconds = step_seconds
        self.went_back = False
        self._uses_dts = uses_dts
        # Whole numbers, once: Fractions for every frame cost more than decoding a packet of audio.
        base = Fraction(stream.time_base) if stream is not None else Fraction(1)
        self._ticks_scale = base.numerator * origin.denominator
        self._offset = origin.numerator * base.denominator
        self._divisor = base.denominator * origin.denominator
        self._seconds_per_tick = float(base)
        self._num_read = 0

    def can_tell(self, frame: Any) -> bool:
        return self._ticks(frame) is not None

    def read(self, frame: Any) -> float:
        ticks = self._ticks(frame)
        if ticks is not None:
            seconds = (ticks * self._ticks_scale - self._offset) / self._divisor
        else:
            seconds = self.time_seconds + self.step_seconds if self._num_read else 0.0
        self.went_back = self._num_read > 0 and seconds < self.time_seconds
        self._num_read += 1
        self.time_seconds = seconds
        self.duration_seconds = frame.duration * self._seconds_per_tick if frame.duration else self.step_seconds
        return seconds

    def _ticks(self, frame: Any) -> int | None:
        if not self._uses_dts:
            ticks = frame.pts if frame.pts is not None else frame.dts
        elif frame.dts is None and not self._num_read:
            ticks = frame.pts
        else:
            ticks = frame.dts
        return None if ticks is None else int(ticks)


def _open(path: Path) -> Any:
    if not path.exists():
        raise DecodeError(f"{path}: no such file", path=str(path))
    if not path.is_file():
        raise DecodeError(f"{path}: not a regular file", path=str(path))
    if path.stat().st_size == 0:
        raise DecodeError(f"{path}: the file is empty", path=str(path))
    # "file:" keeps a name such as "a:b.mp4" from being read as an address.
    return av.open(f"file:{path}", metadata_errors="ignore", options=dict(_OPEN_OPTIONS))


def _pick_streams(container: Any) -> tuple[Any, Any]:
    """Returns the video and the audio stream that FFmpeg thinks best, None where there is none."""
    videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    best_video = container.streams.best("video")
    video = best_video if best_video in videos else next(iter(videos), None)
    audio = container.streams.best("audio") or next(iter(container.streams.audio), None)
    for stream in (video, audio):
        if stream is not None and stream.codec_context is not None:
            # One worker per core is faster than threads, and never hangs on closing a half-read file.
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
    return video, audio


def _describe(container: Any, video: Any, audio: Any) -> ClipInfo:
    rate = (video.average_rate or video.guessed_rate) if video is not None else None
    context = audio.codec_context if audio is not None else None
    return ClipInfo(
        container=container.format.name,
        has_video_stream=video is not None,
        has_audio_stream=audio is not None,
        frame_rate=float(rate) if rate else None,
        video_duration_seconds=_declared_seconds(container, video),
        audio_duration_seconds=_declared_seconds(container, audio),
        audio_sample_rate=context.sample_rate if context is not None else None,
        audio_channels=context.channels if context is not None else None,
    )


def _declared_seconds(container: Any, stream: Any) -> float | None:
    if stream is None:
        return None
    if stream.duration:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration:
        seconds = container.duration / av.time_base
    else:
        return None
    return seconds if seconds > 0 else None


def _seek_points(start_seconds: float) -> list[float | None]:
    """Returns where to begin decoding, best first: indexes of files in the wild may point too late."""
    earlier = [seconds for seconds in (start_seconds, start_seconds - 3.0) if seconds > 0]
    return [*earlier, None]


def _decode(packet: Any) -> tuple[list[Any], bool]:
    """Returns the frames that a packet gives, and whether it is damaged."""
    if packet.stream.codec_context is None:
        raise ValueError(f"no decoder for its {packet.stream.type} stream")
    try:
        return packet.decode(), False
    except av.error.MemoryError:
        raise
    except av.error.FFmpegError:
        # Decoders tell damage in many ways (invalid data, not permitted, patch welcome).
        packet.stream.codec_context.flush_buffers()
        return [], True


def _quarter_turns(frame: VideoFrame) -> int:
    """Returns how often the frame is to be turned left by 90 degrees before it is shown."""
    return round(frame.rotation / 90) % 4


def _mono(frame: AudioFrame) -> Waveform:
    """Returns the mean of the channels, float32 (N,); a damaged float stream may hold what is no number."""
    samples: NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    full_scale = _FULL_SCALE.get(samples.dtype.str[1:])
    # One channel after the other: numpy's mean over a short first axis takes three times as long.
    mixed = samples[0].astype(np.float64)
    for channel in samples[1:]:
        mixed += channel
    mixed /= len(samples)
    if full_scale is not None:
        offset = 128.0 if samples.dtype == np.uint8 else 0.0
        mixed = (mixed - offset) / full_scale
    waveform: Waveform = mixed.astype(np.float32)
    return waveform


def _finite(waveform: Waveform) -> Waveform:
    """Returns the waveform with zeros in place of what is no number."""
    np.nan_to_num(waveform, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return waveform


def _place(buffer: Waveform, position: int, waveform: Waveform) -> None:
    """Writes the part of a waveform that falls inside the buffer."""
    first, last = max(0, position), min(len(buffer), position + len(waveform))
    if first < last:
        buffer[first:last] = waveform[first - position : last - position]


def _resampled(waveform: Waveform, rate: int, wanted_rate: int) -> Waveform:
    if rate == wanted_rate:
        return waveform
    frame = AudioFrame.from_ndarray(waveform[np.newaxis], format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = AudioResampler(format="fltp", layout="mono", rate=wanted_rate)
    pieces = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces])


def _of_length(waveform: Waveform, num_samples: int) -> Waveform:
    result = np.zeros(num_samples, dtype=np.float32)
    _place(result, 0, waveform[:num_samples])
    return result


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
