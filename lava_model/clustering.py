"""Clusters of mean embeddings: the centroids of Chen et al. 2021 (arXiv 2104.12671), which the paper argues against.

Axes: N rows, E embedding, K clusters, Q places of the queue, C rows drawn at once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lava_model.contrast import unit
from lava_model.distributed import Ranks, from_main

_NUM_ITERATIONS = 20


class ClusterBank(nn.Module):
    """A queue of the newest mean embeddings and the clusters last found in it, on all ranks the same.

    Attributes:
        queue: float32 (Q, E), unit-norm rows; zero where none has been yet.
        num_added: int64 scalar, rows ever added.
        clusters: float32 (K, E), unit-norm centres; zero before the first clustering.
    """

    queue: Tensor
    num_added: Tensor
    clusters: Tensor

    def __init__(self, num_clusters: int, queue_size: int, embedding_dim: int) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(queue_size, embedding_dim))
        self.register_buffer("num_added", torch.zeros((), dtype=torch.int64))
        self.register_buffer("clusters", torch.zeros(num_clusters, embedding_dim))

    @torch.no_grad()
    def add(self, means_NE: Tensor, valid_N: Tensor) -> None:
        """Puts the valid rows, at unit length, in the place of the oldest; nothing waits for the device."""
        size = len(self.queue)
        rows_NE = unit(means_NE.to(self.queue.dtype), valid_N)
        turn_N = valid_N.cumsum(dim=0) - 1
        num_valid = valid_N.sum()
        # Of more rows than the queue has places the newest stay. What does not stay goes to a place past the end.
        stays_N = valid_N & (turn_N >= num_valid - size)
        place_N = torch.where(stays_N, (self.num_added + turn_N) % size, size)
        longer = torch.cat([self.queue, self.queue[:1]])
        self.queue.copy_(longer.index_copy(0, place_N, rows_NE)[:size])
        self.num_added += num_valid

    @torch.no_grad()
    def cluster(self, seed: int, ranks: Ranks) -> None:
        """Finds the clusters of the queue anew, if it holds enough rows for them."""
        num_rows = min(int(self.num_added), len(self.queue))
        if num_rows >= len(self.clusters):
            self.clusters.copy_(spherical_kmeans(self.queue[:num_rows], len(self.clusters), seed=seed))
            # Ranks on unlike devices may differ in the last digit.
            from_main(self.clusters, ranks)


def spherical_kmeans(rows_NE: Tensor, num_clusters: int, *, seed: int) -> Tensor:
    """Returns unit-norm centres (K, E): each is the direction of the mean of the rows that are nearest to it by cosine.

    It starts from rows that are far from each other. A cluster that loses all its rows goes on from one of those that
    are worst off.

    Args:
        rows_NE: unit-norm, at least K.
        num_clusters: K.
        seed: the same rows and seed give the same centres.
    """
    centres_KE = _spread_rows(rows_NE, num_clusters, seed)
    for _ in range(_NUM_ITERATIONS):
        cosine_N, nearest_N = (rows_NE @ centres_KE.T).max(dim=1)
        # A product with one-hot rows, not index_add, which sums in any order on a GPU.
        member_KN = F.one_hot(nearest_N, num_clusters).to(rows_NE.dtype).T
        is_empty_K = ~member_KN.any(dim=1)
        worst_K = cosine_N.argsort(stable=True)[:num_clusters]
        replacement_KE = rows_NE[worst_K[(is_empty_K.cumsum(dim=0) - 1).clamp(min=0)]]
        centres_KE = torch.where(is_empty_K[:, None], replacement_KE, F.normalize(member_KN @ rows_NE, dim=1))
    return centres_KE


def _spread_rows(rows_NE: Tensor, num_clusters: int, seed: int) -> Tensor:
    """Returns rows (K, E) far from each other: greedy k-means++, which draws a few rows and keeps the best of them."""
    shape = (num_clusters, 2 + int(math.log(num_clusters)))
    draws = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    distance_N = torch.ones_like(rows_NE[:, 0])
    chosen = []
    for draws_C in draws.to(rows_NE.device, rows_NE.dtype):
        # The chance of a row grows with its distance from those chosen before.
        chances_N = distance_N.cumsum(dim=0)
        drawn_C = torch.searchsorted(chances_N, draws_C * chances_N[-1], right=True).clamp(max=len(rows_NE) - 1)
        distance_NC = torch.minimum(distance_N[:, None], (1 - rows_NE @ rows_NE[drawn_C].T).clamp(min=0))
        best = distance_NC.sum(dim=0).argmin()
        chosen.append(rows_NE[drawn_C[best]])
        distance_N = distance_NC[:, best]
    return torch.stack(chosen)
