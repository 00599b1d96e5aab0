"""Which epoch a plain index is of: the one that was set, or else another one in every iteration.

A DataLoader tells its dataset nothing of epochs, its workers may outlive them, and ``Subset`` and its like hide
``set_epoch``. So the epoch lies in memory that processes share, and where nobody sets one, samples differ as those of
torchvision's random transforms do: by torch's generator, which every loader seeds anew in every worker.
"""

from __future__ import annotations

import ctypes
import operator
import os
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing import sharedctypes
from multiprocessing.context import get_spawning_popen
from typing import Any

import torch
from torch.utils.data import get_worker_info

from k700_text.data.slots import sharing_memory

LARGEST_EPOCH = 2**63 - 1
_UNSET = -1
_iteration: ContextVar[int | None] = ContextVar("iteration of a BatchLoader", default=None)


@contextmanager
def reading_for(iteration: int) -> Iterator[None]:
    """Makes plain indexes that are read inside those of this epoch, where none was set."""
    token = _iteration.set(iteration)
    try:
        yield
    finally:
        _iteration.reset(token)


def address_of(index: Any, length: int) -> tuple[tuple[int, ...], int]:
    """Returns the epoch that an index of a dataset says, if any, and its place in 0..length - 1.

    Args:
        index: a whole number, from the end where it is negative, or (epoch, number).
        length: of the dataset.

    Raises:
        IndexError: there is no such place.
        TypeError: it is no index.
        ValueError: the epoch is negative.
    """
    try:
        *epoch, position = map(operator.index, index if isinstance(index, tuple) else (index,))
        if len(epoch) > 1:
            raise TypeError("more than two numbers")
    except (TypeError, ValueError) as error:
        shown = " ".join(reprlib.repr(index).split())
        raise TypeError(
            f"an index is a whole number, (epoch, number) or a slice, got {type(index).__name__} {shown}: for"
            " several clips take torch.utils.data.Subset(dataset, numbers)"
        ) from error
    if epoch and epoch[0] < 0:
        raise ValueError(f"the epoch of index {index} must not be negative")
    place = position + length if position < 0 else position
    if not 0 <= place < length:
        raise IndexError(f"index {position} is outside 0..{length - 1}")
    return tuple(epoch), place


class SharedEpoch:
    """An epoch that a process and the workers it starts share, running ones included.

    It is handed on to processes as they are started, forked or afresh; every other copy is one of its own. A process
    that got it from its parent and sets it leaves the parent's alone: two runs may share a dataset, not their epochs.
    """

    def __init__(self, epoch: int = _UNSET) -> None:
        with sharing_memory():
            self._word: ctypes.Array[ctypes.c_int64] = sharedctypes.RawArray(ctypes.c_int64, [epoch])
        self._owner = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        if get_spawning_popen() is None:
            return SharedEpoch, (self._word[0],)
        self._own()
        return _attached, (self._word, self._owner)

    def set(self, epoch: int) -> None:
        """Sets it, for this process and its workers.

        Raises:
            ValueError: it is negative, or has more than 63 bits.
            TypeError: it is no whole number.
        """
        number = operator.index(epoch)
        if not 0 <= number <= LARGEST_EPOCH:
            raise ValueError(f"epoch must be in 0..{LARGEST_EPOCH}, got {epoch}")
        self._own()
        self._word[0] = number

    def key(self) -> tuple[int, ...]:
        """Returns what the random numbers of one sample depend on, beside its index: none of them negative."""
        epoch = self._word[0]
        if epoch != _UNSET:
            return (epoch,)
        iteration = _iteration.get()
        return _drawn() if iteration is None else (iteration,)

    def _own(self) -> None:
        if self._owner != os.getpid():
            self.__init__(self._word[0])  # type: ignore[misc]  # it becomes another one, in place


def _attached(word: ctypes.Array[ctypes.c_int64], owner: int) -> SharedEpoch:
    epoch = SharedEpoch.__new__(SharedEpoch)
    epoch._word, epoch._owner = word, owner
    return epoch


def _drawn() -> tuple[int, int]:
    # The second is enough, unless somebody's worker_init_fn seeds the workers of all iterations alike.
    worker = get_worker_info()
    base_seed = 0 if worker is None else worker.seed - worker.id
    return base_seed, int(torch.empty((), dtype=torch.int64).random_())
