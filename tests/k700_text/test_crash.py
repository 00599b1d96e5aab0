"""A crawl that is killed, or that runs out of disk, ends as one that was left alone."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import subprocess
import time
from pathlib import Path

import pytest

from k700_text.manifest.validate import validate_manifest
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World
from tests.k700_text.crawling import (
    REPOSITORY,
    call,
    command,
    finished,
    make_ids,
    rows_without_times,
    write_annotations,
)

KEY = {"YOUTUBE_API_KEY": "any"}
SOURCES = ("data-api", "oembed", "thumbnail", "wayback", "wayback-cdx", "archive-item")
_DROP_FROM_BOUNDING_SET, _OVERRIDE_PERMISSIONS, _SEARCH_ANYWHERE = 24, 1, 2


def crawl_words(server: SandboxServer, annotations: Path, out: Path) -> list[str | Path]:
    places = [f"--endpoint={name}={server.url}" for name in SOURCES if name != "wayback-cdx"]
    rates = [f"--rate={name}=1000000" for name in SOURCES]
    return ["crawl", "--annotations", annotations, "--out", out, *places, *rates]


def asked(server: SandboxServer, start: int) -> set[tuple[str, str]]:
    """Returns the pairs asked since a moment. Captures that the index found are played on behalf of the index."""
    pairs = set()
    for logged in server.requests[start:]:
        pairs |= {(each, logged.service) for each in logged.youtube_ids if logged.service in SOURCES}
    return pairs


def asked_again(server: SandboxServer, start: int, done: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {
        (each, source)
        for each, source in asked(server, start) & done
        if source != "wayback" or (each, "wayback-cdx") in done
    }


def kill_at_random(
    server: SandboxServer, words: list[str | Path], rng: random.Random, most_requests: int
) -> int | None:
    """Starts a crawl and kills it: after some requests, or after some time, wherever it is then.

    Returns:
        The exit code where it was quicker.
    """
    process = subprocess.Popen(
        command(*words),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **KEY},
    )
    target = server.count() + rng.randint(1, most_requests) if rng.random() < 0.7 else 10**9
    deadline = time.monotonic() + (60 if target < 10**9 else rng.uniform(0.2, 2.0))
    while server.count() < target and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode in (0, -9), errors.decode()
    return process.returncode if process.returncode == 0 else None


def check_kills(folder: Path, *, num_ids: int, num_kills: int, most_requests: int) -> None:
    ids = make_ids(num_ids)
    annotations = write_annotations(folder / "validate.csv", ids)
    out, rng = folder / "killed", random.Random(7)
    with SandboxServer(World(seed=0)) as server:
        words = crawl_words(server, annotations, out)
        done: set[tuple[str, str]] = set()
        num_killed = 0
        for _ in range(num_kills):
            start = server.count()
            num_killed += kill_at_random(server, words, rng, most_requests) is None
            assert not asked_again(server, start, done)
            done = finished(out / "_ledger.sqlite")
            if (out / "val.parquet").exists():
                assert validate_manifest(out / "val.parquet") == []
        assert num_killed > 0.9 * num_kills
        start = server.count()
        last = call(*words, **KEY)
        assert last.returncode == 0, last.stderr
        assert not asked_again(server, start, done)
        assert finished(out / "_ledger.sqlite") >= done
    with SandboxServer(World(seed=0)) as server:
        assert call(*crawl_words(server, annotations, folder / "whole"), **KEY).returncode == 0
    assert rows_without_times(out / "val.parquet") == rows_without_times(folder / "whole" / "val.parquet")
    assert finished(out / "_ledger.sqlite") == finished(folder / "whole" / "_ledger.sqlite")


def test_a_crawl_killed_at_random_moments_ends_as_one_left_alone(tmp_path: Path) -> None:
    check_kills(tmp_path, num_ids=600, num_kills=5, most_requests=80)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_crawl_of_5000_ids_killed_50_times_ends_as_one_left_alone(tmp_path: Path) -> None:
    check_kills(tmp_path, num_ids=5000, num_kills=50, most_requests=200)


@pytest.mark.slow
def test_a_full_disk_is_a_clean_stop_and_the_crawl_goes_on_afterwards(tmp_path: Path) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(1500))
    out = tmp_path / "out"
    with SandboxServer(World(seed=0)) as server:
        words = crawl_words(server, annotations, out)
        full = subprocess.run(
            # Slow enough for several commits.
            command(*words, "--rate=data-api=20"),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **KEY},
            # No file may grow beyond this: to the program a disk that is full.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
        )
        assert full.returncode == 1 and "Traceback" not in full.stderr
        assert full.stderr.splitlines()[-1].startswith("error: ") and str(out) in full.stderr.splitlines()[-1]
        done, start = finished(out / "_ledger.sqlite"), server.count()
        assert done
        assert call(*words, **KEY).returncode == 0
        assert not asked_again(server, start, done)
    with SandboxServer(World(seed=0)) as server:
        assert call(*crawl_words(server, annotations, tmp_path / "whole"), **KEY).returncode == 0
    assert rows_without_times(out / "val.parquet") == rows_without_times(tmp_path / "whole" / "val.parquet")


def _obey_permissions() -> None:
    """Takes from a privileged process the right to write where nobody may; others never had it."""
    for capability in (_OVERRIDE_PERMISSIONS, _SEARCH_ANYWHERE):
        ctypes.CDLL(None).prctl(_DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)


@pytest.mark.slow
def test_a_read_only_folder_is_a_clean_stop_and_the_crawl_goes_on_afterwards(tmp_path: Path) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(60))
    out = tmp_path / "out"
    with SandboxServer(World(seed=0)) as server:
        words = crawl_words(server, annotations, out)
        assert call(*words, "--limit", "30", **KEY).returncode == 0
        done, start = finished(out / "_ledger.sqlite"), server.count()
        for each in out.iterdir():
            each.chmod(0o444)
        out.chmod(0o555)
        try:
            refused = subprocess.run(
                command(*words),
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                env={**os.environ, **KEY},
                preexec_fn=_obey_permissions,
            )
        finally:
            out.chmod(0o755)
            for each in out.iterdir():
                each.chmod(0o644)
        if refused.returncode == 0:
            pytest.skip("this user may write into read-only folders")
        assert refused.returncode == 1 and "Traceback" not in refused.stderr
        assert refused.stderr.count("\n") == 1 and str(out) in refused.stderr
        assert server.count() == start
        assert call(*words, **KEY).returncode == 0
        assert not asked_again(server, start, done)
        assert {each for each, _ in finished(out / "_ledger.sqlite")} == set(make_ids(60))
