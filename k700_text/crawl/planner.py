"""What a crawl would cost: requests, quota units and hours per source, before the first request."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from k700_text.crawl.sources.base import SourcePlan


@dataclass(frozen=True, slots=True)
class CrawlPlan:
    """Upper bounds: every source is asked about everything that is open, as if the ones before it found no title.

    Attributes:
        num_ids: distinct videos of the crawl.
        sources: in the order in which they are asked.
    """

    num_ids: int
    sources: tuple[SourcePlan, ...]

    @property
    def hours(self) -> float:
        """Hours for all: sources work side by side, so the slowest one decides."""
        return max((plan.hours for plan in self.sources), default=0.0)

    def rows(self) -> list[tuple[str, str]]:
        """Returns the plan as table rows."""
        rows = [("videos", f"{self.num_ids}")]
        for plan in self.sources:
            quota = f", {plan.quota_units} quota units" if plan.quota_units else ""
            cost = f"{plan.num_requests} requests{quota}, {format_hours(plan.hours)}"
            rows.append((plan.source, f"up to {plan.num_ids} videos: {cost}"))
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Returns the plan as plain values."""
        return {"num_ids": self.num_ids, "hours": self.hours, "sources": [asdict(plan) for plan in self.sources]}


def format_hours(hours: float) -> str:
    """Returns a time span for people: ``12 s``, ``3 min``, ``2.5 h``, ``3 days``."""
    seconds = hours * 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
