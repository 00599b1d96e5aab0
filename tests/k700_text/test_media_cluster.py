"""The Ray engine, on a Ray of two workers that is started once, as a process of its own, and joined."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from k700_text.media.probe import ProbeOptions, probe_folder
from tests.k700_text.media_files import make_clip
from tests.k700_text.test_pool import is_alive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).resolve().parents[2]
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
HOLDER = """
import logging, sys, ray
ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=128 << 20, logging_level=logging.ERROR)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """The environment of those who join a Ray of two workers, which sees the tests too."""
    pytest.importorskip("ray")
    with TemporaryDirectory(prefix="ray") as logs:
        own = {**os.environ, **RAY, "RAY_TMPDIR": logs, "PYTHONPATH": str(REPOSITORY)}
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=own
        )
        assert holder.stdin and holder.stdout
        address = holder.stdout.readline().strip()
        assert address, "Ray does not start"
        yield {**RAY, "RAY_ADDRESS": address}
        holder.stdin.close()
        holder.stdout.close()
        assert holder.wait(60) == 0


def note_and_wait(number: int, folder: Path, seconds: float) -> int:
    (folder / f"{number}-{os.getpid()}").touch()
    time.sleep(seconds)
    return number


def driven(environment: dict[str, str], *lines: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that joins: Ray reads its environment once, so that a test cannot join from its own process."""
    program = [
        "from pathlib import Path",
        "from k700_text.media.pool import each_result",
        "from tests.k700_text.test_media_cluster import note_and_wait",
        "from tests.k700_text.test_pool import die_of_odd, die_the_first_time, fail, hang_in_c, tenfold",
        "lost = {}",
        "options = {'workers': 2, 'engine': 'ray', 'on_lost': lost.__setitem__}",
        *lines,
    ]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def result_of(environment: dict[str, str], *lines: str) -> Any:
    done = driven(environment, "import json", *lines, "print(json.dumps([sorted(found), lost]))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, done.stdout
    found, lost = json.loads(done.stdout)
    return dict(found), lost


def test_every_job_gives_its_result(environment: dict[str, str]) -> None:
    expected = {number: 10 * number for number in range(100)}
    for workers in (2, None):
        jobs = f"options['workers'] = {workers}; jobs = ((number,) for number in range(100))"
        assert result_of(environment, jobs, "found = each_result(tenfold, jobs, **options)") == (expected, {})


def test_a_crash_costs_one_job(environment: dict[str, str]) -> None:
    found, lost = result_of(environment, "found = each_result(die_of_odd, [(0,), (1,), (2,), (4,)], **options)")
    assert found == {0: 0, 1: None, 2: 20, 3: 40} and lost == {"1": "died, 4 times"}


def test_a_death_that_is_not_the_fault_of_the_job_costs_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    jobs = f"jobs = [(number, Path({str(tmp_path / 'marker')!r})) for number in range(4)]"
    found, lost = result_of(environment, jobs, "found = each_result(die_the_first_time, jobs, **options)")
    assert found == {0: 0, 1: 1, 2: 2, 3: 3} and not lost


def test_a_hang_inside_c_costs_one_job(environment: dict[str, str]) -> None:
    call = "found = each_result(hang_in_c, [(0,), (1,), (2,)], max_seconds_per_job=2.0, **options)"
    found, lost = result_of(environment, call)
    assert found == {0: 0, 1: None, 2: 2} and lost == {"1": "was stopped: it took more than 2 s"}


def test_who_takes_the_results_may_be_slow(environment: dict[str, str]) -> None:
    found, lost = result_of(
        environment,
        "import time",
        "found = []",
        "for each in each_result(tenfold, [(n,) for n in range(4)], max_seconds_per_job=2.0, **options):",
        "    time.sleep(2.5)",
        "    found.append(each)",
    )
    assert found == {number: 10 * number for number in range(4)} and not lost


def test_a_killed_worker_costs_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    found, lost = result_of(
        environment,
        "import os",
        f"folder = Path({str(tmp_path)!r})",
        "results = each_result(note_and_wait, [(n, folder, 0.5) for n in range(6)], **options)",
        "found = [next(results)]",
        "os.kill(int(sorted(folder.iterdir())[-1].name.partition('-')[2]), 9)",
        "found += results",
    )
    assert found == {number: number for number in range(6)} and not lost
    assert len(list(tmp_path.iterdir())) == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_ends_takes_its_workers_along(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    done = driven(
        environment,
        "import os, signal, time",
        f"folder = Path({str(tmp_path)!r})",
        "results = each_result(note_and_wait, [(n, folder, 0 if n == 0 else 100) for n in range(4)], **options)",
        "next(results)",
        "while len(list(folder.iterdir())) < 2: time.sleep(0.1)",
        f"os.kill(os.getpid(), {int(number)})",
        "next(results)",
    )
    assert done.returncode in (-number, 1), done.stderr
    workers = [int(path.name.partition("-")[2]) for path in tmp_path.iterdir()]
    deadline = time.monotonic() + 30
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers and not any(map(is_alive, workers))


def test_errors_arrive_as_what_they_are(environment: dict[str, str], tmp_path: Path) -> None:
    done = driven(environment, "list(each_result(fail, [(1,), (2,), (4,)], **options))")
    assert done.stderr.splitlines()[-1] == "k700_text.errors.DecodeError: bad: broken"
    done = driven(environment, f"list(each_result(tenfold, [(1,)], must_see=[{str(tmp_path / 'no')!r}], **options))")
    line = done.stderr.splitlines()[-1]
    assert line.startswith("k700_text.errors.UsageError: node ")
    assert line.endswith(f"does not see {tmp_path / 'no'}: it has to be on storage that all nodes share")


def probe_on_ray(root: Path, out: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    words = ["probe", str(root), "--out", str(out), "--packets", f"{out}.packets", "--engine", "ray", "--json"]
    return subprocess.Popen(
        [sys.executable, "-c", "from k700_text.cli.main import run; run()", *words],
        # Not where the tests are: the package is installed, and paths have to hold in any folder.
        cwd=root.parent,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("address", ["joined", "local"])
def test_a_probe_interrupted_on_ray_and_resumed_gives_what_one_process_gives(
    environment: dict[str, str], tmp_path: Path, address: str
) -> None:
    root, out = tmp_path / "clips", tmp_path / "ray.parquet"
    make_clip(root / "0.mp4", 1.0)
    for number in range(1, 150):
        (root / f"{number}.mp4").write_bytes((root / "0.mp4").read_bytes())
    (root / "bad.mp4").write_bytes(b"no film")
    own = {**RAY, "RAY_ADDRESS": ""} if address == "local" else environment
    run = probe_on_ray(root, out, own)
    journal = tmp_path / ".ray.parquet.journal"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 20:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.02)
    # As the terminal does it: everybody gets it, the processes of Ray too.
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=100)
    assert run.returncode == 130 and errors.count("interrupted:") == 1 and "Traceback" not in errors, errors
    run = probe_on_ray(root, out, own)
    answer, errors = run.communicate(timeout=100)
    assert run.returncode == 0 and "Traceback" not in errors, errors
    summary = json.loads(answer)
    assert summary["num_files"] == 151 and 19 <= summary["num_reused"] < 151
    assert summary["packets"]["num_indexed"] == 150 and summary["packets"]["num_checked"] == 5
    probe_folder(root, tmp_path / "one.parquet", options=ProbeOptions(packets=tmp_path / "one.packets"))
    assert (tmp_path / "one.parquet").read_bytes() == out.read_bytes()
    assert (tmp_path / "one.packets").read_bytes() == (tmp_path / "ray.parquet.packets").read_bytes()
