from __future__ import annotations

from datetime import timedelta

import pytest

from k700_text.crawl.verdict import ID_RULE, judge
from k700_text.records import Availability, OutcomeStatus
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
            {"oembed": Availability.EMBEDDING_OFF, "data-api": Availability.NOT_FOUND},
            Availability.EMBEDDING_OFF,
            ("oembed",),
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


def test_one_source_on_two_days_is_enough() -> None:
    said = [outcome(availability=Availability.NOT_FOUND, fetched_at=NOON + timedelta(hours=hours)) for hours in (0, 1)]
    assert judge(POSSIBLE_ID, said) == (Availability.UNKNOWN, ())
    said.append(outcome(availability=Availability.NOT_FOUND, fetched_at=NOON + timedelta(days=1)))
    assert judge(POSSIBLE_ID, said) == (Availability.NOT_FOUND, ("oembed",))


def test_two_days_with_life_in_between_do_not_agree() -> None:
    states = (Availability.NOT_FOUND, Availability.PUBLIC, Availability.NOT_FOUND)
    said = [outcome(availability=each, fetched_at=NOON + timedelta(days=day)) for day, each in enumerate(states)]
    assert judge(POSSIBLE_ID, said) == (Availability.UNKNOWN, ())
    said.append(outcome(availability=Availability.NOT_FOUND, fetched_at=NOON + timedelta(days=3)))
    assert judge(POSSIBLE_ID, said) == (Availability.NOT_FOUND, ("oembed",))


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
            {"thumbnail": Availability.PUBLIC, "oembed": Availability.EMBEDDING_OFF, "data-api": Availability.REMOVED},
            Availability.EMBEDDING_OFF,
            ("oembed", "thumbnail"),
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
    later = outcome(source="wayback-cdx", availability=Availability.REMOVED, fetched_at=NOON + timedelta(days=1))
    assert judge(POSSIBLE_ID, [*said, later]) == (Availability.REMOVED, ("wayback",))


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
