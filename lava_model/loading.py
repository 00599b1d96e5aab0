"""Loader processes: batches of samples in an addressable order."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from k700_text.data.sample import Batch, collate
from k700_text.errors import K700TextError
from k700_text.media.pool import num_cores
from lava_model.data import Samples
from lava_model.errors import DataError, LavaError
from lava_model.interrupts import leave_signals_to_parent


def batches_of(
    samples: Samples, order: Iterable[list[tuple[int, int]]], *, num_workers: int, pin_memory: bool
) -> Generator[Batch, None, None]:
    """Yields the batches that ``order`` names by (epoch, index), in that order.

    More processes than cores are not started: the order of the samples does not depend on their number.

    It draws from a generator of its own, so making it does not disturb the run's random numbers.

    Raises:
        DataError: a loader process failed or died.
        K700TextError: reading failed in this process.
    """
    loader: DataLoader[Batch] = DataLoader(
        cast("Dataset[Any]", samples),
        batch_sampler=cast("Any", order),
        num_workers=min(num_workers, num_cores()),
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=leave_signals_to_parent,
        generator=torch.Generator(),
    )
    return plain_errors(loader)


def plain_errors(loader: Iterable[Batch]) -> Generator[Batch, None, None]:
    """Yields what a loader yields; what happens in its processes becomes one line.

    Raises:
        DataError: a loader process failed or died.
    """
    # A traceback that holds the loader's iterator would keep its processes, deaf to SIGTERM, alive at exit: the errors
    # below go on without theirs. The worker's own is in the message.
    try:
        yield from loader
    except (K700TextError, LavaError) as error:
        lines = str(error).strip().splitlines()
        if len(lines) < 2:
            raise
        # torch sends a worker's error as its traceback; the last line is "module.Class: text".
        raise DataError(lines[-1].partition(": ")[2] or lines[-1]) from error.with_traceback(None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error).splitlines()[0] or "(pid" not in str(error):
            raise
        raise DataError(
            "a loader process died, most often for want of memory or of room in /dev/shm: use fewer loader processes,"
            " 0 to read in the main one, and run the same command again"
        ) from error.with_traceback(None)
