"""Decoders that are fed with packets and no file: opening a file costs FFmpeg more than decoding many windows does.

An H.264 decoder is kept by each thread and takes one clip after the other, because what costs is the memory of its
pictures, made once. It is never used again after an error, nor in a process forked from the one that made it.

AAC decoders are made for every stretch: that is cheap, and they carry a random state (of the noise that AAC fills
bands with) from one stretch into the next, so that only a fresh one always gives the same samples.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import av
from av.audio.frame import AudioFrame
from av.packet import Packet, PacketSideData, packet_sidedata_type_from_literal
from av.video.frame import VideoFrame

from k700_text.media.clip import DEFAULT_LIMITS

Piece = tuple[int, memoryview]
"""The pts of a packet and its bytes."""

# "explode": damage is an error, not a picture patched up. "strict": pictures wait for all that a stream of this kind
# may reorder where it does not say how many, so that none comes too late to be shown.
_H264_OPTIONS = {"err_detect": "explode", "strict": "strict", "max_pixels": str(DEFAULT_LIMITS.max_pixels)}
_MAX_KEPT = 4
_MAX_KEPT_PIXELS = 2048 * 1152  # a decoder of larger pictures would hold some hundred megabytes
_SideData: Any = PacketSideData  # its types do not know of its arguments
_NEW_EXTRADATA = packet_sidedata_type_from_literal("new_extradata")


class _Kept(threading.local):
    """The idle H.264 decoders of one thread, by the colour they were told."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.decoders: dict[tuple[int, int], Any] = {}


_kept = _Kept()


def decode_h264(
    pieces: Iterable[Piece], extradata: bytes, *, colour: tuple[int, int], num_pixels: int
) -> Iterator[VideoFrame]:
    """Yields the pictures of packets, in the order they are shown in, with the packets' pts.

    Args:
        pieces: packets in decoding order, the first of them a key packet.
        extradata: the ``avcC`` of the stream.
        colour: as in ``PacketTable``.
        num_pixels: of one picture.

    Raises:
        av.error.FFmpegError: a packet is damaged.
    """
    with _h264_decoder(colour, num_pixels) as decoder:
        # Told anew for every window: whatever a damaged packet made of the old one is gone.
        configuration: Any = _SideData(_NEW_EXTRADATA, len(extradata))
        configuration.update(extradata)
        for pts, data in pieces:
            packet = _packet(pts, data)
            if configuration:
                packet.set_sidedata(configuration, move=True)
            yield from decoder.decode(packet)
        yield from decoder.decode(None)


def decode_aac(pieces: Iterable[Piece], extradata: bytes) -> Iterator[AudioFrame]:
    """Yields the sound of packets, with the packets' pts; arguments and errors as in ``decode_h264``."""
    decoder: Any = av.CodecContext.create("aac", "r")
    decoder.extradata = extradata
    decoder.thread_count = 1
    for pts, data in pieces:
        yield from decoder.decode(_packet(pts, data))
    yield from decoder.decode(None)


def _packet(pts: int, data: memoryview) -> Any:
    # Decoders read beyond the end: of that FFmpeg's own memory has enough, ours need not.
    packet: Any = Packet(len(data))
    packet.update(data)
    packet.pts = pts
    return packet


@contextmanager
def _h264_decoder(colour: tuple[int, int], num_pixels: int) -> Iterator[Any]:
    """Lends a decoder; it is kept for the next one only if all went well.

    A decoder serves streams of one colour: its pixel format would stay that of an earlier stream of full range.
    """
    process = os.getpid()
    if _kept.process != process:
        _kept.process, _kept.decoders = process, {}
    decoder = _kept.decoders.pop(colour, None)
    if decoder is None:
        decoder = av.CodecContext.create("h264", "r")
        decoder.thread_type, decoder.thread_count = "NONE", 1
        decoder.options = dict(_H264_OPTIONS)
    decoder.colorspace, decoder.color_range = colour
    yield decoder
    decoder.flush_buffers()
    if num_pixels <= _MAX_KEPT_PIXELS:
        _kept.decoders[colour] = decoder
        if len(_kept.decoders) > _MAX_KEPT:
            del _kept.decoders[next(iter(_kept.decoders))]
