"""What a run was started with: its settings, and for each start the command, versions, code, data and machine."""

from __future__ import annotations

import dataclasses
import errno
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from k700_text.errors import LockedError
from k700_text.files.atomic import write_whole
from k700_text.files.lock import FileLock
from k700_text.files.plain import open_plain
from k700_text.media.pool import num_cores
from lava_model.checkpoint import list_checkpoints
from lava_model.config import PretrainConfig
from lava_model.distributed import Ranks
from lava_model.errors import OutputError
from lava_model.facts import coverage_of
from lava_model.files import writing
from lava_model.settings import to_dict

if TYPE_CHECKING:
    from lava_model.data import TrainingData

_LOCK, _STARTS = ".lock", "starts.jsonl"
_PACKAGES = ("k700-text", "torchvision", "av", "tokenizers", "safetensors", "numpy")
_ROOT, _CODE = Path(__file__).resolve().parents[1], ("k700_text", "lava_model")


@contextmanager
def held(out: Path, ranks: Ranks | None = None) -> Iterator[None]:
    """Keeps a run folder, made if it is not there, to this process while it trains.

    Args:
        out: the folder.
        ranks: of several processes of one run the main one holds it; None: the only one.

    Raises:
        OutputError: another process holds it, or it cannot be made.
    """
    if ranks is not None and not ranks.is_main:
        yield
        return
    try:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            lock = FileLock(out / _LOCK, f"another process is training into {out}", "wait for it, or use another --out")
    except LockedError as error:
        raise OutputError(str(error)) from error
    with lock:
        yield


def check_own(out: Path) -> None:
    """Keeps what is no run, and the model of a run whose checkpoints were removed, from being written over.

    Raises:
        OutputError: it would be.
    """
    if list_checkpoints(out / "checkpoints"):
        return
    if (out / "export" / "config.json").exists():
        raise OutputError(
            f"{out} holds a finished model (export) and no checkpoint to continue from: use another --out, or move the"
            " model away"
        )
    for name in ("config.json", "log.jsonl"):
        if (out / name).exists() and not (out / _STARTS).exists():
            raise OutputError(f"{out} is no run folder, its {name} would be written over: use another --out")


def record_start(
    config: PretrainConfig,
    data: TrainingData,
    out: Path,
    *,
    command: Sequence[str],
    resumed_from: int | None,
    total_steps: int,
    length_before: int | None = None,
    begun_with: Path | None = None,
    device: torch.device,
    ranks: Ranks,
) -> None:
    """Writes config.json, and adds a line to starts.jsonl.

    Args:
        config: of the run.
        data: that it trains on.
        out: run folder.
        command: words of the command line.
        resumed_from: step that the run goes on from, if it does.
        total_steps: of the whole run.
        length_before: the same, as it was until this start, where this one changes it.
        begun_with: where its first weights are from, if not from the seed and if it begins.
        device: that this rank trains on.
        ranks: how many there are.

    Raises:
        OutputError: they cannot be written.
        ManifestError: the manifest cannot be read.
    """
    coverage = coverage_of(data, config)
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": list(command),
        "resumed_from": resumed_from,
        "total_steps": total_steps,
        "length_before": length_before,
        "begun_with": None if begun_with is None else str(begun_with),
        "data": data.fingerprint,
        "coverage": None if coverage is None else dataclasses.asdict(coverage),
        "versions": versions(),
        **code_revision(),
        **machine(device, ranks),
    }
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        # The start comes first: a folder with a config.json and no start is taken for somebody else's.
        _append_line(out / _STARTS, json.dumps(start))
        write_whole(out / "config.json", json.dumps(to_dict(config), indent=2) + "\n")


def _append_line(path: Path, line: str) -> None:
    """Adds a line, on one of its own also where a kill has cut off the one before; where it fails, nothing of it."""
    descriptor = open_plain(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - 1))
        begins = b"" if file.read(1) in (b"", b"\n") else b"\n"
        added = begins + line.encode() + b"\n"
        try:
            if file.write(added) != len(added):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(length)
            raise


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that decide what is computed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    # The name of the build, which the package's version leaves out: 2.11.0+cpu.
    return {**found, "torch": torch.__version__}


def code_revision(root: Path = _ROOT) -> dict[str, Any]:
    """Returns the commit of the code, and whether its files differ from it; both None where no commit holds them.

    Args:
        root: folder of the packages.
    """
    # Installed somewhere inside another repository, the code is none of its files.
    if _git(root, "ls-files", "--error-unmatch", *_CODE) is None:
        return {"git_commit": None, "git_dirty": None}
    commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--", *_CODE)
    return {"git_commit": commit, "git_dirty": None if commit is None else bool(changes)}


def _git(folder: Path, *words: str) -> str | None:
    """Returns what git answers in a folder; None where it refuses, or there is no git."""
    try:
        answer = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def machine(device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """Returns what the run runs on: the device's name, the ranks and the cores that this process may use."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "world_size": ranks.world_size,
        "num_cores": num_cores(),
    }
