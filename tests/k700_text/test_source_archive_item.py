from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from k700_text.crawl.sources.archive_item import ArchiveItem, parse_evidence
from k700_text.crawl.transport import Response, Transport
from k700_text.errors import BlockedError, K700TextError, ParseError, RateLimitedError, TransportError
from k700_text.records import Availability, OutcomeStatus, TitleOutcome
from k700_text.sandbox.mirrors import MirrorShares
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World, WorldConfig
from k700_text.titles import clean_plain_title
from tests.k700_text.crawling import NOON, POSSIBLE_ID, answer
from tests.k700_text.saved_pages import OTHER_ID, TWIN_ID, watch_url

NAMES = (f"youtube-{POSSIBLE_ID}", f"youtube_{POSSIBLE_ID}", POSSIBLE_ID)
MIRROR = {
    "identifier": NAMES[0],
    "title": "A title",
    "date": "2012-05-01",
    "creator": "Somebody",
    "mediatype": "movies",
}


class Items:
    """Stands in for the archive: metadata (or a whole answer) by item name."""

    def __init__(self, items: Mapping[str, Mapping[str, Any] | Response]) -> None:
        self.items = items
        self.asked: list[str] = []

    def __call__(
        self, url: str, params: Mapping[str, str] | None = None, *, method: str = "GET", lane: str | None = None
    ) -> Response:
        name = url.removeprefix("https://archive.org/metadata/")
        self.asked.append(name)
        found = self.items.get(name, answer(200, {}))
        return found if isinstance(found, Response) else answer(200, {"metadata": found, "files": [{"name": "x"}]})


def fetch(items: Items) -> TitleOutcome:
    """Asks about one video, and checks that the evidence alone gives the same outcome."""
    (outcome,) = ArchiveItem().fetch([POSSIBLE_ID], items)
    assert outcome.evidence is not None
    assert parse_evidence(POSSIBLE_ID, outcome.evidence, outcome.http_status, outcome.fetched_at) == outcome
    assert (outcome.availability, outcome.published_at) == (Availability.UNKNOWN, None)
    return outcome


def test_a_mirror_tells_the_title_at_the_first_name() -> None:
    items = Items({NAMES[0]: {**MIRROR, "title": " Tom &amp; Éric\n", "description": "x" * 100_000}})
    outcome = fetch(items)
    assert (outcome.status, outcome.title, outcome.raw_title) == (
        OutcomeStatus.TITLE,
        "Tom &amp; Éric",
        " Tom &amp; Éric\n",
    )
    assert items.asked == [NAMES[0]]
    assert len(outcome.evidence or b"") < 5000


def test_no_item_under_any_name() -> None:
    items = Items({})
    outcome = fetch(items)
    assert (outcome.reason, outcome.http_status) == ("not_mirrored", 200)
    assert items.asked == list(NAMES)


def test_hidden_items_are_told_from_missing_ones_and_do_not_end_the_search() -> None:
    dark = answer(200, {"is_dark": True, "metadata": {}})
    assert fetch(Items({NAMES[1]: dark})).reason == "dark"
    later = {**MIRROR, "identifier": POSSIBLE_ID, "originalurl": watch_url(POSSIBLE_ID)}
    assert fetch(Items({NAMES[0]: dark, NAMES[2]: later})).title == "A title"


@pytest.mark.parametrize(
    ("name", "metadata"),
    [
        (NAMES[0], {}),
        (NAMES[1], {"identifier": NAMES[1]}),
        (NAMES[0], {"identifier": NAMES[0].lower(), "originalurl": watch_url(POSSIBLE_ID)}),
        (NAMES[0], {"identifier": "other", "external-identifier": f"urn:youtube:{POSSIBLE_ID}"}),
        (NAMES[2], {"identifier": POSSIBLE_ID, "originalurl": [watch_url(OTHER_ID), watch_url(POSSIBLE_ID)]}),
        (NAMES[2], {"identifier": POSSIBLE_ID, "external-identifier": [f"urn:youtube:{POSSIBLE_ID}"]}),
        (NAMES[0], {"title": ["A title", "Another one"]}),
    ],
)
def test_items_that_are_about_the_video(name: str, metadata: dict[str, Any]) -> None:
    assert fetch(Items({name: {**MIRROR, **metadata}})).title == "A title"


@pytest.mark.parametrize(
    ("name", "metadata", "reason"),
    [
        (NAMES[0], {"originalurl": watch_url(OTHER_ID)}, "wrong_id"),
        (NAMES[0], {"originalurl": watch_url(TWIN_ID)}, "wrong_id"),
        (NAMES[0], {"identifier": NAMES[0].lower()}, "wrong_id"),
        (NAMES[0], {"identifier": "other", "description": f"Part 2 of https://youtu.be/{POSSIBLE_ID}."}, "wrong_id"),
        (NAMES[2], {"identifier": POSSIBLE_ID}, "wrong_id"),
        (NAMES[2], {"identifier": POSSIBLE_ID, "description": watch_url(POSSIBLE_ID)}, "wrong_id"),
        (NAMES[0], {"title": " \u200b"}, "empty_title"),
        (NAMES[0], {"title": 5}, "empty_title"),
        (NAMES[0], {"title": []}, "empty_title"),
        (NAMES[0], {"title": NAMES[0]}, "junk_title"),
        (NAMES[0], {"title": POSSIBLE_ID}, "junk_title"),
        (NAMES[0], {"title": f"youtube video #{POSSIBLE_ID}"}, "junk_title"),
    ],
)
def test_items_that_tell_no_title_of_the_video(name: str, metadata: dict[str, Any], reason: str) -> None:
    outcome = fetch(Items({name: {**MIRROR, **metadata}}))
    assert (outcome.title, outcome.reason) == (None, reason)


def test_a_mirrored_video_may_have_an_odd_title() -> None:
    assert fetch(Items({NAMES[0]: {**MIRROR, "title": "Private video"}})).title == "Private video"


def test_an_item_without_metadata_is_none() -> None:
    assert fetch(Items({NAMES[0]: answer(200, {"created": 1, "metadata": []})})).reason == "not_mirrored"


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (answer(200, b""), ParseError),
        (answer(200, b"not json"), ParseError),
        (answer(200, b"[" * 100_000), ParseError),
        (answer(200, b"[]"), ParseError),
        (answer(200, {"error": "cannot find the item"}), ParseError),
        (answer(404, b"nothing"), ParseError),
        (answer(200, b"<html><body>busy</body></html>", {"content-type": "text/html"}), BlockedError),
        (answer(503, b""), TransportError),
        (answer(429, b"", {"retry-after": "3"}), RateLimitedError),
    ],
)
def test_what_is_no_item_is_an_error(response: Response, error: type[K700TextError]) -> None:
    with pytest.raises(error) as caught:
        fetch(Items({NAMES[1]: response}))
    assert type(caught.value) is error


@pytest.mark.parametrize("evidence", [b"", b"{}", b"[1]", b'[{"metadata": {"title": 1}}]', b"1"])
def test_broken_evidence_is_a_parse_error(evidence: bytes) -> None:
    with pytest.raises(ParseError, match="cannot be read"):
        parse_evidence(POSSIBLE_ID, evidence, 200, NOON)


def test_the_sandboxs_mirrors_are_all_found_and_foreign_ones_refused() -> None:
    mirrors = MirrorShares(mirrored=0.5, dark=0.2, other_names=0.5, title_lists=0.3, foreign=0.5)
    world = World(seed=0, config=replace(WorldConfig.hostile(), mirrors=mirrors))
    transport = Transport()

    def get(
        url: str, params: Mapping[str, str] | None = None, *, method: str = "GET", lane: str | None = None
    ) -> Response:
        return transport.get(url, params, method=method)

    with SandboxServer(world) as server:
        source = ArchiveItem(f"{server.url}/metadata")
        num_titles = 0
        for youtube_id in islice(world.random_ids("mirrors"), 100):
            (outcome,) = source.fetch([youtube_id], get)
            mirror = world.mirror(youtube_id)
            expected = clean_plain_title(world.video(youtube_id).title) if mirror and mirror.has_title else None
            assert outcome.title == expected
            assert (outcome.reason == "dark") is (mirror is not None and mirror.is_dark)
            num_titles += expected is not None
            json.loads(outcome.evidence or b"")
        assert num_titles > 20
    transport.close()
