"""Thumbnails: a picture while the video is public or unlisted, a small grey one with status 404 when it is not."""

from __future__ import annotations

import re
import struct
from functools import lru_cache

from k700_text.sandbox.messages import Request, Response
from k700_text.sandbox.scene import seeded
from k700_text.sandbox.world import World

_PATH = re.compile(r"/vi/([^/]+)/(?:hq|mq|sd|maxres)?default\.jpg")


class Thumbnail:
    """``/vi/<ID>/hqdefault.jpg``."""

    name = "thumbnail"

    def __init__(self, world: World) -> None:
        self._world = world

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""
        return path.startswith("/vi/")

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns the id in the path."""
        found = _PATH.fullmatch(request.path)
        return (found[1],) if found else ()

    def answer(self, request: Request) -> Response:
        """Returns a 480x360 JPEG, or 404 with the grey 120x90 one."""
        ids = self.youtube_ids(request)
        if ids and self._world.video(ids[0]).availability.is_alive:
            return _picture(200, grey_jpeg(480, 360, 40 + seeded("level", ids[0]).randrange(10) * 16), "max-age=7200")
        return _picture(404, grey_jpeg(120, 90, 120), "max-age=300")


def _picture(status: int, body: bytes, caching: str) -> Response:
    return Response(status, (("Content-Type", "image/jpeg"), ("Cache-Control", f"public, {caching}")), body)


@lru_cache(maxsize=64)
def grey_jpeg(width: int, height: int, level: int) -> bytes:
    """Returns a baseline JPEG of one grey level: the first block carries the level, every other one "no change".

    Args:
        width: pixels.
        height: pixels.
        level: 0..255, about as it decodes.
    """
    step = level - 128  # With a quantiser of 8 a DC step of 1 is one grey level.
    size = abs(step).bit_length()
    magnitude = f"{step if step > 0 else step + (1 << size) - 1:0{size}b}" if size else ""
    num_blocks = -(-width // 8) * -(-height // 8)
    # DC codes: "0" is "no change", "10" announces `size` bits. The only AC code, "0", is "end of block".
    bits = (f"10{magnitude}0" if size else "00") + "00" * (num_blocks - 1)
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\x00")
    dc_codes = bytes([1, 1 if size else 0, *[0] * 14, 0, *([size] if size else [])])
    ac_codes = bytes([1, *[0] * 15, 0])
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0"),
            _segment(0xDB, b"\0" + b"\x08" * 64),
            _segment(0xC0, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\0"),
            _segment(0xC4, b"\x00" + dc_codes),
            _segment(0xC4, b"\x10" + ac_codes),
            _segment(0xDA, b"\x01\x01\x00\x00\x3f\x00"),
            data,
            b"\xff\xd9",
        )
    )


def _segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload
