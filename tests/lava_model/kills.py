"""Kills a pre-training, at its file operations and at random moments.

``python -m tests.lava_model.kills DIR KILLS SEED`` tells how each ended. Each kill is of a run of its own, on
real clips, which then is started again by the same command. Its last checkpoint, log and exported model must be those
of a run that nobody disturbed, and nothing half may be left.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from k700_text.data.text import train_tokenizer
from lava_model.checkpoint import list_checkpoints, load_checkpoint
from lava_model.data import open_data
from lava_model.pretrain import main
from lava_model.trainer import Trainer
from tests.k700_text.media_files import clip_id_of, make_clip, write_manifest

IMPORTED = (Trainer, open_data)
"""What the command imports only when it is needed: here before, for every copy of this process."""
NUM_CLIPS = 6
_TIMED = ("samples_per_second", "data_wait_percent")
_WRITING = ("open", "os.rename", "os.remove", "os.chmod", "os.mkdir", "os.truncate")


def prepare(folder: Path) -> list[str]:
    """Makes clips, manifest and tokenizer; returns the words of the command, up to the run folder."""
    for number in range(NUM_CLIPS):
        make_clip(folder / "clips" / f"{clip_id_of(number)}.mp4", 1.0)
    rows = [{"clip_id": clip_id_of(number), "title": f"clip {number}"} for number in range(NUM_CLIPS)]
    write_manifest(folder / "manifest.parquet", rows)
    train_tokenizer(["clip 0", "clip 1"], folder / "tokenizer.json", 280)
    return [
        *("--preset", "tiny", "--device", "cpu", "--manifest", str(folder / "manifest.parquet")),
        *("--val-manifest", str(folder / "manifest.parquet"), "--clips", str(folder / "clips")),
        *("--tokenizer", str(folder / "tokenizer.json"), "--batch-size", "2", "--num-workers", "0"),
        *("--model.width", "16", "--model.num-heads", "2", "--model.num-layers", "1", "--model.dropout", "0.1"),
        *(
            "--model.num-frames",
            "2",
            "--model.frame-size",
            "32",
            "--model.short-side",
            "32",
            "--model.trunk-stage",
            "1",
        ),
        *("--model.vocab-size", "300", "--optim.ema-decay", "0.8", "--run.log-every", "1", "--run.eval-every", "3"),
        *("--run.checkpoint-every", "2", "--run.eval-batches", "1", "--max-steps", "7", "--out"),
    ]


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of this process that runs the command."""

    process: int
    told: IO[str]
    """The pipe that its lines come through."""

    def ended(self) -> tuple[int, str]:
        """Waits and returns the exit code, negative of a signal, and what was told."""
        with self.told:
            text = self.told.read()
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1]), text


def started(words: list[str], *, watch: Callable[[str, str], None] | None = None) -> Copy:
    """Returns the command at work in a copy of this process, which has all that is to be imported.

    Args:
        words: of the command; the run folder is the last.
        watch: called with each operation on files of the run folder, before it, and the file's place there.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return Copy(child, os.fdopen(reading))
    try:
        sys.stdout = sys.stderr = os.fdopen(writing, "w")
        if watch is not None:
            sys.addaudithook(lambda name, values: _seen(name, values, words[-1], watch))
        code = main(words)
        sys.stderr.flush()
        os._exit(code)
    finally:
        os._exit(99)


def _seen(name: str, values: tuple[object, ...], run: str, watch: Callable[[str, str], None]) -> None:
    if name in _WRITING and str(values[0]).startswith(run):
        reads = name == "open" and not (isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR))
        if not reads:
            watch(name, str(values[0])[len(run) + 1 :])


def end_of(run: Path) -> dict[str, object]:
    """What a run leaves, but for the time it took."""
    state = load_checkpoint(list_checkpoints(run / "checkpoints")[-1])
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {
        "step": state.step,
        "state": [state.model, state.ema, state.optimizer, state.rng, state.objective],
        "log": [{name: value for name, value in line.items() if name not in _TIMED} for line in lines],
        "exported weights": (run / "export" / "model.safetensors").read_bytes(),
        # A kill between writing the last checkpoint and removing an older one leaves that.
        "files": sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.suffix != ".pt"),
    }


def same(one: object, other: object) -> bool:
    """Whether nested values are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(same, one, other))
    return one == other


def kill_and_resume(folder: Path, num_kills: int, seed: int) -> list[str]:
    """Returns a line for each kill, which begins with ``ok`` or with what is wrong."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    words = prepare(folder)
    events = folder / "events"
    begun = time.monotonic()

    def noted(name: str, path: str) -> None:
        with events.open("a") as file:
            file.write(f"{name} {path}\n")

    code, text = started([*words, str(folder / "whole")], watch=noted).ended()
    assert code == 0, text
    seconds = time.monotonic() - begun
    names = events.read_text().splitlines()
    whole, draw, lines = end_of(folder / "whole"), random.Random(seed), []
    moments: list[int | float] = [*draw.sample(range(len(names)), min(len(names), num_kills - num_kills // 3))]
    moments += [draw.uniform(0.2, 1.2 * seconds) for _ in range(num_kills - len(moments))]
    for number, moment in enumerate(moments):
        run = folder / f"run{number}"
        if isinstance(moment, int):
            left = [moment]

            def kill(name: str, path: str, left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            at, killed = f"before {names[moment]}", started([*words, str(run)], watch=kill).ended()[0]
        else:
            copy = started([*words, str(run)])
            time.sleep(moment)
            os.kill(copy.process, signal.SIGKILL)
            at, killed = f"after {moment:.2f} s of {seconds:.2f}", copy.ended()[0]
        code, text = started([*words, str(run)]).ended()
        if code != 0:
            lines.append(f"exit code {code}, killed {at}: {text[-300:]}")
            continue
        found = end_of(run)
        wrong = [name for name in whole if not same(whole[name], found[name])]
        resumed = [json.loads(line)["resumed_from"] for line in (run / "starts.jsonl").read_text().splitlines()][-1]
        lines.append(f"{'ok' if not wrong else ' and '.join(wrong) + ' differ'}: {killed} {at}, resumed from {resumed}")
    return lines


if __name__ == "__main__":
    ends = kill_and_resume(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.writelines(f"{line}\n" for line in ends)
