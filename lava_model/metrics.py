"""Numbers that say what a loss does not: retrieval inside a batch, and the loss of a model that knows nothing.

Axes: B batch, E embedding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lava_model.config import LossConfig

if TYPE_CHECKING:
    from k700_text.data.sample import Batch
    from lava_model.loss import LossOutput
    from lava_model.model import Embeddings


@torch.no_grad()
def num_retrieved(queries_BE: Tensor, keys_BE: Tensor, valid_B: Tensor) -> Tensor:
    """Returns how many valid rows have their own key as the nearest among the valid keys, int64 scalar."""
    scores_BB = (queries_BE.float() @ keys_BE.float().T).masked_fill(~valid_B, -math.inf)
    own_B = torch.arange(len(queries_BE), device=queries_BE.device)
    return ((scores_BB.argmax(dim=1) == own_B) & valid_B).sum()


@torch.no_grad()
def measure(embeddings: Embeddings, batch: Batch, loss: LossOutput) -> dict[str, Tensor]:
    """Returns the scalars of a batch: losses, valid rows and retrieved rows per pair, on their device.

    ``num_retrieved_av`` counts the videos whose own audio is the nearest of the batch; ``vt`` likewise for text;
    ``at`` goes from audio to text in the avt space.
    """
    has_av, has_vt = batch.has_video & batch.has_audio, batch.has_video & batch.has_text
    return {
        "loss": loss.total.detach(),
        **{f"loss_{term}": getattr(loss, term).detach() for term in ("av", "vt", "avt", "at")},
        **{f"num_{term}": getattr(loss, f"num_{term}") for term in ("av", "vt", "avt", "at")},
        "num_retrieved_av": num_retrieved(embeddings.av_video, embeddings.av_audio, has_av),
        "num_retrieved_vt": num_retrieved(embeddings.vt_video, embeddings.vt_text, has_vt),
        "num_retrieved_at": num_retrieved(embeddings.avt_audio, embeddings.avt_text, batch.has_audio & batch.has_text),
    }


def report(measured: list[dict[str, Tensor]]) -> dict[str, float | int | None]:
    """Returns plain numbers over one or more batches: mean losses, mean valid rows, recall@1 over all their rows.

    recall@1 is None where no row was valid.
    """
    totals = {name: sum(float(batch[name]) for batch in measured) for name in measured[0]}
    numbers: dict[str, float | int | None] = {
        name: value / len(measured) for name, value in totals.items() if not name.startswith("num_retrieved_")
    }
    for pair in ("av", "vt", "at"):
        rows = totals[f"num_{pair}"]
        numbers[f"recall_at_1_{pair}"] = totals[f"num_retrieved_{pair}"] / rows if rows else None
    return numbers


def loss_at_chance(measured: dict[str, Tensor], config: LossConfig) -> float:
    """Returns the total loss of a batch for a model whose similarities are all the same: ln N for each NCE."""

    def chance(term: str) -> float:
        rows = int(measured[f"num_{term}"])
        return math.log(rows * (2 if config.form == "mil_nce" else 1)) if rows >= 2 else 0.0

    weights = config.weights
    return (
        weights.av * chance("av")
        + weights.vt * chance("vt")
        + weights.avt * 3 * chance("avt")
        + weights.at * chance("at")
    )
