"""How random are the orders that read neighbours together: our sampler's, and WebDataset's shards with a buffer.

Two clips that share a batch in one epoch should share one in the next no more often than chance says. What is counted
is how often they do, as a multiple of full permutations; beside it what the order costs a disk that turns, or an object
store: clips fetched for each one used, if 8 neighbours (5 MB) are fetched together and kept while 8,192 clips are
served; and how many clips wait in the memory of processes.

480,000 clips, batches of 256. WebDataset is modelled as it is used: shards of 500 in random order, dealt to 16
processes, each with its own buffer and its own batches, read from start to end; the buffer is its own function where
webdataset is installed (``pip install webdataset``), else one written after it.

Expected before measuring: 49 times chance for a buffer of 1,000, 4.5 for 5,000 (loader notes, 4c). Ours mixes 128
chunks of 64 that lie all over: 1.25 by its own arithmetic, at 1.1 clips fetched for each one used, and holds none.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from k700_text.data.sampler import REMOTE_BUFFER_CHUNKS, REMOTE_CHUNK_SIZE, StepSampler

NUM_CLIPS, BATCH_SIZE, SHARD_SIZE, NUM_PROCESSES = 480_000, 256, 500, 16
FETCHED, KEPT = 8, 8192
EPOCHS = 3


def ours(num_clips: int, chunk_size: int, buffer_chunks: int) -> list[NDArray[np.int64]]:
    """Returns the batches of each epoch, (batches, BATCH_SIZE), as ``StepSampler`` gives them."""
    sampler = StepSampler(num_clips, BATCH_SIZE, chunk_size=chunk_size, buffer_chunks=buffer_chunks)
    steps = range(EPOCHS * sampler.steps_per_epoch)
    order = np.array([[index for _, index in sampler.batch(step)] for step in steps])
    return list(order.reshape(EPOCHS, sampler.steps_per_epoch, BATCH_SIZE))


def webdataset(num_clips: int, buffer_size: int) -> list[NDArray[np.int64]]:
    """Returns the same for shards dealt to processes that have a buffer each, their batches taken in turn."""
    epochs = []
    for epoch in range(EPOCHS):
        rng = random.Random(epoch)
        shards = list(range(num_clips // SHARD_SIZE))
        rng.shuffle(shards)
        batches = []
        for process in range(NUM_PROCESSES):
            mine = (k for shard in shards[process::NUM_PROCESSES] for k in range(shard * 500, shard * 500 + 500))
            order = list(mixed(mine, buffer_size, rng))
            batches.append([order[k : k + BATCH_SIZE] for k in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE)])
        epochs.append(np.array([batch for turn in zip(*batches, strict=False) for batch in turn]))
    return epochs


def mixed(items: Iterable[int], buffer_size: int, rng: random.Random) -> Iterator[int]:
    """Yields items through WebDataset's shuffle buffer, filled before the first one comes out."""
    if buffer_size <= 1:
        yield from items
        return
    try:
        from webdataset.filters import _shuffle
    except ImportError:
        yield from _shuffle_like_webdataset(items, buffer_size, rng)
    else:
        yield from _shuffle(iter(items), bufsize=buffer_size, initial=buffer_size, rng=rng)


def _shuffle_like_webdataset(items: Iterable[int], buffer_size: int, rng: random.Random) -> Iterator[int]:
    source = iter(items)
    buffer = list(itertools.islice(source, buffer_size))
    for item in source:
        place = rng.randrange(len(buffer))
        taken, buffer[place] = buffer[place], item
        yield taken
    rng.shuffle(buffer)
    yield from buffer


def times_chance(epochs: list[NDArray[np.int64]], num_clips: int) -> float:
    """Returns how often pairs of one batch meet again in the next epoch, relative to full permutations."""
    ratios = []
    for earlier, later in itertools.pairwise(epochs):
        batch_of = np.full(num_clips, -1)
        batch_of[earlier.ravel()] = np.repeat(np.arange(len(earlier)), BATCH_SIZE)
        were = batch_of[later.ravel()]
        are = np.repeat(np.arange(len(later)), BATCH_SIZE)
        both = (were * len(later) + are)[were >= 0]
        _, counts = np.unique(both, return_counts=True)
        again = (counts * (counts - 1)).sum() / 2
        # Of all pairs of the later epoch's batches, a share of (B - 1) / (N - 1) was together before, by chance.
        pairs = len(later) * BATCH_SIZE * (BATCH_SIZE - 1) / 2
        ratios.append(again / (pairs * (BATCH_SIZE - 1) / (num_clips - 1)))
    return float(np.mean(ratios))


def fetched_for_each_used(epochs: list[NDArray[np.int64]]) -> float:
    """Returns clips fetched for each one used: FETCHED neighbours at once, kept until unused for KEPT clips."""
    order = epochs[0].ravel() // FETCHED
    last_use = np.full(order.max() + 1, -KEPT - 1)
    num_fetches = 0
    for place, group in enumerate(order.tolist()):
        num_fetches += place - last_use[group] > KEPT
        last_use[group] = place
    return num_fetches * FETCHED / len(order)


def main() -> None:
    """Measures all orders."""
    parser = argparse.ArgumentParser(description="How random orders are that read neighbours together.")
    parser.add_argument("--quick", action="store_true", help="a quarter of the clips: seconds, and other multiples")
    num_clips = NUM_CLIPS // 4 if parser.parse_args().quick else NUM_CLIPS
    print(f"{num_clips:,} clips{'':22}{'meet again':>14}{'fetched':>10}{'held':>10}")
    results: dict[str, dict[str, float]] = {}
    for name, chunk_size, chunks in (
        ("ours, full permutation", 1, 1),
        ("ours, chunks of 64, 128 mixed", REMOTE_CHUNK_SIZE, REMOTE_BUFFER_CHUNKS),
        ("ours, chunks of 64, 64 mixed", REMOTE_CHUNK_SIZE, 64),
    ):
        epochs = ours(num_clips, chunk_size, chunks)
        results[name] = {"meet": times_chance(epochs, num_clips), "fetched": fetched_for_each_used(epochs), "held": 0}
    for size in (1, 1000, 5000):
        epochs = webdataset(num_clips, size)
        held = size * NUM_PROCESSES
        name = f"WebDataset, buffer {size:,}" if size > 1 else "WebDataset, no buffer"
        results[name] = {"meet": times_chance(epochs, num_clips), "fetched": 1, "held": held}
    for name, row in results.items():
        print(f"{name:34}{row['meet']:12.2f} x{row['fetched']:10.2f}{row['held']:10,.0f}")
    print(json.dumps({"benchmark": "shuffle_quality", "clips": num_clips, **results}))


if __name__ == "__main__":
    main()
