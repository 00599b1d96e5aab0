"""Where the packets of a clip lie in a file: enough to decode any window with one read and no demuxer.

Tables are made once, by ``decode.packets_of`` for clip files and by ``prepare`` for shards, and take some 2 kB a clip.

Axes: N packets, in decoding order.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

KEY = 1
"""Flag of a packet that decoding may begin with (an IDR picture; every packet of audio)."""
DROPPABLE = 2
"""Flag of a picture that no other picture refers to (``nal_ref_idc`` 0 in all its slices)."""

_FORMAT = 1


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
        quarter_turns: how often pictures are turned left by 90 degrees before they are shown.
        sample_rate: hertz; 0 for video.
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
    quarter_turns: int = 0
    sample_rate: int = 0

    def __post_init__(self) -> None:
        lengths = {len(self.offsets), len(self.sizes), len(self.pts), len(self.flags)}
        if len(lengths) != 1 or not len(self.offsets):
            raise ValueError(f"a table needs packets, and as many of each column: {lengths}")

    def __len__(self) -> int:
        return len(self.offsets)

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

    def _header(self) -> dict[str, Any]:
        return {
            "codec": self.codec,
            "extradata": self.extradata.hex(),
            "time_base": str(self.time_base),
            "origin": str(self.origin),
            "end_ticks": self.end_ticks,
            "width": self.width,
            "height": self.height,
            "quarter_turns": self.quarter_turns,
            "sample_rate": self.sample_rate,
            "num_packets": len(self),
        }

    def _columns(self) -> bytes:
        # Steps are small and repeat: they compress to a few bits each.
        ends = np.concatenate([[0], self.offsets[:-1] + self.sizes[:-1]])
        steps = (self.offsets - ends, self.sizes, np.diff(self.pts, prepend=0))
        return b"".join(column.astype("<i8").view(np.uint8).reshape(-1, 8).T.tobytes() for column in steps) + (
            self.flags.tobytes()
        )

    @classmethod
    def _from(cls, header: dict[str, Any], columns: bytes) -> Self:
        count = header.pop("num_packets")
        planes = np.frombuffer(columns, np.uint8, 24 * count).reshape(3, 8, count)
        gaps, sizes, steps = (np.ascontiguousarray(plane.T).view("<i8")[:, 0].astype(np.int64) for plane in planes)
        before = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        return cls(
            **{**header, "extradata": bytes.fromhex(header["extradata"])},
            offsets=np.cumsum(gaps) + before,
            sizes=sizes,
            pts=np.cumsum(steps),
            flags=np.frombuffer(columns, np.uint8, count, 24 * count),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipPackets:
    """The packets of one clip; a stream that it does not have is None."""

    video: PacketTable | None
    audio: PacketTable | None

    def to_bytes(self) -> bytes:
        """Returns it as bytes; the same tables give the same bytes."""
        tables = [self.video, self.audio]
        header = {
            "format": _FORMAT,
            "tables": [None if table is None else table._header() for table in tables],
        }
        columns = b"".join(table._columns() for table in tables if table is not None)
        text = json.dumps(header, separators=(",", ":")).encode()
        return zlib.compress(len(text).to_bytes(4, "little") + text + columns, 6)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Returns what ``to_bytes`` gave.

        Raises:
            ValueError: these bytes are not such a table, or of another version.
        """
        try:
            plain = zlib.decompress(data)
            size = int.from_bytes(plain[:4], "little")
            header = json.loads(plain[4 : 4 + size])
            if header["format"] != _FORMAT:
                raise ValueError(f"packet tables of version {header['format']}, known is {_FORMAT}")
            tables: list[PacketTable | None] = []
            position = 4 + size
            for fields in header["tables"]:
                if fields is None:
                    tables.append(None)
                    continue
                length = 25 * fields["num_packets"]
                fields["time_base"], fields["origin"] = Fraction(fields["time_base"]), Fraction(fields["origin"])
                tables.append(PacketTable._from(fields, plain[position : position + length]))
                position += length
            video, audio = tables
        except (zlib.error, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"not a packet table: {error}") from error
        return cls(video=video, audio=audio)
