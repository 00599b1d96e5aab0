"""A model as a folder that outlives this code: tensors in safetensors, everything else in JSON.

::

    model.safetensors   all weights, the trunk's included: reading never downloads
    config.json         format, model settings, preprocessing (frames, mel, text)
    tokenizer.json      the tokenizer, where one was given
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

import lava_model
from lava_model.config import EARLIER_SETTINGS, LavaConfig
from lava_model.errors import CheckpointError, ConfigError
from lava_model.settings import from_dict, to_dict

if TYPE_CHECKING:
    from lava_model.model import Lava

FORMAT = "lava-model"
FORMAT_VERSION = 1

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"

LavaT = TypeVar("LavaT", bound="Lava")


def write_model(model: Lava, folder: Path, *, tokenizer: Path | None) -> None:
    """Writes the folder; config.json comes last, so a folder that has it is whole.

    Raises:
        CheckpointError: the folder cannot be written, or the tokenizer is missing.
    """
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "lava_model_version": lava_model.__version__,
        "model": to_dict(model.config),
        "preprocessing": {
            "video": asdict(model.config.video_config()),
            "audio": asdict(model.config.audio_config()),
            "text": asdict(model.config.text_config()),
        },
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / WEIGHTS_FILE, lambda path: safetensors.torch.save_file(state, path, {"format": "pt"}))
        if tokenizer is not None:
            _replace(folder / TOKENIZER_FILE, lambda path: shutil.copyfile(tokenizer, path))
        _replace(folder / CONFIG_FILE, lambda path: path.write_text(json.dumps(config, indent=2) + "\n", "utf-8"))
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"the model cannot be written to {folder}: {error}") from error


def read_model(cls: type[LavaT], folder: Path) -> LavaT:
    """Returns the model of a folder.

    Raises:
        CheckpointError: the folder or a file is missing, foreign, or does not fit its configuration.
    """
    config = read_config(folder)
    state = _read_weights(folder / WEIGHTS_FILE)
    with torch.device("meta"):
        model = cls(config)
    _check_fit(folder, model.state_dict(), state)
    model.load_state_dict(state, assign=True)
    model.eval()
    return model


def read_config(folder: Path) -> LavaConfig:
    """Returns the model settings of an exported folder.

    Raises:
        CheckpointError: config.json is missing, foreign or of a newer format.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"no exported model at {folder}: {CONFIG_FILE} is missing")
    try:
        values: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT or not isinstance(values.get("model"), dict):
        raise CheckpointError(f"{path} is not the configuration of an exported LAVA model")
    if values.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {values.get('format_version')}, this lava_model reads {FORMAT_VERSION}"
        )
    try:
        return saved_config(values["model"])
    except ConfigError as error:
        raise CheckpointError(f"{path} has settings that do not fit: {error}") from error


def saved_config(values: Mapping[str, Any]) -> LavaConfig:
    """Returns model settings as some version has saved them.

    Raises:
        ConfigError: a setting is unknown or does not fit.
    """
    earlier = {name.removeprefix("model."): value for name, value in EARLIER_SETTINGS.items() if "model." in name}
    return from_dict(LavaConfig, {**earlier, **values})


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"no exported model at {path.parent}: {path.name} is missing")
    try:
        state: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    return state


def _check_fit(folder: Path, expected: dict[str, Tensor], actual: dict[str, Tensor]) -> None:
    missing, foreign = sorted(expected.keys() - actual.keys()), sorted(actual.keys() - expected.keys())
    other = [name for name in expected if name in actual and expected[name].shape != actual[name].shape]
    for names, what in ((missing, "lacks"), (foreign, "has the foreign"), (other, "has another shape of")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{folder / WEIGHTS_FILE} {what} {names[0]}{more}: it does not fit its {CONFIG_FILE}")


def _replace(path: Path, write: Any) -> None:
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    partial.replace(path)
