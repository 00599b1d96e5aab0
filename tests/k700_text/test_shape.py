"""Pictures as players show them: mirrored, turned, of pixels that are not square, by every reader."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from k700_text.media.clip import Cut, OpenClip
from k700_text.media.decode import ClipReader, PacketReader, packets_of
from k700_text.media.decode.shape import shown_size, square_size, stored_area
from k700_text.media.measure import probe_clip
from tests.k700_text.odd_files import rewritten, turned, write_clip

Pixels = npt.NDArray[np.uint8]
ONE = 1 << 16

WAYS: dict[str, tuple[tuple[int, int], tuple[int, int], Callable[[Pixels], Pixels]]] = {
    "as it is": ((ONE, 0), (0, ONE), lambda picture: picture),
    "left to right": ((-ONE, 0), (0, ONE), lambda picture: picture[:, ::-1]),
    "upside down": ((ONE, 0), (0, -ONE), lambda picture: picture[::-1]),
    "half a turn": ((-ONE, 0), (0, -ONE), lambda picture: picture[::-1, ::-1]),
    "quarter turn": ((0, ONE), (-ONE, 0), lambda picture: np.rot90(picture, -1)),
    "three quarters": ((0, -ONE), (ONE, 0), lambda picture: np.rot90(picture)),
    "along the diagonal": ((0, ONE), (ONE, 0), lambda picture: picture.transpose(1, 0, 2)),
    "along the other diagonal": ((0, -ONE), (-ONE, 0), lambda picture: np.rot90(picture.transpose(1, 0, 2), 2)),
    "two degrees, mirrored": ((-65496, 2287), (2287, 65496), lambda picture: picture[:, ::-1]),
    "twice as large": ((0, 2 * ONE), (2 * ONE, 0), lambda picture: picture.transpose(1, 0, 2)),
    "nothing to see": ((0, 0), (0, 0), lambda picture: picture),
}


def busy_frames(width: int, height: int) -> list[Pixels]:
    """Four fields of colour, no two alike, so that no way to put the picture looks like another."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = 230, 30, 30
    picture[: height // 2, width // 2 :] = 30, 200, 30
    picture[height // 2 :, : width // 2] = 30, 30, 230
    return [picture] * 5


def indexed(path: Path) -> PacketReader:
    packets = packets_of(path)
    assert not isinstance(packets, str), packets
    return PacketReader(str(path), packets, lambda at, size: path.read_bytes()[at : at + size])


def one_cut(clip: OpenClip, size: int = 48) -> Pixels:
    return clip.read_cut(0.0, 1, 10.0, Cut(size=size, share=1.0))[0]


@pytest.mark.parametrize("way", WAYS)
def test_a_display_matrix_is_followed_by_every_reader(way: str, tmp_path: Path) -> None:
    right, down, expected = WAYS[way]
    path = write_clip(tmp_path / "clip.mp4", frames=busy_frames(64, 48), sound_seconds=None)
    with ClipReader(path) as plain:
        stored = plain.read_frames(0.0, 1, 10.0)[0]
        square = one_cut(plain)
    turned(path, right, down)
    shown = expected(stored)
    with ClipReader(path) as reader:
        assert np.array_equal(reader.read_frames(0.0, 1, 10.0)[0], shown)
        assert np.array_equal(one_cut(reader), expected(square))
        [whole, *_] = reader.resampled(10.0, 48, max_seconds=1.0)
        assert whole.shape == (shown.shape[0] * 3 // 2, shown.shape[1])
        luma = whole[: shown.shape[0]].astype(float)
        assert np.corrcoef(luma.ravel(), shown.astype(float).dot([0.299, 0.587, 0.114]).ravel())[0, 1] > 0.99
    assert np.array_equal(one_cut(indexed(path)), expected(square))
    probe = probe_clip(path, tmp_path)
    assert (probe.height, probe.width) == shown.shape[:2]


def disc_frames(width: int, height: int, aspect: float) -> list[Pixels]:
    """A disc in the middle, as it is stored with pixels of this shape."""
    full_width, full_height = square_size(width, height, aspect)
    y, x = np.mgrid[:height, :width]
    across, down = (x + 0.5) * full_width / width - full_width / 2, (y + 0.5) * full_height / height - full_height / 2
    is_disc = across**2 + down**2 < (0.35 * min(full_width, full_height)) ** 2
    return [np.where(is_disc, 230, 20).astype(np.uint8)[..., None].repeat(3, 2)] * 20


def assert_round(picture: Pixels) -> None:
    is_disc = picture[..., :3].mean(axis=-1) > 128 if picture.ndim == 3 else picture > 128
    wide, high = int(is_disc.any(0).sum()), int(is_disc.any(1).sum())
    assert abs(wide - high) <= max(3, 0.04 * wide), (wide, high)


SQUEEZED = [
    ("pasp.mp4", "libx264", Fraction(4, 3)),
    ("tall.mp4", "libx264", Fraction(8, 15)),
    ("half.mov", "libx264", Fraction(1, 2)),
    ("display.mkv", "libx264", Fraction(16, 11)),
    ("vui.ts", "libx264", Fraction(2)),
    ("vui.flv", "libx264", Fraction(4, 3)),
    ("code.mpg", "mpeg2video", Fraction(64, 45)),
    ("vol.avi", "mpeg4", Fraction(12, 11)),
]
# Only these say that they are turned.
TURNED = [(*row, True) for row in SQUEEZED if row[0].endswith((".mp4", ".mov"))]


@pytest.mark.parametrize(("name", "codec", "aspect", "is_turned"), [*((*row, False) for row in SQUEEZED), *TURNED])
def test_a_circle_stays_a_circle(name: str, codec: str, aspect: Fraction, is_turned: bool, tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / name, frames=disc_frames(180, 144, float(aspect)), codec=codec, aspect=aspect, sound_seconds=None
    )
    if is_turned:
        turned(path, (0, ONE), (ONE, 0))
    width, height = shown_size(180, 144, int(is_turned), float(aspect))
    readers: list[Any] = [ClipReader(path)]
    if name.endswith((".mp4", ".mov")):
        readers.append(indexed(path))
    cuts = [one_cut(reader, 128) for reader in readers]
    assert all(np.array_equal(cut, cuts[0]) for cut in cuts)
    assert_round(cuts[0])
    with readers[0] as reader:
        whole = reader.read_frames(0.0, 1, 10.0)[0]
        assert whole.shape == (height, width, 3)
        assert_round(whole)
        [kept, *_] = reader.resampled(10.0, 96, max_seconds=0.2)
        assert_round(kept[: len(kept) * 2 // 3])
        assert min(kept.shape[1], len(kept) * 2 // 3) == 96
    probe = probe_clip(path, tmp_path)
    assert (probe.width, probe.height) == (width, height)


@pytest.mark.parametrize("aspects", [(Fraction(1), Fraction(64, 45)), (Fraction(64, 45), Fraction(16, 15))])
@pytest.mark.parametrize(("suffix", "codec"), [(".ts", "mpeg2video"), (".ts", "libx264"), (".mpg", "mpeg2video")])
def test_a_shape_that_changes_midway_is_followed(
    suffix: str, codec: str, aspects: tuple[Fraction, Fraction], tmp_path: Path
) -> None:
    parts = []
    for number, aspect in enumerate(aspects):
        frames = disc_frames(180, 144, float(aspect)) + disc_frames(180, 144, float(aspect))[:5]
        parts.append(tmp_path / f"part{number}{suffix}")
        options = {"start": float(number), "codec": codec, "fps": 25, "aspect": aspect}
        write_clip(parts[-1], frames=frames, sound_seconds=None, **options)  # type: ignore[arg-type]
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with ClipReader(path) as clip:
        for seconds in (0.2, 0.8, 1.2, 1.8, 0.4):
            assert_round(clip.read_cut(seconds, 1, 10.0, Cut(size=128, share=1.0))[0])
            assert_round(clip.read_frames(seconds, 1, 10.0)[0])
        early, late = clip.read_cut(0.8, 2, 2.5, Cut(size=128, share=1.0))
        assert_round(early)
        assert_round(late)


@pytest.mark.parametrize(("across", "down"), [(0, 1), (1, 0), (10_000, 1), (1, 10_000), (2**32 - 1, 1), (4096, 4095)])
def test_a_shape_that_cannot_be_is_square(across: int, down: int, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", aspect=Fraction(4, 3), sound_seconds=None)
    rewritten(path, b"pasp", 0, across)
    rewritten(path, b"pasp", 4, down)
    # The stream itself still says 4:3, which is what counts where the container says nothing that can be.
    with ClipReader(path) as reader:
        assert reader.read_frames(0.0, 1, 10.0).shape in ((1, 48, 64, 3), (1, 48, 85, 3))
    assert probe_clip(path, tmp_path).width in (64, 85)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 50), (63, 47), (340, 256)])
def test_every_square_lies_within_the_stored_picture(size: tuple[int, int]) -> None:
    for orientation in range(8):
        for share in (0.01, 0.5, 1.0):
            for along in (0.0, 0.3, 1.0):
                cut = Cut(size=8, share=share, along_short_side=along, along_long_side=along)
                area = stored_area(cut.box(*shown_size(*size, orientation, 1.0)), *size, orientation)
                assert min(area.left, area.top) >= 0 and area.width == area.height >= 1
                assert area.left + area.width <= size[0] and area.top + area.height <= size[1]
