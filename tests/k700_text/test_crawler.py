from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from k700_text.crawl import source_run
from k700_text.crawl.crawler import CrawlSettings, crawl, plan_crawl
from k700_text.crawl.ledger import Ledger, read_videos
from k700_text.crawl.limiter import RECOVERY_SUCCESSES, Clock, HostState
from k700_text.crawl.registry import check_source_names, make_sources
from k700_text.crawl.source_run import SourceProgress
from k700_text.crawl.sources import data_api
from k700_text.crawl.summary import CrawlSummary
from k700_text.crawl.transport import Endpoints, Limits
from k700_text.errors import CredentialError, NetworkDownError, UsageError
from k700_text.records import Availability, TitleOutcome
from k700_text.sandbox.messages import Answer
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.services.player import Refusal, refuse
from k700_text.sandbox.world import World
from k700_text.titles import clean_plain_title
from tests.k700_text.crawling import JumpingClock, ids_where, make_ids

KEY = "AIza-test"
ALL = ("data-api", "oembed", "thumbnail", "wayback", "wayback-cdx", "archive-item")
QUICK = dict.fromkeys(ALL, 1e6)
LIVE = ["data-api", "oembed"]


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(World(seed=0)) as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def run(
    path: Path,
    server: SandboxServer | str,
    ids: Sequence[str],
    names: list[str] | None = None,
    *,
    key: str = "",
    clock: Clock | None = None,
    max_wait_seconds: float = 60.0,
    **values: Any,
) -> CrawlSummary:
    url = server if isinstance(server, str) else server.url
    places = Endpoints({name: url for name in (*ALL, "yt-dlp") if name != "wayback-cdx"})
    names = names or (LIVE if key else ["oembed"])
    sources = make_sources(names, endpoints=places, environment={"YOUTUBE_API_KEY": key})
    settings = CrawlSettings(rates=QUICK, max_wait_seconds=max_wait_seconds, limits=Limits(read_seconds=1.0), **values)
    with Ledger(path) as ledger:
        num_ids = ledger.want(ids)
        return crawl(ledger, sources, settings, num_ids=num_ids, clock=clock or JumpingClock(datetime.now(UTC)))


def recorded(path: Path) -> dict[tuple[str, str], TitleOutcome]:
    return {(video.youtube_id, each.source): each for video in read_videos(path) for each in video.outcomes}


def test_without_a_key_every_id_is_asked_once_of_oembed(server: SandboxServer, path: Path) -> None:
    ids = make_ids(300)
    summary = run(path, server, ids)
    assert server.ids_asked("oembed") == dict.fromkeys(ids, 1)
    assert server.count("data-api") == 0
    assert not summary.work_left and summary.num_requests == 300
    alive = sum(1 for each in ids if server.world.video(each).is_embeddable)
    assert summary.num_titles <= alive and summary.num_titles > 200
    again = run(path, server, ids)
    assert server.count() == 300 and again.num_requests == 0 and not again.work_left
    assert again.titles_by_source == summary.titles_by_source and again.availability == summary.availability


def test_with_a_key_oembed_gives_the_second_opinion_only(server: SandboxServer, path: Path) -> None:
    ids = make_ids(300)
    summary = run(path, server, ids, key=KEY)
    results = recorded(path)
    without = {each for each in ids if results[each, "data-api"].title is None}
    assert server.ids_asked("data-api") == dict.fromkeys(ids, 1)
    assert server.ids_asked("oembed") == dict.fromkeys(without, 1)
    assert server.count("data-api") == 6
    gone = {each for each in ids if server.world.video(each).availability.is_gone}
    assert sum(summary.availability.get(state.value, 0) for state in Availability if state.is_gone) == len(gone)
    assert summary.availability.get("unknown", 0) == 0
    assert KEY.encode() not in path.read_bytes()


def test_a_network_that_hides_videos_stops_the_source_with_one_line(server: SandboxServer, path: Path) -> None:
    ids = sorted(ids_where(lambda video: video.availability is Availability.PUBLIC and bool(video.title), 3))
    for _ in range(2):
        server.script("player", refuse(server.world, ids[0], Refusal.RESTRICTED_NETWORK)[:1])
        start = server.count()
        summary = run(path, server, ids, ["yt-dlp"])
        (source,) = summary.sources
        assert source.stopped is not None and "\n" not in source.stopped
        assert "this network is in restricted mode" in source.stopped and "another network" in source.stopped
        assert (source.resume_at, summary.work_left) == (None, True)
        # The title in hand is kept, nothing is concluded, and nobody else is asked about meanwhile.
        assert {each: result.availability for (each, _), result in recorded(path).items()} == {
            ids[0]: Availability.UNKNOWN
        }
        assert server.count() - start <= 1
        server.script("player", [])
        with Ledger(path) as ledger:
            ledger.forget_before("yt-dlp", datetime.now(UTC) + timedelta(days=1))
    assert not run(path, server, ids, ["yt-dlp"]).work_left


def test_titles_are_those_of_the_world(server: SandboxServer, path: Path) -> None:
    run(path, server, make_ids(100), ["oembed"])
    for (youtube_id, _), result in recorded(path).items():
        if result.title is not None:
            assert result.raw_title == server.world.video(youtube_id).title


def test_429_is_waited_for_and_counts_no_attempt(server: SandboxServer, path: Path) -> None:
    server.script("oembed", [Answer(status=429, headers={"Retry-After": "2"})] * 7)
    clock = JumpingClock(datetime.now(UTC))
    summary = run(path, server, make_ids(5), ["oembed"], clock=clock)
    assert not summary.work_left and summary.sources[0].num_answered == 5
    assert sum(clock.waits) >= 2
    assert len(recorded(path)) == 5


def test_a_rate_limit_without_a_time_stops_the_source_until_then(server: SandboxServer, path: Path) -> None:
    server.script("oembed", [Answer(status=429)] * 4)
    ids = make_ids(50)
    summary = run(path, server, ids, ["oembed"])
    assert summary.work_left and summary.resume_at is not None
    assert 14 * 60 < (summary.resume_at - datetime.now(UTC)).total_seconds() < 17 * 60
    num_asked = server.count()
    # A restart honours the pause: not one request.
    assert run(path, server, ids, ["oembed"]).resume_at == summary.resume_at
    assert server.count() == num_asked
    gone = {each for (each, _), result in recorded(path).items() if result.availability.is_gone}
    assert all(server.world.video(each).availability.is_gone for each in gone)
    later = run(path, server, ids, ["oembed"], max_wait_seconds=1e6)
    assert not later.work_left and len(recorded(path)) == 50


@pytest.mark.parametrize(
    "scripted",
    [
        Answer(status=200, body="<html>unusual traffic</html>", headers={"Content-Type": "text/html"}),
        Answer(status=302, headers={"Location": "https://www.google.com/sorry/index"}),
    ],
)
def test_a_block_page_stops_the_host_and_says_nothing_about_videos(
    server: SandboxServer, path: Path, scripted: Answer
) -> None:
    server.script("oembed", [scripted] * 8)
    summary = run(path, server, make_ids(20), ["oembed"])
    assert summary.work_left and summary.resume_at and "cooling down" in str(summary.sources[0].stopped)
    assert set(summary.availability) <= {"unknown", "public", "embedding_off"}


def test_20_times_403_is_a_block_and_the_videos_are_asked_again(server: SandboxServer, path: Path) -> None:
    ids = make_ids(60)
    server.script("oembed", [Answer(status=403, body="Forbidden")] * 30)
    blocked = run(path, server, ids, ["oembed"])
    assert blocked.work_left and blocked.sources[0].num_left == 60 and recorded(path) == {}
    server_later = run(path, server, ids, ["oembed"], max_wait_seconds=1e6)
    assert not server_later.work_left and len(recorded(path)) == 60


@pytest.mark.parametrize("scripted", [Answer(status=500), Answer(reset=True), Answer(status=200, body="{")])
def test_passing_faults_are_retried(server: SandboxServer, path: Path, scripted: Answer) -> None:
    server.script("oembed", [scripted] * 3)
    summary = run(path, server, make_ids(10), ["oembed"])
    assert not summary.work_left and summary.num_requests == 13


def test_a_fault_that_stays_is_recorded_and_asked_again_next_time(server: SandboxServer, path: Path) -> None:
    ids = make_ids(1)
    server.script("oembed", [Answer(status=503)] * 5)
    summary = run(path, server, ids, ["oembed"])
    assert (
        summary.work_left and summary.sources[0].num_transient == 1 and summary.sources[0].reasons == {"transport": 1}
    )
    assert summary.availability == {"unknown": 1}
    assert not run(path, server, ids, ["oembed"]).work_left
    assert server.count() == 6


def test_a_server_that_only_fails_is_left_alone(server: SandboxServer, path: Path) -> None:
    server.script("oembed", [Answer(status=500)] * 500)
    clock = JumpingClock(datetime.now(UTC))
    summary = run(path, server, make_ids(200), ["oembed"], clock=clock)
    # The breaker opens after ten, lets one go after a minute, and the pause after that is too long to wait for.
    assert summary.work_left and "cooling down" in str(summary.sources[0].stopped)
    assert server.count() < 25
    assert summary.resume_at is not None and 60 < (summary.resume_at - clock.now()).total_seconds() <= 120
    assert not any(result.availability.is_gone for result in recorded(path).values())


def test_an_address_where_nobody_answers_is_given_up_at_once(path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        summary = run(path, url, make_ids(30), ["oembed"])
        assert "gave no answer at all" in str(summary.sources[0].stopped) and summary.resume_at is None
        # A mistyped address must not put the real host on hold.
        with Ledger(path) as ledger:
            assert ledger.host("www.youtube.com") is None


def test_a_refused_connection_of_the_archive_means_an_hour(path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        summary = run(path, url, make_ids(30), ["wayback"])
    assert summary.resume_at is not None
    assert 3500 < (summary.resume_at - datetime.now(UTC)).total_seconds() < 1.2 * 3600


def test_quota_that_would_be_exceeded_is_not_asked_for(server: SandboxServer, path: Path) -> None:
    summary = run(path, server, make_ids(400), ["data-api"], key=KEY, daily_quota=3)
    assert server.count("data-api") == 3 and summary.sources[0].num_answered == 150
    assert "quota units" in str(summary.sources[0].stopped)
    assert summary.resume_at == data_api.next_pacific_midnight(datetime.now(UTC))
    run(path, server, make_ids(400), ["data-api"], key=KEY, daily_quota=3)
    assert server.count("data-api") == 3


def test_a_quota_of_our_own_may_be_raised_on_the_same_day(server: SandboxServer, path: Path) -> None:
    assert run(path, server, make_ids(400), ["data-api"], key=KEY, daily_quota=3).work_left
    assert not run(path, server, make_ids(400), ["data-api"], key=KEY, daily_quota=100).work_left
    assert server.count("data-api") == 8


@pytest.mark.parametrize(("ahead", "is_kept"), [(timedelta(hours=24), True), (timedelta(days=3650), False)])
def test_a_pause_kept_by_a_wrong_clock_does_not_last_for_ever(
    server: SandboxServer, path: Path, ahead: timedelta, is_kept: bool
) -> None:
    with Ledger(path) as ledger:
        place = make_sources(["oembed"], endpoints=Endpoints({"oembed": server.url}))[0].place
        ledger.save_host(place, HostState(until=datetime.now(UTC) + ahead, level=1, rates={}))
    assert run(path, server, make_ids(3), ["oembed"]).work_left == is_kept


def test_a_redirect_to_nowhere_is_a_fault_of_the_service(server: SandboxServer, path: Path) -> None:
    server.script("oembed", [Answer(status=302, headers={"Location": "http://[::1/"})] * 3)
    summary = run(path, server, make_ids(5), ["oembed"])
    assert not summary.work_left and server.count() == 8


def test_a_block_page_under_status_200_is_no_success(server: SandboxServer, path: Path) -> None:
    page = Answer(
        status=200, body="<html>unusual traffic</html>", headers={"Content-Type": "text/html"}, delay_seconds=0.3
    )
    server.script("oembed", [Answer()] * (RECOVERY_SUCCESSES - 1) + [page] * 40)
    place = make_sources(["oembed"], endpoints=Endpoints({"oembed": server.url}))[0].place
    with Ledger(path) as ledger:
        ledger.save_host(place, HostState(until=datetime.now(UTC), level=1, rates={}))
    # Too few successes for the block to be a first one again.
    assert run(path, server, ids_where(lambda video: video.is_embeddable, 60), ["oembed"]).work_left
    with Ledger(path) as ledger:
        state = ledger.host(place)
    assert state is not None and state.level == 2


def test_archives_recover_titles_of_what_is_gone(server: SandboxServer, path: Path) -> None:
    ids = make_ids(300)
    summary = run(path, server, ids, list(ALL), key=KEY)
    assert not summary.work_left and summary.titles_by_source["wayback"] > 5
    assert "wayback-cdx" not in summary.titles_by_source
    results = recorded(path)
    for (youtube_id, source), result in results.items():
        if result.title is not None:
            assert result.title == clean_plain_title(server.world.video(youtube_id).title), (youtube_id, source)
    live = {each for each in ids if any(results[each, name].title for name in LIVE if (each, name) in results)}
    assert not live & set(server.ids_asked("wayback")) and not live & set(server.ids_asked("archive-item"))
    assert set(server.ids_asked("wayback-cdx")).isdisjoint(
        each for (each, source), result in results.items() if source == "wayback" and result.title
    )


def test_a_block_of_a_live_source_does_not_pour_its_load_on_the_archive(server: SandboxServer, path: Path) -> None:
    ids = make_ids(200)
    server.script("oembed", [Answer()] * 40 + [Answer(status=429, headers={"Retry-After": "7200"})] * 20)
    summary = run(path, server, ids, ["oembed", "wayback", "archive-item"])
    answered = {each for each, source in recorded(path) if source == "oembed"}
    assert 0 < len(answered) < 60 and summary.work_left
    assert set(server.ids_asked("wayback")) | set(server.ids_asked("archive-item")) <= answered


def test_an_archive_takes_what_one_live_source_has_answered_about(server: SandboxServer, path: Path) -> None:
    ids = make_ids(200)
    summary = run(path, server, ids, [*LIVE, "wayback"], key=KEY, daily_quota=1)
    assert summary.sources[0].num_left and summary.sources[1].num_left == 0
    results = recorded(path)
    untitled = {each for each in ids if not any(results[pair].title for pair in results if pair[0] == each)}
    assert untitled and untitled <= set(server.ids_asked("wayback"))


def test_a_thumbnail_is_the_second_opinion_on_what_one_source_calls_gone(server: SandboxServer, path: Path) -> None:
    ids = make_ids(300)
    summary = run(path, server, ids, ["oembed", "thumbnail"])
    asked = set(server.ids_asked("thumbnail"))
    gone = {each for each in ids if server.world.video(each).availability.is_gone}
    assert asked and asked <= {each for (each, _), result in recorded(path).items() if result.availability.is_gone}
    assert gone <= asked
    assert sum(summary.availability.get(state.value, 0) for state in Availability if state.is_gone) == len(gone)


def test_quota_stops_data_api_until_midnight_pacific_and_oembed_goes_on(server: SandboxServer, path: Path) -> None:
    used_up = {"error": {"code": 403, "errors": [{"reason": "quotaExceeded", "domain": "youtube.quota"}]}}
    server.script("data-api", [Answer(), Answer(status=403, body=used_up)])
    server.script("data-api", [Answer(status=403, body=used_up)] * 3)
    ids = make_ids(400)
    summary = run(path, server, ids, key=KEY)
    data, oembed = summary.sources
    assert data.num_left and data.resume_at == data_api.next_pacific_midnight(datetime.now(UTC))
    assert summary.work_left and summary.resume_at == data.resume_at
    results = recorded(path)
    without = {each for each in ids if (each, "data-api") not in results or not results[each, "data-api"].title}
    assert oembed.num_left == 0 and set(server.ids_asked("oembed")) == without
    num_asked = server.count("data-api")
    run(path, server, ids, key=KEY)
    assert server.count("data-api") == num_asked
    with Ledger(path) as ledger:
        assert ledger.quota_used("data-api", data_api.pacific_day(datetime.now(UTC))) == num_asked


def test_a_bad_key_is_named_without_being_shown_and_the_crawl_goes_on(path: Path) -> None:
    with SandboxServer(World(seed=0), api_keys={"another"}) as server:
        summary = run(path, server, make_ids(60), key=KEY)
    data, oembed = summary.sources
    assert "YOUTUBE_API_KEY" in str(data.stopped) and KEY not in str(summary)
    assert oembed.num_answered == 60 and data.num_answered == 0
    assert summary.work_left and summary.resume_at is None


def test_a_burst_refusal_is_waited_for(server: SandboxServer, path: Path) -> None:
    burst = {"error": {"code": 403, "errors": [{"reason": "rateLimitExceeded", "domain": "usageLimits"}]}}
    server.script("data-api", [Answer(status=403, body=burst)] * 2)
    summary = run(path, server, make_ids(60), ["data-api"], key=KEY)
    assert not summary.work_left and summary.sources[0].num_answered == 60


def test_impossible_ids_are_malformed_by_two_sources(server: SandboxServer, path: Path) -> None:
    summary = run(path, server, ["dQw4w9WgXc1", *make_ids(3)], ["oembed"])
    assert summary.availability["malformed"] == 1


def test_dead_videos_stay_unknown_with_one_source(server: SandboxServer, path: Path) -> None:
    dead = ids_where(lambda video: video.availability.is_gone, 5)
    assert run(path, server, dead, ["oembed"]).availability == {"unknown": 5}
    later = run(path, server, dead, ["data-api"], key=KEY)
    assert later.availability.get("unknown", 0) == 0


def test_no_network_is_one_error_and_no_verdict(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(NetworkDownError, match="check the network"):
        run(path, "http://nowhere.example", make_ids(10))
    assert recorded(path) == {}


def test_an_interruption_saves_what_was_answered(server: SandboxServer, path: Path) -> None:
    sources = make_sources(["oembed"], endpoints=Endpoints({"oembed": server.url}), environment={})
    settings = CrawlSettings(rates={"oembed": 200.0})

    def interrupt(progress: Sequence[SourceProgress]) -> None:
        if progress[0].done > 20:
            raise KeyboardInterrupt

    ids = make_ids(2000)
    with Ledger(path) as ledger:
        num_ids = ledger.want(ids)
        with pytest.raises(KeyboardInterrupt):
            crawl(ledger, sources, settings, num_ids=num_ids, progress=interrupt)
    answered = {youtube_id for youtube_id, _ in recorded(path)}
    asked = set(server.ids_asked("oembed"))
    # A 403 may be held back at that moment, never more than that.
    assert 20 < len(answered) < 2000 and len(asked - answered) <= 20
    assert threading.active_count() < 20


def test_progress_reports_rate_and_time_left(server: SandboxServer, path: Path) -> None:
    seen: list[SourceProgress] = []
    sources = make_sources(["oembed"], endpoints=Endpoints({"oembed": server.url}), environment={})
    with Ledger(path) as ledger:
        num_ids = ledger.want(make_ids(150))
        settings = CrawlSettings(rates={"oembed": 200.0})
        crawl(ledger, sources, settings, num_ids=num_ids, progress=lambda all_of_them: seen.extend(all_of_them))
    middle = next(each for each in seen if 0 < each.done < 150)
    assert middle.total == 150 and middle.eta_seconds is not None
    assert middle.eta_seconds == pytest.approx((150 - middle.done) / middle.rate)
    assert (seen[-1].done, seen[-1].total, seen[-1].eta_seconds) == (150, 150, 0)


def test_the_pace_of_a_source_holds_for_the_whole_crawl(server: SandboxServer, path: Path) -> None:
    sources = make_sources(["oembed"], endpoints=Endpoints({"oembed": server.url}), environment={})
    with Ledger(path) as ledger:
        num_ids = ledger.want(make_ids(60))
        summary = crawl(ledger, sources, CrawlSettings(rates={"oembed": 50.0}), num_ids=num_ids)
    times = sorted(logged.time for logged in server.requests)
    measured = (len(times) - 1) / (times[-1] - times[0])
    assert measured <= 50 * 1.05
    assert summary.num_requests == 60


def test_the_plan_is_an_upper_bound_of_what_is_left(server: SandboxServer, path: Path) -> None:
    run(path, server, make_ids(10), ["oembed"])
    sources = make_sources(LIVE, environment={"YOUTUBE_API_KEY": KEY})
    with Ledger(path) as ledger:
        num_ids = ledger.want(make_ids(110))
        plan = plan_crawl(ledger, sources, CrawlSettings(rates={"oembed": 2.0}), num_ids)
    data, oembed = plan.sources
    assert oembed.num_requests == 100 and oembed.hours == pytest.approx(50 / 3600)
    assert data.num_requests == data.quota_units == 3
    assert ("videos", "110") in plan.rows() and plan.as_dict()["num_ids"] == 110


def test_sources_need_known_names_and_a_key() -> None:
    def names(wanted: list[str] | None = None, key: str = "", **endpoints: str) -> list[str]:
        places = Endpoints({name.replace("_", "-"): url for name, url in endpoints.items()})
        return [source.name for source in make_sources(wanted, endpoints=places, environment={"YOUTUBE_API_KEY": key})]

    assert names() == list(ALL[1:])
    assert names(key=KEY) == list(ALL)
    assert names(["wayback", "oembed", "oembed"]) == ["oembed", "wayback", "wayback-cdx"]
    assert names(["yt-dlp", "dumps"]) == ["yt-dlp"]
    # A trial run never reaches out to the real services.
    assert names(oembed="http://127.0.0.1:1") == ["oembed"]
    assert names(key=KEY, wayback="http://127.0.0.1:1") == ["wayback", "wayback-cdx"]
    with pytest.raises(CredentialError, match="YOUTUBE_API_KEY"):
        make_sources(["data-api"], environment={})
    with pytest.raises(UsageError, match="did you mean oembed"):
        check_source_names(["oembd"])
    with pytest.raises(UsageError, match="known: dumps, data-api, oembed"):
        check_source_names(["zzz"])
    with pytest.raises(UsageError, match="no source"):
        make_sources([], environment={})


def test_an_error_of_ours_in_a_worker_ends_the_crawl(
    server: SandboxServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(source_run.SourceRun, "_record", fail)
    with pytest.raises(AssertionError, match="a bug"):
        run(path, server, make_ids(50))


def test_the_summary_renders_as_rows_and_as_values(server: SandboxServer, path: Path) -> None:
    summary = run(path, server, make_ids(30))
    values = summary.as_dict()
    assert values["num_ids"] == 30 and values["sources"][0]["source"] == "oembed"
    assert dict(summary.rows())["videos"] == "30"
