"""What the processes of one loader share, as files: the rows it serves, and what went wrong with them so far."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from k700_text.errors import ManifestError
from k700_text.files.arrow_values import ValueFile

_ABOUT = b"k700_text.rows"
_FAILURES, _PLAIN_READS = "failures", "plain_reads"


class Row(NamedTuple):
    """One clip that a dataset serves; its fields are the columns of the file.

    Attributes:
        clip_id: of the manifest.
        label: of the manifest.
        title: of the manifest.
        has_video: of the manifest; None if it does not know.
        has_audio: of the manifest; None if it does not know.
        place: where its source has the clip, None where it has none: a path, or the number of a record.
    """

    clip_id: str
    label: str | None
    title: str | None
    has_video: bool | None
    has_audio: bool | None
    place: str | int | None


def write_rows(file: BinaryIO, table: pa.Table, about: Mapping[str, Any]) -> None:
    """Writes rows as an Arrow file of one batch.

    Args:
        file: where to.
        table: the columns of Row; ``place`` is large_string or int64.
        about: what ``RowFile.about`` is to give; as JSON holds it.
    """
    texts = dict.fromkeys(("clip_id", "label", "title"), pa.large_string())
    columns = [table[name].cast(texts.get(name, table[name].type)) for name in Row._fields]
    batch = pa.RecordBatch.from_arrays([_whole(column) for column in columns], names=list(Row._fields))
    batch = batch.replace_schema_metadata({_ABOUT: json.dumps(about)})
    with pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


class RowFile:
    """The rows in a file of ``write_rows``, read value by value; pickles to its path.

    Attributes:
        path: the file.
        about: what was given to ``write_rows``.

    Raises:
        ManifestError: the file is gone, or is not such a file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self._file = ValueFile(path)
            self.about: dict[str, Any] = json.loads(self._file.schema.metadata[_ABOUT])
            if self._file.schema.names != list(Row._fields):
                raise ValueError(f"columns {', '.join(self._file.schema.names)}")
        except FileNotFoundError as error:
            raise ManifestError(f"the dataset's rows are gone ({path}): make it again") from error
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise ManifestError(f"{path} is damaged ({' '.join(str(error).split())}): remove it") from error
        self.path = self._file.path

    def __len__(self) -> int:
        return len(self._file)

    def __reduce__(self) -> tuple[Any, ...]:
        return RowFile, (self.path,)

    def row(self, index: int) -> Row:
        """Returns one row; the index must be in 0..len - 1.

        Raises:
            ManifestError: the file has been cut short or written over since it was opened.
        """
        try:
            return Row(*self._file.row(index, Row._fields))
        except OSError as error:
            raise ManifestError(f"{self.path}: {error.strerror}: make the dataset again") from error

    def column(self, name: str) -> pa.ChunkedArray:
        """Returns one column, mapped from the file for as long as it is held."""
        return self._file.table()[name]


class PlainRead(IntEnum):
    """Why a clip is read without its packet table; the value is its mark."""

    NOT_INDEXED = 1
    NO_TABLE = 2
    CHANGED = 3
    MISFIT = 4

    @property
    def reason(self) -> str:
        """The reason in words."""
        return _REASONS[self]


_REASONS = {
    PlainRead.NOT_INDEXED: "not in the packet index",
    PlainRead.NO_TABLE: "of a kind that has no packet table",
    PlainRead.CHANGED: "changed since the packet index was made",
    PlainRead.MISFIT: "does not decode with its packet table",
}


class RunNotes:
    """What went wrong while samples were read, in all processes: counted by row, with a reason for each failure.

    Its files are removed when the process that made it drops it. A copy elsewhere (a worker) writes to the same ones,
    and to some of its own if they are gone.

    Args:
        num_rows: rows of the dataset.

    Raises:
        ManifestError: there is no place for its files; the methods that note something raise it too.
    """

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._make_folder()

    def _make_folder(self) -> None:
        with _no_place():
            self._folder = Path(tempfile.mkdtemp(prefix="k700_text_"))
            weakref.finalize(self, _remove, str(self._folder), os.getpid())
            # A byte per row, for each kind of note; written without a map, where a full disk would be a signal.
            for path in (self._marks_of(kind) for kind in (_FAILURES, _PLAIN_READS)):
                with path.open("wb") as file:
                    file.truncate(self._num_rows)

    def note_failure(self, index: int, clip_id: str, reason: str) -> int:
        """Notes that the clip of a row does not decode, once; returns the number of such rows."""
        if self._mark(_FAILURES, index, 1):
            line = json.dumps({"clip_id": clip_id, "reason": reason}) + "\n"
            with _no_place(), (self._folder / "failures.jsonl").open("a", encoding="utf-8") as file:
                file.write(line)
        return self._num_rows - self._marks(_FAILURES).count(0)

    def note_plain_read(self, index: int, why: PlainRead) -> None:
        """Notes that the clip of a row is read without its packet table."""
        self._mark(_PLAIN_READS, index, why.value)

    def failures(self) -> dict[str, str]:
        """Returns why clips do not decode, by clip id."""
        try:
            text = (self._folder / "failures.jsonl").read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        # What another process is just writing has no end yet.
        notes = [json.loads(line) for line in text.split("\n")[:-1]]
        return {note["clip_id"]: note["reason"] for note in notes}

    def plain_reads(self) -> dict[str, int]:
        """Returns the number of clips read without their packet table, by reason."""
        marks = self._marks(_PLAIN_READS)
        counts = {why.reason: marks.count(why.value) for why in PlainRead}
        return {reason: count for reason, count in counts.items() if count}

    def _mark(self, kind: str, index: int, value: int) -> bool:
        """Sets the mark of a row; returns whether it had another."""
        try:
            descriptor = os.open(self._marks_of(kind), os.O_RDWR)
        except FileNotFoundError:
            self._make_folder()
            return self._mark(kind, index, value)
        try:
            if os.pread(descriptor, 1, index) == bytes([value]):
                return False
            with _no_place():
                os.pwrite(descriptor, bytes([value]), index)
            return True
        finally:
            os.close(descriptor)

    def _marks(self, kind: str) -> bytes:
        try:
            return self._marks_of(kind).read_bytes()
        except FileNotFoundError:
            return bytes(self._num_rows)

    def _marks_of(self, kind: str) -> Path:
        return self._folder / f"{kind}.marks"


@contextmanager
def _no_place() -> Iterator[None]:
    """Stops the run where a failure cannot be noted: it would be lost."""
    try:
        yield
    except OSError as error:
        raise ManifestError(
            f"no place to note what does not decode ({error.strerror}): make room in the folder of temporary files, "
            "or set TMPDIR to another"
        ) from error


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if len(column) else pa.array([], column.type)


def _remove(folder: str, owner: int) -> None:
    # A forked worker holds a copy of the object; only its maker removes the files.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
