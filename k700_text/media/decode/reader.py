"""Reading clip files of any kind, by demuxing and decoding them.

A clip's time starts where its video stream starts (its audio stream where it has no video), whatever the container
counts from. Frames are chosen by the time they are shown at, never by their index: files in the wild have uneven
timestamps, wrong durations and frame rates that are not what they say.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from k700_text.config import AudioConfig
from k700_text.errors import DecodeError
from k700_text.media import log_mel
from k700_text.media.clip import (
    DEFAULT_LIMITS,
    AudioBlock,
    ClipInfo,
    Cut,
    DecodeLimits,
    FrameArray,
    FrameMark,
    Waveform,
)
from k700_text.media.decode.clock import Clock, TimeSource
from k700_text.media.decode.colours import as_rgb
from k700_text.media.decode.container import Budget, MediaFile
from k700_text.media.decode.pictures import FrameCutter, FrameScaler, check_num_pixels, check_pixels
from k700_text.media.decode.shape import orientation_of, oriented, shown_size, square_size
from k700_text.media.decode.sound import PREROLL_SECONDS, Stretch, channels_of, cleaned, oddity_of
from k700_text.media.levels import Sound
from k700_text.media.packets import SAME_TIME_SECONDS

PutFrame = Callable[[int, int, VideoFrame, float], None]
"""Takes a frame for positions: the first of them, how many, the frame, width of its pixels for their height."""


class ClipReader:
    """One open clip file; a context manager.

    Attributes:
        path: the file.
        name: what messages call it.
        info: what the file declares.
        frame_grid_seconds: always None.
        video_end_seconds: clip time at which the video ends, measured; None until a read reached the end.
        odd_audio: why some of the audio that was met is none that can be read; None as long as there was none.

    Raises:
        DecodeError: the file is missing, not a regular file, holds neither video nor audio that FFmpeg knows, or
            declares pictures above the limit.
    """

    frame_grid_seconds: float | None = None

    def __init__(self, path: str | Path, *, limits: DecodeLimits = DEFAULT_LIMITS) -> None:
        self.path = Path(path)
        self.name = str(path)
        self.video_end_seconds: float | None = None
        self.odd_audio: str | None = None
        self._limits = limits
        with self._translated():
            self._file = MediaFile(self.path, limits)
        self.info: ClipInfo = self._file.info

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        self._file.close()

    @property
    def has_video(self) -> bool:
        """There is a video stream; cover art is none."""
        return self.info.has_video_stream

    @property
    def has_audio(self) -> bool:
        """There is an audio stream."""
        return self.info.has_audio_stream

    @property
    def num_damaged_video(self) -> int:
        """Video packets that did not decode so far."""
        return self._file.num_damaged_video

    @property
    def num_damaged_audio(self) -> int:
        """Audio packets that did not decode so far."""
        return self._file.num_damaged_audio

    @property
    def missing_video_seconds(self) -> float:
        """How much of the declared video is not there: the file was cut off, or says what is not so.

        0 until a read reached the end of the video, and where no length is declared.
        """
        end_seconds = self.video_end_seconds
        if end_seconds is None:
            return 0.0
        declared = self.info.video_duration_seconds
        if declared is None:
            # Of the file as a whole: if its sound goes on to the end, the video is as long as it is.
            declared = self.info.file_end_seconds or 0.0
            end_seconds = max(end_seconds, self.audio_seconds() or 0.0)
        return max(0.0, declared - end_seconds)

    def read_cut(self, start_seconds: float, num_frames: int, frame_rate: float, cut: Cut) -> FrameArray:
        """Returns the frames shown at ``start_seconds + k / frame_rate``, cut: uint8 (T, *cut.shape).

        Raises: as ``read_frames``.
        """
        wanted = _moments(start_seconds, num_frames, frame_rate)
        cutter = FrameCutter(cut, num_frames, limits=self._limits, name=self.name, pixel_aspect=self._file.pixel_aspect)

        def put(first: int, count: int, frame: VideoFrame, pixel_aspect: float) -> None:
            cutter.put(first, count, frame, orientation_of(frame), pixel_aspect)

        self._show(wanted, put)
        return cutter.frames()

    def read_frames(self, start_seconds: float, num_frames: int, frame_rate: float) -> FrameArray:
        """Returns the frames shown at ``start_seconds + k / frame_rate``, uint8 (T, H, W, 3), RGB, as it is shown.

        Rotation and mirroring are applied; of pixels that are not square the short side is stretched.

        The frame shown at a time is the last one whose timestamp is not after it (to a microsecond); before the first
        frame it is the first, past the end the last.

        Raises:
            DecodeError: there is no video stream, no frame of it decodes, or a limit is exceeded.
            ValueError: an argument is out of range.
        """
        pictures: list[FrameArray] = []
        reformatter = VideoReformatter()
        size: tuple[int, int] | None = None

        def put(first: int, count: int, frame: VideoFrame, pixel_aspect: float) -> None:
            nonlocal size
            check_pixels(frame, self._limits, self.name)
            if size is None:  # a stream may change its size midway
                size = square_size(frame.width, frame.height, pixel_aspect)
                check_num_pixels(*size, self._limits, self.name)
            picture = oriented(as_rgb(frame, reformatter, *size), orientation_of(frame))
            pictures.extend([picture] * count)

        self._show(_moments(start_seconds, num_frames, frame_rate), put)
        return np.stack(pictures)

    def resampled(self, frame_rate: float, short_side: int, *, max_seconds: float) -> Iterator[FrameArray]:
        """Yields the frames shown at ``k / frame_rate``, k = 0, 1, ... up to the end or ``max_seconds``.

        Each is uint8 (H * 3 / 2, W), I420 of BT.601 in limited range, whatever the file has, as it is shown. Its short
        side is scaled to ``short_side``, never up; height and width are even, and the same for all.

        Raises:
            DecodeError: there is no video stream, no frame of it decodes, or a limit is exceeded.
            ValueError: an argument is out of range.
        """
        if not (frame_rate > 0 and 0 < max_seconds < math.inf):
            raise ValueError(f"bad resampling: {frame_rate=} {max_seconds=}")
        scaler = FrameScaler(short_side, limits=self._limits, name=self.name, pixel_aspect=self._file.pixel_aspect)
        self._require(self.has_video, "video")
        return self._resampled(frame_rate, math.ceil(max_seconds * frame_rate), scaler)

    def read_audio(self, start_seconds: float, duration_seconds: float, sample_rate: int) -> Waveform:
        """Returns a stretch of audio as mono, float32 (N,), N = round(duration * rate), nominally in [-1, 1].

        Mono is the mean of the channels; where they cancel (opposite phase), it is the loudest of them. Samples stand
        where their timestamps put them in clip time; zeros stand where the stream has nothing.

        Raises:
            DecodeError: there is no audio stream, it does not decode, or a limit is exceeded.
            ValueError: an argument is out of range.
        """
        return self.read_sound(start_seconds, duration_seconds, sample_rate).waveform

    def read_sound(self, start_seconds: float, duration_seconds: float, sample_rate: int) -> Sound:
        """Returns a stretch of audio as ``read_audio`` does, and how loud its channels are.

        Raises: as ``read_audio``.
        """
        if not (math.isfinite(start_seconds) and duration_seconds > 0 and sample_rate > 0):
            raise ValueError(f"bad stretch: {start_seconds=} {duration_seconds=} {sample_rate=}")
        self._require(self.has_audio, "audio")
        if duration_seconds > self._limits.max_audio_seconds:
            raise self._file.error(f"{duration_seconds:.0f} s of audio is above the limit")
        budget = self._budget()
        with self._translated():
            for point in _seek_points(start_seconds - PREROLL_SECONDS):
                stretch = self._stretch(start_seconds, duration_seconds, point, budget)
                if stretch is not None:
                    return stretch.sound(sample_rate)
        raise self._file.error(self.odd_audio or "nothing of its audio stream decodes")

    def read_log_mel(self, start_seconds: float | None, config: AudioConfig) -> tuple[NDArray[np.float32], float]:
        """Returns a log-mel spectrogram, float32 (M, F), and the level of its audio (RMS); see ``OpenClip``."""
        return log_mel.read_log_mel(self, start_seconds, config)

    def video_seconds(self) -> float:
        """Returns the length of the video: as declared if its packets agree, else as they tell; 0 without one.

        Raises:
            DecodeError: a limit is exceeded.
        """
        if self.video_end_seconds is not None:
            return self.video_end_seconds
        if not self.has_video:
            return 0.0
        with self._translated():
            seconds = self._file.seconds_of(self._file.video)
            if seconds is not None:
                if self.info.video_duration_seconds is None and self.info.file_end_seconds is None:
                    self.video_end_seconds = seconds
                return seconds
            self._file.seek(None, self._file.video)
            clock = self._video_clock()
            end_seconds = 0.0
            for frame in self._file.decoded(self._file.video, budget=self._budget()):
                clock.read(frame)
                end_seconds = max(end_seconds, clock.end_seconds)
        self.video_end_seconds = end_seconds
        return end_seconds

    def audio_seconds(self) -> float | None:
        """Returns the clip time at which the audio ends: as declared if its packets agree, else as they tell."""
        if not self.has_audio:
            return None
        with self._translated():
            return self._file.seconds_of(self._file.audio)

    def scan(self) -> Iterator[FrameMark | AudioBlock]:
        """Yields every frame's times and all audio, in one pass over the file from its start.

        Raises:
            DecodeError: a limit is exceeded. Damaged packets are only counted.
        """
        with self._translated():
            self._file.rewind()
            video_clock, audio_clock = self._video_clock(), self._audio_clock()
            for frame in self._file.decoded(self._file.video, self._file.audio, budget=self._budget()):
                if isinstance(frame, VideoFrame):
                    seconds = video_clock.read(frame)
                    check_pixels(frame, self._limits, self.name)
                    size = shown_size(frame.width, frame.height, orientation_of(frame), self._file.pixel_aspect_now())
                    yield FrameMark(seconds, video_clock.duration_seconds, *size)
                else:
                    if self._is_odd(frame):
                        continue
                    seconds = audio_clock.read(frame)
                    audio_clock.step_seconds = frame.samples / frame.sample_rate
                    yield AudioBlock(seconds, cleaned(np.array(channels_of(frame), np.float32)), frame.sample_rate)

    def _show(self, wanted: list[float], put: PutFrame) -> None:
        """Hands over the frames shown at the wanted times, each once."""
        self._require(self.has_video, "video")
        budget = self._budget()
        with self._translated():
            if any(self._show_from(point, wanted, put, budget) for point in _seek_points(wanted[0])):
                return
        raise self._file.error("no frame of its video stream decodes")

    def _show_from(self, point: float | None, wanted: list[float], put: PutFrame, budget: Budget) -> bool:
        """Does the same, decoding from ``point``; returns False, before anything was handed over, if that is late."""
        if not self._file.seek(point, self._file.video):
            return False
        clock = self._video_clock()
        shown: VideoFrame | None = None
        pixel_aspect = 1.0
        num_put = 0
        for frame in self._file.decoded(self._file.video, budget=budget):
            if point is not None and shown is None and not clock.can_tell(frame):
                continue  # when it is shown depends on those before it
            seconds = clock.read(frame)
            if shown is None:
                if point is not None and seconds > wanted[0] + SAME_TIME_SECONDS:
                    return False
                shown, pixel_aspect = frame, self._file.pixel_aspect_now()
            num_before = bisect_left(wanted, seconds - SAME_TIME_SECONDS)
            if num_before > num_put:
                put(num_put, num_before - num_put, shown, pixel_aspect)
                num_put = num_before
            if num_put == len(wanted):
                return True
            if not clock.went_back:
                shown, pixel_aspect = frame, self._file.pixel_aspect_now()
        if shown is None:
            return False
        self.video_end_seconds = clock.end_seconds
        put(num_put, len(wanted) - num_put, shown, pixel_aspect)
        return True

    def _resampled(self, frame_rate: float, max_frames: int, scaler: FrameScaler) -> Iterator[FrameArray]:
        clock = self._video_clock()
        shown: VideoFrame | None = None
        num_shown = 0
        with self._translated():
            self._file.seek(None, self._file.video)
            for frame in self._file.decoded(self._file.video, budget=self._budget()):
                seconds = clock.read(frame)
                shown = shown or frame
                # Those of the frame before, up to where this one begins.
                picture: FrameArray | None = None
                while num_shown < max_frames and num_shown / frame_rate < seconds - SAME_TIME_SECONDS:
                    picture = scaler.picture(shown, orientation_of(shown)) if picture is None else picture
                    yield picture
                    num_shown += 1
                if num_shown == max_frames:
                    return
                if not clock.went_back:
                    shown = frame
            if shown is None:
                raise self._file.error("no frame of its video stream decodes")
            self.video_end_seconds = clock.end_seconds
            picture = scaler.picture(shown, orientation_of(shown))
            while num_shown == 0 or num_shown / frame_rate < clock.end_seconds - SAME_TIME_SECONDS:
                if num_shown == max_frames:
                    return
                yield picture
                num_shown += 1

    def _stretch(
        self, start_seconds: float, duration_seconds: float, point: float | None, budget: Budget
    ) -> Stretch | None:
        """Returns audio as it decodes, or None if decoding has to begin earlier than at ``point``."""
        if not self._file.seek(point, self._file.audio):
            return None
        clock = self._audio_clock()
        stretch: Stretch | None = None
        for frame in self._file.decoded(self._file.audio, budget=budget):
            if self._is_odd(frame):
                continue
            if point is not None and stretch is None and not clock.can_tell(frame):
                return None
            seconds = clock.read(frame)
            clock.step_seconds = frame.samples / frame.sample_rate
            if stretch is None:
                stretch = Stretch(start_seconds, duration_seconds)
                if point is not None and seconds > stretch.first_seconds:
                    return None
            if not stretch.put(seconds, frame):
                break
        return stretch

    def _is_odd(self, frame: AudioFrame) -> bool:
        """Returns whether a frame of audio is none that can be read, and notes it: the others may still be of use."""
        oddity = oddity_of(frame)
        if oddity is not None:
            self.odd_audio = oddity
            self._file.num_damaged_audio += 1
        return oddity is not None

    def _video_clock(self) -> Clock:
        file = self._file
        return Clock(file.video, file.video_times, file.video_origin, 1 / (self.info.frame_rate or 25.0))

    def _audio_clock(self) -> Clock:
        return Clock(self._file.audio, TimeSource.PTS, self._file.origin, 0.0)

    def _budget(self) -> Budget:
        return Budget(self._limits, self.name)

    def _require(self, is_there: bool, kind: str) -> None:
        if not is_there:
            raise self._file.error(f"no {kind} stream")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns every foreign failure into a DecodeError of one line: the only place that does."""
        try:
            yield
        except (av.error.FFmpegError, OSError, ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
            raise DecodeError(f"{self.path}: {_reason(error)}", path=str(self.path)) from error


def _moments(start_seconds: float, num_frames: int, frame_rate: float) -> list[float]:
    if not (math.isfinite(start_seconds) and num_frames >= 1 and frame_rate > 0):
        raise ValueError(f"bad window: {start_seconds=} {num_frames=} {frame_rate=}")
    return [start_seconds + index / frame_rate for index in range(num_frames)]


def _seek_points(start_seconds: float) -> list[float | None]:
    """Returns where to begin decoding, best first: indexes of files in the wild may point too late."""
    earlier = [seconds for seconds in (start_seconds, start_seconds - 3.0) if seconds > 0]
    return [*earlier, None]


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, av.error.ExitError):
        return "takes too long to read, given up"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
