"""Reading a clip by its packet table: the bytes of the packets that are needed, and no demuxer.

Frames and sound are those of ``ClipReader``, bit for bit: of every group of pictures only what leads to a wanted one
is decoded, and pictures that nothing refers to and nobody wants are left out. Whatever does not come out as the table
says is an error, never another picture in silence.

Axes: T wanted times.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Self

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from k700_text.config import AudioConfig
from k700_text.errors import DecodeError
from k700_text.media import log_mel
from k700_text.media.clip import DEFAULT_LIMITS, Cut, DecodeLimits, FrameArray, Waveform
from k700_text.media.decode.bare import Piece, decode_aac, decode_h264
from k700_text.media.decode.pictures import FrameCutter
from k700_text.media.decode.sound import PREROLL_SECONDS, Stretch
from k700_text.media.levels import Sound
from k700_text.media.packets import ClipPackets, PacketTable

ReadBytes = Callable[[int, int], bytes]
"""Returns the bytes at an offset, as many as asked for; fewer only where the file ends."""

# What lies between two packets (sound, pictures left out) is read over when it is less than a disk's read-ahead.
_MAX_GAP_BYTES = 128 * 1024
_MAX_RUN_BYTES = 32 * 1024 * 1024
_BEFORE_ALL = -(2**63)


class PacketReader:
    """One clip that is read by its packet table.

    Args:
        name: of the clip, for messages.
        packets: its packets; their offsets are what ``read`` takes.
        read: reads bytes; called once for packets that lie close together.
        limits: what a read may cost.
    """

    frame_grid_seconds: float | None = None

    def __init__(
        self, name: str, packets: ClipPackets, read: ReadBytes, *, limits: DecodeLimits = DEFAULT_LIMITS
    ) -> None:
        self.name = name
        self._packets = packets
        self._read = read
        self._limits = limits

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Does nothing: who gave ``read`` closes what it reads."""

    @property
    def has_video(self) -> bool:
        """There is a video stream."""
        return self._packets.video is not None

    @property
    def has_audio(self) -> bool:
        """There is an audio stream."""
        return self._packets.audio is not None

    @property
    def video_end_seconds(self) -> float | None:
        """Clip time at which the video ends, as its packets tell."""
        return None if self._packets.video is None else self._packets.video.end_seconds

    def video_seconds(self) -> float:
        """Returns the length of the video as ``ClipReader`` does: as declared, or as its packets tell."""
        table = self._packets.video
        if table is None:
            return 0.0
        return table.end_seconds if table.declared_seconds is None else table.declared_seconds

    def audio_seconds(self) -> float | None:
        """Returns the length of the audio as declared, None if nothing is."""
        return None if self._packets.audio is None else self._packets.audio.declared_seconds

    def read_cut(self, start_seconds: float, num_frames: int, frame_rate: float, cut: Cut) -> FrameArray:
        """Returns the frames shown at ``start_seconds + k / frame_rate``, cut: uint8 (T, *cut.shape).

        Raises:
            DecodeError: there is no video, it is not what its table says, or a limit is exceeded.
            ValueError: an argument is out of range.
        """
        if not (math.isfinite(start_seconds) and num_frames >= 1 and frame_rate > 0):
            raise ValueError(f"bad window: {start_seconds=} {num_frames=} {frame_rate=}")
        table = self._packets.video
        if table is None:
            raise self._error("no video stream")
        if table.num_pixels > self._limits.max_pixels:
            raise self._error(f"frames of {table.width}x{table.height} pixels are above the limit")
        selection = table.select([start_seconds + index / frame_rate for index in range(num_frames)])
        all_pts = table.pts.tolist()
        places = _places([all_pts[packet] for packet in selection.shown])
        cutter = FrameCutter(cut, num_frames, limits=self._limits, name=self.name, pixel_aspect=table.pixel_aspect)
        with self._translated():
            for pts, frame in self._pictures(table, selection.packets):
                place = places.pop(pts, None)
                if place is not None:
                    cutter.put(*place, frame, table.orientation)
            if places:
                raise self._error("a picture that its packet table has does not decode")
            return cutter.frames()

    def read_log_mel(self, start_seconds: float | None, config: AudioConfig) -> tuple[NDArray[np.float32], float]:
        """Returns a log-mel spectrogram, float32 (M, F), and the level of its audio (RMS); see ``OpenClip``."""
        return log_mel.read_log_mel(self, start_seconds, config)

    def read_audio(self, start_seconds: float, duration_seconds: float, sample_rate: int) -> Waveform:
        """Returns a stretch of audio as ``ClipReader.read_audio`` does.

        Raises:
            DecodeError: there is no audio, it is not what its table says, or a limit is exceeded.
            ValueError: an argument is out of range.
        """
        return self.read_sound(start_seconds, duration_seconds, sample_rate).waveform

    def read_sound(self, start_seconds: float, duration_seconds: float, sample_rate: int) -> Sound:
        """Returns a stretch of audio as ``ClipReader.read_sound`` does; errors as in ``read_audio``."""
        if not (math.isfinite(start_seconds) and duration_seconds > 0 and sample_rate > 0):
            raise ValueError(f"bad stretch: {start_seconds=} {duration_seconds=} {sample_rate=}")
        table = self._packets.audio
        if table is None:
            raise self._error("no audio stream")
        if duration_seconds > self._limits.max_audio_seconds:
            raise self._error(f"{duration_seconds:.0f} s of audio is above the limit")
        stretch = Stretch(start_seconds, duration_seconds)
        begin = _packet_at(table, start_seconds - PREROLL_SECONDS, _seek_delay(table))
        end = _packet_at(table, start_seconds + duration_seconds + PREROLL_SECONDS) + 1
        with self._translated():
            for seconds, frame in self._sounds(table, range(begin, end)):
                if not stretch.put(seconds, frame):
                    break
            return stretch.sound(sample_rate)

    def _pictures(self, table: PacketTable, packets: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Yields pts and pictures of packets, checked: one of each, in order, whole, and of the right size."""
        size = table.width, table.height
        pieces = self._pieces(table, packets)
        num_pictures, last_pts = 0, _BEFORE_ALL
        for frame in decode_h264(pieces, table.extradata, colour=table.colour, num_pixels=table.num_pixels):
            pts = frame.pts
            if pts is None or pts <= last_pts:
                raise self._error("its pictures are not in the order that its packet table says")
            if frame.is_corrupt or (frame.width, frame.height) != size:
                raise self._error(f"a picture is damaged, or not of {table.width}x{table.height} pixels")
            num_pictures, last_pts = num_pictures + 1, pts
            yield pts, frame
        if num_pictures != len(packets):
            raise self._error(f"{num_pictures} pictures decode of {len(packets)} packets")

    def _sounds(self, table: PacketTable, packets: Sequence[int]) -> Iterator[tuple[float, AudioFrame]]:
        """Yields what packets sound like and the clip time at which it begins; without what is not to be heard."""
        seconds_at = dict(zip(table.pts.tolist(), table.seconds.tolist(), strict=True))
        last_pts = _BEFORE_ALL
        # A packet may hold no sound: the first one often has but the encoder's name.
        for frame in decode_aac(self._pieces(table, packets), table.extradata):
            pts = frame.pts
            if frame.sample_rate != table.sample_rate:
                raise self._error("its audio is not of the sample rate that its packet table says")
            if pts is None or pts not in seconds_at or pts <= last_pts:
                raise self._error("its sound is not in the order that its packet table says")
            last_pts = pts
            num_silent = 0
            if table.heard_from is not None and pts < table.heard_from:
                num_silent = round((table.heard_from - pts) * table.time_base * table.sample_rate)
            if num_silent < frame.samples:
                yield seconds_at[pts] + num_silent / table.sample_rate, _without_first(frame, num_silent)

    def _pieces(self, table: PacketTable, packets: Sequence[int]) -> Iterator[Piece]:
        """Yields packets with their bytes, read in as few pieces as is sensible."""
        if len(packets) > self._limits.max_frames:
            raise self._error(f"{len(packets)} packets for one window are above the limit")
        deadline = time.monotonic() + self._limits.max_seconds
        columns = table.offsets.tolist(), table.sizes.tolist(), table.pts.tolist()
        begins, sizes, all_pts = ([column[packet] for packet in packets] for column in columns)
        for first, last in _runs(begins, sizes):
            origin = begins[first]
            size = begins[last - 1] + sizes[last - 1] - origin
            data = memoryview(self._read(origin, size))
            if len(data) != size:
                raise self._error(f"it ends before byte {origin + size}, where its packet table still has packets")
            for index in range(first, last):
                begin = begins[index] - origin
                yield all_pts[index], data[begin : begin + sizes[index]]
                if time.monotonic() > deadline:
                    raise self._error("takes too long to decode, given up")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DecodeError:
            raise
        except (av.error.FFmpegError, OSError, ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
            text = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
            raise self._error(f"not what its packet table says, or damaged: {text}") from error

    def _error(self, text: str) -> DecodeError:
        return DecodeError(f"{self.name}: {text}", path=self.name)


def _packet_at(table: PacketTable, seconds: float, delay: int = 0) -> int:
    """Returns the last packet of audio that does not begin after a clip time; the first where all do."""
    tick = math.floor(table.origin + Fraction(seconds) / table.time_base) - delay
    return max(0, int(np.searchsorted(table.pts, tick, side="right")) - 1)


def _seek_delay(table: PacketTable) -> int:
    """Returns by how many ticks FFmpeg seeks too early.

    It takes the first packet that is heard as a whole for the beginning. Decoding has to begin with the very packet
    that it goes to: the noise that AAC fills bands with depends on it.
    """
    is_whole = table.pts >= 0
    return 0 if table.heard_from is None or not is_whole.any() else int(table.pts[is_whole.argmax()])


def _without_first(frame: AudioFrame, num_samples: int) -> AudioFrame:
    if num_samples == 0:
        return frame
    samples = np.ascontiguousarray(frame.to_ndarray()[:, num_samples:], dtype=np.float32)
    rest = AudioFrame.from_ndarray(samples, format=frame.format.name, layout=frame.layout.name)
    rest.sample_rate = frame.sample_rate
    return rest


def _places(shown_pts: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Returns first position and number of positions of every picture that is shown; times never go back."""
    places: dict[int, tuple[int, int]] = {}
    for position, pts in enumerate(shown_pts):
        first, count = places.get(pts, (position, 0))
        places[pts] = (first, count + 1)
    return places


def _runs(begins: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields first and last packet (exclusive) of those that are read at once: forward, with small gaps only."""
    first, end = 0, begins[0]
    for index, (begin, size) in enumerate(zip(begins, sizes, strict=True)):
        if not end <= begin <= end + _MAX_GAP_BYTES or begin + size - begins[first] > _MAX_RUN_BYTES:
            if index > first:
                yield first, index
            first = index
        end = begin + size
    yield first, len(begins)
