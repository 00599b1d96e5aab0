"""Checkpoints: whole or not there, nothing unpickled, refused for another run."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import subprocess
import sys
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lava_model.checkpoint import (
    TrainingState,
    capture_rng,
    check_same_run,
    list_checkpoints,
    load_checkpoint,
    restore_rng,
    save_checkpoint,
)
from lava_model.errors import CheckpointError
from lava_model.tracking import JsonlLog


def state(step: int = 3) -> TrainingState:
    return TrainingState(
        step=step,
        epoch=0,
        total_steps=20,
        config={"optim": {"lr": 0.1, "betas": [0.9, 0.99]}, "run": {"out": "a"}},
        fingerprint={"manifest": "sha256:1"},
        model={"weight": torch.arange(6.0).reshape(2, 3)},
        optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "fused": None}]},
        rng=capture_rng(),
        objective={"log_scale": torch.tensor(2.5)},
        ema={"weight": torch.full((2, 3), 0.5)},
        world_size=2,
    )


def test_a_checkpoint_comes_back(tmp_path):
    path = save_checkpoint(tmp_path / "c", state(), keep=2)
    again = load_checkpoint(path)
    for field in fields(TrainingState):
        if field.name not in ("model", "optimizer", "rng", "ema"):
            assert getattr(again, field.name) == getattr(state(), field.name)
    assert torch.equal(again.weights["weight"], state().ema["weight"])
    assert torch.equal(again.model["weight"], state().model["weight"])
    assert again.optimizer["param_groups"] == [{"lr": 0.1, "fused": None}]


def test_random_numbers_continue_after_a_checkpoint(tmp_path):
    path = save_checkpoint(tmp_path, state(), keep=1)

    def draw() -> list[float]:
        return [random.random(), float(np.random.normal()), float(torch.rand(1))]

    np.random.normal()  # leaves a cached second value behind
    path = save_checkpoint(tmp_path, state(), keep=1)
    expected = draw()
    draw()
    restore_rng(load_checkpoint(path).rng)
    assert draw() == expected


def test_the_newest_are_kept_and_sorted_by_step(tmp_path):
    for step in (5, 100_000_000, 20):
        save_checkpoint(tmp_path, state(step), keep=10)
    (tmp_path / ".step_00000030.pt.partial").write_bytes(b"killed while writing")
    (tmp_path / "step_x.pt").touch()
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step_00000005.pt",
        "step_00000020.pt",
        "step_100000000.pt",
    ]
    save_checkpoint(tmp_path, state(100_000_001), keep=2)
    assert [load_checkpoint(path).step for path in list_checkpoints(tmp_path)] == [100_000_000, 100_000_001]


@pytest.mark.parametrize("broken", ["save", "fsync"])
def test_a_write_that_fails_leaves_the_previous_one(tmp_path, monkeypatch, broken):
    save_checkpoint(tmp_path, state(1), keep=1)

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"save": (torch, "save"), "fsync": (os, "fsync")}[broken], fail)
    with pytest.raises(CheckpointError, match=r"cannot be written.*No space left.*earlier ones are intact"):
        save_checkpoint(tmp_path, state(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.pt"]
    assert load_checkpoint(tmp_path / "step_00000001.pt").step == 1


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil-was-here",)


def test_ctrl_c_in_the_middle_of_a_write_is_no_full_disk(tmp_path, monkeypatch):
    """torch's zip writer makes a RuntimeError about a position in the file of it."""
    save_checkpoint(tmp_path, state(1), keep=2)

    class Interrupted:
        def __init__(self, file):
            self.file = file

        def write(self, part):
            raise KeyboardInterrupt

    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: save(content, Interrupted(file)))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, state(2), keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.pt"]


def _zip_of(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_zip_of({"format": "lava-checkpoint", "model": Evil()}), "refused, it could run code"),
        (pickle.dumps(Evil()), "refused, it could run code"),
        (b"", "cannot be read as a checkpoint"),
        (_zip_of({"state_dict": {}}), "is not a checkpoint of lava_model"),
        (_zip_of({"format": "lava-checkpoint", "format_version": 99}), "has format version 99.* reads 1 to 2"),
        (_zip_of({"format": "lava-checkpoint", "format_version": 2, "step": 1}), "has format version 2"),
    ],
)
def test_foreign_files_are_one_line_and_run_nothing(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "step_00000001.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as failure:
        load_checkpoint(path)
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "evil-was-here").exists()


def test_content_of_another_kind_is_one_line(tmp_path):
    path = save_checkpoint(tmp_path, state(), keep=1)
    content = torch.load(path, weights_only=True)
    torch.save({**content, "step": "three"}, path)
    with pytest.raises(CheckpointError, match=r"holds a strange step: 'three'; move it away"):
        load_checkpoint(path)


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "checkpoints", state(), keep=1)


def test_a_truncated_file_and_a_missing_file_are_one_line(tmp_path):
    path = save_checkpoint(tmp_path, state(), keep=1)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")


def test_a_changed_byte_anywhere_is_noticed(tmp_path):
    """torch.load does not look at checksums."""
    path = save_checkpoint(tmp_path, state(), keep=1)
    content = bytearray(path.read_bytes())
    weight = state().model["weight"].numpy().tobytes()
    content[content.index(weight) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"wrong checksum of .*move it away to continue from the one before it"):
        load_checkpoint(path)


def test_what_is_longer_than_its_file_is_refused_before_it_is_made(tmp_path):
    """A tensor of 2**40 equal entries, zipped zeros and a pipe all fit into a few bytes."""
    path = save_checkpoint(tmp_path, state(), keep=1)
    content = torch.load(path, weights_only=True)
    for stretched in (torch.zeros(1).expand(2**40), torch.zeros(3).as_strided((2**20, 3), (0, 1))):
        torch.save({**content, "model": {"weight": [stretched]}}, path)
        with pytest.raises(CheckpointError, match="holds a tensor with more entries than are stored"):
            load_checkpoint(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(CheckpointError, match="its parts are compressed"):
        load_checkpoint(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_checkpoint(path)


def test_a_checkpoint_of_version_1_is_read(tmp_path):
    content = {field.name: getattr(state(), field.name) for field in fields(TrainingState)}
    for name in ("objective", "ema", "world_size"):
        del content[name]
    path = tmp_path / "step_00000003.pt"
    torch.save({"format": "lava-checkpoint", "format_version": 1, **content}, path)
    again = load_checkpoint(path)
    assert (again.step, again.objective, again.ema, again.world_size) == (3, {}, {}, None)
    assert torch.equal(again.weights["weight"], state().model["weight"])


def test_what_a_kill_left_of_a_write_is_removed_by_the_next(tmp_path):
    (tmp_path / ".step_00000002.pt.partial").write_bytes(b"killed while writing")
    save_checkpoint(tmp_path, state(), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000003.pt"]


_WRITER = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
import torch
from lava_model.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from tests.lava_model.test_checkpoint import state
torch.set_num_threads(1)
folder, told = Path(sys.argv[1]), Path(sys.argv[2])

def content(step):
    return replace(state(step), model={"weight": torch.full((300_000,), float(step))})

def write(step):
    while True:
        step += 1
        save_checkpoint(folder, content(step), keep=2)
        told.write_text(str(step))

random.seed(0)
torn = 0
started = time.monotonic()
for step in range(1, 6):
    save_checkpoint(folder, content(step), keep=2)
seconds = (time.monotonic() - started) / 5
told.write_text("5")
for number in range(80):
    child = os.fork()
    if not child:
        write(load_checkpoint(list_checkpoints(folder)[-1]).step)
    time.sleep(random.uniform(0, 4 * seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    torn += any(folder.glob(".*.partial"))
    newest = load_checkpoint(list_checkpoints(folder)[-1])
    assert newest.step >= int(told.read_text() or 0), "a checkpoint that was finished is gone"
    assert (newest.model["weight"] == newest.step).all(), "a checkpoint holds another's weights"
print(torn, newest.step)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_of_a_write_leaves_a_whole_newest_checkpoint(tmp_path):
    """kill -9 at 80 random moments of a process that does nothing but write checkpoints."""
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "checkpoints"), str(tmp_path / "told")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert ended.returncode == 0, ended.stderr
    torn, steps = map(int, ended.stdout.split())
    assert torn > 10 and steps > 10, "the kills did not fall into writes"


def test_another_run_is_refused_by_name(tmp_path):
    path = tmp_path / "x.pt"
    same = {"optim": {"lr": 0.1, "betas": (0.9, 0.99)}, "run": {"out": "b"}}
    free = frozenset({"run.out"})
    check_same_run(state(), same, {"manifest": "sha256:1"}, free=free, path=path, world_size=2)
    other = {"optim": {"lr": 0.2, "betas": (0.9, 0.99), "eps": 1}, "run": {"out": "b"}}
    with pytest.raises(CheckpointError, match=r"optim.eps \(None there, 1 here\), optim.lr \(0.1 there, 0.2 here\)"):
        check_same_run(state(), other, {"manifest": "sha256:1"}, free=free, path=path, world_size=2)
    with pytest.raises(CheckpointError, match="made with other data: manifest changed"):
        check_same_run(state(), same, {"manifest": "sha256:2"}, free=free, path=path, world_size=2)


def settings(batch_size, negatives="global"):
    return {"data": {"batch_size": batch_size}, "loss": {"negatives": negatives}}


@pytest.mark.parametrize(
    ("there", "here", "fits"),
    [
        ((2, settings(16)), (1, settings(32)), True),
        ((1, settings(32)), (4, settings(8)), True),
        ((1, settings(32, "local")), (2, settings(16)), True),  # one process has no others to leave out
        ((2, settings(16)), (1, settings(32, "local")), True),
        ((1, settings(32, "local")), (1, settings(32)), True),
        ((2, settings(16)), (1, settings(16)), False),
        ((2, settings(16, "local")), (1, settings(32)), False),
        ((1, settings(32)), (2, settings(16, "local")), False),
    ],
)
def test_another_number_of_processes_must_be_the_same_run(tmp_path, there, here, fits):
    found = replace(state(), world_size=there[0], config=there[1], fingerprint={})

    def check():
        check_same_run(found, here[1], {}, free=frozenset(), path=tmp_path / "x.pt", world_size=here[0])

    if fits:
        check()
        return
    with pytest.raises(CheckpointError, match=r"by other processes \(\d x \d+ clips there, \d x \d+ clips here\)"):
        check()


def test_other_negatives_are_another_run_for_several_processes(tmp_path):
    for world_size in (2, None):
        found = replace(state(), world_size=world_size, config=settings(16, "local"), fingerprint={})
        with pytest.raises(CheckpointError, match=r"loss.negatives \('local' there, 'global' here\)"):
            check_same_run(found, settings(16), {}, free=frozenset(), path=tmp_path / "x.pt", world_size=2)


def test_a_resumed_log_has_no_step_twice_and_no_torn_line(tmp_path):
    path = tmp_path / "log.jsonl"
    log = JsonlLog(path, resume_step=None)
    for step in (1, 2, 3):
        log.log("train", step, {"loss": 1.0 / step})
    log.close()
    path.write_text(path.read_text() + '{"kind": "train", "st')
    resumed = JsonlLog(path, resume_step=2)
    assert resumed.last == {"train": {"loss": 0.5}}
    resumed.log("train", 3, {"loss": 0.25})
    resumed.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    path.write_text(path.read_text() + '{"kind": 3, "step": "x"}\n')  # nobody's
    JsonlLog(path, resume_step=2).close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    JsonlLog(path, resume_step=None).close()
    assert path.read_text() == ""
