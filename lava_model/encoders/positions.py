"""Where a token stands, as a vector added to it: learned, or fixed sinusoids (Vaswani et al. 2017, section 3.5).

Sinusoids are computed where they are used: nothing of them is in a checkpoint, and a model that is built on the meta
device and then given a checkpoint's tensors has them too.

Axes: S tokens, T frames, G cells per side, P cells of a frame (G * G, row by row), D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lava_model.config import LavaConfig

_LONGEST_PERIOD = 10_000
"""Of the slowest pair of sine and cosine, over 2 pi, in tokens."""


def learned_positions(num_positions: int, width: int) -> nn.Parameter:
    """Returns zero-mean learned vectors (num_positions, width) of about unit length."""
    return nn.Parameter(torch.randn(num_positions, width) * width**-0.5)


def row_positions(config: LavaConfig, num_tokens: int) -> nn.Parameter | None:
    """Returns the learned vectors (S, D) of tokens in one row, or None where ``config`` wants sinusoids."""
    return None if config.positions == "sinusoidal" else learned_positions(num_tokens, config.width)


def sinusoids(num_positions: int, width: int, like: Tensor) -> Tensor:
    """Returns fixed vectors (num_positions, width): sines of the position in the first half, cosines in the second.

    The angle of pair i of n is position / 10000^(i / n). The root mean square of a component is sqrt(1/2).

    Args:
        num_positions: counted from 0.
        width: of a vector; where it is odd the last cosine is left out.
        like: gives device and type.
    """
    num_pairs = max(1, -(-width // 2))
    pair = torch.arange(num_pairs, device=like.device, dtype=like.dtype)
    position_S1 = torch.arange(num_positions, device=like.device, dtype=like.dtype)[:, None]
    angle = position_S1 * torch.exp(pair * (-math.log(_LONGEST_PERIOD) / num_pairs))
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width]


def grid_sinusoids(num_frames: int, grid: int, width: int, like: Tensor) -> Tensor:
    """Returns fixed vectors (T, P, D) of the cells of frames: sinusoids of time, row and column beside each other.

    Row and column have the even number of components nearest below a third of the width, time the rest.
    """
    per_side = width // 6 * 2
    time_TD = sinusoids(num_frames, width - 2 * per_side, like)
    side_GD = sinusoids(grid, per_side, like)
    parts = (time_TD[:, None, None], side_GD[None, :, None], side_GD[None, None, :])
    spread = [part.expand(num_frames, grid, grid, -1) for part in parts]
    return torch.cat(spread, dim=-1).flatten(1, 2)
