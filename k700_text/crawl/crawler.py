"""A whole crawl: sources side by side, each behind its host's limiter, all into one ledger."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import timedelta

from k700_text.config import Pace
from k700_text.crawl.clock import begin
from k700_text.crawl.ledger import Ledger
from k700_text.crawl.limiter import Clock, HostLimiter, HostState, Lane
from k700_text.crawl.pending import Freshness
from k700_text.crawl.planner import CrawlPlan
from k700_text.crawl.quota import DailyQuota
from k700_text.crawl.source_run import SourceProgress, SourceRun, pending_query
from k700_text.crawl.sources import origin, source_rank
from k700_text.crawl.sources.base import Source, SourcePlan
from k700_text.crawl.summary import CrawlSummary, SourceSummary
from k700_text.crawl.transport import Limits, Transport
from k700_text.crawl.verdict import judge
from k700_text.errors import NetworkDownError

POLL_SECONDS = 0.25
# When the crawl is to end, the requests under way get so long; a good answer takes less.
LAST_SECONDS = 2.0
# Threads needed for a rate: an answer takes about half a second on a bad day. A rate beyond any use is no limit: then
# more threads only get in each other's way.
LATENCY_SECONDS = 0.5
MAX_WORKERS = 64
UNLIMITED_WORKERS = 8
# A pause that ended so long ago says nothing about the host's mood today.
FORGET_AFTER = timedelta(days=1)
# Nobody asks for longer: such a pause was kept by a clock that was wrong.
LONGEST_PAUSE = timedelta(days=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlSettings:
    """How to crawl.

    Attributes:
        rates: requests per second by source, in place of the source's own pace.
        daily_quota: units of the Data API that may be spent a day; the default of a new project when None.
        share: part of all rates and quotas that is ours, 0..1; several machines share them.
        freshness: which recorded answers still count.
        max_wait_seconds: a host's pause up to this long is waited for; a longer one stops its sources.
        limits: bounds of a request.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    daily_quota: int | None = None
    share: float = 1.0
    freshness: Freshness = field(default_factory=Freshness)
    max_wait_seconds: float = 60.0
    limits: Limits = field(default_factory=Limits)

    def pace(self, lane: str, pace: Pace) -> Pace:
        """Returns the pace of a lane: the service's own or the one asked for, times our share."""
        rate = self.rates.get(lane)
        start, top = (pace.start_rate, pace.max_rate) if rate is None else (rate, rate)
        needed = math.ceil(top * self.share * LATENCY_SECONDS)
        if rate is not None and needed > MAX_WORKERS:
            needed = UNLIMITED_WORKERS
        return Pace(
            start_rate=start * self.share,
            max_rate=top * self.share,
            concurrency=max(pace.concurrency, needed) if rate is not None else pace.concurrency,
            pauses=pace.pauses,
        )

    def quota(self, source: Source) -> int | None:
        """Returns the units a source may spend a day, None where it has no quota."""
        if source.daily_quota is None:
            return None
        return max(1, int((self.daily_quota or source.daily_quota) * self.share))


def plan_crawl(
    ledger: Ledger,
    sources: Sequence[Source],
    settings: CrawlSettings,
    num_ids: int,
    *,
    without_key: Source | None = None,
) -> CrawlPlan:
    """Returns what asking the sources about everything still open would cost.

    Args:
        ledger: with its wanted videos set.
        sources: in order of preference.
        settings: rates and quotas.
        num_ids: number of wanted videos.
        without_key: a source that would be asked if there were a key for it.
    """

    def plan(source: Source) -> SourcePlan:
        num_pending = ledger.num_pending(pending_query(source, settings.freshness))
        rate = settings.pace(source.name, source.pace).max_rate
        return source.plan(num_pending, rate, settings.quota(source))

    return CrawlPlan(num_ids, tuple(map(plan, sources)), None if without_key is None else plan(without_key))


def crawl(
    ledger: Ledger,
    sources: Sequence[Source],
    settings: CrawlSettings | None = None,
    *,
    num_ids: int,
    progress: Callable[[Sequence[SourceProgress]], None] = lambda sources: None,
    clock: Clock | None = None,
) -> CrawlSummary:
    """Asks the sources about all wanted videos of the ledger that are open.

    Sources run side by side; each takes on a video once those before it are through with it and found no title.
    KeyboardInterrupt passes through after the requests under way are recorded; those that take longer are cut short.

    Args:
        ledger: with its wanted videos set.
        sources: in order of preference.
        settings: rates, waits, bounds.
        num_ids: number of wanted videos.
        progress: called a few times a second.
        clock: time and waiting.

    Raises:
        NetworkDownError: no source could be reached at all.
        LedgerError: outcomes cannot be stored.
    """
    settings = settings or CrawlSettings()
    begin()
    clock = clock or Clock()
    began = clock.monotonic()
    transport = Transport(settings.limits)
    try:
        runs = _make_runs(ledger, sources, settings, transport, clock)
        _run_all(runs, transport, progress)
    finally:
        transport.close()
        # Also after an interruption: what was answered is on disk when the caller hears of it.
        ledger.flush()
    _raise_if_unreachable(runs)
    return summarise(ledger, [run.summary() for run in runs], num_ids, clock.monotonic() - began)


def _make_runs(
    ledger: Ledger, sources: Sequence[Source], settings: CrawlSettings, transport: Transport, clock: Clock
) -> list[SourceRun]:
    lanes = _Lanes(ledger, settings, clock)
    runs: list[SourceRun] = []
    for source in sources:
        units = settings.quota(source)
        runs.append(
            SourceRun(
                source,
                ledger=ledger,
                transport=transport,
                lanes=lanes.of(source),
                clock=clock,
                upstream=runs,
                num_workers=settings.pace(source.name, source.pace).concurrency,
                freshness=settings.freshness,
                quota=None if units is None else DailyQuota(source.name, units, ledger, clock),
            )
        )
    return runs


class _Lanes:
    """One limiter for each host, one lane for each service, shared by all sources that use them."""

    def __init__(self, ledger: Ledger, settings: CrawlSettings, clock: Clock) -> None:
        self._ledger = ledger
        self._settings = settings
        self._clock = clock
        self._hosts: dict[str, HostLimiter] = {}
        self._lanes: dict[tuple[str, str], Lane] = {}

    def of(self, source: Source) -> dict[str, Lane]:
        """Returns the lanes that a source asks on, by name."""
        place = source.place or source.host
        if place not in self._hosts:
            self._hosts[place] = self._host(place)
        paces = {source.name: source.pace, **source.other_lanes}
        for name, pace in paces.items():
            if (place, name) not in self._lanes:
                self._lanes[place, name] = self._hosts[place].lane(name, self._settings.pace(name, pace))
        return {name: self._lanes[place, name] for name in paces}

    def _host(self, place: str) -> HostLimiter:
        state = self._ledger.host(place)
        now, last_start = self._clock.now(), self._ledger.last_start()
        if state and last_start and last_start > now:
            # The clock was set back since: what was to wait then is to wait now, but not the difference as well.
            state = replace(state, until=state.until - (last_start - now))
        if state and not -FORGET_AFTER <= state.until - now <= LONGEST_PAUSE:
            state = None

        def save(new: HostState) -> None:
            self._ledger.save_host(place, new)

        return HostLimiter(state=state, save=save, clock=self._clock, max_wait_seconds=self._settings.max_wait_seconds)


def _run_all(
    runs: Sequence[SourceRun], transport: Transport, progress: Callable[[Sequence[SourceProgress]], None]
) -> None:
    if not runs:
        return
    with ThreadPoolExecutor(len(runs), thread_name_prefix="source") as pool:
        waiting: set[Future[None]] = {pool.submit(run.run) for run in runs}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=POLL_SECONDS)
                progress([run.progress() for run in runs])
                for future in done:
                    future.result()
        finally:
            # After a failure or an interruption: let the requests under way end, start no other.
            for run in runs:
                if not run.finished:
                    run.halt()
            transport.hurry(LAST_SECONDS)


def _raise_if_unreachable(runs: Sequence[SourceRun]) -> None:
    """Raises if no source ever got through and the network is why: then there is nothing to summarise."""
    errors = [run.error for run in runs]
    if not any(run.num_served for run in runs):
        for error in errors:
            if isinstance(error, NetworkDownError):
                raise NetworkDownError(f"{error}: check the network and run the same command again", host=error.host)


def summarise(ledger: Ledger, sources: Sequence[SourceSummary], num_ids: int, elapsed_seconds: float) -> CrawlSummary:
    """Returns where a ledger stands, beside what the sources did in this run."""
    titles: Counter[str] = Counter()
    states: Counter[str] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    num_known = 0
    for video in ledger.wanted_videos():
        num_known += 1
        with_title = [outcome.source for outcome in video.outcomes if outcome.title is not None]
        if with_title:
            titles[origin(min(with_title, key=source_rank))] += 1
        else:
            newest = {outcome.source: outcome.reason or "no_title" for outcome in video.outcomes}
            reasons.update(newest.items())
        states[judge(video.youtube_id, video.outcomes)[0].value] += 1
    if num_known < num_ids:
        states["unknown"] += num_ids - num_known
    return CrawlSummary(
        num_ids=num_ids,
        titles_by_source=dict(sorted(titles.items())),
        availability=dict(sorted(states.items())),
        failures=tuple((source, reason, count) for (source, reason), count in sorted(reasons.items())),
        sources=tuple(sources),
        elapsed_seconds=elapsed_seconds,
    )
