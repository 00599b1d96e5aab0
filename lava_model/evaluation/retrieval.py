"""Cross-modal retrieval among all held-out clips at once.

Axes: N clips, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """How well each clip's other modality is found among those of all clips, mean of both directions.

    Attributes:
        num_clips: clips that have both modalities; each is a query in turn, and the others are the distractors.
        recall_at_1: share of queries whose own counterpart ranks first, 0..1.
        recall_at_5: whose own is among the first five, 0..1.
        mean_rank: of the own counterpart, from 1.
    """

    num_clips: int
    recall_at_1: float
    recall_at_5: float
    mean_rank: float


def chance(num_clips: int) -> Retrieval:
    """Returns what guessing gives among so many clips."""
    return Retrieval(
        num_clips=num_clips,
        recall_at_1=min(1, 1 / num_clips),
        recall_at_5=min(1, 5 / num_clips),
        mean_rank=(num_clips + 1) / 2,
    )


@torch.no_grad()
def retrieve(first_NE: Tensor, second_NE: Tensor, valid_N: Tensor) -> Retrieval | None:
    """Returns retrieval between two modalities by inner product, or None with fewer than two clips that have both.

    Args:
        first_NE: unit-norm embeddings of one modality.
        second_NE: of the other; row i belongs to row i.
        valid_N: bool, the clips that have both.
    """
    if int(valid_N.sum()) < 2:
        return None
    scores_NN = first_NE[valid_N].double() @ second_NE[valid_N].double().T
    ranks = torch.cat([_ranks(scores_NN), _ranks(scores_NN.T)])
    return Retrieval(
        num_clips=len(scores_NN),
        recall_at_1=float((ranks <= 1).double().mean()),
        recall_at_5=float((ranks <= 5).double().mean()),
        mean_rank=float(ranks.mean()),
    )


def _ranks(scores_NN: Tensor) -> Tensor:
    """Returns the rank of the diagonal in each row, float64 (N,).

    Among equals the middle one: a model that gives all clips the same is at chance, not first.
    """
    own_N1 = scores_NN.diagonal()[:, None]
    num_better_N = (scores_NN > own_N1).sum(dim=1)
    num_equal_N = (scores_NN == own_N1).sum(dim=1) - 1
    return 1 + num_better_N.double() + num_equal_N.double() / 2
