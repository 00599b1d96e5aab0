"""A signal while a program is still starting: one line and exit code 130, whatever is being imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from k700_text import starting
from k700_text.starting import STOPPING, end_at_once, ending_at_once, interrupting, without_handlers
from lava_model import program
from lava_model.program import EXIT_INTERRUPTED, import_modules, run_program

REPOSITORY = Path(__file__).resolve().parents[2]

PRETRAIN = ["lava_model.pretrain", "--preset", "tiny", "--synthetic", "--device", "cpu", "--out", "run"]
PROBE = ["lava_model.evaluate", "linear-probe", "--checkpoint", "run", "--data", "clips"]
STARTS = [
    # What is run, the module of which the signal comes once it is imported, and the signal.
    (PRETRAIN, "argparse", signal.SIGTERM),
    (PRETRAIN, "torch._utils_internal", signal.SIGTERM),
    (PRETRAIN, "torch.torch_version", signal.SIGUSR1),
    (PRETRAIN, "torch.torch_version", signal.SIGINT),
    (PROBE, "json.scanner", signal.SIGTERM),
    (PROBE, "torch.torch_version", signal.SIGTERM),
    (["lava_model.export", "run", "--out", "model"], "torch.torch_version", signal.SIGTERM),
    (["lava_model.ablate", "forms", "--synthetic", "--out", "study"], "torch.torch_version", signal.SIGTERM),
    (["lava_model.demo", "--out", "demo"], "rich.style", signal.SIGTERM),
    (["k700_text", "stats", "none.parquet"], "typer.models", signal.SIGTERM),
    (["k700_text", "stats", "none.parquet"], "rich.style", signal.SIGINT),
]


def started(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """A program that tells each module when it is imported."""
    command = [sys.executable, "-X", "importtime", "-m", *words]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("words", "module", "number"), STARTS, ids=lambda value: getattr(value, "name", str(value)))
def test_a_signal_while_importing_is_one_line_and_130(
    tmp_path: Path, words: list[str], module: str, number: signal.Signals
) -> None:
    with started(words, tmp_path) as process:
        assert process.stderr is not None
        assert any(line.split("|")[-1].strip() == module for line in process.stderr)
        process.send_signal(number)
        rest = [line for line in process.stderr if not line.startswith("import time:")]
    assert (process.returncode, rest) == (130, ["interrupted: nothing was begun\n"])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def own_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_handlers")
@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_at_work_is_what_ctrl_c_is(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    def work(words: list[str]) -> int:
        signal.raise_signal(number)
        return 0

    before = signal.getsignal(number)
    assert run_program(work, [], interrupted="run it again") == EXIT_INTERRUPTED == 130
    assert capsys.readouterr().err == "interrupted: run it again\n"
    assert signal.getsignal(number) is before
    # As a program of its own there is nothing left to interrupt after it.
    end_at_once()
    assert run_program(work, [], interrupted="run it again") == 130
    signal.raise_signal(number)


@pytest.mark.usefixtures("own_handlers")
def test_what_is_ignored_stays_ignored_and_threads_are_left_alone() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what runs in its background
    with ending_at_once(), interrupting():
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is not starting._end
    with interrupting(), without_handlers():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run_program(lambda words: 5, [], interrupted="")))
    thread.start()
    thread.join()
    assert codes == [5]


@pytest.mark.parametrize(("is_terminal", "num_lines"), [(True, 1), (False, 0)])
def test_a_person_is_told_what_a_slow_start_waits_for(
    is_terminal: bool,
    num_lines: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time\n\ntime.sleep(0.2)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(program, "IMPORT_SECONDS", 0.01)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    import_modules("slow_to_import", purpose="a test")
    del sys.modules["slow_to_import"]
    monkeypatch.setattr(program, "IMPORT_SECONDS", 60.0)
    import_modules("slow_to_import", purpose="a test")  # quick enough: no word
    assert capsys.readouterr().err.count("loading PyTorch") == num_lines
