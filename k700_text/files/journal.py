"""The note of every finished file beside an output: what makes a killed run resumable."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from k700_text.files.atomic import PartFile, errors_named, remove_abandoned
from k700_text.files.plain import open_plain

Stamp = tuple[int, int]
"""Size in bytes and time of last change in nanoseconds."""

Note = dict[str, Any]
"""What is known of one file: ``clip_file``, ``stamp``, and what else was noted."""

_PIECE_BYTES = 1 << 20


def journal_beside(output: Path) -> Path:
    """Returns the journal of an output: beside it, hidden, so that readers of its folder leave it out.

    That of an earlier version, which did not hide it, is renamed.
    """
    path, earlier = output.with_name(f".{output.name}.journal"), output.with_name(f"{output.name}.journal")
    if earlier.is_file() and not path.exists():
        earlier.rename(path)
    return path


class Journal:
    """A text file of one JSON object a line: what the notes depend on, then a line for every finished file.

    Args:
        path: the file; created when needed.
        header: what the notes depend on; those made under another header are not used.
    """

    def __init__(self, path: Path, header: Mapping[str, str]) -> None:
        self.path = path
        self._header = dict(header)

    def resume(self, is_wanted: Callable[[Note], bool]) -> None:
        """Asks about every note, in order, and drops those that are not wanted, and a line that a kill has torn.

        Raises:
            OSError: the file cannot be read or written.
        """
        remove_abandoned(self.path)
        with ExitStack() as stack:
            # Mostly all is well: only at the first line that goes, what stays begins to be copied.
            fresh: PartFile | None = None
            position = self._end_of_header()
            if position == 0:
                fresh = self._fresh(stack, 0)
                fresh.write(json.dumps(self._header).encode() + b"\n")
            for line, note in self._lines():
                if note is None or not is_wanted(note):
                    fresh = fresh or self._fresh(stack, position)
                elif fresh is not None:
                    fresh.write(line)
                position += len(line)
            if fresh is not None:
                fresh.publish()

    @contextmanager
    def appending(self) -> Iterator[Callable[[str, Stamp, Mapping[str, Any]], None]]:
        """Gives the function that notes what is known of a file; what is noted survives a kill of this process."""
        with os.fdopen(open_plain(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab", buffering=0) as file:

            def note(clip_file: str, stamp: Stamp, values: Mapping[str, Any]) -> None:
                line = json.dumps({"stamp": stamp, "clip_file": clip_file, **values}) + "\n"
                rest = memoryview(line.encode())
                with errors_named(self.path):
                    while rest:
                        # A disk that is nearly full takes a part.
                        rest = rest[file.write(rest) :]

            yield note

    def notes(self) -> Iterator[Note]:
        """Yields the notes in the order they were made."""
        return (note for _, note in self._lines() if note is not None)

    def _lines(self) -> Iterator[tuple[bytes, Note | None]]:
        """Yields the lines behind the header, None where one is no note; nothing under another header."""
        start = self._end_of_header()
        if start == 0:
            return
        with errors_named(self.path), self._opened() as file:
            file.seek(start)
            for line, note in json_lines(file):
                yield line, note if note is not None and {"stamp", "clip_file"} <= note.keys() else None

    def _end_of_header(self) -> int:
        """Returns where the notes begin, 0 if the file is missing or has another header."""
        try:
            with errors_named(self.path), self._opened() as file:
                return file.tell() if _parsed(file.readline()) == self._header else 0
        except FileNotFoundError:
            return 0

    def _opened(self) -> BinaryIO:
        return os.fdopen(open_plain(self.path, os.O_RDONLY), "rb")

    def _fresh(self, stack: ExitStack, num_bytes: int) -> PartFile:
        """Returns a new file that holds the first bytes of this one."""
        fresh = PartFile(self.path)
        stack.callback(fresh.discard)
        if num_bytes:
            with self._opened() as file:
                while num_bytes > 0 and (piece := file.read(min(num_bytes, _PIECE_BYTES))):
                    fresh.write(piece)
                    num_bytes -= len(piece)
        return fresh


def json_lines(file: BinaryIO) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Yields the lines of a file of one JSON object a line; None where one is none, as the torn one of a kill."""
    return ((line, _parsed(line)) for line in file)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Returns the object of a line; None for the torn last line that a kill leaves."""
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
