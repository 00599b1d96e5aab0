"""Loader processes: batches of samples in an addressable order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from k700_text.data.sample import Batch, collate
from lava_model.data import Samples
from lava_model.interrupts import leave_signals_to_parent


def batches_of(
    samples: Samples, order: Iterable[list[tuple[int, int]]], *, num_workers: int, pin_memory: bool
) -> DataLoader[Batch]:
    """Returns a loader of the batches that ``order`` names by (epoch, index), in that order.

    It draws from a generator of its own, so making it does not disturb the run's random numbers.
    """
    return DataLoader(
        cast("Dataset[Any]", samples),
        batch_sampler=cast("Any", order),
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=leave_signals_to_parent,
        generator=torch.Generator(),
    )
