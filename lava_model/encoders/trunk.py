"""The frozen ResNet-18 that turns frames into patch features (LAVA paper, section 3).

It never trains: eval mode whatever the model's mode (BatchNorm keeps its stored statistics), no gradient, ImageNet
mean and standard deviation on the input. Frames stay uint8 up to here, and all of it lies in channels-last order.

Axes: B batch, T frames, N frames of all samples, H height, W width, C colour, G cells per side, P cells of a frame,
D channels. Frames are RGB (H, W, C), or (H * 3 / 2, W) in 4:2:0.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from lava_model.config import LavaConfig
from lava_model.encoders.trunk_weights import load_trunk_weights
from lava_model.pixels import rgb_from_yuv420

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

PIXELS_AT_ONCE = 1024 * 224**2
"""Bounds the memory of the first layers, whose maps are the largest of the whole model (1.6 GB in bf16)."""
_PIXELS_AT_ONCE_CPU = 4 * 224**2
"""The same for a CPU, where maps that stay in its cache save about a tenth of the time."""


class Trunk(nn.Module):
    """Frozen ResNet-18, cut after a stage and pooled to a grid of cells.

    Built on the meta device it has shapes only; its weights then come from ``load_state_dict``.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: LavaConfig) -> None:
        super().__init__()
        self.resnet = _frozen_resnet(config)
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1) * 255)
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1) * 255)
        if not self.pixel_mean.is_meta and config.trunk_weights != "random":
            load_trunk_weights(self.resnet, config.trunk_weights)
        self.resnet.to(memory_format=torch.channels_last)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        """Returns features (B, T, P, D) of frames, uint8 (B, T, H, W, C) or (B, T, H * 3 / 2, W).

        P cells in row order, D ``trunk_channels``; a frame's features do not depend on the others'.
        """
        B, T = video.shape[:2]
        frames = video.flatten(0, 1)
        maps_NDGG = torch.cat([self.resnet(part, self.pixel_mean, self.pixel_std) for part in _parts(frames)])
        return maps_NDGG.flatten(2).transpose(1, 2).reshape(B, T, -1, maps_NDGG.shape[1])


class _FrameEncoder(ResNet):  # type: ignore[misc]  # torchvision has no types
    """ResNet-18 without what follows a stage; parameters are named, and drawn, as torchvision's."""

    def __init__(self, stage: int, grid: int) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.stage = stage
        self.grid = grid
        for name in (*(f"layer{later}" for later in range(stage + 1, 5)), "avgpool", "fc"):
            setattr(self, name, nn.Identity())

    def forward(self, frames: Tensor, mean_1C11: Tensor, std_1C11: Tensor) -> Tensor:
        """Returns maps (N, D, G, G), in channels-last order, of uint8 frames (N, H, W, C) or (N, H * 3 / 2, W)."""
        # NHWC seen as NCHW already lies in channels-last order: no copy.
        if frames.ndim == 3:
            pixels_NCHW = rgb_from_yuv420(frames, mean_1C11.flatten(), std_1C11.flatten()).movedim(3, 1)
        else:
            pixels_NCHW = (frames.movedim(3, 1) - mean_1C11).div_(std_1C11)
        maps: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(pixels_NCHW))))
        for stage in range(1, self.stage + 1):
            maps = getattr(self, f"layer{stage}")(maps)
        return maps if maps.shape[-1] == self.grid else F.adaptive_avg_pool2d(maps, self.grid)


def _frozen_resnet(config: LavaConfig) -> _FrameEncoder:
    """Returns the network with weights of a seed; the caller's random numbers stay."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.trunk_seed)
        return _FrameEncoder(config.trunk_stage, config.video_grid)


def _parts(frames: Tensor) -> tuple[Tensor, ...]:
    """Returns the frames in parts of equal length, to one, so that a compiled trunk sees hardly more than one shape."""
    pixels = _PIXELS_AT_ONCE_CPU if frames.device.type == "cpu" else PIXELS_AT_ONCE
    at_once = max(1, pixels // (frames.shape[1] * frames.shape[2]))
    return frames.tensor_split(-(-len(frames) // at_once) or 1)
