"""Numbers that say what a loss does not: retrieval, how far pairs are apart, and the loss of who knows nothing.

They cost a few products of the embeddings and are meant for the steps that are logged. All of them rest on the rows of
one process. A pair is ``av`` (video and audio in the av space), ``vt`` (video and text in the vt space) or ``at``
(audio and text in the avt space); its rows are those that have both modalities.

Axes: B batch, E embedding.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lava_model.loss import joint_means
from lava_model.modalities import PAIRS, TERMS, TermName

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k700_text.data.sample import Batch
    from lava_model.loss import LossOutput
    from lava_model.model import Embeddings
    from lava_model.objective import Objective

Measured = dict[str, Tensor]
"""Scalars of one batch, on its device."""


@torch.no_grad()
def measure(embeddings: Embeddings, batch: Batch, loss: LossOutput) -> Measured:
    """Returns the scalars of a batch; ``report`` makes plain numbers of them.

    Losses and the rows that they rest on (of all processes, as the loss has them), and for each pair

    - ``num_rows_av`` and ``num_retrieved_av``: rows of the pair, and those whose own audio is the nearest to their
      video among all audios of the rows (``vt``: text to video; ``at``: text to audio).
    - ``cos_positive_av`` and ``cos_negative_av``: mean cosine of a row with its own other modality and with those of
      other rows.
    - ``uniformity_av``: log of the mean of exp(-2 d^2) over the distances d of different rows, averaged over the two
      modalities (Wang and Isola 2020, with t = 2): 0 where all embeddings are the same, about -4 where they are spread
      over the sphere.

    What has no rows, or for negatives and uniformity one row, is NaN.
    """
    measured = {
        "loss": loss.total.detach(),
        **{f"loss_{term}": getattr(loss, term).detach() for term in TERMS},
        **{f"num_{term}": getattr(loss, f"num_{term}") for term in TERMS},
    }
    for pair, (queries_BE, keys_BE, valid_B) in pairs_of(embeddings, batch).items():
        found = measure_pair(queries_BE.float(), keys_BE.float(), valid_B)
        measured |= {f"{name}_{pair}": value for name, value in found.items()}
    return measured


def pairs_of(embeddings: Embeddings, batch: Batch) -> dict[TermName, tuple[Tensor, Tensor, Tensor]]:
    """Returns queries (B, E), keys (B, E) and the rows that have both, bool (B,), of each pair."""
    present = batch.present
    return {
        name: (embeddings.of(pair.space, one), embeddings.of(pair.space, other), present[one] & present[other])
        for name, pair in PAIRS.items()
        for one, other in [pair.modalities]
    }


def measure_pair(queries_BE: Tensor, keys_BE: Tensor, valid_B: Tensor) -> Measured:
    """Returns num_rows, num_retrieved, cos_positive, cos_negative and uniformity of unit vectors float32 (B, E)."""
    count = valid_B.sum()
    num_others = count * (count - 1)
    scores_BB = queries_BE @ keys_BE.T
    own_B = torch.arange(len(queries_BE), device=queries_BE.device)
    is_nearest_B = scores_BB.masked_fill(~valid_B, -math.inf).argmax(dim=1) == own_B
    kept_BB = scores_BB.masked_fill(~(valid_B[:, None] & valid_B), 0.0)
    positive = kept_BB.diagonal().sum()
    return {
        "num_rows": count,
        "num_retrieved": (is_nearest_B & valid_B).sum(),
        # 0 / 0 is the NaN that stands for none.
        "cos_positive": positive / count,
        "cos_negative": (kept_BB.sum() - positive) / num_others,
        "uniformity": (_uniformity(queries_BE, valid_B) + _uniformity(keys_BE, valid_B)) / 2,
    }


def _uniformity(units_BE: Tensor, valid_B: Tensor) -> Tensor:
    # Between unit vectors d^2 is 2 - 2 cos.
    kernel_BB = (4 * (units_BE @ units_BE.T) - 4).exp().masked_fill(~(valid_B[:, None] & valid_B), 0.0)
    count = valid_B.sum()
    return ((kernel_BB.sum() - kernel_BB.diagonal().sum()) / (count * (count - 1))).log()


def report(measured: Sequence[Mapping[str, Tensor]]) -> dict[str, float | int | None]:
    """Returns plain numbers over one or more batches: means over the batches, and recall@1 over all their rows.

    What no batch has is None.
    """
    values = {name: [float(batch[name]) for batch in measured] for name in measured[0]}
    rows = {pair: sum(values.pop(f"num_rows_{pair}")) for pair in PAIRS}
    retrieved = {pair: sum(values.pop(f"num_retrieved_{pair}")) for pair in PAIRS}
    recalls = {f"recall_at_1_{pair}": retrieved[pair] / rows[pair] if rows[pair] else None for pair in PAIRS}
    return {**{name: _mean(found, name) for name, found in values.items()}, **recalls}


def _mean(values: Sequence[float], name: str) -> float | None:
    # A loss that is no number must show; of the others NaN says that a batch has none.
    known = values if name.startswith("loss") else [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


@torch.no_grad()
def loss_at_chance(objective: Objective, embeddings: Embeddings, batch: Batch) -> float:
    """Returns the total loss of a batch for a model to which all is the same: ln N for each NCE over N rows.

    It is the objective's own answer to embeddings that are all equal, and so right for each form, centroid, policy and
    mask. Clusters of k-means are told apart by chance: ln K for each modality.

    Args:
        objective: that the batch is measured with.
        embeddings: of the batch; only their shapes matter.
        batch: which modalities there are, titles and videos.
    """
    same = embeddings.map(lambda units_BE: torch.full_like(units_BE, units_BE.shape[1] ** -0.5))
    loss = objective(same, batch)
    config = objective.config
    if config.centroid != "kmeans":
        return float(loss.total)
    without = replace(config.weights, avt=0.0)
    pairs = without.av * loss.av + without.vt * loss.vt + without.at * loss.at
    if not loss.num_avt:  # before the first clustering
        return float(pairs)
    _, is_joint_B = joint_means(same, batch.present, config.policy)
    num_contrasts = sum(bool((is_joint_B & has_B).any()) for has_B in batch.present.values())
    return float(pairs) + config.weights.avt * num_contrasts * math.log(config.num_clusters)
