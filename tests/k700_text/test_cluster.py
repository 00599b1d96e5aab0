"""A crawl on Ray: what comes out is what one process gives, whoever is killed meanwhile.

A cluster of two workers is started once, as a process of its own, and joined by the command line; one test lets the
command line start a local Ray by itself.
"""

from __future__ import annotations

import json
import os
import pickle
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from k700_text.crawl.job import RETRY_SETTING, CrawlJob, Shard
from k700_text.crawl.ledger import Ledger, read_videos
from k700_text.crawl.ledger_store import connect_read_only
from k700_text.crawl.source_run import SourceProgress
from k700_text.errors import (
    AnnotationError,
    BlockedError,
    K700TextError,
    LedgerError,
    QuotaExhaustedError,
    RateLimitedError,
    UsageError,
)
from k700_text.sandbox.messages import LoggedRequest
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World
from tests.k700_text.crawling import (
    NOON,
    REPOSITORY,
    call,
    command,
    finished,
    make_ids,
    outcome,
    rows_without_times,
    write_annotations,
)

Asked = Counter[tuple[str, str, str]]
Cluster = tuple[int, dict[str, str]]

KEY = "AIza-never-to-be-seen"
PLACES = ("data-api", "oembed", "thumbnail", "wayback", "archive-item")
SERVICES = (*PLACES, "wayback-cdx")
IDS = make_ids(400)
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
HOLDER = """
import logging, sys, ray
ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=128 << 20, logging_level=logging.ERROR)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


def on_ray(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that needs a running Ray."""
    return pytest.mark.slow(pytest.mark.timeout(300)(test))


def words(server: SandboxServer, annotations: Path, out: Path, **rates: float) -> list[str | Path]:
    """Returns a crawl of the sandbox, without limits but for those given."""
    places = [f"--endpoint={name}={server.url}" for name in PLACES]
    chosen = {**dict.fromkeys(SERVICES, 1e6), **rates}
    return [
        "crawl",
        "--annotations",
        annotations,
        "--out",
        out,
        *places,
        *(f"--rate={n}={r}" for n, r in chosen.items()),
    ]


def asked(server: SandboxServer) -> Asked:
    """Returns how often each path was asked; the Data API apart, which is asked about many ids at a time."""
    return Counter((each.service, each.path, str(each.query)) for each in server.requests if each.service != "data-api")


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_annotations(tmp_path_factory.mktemp("cluster") / "validate.csv", IDS)


@pytest.fixture(scope="module")
def expected(annotations: Path) -> tuple[Path, Asked]:
    """What one process gives without a key, and what it asks for it."""
    with SandboxServer(World(seed=0)) as server:
        arguments = words(server, annotations, annotations.parent / "local")
        assert call(*arguments, YOUTUBE_API_KEY="").returncode == 0
        return annotations.parent / "local", asked(server)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A Ray of two workers: its process, and the environment of those who join it."""
    pytest.importorskip("ray")
    environment = {**os.environ, **RAY}
    environment.pop("YOUTUBE_API_KEY", None)
    with TemporaryDirectory(prefix="ray") as logs:
        environment["RAY_TMPDIR"] = logs
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert holder.stdin and holder.stdout
        address = holder.stdout.readline().strip()
        assert address, "Ray does not start"
        yield holder.pid, {**RAY, "RAY_ADDRESS": address}
        holder.stdin.close()
        holder.stdout.close()
        assert holder.wait(60) == 0


def start(arguments: list[str | Path], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments, "--engine=ray"),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "it does not get that far"
        time.sleep(0.02)


def workers(ancestor: int) -> list[int]:
    """Returns the processes that work on a part, of one Ray only."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # It has ended meanwhile.

    def descends(process: int) -> bool:
        while process in parents and process != ancestor:
            process = parents[process]
        return process == ancestor

    return [each for each, name in names.items() if name.startswith(b"ray::_run_part") and descends(each)]


def finished_parts(out: Path) -> set[tuple[str, str]]:
    """Returns what the ledgers of the parts hold while they work."""
    done: set[tuple[str, str]] = set()
    for path in (out / "_ray-parts").glob("_ledger-*.sqlite"):
        connection = connect_read_only(path)
        sql = "SELECT youtube_id, source FROM outcomes WHERE status <> 'transient'"
        done |= set(connection.execute(sql).fetchall())
        connection.close()
    return done


def oembed_asked(server: SandboxServer, since: int) -> set[tuple[str, str]]:
    return {
        (each, "oembed")
        for logged in server.requests[since:]
        for each in logged.youtube_ids
        if logged.service == "oembed"
    }


@on_ray
def test_a_local_ray_interrupted_and_resumed_gives_what_one_process_gives(annotations: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with SandboxServer(World(seed=0), api_keys={KEY}) as server:
        assert call(*words(server, annotations, tmp_path / "local"), YOUTUBE_API_KEY=KEY).returncode == 0
        expected = asked(server)
    out = tmp_path / "ray"
    with SandboxServer(World(seed=0), api_keys={KEY}) as server, TemporaryDirectory(prefix="ray") as logs:
        arguments = [*words(server, annotations, out, oembed=20.0), "--parts=2"]
        environment = {"YOUTUBE_API_KEY": KEY, "RAY_ADDRESS": "", "RAY_TMPDIR": logs}
        process = start(arguments, environment)
        wait_until(lambda: server.count("oembed") > 5, process)
        # As the terminal does it: everybody gets it, the processes of Ray too.
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 130 and not (out / "_ray-parts").exists(), errors
        result = call(*arguments, "--engine=ray", **environment)
        assert result.returncode == 0, result.stderr
        # Over both runs nothing was asked twice.
        assert asked(server) == expected
        assert set(server.ids_asked("data-api").values()) == {1}
        files = [path for folder in (out, Path(logs)) for path in folder.rglob("*") if path.is_file()]
        assert len(files) > 10 and not [path for path in files if KEY.encode() in path.read_bytes()]
    assert rows_without_times(out / "val.parquet") == rows_without_times(tmp_path / "local" / "val.parquet")
    assert finished(out / "_ledger.sqlite") == finished(tmp_path / "local" / "_ledger.sqlite")
    assert not (out / "_ray-parts").exists()
    for text in (errors, result.stderr, result.stdout):
        assert KEY not in text and "Traceback" not in text


def check_rates(requests: Sequence[LoggedRequest], total: float) -> None:
    """Each part keeps to its half of the rate (the tolerance is for a log written late on a busy machine)."""
    for index in (1, 2):
        times = sorted(
            each.time for each in requests if each.service == "oembed" and Shard(index, 2).holds(each.youtube_ids[0])
        )
        assert len(times) > 100
        assert (len(times) - 1) / (times[-1] - times[0]) < 1.3 * total / 2


@on_ray
def test_a_killed_worker_changes_nothing(
    cluster: Cluster, expected: tuple[Path, Asked], annotations: Path, tmp_path: Path
) -> None:
    holder, environment = cluster
    with SandboxServer(World(seed=0)) as server:
        process = start([*words(server, annotations, tmp_path, oembed=80.0), "--parts=2"], environment)
        wait_until(lambda: server.count("oembed") > 120 and len(workers(holder)) == 2, process)
        os.kill(workers(holder)[0], signal.SIGKILL)
        done = finished_parts(tmp_path)
        since = server.count()
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        assert done and not oembed_asked(server, since) & done
    assert rows_without_times(tmp_path / "val.parquet") == rows_without_times(expected[0] / "val.parquet")


@on_ray
def test_a_killed_driver_and_an_interruption_lose_nothing(
    cluster: Cluster, expected: tuple[Path, Asked], annotations: Path, tmp_path: Path
) -> None:
    holder, environment = cluster
    with SandboxServer(World(seed=0)) as server:
        arguments = words(server, annotations, tmp_path, oembed=80.0)
        process = start([*arguments, "--parts=2"], environment)
        wait_until(lambda: server.count("oembed") > 100, process)
        process.kill()
        process.communicate()
        wait_until(lambda: not workers(holder))
        done, since = finished_parts(tmp_path), server.count()
        assert len(done) > 50

        process = start([*arguments, "--parts=3"], environment)
        wait_until(lambda: server.count("oembed") > since + 100, process)
        process.terminate()
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 130 and "Traceback" not in errors
        assert errors.splitlines()[-1].startswith("interrupted"), errors
        assert not oembed_asked(server, since) & done
        # Stopped cleanly: all that was asked is answered and merged.
        assert not (tmp_path / "_ray-parts").exists()
        done |= oembed_asked(server, since)
        assert done <= finished(tmp_path / "_ledger.sqlite")

        since = server.count()
        last = call(*arguments, "--engine=ray", **environment)
        assert last.returncode == 0, last.stderr
        assert not oembed_asked(server, since) & done
    assert rows_without_times(tmp_path / "val.parquet") == rows_without_times(expected[0] / "val.parquet")
    assert finished(tmp_path / "_ledger.sqlite") == finished(expected[0] / "_ledger.sqlite")


@on_ray
def test_nodes_without_the_key_are_one_line(cluster: Cluster, annotations: Path, tmp_path: Path) -> None:
    with SandboxServer(World(seed=0)) as server:
        arguments = [*words(server, annotations, tmp_path), "--engine=ray", "--parts=2"]
        result = call(*arguments, **cluster[1], YOUTUBE_API_KEY=KEY)
        assert server.count() == 0
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: source data-api needs an API key")
    assert "part 1 of 2 failed" in result.stderr and KEY not in result.stderr


@on_ray
def test_an_address_that_is_none_is_one_line(annotations: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with SandboxServer(World(seed=0)) as server:
        arguments = [*words(server, annotations, tmp_path), "--engine=ray"]
        result = call(*arguments, RAY_ADDRESS="nonsense", YOUTUBE_API_KEY="")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: cannot join the Ray cluster at nonsense: ")


@on_ray
def test_dumps_removals_and_retries_are_the_same_in_parts(cluster: Cluster, annotations: Path, tmp_path: Path) -> None:
    dumped, removed = IDS[:40], IDS[40:60]
    dump, removals = tmp_path / "dump.csv", tmp_path / "removed.txt"
    dump.write_text("id,title\n" + "".join(f"{each},A title of {index}\n" for index, each in enumerate(dumped)))
    removals.write_text("\n".join(removed))
    with SandboxServer(World(seed=0)) as server:
        # A relative path: only the calling process reads the file, wherever the workers are.
        arguments = [
            *words(server, annotations, tmp_path / "out", oembed=60.0),
            "--sources=dumps,oembed",
            "--engine=ray",
        ]
        more = [f"--dump={os.path.relpath(dump, REPOSITORY)}", f"--removal-list={removals}", "--parts=2", "--json"]
        first = call(*arguments, *more, **cluster[1])
        assert first.returncode == 0, first.stderr
        summary = json.loads(first.stdout)
        assert summary["titles_by_source"]["dumps"] == 40 and summary["num_ids"] == len(IDS) - 20
        assert server.ids_asked("oembed") == Counter(IDS[60:])
        check_rates(server.requests, total=60.0)
        with Ledger(tmp_path / "out" / "_ledger.sqlite") as ledger:
            with_title = {*ledger.ids_with_title("oembed"), *dumped}
            known = {video.youtube_id for video in ledger.wanted_videos()}
        assert known == {*dumped, *IDS[60:]}
        since = server.count()
        arguments[-2] = "--sources=oembed"
        second = call(*arguments, "--retry-failed", "--parts=3", **cluster[1])
        assert second.returncode == 0, second.stderr
        retried = Counter(each for logged in server.requests[since:] for each in logged.youtube_ids)
        assert retried == Counter(each for each in IDS[60:] if each not in with_title)
    with Ledger(tmp_path / "out" / "_ledger.sqlite") as ledger:
        # The retry is through: the next one begins anew.
        assert ledger.setting(RETRY_SETTING) is None


def test_without_ray_the_error_says_what_to_install(annotations: Path, tmp_path: Path) -> None:
    program = "import sys; sys.modules['ray'] = None; from k700_text.cli.main import run; run()"
    arguments = ["crawl", "--annotations", annotations, "--out", tmp_path, "--engine=ray"]
    result = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: --engine ray needs Ray: pip install 'k700-text[cluster]'")


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        LedgerError("a line"),
        RateLimitedError("slower", host="a.example", retry_after_seconds=7.0),
        BlockedError("blocked", host="a.example"),
        QuotaExhaustedError("spent", resume_at=NOON),
        AnnotationError("rows", ["row 1"]),
    ],
)
def test_errors_come_back_from_a_worker_as_they_were(error: K700TextError, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    from k700_text.crawl import cluster

    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(cluster, "run_job", fail)
    part = CrawlJob(out=Path(), shard=Shard(1, 2))
    end = cluster._run_part(part, b"", Path(__file__), None)
    assert isinstance(end, cluster._Failure)
    back = pickle.loads(pickle.dumps(end)).error()
    assert type(back) is type(error) and str(back) == str(error) and vars(back) == vars(error)


@pytest.mark.slow
def test_a_node_that_does_not_see_the_folder_says_so_and_writes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from k700_text.crawl import cluster

    part = CrawlJob(out=tmp_path / "elsewhere", shard=Shard(1, 2))
    end = cluster._run_part(part, b"", tmp_path / "elsewhere" / "run-1", None)
    assert isinstance(end, cluster._Failure) and isinstance(end.error(), LedgerError)
    assert "that all nodes share" in str(end.error()) and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_part_is_not_divided_again(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from k700_text.crawl import cluster

    with pytest.raises(UsageError, match="leave --shard out"):
        cluster.run_on_ray(CrawlJob(out=tmp_path, shard=Shard(1, 2)), IDS)


@pytest.mark.slow
def test_progress_is_summed_and_the_slowest_part_decides() -> None:
    pytest.importorskip("ray")
    from k700_text.crawl.cluster import summed_progress

    reports = [
        SourceProgress("oembed", 10, 50, 2.0, 20.0),
        SourceProgress("wayback", 0, 9, 0.0, None, "cooling down"),
        SourceProgress("oembed", 30, 50, 4.0, 5.0, "stopped"),
    ]
    assert summed_progress(reports) == [
        SourceProgress("oembed", 40, 100, 6.0, 20.0),
        SourceProgress("wayback", 0, 9, 0.0, None, "cooling down"),
    ]


@pytest.mark.slow
def test_what_a_killed_run_left_is_taken_in_unless_it_is_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from k700_text.crawl import cluster

    parts = tmp_path / "parts"
    monkeypatch.setattr(cluster, "LINGER_SECONDS", 0.1)
    with Ledger(tmp_path / "_ledger.sqlite") as whole:
        # One of them is of a version that left the underscore away.
        with Ledger(parts / "ledger-1-of-2.sqlite") as one, Ledger(parts / "_ledger-2-of-2.sqlite") as two:
            one.record(outcome(IDS[0], title="one"))
            two.record(outcome(IDS[1], title="two"))
        (parts / "run-x").touch()
        with Ledger(parts / "_ledger-2-of-2.sqlite"), pytest.raises(LedgerError, match="another crawl is using"):
            cluster._take_in(whole, parts)
        assert len(list(parts.glob("*.sqlite"))) == 2
        cluster._take_in(whole, parts)
        cluster._take_in(whole, parts)
        assert not parts.exists()
    assert {video.youtube_id for video in read_videos(tmp_path / "_ledger.sqlite")} == set(IDS[:2])


@pytest.mark.slow
def test_parts_of_an_unfinished_retry_go_on_with_it(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from k700_text.crawl import cluster

    with Ledger(tmp_path / "_ledger.sqlite") as whole:
        whole.want(IDS)
        whole.record(outcome(IDS[0], title="t"))
        whole.remember(RETRY_SETTING, NOON.isoformat())
        packed = [cluster._seed(part, whole).decode().split() for part in CrawlJob(out=tmp_path / "parts").split(3)]
    assert sorted(each for ids in packed for each in ids) == sorted(IDS) and all(packed)
    num_known = 0
    for path in (tmp_path / "parts").glob("*.sqlite"):
        with Ledger(path) as part:
            assert part.setting(RETRY_SETTING) == NOON.isoformat()
            num_known += len(list(read_videos(path)))
    assert num_known == 1
