"""What all answers about one video together say about its state: a pure function.

- One answer that shows the video alive is enough, and outweighs every other; until two services say "gone" a day
  later or more.
- A witness (the thumbnail) alone overrules nobody: where only it says "alive" and another says "gone", the state is
  unknown. Its "gone" counts as any other.
- "Gone" takes two different services. Only the official API may stand for both, where it says so on two days: it lists
  every video that somebody can watch. Otherwise the state is unknown.
- 401 of oEmbed, its "embedding off", is also what it answers about private videos. Beside a service that says "gone"
  it is no sign of life. Beside the API, which lists videos that may not be embedded, or beside one that says "private",
  it agrees: private.
- The id rule (the 11th character carries four bits only) counts as one service, named ``id-rule``: an id that breaks
  it cannot exist, yet alone it convicts nobody. So 400 of oEmbed, or absence from the Data API, completes the pair.
- Rate limits, blocks and faults are no outcomes and so never count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Protocol

from k700_text.crawl.sources import origin
from k700_text.records import POSSIBLE_YOUTUBE_ID_PATTERN, Availability, OutcomeStatus

ID_RULE = "id-rule"
OFFICIAL = "data-api"
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
    return judge_final(youtube_id, [each for each in statements if each.status != OutcomeStatus.TRANSIENT])


def judge_final(youtube_id: str, final: Sequence[Statement]) -> Verdict:
    """Returns what ``judge`` does, for statements without faults among them."""
    is_possible = POSSIBLE_YOUTUBE_ID_PATTERN.fullmatch(youtube_id) is not None
    final = _in_force(final) if len(final) > 2 else final
    verdict = _weigh(tuple([(each.source, each.availability) for each in final]), is_possible)
    if verdict is None:
        in_time = sorted(final, key=lambda each: each.fetched_at)
        newest = {
            origin(each.source): each.availability for each in in_time if each.availability != Availability.UNKNOWN
        }
        verdict = _weigh(tuple(newest.items()), is_possible, _on_two_days(in_time))
        assert verdict is not None, "every service speaks once"
    return verdict


def judge_one(youtube_id: str, source: str, availability: str) -> Verdict:
    """Returns what ``judge_final`` does for the only statement about a video."""
    verdict = _weigh(((source, availability),), POSSIBLE_YOUTUBE_ID_PATTERN.fullmatch(youtube_id) is not None)
    assert verdict is not None, "one service speaks once"
    return verdict


def _in_force(final: Sequence[Statement]) -> Sequence[Statement]:
    """Leaves out an old "alive" where two services have said "gone" since then, a day later or more."""
    alive = [each for each in final if Availability(each.availability).is_alive]
    if not alive:
        return final
    since = max(each.fetched_at for each in alive) + timedelta(days=1)
    gone = {
        origin(each.source) for each in final if Availability(each.availability).is_gone and each.fetched_at >= since
    }
    return [each for each in final if each not in alive] if len(gone) >= 2 else final


# Hundreds of thousands of videos share a handful of combinations.
@lru_cache(maxsize=4096)
def _weigh(said: tuple[tuple[str, str], ...], is_possible: bool, on_two_days: bool = False) -> Verdict | None:
    """Weighs one statement of each service; None where a service speaks more than once, so that times matter.

    Args:
        said: (source, what it says) pairs.
        is_possible: the video's id keeps the id rule.
        on_two_days: the official API says "gone", and said so on two days at least.
    """
    known = [(origin(source), Availability(state)) for source, state in said if state != Availability.UNKNOWN]
    states = dict(known)
    if len(states) < len(known):
        return None
    if states.get("oembed") is Availability.EMBEDDING_OFF:
        states = _with_401_read(states)
    alive = {service: state for service, state in states.items() if state.is_alive}
    gone = {service: state for service, state in states.items() if state.is_gone}
    if not is_possible:
        gone[ID_RULE] = Availability.MALFORMED
    if alive and not (gone and alive.keys() <= WITNESSES):
        return min(alive.values(), key=_ALIVE_BY_PRECISION.index), tuple(sorted(alive))
    if states and not alive and (len(gone) >= 2 or on_two_days):
        return min(gone.values(), key=_GONE_BY_PRECISION.index), tuple(sorted(gone))
    return Availability.UNKNOWN, ()


def _with_401_read(states: dict[str, Availability]) -> dict[str, Availability]:
    """Returns the states with the 401 of oEmbed read in the light of what the others say."""
    others = {service: state for service, state in states.items() if service != "oembed"}
    gone = {service: state for service, state in others.items() if state.is_gone}
    if not gone:
        return states
    agrees = OFFICIAL in gone or Availability.PRIVATE in gone.values()
    return {**others, "oembed": Availability.PRIVATE} if agrees else others


def _on_two_days(in_time: Sequence[Statement]) -> bool:
    """Tells whether the official API's newest word is "gone", said on two days (UTC) with no "alive" in between."""
    days = set()
    for each in in_time:
        if origin(each.source) != OFFICIAL:
            continue
        if Availability(each.availability).is_gone:
            days.add(each.fetched_at.date())
        elif Availability(each.availability).is_alive:
            days.clear()
    return len(days) >= 2
