"""Test clips made by a script: the same bytes for the same version of the encoder.

Ten seconds at 30 fps, H.264 as most clips of the web are (x264 ``medium``, key frames 250 apart, B-frames with a
pyramid) and AAC stereo at 128 kb/s. A textured background drifts and shakes behind textured shapes that cross it, the
light flickers now and then, and there is sensor noise on top.

The small ones were tuned to three real Kinetics clips in what decides on decoding: 480 to 550 kb/s of video (real: 350
to 610), 39 to 47 % of the pictures droppable (37 to 44 %), 0.11 s to decode all of one (0.09 to 0.12), 670 kB prepared
(760). The large ones have 1.7 Mb/s. What still differs: motion is translation only, nothing is out of focus, there is
no cut, noise has not been through an earlier encoder, and droppable pictures hold 28 to 33 % of the bytes (12 to 15 %),
so that leaving them out saves a little more than in real clips. ``--clips DIR`` measures real ones beside them. What
ratios come out depends on the content: large clips with flicker and fine detail, 900 kB prepared, gave 28 times for
prepared against raw where these give 53.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from k700_text.media.encode import encode_clip

FRAME_RATE, SECONDS = 30.0, 10.0
_SAMPLE_RATE = 44_100
_MARGIN = 96


@dataclass(frozen=True)
class Look:
    """What made clips look like.

    Attributes:
        name: of the kind.
        width: pixels.
        height: pixels.
        crf: rate factor of the encoder.
        noise: standard deviation of the sensor's noise, levels.
        unrest: how restless light and camera are, 0..1.
    """

    name: str
    width: int
    height: int
    crf: int
    noise: float
    unrest: float

    @property
    def scale(self) -> float:
        """Size of what is in the picture, relative to the small clips."""
        return self.height / SMALL.height


SMALL = Look("340x256", 340, 256, crf=19, noise=1.5, unrest=1.0)
LARGE = Look("1280x720", 1280, 720, crf=22, noise=3.0, unrest=0.2)


@dataclass(frozen=True)
class Corpus:
    """Clips of one kind; ``height`` names it."""

    name: str
    height: int
    paths: tuple[Path, ...]

    @property
    def kilobytes(self) -> float:
        """Mean size of a file."""
        return sum(path.stat().st_size for path in self.paths) / len(self.paths) / 1000


def make_corpora(folder: Path, *, num_small: int, num_large: int) -> list[Corpus]:
    """Writes the clips that are not in the folder yet; returns those of 340x256 and those of 1280x720."""
    corpora = []
    for look, count in ((SMALL, num_small), (LARGE, num_large)):
        paths = [folder / f"{look.name}-{seed}.mp4" for seed in range(count)]
        for seed, path in enumerate(paths):
            if not path.exists():
                make_clip(path, look, seed)
        if paths:
            corpora.append(Corpus(look.name, look.height, tuple(paths)))
    return corpora


def real_corpus(folder: Path) -> Corpus:
    """Returns the MP4 files of a folder as they are."""
    return Corpus(f"real clips of {folder.name}", 256, tuple(sorted(folder.glob("*.mp4"))))


def make_clip(path: Path, look: Look, seed: int) -> None:
    """Writes one clip."""
    encode_clip(
        path,
        moving_frames(look, seed),
        frame_rate=FRAME_RATE,
        audio=_sound(seed),
        sample_rate=_SAMPLE_RATE,
        crf=look.crf,
        preset="medium",
    )


def moving_frames(look: Look, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Yields RGB frames, uint8 (H, W, 3): textured shapes before a textured background, and noise."""
    rng = np.random.default_rng(seed)
    width, height = look.width, look.height
    background = _texture(rng, height + 2 * _MARGIN, width + 2 * _MARGIN, look.scale)
    shapes = [_Shape(rng, look) for _ in range(5)]
    noise = [rng.normal(0, look.noise, (height + 16, width + 16, 1)).astype(np.int16) for _ in range(4)]
    shake = look.unrest * height / 300
    phases = rng.uniform(0, 2 * np.pi, 2)
    for index in range(int(FRAME_RATE * SECONDS)):
        seconds = index / FRAME_RATE
        # A camera held by hand: it drifts, shakes, and is swung round now and then.
        swing = 14 * shake * max(0.0, np.sin(1.9 * seconds + phases[0])) ** 4
        left = _MARGIN * (1 + 0.5 * np.sin(0.5 * seconds + phases[0])) + rng.normal(0, shake + swing)
        top = _MARGIN * (1 + 0.5 * np.sin(0.37 * seconds + phases[1])) + rng.normal(0, shake)
        frame = _shifted(background, top, left, height, width)
        for shape in shapes:
            shape.draw(frame, seconds)
        down, across = rng.integers(0, 16, 2)
        if np.sin(0.9 * seconds + phases[1]) > 1 - look.unrest / 2:
            # Light that flickers: the encoder takes P-frames there, as real clips have more of than calm ones.
            frame = (frame * int(rng.integers(12, 20))) >> 4
        frame += noise[index % len(noise)][down : down + height, across : across + width]
        yield np.clip(frame, 0, 255).astype(np.uint8)


class _Shape:
    """A textured ellipse that crosses the frame, again and again."""

    def __init__(self, rng: np.random.Generator, look: Look) -> None:
        self._width, self._height = look.width, look.height
        self._rows, self._columns = (int(share * look.height) for share in rng.uniform(0.15, 0.45, 2))
        self._textures = [_texture(rng, self._rows, self._columns, look.scale) for _ in range(2)]
        self._pulse = rng.uniform(1, 6)
        down, across = np.mgrid[-1 : 1 : self._rows * 1j, -1 : 1 : self._columns * 1j]
        self._mask = (down**2 + across**2 < 1)[..., None]
        self._start = rng.uniform(0, 1, 2) * (look.height, look.width)
        self._speed = rng.uniform(-0.35, 0.35, 2) * look.height

    def draw(self, frame: NDArray[np.int16], seconds: float) -> None:
        """Draws it over a frame."""
        room = (self._height + self._rows, self._width + self._columns)
        top, left = (
            int((start + seconds * speed) % span) - size
            for start, speed, span, size in zip(
                self._start, self._speed, room, (self._rows, self._columns), strict=True
            )
        )
        rows, columns = slice(max(0, top), top + self._rows), slice(max(0, left), left + self._columns)
        seen = frame[rows, columns]
        first_row, first_column = max(0, -top), max(0, -left)
        mine = (slice(first_row, first_row + seen.shape[0]), slice(first_column, first_column + seen.shape[1]))
        # The texture turns into another one and back, which no motion vector predicts.
        share = round(8 + 8 * np.sin(self._pulse * seconds))
        texture = (self._textures[0][mine] * (16 - share) + self._textures[1][mine] * share) >> 4
        np.copyto(seen, texture, where=self._mask[mine])


def _texture(rng: np.random.Generator, height: int, width: int, scale: float) -> NDArray[np.int16]:
    """Returns colours that vary in steps of 3 to 128 pixels times the scale, int16 (H, W, 3), 16..240."""
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cell, weight in ((128, 1.0), (48, 0.7), (16, 0.4), (6, 0.25), (3, 0.12)):
        cell = round(cell * scale)
        coarse = rng.standard_normal((height // cell + 3, width // cell + 3, 3)).astype(np.float32)
        # Colour varies less than brightness, as it does in the world.
        coarse = 0.8 * coarse[..., :1] + 0.35 * coarse
        total += weight * _enlarged(coarse, cell, height, width)
    total = 128 + 52 * total / total.std()
    return np.clip(total, 16, 240).astype(np.int16)


def _enlarged(coarse: NDArray[np.float32], cell: int, height: int, width: int) -> NDArray[np.float32]:
    """Returns a grid enlarged by ``cell``, smoothly."""
    for axis, size in ((0, height), (1, width)):
        position = np.arange(size) / cell
        first = position.astype(int)
        share = position - first
        share = (share * share * (3 - 2 * share)).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        coarse = np.take(coarse, first, axis) * (1 - share) + np.take(coarse, first + 1, axis) * share
    return coarse


def _shifted(image: NDArray[np.int16], top: float, left: float, height: int, width: int) -> NDArray[np.int16]:
    """Returns a part of an image at a place between pixels, bilinear, int16 (H, W, 3)."""
    top, left = np.clip((top, left), 0, 2 * _MARGIN - 1)
    row, column = int(top), int(left)
    down, across = round(16 * (top - row)), round(16 * (left - column))
    part = image[row : row + height + 1, column : column + width + 1]
    rows = (part[:-1] * (16 - down) + part[1:] * down) >> 4
    shifted: NDArray[np.int16] = (rows[:, :-1] * (16 - across) + rows[:, 1:] * across) >> 4
    return shifted


def _sound(seed: int) -> NDArray[np.float32]:
    """Returns chords that come and go over a hiss, float32 (2, N)."""
    rng = np.random.default_rng(seed + 1000)
    times = np.arange(int(SECONDS * _SAMPLE_RATE)) / _SAMPLE_RATE
    sound = rng.normal(0, 0.02, (2, len(times)))
    for _ in range(12):
        pitch, begin = 110 * 2 ** rng.uniform(0, 4), rng.uniform(0, SECONDS - 1)
        envelope = np.exp(-((times - begin) ** 2) / 0.3)
        sound += rng.uniform(0.02, 0.08, (2, 1)) * envelope * np.sin(2 * np.pi * pitch * times)
    return sound.astype(np.float32)
