"""A clock that is set by a day, forth and back, during a crawl and between two of them."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from k700_text.crawl import clock as module
from k700_text.crawl.crawler import CrawlSettings, _Lanes, crawl
from k700_text.crawl.ledger import Ledger
from k700_text.crawl.limiter import Clock, HostState
from k700_text.crawl.registry import make_sources
from k700_text.crawl.transport import Endpoints
from k700_text.sandbox.messages import Answer
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World
from tests.k700_text.crawling import make_ids

DAY = timedelta(days=1)


class SetClock:
    """The clock of the machine, as somebody sets it."""

    offset = timedelta(0)


class SetDatetime(datetime):
    """Reads it."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> SetDatetime:  # type: ignore[override]
        moment = datetime.now(tz) + SetClock.offset
        return cls(*moment.timetuple()[:6], moment.microsecond, moment.tzinfo)


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[timedelta], None]]:
    """Sets the clock for everything that reads it in this package."""
    real_time = time.time
    monkeypatch.setattr(time, "time", lambda: real_time() + SetClock.offset.total_seconds())
    for name, each in list(sys.modules.items()):
        if name.startswith("k700_text.crawl") and vars(each).get("datetime") is datetime:
            monkeypatch.setattr(each, "datetime", SetDatetime)

    def set_to(offset: timedelta) -> None:
        SetClock.offset = offset

    yield set_to
    SetClock.offset = timedelta(0)
    monkeypatch.undo()
    module.begin()


@pytest.mark.parametrize("days", [(1, -1), pytest.param((-1, -2), marks=pytest.mark.slow)])
def test_a_clock_that_jumps_during_a_crawl_neither_stalls_it_nor_spends_more(
    set_clock: Callable[[timedelta], None], days: tuple[int, int], tmp_path: Path
) -> None:
    ids = make_ids(300)
    done = threading.Event()

    def keep_setting() -> None:
        while not done.is_set():
            for day in (0, *days):
                set_clock(day * DAY)
                done.wait(0.03)

    began, before = time.monotonic(), datetime.now(UTC)
    with SandboxServer(World(seed=0)) as server, Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.want(ids)
        busy = Answer(status=429, headers={"Retry-After": "1"}, body="{}")
        server.script("oembed", [busy])
        server.script("data-api", [busy])
        places = Endpoints({"data-api": server.url, "oembed": server.url})
        sources = make_sources(["data-api", "oembed"], endpoints=places, environment={"YOUTUBE_API_KEY": "any"})
        settings = CrawlSettings(rates={"data-api": 20.0, "oembed": 400.0}, daily_quota=4)
        setting = threading.Thread(target=keep_setting)
        setting.start()
        try:
            summary = crawl(ledger, sources, settings, num_ids=len(ids))
        finally:
            done.set()
            setting.join()
        # Six batches were open, four could be afforded; the other source took the rest over.
        asked = [logged.service for logged in server.requests]
    assert time.monotonic() - began < 30
    assert asked.count("data-api") == 4
    assert {each.source: each.num_left for each in summary.sources}["oembed"] == 0
    assert all(0 <= each.elapsed_seconds < 30 for each in summary.sources)
    connection = sqlite3.connect(tmp_path / "ledger.sqlite")
    times = [datetime.fromisoformat(each) for (each,) in connection.execute("SELECT fetched_at FROM outcomes")]
    # All by one clock: that of when the crawl began, which may have been any of the three.
    assert len(times) >= 300 and max(times) - min(times) < timedelta(seconds=30)
    assert min(abs(min(times) - before - day * DAY) for day in (0, *days)) < timedelta(seconds=30)
    pauses = [datetime.fromisoformat(each) for (each,) in connection.execute("SELECT until FROM hosts")]
    assert pauses and all(each - max(times) < timedelta(days=1, minutes=1) for each in pauses)
    assert connection.execute("SELECT count(DISTINCT day), sum(units) FROM quota").fetchone() == (1, 4)


@pytest.mark.parametrize("days", [0, 1, -1])
def test_a_pause_outlives_a_restart_but_not_a_day_longer(
    set_clock: Callable[[timedelta], None], days: int, tmp_path: Path
) -> None:
    with SandboxServer(World(seed=0)) as server:
        sources = make_sources(["oembed"], endpoints=Endpoints({"oembed": server.url}))
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            until = datetime.now(UTC) + timedelta(seconds=50)
            ledger.save_host(sources[0].place, HostState(until=until, level=1, rates={}))
        set_clock(days * DAY)
        module.begin()
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            lane = _Lanes(ledger, CrawlSettings(), Clock()).of(sources[0])["oembed"]
            # Set ahead, it is over: nobody can tell that from a night's sleep.
            assert (30 < lane.remaining_seconds < 60) if days <= 0 else lane.remaining_seconds <= 0


def test_the_time_of_a_crawl_goes_on_with_the_seconds(set_clock: Callable[[timedelta], None]) -> None:
    first = Clock().now()
    set_clock(-DAY)
    assert timedelta(0) <= Clock().now() - first < timedelta(seconds=5)
    module.begin()
    assert timedelta(hours=23) < first - Clock().now() <= DAY
