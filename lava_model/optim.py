"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lava_model.config import OptimConfig


def lr_at(step: int, total_steps: int, config: OptimConfig) -> float:
    """Returns the learning rate of a step, counted from 0, in a run of ``total_steps``.

    Linear warm-up over ``warmup_fraction`` of all steps, then a cosine that ends at ``final_lr_fraction`` of the peak
    on the last step.
    """
    warmup_steps = round(config.warmup_fraction * total_steps)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * (config.final_lr_fraction + (1 - config.final_lr_fraction) * cosine)


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Returns the optimiser over the model's trainable parameters, matrices with weight decay and the rest without."""
    decayed, kept = split_by_decay(model)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    # The fused step is one kernel on cuda; on the CPU the plain loop is the reference for exact resume.
    fused = all(parameter.is_cuda for parameter in decayed)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Continues from what ``state_dict`` gave, with the kernels of the device at hand, not of the one it was made on.

    Raises:
        KeyError, ValueError, RuntimeError, TypeError: it is the state of another optimiser.
    """
    own = optimizer.param_groups
    groups = [{**group, "fused": mine["fused"]} for group, mine in zip(state["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})


def split_by_decay(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Returns the trainable parameters that weight decay applies to (weights of linear layers), and the others."""
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return (
        [parameter for parameter in trainable if id(parameter) in linear],
        [parameter for parameter in trainable if id(parameter) not in linear],
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
