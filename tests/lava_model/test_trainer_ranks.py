"""Processes that train together: killed and resumed, stopped by a signal to one of them, continued by one alone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lava_model.checkpoint import list_checkpoints, load_checkpoint
from lava_model.pretrain import main
from tests.lava_model.test_trainer import (
    SMALL_OPTIONS,
    STATEFUL_OPTIONS,
    assert_same_tensors,
    log_of,
    without_times,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@contextmanager
def some_ranks(options: list[str], out: Path, count: int = 2) -> Iterator[list[subprocess.Popen[str]]]:
    """Starts the processes as torchrun would; what still runs at the end is killed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(count), "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "lava_model.pretrain", *options, "--out", str(out)]
    ranks = [
        subprocess.Popen(
            command,
            env={**environment, "MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        yield ranks
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def wait_for(path: Path, ranks: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert all(rank.poll() is None for rank in ranks), "ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def finish(options: list[str], out: Path, count: int = 2) -> None:
    with some_ranks(options, out, count) as ranks:
        assert [rank.wait(timeout=200) for rank in ranks] == [0] * count


def test_two_ranks_killed_and_resumed_are_the_uninterrupted_run(tmp_path):
    """With dropout, which each rank draws for itself, and all else that has a state."""
    options = [*SMALL_OPTIONS, *STATEFUL_OPTIONS, "--max-steps", "20"]
    with some_ranks(options, tmp_path / "killed") as ranks:
        wait_for(tmp_path / "killed" / "checkpoints" / "step_00000010.pt", ranks)
        for rank in ranks:
            rank.kill()
    for name in ("killed", "whole"):
        finish(options, tmp_path / name)
    ends = [load_checkpoint(list_checkpoints(tmp_path / name / "checkpoints")[-1]) for name in ("killed", "whole")]
    assert ends[0].step == ends[1].step == 20
    assert ends[0].world_size == 2
    for field in ("model", "optimizer", "objective", "ema", "rng"):
        assert_same_tensors(getattr(ends[0], field), getattr(ends[1], field))
    logs = [without_times(log_of(tmp_path / name)) for name in ("killed", "whole")]
    assert logs[0] == logs[1]


def test_a_signal_to_one_rank_stops_both_and_one_process_can_go_on(tmp_path, capsys):
    """After that with twice the batch on one process: the same order of clips, and the same losses to rounding."""
    options = [*SMALL_OPTIONS, "--model.dropout", "0", "--max-steps", "12", "--run.log-every", "1"]
    out = tmp_path / "stopped"
    with some_ranks(options, out) as ranks:
        wait_for(out / "checkpoints" / "step_00000005.pt", ranks)
        ranks[1].send_signal(signal.SIGUSR1)
        ended = [rank.communicate(timeout=100)[1] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [130, 130], ended
    assert "checkpoint saved; run the same command to continue" in ended[0]
    finish(options, tmp_path / "whole")

    assert main([*options, "--out", str(out)]) == 1
    assert "was made by other processes (2 x 8 clips there, 1 x 8 clips here)" in capsys.readouterr().err
    assert main([*options, "--data.batch-size", "16", "--out", str(out)]) == 0
    losses = [
        [line["loss"] for line in log_of(folder) if line["kind"] == "train"] for folder in (out, tmp_path / "whole")
    ]
    assert len(losses[0]) == 12
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    held_out = [[line for line in log_of(folder) if line["kind"] == "val"][-1] for folder in (out, tmp_path / "whole")]
    assert held_out[0]["loss"] == pytest.approx(held_out[1]["loss"], rel=1e-4)
    assert held_out[0]["num_all_av"] == held_out[1]["num_all_av"]


def test_three_ranks_go_on_with_the_very_numbers_of_the_uninterrupted_run(tmp_path):
    """Sums over more than two depend on their order, and DDP finds its own anew after the first backward pass."""
    several_buckets = ["--model.width", "128", "--model.num-layers", "2", "--run.checkpoint-every", "1"]
    options = [*SMALL_OPTIONS, *several_buckets, "--run.eval-every", "0", "--run.keep-checkpoints", "9"]
    options += ["--max-steps", "6"]
    finish(options, tmp_path / "whole", 3)
    checkpoints = tmp_path / "resumed" / "checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(tmp_path / "whole" / "checkpoints" / "step_00000002.pt", checkpoints)
    finish(options, tmp_path / "resumed", 3)
    for step in (3, 6):
        name = f"checkpoints/step_{step:08d}.pt"
        ends = [load_checkpoint(tmp_path / folder / name) for folder in ("whole", "resumed")]
        for field in ("model", "optimizer"):
            assert_same_tensors(getattr(ends[0], field), getattr(ends[1], field))
