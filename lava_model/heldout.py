"""The loss on held-out clips: the same objective over as many rows as in training, always the same batches.

Retrieval is measured twice: within each batch, which is easier the smaller the batches are, and among all held-out
clips together, which can be compared between batch sizes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import torch
from torch import Tensor, nn

from k700_text.data.sample import Batch
from lava_model.config import PretrainConfig
from lava_model.data import Samples
from lava_model.errors import DataError
from lava_model.loading import Stacked, batches_of
from lava_model.metrics import loss_at_chance, measure, pairs_of, report
from lava_model.modalities import PAIRS, TermName
from lava_model.model import Embeddings
from lava_model.objective import Objective

MAX_POOL = 8192
"""Rows of a pair that retrieval among all looks at, at most: some 200 MB of embeddings."""

_ORDER_SEED = 0
_QUERIES_AT_ONCE = 1024


def heldout_batches(samples: Samples | Stacked, config: PretrainConfig, world_size: int = 1) -> list[list[int]]:
    """Returns the indices of the fixed batches: a seeded choice of full batches, ``eval_batches`` of all processes.

    A batch is what is contrasted with each other in training: that of all processes, unless negatives are ``local``.
    The clips are the same for any number of processes that share the same batch.

    Raises:
        DataError: there are fewer than two samples.
    """
    if len(samples) < 2:
        raise DataError(f"held-out evaluation needs at least 2 clips, got {len(samples)}: look at --val-manifest")
    order = random.Random(_ORDER_SEED).sample(range(len(samples)), len(samples))
    together = world_size if config.loss.negatives == "global" else 1
    size = min(config.data.batch_size * together, len(samples))
    batches = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    return batches[: config.run.eval_batches * world_size // together]


@torch.no_grad()
def evaluate_heldout(
    model: nn.Module,
    objective: Objective,
    samples: Samples | Stacked,
    config: PretrainConfig,
    device: torch.device,
    autocast: torch.autocast,
    world_size: int = 1,
    *,
    stops: Callable[[], bool] = lambda: False,
) -> dict[str, float | int | None] | None:
    """Returns the numbers of ``metrics.report``, ``chance`` (the loss of a model that knows nothing) and ln N.

    ``stops`` is asked after each batch; where it returns True before the last one, there are no numbers: None.
    ``recall_at_1_all_av`` is recall@1 among all rows of the pair in these batches, ``num_all_av`` of them, 8,192 at
    most. The model is put in eval mode and back; the objective and the random states stay as they are.
    """
    batches = heldout_batches(samples, config, world_size)
    measured, chances, pool = [], [], _Pool()
    order = [[(0, index) for index in indices] for indices in batches]
    # No more at once than in training, whose memory this has to do with.
    at_once = min(config.data.batch_size, config.data.micro_batch or config.data.batch_size)
    loaded = batches_of(samples, order, num_workers=config.data.num_workers, device=device)
    with _evaluating(model), closing(loaded):
        for batch in loaded:
            with autocast:
                parts = [batch.rows(start, min(start + at_once, len(batch))) for start in range(0, len(batch), at_once)]
                embeddings = Embeddings.cat([model(part) for part in parts])
            measured.append(measure(embeddings, batch, objective(embeddings, batch)))
            chances.append(loss_at_chance(objective, embeddings, batch))
            pool.add(embeddings, batch)
            if len(measured) < len(batches) and stops():
                return None
    return {
        **report(measured),
        **pool.report(),
        "chance": sum(chances) / len(chances),
        "batch_size": len(batches[0]),
        "ln_batch_size": math.log(len(batches[0])),
    }


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _Pool:
    """The rows of all batches that have both modalities of a pair, for retrieval among all of them."""

    def __init__(self) -> None:
        self._queries: dict[TermName, list[Tensor]] = {pair: [] for pair in PAIRS}
        self._keys: dict[TermName, list[Tensor]] = {pair: [] for pair in PAIRS}
        self._num_rows = dict.fromkeys(PAIRS, 0)

    def add(self, embeddings: Embeddings, batch: Batch) -> None:
        for pair, (queries_BE, keys_BE, valid_B) in pairs_of(embeddings, batch).items():
            rows = valid_B.nonzero().flatten()[: MAX_POOL - self._num_rows[pair]]
            self._queries[pair].append(queries_BE[rows])
            self._keys[pair].append(keys_BE[rows])
            self._num_rows[pair] += len(rows)

    def report(self) -> dict[str, float | int | None]:
        numbers: dict[str, float | int | None] = {}
        for pair, num_rows in self._num_rows.items():
            found = _num_retrieved(torch.cat(self._queries[pair]), torch.cat(self._keys[pair]))
            numbers[f"recall_at_1_all_{pair}"] = found / num_rows if num_rows else None
            numbers[f"num_all_{pair}"] = num_rows
        return numbers


def _num_retrieved(queries_NE: Tensor, keys_NE: Tensor) -> int:
    """Returns how many queries have their own key as the nearest; never all N x N similarities are held."""
    found = 0
    for first in range(0, len(queries_NE), _QUERIES_AT_ONCE):
        nearest = (queries_NE[first : first + _QUERIES_AT_ONCE] @ keys_NE.T).argmax(dim=1)
        found += int((nearest == torch.arange(first, first + len(nearest), device=nearest.device)).sum())
    return found
