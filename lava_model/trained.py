"""A trained model, wherever it lies: an exported folder, a run folder, or one checkpoint."""

from __future__ import annotations

from pathlib import Path

from lava_model.checkpoint import TrainingState, list_checkpoints, load_checkpoint
from lava_model.errors import CheckpointError, ConfigError
from lava_model.files import located
from lava_model.model import Lava
from lava_model.pretrained import WEIGHTS_FILE, saved_config, what_it_is


def load_model(path: Path) -> tuple[Lava, Path]:
    """Returns the model of an exported folder, of a run folder or of one checkpoint file, and where it was found.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    place = find_model(path)
    if place.is_dir():
        return Lava.from_pretrained(place), place
    return model_of_checkpoint(load_checkpoint(place), place), place


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
