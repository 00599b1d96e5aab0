from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from k700_text.crawl.sources.base import parse_duration, parse_time
from k700_text.crawl.sources.data_api import (
    FIELDS,
    BatchRefusedError,
    DataApi,
    next_pacific_midnight,
    pacific_day,
    parse,
    parse_evidence,
)
from k700_text.errors import (
    BlockedError,
    CredentialError,
    K700TextError,
    ParseError,
    QuotaExhaustedError,
    RateLimitedError,
    TransportError,
)
from k700_text.records import Availability, OutcomeStatus
from tests.k700_text.crawling import NOON, POSSIBLE_ID, Answers, answer, make_ids

KEY = "AIza-secret-key"


def item(youtube_id: str = POSSIBLE_ID, **parts: Any) -> dict[str, Any]:
    snippet = {"title": "A title", "publishedAt": "2012-02-29T23:59:59Z", **parts.pop("snippet", {})}
    details = {"duration": "PT2M33S", **parts.pop("contentDetails", {})}
    status = {"uploadStatus": "processed", "privacyStatus": "public", "embeddable": True, **parts.pop("status", {})}
    return {"id": youtube_id, "snippet": snippet, "contentDetails": details, "status": status}


def listing(*items: dict[str, Any]) -> dict[str, Any]:
    return {"etag": "e", "items": list(items), "pageInfo": {"totalResults": len(items)}}


def refusal(code: int, reason: str | None = None, **more: Any) -> dict[str, Any]:
    errors = [{"reason": reason, "message": "m", "domain": "d"}] if reason else []
    return {"error": {"code": code, "message": "m", "errors": errors, **more}}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("PT2M33S", 153.0), ("PT59S", 59.0), ("PT1H", 3600.0), ("P1DT2H", 93600.0), ("P1DT2H3S", 93603.0)),
        *(("P1W", 604800.0), ("PT0S", None), ("P0D", None), ("", None), ("2:33", None), (None, None), (7, None)),
        (f"PT{'9' * 400}S", None),
    ],
)
def test_durations(text: object, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["yesterday", "2012-01-01T00:00:00", None, 3])
def test_times_that_are_none(text: object) -> None:
    assert parse_time(text) is None


def test_answers_are_matched_by_id_and_absent_ones_are_not_found() -> None:
    ids = make_ids(4)
    results = parse(answer(200, listing(item(ids[2]), item(ids[0]))), ids, NOON)
    assert [each.youtube_id for each in results] == ids
    assert [each.status for each in results] == [OutcomeStatus.TITLE, OutcomeStatus.NO_TITLE] * 2
    assert (results[1].availability, results[1].reason) == (Availability.NOT_FOUND, "not_found")
    assert results[0].published_at == datetime(2012, 2, 29, 23, 59, 59, tzinfo=UTC)
    assert results[0].video_duration_seconds == 153.0


def test_the_language_is_the_titles_not_the_voices() -> None:
    spoken = item(snippet={"defaultAudioLanguage": "fr"})
    written = item(snippet={"defaultAudioLanguage": "fr", "defaultLanguage": "de"})
    assert parse(answer(200, listing(spoken)), [POSSIBLE_ID], NOON)[0].title_language is None
    assert parse(answer(200, listing(written)), [POSSIBLE_ID], NOON)[0].title_language == "de"


@pytest.mark.parametrize(
    ("parts", "availability"),
    [
        ({}, Availability.PUBLIC),
        ({"status": {"privacyStatus": "unlisted"}}, Availability.UNLISTED),
        ({"status": {"embeddable": False}}, Availability.EMBEDDING_OFF),
        ({"contentDetails": {"contentRating": {"ytRating": "ytAgeRestricted"}}}, Availability.AGE_RESTRICTED),
        ({"contentDetails": {"regionRestriction": {"blocked": ["DE"]}}}, Availability.PUBLIC),
        ({"contentDetails": {"regionRestriction": {"allowed": []}}}, Availability.GEO_BLOCKED),
        ({"status": {"uploadStatus": "rejected"}}, Availability.REMOVED),
        ({"status": {"uploadStatus": "rejected", "rejectionReason": "duplicate"}}, Availability.REMOVED),
        ({"status": {"uploadStatus": "rejected", "rejectionReason": "copyright"}}, Availability.COPYRIGHT),
        ({"status": {"uploadStatus": "rejected", "rejectionReason": "claim"}}, Availability.COPYRIGHT),
        ({"status": {"uploadStatus": "rejected", "rejectionReason": "termsOfUse"}}, Availability.POLICY),
        ({"status": {"uploadStatus": "rejected", "rejectionReason": "uploaderAccountClosed"}}, Availability.TERMINATED),
        ({"status": {"uploadStatus": "failed", "failureReason": "codec"}}, Availability.REMOVED),
        ({"status": {"uploadStatus": "processed", "rejectionReason": "copyright"}}, Availability.PUBLIC),
    ],
)
def test_availability(parts: dict[str, Any], availability: Availability) -> None:
    assert parse(answer(200, listing(item(**parts))), [POSSIBLE_ID], NOON)[0].availability is availability


def test_why_a_video_is_rejected_is_asked_for_and_its_title_taken() -> None:
    assert {"rejectionReason", "failureReason"} <= set(re.split(r"\W+", FIELDS))
    listed = item(status={"uploadStatus": "rejected", "rejectionReason": "copyright"})
    (outcome,) = parse(answer(200, listing(listed)), [POSSIBLE_ID], NOON)
    assert (outcome.title, outcome.availability) == ("A title", Availability.COPYRIGHT)
    assert parse_evidence(POSSIBLE_ID, outcome.evidence or b"", 200, NOON) == outcome


def test_all_absent_is_an_answer_but_nothing_at_all_is_not() -> None:
    assert parse(answer(200, listing()), [POSSIBLE_ID], NOON)[0].reason == "not_found"
    bodies: list[object] = [{}, [], b"", {"items": 3, "etag": "e"}]
    for body in bodies:
        with pytest.raises(ParseError):
            parse(answer(200, body), [POSSIBLE_ID], NOON)


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (answer(403, refusal(403, "quotaExceeded")), QuotaExhaustedError),
        (answer(429, refusal(429, "quotaExceeded", status="RESOURCE_EXHAUSTED")), QuotaExhaustedError),
        (answer(403, refusal(403, "dailyLimitExceeded")), QuotaExhaustedError),
        (answer(403, refusal(403, "rateLimitExceeded")), RateLimitedError),
        (answer(403, refusal(403, "userRateLimitExceeded")), RateLimitedError),
        (answer(429, refusal(429, None, status="RESOURCE_EXHAUSTED")), RateLimitedError),
        (answer(400, refusal(400, "keyInvalid")), CredentialError),
        (answer(400, refusal(400, "badRequest", details=[{"reason": "API_KEY_INVALID"}])), CredentialError),
        (answer(403, refusal(403, None, status="PERMISSION_DENIED")), CredentialError),
        (answer(403, refusal(403, "accessNotConfigured")), CredentialError),
        (answer(403, refusal(403, "ipRefererBlocked")), CredentialError),
        (answer(400, refusal(400, "invalidFilters")), BatchRefusedError),
        (answer(400, refusal(400, "badRequest", status="INVALID_ARGUMENT")), BatchRefusedError),
        (answer(400, refusal(400, "missingRequiredParameter")), ParseError),
        (answer(503, refusal(503, "backendError")), TransportError),
        (answer(500, b"oops"), TransportError),
        (answer(403, b"<html>unusual traffic", {"content-type": "text/html"}), BlockedError),
        (answer(200, b"<html>", {"content-type": "text/html"}), BlockedError),
    ],
)
def test_errors_by_reason_not_by_status(response: Any, error: type[K700TextError]) -> None:
    with pytest.raises(error) as caught:
        parse(response, [POSSIBLE_ID], NOON)
    assert type(caught.value) is error


def test_a_quota_ends_at_midnight_pacific() -> None:
    with pytest.raises(QuotaExhaustedError) as caught:
        parse(answer(403, refusal(403, "quotaExceeded")), [POSSIBLE_ID], NOON)
    assert caught.value.resume_at == datetime(2026, 6, 2, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "day", "midnight"),
    [
        (datetime(2026, 1, 15, 7, 59, tzinfo=UTC), "2026-01-14", datetime(2026, 1, 15, 8, tzinfo=UTC)),
        (datetime(2026, 3, 8, 8, 0, tzinfo=UTC), "2026-03-08", datetime(2026, 3, 9, 7, tzinfo=UTC)),
        (datetime(2026, 11, 1, 7, 0, tzinfo=UTC), "2026-11-01", datetime(2026, 11, 2, 8, tzinfo=UTC)),
    ],
)
def test_pacific_days_of_23_and_25_hours(moment: datetime, day: str, midnight: datetime) -> None:
    assert (pacific_day(moment), next_pacific_midnight(moment)) == (day, midnight)


def test_a_batch_is_sent_without_repeats_and_with_few_fields() -> None:
    ids = make_ids(3)
    get = Answers([answer(200, listing())])
    DataApi(KEY).fetch([*ids, ids[0]], get)
    (params,) = get.params
    assert params["id"] == ",".join(ids) and params["key"] == KEY
    assert "items(id" in params["fields"] and "maxResults" not in params


def test_a_refused_batch_is_asked_in_halves_down_to_the_offending_id() -> None:
    ids = make_ids(4)
    no, yes = answer(400, refusal(400, "invalidFilters")), answer(200, listing())
    get = Answers([no, no, no, yes, yes])
    results = DataApi(KEY).fetch(ids, get)
    assert [params["id"].count(",") + 1 for params in get.params] == [4, 2, 1, 1, 2]
    assert [each.reason for each in results] == ["bad_request", "not_found", "not_found", "not_found"]
    assert results[0].availability is Availability.UNKNOWN


@pytest.mark.parametrize("key", ["with space", "caf\u00e9", "new\nline", ""])
def test_an_impossible_key_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(CredentialError, match="YOUTUBE_API_KEY") as caught:
        DataApi(key).fetch([POSSIBLE_ID], Answers([]))
    assert not key or key not in str(caught.value)


def test_an_answer_about_others_says_nothing_about_those_it_leaves_out() -> None:
    body = {"items": [{"id": "abcdefghijk", "snippet": {"title": "t"}}], "pageInfo": {}}
    with pytest.raises(ParseError, match="not asked about"):
        parse(answer(200, body), [POSSIBLE_ID], NOON)


@pytest.mark.parametrize("named", [{"videoId": POSSIBLE_ID}, [POSSIBLE_ID], 12345678900, None])
def test_an_item_whose_id_is_no_text_makes_no_list(named: object) -> None:
    with pytest.raises(ParseError, match="without a list"):
        parse(answer(200, {"items": [{"id": named, "snippet": {"title": "t"}}], "pageInfo": {}}), ["12345678900"], NOON)


def test_a_refusal_that_quotes_the_request_is_kept_without_the_key() -> None:
    body = refusal(400, "badRequest", details=[{"url": f"https://www.googleapis.com/youtube/v3/videos?key={KEY}"}])
    (result,) = DataApi(KEY).fetch([POSSIBLE_ID], Answers([answer(400, body)]))
    assert result.evidence is not None and KEY.encode() not in result.evidence and b"badRequest" in result.evidence


def test_a_kept_answer_gives_the_same_outcome_again() -> None:
    item = {"id": POSSIBLE_ID, "snippet": {"title": "A &amp; B"}, "status": {"privacyStatus": "unlisted"}}
    body = {"kind": "youtube#videoListResponse", "items": [item], "pageInfo": {"totalResults": 1}}
    refused = DataApi(KEY).fetch(["abcdefghijk"], Answers([answer(400, {"error": {"errors": [{"reason": "x"}]}})]))
    for each in (*parse(answer(200, body), [POSSIBLE_ID, "00000000000"], NOON), *refused):
        assert each.evidence is not None
        assert parse_evidence(each.youtube_id, each.evidence, each.http_status, each.fetched_at) == each


def test_the_plan_counts_days_of_quota() -> None:
    plan = DataApi(KEY).plan(640_000, 4.0, DataApi.daily_quota)
    assert (plan.num_requests, plan.quota_units) == (12_800, 12_800)
    assert 24 < plan.hours < 25
