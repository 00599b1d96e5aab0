"""The picture of a generated clip: one shape that moves as its class says, before a background that says nothing.

Shape, size, colours, texture, distractors and the phase of the motion are drawn at random, so that a single frame does
not tell the class. Positions are fractions of the frame: (0, 0) is the upper left corner.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from k700_text.sandbox.scene import Action, Place, Scene, seeded

SHAPES = ("disc", "square", "triangle", "ring", "star")
# The reach in x keeps the motion inside the square that a loader cuts from the middle of a 4:3 frame.
_REACH_X, _REACH_Y = 0.28, 0.24
_CENTRE_Y = {Place.HIGH: 0.36, Place.LOW: 0.64}


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the shape is at one moment: centre (fractions of the frame), size factor, and whether it shows."""

    x: float
    y: float
    scale: float = 1.0
    is_visible: bool = True


@dataclass(frozen=True, slots=True)
class Look:
    """Chance choices that hold for a whole video, all its clips included."""

    shape: str
    radius: float
    angle: float
    colour: tuple[int, int, int]
    phase: float
    centre_x: float
    jitter_y: float
    sign: int
    seed: str


def draw_look(seed: int, youtube_id: str) -> Look:
    """Returns the look of a video: a pure function of the world's seed and the id."""
    rng = seeded("look", seed, youtube_id)
    return Look(
        shape=rng.choice(SHAPES),
        radius=rng.uniform(0.13, 0.19),
        angle=rng.uniform(0, 2 * math.pi),
        colour=_colour_between(rng, 190, 255),
        phase=rng.random(),
        centre_x=rng.uniform(0.45, 0.55),
        jitter_y=rng.uniform(-0.03, 0.03),
        sign=rng.choice((-1, 1)),
        seed=f"{seed}/{youtube_id}",
    )


def pose_at(scene: Scene, look: Look, seconds: float) -> Pose:
    """Returns where the shape is.

    Args:
        scene: the action, its tempo and its place.
        look: the chance choices of the video.
        seconds: time in the video.
    """
    cycles = seconds / scene.tempo.period_seconds + look.phase
    turn = 2 * math.pi * cycles
    x, y = look.centre_x, _CENTRE_Y[scene.place] + look.jitter_y
    anywhere = 0.5 + (look.centre_x - 0.5) * 6
    match scene.action:
        case Action.SLIDING:
            return Pose(x + _REACH_X * math.sin(turn), y)
        case Action.BOUNCING:
            return Pose(anywhere, y + _REACH_Y * math.sin(turn))
        case Action.CIRCLING:
            return Pose(x + 0.75 * _REACH_Y * math.cos(turn), y + look.sign * _REACH_Y * math.sin(turn))
        case Action.STANDING:
            return Pose(anywhere, y)
        case Action.PULSING:
            return Pose(anywhere, y, scale=1.0 + 0.6 * math.sin(turn))
        case Action.CROSSING:
            way = 4 * abs(cycles % 1 - 0.5) - 1
            return Pose(x + _REACH_X * way, y + look.sign * _REACH_Y * way)
        case Action.BLINKING:
            return Pose(anywhere, y, is_visible=cycles % 1 < 0.5)
        case Action.HOPPING:
            rng = seeded("hop", look.seed, math.floor(2 * cycles))
            return Pose(x + _REACH_X * rng.uniform(-1, 1), y + _REACH_Y * rng.uniform(-1, 1))
        case Action.FIGURE_EIGHT:
            return Pose(x + _REACH_X * math.sin(turn), y + look.sign * _REACH_Y * math.sin(2 * turn))
        case Action.SPIRALLING:
            reach = (cycles / 2) % 1
            return Pose(x + _REACH_X * reach * math.cos(turn), y + look.sign * _REACH_Y * reach * math.sin(turn))


def render(
    scene: Scene,
    look: Look,
    *,
    start_seconds: float,
    num_frames: int,
    frame_rate: float,
    height: int,
    width: int,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yields the frames of a clip, RGB uint8 (height, width, 3)."""
    background = _background(look, height, width)
    canvas = background.copy()
    for index in range(num_frames):
        pose = pose_at(scene, look, start_seconds + index / frame_rate)
        if not pose.is_visible:
            yield background.copy()
            continue
        box = _paint(canvas, look.shape, pose.x * width, pose.y * height, look.radius * height * pose.scale, look)
        yield canvas.copy()
        canvas[box] = background[box]


def _background(look: Look, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Returns a dark gradient with a faint texture and perhaps a dim still shape; the moving shape is brighter."""
    rng = seeded("background", look.seed)
    first, second = (_colour_between(rng, 0, 60) for _ in range(2))
    ramp = np.linspace(0, 1, width)[None, :, None] if rng.random() < 0.5 else np.linspace(0, 1, height)[:, None, None]
    picture = np.array(first) * (1 - ramp) + np.array(second) * ramp
    picture = np.broadcast_to(picture, (height, width, 3)).copy()
    noise = np.random.default_rng(rng.getrandbits(32))
    cell = rng.choice((4, 8, 16))
    texture = noise.normal(0, rng.uniform(0, 5), (height // cell + 1, width // cell + 1, 1))
    picture += texture.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    canvas: npt.NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        dim = replace(look, angle=rng.uniform(0, 6), colour=_colour_between(rng, 40, 90))
        x, y = rng.uniform(0, 1) * width, rng.uniform(0, 1) * height
        _paint(canvas, rng.choice(SHAPES), x, y, rng.uniform(0.05, 0.10) * height, dim)
    return canvas


def _colour_between(rng: random.Random, low: int, high: int) -> tuple[int, int, int]:
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def _paint(
    canvas: npt.NDArray[np.uint8], shape: str, x: float, y: float, radius: float, look: Look
) -> tuple[slice, slice]:
    """Draws a shape with soft edges and returns the box that it changed (x, y, radius in pixels)."""
    height, width, _ = canvas.shape
    rows = slice(max(int(y - radius) - 2, 0), min(int(y + radius) + 3, height))
    columns = slice(max(int(x - radius) - 2, 0), min(int(x + radius) + 3, width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return slice(0, 0), slice(0, 0)
    dy = np.arange(rows.start, rows.stop)[:, None] - y
    dx = np.arange(columns.start, columns.stop)[None, :] - x
    cover = np.clip(0.5 - _distance(shape, dx, dy, radius, look.angle), 0, 1)[..., None]
    patch = canvas[rows, columns]
    canvas[rows, columns] = (patch + cover * (np.array(look.colour) - patch)).astype(np.uint8)
    return rows, columns


def _distance(
    shape: str, dx: npt.NDArray[np.float64], dy: npt.NDArray[np.float64], radius: float, angle: float
) -> npt.NDArray[np.float64]:
    """Returns about how many pixels a point lies outside (negative: inside) of the shape."""
    away = np.hypot(dx, dy)
    if shape == "disc":
        return np.asarray(away - 0.9 * radius)
    if shape == "ring":
        return np.asarray(np.abs(away - 0.75 * radius) - 0.22 * radius)
    direction = np.arctan2(dy, dx) + angle
    if shape == "star":
        return np.asarray(away - radius * (0.7 + 0.3 * np.cos(5 * direction)))
    corners = 4 if shape == "square" else 3
    sector = 2 * math.pi / corners
    return np.asarray(away * np.cos(direction % sector - sector / 2) - radius * math.cos(sector / 2))
