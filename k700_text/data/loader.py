"""BatchLoader: batches of samples, read by processes straight into slots of shared memory, in the order asked for."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Self

import torch

from k700_text.data.handover import HandOver, Released, hand_over_to
from k700_text.data.pieces import Answer, InThisProcess, Name, Piece, Samples
from k700_text.data.sample import Batch
from k700_text.data.slots import SharedMemory, Slots
from k700_text.data.workers import Workers

_iterations = itertools.count()
"""The iterations of this process: of all its loaders, as some make a new one for every epoch."""


class BatchLoader:
    """Iterable over the batches that ``order`` names, one ``Batch`` for each list of addresses, in that order.

    Batches are the same whatever the number of processes and however they are started. A batch that was yielded lies in
    a slot, and **is valid until the next one is asked for**; ``copy=True`` yields batches that stay, as those on a GPU
    (``device``) do.

    Pieces of a few samples are handed out, so that all processes fill one batch together. They start at the first
    iteration and stay for the next ones, until ``close`` or the end of a ``with`` block; they go with the loader and
    with this program, however it ends. A new iteration ends the one before it.

    The epoch of an address decides the augmentation, as in ``StepSampler``. Plain indexes are of the epoch that was set
    on the dataset before the iteration (``set_epoch``); where none was, of the number of the iteration, counted over
    all loaders of the process from 0.

    Args:
        dataset: map-style; ``dataset[address]`` is a ``Sample``, and all samples have the same shapes.
        order: lists of addresses: a ``StepSampler``, a torch ``BatchSampler``, a list. May be endless; it is read ahead
            by ``num_slots`` batches.
        num_workers: processes; 0 reads here, when a batch is asked for.
        num_slots: batches in memory: the one that was yielded, and those on their way.
        device: where batches are to be; None and ``cpu`` leave them in their slots.
        pin_memory: None page-locks the slots where ``device`` is a GPU, False does not. True without a device yields
            copies in page-locked memory.
        context: how processes are started: ``fork``, ``spawn`` or ``forkserver``; None is Python's choice.
        chunk: samples handed out at a time.
        copy: yield batches with memory of their own.

    Attributes:
        wait_seconds: how long iterating has waited for samples, in total; a slow disk shows here.

    Raises:
        ValueError: an argument is out of range.
        UsageError: there is no such device.
    """

    def __init__(
        self,
        dataset: Samples,
        order: Iterable[Sequence[Any]],
        *,
        num_workers: int,
        num_slots: int = 4,
        device: torch.device | str | None = None,
        pin_memory: bool | None = None,
        context: str | None = None,
        chunk: int = 4,
        copy: bool = False,
    ) -> None:
        if num_workers < 0 or num_slots < 2 or chunk < 1:
            raise ValueError(f"bad loader: {num_workers=} (0 or more) {num_slots=} (2 or more) {chunk=} (1 or more)")
        self.dataset = dataset
        self.order = order
        self.num_workers = num_workers
        # One that reads only when it is asked has no use for more.
        self.num_slots = num_slots if num_workers else 2
        self.chunk = chunk
        self.wait_seconds = 0.0
        self._context = get_context(context)
        self._hand_over = hand_over_to(device, pin_memory=pin_memory, copy=copy)
        self._filler: _Filler | None = None

    def __len__(self) -> int:
        return len(self.order)  # type: ignore[arg-type]  # TypeError where the order has no length, as is right

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches.

        Raises:
            LoaderError: a process died, samples do not fit into one batch, or there is not enough memory.
            Exception: what the dataset raised, at the turn of its batch.
        """
        filler = self._filler = self._filler or self._start()
        try:
            with closing(filler.batches(iter(self.order), next(_iterations))) as batches:
                while (batch := self._timed(batches)) is not None:
                    yield batch
        except (GeneratorExit, _SupersededError):
            raise
        except BaseException:
            # Whatever it was, it may have come in the middle of a message: processes that nobody understands must go.
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes and gives the memory back; the loader may be iterated again, with new ones."""
        if self._filler is not None:
            self._filler.close()
            self._filler = None

    def _start(self) -> _Filler:
        memory = SharedMemory(self.num_slots)
        source: InThisProcess | Workers
        if self.num_workers:
            source = Workers(self.dataset, memory, self.num_workers, self._context)
        else:
            source = InThisProcess(self.dataset, memory)
        return _Filler(source, memory, self._hand_over, num_slots=self.num_slots, chunk=self.chunk)

    def _timed(self, batches: Iterator[Batch]) -> Batch | None:
        started = time.perf_counter()
        try:
            return next(batches, None)
        finally:
            self.wait_seconds += time.perf_counter() - started


class _SupersededError(RuntimeError):
    """An iteration is asked to go on that is over."""


@dataclass(slots=True)
class _Pending:
    """A batch on its way: the names of what is in its slot by now, and the first thing that went wrong."""

    slot: int
    names: list[Name]
    num_missing: int
    error: tuple[int, Exception] | None = None

    def take(self, piece: Piece, answer: Answer) -> None:
        """Notes what became of a piece of it."""
        self.names[piece.first : piece.first + len(answer.names)] = answer.names
        self.num_missing -= len(piece.addresses)
        place = piece.first + len(answer.names)
        if answer.error is not None and (self.error is None or place < self.error[0]):
            self.error = place, answer.error


class _Filler:
    """The slots and who fills them, from the first iteration to ``close``."""

    def __init__(
        self, source: InThisProcess | Workers, memory: SharedMemory, hand_over: HandOver, *, num_slots: int, chunk: int
    ) -> None:
        self._source = source
        self._memory = memory
        self._hand_over = hand_over
        self._num_slots = num_slots
        self._chunk = chunk
        self._generation = 0
        self._epoch = 0
        self._num_pieces = 0
        self._capacity = 0
        self._slots: Slots | None = None
        self._free: deque[int] = deque()
        self._copying: deque[tuple[int, Released]] = deque()
        self._pending: deque[_Pending] = deque()
        self._pieces: dict[int, tuple[_Pending, Piece]] = {}

    def batches(self, order: Iterator[Sequence[Any]], epoch: int) -> Generator[Batch, None, None]:
        """Yields the batches of one iteration; plain indexes are of this epoch, unless the dataset was told another."""
        self._begin()
        self._epoch = epoch
        mine = self._generation
        following = self._hand_out(order, next(order, None))
        try:
            while self._pending:
                batch = self._next()
                slot = batch.slot
                given, released = self._hand_over.give(self._mapped().batch(slot, batch.names))
                yield given
                if self._generation != mine:
                    raise _SupersededError("this iteration is over: the loader was closed, or another one has begun")
                if released is None:
                    self._free.append(slot)
                else:
                    self._copying.append((slot, released))
                following = self._hand_out(order, following)
        finally:
            if self._generation == mine:
                self._source.stop()

    def close(self) -> None:
        """Ends it all."""
        self._generation += 1
        self._forget_slots()
        self._source.close()

    def _begin(self) -> None:
        self._generation += 1
        self._source.begin(self._generation)
        self._wait_for_copies()
        self._pending.clear()
        self._pieces.clear()
        self._free = deque(range(self._num_slots))

    def _hand_out(self, order: Iterator[Sequence[Any]], following: Sequence[Any] | None) -> Sequence[Any] | None:
        """Hands out batches while there are slots; returns the addresses of the batch that comes next, if any."""
        while self._copying and self._copying[0][1].query():
            self._free.append(self._copying.popleft()[0])
        while following is not None:
            if not len(following):
                raise ValueError("the order has a batch without addresses")
            if len(following) > self._capacity or not self._free:
                if self._pending:
                    break
                self._wait_for_copies()
            if len(following) > self._capacity:
                # All slots are free, and nobody reads from them or writes to them.
                self._forget_slots()
                self._capacity = len(following)
            self._put(following)
            following = next(order, None)
        return following

    def _put(self, addresses: Sequence[Any]) -> None:
        batch = _Pending(self._free.popleft(), [("", None)] * len(addresses), len(addresses))
        self._pending.append(batch)
        for first in range(0, len(addresses), self._chunk):
            self._num_pieces += 1
            part = addresses[first : first + self._chunk]
            piece = Piece(self._num_pieces, self._generation, self._epoch, batch.slot, self._capacity, first, part)
            self._pieces[piece.number] = batch, piece
            self._source.put(piece)

    def _next(self) -> _Pending:
        """Waits for the batch whose turn it is."""
        batch = self._pending[0]
        while batch.num_missing:
            for answer in self._source.answers():
                owner, piece = self._pieces.pop(answer.number)
                owner.take(piece, answer)
        if batch.error is not None:
            raise batch.error[1]
        return self._pending.popleft()

    def _mapped(self) -> Slots:
        if self._slots is None:
            self._slots = self._memory.slots(self._capacity)
            self._hand_over.prepare(self._slots)
        return self._slots

    def _wait_for_copies(self) -> None:
        while self._copying:
            slot, released = self._copying.popleft()
            released.synchronize()
            self._free.append(slot)

    def _forget_slots(self) -> None:
        self._wait_for_copies()
        self._hand_over.forget()
        self._slots = None
