"""One source at work in a crawl: its workers, its retries, and the reasons for which it stops early."""

from __future__ import annotations

import math
import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime

from k700_text.crawl.ledger import Ledger
from k700_text.crawl.limiter import BLOCK_PAUSES, Clock, CoolDown, HostLimiter, Stopped
from k700_text.crawl.sources.base import FAULT_STATUSES, RATE_LIMIT_STATUSES, Source, retry_after
from k700_text.crawl.sources.data_api import pacific_day
from k700_text.crawl.summary import SourceSummary
from k700_text.crawl.transport import Response, Transport
from k700_text.errors import (
    BlockedError,
    CredentialError,
    K700TextError,
    NetworkDownError,
    ParseError,
    QuotaExhaustedError,
    RateLimitedError,
    TransportError,
)
from k700_text.records import OutcomeStatus, TitleOutcome

MAX_ATTEMPTS = 5
BACKOFF_BASE_SECONDS = 1.0
BACKOFF_CAP_SECONDS = 60.0
# Attempts without a network: a few seconds where there never was one, half a minute where it went away.
MAX_FIRST_NETWORK_ATTEMPTS = 3
MAX_NETWORK_ATTEMPTS = 6
# So many failed requests in a row are no accident: the source stops, the videos stay open.
MAX_FAILURES_IN_A_ROW = 25
PAGE_IDS = 1000
UPSTREAM_POLL_SECONDS = 0.2


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
        limiter: of the source's host.
        clock: time and waiting.
        upstream: the sources asked before this one.
        num_workers: threads.
    """

    def __init__(
        self,
        source: Source,
        *,
        ledger: Ledger,
        transport: Transport,
        limiter: HostLimiter,
        clock: Clock,
        upstream: Sequence[SourceRun],
        num_workers: int,
    ) -> None:
        self.source = source
        self.finished = False
        self.stopped: str | None = None
        self.error: K700TextError | None = None
        self.resume_at: datetime | None = None
        self.num_served = 0
        self._network_failures = 0
        self._ledger = ledger
        self._transport = transport
        self._limiter = limiter
        self._clock = clock
        self._halt = threading.Event()
        self._upstream = tuple(upstream)
        self._num_workers = num_workers
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._failures_in_a_row = 0
        self._total = ledger.num_pending(source.name)
        self._must_repeat = False
        self._began = clock.monotonic()
        self._ended: float | None = None

    def run(self) -> None:
        """Works until nothing is open, the source has to stop, or ``halt`` is called."""
        try:
            while True:
                active = [run.source.name for run in self._upstream if not run.finished]
                self._must_repeat = False
                self._run_pass()
                if self._halt.is_set() or not (active or self._must_repeat):
                    break
                self._wait_for_upstream()
        finally:
            self._ended = self._clock.monotonic()
            self.finished = True

    def halt(self) -> None:
        """Ends the work after the requests under way."""
        self._halt.set()

    def _wait_for_upstream(self) -> None:
        began = self._clock.monotonic()
        self._total = self._counts["done"] + self._ledger.num_pending(self.source.name)
        # Looking takes longer the more there is to look through: spend most of the time not looking.
        self._clock.wait(max(UPSTREAM_POLL_SECONDS, 5 * (self._clock.monotonic() - began)), self._halt)

    def progress(self) -> SourceProgress:
        """Returns how far the source is."""
        done = self._counts["done"]
        elapsed = max((self._ended or self._clock.monotonic()) - self._began, 1e-9)
        rate = done / elapsed
        total = done if self.finished and not self._halt.is_set() else max(self._total, done)
        return SourceProgress(
            self.source.name, done, total, rate, (total - done) / rate if done else None, self.stopped
        )

    def summary(self) -> SourceSummary:
        """Returns what the source achieved; counts what is left from the ledger."""
        return SourceSummary(
            source=self.source.name,
            num_answered=self._counts["answered"],
            num_titles=self._counts["titles"],
            num_transient=self._counts["transient"],
            num_requests=self._counts["requests"],
            num_left=self._ledger.num_pending(self.source.name, with_failed=True),
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
        while not self._halt.is_set():
            upstream = [run.source.name for run in self._upstream if not run.finished]
            ids = self._ledger.pending(self.source.name, after=after, limit=PAGE_IDS, answered_by=upstream)
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
            began = self._clock.monotonic()
            try:
                outcomes = self.source.fetch(ids, self._get)
            except (Stopped, CoolDown, QuotaExhaustedError, CredentialError) as reason:
                self._give_up(reason)
            except RateLimitedError as error:
                # No attempt is counted: the video has nothing to do with it.
                self._limiter.throttled(began, error.retry_after_seconds)
            except BlockedError:
                self._must_repeat = True
                self._limiter.throttled(began, None, BLOCK_PAUSES)
            except NetworkDownError as error:
                self._wait_for_network(error)
            except (TransportError, ParseError) as error:
                if attempt == MAX_ATTEMPTS or self._failed_too_often(error):
                    self._record_failure(ids, error, attempt)
                    return
                self._back_off(attempt)
                attempt += 1
            else:
                self._failures_in_a_row = 0
                for outcome in outcomes:
                    self._record(outcome, attempt)
                return

    def _get(self, url: str, params: Mapping[str, str]) -> Response:
        with self._limiter.slot(self._halt):
            self._count_request()
            response = self._transport.get(url, params)
        self.num_served += 1
        self._network_failures = 0
        if response.status < 500 and response.status not in (403, *RATE_LIMIT_STATUSES):
            self._limiter.succeeded()
        elif response.status in FAULT_STATUSES and (seconds := retry_after(response)) is not None:
            self._limiter.hold(seconds)
        return response

    def _count_request(self) -> None:
        with self._lock:
            self._counts["requests"] += 1
        if self.source.daily_quota is not None:
            self._ledger.add_quota(self.source.name, pacific_day(self._clock.now()), 1)

    def _record(self, outcome: TitleOutcome, attempt: int) -> None:
        self._ledger.record(outcome, attempt)
        with self._lock:
            self._counts["done"] += 1
            self._counts["transient" if outcome.status is OutcomeStatus.TRANSIENT else "answered"] += 1
            if outcome.status is OutcomeStatus.TITLE:
                self._counts["titles"] += 1
            else:
                self._reasons[outcome.reason or "no_title"] += 1

    def _record_failure(self, ids: Sequence[str], error: TransportError | ParseError, attempt: int) -> None:
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

    def _failed_too_often(self, error: TransportError | ParseError) -> bool:
        with self._lock:
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
                self._stop_source(f"stopped after {MAX_FAILURES_IN_A_ROW} failures in a row: {error}", error, None)
        return self._halt.is_set()

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

    def _give_up(self, reason: Stopped | CoolDown | QuotaExhaustedError | CredentialError) -> None:
        if isinstance(reason, QuotaExhaustedError):
            self._limiter.hold_until(reason.resume_at)
            self._stop_source(str(reason), reason, reason.resume_at)
        elif isinstance(reason, CoolDown):
            self._stop_source(f"{self.source.host} is {reason}", None, reason.until)
        elif isinstance(reason, CredentialError):
            self._stop_source(str(reason), reason, None)
        else:
            self._halt.set()

    def _stop_source(self, text: str, error: K700TextError | None, resume_at: datetime | None) -> None:
        if not self._halt.is_set():
            self.stopped, self.error, self.resume_at = text, error, resume_at
        self._halt.set()


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
