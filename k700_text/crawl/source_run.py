"""One source at work in a crawl: its workers, its retries, and the reasons for which it stops early."""

from __future__ import annotations

import math
import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from k700_text.config import BLOCK_PAUSES
from k700_text.crawl.ledger import Ledger
from k700_text.crawl.limiter import BREAKER_FAILURES, Clock, CoolDown, Lane, Stopped
from k700_text.crawl.pending import Freshness, PendingQuery
from k700_text.crawl.quota import DailyQuota
from k700_text.crawl.sources import SOURCE_NAMES, source_rank
from k700_text.crawl.sources.base import FAULT_STATUSES, RATE_LIMIT_STATUSES, Source, retry_after
from k700_text.crawl.summary import SourceSummary
from k700_text.crawl.transport import Response, Transport
from k700_text.errors import (
    BlockedError,
    CertificateError,
    CredentialError,
    FilteredNetworkError,
    K700TextError,
    NetworkDownError,
    ParseError,
    QuotaExhaustedError,
    RateLimitedError,
    RefusedError,
    TransportError,
)
from k700_text.records import OutcomeStatus, TitleOutcome

# What ends the work of a source: asking again would not help.
_ENDS = (Stopped, CoolDown, QuotaExhaustedError, CredentialError, CertificateError, FilteredNetworkError)

MAX_ATTEMPTS = 5
BACKOFF_BASE_SECONDS = 1.0
BACKOFF_CAP_SECONDS = 60.0
# Attempts without a network: a few seconds where there never was one, half a minute where it went away.
MAX_FIRST_NETWORK_ATTEMPTS = 3
MAX_NETWORK_ATTEMPTS = 6
# A firewall that turned us away is left alone for twice as long each time, a day at most.
REFUSED_DOUBLINGS = (1, 2, 4, 8, 16, 24)
PAGE_IDS = 1000
UPSTREAM_POLL_SECONDS = 0.2
# Looking takes longer the more there is to look through: spend most of the time not looking.
REST_PER_LOOK = 20.0
MAX_REST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class SourceProgress:
    """How far a source is.

    Attributes:
        source: its name.
        done: videos it is through with in this run.
        total: videos to ask in this run, an upper bound while the sources before it are at work.
        rate: videos per second.
        eta_seconds: time to the end at that rate, None before the first answer.
        note: why it waits or stopped, else None.
    """

    source: str
    done: int
    total: int
    rate: float
    eta_seconds: float | None
    note: str | None = None


class SourceRun:
    """Asks one source about every open video.

    Args:
        source: whom to ask.
        ledger: where open videos come from and outcomes go.
        transport: sends the requests.
        lanes: the limits of its requests, by lane; the source's own carries its name.
        clock: time and waiting.
        upstream: the sources asked before this one.
        num_workers: threads.
        freshness: which recorded answers still count.
        quota: what may be spent a day, for a source that has one.
    """

    def __init__(
        self,
        source: Source,
        *,
        ledger: Ledger,
        transport: Transport,
        lanes: Mapping[str, Lane],
        clock: Clock,
        upstream: Sequence[SourceRun],
        num_workers: int,
        freshness: Freshness,
        quota: DailyQuota | None,
    ) -> None:
        self.source = source
        self.finished = False
        self.stopped: str | None = None
        self.error: K700TextError | None = None
        self.resume_at: datetime | None = None
        self.num_served = 0
        self._network_failures = 0
        self._ledger = ledger
        self._transport = source.transport = transport
        self._lanes = lanes
        self._clock = clock
        self._halt = threading.Event()
        self._upstream = tuple(upstream)
        self._num_workers = num_workers
        self._freshness = freshness
        self._quota = quota
        self._lock = threading.Lock()
        self._last = threading.local()
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._num_unserved = 0
        self._total = ledger.num_pending(self.query())
        self._must_repeat = False
        self._began = clock.monotonic()
        self._ended: float | None = None

    def query(self, answered_by: Sequence[str] = ()) -> PendingQuery:
        """Returns which videos are open for this source.

        Args:
            answered_by: only those that these sources are through with.
        """
        return pending_query(self.source, self._freshness, answered_by)

    def run(self) -> None:
        """Works until nothing is open, the source has to stop, or ``halt`` is called."""
        try:
            while True:
                is_last = all(run.finished for run in self._upstream)
                self._must_repeat = False
                self._run_pass()
                if self._halt.is_set() or (is_last and not self._must_repeat):
                    break
                self._wait_for_upstream()
        finally:
            self._ended = self._clock.monotonic()
            self.finished = True

    def _answered_by(self) -> list[str]:
        """Returns the sources that come before this one on each video.

        A live source takes over what another one, stopped early, has left. An archive does not: what a block of all
        live services left open is answered by them tomorrow.
        """
        asked = [run for run in self._upstream if run.source.knows_titles]
        names = [run.source.name for run in asked if not run.finished]
        live = [run for run in asked if run.source.is_live and run.finished]
        if not self.source.is_live and not any(run.stopped is None for run in live):
            # A refused key never answers: there is nothing to wait for.
            names += [run.source.name for run in live if not isinstance(run.error, CredentialError)]
        return names

    def halt(self) -> None:
        """Ends the work after the requests under way."""
        self._halt.set()

    def _wait_for_upstream(self) -> None:
        began = self._clock.monotonic()
        self._total = self._counts["done"] + self._ledger.num_pending(self.query())
        rest = min(REST_PER_LOOK * (self._clock.monotonic() - began), MAX_REST_SECONDS)
        self._clock.wait(max(UPSTREAM_POLL_SECONDS, rest), self._halt)

    def progress(self) -> SourceProgress:
        """Returns how far the source is."""
        done = self._counts["done"]
        elapsed = max((self._ended or self._clock.monotonic()) - self._began, 1e-9)
        rate = done / elapsed
        total = done if self.finished and not self._halt.is_set() else max(self._total, done)
        eta = (total - done) / rate if done else None
        return SourceProgress(self.source.name, done, total, rate, eta, self.stopped or self._pause_note())

    def _pause_note(self) -> str | None:
        seconds = self._lanes[self.source.name].remaining_seconds
        return f"{self.source.host} rests for {seconds:.0f} s" if seconds >= 1 and not self.finished else None

    def summary(self) -> SourceSummary:
        """Returns what the source achieved; counts what is left from the ledger."""
        return SourceSummary(
            source=self.source.name,
            num_answered=self._counts["answered"],
            num_titles=self._counts["titles"],
            num_transient=self._counts["transient"],
            num_requests=self._counts["requests"],
            num_left=self._ledger.num_pending(self.query(), with_failed=True),
            reasons=dict(sorted(self._reasons.items())),
            stopped=self.stopped,
            resume_at=self.resume_at,
            elapsed_seconds=(self._ended or self._clock.monotonic()) - self._began,
        )

    def _run_pass(self) -> None:
        """Asks about everything that is open now, once."""
        batches = _Shared(self._open_batches())
        with ThreadPoolExecutor(self._num_workers, thread_name_prefix=self.source.name) as pool:
            workers = [pool.submit(self._work, batches) for _ in range(self._num_workers)]
            for worker in as_completed(workers):
                if worker.exception():
                    self._halt.set()
        for outcome in self.source.drain():
            self._record(outcome, 1)
        for worker in workers:
            worker.result()
        self._ledger.flush()

    def _open_batches(self) -> Iterator[list[str]]:
        after = ""
        query = self.query(self._answered_by())
        while True:
            # What was queued by the sources before this one counts as answered: it must be readable.
            self._ledger.flush()
            ids = self._ledger.pending(query, after=after, limit=PAGE_IDS)
            if not ids:
                return
            after = ids[-1]
            size = self.source.batch_size
            yield from (ids[start : start + size] for start in range(0, len(ids), size))

    def _work(self, batches: _Shared) -> None:
        for batch in batches:
            if self._halt.is_set():
                return
            self._ask(batch)

    def _ask(self, ids: list[str]) -> None:
        """Asks until there is an answer, the attempts are used up, or the source has to stop."""
        attempt = 1
        while not self._halt.is_set():
            self._last.lane, self._last.began = self._lanes[self.source.name], self._clock.monotonic()
            self._last.served = []
            try:
                outcomes = self._fetch(ids)
            except _ENDS as reason:
                self._give_up(reason)
            except (RateLimitedError, BlockedError, RefusedError) as error:
                # No attempt is counted: the video has nothing to do with it.
                attempt += not self._has_paused(error)
                if attempt > MAX_ATTEMPTS:
                    return self._record_failure(ids, error, MAX_ATTEMPTS)
            except NetworkDownError as error:
                self._wait_for_network(error)
            except (TransportError, ParseError) as error:
                self._note_failure(error)
                if attempt == MAX_ATTEMPTS:
                    return self._record_failure(ids, error, attempt)
                self._back_off(attempt)
                attempt += 1
            else:
                self._last.lane.answered()
                # Only now: a block page under status 200 is no success.
                for lane in self._last.served:
                    lane.succeeded()
                for outcome in outcomes:
                    self._record(outcome, attempt)
                return None
        return None

    def _fetch(self, ids: list[str]) -> list[TitleOutcome]:
        if not self.source.brings_own_transport:
            return self.source.fetch(ids, self._get)
        with self._last.lane.slot(self._halt) as self._last.began:
            self._count_request()
            with self._unless_halted():
                outcomes = self.source.fetch(ids, self._get)
        self.num_served += 1
        self._last.served.append(self._last.lane)
        return outcomes

    def _get(
        self, url: str, params: Mapping[str, str] | None = None, *, method: str = "GET", lane: str | None = None
    ) -> Response:
        self._last.lane = chosen = self._lanes[lane or self.source.name]
        with chosen.slot(self._halt) as self._last.began:
            self._count_request()
            with self._unless_halted():
                response = self._transport.get(url, params, method=method)
        self.num_served += 1
        self._network_failures = 0
        if response.status < 500 and response.status not in (403, *RATE_LIMIT_STATUSES):
            self._last.served.append(chosen)
        elif response.status in FAULT_STATUSES and (seconds := retry_after(response)) is not None:
            chosen.hold(seconds)
        return response

    @contextmanager
    def _unless_halted(self) -> Iterator[None]:
        """Once the crawl is to end, requests are cut short: that is no fault of the host."""
        try:
            yield
        except TransportError as error:
            if self._halt.is_set() and not isinstance(error, RateLimitedError | BlockedError):
                raise Stopped from None
            raise

    def _count_request(self) -> None:
        if self._quota is not None:
            self._quota.spend()
        with self._lock:
            self._counts["requests"] += 1

    def _has_paused(self, error: RateLimitedError | BlockedError | RefusedError) -> bool:
        """Pauses the host as the error demands; False for a refusal that is an ordinary fault of this host."""
        lane: Lane = self._last.lane
        if isinstance(error, RateLimitedError):
            lane.throttled(self._last.began, error.retry_after_seconds)
        elif isinstance(error, BlockedError):
            self._must_repeat = True
            lane.throttled(self._last.began, None, BLOCK_PAUSES)
        elif self.source.refused_seconds is not None:
            pauses = [self.source.refused_seconds * times for times in REFUSED_DOUBLINGS]
            lane.throttled(self._last.began, None, pauses)
        else:
            self._note_failure(error)
            self._back_off(1)
            return False
        return True

    def _record(self, outcome: TitleOutcome, attempt: int) -> None:
        self._ledger.record(outcome, attempt)
        with self._lock:
            self._counts["done"] += 1
            self._counts["transient" if outcome.status is OutcomeStatus.TRANSIENT else "answered"] += 1
            if outcome.status is OutcomeStatus.TITLE:
                self._counts["titles"] += 1
            else:
                self._reasons[outcome.reason or "no_title"] += 1

    def _record_failure(self, ids: Sequence[str], error: K700TextError, attempt: int) -> None:
        if self._halt.is_set():
            return
        reason = "bad_answer" if isinstance(error, ParseError) else "transport"
        for youtube_id in ids:
            failure = TitleOutcome(
                youtube_id=youtube_id,
                source=self.source.name,
                status=OutcomeStatus.TRANSIENT,
                reason=reason,
                fetched_at=self._clock.now(),
            )
            self._record(failure, attempt)

    def _note_failure(self, error: TransportError | ParseError) -> None:
        """Tells the circuit breaker; a service that never answered at all in this run is given up instead."""
        if self.num_served:
            self._last.lane.failed(self._last.began)
            return
        with self._lock:
            self._num_unserved += 1
            if self._num_unserved >= BREAKER_FAILURES:
                self._stop_source(f"gave no answer at all: {error}", error, None)

    def _back_off(self, attempt: int) -> None:
        longest = min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2 ** (attempt - 1))
        self._clock.wait(random.uniform(0, longest), self._halt)

    def _wait_for_network(self, error: NetworkDownError) -> None:
        with self._lock:
            self._network_failures += 1
            attempt = math.ceil(self._network_failures / self._num_workers)
            if attempt > (MAX_NETWORK_ATTEMPTS if self.num_served else MAX_FIRST_NETWORK_ATTEMPTS):
                self._stop_source(str(error), error, None)
                return
        self._back_off(attempt)

    def _give_up(
        self,
        reason: Stopped | CoolDown | QuotaExhaustedError | CredentialError | CertificateError | FilteredNetworkError,
    ) -> None:
        if isinstance(reason, QuotaExhaustedError):
            # What we may spend is booked in the ledger, and may be raised any time: only the service's word is a pause.
            if self._quota is None or not self._quota.is_spent():
                self._lanes[self.source.name].hold_until(reason.resume_at)
            self._stop_source(str(reason), reason, reason.resume_at)
        elif isinstance(reason, CoolDown):
            self._stop_source(f"{self.source.host} is {reason}", None, reason.until)
        elif isinstance(reason, CredentialError | CertificateError | FilteredNetworkError):
            self._stop_source(str(reason), reason, None)
        else:
            self._halt.set()

    def _stop_source(self, text: str, error: K700TextError | None, resume_at: datetime | None) -> None:
        if not self._halt.is_set():
            self.stopped, self.error, self.resume_at = text, error, resume_at
        self._halt.set()


def pending_query(source: Source, freshness: Freshness, answered_by: Sequence[str] = ()) -> PendingQuery:
    """Returns which videos are open for a source.

    A title of a source before it in the order of preference makes it unnecessary. What an archive holds does not age:
    for it a title counts whenever it was fetched.
    """
    name = source.name
    return PendingQuery(
        source=name,
        preferred=[other for other in SOURCE_NAMES if source_rank(other) < source_rank(name)],
        is_witness=not source.knows_titles,
        answered_by=answered_by,
        freshness=freshness if source.is_live else Freshness(answers_since=freshness.answers_since),
    )


class _Shared:
    """An iterator that several threads draw from."""

    def __init__(self, items: Iterator[list[str]]) -> None:
        self._items = items
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        with self._lock:
            return next(self._items)
