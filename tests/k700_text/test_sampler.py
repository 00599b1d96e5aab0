from __future__ import annotations

import itertools
from typing import Any

import pytest

from k700_text.data.sampler import StepSampler


def indexes(batches: list[list[tuple[int, int]]]) -> list[int]:
    return [index for batch in batches for _, index in batch]


def test_an_epoch_serves_every_clip_at_most_once_in_a_new_order() -> None:
    sampler = StepSampler(103, 10, seed=1, num_steps=20)
    batches = list(sampler)
    assert sampler.steps_per_epoch == 10 and [len(batch) for batch in batches] == [10] * 20
    first, second = indexes(batches[:10]), indexes(batches[10:])
    assert len(set(first)) == len(set(second)) == 100 and first != second
    assert [{epoch for epoch, _ in batch} for batch in batches] == [{0}] * 10 + [{1}] * 10
    assert first != indexes(list(StepSampler(103, 10, seed=2, num_steps=10)))


@pytest.mark.parametrize("start_step", [0, 3, 10, 27])
def test_any_step_is_the_same_from_anywhere(start_step: int) -> None:
    from_zero = list(itertools.islice(StepSampler(50, 5, seed=3), 40))
    assert list(itertools.islice(StepSampler(50, 5, seed=3, start_step=start_step), 13)) == from_zero[start_step:][:13]


def test_ranks_share_the_global_batch() -> None:
    whole = list(StepSampler(64, 8, seed=4, num_steps=8))
    ranks = [list(StepSampler(64, 2, seed=4, rank=rank, world_size=4, num_steps=8)) for rank in range(4)]
    for step in range(8):
        assert [address for rank in ranks for address in rank[step]] == whole[step]


def test_the_last_step_may_be_short() -> None:
    batches = list(StepSampler(7, 3, drop_last=False, num_steps=3))
    assert [len(batch) for batch in batches] == [3, 3, 1] and sorted(indexes(batches)) == list(range(7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 3, "batch_size": 4}, "do not fill one step"),
        ({"num_samples": 0, "batch_size": 4}, "bad sampler"),
        ({"num_samples": 8, "batch_size": 4, "seed": -1}, "bad sampler"),
        ({"num_samples": 8, "batch_size": 4, "rank": 2, "world_size": 2}, "rank"),
        ({"num_samples": 8, "batch_size": 2, "world_size": 2, "drop_last": False}, "one process"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepSampler(**arguments)
