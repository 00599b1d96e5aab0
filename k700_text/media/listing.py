"""The clip files of a folder with their stamps, as columns: what a note about a file is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from k700_text.files.journal import Stamp
from k700_text.media.files import walk_clip_files
from k700_text.media.measure import as_text


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """The N clip files of a folder, sorted.

    Attributes:
        root: the folder.
        names: paths relative to it, with ``/``.
        places: the place of each file by its path as text, which is another one where a name is no text.
        sizes: int64 (N,), bytes.
        changes: int64 (N,), time of last change, nanoseconds.
        left_out: what is no clip file though it might seem one: paths, as text, by what is wrong with them.
        half_downloads: paths of what downloaders left behind, as text, sorted.
    """

    root: Path
    names: list[str]
    places: Mapping[str, int]
    sizes: NDArray[np.int64]
    changes: NDArray[np.int64]
    left_out: Mapping[str, list[str]]
    half_downloads: list[str]

    @classmethod
    def of(cls, root: Path) -> Self:
        """Lists a folder; raises as ``find_clip_files`` does."""
        found = walk_clip_files(root)
        stamps = np.zeros((2, len(found.clip_files)), np.int64)
        for place, name in enumerate(found.clip_files):
            stamps[:, place] = _stamp(f"{root}/{name}")
        places = {as_text(name): place for place, name in enumerate(found.clip_files)}
        half_downloads = [as_text(name) for name in found.half_downloads]
        left_out = {reason: [as_text(name) for name in names] for reason, names in found.left_out.items()}
        return cls(root, found.clip_files, places, stamps[0], stamps[1], left_out, half_downloads)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, place: int) -> str:
        """Returns the path of a file."""
        return f"{self.root}/{self.names[place]}"

    def stamp(self, place: int) -> Stamp:
        """Returns size and time of last change that a file had when the folder was listed."""
        return int(self.sizes[place]), int(self.changes[place])

    def place_of(self, note: Mapping[str, Any]) -> int | None:
        """Returns the place of the file that a note is about; None if it has gone or changed since."""
        place = self.places.get(note["clip_file"])
        return place if place is not None and list(self.stamp(place)) == note["stamp"] else None


def _stamp(path: str) -> Stamp:
    try:
        status = Path(path).stat()
    except OSError:
        return (0, 0)  # It went away since: measuring it will tell.
    return (status.st_size, status.st_mtime_ns)
