"""Small files as careless programs leave them: joined, shifted, mirrored, of odd pixels, with headers that lie.

Frame k is one shade of gray, so that its number can be read off, with a white mark at its top; sounds are sines.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from tests.k700_text.media_files import frame_number, numbered_frames, tone

FPS = 25
_RATES = {"libopus": 48_000, "mp2": 48_000, "libmp3lame": 44_100}
_FORMATS = {".ts": "mpegts", ".mpg": "mpeg"}


def marked_frames(num_frames: int = 50, width: int = 64, height: int = 48) -> list[npt.NDArray[np.uint8]]:
    """Numbered frames with a white mark at the top, left of the middle."""
    frames = numbered_frames(num_frames, width, height)
    for frame in frames:
        frame[: height // 4, width // 4 : width // 2] = 255
    return frames


def number_of(picture: npt.NDArray[np.uint8]) -> int:
    """Returns the number of a marked frame (H, W, 3), or of a cut of it."""
    height, width = picture.shape[:2]
    return frame_number(picture[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4])


def write_clip(
    path: Path,
    *,
    frames: Sequence[npt.NDArray[np.uint8]] | None = None,
    sound_seconds: float | None = 2.0,
    hz: float = 400.0,
    fps: int = FPS,
    start: float = 0.0,
    codec: str = "libx264",
    sound_codec: str = "aac",
    rate: int | None = None,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes two seconds of marked frames, or the frames given or none, and a sine; both begin at ``start`` seconds."""
    rate = rate or _RATES.get(sound_codec, 16_000)
    with av.open(str(path), "w", format=_FORMATS.get(path.suffix)) as out:
        frames = marked_frames() if frames is None else frames
        packets = []
        if frames:
            packets = _pictures(out, frames, fps, start, codec, aspect, {"g": "10", "bf": "0"} | (options or {}))
        if sound_seconds is not None:
            packets += _sound(out, sound_codec, rate, tone(sound_seconds, hz=hz, rate=rate), start)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return path


def _pictures(
    out: Any,
    frames: Sequence[npt.NDArray[np.uint8]],
    fps: int,
    start: float,
    codec: str,
    aspect: Fraction | None,
    options: dict[str, str],
) -> list[Any]:
    if codec == "libvpx":
        options = {"deadline": "realtime", "cpu-used": "8"}
    stream = out.add_stream(codec, rate=fps, options=options)
    stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
    if aspect is not None:
        stream.codec_context.sample_aspect_ratio = aspect
    packets = []
    for index, picture in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = index + round(start * fps), Fraction(1, fps)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _sound(out: Any, codec: str, rate: int, wave: npt.NDArray[np.float32], start: float) -> list[Any]:
    stream = out.add_stream(codec, rate=rate, layout="mono")
    step = stream.codec_context.frame_size or 1024
    packets = []
    for first in range(0, len(wave), step):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[None, first : first + step]), "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, first + round(start * rate), Fraction(1, rate)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def moved(source: Path, path: Path, move: Callable[[str, float], float], **options: str) -> Path:
    """Copies packets to another file; ``move`` gives the new time of one, from the type of its stream and its time."""
    with av.open(str(source)) as read, av.open(str(path), "w", options=options) as write:
        streams = {stream.index: write.add_stream_from_template(stream) for stream in read.streams}
        for packet in read.demux():
            if packet.dts is None or packet.pts is None:
                continue
            seconds = float(packet.pts * packet.time_base)
            ticks = round((move(packet.stream.type, seconds) - seconds) / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            packet.stream = streams[packet.stream.index]
            write.mux(packet)
    return path


def joined(path: Path, *parts: Path) -> Path:
    """Writes the bytes of files one behind the other."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def turned(path: Path, right: tuple[int, int], down: tuple[int, int]) -> Path:
    """Says in an MP4 where one pixel to the right and one down go when it is shown; Q16 numbers."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    content[place : place + 36] = struct.pack(">9i", *right, 0, *down, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def rewritten(path: Path, box: bytes, offset: int, number: int, order: str = ">") -> Path:
    """Writes a 32-bit number at an offset behind the first occurrence of a box's name."""
    content = bytearray(path.read_bytes())
    place = content.index(box) + len(box) + offset
    content[place : place + 4] = struct.pack(f"{order}I", number)
    path.write_bytes(content)
    return path


def retimed_tags(path: Path, move: Callable[[str, int], int]) -> Path:
    """Changes the times of an FLV's tags; ``move`` gives the new one, from the kind and the time in milliseconds."""
    content = bytearray(path.read_bytes())
    place = 13
    while place + 11 <= len(content):
        kind = {8: "audio", 9: "video"}.get(content[place] & 31, "")
        num_bytes = int.from_bytes(content[place + 1 : place + 4])
        content[place + 4 : place + 7] = move(kind, int.from_bytes(content[place + 4 : place + 7])).to_bytes(3)
        place += 11 + num_bytes + 4
    path.write_bytes(content)
    return path


def edited(path: Path, *spans: tuple[float, float]) -> Path:
    """Makes an MP4, whose header is behind its packets, show only these spans of it, seconds, one after the other."""

    def changed(content: bytes, scale: int) -> bytes:
        boxes, place = b"", 0
        while place < len(content):
            num_bytes, name = struct.unpack_from(">I4s", content, place)
            inside = content[place + 8 : place + num_bytes]
            place += num_bytes
            if name == b"edts":
                continue
            if name == b"mdia":
                ticks = struct.unpack_from(">I", inside, inside.index(b"mdhd") + 16)[0]
                entries = b"".join(
                    struct.pack(">Iihh", round((end - begin) * scale), round(begin * ticks), 1, 0)
                    for begin, end in spans
                )
                boxes += _box(b"edts", _box(b"elst", struct.pack(">II", 0, len(spans)) + entries))
            if name == b"moov":
                scale = struct.unpack_from(">I", inside, inside.index(b"mvhd") + 16)[0]
            boxes += _box(name, changed(inside, scale) if name in (b"moov", b"trak") else inside)
        return boxes

    path.write_bytes(changed(path.read_bytes(), 0))
    return path


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def make_all_that_is_odd(root: Path, content: bytes = b"") -> None:
    """Fills a folder with six clips of one content, and with all that a file system lets be beside them."""
    names = ["good.mp4", "a\n\x1b[31mred.mp4", "x" * 251 + ".mp4", "folder.mp4/inner.mp4"]
    names += map(os.fsdecode, (b"caf\xe9.mp4", b"\xff\xfe/low.mp4"))
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "circle.mp4").symlink_to("circle.mp4")
    (root / "there.mp4").symlink_to("back.mp4")
    (root / "back.mp4").symlink_to("there.mp4")
    (root / "dead.mp4").symlink_to("nowhere")
    (root / "circle").symlink_to("circle")
    (root / "up").symlink_to("..")
    (root / "null.mp4").symlink_to("/dev/null")
    (root / "host.mp4").symlink_to("/etc/hosts")
    os.mkfifo(root / "pipe.mp4")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "s.mp4"))
