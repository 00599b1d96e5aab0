"""The sandbox answers like the services, to the status code, header and body; it plays scripts and keeps a log."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

import av
import pytest

from k700_text.records import Availability
from k700_text.sandbox.messages import Answer
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.services.video_resource import iso_duration, video_resource
from k700_text.sandbox.world import World, make_kinetics
from tests.k700_text.sandboxing import Client, Videos, api, oembed, watch

WORLD = World(0)
MINIATURE = make_kinetics(WORLD, num_classes=3, clips_per_class=5, val_per_class=2, test_per_class=2)
PICK = Videos(WORLD, 3000)
VIDEOS = PICK.all


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(WORLD, clips=MINIATURE.clips) as running:
        yield running


@pytest.fixture
def get(server: SandboxServer) -> Iterator[Client]:
    client = Client(server.port)
    yield client
    client.close()


# --- oEmbed ---


def test_oembed_gives_the_title_as_json(get: Client) -> None:
    video = PICK.in_state(Availability.PUBLIC)
    reply = get(oembed(watch(video.youtube_id)))
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("application/json")
    assert reply.headers["Transfer-Encoding"] == "chunked"
    assert "Referer" in reply.headers["Vary"]
    values = reply.json()
    assert set(values) == {
        "title", "author_name", "author_url", "type", "height", "width", "version", "provider_name", "provider_url",
        "thumbnail_height", "thumbnail_width", "thumbnail_url", "html",
    }  # fmt: skip
    assert (values["title"], values["type"], values["version"]) == (video.title, "video", "1.0")
    assert (values["width"], values["height"]) == (200, 113)
    assert values["thumbnail_url"] == f"https://i.ytimg.com/vi/{video.youtube_id}/hqdefault.jpg"
    assert f"/embed/{video.youtube_id}?feature=oembed" in values["html"]


@pytest.mark.parametrize(
    ("availability", "status", "body"),
    [
        (Availability.EMBEDDING_OFF, 401, b"Unauthorized"),
        (Availability.PRIVATE, 403, b"Forbidden"),
        (Availability.REMOVED, 404, b"Not Found"),
        (Availability.TERMINATED, 404, b"Not Found"),
        (Availability.COPYRIGHT, 404, b"Not Found"),
        (Availability.NOT_FOUND, 404, b"Not Found"),
    ],
)
def test_oembed_refuses_with_one_word(get: Client, availability: Availability, status: int, body: bytes) -> None:
    reply = get(oembed(watch(PICK.in_state(availability).youtube_id)))
    assert (reply.status, reply.body) == (status, body)
    assert "json" not in reply.headers["Content-Type"]


@pytest.mark.parametrize("url", [watch("aaaaaaaaaaa"), watch("short"), "https://www.youtube.com/playlist?list=PL1", ""])
def test_oembed_of_an_impossible_url_is_a_bad_request(get: Client, url: str) -> None:
    reply = get(oembed(url))
    assert (reply.status, reply.body) == (400, b"Bad Request")


def test_oembed_knows_the_forms_of_a_watch_url(get: Client) -> None:
    youtube_id = PICK.in_state(Availability.UNLISTED).youtube_id
    for form in ("https://m.youtube.com/watch?v={}&t=3", "https://youtu.be/{}", "https://www.youtube.com/shorts/{}"):
        assert get(oembed(form.format(youtube_id))).status == 200
    assert get(oembed(f"https://www.youtube.com/embed/{youtube_id}")).status == 404
    slashed = get(oembed(watch(youtube_id)).replace("/oembed", "/oembed/"))
    assert (slashed.status, slashed.body) == (200, b"Forbidden")


def test_oembed_compresses_when_asked_and_knows_xml_and_width(get: Client) -> None:
    video = PICK.in_state(Availability.PUBLIC)
    target = oembed(watch(video.youtube_id))
    reply = get(target, Accept_Encoding="gzip, deflate")
    assert reply.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(reply.body))["title"] == video.title
    assert get(oembed(watch(video.youtube_id), maxwidth="600")).json()["width"] == 480
    assert get(target.replace("format=json", "format=xml")).body.startswith(b"<?xml")


def test_oembed_titles_survive_markup_and_scripts(get: Client) -> None:
    for video in [video for video in VIDEOS if video.is_embeddable and set("<&\n") & set(video.title)][:10]:
        reply = get(oembed(watch(video.youtube_id)))
        if video.availability.is_alive:
            assert reply.json()["title"] == video.title
            assert b"<" not in reply.body


# --- thumbnail ---


def test_thumbnail_is_a_real_picture_while_the_video_lives(get: Client) -> None:
    for video, status, size in (
        (PICK.in_state(Availability.PUBLIC), 200, (480, 360)),
        (PICK.in_state(Availability.PRIVATE), 404, (120, 90)),
        (PICK.in_state(Availability.REMOVED), 404, (120, 90)),
    ):
        reply = get(f"/vi/{video.youtube_id}/hqdefault.jpg")
        assert (reply.status, reply.headers["Content-Type"]) == (status, "image/jpeg")
        with av.open(io.BytesIO(reply.body)) as container:
            frame = next(container.decode(video=0))
        assert (frame.width, frame.height) == size
        head = get(f"/vi/{video.youtube_id}/hqdefault.jpg", method="HEAD")
        assert (head.status, head.body, head.headers["Content-Length"]) == (status, b"", str(len(reply.body)))


# --- Data API ---


def test_data_api_returns_the_living_in_an_order_of_its_own(get: Client) -> None:
    videos = VIDEOS[:50]
    values = get(api(*(video.youtube_id for video in videos))).json()
    alive = [video for video in videos if video.availability.is_alive]
    assert values["kind"] == "youtube#videoListResponse"
    assert values["pageInfo"] == {"totalResults": len(alive), "resultsPerPage": len(alive)}
    items = {item["id"]: item for item in values["items"]}
    assert set(items) == {video.youtube_id for video in alive}
    assert [item["id"] for item in values["items"]] != [video.youtube_id for video in alive]
    for video in alive:
        item = items[video.youtube_id]
        assert item["snippet"]["title"] == video.title
        assert datetime.fromisoformat(item["snippet"]["publishedAt"]) == video.published_at
        assert item["contentDetails"]["duration"] == iso_duration(video.duration_seconds)
        assert item["snippet"].get("defaultLanguage") == video.language


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "P0D"), (59, "PT59S"), (3600, "PT1H"), (153, "PT2M33S"), (86_400 + 7200 + 3, "P1DT2H3S"), (86_400, "P1D")],
)
def test_durations_are_spelled_as_the_service_does(seconds: int, text: str) -> None:
    assert iso_duration(seconds) == text


def test_no_duration_is_spelled_in_two_ways() -> None:
    videos = [replace(VIDEOS[0], youtube_id=f"endless{number:04}", duration_seconds=0) for number in range(20)]
    spelled = {video_resource(video, ["contentDetails"], None)["contentDetails"]["duration"] for video in videos}
    assert spelled == {"P0D", "PT0S"}


def test_data_api_tells_the_states_it_can_tell(get: Client) -> None:
    states = (Availability.UNLISTED, Availability.EMBEDDING_OFF, Availability.AGE_RESTRICTED, Availability.GEO_BLOCKED)
    videos = {state: PICK.in_state(state) for state in states}
    reply = get(api(*(video.youtube_id for video in videos.values()), "aaaaaaaaaaa"))
    items = {item["id"]: item for item in reply.json()["items"]}
    unlisted, no_embedding, age, geo = (items[videos[state].youtube_id] for state in states)
    assert unlisted["status"]["privacyStatus"] == "unlisted"
    assert no_embedding["status"]["embeddable"] is False
    assert age["contentDetails"]["contentRating"] == {"ytRating": "ytAgeRestricted"}
    assert {"allowed", "blocked"} & set(geo["contentDetails"]["regionRestriction"])
    assert len(items) == 4


def test_data_api_of_dead_ids_alone_is_an_empty_list(get: Client) -> None:
    gone = (PICK.in_state(state).youtube_id for state in (Availability.REMOVED, Availability.PRIVATE))
    values = get(api(*gone)).json()
    assert (values["items"], values["pageInfo"]) == ([], {"totalResults": 0, "resultsPerPage": 0})


def test_data_api_honours_fields_and_hl(get: Client) -> None:
    video = PICK.first(lambda video: bool(video.translations) and video.availability.is_alive)
    reply = get(api(video.youtube_id, fields="items(id,snippet/title),pageInfo/totalResults"))
    assert reply.json() == {
        "items": [{"id": video.youtube_id, "snippet": {"title": video.title}}],
        "pageInfo": {"totalResults": 1},
    }
    item = get(api(video.youtube_id, part="snippet,localizations", hl="fr")).json()["items"][0]
    assert item["snippet"]["title"] == video.title
    assert item["snippet"]["localized"]["title"] == f"(fr) {video.title}" == item["localizations"]["fr"]["title"]
    assert get(api(video.youtube_id, hl="sw")).json()["items"][0]["snippet"]["localized"]["title"] == video.title
    for selector in ("items(id", "items/nonsense", "items(id,,etag)", "items;id"):
        refused = get(api(video.youtube_id, fields=selector))
        assert (refused.status, refused.reason) == (400, "invalidParameter")


@pytest.mark.parametrize(
    ("target", "status", "reason"),
    [
        (api(*(video.youtube_id for video in VIDEOS[:51])), 400, "invalidFilters"),
        (api(), 400, "missingRequiredParameter"),
        (api("dQw4w9WgXcQ", part="snippet,nonsense"), 400, "unknownPart"),
        (api("dQw4w9WgXcQ", key=""), 403, "forbidden"),
    ],
)
def test_data_api_errors(get: Client, target: str, status: int, reason: str) -> None:
    reply = get(target)
    assert (reply.status, reply.reason, reply.json()["error"]["code"]) == (status, reason, status)


def test_data_api_refuses_a_bad_key_the_modern_way() -> None:
    with SandboxServer(WORLD, api_keys={"good"}) as server:
        get = Client(server.port)
        reply = get(api("dQw4w9WgXcQ", key="bad"))
        assert (reply.status, reply.reason) == (400, "badRequest")
        error = reply.json()["error"]
        assert (error["status"], error["details"][0]["reason"]) == ("INVALID_ARGUMENT", "API_KEY_INVALID")
        assert get(api("dQw4w9WgXcQ", key="good")).status == 200
        get.close()


@pytest.mark.parametrize("midnight", ["2026-03-08T08:00:00", "2026-03-09T07:00:00", "2026-11-02T08:00:00"])
def test_data_api_quota_ends_and_is_renewed_at_midnight_pacific(midnight: str) -> None:
    now = datetime.fromisoformat(midnight).replace(tzinfo=UTC).timestamp() - 60
    with SandboxServer(WORLD, daily_quota=3, clock=lambda: now) as server:
        get = Client(server.port)
        assert [get(api("dQw4w9WgXcQ")).status for _ in range(2)] == [200, 200]
        assert get(api()).status == 400  # an invalid request costs a unit as well
        refused = get(api("dQw4w9WgXcQ"))
        assert (refused.status, refused.reason) == (403, "quotaExceeded")
        assert refused.json()["error"]["errors"][0]["domain"] == "youtube.quota"
        assert '<a href="' in refused.json()["error"]["message"]
        now += 59
        assert get(api("dQw4w9WgXcQ")).status == 403
        now += 1
        assert get(api("dQw4w9WgXcQ")).status == 200
        assert server.requests[-1].time == now
        get.close()


def test_data_api_etag_and_compression(get: Client) -> None:
    target = api("dQw4w9WgXcQ")
    reply = get(target)
    unchanged = get(target, If_None_Match=reply.headers["ETag"])
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert get(target, If_None_Match='"other"').status == 200
    assert "Content-Encoding" not in get(target, Accept_Encoding="gzip", User_Agent="k700").headers
    assert "Content-Encoding" not in get(target, User_Agent="k700 (gzip)").headers
    packed = get(target, Accept_Encoding="gzip", User_Agent="k700 (gzip)")
    assert packed.headers["Content-Encoding"] == "gzip" and gzip.decompress(packed.body) == reply.body


# --- items of the archive ---


def test_archive_items(get: Client) -> None:
    answers = {video.youtube_id: get(f"/metadata/youtube-{video.youtube_id}").json() for video in VIDEOS[:400]}
    found = {youtube_id: item for youtube_id, item in answers.items() if "metadata" in item}
    assert 2 <= len(found) <= 30 and {} in answers.values()
    for youtube_id, item in found.items():
        assert item["metadata"]["title"] == WORLD.video(youtube_id).title


# --- the server itself ---


def test_answers_bear_the_date_of_the_servers_clock() -> None:
    with SandboxServer(WORLD, clock=lambda: 1_780_000_000.9) as server:
        get = Client(server.port)
        assert get("/").headers["Date"] == "Thu, 28 May 2026 20:26:40 GMT"
        get.close()


def test_the_command_serves_what_its_options_say() -> None:
    command = [sys.executable, "-c", "from k700_text.cli.main import run; run()", "sandbox", "--json", "--no-log"]
    command += ["--clips-per-class", "1", "--num-classes", "1", "--daily-quota", "1", "--enforce", "--hostile"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        facts = json.loads(process.stdout.readline())
        process.stderr.readline()  # it is serving: from here on Ctrl-C stops it
        get = Client(urlsplit(facts["url"]).port or 0)
        assert [get(api("dQw4w9WgXcQ")).status for _ in range(2)] == [200, 403]
        assert get(api(*["dQw4w9WgXcQ"] * 51)).status == 403
        get.close()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
    options = facts["endpoint_options"].split()
    assert f"wayback={facts['archive_url']}" in options and f"annotations={facts['url']}" in options
    assert not [option for option in options if option.startswith(("dumps=", "wayback-cdx="))]
    assert "stopped after 3 requests" in told and "impolite: data-api: 51 ids in one request" in told


def test_scripted_answers_come_first_then_the_ordinary_ones(server: SandboxServer, get: Client) -> None:
    target = oembed(watch(PICK.in_state(Availability.PUBLIC).youtube_id))
    server.script(
        "oembed",
        [
            Answer(429, {"Retry-After": "7"}, "slow down"),
            Answer(),
            Answer(200, body={"title": "é"}),
            Answer(302, {"Location": "https://www.google.com/sorry/index"}),
        ],
    )
    limited, ordinary, other, sorry = (get(target) for _ in range(4))
    assert (limited.status, limited.headers["Retry-After"], limited.body) == (429, "7", b"slow down")
    assert ordinary.status == 200 and "title" in ordinary.json()
    assert other.json() == {"title": "é"} and "json" in other.headers["Content-Type"]
    assert (sorry.status, sorry.headers["Location"]) == (302, "https://www.google.com/sorry/index")
    assert get(target).body == ordinary.body
    assert get(f"/vi/{'x' * 11}/hqdefault.jpg").status == 404
    assert [logged.status for logged in server.requests] == [429, 200, 200, 302, 200, 404]
    with pytest.raises(ValueError, match="no service"):
        server.script("nonsense", [])


def test_cut_reset_and_late_answers(server: SandboxServer) -> None:
    target = oembed(watch(PICK.in_state(Availability.PRIVATE).youtube_id))
    answers = [Answer(reset=True), Answer(truncate=True), Answer(200, body="x" * 100, truncate=True)]
    server.script("oembed", [*answers, Answer(delay_seconds=0.2)])
    with pytest.raises(ConnectionError):
        Client(server.port)(target)
    for expected in (b"Forb", b"x" * 50):
        with pytest.raises(http.client.IncompleteRead) as caught:
            Client(server.port)(target)
        assert caught.value.partial == expected
    started = time.monotonic()
    client = Client(server.port)
    assert client(target).status == 403 and time.monotonic() - started >= 0.2
    client.close()
    assert [logged.status for logged in server.requests] == [0, 403, 200, 403]


def test_the_log_tells_who_asked_what(server: SandboxServer, get: Client) -> None:
    get(api("dQw4w9WgXcQ", "jNQXAC9IVRw"), User_Agent="someone/1.0")
    get(oembed(watch("dQw4w9WgXcQ")))
    get(oembed(watch("dQw4w9WgXcQ")))
    get("/somewhere/else?a=b")
    assert (server.count("data-api"), server.count("oembed"), server.count("unknown"), server.count()) == (1, 2, 1, 4)
    assert server.ids_asked("oembed") == {"dQw4w9WgXcQ": 2}
    assert server.ids_asked("data-api") == {"dQw4w9WgXcQ": 1, "jNQXAC9IVRw": 1}
    logged = server.requests[0]
    assert (logged.user_agent, logged.method, logged.path) == ("someone/1.0", "GET", "/youtube/v3/videos")
    assert logged.query["part"] == "snippet,contentDetails,status" and "host" in logged.headers
    assert server.requests[-1].query == {"a": "b"}


def test_many_connections_at_once_lose_nothing(server: SandboxServer) -> None:
    ids = [video.youtube_id for video in VIDEOS[:400]]

    def ask(part: list[str]) -> None:
        client = Client(server.port)
        for youtube_id in part:
            client(oembed(watch(youtube_id)))
        client.close()

    threads = [threading.Thread(target=ask, args=(ids[index::8],)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.ids_asked("oembed") == dict.fromkeys(ids, 1)


def test_leaving_the_context_frees_the_port_though_a_client_holds_on() -> None:
    with SandboxServer(WORLD) as server:
        client = Client(server.port)
        assert client("/").status == 404
        server.script("oembed", [Answer(delay_seconds=60)])
        hanging = socket.create_connection(("127.0.0.1", server.port))
        hanging.sendall(b"GET /oembed HTTP/1.1\r\nHost: x\r\n\r\n")
        port, started = server.port, time.monotonic()
    assert time.monotonic() - started < 5
    client.close()
    hanging.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    with SandboxServer(WORLD, port=port), pytest.raises(OSError, match=rf"127\.0\.0\.1:{port}"):
        SandboxServer(WORLD, port=port)


@pytest.mark.parametrize(
    ("request_bytes", "start"),
    [
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400"),
        (b"POST /oembed HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"HTTP/1.1 405"),
    ],
)
def test_broken_and_unwanted_requests_are_refused(server: SandboxServer, request_bytes: bytes, start: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(request_bytes)
        assert connection.recv(100).startswith(start)


def test_http_1_0_gets_a_length_and_a_closed_connection(server: SandboxServer) -> None:
    youtube_id = PICK.in_state(Availability.PUBLIC).youtube_id
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"GET {oembed(watch(youtube_id))} HTTP/1.0\r\n\r\n".encode())
        received = b""
        while block := connection.recv(65_536):
            received += block
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"chunked" not in head and f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body)["title"] == WORLD.video(youtube_id).title
