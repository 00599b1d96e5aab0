"""The command as a whole: what it prints and what it leaves."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from lava_model.errors import OutputError
from lava_model.pretrain import main
from lava_model.run_folder import held
from tests.lava_model import kills

SMALL = [
    *("--preset", "tiny", "--synthetic", "--device", "cpu", "--data.synthetic-samples", "40", "--batch-size", "8"),
    *("--model.width", "16", "--model.num-heads", "2", "--model.num-layers", "1", "--model.embedding-dim", "8"),
    *("--model.num-frames", "1", "--model.frame-size", "16", "--model.short-side", "16", "--model.trunk-stage", "1"),
    *("--model.vocab-size", "100", "--model.max-text-length", "12", "--run.eval-batches", "1"),
]


def test_numbers_and_answer_of_a_run(tmp_path, capsys):
    out = tmp_path / "run"
    words = [*SMALL, "--objective", "av+vt", "--micro-batch", "4", "--max-steps", "4", "--run.log-every", "2"]
    words += ["--tensorboard", "--run.peak-tflops", "1", "--out", str(out), "--json"]
    assert main(words) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert (answer["world_size"], answer["temperature"]) == (1, 0.07)
    assert answer["mfu_percent"] == answer["train"]["mfu_percent"] > 0
    assert {"cos_positive_av", "cos_negative_vt", "uniformity_at", "recall_at_1_av"} <= answer["val"].keys()
    assert len([line for line in printed.err.splitlines() if " MFU " in line]) == 2
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [("val", 0), ("train", 2), ("train", 4), ("val", 4)]
    assert list((out / "tensorboard").iterdir())
    # The folder's own settings start the same run: it is finished.
    assert main(["--config", str(out), "--json"]) == 0
    again = capsys.readouterr()
    assert "is finished at step 4" in again.err
    assert json.loads(again.out)["val"] == answer["val"]


def _refused(out: Path, answers: multiprocessing.Queue[str]) -> None:
    try:
        with held(out):
            answers.put("held")
    except OutputError as error:
        answers.put(str(error))


@pytest.mark.usefixtures("one_thread")
def test_a_run_folder_is_one_process_at_a_time(tmp_path):
    """Two runs that mix their checkpoints leave a model that is neither of them."""
    context = multiprocessing.get_context("fork")  # a copy has all that is to be imported
    answers = context.Queue()

    def asked_by_another() -> str:
        process = context.Process(target=_refused, args=(tmp_path / "run", answers))
        process.start()
        process.join()
        return answers.get(timeout=5)

    with held(tmp_path / "run"):
        assert "another process is training into" in asked_by_another()
    assert asked_by_another() == "held"


@pytest.mark.usefixtures("one_thread")
def test_a_second_training_into_a_folder_is_one_line_and_touches_nothing(tmp_path):
    with held(tmp_path):
        code, text = kills.started([*SMALL, "--max-steps", "1", "--out", str(tmp_path)]).ended()
    assert (code, text.count("\n")) == (1, 1)
    assert f"another process is training into {tmp_path} (process {os.getpid()} on " in text
    assert text.endswith("): wait for it, or use another --out\n")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["config.json", "log.jsonl"])
def test_what_is_no_run_is_not_written_over(tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    assert main([*SMALL, "--max-steps", "1", "--out", str(tmp_path)]) == 1
    assert f"is no run folder, its {name} would be written over" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_finished_model_without_its_checkpoints_is_not_written_over(tmp_path, capsys):
    words = [*SMALL, "--max-steps", "1", "--out", str(tmp_path)]
    assert main(words) == 0
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    weights = (tmp_path / "export" / "model.safetensors").read_bytes()
    assert main([*words, "--seed", "1"]) == 1
    assert "holds a finished model (export) and no checkpoint" in capsys.readouterr().err
    assert (tmp_path / "export" / "model.safetensors").read_bytes() == weights


def test_a_place_for_the_model_that_is_taken_is_told_before_training(tmp_path, capsys):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "README.md").write_text("mine")
    assert main([*SMALL, "--max-steps", "1", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "holds something else than an exported model (its README.md)" in error and "training" not in error


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(tmp_path):
    words = [*SMALL, "--max-steps", "1", "--out", str(tmp_path)]
    assert main(words) == 0
    for path in (*(tmp_path / "checkpoints").iterdir(), *(tmp_path / "export").iterdir()):
        path.unlink()
    assert main(words) == 0
    assert [line["kind"] for line in map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())] == [
        *("val", "train", "val")
    ]


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "2", "RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "abc"},
        {"WORLD_SIZE": "2", "RANK": "5", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
        {"WORLD_SIZE": "0", "RANK": "0"},
        {"WORLD_SIZE": "-1", "RANK": "0"},
    ],
)
def test_half_of_torchruns_environment_is_one_line(tmp_path, capsys, monkeypatch, variables):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main([*SMALL, "--max-steps", "1", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "the rest of torchrun's environment is not as expected" in error and error.count("\n") == 1
