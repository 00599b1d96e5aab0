"""PSNR and SSIM beside FFmpeg's own filters."""

from __future__ import annotations

import math
from fractions import Fraction

import av
import av.filter
import numpy as np
import numpy.typing as npt
import pytest

from k700_text.media.quality import MAX_PSNR_DB, psnr_db, ssim

Frame = npt.NDArray[np.uint8]


def frames(seed: int, count: int = 3, height: int = 48, width: int = 76) -> list[Frame]:
    rng = np.random.default_rng(seed)
    smooth = rng.integers(0, 256, (count, 6, 8)).repeat(12, axis=1).repeat(10, axis=2)[:, : height * 3 // 2, :width]
    return [frame.astype(np.uint8) for frame in smooth]


def noisy(clean: list[Frame], strength: float) -> list[Frame]:
    rng = np.random.default_rng(9)
    return [np.clip(frame + rng.normal(0, strength, frame.shape), 0, 255).astype(np.uint8) for frame in clean]


def ffmpeg_says(name: str, key: str, tested: list[Frame], references: list[Frame]) -> list[float]:
    graph = av.filter.Graph()
    height, width = tested[0].shape[0] // 3 * 2, tested[0].shape[1]
    sources = [
        graph.add_buffer(width=width, height=height, format="yuv420p", time_base=Fraction(1, 10)) for _ in range(2)
    ]
    compare, sink = graph.add(name), graph.add("buffersink")
    sources[0].link_to(compare, 0, 0)
    sources[1].link_to(compare, 0, 1)
    compare.link_to(sink)
    graph.configure()
    values = []
    for index, pair in enumerate(zip(tested, references, strict=True)):
        for source, array in zip(sources, pair, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="yuv420p")
            picture.pts, picture.time_base = index, Fraction(1, 10)
            source.push(picture)
    for source in sources:
        source.push(None)
    while len(values) < len(tested):
        values.append(float(graph.pull().metadata[key]))
    return values


@pytest.mark.parametrize("strength", [1.0, 8.0, 40.0])
def test_both_are_what_ffmpeg_computes(strength: float) -> None:
    clean = frames(1)
    worse = noisy(clean, strength)
    squares = ffmpeg_says("psnr", "lavfi.psnr.mse.y", worse, clean)
    assert psnr_db(worse, clean) == pytest.approx(10 * math.log10(255**2 / np.mean(squares)), abs=0.01)
    assert ssim(worse, clean) == pytest.approx(np.mean(ffmpeg_says("ssim", "lavfi.ssim.Y", worse, clean)), abs=1e-4)


def test_identical_frames_are_perfect() -> None:
    clean = frames(2)
    assert psnr_db(clean, clean) == MAX_PSNR_DB
    assert ssim(clean, clean) == pytest.approx(1.0)


def test_colour_does_not_count() -> None:
    clean = frames(3)
    recoloured = [frame.copy() for frame in clean]
    for frame in recoloured:
        frame[48:] = 0
    assert psnr_db(recoloured, clean) == MAX_PSNR_DB


def test_lists_of_different_length_and_tiny_frames_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        psnr_db(frames(1), frames(1)[:2])
    with pytest.raises(ValueError, match="at least 8 pixels"):
        ssim(frames(1, height=4, width=4), frames(1, height=4, width=4))
