from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from k700_text.errors import DecodeError, NetworkDownError, UsageError
from k700_text.media import processes
from k700_text.media.pool import each_result


def tenfold(number: int) -> int:
    return number * 10


def die_of_odd(number: int) -> int:
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * 10


def die_the_first_time(number: int, marker: Path) -> int:
    if not marker.exists():
        marker.touch()
        os.abort()
    return number


def hang_in_c(number: int) -> int:
    """Hangs where no Python code can reach it: inside C, holding the interpreter's lock."""
    if number == 1:
        ctypes.PyDLL(None).sleep(100)
    return number


def work_at_home(number: int) -> int:
    return os.getpid() + 0 * number


def fail(number: int) -> int:
    if number == 2:
        raise DecodeError("bad: broken", path="bad")
    if number == 3:
        raise NetworkDownError("no network", host="a.example")
    return number


def wait_and_note(folder: Path) -> int:
    (folder / str(os.getpid())).touch()
    time.sleep(100)
    return 0


def quit_at_once(*arguments: object) -> None:
    os._exit(3)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_every_job_gives_its_result() -> None:
    assert dict(each_result(tenfold, [(n,) for n in range(50)], workers=2)) == {n: 10 * n for n in range(50)}
    assert list(each_result(tenfold, [(n,) for n in range(3)], workers=1)) == [(0, 0), (1, 10), (2, 20)]
    assert list(each_result(tenfold, [], workers=2)) == []


def test_a_job_may_take_any_time() -> None:
    # Systems refuse to wait that long: a shard of 100,000 clips may take two years.
    assert dict(each_result(tenfold, [(1,)], workers=1, max_seconds_per_job=1e9)) == {0: 10}


def test_one_worker_is_this_process_unless_time_is_limited() -> None:
    assert dict(each_result(work_at_home, [(0,)], workers=1)) == {0: os.getpid()}
    assert dict(each_result(work_at_home, [(0,)], workers=1, max_seconds_per_job=60)) != {0: os.getpid()}


def test_a_crash_costs_one_job_and_is_explained() -> None:
    lost: dict[int, str] = {}
    jobs = [(0,), (1,), (2,), (4,)]
    assert dict(each_result(die_of_odd, jobs, workers=2, on_lost=lost.__setitem__)) == {0: 0, 1: None, 2: 20, 3: 40}
    assert lost == {1: "was killed, perhaps for the memory it took, twice"}


def test_a_kill_from_outside_costs_nothing(tmp_path: Path) -> None:
    jobs = [(number, tmp_path / "marker") for number in range(4)]
    assert dict(each_result(die_the_first_time, jobs, workers=2)) == {0: 0, 1: 1, 2: 2, 3: 3}


def test_a_hang_inside_c_costs_one_job() -> None:
    lost: dict[int, str] = {}
    results = each_result(hang_in_c, [(0,), (1,), (2,)], workers=1, max_seconds_per_job=1.0, on_lost=lost.__setitem__)
    assert dict(results) == {0: 0, 1: None, 2: 2}
    assert lost == {1: "was stopped: it took more than 1 s"}


@pytest.mark.slow
def test_who_takes_the_results_may_be_slow() -> None:
    done = {}
    for index, result in each_result(tenfold, [(n,) for n in range(3)], workers=2, max_seconds_per_job=1.0):
        time.sleep(1.2)
        done[index] = result
    assert done == {n: 10 * n for n in range(3)}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_ends_the_run_as_what_it_is(workers: int) -> None:
    with pytest.raises(DecodeError, match="bad: broken"):
        list(each_result(fail, [(1,), (2,), (4,)], workers=workers))


def test_an_error_that_cannot_travel_keeps_its_text() -> None:
    with pytest.raises(RuntimeError, match="NetworkDownError: no network"):
        list(each_result(fail, [(3,)], workers=2))


def test_jobs_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def jobs() -> Iterator[tuple[int]]:
        for number in range(1000):
            taken.append(number)
            yield (number,)

    results = each_result(tenfold, jobs(), workers=2)
    for _ in range(5):
        next(results)
    results.close()  # type: ignore[attr-defined]  # it is a generator
    assert len(taken) < 15


def test_leaving_early_ends_the_workers(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom k700_text.media.pool import each_result\n"
        "from tests.k700_text.test_pool import wait_and_note\n"
        "if __name__ == '__main__': list(each_result(wait_and_note, [(Path(sys.argv[1]),)] * 2, workers=2))\n"
    )
    for number in (signal.SIGINT, signal.SIGKILL):
        folder = tmp_path / str(int(number))
        folder.mkdir()
        run = subprocess.Popen([sys.executable, "-c", program, folder], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        run.send_signal(number)
        run.wait(30)
        workers = [int(path.name) for path in folder.iterdir()]
        assert len(workers) == 2
        while any(map(is_alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_alive, workers))


def interrupt_itself(number: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return number


def test_an_interruption_is_the_business_of_the_parent_alone() -> None:
    # In a process of its own, whose first worker is the first that it ever starts.
    program = (
        "from k700_text.media.pool import each_result\nfrom tests.k700_text.test_pool import interrupt_itself\n"
        "if __name__ == '__main__': print(sorted(each_result(interrupt_itself, [(n,) for n in range(4)], workers=2)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[(0, 0), (1, 1), (2, 2), (3, 3)]\n", "")


def test_workers_that_do_not_start_are_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_work", quit_at_once)
    with pytest.raises(UsageError, match=r"do not start \(one ended with code 3\)"):
        list(each_result(tenfold, [(1,), (2,)], workers=2))


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown engine 'spark'"):
        list(each_result(tenfold, [(1,)], workers=1, engine="spark"))
