"""What all answers about one video together say about its state: a pure function.

- One answer that shows the video alive is enough, and outweighs every other.
- "Gone" takes two: two different sources, or one source on two days. Otherwise the state is unknown.
- The id rule (the 11th character carries four bits only) counts as one source, named ``id-rule``: an id that breaks
  it cannot exist, yet alone it convicts nobody. So 400 of oEmbed, or absence from the Data API, completes the pair.
- Rate limits, blocks and faults are no outcomes and so never count.
"""

from __future__ import annotations

from collections.abc import Iterable

from k700_text.records import POSSIBLE_YOUTUBE_ID_PATTERN, Availability, OutcomeStatus, TitleOutcome

ID_RULE = "id-rule"

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


def judge(youtube_id: str, outcomes: Iterable[TitleOutcome]) -> tuple[Availability, tuple[str, ...]]:
    """Returns the state of a video and the sources that agree on "alive" or on "gone", sorted.

    Args:
        youtube_id: the video.
        outcomes: everything recorded about it, in any order.
    """
    final = [outcome for outcome in outcomes if outcome.status is not OutcomeStatus.TRANSIENT]
    newest: dict[str, TitleOutcome] = {}
    for outcome in sorted(final, key=lambda each: each.fetched_at):
        if outcome.availability is not Availability.UNKNOWN:
            newest[outcome.source] = outcome
    alive = {name: each.availability for name, each in newest.items() if each.availability.is_alive}
    if alive:
        state = min(alive.values(), key=_ALIVE_BY_PRECISION.index)
        return state, tuple(sorted(alive))
    gone = {name: each.availability for name, each in newest.items() if each.availability.is_gone}
    if POSSIBLE_YOUTUBE_ID_PATTERN.fullmatch(youtube_id) is None:
        gone[ID_RULE] = Availability.MALFORMED
    if len(gone) >= 2 or _on_two_days(final, gone):
        return min(gone.values(), key=_GONE_BY_PRECISION.index), tuple(sorted(gone))
    return Availability.UNKNOWN, ()


def _on_two_days(outcomes: list[TitleOutcome], gone: dict[str, Availability]) -> bool:
    """Tells whether the only source that says "gone" said so on two days (UTC)."""
    days = {
        outcome.fetched_at.date() for outcome in outcomes if outcome.source in gone and outcome.availability.is_gone
    }
    return len(days) >= 2
