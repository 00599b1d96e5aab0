"""Signals are noted; only a second Ctrl-C interrupts, and that one at once, whatever the program is at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lava_model.interrupts import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_noted_and_a_second_ctrl_c_interrupts(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        assert stop.signal_name is None
        signal.raise_signal(number)
        assert stop.signal_name == number.name
        # A scheduler may send more than one before it kills; the checkpoint that is being written must not be lost.
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) is before
    told = capfd.readouterr().err
    assert told.startswith("stopping: this step is finished and saved") and told.count("\n") == 1


# Takes a lock that it holds, in the place of a function: no signal interrupts that. It has written half a file before,
# where a file is being written.
BLOCKED_PROGRAM = """
import ctypes, importlib, os, sys
import k700_text.starting as starting
program, place, starting._patience_seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
sys.argv = sys.argv[:1] + sys.argv[4:]
module, names = place.split(":")
owner, *inner, name = [importlib.import_module(module), *names.split(".")]
for each in inner:
    owner = getattr(owner, each)
def block(*arguments, **options):
    lock, system = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    sys.stderr.write("blocked\\n")
    sys.stderr.flush()
    while True:
        system.pthread_mutex_lock(lock)
setattr(owner, name, block)
sys.exit(importlib.import_module(f"lava_model.{program}").main())
"""
SMALL = [
    *("--preset", "tiny", "--synthetic", "--device", "cpu", "--data.synthetic-samples", "40", "--batch-size", "8"),
    *("--model.width", "16", "--model.num-heads", "2", "--model.num-layers", "1", "--model.embedding-dim", "8"),
    *("--model.num-frames", "1", "--model.frame-size", "16", "--model.short-side", "16", "--model.trunk-stage", "1"),
    *("--model.vocab-size", "100", "--model.max-text-length", "12", "--run.eval-batches", "1", "--max-steps", "3"),
]
SAVES, AGAIN = "the last checkpoint is whole; run the same command to continue", "run the same command again"


@contextmanager
def blocked(folder: Path, program: str, place: str, patience: float) -> Iterator[subprocess.Popen[str]]:
    """A program that is at a call from which nothing brings it back."""
    words = {
        "pretrain": [*SMALL, "--out", str(folder / "run")],
        "ablate": ["losses", *SMALL, "--out", str(folder / "study")],
        "evaluate": ["linear-probe", "--checkpoint", str(folder), "--data", str(folder)],
        "export": [str(folder), "--out", str(folder / "export")],
    }[program]
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED_PROGRAM, program, place, str(patience), *words],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with process:
        try:
            assert process.stderr is not None
            said = ""
            while not said.endswith("blocked\n"):
                line = process.stderr.readline()
                assert line, said
                said += line
            time.sleep(0.5)  # from that word to the lock
            yield process
        finally:
            process.kill()


def check_end(process: subprocess.Popen[str], last_words: str) -> None:
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, f"interrupted: {last_words}\n")


STOPPING = "stopping: this step is finished and saved (Ctrl-C again ends at once, with what was saved before)\n"


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("lava_model.step:TrainStep.__call__", marks=pytest.mark.slow),
        pytest.param("lava_model.heldout:measure", marks=pytest.mark.slow),
        "torch:save",
    ],
)
@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_training_at_once_with_no_half_checkpoint(place: str, tmp_path: Path) -> None:
    # Patience is none: a first signal must not end what is being saved.
    with blocked(tmp_path, "pretrain", place, patience=0.1) as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    # The first line comes where Python still runs.
    assert process.returncode == 130 and said.removeprefix(STOPPING) == f"interrupted: {SAVES}\n"
    assert not list((tmp_path / "run").rglob("*.pt"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "place", "last_words"),
    [
        ("evaluate", "lava_model.evaluation.folder_probe:probe_folder", AGAIN),
        ("export", "lava_model.export:open_source", AGAIN),
        ("ablate", "lava_model.study.runs:open_study_data", "run the same command to continue"),
        ("pretrain", "lava_model.data:open_data", SAVES),
    ],
)
def test_the_first_ctrl_c_ends_what_does_not_listen_and_the_second_does_at_once(
    program: str, place: str, last_words: str, tmp_path: Path
) -> None:
    with blocked(tmp_path, program, place, patience=0.5) as process:
        process.send_signal(signal.SIGINT)
        check_end(process, last_words)
    with blocked(tmp_path, program, place, patience=60) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        check_end(process, last_words)
        assert time.monotonic() - began < 5
