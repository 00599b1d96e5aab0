"""What happens in a sandbox video: the one thing that its motion, its sound and its title have in common.

The class (`Action`), the tempo and the place are shared by the three modalities; everything else about a clip (shape,
colours, background, key, loudness, wording) is chance. Directions that a mirror image would swap are left out, since
training mirrors its frames.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b


def seeded(*parts: object) -> random.Random:
    """Returns a generator that depends on the parts alone, on any machine and in any process."""
    digest = blake2b("\0".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return random.Random(int.from_bytes(digest))


class Action(StrEnum):
    """The classes of the miniature Kinetics, in the order in which ``num_classes`` takes them."""

    SLIDING = "sliding sideways"
    BOUNCING = "bouncing up and down"
    CIRCLING = "circling around"
    STANDING = "standing still"
    PULSING = "growing and shrinking"
    CROSSING = "crossing diagonally"
    BLINKING = "blinking on and off"
    HOPPING = "hopping about"
    FIGURE_EIGHT = "skating a figure eight"
    SPIRALLING = "spiralling outwards"


class Tempo(StrEnum):
    """How fast the motion and the beat are."""

    SLOW = "slow"
    MEDIUM = "medium"
    FAST = "fast"

    @property
    def period_seconds(self) -> float:
        """Length of one cycle of the motion and of one beat of the sound, seconds."""
        return {Tempo.SLOW: 1.6, Tempo.MEDIUM: 0.9, Tempo.FAST: 0.5}[self]


class Place(StrEnum):
    """Upper or lower part of the picture; high or low register of the sound."""

    HIGH = "high"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class Scene:
    """What a video shows, sounds and is called after."""

    action: Action
    tempo: Tempo
    place: Place


def scene_of(seed: int, youtube_id: str) -> Scene:
    """Returns the scene of a video: a pure function of the world's seed and the id."""
    rng = seeded("scene", seed, youtube_id)
    return Scene(rng.choice(tuple(Action)), rng.choice(tuple(Tempo)), rng.choice(tuple(Place)))
