"""The sandbox's watch page and player calls: what they say about each state, and what they keep back."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import requests

from k700_text.records import Availability
from k700_text.sandbox.messages import Request
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.services.player import (
    SCRIPT_PATH,
    Player,
    Refusal,
    Streams,
    initial_data,
    player_response,
    refuse,
    streams_of,
)
from k700_text.sandbox.world import SandboxVideo, World, WorldConfig
from tests.k700_text.crawling import POSSIBLE_ID

# A world with all states in equal parts, so that a few ids meet every one.
STATES = [each for each in Availability if each not in (Availability.UNKNOWN, Availability.MALFORMED)]
EVEN = WorldConfig(shares=dict.fromkeys(STATES, 1 / len(STATES)), hostile_titles=0.3)
REFUSED_WITHOUT_DETAILS = {"ERROR", "LOGIN_REQUIRED"}


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=0, config=EVEN)


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[SandboxServer]:
    with SandboxServer(world) as server:
        yield server


def videos_by_state(world: World) -> dict[Availability, SandboxVideo]:
    videos = [world.video(each) for each in islice(world.random_ids("player"), 300)]
    return {video.availability: video for video in reversed(videos)}


def page_json(text: str, name: str) -> Any:
    found = re.search(rf"var {name} = ", text)
    assert found is not None
    return json.JSONDecoder().raw_decode(text, found.end())[0]


def test_page_answers_200_in_every_state_and_holds_what_the_calls_say(server: SandboxServer, world: World) -> None:
    videos = videos_by_state(world)
    assert set(videos) == set(STATES)
    for video in videos.values():
        answer = requests.get(f"{server.url}/watch", params={"v": video.youtube_id}, timeout=10)
        assert answer.status_code == 200
        player = page_json(answer.text, "ytInitialPlayerResponse")
        assert player["playabilityStatus"] == player_response(video)["playabilityStatus"]
        assert page_json(answer.text, "ytInitialData") == initial_data(video)
        call = requests.post(f"{server.url}/youtubei/v1/player", json={"videoId": video.youtube_id}, timeout=10)
        assert call.json() == player_response(video, has_urls=True)
        after = requests.post(f"{server.url}/youtubei/v1/next", json={"videoId": video.youtube_id}, timeout=10)
        assert after.json() == initial_data(video)


def test_each_state_has_words_of_its_own_and_hides_what_the_site_hides(world: World) -> None:
    said = {}
    for state, video in videos_by_state(world).items():
        response = player_response(video)
        status = response["playabilityStatus"]
        said[state] = (status["status"], json.dumps(status.get("errorScreen")))
        assert ("videoDetails" in response) == (status["status"] not in REFUSED_WITHOUT_DETAILS), state
        assert ("streamingData" in response) == (status["status"] == "OK"), state
        knows_title = "videoPrimaryInfoRenderer" in json.dumps(initial_data(video))
        assert knows_title == state.is_alive, state
    playing = {Availability.PUBLIC, Availability.UNLISTED, Availability.EMBEDDING_OFF}
    assert {state for state, (status, _) in said.items() if status == "OK"} == playing
    refused = [words for state, words in said.items() if state not in playing]
    assert len(set(refused)) == len(refused)


def test_titles_cannot_break_out_of_the_page(server: SandboxServer, world: World) -> None:
    ids = islice(world.random_ids("hostile"), 1000)
    videos = [video for video in map(world.video, ids) if video.availability is Availability.PUBLIC]
    hostile = next(video for video in videos if "</title>" in video.title or "<script>" in video.title)
    text = requests.get(f"{server.url}/watch", params={"v": hostile.youtube_id}, timeout=10).text
    assert page_json(text, "ytInitialPlayerResponse")["videoDetails"]["title"] == hostile.title
    assert text.count("</title>") == 1


def test_streams_come_in_three_kinds(world: World) -> None:
    videos = [world.video(each) for each in islice(world.random_ids("streams"), 2000)]
    assert set(Counter(map(streams_of, videos))) == set(Streams)
    assert 0.85 < sum(streams_of(video) is Streams.BOTH for video in videos) / len(videos) < 0.97
    for video in videos[:300]:
        if video.availability is not Availability.PUBLIC:
            continue
        formats = player_response(video, has_urls=True)["streamingData"]["adaptiveFormats"]
        kinds = {each["mimeType"].partition("/")[0] for each in formats}
        wanted = {Streams.BOTH: {"audio", "video"}, Streams.NO_AUDIO: {"video"}, Streams.AUDIO_ONLY: {"audio"}}
        assert kinds == wanted[streams_of(video)]
        assert all("url" in each for each in formats)
        assert not any("url" in each for each in player_response(video)["streamingData"]["adaptiveFormats"])


def test_ids_are_read_from_page_and_calls(world: World) -> None:
    player = Player(world)
    body = json.dumps({"videoId": POSSIBLE_ID}).encode()
    assert player.youtube_ids(Request("GET", f"/watch?v={POSSIBLE_ID}&bpctr=1", {})) == (POSSIBLE_ID,)
    assert player.youtube_ids(Request("POST", "/youtubei/v1/player?prettyPrint=false", {}, body)) == (POSSIBLE_ID,)
    for odd in (b"", b"[1]", b'{"videoId": 3}', b"\xff"):
        assert player.youtube_ids(Request("POST", "/youtubei/v1/next", {}, odd)) == ()


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/watch", 200),
        ("POST", "/watch?v=dQw4w9WgXcQ", 405),
        ("GET", "/youtubei/v1/player", 405),
        ("POST", "/youtubei/v1/player", 400),
        ("GET", SCRIPT_PATH, 200),
    ],
)
def test_odd_requests_are_answered_as_the_site_does(
    server: SandboxServer, method: str, target: str, status: int
) -> None:
    answer = requests.request(method, server.url + target, data=b"{}" if method == "POST" else None, timeout=10)
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"


def test_refusals_are_scripted_for_page_and_call(world: World) -> None:
    video = videos_by_state(world)[Availability.PUBLIC]
    for refusal in Refusal:
        page, call = (answer.response() for answer in refuse(world, video.youtube_id, refusal))
        assert page.status == call.status == 200
        player = json.loads(call.body)
        told = player.get("videoDetails", {}).get("videoId")
        if refusal is Refusal.WRONG_ID:
            assert told not in (None, video.youtube_id)
        else:
            assert told is None
            assert player["playabilityStatus"]["status"] != "OK"
            assert video.title in json.dumps(page_json(page.body.decode(), "ytInitialData"), ensure_ascii=False)
