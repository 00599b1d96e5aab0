"""Files that are there whole or not at all, however a run ends."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Gives a file to write to that appears under its name at the end, on disk and whole, or not at all."""
    output = PartFile(path)
    try:
        with output.named():
            yield output.file
        output.publish()
    finally:
        output.discard()


class PartFile:
    """A file that is written beside its place: hidden, and under a name of its own for every attempt.

    Attributes:
        file: where to write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        self.file: BinaryIO = self._part.open("xb")

    def write(self, data: bytes | bytearray) -> None:
        """Adds bytes; an error names the file."""
        with self.named():
            self.file.write(data)

    def publish(self) -> None:
        """Puts the file on disk and under its name, in place of one that is there."""
        with self.named():
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
        self._part.replace(self._path)
        _sync_folder(self._path.parent)

    def discard(self) -> None:
        """Removes what has not been published."""
        # What a full disk has no room for is not worth an error of its own.
        with suppress(OSError):
            self.file.close()
        self._part.unlink(missing_ok=True)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Puts the name that the file will have into errors of the system."""
        with errors_named(self._path):
            yield


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Puts the name of a file into errors of the system, which have none when an open file is written."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove_parts(folder: str | Path) -> None:
    """Removes what killed runs left half written; nobody may be writing into the folder."""
    for path in Path(folder).glob(".*.part"):
        if _PART_NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)


_PART_NAME = re.compile(r"\..+\.(tar|arrow|json)\.[0-9a-f]{8}\.part")


def _sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
