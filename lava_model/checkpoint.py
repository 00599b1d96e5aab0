"""Checkpoints of a training run: written whole or not at all, read without unpickling.

One file per checkpoint, ``step_00000500.pt``: tensors and plain values by torch.save, read back with
``weights_only=True``, which refuses everything else. It is written under another name, forced to the disk and renamed,
so a kill at any moment leaves the previous ones as they were. Its checksums are looked at before it is read.
"""

from __future__ import annotations

import random
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from k700_text.files.atomic import whole_file
from lava_model.config import EARLIER_SETTINGS
from lava_model.errors import CheckpointError
from lava_model.settings import flatten

FORMAT = "lava-checkpoint"
FORMAT_VERSION = 2
_NEW_IN_VERSION_2 = frozenset({"objective", "ema", "world_size"})
"""What checkpoints of version 1, whose runs had nothing of it, do not hold."""

_NOT_TOLD_BEFORE = frozenset({"clip_ids", "val_clip_ids"})
"""Of the data: what earlier versions did not look at."""

_KINDS = {
    **dict.fromkeys(("step", "epoch", "total_steps"), int),
    **dict.fromkeys(("config", "fingerprint", "model", "optimizer", "rng"), dict),
}

_REMEDY = "move it away to continue from the one before it, if there is one"

_NAME = re.compile(r"step_(\d+)\.pt")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """All that a run needs to go on as if nothing had happened."""

    step: int
    """Optimiser steps done; the next step has this number."""
    epoch: int
    """Passes over the data done."""
    total_steps: int
    """Length of the learning-rate schedule, whose place is ``step``."""
    config: dict[str, Any]
    """Nested dictionaries of the run's configuration."""
    fingerprint: dict[str, str]
    """What the data are, by content."""
    model: dict[str, Any]
    """State of the model, the trunk included."""
    optimizer: dict[str, Any]
    """State of the optimiser."""
    rng: dict[str, Any]
    """States of the random-number generators of the main process."""
    objective: dict[str, Any] = field(default_factory=dict)
    """State of the objective: a learned temperature, clusters."""
    ema: dict[str, Any] = field(default_factory=dict)
    """Moving averages of trained weights by their name in ``model``; empty where none is kept."""
    world_size: int | None = None
    """Processes that trained together; None: not known (version 1)."""

    @property
    def weights(self) -> dict[str, Any]:
        """State of the model that is evaluated and exported: with moving averages where they are kept."""
        return {**self.model, **self.ema}


def save_checkpoint(folder: Path, state: TrainingState, *, keep: int) -> Path:
    """Writes a checkpoint, then removes all but the ``keep`` newest; returns its path.

    Raises:
        CheckpointError: it cannot be written; earlier ones are untouched.
    """
    path = folder / f"step_{state.step:08d}.pt"
    content = {field.name: getattr(state, field.name) for field in fields(state)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".step_*.pt.*part*"):  # by a kill, of this or an earlier version
            left.unlink()
        with whole_file(path) as file:
            torch.save({"format": FORMAT, "format_version": FORMAT_VERSION, **content}, file)
        for old in list_checkpoints(folder)[:-keep]:
            old.unlink()
    except BaseException as error:
        # torch's zip writer turns a full disk, and Ctrl-C, into a RuntimeError about a position in the file.
        told = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(told, KeyboardInterrupt):
            raise told from None
        if not isinstance(error, OSError | RuntimeError):
            raise
        reason = told.strerror or str(told) if isinstance(told, OSError) else f"{_brief(error)}: is the disk full?"
        raise CheckpointError(
            f"the checkpoint {path} cannot be written ({reason}); earlier ones are intact: make room and run the same"
            " command again"
        ) from error
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the finished checkpoints of a folder, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("step_*.pt") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def load_checkpoint(path: Path) -> TrainingState:
    """Returns a checkpoint with its tensors on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, foreign, of another format, or holds a pickled object.
    """
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            # A foreign pickle makes torch warn before it refuses; the refusal is enough.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path} is no checkpoint, or holds more than tensors and plain values: refused, it could run code;"
            f" {_REMEDY}"
        ) from error
    # What is raised for a damaged file depends on where the damage is.
    except (
        *(OSError, RuntimeError, ValueError, LookupError, EOFError, TypeError, AttributeError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint ({_brief(error)}); {_REMEDY}") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of lava_model; {_REMEDY}")
    version = content.pop("format_version", None)
    names = {field.name for field in fields(TrainingState)}
    if version == 1:
        names -= _NEW_IN_VERSION_2
    if version not in (1, FORMAT_VERSION) or content.keys() != names:
        raise CheckpointError(f"{path} has format version {version}, this lava_model reads 1 to {FORMAT_VERSION}")
    if _overstretched(content):
        raise CheckpointError(f"{path} holds a tensor with more entries than are stored; {_REMEDY}")
    strange = [name for name, kind in _KINDS.items() if not isinstance(content[name], kind)]
    if strange:
        raise CheckpointError(f"{path} holds a strange {strange[0]}: {content[strange[0]]!r:.80}; {_REMEDY}")
    return TrainingState(**content)


def _check_archive(path: Path) -> None:
    """Looks at what torch.load does not: whether the parts are as long as the file, and their checksums.

    Raises:
        ValueError, OSError, BadZipFile: the file is another, or damaged.
    """
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError("there is no such file")
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise ValueError("its parts are compressed, torch.save writes them plain")
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise ValueError("its parts are longer than the file")
        if damaged := archive.testzip():
            raise ValueError(f"wrong checksum of {damaged}")


def _overstretched(values: Any) -> bool:
    """Whether a tensor in nested values has more entries than are stored: made dense, it may need any memory."""
    if isinstance(values, torch.Tensor):
        if values.layout is not torch.strided:
            return True
        return values.numel() * values.element_size() > values.untyped_storage().nbytes()
    if isinstance(values, Mapping):
        return any(map(_overstretched, values.values()))
    return isinstance(values, list | tuple) and any(map(_overstretched, values))


def check_same_run(
    state: TrainingState,
    config: Mapping[str, Any],
    fingerprint: Mapping[str, str],
    *,
    free: frozenset[str],
    path: Path,
    world_size: int = 1,
) -> None:
    """Refuses to continue a checkpoint with other settings, other data or a number of processes that changes the run.

    Args:
        state: what was loaded.
        config: nested dictionaries of the configuration asked for.
        fingerprint: of the data at hand.
        free: dotted names of settings that may change.
        path: of the checkpoint, for the message.
        world_size: processes at hand.

    Raises:
        CheckpointError: with the names of the settings, or of the data, that differ.
    """
    theirs, ours = flatten(state.config), flatten(config)
    theirs.update({name: EARLIER_SETTINGS[name] for name in EARLIER_SETTINGS.keys() & ours.keys() - theirs.keys()})
    free |= _free_by_processes(theirs, ours, state.world_size, world_size, path)
    differing = [
        f"{name} ({theirs.get(name)!r} there, {ours.get(name)!r} here)"
        for name in sorted(theirs.keys() | ours.keys())
        if name not in free and theirs.get(name) != ours.get(name)
    ]
    if differing:
        raise CheckpointError(f"{path} was made with other settings: {', '.join(differing)}; use another --out")
    told = state.fingerprint.keys() | (fingerprint.keys() - _NOT_TOLD_BEFORE)
    changed = [name for name in sorted(told) if state.fingerprint.get(name) != fingerprint.get(name)]
    if changed:
        hint = "; clip files came or went" if "manifest" not in changed and _NOT_TOLD_BEFORE & set(changed) else ""
        raise CheckpointError(
            f"{path} was made with other data: {', '.join(changed)} changed{hint}; put back what it was made with, or"
            " use another --out"
        )


def _free_by_processes(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], their_size: int | None, our_size: int, path: Path
) -> frozenset[str]:
    """Returns the settings that may differ because the run stays the same with these numbers of processes.

    The order of the clips depends only on how many all processes take together, and so does the loss where the
    negatives are those of all (of one process they always are).

    Raises:
        CheckpointError: the number of processes changes the run.
    """
    if their_size is None or their_size == our_size:
        return frozenset({"loss.negatives"} if our_size == 1 else ())
    sizes = [(their_size, theirs.get("data.batch_size")), (our_size, ours.get("data.batch_size"))]
    batches = [count * (size or 0) for count, size in sizes]
    contrasts_all = [
        count == 1 or settings.get("loss.negatives") == "global"
        for count, settings in ((their_size, theirs), (our_size, ours))
    ]
    if batches[0] != batches[1] or not all(contrasts_all):
        there, here = (f"{count} x {size} clips" for count, size in sizes)
        raise CheckpointError(
            f"{path} was made by other processes ({there} there, {here} here): it can go on only where all together"
            " take as many clips and contrast them with each other (loss.negatives global); start as many processes"
            " as before, or use another --out"
        )
    return frozenset({"loss.negatives", "data.batch_size"})


def capture_rng() -> dict[str, Any]:
    """Returns the states of the generators of python, numpy, torch and cuda as tensors and plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    assert name == "MT19937"
    return {
        "python": random.getstate(),
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(gauss),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(states: Mapping[str, Any]) -> None:
    """Sets the generators as ``capture_rng`` found them; cuda's only where as many devices are there."""
    random.setstate(states["python"])
    numpy = states["numpy"]
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["position"], numpy["has_gauss"], numpy["gauss"]))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    # A LookupError's text is what was looked for, which tells nobody anything.
    return lines[0].split(". ")[0][:160] if lines and not isinstance(error, LookupError) else type(error).__name__
