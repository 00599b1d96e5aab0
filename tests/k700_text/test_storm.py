"""A storm over the services: no wrong title, no live video called gone, no limit broken, and it comes to an end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from k700_text.crawl.crawler import CrawlSettings, crawl
from k700_text.crawl.ledger import Ledger, read_videos
from k700_text.crawl.registry import make_sources
from k700_text.crawl.transport import Endpoints, Limits
from k700_text.crawl.verdict import judge
from k700_text.records import Availability
from k700_text.sandbox.budgets import Budgets
from k700_text.sandbox.faults import Storm
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World, WorldConfig
from k700_text.titles import clean_plain_title
from tests.k700_text.crawling import FastClock, make_ids

ENDPOINTS = ("data-api", "oembed", "thumbnail", "wayback", "archive-item")
MAX_RUNS = 12
# Real seconds that a request or an answer may be late on its way on a busy machine.
JITTER_SECONDS = 0.1


def crawl_through(path: Path, world: World, ids: list[str], speed: float, seed: int) -> tuple[list[str], Storm]:
    """Crawls at the published pace, on a clock that is faster than the wall's, until nothing is left.

    Returns:
        The limits that were broken, and the storm with its counts.
    """
    clock = FastClock(speed)
    storm = Storm(seed, hang_seconds=1.2, slow_seconds=1.5)
    budgets = Budgets(jitter_seconds=JITTER_SECONDS * speed)
    with SandboxServer(world, clock=clock.timestamp, storm=storm, budgets=budgets) as server:
        places = Endpoints(dict.fromkeys(ENDPOINTS, server.url))
        settings = CrawlSettings(max_wait_seconds=1e6, limits=Limits(read_seconds=0.6, total_seconds=1.0))
        for _ in range(MAX_RUNS):
            sources = make_sources(endpoints=places, environment={"YOUTUBE_API_KEY": "any"})
            with Ledger(path) as ledger:
                num_ids = ledger.want(ids)
                if not crawl(ledger, sources, settings, num_ids=num_ids, clock=clock).work_left:
                    return server.violations(), storm
    raise AssertionError(f"work is left after {MAX_RUNS} runs")


def check_truth(path: Path, world: World, ids: list[str]) -> Counter[str]:
    """Holds what the ledger says against the world, and returns what was recovered."""
    found: Counter[str] = Counter()
    for video in read_videos(path):
        truth = world.video(video.youtube_id)
        state, sources = judge(video.youtube_id, video.outcomes)
        assert not (state.is_gone and truth.availability.is_alive), (video, truth.availability)
        assert not (state.is_alive and not truth.availability.is_alive), (video, truth.availability)
        titles = {outcome.title for outcome in video.outcomes if outcome.title is not None}
        assert titles <= {clean_plain_title(truth.title)}, (video, truth.title)
        expected = clean_plain_title(truth.title) if truth.availability.is_alive else None
        recoverable = world.recoverable_title(video.youtube_id)
        expected = expected or (clean_plain_title(recoverable) if recoverable else None)
        assert expected is None or titles == {expected}, (video, recoverable)
        found["videos"] += 1
        found["titles"] += bool(titles)
        found["gone"] += state.is_gone
        found["agreed"] += state is not Availability.UNKNOWN and bool(sources)
    assert found["videos"] == len(ids)
    return found


def test_a_storm_brings_no_wrong_title_no_false_death_and_no_broken_limit(tmp_path: Path) -> None:
    world, ids = World(0, WorldConfig.hostile()), make_ids(220)
    violations, storm = crawl_through(tmp_path / "ledger.sqlite", world, ids, speed=150, seed=1)
    assert violations == []
    found = check_truth(tmp_path / "ledger.sqlite", world, ids)
    assert sum(storm.struck.values()) > 12
    assert found["gone"] >= 12 and found["titles"] > 170


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [2, 3])
def test_a_long_storm_on_a_slower_clock(tmp_path: Path, seed: int) -> None:
    world, ids = World(0, WorldConfig.hostile()), make_ids(2000, f"storm {seed}")
    violations, storm = crawl_through(tmp_path / "ledger.sqlite", world, ids, speed=25, seed=seed)
    assert violations == []
    found = check_truth(tmp_path / "ledger.sqlite", world, ids)
    assert len({fault for _, fault in storm.struck}) >= 11
    assert found["gone"] >= 150 and found["titles"] > 1700
