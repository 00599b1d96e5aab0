"""The moving average of the weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lava_model.ema import MovingAverage
from lava_model.errors import CheckpointError
from lava_model.model import Lava
from tests.lava_model.tiny import TINY


def test_the_average_is_that_of_the_formula_in_float64() -> None:
    model = Lava(TINY)
    average = MovingAverage(model, 0.6)
    weight = model.heads["av_video"].weight
    expected = weight.detach().double().clone()
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 15):
        with torch.no_grad():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
        average.update(step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach().double()
    found = average.model.heads["av_video"].weight
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    assert found.dtype == torch.float32
    assert not torch.equal(found, weight)


def test_it_holds_trained_weights_alone_and_shares_the_frozen_ones() -> None:
    model = Lava(TINY)
    average = MovingAverage(model, 0.9)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert average.state_dict().keys() == trained.keys()
    for name, parameter in model.named_parameters():
        assert (average.model.get_parameter(name) is parameter) == (name not in trained)
    assert all(average.model.get_buffer(name) is buffer for name, buffer in model.named_buffers())
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in trained.values())
    assert not average.model.training


def test_it_goes_on_from_its_state_and_refuses_another_models() -> None:
    first, second = MovingAverage(Lava(TINY), 0.9), MovingAverage(Lava(TINY), 0.9)
    second.load_state_dict(first.state_dict())
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)
        assert second.state_dict()[name] is not tensor
    other = MovingAverage(Lava(replace(TINY, embedding_dim=8)), 0.9)
    for state in (other.state_dict(), {}):
        with pytest.raises(CheckpointError, match="moving average is not of a model of its own settings"):
            first.load_state_dict(state)
