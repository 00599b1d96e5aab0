"""What a crawl would cost: requests, quota units and hours per source, before the first request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from k700_text.crawl.sources.base import SourcePlan


@dataclass(frozen=True, slots=True)
class CrawlPlan:
    """Upper bounds: every source is asked about everything that is open, as if the ones before it found no title.

    Attributes:
        num_ids: distinct videos of the crawl.
        sources: in the order in which they are asked.
        without_key: what data-api would cost, where it is left out because there is no key for it.
    """

    num_ids: int
    sources: tuple[SourcePlan, ...]
    without_key: SourcePlan | None = None

    @property
    def hours(self) -> float:
        """Hours for all: sources work side by side, so the slowest one decides."""
        return max((plan.hours for plan in self.sources), default=0.0)

    def rows(self) -> list[tuple[str, str]]:
        """Returns the plan as table rows."""
        rows = [("videos", f"{self.num_ids:,}")]
        if self.without_key is not None:
            rows.append((self.without_key.source, _left_out(self.without_key, self.sources)))
        rows += [(plan.source, f"up to {plan.num_ids:,} videos: {_cost(plan)}") for plan in self.sources]
        num_requests = sum(plan.num_requests for plan in self.sources)
        rows.append(("total", f"up to {num_requests:,} requests, {format_hours(self.hours)} (side by side)"))
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Returns the plan as plain values."""
        return {
            "num_ids": self.num_ids,
            "hours": self.hours,
            "num_requests": sum(plan.num_requests for plan in self.sources),
            "sources": [asdict(plan) for plan in self.sources],
            "without_key": None if self.without_key is None else asdict(self.without_key),
        }


def _cost(plan: SourcePlan) -> str:
    quota = f", {plan.quota_units:,} quota units" if plan.quota_units else ""
    return f"{plan.num_requests:,} requests{quota}, {format_hours(plan.hours)}"


def _left_out(plan: SourcePlan, others: Sequence[SourcePlan]) -> str:
    """Returns what a person would save who had a key: the next source asks about every video by itself."""
    instead = next((other for other in others if other.num_ids), None)
    saved = f", in place of {_cost(instead)} of {instead.source}" if instead is not None else ""
    return f"left out: YOUTUBE_API_KEY is not set; with a key it would be {_cost(plan)}{saved}"


def format_hours(hours: float) -> str:
    """Returns a time span for people: ``12 s``, ``3 min``, ``2.5 h``, ``3 days``."""
    seconds = hours * 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
