"""Training on made-up samples: it learns, stops, continues bit for bit, and says what went wrong."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from k700_text.data.sample import Sample
from k700_text.data.text import train_tokenizer
from lava_model import Lava, heldout
from lava_model.checkpoint import list_checkpoints, load_checkpoint
from lava_model.config import EARLIER_SETTINGS, PretrainConfig
from lava_model.data import TrainingData, digest, open_data, total_steps
from lava_model.describe import train_flops
from lava_model.distributed import Ranks
from lava_model.errors import CheckpointError, DataError, NonFiniteLossError
from lava_model.heldout import evaluate_heldout, heldout_batches
from lava_model.loading import batches_of
from lava_model.optim import lr_at
from lava_model.presets import tiny
from lava_model.pretrain import main
from lava_model.pretrained import read_facts
from lava_model.settings import override
from lava_model.synthetic import SyntheticAVT
from lava_model.trainer import Trainer

SMALL_OPTIONS = [
    *("--preset", "tiny", "--synthetic", "--device", "cpu", "--data.synthetic-samples", "64", "--data.batch-size", "8"),
    *("--model.width", "32", "--model.num-heads", "2", "--model.num-layers", "1", "--model.dropout", "0.1"),
    *("--model.num-frames", "1", "--model.frame-size", "32", "--model.short-side", "32", "--model.trunk-stage", "1"),
    *("--model.num-mels", "20", "--model.num-mel-frames", "64"),
    *("--model.vocab-size", "100", "--model.max-text-length", "12"),
    *("--run.eval-batches", "2", "--run.eval-every", "5", "--run.checkpoint-every", "5"),
]


STATEFUL_OPTIONS = [
    *("--optim.ema-decay", "0.8", "--loss.learn-temperature", "--data.accumulate", "2", "--data.micro-batch", "5"),
    *(
        "--loss.centroid",
        "kmeans",
        "--loss.num-clusters",
        "4",
        "--loss.cluster-queue",
        "16",
        "--loss.cluster-every",
        "3",
    ),
]


pytestmark = pytest.mark.usefixtures("one_thread")


def small_config(out: Path, **run: object) -> PretrainConfig:
    base = tiny()
    return replace(
        base,
        model=replace(
            base.model,
            width=64,
            num_heads=2,
            num_layers=1,
            num_frames=1,
            trunk_stage=1,
            frame_size=32,
            short_side=32,
            num_mels=20,
            num_mel_frames=64,
            vocab_size=100,
            max_text_length=12,
        ),
        data=replace(base.data, batch_size=16, num_workers=0),
        run=replace(base.run, out=str(out), epochs=1000, **{"log_every": 1, **run}),
    )


def small_data(config: PretrainConfig, num_samples: int = 512) -> TrainingData:
    return TrainingData(
        train=SyntheticAVT(config.model, num_samples),
        val=SyntheticAVT(config.model, 64, first_index=num_samples),
        fingerprint={"synthetic": str(num_samples)},
    )


def trainer(config: PretrainConfig, data: TrainingData | None = None) -> Trainer:
    return Trainer(config, data or small_data(config), device=torch.device("cpu"))


def log_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def without_times(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    timed = {"samples_per_second", "data_wait_percent"}
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def assert_same_tensors(left: object, right: object) -> None:
    if isinstance(left, torch.Tensor):
        assert isinstance(right, torch.Tensor)
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert isinstance(right, dict)
        assert left.keys() == right.keys()
        for name, value in left.items():
            assert_same_tensors(value, right[name])
    elif isinstance(left, list | tuple):
        assert isinstance(right, list | tuple)
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same_tensors(one, other)
    else:
        assert left == right


def test_training_lowers_the_held_out_loss(tmp_path):
    config = small_config(tmp_path, max_steps=80, eval_every=0, log_every=20)
    result = trainer(config).run()
    evaluations = [line for line in log_of(tmp_path) if line["kind"] == "val"]
    assert [line["step"] for line in evaluations] == [0, 80]
    assert evaluations[0]["loss"] == pytest.approx(evaluations[0]["chance"], rel=0.35)
    assert evaluations[-1]["loss"] < 0.8 * evaluations[-1]["chance"]
    assert evaluations[-1]["recall_at_1_av"] > 4 / 16
    assert evaluations[0]["ln_batch_size"] == pytest.approx(math.log(16))
    assert result.finished
    assert result.last_val["loss"] == evaluations[-1]["loss"]
    trained = [line for line in log_of(tmp_path) if line["kind"] == "train"]
    assert {
        "loss_av",
        "loss_vt",
        "loss_avt",
        "num_av",
        "num_vt",
        "num_avt",
        "recall_at_1_vt",
        "grad_norm",
        "lr",
    } <= set(trained[0])
    assert {"samples_per_second", "data_wait_percent", "epoch"} <= set(trained[0])
    assert trained[-1]["epoch"] == 79 // 32


def test_killed_and_resumed_is_bit_for_bit_the_uninterrupted_run(tmp_path):
    """20 steps against: kill -9 somewhere after step 10, then the same command again, with other loader processes.

    With all that has a state of its own: dropout, moving average, clusters, learned temperature, several batches.
    """
    arguments = [*SMALL_OPTIONS, *STATEFUL_OPTIONS, "--max-steps", "20", "--out"]
    command = [sys.executable, "-m", "lava_model.pretrain", *arguments, str(tmp_path / "killed"), "--num-workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 90
        while not (tmp_path / "killed" / "checkpoints" / "step_00000010.pt").exists():
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "export").exists()
    for name in ("killed", "whole"):
        assert main([*arguments, str(tmp_path / name)]) == 0

    starts = [json.loads(line) for line in (tmp_path / "killed" / "starts.jsonl").read_text().splitlines()]
    assert starts[0]["resumed_from"] is None
    assert starts[1]["resumed_from"] in (10, 15)
    ends = {name: list_checkpoints(tmp_path / name / "checkpoints")[-1] for name in ("killed", "whole")}
    killed, whole = load_checkpoint(ends["killed"]), load_checkpoint(ends["whole"])
    assert killed.step == whole.step == 20
    for name in ("model", "optimizer", "rng", "objective", "ema"):
        assert_same_tensors(getattr(killed, name), getattr(whole, name))
    assert without_times(log_of(tmp_path / "killed")) == without_times(log_of(tmp_path / "whole"))
    assert killed.ema and killed.objective["bank.clusters"].any()
    weights = [(tmp_path / name / "export" / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]
    exported = Lava.from_pretrained(tmp_path / "killed" / "export").state_dict()
    assert all(torch.equal(exported[name], average) for name, average in killed.ema.items())


def stop_after(run: Trainer, step: int) -> None:
    """Lets a signal come during a step, counted from 1."""
    make_step = run._train_step

    def step_with_signal(batches, *, measuring):
        if run.step + 1 == step:
            signal.raise_signal(signal.SIGUSR1)
        return make_step(batches, measuring=measuring)

    run._train_step = step_with_signal  # type: ignore[method-assign]  # the same step


def test_resumed_twice_in_one_epoch_with_other_loader_processes_is_the_uninterrupted_run(tmp_path):
    """6 steps of 2 batches, where 8 batches are an epoch: in one go, and stopped after 2 and after 3 steps."""
    ended = {}
    for name, stops in (("whole", ()), ("stopped", (2, 3))):
        config = small_config(tmp_path / name, max_steps=6, eval_every=2, eval_batches=1)
        config = replace(
            config,
            model=replace(config.model, dropout=0.2),
            data=replace(config.data, batch_size=8, accumulate=2),
            optim=replace(config.optim, ema_decay=0.9),
            loss=replace(config.loss, learn_temperature=True),
        )
        for number, stop in enumerate((*stops, None)):
            torch.manual_seed(number)  # whatever this process drew before
            config = replace(config, data=replace(config.data, num_workers=number % 2))
            run = trainer(config, small_data(config, 64))
            if stop is not None:
                stop_after(run, stop)
            ended[name] = run.run()
        assert ended[name].finished
    assert ended["stopped"].resumed_from == 3
    ends = [load_checkpoint(list_checkpoints(tmp_path / name / "checkpoints")[-1]) for name in ended]
    for field in ("model", "optimizer", "objective", "ema", "rng", "epoch"):
        assert_same_tensors(getattr(ends[0], field), getattr(ends[1], field))
    logs = [without_times(log_of(tmp_path / name)) for name in ended]
    assert logs[0] == logs[1]
    assert [line["epoch"] for line in logs[0] if line["kind"] == "train"] == [0, 0, 0, 0, 1, 1]
    assert len({line["temperature"] for line in logs[0] if line["kind"] == "train"}) == 5, "the last step has lr 0"


def test_a_damaged_newest_checkpoint_is_one_line_that_says_what_helps(tmp_path):
    config = small_config(tmp_path, max_steps=2, checkpoint_every=1)
    trainer(config, replace(small_data(config), val=None)).run()
    older, newest = list_checkpoints(tmp_path / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"step_00000002\.pt .*move it away to continue from the one before it"):
        trainer(config)
    newest.rename(tmp_path / "damaged.pt")
    assert trainer(config).resumed_from == 1
    assert older.exists()


def test_a_run_of_version_1_goes_on(tmp_path):
    """As the last release wrote it: without the new settings, fields and their meanings."""
    config = small_config(tmp_path, max_steps=2, checkpoint_every=1)
    trainer(config, replace(small_data(config), val=None)).run()
    older, newest = list_checkpoints(tmp_path / "checkpoints")
    content = torch.load(older, weights_only=True)
    content["format_version"] = 1
    for name in ("objective", "ema", "world_size"):
        del content[name]
    for name in EARLIER_SETTINGS:
        group, setting = name.split(".")
        if name != "model.pixel_format":
            del content["config"][group][setting]
    torch.save(content, older)
    newest.unlink()
    again = trainer(config, replace(small_data(config), val=None))
    assert again.resumed_from == 1
    assert again.run().finished
    content["total_steps"] = 4
    torch.save(content, older)
    list_checkpoints(tmp_path / "checkpoints")[-1].unlink()
    with pytest.raises(CheckpointError, match="is of a run of 4 steps, this one has 2: start as many processes"):
        trainer(config)


def test_what_is_evaluated_is_the_moving_average(tmp_path):
    config = small_config(tmp_path, max_steps=3, eval_every=0, eval_batches=1)
    config = replace(config, optim=replace(config.optim, ema_decay=0.5))
    run = trainer(config)
    result = run.run()
    numbers = [
        evaluate_heldout(model, run.objective, run.data.val, config, run.device, run._make_step.autocast)
        for model in (run.evaluated, run.model)
    ]
    assert result.last_val == numbers[0]
    assert numbers[0]["loss"] != numbers[1]["loss"]


def test_held_out_numbers_are_those_of_eval_mode_in_the_precision_of_the_run(tmp_path):
    config = small_config(tmp_path, max_steps=2, eval_every=1, eval_batches=1)
    config = replace(config, model=replace(config.model, dropout=0.5), run=replace(config.run, precision="bf16"))
    run = trainer(config)
    was_training = []
    run.model.audio_encoder.register_forward_hook(lambda *_: was_training.append(run.model.training))
    run.run()
    assert was_training == [False, True, False, True, False]
    numbers = {
        enabled: evaluate_heldout(
            run.model, run.objective, run.data.val, config, run.device, torch.autocast("cpu", torch.bfloat16, enabled)
        )
        for enabled in (True, False)
    }
    assert log_of(tmp_path)[-1]["loss"] == numbers[True]["loss"] != numbers[False]["loss"]
    assert run.model.training


def test_held_out_clips_are_looked_at_when_asked(tmp_path):
    trainer(small_config(tmp_path, max_steps=5, eval_every=2, eval_batches=1)).run()
    assert [line["step"] for line in log_of(tmp_path) if line["kind"] == "val"] == [0, 2, 4, 5]


def test_clusters_and_averages_count_the_steps_that_are_done(tmp_path):
    """The clusters come with step 3 of 3, and the average is that of the weights after each step."""
    config = small_config(tmp_path, max_steps=4, eval_every=0)
    loss = replace(config.loss, centroid="kmeans", num_clusters=2, cluster_queue=8, cluster_every=3)
    config = replace(config, loss=loss, optim=replace(config.optim, ema_decay=0.9))
    run = trainer(config, replace(small_data(config), val=None))
    make_step = run._train_step
    seen, average = [], run.model.heads["av_video"].weight.detach().clone()

    def watched(batches, *, measuring):
        nonlocal average
        result = make_step(batches, measuring=measuring)
        decay = min(0.9, (1 + run.step) / (10 + run.step))
        average = decay * average + (1 - decay) * run.model.heads["av_video"].weight.detach()
        seen.append(bool(run.objective.bank.clusters.any()))
        return result

    run._train_step = watched  # type: ignore[method-assign]  # the same step
    run.run()
    assert seen == [False, False, True, True]
    torch.testing.assert_close(run.evaluated.heads["av_video"].weight, average)


class Time:
    """A clock that only batches and steps move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_of_what_was_logged_last_and_count_every_sample(tmp_path, monkeypatch):
    """Four steps of 2 x 8 samples on 3 processes; the first two take 4 s, half of it waiting, the others 2 s."""
    config = small_config(tmp_path, max_steps=4, eval_every=0, log_every=2, peak_tflops=1e-3)
    config = replace(config, data=replace(config.data, batch_size=8, accumulate=2))
    time_now = Time()
    monkeypatch.setattr("time.perf_counter", time_now)
    run = trainer(config, replace(small_data(config), val=None))
    run.ranks = Ranks(world_size=3)
    monkeypatch.setattr("lava_model.trainer.any_rank", lambda claim, ranks, device: claim)
    monkeypatch.setattr("lava_model.trainer.wait_for_all", lambda ranks: None)
    monkeypatch.setattr("lava_model.trainer.StepSampler", lambda *args, **options: [[(0, i) for i in range(8)]] * 8)
    make_batches, make_step = run._batches, run._train_step

    def slow_batches():
        for batch in make_batches():
            time_now.now += 1.0 if run.step < 2 else 0.0
            yield batch

    def slow_step(batches, *, measuring):
        time_now.now += 2.0
        return make_step(batches, measuring=measuring)

    run._batches, run._train_step = slow_batches, slow_step  # type: ignore[method-assign]  # the same, later
    result = run.run()
    first, second = (line for line in log_of(tmp_path) if line["kind"] == "train")
    samples = 2 * 8 * 3
    assert (first["samples_per_second"], first["data_wait_percent"]) == (samples / 4, 50)
    assert (second["samples_per_second"], second["data_wait_percent"]) == (samples / 2, 0)
    assert result.samples_per_second == samples * 4 / 12
    flops = samples / 2 * train_flops(config.model)
    assert second["mfu_percent"] == pytest.approx(100 * flops / (3 * 1e-3 * 1e12))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_sigterm_checkpoints_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch, num_workers):
    config = small_config(tmp_path, max_steps=6, eval_every=0)
    first = trainer(replace(config, data=replace(config.data, num_workers=num_workers)))
    make_step = first._train_step

    def step_then_signal(batches, measuring):
        if first.step == 2:
            # As schedulers do it: the whole group is signalled.
            for process in [multiprocessing.current_process(), *multiprocessing.active_children()]:
                os.kill(process.pid, signal.SIGTERM)
        return make_step(batches, measuring=measuring)

    monkeypatch.setattr(first, "_train_step", step_then_signal)
    result = first.run()
    assert (result.step, result.stopped_by, result.finished) == (3, "SIGTERM", False)
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    second = trainer(config)
    assert second.resumed_from == 3
    assert second.run().finished
    assert [line["step"] for line in log_of(tmp_path) if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]


def test_a_run_from_the_command_line_leaves_a_whole_folder_and_says_when_it_is_finished(tmp_path, capsys):
    arguments = [*SMALL_OPTIONS, "--max-steps", "2", "--out", str(tmp_path / "run"), "--json"]
    assert main(arguments) == 0
    first = capsys.readouterr()
    answer = json.loads(first.out)
    assert (answer["step"], answer["finished"], answer["resumed_from"]) == (2, True, None)
    assert "held-out loss" in first.err
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.json", "starts.jsonl", "log.jsonl", "checkpoints", "export", ".lock"}
    start = json.loads((tmp_path / "run" / "starts.jsonl").read_text())
    assert start["command"][-1] == "--json"
    assert start["versions"]["torch"] == torch.__version__
    assert start["data"] == {"synthetic": "64 samples, seed 0"}
    assert Lava.from_pretrained(answer["export"]).config.width == 32

    assert main(arguments) == 0
    again = capsys.readouterr()
    assert "is finished at step 2" in again.err
    assert json.loads(again.out)["val"] == answer["val"]
    assert len((tmp_path / "run" / "starts.jsonl").read_text().splitlines()) == 1

    assert main([*arguments, "--optim.lr", "0.5"]) == 1
    assert "made with other settings: optim.lr (0.001 there, 0.5 here)" in capsys.readouterr().err


def answer_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that does its work says on stderr."""
    assert main(words) == 0, capsys.readouterr().err
    return capsys.readouterr().err


def rates(out: Path) -> dict[int, float]:
    return {int(line["step"]): line["lr"] for line in log_of(out) if line["kind"] == "train"}


def test_a_finished_run_is_extended_and_its_schedule_stretched_over_all_steps(tmp_path, capsys):
    config = tiny().optim
    words = [*SMALL_OPTIONS, "--run.log-every", "1", "--out", str(tmp_path / "run"), "--max-steps"]
    answer_of([*words, "6"], capsys)
    told = answer_of([*words, "12"], capsys)
    assert (
        "its length changes from 6 to 12 steps: the learning-rate schedule is stretched over all 12, so the learning"
        f" rate goes from 0 to {lr_at(6, 12, config):.3g} at the next step; the result is not that of 12 steps in one"
        " go"
    ) in told
    expected = {step + 1: lr_at(step, 6 if step < 6 else 12, config) for step in range(12)}
    assert rates(tmp_path / "run") == expected
    assert expected[6] == 0 < expected[12] + expected[7]
    starts = [json.loads(line) for line in (tmp_path / "run" / "starts.jsonl").read_text().splitlines()]
    assert [(start["total_steps"], start["length_before"]) for start in starts] == [(6, None), (12, 6)]
    assert load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1]).total_steps == 12
    exported = tmp_path / "run" / "export"
    assert (
        "| length of the schedule | changed on the way: from 6 to 12 at step 6 |"
        in (exported / "README.md").read_text()
    )
    assert read_facts(exported).steps == 12
    assert "is finished at step 12" in answer_of([*words, "12"], capsys)


@pytest.mark.slow
def test_an_extended_run_that_is_stopped_goes_on_bit_for_bit(tmp_path, capsys):
    for name, stop in (("whole", None), ("stopped", 9)):
        for length in (6, 12):
            config = small_config(tmp_path / name, max_steps=length, eval_every=0, checkpoint_every=100)
            run = Trainer(config, small_data(config), device=torch.device("cpu"), may_extend=True)
            if stop and length == 12:
                stop_after(run, stop)
                assert not run.run().finished
                run = Trainer(config, small_data(config), device=torch.device("cpu"), may_extend=True)
                assert (run.resumed_from, run.length_before) == (stop, None)
            assert run.run().finished
    ends = [load_checkpoint(list_checkpoints(tmp_path / name / "checkpoints")[-1]) for name in ("whole", "stopped")]
    for field in ("model", "optimizer", "rng"):
        assert_same_tensors(getattr(ends[0], field), getattr(ends[1], field))
    assert without_times(log_of(tmp_path / "whole")) == without_times(log_of(tmp_path / "stopped"))


def test_a_run_is_shortened_to_where_it_stands_and_no_further(tmp_path, capsys):
    words = [*SMALL_OPTIONS, "--out", str(tmp_path / "run"), "--max-steps"]
    answer_of([*words, "6"], capsys)
    assert main([*words, "5"]) == 1
    printed = capsys.readouterr().err
    assert "stands at step 6 already, so it cannot end at step 5: pass --max-steps 6 or more" in printed
    assert printed.count("\n") == 1
    # Eight batches are an epoch: more of them are a longer run as well.
    assert "from 6 to 8 steps" in answer_of([*words[:-1], "--epochs", "1"], capsys)


def test_who_names_no_length_changes_none(tmp_path, capsys):
    """The preset's is that of new runs: a finished one stays finished, and one that was stopped keeps its end."""
    out = tmp_path / "run"
    words = [*SMALL_OPTIONS, "--run.eval-every", "0", "--out", str(out)]
    answer_of([*words, "--max-steps", "2"], capsys)
    told = answer_of(words, capsys)
    assert "the length of the run stays as it is (--epochs 10 --max-steps 2): name another one to change it" in told
    assert "is finished at step 2" in told
    # A file that names another length does change it, and so does what was named last.
    (tmp_path / "longer.toml").write_text("[run]\nmax_steps = 3\n")
    told = answer_of([*words, "--config", str(tmp_path / "longer.toml")], capsys)
    assert "it was finished, and training goes on from step 2: its length changes from 2 to 3 steps" in told
    assert "is finished at step 3" in answer_of(words, capsys)


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


class Signalling(SyntheticAVT):
    """Held-out samples, at one of which Ctrl-C is pressed."""

    num_left = -1

    def __getitem__(self, item: object) -> Sample:
        self.num_left -= 1
        if self.num_left == 0:
            signal.raise_signal(signal.SIGINT)
        return super().__getitem__(item)


@pytest.mark.parametrize(("reads", "step"), [slow(20, 0), (64 + 20, 2), slow(2 * 64 + 20, 4)])
def test_ctrl_c_in_an_evaluation_ends_it_and_the_run_goes_on_as_if_nobody_had(tmp_path, reads, step):
    """At the first, in the middle, and at the last; four batches of 16 clips each."""

    def run(name: str, reads: int = -1) -> Trainer:
        config = small_config(tmp_path / name, max_steps=4, eval_every=2, eval_batches=4, checkpoint_every=100)
        config = replace(config, model=replace(config.model, dropout=0.1))
        val = Signalling(config.model, 64, first_index=512)
        val.num_left = reads
        return trainer(config, replace(small_data(config), val=val))

    assert run("whole").run().finished
    first = run("stopped", reads)
    ended = first.run()
    assert (ended.finished, ended.stopped_by, ended.step) == (False, "SIGINT", step)
    # After the batch in hand: the next one is not read.
    assert -16 < first.data.val.num_left <= 0
    last = run("stopped")
    assert last.resumed_from == step and last.run().finished
    ends = [load_checkpoint(list_checkpoints(tmp_path / name / "checkpoints")[-1]) for name in ("whole", "stopped")]
    for field in ("model", "optimizer", "rng"):
        assert_same_tensors(getattr(ends[0], field), getattr(ends[1], field))
    assert without_times(log_of(tmp_path / "whole")) == without_times(log_of(tmp_path / "stopped"))


class Unreadable(SyntheticAVT):
    """What a failing disk gives: samples without frames and sound."""

    failures: ClassVar = {"a clip": "a clip: Input/output error"}
    num_bad = 10**9

    def __getitem__(self, item: object) -> Sample:
        self.num_bad -= 1
        return replace(
            super().__getitem__(item), **({"has_video": False, "has_audio": False} if self.num_bad >= 0 else {})
        )


def test_a_training_that_reads_nothing_fails_and_saves_nothing(tmp_path):
    config = small_config(tmp_path, max_steps=2, eval_every=0)
    data = replace(small_data(config), train=Unreadable(config.model, 512), val=None)
    with pytest.raises(DataError, match=r"not one of the clips that were read has frames or sound, .*a clip: Input"):
        trainer(config, data).run()
    assert not list_checkpoints(tmp_path / "checkpoints")
    data.train.num_bad = 20
    assert trainer(config, data).run().finished


def test_a_length_changes_only_for_who_asks(tmp_path):
    """A study compares runs of equal length: its trainers do not."""
    config = small_config(tmp_path, max_steps=2)
    trainer(config).run()
    with pytest.raises(CheckpointError, match=r"made with other settings: run\.max_steps \(2 there, 3 here\)"):
        trainer(replace(config, run=replace(config.run, max_steps=3)))


@pytest.mark.parametrize("kind", ["run", "checkpoint", "export"])
def test_a_run_begins_with_the_weights_of_another_and_nothing_else_of_it(tmp_path, capsys, kind):
    words = [*SMALL_OPTIONS, "--optim.ema-decay", "0.5", "--run.log-every", "1"]
    answer_of([*words, "--max-steps", "3", "--out", str(tmp_path / "first")], capsys)
    place = {
        "run": tmp_path / "first",
        "checkpoint": tmp_path / "first" / "checkpoints" / "step_00000003.pt",
        "export": tmp_path / "first" / "export",
    }[kind]
    found = place if kind == "export" else tmp_path / "first" / "checkpoints" / "step_00000003.pt"
    # Other clips, length, objective and cut: none of them is asked to be the same.
    words += ["--data.synthetic-samples", "48", "--loss.form", "infonce", "--model.frame-rate", "5", "--seed", "7"]
    words += ["--max-steps", "4", "--init-from", str(place), "--out", str(tmp_path / "second")]
    config = tiny().optim
    seen = {}
    build = Trainer._build_model

    def watched(self, state):
        model = build(self, state)
        seen.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_build_model", watched)
        told = answer_of(words, capsys)
    assert f"the weights are those of {found}; optimiser, schedule and steps begin anew" in told
    assert_same_tensors(seen, dict(load_checkpoint(tmp_path / "first/checkpoints/step_00000003.pt").weights))
    assert rates(tmp_path / "second") == {step + 1: lr_at(step, 4, config) for step in range(4)}
    start = json.loads((tmp_path / "second" / "starts.jsonl").read_text())
    assert (start["resumed_from"], start["begun_with"]) == (None, str(found))
    assert "| begun with | weights of another model |" in (tmp_path / "second" / "export" / "README.md").read_text()
    # Continuing, the run no longer needs it.
    shutil.rmtree(tmp_path / "first")
    assert "is finished at step 4" in answer_of(words, capsys)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (["--model.width", "64"], r"width \(32 there, 64 here\); .* and \d+ more; pass --model\.width 32 to take them"),
        (
            ["--model.num-heads", "4", "--model.vocab-size", "90"],
            r"num_heads \(2 there, 4 here\), vocab_size \(100 there, 90 here\); text_encoder\..* is 100 x 32 there,"
            r" 90 x 32 here; pass --model\.num-heads 2 --model\.vocab-size 100",
        ),
        (["--model.num-heads", "4"], r"num_heads \(2 there, 4 here\); pass"),
        (["--model.pooling", "cls"], r"pooling \(mean there, cls here\)"),
        (["--model.num-layers", "2"], r"num_layers \(1 there, 2 here\); .* is missing there"),
        (["--init-from", "nowhere"], "there is no nowhere: give an exported model, a run folder or"),
    ],
)
def test_weights_that_do_not_fit_are_one_line_with_names(tmp_path, capsys, change, line):
    config = override(tiny(), SMALL_OPTIONS[5:], program="p").model
    Lava(config).save_pretrained(tmp_path / "model")
    words = [*SMALL_OPTIONS, "--max-steps", "1", "--out", str(tmp_path / "run")]
    assert main([*words, "--init-from", str(tmp_path / "model"), *change]) == 1
    printed = capsys.readouterr().err
    assert re.search(line, printed) and printed.count("\n") == 1, printed
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")


def test_weights_of_another_tokenizer_are_told(tmp_path):
    config = small_config(tmp_path / "run", max_steps=1)
    config = replace(config, model=replace(config.model, vocab_size=300))
    train_tokenizer(["a dog"] * 3, tmp_path / "tok.json", 270)
    Lava(config.model).save_pretrained(tmp_path / "model", tokenizer=tmp_path / "tok.json")
    config = replace(config, run=replace(config.run, init_from=str(tmp_path / "model")))
    data = small_data(config)
    for tokenizer, is_told in ((digest(tmp_path / "tok.json"), False), ("sha256:another", True)):
        run = trainer(config, replace(data, fingerprint={"tokenizer": tokenizer}))
        assert [("trained with another tokenizer" in note) for note in run.notes] == [True] * is_told


def test_other_data_are_refused_on_resume(tmp_path):
    config = small_config(tmp_path, max_steps=1)
    trainer(config).run()
    with pytest.raises(CheckpointError, match="made with other data: synthetic changed"):
        trainer(config, small_data(config, 256))


def test_processes_that_do_not_see_the_same_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lava_model.trainer.from_main", lambda tensor, ranks: tensor + 5)
    with pytest.raises(CheckpointError, match="at step 0, the main one at 5: all must see the same folder"):
        trainer(small_config(tmp_path))


def test_a_step_that_is_not_finite_stops_before_the_update_and_names_the_clips(tmp_path):
    config = small_config(tmp_path, max_steps=5, checkpoint_every=1)
    broken = trainer(config, replace(small_data(config), val=None))
    train_step = broken._train_step

    def poison(batches, measuring):
        if broken.step == 2:
            with torch.no_grad():
                broken.model.heads["av_video"].weight[0, 0] = math.nan
        return train_step(batches, measuring=measuring)

    broken._train_step = poison  # type: ignore[method-assign]  # the fault that is tested
    with pytest.raises(NonFiniteLossError, match="not finite at step 2") as failure:
        broken.run()
    content = json.loads(failure.value.report_path.read_text())
    assert len(content["clip_ids"]) == 16
    assert content["clip_ids"][0].startswith("synthetic")
    newest = load_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1])
    assert newest.step == 2
    assert all(tensor.isfinite().all() for tensor in newest.model.values())


def test_too_few_clips_are_named(tmp_path):
    config = small_config(tmp_path)
    with pytest.raises(DataError, match="8 training clips are fewer than one batch of 16"):
        trainer(config, small_data(config, 8))


def test_held_out_batches_are_fixed_full_and_disjoint(tmp_path):
    config = small_config(tmp_path, eval_batches=3)
    samples = SyntheticAVT(config.model, 100)
    batches = heldout_batches(samples, config)
    assert batches == heldout_batches(samples, config)
    assert [len(batch) for batch in batches] == [16, 16, 16]
    assert len({index for batch in batches for index in batch}) == 48
    assert [len(batch) for batch in heldout_batches(SyntheticAVT(config.model, 5), config)] == [5]


def test_held_out_rows_are_contrasted_as_those_of_training(tmp_path):
    """Two processes of 8 are one of 16, also where less than that goes through the model at once."""
    config = small_config(tmp_path, max_steps=2, eval_batches=2)
    run = trainer(config)
    numbers = [
        evaluate_heldout(
            run.model,
            run.objective,
            run.data.val,
            replace(config, data=replace(config.data, batch_size=size, micro_batch=micro_batch)),
            run.device,
            run._make_step.autocast,
            world_size,
        )
        for size, micro_batch, world_size in ((16, None, 1), (8, None, 2), (16, 5, 1))
    ]
    for other in numbers[1:]:
        assert other == pytest.approx(numbers[0], rel=1e-5)
    local = replace(config, loss=replace(config.loss, negatives="local"))
    assert len(heldout_batches(run.data.val, local, 2)[0]) == 16


@pytest.mark.parametrize("negatives", ["global", "local"])
def test_held_out_clips_are_the_same_for_any_number_of_processes(tmp_path, negatives):
    """Made-up ones and those of a manifest: what a run goes on with on more processes is measured on the same clips."""
    config = small_config(tmp_path, eval_batches=2)
    config = replace(config, loss=replace(config.loss, negatives=negatives), data=replace(config.data, synthetic=True))
    measured = []
    for world_size in (1, 2, 4):
        asked = replace(config, data=replace(config.data, batch_size=16 // world_size))
        made_up, real = open_data(asked, world_size).val, SyntheticAVT(config.model, 50)
        for samples in (made_up, real):
            batches = heldout_batches(samples, asked, world_size)
            assert {len(batch) for batch in batches} == {16 if negatives == "global" else 16 // world_size}
            measured.append([samples[index].clip_id for batch in batches for index in batch])
    assert measured[0::2] == [measured[0]] * 3 and measured[1::2] == [measured[1]] * 3
    assert len(measured[0]) == 32 and measured[0] != measured[1]


def test_held_out_retrieval_among_all_does_not_depend_on_the_batch_size(tmp_path, monkeypatch):
    config = small_config(tmp_path, eval_batches=100)
    run = trainer(config)
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    found = []
    for batch_size in (16, 32):
        asked = replace(config, data=replace(config.data, batch_size=batch_size))
        autocast = run._make_step.autocast
        found.append(evaluate_heldout(run.model, run.objective, run.data.val, asked, run.device, autocast))
    assert torch.equal(torch.rand(2), expected), "held-out evaluation draws random numbers"
    for pair in ("av", "vt", "at"):
        names = (f"recall_at_1_all_{pair}", f"num_all_{pair}")
        assert [found[0][name] for name in names] == [found[1][name] for name in names]
        assert found[0][names[0]] <= found[0][f"recall_at_1_{pair}"]
    assert found[0]["num_all_av"] == sum(run.data.val[index].has_audio for index in range(64))
    monkeypatch.setattr("lava_model.heldout.MAX_POOL", 20)
    few = evaluate_heldout(run.model, run.objective, run.data.val, config, run.device, run._make_step.autocast)
    assert few["num_all_av"] == few["num_all_vt"] == 20


def test_retrieval_among_all_is_that_of_all_similarities_at_once(monkeypatch):
    keys = torch.nn.functional.normalize(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    queries = keys + 0.4 * torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    expected = int(((queries @ keys.T).argmax(dim=1) == torch.arange(50)).sum())
    assert 5 < expected < 45
    monkeypatch.setattr("lava_model.heldout._QUERIES_AT_ONCE", 7)
    assert heldout._num_retrieved(queries, keys) == expected


def test_steps_count_accumulated_batches_and_refuse_too_many(tmp_path):
    config = small_config(tmp_path)
    config = replace(config, run=replace(config.run, epochs=3), data=replace(config.data, accumulate=5))
    assert total_steps(100, config, 1) == 3 * (100 // 16) // 5
    assert total_steps(100, config, 2) == 3 * (100 // 32) // 5
    with pytest.raises(DataError, match=r"all 3 epochs are 3 batches, fewer than the 5 of one step"):
        total_steps(20, config, 1)


def test_tensorboard_files_appear_when_asked(tmp_path):
    config = small_config(tmp_path, max_steps=1, tensorboard=True)
    trainer(config, replace(small_data(config), val=None)).run()
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


# --- the made-up samples themselves ---


def test_synthetic_samples_are_addressable_and_parts_share_nothing():
    config = tiny().model
    samples = SyntheticAVT(config, 40)

    def same(one: Sample, other: Sample) -> bool:
        return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("video", "log_mel", "token_ids"))

    assert len(samples) == 40
    assert same(samples[0, 3], SyntheticAVT(config, 40)[0, 3])
    assert not torch.equal(samples[0, 3].video, samples[1, 3].video)
    assert torch.equal(samples[0, 3].token_ids, samples[1, 3].token_ids)
    assert samples[0, 0].clip_id not in {SyntheticAVT(config, 40, first_index=40)[index].clip_id for index in range(40)}
    shares = [sum(getattr(samples[index], name) for index in range(40)) for name in ("has_audio", "has_text")]
    assert all(20 < share < 40 for share in shares)
    with pytest.raises(IndexError):
        samples[40]


def test_no_more_loader_processes_than_cores_are_started() -> None:
    samples = SyntheticAVT(tiny().model, num_samples=4)
    # torch warns of more processes than cores, and warnings are errors here.
    (batch,) = batches_of(samples, [[(0, 0), (0, 1)]], num_workers=64)
    assert len(batch) == 2


@pytest.mark.parametrize(("quiet_seconds", "told"), [(0.0, [1, 2, 3, 4]), (60.0, [3, 4])])
def test_slow_steps_are_heard_of_between_those_of_the_log(
    quiet_seconds: float,
    told: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("lava_model.trainer.QUIET_SECONDS", quiet_seconds)
    options = ["--max-steps", "4", "--run.log-every", "3", "--data.num-workers", "0", "--out", str(tmp_path / "run")]
    assert main([*SMALL_OPTIONS, *options]) == 0
    lines = re.findall(r"^step (\d)/4  .*samples/s .* left$", capsys.readouterr().err, re.MULTILINE)
    assert list(map(int, lines)) == told
    log = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines())
    assert [line["step"] for line in log if line["kind"] == "train"] == [3, 4]
