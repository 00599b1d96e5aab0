"""Loader processes: batches of samples in an addressable order."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence, Sized
from typing import Any, Protocol, runtime_checkable

import torch

from k700_text.data.loader import BatchLoader
from k700_text.data.sample import Batch, Sample
from k700_text.errors import LoaderError
from k700_text.media.pool import num_cores
from lava_model.errors import DataError


class Addressable(Protocol):
    """Gives the sample of an address."""

    def __getitem__(self, address: Any, /) -> Sample:
        """Returns it."""


@runtime_checkable
class Stacked(Sized, Protocol):
    """Samples that are at hand already, by whole batches: no process has to read them."""

    def batch(self, addresses: Sequence[Any], /) -> Batch:
        """Returns the samples of some addresses."""


def batches_of(
    samples: Addressable | Stacked,
    order: Iterable[Sequence[Any]],
    *,
    num_workers: int,
    device: torch.device | None = None,
) -> Generator[Batch, None, None]:
    """Yields the batches that ``order`` names, by (epoch, index) as a rule, on the device.

    Where that is the CPU, a batch is valid until the next one is asked for. More processes than cores are not started:
    the batches do not depend on their number. Random numbers of this process are left alone.

    Raises:
        DataError: a loader process died, or samples do not fit into one batch.
        K700TextError: reading failed.
    """
    if isinstance(samples, Stacked):
        for addresses in order:
            batch = samples.batch(addresses)
            yield batch if device is None else batch.to(device)
        return
    workers = min(num_workers, num_cores())
    try:
        with BatchLoader(samples, order, num_workers=workers, device=device) as loader:
            yield from loader
    except LoaderError as error:
        raise DataError(str(error)) from error
