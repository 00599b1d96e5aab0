"""Where batches lie while they are filled: slots of memory that processes share, made once and used again and again.

A fresh mapping for every batch, as torch's DataLoader makes them, costs more in page faults than the samples cost to
copy. The memory has no name in any file system, so nothing is left of it however its processes end.
"""

from __future__ import annotations

import errno
import fcntl
import math
import mmap
import os
import pickle
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import reduction
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from k700_text.data.sample import Batch, Sample
from k700_text.errors import LoaderError

_TENSORS = {
    "video": torch.uint8,
    "log_mel": torch.float32,
    "token_ids": torch.int64,
    "text_mask": torch.bool,
}
_FLAGS = ("has_video", "has_audio", "has_text")
_ALIGNMENT = 4096
_NUM_WORDS = 2048
_WORD_BYTES = 8
_LAYOUT_AT = _NUM_WORDS * _WORD_BYTES
_HEADER_BYTES = 2 * _LAYOUT_AT
_MAKING_SLOTS = 0
TAKING_WORK = 1
"""Which of ``SharedMemory``'s locks a process holds while it takes a piece of work."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Shapes of the tensors of one sample, by field, and the clip that they were seen on."""

    shapes: dict[str, tuple[int, ...]]
    clip_id: str

    @classmethod
    def of(cls, sample: Sample) -> Self:
        """Returns the layout of a sample."""
        return cls({name: tuple(getattr(sample, name).shape) for name in _TENSORS}, sample.clip_id)

    def check(self, sample: Sample) -> None:
        """Refuses a sample of another layout.

        Raises:
            LoaderError: with the names of both clips.
        """
        for name, shape in self.shapes.items():
            found = tuple(getattr(sample, name).shape)
            if found != shape:
                raise LoaderError(
                    f"{name} is {found} in clip {sample.clip_id} but {shape} in clip {self.clip_id}: samples of one"
                    " loader must have the same shapes"
                )

    def places(self, capacity: int) -> tuple[dict[str, int], int]:
        """Returns at which byte of a slot each field begins, and how many bytes a slot of so many samples takes."""
        places, position = {}, 0
        for name in (*_TENSORS, *_FLAGS):
            places[name] = position
            size = capacity * _num_bytes(self.shapes.get(name, ()), _TENSORS.get(name, torch.bool))
            position += -(-size // _ALIGNMENT) * _ALIGNMENT
        return places, position


@contextmanager
def sharing_memory() -> Iterator[None]:
    """Makes one line of what the system says where it gives no memory to share.

    Raises:
        LoaderError: it gives none.
    """
    try:
        yield
    except OSError as error:
        raise LoaderError(
            f"the system gives no memory that processes share ({error.strerror or error}): raise the limits of file"
            " sizes and open files (ulimit -f, ulimit -n), and make room in /dev/shm"
        ) from error


class Slots:
    """The slots as tensors; each holds one batch of up to ``capacity`` samples, field by field.

    Attributes:
        layout: of every sample in them.
        capacity: samples that fit into one.
        memory: all of them as one tensor, uint8.
    """

    def __init__(self, memory: mmap.mmap, layout: Layout, capacity: int, num_slots: int) -> None:
        self.layout = layout
        self.capacity = capacity
        self.memory = torch.frombuffer(memory, dtype=torch.uint8)
        places, slot_bytes = layout.places(capacity)
        self._slots = [
            {name: self._field(name, number * slot_bytes + place) for name, place in places.items()}
            for number in range(num_slots)
        ]

    def write(self, slot: int, position: int, sample: Sample) -> None:
        """Writes a sample into a place of a slot.

        Raises:
            LoaderError: it has other shapes than those before it.
        """
        self.layout.check(sample)
        for name, tensor in self._slots[slot].items():
            if name in _TENSORS:
                tensor[position].copy_(getattr(sample, name))
            else:
                tensor[position] = getattr(sample, name)

    def batch(self, slot: int, names: Sequence[tuple[str, str | None]]) -> Batch:
        """Returns the first samples of a slot, as many as there are names (clip id, label); new views of the memory."""
        views = {name: tensor[: len(names)] for name, tensor in self._slots[slot].items()}
        return Batch(**views, clip_id=tuple(name[0] for name in names), label=tuple(name[1] for name in names))

    def _field(self, name: str, start: int) -> Tensor:
        dtype, shape = _TENSORS.get(name, torch.bool), self.layout.shapes.get(name, ())
        raw = self.memory[start : start + self.capacity * _num_bytes(shape, dtype)]
        return raw.view(dtype).view(self.capacity, *shape)


class SharedMemory:
    """One anonymous file that the processes of a loader map: some words that tell how things stand, then the slots.

    It is handed to a process when that starts, and grows when the first sample shows what a slot has to hold; who
    reads that sample makes the slots.

    Args:
        num_slots: batches that it holds.

    Raises:
        LoaderError: the system gives none.
    """

    def __init__(self, num_slots: int) -> None:
        # The locks lie on a file of their own: the system drops a process's locks with any mapping of their file.
        with sharing_memory():
            self._open(num_slots, _anonymous_file(), _anonymous_file())

    def __reduce__(self) -> tuple[Callable[..., SharedMemory], tuple[Any, ...]]:
        # Only while a process is being started do descriptors pickle; that is the only time it is asked for.
        descriptors = (reduction.DupFd(self.file), reduction.DupFd(self._lock_file))
        return _attached, (type(self), self._num_slots, *descriptors)

    @property
    def size(self) -> int:
        """Bytes of memory that it takes."""
        return os.fstat(self.file).st_size

    def close(self) -> None:
        """Closes the files; slots that are mapped stay until the last tensor in them is gone."""
        self._close()

    @contextmanager
    def locked(self, which: int) -> Iterator[None]:
        """Keeps other processes out; the lock of a process that dies is free again."""
        fcntl.lockf(self._lock_file, fcntl.LOCK_EX, 1, which)
        try:
            yield
        finally:
            fcntl.lockf(self._lock_file, fcntl.LOCK_UN, 1, which)

    def slots(self, capacity: int, sample: Sample | None = None) -> Slots:
        """Returns the slots, made so that this sample fits if nobody has made them yet.

        Args:
            capacity: samples of a slot; not below what it was before.
            sample: may be None where the slots are known to be there.

        Raises:
            LoaderError: there is not enough memory.
        """
        with self.locked(_MAKING_SLOTS):
            layout = self._layout()
            if layout is None:
                assert sample is not None
                layout = Layout.of(sample)
                self._put_layout(layout)
            _, slot_bytes = layout.places(capacity)
            self._reserve(self._num_slots * slot_bytes, capacity)
        memory = mmap.mmap(self.file, self._num_slots * slot_bytes, offset=_HEADER_BYTES)
        return Slots(memory, layout, capacity, self._num_slots)

    def _open(self, num_slots: int, file: int, lock_file: int) -> None:
        self._num_slots = num_slots
        self.file = file
        self._lock_file = lock_file
        if not os.fstat(file).st_size:
            os.ftruncate(file, _HEADER_BYTES)
        self._header = mmap.mmap(file, _HEADER_BYTES)
        self.words = memoryview(self._header)[:_LAYOUT_AT].cast("q")
        """int64 words, zero at first, that every process reads and writes."""
        self._close = weakref.finalize(self, _close, self.words, self._header, (file, lock_file))
        # At the end of the program the system does it, after whoever still needs the words.
        self._close.atexit = False

    def _layout(self) -> Layout | None:
        packed = self._header[_LAYOUT_AT:]
        # Memory that nobody has written is zeros, and no pickle begins with one.
        return pickle.loads(packed) if packed[0] else None

    def _put_layout(self, layout: Layout) -> None:
        packed = pickle.dumps(layout)
        self._header[_LAYOUT_AT : _LAYOUT_AT + len(packed)] = packed

    def _reserve(self, slots_bytes: int, capacity: int) -> None:
        missing = _HEADER_BYTES + slots_bytes - os.fstat(self.file).st_size
        if missing <= 0:
            return
        room = free_bytes(self.file)
        try:
            if room is not None and missing > room:
                raise MemoryError
            _grow(self.file, _HEADER_BYTES + slots_bytes)
        except (OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno == errno.EFBIG:
                raise LoaderError(
                    f"batches of {capacity} need {megabytes(slots_bytes)} of shared memory, more than a file may have"
                    " here (ulimit -f): raise that limit, or use smaller batches or fewer slots (num_slots)"
                ) from error
            there = "" if room is None else f", there are {megabytes(room)}"
            raise LoaderError(
                f"{self._num_slots} slots for batches of {capacity} need {megabytes(slots_bytes)} of shared memory"
                f"{there}: use smaller batches or fewer slots (num_slots), or give the container more"
            ) from error


def megabytes(num_bytes: int) -> str:
    """Returns a size in words."""
    return f"{num_bytes / 1e6:.0f} MB"


def free_bytes(file: int) -> int | None:
    """Returns how much more memory an anonymous file may take as far as one can tell, None if one cannot."""
    rooms = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        rooms.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    with suppress(OSError, ValueError, KeyError):
        rooms.append(_container_room(Path("/sys/fs/cgroup")))
    if not hasattr(os, "memfd_create"):
        rooms.append(shutil.disk_usage(file).free)
    return min(rooms, default=None)


def _container_room(folder: Path) -> int:
    """Returns what a container may still take; cached file contents make way and do not count."""
    limit = int((folder / "memory.max").read_text("ascii"))
    used = int((folder / "memory.current").read_text("ascii"))
    lines = (folder / "memory.stat").read_text("ascii").splitlines()
    found = {name: int(value) for name, value in map(str.split, lines)}
    return max(0, limit - used + found["active_file"] + found["inactive_file"])


def _attached(cls: type[SharedMemory], num_slots: int, file: Any, lock_file: Any) -> SharedMemory:
    memory = cls.__new__(cls)
    memory._open(num_slots, file.detach(), lock_file.detach())
    return memory


def _close(words: memoryview, header: mmap.mmap, files: tuple[int, ...]) -> None:
    words.release()
    header.close()
    for file in files:
        os.close(file)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        # Bounded by memory alone; /dev/shm, which has 64 MB in a container by default, is not involved.
        return os.memfd_create("k700_text loader")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _grow(file: int, num_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        # Pages that are not there when they are written to would be a deadly signal instead of an error.
        os.posix_fallocate(file, 0, num_bytes)
    else:
        os.ftruncate(file, num_bytes)


def _num_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize
