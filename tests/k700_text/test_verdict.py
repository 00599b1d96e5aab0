from __future__ import annotations

from datetime import timedelta

import pytest

from k700_text.crawl.sources import SOURCE_NAMES
from k700_text.crawl.verdict import ID_RULE, judge
from k700_text.records import Availability, OutcomeStatus, TitleOutcome
from tests.k700_text.crawling import IMPOSSIBLE_ID, NOON, POSSIBLE_ID, outcome


@pytest.mark.parametrize(
    ("said", "state", "sources"),
    [
        ({}, Availability.UNKNOWN, ()),
        ({"oembed": Availability.NOT_FOUND}, Availability.UNKNOWN, ()),
        ({"oembed": Availability.PRIVATE}, Availability.UNKNOWN, ()),
        ({"data-api": Availability.NOT_FOUND}, Availability.UNKNOWN, ()),
        (
            {"oembed": Availability.NOT_FOUND, "data-api": Availability.NOT_FOUND},
            Availability.NOT_FOUND,
            ("data-api", "oembed"),
        ),
        (
            {"oembed": Availability.PRIVATE, "data-api": Availability.NOT_FOUND},
            Availability.PRIVATE,
            ("data-api", "oembed"),
        ),
        ({"oembed": Availability.PUBLIC}, Availability.PUBLIC, ("oembed",)),
        (
            {"oembed": Availability.EMBEDDING_OFF, "data-api": Availability.PUBLIC},
            Availability.EMBEDDING_OFF,
            ("data-api", "oembed"),
        ),
        (
            {"oembed": Availability.PUBLIC, "data-api": Availability.UNLISTED},
            Availability.UNLISTED,
            ("data-api", "oembed"),
        ),
        (
            {"oembed": Availability.PUBLIC, "data-api": Availability.NOT_FOUND, "x": Availability.REMOVED},
            Availability.PUBLIC,
            ("oembed",),
        ),
        ({"oembed": Availability.UNKNOWN, "data-api": Availability.NOT_FOUND}, Availability.UNKNOWN, ()),
    ],
)
def test_alive_wins_and_gone_takes_two(
    said: dict[str, Availability], state: Availability, sources: tuple[str, ...]
) -> None:
    outcomes = [outcome(source=source, availability=each) for source, each in said.items()]
    assert judge(POSSIBLE_ID, outcomes) == (state, sources)


def gone(source: str, **later: float) -> TitleOutcome:
    return outcome(source=source, availability=Availability.NOT_FOUND, fetched_at=NOON + timedelta(**later))


def test_the_official_api_on_two_days_is_enough() -> None:
    said = [gone("data-api"), gone("data-api", hours=1)]
    assert judge(POSSIBLE_ID, said) == (Availability.UNKNOWN, ())
    said.append(gone("data-api", days=1))
    assert judge(POSSIBLE_ID, said) == (Availability.NOT_FOUND, ("data-api",))


@pytest.mark.parametrize("source", [name for name in SOURCE_NAMES if name != "data-api"])
def test_no_other_source_convicts_alone_however_often_it_speaks(source: str) -> None:
    said = [gone(source, days=day) for day in range(9)]
    assert judge(POSSIBLE_ID, said) == (Availability.UNKNOWN, ())
    # Nor does a source that says nothing stand in for the second.
    assert judge(POSSIBLE_ID, [*said, outcome(source="data-api")]) == (Availability.UNKNOWN, ())
    second = "oembed" if source != "oembed" else "thumbnail"
    assert judge(POSSIBLE_ID, [*said, gone(second)])[0] is Availability.NOT_FOUND


def test_two_days_with_life_in_between_do_not_agree() -> None:
    states = (Availability.NOT_FOUND, Availability.PUBLIC, Availability.NOT_FOUND)
    said = [
        outcome(source="data-api", availability=each, fetched_at=NOON + timedelta(days=day))
        for day, each in enumerate(states)
    ]
    assert judge(POSSIBLE_ID, said) == (Availability.UNKNOWN, ())
    said.append(gone("data-api", days=3))
    assert judge(POSSIBLE_ID, said) == (Availability.NOT_FOUND, ("data-api",))


@pytest.mark.parametrize(
    ("others", "state", "sources"),
    [
        ({}, Availability.EMBEDDING_OFF, ("oembed",)),
        ({"yt-dlp": Availability.GEO_BLOCKED}, Availability.GEO_BLOCKED, ("oembed", "yt-dlp")),
        # The API lists videos that may not be embedded.
        ({"data-api": Availability.NOT_FOUND}, Availability.PRIVATE, ("data-api", "oembed")),
        ({"data-api": Availability.REMOVED}, Availability.REMOVED, ("data-api", "oembed")),
        ({"data-api": Availability.COPYRIGHT}, Availability.COPYRIGHT, ("data-api", "oembed")),
        ({"yt-dlp": Availability.PRIVATE}, Availability.PRIVATE, ("oembed", "yt-dlp")),
        # No sign of life, and no second voice either.
        ({"yt-dlp": Availability.NOT_FOUND}, Availability.UNKNOWN, ()),
        ({"thumbnail": Availability.NOT_FOUND}, Availability.UNKNOWN, ()),
        (
            {"thumbnail": Availability.NOT_FOUND, "yt-dlp": Availability.TERMINATED},
            Availability.TERMINATED,
            ("thumbnail", "yt-dlp"),
        ),
        # A page that plays outweighs all.
        ({"data-api": Availability.NOT_FOUND, "yt-dlp": Availability.EMBEDDING_OFF}, Availability.EMBEDDING_OFF, None),
        ({"data-api": Availability.NOT_FOUND, "thumbnail": Availability.PUBLIC}, Availability.UNKNOWN, ()),
    ],
)
def test_401_of_oembed_is_read_beside_what_the_others_say(
    others: dict[str, Availability], state: Availability, sources: tuple[str, ...] | None
) -> None:
    said = [outcome(source=name, availability=each) for name, each in others.items()]
    said.append(outcome(availability=Availability.EMBEDDING_OFF, http_status=401))
    for order in (said, said[::-1]):
        verdict = judge(POSSIBLE_ID, order)
        assert verdict[0] is state
        assert sources is None or verdict[1] == sources


def test_the_id_rule_is_one_source_among_others() -> None:
    assert judge(IMPOSSIBLE_ID, []) == (Availability.UNKNOWN, ())
    assert judge(IMPOSSIBLE_ID, [outcome(availability=Availability.MALFORMED)]) == (
        Availability.MALFORMED,
        (ID_RULE, "oembed"),
    )
    assert (
        judge(IMPOSSIBLE_ID, [outcome(source="data-api", availability=Availability.NOT_FOUND)])[0]
        is Availability.MALFORMED
    )


def test_faults_are_no_evidence() -> None:
    faults = [
        outcome(source=source, status=OutcomeStatus.TRANSIENT, availability=Availability.NOT_FOUND, reason="transport")
        for source in ("oembed", "data-api")
    ]
    assert judge(POSSIBLE_ID, faults) == (Availability.UNKNOWN, ())


def test_a_source_that_changed_its_mind_counts_with_its_newest_word() -> None:
    said = [
        outcome(availability=Availability.PUBLIC),
        outcome(availability=Availability.NOT_FOUND, fetched_at=NOON + timedelta(days=9)),
        outcome(source="data-api", availability=Availability.NOT_FOUND),
    ]
    assert judge(POSSIBLE_ID, said)[0] is Availability.NOT_FOUND


@pytest.mark.parametrize(
    ("said", "state", "sources"),
    [
        ({"thumbnail": Availability.PUBLIC}, Availability.PUBLIC, ("thumbnail",)),
        ({"thumbnail": Availability.NOT_FOUND}, Availability.UNKNOWN, ()),
        ({"thumbnail": Availability.PUBLIC, "oembed": Availability.PRIVATE}, Availability.UNKNOWN, ()),
        (
            {"thumbnail": Availability.PUBLIC, "oembed": Availability.NOT_FOUND, "data-api": Availability.NOT_FOUND},
            Availability.UNKNOWN,
            (),
        ),
        (
            {"thumbnail": Availability.PUBLIC, "oembed": Availability.UNKNOWN, "data-api": Availability.UNKNOWN},
            Availability.PUBLIC,
            ("thumbnail",),
        ),
        (
            {"thumbnail": Availability.NOT_FOUND, "oembed": Availability.PRIVATE},
            Availability.PRIVATE,
            ("oembed", "thumbnail"),
        ),
        ({"thumbnail": Availability.NOT_FOUND, "oembed": Availability.PUBLIC}, Availability.PUBLIC, ("oembed",)),
        (
            {"thumbnail": Availability.PUBLIC, "yt-dlp": Availability.EMBEDDING_OFF, "data-api": Availability.REMOVED},
            Availability.EMBEDDING_OFF,
            ("thumbnail", "yt-dlp"),
        ),
    ],
)
def test_a_witness_alone_overrules_nobody(
    said: dict[str, Availability], state: Availability, sources: tuple[str, ...]
) -> None:
    outcomes = [outcome(source=source, availability=each) for source, each in said.items()]
    assert judge(POSSIBLE_ID, outcomes) == judge(POSSIBLE_ID, outcomes[::-1]) == (state, sources)


def test_a_witness_does_not_bring_an_impossible_id_to_life() -> None:
    alive = [outcome(source="thumbnail", availability=Availability.PUBLIC)]
    assert judge(IMPOSSIBLE_ID, alive) == (Availability.UNKNOWN, ())
    dead = [outcome(source="thumbnail", availability=Availability.NOT_FOUND)]
    assert judge(IMPOSSIBLE_ID, dead) == (Availability.MALFORMED, (ID_RULE, "thumbnail"))


def test_two_names_of_one_service_are_not_two_services() -> None:
    said = [outcome(source=name, availability=Availability.REMOVED) for name in ("wayback", "wayback-cdx")]
    assert judge(POSSIBLE_ID, said) == (Availability.UNKNOWN, ())
    second = outcome(source="yt-dlp", availability=Availability.REMOVED)
    assert judge(POSSIBLE_ID, [*said, second]) == (Availability.REMOVED, ("wayback", "yt-dlp"))


def test_statements_may_come_in_any_order() -> None:
    said = [
        outcome(availability=Availability.PUBLIC, fetched_at=NOON + timedelta(days=9)),
        outcome(availability=Availability.NOT_FOUND),
        outcome(availability=Availability.NOT_FOUND, fetched_at=NOON + timedelta(days=1)),
    ]
    for order in (said, said[::-1], [said[1], said[0], said[2]]):
        assert judge(POSSIBLE_ID, iter(order)) == (Availability.PUBLIC, ("oembed",))


def test_two_newer_words_of_gone_outweigh_an_old_alive() -> None:
    seen = outcome(source="data-api", availability=Availability.PUBLIC, fetched_at=NOON)
    for days, expected in ((0.5, Availability.PUBLIC), (30, Availability.NOT_FOUND)):
        later = NOON + timedelta(days=days)
        gone = [
            outcome(source=name, availability=Availability.NOT_FOUND, fetched_at=later)
            for name in ("oembed", "thumbnail")
        ]
        assert judge(POSSIBLE_ID, [seen, *gone])[0] is expected
        assert judge(POSSIBLE_ID, [seen, gone[0]])[0] is Availability.PUBLIC
