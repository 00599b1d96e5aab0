"""One crawl as plain values that can be sent to another process, and the function that runs it there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from k700_text.crawl.crawler import CrawlSettings, crawl, plan_crawl
from k700_text.crawl.ledger import Ledger
from k700_text.crawl.ledger_place import LEDGER_NAME, ledger_in, settle_ledger
from k700_text.crawl.pending import Freshness
from k700_text.crawl.planner import CrawlPlan
from k700_text.crawl.registry import left_out_for_key, make_sources
from k700_text.crawl.source_run import SourceProgress
from k700_text.crawl.sources import data_api, dumps
from k700_text.crawl.sources.base import Source
from k700_text.crawl.sources.dumps import import_dumps
from k700_text.crawl.summary import CrawlSummary, SourceSummary
from k700_text.crawl.transport import Endpoints
from k700_text.errors import UsageError

RETRY_SETTING = "retry_since"
RETRY_KEEP = timedelta(days=30)
# The policies of the Data API let an answer be kept for 30 days; those that will expire soon are renewed too.
API_KEEP = timedelta(days=30)
API_RENEW = timedelta(days=25)


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` of ``count``, counted from 1."""

    index: int
    count: int

    def holds(self, youtube_id: str) -> bool:
        """Tells whether a video belongs to this part: by a hash of its id, the same on every machine."""
        digest = hashlib.blake2b(youtube_id.encode(), digest_size=8).digest()
        return int.from_bytes(digest) % self.count == self.index - 1

    @property
    def ledger_name(self) -> str:
        """Name of the part's ledger file."""
        return f"_ledger-{self.index:0{len(str(self.count))}}-of-{self.count}.sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlJob:
    """What to crawl and how.

    Attributes:
        out: folder of the ledger.
        sources: names; None for all that can be used.
        endpoints: address by source, in place of its own.
        settings: rates, waits, bounds; what several parts share is divided here.
        dumps: local files of titles.
        dump_columns: names of their id and title columns; None: the usual ones.
        removed: videos to put on the removal list.
        shard: the part that is ours, None for all.
        retry_failed: ask again what ended without a title.
        recheck_after: ask again what was answered longer ago.
        refresh_api: only renew answers of the Data API before they expire, and delete those that have.
    """

    out: Path
    sources: Sequence[str] | None = None
    endpoints: Mapping[str, str] = field(default_factory=dict)
    settings: CrawlSettings = field(default_factory=CrawlSettings)
    dumps: Sequence[Path] = ()
    dump_columns: tuple[str, str] | None = None
    removed: Sequence[str] = ()
    shard: Shard | None = None
    retry_failed: bool = False
    recheck_after: timedelta | None = None
    refresh_api: bool = False

    @property
    def ledger_path(self) -> Path:
        """The ledger file, wherever a version of this program left it."""
        return ledger_in(self.out, self._ledger_name)

    @property
    def _ledger_name(self) -> str:
        return self.shard.ledger_name if self.shard else LEDGER_NAME

    def settle(self, say: Callable[[str], None]) -> Path:
        """Returns the ledger file, once it has its name of today; raises as ``settle_ledger``."""
        return settle_ledger(self.out, self._ledger_name, say)

    def own_ids(self, youtube_ids: Iterable[str]) -> Iterator[str]:
        """Yields the ids of this job's part."""
        return (each for each in youtube_ids if self.shard is None or self.shard.holds(each))

    def split(self, count: int) -> list[CrawlJob]:
        """Returns the parts of this job; together they are as fast, and ask as politely, as the whole."""
        return [replace(self, shard=Shard(index, count)) for index in range(1, count + 1)]


def plan_job(job: CrawlJob, youtube_ids: Iterable[str]) -> CrawlPlan:
    """Returns what a job would cost; sends nothing.

    Raises:
        LedgerError, UsageError, CredentialError: as ``run_job``.
    """
    sources = sources_of(job)
    with Ledger(job.ledger_path) as ledger:
        num_ids = ledger.want(job.own_ids(youtube_ids))
        return plan_of(job, ledger, sources, _settings(job, _retry_since(job, ledger)), num_ids)


def plan_of(
    job: CrawlJob, ledger: Ledger, sources: Sequence[Source], settings: CrawlSettings, num_ids: int
) -> CrawlPlan:
    """Returns the plan of a job whose ledger is open, with what it leaves out for want of a key."""
    endpoints = Endpoints(job.endpoints)
    without_key = None if job.refresh_api else left_out_for_key(job.sources, endpoints=endpoints)
    return plan_crawl(ledger, sources, settings, num_ids, without_key=without_key)


def run_job(
    job: CrawlJob,
    youtube_ids: Iterable[str],
    *,
    on_plan: Callable[[CrawlPlan], None] = lambda plan: None,
    progress: Callable[[Sequence[SourceProgress]], None] = lambda sources: None,
    say: Callable[[str], None] = lambda text: None,
) -> CrawlSummary:
    """Does a job, or goes on with it where it was.

    Args:
        job: what to crawl and how.
        youtube_ids: all videos; those of other parts are left out here.
        on_plan: told what it will cost before the first request.
        progress: called a few times a second.
        say: told what a person should know.

    Raises:
        LedgerError: the ledger cannot be used.
        UsageError, CredentialError: sources that cannot be asked, dumps that cannot be read.
        NetworkDownError: no source could be reached at all.
    """
    sources = sources_of(job)
    with Ledger(job.settle(say)) as ledger:
        begun = begin_job(job, ledger, youtube_ids, say)
        on_plan(plan_of(job, ledger, sources, begun.settings, begun.num_ids))
        summary = crawl(ledger, sources, begun.settings, num_ids=begun.num_ids, progress=progress)
        finish_job(job, ledger, summary.sources, say)
    return replace(summary, sources=(*begun.imported, *summary.sources))


class Begun(NamedTuple):
    """What is known before the first request: the settings that hold now, the number of videos, what dumps brought."""

    settings: CrawlSettings
    num_ids: int
    imported: tuple[SourceSummary, ...]


def begin_job(job: CrawlJob, ledger: Ledger, youtube_ids: Iterable[str], say: Callable[[str], None]) -> Begun:
    """Tells the ledger what the job is about and reads the dumps."""
    ledger.remove(job.removed)
    num_ids = ledger.want(job.own_ids(youtube_ids))
    retry_since = _retry_since(job, ledger)
    if job.retry_failed:
        # Kept until the retry is through: a killed one goes on, it does not begin again.
        ledger.remember(RETRY_SETTING, retry_since.isoformat())
    settings = _settings(job, retry_since)
    imported = (import_dumps(ledger, job.dumps, columns=job.dump_columns, say=say),) if job.dumps else ()
    return Begun(settings, num_ids, imported)


def finish_job(job: CrawlJob, ledger: Ledger, sources: Sequence[SourceSummary], say: Callable[[str], None]) -> None:
    """Does what is left once all sources have ended: a retry is through, answers have expired."""
    if job.retry_failed and not any(source.stopped or source.num_left for source in sources):
        ledger.remember(RETRY_SETTING, None)
    if job.refresh_api:
        _forget_expired(ledger, say)


def sources_of(job: CrawlJob) -> list[Source]:
    """Returns the services that a job asks.

    Raises:
        UsageError, CredentialError: sources that cannot be asked.
    """
    names = [data_api.NAME] if job.refresh_api else job.sources
    if names is not None and dumps.NAME in names and not job.dumps:
        raise UsageError("source dumps needs a file: name it with --dump FILE")
    return make_sources(names, endpoints=Endpoints(job.endpoints))


def _retry_since(job: CrawlJob, ledger: Ledger) -> datetime:
    """Returns when the retry began that is still under way, now where none is; after a month it is over anyway."""
    began = ledger.setting(RETRY_SETTING) if job.retry_failed else None
    now = datetime.now(UTC)
    return max(datetime.fromisoformat(began), now - RETRY_KEEP) if began else now


def _settings(job: CrawlJob, retry_since: datetime) -> CrawlSettings:
    """Returns the settings with what depends on time, on earlier runs and on the number of parts."""
    now = datetime.now(UTC)
    share = 1 / job.shard.count if job.shard else 1.0
    since = now - job.recheck_after if job.recheck_after is not None else None
    freshness = Freshness(titles_since=since, answers_since=since)
    if job.refresh_api:
        freshness = Freshness(titles_since=now - API_RENEW, answers_since=now - API_RENEW)
    elif job.retry_failed:
        freshness = replace(freshness, answers_since=retry_since)
    return replace(job.settings, share=job.settings.share * share, freshness=freshness)


def _forget_expired(ledger: Ledger, say: Callable[[str], None]) -> None:
    num_deleted = ledger.forget_before(data_api.NAME, datetime.now(UTC) - API_KEEP)
    if num_deleted:
        say(f"data-api: {num_deleted} answers older than {API_KEEP.days} days deleted")
