"""Making packet tables: one pass over a file that decodes next to nothing, and a check of what was made.

Only clips of the usual kind get one (H.264 of eight bits in MP4 that can be decoded from every key picture on, with
AAC or no sound); the others are told by their reason, and are read plainly.
"""

from __future__ import annotations

import os
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from k700_text.errors import DecodeError
from k700_text.media.clip import DEFAULT_LIMITS, Cut, DecodeLimits, OpenClip, PixelFormat
from k700_text.media.decode.bare import decode_aac, decode_h264
from k700_text.media.decode.container import MediaFile
from k700_text.media.decode.h264 import DecoderConfiguration, picture_kind
from k700_text.media.decode.indexed import PacketReader
from k700_text.media.decode.reader import ClipReader
from k700_text.media.decode.shape import orientation_of
from k700_text.media.packets import DROPPABLE, KEY, ClipPackets, PacketTable

_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
_EIGHT_BIT_420 = frozenset({"yuv420p", "yuvj420p"})
_AAC_LC = 2
_AAC_FRAME_SAMPLES = 1024
# Numbers up to here are exact as float64: times are then the same however they are computed.
_MAX_EXACT = 2**53
_NUM_TRIED_PACKETS = 3
_NUM_CHECKED_WINDOWS = 3
_AUDIO_TOLERANCE = 1e-5


class _Refused(Exception):  # noqa: N818 - no failure: says why a clip is read plainly
    pass


def packets_of(path: str | Path, *, limits: DecodeLimits = DEFAULT_LIMITS) -> ClipPackets | str:
    """Returns where the packets of a clip lie, or in one line why it has to be read plainly.

    Args:
        path: the file.
        limits: what the pass over it may cost.
    """
    try:
        media = MediaFile(Path(path), limits)
        try:
            with Path(path).open("rb") as file:
                return _tables(media, file.fileno(), limits)
        finally:
            media.close()
    except _Refused as refusal:
        return str(refusal)
    except (
        DecodeError,
        av.error.FFmpegError,
        OSError,
        ValueError,
        ArithmeticError,
        MemoryError,
        RuntimeError,
    ) as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return " ".join(str(text).removeprefix(f"{path}: ").split())


def check_packets(path: str | Path, packets: ClipPackets, *, seed: int) -> str | None:
    """Returns what reading by packets gives otherwise than reading plainly, None if it gives the same.

    Random windows are compared bit by bit, and a stretch of audio to 1e-5.

    Args:
        path: the file.
        packets: what ``packets_of`` gave for it.
        seed: of the choice of windows.
    """
    rng = np.random.default_rng(seed)
    try:
        with Path(path).open("rb") as file, ClipReader(path) as plain:
            indexed = PacketReader(str(path), packets, lambda at, size: os.pread(file.fileno(), size, at))
            if (plain.has_video, plain.has_audio) != (indexed.has_video, indexed.has_audio):
                return "it has other streams"
            return _different_video(plain, indexed, packets, rng) or _different_audio(plain, indexed, rng)
    except (DecodeError, OSError) as error:
        return str(error)


def _different_video(plain: OpenClip, indexed: OpenClip, packets: ClipPackets, rng: np.random.Generator) -> str | None:
    if packets.video is None:
        return None
    short_side = min(packets.video.width, packets.video.height)
    for _ in range(_NUM_CHECKED_WINDOWS):
        start = float(rng.uniform(-0.2, max(plain.video_seconds() - 1.0, 0.0)))
        frame_rate = float(rng.choice([5.0, 10.0, 25.0, 60.0]))
        # Not scaled: every pixel of the square is compared.
        cut = Cut(
            size=max(2, short_side - short_side % 2),
            share=1.0,
            along_long_side=float(rng.random()),
            pixel_format=PixelFormat.YUV420P,
        )
        if not np.array_equal(plain.read_cut(start, 16, frame_rate, cut), indexed.read_cut(start, 16, frame_rate, cut)):
            return f"the pictures from {start:.3f} s on are others"
    return None


def _different_audio(plain: ClipReader, indexed: PacketReader, rng: np.random.Generator) -> str | None:
    if not indexed.has_audio:
        return None
    start = float(rng.uniform(-0.2, max((plain.audio_seconds() or 0.0) - 1.0, 0.0)))
    difference = plain.read_audio(start, 2.56, 16_000) - indexed.read_audio(start, 2.56, 16_000)
    if np.abs(difference).max() > _AUDIO_TOLERANCE:
        return f"the sound from {start:.3f} s on is another"
    return None


def _tables(media: MediaFile, descriptor: int, limits: DecodeLimits) -> ClipPackets:
    _require(media.info.container == _MP4, f"its container is {media.info.container}, not MP4")
    seconds = [None if stream is None else media.seconds_of(stream) for stream in (media.video, media.audio)]
    media.rewind()
    video = None if media.video is None else _VideoColumns(media, seconds[0])
    audio = None if media.audio is None else _AudioColumns(media, seconds[1])
    _read_packets(media, [columns for columns in (video, audio) if columns is not None], descriptor, limits)
    return ClipPackets(
        video=None if video is None else video.table(),
        audio=None if audio is None else audio.table(),
    )


def _read_packets(
    media: MediaFile, streams: list[_VideoColumns | _AudioColumns], descriptor: int, limits: DecodeLimits
) -> None:
    """Adds all packets to their streams, each found in the file where it is said to lie."""
    by_index = {columns.stream.index: columns for columns in streams}
    deadline = time.monotonic() + limits.max_seconds
    for number, packet in enumerate(media.packets(*(columns.stream for columns in streams))):
        _require(number < limits.max_frames, "it has more packets than the limit")
        _require(time.monotonic() < deadline, "reading its packets takes too long")
        if not packet.size:
            continue
        _require(packet.pts is not None, "it has packets without a time")
        _require(packet.pos is not None, "it does not say where its packets lie")
        _require(not packet.is_corrupt, "it is cut off")
        data = bytes(packet)
        is_there = os.pread(descriptor, packet.size, packet.pos) == data
        _require(is_there, "its packets do not lie in the file as they are")
        by_index[packet.stream.index].add(packet, data)


class _Columns:
    """The packets of one stream so far; not their bytes, but for the first ones."""

    def __init__(self, media: MediaFile, stream: Any, seconds: float | None) -> None:
        self.stream = stream
        self._seconds = seconds
        self._media = media
        self._first: list[tuple[Any, bytes]] = []
        self._rows: list[tuple[int, int, int, int, int]] = []

    def _add(self, packet: Any, data: bytes, flags: int) -> None:
        if len(self._first) < _NUM_TRIED_PACKETS:
            self._first.append((packet, data))
        self._rows.append((packet.pos, packet.size, packet.pts, flags, packet.duration or 0))

    def _table(self, **values: Any) -> PacketTable:
        _require(bool(self._rows), f"its {self.stream.type} stream is empty")
        offsets, sizes, pts, flags, durations = np.array(self._rows, np.int64).T.copy()
        time_base = Fraction(self.stream.time_base)
        origin = self._media.origin / time_base
        largest = int(np.abs(pts).max()) * origin.denominator + abs(origin.numerator)
        scale = time_base / origin.denominator
        _require(largest * scale.numerator < _MAX_EXACT > scale.denominator, "its times are out of range")
        last = int(pts.argmax())
        rate = self._media.info.frame_rate or 25.0
        return PacketTable(
            codec=self.stream.codec_context.name,
            extradata=self.stream.codec_context.extradata,
            time_base=time_base,
            offsets=offsets,
            sizes=sizes,
            pts=pts,
            flags=flags.astype(np.uint8),
            origin=origin,
            declared_seconds=self._seconds,
            end_ticks=int(pts[last] + (durations[last] or round(1 / (rate * time_base)))),
            **values,
        )


class _VideoColumns(_Columns):
    def __init__(self, media: MediaFile, seconds: float | None) -> None:
        super().__init__(media, media.video, seconds)
        context = self.stream.codec_context
        name = "unknown" if context is None else context.name
        _require(name == "h264", f"its video is {name}, not H.264")
        _require(context.pix_fmt in _EIGHT_BIT_420, f"its pixels are {context.pix_fmt}, not 4:2:0 of eight bits")
        configuration = DecoderConfiguration.parse(context.extradata or b"")
        if isinstance(configuration, str):
            raise _Refused(configuration)
        self._configuration = configuration

    def add(self, packet: Any, data: bytes) -> None:
        _require(not packet.is_discard, "an edit list leaves out pictures")
        for side in packet.iter_sidedata():
            raise _Refused(f"its video packets carry {side.data_type}")
        kind = picture_kind(data, self._configuration)
        if isinstance(kind, str):
            raise _Refused(kind)
        _require(kind.is_idr or not packet.is_keyframe, "its groups of pictures are open")
        _require(kind.is_idr or bool(self._rows), "it does not begin with a key picture")
        self._add(packet, data, KEY if kind.is_idr else DROPPABLE * kind.is_droppable)

    def table(self) -> PacketTable:
        _require(bool(self._first), "its video stream is empty")
        picture = self._first_picture()
        table = self._table(
            width=picture.width,
            height=picture.height,
            orientation=orientation_of(picture),
            pixel_aspect=self._media.pixel_aspect,
            colour=(int(picture.colorspace), int(picture.color_range)),
        )
        _check_groups(table.pts, np.flatnonzero(table.flags & KEY))
        self._check_first_picture(table, picture)
        return table

    def _first_picture(self) -> Any:
        """Returns the picture of the first packet as the file's own decoder gives it."""
        packet, _ = self._first[0]
        frames = [*packet.decode(), *self.stream.codec_context.decode(None)]
        _require(len(frames) == 1, "its first picture does not decode")
        return frames[0]

    def _check_first_picture(self, table: PacketTable, picture: Any) -> None:
        """Refuses unless a decoder that knows the table only gives the same picture."""
        packet, data = self._first[0]
        pieces = [(packet.pts, memoryview(data))]
        frames = list(decode_h264(pieces, table.extradata, colour=table.colour, num_pixels=table.num_pixels))
        _require(len(frames) == 1, "its first picture does not decode without the file")
        _require(orientation_of(frames[0]) == 0, "its pictures are turned one by one")
        theirs, ours = (
            (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
            for frame in (picture, frames[0])
        )
        _require(theirs == ours, "its first picture is another without the file")


class _AudioColumns(_Columns):
    def __init__(self, media: MediaFile, seconds: float | None) -> None:
        super().__init__(media, media.audio, seconds)
        context = self.stream.codec_context
        name = "unknown" if context is None else context.name
        _require(name == "aac", f"its audio is {name}, not AAC")
        extradata = context.extradata or b""
        _require(len(extradata) >= 2, "its AAC has no configuration")
        _require(extradata[0] >> 3 == _AAC_LC, f"its AAC is of object type {extradata[0] >> 3}, not LC")
        self._context = context
        self._frame_ticks = Fraction(_AAC_FRAME_SAMPLES, context.sample_rate) / Fraction(self.stream.time_base)
        self._heard_from: int | None = None

    def add(self, packet: Any, data: bytes) -> None:
        _require(not self._rows or self._rows[-1][2] < packet.pts, "its audio goes back in time")
        for side in packet.iter_sidedata():
            _require(side.data_type == "skip_samples", f"its audio packets carry {side.data_type}")
            num_skipped, num_cut_off = (int.from_bytes(bytes(side)[at : at + 4], "little") for at in (0, 4))
            _require(not self._rows and not num_cut_off, "its audio is trimmed midway or at its end")
            ticks = self._frame_ticks * num_skipped / _AAC_FRAME_SAMPLES
            _require(ticks.denominator == 1, "its audio begins between two ticks")
            self._heard_from = packet.pts + int(ticks)
        if packet.is_discard:
            is_silent = self._heard_from is not None and packet.pts + self._frame_ticks <= self._heard_from
            _require(is_silent, "an edit list leaves out audio")
        self._add(packet, data, KEY)

    def table(self) -> PacketTable:
        self._check_first_sound()
        return self._table(
            sample_rate=self._context.sample_rate,
            heard_from=self._heard_from,
        )

    def _check_first_sound(self) -> None:
        """Refuses unless a decoder that knows the configuration only gives what the file declares."""
        pieces = [(packet.pts, memoryview(data)) for packet, data in self._first]
        frames = list(decode_aac(pieces, self._context.extradata))
        # The first packet may hold nothing but the encoder's name.
        _require(len(frames) >= len(pieces) - 1, "its audio does not decode without the file")
        for frame in frames:
            is_usual = (frame.sample_rate, frame.samples) == (self._context.sample_rate, _AAC_FRAME_SAMPLES)
            _require(is_usual and frame.layout.nb_channels == self._context.channels, "its AAC is of an unusual kind")


def _require(is_so: bool, reason: str) -> None:
    if not is_so:
        raise _Refused(reason)


def _check_groups(pts: NDArray[np.int64], keys: NDArray[np.int64]) -> None:
    """Refuses unless every group begins with its key picture and is shown as a whole after the one before."""
    _require(len(np.unique(pts)) == len(pts), "several of its pictures have one time")
    first, last = np.minimum.reduceat(pts, keys), np.maximum.reduceat(pts, keys)
    _require(bool((pts[keys] == first).all() and (last[:-1] < first[1:]).all()), "its groups of pictures overlap")
