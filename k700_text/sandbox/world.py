"""The seeded world behind the sandbox: a pure function from a video id to what every service knows about that video.

There is no table: any id, also a real one, gets the same answer for the same seed, in any process.
"""

from __future__ import annotations

import base64
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType

from k700_text.errors import ConfigError
from k700_text.records import POSSIBLE_YOUTUBE_ID_PATTERN, Availability, Clip, Split
from k700_text.sandbox.captures import CaptureShares, WebArchive
from k700_text.sandbox.mirrors import Mirror, MirrorShares, mirror_of
from k700_text.sandbox.scene import Action, Scene, scene_of, seeded
from k700_text.sandbox.titles import ODD_TITLES, make_title

DEFAULT_SHARES: Mapping[Availability, float] = MappingProxyType(
    {
        Availability.PUBLIC: 0.83,
        Availability.UNLISTED: 0.01,
        Availability.EMBEDDING_OFF: 0.03,
        Availability.AGE_RESTRICTED: 0.01,
        Availability.GEO_BLOCKED: 0.01,
        Availability.MEMBERS_ONLY: 0.005,
        Availability.PRIVATE: 0.04,
        Availability.REMOVED: 0.02,
        Availability.TERMINATED: 0.015,
        Availability.COPYRIGHT: 0.01,
        Availability.NOT_FOUND: 0.02,
    }
)
# The lengths whose spellings a careless reader of ISO 8601 trips over: PT59S, PT1H, P1DT2H3S, P0D.
_ODD_DURATIONS = (59, 3600, 93_603, 86_400, 0)
_LANGUAGES = (None, None, "en", "en", "en", "en-US", "de", "es", "ja", "ru", "pt-BR")
_FIRST_UPLOAD = datetime(2006, 1, 1, tzinfo=UTC)
_LAST_UPLOAD = datetime(2019, 12, 31, tzinfo=UTC)
_FIRST_DEATH = datetime(2019, 1, 1, tzinfo=UTC)
_LAST_CAPTURE = datetime(2025, 6, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """How the world is made up."""

    shares: Mapping[Availability, float] = field(default_factory=lambda: DEFAULT_SHARES)
    """Share of the videos in each state; adds up to 1."""
    archived: float = 0.5
    """Share of the videos of which the web archive holds captures."""
    uninformative_titles: float = 0.08
    """Share of titles without a word about what the video shows."""
    hostile_titles: float = 0.03
    """Share of titles with markup, formulas, control characters or right-to-left text."""
    empty_titles: float = 0.003
    """Share of empty titles."""
    odd_titles: float = 0.0
    """Share of videos whose own title is what pages without a video are called: ``Private video``, ``YouTube``."""
    odd_durations: float = 0.0
    """Share of videos whose length is spelled in an unusual way."""
    private_401: float = 0.0
    """Share of the private videos to which oEmbed answers 401, as if their embedding were switched off."""
    captures: CaptureShares = field(default_factory=CaptureShares)
    """What is odd about the captures of the web archive."""
    mirrors: MirrorShares = field(default_factory=MirrorShares)
    """How many videos are mirrored as items of the archive."""

    @classmethod
    def hostile(cls) -> WorldConfig:
        """Returns a world in which a crawl of a few hundred videos meets every oddity there is.

        States, scenes and captures are where they are in the ordinary world; a few titles and lengths are others.
        """
        return cls(
            odd_titles=0.02,
            odd_durations=0.02,
            private_401=0.3,
            captures=CaptureShares.hostile(),
            mirrors=MirrorShares(mirrored=0.1, dark=0.2, other_names=0.5, title_lists=0.2, foreign=0.05),
        )

    def __post_init__(self) -> None:
        titles = (self.uninformative_titles, self.hostile_titles, self.empty_titles, self.odd_titles)
        numbers = (*titles, self.archived, self.odd_durations, self.private_401, *self.shares.values())
        if any(not 0 <= share <= 1 for share in numbers):
            raise ConfigError("shares of the sandbox world must be in 0..1")
        if not math.isclose(sum(self.shares.values()), 1, abs_tol=1e-6):
            raise ConfigError(f"shares of the states must add up to 1, they add up to {sum(self.shares.values()):g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxVideo:
    """All that is true about one video of the sandbox.

    Attributes:
        youtube_id: 11 characters.
        availability: the state it is in now; MALFORMED for an impossible id.
        title: raw, as the services spell it; may be empty, hold control characters, markup or any script.
        author_name: name of the channel.
        published_at: upload time (UTC, whole seconds).
        duration_seconds: length of the video; 0 for a broadcast that never ended.
        language: language as declared by the uploader (BCP 47), else None.
        translations: title by language, where the uploader gave translations.
        is_embeddable: whether oEmbed may answer.
        died_at: when the video went away; None while it can be watched.
        captures: when the web archive captured the watch page (UTC, ascending).
        scene: what the video shows.
    """

    youtube_id: str
    availability: Availability
    title: str
    author_name: str
    published_at: datetime
    duration_seconds: int
    language: str | None
    translations: Mapping[str, str]
    is_embeddable: bool
    died_at: datetime | None
    captures: tuple[datetime, ...]
    scene: Scene

    @property
    def channel_id(self) -> str:
        """Id of the channel that published the video."""
        return "UC" + _random_text(seeded("channel", self.author_name), 22)


class World:
    """The sandbox's truth about every video.

    Args:
        seed: another seed is another world.
        config: shares of states and kinds of titles.
    """

    def __init__(self, seed: int = 0, config: WorldConfig | None = None) -> None:
        self.seed = seed
        self.config = config or WorldConfig()
        self._cached = lru_cache(maxsize=100_000)(self._make_video)
        self.archive = WebArchive(seed, self.config.captures, self.video)

    def video(self, youtube_id: str) -> SandboxVideo:
        """Returns the video of an id; any text is answered, impossible ids as MALFORMED."""
        return self._cached(youtube_id)

    def scene(self, youtube_id: str) -> Scene:
        """Returns what a video shows, also when it is not on the web any more."""
        return scene_of(self.seed, youtube_id)

    def recoverable_title(self, youtube_id: str) -> str | None:
        """Returns the raw title that the web archive tells to everybody who asks for all captures; None without one.

        A test's oracle: nothing but the world decides, whatever way a crawler takes to the capture.
        """
        return self.archive.recoverable_title(youtube_id)

    def mirror(self, youtube_id: str) -> Mirror | None:
        """Returns the item of the archive that is named after a video, None without one."""
        return mirror_of(self.seed, self.config.mirrors, youtube_id)

    def mirrored_title(self, youtube_id: str) -> str | None:
        """Returns the raw title that an item of the archive tells about this video; None without one."""
        mirror = self.mirror(youtube_id)
        return (self.video(youtube_id).title or None) if mirror and mirror.has_title else None

    def random_ids(self, purpose: str) -> Iterator[str]:
        """Yields possible ids without end; another purpose gives other ids."""
        rng = seeded("ids", self.seed, purpose)
        while True:
            yield base64.urlsafe_b64encode(rng.randbytes(8)).decode().rstrip("=")

    def _make_video(self, youtube_id: str) -> SandboxVideo:
        rng = seeded("video", self.seed, youtube_id)
        possible = POSSIBLE_YOUTUBE_ID_PATTERN.fullmatch(youtube_id) is not None
        availability = self._draw_availability(rng) if possible else Availability.MALFORMED
        published_at = _moment(rng, _FIRST_UPLOAD, _LAST_UPLOAD)
        died_at = _moment(rng, max(published_at, _FIRST_DEATH), _LAST_CAPTURE) if availability.is_gone else None
        scene = self.scene(youtube_id)
        title = make_title(
            rng,
            scene,
            uninformative=self.config.uninformative_titles,
            hostile=self.config.hostile_titles,
            empty=self.config.empty_titles,
        )
        odd = seeded("odd", self.seed, youtube_id)
        title = odd.choice(ODD_TITLES) if odd.random() < self.config.odd_titles else title
        language = rng.choice(_LANGUAGES)
        translated = language is not None and rng.random() < 0.1
        author_name = f"{rng.choice(('Happy', 'Ultra', 'Little', 'Señor', 'Видео', 'team'))} {rng.randrange(1, 900)}"
        duration = 0 if rng.random() < 0.002 else int(math.exp(rng.uniform(math.log(12), math.log(3600))))
        return SandboxVideo(
            youtube_id=youtube_id,
            availability=availability,
            title=title,
            author_name=author_name,
            published_at=published_at,
            duration_seconds=odd.choice(_ODD_DURATIONS) if odd.random() < self.config.odd_durations else duration,
            language=language,
            translations=MappingProxyType({"fr": f"(fr) {title}", "hi": f"(हिन्दी) {title}"} if translated else {}),
            is_embeddable=_draw_embeddable(rng, availability),
            died_at=died_at,
            captures=self._draw_captures(rng, published_at) if possible else (),
            scene=scene,
        )

    def _draw_availability(self, rng: random.Random) -> Availability:
        states = tuple(self.config.shares)
        return rng.choices(states, weights=[self.config.shares[state] for state in states])[0]

    def _draw_captures(self, rng: random.Random, published_at: datetime) -> tuple[datetime, ...]:
        if rng.random() >= self.config.archived:
            return ()
        return tuple(sorted(_moment(rng, published_at, _LAST_CAPTURE) for _ in range(rng.randint(1, 4))))


def _draw_embeddable(rng: random.Random, availability: Availability) -> bool:
    if availability in (Availability.AGE_RESTRICTED, Availability.GEO_BLOCKED):
        # Reports differ: mostly answered with the title, sometimes refused.
        return rng.random() < 0.8
    return availability is not Availability.EMBEDDING_OFF


def _moment(rng: random.Random, first: datetime, last: datetime) -> datetime:
    return first + timedelta(seconds=int(rng.random() * max((last - first).total_seconds(), 1)))


def _random_text(rng: random.Random, length: int) -> str:
    return "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-", k=length))


@dataclass(frozen=True, slots=True)
class Miniature:
    """A miniature Kinetics: its annotations, and the world that its videos live in."""

    world: World
    clips: tuple[Clip, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return tuple(sorted({clip.label for clip in self.clips if clip.label is not None}))

    def split(self, split: Split) -> tuple[Clip, ...]:
        """Returns the clips of one split."""
        return tuple(clip for clip in self.clips if clip.split is split)


def make_kinetics(
    world: World,
    *,
    num_classes: int = 10,
    clips_per_class: int = 60,
    val_per_class: int = 10,
    test_per_class: int = 10,
    annotated_twice: float = 0.02,
) -> Miniature:
    """Returns a miniature Kinetics whose clips show their class.

    Args:
        world: where the videos live; the same world gives the same miniature.
        num_classes: 1 to 10 (the actions that the sandbox can draw).
        clips_per_class: training clips of each class, each from another video.
        val_per_class: validation clips of each class.
        test_per_class: test clips of each class.
        annotated_twice: chance that a training video carries a second clip with the next label, as in Kinetics.

    Raises:
        ConfigError: a count is out of range.
    """
    if not 1 <= num_classes <= len(Action):
        raise ConfigError(f"num_classes must be in 1..{len(Action)}, got {num_classes}")
    if min(clips_per_class, val_per_class, test_per_class) < 0:
        raise ConfigError("numbers of clips per class must not be negative")
    actions = tuple(Action)[:num_classes]
    clips: list[Clip] = []
    for split, count in ((Split.TRAIN, clips_per_class), (Split.VAL, val_per_class), (Split.TEST, test_per_class)):
        for youtube_id, action in ids_by_action(world, f"kinetics {split}", actions, count):
            clips.append(_annotate(world, youtube_id, split, action))
            rng = seeded("twice", world.seed, youtube_id)
            if split is Split.TRAIN and num_classes > 1 and rng.random() < annotated_twice:
                other = actions[(actions.index(action) + 1) % num_classes]
                clips.append(_annotate(world, youtube_id, split, other, after=clips[-1].end_seconds))
    clips.sort(key=lambda clip: (clip.split, clip.label or "", clip.clip_id))
    return Miniature(world, tuple(clips))


def ids_by_action(world: World, purpose: str, actions: tuple[Action, ...], count: int) -> Iterator[tuple[str, Action]]:
    """Yields ``count`` new ids for each action, with the action that their videos show."""
    wanted = dict.fromkeys(actions, count)
    ids = world.random_ids(purpose)
    while any(wanted.values()):
        youtube_id = next(ids)
        action = world.scene(youtube_id).action
        if wanted.get(action, 0) > 0:
            wanted[action] -= 1
            yield youtube_id, action


def _annotate(world: World, youtube_id: str, split: Split, action: Action, after: float = 0.0) -> Clip:
    rng = seeded("annotation", world.seed, youtube_id, action)
    length = rng.choice((4, 5, 5, 5, 6))
    latest = max(int(after), world.video(youtube_id).duration_seconds - length)
    start = rng.randint(int(after), latest)
    return Clip(
        youtube_id=youtube_id,
        split=split,
        start_seconds=float(start),
        end_seconds=float(start + length),
        label=str(action),
    )
