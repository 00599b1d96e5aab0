from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from k700_text.cli.steps import Answer, Steps, need_packages
from k700_text.errors import MissingExtraError


class Worker:
    """Three steps that hand on files, the second adding to the file of the first; counts what was done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[str] = []

    def run(self, *, words: str = "") -> list[Answer]:
        steps = Steps(total=3, record=self.folder / "steps.json")
        books, made = self.folder / "books", self.folder / "made"
        return [
            steps.once("first", lambda: self._write("first", books / "a.txt"), same=[], files=[books]),
            steps.once("second", lambda: self._write("second", books / "b.txt"), same=[words], files=[books / "b.txt"]),
            steps.once("third", lambda: self._write("third", made), same=[], files=[books / "b.txt", made]),
        ]

    def _write(self, name: str, path: Path) -> Answer:
        self.done.append(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(name, encoding="utf-8")
        return {"name": name}


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    worker = Worker(tmp_path)
    worker.run()
    assert worker.done == ["first", "second", "third"]
    worker.done.clear()
    return worker


def test_what_is_finished_is_not_done_again_and_gives_its_answer(worker: Worker) -> None:
    assert [answer["name"] for answer in worker.run()] == ["first", "second", "third"]
    assert worker.done == []


def test_a_changed_file_is_noticed_by_each_step_that_rests_on_it(worker: Worker) -> None:
    (worker.folder / "made").write_text("by hand", encoding="utf-8")
    worker.run()
    assert worker.done == ["third"]
    worker.done.clear()
    (worker.folder / "books" / "b.txt").write_text("SECOND", encoding="utf-8")
    worker.run()
    assert worker.done == ["first", "second", "third"]


def test_a_file_that_went_and_one_that_came_are_noticed(worker: Worker) -> None:
    (worker.folder / "made").unlink()
    worker.run()
    assert worker.done == ["third"]
    worker.done.clear()
    (worker.folder / "books" / "c.txt").touch()
    worker.run()
    assert worker.done == ["first"]


def test_other_words_are_another_step(worker: Worker) -> None:
    worker.run(words="--seed 1")
    assert worker.done == ["second", "third"]  # the third reads what the second wrote anew


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"1": 3}', b"\xff\xfe"])
def test_a_damaged_record_only_costs_a_look(worker: Worker, damage: bytes) -> None:
    (worker.folder / "steps.json").write_bytes(damage)
    worker.run()
    assert worker.done == ["first", "second", "third"]


def test_a_missing_package_is_named_with_its_remedy() -> None:
    need_packages(("json", "k700_text"), purpose="this", extra="data")
    with pytest.raises(MissingExtraError, match=r"^this needs no_such: pip install 'k700-text\[data\]'$"):
        need_packages(("json", "no_such"), purpose="this", extra="data")


# A step that needs a second to save what it has when it is interrupted, and tells how often it was.
_SLOW_TO_END = """
import signal, sys, time
from pathlib import Path
told = []
for number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda *_: told.append(1))
Path("begun").touch()
while not told:
    time.sleep(0.01)
time.sleep(0.8)
Path("saved").write_text(str(len(told)))
sys.exit(130)
"""
_DEMO = """
import sys
from k700_text.cli.steps import Steps
from k700_text.starting import interrupting
with interrupting():
    try:
        Steps(total=1).run("slow", ["slow_to_end"])
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize(
    ("number", "to_group", "in_background"),
    [
        (signal.SIGINT, True, False),
        (signal.SIGINT, False, False),
        (signal.SIGTERM, False, False),
        (signal.SIGTERM, False, True),
    ],
)
def test_an_interrupted_step_is_waited_for_and_told_once(
    tmp_path: Path, number: int, to_group: bool, in_background: bool
) -> None:
    package = tmp_path / "slow_to_end"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(_SLOW_TO_END, encoding="utf-8")
    demo = subprocess.Popen(
        [*(["sh", "-c", 'trap "" INT; exec "$@"', "sh"] if in_background else []), sys.executable, "-c", _DEMO],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "begun").exists():
        assert demo.poll() is None
        time.sleep(0.01)
    if to_group:  # as a terminal does
        os.killpg(demo.pid, number)
    else:
        demo.send_signal(number)
    _, told = demo.communicate(timeout=30)
    assert demo.returncode == 130, told
    assert (tmp_path / "saved").read_text(encoding="utf-8") == "1"
    assert "waiting until this step has saved" in told


def test_the_record_is_json_that_people_can_read(worker: Worker) -> None:
    record = json.loads((worker.folder / "steps.json").read_text(encoding="utf-8"))
    assert [step["answer"]["name"] for step in record.values()] == ["first", "second", "third"]
