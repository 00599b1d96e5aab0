"""Which device a program runs on."""

from __future__ import annotations

import torch

from lava_model.errors import ConfigError


def choose_device(name: str, local_rank: int = 0, *, option: str = "--run.device") -> torch.device:
    """Returns the device of a name: ``auto`` is cuda where there is one, ``cuda`` this rank's GPU; fp32 is no TF32.

    Args:
        name: auto, cpu, cuda or cuda:N.
        local_rank: of this process on its machine.
        option: the command-line option that names it, for the message.

    Raises:
        ConfigError: the name is no such device, or the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(_not_a_device(name, option)) from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(_not_a_device(name, option))
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise ConfigError(f"{option} is {name}, but torch sees no GPU here: use {option} cpu")
    index = local_rank if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ConfigError(f"there is no GPU {index}, torch sees {torch.cuda.device_count()}: use another {option}")
    # torch leaves convolutions, other than matrix products, to TF32: then fp32 would not be what it says.
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", index)


def _not_a_device(name: str, option: str) -> str:
    return f"{option} {name!r} is not a device we run on: use auto, cpu, cuda or cuda:N"
