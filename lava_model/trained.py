"""A trained model, wherever it lies: an exported folder, a run folder, or one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lava_model.checkpoint import TrainingState, list_checkpoints, load_checkpoint
from lava_model.config import LavaConfig
from lava_model.data import digest
from lava_model.errors import CheckpointError, ConfigError
from lava_model.files import located
from lava_model.model import Lava
from lava_model.pretrained import WEIGHTS_FILE, saved_config, what_it_is
from lava_model.settings import to_dict

_UNSEEN = ("num_heads", "pooling", "positions")
"""Settings of the model that no shape of a tensor tells, and without which the weights mean nothing."""
_FREE = ("dropout", "frame_size", "frame_rate", "short_side", "pixel_format", "trunk_weights", "trunk_seed")
"""Those that may differ: they say what clips are cut to, or how the weights came about."""


def load_model(path: Path) -> tuple[Lava, Path]:
    """Returns the model of an exported folder, of a run folder or of one checkpoint file, and where it was found.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    place = find_model(path)
    if place.is_dir():
        return Lava.from_pretrained(place), place
    return model_of_checkpoint(load_checkpoint(place), place), place


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstWeights:
    """Weights for a run to begin with."""

    place: Path
    """Checkpoint file or exported folder that they were found in."""
    state: Mapping[str, Tensor]
    """State of the model, with the moving average where one was kept."""
    tokenizer: str | None
    """Digest of the tokenizer that they know the ids of, where it is known."""


def first_weights(path: Path, config: LavaConfig) -> FirstWeights:
    """Returns the weights of an exported folder, run folder or checkpoint, for a new run of a model like it.

    Args:
        path: where they are; of a run folder the newest checkpoint counts.
        config: of the model that shall take them: sizes, heads, pooling and positions must be theirs, what clips are
            cut to may differ.

    Raises:
        CheckpointError: there are none, or they do not fit; the text names settings and shapes.
    """
    place = find_model(path)
    if place.is_dir():
        model = Lava.from_pretrained(place)
        tokenizer = None if model.tokenizer is None else digest(model.tokenizer.path)
    else:
        checkpoint = load_checkpoint(place)
        model, tokenizer = model_of_checkpoint(checkpoint, place), checkpoint.fingerprint.get("tokenizer")
    state = model.state_dict()
    with torch.device("meta"):
        wanted = Lava(config).state_dict()
    unlike = [name for name in {**wanted, **state} if _shape(state, name) != _shape(wanted, name)]
    theirs, ours = to_dict(model.config), to_dict(config)
    settings = [
        name for name in ours if theirs[name] != ours[name] and (unlike or name in _UNSEEN) and name not in _FREE
    ]
    if unlike or settings:
        named = ", ".join(f"{name} ({theirs[name]} there, {ours[name]} here)" for name in settings)
        more = f" and {len(unlike) - 1} more" if len(unlike) > 1 else ""
        shapes = [f"{_shape(state, name)} there, {_shape(wanted, name)} here" for name in unlike[:1]]
        tensors = f"; {unlike[0]} is {shapes[0]}{more}" if unlike else ""
        options = " ".join(f"--model.{name.replace('_', '-')} {theirs[name]}" for name in settings)
        raise CheckpointError(
            f"the weights of {place} do not fit the model of this run: {named}{tensors}; pass {options} to take them"
        )
    return FirstWeights(place=place, state=state, tokenizer=tokenizer)


def _shape(state: Mapping[str, Tensor], name: str) -> str:
    if name not in state:
        return "missing"
    return " x ".join(map(str, state[name].shape)) or "one number"


def find_model(path: Path) -> Path:
    """Returns the exported folder, or the checkpoint file, that an exported folder, run folder or checkpoint names.

    Of a run folder the newest checkpoint counts, since an export may be older.

    Raises:
        CheckpointError: there is none.
    """
    path = located(path)
    if not path.exists():
        raise CheckpointError(f"there is no {path}: give an exported model, a run folder or a step_*.pt file")
    checkpoints = [path] if path.is_file() else list_checkpoints(path / "checkpoints") or list_checkpoints(path)
    for export in (path, path / "export"):
        if (export / WEIGHTS_FILE).is_file() and not checkpoints:
            return export
    if not checkpoints:
        raise CheckpointError(
            f"{path} holds neither an exported model ({WEIGHTS_FILE}) nor checkpoints (step_*.pt){what_it_is(path)}"
        )
    return checkpoints[-1]


def model_of_checkpoint(state: TrainingState, path: Path) -> Lava:
    """Returns the model of a checkpoint, with the moving average of its weights where one was kept.

    Raises:
        CheckpointError: its settings and its weights are not those of a model.
    """
    try:
        config = saved_config(state.config["model"])
    except (ConfigError, KeyError) as error:
        raise CheckpointError(f"{path} has model settings that do not fit: {error}") from error
    return Lava.from_state(config, state.weights, source=path).eval()
