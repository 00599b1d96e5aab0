"""Cross-modal retrieval among all held-out clips at once, and what there is of it in knowing the video alone.

Clips of one video share its place, light and noise: who knows only which video a clip is of finds its other modality
among few. ``identity_only`` is that knowledge, ``within_videos`` asks for what is beyond it.

Axes: N clips, E embedding.
"""

from __future__ import annotations

import math
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


@dataclass(frozen=True, slots=True, kw_only=True)
class WithinVideos:
    """How well each clip's other modality is found among those of the clips of its own video, both directions.

    Attributes:
        num_clips: queries: clips that have both modalities, of videos that have two such clips or more. The only clip
            of a video is found by anyone.
        num_videos: their videos.
        recall_at_1: share of queries whose own counterpart ranks first, 0..1; k equals at the top count 1 / k.
        chance: that of guessing among the clips of the right video, 0..1.
    """

    num_clips: int
    num_videos: int
    recall_at_1: float
    chance: float


def identity_only(videos_N: Tensor) -> Retrieval:
    """Returns what is expected of knowing which video each clip is of, and nothing else.

    All n clips of a query's video come first in random order, so that its own is among the first K with probability
    min(K, n) / n, and its rank is (n + 1) / 2 on average.

    Args:
        videos_N: int64, the video of each clip that has both modalities, at least one.
    """
    sizes = torch.unique(videos_N, return_counts=True)[1].double()
    num_clips = len(videos_N)
    return Retrieval(
        num_clips=num_clips,
        recall_at_1=float(sizes.clamp(max=1).sum()) / num_clips,
        recall_at_5=float(sizes.clamp(max=5).sum()) / num_clips,
        mean_rank=float((sizes * (sizes + 1) / 2).sum()) / num_clips,
    )


@torch.no_grad()
def within_videos(first_NE: Tensor, second_NE: Tensor, valid_N: Tensor, videos_N: Tensor) -> WithinVideos | None:
    """Returns retrieval among the clips of each video, or None where no video has two clips with both modalities.

    Args:
        first_NE: unit-norm embeddings of one modality.
        second_NE: of the other; row i belongs to row i.
        valid_N: bool, the clips that have both.
        videos_N: int64, the video of each clip.
    """
    _, videos_N, sizes = torch.unique(videos_N[valid_N], return_inverse=True, return_counts=True)
    is_asked_N = sizes[videos_N] > 1
    if not is_asked_N.any():
        return None
    scores_NN = first_NE[valid_N].double() @ second_NE[valid_N].double().T
    scores_NN = scores_NN.masked_fill(videos_N[:, None] != videos_N, -math.inf)
    found_N = torch.cat([_share_at_top(scores_NN)[is_asked_N], _share_at_top(scores_NN.T)[is_asked_N]])
    num_clips, num_videos = int(is_asked_N.sum()), int((sizes > 1).sum())
    return WithinVideos(
        num_clips=num_clips,
        num_videos=num_videos,
        recall_at_1=float(found_N.mean()),
        chance=num_videos / num_clips,
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


def _share_at_top(scores_NN: Tensor) -> Tensor:
    """Returns of each row 1 / k where the diagonal is one of k equals at the top, else 0, float64 (N,)."""
    is_top_NN = scores_NN == scores_NN.max(dim=1, keepdim=True).values
    return is_top_NN.diagonal().double() / is_top_NN.sum(dim=1).clamp(min=1)
