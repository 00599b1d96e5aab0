from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from k700_text.config import BLOCK_PAUSES, Pace
from k700_text.crawl.limiter import (
    BREAKER_FAILURES,
    BREAKER_PAUSES,
    CoolDown,
    HostLimiter,
    HostState,
    Lane,
    Stopped,
    parse_retry_after,
)
from k700_text.errors import ConfigError
from tests.k700_text.crawling import NOON, JumpingClock

GO = threading.Event()


def pace(rate: float = 10.0, top: float | None = None, concurrency: int = 4) -> Pace:
    return Pace(start_rate=rate, max_rate=top or rate, concurrency=concurrency)


def lane(of: Pace, **host: Any) -> Lane:
    return HostLimiter(**host).lane("a", of)


def ask(limiter: Lane, times: int) -> list[float]:
    begins = []
    for _ in range(times):
        with limiter.slot(GO) as began:
            begins.append(began)
    return begins


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2.0),
        ("0", 1.0),
        ("999999999", 86400.0),
        ("Mon, 01 Jun 2026 12:05:00 GMT", 300.0),
        ("Mon, 01 Jun 2026 11:00:00 GMT", 1.0),
        ("soon", None),
        ("", None),
        ("-5", None),
    ],
)
def test_retry_after_in_both_forms_is_clamped(text: str, seconds: float | None) -> None:
    assert parse_retry_after({"retry-after": text}, NOON) == seconds


def test_no_window_holds_more_requests_than_the_rate_permits() -> None:
    clock = JumpingClock()
    begins = ask(lane(pace(10), clock=clock), 200)
    assert all(later - sooner >= 0.1 - 1e-9 for sooner, later in pairwise(begins))
    assert clock.monotonic() == pytest.approx(19.9)


def test_threads_use_the_permitted_rate_in_real_time_and_no_more() -> None:
    limiter = lane(pace(100))
    begins: list[float] = []

    def work() -> None:
        for _ in range(25):
            with limiter.slot(GO):
                begins.append(time.monotonic())
                time.sleep(0.005)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    measured = (len(begins) - 1) / (max(begins) - min(begins))
    # A busy test machine may delay the first or the last request: that is all the tolerance there is.
    assert 90 < measured <= 103


def test_the_permitted_rate_is_used_to_97_percent() -> None:
    clock = JumpingClock()
    begins = ask(lane(pace(7.3), clock=clock), 1000)
    assert 0.97 * 7.3 <= 999 / (begins[-1] - begins[0]) <= 7.3 * (1 + 1e-9)


def test_no_more_requests_at_once_than_the_concurrency() -> None:
    limiter = lane(pace(1e6, concurrency=2))
    running, peak, lock = [0], [0], threading.Lock()

    def work() -> None:
        with limiter.slot(GO):
            with lock:
                running[0] += 1
                peak[0] = max(peak[0], running[0])
            time.sleep(0.01)
            with lock:
                running[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert peak[0] == 2


def test_429_halves_the_rate_and_holds_everybody_for_the_named_time() -> None:
    clock = JumpingClock()
    limiter = lane(pace(10), clock=clock)
    (began,) = ask(limiter, 1)
    limiter.throttled(began, 30.0)
    assert limiter.rate == 5.0
    assert ask(limiter, 1)[0] >= began + 30.0


def test_requests_under_way_at_the_pause_do_not_halve_again() -> None:
    clock = JumpingClock()
    limiter = lane(pace(10), clock=clock)
    begins = ask(limiter, 3)
    limiter.throttled(begins[2], 5.0)
    limiter.throttled(begins[0], 5.0)
    limiter.throttled(begins[1], None)
    assert limiter.rate == 5.0


def test_the_rate_recovers_slowly_and_never_above_its_top() -> None:
    clock = JumpingClock()
    limiter = lane(pace(1.0, top=5.0), clock=clock)
    rates = []
    for _ in range(300):
        limiter.succeeded()
        rates.append(limiter.rate)
    assert rates[8] == 1.0
    assert rates[9] == pytest.approx(1.25)
    assert rates[-1] == 5.0


def test_pauses_without_a_named_time_grow_from_15_minutes() -> None:
    clock = JumpingClock()
    saved: list[HostState] = []
    limiter = lane(pace(10), clock=clock, save=saved.append, max_wait_seconds=1e9)
    for expected in BLOCK_PAUSES:
        (began,) = ask(limiter, 1)
        limiter.throttled(began, None)
        pause = (saved[-1].until - clock.now()).total_seconds()
        assert expected <= pause <= 1.1 * expected


def test_a_pause_longer_than_the_patience_is_raised_and_survives_a_restart() -> None:
    clock = JumpingClock()
    saved: list[HostState] = []
    limiter = lane(pace(10), clock=clock, save=saved.append)
    (began,) = ask(limiter, 1)
    limiter.throttled(began, 3600.0)
    restarted = lane(pace(10), clock=clock, state=saved[-1])
    for each in (limiter, restarted):
        with pytest.raises(CoolDown) as caught:
            ask(each, 1)
        assert caught.value.until == saved[-1].until
    assert restarted.rate == 5.0
    clock.wait(3600.0, GO)
    assert ask(restarted, 1)


def test_stopping_ends_the_wait() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped), lane(pace(10), clock=JumpingClock()).slot(stop):
        pass


@pytest.mark.parametrize("values", [(0.0, 1.0, 1), (2.0, 1.0, 1), (1.0, float("inf"), 1), (1.0, 1.0, 0)])
def test_an_impossible_pace_is_refused(values: tuple[float, float, int]) -> None:
    with pytest.raises(ConfigError):
        Pace(start_rate=values[0], max_rate=values[1], concurrency=values[2])


def test_holding_until_a_time_keeps_the_rate() -> None:
    clock = JumpingClock()
    limiter = lane(pace(4), clock=clock)
    limiter.hold_until(datetime(2026, 6, 2, 7, tzinfo=UTC))
    with pytest.raises(CoolDown):
        ask(limiter, 1)
    clock.wait(timedelta(hours=19).total_seconds(), GO)
    ask(limiter, 1)
    assert limiter.rate == 4.0


def test_lanes_of_a_host_have_their_own_pace_and_share_its_pauses() -> None:
    clock = JumpingClock()
    saved: list[HostState] = []
    host = HostLimiter(clock=clock, save=saved.append)
    captures, index = host.lane("captures", pace(8)), host.lane("index", pace(0.4))
    (began,) = ask(index, 1)
    ask(captures, 16)
    assert clock.monotonic() < 2.5
    index.throttled(began, 30.0)
    assert ask(captures, 1)[0] >= 30.0
    assert (captures.rate, index.rate) == (8.0, 0.2)
    restarted = HostLimiter(clock=clock, state=saved[-1])
    assert (restarted.lane("captures", pace(8)).rate, restarted.lane("index", pace(0.4)).rate) == (8.0, 0.2)


def fail(limiter: Lane, times: int) -> None:
    for _ in range(times):
        with limiter.slot(GO) as began:
            limiter.failed(began)


def test_ten_failures_in_a_row_open_the_circuit_breaker() -> None:
    clock = JumpingClock()
    saved: list[HostState] = []
    limiter = lane(pace(10), clock=clock, save=saved.append)
    fail(limiter, BREAKER_FAILURES - 1)
    limiter.answered()
    fail(limiter, BREAKER_FAILURES - 1)
    assert not saved
    fail(limiter, 1)
    opened = clock.monotonic()
    assert ask(limiter, 1)[0] >= opened + BREAKER_PAUSES[0]
    assert limiter.rate == 10.0


def test_each_failure_while_half_open_doubles_the_pause_up_to_an_hour() -> None:
    clock = JumpingClock()
    saved: list[HostState] = []
    limiter = lane(pace(10), clock=clock, save=saved.append, max_wait_seconds=1e9)
    fail(limiter, BREAKER_FAILURES)
    for expected in (120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0):
        fail(limiter, 1)
        assert (saved[-1].until - clock.now()).total_seconds() == pytest.approx(expected)
    ask(limiter, 1)
    limiter.answered()
    fail(limiter, BREAKER_FAILURES)
    assert (saved[-1].until - clock.now()).total_seconds() == pytest.approx(BREAKER_PAUSES[0])


def test_half_open_lets_one_request_go_and_an_answer_lets_all_go() -> None:
    limiter = lane(pace(1e6, concurrency=4), clock=JumpingClock())
    fail(limiter, BREAKER_FAILURES)
    running, peak, lock = [0], [0], threading.Lock()

    def work() -> None:
        with limiter.slot(GO):
            with lock:
                running[0] += 1
                peak[0] = max(peak[0], running[0])
            time.sleep(0.02)
            with lock:
                running[0] -= 1

    def run_four() -> int:
        peak[0] = 0
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return peak[0]

    assert run_four() == 1
    limiter.answered()
    assert run_four() > 1


def test_failures_of_requests_begun_before_a_pause_do_not_open_it_again() -> None:
    clock = JumpingClock()
    saved: list[HostState] = []
    limiter = lane(pace(10), clock=clock, save=saved.append)
    begins = ask(limiter, 30)
    for began in begins:
        limiter.failed(began)
    assert len(saved) == 1


def test_our_own_jitter_does_not_outlast_the_patience() -> None:
    for _ in range(50):
        clock = JumpingClock()
        limiter = lane(Pace(start_rate=10, max_rate=10, concurrency=4, pauses=(60.0,)), clock=clock)
        (began,) = ask(limiter, 1)
        limiter.throttled(began, None)
        assert ask(limiter, 1)[0] >= began + 60.0
