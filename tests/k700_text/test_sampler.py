from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from k700_text.data.sampler import REMOTE_CHUNK_SIZE, StepSampler

Order = npt.NDArray[np.int64]


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
        ({"num_samples": 8, "batch_size": 4, "chunk_size": 0}, "chunk_size"),
        ({"num_samples": 8, "batch_size": 4, "buffer_chunks": 0}, "buffer_chunks"),
        ({"num_samples": 8, "batch_size": 2, "world_size": 2, "drop_last": False}, "one process"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepSampler(**arguments)


def order_of_epoch(sampler: StepSampler, epoch: int) -> Order:
    """Returns the indexes in the order of an epoch that the steps fill exactly."""
    first = epoch * sampler.steps_per_epoch
    steps = [sampler.batch(step) for step in range(first, first + sampler.steps_per_epoch)]
    return np.array(indexes(steps), dtype=np.int64)


def test_the_full_permutation_is_as_ever() -> None:
    # Runs that were begun with an older version resume with this one.
    expected = np.random.default_rng([7, 3]).permutation(20)
    for buffer_chunks in (1, 128):
        sampler = StepSampler(20, 4, seed=7, chunk_size=1, buffer_chunks=buffer_chunks)
        assert np.array_equal(order_of_epoch(sampler, 3), expected)


@settings(deadline=None)
@given(
    num_samples=st.integers(1, 300),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 4),
    chunk_size=st.integers(1, 40),
    buffer_chunks=st.integers(1, 10),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 9),
)
def test_an_epoch_is_shared_without_overlap_and_any_step_is_known_alone(
    num_samples: int, batch_size: int, world_size: int, chunk_size: int, buffer_chunks: int, epoch: int, seed: int
) -> None:
    assume(num_samples >= batch_size * world_size)
    options: dict[str, Any] = {"chunk_size": chunk_size, "buffer_chunks": buffer_chunks, "world_size": world_size}
    ranks = [StepSampler(num_samples, batch_size, seed, rank=rank, **options) for rank in range(world_size)]
    served = [order_of_epoch(sampler, epoch) for sampler in ranks]
    together = np.concatenate(served)
    num_served = ranks[0].steps_per_epoch * batch_size * world_size
    assert len(together) == len(np.unique(together)) == num_served > num_samples - batch_size * world_size
    assert together.min() >= 0 and together.max() < num_samples
    # A process that shares the global batch among others in another way serves the same steps.
    alone = StepSampler(num_samples, batch_size * world_size, seed, **{**options, "world_size": 1})
    step = (epoch + 1) * alone.steps_per_epoch - 1
    assert [address for rank in ranks for address in rank.batch(step)] == alone.batch(step)
    resumed = StepSampler(num_samples, batch_size, seed, start_step=step, num_steps=2, **options)
    assert list(resumed) == [ranks[0].batch(step), ranks[0].batch(step + 1)]


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(2, 50), st.integers(1, 8), st.integers(0, 5))
def test_every_index_comes_once_whatever_the_chunks(
    num_samples: int, chunk_size: int, buffer_chunks: int, epoch: int
) -> None:
    sampler = StepSampler(num_samples, 1, seed=2, chunk_size=chunk_size, buffer_chunks=buffer_chunks)
    assert sorted(order_of_epoch(sampler, epoch)) == list(range(num_samples))


def test_few_chunks_are_touched_at_a_time() -> None:
    order = order_of_epoch(StepSampler(64_000, 64, seed=1, chunk_size=64, buffer_chunks=10), 1)
    for first in range(0, 64_000, 640):
        # What is served in a row lies in two groups at most, and a chunk in two of those that this counts.
        assert len(np.unique(order[first : first + 640] // 64)) <= 4 * 11
    anywhere = order_of_epoch(StepSampler(64_000, 64, seed=1), 1)
    assert len(np.unique(anywhere[:640] // 64)) > 400


def reunions(one: Order, other: Order, batch_size: int) -> float:
    """Returns how often two clips of a batch share one again, relative to two full permutations."""
    num_samples, num_batches = len(one), len(one) // batch_size
    batch_in_other = np.empty(num_samples, dtype=np.int64)
    batch_in_other[other] = np.arange(num_samples) // batch_size
    batches = batch_in_other[one[: num_batches * batch_size]].reshape(num_batches, batch_size)
    _, counts = np.unique(np.arange(num_batches)[:, None] * num_samples + batches, return_counts=True)
    num_reunions = (counts * (counts - 1) // 2).sum()
    num_pairs = num_batches * batch_size * (batch_size - 1) / 2
    return float(num_reunions / (num_pairs * (batch_size - 1) / (num_samples - 1)))


def epochs(num_samples: int, batch_size: int, num_epochs: int, **options: int) -> list[Order]:
    sampler = StepSampler(num_samples, batch_size, seed=5, **options)
    return [order_of_epoch(sampler, epoch) for epoch in range(num_epochs)]


def test_the_measure_of_randomness_knows_both_ends() -> None:
    full = epochs(24_000, 24, 2)
    assert reunions(*full, 24) == pytest.approx(1.0, abs=0.15)
    assert reunions(full[0], full[0], 24) == pytest.approx(23_999 / 23, rel=0.01)


def test_chunks_are_as_random_as_the_documentation_says() -> None:
    mixed = epochs(24_000, 24, 3, chunk_size=16, buffer_chunks=32)
    expected = 1 + 24_000 / (2 * 16 * 32**2)
    assert reunions(mixed[0], mixed[1], 24) == pytest.approx(expected, abs=0.2)
    assert reunions(mixed[1], mixed[2], 24) == pytest.approx(expected, abs=0.2)


def test_clips_for_remote_storage_meet_again_hardly_more_often_than_by_chance() -> None:
    orders = epochs(480_000, 256, 3, chunk_size=REMOTE_CHUNK_SIZE)
    ratios = [reunions(one, other, 256) for one, other in itertools.combinations(orders, 2)]
    assert all(ratio <= 1.5 for ratio in ratios), ratios
    # Shards in random order with a small shuffle buffer, which most loaders do.
    assert reunions(*epochs(480_000, 256, 2, chunk_size=500, buffer_chunks=2), 256) > 50
