"""Ctrl-C ends every command, whatever it is at: a call that nothing interrupts, a server that drips, busy processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from k700_text import starting
from tests.k700_text.crawling import REPOSITORY, command, make_ids, write_annotations

LAST_WORDS = "interrupted: what was finished is saved; run the same command to continue\n"

# Takes a lock that it holds: no signal interrupts that.
BLOCKED_PROGRAM = """
import ctypes, importlib, os, sys
from k700_text import starting
from k700_text.cli.main import run
starting._patience_seconds = float(os.environ["PATIENCE"])
module, name = os.environ["BLOCKED"].split(":")
def block(*arguments, **options):
    lock, system = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    sys.stderr.write("blocked\\n")
    sys.stderr.flush()
    while True:
        system.pthread_mutex_lock(lock)
setattr(importlib.import_module(module), name, block)
run()
"""

COMMANDS = {
    "annotations": "k700_text.annotations:load_annotations",
    "crawl": "k700_text.crawl.job:run_job",
    "merge": "k700_text.crawl.merge:merge_ledgers",
    "manifest": "k700_text.manifest.build:build_manifest",
    "validate": "k700_text.manifest.validate:validate_manifests",
    "stats": "k700_text.manifest.stats:manifest_stats",
    "diff": "k700_text.manifest.diff:diff_manifests",
    "show": "k700_text.report.sheet:make_sheet",
    "probe": "k700_text.media.probe:probe_folder",
    "prepare": "k700_text.media.prepare:plan_run",
    "tokenizer": "k700_text.cli.tokenizer:_titles",
    "sandbox": "k700_text.sandbox.world:make_kinetics",
    "demo": "k700_text.cli.demo:run_data_steps",
}


def words_of(name: str, folder: Path) -> list[str | Path]:
    annotations, manifest = write_annotations(folder / "validate.csv", make_ids(3)), folder / "val.parquet"
    words: dict[str, list[str | Path]] = {
        "annotations": [annotations],
        "crawl": ["--annotations", annotations, "--out", folder, "--sources", "oembed"],
        "merge": [folder / "ledger.sqlite", "--out", folder],
        "manifest": ["--annotations", annotations, "--out", folder],
        "diff": [manifest, manifest],
        "show": [manifest, "--out", folder / "sheet.html"],
        "probe": [folder, "--out", folder / "probe.parquet"],
        "prepare": [folder, "--manifest", manifest, "--out", folder / "prepared"],
        "tokenizer": ["--manifest", manifest, "--out", folder / "tokenizer.json"],
        "demo": ["--out", folder],
        "sandbox": ["--no-serve"],
    }
    return [name, *words.get(name, [manifest])]


@contextmanager
def blocked(name: str, folder: Path, patience: float) -> Iterator[subprocess.Popen[str]]:
    """A command that is at a call from which nothing brings it back."""
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED_PROGRAM, *map(str, words_of(name, folder))],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "BLOCKED": COMMANDS[name], "PATIENCE": str(patience)},
    )
    with process:
        try:
            assert process.stderr is not None
            said = ""
            while not said.endswith("blocked\n"):
                line = process.stderr.readline()
                assert line, said
                said += line
            time.sleep(0.2)
            yield process
        finally:
            process.kill()


def check_one_line(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, LAST_WORDS)


def some_and_slow(names: list[str], quick: str) -> list[object]:
    return [name if name == quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", some_and_slow(list(COMMANDS), quick="stats"))
def test_the_first_ctrl_c_ends_what_does_not_listen_and_the_second_does_at_once(name: str, tmp_path: Path) -> None:
    with blocked(name, tmp_path, patience=0.5) as process:
        process.send_signal(signal.SIGINT)
        check_one_line(process)
    with blocked(name, tmp_path, patience=60) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.4)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        check_one_line(process)
        assert time.monotonic() - began < 5


def test_every_command_is_in_the_table() -> None:
    from k700_text.cli.main import app

    assert {each.name for each in app.registered_commands} == set(COMMANDS)


@contextmanager
def dripping_server() -> Iterator[tuple[int, threading.Event]]:
    """Sends a byte of a header now and then, to all who ask; gives its port, and tells when the first has come."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked, closed = threading.Event(), threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                asked.set()
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-")
                while not closed.wait(0.2):
                    connection.sendall(b"x")
            except OSError:
                return

    def accept() -> None:
        while not closed.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], asked
    finally:
        closed.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize(
    "source", ["oembed", *(pytest.param(name, marks=pytest.mark.slow) for name in ("data-api", "wayback", "yt-dlp"))]
)
def test_ctrl_c_ends_a_crawl_whose_server_drips(source: str, tmp_path: Path) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(20))
    with dripping_server() as (port, asked):
        words = ["crawl", "--annotations", annotations, "--out", tmp_path, "--sources", source]
        words += ["--endpoint", f"{source}=http://127.0.0.1:{port}", "--rate", f"{source}=100"]
        with subprocess.Popen(
            command(*words),
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "YOUTUBE_API_KEY": "any"},
        ) as process:
            assert asked.wait(30)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        # The requests under way had two seconds, and the host no blame.
        assert time.monotonic() - began < starting.PATIENCE_SECONDS
        assert process.returncode == 130 and said.endswith(LAST_WORDS) and "Traceback" not in said


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not tell who started whom")
@pytest.mark.parametrize("times", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ctrl_c_leaves_no_process_behind(times: int, tmp_path: Path) -> None:
    words = ["sandbox", "--no-serve", "--workers", "2", "--clips", tmp_path / "clips", "--clips-per-class", "200"]
    with subprocess.Popen(
        command(*words), cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while len(children := children_of(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        check_one_line(process)
    while any(is_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(children) >= 2 and not any(is_alive(child) for child in children)


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            continue
    return found


def is_alive(pid: int) -> bool:
    try:
        return re.search(r"\) [^Z]", Path(f"/proc/{pid}/stat").read_text()) is not None
    except OSError:
        return False
