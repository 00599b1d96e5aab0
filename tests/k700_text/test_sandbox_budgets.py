"""Politeness is measured on the server's side; the archive enforces its limits with 429 and then with a firewall."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable

import pytest

from k700_text.errors import ConfigError
from k700_text.sandbox.archive_guard import ArchiveGuard
from k700_text.sandbox.budgets import MAX_TOLD, Budgets, RateBudget, budget_violations, retry_after_seconds
from k700_text.sandbox.messages import Answer, LoggedRequest
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World
from tests.k700_text.sandboxing import Client, Videos, api, cdx, memento, oembed, watch

WORLD = World(0)
PICK = Videos(WORLD, 100, "budgets")
NOW = 1_780_000_000.0
EXACT = Budgets(jitter_seconds=0.0)


class Clock:
    """The server's clock, moved by hand."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def asked(
    times: Iterable[float],
    service: str = "wayback",
    *,
    took: float = 0.0,
    num_ids: int = 1,
    retry_after: str = "",
) -> list[LoggedRequest]:
    return [
        LoggedRequest(
            time=NOW + time,
            answered_at=NOW + time + took,
            method="GET",
            target="/",
            service=service,
            youtube_ids=("x",) * num_ids,
            status=200,
            headers={},
            retry_after=retry_after,
        )
        for time in times
    ]


# --- budgets of a log ---


def test_a_client_at_the_limits_is_polite() -> None:
    log = asked((number / 8 for number in range(1000)), took=2.0)
    log += asked((number * 2.5 for number in range(50)), "wayback-cdx")
    log += asked((number / 4 for number in range(100)), "data-api", num_ids=50)
    log += asked((number / 100 for number in range(1000)), "oembed")
    assert budget_violations(log) == budget_violations(reversed(log)) == []


@pytest.mark.parametrize(
    ("service", "rate", "seconds"),
    [("wayback", 8.5, 30), ("wayback-cdx", 25 / 60, 200)],
)
def test_a_client_a_little_too_fast_is_not(service: str, rate: float, seconds: int) -> None:
    told = budget_violations(asked((number / rate for number in range(int(seconds * rate))), service))
    assert told and told[0].startswith(f"{service}: ") and told[0].endswith("are allowed")


def test_a_burst_is_seen_though_the_average_is_low() -> None:
    assert budget_violations(asked(range(100))) == []
    (told,) = budget_violations(asked([*range(100), *(50 + number / 100 for number in range(8))]))
    assert told.startswith("wayback: 9 requests in 0.0") and "8 in 1 s are allowed" in told


def test_jitter_on_the_way_is_no_offence() -> None:
    spaced = [number / 8 for number in range(200)]
    late = [time + (0.2 if number % 9 == 0 else 0.0) for number, time in enumerate(spaced)]
    assert budget_violations(asked(late)) == []
    assert budget_violations(asked(late), EXACT)
    # A window no longer than the jitter says nothing; the longer ones still do.
    assert budget_violations(asked(number / 9 for number in range(600)), Budgets(jitter_seconds=1.0))


def test_more_than_50_ids_are_too_many() -> None:
    assert budget_violations(asked([0], "data-api", num_ids=50)) == []
    (told,) = budget_violations(asked([0], "data-api", num_ids=51))
    assert told.startswith("data-api: 51 ids in one request")


def test_requests_under_way_are_counted_by_host() -> None:
    together = asked([0.0] * 20, took=5.0) + asked([1.0] * 13, "wayback-cdx", took=1.0)
    (told,) = budget_violations(together, Budgets(rates=(), max_concurrent=32))
    assert told.startswith("web.archive.org: 33 requests under way")
    others = asked([0.0] * 20, took=5.0) + asked([1.0] * 13, "archive-item", took=1.0)
    assert budget_violations(others, Budgets(rates=(), max_concurrent=32)) == []
    # An answer makes room for the request that follows it in the same moment.
    relay = asked([0.0, 1.0, 2.0], took=1.0)
    assert budget_violations(relay, Budgets(rates=(), max_concurrent=1)) == []


def test_a_silence_holds_for_the_host_from_the_answer_on() -> None:
    told_off = asked([0.0], took=1.0, retry_after="60")
    under_way = asked([0.5, 1.2], "wayback-cdx")
    assert budget_violations([*told_off, *under_way, *asked([61.0]), *asked([30.0], "oembed")]) == []
    told = budget_violations([*told_off, *asked([10.0], "wayback-cdx"), *asked([60.0])])
    assert [sentence.partition(":")[0] for sentence in told] == ["wayback-cdx", "wayback"]
    assert "51.000 s before web.archive.org may be asked again" in told[0]


def test_a_second_silence_prolongs_the_first() -> None:
    first = asked([0.0], "oembed", retry_after="10")
    second = asked([0.1], "oembed", retry_after="Thu, 28 May 2026 20:27:40 GMT")
    assert retry_after_seconds("Thu, 28 May 2026 20:27:40 GMT", NOW) == 60.0
    assert len(budget_violations([*first, *second, *asked([11.0], "oembed")])) == 1
    assert budget_violations([*first, *second, *asked([61.0], "oembed")]) == []
    assert retry_after_seconds("soon", NOW) is None
    assert budget_violations([*asked([0.0], retry_after="soon"), *asked([1.0])]) == []


def test_only_the_first_hundred_are_told() -> None:
    told = budget_violations(asked(range(MAX_TOLD + 20), "data-api", num_ids=60))
    assert len(told) == MAX_TOLD + 1 and told[-1] == "and 20 more"


@pytest.mark.parametrize("settings", [{"jitter_seconds": -1.0}, {"max_concurrent": 0}])
def test_bad_budgets_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="budgets"):
        Budgets(**settings)  # type: ignore[arg-type]  # one of the two


# --- budgets of a server ---


def test_the_server_watches_as_the_log_does() -> None:
    clock = Clock()
    budgets = Budgets(rates=(RateBudget(service="oembed", num_requests=2, window_seconds=1.0),), jitter_seconds=0.0)
    with SandboxServer(WORLD, clock=clock, budgets=budgets) as server:
        get = Client(server.port)
        target = oembed(watch(PICK.all[0].youtube_id))
        server.script("oembed", [Answer(), Answer(429, {"Retry-After": "5"}), Answer(), Answer()])
        for moment in (0.0, 1.0, 1.5, 1.6):
            clock.now = NOW + moment
            get(target)
        get(api(*(video.youtube_id for video in PICK.all[:51])))
        get.close()
        told = server.violations()
        assert told == budget_violations(server.requests, budgets)
    assert [sentence.split(":")[0] for sentence in told] == ["oembed", "oembed", "oembed", "data-api"]
    assert sum("may be asked again" in sentence for sentence in told) == 2


def test_a_log_of_limited_size_still_counts_and_watches() -> None:
    with SandboxServer(WORLD, log_size=5, clock=lambda: NOW) as server:
        get = Client(server.port)
        for video in PICK.all[:9]:
            get(memento(video.youtube_id, "2017"))
        get.close()
        assert (server.count("wayback"), server.count(), len(server.requests)) == (9, 9, 5)
        assert len(server.violations()) == 1
        with pytest.raises(ValueError, match="last 5 requests"):
            server.ids_asked("wayback")


# --- enforcement ---


def test_the_31st_index_request_of_a_minute_is_refused() -> None:
    clock = Clock()
    with SandboxServer(WORLD, clock=clock, enforce=True) as server:
        get = Client(server.port)
        target = cdx(PICK.all[0].youtube_id)
        assert [get(target).status for _ in range(31)] == [200] * 30 + [429]
        refused = get(target)
        assert refused.status == 429 and "Retry-After" not in refused.headers
        assert get(memento(PICK.all[0].youtube_id, "2017")).status != 429
        clock.now += 61
        assert get(target).status == 200
        get.close()


def test_playback_is_refused_past_600_a_minute_with_headers() -> None:
    guard = ArchiveGuard()
    answers = [guard.refuse("wayback", NOW + number / 11) for number in range(660)]
    refusals = [answer for answer in answers if answer is not None]
    assert answers[:600] == [None] * 600 and len(refusals) == 60
    assert {("x-ts", "429"), ("x-rl", "1")} <= set(refusals[0].headers)
    assert guard.refuse("oembed", NOW) is None


def test_a_client_that_listens_is_not_firewalled() -> None:
    guard = ArchiveGuard()
    moment = NOW
    for _ in range(10):
        while guard.refuse("wayback-cdx", moment) is None:
            moment += 0.1
        assert not guard.is_blocked(moment)
        moment += 60
    assert not guard.is_blocked(moment)


def go_on(get: Client, clock: Clock, seconds: int) -> None:
    """Asks the index once a second, whatever it says."""
    for _ in range(seconds):
        clock.now += 1
        get(cdx(PICK.all[0].youtube_id))


def test_going_on_meets_a_firewall_that_really_refuses() -> None:
    clock = Clock()
    with SandboxServer(WORLD, clock=clock, enforce=True) as server:
        archive_port = int(server.archive_url.rpartition(":")[2])
        assert archive_port != server.port
        for block_seconds in (3600, 7200):
            get = Client(archive_port)
            with pytest.raises(ConnectionError):
                go_on(get, clock, 120)
            get.close()
            wait_for_gate(archive_port, is_open=False)
            # The other hosts answer; the archive's services hang up where they cannot refuse.
            other = Client(server.port)
            assert other(oembed(watch("dQw4w9WgXcQ"))).status == 200
            with pytest.raises(ConnectionError):
                other(memento("dQw4w9WgXcQ", "2017"))
            clock.now += block_seconds - 60
            with pytest.raises(ConnectionRefusedError):
                Client(archive_port)(memento("dQw4w9WgXcQ", "2017"))
            clock.now += 120
            wait_for_gate(archive_port, is_open=True)
            again = Client(archive_port)
            assert again(memento(PICK.all[0].youtube_id, "2017")).status in (302, 404)
            again.close()
            other.close()


def test_without_enforcement_nothing_is_refused() -> None:
    clock = Clock()
    with SandboxServer(WORLD, clock=clock) as server:
        get = Client(server.port)
        go_on(get, clock, 200)
        assert {logged.status for logged in server.requests} == {200} and server.violations()
        get.close()


def test_the_archive_can_be_closed_by_hand() -> None:
    clock = Clock()
    with SandboxServer(WORLD, clock=clock) as server:
        archive_port = int(server.archive_url.rpartition(":")[2])
        get = Client(archive_port)
        assert get(oembed(watch("dQw4w9WgXcQ"))).status == 200
        server.refuse_archive(3600)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", archive_port))
        clock.now += 3601
        wait_for_gate(archive_port, is_open=True)
        get.close()


def wait_for_gate(port: int, *, is_open: bool) -> None:
    """Waits until the port is open or closed: the server's gatekeeper looks every few milliseconds."""
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            was_open = True
        except ConnectionRefusedError:
            was_open = False
        if was_open is is_open:
            return
        time.sleep(0.01)
    raise AssertionError(f"port {port} is {'closed' if is_open else 'open'} after five seconds")
