"""What the ledger's outcomes of one video come to: the title and the web columns of a manifest row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from k700_text.crawl.crawler import source_rank
from k700_text.crawl.ledger import Video
from k700_text.crawl.verdict import judge
from k700_text.records import Availability, TitleOutcome

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebFacts:
    """Values of the title and web columns, named as the columns; the defaults are those of a video never asked."""

    title: str | None = None
    title_source: str | None = None
    title_fetched_at: datetime | None = None
    title_captured_at: datetime | None = None
    title_language: str | None = None
    availability: str = Availability.UNKNOWN.value
    availability_sources: tuple[str, ...] = ()
    published_at: datetime | None = None
    video_duration_seconds: float | None = None
    web_has_audio: bool | None = None


NEVER_ASKED = WebFacts()


def web_facts(video: Video) -> WebFacts:
    """Returns the columns' values: the title of the best source (its newest one), the first known of the rest."""
    by_preference = sorted(
        video.outcomes, key=lambda outcome: (source_rank(outcome.source), -outcome.fetched_at.timestamp())
    )
    titled = next((outcome for outcome in by_preference if outcome.title is not None), None)
    availability, sources = judge(video.youtube_id, video.outcomes)
    return WebFacts(
        title=titled.title if titled else None,
        title_source=titled.source if titled else None,
        title_fetched_at=titled.fetched_at if titled else None,
        title_captured_at=titled.captured_at if titled else None,
        title_language=titled.title_language if titled else None,
        availability=availability.value,
        availability_sources=sources,
        published_at=_first(by_preference, lambda outcome: outcome.published_at),
        video_duration_seconds=_first(by_preference, lambda outcome: outcome.video_duration_seconds),
        web_has_audio=_first(by_preference, lambda outcome: outcome.web_has_audio),
    )


def _first(outcomes: Sequence[TitleOutcome], get: Callable[[TitleOutcome], _Value | None]) -> _Value | None:
    return next((value for value in map(get, outcomes) if value is not None), None)
