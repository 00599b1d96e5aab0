"""The packet tables of a folder of clips in one file: made once, looked up by path in any process.

It is an Arrow file sorted by path. A process keeps nothing of it in memory: values are read from their places in the
file, because mapped pages would count as the process's own, a gigabyte of them over an epoch.
"""

from __future__ import annotations

import bisect
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import pyarrow as pa

from k700_text.errors import DecodeError, ManifestError, UsageError
from k700_text.files.arrow_values import ValueFile
from k700_text.files.atomic import whole_file
from k700_text.media.packets import ClipPackets
from k700_text.our_files import PACKET_INDEX, kind_of_columns, kind_of_ours
from k700_text.schema import PACKET_INDEX_SCHEMA, check_schema, with_metadata

_BATCH_ROWS = 16_384
_BATCH_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketRow:
    """One clip of the index.

    Attributes:
        clip_file: path of the clip, relative to the indexed folder, with ``/``.
        file_bytes: size of the file when it was indexed.
        mtime_ns: when it had last been changed, as ``os.stat`` gives it.
        packets: its packet tables, as they are or as bytes, or why it has none.
    """

    clip_file: str
    file_bytes: int
    mtime_ns: int
    packets: ClipPackets | bytes | str


def write_packet_index(path: str | Path, rows: Iterable[PacketRow]) -> int:
    """Writes an index of rows in any order; returns how many. Raises as ``PacketIndexWriter`` does."""
    with PacketIndexWriter(path) as writer:
        for row in rows:
            writer.add(row)
    return len(writer)


class _Spooled(NamedTuple):
    clip_file: str
    file_bytes: int
    mtime_ns: int
    place: tuple[int, int] | None
    reason: str | None


class PacketIndexWriter:
    """Collects rows in any order; a context manager, at whose end the file appears, whole and sorted.

    If the block is left by an error there is no new file.

    Args:
        path: file to write; its folder exists. A file of that name is replaced.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._rows: list[_Spooled] = []
        # Beside the index, which needs as much room.
        self._spool: IO[bytes] = tempfile.TemporaryFile(dir=self._path.absolute().parent)  # noqa: SIM115 - see __exit__
        self._position = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._write()
        finally:
            self._spool.close()

    def add(self, row: PacketRow) -> None:
        """Adds one clip.

        Raises:
            UsageError: its path is not UTF-8 text, which Arrow asks for.
        """
        try:
            row.clip_file.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{row.clip_file!r}: the name is not UTF-8 text: rename the file") from error
        place, reason = None, None
        if isinstance(row.packets, str):
            reason = row.packets
        else:
            blob = row.packets if isinstance(row.packets, bytes) else row.packets.to_bytes()
            place = (self._position, len(blob))
            self._spool.write(blob)
            self._position += len(blob)
        self._rows.append(_Spooled(row.clip_file, row.file_bytes, row.mtime_ns, place, reason))

    def _write(self) -> None:
        self._rows.sort(key=lambda row: row.clip_file)
        for row, following in zip(self._rows, self._rows[1:], strict=False):
            if row.clip_file == following.clip_file:
                raise UsageError(f"{row.clip_file} is there twice: index each clip once")
        schema = with_metadata(PACKET_INDEX_SCHEMA)
        with whole_file(self._path) as file, pa.ipc.new_file(file, schema) as writer:
            for rows in self._batches():
                columns = {
                    "clip_file": [row.clip_file for row in rows],
                    "file_bytes": [row.file_bytes for row in rows],
                    "mtime_ns": [row.mtime_ns for row in rows],
                    "packets": [self._spooled(row) for row in rows],
                    "reason": [row.reason for row in rows],
                }
                writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=schema))

    def _batches(self) -> Iterator[list[_Spooled]]:
        rows: list[_Spooled] = []
        num_bytes = 0
        for row in self._rows:
            rows.append(row)
            num_bytes += row.place[1] if row.place else 0
            if len(rows) == _BATCH_ROWS or num_bytes > _BATCH_BYTES:
                yield rows
                rows, num_bytes = [], 0
        if rows:
            yield rows

    def _spooled(self, row: _Spooled) -> bytes | None:
        if row.place is None:
            return None
        offset, size = row.place
        self._spool.seek(offset)
        return self._spool.read(size)


class PacketIndex:
    """The rows of an index file, by number or by path; pickles to its path.

    Args:
        path: a file of ``write_packet_index``.

    Attributes:
        path: the file, absolute.

    Raises:
        ManifestError: the file is missing, or is damaged, or is no such file.
        SchemaMismatchError: it was written by another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        try:
            self._file = ValueFile(self.path)
            kind = kind_of_columns(self._file.schema.names)
            if kind not in (None, PACKET_INDEX):
                raise ValueError(kind)
            check_schema(self._file.schema, PACKET_INDEX_SCHEMA, self.path)
        except FileNotFoundError as error:
            raise ManifestError(f"{self.path}: no such packet index") from error
        except OSError as error:
            raise ManifestError(f"cannot read {self.path}: {error.strerror or error}") from error
        except (pa.ArrowException, ValueError, KeyError) as error:
            raise self._damaged(error) from error

    def __len__(self) -> int:
        return len(self._file)

    def __reduce__(self) -> tuple[Any, ...]:
        return PacketIndex, (self.path,)

    def find(self, clip_file: str) -> int | None:
        """Returns the number of the row of a clip, None where there is none; the path as in ``PacketRow``."""
        number = bisect.bisect_left(range(len(self)), clip_file, key=self.clip_file)
        return number if number < len(self) and self.clip_file(number) == clip_file else None

    def clip_file(self, number: int) -> str:
        """Returns the path of a clip."""
        name: str = self._value("clip_file", number)
        return name

    def stamp(self, number: int) -> tuple[int, int]:
        """Returns size (bytes) and time of last change (ns) that the file had when it was indexed.

        A file for which ``os.stat`` gives others has changed since: its packets lie elsewhere.
        """
        return self._value("file_bytes", number), self._value("mtime_ns", number)

    def packets(self, number: int) -> ClipPackets | None:
        """Returns the packet tables of a clip, None if it has to be read plainly.

        Raises:
            DecodeError: the tables are damaged.
        """
        blob = self._value("packets", number)
        if blob is None:
            return None
        try:
            return ClipPackets.from_bytes(blob)
        except ValueError as error:
            name = self.clip_file(number)
            raise DecodeError(f"{name}: {self.path} is damaged ({error}): make it again", path=name) from error

    def reason(self, number: int) -> str | None:
        """Returns why a clip has no packet tables, None if it has."""
        reason: str | None = self._value("reason", number)
        return reason

    def _value(self, column: str, number: int) -> Any:
        try:
            return self._file.value(column, number)
        except OSError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ManifestError:
        kind = kind_of_ours(self.path)
        if kind not in (None, PACKET_INDEX):
            return ManifestError(f"{self.path} is {kind}: name {PACKET_INDEX}")
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        return ManifestError(f"{self.path} is no packet index, or is damaged ({reason}): make it again")
