"""What a crawl achieved, as one frozen object that renders as table and as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from k700_text.crawl.planner import format_hours


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSummary:
    """One source's share of a run.

    Attributes:
        source: its name.
        num_answered: videos it answered about in this run.
        num_titles: titles among them.
        num_transient: videos it failed on; they are asked again by the next run.
        num_requests: requests sent.
        num_left: videos it is still to be asked about.
        reasons: how many outcomes without a title, by reason.
        stopped: why it stopped before the end, None if it did not.
        resume_at: when it may be asked again (UTC), None if at once or if waiting does not help.
        elapsed_seconds: how long it worked.
    """

    source: str
    num_answered: int
    num_titles: int
    num_transient: int
    num_requests: int
    num_left: int
    reasons: Mapping[str, int]
    stopped: str | None
    resume_at: datetime | None
    elapsed_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlSummary:
    """A whole run, and where the ledger stands after it.

    Attributes:
        num_ids: distinct videos of the crawl.
        titles_by_source: videos with a title, by the source it comes from; over all runs.
        availability: videos by state; over all runs.
        failures: for videos without a title, how many got which reason from which source: (source, reason, count);
            over all runs.
        sources: one entry per source, in order.
        elapsed_seconds: duration of this run.
        work_left: something is still to be asked.
        resume_at: when the first source with work left may be asked again (UTC), None if at once.
    """

    num_ids: int
    titles_by_source: Mapping[str, int]
    availability: Mapping[str, int]
    failures: tuple[tuple[str, str, int], ...]
    sources: tuple[SourceSummary, ...]
    elapsed_seconds: float
    work_left: bool = field(init=False)
    resume_at: datetime | None = field(init=False)

    def __post_init__(self) -> None:
        unfinished = [source for source in self.sources if source.num_left]
        times = [source.resume_at for source in unfinished if source.resume_at]
        object.__setattr__(self, "work_left", bool(unfinished))
        object.__setattr__(self, "resume_at", min(times) if times else None)

    @property
    def num_titles(self) -> int:
        """Videos with a title, over all runs."""
        return sum(self.titles_by_source.values())

    @property
    def num_requests(self) -> int:
        """Requests sent in this run."""
        return sum(source.num_requests for source in self.sources)

    def rows(self) -> list[tuple[str, str]]:
        """Returns the summary as table rows."""
        share = self.num_titles / self.num_ids if self.num_ids else 0.0
        rows = [("videos", str(self.num_ids)), ("titles", f"{self.num_titles} ({share:.1%})")]
        rows += [(f"titles from {source}", str(count)) for source, count in self.titles_by_source.items()]
        rows += [(f"videos {state}", str(count)) for state, count in self.availability.items()]
        rows += [(f"no title: {source} {reason}", str(count)) for source, reason, count in self.failures]
        rows += [(source.source, _describe(source)) for source in self.sources]
        rows.append(("time", format_hours(self.elapsed_seconds / 3600)))
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Returns the summary as plain values; times as ISO 8601 text."""
        sources = []
        for source in self.sources:
            values = asdict(source)
            values["resume_at"] = source.resume_at.isoformat() if source.resume_at else None
            sources.append(values)
        return {
            "num_ids": self.num_ids,
            "num_titles": self.num_titles,
            "titles_by_source": dict(self.titles_by_source),
            "availability": dict(self.availability),
            "failures": [
                {"source": source, "reason": reason, "videos": count} for source, reason, count in self.failures
            ],
            "num_requests": self.num_requests,
            "elapsed_seconds": round(self.elapsed_seconds, 3),
            "work_left": self.work_left,
            "resume_at": self.resume_at.isoformat() if self.resume_at else None,
            "sources": sources,
        }


def _describe(source: SourceSummary) -> str:
    parts = [f"{source.num_answered} answers", f"{source.num_titles} titles", f"{source.num_requests} requests"]
    if source.num_left:
        parts.append(f"{source.num_left} left")
    if source.stopped:
        parts.append(source.stopped)
    return ", ".join(parts)
