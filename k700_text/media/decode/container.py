"""One open media file: its streams, where their time begins, and their frames in the order they are shown.

What a file says of itself is taken for a hint; what reading it may cost has bounds. FFmpeg's log is left alone: a log
callback from Python dead-locks when a half-read file is closed while a decoder's thread writes to the log.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import av
from av.format import Flags
from av.stream import Disposition

from k700_text.errors import DecodeError
from k700_text.media.clip import ClipInfo, DecodeLimits
from k700_text.media.decode.clock import TimeSource
from k700_text.media.decode.joints import has_second_header
from k700_text.media.decode.shape import pixel_aspect_of
from k700_text.media.decode.strangers import what_stands_there
from k700_text.media.decode.timeline import Shifter, Timeline

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
# Formats that list all packets of a stream at one place, where its times cannot jump unseen.
_FORMATS_WITH_TABLES = frozenset({"avi", "mov,mp4,m4a,3gp,3g2,mj2"})
# Formats that hold one length, which FFmpeg gives to every stream.
_FORMATS_OF_ONE_LENGTH = frozenset({"asf", "wtv"})
# Formats that leave the shape of pixels to the pictures, which may change it midway.
_FORMATS_WITHOUT_SHAPES = frozenset({"h264", "hevc", "m4v", "mpeg", "mpegts", "mpegvideo"})
# Lengths that differ less are one: files round theirs, and encoders of sound pad.
_SAME_LENGTH_SECONDS = 0.1
# A file that takes longer to look through is taken at its word.
_MAX_SURVEY_SECONDS = 10.0
_MAX_TICKS = 2**62
_AV_TIME_BASE = Fraction(1, av.time_base)


class Budget:
    """What one read may still cost.

    Time that the caller spends between two frames does not count.
    """

    def __init__(self, limits: DecodeLimits, name: str) -> None:
        self._frames = limits.max_frames
        self._seconds = limits.max_seconds
        self._name = name

    def spend(self, num_frames: int, seconds: float) -> None:
        """Raises DecodeError once it is used up."""
        self._frames -= num_frames
        self._seconds -= seconds
        if self._frames < 0 or self._seconds < 0:
            raise DecodeError(f"{self._name}: takes too long to decode, given up", path=self._name)


class MediaFile:
    """One open media file.

    Attributes:
        path: the file.
        video: the video stream, None without one; cover art is none.
        audio: the audio stream, None without one.
        video_times: what tells when frames of the video are shown.
        origin: the container's time at which clip time is zero, seconds.
        video_origin: the same as the times of frames have it; later where these are decoding times.
        pixel_aspect: width of a pixel of the video for its height.
        num_damaged_video: video packets that did not decode so far.
        num_damaged_audio: audio packets that did not decode so far.

    Raises:
        DecodeError: the file is missing, not a regular file, or holds neither video nor audio that FFmpeg knows, or
            pictures above the limit.
    """

    def __init__(self, path: Path, limits: DecodeLimits) -> None:
        self.path = path
        self.num_damaged_video = 0
        self.num_damaged_audio = 0
        self._limits = limits
        self._is_fresh = True
        self._is_closed = False
        self._is_midway = False
        self._pass = 0
        self._container = self._open()
        try:
            self.video, self.audio = self._pick_streams()
            if self.video is None and self.audio is None:
                raise self.error(what_stands_there(path) or "holds no video and no audio")
            self.pixel_aspect = 1.0 if self.video is None else pixel_aspect_of(self.video)
            self._has_table = self._container.format.name in _FORMATS_WITH_TABLES and not self._is_in_fragments()
            self._can_leap = bool(self._container.format.flags & Flags.ts_discont.value)
            self._timeline = self._lengths = None if self._has_table else self._surveyed()
            self.origin = self._start()
            # One of the other streams may begin earlier.
            self._begin = min(self.origin, Fraction(self._container.start_time or 0) * _AV_TIME_BASE)
            self.info = self._describe()
            self.video_times = self._time_source()
            uses_dts = self.video_times is TimeSource.DTS and self.video is not None
            self.video_origin = self._first_dts() if uses_dts else self.origin
        except BaseException:
            self._container.close()
            raise

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        self._is_closed = True
        self._pass += 1
        self._container.close()

    def pixel_aspect_now(self) -> float:
        """Returns the width of a pixel for its height as the pictures say it that were decoded last."""
        context = self.video.codec_context
        if self._container.format.name in _FORMATS_WITHOUT_SHAPES and context.sample_aspect_ratio:
            return pixel_aspect_of(context)
        return self.pixel_aspect

    def error(self, text: str) -> DecodeError:
        """Returns an error that names the file."""
        return DecodeError(f"{self.path}: {text}", path=str(self.path))

    def rewind(self) -> None:
        """Goes to the very first packet of the file, of whatever stream; slower than going to that of one stream."""
        if self._is_closed:
            raise self.error("is closed")
        self._pass += 1
        self._is_midway = False
        if not self._is_fresh:
            self._reopen()

    def seek(self, point: float | None, stream: Any) -> bool:
        """Goes to the last key frame of a stream before ``point`` (clip time); returns whether it could.

        None is the start of the file, which can always be gone to.
        """
        if self._is_closed:
            raise self.error("is closed")
        self._pass += 1
        self._is_midway = False
        if point is None and self._is_fresh:
            return True
        if (self._timeline is not None and self._timeline.jumps) or self._is_joined:
            # Only from its first packet on is it known by how much each of them is late; and after a seek FFmpeg
            # stops where one file ends and the next begins.
            if point is None:
                self.rewind()
            return point is None
        # Rewinding has to go before the first packet: audio begins with one whose samples are thrown away.
        instants = [self._begin - 1, self._begin] if point is None else [self.origin + Fraction(point)]
        for instant in instants:
            ticks = math.floor(instant / stream.time_base)
            with suppress(av.error.FFmpegError):
                self._container.seek(max(-_MAX_TICKS, min(ticks, _MAX_TICKS)), stream=stream, backward=True)
                self._is_midway = point is not None
                return True
        if point is None:
            self.rewind()
        return point is None

    def decoded(self, *streams: Any, budget: Budget) -> Iterator[Any]:
        """Yields the decoded frames of the streams; None among them is skipped.

        After a damaged video packet it goes on with the next key frame: what lies between refers to a picture that is
        not there.

        Raises:
            DecodeError: the budget is used up, or the file was closed or read elsewhere in between.
        """
        self._is_fresh = False
        self._pass += 1
        current = self._pass
        is_lost = False
        began = time.monotonic()
        wanted = [stream for stream in streams if stream is not None]
        shifter = Shifter(self._timeline) if self._timeline is not None and self._timeline.jumps else None
        lost = {stream.index for stream in wanted} if self._is_midway and self._timeline is not None else set()
        for packet in self._packets(wanted, budget):
            if shifter is not None:
                shifter.move(packet)
            if lost and packet.size and packet.stream.index in lost:
                # Where packets are told apart by their content, the first ones are cut, and get each other's times.
                if self._timeline is not None and not self._timeline.knows(packet):
                    continue
                lost.discard(packet.stream.index)
            is_video = packet.stream.type == "video"
            if is_video and is_lost and not packet.is_keyframe and packet.size:
                continue
            frames, is_damaged = _decode(packet)
            self.num_damaged_video += is_damaged and is_video
            self.num_damaged_audio += is_damaged and not is_video
            is_lost = is_damaged if is_video else is_lost
            budget.spend(len(frames), time.monotonic() - began)
            yield from frames
            if current != self._pass:
                raise self.error("was closed or read elsewhere before this reading of it ended")
            began = time.monotonic()

    def seconds_of(self, stream: Any) -> float | None:
        """Returns the clip time at which a stream ends: as declared if its packets agree, None if nothing tells.

        What is declared for the file as a whole is that of its longest stream, and headers may say anything.
        """
        index = stream.index  # looking through the file may open it anew
        hint = _declared_seconds(stream) or self._declared_end()
        is_listed = self._has_table and not self._is_joined
        if hint is not None and is_listed and _is_confirmed(stream, hint, self.path.stat().st_size):
            late = float(Fraction(stream.start_time or 0) * Fraction(stream.time_base) - self.origin)
            return hint + late if abs(late) > _SAME_LENGTH_SECONDS else hint
        if self._lengths is None:
            # For lengths alone: what is shown when must not depend on what was asked before.
            self._lengths = self._surveyed()
        if self._lengths is None:
            return hint
        seconds = max(0.0, self._lengths.tracks[index].end_seconds - float(self.origin))
        return hint if hint is not None and abs(hint - seconds) <= _SAME_LENGTH_SECONDS else seconds

    def packets(self, *streams: Any) -> Iterator[Any]:
        """Yields the packets of the streams as they lie in the file, which nothing was read of yet.

        Raises:
            av.error.FFmpegError: the file is damaged.
        """
        self._is_fresh = False
        self._pass += 1
        yield from self._container.demux(*streams)

    @cached_property
    def _is_joined(self) -> bool:
        return has_second_header(self.path, self._container.format.name)

    def _is_in_fragments(self) -> bool:
        """Returns whether the table of an MP4 is empty: its packets are listed bit by bit between them."""
        first = self.video if self.video is not None else self.audio
        return self._container.format.name != "avi" and not first.frames

    def _open(self) -> Any:
        path = self.path
        if not path.exists():
            raise self.error("no such file")
        if not path.is_file():
            raise self.error("not a regular file")
        if path.stat().st_size == 0:
            raise self.error("the file is empty")
        # "file:" keeps a name such as "a:b.mp4" from being read as an address. FFmpeg decodes a little to know what
        # the file holds: the limit of pixels has to be told here.
        options = {**_OPEN_OPTIONS, "max_pixels": str(self._limits.max_pixels)}
        timeout = max(0.001, self._limits.max_seconds)
        try:
            return av.open(f"file:{path}", metadata_errors="ignore", options=options, timeout=timeout)
        except av.error.EOFError as error:
            raise self.error(what_stands_there(path) or "holds no video and no audio") from error
        except av.error.InvalidDataError as error:
            text = what_stands_there(path) or "is no media file that FFmpeg knows, or is damaged where it begins"
            raise self.error(text) from error
        except av.error.ArgumentError as error:
            text = what_stands_there(path) or "is an image, a playlist or another format that clips do not have"
            raise self.error(text) from error

    def _reopen(self) -> None:
        self._container.close()
        self._container = self._open()
        self.video, self.audio = self._pick_streams()
        self._is_fresh = True

    def _pick_streams(self) -> tuple[Any, Any]:
        """Returns the video and the audio stream that FFmpeg thinks best, None where there is none."""
        streams = self._container.streams
        videos = [stream for stream in streams.video if not stream.disposition & Disposition.attached_pic]
        best_video = streams.best("video")
        video = best_video if best_video in videos else next(iter(videos), None)
        audio = streams.best("audio") or next(iter(streams.audio), None)
        for stream in (video, audio):
            if stream is not None and stream.codec_context is not None:
                # One worker per core is faster than threads, and never hangs on closing a half-read file.
                stream.thread_type = "NONE"
                stream.codec_context.thread_count = 1
        if video is not None and video.codec_context is not None:
            context = video.codec_context
            if context.width * context.height > self._limits.max_pixels:
                raise self.error(f"frames of {context.width}x{context.height} pixels are above the limit")
            # A stream may grow midway: this makes the decoder refuse before it takes the memory.
            context.options = {"max_pixels": str(self._limits.max_pixels)}
        return video, audio

    def _start(self) -> Fraction:
        """Returns the container's time at which the stream that the clip's time starts with does."""
        first = self.video if self.video is not None else self.audio
        if first.start_time is not None:
            return Fraction(first.start_time) * Fraction(first.time_base)
        track = self._timeline.tracks[first.index] if self._timeline is not None else None
        return Fraction(track.start_seconds or 0).limit_denominator(10**6) if track is not None else Fraction(0)

    def _time_source(self) -> TimeSource:
        if self._container.format.name in _FORMATS_WITHOUT_PTS:
            return TimeSource.DTS
        track = (
            self._timeline.tracks[self.video.index] if self._timeline is not None and self.video is not None else None
        )
        is_patchy = track is not None and 0 < track.num_untimed < track.num_packets
        return TimeSource.SOME_PTS if is_patchy else TimeSource.PTS

    def _surveyed(self) -> Timeline | None:
        """Returns the times of all packets; None if there are too many of them."""
        self.rewind()
        streams = [stream for stream in (self.video, self.audio) if stream is not None]
        self._is_fresh = False
        self._pass += 1
        steps = [1 / (_frame_rate(stream) or 25.0) if stream is self.video else 0.0 for stream in streams]
        timeline = Timeline(zip(streams, steps, strict=True), can_leap=self._can_leap)
        budget = Budget(self._limits, str(self.path))
        deadline = time.monotonic() + min(_MAX_SURVEY_SECONDS, self._limits.max_seconds)
        for packet in self._packets(streams, budget):
            timeline.add(packet)
            if time.monotonic() > deadline:
                return None
        return timeline

    def _describe(self) -> ClipInfo:
        video, audio = self.video, self.audio
        context = audio.codec_context if audio is not None else None
        # Where clocks may leap, nothing is declared: FFmpeg takes the first and the last time for it.
        declared = [None if self._can_leap else _declared_seconds(stream) for stream in (video, audio)]
        return ClipInfo(
            container=self._container.format.name,
            has_video_stream=video is not None,
            has_audio_stream=audio is not None,
            frame_rate=_frame_rate(video) if video is not None else None,
            video_duration_seconds=declared[0],
            audio_duration_seconds=declared[1],
            file_end_seconds=None if self._can_leap else self._declared_end(),
            audio_sample_rate=context.sample_rate if context is not None else None,
            audio_channels=context.channels if context is not None else None,
        )

    def _declared_end(self) -> float | None:
        """Returns the clip time at which the file as a whole ends, as declared."""
        ticks = self._container.duration
        if ticks is None or ticks <= 0:
            return None
        end = Fraction(ticks + (self._container.start_time or 0)) * _AV_TIME_BASE
        if self._container.format.name in _FORMATS_OF_ONE_LENGTH:
            # FFmpeg added it to where the latest stream begins.
            streams = [stream for stream in (self.video, self.audio) if stream is not None and stream.duration]
            end = min([end, *(Fraction(stream.duration) * Fraction(stream.time_base) for stream in streams)])
        seconds = float(end - self.origin)
        return seconds if seconds > 0 else None

    def _first_dts(self) -> Fraction:
        """Returns the decoding time that the first frame comes out at: pictures out of order come out late."""
        for frame in self.decoded(self.video, budget=Budget(self._limits, str(self.path))):
            ticks = frame.dts if frame.dts is not None else frame.pts
            return Fraction(ticks or 0) * Fraction(self.video.time_base)
        return self.origin

    def _packets(self, streams: list[Any], budget: Budget) -> Iterator[Any]:
        while True:
            began = time.monotonic()
            try:
                yield from self._container.demux(streams)
                return
            except av.error.BlockingIOError:
                # Transport streams lose their place in damage, and find it again if one goes on.
                budget.spend(1, time.monotonic() - began)
            except IndexError:
                # At the end, PyAV asks for streams that FFmpeg found on the way and it does not know, after all others.
                return
            except (av.error.InvalidDataError, av.error.EOFError):
                # A truncated tail: hand out what the decoders still hold.
                for stream in streams:
                    packet = av.Packet()
                    packet.stream = stream
                    yield packet
                return


def _frame_rate(video: Any) -> float | None:
    rate = video.average_rate or video.guessed_rate
    return float(rate) if rate else None


def _declared_seconds(stream: Any) -> float | None:
    """Returns the length that a file declares for a stream; of AVI, whose headers are guesses, that of its index."""
    if stream is None or stream.container.format.name in _FORMATS_OF_ONE_LENGTH:
        return None
    duration: int | None = stream.duration
    seconds = float(duration * stream.time_base) if duration is not None and duration > 0 else None
    if stream.container.format.name == "avi" and len(stream.index_entries) > 1:
        listed = _table_seconds(stream)
        return seconds if seconds is not None and abs(seconds - listed) <= _SAME_LENGTH_SECONDS else listed
    return seconds


def _is_confirmed(stream: Any, declared_seconds: float, file_bytes: int) -> bool:
    """Returns whether the table of a stream's packets says that it is as long as declared, and is all there."""
    entries = stream.index_entries
    if len(entries) < 2 or entries[-1].pos + entries[-1].size > file_bytes:
        return False
    return abs(_table_seconds(stream) - declared_seconds) <= _SAME_LENGTH_SECONDS


def _table_seconds(stream: Any) -> float:
    """Returns the length of a stream by the table of its packets, of which it needs two."""
    entries = stream.index_entries
    first, last = int(entries[0].timestamp), int(entries[-1].timestamp)
    tick: float = stream.time_base.numerator / stream.time_base.denominator
    if stream.type == "video":
        # These are times of decoding, which begin as much too early as they end.
        return (last - first) * tick + 1 / (_frame_rate(stream) or 25.0)
    return (last - int(stream.start_time or 0) + (last - first) / (len(entries) - 1)) * tick


def _decode(packet: Any) -> tuple[list[Any], bool]:
    """Returns the frames that a packet gives, and whether it is damaged."""
    context = packet.stream.codec_context
    if context is None:
        raise ValueError(f"no decoder for its {packet.stream.type} stream")
    try:
        return packet.decode(), False
    except av.error.MemoryError:
        raise
    except av.error.FFmpegError:
        # Decoders tell damage in many ways (invalid data, not permitted, patch welcome). What they still hold came
        # before it.
        frames: list[Any] = []
        with suppress(av.error.FFmpegError):
            frames = [frame for frame in context.decode(None) if not frame.is_corrupt]
        context.flush_buffers()
        return frames, True
