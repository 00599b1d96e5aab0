from __future__ import annotations

from collections.abc import Mapping

import pytest

from k700_text.crawl.sources.thumbnail import Thumbnail, parse, parse_evidence
from k700_text.crawl.transport import Response, Transport
from k700_text.errors import BlockedError, K700TextError, ParseError, RateLimitedError, TransportError
from k700_text.records import Availability, OutcomeStatus
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World
from tests.k700_text.crawling import NOON, POSSIBLE_ID, answer, ids_where

JPEG = {"content-type": "image/jpeg", "content-length": "4711", "set-cookie": "no"}


@pytest.mark.parametrize(
    ("status", "headers", "availability", "reason"),
    [
        (200, JPEG, Availability.PUBLIC, "seen"),
        (404, JPEG, Availability.NOT_FOUND, "not_found"),
        (404, {"content-type": "text/html"}, Availability.NOT_FOUND, "not_found"),
        (410, {}, Availability.NOT_FOUND, "not_found"),
    ],
)
def test_a_witness_of_life_has_no_title(
    status: int, headers: Mapping[str, str], availability: Availability, reason: str
) -> None:
    outcome = parse(answer(status, b"", headers), POSSIBLE_ID, NOON)
    assert (outcome.status, outcome.title) == (OutcomeStatus.NO_TITLE, None)
    assert (outcome.availability, outcome.reason, outcome.http_status) == (availability, reason, status)
    assert outcome.evidence is not None and b"cookie" not in outcome.evidence
    assert parse_evidence(POSSIBLE_ID, outcome.evidence, outcome.http_status, outcome.fetched_at) == outcome


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (answer(200, b"", {"content-type": "text/html; charset=utf-8"}), BlockedError),
        (answer(200, b"", {"content-type": "application/json"}), ParseError),
        (answer(200, b"", {}), ParseError),
        (answer(302, b"", {"location": "https://www.google.com/sorry/index?continue=x"}), BlockedError),
        (answer(302, b"", {"location": "https://elsewhere.example/"}), ParseError),
        (answer(403, b""), ParseError),
        (answer(400, b""), ParseError),
        (answer(418, b""), ParseError),
        (answer(500, b""), TransportError),
        (answer(503, b""), TransportError),
        (answer(429, b"", {"retry-after": "9"}), RateLimitedError),
    ],
)
def test_what_says_nothing_about_a_video_is_an_error(response: Response, error: type[K700TextError]) -> None:
    with pytest.raises(error) as caught:
        parse(response, POSSIBLE_ID, NOON)
    assert type(caught.value) is error


def test_a_redirect_to_the_picture_of_something_else_is_no_witness() -> None:
    answers = iter([answer(302, b"", {"location": "/img/no_thumbnail.jpg"}), answer(200, b"", JPEG)])
    with pytest.raises(ParseError, match="something else"):
        Thumbnail().fetch([POSSIBLE_ID], lambda *args, **kwargs: next(answers))


@pytest.mark.parametrize("evidence", [b"", b"[]", b"{}", b"1"])
def test_broken_evidence_is_a_parse_error(evidence: bytes) -> None:
    with pytest.raises(ParseError, match="cannot be read"):
        parse_evidence(POSSIBLE_ID, evidence, 200, NOON)


def test_the_sandbox_is_asked_for_heads_only_and_tells_the_living_from_the_gone() -> None:
    transport = Transport()

    def get(
        url: str, params: Mapping[str, str] | None = None, *, method: str = "GET", lane: str | None = None
    ) -> Response:
        return transport.get(url, params, method=method)

    world = World(seed=0)
    ids = [
        *ids_where(lambda video: video.availability.is_alive, 20),
        *ids_where(lambda video: video.availability.is_gone, 20),
    ]
    with SandboxServer(world) as server:
        source = Thumbnail(f"{server.url}/vi")
        for youtube_id in ids:
            (outcome,) = source.fetch([youtube_id], get)
            assert outcome.availability.is_alive is world.video(youtube_id).availability.is_alive
        assert {request.method for request in server.requests} == {"HEAD"}
        assert server.ids_asked("thumbnail") == dict.fromkeys(ids, 1)
    transport.close()
