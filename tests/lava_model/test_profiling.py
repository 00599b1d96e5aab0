"""The profiler records the steps that it was asked for, once, and nothing when it was not asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lava_model.config import PretrainConfig, RunConfig
from lava_model.distributed import Ranks
from lava_model.errors import OutputError
from lava_model.profiling import Profile

CPU = torch.device("cpu")
CONFIG = PretrainConfig(run=RunConfig(profile_steps=2))


def run(config: PretrainConfig, out: Path, num_steps: int, ranks: Ranks | None = None) -> None:
    with Profile(config, out, CPU, ranks) as profile:
        for step in range(num_steps):
            with torch.profiler.record_function(f"step_{step}"):
                torch.ones(4, 4) @ torch.ones(4, 4)
            profile.step()


def recorded(out: Path) -> list[str]:
    events = json.loads((out / "profile" / "trace.json").read_text("utf-8"))["traceEvents"]
    return sorted({event["name"] for event in events if event["name"].startswith("step_")})


def test_the_steps_after_the_warm_up_are_recorded(tmp_path):
    run(CONFIG, tmp_path, 8)
    assert recorded(tmp_path) == ["step_3", "step_4"]
    table = (tmp_path / "profile" / "operations.txt").read_text("utf-8")
    assert "aten::mm" in table
    assert "Self CPU" in table


def test_a_run_that_ends_in_the_recording_leaves_what_there_is(tmp_path):
    run(CONFIG, tmp_path, 4)
    assert recorded(tmp_path) == ["step_3"]


def test_a_run_that_ends_in_the_warm_up_leaves_nothing_to_read(tmp_path):
    run(CONFIG, tmp_path, 2)
    assert not list((tmp_path / "profile").iterdir())


def test_nothing_happens_when_it_is_off_or_another_rank_records(tmp_path):
    run(replace(CONFIG, run=RunConfig()), tmp_path, 5)
    run(CONFIG, tmp_path, 5, Ranks(rank=1, world_size=2))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "profile").touch()
    with pytest.raises(OutputError, match="profile cannot be written"):
        run(CONFIG, tmp_path, 1)
