"""Which videos a source has still to be asked about: the rules of the cascade, as one SQL condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from k700_text.crawl.ledger_store import stamp
from k700_text.records import Availability

_ALIVE = ", ".join(f"'{each.value}'" for each in Availability if each.is_alive)
_GONE = ", ".join(f"'{each.value}'" for each in Availability if each.is_gone)

# A source is through with a video once it answered, or failed on it in this very run.
_THROUGH = """(o.run = :run OR (o.status = 'title' AND o.fetched_at >= :titles_since)
                OR (o.status = 'no_title' AND o.fetched_at >= :answers_since))"""
_ABOUT = "SELECT 1 FROM outcomes AS o WHERE o.youtube_id = w.youtube_id AND"
# One says gone, none says alive: the question a witness can settle. Where 401 of oEmbed agrees with that one (see
# verdict) nothing is open; beside any other it is no sign of life.
_AGREES = f"(g.source = 'data-api' OR g.availability = '{Availability.PRIVATE.value}')"
_NO_LIFE = f"""(o.source = 'oembed' AND o.availability = '{Availability.EMBEDDING_OFF.value}' AND NOT EXISTS (
    SELECT 1 FROM outcomes AS g WHERE g.youtube_id = w.youtube_id AND g.availability IN ({_GONE})
    AND g.fetched_at >= :answers_since AND {_AGREES}))"""
_DISPUTED = f"""
AND NOT EXISTS ({_ABOUT} o.availability IN ({_ALIVE}) AND o.fetched_at >= :answers_since AND NOT {_NO_LIFE})
AND 1 = (SELECT count(DISTINCT o.source) FROM outcomes AS o WHERE o.youtube_id = w.youtube_id
         AND o.availability IN ({_GONE}) AND o.fetched_at >= :answers_since)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """Which recorded answers still count; all of them by default.

    Attributes:
        titles_since: titles fetched before are asked for again.
        answers_since: answers without a title fetched before are asked for again.
    """

    titles_since: datetime | None = None
    answers_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingQuery:
    """What one source has still to be asked about.

    Attributes:
        source: its name.
        preferred: sources whose title makes this one's unnecessary.
        is_witness: it is asked only about videos of which exactly one source says that they are gone.
        answered_by: only videos that all of these sources are through with.
        freshness: which recorded answers still count.
    """

    source: str
    preferred: Sequence[str] = ()
    is_witness: bool = False
    answered_by: Sequence[str] = ()
    freshness: Freshness = field(default_factory=Freshness)

    def sql(self, select: str, run: int | None, after: str) -> tuple[str, dict[str, Any]]:
        """Returns the query and its values.

        Args:
            select: what to select of ``wanted AS w``.
            run: the run whose failures count as answers; None: failures count as open.
            after: only ids behind this one.
        """
        values = {
            "source": self.source,
            "run": -1 if run is None else run,
            "after": after,
            "titles_since": stamp(self.freshness.titles_since) or "",
            "answers_since": stamp(self.freshness.answers_since) or "",
        }
        text = f"SELECT {select} FROM wanted AS w WHERE w.youtube_id > :after"
        text += f" AND NOT EXISTS ({_ABOUT} o.source = :source AND {_THROUGH})"
        for index, name in enumerate(self.answered_by):
            values[f"through{index}"] = name
            text += f" AND EXISTS ({_ABOUT} o.source = :through{index} AND {_THROUGH})"
        if self.is_witness:
            return text + _DISPUTED, values
        names = {f"preferred{index}": name for index, name in enumerate(self.preferred)}
        placeholders = ", ".join(f":{name}" for name in names)
        if names:
            text += f" AND NOT EXISTS ({_ABOUT} o.source IN ({placeholders}) AND o.status = 'title'"
            text += " AND o.fetched_at >= :titles_since)"
        return text, {**values, **names}
