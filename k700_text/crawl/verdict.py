"""What all answers about one video together say about its state: a pure function.

- One answer that shows the video alive is enough, and outweighs every other.
- A witness (the thumbnail) alone overrules nobody: where only it says "alive" and another says "gone", the state is
  unknown. Its "gone" counts as any other.
- "Gone" takes two: two different services, or one service on two days. Otherwise the state is unknown.
- The id rule (the 11th character carries four bits only) counts as one service, named ``id-rule``: an id that breaks
  it cannot exist, yet alone it convicts nobody. So 400 of oEmbed, or absence from the Data API, completes the pair.
- Rate limits, blocks and faults are no outcomes and so never count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Protocol

from k700_text.crawl.sources import origin
from k700_text.records import POSSIBLE_YOUTUBE_ID_PATTERN, Availability, OutcomeStatus

ID_RULE = "id-rule"
WITNESSES = frozenset({"thumbnail"})

# The narrower statement wins where several are true: "public" from oEmbed only means "can be watched".
_ALIVE_BY_PRECISION = (
    Availability.MEMBERS_ONLY,
    Availability.AGE_RESTRICTED,
    Availability.GEO_BLOCKED,
    Availability.EMBEDDING_OFF,
    Availability.UNLISTED,
    Availability.PUBLIC,
)
_GONE_BY_PRECISION = (
    Availability.MALFORMED,
    Availability.TERMINATED,
    Availability.COPYRIGHT,
    Availability.POLICY,
    Availability.REMOVED,
    Availability.PRIVATE,
    Availability.NOT_FOUND,
)

_UNKNOWN, _TRANSIENT = Availability.UNKNOWN, OutcomeStatus.TRANSIENT

Verdict = tuple[Availability, tuple[str, ...]]


class Statement(Protocol):
    """The part of an outcome that counts here; status and availability are of ``records``, or their plain text."""

    @property
    def source(self) -> str:
        """Name of the source."""

    @property
    def status(self) -> str:
        """A fault (``transient``) says nothing."""

    @property
    def availability(self) -> str:
        """What the source says about the video."""

    @property
    def fetched_at(self) -> datetime:
        """When it said so (UTC)."""


def judge(youtube_id: str, statements: Iterable[Statement]) -> Verdict:
    """Returns the state of a video and the services that agree on "alive" or on "gone", sorted.

    Args:
        youtube_id: the video.
        statements: everything recorded about it (``TitleOutcome``), in any order.
    """
    final = [each for each in statements if each.availability != _UNKNOWN and each.status != _TRANSIENT]
    is_possible = POSSIBLE_YOUTUBE_ID_PATTERN.fullmatch(youtube_id) is not None
    verdict = _weigh(tuple([(each.source, each.availability) for each in final]), is_possible)
    if verdict is None:
        final.sort(key=lambda each: each.fetched_at)
        said = {origin(each.source): each.availability for each in final}
        verdict = _weigh(tuple(said.items()), is_possible, _on_two_days(final, said))
        assert verdict is not None, "every service speaks once"
    return verdict


# Hundreds of thousands of videos share a handful of combinations.
@lru_cache(maxsize=4096)
def _weigh(said: tuple[tuple[str, str], ...], is_possible: bool, on_two_days: bool = False) -> Verdict | None:
    """Weighs one statement of each service; None where a service speaks more than once, so that times matter.

    Args:
        said: (source, what it says) pairs.
        is_possible: the video's id keeps the id rule.
        on_two_days: the services that say "gone" said so on two days at least.
    """
    states = {origin(source): Availability(state) for source, state in said}
    if len(states) < len(said):
        return None
    alive = {service: state for service, state in states.items() if state.is_alive}
    gone = {service: state for service, state in states.items() if state.is_gone}
    if not is_possible:
        gone[ID_RULE] = Availability.MALFORMED
    if alive and not (gone and alive.keys() <= WITNESSES):
        return min(alive.values(), key=_ALIVE_BY_PRECISION.index), tuple(sorted(alive))
    if states and not alive and (len(gone) >= 2 or on_two_days):
        return min(gone.values(), key=_GONE_BY_PRECISION.index), tuple(sorted(gone))
    return Availability.UNKNOWN, ()


def _on_two_days(final: Sequence[Statement], newest: dict[str, str]) -> bool:
    """Tells whether those whose newest word is "gone" said so on two days (UTC)."""
    gone = {service for service, state in newest.items() if Availability(state).is_gone}
    days = {
        each.fetched_at.date()
        for each in final
        if origin(each.source) in gone and Availability(each.availability).is_gone
    }
    return len(days) >= 2
