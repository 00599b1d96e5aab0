"""A whole crawl: sources side by side, each behind its host's limiter, all into one ledger."""

from __future__ import annotations

import difflib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import timedelta

from k700_text.crawl.ledger import Ledger
from k700_text.crawl.limiter import Clock, HostLimiter, HostState, Pace
from k700_text.crawl.planner import CrawlPlan, make_plan
from k700_text.crawl.source_run import SourceProgress, SourceRun
from k700_text.crawl.sources import SOURCE_NAMES, data_api, oembed
from k700_text.crawl.sources.base import Source
from k700_text.crawl.summary import CrawlSummary
from k700_text.crawl.transport import Endpoints, Limits, Transport
from k700_text.crawl.verdict import judge
from k700_text.errors import CredentialError, NetworkDownError, UsageError

POLL_SECONDS = 0.25
MAX_WORKERS = 8
# Threads needed for a rate: an answer takes about half a second on a bad day.
LATENCY_SECONDS = 0.5
# A pause that ended so long ago says nothing about the host's mood today.
FORGET_AFTER = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlSettings:
    """How to crawl.

    Attributes:
        rates: requests per second by source, in place of the source's own pace.
        max_wait_seconds: a host's pause up to this long is waited for; a longer one stops its sources.
        limits: bounds of a request.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    max_wait_seconds: float = 60.0
    limits: Limits = field(default_factory=Limits)


def check_source_names(names: Iterable[str], *, known: Sequence[str] = SOURCE_NAMES) -> None:
    """Raises UsageError for the first name that is not a known one, with the nearest that is."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise UsageError(f"unknown source {name!r}: {hint}")


def make_sources(
    names: Sequence[str] | None = None,
    *,
    endpoints: Endpoints | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[Source]:
    """Returns the sources to ask, in order.

    Args:
        names: which, and in which order; all that can be used when None (data-api needs a key).
        endpoints: where the services are.
        environment: where the API key is looked up; the process environment when None.

    Raises:
        UsageError: an unknown name, or none at all.
        CredentialError: data-api is asked for by name, but there is no key.
    """
    places = endpoints or Endpoints()
    key = (os.environ if environment is None else environment).get(data_api.KEY_VARIABLE, "").strip()
    if names is None:
        names = [name for name in SOURCE_NAMES if key or name != data_api.NAME]
    check_source_names(names)
    if not names:
        raise UsageError(f"no source to ask: name at least one of {', '.join(SOURCE_NAMES)}")
    if data_api.NAME in names and not key:
        raise CredentialError(f"source data-api needs an API key: set {data_api.KEY_VARIABLE}, or use another source")
    makers: dict[str, Callable[[], Source]] = {
        data_api.NAME: lambda: data_api.DataApi(key, places.resolve(data_api.NAME, data_api.URL)),
        oembed.NAME: lambda: oembed.OEmbed(places.resolve(oembed.NAME, oembed.URL)),
    }
    return [makers[name]() for name in dict.fromkeys(names)]


def plan_crawl(ledger: Ledger, sources: Sequence[Source], settings: CrawlSettings, num_ids: int) -> CrawlPlan:
    """Returns what asking the sources about everything still open would cost."""
    num_pending = {source.name: ledger.num_pending(source.name) for source in sources}
    return make_plan(num_ids, sources, num_pending, settings.rates)


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
    KeyboardInterrupt passes through after the requests under way are recorded.

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
    clock = clock or Clock()
    began = clock.monotonic()
    transport = Transport(settings.limits)
    try:
        runs = _make_runs(ledger, sources, settings, transport, clock)
        _run_all(runs, progress)
    finally:
        transport.close()
        # Also after an interruption: what was answered is on disk when the caller hears of it.
        ledger.flush()
    _raise_if_unreachable(runs)
    return _summarise(ledger, runs, num_ids, clock.monotonic() - began)


def _make_runs(
    ledger: Ledger, sources: Sequence[Source], settings: CrawlSettings, transport: Transport, clock: Clock
) -> list[SourceRun]:
    limiters: dict[str, HostLimiter] = {}
    runs: list[SourceRun] = []
    for source in sources:
        pace = _pace(source, settings.rates.get(source.name))
        if source.host not in limiters:
            limiters[source.host] = _limiter(ledger, source.host, pace, settings.max_wait_seconds, clock)
        runs.append(
            SourceRun(
                source,
                ledger=ledger,
                transport=transport,
                limiter=limiters[source.host],
                clock=clock,
                upstream=runs,
                num_workers=pace.concurrency,
            )
        )
    return runs


def _pace(source: Source, rate: float | None) -> Pace:
    if rate is None:
        return source.pace
    num_needed = min(MAX_WORKERS, math.ceil(rate * LATENCY_SECONDS))
    return Pace(
        start_rate=rate,
        max_rate=rate,
        concurrency=max(source.pace.concurrency, num_needed),
        pauses=source.pace.pauses,
    )


def _limiter(ledger: Ledger, host: str, pace: Pace, max_wait_seconds: float, clock: Clock) -> HostLimiter:
    state = ledger.host(host)
    if state and state.until + FORGET_AFTER < clock.now():
        state = None

    def save(new: HostState) -> None:
        ledger.save_host(host, new)

    return HostLimiter(pace, state=state, save=save, clock=clock, max_wait_seconds=max_wait_seconds)


def _run_all(runs: Sequence[SourceRun], progress: Callable[[Sequence[SourceProgress]], None]) -> None:
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


def _raise_if_unreachable(runs: Sequence[SourceRun]) -> None:
    """Raises if no source ever got through and the network is why: then there is nothing to summarise."""
    errors = [run.error for run in runs]
    if not any(run.num_served for run in runs):
        for error in errors:
            if isinstance(error, NetworkDownError):
                raise NetworkDownError(f"{error}: check the network and run the same command again", host=error.host)


def _summarise(ledger: Ledger, runs: Sequence[SourceRun], num_ids: int, elapsed_seconds: float) -> CrawlSummary:
    titles: Counter[str] = Counter()
    states: Counter[str] = Counter()
    num_known = 0
    for video in ledger.wanted_videos():
        num_known += 1
        with_title = [outcome.source for outcome in video.outcomes if outcome.title is not None]
        if with_title:
            titles[min(with_title, key=source_rank)] += 1
        states[judge(video.youtube_id, video.outcomes)[0].value] += 1
    if num_known < num_ids:
        states["unknown"] += num_ids - num_known
    return CrawlSummary(
        num_ids=num_ids,
        titles_by_source=dict(sorted(titles.items())),
        availability=dict(sorted(states.items())),
        sources=tuple(run.summary() for run in runs),
        elapsed_seconds=elapsed_seconds,
    )


def source_rank(source: str) -> tuple[int, str]:
    """Returns the sort key of a source: known ones in order of preference, then others by name."""
    return (SOURCE_NAMES.index(source) if source in SOURCE_NAMES else len(SOURCE_NAMES), source)
