"""The loss on held-out clips: the same objective, the same batch size, always the same batches."""

from __future__ import annotations

import math
import random

import torch
from torch import nn

from lava_model.config import PretrainConfig
from lava_model.data import Samples
from lava_model.errors import DataError
from lava_model.loading import batches_of
from lava_model.loss import batch_loss
from lava_model.metrics import loss_at_chance, measure, report

_ORDER_SEED = 0


def heldout_batches(samples: Samples, config: PretrainConfig) -> list[list[int]]:
    """Returns the indices of the fixed batches: a seeded choice of full batches, ``eval_batches`` at most.

    Raises:
        DataError: there are fewer than two samples.
    """
    if len(samples) < 2:
        raise DataError(f"held-out evaluation needs at least 2 clips, got {len(samples)}")
    order = random.Random(_ORDER_SEED).sample(range(len(samples)), len(samples))
    size = min(config.data.batch_size, len(samples))
    batches = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    return batches[: config.run.eval_batches]


@torch.no_grad()
def evaluate_heldout(
    model: nn.Module, samples: Samples, config: PretrainConfig, device: torch.device, autocast: torch.autocast
) -> dict[str, float | int | None]:
    """Returns mean loss and terms, ``chance`` (the loss of a model that knows nothing), ln N and recall@1 per pair.

    The model is put in eval mode and back.
    """
    batches = heldout_batches(samples, config)
    was_training = model.training
    model.eval()
    measured, chances = [], []
    order = [[(0, index) for index in indices] for indices in batches]
    for batch in batches_of(samples, order, num_workers=config.data.num_workers, device=device):
        with autocast:
            embeddings = model(batch)
        numbers = measure(embeddings, batch, batch_loss(embeddings, batch, config.loss))
        measured.append(numbers)
        chances.append(loss_at_chance(numbers, config.loss))
    model.train(was_training)
    return {
        **report(measured),
        "chance": sum(chances) / len(chances),
        "batch_size": len(batches[0]),
        "ln_batch_size": math.log(len(batches[0])),
    }
