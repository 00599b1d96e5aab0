"""What the processes of one loader share: the rows it serves and the failures it met, as two files.

The rows lie in an Arrow file that every worker maps into memory: they are there once, however many workers there are,
and a pickled dataset carries a path instead of a table.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import pyarrow as pa

from k700_text.errors import ManifestError


class SharedRows:
    """A table on disk, mapped into memory; removed when the process that made it drops it.

    Args:
        table: the rows.
    """

    def __init__(self, table: pa.Table) -> None:
        folder = Path(tempfile.mkdtemp(prefix="k700_text_"))
        self._path = folder / "rows.arrow"
        self._failures_path = folder / "failures.jsonl"
        self._table: pa.Table | None = None
        self._known_failures: set[str] = set()
        self._num_rows = len(table)
        weakref.finalize(self, _remove, str(folder), os.getpid())
        with pa.OSFile(str(self._path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())

    def __len__(self) -> int:
        return self._num_rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table": None}

    def row(self, index: int) -> dict[str, Any]:
        """Returns one row by column name."""
        table = self._opened()
        return {name: table.column(name)[index].as_py() for name in table.column_names}

    def column(self, name: str) -> list[Any]:
        """Returns one column."""
        values: list[Any] = self._opened().column(name).to_pylist()
        return values

    def note_failure(self, clip_id: str, reason: str) -> int:
        """Notes that a clip does not decode, once; returns the number of such clips in all processes."""
        if clip_id not in self._known_failures:
            self._known_failures = set(self.failures())
        if clip_id not in self._known_failures:
            self._known_failures.add(clip_id)
            line = json.dumps({"clip_id": clip_id, "reason": reason}) + "\n"
            with self._failures_path.open("a", encoding="utf-8") as file:
                file.write(line)
        return len(self._known_failures)

    def failures(self) -> dict[str, str]:
        """Returns why clips do not decode, by clip id, as met so far in all processes."""
        if not self._failures_path.exists():
            return {}
        notes = [json.loads(line) for line in self._failures_path.read_text(encoding="utf-8").splitlines()]
        return {note["clip_id"]: note["reason"] for note in notes}

    def _opened(self) -> pa.Table:
        if self._table is None:
            try:
                source = pa.memory_map(str(self._path))
            except FileNotFoundError as error:
                raise ManifestError(
                    "the dataset's rows are gone: they live as long as the process that made it; make it again"
                ) from error
            self._table = pa.ipc.open_file(source).read_all()
        return self._table


def _remove(folder: str, owner: int) -> None:
    # A forked worker holds a copy of the object; only its maker removes the files.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
