"""Which clip comes when: a pure function of (seed, epoch, step), so that a run continues exactly where it stopped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

Address = tuple[int, int]
"""(epoch, index): what ``KineticsAVT`` takes as an index; the epoch decides the augmentation."""

REMOTE_CHUNK_SIZE = 64
"""Good for remote shards: 64 prepared clips are some 40 MB that lie together."""
REMOTE_BUFFER_CHUNKS = 128
"""Mixes 8,192 clips (some 5 GB): with 480,000 clips a pair meets again 1.25 times as often as in full permutations."""

_GOLDEN_SECTION = (5**0.5 - 1) / 2


class StepSampler(Sampler[list[Address]]):
    """Batch sampler that yields lists of (epoch, index), step after step and epoch after epoch.

    Every epoch is an order of its own. All ranks together take ``batch_size * world_size`` clips a step, and no two the
    same; the order depends on that product alone, not on how it is shared. Give it to
    ``DataLoader(batch_sampler=...)``. Iteration begins at ``start_step`` and ends after ``num_steps`` further steps, or
    never.

    With ``chunk_size`` 1 the order is a full permutation: right for local disks. For remote shards, and disks that
    turn, chunks of neighbouring clips are taken in random order, ``buffer_chunks`` of them at a time, and the clips of
    those are mixed: while ``chunk_size * buffer_chunks`` clips are served, nothing else is touched. How random that
    is: two clips of a batch meet again in the next epoch about
    ``1 + num_samples / (2 * chunk_size * buffer_chunks**2)`` times as often as in full permutations.

    Args:
        num_samples: length of the dataset.
        batch_size: clips of one rank in one step.
        seed: not negative.
        start_step: global step to begin with; counts over epochs.
        num_steps: steps to take; None goes on for ever.
        rank: which process this is.
        world_size: number of processes.
        drop_last: leave out an epoch's last, incomplete step; False only in a single process.
        chunk_size: clips that lie together and are read together; REMOTE_CHUNK_SIZE for remote shards.
        buffer_chunks: chunks that are mixed with each other.

    Raises:
        ValueError: an argument is out of range, or an epoch had no step.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int = 0,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
        *,
        num_steps: int | None = None,
        chunk_size: int = 1,
        buffer_chunks: int = REMOTE_BUFFER_CHUNKS,
    ) -> None:
        if min(num_samples, batch_size, world_size) < 1 or min(seed, start_step, num_steps or 0) < 0:
            raise ValueError(
                f"bad sampler: {num_samples=} {batch_size=} {world_size=} {seed=} {start_step=} {num_steps=}"
            )
        if min(chunk_size, buffer_chunks) < 1:
            raise ValueError(f"chunk_size and buffer_chunks must be at least 1, got {chunk_size} and {buffer_chunks}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0..{world_size - 1}, got {rank}")
        if not drop_last and world_size > 1:
            raise ValueError("drop_last=False would give ranks different numbers of steps: use it with one process")
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.num_steps = num_steps
        self.rank = rank
        self.world_size = world_size
        self.chunk_size = chunk_size
        self.buffer_chunks = buffer_chunks
        self._global_batch = batch_size * world_size
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self.steps_per_epoch = num_samples // self._global_batch if drop_last else -(-num_samples // self._global_batch)
        if not self.steps_per_epoch:
            raise ValueError(
                f"{num_samples} clips do not fill one step of {self._global_batch}: lower batch_size or add clips"
            )

    def __iter__(self) -> Iterator[list[Address]]:
        step = self.start_step
        while self.num_steps is None or step < self.start_step + self.num_steps:
            yield self.batch(step)
            step += 1

    def batch(self, step: int) -> list[Address]:
        """Returns what this rank takes in a global step, as (epoch, index) pairs."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        first = step_in_epoch * self._global_batch + self.rank * self.batch_size
        return [(epoch, int(index)) for index in self._permutation(epoch)[first : first + self.batch_size]]

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            if self.chunk_size == 1:
                order = rng.permutation(self.num_samples)
            else:
                order = _chunked_permutation(rng, epoch, self.num_samples, self.chunk_size, self.buffer_chunks)
            self._order = epoch, order
        return self._order[1]


def _chunked_permutation(
    rng: np.random.Generator, epoch: int, num_samples: int, chunk_size: int, buffer_chunks: int
) -> NDArray[np.int64]:
    """Returns 0..num_samples-1, mixed within groups of chunks drawn at random, ``buffer_chunks`` or a few more each."""
    # Borders lie elsewhere in every epoch, so that neighbours are not always in one chunk; moving on by the golden
    # section keeps them far from where they were in the epochs before.
    first_border = 1 + int(epoch * _GOLDEN_SECTION % 1 * chunk_size)
    borders = np.arange(first_border, num_samples, chunk_size)
    edges = np.concatenate([[0], borders, [num_samples]])
    chunks = rng.permutation(len(edges) - 1)
    # Equal groups: a small last one would bring the same clips together far too often.
    groups = np.array_split(chunks, max(1, len(chunks) // buffer_chunks))
    return np.concatenate(
        [rng.permutation(np.concatenate([np.arange(edges[k], edges[k + 1]) for k in group])) for group in groups]
    )
