"""A storm is seeded, gives each service what makes sense, looks like the real thing, and comes to an end."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

import pytest

from k700_text.errors import ConfigError
from k700_text.records import Availability
from k700_text.sandbox.faults import DEFAULT_STORM, Fault, Storm, faults_of
from k700_text.sandbox.messages import Answer, Request
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.services.data_api_errors import (
    access_not_configured,
    backend_error,
    old_invalid_key,
    rate_limit_exceeded,
    resource_exhausted,
)
from k700_text.sandbox.services.oembed import oembed_status
from k700_text.sandbox.world import World
from tests.k700_text.sandboxing import Client, Reply, Videos, api, cdx, memento, oembed, watch

WORLD = World(0)
PICK = Videos(WORLD, 1500, "faults")
PUBLIC = PICK.in_state(Availability.PUBLIC)
PAUSES = (Fault.RATE_LIMIT, Fault.RETRY_AFTER_SECONDS, Fault.RETRY_AFTER_DATE)
NOW = 1_780_000_000.0


def request(target: str, method: str = "GET", body: bytes = b"") -> Request:
    return Request(method, target, {}, body)


def only(fault: Fault, **more: object) -> Storm:
    """A storm in which every first request meets one fault, and the second is answered."""
    return Storm(shares={fault: 1.0}, max_in_a_row=1, **more)  # type: ignore[arg-type]  # passed on


@contextmanager
def served(storm: Storm, **more: object) -> Iterator[tuple[SandboxServer, Client]]:
    with SandboxServer(WORLD, storm=storm, clock=lambda: NOW, **more) as server:  # type: ignore[arg-type]  # passed on
        client = Client(server.port)
        yield server, client
        client.close()


# --- the storm itself ---


def test_a_storm_depends_on_seed_address_and_attempt_alone() -> None:
    targets = [oembed(watch(video.youtube_id)) for video in PICK.all[:300]]

    def fates(storm: Storm, order: list[str]) -> dict[str, list[str]]:
        fate: dict[str, list[str]] = {target: [] for target in order}
        for _ in range(3):
            for target in order:
                fate[target].append(storm.strike("oembed", request(target), NOW).name)
        return fate

    stormy = {Fault.RESET: 0.2, Fault.OTHER_ID: 0.1, Fault.SERVER_ERROR: 0.1}
    first = fates(Storm(1, shares=stormy), targets)
    assert fates(Storm(1, shares=stormy), targets[::-1]) == first
    assert fates(Storm(2, shares=stormy), targets) != first
    assert {name for fate in first.values() for name in fate} == {"", "reset", "other-id", "server-error"}


def test_the_key_is_no_part_of_the_address() -> None:
    names = []
    for key in ("AAAA", "BBBB"):
        storm = Storm(3, shares={Fault.RESET: 0.5})
        names.append([storm.strike("data-api", request(api(v.youtube_id, key=key)), NOW).name for v in PICK.all[:50]])
    assert names[0] == names[1] and len(set(names[0])) == 2


def test_shares_are_kept_and_pauses_counted() -> None:
    storm = Storm(0)
    for video in PICK.all:
        for attempt in range(8):
            storm.strike("oembed", request(oembed(watch(video.youtube_id), t=str(attempt))), NOW)
    number = 8 * len(PICK.all)
    for fault in (Fault.SERVER_ERROR, Fault.RESET, Fault.TRUNCATED, Fault.OTHER_ID, Fault.NOT_JSON):
        assert storm.struck["oembed", fault] / number == pytest.approx(DEFAULT_STORM[fault], rel=0.35)
    assert storm.struck["oembed", Fault.OFFLINE] == 0
    assert sum(storm.struck["oembed", fault] for fault in PAUSES) == 10
    assert storm.struck["oembed", Fault.BLOCK_PAGE] == 2


def test_no_address_meets_faults_for_ever() -> None:
    storm = Storm(shares={Fault.RESET: 1.0}, max_in_a_row=3)
    names = [storm.strike("wayback", request("/web/2017id_/x"), NOW).name for _ in range(8)]
    assert names == ["reset", "reset", "reset", "", "reset", "reset", "reset", ""]


def test_each_service_gets_what_makes_sense() -> None:
    assert Fault.BLOCK_PAGE in faults_of("oembed") and Fault.BLOCK_PAGE not in faults_of("wayback")
    assert Fault.OFFLINE in faults_of("wayback-cdx") and Fault.OFFLINE not in faults_of("oembed")
    assert Fault.EMPTY not in faults_of("thumbnail")
    assert not set(PAUSES) & faults_of("annotations")
    storm = Storm(shares={Fault.NOT_JSON: 1.0})
    assert storm.strike("thumbnail", request("/vi/x"), NOW).fault is None


@pytest.mark.parametrize("shares", [{Fault.RESET: -0.1}, {Fault.RESET: 0.6, Fault.SLOW: 0.6}])
def test_impossible_storms_are_refused(shares: dict[Fault, float]) -> None:
    with pytest.raises(ConfigError, match="storm"):
        Storm(shares=shares)


# --- on the wire ---


def test_resets_and_cut_bodies() -> None:
    with served(only(Fault.RESET)) as (_, get), pytest.raises(ConnectionError):
        get(oembed(watch(PUBLIC.youtube_id)))
    with served(only(Fault.TRUNCATED)) as (_, get), pytest.raises(http.client.IncompleteRead):
        get(oembed(watch(PUBLIC.youtube_id)))


def test_slow_bodies_come_whole() -> None:
    with served(only(Fault.SLOW, slow_seconds=0.3)) as (server, get):
        started = time.monotonic()
        slow = get(oembed(watch(PUBLIC.youtube_id)))
        assert time.monotonic() - started >= 0.3
        assert slow.body == get(oembed(watch(PUBLIC.youtube_id))).body
        assert [logged.fault for logged in server.requests] == ["slow", ""]


def test_a_hanging_request_ends_when_the_client_leaves() -> None:
    with served(only(Fault.HANG, hang_seconds=60)) as (server, _):
        impatient = Client(server.port, timeout=0.2)
        with pytest.raises(TimeoutError):
            impatient(oembed(watch(PUBLIC.youtube_id)))
        deadline = time.monotonic() + 5
        while not server.count() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [(logged.fault, logged.status) for logged in server.requests] == [("hang", 0)]
        assert impatient(oembed(watch(PUBLIC.youtube_id))).status == 200
        impatient.close()


@pytest.mark.parametrize("service", ["oembed", "wayback", "data-api"])
def test_server_errors_are_those_of_the_service(service: str) -> None:
    replies = struck(Fault.SERVER_ERROR, service, 60)
    statuses = {reply.status for reply in replies}
    assert statuses == {500, 502, 503, 504} | ({599} if service == "wayback" else set())
    if service == "data-api":
        assert {reply.reason for reply in replies if reply.status in (500, 503)} == {"internalError", "backendError"}


@pytest.mark.parametrize("service", ["oembed", "wayback", "wayback-cdx", "data-api", "thumbnail"])
def test_rate_limits_without_a_time(service: str) -> None:
    replies = struck(Fault.RATE_LIMIT, service, 20)
    assert {reply.status for reply in replies} == ({403, 429} if service == "data-api" else {429})
    assert not any("Retry-After" in reply.headers for reply in replies)
    if service == "wayback":
        assert replies[0].headers["x-ts"] == "429" and replies[0].headers["x-rl"]
    if service == "data-api":
        assert {reply.reason for reply in replies} == {"rateLimitExceeded"}


def test_retry_after_in_seconds_and_as_a_date() -> None:
    seconds = struck(Fault.RETRY_AFTER_SECONDS, "oembed", 40)
    assert {reply.status for reply in seconds} == {429, 503}
    assert all(2 <= int(reply.headers["Retry-After"]) <= 20 for reply in seconds)
    for reply in struck(Fault.RETRY_AFTER_DATE, "wayback", 10):
        until = parsedate_to_datetime(reply.headers["Retry-After"]).timestamp()
        assert reply.status == 429 and 2 <= until - NOW <= 21


def test_block_pages_come_under_every_status() -> None:
    replies = struck(Fault.BLOCK_PAGE, "oembed", 40, max_blocks=40)
    assert {reply.status for reply in replies} == {200, 302, 403, 429}
    for reply in replies:
        if reply.status == 302:
            assert reply.headers["Location"].startswith("https://www.google.com/sorry/")
        else:
            assert b"unusual traffic" in reply.body and "text/html" in reply.headers["Content-Type"]


def test_good_answers_about_another_video() -> None:
    (title,) = struck(Fault.OTHER_ID, "oembed", 1)
    assert title.status == 200 and PUBLIC.youtube_id not in title.body.decode() and title.json()["title"]
    (listed,) = struck(Fault.OTHER_ID, "data-api", 1)
    (item,) = listed.json()["items"]
    assert item["id"] != PUBLIC.youtube_id and listed.json()["pageInfo"]["totalResults"] == 1
    video = PICK.first(lambda video: video.captures and WORLD.recoverable_title(video.youtube_id))
    capture = WORLD.archive.captures(video.youtube_id)[0]
    with served(only(Fault.OTHER_ID)) as (_, get):
        target = memento(video.youtube_id, capture.stamp)
        wrong, right = get(target), get(target)
    assert wrong.status == right.status == 200 and "Memento-Datetime" in wrong.headers
    assert video.youtube_id not in wrong.body.decode() and video.youtube_id in right.body.decode()


def test_answers_without_sense_and_the_excuses_of_the_archive() -> None:
    for service in ("oembed", "data-api", "wayback-cdx", "archive-item"):
        for reply in struck(Fault.NOT_JSON, service, 12):
            assert reply.status == 200 and b"<" not in reply.body
            assert not readable(reply.body)
        (empty,) = struck(Fault.EMPTY, service, 1)
        assert (empty.status, empty.body) == (200, b"")
    (nothing,) = struck(Fault.EMPTY, "wayback", 1)
    assert (nothing.status, nothing.body) == (200, b"") and "Memento-Datetime" not in nothing.headers
    (offline,) = struck(Fault.OFFLINE, "wayback", 1)
    assert (offline.status, offline.headers["Location"]) == (302, "/sry")


def readable(body: bytes) -> bool:
    """Tells whether a body is a JSON object."""
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False


def struck(fault: Fault, service: str, number: int, max_blocks: int = 2) -> list[Reply]:
    """Returns the answers to so many first requests, each of which met the fault."""
    targets = {
        "oembed": lambda video: oembed(watch(video.youtube_id)),
        "data-api": lambda video: api(video.youtube_id),
        "thumbnail": lambda video: f"/vi/{video.youtube_id}/hqdefault.jpg",
        "wayback": lambda video: memento(video.youtube_id, "2017"),
        "wayback-cdx": lambda video: cdx(video.youtube_id),
        "archive-item": lambda video: f"/metadata/youtube-{video.youtube_id}",
    }
    videos = [PUBLIC, *(video for video in PICK.all if video is not PUBLIC)][:number]
    with served(only(fault, max_pauses=number, max_blocks=max_blocks)) as (server, get):
        replies = [get(targets[service](video)) for video in videos]
        assert {logged.fault for logged in server.requests} == {fault.value}
        assert server.count(service) == number
    return replies


def test_scripts_come_before_the_storm() -> None:
    with served(only(Fault.SERVER_ERROR)) as (server, get):
        server.script("oembed", [Answer(418, body="tea")])
        assert get(oembed(watch(PUBLIC.youtube_id))).status == 418
        assert get(oembed(watch(PUBLIC.youtube_id))).status >= 500
        assert [logged.fault for logged in server.requests] == ["", "server-error"]


def test_posted_requests_differ_by_their_bodies() -> None:
    storm = Storm(5, shares={Fault.RESET: 0.5})
    names = {
        storm.strike("player", request("/youtubei/v1/player", "POST", video.youtube_id.encode()), NOW).name
        for video in PICK.all[:40]
    }
    assert names == {"", "reset"}


def test_ready_errors_of_the_data_api() -> None:
    with SandboxServer(WORLD) as server:
        get = Client(server.port)
        responses = (old_invalid_key(), access_not_configured(), rate_limit_exceeded(), resource_exhausted())
        server.script("data-api", [Answer.of(response) for response in (*responses, backend_error())])
        replies = [get(api("dQw4w9WgXcQ")) for _ in range(5)]
        get.close()
    assert [(reply.status, reply.reason) for reply in replies] == [
        (400, "keyInvalid"),
        (403, "accessNotConfigured"),
        (403, "rateLimitExceeded"),
        (429, "rateLimitExceeded"),
        (503, "backendError"),
    ]
    exhausted = replies[3].json()["error"]
    assert (exhausted["status"], exhausted["details"][0]["reason"]) == ("RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED")


def test_a_client_that_tries_again_comes_to_an_end_with_the_truth() -> None:
    ids = [video.youtube_id for video in PICK.all[:400]]
    found: dict[str, str | None] = {}
    storm = Storm(7, hang_seconds=0.05, slow_seconds=0.05, retry_after_seconds=(0, 0))

    def crawl(client: Client, part: list[str]) -> None:
        for youtube_id in part:
            found[youtube_id] = ask_until_clear(client, youtube_id)

    with SandboxServer(WORLD, storm=storm) as server:
        clients = [Client(server.port) for _ in range(4)]
        threads = [threading.Thread(target=crawl, args=(client, ids[n::4])) for n, client in enumerate(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for client in clients:
            client.close()
        faults = Counter(logged.fault for logged in server.requests)
    truth = {each: WORLD.video(each) for each in ids}
    assert found == {each: video.title if oembed_status(video) == 200 else None for each, video in truth.items()}
    assert faults.total() - faults[""] == sum(storm.struck.values()) > 20 and len(faults) >= 5


def ask_until_clear(client: Client, youtube_id: str) -> str | None:
    """A careful reader: believes only JSON about the right video, and plain refusals."""
    for _ in range(10):
        try:
            reply = client(oembed(watch(youtube_id)))
        except (OSError, http.client.HTTPException):
            continue
        if reply.status in (400, 401, 403, 404) and b"<" not in reply.body:
            return None
        try:
            values = json.loads(reply.body)
        except ValueError:
            continue
        if reply.status == 200 and values and f"/vi/{youtube_id}/" in values["thumbnail_url"]:
            return str(values["title"])
    raise AssertionError(f"{youtube_id} never got a clear answer")
