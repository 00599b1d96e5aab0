"""Which videos somebody mirrored as an item of the archive, under which name, and what is wrong with the item."""

from __future__ import annotations

from dataclasses import dataclass

from k700_text.errors import ConfigError
from k700_text.sandbox.scene import seeded


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorShares:
    """How many videos are mirrored."""

    mirrored: float = 0.03
    """Share of the videos that have an item."""
    dark: float = 0.1
    """Share of the items that are hidden."""
    other_names: float = 0.2
    """Share of the items with another form of name than ``youtube-<ID>``."""
    title_lists: float = 0.0
    """Share of the items whose title is a list."""
    foreign: float = 0.0
    """Share of the other ids whose name an item has that is about another video."""

    def __post_init__(self) -> None:
        shares = (self.mirrored, self.dark, self.other_names, self.title_lists, self.foreign)
        if not all(0 <= share <= 1 for share in shares):
            raise ConfigError("shares of the sandbox mirrors must be in 0..1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """One item.

    Attributes:
        item: its name: ``youtube-<ID>``, ``youtube_<ID>`` or the bare id.
        is_dark: hidden: nothing of it is told.
        has_title_list: its title is a list, as every field of an item may be.
        is_foreign: it is about another video, though its name is the id.
    """

    item: str
    is_dark: bool
    has_title_list: bool
    is_foreign: bool

    @property
    def has_title(self) -> bool:
        """It tells the title of the video whose id it is named after."""
        return not self.is_dark and not self.is_foreign


def mirror_of(seed: int, shares: MirrorShares, youtube_id: str) -> Mirror | None:
    """Returns the item of a video, None without one: a pure function of the world's seed and the id."""
    rng = seeded("archive item", seed, youtube_id)
    more = seeded("archive item details", seed, youtube_id)
    draws = [more.random() for _ in range(3)]
    if rng.random() >= shares.mirrored:
        is_foreign = draws[0] < shares.foreign
        return Mirror(item=youtube_id, is_dark=False, has_title_list=False, is_foreign=True) if is_foreign else None
    is_dark = rng.random() < shares.dark
    prefix = "youtube-"
    if draws[1] < shares.other_names:
        prefix = "youtube_" if draws[1] < shares.other_names / 2 else ""
    has_title_list = draws[2] < shares.title_lists
    return Mirror(item=f"{prefix}{youtube_id}", is_dark=is_dark, has_title_list=has_title_list, is_foreign=False)
