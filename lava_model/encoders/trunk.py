"""The frozen ResNet-18 that turns frames into patch features (LAVA paper, section 3).

It never trains: eval mode whatever the model's mode (BatchNorm keeps its stored statistics), no gradient, ImageNet
mean and standard deviation on the input.

Axes: B batch, T frames, N frames of all samples, H height, W width, C colour, G cells per side, P cells of a frame,
D channels. Frames are RGB (H, W, C), or (H * 3 / 2, W) in 4:2:0.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from lava_model.config import LavaConfig
from lava_model.errors import WeightsError
from lava_model.pixels import rgb_from_yuv420

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_FRAMES_AT_ONCE = 1024
"""Bounds the memory of the first layers, whose maps are the largest of the whole model."""


class Trunk(nn.Module):
    """Frozen ResNet-18, cut after a stage and pooled to a grid of cells.

    Built on the meta device it has shapes only; its weights then come from ``load_state_dict``.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: LavaConfig) -> None:
        super().__init__()
        self.stage = config.trunk_stage
        self.grid = config.video_grid
        self.resnet = _bare_resnet(config.trunk_stage, config.trunk_seed)
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1) * 255)
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1) * 255)
        if not self.pixel_mean.is_meta and config.trunk_weights != "random":
            _load(self.resnet, config.trunk_weights, config.trunk_stage)
        self.resnet.to(memory_format=torch.channels_last)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        """Returns features (B, T, P, D) of frames, uint8 (B, T, H, W, C) or (B, T, H * 3 / 2, W).

        P cells in row order, D ``trunk_channels``.
        """
        B, T = video.shape[:2]
        chunks = torch.split(video.flatten(0, 1), _FRAMES_AT_ONCE)
        maps_NDGG = torch.cat([self._frames(chunk) for chunk in chunks])
        return maps_NDGG.flatten(2).transpose(1, 2).reshape(B, T, self.grid**2, -1)

    def _frames(self, frames: Tensor) -> Tensor:
        # NHWC seen as NCHW already lies in channels_last order: no copy.
        if frames.ndim == 3:
            pixels_NCHW = rgb_from_yuv420(frames, self.pixel_mean.flatten(), self.pixel_std.flatten()).movedim(3, 1)
        else:
            pixels_NCHW = (frames.movedim(3, 1).float() - self.pixel_mean) / self.pixel_std
        resnet = self.resnet
        maps: Tensor = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(pixels_NCHW))))
        for stage in range(1, self.stage + 1):
            maps = getattr(resnet, f"layer{stage}")(maps)
        return maps if maps.shape[-1] == self.grid else F.adaptive_avg_pool2d(maps, self.grid)


def _bare_resnet(stage: int, seed: int) -> Any:
    """Returns torchvision's ResNet-18 without what follows the stage; same seed, same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        resnet = torchvision.models.resnet18(weights=None)
    for name in (*(f"layer{later}" for later in range(stage + 1, 5)), "avgpool", "fc"):
        setattr(resnet, name, nn.Identity())
    return resnet


def _load(resnet: nn.Module, weights: str, stage: int) -> None:
    state = _imagenet_state() if weights == "imagenet" else _file_state(Path(weights))
    prefixes = ("conv1.", "bn1.", *(f"layer{used}." for used in range(1, stage + 1)))
    try:
        resnet.load_state_dict({name: tensor for name, tensor in state.items() if name.startswith(prefixes)})
    except RuntimeError as error:
        raise WeightsError(f"{weights} does not hold the weights of torchvision's ResNet-18") from error


def _imagenet_state() -> Mapping[str, Tensor]:
    try:
        # torch.hub announces the download on stdout, which belongs to the program's answer.
        with contextlib.redirect_stdout(sys.stderr):
            state: Mapping[str, Tensor] = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.get_state_dict(
                progress=False, check_hash=True
            )
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"the ImageNet weights of the trunk cannot be downloaded ({_brief(error)}): pass --model.trunk-weights with"
            " a file of torchvision's ResNet-18 weights, or 'random' to train on an untrained trunk"
        ) from error
    return state


def _file_state(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"no trunk weights at {path}: --model.trunk-weights takes imagenet, random or a file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            # A foreign pickle makes torch warn before it refuses; the refusal is enough.
            warnings.simplefilter("ignore", UserWarning)
            state = torch.load(path, map_location="cpu", weights_only=True)
    # torch.load may call a damaged or foreign file any of these.
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        safetensors.SafetensorError,
        UnpicklingError,
    ) as error:
        raise WeightsError(f"{path} cannot be read as tensors ({_brief(error)})") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise WeightsError(f"{path} does not hold a mapping of names to tensors")
    return state


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
