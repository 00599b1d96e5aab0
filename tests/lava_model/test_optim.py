"""Optimiser groups and the learning-rate schedule."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from lava_model.config import OptimConfig
from lava_model.model import Lava
from lava_model.optim import build_optimizer, load_optimizer, lr_at, set_lr, split_by_decay
from lava_model.presets import tiny


def test_warm_up_then_cosine_to_the_end():
    config = OptimConfig(lr=1.0, warmup_fraction=0.1)
    rates = [lr_at(step, 101, config) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.0)
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))


def test_other_schedules():
    assert lr_at(99, 100, OptimConfig(lr=2.0, final_lr_fraction=0.1)) == pytest.approx(0.2)
    assert lr_at(99, 100, OptimConfig(lr=2.0, schedule="constant")) == 2.0
    assert lr_at(0, 1, OptimConfig(lr=2.0, warmup_fraction=0.0)) == 2.0


def test_a_state_goes_on_with_the_kernels_of_the_device_at_hand():
    """A run may move to a GPU and back: the checkpoint says with which kernels it was made."""
    layer = torch.nn.Linear(2, 2)
    optimizer = build_optimizer(layer, OptimConfig())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    elsewhere = {**state, "param_groups": [{**group, "fused": True} for group in state["param_groups"]]}
    again = build_optimizer(layer, OptimConfig())
    load_optimizer(again, elsewhere)
    assert [group["fused"] for group in again.param_groups] == [False, False]
    assert all(
        torch.equal(again.state[p][name], optimizer.state[p][name])
        for p in layer.parameters()
        for name in ("step", "exp_avg")
    )


def test_only_matrices_decay_and_the_trunk_is_left_out():
    model = Lava(replace(tiny().model, width=32, num_heads=2, pooling="cls"))
    decayed, kept = split_by_decay(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(names[id(parameter)].endswith("weight") and parameter.ndim == 2 for parameter in decayed)
    kept_names = [names[id(parameter)] for parameter in kept]
    assert "text_encoder.token.weight" in kept_names
    assert "video_encoder.time_positions" in kept_names
    assert "audio_encoder.transformer.cls" in kept_names
    assert sum("trunk" in names[id(parameter)] for parameter in [*decayed, *kept]) == 0
    assert len(decayed) + len(kept) == sum(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_optimizer_is_as_configured(name, kind):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    optimizer = build_optimizer(model, OptimConfig(name=name, lr=0.5, weight_decay=0.1, betas=(0.8, 0.9)))
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 3]
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    set_lr(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}
