"""The yt-dlp source: the real engine against the sandbox's site, and the reading of what it leaves as evidence."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from http.cookiejar import CookieJar
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from k700_text.config import CHECK_PAUSES
from k700_text.crawl import registry
from k700_text.crawl.messages import classify
from k700_text.crawl.player_wire import HOST, PlayerWire, _check
from k700_text.crawl.sources.base import Source
from k700_text.crawl.sources.yt_dlp import YtDlp, parse_evidence
from k700_text.crawl.transport import CONTACT_VARIABLE, Response, Transport, user_agent
from k700_text.errors import (
    BlockedError,
    FilteredNetworkError,
    K700TextError,
    ParseError,
    RateLimitedError,
    RefusedError,
    TransportError,
    UsageError,
)
from k700_text.records import Availability, OutcomeStatus, TitleOutcome
from k700_text.sandbox.messages import Answer
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.services.player import Refusal, Streams, refuse, streams_of
from k700_text.sandbox.world import SandboxVideo, World, WorldConfig
from k700_text.titles import clean_plain_title
from tests.k700_text.crawling import NOON, POSSIBLE_ID

# A world with all states in equal parts, so that a few ids meet every one.
STATES = [each for each in Availability if each not in (Availability.UNKNOWN, Availability.MALFORMED)]
EVEN = WorldConfig(shares=dict.fromkeys(STATES, 1 / len(STATES)), hostile_titles=0.3, empty_titles=0.05)
WORLD = World(seed=0, config=EVEN)
PLAYING = (Availability.PUBLIC, Availability.UNLISTED, Availability.EMBEDDING_OFF)
OTHER_ID = "J---aiyznGQ"


def no_get(*args: object, **kwargs: object) -> Response:
    raise AssertionError("yt-dlp's own requests are sent by its wire")


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(WORLD) as server:
        yield server


@pytest.fixture(scope="module")
def source(server: SandboxServer) -> YtDlp:
    return YtDlp(server.url)


def videos_where(state: Availability, number: int = 1) -> list[SandboxVideo]:
    videos = (WORLD.video(each) for each in WORLD.random_ids("yt-dlp"))
    return list(
        islice((each for each in videos if each.availability is state and clean_plain_title(each.title)), number)
    )


def fetch(source: YtDlp, youtube_id: str) -> TitleOutcome:
    (outcome,) = source.fetch([youtube_id], no_get)
    assert outcome.evidence is not None
    again = parse_evidence(youtube_id, outcome.evidence, outcome.http_status, outcome.fetched_at)
    assert again == outcome
    return outcome


def asked_since(server: SandboxServer, start: int) -> list[str]:
    return [logged.path for logged in server.requests[start:]]


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_told_with_its_title(server: SandboxServer, source: YtDlp, state: Availability) -> None:
    for video in videos_where(state, 3):
        start = server.count()
        outcome = fetch(source, video.youtube_id)
        assert outcome.availability is state
        assert outcome.title == (clean_plain_title(video.title) if state.is_alive else None)
        assert outcome.status is (OutcomeStatus.TITLE if state.is_alive else OutcomeStatus.NO_TITLE)
        assert (outcome.reason is None) == state.is_alive
        assert outcome.http_status is None
        # The page and one call; yt-dlp itself asks once more where an age is asked for.
        assert len(asked_since(server, start)) == (3 if state is Availability.AGE_RESTRICTED else 2)


@pytest.mark.parametrize("state", PLAYING)
def test_playing_videos_tell_sound_time_and_length(source: YtDlp, state: Availability) -> None:
    seen = set()
    for video in videos_where(state, 60 if state is Availability.PUBLIC else 5):
        streams = streams_of(video)
        if streams in seen and streams is Streams.BOTH:
            continue
        seen.add(streams)
        outcome = fetch(source, video.youtube_id)
        assert outcome.web_has_audio is (streams is not Streams.NO_AUDIO)
        assert outcome.published_at == video.published_at
        assert outcome.video_duration_seconds == (video.duration_seconds or None)
        assert outcome.title_language is None
    assert state is not Availability.PUBLIC or seen == set(Streams)


def test_refused_videos_leave_the_sound_open(source: YtDlp) -> None:
    for state in set(STATES) - set(PLAYING):
        (video,) = videos_where(state)
        assert fetch(source, video.youtube_id).web_has_audio is None


def test_empty_title_is_not_made_up(source: YtDlp) -> None:
    videos = (WORLD.video(each) for each in WORLD.random_ids("empty"))
    video = next(each for each in videos if each.availability is Availability.PUBLIC and not each.title)
    outcome = fetch(source, video.youtube_id)
    assert (outcome.status, outcome.reason) == (OutcomeStatus.NO_TITLE, "empty_title")
    assert outcome.availability is Availability.PUBLIC


def test_impossible_id_is_told_as_the_site_tells_it(source: YtDlp) -> None:
    outcome = fetch(source, "dQw4w9WgXc1")
    assert (outcome.status, outcome.availability) == (OutcomeStatus.NO_TITLE, Availability.NOT_FOUND)


def test_real_video_named_like_a_junk_page_keeps_its_title() -> None:
    world = World(seed=0, config=WorldConfig(odd_titles=1.0))
    with SandboxServer(world) as server:
        source = YtDlp(server.url)
        for youtube_id in islice(world.random_ids("odd"), 10):
            video = world.video(youtube_id)
            if video.availability is Availability.PUBLIC:
                assert fetch(source, youtube_id).title == clean_plain_title(video.title)


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (Refusal.BOT_CHECK, BlockedError),
        (Refusal.CAPTCHA, BlockedError),
        (Refusal.SESSION_LIMIT, RateLimitedError),
        (Refusal.RESTRICTED_NETWORK, FilteredNetworkError),
    ],
)
def test_check_stops_the_source_after_the_title_in_hand(
    server: SandboxServer, refusal: Refusal, error: type[TransportError]
) -> None:
    source = YtDlp(server.url)
    video, following = videos_where(Availability.PUBLIC, 2)
    # The page alone: whoever asked again as another client would get an ordinary answer.
    server.script("player", refuse(WORLD, video.youtube_id, refusal)[:1])
    start = server.count()
    outcome = fetch(source, video.youtube_id)
    assert outcome.title == clean_plain_title(video.title)
    assert outcome.availability is Availability.UNKNOWN
    assert asked_since(server, start) == ["/watch"]
    with pytest.raises(error) as raised:
        source.fetch([following.youtube_id], no_get)
    assert asked_since(server, start) == ["/watch"]
    if isinstance(raised.value, RateLimitedError):
        assert raised.value.retry_after_seconds == 3600
    assert fetch(source, following.youtube_id).title == clean_plain_title(following.title)


def test_check_of_the_player_call_alone_is_heard_too(server: SandboxServer) -> None:
    source = YtDlp(server.url)
    (video,) = videos_where(Availability.PUBLIC)
    server.script("player", [Answer(), refuse(WORLD, video.youtube_id, Refusal.BOT_CHECK)[1]])
    outcome = fetch(source, video.youtube_id)
    assert (outcome.title, outcome.availability) == (clean_plain_title(video.title), Availability.UNKNOWN)
    with pytest.raises(BlockedError):
        source.fetch([video.youtube_id], no_get)


def test_answers_about_another_video_are_no_answers(server: SandboxServer) -> None:
    source = YtDlp(server.url)
    (video,) = videos_where(Availability.PUBLIC)
    for answers in (refuse(WORLD, video.youtube_id, Refusal.WRONG_ID)[:1], [Answer()]):
        if answers == [Answer()]:
            answers += refuse(WORLD, video.youtube_id, Refusal.WRONG_ID)[1:]
        server.script("player", answers)
        start = server.count()
        with pytest.raises(BlockedError, match="another video"):
            source.fetch([video.youtube_id], no_get)
        assert len(asked_since(server, start)) == len(answers)


def test_video_that_is_still_to_come_keeps_its_title(server: SandboxServer, source: YtDlp) -> None:
    (video,) = videos_where(Availability.PUBLIC)
    server.script("player", refuse(WORLD, video.youtube_id, Refusal.UPCOMING))
    outcome = fetch(source, video.youtube_id)
    assert (outcome.title, outcome.availability) == (clean_plain_title(video.title), Availability.UNKNOWN)


SORRY = "https://www.google.com/sorry/index?continue=https://www.youtube.com/watch"
HTML = {"Content-Type": "text/html; charset=utf-8"}
FAULTS: list[tuple[Answer, type[K700TextError]]] = [
    (Answer(429, {"Retry-After": "120"}), RateLimitedError),
    (Answer(429), RateLimitedError),
    (Answer(302, {"Location": SORRY}), BlockedError),
    (Answer(302, {"Location": "https://consent.youtube.com/m?continue=x"}), BlockedError),
    (Answer(200, HTML, "<html>Our systems have detected unusual traffic from your network</html>"), BlockedError),
    (Answer(403, HTML, '<html><form id="captcha-form"></form></html>'), BlockedError),
    (Answer(503), TransportError),
    (Answer(reset=True), TransportError),
    (Answer(truncate=True), TransportError),
    (Answer(200, {**HTML, "Content-Encoding": "gzip"}, gzip.compress(b"<html>" * 99)[:-12]), TransportError),
    (Answer(200, {**HTML, "Content-Encoding": "gzip"}, b"not gzip"), TransportError),
    (Answer(301, {"Location": "/watch?v=again"}), TransportError),
]


@pytest.mark.parametrize(("fault", "error"), FAULTS)
def test_fault_of_the_page_ends_the_turn_at_once(
    server: SandboxServer, fault: Answer, error: type[K700TextError]
) -> None:
    times = 6 if fault.status == 301 else 1
    server.script("player", [fault] * times)
    start = server.count()
    (video,) = videos_where(Availability.PUBLIC)
    source = YtDlp(server.url)
    with pytest.raises(error) as raised:
        source.fetch([video.youtube_id], no_get)
    assert type(raised.value) is error
    assert len(asked_since(server, start)) == times
    if isinstance(raised.value, RateLimitedError):
        assert raised.value.retry_after_seconds == (120 if fault.headers else None)
    assert fetch(source, video.youtube_id).title == clean_plain_title(video.title)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Answer(429), RateLimitedError),
        (Answer(200, HTML, "<html>unusual traffic</html>"), BlockedError),
        (Answer(500), TransportError),
    ],
)
def test_fault_of_the_call_ends_the_turn_too(server: SandboxServer, fault: Answer, error: type[K700TextError]) -> None:
    server.script("player", [Answer(), fault])
    start = server.count()
    (video,) = videos_where(Availability.PUBLIC)
    with pytest.raises(error):
        YtDlp(server.url).fetch([video.youtube_id], no_get)
    assert len(asked_since(server, start)) == 2


def test_refused_call_leaves_what_the_page_says(server: SandboxServer, source: YtDlp) -> None:
    (video,) = videos_where(Availability.PUBLIC)
    server.script(
        "player", [Answer(), Answer(400, {}, {"error": {"code": 400, "message": "Precondition check failed."}})]
    )
    outcome = fetch(source, video.youtube_id)
    assert (outcome.title, outcome.availability) == (clean_plain_title(video.title), Availability.PUBLIC)
    assert outcome.web_has_audio is None


def test_redirect_within_the_host_and_gzip_are_followed(server: SandboxServer, source: YtDlp) -> None:
    (video,) = videos_where(Availability.PUBLIC)
    page, call = refuse(WORLD, video.youtube_id, Refusal.UPCOMING)
    assert isinstance(page.body, bytes)
    packed = Answer(200, {**page.headers, "Content-Encoding": "gzip"}, gzip.compress(page.body))
    server.script("player", [Answer(302, {"Location": f"/watch?v={video.youtube_id}&app=desktop"}), packed, call])
    assert fetch(source, video.youtube_id).title == clean_plain_title(video.title)


def test_only_the_given_host_is_contacted(server: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    contacted = set()
    connect = socket.socket.connect

    def note(self: socket.socket, address: Any) -> None:
        contacted.add(address[0])
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", note)
    source = YtDlp(server.url)
    for state in STATES:
        fetch(source, videos_where(state)[0].youtube_id)
    server.script("player", [Answer(302, {"Location": SORRY})])
    with pytest.raises(BlockedError):
        source.fetch([videos_where(Availability.PUBLIC)[0].youtube_id], no_get)
    assert contacted == {"127.0.0.1"}


def test_other_hosts_are_refused_by_the_wire(server: SandboxServer) -> None:
    for url in (
        "https://rr1---sn-x.googlevideo.com/x",
        "https://www.google.com/sorry",
        "https://youtube.com.evil.example/",
    ):
        wire = PlayerWire(server.url, CookieJar(), Transport())
        start = server.count()
        with pytest.raises(TransportError, match=f"not {HOST}"):
            wire.send(url, method="GET", data=None, headers={})
        # Whatever yt-dlp makes of it, the turn is over.
        with pytest.raises(TransportError):
            wire.send(f"https://{HOST}/watch?v={POSSIBLE_ID}", method="GET", data=None, headers={})
        assert server.count() == start


@pytest.mark.parametrize("guard", ["", "\ufeff", ")]}'\n", " \r\n"])
def test_an_answer_about_another_video_is_known_whatever_stands_around_it(server: SandboxServer, guard: str) -> None:
    answer = json.dumps({"videoDetails": {"videoId": OTHER_ID}, "playabilityStatus": {"status": "OK"}})
    for text in (answer, f'[{{"page": "watch"}}, {answer}]'):
        server.script("player", [Answer(200, {"Content-Type": "application/json"}, guard + text)])
        wire = PlayerWire(server.url, CookieJar(), Transport())
        wire.start(POSSIBLE_ID)
        wire.send(f"https://{HOST}/youtubei/v1/player", method="POST", data=b"{}", headers={})
        assert (wire.video_ids, wire.statuses) == ({OTHER_ID}, ["OK"])
        # Nothing more is sent: yt-dlp is to make do with what it has.
        start = server.count()
        again = wire.send(f"https://{HOST}/youtubei/v1/player", method="POST", data=b"{}", headers={})
        assert again.status == 403 and server.count() == start


def test_nobody_listening_is_a_refusal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(RefusedError):
        YtDlp(f"http://127.0.0.1:{port}").fetch([POSSIBLE_ID], no_get)


def test_proxy_of_the_environment_is_used(server: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    (video,) = videos_where(Availability.PUBLIC)
    assert fetch(YtDlp("http://site.invalid"), video.youtube_id).title == clean_plain_title(video.title)


def test_unreadable_certificates_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for bundle in (tmp_path / "absent.pem", tmp_path / "empty.pem"):
        if bundle.stem == "empty":
            bundle.touch()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        with pytest.raises(UsageError, match=f"REQUESTS_CA_BUNDLE .*{bundle.name}"):
            YtDlp("http://127.0.0.1:9").fetch([POSSIBLE_ID], no_get)


def test_honest_name_and_no_account(server: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONTACT_VARIABLE, "https://example.org/crawl")
    start = len(server.requests)
    fetch(YtDlp(server.url), videos_where(Availability.PUBLIC)[0].youtube_id)
    page, call = server.requests[start:]
    assert page.user_agent == user_agent()
    assert "https://example.org/crawl" in page.user_agent
    cookies = {each.split("=")[0].strip() for each in page.headers.get("cookie", "").split(";")}
    assert cookies <= {"PREF", "SOCS"}
    assert "authorization" not in {*page.headers, *call.headers}


def test_engine_is_loaded_only_to_ask() -> None:
    code = (
        "import sys; import k700_text.crawl.sources.yt_dlp as ours; ours.YtDlp('http://127.0.0.1:1'); "
        "assert not any(name.split('.')[0] == 'yt_dlp' for name in sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_plan_counts_requests_and_keeps_the_published_pace() -> None:
    plan = YtDlp().plan(600, YtDlp.pace.max_rate, None)
    assert (plan.num_requests, plan.quota_units) == (1800, 0)
    assert plan.hours == pytest.approx(2.0)
    assert YtDlp.brings_own_transport
    assert not Source.brings_own_transport
    assert CHECK_PAUSES[0] == 3600
    assert CHECK_PAUSES[-1] == 72 * 3600


def evidence(**changes: Any) -> bytes:
    info = {
        "id": POSSIBLE_ID,
        "title": "A title",
        "availability": "public",
        "formats": [{"acodec": "opus", "vcodec": "none"}],
        **changes.pop("info", {}),
    }
    record = {"info": info, "messages": [], "video_ids": [POSSIBLE_ID], "statuses": ["OK", "OK"], **changes}
    return json.dumps(record).encode()


def read(**changes: Any) -> TitleOutcome:
    return parse_evidence(POSSIBLE_ID, evidence(**changes), None, NOON)


MEMBERS = "WARNING: [youtube] Join this channel to get access to members-only content like this video"
SKIPPED = "WARNING: [youtube] Some web client https formats have been skipped as they are missing a URL."
SILENT = {"acodec": "none", "vcodec": "vp9"}
STORYBOARD = {"acodec": "none", "vcodec": "none"}


@pytest.mark.parametrize(
    ("formats", "messages", "has_audio"),
    [
        ([], [], None),
        ([STORYBOARD], [], None),
        ([SILENT, STORYBOARD], [], False),
        ([SILENT], [SKIPPED], None),
        ([SILENT, {"acodec": None, "vcodec": "vp9"}], [], None),
        ([{"acodec": None, "vcodec": None}], [], None),
        ([SILENT, {"acodec": "mp4a.40.2", "vcodec": "none"}], [SKIPPED], True),
    ],
)
def test_sound_is_told_only_where_the_formats_tell_it(
    formats: list[dict[str, Any]], messages: list[str], has_audio: bool | None
) -> None:
    assert read(info={"formats": formats}, messages=messages).web_has_audio is has_audio


@pytest.mark.parametrize(
    ("changes", "title", "reason"),
    [
        ({}, "A title", None),
        ({"info": {"title": None}}, None, "empty_title"),
        ({"info": {"title": " \u200b "}}, None, "empty_title"),
        ({"video_ids": []}, None, "unconfirmed_title"),
        ({"info": {"id": OTHER_ID}}, None, "unconfirmed_title"),
        ({"info": {"title": "Private video"}}, "Private video", None),
        ({"info": {"title": "Private video"}, "statuses": ["LOGIN_REQUIRED"]}, None, "unknown"),
        ({"info": {"title": "YouTube"}, "statuses": ["UNPLAYABLE"], "messages": [MEMBERS]}, None, "members_only"),
        ({"info": {"title": None}, "statuses": ["ERROR"]}, None, "unknown"),
    ],
)
def test_title_is_certain_or_it_is_none(changes: dict[str, Any], title: str | None, reason: str | None) -> None:
    outcome = read(**changes)
    assert (outcome.title, outcome.reason) == (title, reason)


@pytest.mark.parametrize(
    ("info", "state"),
    [
        ({}, Availability.PUBLIC),
        ({"availability": None}, Availability.PUBLIC),
        ({"availability": "unlisted"}, Availability.UNLISTED),
        ({"availability": "unlisted", "playable_in_embed": False}, Availability.EMBEDDING_OFF),
        ({"availability": "needs_auth", "playable_in_embed": False}, Availability.AGE_RESTRICTED),
        ({"availability": "subscriber_only"}, Availability.MEMBERS_ONLY),
        ({"availability": "premium_only"}, Availability.MEMBERS_ONLY),
        ({"availability": "private"}, Availability.PRIVATE),
    ],
)
def test_state_of_a_playing_video_is_read_from_the_description(info: dict[str, Any], state: Availability) -> None:
    assert read(info=info).availability is state


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"info": {"title": None}, "messages": ["PLAYER: Sign in to confirm you’re not a bot"]}, BlockedError),
        ({"info": {"title": None}, "messages": ["HTTP Error 429: Too Many Requests"]}, RateLimitedError),
        ({"info": {"title": None}, "messages": ["Unable to download API page: timed out"]}, TransportError),
        ({"info": {"title": None}, "messages": ["Failed to extract any player response"]}, ParseError),
        ({"info": {"title": None}, "statuses": []}, ParseError),
        ({"video_ids": [POSSIBLE_ID, OTHER_ID]}, BlockedError),
    ],
)
def test_what_is_not_about_the_video_is_no_outcome(changes: dict[str, Any], error: type[K700TextError]) -> None:
    with pytest.raises(error) as raised:
        read(**changes)
    assert type(raised.value) is error


def test_bug_of_the_engine_is_told_with_its_words() -> None:
    record = {"info": None, "messages": ["ERROR: [youtube] KeyError('x')"], "video_ids": [], "statuses": []}
    with pytest.raises(ParseError, match=r"KeyError\('x'\)"):
        parse_evidence(POSSIBLE_ID, json.dumps(record).encode(), None, NOON)


def test_what_no_answer_confirms_says_nothing() -> None:
    silent = {"formats": [SILENT], "duration": 10}
    assert (read(info=silent).web_has_audio, read(info=silent).video_duration_seconds) == (False, 10)
    other = read(info=silent, video_ids=[])
    assert (other.title, other.web_has_audio, other.video_duration_seconds) == (None, None, None)
    assert other.availability is Availability.UNKNOWN


@pytest.mark.parametrize(
    ("state", "is_about_us"),
    [
        ({"reason": "This content isn\u2019t available, try again later."}, True),
        ({"subreason": {"runs": [{"text": "This content isn\u2019t "}, {"text": "available."}]}}, True),
        (
            {"subreason": {"runs": [{"text": "This content is not available"}, {"text": " on this country domain"}]}},
            False,
        ),
        ({"reason": "This content isn\u2019t available", "subreason": {"simpleText": "in your country"}}, False),
        ({"reason": "Video unavailable", "messages": ["This video is restricted.", "Ask your administrator"]}, True),
    ],
)
def test_words_of_the_player_are_read_as_they_are_shown(state: dict[str, Any], is_about_us: bool) -> None:
    assert bool(_check({"status": "ERROR", **state})) is is_about_us


def test_length_without_end_is_none() -> None:
    assert read(info={"duration": float("inf")}).video_duration_seconds is None


def test_refusal_of_a_video_that_plays_elsewhere_convicts_nobody() -> None:
    outcome = read(messages=["WARNING: [youtube] Video unavailable"], statuses=["OK", "ERROR"])
    assert (outcome.title, outcome.availability) == ("A title", Availability.UNKNOWN)


DESCRIBED = {"info": {"duration": 245}, "statuses": ["UNPLAYABLE"]}


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ("This video is unavailable.", Availability.PUBLIC),
        ("Video unavailable", Availability.PUBLIC),
        ("Words that no rule knows", Availability.PUBLIC),
        ("Video unavailable. The uploader has not made this video available in your country", Availability.GEO_BLOCKED),
        ("Playback on other websites has been disabled by the video owner", Availability.EMBEDDING_OFF),
        ("This video requires payment to watch.", Availability.MEMBERS_ONLY),
        ("This video contains content from X, who has blocked it on copyright grounds", Availability.UNKNOWN),
        ("Private video", Availability.UNKNOWN),
    ],
)
def test_a_video_that_is_refused_and_yet_described_lives(words: str, state: Availability) -> None:
    said = {"messages": [f"WARNING: [youtube] {POSSIBLE_ID}: {words}"]}
    outcome = read(**DESCRIBED, **said)
    assert (outcome.title, outcome.availability) == ("A title", state)
    # What earlier versions kept has no word about the details: the length is one of them.
    assert read(**{**DESCRIBED, "info": {"duration": None}}, **said, is_described=True).availability is state
    # Without the description, or under the status of dead videos, the words alone count.
    for changes in ({"info": {"duration": None}}, {"statuses": ["ERROR"]}, {"statuses": ["LOGIN_REQUIRED"]}):
        bare = read(**{**DESCRIBED, **changes}, **said).availability
        assert bare is (classify(words).availability)


@pytest.mark.parametrize(
    "words",
    [
        "This video is restricted. Please check the Google Workspace administrator and/or the network administrator "
        "restrictions.",
        "This content isn\u2019t available.",
        "The page needs to be reloaded.",
    ],
)
def test_words_about_us_behind_the_headline_are_no_vote(words: str) -> None:
    said = {"messages": [f"WARNING: [youtube] {POSSIBLE_ID}: Video unavailable. {words}"], "statuses": ["ERROR"]}
    assert (read(**said).title, read(**said).availability) == ("A title", Availability.UNKNOWN)
    with pytest.raises((RateLimitedError, BlockedError)):
        read(info={"title": None}, **said)
    # An answer that an earlier version took for a death is asked for again.
    kept = evidence(info={"title": None}, **said)
    again = registry.parse_evidence("yt-dlp", POSSIBLE_ID, kept, None, NOON)
    assert again is not None
    assert (again.status, again.availability) == (OutcomeStatus.TRANSIENT, Availability.UNKNOWN)


def test_verdict_without_a_description_counts() -> None:
    record = {"info": None, "messages": ["ERROR: [youtube] x: Private video"], "video_ids": [], "statuses": []}
    outcome = parse_evidence(POSSIBLE_ID, json.dumps(record).encode(), None, NOON)
    assert (outcome.availability, outcome.reason) == (Availability.PRIVATE, "private")


@pytest.mark.parametrize(
    ("info", "published"),
    [
        ({"timestamp": 1_262_304_000}, "2010-01-01T00:00:00+00:00"),
        ({"upload_date": "20100102"}, "2010-01-02T00:00:00+00:00"),
        ({"upload_date": "soon"}, None),
        ({"timestamp": 1e30}, None),
        ({}, None),
    ],
)
def test_upload_time_is_read_in_both_forms(info: dict[str, Any], published: str | None) -> None:
    assert read(info=info).published_at == (datetime.fromisoformat(published) if published else None)
