"""How a batch leaves its slot: as it lies there, copied, or on its way to a GPU."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any, Protocol

import torch
from torch import Tensor

from k700_text.data.sample import Batch
from k700_text.data.slots import Slots
from k700_text.errors import UsageError

_PORTABLE = 1
"""cudaHostRegisterPortable: page-locked for every GPU that this process uses."""


class Released(Protocol):
    """Tells when a slot is no longer read (a ``torch.cuda.Event``)."""

    def query(self) -> bool:
        """Returns whether that is so by now."""

    def synchronize(self) -> None:
        """Waits until it is."""


class HandOver(Protocol):
    """A way for batches to leave their slots."""

    def prepare(self, slots: Slots) -> None:
        """Is told of new slots, before the first batch in them."""

    def give(self, batch: Batch) -> tuple[Batch, Released | None]:
        """Returns what to yield, and when its slot is free; None: as soon as the next batch is asked for."""

    def forget(self) -> None:
        """Is told that the slots go; none of them is read any more."""


def hand_over_to(device: torch.device | str | None, *, pin_memory: bool | None, copy: bool) -> HandOver:
    """Returns the way that ``BatchLoader``'s arguments ask for.

    Raises:
        UsageError: there is no such device.
    """
    target = None if device is None else _device(device)
    if target is None or target.type == "cpu":
        return _Here(pin_memory=bool(pin_memory), copy=copy)
    return _OnDevice(target, pin_memory=target.type == "cuda" if pin_memory is None else pin_memory)


class _Here:
    """Batches as they lie in their slots, or copies of them."""

    def __init__(self, *, pin_memory: bool, copy: bool) -> None:
        self._pin_memory = pin_memory
        self._copy = copy

    def prepare(self, slots: Slots) -> None:
        """Needs no preparation."""

    def give(self, batch: Batch) -> tuple[Batch, Released | None]:
        if self._pin_memory:
            try:
                return batch.pin_memory(), None
            except RuntimeError as error:
                raise UsageError(f"pin_memory=True needs a GPU that torch can use: {error}") from error
        return (batch.clone() if self._copy else batch), None

    def forget(self) -> None:
        """Holds nothing."""


class _OnDevice:
    """Batches copied to a device while the program goes on, from slots that are page-locked where that can be had."""

    def __init__(self, device: torch.device, *, pin_memory: bool) -> None:
        self._device = device
        self._pin_memory = pin_memory
        self._unlock: weakref.finalize[[Tensor], _OnDevice] | None = None

    def prepare(self, slots: Slots) -> None:
        if self._pin_memory and _page_locked(slots.memory, self._device):
            # The finalizer keeps the memory mapped until it is unlocked.
            self._unlock = weakref.finalize(self, _unlock, slots.memory)

    def give(self, batch: Batch) -> tuple[Batch, Released | None]:
        if not self._pin_memory:
            return batch.to(self._device), None
        if self._unlock is None:
            # torch's own page-locked memory stays until the copy that reads it is done.
            return batch.pin_memory().to(self._device, non_blocking=True), None
        there = batch.to(self._device, non_blocking=True)
        copied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        copied.record(torch.cuda.current_stream(self._device))
        return there, copied

    def forget(self) -> None:
        if self._unlock is not None:
            self._unlock()
            self._unlock = None


def _device(device: torch.device | str) -> torch.device:
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"{device!r} names no device: use 'cpu', 'cuda' or 'cuda:1'") from error
    # Counting leaves CUDA alone, so that processes may still be forked.
    num_gpus = torch.cuda.device_count() if target.type == "cuda" else None
    if num_gpus is not None and (target.index or 0) >= num_gpus:
        raise UsageError(f"no device {target}: torch sees {num_gpus} GPUs here")
    return target


def _cudart() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _page_locked(memory: Tensor, device: torch.device) -> bool:
    """Returns whether CUDA could page-lock memory that is shared with other processes."""
    with torch.cuda.device(device):
        if int(_cudart().cudaHostRegister(memory.data_ptr(), memory.numel(), _PORTABLE)) == 0:
            return True
        # CUDA would report the failure to whoever launches the next kernel: let that be this one.
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device=device)
            torch.cuda.synchronize()
    return False


def _unlock(memory: Tensor) -> None:
    _cudart().cudaHostUnregister(memory.data_ptr())
