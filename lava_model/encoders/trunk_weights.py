"""Weights of the frozen trunk: torchvision's ImageNet ones or those of a file, checked before they are used."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from lava_model.errors import WeightsError

_OPTION = "--model.trunk-weights"


def load_trunk_weights(resnet: nn.Module, weights: str) -> None:
    """Gives a ResNet-18, or its first stages, the weights that a setting names; what it has no place for is left out.

    Args:
        resnet: named as torchvision's.
        weights: ``imagenet``, which torchvision downloads, or the path of a file, ``.safetensors`` or what
            ``torch.save`` makes of a ``state_dict``. Nothing is unpickled but tensors.

    Raises:
        WeightsError: they cannot be had, do not fit, or are not finite. Nothing else is used in their place.
    """
    state = _imagenet_state() if weights == "imagenet" else _file_state(Path(weights))
    wanted = {name: tensor for name, tensor in resnet.state_dict().items() if not name.endswith("num_batches_tracked")}
    for name, tensor in wanted.items():
        problem = _problem(tensor, state.get(name))
        if problem:
            raise WeightsError(
                f"{weights} does not hold the weights of torchvision's ResNet-18: {name} {problem}; {_OPTION} takes"
                " imagenet, random or another file"
            )
    # Not strict: files older than PyTorch 0.4.1 have no num_batches_tracked, which a frozen BatchNorm has no use for.
    resnet.load_state_dict({name: state[name] for name in wanted}, strict=False)


def _problem(wanted: Tensor, found: Tensor | None) -> str:
    if found is None:
        return "is missing"
    if found.shape != wanted.shape:
        return f"is {tuple(found.shape)} instead of {tuple(wanted.shape)}"
    if not found.is_floating_point():
        return f"is {str(found.dtype).removeprefix('torch.')}, not floating point"
    return "" if found.isfinite().all() else "holds values that are not finite"


def _imagenet_state() -> Mapping[str, Tensor]:
    try:
        # torch.hub announces the download on stdout, which belongs to the program's answer.
        with contextlib.redirect_stdout(sys.stderr):
            state: Mapping[str, Tensor] = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.get_state_dict(
                progress=False, check_hash=True
            )
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"the ImageNet weights of the trunk cannot be downloaded ({_brief(error)}): pass {_OPTION} with"
            " a file of torchvision's ResNet-18 weights, or 'random' to train on an untrained trunk"
        ) from error
    return state


def _file_state(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"no trunk weights at {path}: {_OPTION} takes imagenet, random or a file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            # A foreign pickle makes torch warn before it refuses; the refusal is enough.
            warnings.simplefilter("ignore", UserWarning)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise WeightsError(
            f"{path} is no file of tensors, or holds more than tensors and could run code: {_OPTION} takes imagenet,"
            " random or a state_dict"
        ) from error
    # torch.load may call a damaged or foreign file any of these.
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, safetensors.SafetensorError) as error:
        raise WeightsError(
            f"{path} cannot be read as tensors ({_brief(error)}): {_OPTION} takes imagenet, random or another file"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise WeightsError(f"{path} does not hold a mapping of names to tensors")
    return state


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
