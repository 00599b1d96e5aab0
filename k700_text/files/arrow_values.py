"""Single values of an Arrow file, read from their places in it.

A mapped table is as fast, but every page that a process touches counts as its own: a worker that goes through an index
of a gigabyte seems to need a gigabyte. Read this way, it needs nothing, at about 1 us a value.
"""

from __future__ import annotations

import bisect
import errno
import fcntl
import os
import stat
import struct
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

_Reader = Callable[[int], Any]

_NUMBERS = {pa.int32(): struct.Struct("<i"), pa.int64(): struct.Struct("<q"), pa.float64(): struct.Struct("<d")}
_OFFSETS = {
    pa.string(): struct.Struct("<2i"),
    pa.binary(): struct.Struct("<2i"),
    pa.large_string(): struct.Struct("<2q"),
    pa.large_binary(): struct.Struct("<2q"),
}


class ValueFile:
    """An open Arrow file (uncompressed IPC file format, of any number of batches). Safe to use after a fork.

    Columns may be texts, bytes, booleans, int32, int64 or float64.

    Args:
        path: the file.

    Attributes:
        path: the file, absolute.
        schema: its schema.

    Raises:
        OSError: it cannot be opened.
        pa.ArrowInvalid: it is no such file, or is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        # Does not wait for who writes into a pipe, which is no such file.
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        weakref.finalize(self, os.close, self._descriptor)
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no file", str(self.path))
        # Tells whoever clears up that it is in use; not every file system can.
        with suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        batches, base_address = self._mapped()
        self._readers: list[dict[str, _Reader]] = [
            {name: _reader_of(batch.column(name), base_address, self._descriptor) for name in self.schema.names}
            for batch in batches
        ]
        self._firsts: list[int] = []
        self._num_rows = 0
        for batch in batches:
            self._firsts.append(self._num_rows)
            self._num_rows += len(batch)

    def __len__(self) -> int:
        return self._num_rows

    def value(self, column: str, number: int) -> Any:
        """Returns the value of a column in a row of 0..len - 1, None where it is null; raises as ``row`` does."""
        return self.row(number, (column,))[0]

    def row(self, number: int, columns: Sequence[str]) -> list[Any]:
        """Returns the values of some columns in a row of 0..len - 1, None where they are null.

        Raises:
            OSError: they cannot be read: the file has been cut short or written over since it was opened.
        """
        batch = bisect.bisect_right(self._firsts, number) - 1
        readers, place = self._readers[batch], number - self._firsts[batch]
        try:
            return [readers[column](place) for column in columns]
        except (struct.error, IndexError, UnicodeDecodeError, OverflowError, MemoryError) as error:
            raise OSError(errno.EIO, f"row {number} cannot be read ({error})", str(self.path)) from error

    def table(self) -> pa.Table:
        """Returns everything, mapped for as long as it is held."""
        batches, _ = self._mapped()
        return pa.Table.from_batches(batches, self.schema)

    def _mapped(self) -> tuple[list[pa.RecordBatch], int]:
        """Returns all batches, and the address that the first byte of the file is mapped to."""
        # By its descriptor: another file may have this name by now.
        source = pa.memory_map(f"/dev/fd/{self._descriptor}")
        base_address: int = source.read_buffer(source.size()).address
        reader = pa.ipc.open_file(source)
        self.schema = reader.schema
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate()
        return batches, base_address


def _reader_of(array: pa.Array, base_address: int, descriptor: int) -> _Reader:
    """Returns what reads the value at an index of the array from the file."""
    validity, *places = [None if buffer is None else buffer.address - base_address for buffer in array.buffers()]
    read = _value_reader(array.type, places, descriptor)
    if not array.null_count:
        return read
    return lambda index: read(index) if _bit(descriptor, validity, index) else None


def _value_reader(kind: pa.DataType, places: list[int | None], descriptor: int) -> _Reader:
    values = places[0] or 0
    if pa.types.is_boolean(kind):
        return lambda index: _bit(descriptor, values, index)
    if kind in _NUMBERS:
        number = _NUMBERS[kind]
        return lambda index: number.unpack(os.pread(descriptor, number.size, values + number.size * index))[0]
    offsets = _OFFSETS[kind]
    step, content = offsets.size // 2, places[1] or 0

    def read_bytes(index: int) -> bytes:
        begin, end = offsets.unpack(os.pread(descriptor, offsets.size, values + step * index))
        value = os.pread(descriptor, end - begin, content + begin) if begin < end else b""
        if begin < 0 or begin + len(value) != end:
            raise IndexError(f"no text or bytes from {begin} to {end}")
        return value

    if kind in (pa.string(), pa.large_string()):
        return lambda index: read_bytes(index).decode()
    return read_bytes


def _bit(descriptor: int, place: int | None, index: int) -> bool:
    return bool(os.pread(descriptor, 1, (place or 0) + index // 8)[0] >> index % 8 & 1)
