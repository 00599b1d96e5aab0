"""A moving average of a model's weights: often better than the weights of any one step.

It starts from the first weights, and its decay rises with the steps to the configured one,
``min(decay, (1 + step) / (10 + step))``, the rule of TensorFlow's ExponentialMovingAverage: with one decay throughout,
a short run's average would mostly be weights that never trained.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor

from lava_model.errors import CheckpointError
from lava_model.model import Lava


class MovingAverage:
    """A second model beside one that trains, whose weights are the moving average of the first's.

    ``model`` is that second one; it has no gradients, and shares the frozen trunk with the first.
    """

    def __init__(self, model: Lava, decay: float) -> None:
        """Starts from the weights that the model has.

        Args:
            model: trains elsewhere; call this before it is compiled.
            decay: share of the average that one step keeps, below 1.
        """
        self.decay = decay
        frozen = [tensor for tensor in chain(model.parameters(), model.buffers()) if not tensor.requires_grad]
        self.model = copy.deepcopy(model, {id(tensor): tensor for tensor in frozen}).requires_grad_(False).eval()
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._weights: list[Tensor] = [model.get_parameter(name) for name in names]
        self._averages: dict[str, Tensor] = {name: self.model.get_parameter(name) for name in names}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after optimiser step ``step``, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._averages.values()), self._weights, 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the averages by the names of the model's parameters, float32, not copied."""
        return {name: average.detach() for name, average in self._averages.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from what ``state_dict`` returned.

        Raises:
            CheckpointError: these are not the averages of such a model.
        """
        if {name: average.shape for name, average in self._averages.items()} != {n: t.shape for n, t in state.items()}:
            raise CheckpointError("the checkpoint's moving average is not of a model of its own settings")
        for name, average in self._averages.items():
            average.copy_(state[name])
