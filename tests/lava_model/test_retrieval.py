"""Retrieval's controls: what knowing the video alone gives, and what is found beyond it."""

from __future__ import annotations

import itertools
from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from lava_model.evaluation.retrieval import identity_only, retrieve, within_videos

HELD_OUT_SECONDS = (2, 3, 3, 3, 5, 5, 5, 5, 6, 7, 7)
"""Pieces with sound of each video of docs/benchmarks.md's real clips, every other second held out."""


def videos_of(*sizes: int) -> Tensor:
    return torch.cat([torch.full((size,), 900 - video) for video, size in enumerate(sizes)])


def everything(videos_N: Tensor) -> Tensor:
    return torch.ones(len(videos_N), dtype=torch.bool)


def test_knowing_the_video_alone_on_the_real_clips() -> None:
    found = identity_only(videos_of(*HELD_OUT_SECONDS))
    told = [round(100 * found.recall_at_1, 1), round(100 * found.recall_at_5, 1), round(found.mean_rank, 1)]
    assert (found.num_clips, told) == (51, [21.6, 90.2, 3.1])


@pytest.mark.parametrize("sizes", [(1, 2, 3), (6,), (1, 1, 1), (7, 1, 5)])
def test_identity_only_is_the_mean_over_all_orders_of_a_video(sizes: tuple[int, ...]) -> None:
    ranks = []
    for size in sizes:
        orders = list(itertools.permutations(range(size)))
        # Each clip weighs the same, whatever the number of orders.
        ranks += [[order.index(own) + 1 for order in orders] for own in range(size)]
    found = identity_only(videos_of(*sizes))
    num_clips = len(ranks)
    for k, recall in ((1, found.recall_at_1), (5, found.recall_at_5)):
        assert recall == pytest.approx(sum(sum(r <= k for r in own) / len(own) for own in ranks) / num_clips)
    assert found.mean_rank == pytest.approx(sum(sum(own) / len(own) for own in ranks) / num_clips)


def test_embeddings_that_tell_the_video_alone_are_at_identity_only_and_at_chance_within() -> None:
    videos_N = videos_of(*HELD_OUT_SECONDS)
    same_NE = torch.nn.functional.one_hot(900 - videos_N).float()
    among_all = retrieve(same_NE, same_NE, everything(videos_N))
    within = within_videos(same_NE, same_NE, everything(videos_N), videos_N)
    assert among_all is not None and within is not None
    assert among_all.mean_rank == pytest.approx(identity_only(videos_N).mean_rank)
    assert within.recall_at_1 == pytest.approx(within.chance) == pytest.approx(11 / 51)


def test_within_videos_equals_looking_by_hand() -> None:
    generator = torch.Generator().manual_seed(3)
    videos_N = videos_of(1, 2, 5, 4)[torch.randperm(12, generator=generator)]
    first_NE, second_NE = torch.randn(12, 3, generator=generator), torch.randn(12, 3, generator=generator)
    second_NE[4] = second_NE[5]  # equals, wherever they fall
    valid_N = torch.arange(12) != 7
    shares, asked = [], set()
    for queries, keys in ((first_NE, second_NE), (second_NE, first_NE)):
        for row in range(12):
            others = [other for other in range(12) if valid_N[other] and videos_N[other] == videos_N[row]]
            if not valid_N[row] or len(others) < 2:
                continue
            scores = {other: float(queries[row].double() @ keys[other].double()) for other in others}
            top = [other for other, score in scores.items() if score == max(scores.values())]
            shares.append(row in top and 1 / len(top))
            asked.add(row)
    found = within_videos(first_NE, second_NE, valid_N, videos_N)
    assert found is not None
    assert found.num_clips == len(asked) == len(shares) / 2
    assert found.recall_at_1 == pytest.approx(sum(shares) / len(shares))
    assert found.chance == pytest.approx(found.num_videos / found.num_clips)


def test_a_perfect_model_a_constant_and_one_that_is_always_wrong() -> None:
    videos_N = videos_of(3, 2, 1)
    own_NE = torch.eye(6)
    swapped_NE = own_NE[torch.tensor([1, 2, 0, 4, 3, 5])]
    for second_NE, recall in ((own_NE, 1.0), (torch.ones(6, 6), 2 / 5), (swapped_NE, 0.0)):
        found = within_videos(own_NE, second_NE, everything(videos_N), videos_N)
        assert found is not None
        assert asdict(found) == {"num_clips": 5, "num_videos": 2, "recall_at_1": pytest.approx(recall), "chance": 0.4}


def test_videos_of_one_clip_each_have_nothing_within() -> None:
    videos_N = torch.arange(4)
    assert within_videos(torch.eye(4), torch.eye(4), everything(videos_N), videos_N) is None
    # Two clips of one video, of which one has no sound.
    assert within_videos(torch.eye(2), torch.eye(2), torch.tensor([True, False]), torch.zeros(2)) is None
    assert identity_only(videos_N).recall_at_1 == 1
