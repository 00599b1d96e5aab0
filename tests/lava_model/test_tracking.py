"""Where numbers go: the log, TensorBoard and Weights & Biases, read back with the libraries' own readers."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lava_model.config import PretrainConfig
from lava_model.errors import MissingExtraError, OutputError
from lava_model.presets import tiny
from lava_model.tracking import JsonlLog, Mirror, Tracker, open_trackers


def config_for(out: Path, **run: object) -> PretrainConfig:
    return replace(tiny(), run=replace(tiny().run, out=str(out), **run))


def log_steps(trackers: list[Tracker], *steps: int) -> None:
    for step in steps:
        for tracker in trackers:
            tracker.log("train", step, {"loss": 1 / step, "recall_at_1_vt": None})


def close(trackers: list[Tracker]) -> None:
    for tracker in trackers:
        tracker.close()


def events_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def lines_of(out: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def test_log_and_tensorboard_hold_every_step_once_over_a_kill_and_a_resume(tmp_path):
    config = config_for(tmp_path, tensorboard=True)
    first = open_trackers(config, tmp_path, None)
    log_steps(first, 1, 2, 3, 4)
    first[1].tracker._writer.flush()  # killed after step 4, with the checkpoint of step 2
    second = open_trackers(config, tmp_path, 2)
    assert isinstance(second[0], JsonlLog)
    assert second[0].last["train"]["loss"] == 0.5
    log_steps(second, 3, 4, 5)
    close(second)
    expected = [(step, pytest.approx(1 / step)) for step in (1, 2, 3, 4, 5)]
    assert lines_of(tmp_path) == expected
    # What is None is in the log alone.
    assert events_of(tmp_path / "tensorboard") == {"train/loss": expected}
    close(first)


def test_a_run_that_starts_anew_hides_what_an_earlier_start_logged(tmp_path):
    config = config_for(tmp_path, tensorboard=True)
    for steps in ((1, 2, 3), (1, 2)):  # killed before its first checkpoint, then again
        trackers = open_trackers(config, tmp_path, None)
        log_steps(trackers, *steps)
        close(trackers)
    expected = [(1, 1.0), (2, 0.5)]
    assert lines_of(tmp_path) == expected
    assert events_of(tmp_path / "tensorboard") == {"train/loss": expected}


@pytest.mark.parametrize(
    ("asked", "module", "extra"),
    [({"tensorboard": True}, "torch.utils.tensorboard", "train"), ({"wandb": "lava"}, "wandb", "tracking")],
)
def test_a_missing_package_is_one_line_before_training(tmp_path, monkeypatch, asked, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'k700-text\[{extra}\]'") as failure:
        open_trackers(config_for(tmp_path, **asked), tmp_path, None)
    assert "\n" not in str(failure.value)


class Broken:
    def __init__(self) -> None:
        self.asked: dict[str, int] = defaultdict(int)

    def log(self, kind: str, step: int, values: object) -> None:
        self.asked["log"] += 1
        if step == 2:
            raise ConnectionError("the line\nwent dead")

    def close(self) -> None:
        self.asked["close"] += 1


def test_a_mirror_that_fails_is_told_once_and_left_alone_after_that():
    broken, said = Broken(), []
    log_steps([Mirror("Somewhere", broken, said.append)], 1, 2, 3, 4)
    close([Mirror("Somewhere", broken, said.append)])
    assert said == [
        "note: Somewhere failed and gets no more numbers, log.jsonl has them all (the line went dead)",
    ]
    assert broken.asked == {"log": 2, "close": 1}


def test_the_log_itself_does_not_fail_in_silence(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"log\.jsonl cannot be written"):
        open_trackers(config_for(tmp_path), tmp_path, None)


# --- Weights & Biases, by the real library without a network, in processes of its own: it lives as long as they do ---

_START = """
import os, signal, subprocess, sys
from dataclasses import replace
from pathlib import Path
from lava_model.errors import TrackingError
from lava_model.presets import tiny
from lava_model.tracking import open_trackers
from lava_model import wandb_log

wandb_log._INIT_TIMEOUT_SECONDS = 2
out, resume_step, steps, is_killed = Path(sys.argv[1]), eval(sys.argv[2]), eval(sys.argv[3]), eval(sys.argv[4])
config = replace(tiny(), run=replace(tiny().run, out=str(out), wandb="lava-tests"))
try:
    trackers = open_trackers(config, out, resume_step, say=print)
except TrackingError as error:
    sys.exit(str(error))
for step in steps:
    if is_killed and step == steps[-1]:
        listed = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "pid=,comm="], stdout=-1, text=True).stdout
        for pid in [line.split()[0] for line in listed.splitlines() if "wandb" in line]:
            os.kill(int(pid), signal.SIGKILL)
            while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
                pass
    for tracker in trackers:
        tracker.log("train", step, {"loss": 1 / step, "recall_at_1_vt": None})
for tracker in trackers:
    tracker.close()
"""


def start(
    out: Path, resume_step: int | None, steps: list[int], *, is_killed: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'k700-text[tracking]'")
    hidden = {"WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    home = {"HOME": str(out.parent), "NETRC": str(out.parent / "none"), "WANDB_CONFIG_DIR": str(out.parent / "config")}
    arguments = [str(out), repr(resume_step), repr(steps), repr(is_killed)]
    return subprocess.run(
        [sys.executable, "-c", _START, *arguments],
        env={**kept, **home, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def records_of(path: Path) -> Iterator[bytes]:
    """Yields the records of a wandb file: 7 bytes of header, then LevelDB's log format, whose blocks are 32 KiB."""
    content, place, record = path.read_bytes(), 7, b""
    while place < len(content):
        left = 32_768 - place % 32_768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def wandb_history(folder: Path) -> tuple[dict[str, object], dict[int, dict[str, float]]]:
    """Returns the run's record and its numbers by step, read from the file that ``wandb sync`` would send."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("*.wandb")
    run: dict[str, object] = {}
    history: dict[int, dict[str, float]] = {}
    for data in records_of(path):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "run":
            settings = {entry.key: json.loads(entry.value_json) for entry in record.run.config.update}
            run = {"id": record.run.run_id, "project": record.run.project, "config": settings}
        elif record.WhichOneof("record_type") == "history":
            values = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
            }
            history[record.history.step.num] = {name: v for name, v in values.items() if not name.startswith("_")}
    return run, history


@pytest.mark.slow
def test_wandb_offline_gets_every_number_and_a_resumed_run_keeps_its_id(tmp_path):
    out = tmp_path / "run"
    for resume_step, steps in ((None, [1, 2, 3]), (2, [3, 4])):
        ended = start(out, resume_step, steps, WANDB_MODE="offline")
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
        assert ended.stdout.startswith("Weights & Biases is offline: wandb sync --append")
        assert ended.stdout.count("\n") == 1
    folders = sorted((out / "wandb").glob("offline-run-*"), key=lambda folder: folder.stat().st_mtime)
    (first, early), (second, late) = map(wandb_history, folders)
    assert first["id"] == second["id"] == json.loads((out / "wandb.json").read_text("utf-8"))["id"]
    assert first["project"] == "lava-tests"
    assert first["config"]["model"]["width"] == tiny().model.width
    assert early == {step: {"train/loss": pytest.approx(1 / step)} for step in (1, 2, 3)}
    assert late == {step: {"train/loss": pytest.approx(1 / step)} for step in (3, 4)}


@pytest.mark.slow
def test_wandb_that_dies_in_the_middle_does_not_end_the_run(tmp_path):
    ended = start(tmp_path / "run", None, [1, 2, 3], is_killed=True, WANDB_MODE="offline")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("note: Weights & Biases failed and gets no more numbers") == 1
    assert [step for step, _ in lines_of(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "--run.wandb: there is no key for Weights & Biases: run wandb login, or set WANDB_MODE=offline"),
        ({"WANDB_MODE": "ofline"}, "--run.wandb: Weights & Biases cannot be used ("),
        (
            # A port that nobody listens on.
            {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"},
            "--run.wandb: Weights & Biases cannot be used (",
        ),
    ],
)
def test_wandb_that_cannot_be_used_is_one_line_before_training(tmp_path, environment, message):
    ended = start(tmp_path / "run", None, [1], **environment)
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith(message)
