from __future__ import annotations

import json
from typing import Any

import pytest

from k700_text.crawl.sources.oembed import FORBIDDEN_RUN, OEmbed, parse, parse_evidence
from k700_text.errors import BlockedError, K700TextError, ParseError, RateLimitedError, TransportError
from k700_text.records import Availability, OutcomeStatus
from tests.k700_text.crawling import IMPOSSIBLE_ID, NOON, POSSIBLE_ID, Answers, answer

HTML = {"content-type": "text/html; charset=utf-8"}


QUOTING = (
    f'<iframe src="https://www.youtube.com/embed/dQw4w9WgXcA" title="See youtube.com/embed/{POSSIBLE_ID}"></iframe>'
)


def found(youtube_id: str = POSSIBLE_ID, title: str = "A title", **changes: Any) -> dict[str, Any]:
    return {
        "title": title,
        "thumbnail_url": f"https://i.ytimg.com/vi/{youtube_id}/hqdefault.jpg",
        "html": f'<iframe src="https://www.youtube.com/embed/{youtube_id}?feature=oembed"></iframe>',
        **changes,
    }


def test_200_gives_the_title_and_keeps_it_as_it_came() -> None:
    result = parse(answer(200, found(title=" Tom &amp; \u00c9ric\n")), POSSIBLE_ID, NOON)
    assert (result.status, result.title, result.raw_title) == (
        OutcomeStatus.TITLE,
        "Tom &amp; \u00c9ric",
        " Tom &amp; \u00c9ric\n",
    )
    assert result.availability is Availability.PUBLIC
    assert result.evidence is not None and json.loads(result.evidence)["title"] == " Tom &amp; \u00c9ric\n"


@pytest.mark.parametrize("kept", [(200, None), (401, b"Unauthorized"), (404, b"Not Found"), (400, b"Bad Request")])
def test_a_kept_answer_gives_the_same_outcome_again(kept: tuple[int, bytes | None]) -> None:
    status, body = kept
    result = parse(answer(status, body or found()), POSSIBLE_ID, NOON)
    assert result.evidence is not None
    assert parse_evidence(POSSIBLE_ID, result.evidence, result.http_status, result.fetched_at) == result


def test_the_id_in_the_player_alone_is_enough() -> None:
    assert parse(answer(200, found(thumbnail_url=None)), POSSIBLE_ID, NOON).title == "A title"


def test_a_live_video_without_readable_title_is_alive() -> None:
    result = parse(answer(200, found(title=" \u200b")), POSSIBLE_ID, NOON)
    assert (result.status, result.reason, result.availability) == (
        OutcomeStatus.NO_TITLE,
        "empty_title",
        Availability.PUBLIC,
    )


@pytest.mark.parametrize(
    ("status", "youtube_id", "availability", "reason"),
    [
        (401, POSSIBLE_ID, Availability.EMBEDDING_OFF, "embedding_off"),
        (403, POSSIBLE_ID, Availability.PRIVATE, "private"),
        (404, POSSIBLE_ID, Availability.NOT_FOUND, "not_found"),
        (400, IMPOSSIBLE_ID, Availability.MALFORMED, "malformed"),
        (400, POSSIBLE_ID, Availability.UNKNOWN, "bad_request"),
    ],
)
def test_statuses(status: int, youtube_id: str, availability: Availability, reason: str) -> None:
    # A front end may call a plain word HTML.
    result = parse(answer(status, b"Word", HTML), youtube_id, NOON)
    assert (result.status, result.availability, result.reason, result.http_status) == (
        OutcomeStatus.NO_TITLE,
        availability,
        reason,
        status,
    )


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (answer(200, b"<html><title>Sorry</title></html>", HTML), BlockedError),
        (answer(404, b"<!DOCTYPE html><p>unusual traffic", HTML), BlockedError),
        (answer(302, b"", {"location": "https://www.google.com/sorry/index?continue=x"}), BlockedError),
        (answer(200, b"Forbidden", HTML), ParseError),
        (answer(200, b'{"title": "cut'), ParseError),
        (answer(200, {"error": "x"}), ParseError),
        (answer(200, found("dQw4w9WgXcA")), ParseError),
        (answer(200, found(POSSIBLE_ID.lower())), ParseError),
        (answer(200, found(f"{POSSIBLE_ID}x")), ParseError),
        (answer(200, found(thumbnail_url="https://i.ytimg.com/vi/dQw4w9WgXcA/hqdefault.jpg")), ParseError),
        (answer(200, found(html=found("dQw4w9WgXcA")["html"])), ParseError),
        (answer(200, found(thumbnail_url=None, html=QUOTING)), ParseError),
        (answer(429, b"", {"date": f"Mon, 01 Jan {'9' * 30} 00:00:00 GMT", "retry-after": "7"}), RateLimitedError),
        (answer(418, b"teapot"), ParseError),
        (answer(500, b"<html>Error 500</html>", HTML), TransportError),
        (answer(503, b""), TransportError),
        (answer(429, b"<html>", {"retry-after": "7"}), RateLimitedError),
    ],
)
def test_what_says_nothing_about_a_video_is_an_error(response: Any, error: type[K700TextError]) -> None:
    with pytest.raises(error) as caught:
        parse(response, POSSIBLE_ID, NOON)
    assert type(caught.value) is error
    if isinstance(caught.value, RateLimitedError):
        assert caught.value.retry_after_seconds == 7.0


def test_asks_without_trailing_slash_for_the_watch_page() -> None:
    get = Answers([answer(200, found())])
    OEmbed().fetch([POSSIBLE_ID], get)
    assert get.params == [{"url": f"https://www.youtube.com/watch?v={POSSIBLE_ID}", "format": "json"}]


def test_a_long_run_of_403_is_a_block_and_convicts_nobody() -> None:
    source = OEmbed()
    get = Answers([answer(403, b"Forbidden")] * FORBIDDEN_RUN)
    for _ in range(FORBIDDEN_RUN - 1):
        assert source.fetch([POSSIBLE_ID], get) == []
    with pytest.raises(BlockedError, match="403 to 20 videos in a row"):
        source.fetch([POSSIBLE_ID], get)
    assert source.drain() == []


def test_a_short_run_of_403_is_released_by_another_status_or_at_the_end() -> None:
    source = OEmbed()
    get = Answers([answer(403, b"")] * 3 + [answer(404, b""), answer(403, b"")])
    results = [source.fetch([POSSIBLE_ID], get) for _ in range(5)]
    assert [len(result) for result in results] == [0, 0, 0, 4, 0]
    assert [each.reason for each in source.drain()] == ["private"]
