"""Which clip comes when: a pure function of (seed, epoch, step), so that a run continues exactly where it stopped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

Address = tuple[int, int]
"""(epoch, index): what ``KineticsAVT`` takes as an index; the epoch decides the augmentation."""


class StepSampler(Sampler[list[Address]]):
    """Batch sampler that yields lists of (epoch, index), step after step and epoch after epoch.

    Every epoch is a permutation of its own. All ranks together take ``batch_size * world_size`` clips a step, and no
    two the same. Give it to ``DataLoader(batch_sampler=...)``. Iteration begins at ``start_step`` and ends after
    ``num_steps`` further steps, or never.

    Args:
        num_samples: length of the dataset.
        batch_size: clips of one rank in one step.
        seed: not negative.
        start_step: global step to begin with; counts over epochs.
        num_steps: steps to take; None goes on for ever.
        rank: which process this is.
        world_size: number of processes.
        drop_last: leave out an epoch's last, incomplete step; False only in a single process.

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
    ) -> None:
        if min(num_samples, batch_size, world_size) < 1 or min(seed, start_step, num_steps or 0) < 0:
            raise ValueError(
                f"bad sampler: {num_samples=} {batch_size=} {world_size=} {seed=} {start_step=} {num_steps=}"
            )
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
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)
        return self._order[1]
