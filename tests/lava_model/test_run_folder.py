"""What a run folder says about how the run was started."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from lava_model.config import PretrainConfig
from lava_model.data import TrainingData
from lava_model.distributed import Ranks
from lava_model.errors import OutputError
from lava_model.presets import tiny
from lava_model.run_folder import code_revision, record_start
from lava_model.settings import from_dict
from lava_model.synthetic import SyntheticAVT

CPU = torch.device("cpu")


def started(out: Path, resumed_from: int | None, ranks: Ranks) -> None:
    data = TrainingData(train=SyntheticAVT(tiny().model, 8), val=None, fingerprint={"synthetic": "8"})
    record_start(
        tiny(), data, out, command=["train", "--x"], resumed_from=resumed_from, total_steps=9, device=CPU, ranks=ranks
    )


def test_each_start_adds_a_line_that_says_everything(tmp_path):
    started(tmp_path / "run", None, Ranks())
    started(tmp_path / "run", 7, Ranks(world_size=2))
    config = json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))
    assert from_dict(PretrainConfig, config) == tiny()
    first, second = map(json.loads, (tmp_path / "run" / "starts.jsonl").read_text("utf-8").splitlines())
    assert (first["resumed_from"], second["resumed_from"]) == (None, 7)
    assert (first["world_size"], second["world_size"]) == (1, 2)
    assert first["command"] == ["train", "--x"]
    assert first["data"] == {"synthetic": "8"}
    assert first["versions"]["torch"] == torch.__version__
    assert first["num_cores"] >= 1
    assert first["device"]
    assert {"time", "git_commit", "git_dirty", "coverage"} <= first.keys()


def test_a_line_that_a_kill_cut_off_costs_itself_alone(tmp_path):
    started(tmp_path / "run", None, Ranks())
    with (tmp_path / "run" / "starts.jsonl").open("a") as file:
        file.write('{"time": "20')
    started(tmp_path / "run", 7, Ranks())
    first, torn, last = (tmp_path / "run" / "starts.jsonl").read_text("utf-8").splitlines()
    assert torn == '{"time": "20'
    assert (json.loads(first)["resumed_from"], json.loads(last)["resumed_from"]) == (None, 7)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(OutputError, match="run cannot be written"):
        started(tmp_path / "run", None, Ranks())


def git(folder: Path, *words: str) -> str:
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *author, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_commit_is_that_of_the_code_and_says_whether_it_was_changed(tmp_path):
    root = tmp_path / "checkout"
    for name in ("k700_text", "lava_model"):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").touch()
    none = {"git_commit": None, "git_dirty": None}
    assert code_revision(root) == none
    git(root, "init", "--quiet")
    assert code_revision(root) == none  # no commit holds the code, as in a virtual environment inside a repository
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "code")
    commit = git(root, "rev-parse", "HEAD").strip()
    (root / "runs").mkdir()
    (root / "runs" / "log").touch()  # what runs leave behind is no change of the code
    assert code_revision(root) == {"git_commit": commit, "git_dirty": False}
    (root / "lava_model" / "__init__.py").write_text("changed = True\n")
    assert code_revision(root) == {"git_commit": commit, "git_dirty": True}
    git(root, "checkout", "--quiet", ".")
    (root / "k700_text" / "new.py").touch()
    assert code_revision(root) == {"git_commit": commit, "git_dirty": True}


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_revision() == {"git_commit": None, "git_dirty": None}
