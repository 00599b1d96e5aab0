"""The world is a pure function of seed and id, keeps its shares, and names what happens in its titles."""

from __future__ import annotations

import csv
import unicodedata
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from k700_text.errors import ConfigError
from k700_text.records import POSSIBLE_YOUTUBE_ID_PATTERN, Availability, Split
from k700_text.sandbox.mirrors import MirrorShares
from k700_text.sandbox.scene import Action
from k700_text.sandbox.titles import ODD_TITLES
from k700_text.sandbox.world import DEFAULT_SHARES, World, WorldConfig, make_kinetics


def test_same_seed_same_video_in_any_order() -> None:
    first, second = World(3), World(3)
    ids = list(islice(first.random_ids("test"), 50))
    forward = [first.video(youtube_id) for youtube_id in ids]
    backward = [second.video(youtube_id) for youtube_id in reversed(ids)]
    assert forward == list(reversed(backward))
    assert forward != [World(4).video(youtube_id) for youtube_id in ids]


def test_shares_are_kept() -> None:
    world = World(0)
    counts = Counter(world.video(youtube_id).availability for youtube_id in islice(world.random_ids("shares"), 5000))
    for availability, share in DEFAULT_SHARES.items():
        assert counts[availability] / 5000 == pytest.approx(share, abs=4 * (share * (1 - share) / 5000) ** 0.5)


@pytest.mark.parametrize("youtube_id", ["aaaaaaaaaaa", "dQw4w9WgXc1", "short", "twelve_chars", "bad!chars..", ""])
def test_impossible_ids_are_malformed(youtube_id: str) -> None:
    video = World(0).video(youtube_id)
    assert video.availability is Availability.MALFORMED
    assert video.captures == ()


def test_a_dead_video_died_after_it_was_published_and_a_live_one_did_not() -> None:
    world = World(0)
    for youtube_id in islice(world.random_ids("death"), 500):
        video = world.video(youtube_id)
        assert (video.died_at is not None) == video.availability.is_gone
        assert video.died_at is None or video.died_at > video.published_at
        assert list(video.captures) == sorted(video.captures)
        assert all(captured_at >= video.published_at for captured_at in video.captures)


def test_titles_hold_what_careless_software_trips_over() -> None:
    world = World(0, WorldConfig(hostile_titles=0.5, empty_titles=0.1))
    titles = [world.video(youtube_id).title for youtube_id in islice(world.random_ids("titles"), 800)]
    assert "" in titles
    for sign in ("=", "+", "@", "<script>", "&", "\n", "\x00", "🏳️‍🌈", "\u202e"):
        assert any(sign in title for title in titles), sign
    bidirectional = {unicodedata.bidirectional(character) for title in titles for character in title}
    assert {"R", "AL", "L"} <= bidirectional
    assert max(map(len, titles)) >= 90


def test_a_hostile_world_has_odd_titles_and_lengths_and_else_the_same_videos() -> None:
    ordinary, hostile = World(0), World(0, WorldConfig.hostile())
    ids = list(islice(ordinary.random_ids("hostile"), 1500))
    pairs = [(ordinary.video(youtube_id), hostile.video(youtube_id)) for youtube_id in ids]
    assert {other.title for video, other in pairs if other.title != video.title} == set(ODD_TITLES)
    assert {other.duration_seconds for video, other in pairs if other.duration_seconds != video.duration_seconds} == {
        0, 59, 3600, 86_400, 93_603,
    }  # fmt: skip
    odd = sum(video != other for video, other in pairs)
    assert 0.02 < odd / len(pairs) < 0.07
    assert all((video.availability, video.scene) == (other.availability, other.scene) for video, other in pairs)


@pytest.mark.parametrize(
    "settings",
    [{"archived": 1.5}, {"shares": {Availability.PUBLIC: 0.5}}, {"hostile_titles": -0.1}, {"odd_titles": 2}],
)
def test_bad_shares_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="shares"):
        WorldConfig(**settings)


def test_miniature_has_the_asked_clips() -> None:
    miniature = make_kinetics(World(0), num_classes=4, clips_per_class=20, val_per_class=3, test_per_class=2)
    assert miniature.labels == tuple(sorted(str(action) for action in tuple(Action)[:4]))
    assert len(miniature.split(Split.VAL)) == 12 and len(miniature.split(Split.TEST)) == 8
    train = miniature.split(Split.TRAIN)
    assert len({clip.youtube_id for clip in train}) == 80 <= len(train)
    assert len({clip.clip_id for clip in miniature.clips}) == len(miniature.clips)
    for clip in miniature.clips:
        assert POSSIBLE_YOUTUBE_ID_PATTERN.fullmatch(clip.youtube_id)
        assert 4 <= clip.end_seconds - clip.start_seconds <= 6
    ids_by_split = [{clip.youtube_id for clip in miniature.split(split)} for split in Split]
    assert not set.intersection(*ids_by_split)


def test_some_videos_carry_two_clips_with_two_labels() -> None:
    miniature = make_kinetics(World(0), annotated_twice=0.5)
    twice = [youtube_id for youtube_id, count in Counter(c.youtube_id for c in miniature.clips).items() if count == 2]
    assert 200 < len(twice) < 400
    for youtube_id in twice[:20]:
        first, second = sorted(
            (clip for clip in miniature.clips if clip.youtube_id == youtube_id), key=lambda clip: clip.start_seconds
        )
        assert first.label != second.label and first.end_seconds <= second.start_seconds


def test_titles_tell_the_class_tempo_and_place_mostly() -> None:
    world = World(0)
    miniature = make_kinetics(world, clips_per_class=40)
    stems = {
        Action.SLIDING: ("sli", "side"),
        Action.BOUNCING: ("bounc",),
        Action.CIRCLING: ("circ", "round"),
        Action.STANDING: ("stand", "still", "motion"),
        Action.PULSING: ("grow", "puls"),
        Action.CROSSING: ("cross", "corner", "diagonal"),
        Action.BLINKING: ("blink", "flash"),
        Action.HOPPING: ("hop",),
        Action.FIGURE_EIGHT: ("eight", "figure"),
        Action.SPIRALLING: ("spiral",),
    }
    clips = [clip for clip in miniature.split(Split.VAL) if clip.label]
    told = [
        any(stem in world.video(clip.youtube_id).title.lower() for stem in stems[Action(clip.label or "")])
        for clip in clips
    ]
    assert sum(told) / len(told) > 0.8


@pytest.mark.parametrize("settings", [{"num_classes": 0}, {"num_classes": 11}, {"clips_per_class": -1}])
def test_bad_counts_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        make_kinetics(World(0), **settings)


@pytest.mark.realdata
def test_real_ids_get_stable_answers(real_data: Path) -> None:
    path = real_data / "kinetics/rocksyne/kinetics700/validate.csv"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    with path.open(encoding="utf-8", newline="") as file:
        ids = sorted({row["youtube_id"] for row in csv.DictReader(file)})
    world = World(0)
    sample = ids[::20]
    availabilities = Counter(world.video(youtube_id).availability for youtube_id in sample)
    assert availabilities[Availability.MALFORMED] == 0
    assert availabilities[Availability.PUBLIC] / len(sample) == pytest.approx(0.83, abs=0.04)


@pytest.mark.parametrize("settings", [{"mirrored": -1}, {"foreign": 1.1}])
def test_bad_shares_of_mirrors_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="mirrors"):
        MirrorShares(**settings)


def test_a_known_id_is_the_same_on_every_machine() -> None:
    video = World(0).video("dQw4w9WgXcQ")
    found = (video.availability, video.duration_seconds, video.published_at.isoformat())
    assert found == (Availability.PUBLIC, 226, "2010-03-20T13:43:58+00:00")
