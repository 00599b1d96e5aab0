"""What breaks a run from outside: each is one clear line, and no process stays behind."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys

import pytest
import torch

from k700_text.errors import DecodeError
from lava_model.checkpoint import list_checkpoints, load_checkpoint
from lava_model.config import LossConfig, LossWeights
from lava_model.data import _notes
from lava_model.device import choose_device
from lava_model.errors import CheckpointError, ConfigError, DataError, MissingExtraError, OutputError
from lava_model.evaluate import main as evaluate
from lava_model.files import writing
from lava_model.loading import batches_of
from lava_model.loss import nce
from lava_model.model import Lava
from lava_model.presets import preset
from lava_model.pretrain import main as pretrain
from lava_model.tracking import JsonlLog
from tests.lava_model import kills
from tests.lava_model.undecodable import Undecodable


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_failure_in_a_loader_process_is_its_one_line(num_workers):
    with pytest.raises(DecodeError) as failure:
        next(batches_of(Undecodable(), [[(0, 0)]], num_workers=num_workers))
    assert str(failure.value) == "11 of 12 clips do not decode: a.mp4: bad"


def test_a_loader_process_that_dies_is_one_line():
    with pytest.raises(DataError, match=r"a loader process died \(exit code 1\) at item \(0, 0\)"):
        next(batches_of(Undecodable(is_fatal=True), [[(0, 0)]], num_workers=1))


_FAILING_PROGRAM = """
import sys
sys.path[:0] = {path!r}
from tests.lava_model.undecodable import Undecodable
from lava_model.loading import batches_of
from k700_text.errors import DecodeError
try:
    list(batches_of(Undecodable(), [[(0, 0)]] * 9, num_workers=2))
except DecodeError as error:
    print(error)
"""


def test_a_program_ends_after_a_failure_in_a_loader_process(request):
    program = _FAILING_PROGRAM.format(path=[str(request.path.parents[2])])
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "11 of 12 clips do not decode: a.mp4: bad\n"), ended.stderr


@pytest.mark.parametrize("form", ["pooled", "infonce", "symmetric", "mil_nce"])
@pytest.mark.parametrize("scale", [1e20, 1e30, 1e-25, 1e-30])
def test_nce_does_not_depend_on_the_length_of_vectors(form, scale):
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 6, 5, generator=generator).unbind()
    scaled = (queries * scale).requires_grad_()
    loss = nce(scaled, keys * scale, form=form)
    torch.testing.assert_close(loss, nce(queries, keys, form=form), rtol=1e-5, atol=1e-5)
    loss.backward()
    assert scaled.grad is not None and scaled.grad.isfinite().all()


def test_nce_takes_subnormal_rows_as_zero_rows_with_a_finite_gradient():
    queries = torch.full((3, 4), 1e-40, requires_grad=True)
    nce(queries, torch.eye(3, 4)).backward()
    assert queries.grad is not None and queries.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_nce_refuses_a_temperature_without_meaning(temperature):
    with pytest.raises(ValueError, match="temperature must be above 0"):
        nce(torch.eye(3), torch.eye(3), temperature=temperature)


@pytest.mark.parametrize("valid", [torch.ones(3), torch.ones(2, dtype=torch.bool)])
def test_nce_refuses_a_mask_that_does_not_fit(valid):
    with pytest.raises(ValueError, match="valid_B must be bool"):
        nce(torch.eye(3), torch.eye(3), valid_B=valid)


def test_a_loss_without_any_term_and_an_infinite_temperature_are_refused():
    with pytest.raises(ConfigError, match=r"temperature.*finite.*all 0: nothing would train"):
        LossConfig(temperature=float("inf"), weights=LossWeights(av=0, vt=0, avt=0))


def test_clips_that_leave_nothing_to_contrast_are_refused():
    with pytest.raises(DataError, match=r"no training clip has sound or a title.*av, vt, avt"):
        _notes("training", {"video": 9, "audio": 0, "text": 0}, {}, LossWeights())
    with pytest.raises(DataError, match="no training clip has a title"):
        _notes("training", {"video": 9, "audio": 9, "text": 0}, {}, LossWeights(av=0, avt=0))


def test_held_out_clips_that_leave_nothing_to_measure_are_refused():
    with pytest.raises(DataError, match="no held-out clip has sound or a title"):
        _notes("held-out", {"video": 9, "audio": 0, "text": 0}, {}, LossWeights())


def test_what_clips_lack_is_told():
    notes = _notes("training", {"video": 9, "audio": 9, "text": 0}, {"without a clip file": 3}, LossWeights())
    assert notes == (
        "3 rows are left out of the manifest, without a clip file",
        "no training clip has a title: the loss terms that need it stay 0",
    )
    assert _notes("training", {"video": 9, "audio": 9, "text": 9}, {}, LossWeights()) == ()
    assert _notes("held-out", {"video": 9, "audio": 9, "text": 0}, {"without a clip file": 3}, LossWeights()) == (
        "3 rows are left out of the held-out manifest, without a clip file",
        "no held-out clip has a title: the loss terms that need it stay 0",
    )


@pytest.mark.parametrize("name", ["meta", "banana", "mps"])
def test_a_device_that_we_do_not_run_on_is_refused(name):
    with pytest.raises(ConfigError, match=r"--device '.*' is not a device we run on"):
        choose_device(name, option="--device")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda", 1) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="there is no GPU 7, torch sees 2"):
        choose_device("cuda:7")


def _slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def run_words(tmp_path_factory) -> list[str]:
    torch.set_num_threads(1)  # a copy of a process has none of its threads
    return kills.prepare(tmp_path_factory.mktemp("clips"))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("place", "room", "line", "left"),
    [
        ("starts.jsonl", 100, r"/run cannot be written \(No space left on device\): make room", []),
        _slow(".config.json.", 100, r"config\.json cannot be written \(File too large\): make room", []),
        _slow("checkpoints/.step_00000002.pt.", 9_000, r"step_00000002\.pt cannot be written \(File too large\)", []),
        _slow(
            "checkpoints/.step_00000006.pt.",
            9_000,
            r"00006\.pt cannot be written .* earlier ones are intact",
            [2, 4],
        ),
        _slow(
            "export/.README.md.",
            9_000,
            r"the model cannot be written to .*: make room or choose another",
            [6, 7],
        ),
    ],
)
def test_a_disk_that_is_full_costs_one_line_and_nothing_that_was_there(run_words, tmp_path, place, room, line, left):
    """By a limit on the length of files, set as the run opens one of them."""
    run = tmp_path / "run"

    def fill(name: str, path: str) -> None:
        if path.startswith(place):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

    code, text = kills.started([*run_words, str(run)], watch=fill).ended()
    errors = [one for one in text.splitlines() if "error" in one.lower()]
    assert code == 1 and len(errors) == 1 and re.search(line, errors[0]), text
    assert [load_checkpoint(path).step for path in list_checkpoints(run / "checkpoints")] == left
    files = [path for path in run.rglob("*") if path.is_file()]
    assert not [path for path in files if "part" in path.name]
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())
    code, text = kills.started([*run_words, str(run)]).ended()
    assert code == 0, text
    assert kills.end_of(run)["step"] == 7


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("one_thread")
def test_a_run_killed_anywhere_ends_as_if_nobody_had(tmp_path):
    lines = kills.kill_and_resume(tmp_path, 12, seed=3)
    assert [line for line in lines if not line.startswith("ok: ")] == []
    assert sum("ok: -9 before" in line for line in lines) == 8


@pytest.mark.slow
def test_a_kill_between_the_first_two_files_of_a_run_leaves_a_folder_that_goes_on(run_words, tmp_path):
    """A config.json without a start would be taken for somebody else's."""

    def kill(name: str, path: str) -> None:
        if path.startswith((".config.json.", "config.json")):
            os.kill(os.getpid(), signal.SIGKILL)

    words = [*run_words, str(tmp_path / "run")]
    assert kills.started(words, watch=kill).ended()[0] == -signal.SIGKILL
    code, text = kills.started(words).ended()
    assert code == 0, text


def test_a_full_disk_names_the_file(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(OutputError, match=r"cannot be written \(No space left"),
        writing(tmp_path / "log.jsonl"),
    ):
        raise full


@pytest.mark.parametrize("tail", [b"[1]\n", b"\xff\xfe", b'{"kind": "tr'])
def test_a_log_with_a_damaged_tail_goes_on(tmp_path, tail):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"kind": "train", "step": 1, "loss": 2.0}\n' + tail)
    log = JsonlLog(path, resume_step=5)
    log.log("train", 6, {"loss": 1.0})
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text("utf-8").splitlines()] == [1, 6]


def test_a_state_of_another_model_is_one_line():
    model = Lava(preset("tiny").model)
    state = model.state_dict()
    state["foreign"] = state.pop(next(iter(state)))
    with pytest.raises(CheckpointError, match="does not hold a model of its own settings") as failure:
        Lava.from_state(model.config, state, source="runs/x")
    assert "\n" not in str(failure.value)


def test_encode_refuses_a_bare_name():
    with pytest.raises(ValueError, match=r"use \('video',\)"):
        Lava(preset("tiny").model).encode(None, modalities="video")


def test_evaluate_without_a_task_says_so(capsys):
    assert evaluate([]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: no task given") and output.err.count("\n") == 1


def _out_of_gpu_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nOf the allocated memory ...")


@pytest.mark.parametrize("fail", [_out_of_gpu_memory, lambda: torch.empty(2**60)])
@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ([], "32 samples at once do not fit into the memory of cpu: pass --micro-batch 16 "),
        (["--micro-batch", "8"], "8 samples at once do not fit into the memory of cpu: pass --micro-batch 4 "),
        (["--micro-batch", "1"], "1 samples at once do not fit into the memory of cpu: pass less --batch-size"),
    ],
)
def test_too_little_memory_is_one_line_with_a_remedy(tmp_path, capsys, monkeypatch, fail, options, remedy):
    monkeypatch.setattr("lava_model.trainer.Trainer.__init__", lambda *arguments, **named: fail())
    words = ["--preset", "tiny", "--synthetic", "--device", "cpu", "--out", str(tmp_path / "run"), *options]
    assert pretrain(words) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {remedy}")
    assert printed.err.count("\n") == 1


def test_another_failure_inside_torch_is_no_memory_problem(tmp_path, monkeypatch):
    def fail(*arguments, **named):
        raise RuntimeError("expected scalar type")

    monkeypatch.setattr("lava_model.trainer.Trainer.__init__", fail)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        pretrain(["--preset", "tiny", "--synthetic", "--device", "cpu", "--out", str(tmp_path / "run")])


def test_one_of_several_processes_says_which_it_is(capsys, monkeypatch):
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "3")):
        monkeypatch.setenv(name, value)
    assert pretrain(["--optim.lrr", "1"]) == 2
    assert capsys.readouterr().err == "[rank 3] error: unknown option --optim.lrr: did you mean --optim.lr?\n"


def test_a_missing_extra_is_an_import_error_with_a_remedy(monkeypatch):
    import lava_model

    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="torch")

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'k700-text\[train\]'") as failure:
        lava_model.__getattr__("Lava")
    assert isinstance(failure.value, MissingExtraError)
