"""Where the packets of a clip lie in a file: enough to decode any window with one read and no demuxer.

Tables are made once, by ``decode.packets_of`` for clip files and by ``prepare`` for shards, and take some 2 kB a clip.

Axes: N packets, in decoding order.
"""

from __future__ import annotations

import math
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import numpy as np
from numpy.typing import NDArray

KEY = 1
"""Flag of a packet that decoding may begin with (an IDR picture; every packet of audio)."""
DROPPABLE = 2
"""Flag of a picture that no other picture refers to (``nal_ref_idc`` 0 in all its slices)."""
UNKNOWN_COLOUR = (2, 0)
"""What ``PacketTable.colour`` is where neither file nor stream says anything."""
SAME_TIME_SECONDS = 1e-6
"""Times that lie no further apart are one."""

_FORMAT = 2
_HEADER = struct.Struct("<B2I 5q 2iBd i2B qd")
_NOTHING = -(2**63)


@dataclass(frozen=True, slots=True)
class Selection:
    """What to decode to see the pictures shown at wanted times.

    Attributes:
        packets: numbers of the packets to feed to a decoder, in decoding order; each group begins with its key packet.
        shown: number of the packet whose picture is shown at each wanted time.
    """

    packets: list[int]
    shown: list[int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PacketTable:
    """The packets of one stream.

    Attributes:
        codec: FFmpeg's name of the decoder (``h264``, ``aac``).
        extradata: what the decoder has to be told first (``avcC``; AudioSpecificConfig).
        time_base: seconds per tick.
        offsets: int64 (N,), byte offset in the file.
        sizes: int64 (N,), bytes.
        pts: int64 (N,), ticks; clip time is ``(pts - origin) * time_base``.
        flags: uint8 (N,), KEY and DROPPABLE.
        origin: ticks at which clip time is zero.
        end_ticks: ticks at which the last packet shown ends.
        width: of the pictures as coded, pixels; 0 for audio.
        height: of the pictures as coded, pixels; 0 for audio.
        orientation: how pictures are mirrored and turned before they are shown, see ``decode.shape``.
        pixel_aspect: width of a pixel for its height.
        sample_rate: hertz; 0 for video.
        colour: matrix (as ITU-T H.273 numbers them; 2 is unknown) and range (0 unknown, 1 limited, 2 full) that the
            pictures have where the stream itself says nothing.
        heard_from: ticks before which the samples are the encoder's own and are not heard; None where all are.
        declared_seconds: clip time at which the stream ends, as the file declares it or all packets tell; None where
            nothing does.
    """

    codec: str
    extradata: bytes
    time_base: Fraction
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    pts: NDArray[np.int64]
    flags: NDArray[np.uint8]
    origin: Fraction
    end_ticks: int
    width: int = 0
    height: int = 0
    orientation: int = 0
    pixel_aspect: float = 1.0
    sample_rate: int = 0
    colour: tuple[int, int] = UNKNOWN_COLOUR
    heard_from: int | None = None
    declared_seconds: float | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.offsets), len(self.sizes), len(self.pts), len(self.flags)}
        if len(lengths) != 1 or not len(self.offsets):
            raise ValueError(f"a table needs packets, and as many of each column: {lengths}")
        if not self.flags[0] & KEY:
            raise ValueError("the first packet of a table is no key packet: decoding cannot begin with it")

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def num_pixels(self) -> int:
        """Of one picture."""
        return self.width * self.height

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Clip time at which each packet is shown, float64 (N,)."""
        scale = self.time_base / self.origin.denominator
        ticks = self.pts * self.origin.denominator - self.origin.numerator
        return ticks * scale.numerator / scale.denominator

    @property
    def end_seconds(self) -> float:
        """Clip time at which the stream ends."""
        return float((self.end_ticks - self.origin) * self.time_base)

    def select(self, wanted_seconds: Iterable[float]) -> Selection:
        """Returns the packets that show the clip at the wanted times, and no others.

        The picture shown at a time is the last one that does not begin after it, to a microsecond; before the first
        it is the first, past the end the last. Groups of pictures are decoded from their key packet to the last
        picture wanted of them, without those that nothing refers to and nobody wants.

        Args:
            wanted_seconds: clip time.
        """
        # Plain lists: after a decoder has been through the caches, numpy costs ten times what it costs in a loop.
        pts = self.pts.tolist()
        order = sorted(range(len(pts)), key=pts.__getitem__)
        up, zero = self.origin.denominator, self.origin.numerator
        ticks, per_second = self.time_base.numerator, self.time_base.denominator * up
        begins = [(pts[packet] * up - zero) * ticks / per_second - SAME_TIME_SECONDS for packet in order]
        shown = [order[max(0, bisect_right(begins, seconds) - 1)] for seconds in wanted_seconds]
        flags, is_key = self.flags.tobytes(), (self.flags & KEY).tobytes()
        packets: list[int] = []
        fed_until = 0
        for last in sorted(set(shown)):
            first = max(fed_until, is_key.rfind(1, 0, last + 1))
            packets += [packet for packet in range(first, last) if flags[packet] != DROPPABLE]
            packets.append(last)
            fed_until = last + 1
        return Selection(packets, shown)

    def _to_bytes(self) -> bytes:
        codec = self.codec.encode()
        origin, heard_from, declared = self.origin, self.heard_from, self.declared_seconds
        header = _HEADER.pack(
            len(codec),
            len(self.extradata),
            len(self),
            self.time_base.numerator,
            self.time_base.denominator,
            origin.numerator,
            origin.denominator,
            self.end_ticks,
            self.width,
            self.height,
            self.orientation,
            self.pixel_aspect,
            self.sample_rate,
            *self.colour,
            _NOTHING if heard_from is None else heard_from,
            math.nan if declared is None else declared,
        )
        # Steps are small and repeat, so that they compress well; of each number the low bytes come first.
        ends = self.offsets + self.sizes
        steps = np.diff(ends, prepend=0), self.sizes, np.diff(self.pts, prepend=0)
        columns = b"".join(column.astype("<i8").view(np.uint8).reshape(-1, 8).T.tobytes() for column in steps)
        return header + codec + self.extradata + columns + self.flags.tobytes()

    @classmethod
    def _from_bytes(cls, plain: bytes, position: int) -> tuple[Self, int]:
        """Returns the table that begins at a place, and where it ends."""
        (
            codec_bytes,
            extradata_bytes,
            count,
            *time_and_origin,
            end_ticks,
            width,
            height,
            orientation,
            pixel_aspect,
            sample_rate,
            matrix,
            color_range,
            heard_from,
            declared,
        ) = _HEADER.unpack_from(plain, position)
        position += _HEADER.size
        codec = plain[position : position + codec_bytes].decode()
        position += codec_bytes
        extradata = plain[position : position + extradata_bytes]
        position += extradata_bytes
        # Little-endian numbers again; of all three columns at once.
        planes = np.frombuffer(plain, np.uint8, 24 * count, position).reshape(3, 8, count)
        steps = planes.transpose(0, 2, 1).copy().view("<i8")[:, :, 0]
        ends, _, pts = steps.cumsum(axis=1)
        position += 24 * count
        table = cls(
            codec=codec,
            extradata=extradata,
            time_base=Fraction(*time_and_origin[:2]),
            offsets=ends - steps[1],
            sizes=steps[1],
            pts=pts,
            flags=np.frombuffer(plain, np.uint8, count, position),
            origin=Fraction(*time_and_origin[2:]),
            end_ticks=end_ticks,
            width=width,
            height=height,
            orientation=orientation,
            pixel_aspect=pixel_aspect,
            sample_rate=sample_rate,
            colour=(matrix, color_range),
            heard_from=None if heard_from == _NOTHING else heard_from,
            declared_seconds=None if math.isnan(declared) else declared,
        )
        return table, position + count


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipPackets:
    """The packets of one clip; a stream that it does not have is None."""

    video: PacketTable | None
    audio: PacketTable | None

    def to_bytes(self) -> bytes:
        """Returns it as bytes; the same tables give the same bytes."""
        tables = [b"" if table is None else table._to_bytes() for table in (self.video, self.audio)]
        head = bytes([_FORMAT, self.video is not None, self.audio is not None])
        return zlib.compress(head + b"".join(tables), 6)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Returns what ``to_bytes`` gave.

        Raises:
            ValueError: these bytes are not such a table, or of another version.
        """
        try:
            plain = zlib.decompress(data)
            version, has_video, has_audio = plain[:3]
            if version != _FORMAT:
                raise ValueError(f"packet tables of version {version}, known is {_FORMAT}")
            position = 3
            video = audio = None
            if has_video:
                video, position = PacketTable._from_bytes(plain, position)
            if has_audio:
                audio, position = PacketTable._from_bytes(plain, position)
            if position != len(plain):
                raise ValueError(f"{len(plain) - position} bytes too many")
        except (zlib.error, struct.error, ArithmeticError, ValueError) as error:
            raise ValueError(f"not a packet table: {error}") from error
        return cls(video=video, audio=audio)
