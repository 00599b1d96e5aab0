"""Places that a person names, and writing there: what fails becomes one line that names the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lava_model.errors import OutputError


def located(path: str | Path) -> Path:
    """Returns a path with a ``~`` in front spelled out, as a shell does it; of a user that nobody knows it stays."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def force(path: Path) -> None:
    """Makes a file's content, or a folder's names, outlive a power cut.

    Raises:
        OSError: it cannot.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Writes a text file, in place of an earlier one, that is there whole or as it was; nothing half is left.

    Raises:
        OutputError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        try:
            partial.unlink(missing_ok=True)  # by a kill; a link would be written through
            with partial.open("x", encoding="utf-8") as file:
                file.write(text)
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a full disk, a missing right and the like into an OutputError about ``path``."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}): make room or choose another place,"
            " then run the same command again"
        ) from error
