"""A model as a folder that outlives this code: tensors in safetensors, everything else in JSON and Markdown.

::

    model.safetensors   all weights, the trunk's included: reading never downloads
    config.json         format, model settings, preprocessing (frames, mel, text), what is known of the training
    tokenizer.json      the tokenizer, where one was given
    README.md           the model card, made of the same facts

The same model and facts give the same bytes. Reading unpickles nothing and runs nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

import lava_model
from k700_text.data.text import TitleTokenizer
from k700_text.errors import TokenizerError
from k700_text.files.atomic import PartFile, remove_abandoned
from k700_text.media.levels import SILENCE_DBFS
from k700_text.media.names import VIDEO_EXTENSIONS
from k700_text.media.shards import is_prepared
from lava_model.card import CARD_MARK, model_card
from lava_model.checkpoint import list_checkpoints
from lava_model.config import EARLIER_SETTINGS, LavaConfig
from lava_model.encoders.trunk import IMAGENET_MEAN, IMAGENET_STD
from lava_model.errors import CheckpointError, ConfigError
from lava_model.facts import ModelFacts
from lava_model.settings import flatten, from_dict, to_dict

if TYPE_CHECKING:
    from lava_model.model import Lava

FORMAT = "lava-model"
FORMAT_VERSION = 2
_EARLIER_VERSION = 1
"""Had no facts, no card, no digest of the tokenizer; and what trains was listed with the preprocessing."""

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
CARD_FILE = "README.md"
FILES = (WEIGHTS_FILE, CONFIG_FILE, TOKENIZER_FILE, CARD_FILE)
_IN_TURN = (CARD_FILE, TOKENIZER_FILE, WEIGHTS_FILE, CONFIG_FILE)
"""As they are written: the card tells whose the folder is, the configuration that it is whole."""

_MAX_CONFIG_BYTES = 2**24
"""What is larger is no configuration of ours, which has some kilobytes, and is not read."""

_TRAINING_ONLY = ("horizontal_flip", "noise_std")

LavaT = TypeVar("LavaT", bound="Lava")


def write_model(model: Lava, folder: Path, *, tokenizer: Path | None, facts: ModelFacts | None) -> None:
    """Writes the folder, over an earlier export if there is one.

    Everything is on the disk under other names before the first file is replaced, and config.json goes first and comes
    last: a folder that has it is whole.

    Args:
        model: its weights are written as float32.
        folder: new, empty, or an earlier export.
        tokenizer: its file; None: the one that the model was loaded with, if any.
        facts: what the card says about the training; None: that it is not known.

    Raises:
        CheckpointError: the folder cannot be written or holds something else, or the tokenizer is missing, is none, or
            has more entries than the model.
    """
    facts = facts or ModelFacts()
    if tokenizer is None and model.tokenizer is not None:
        tokenizer = model.tokenizer.path
    words = None if tokenizer is None else _tokenizer_bytes(tokenizer, model.config)
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "lava_model_version": lava_model.__version__,
        "model": to_dict(model.config),
        "preprocessing": preprocessing(model.config),
        "tokenizer_sha256": None if words is None else hashlib.sha256(words).hexdigest(),
        "facts": facts.to_dict(),
    }
    card = model_card(model.config, facts, preprocessing(model.config), num_parameters=_num_parameters(model))
    state = {name: _as_written(tensor) for name, tensor in model.state_dict().items()}
    contents: dict[str, Callable[[Path], Any]] = {
        WEIGHTS_FILE: lambda path: safetensors.torch.save_file(state, path, {"format": "pt"}),
        CARD_FILE: lambda path: path.write_text(card, "utf-8"),
        CONFIG_FILE: lambda path: path.write_text(json.dumps(config, indent=2) + "\n", "utf-8"),
    }
    if words is not None:
        contents[TOKENIZER_FILE] = lambda path: path.write_bytes(words)
    try:
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _replace_all(folder, contents)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"the model cannot be written to {folder} ({error}): make room or choose another place, then run the same"
            " command again"
        ) from error


def read_model(cls: type[LavaT], folder: Path) -> LavaT:
    """Returns the model of a folder, with its tokenizer.

    Raises:
        CheckpointError: the folder or a file is missing, foreign, or does not fit its configuration.
    """
    values = _read_values(folder)
    config = _model_config(folder / CONFIG_FILE, values)
    _check_preprocessing(folder / CONFIG_FILE, values, config)
    tokenizer = _read_tokenizer(folder, values, config)
    state = _read_weights(folder / WEIGHTS_FILE)
    with torch.device("meta"):
        model = cls(config)
    _check_fit(folder, model.state_dict(), state)
    model.load_state_dict(state, assign=True)
    # safetensors keeps no memory layout; the frozen convolutions are fastest, and were trained on, in this one.
    model.video_encoder.trunk.resnet.to(memory_format=torch.channels_last)
    model.tokenizer = tokenizer
    model.eval()
    return model


def read_facts(folder: Path) -> ModelFacts:
    """Returns what an exported folder says about its training; nothing, of an earlier version's.

    Raises:
        CheckpointError: config.json is missing, foreign or of a newer format.
    """
    return ModelFacts.from_dict(_read_values(folder).get("facts"))


def saved_config(values: Mapping[str, Any]) -> LavaConfig:
    """Returns model settings as some version has saved them.

    Raises:
        ConfigError: a setting is unknown or does not fit.
    """
    earlier = {name.removeprefix("model."): value for name, value in EARLIER_SETTINGS.items() if "model." in name}
    return from_dict(LavaConfig, {**earlier, **values})


def preprocessing(config: LavaConfig) -> dict[str, dict[str, Any]]:
    """Returns what has to be done to a clip and its title before the model sees them, for those who read it elsewhere.

    ``pixel_mean`` and ``pixel_std`` are applied by the model itself, to RGB of 0 to 1.
    """
    parts = {
        "video": asdict(config.video_config()),
        "audio": {**asdict(config.audio_config()), "silence_dbfs": SILENCE_DBFS},
        "text": asdict(config.text_config()),
    }
    listed = {
        part: {name: value for name, value in values.items() if name not in _TRAINING_ONLY}
        for part, values in parts.items()
    }
    return {**listed, "pixels": {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}}


# --- writing ---


def _as_written(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.float() if tensor.is_floating_point() else tensor


def _num_parameters(model: Lava) -> dict[str, int]:
    frozen = sum(parameter.numel() for parameter in model.video_encoder.trunk.parameters())
    return {"trained": sum(parameter.numel() for parameter in model.parameters()) - frozen, "frozen": frozen}


def _tokenizer_bytes(path: Path, config: LavaConfig) -> bytes:
    _open_tokenizer(path, config)
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read the tokenizer {path}: {error}") from error


def check_folder(folder: Path) -> None:
    """Refuses to write a model where a file of another kind would be written over, or removed.

    Raises:
        CheckpointError: the folder is a file, or holds such a file; or it cannot be read.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"{folder} is no folder: a model cannot be written there, move it away")
        other = [name for name in FILES if (folder / name).exists()]
        if other and not _is_export(folder):
            raise CheckpointError(
                f"{folder} holds something else than an exported model (its {other[0]}): choose a folder of its own, or"
                " move it away"
            )
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error


def _is_export(folder: Path) -> bool:
    """Whether a folder's files are those of an export, or of one that was cut short: the card is written first."""
    config, card = folder / CONFIG_FILE, folder / CARD_FILE
    if not config.exists():
        return card.exists() and CARD_MARK in card.read_text("utf-8", "replace")
    try:
        return bool(json.loads(config.read_text("utf-8")).get("format") == FORMAT)
    except (ValueError, AttributeError, RecursionError):
        return False


def _replace_all(folder: Path, contents: Mapping[str, Callable[[Path], Any]]) -> None:
    with ExitStack() as stack:
        outputs: dict[str, PartFile] = {}
        for name in (name for name in _IN_TURN if name in contents):
            remove_abandoned(folder / name)
            outputs[name] = PartFile(folder / name)
            stack.callback(outputs[name].discard)
            contents[name](outputs[name].part)
            outputs[name].sync()
        (folder / CONFIG_FILE).unlink(missing_ok=True)
        for name in _IN_TURN:
            if name in outputs:
                outputs[name].publish()
            else:
                (folder / name).unlink(missing_ok=True)


# --- reading ---


def _read_values(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(_nothing_there(folder))
    try:
        if (size := path.stat().st_size) > _MAX_CONFIG_BYTES:
            raise ValueError(f"{size:,} bytes are more than {_MAX_CONFIG_BYTES:,}")
        values: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT or not isinstance(values.get("model"), dict):
        raise CheckpointError(f"{path} is not the configuration of an exported LAVA model{what_it_is(folder)}")
    if values.get("format_version") not in (_EARLIER_VERSION, FORMAT_VERSION):
        raise CheckpointError(
            f"{path} has format version {values.get('format_version')}, this lava_model reads {_EARLIER_VERSION} to"
            f" {FORMAT_VERSION}: install a newer one"
        )
    return values


def what_it_is(folder: Path) -> str:
    """Returns what a folder is that is no exported model, to end a message with: a hint, or nothing."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    suffixes = {Path(name).suffix.lower() for name in names}
    if (folder / "export" / CONFIG_FILE).is_file():
        return f": did you mean {folder / 'export'}?"
    if list_checkpoints(folder / "checkpoints"):
        return (
            f": it is a run that has not ended (python -m lava_model.export {folder} --out FOLDER makes a model of it)"
        )
    for kind, is_it in {
        "checkpoints of a run, whose own folder is the one above": bool(list_checkpoints(folder)),
        "a run that has no checkpoint yet": "starts.jsonl" in names,
        "a folder with nothing in it": not names,
        "prepared shards, which are for --clips": folder.is_dir() and is_prepared(folder),
        "a folder of manifests or other tables": ".parquet" in suffixes,
        "a folder of clips": bool(suffixes & VIDEO_EXTENSIONS),
    }.items():
        if is_it:
            return f": it is {kind}"
    return ""


def _nothing_there(folder: Path) -> str:
    if not folder.exists():
        return f"there is no such folder: {folder}"
    if folder.is_file():
        return f"{folder} is a file: give the folder of an exported model (python -m lava_model.export makes one)"
    if (folder / WEIGHTS_FILE).is_file():
        return f"no whole exported model at {folder}: {CONFIG_FILE} is missing, so writing it was cut short"
    return f"no exported model at {folder}: {CONFIG_FILE} is missing{what_it_is(folder)}"


def _model_config(path: Path, values: Mapping[str, Any]) -> LavaConfig:
    try:
        return saved_config(values["model"])
    except ConfigError as error:
        raise CheckpointError(f"{path} has settings that do not fit: {error}") from error


def _check_preprocessing(path: Path, values: Mapping[str, Any], config: LavaConfig) -> None:
    """Refuses a model that was trained on samples made in another way than this version makes them."""
    recorded = values.get("preprocessing")
    ours = flatten(preprocessing(config))
    for name, value in flatten(recorded if isinstance(recorded, dict) else {}).items():
        if not name.endswith(_TRAINING_ONLY) and ours.get(name) != value:
            raise CheckpointError(
                f"{path} says preprocessing.{name} is {value!r}, but of these model settings this lava_model makes it"
                f" {ours.get(name)!r}: the two do not belong together"
            )


def _read_tokenizer(folder: Path, values: Mapping[str, Any], config: LavaConfig) -> TitleTokenizer | None:
    path = folder / TOKENIZER_FILE
    if values["format_version"] == _EARLIER_VERSION:
        return _open_tokenizer(path, config) if path.is_file() else None
    digest = values.get("tokenizer_sha256")
    if digest is None:
        return None
    if not path.is_file():
        raise CheckpointError(f"no whole exported model at {folder}: {TOKENIZER_FILE} is missing")
    tokenizer = _open_tokenizer(path, config)
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise CheckpointError(f"{path} is not the tokenizer that the model was exported with: its ids mean other words")
    return tokenizer


def _open_tokenizer(path: Path, config: LavaConfig) -> TitleTokenizer:
    try:
        return TitleTokenizer(path, max_vocab_size=config.vocab_size)
    except TokenizerError as error:
        raise CheckpointError(str(error)) from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"no exported model at {path.parent}: {path.name} is missing")
    try:
        state: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    return state


def _check_fit(folder: Path, expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> None:
    both = [name for name in expected if name in actual]
    faults = {
        "lacks": sorted(expected.keys() - actual.keys()),
        "has the foreign": sorted(actual.keys() - expected.keys()),
        "has another shape of": [name for name in both if expected[name].shape != actual[name].shape],
        "has another type of": [name for name in both if expected[name].dtype != actual[name].dtype],
    }
    for what, names in faults.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{folder / WEIGHTS_FILE} {what} {names[0]}{more}: it does not fit its {CONFIG_FILE}")
