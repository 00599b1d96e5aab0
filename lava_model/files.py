"""Places that a person names, and writing there: what fails becomes one line that names the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from k700_text.files.atomic import write_whole
from lava_model.errors import OutputError


def located(path: str | Path) -> Path:
    """Returns a path with a ``~`` in front spelled out, as a shell does it; of a user that nobody knows it stays."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_json(path: Path, content: Any) -> None:
    """Writes a record, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with writing(path):
        write_whole(path, json.dumps(content, indent=2) + "\n")


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
