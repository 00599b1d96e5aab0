"""The note of every finished file beside a probe's output: what makes a killed probe resumable."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from k700_text.records import ClipProbe
from k700_text.schema import SCHEMA_VERSION

Stamp = tuple[int, int]
"""Size in bytes and time of last change in nanoseconds."""


class ProbeJournal:
    """A text file of one JSON object a line: the settings, then one line for every finished file.

    Args:
        path: the file; created when needed.
        settings: what the measurements depend on; notes made under other settings are not used.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self._path = path
        self._header = {"schema_version": SCHEMA_VERSION, "settings": settings}

    def keep_unchanged(self, stamps: Mapping[str, Stamp]) -> set[str]:
        """Drops the notes of files that changed or went away; returns the names of the others."""
        kept: set[str] = set()
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        try:
            with fresh.open("w", encoding="utf-8") as file:
                file.write(json.dumps(self._header) + "\n")
                for note in self._notes():
                    name = note["probe"]["clip_file"]
                    if stamps.get(name) == tuple(note["stamp"]) and name not in kept:
                        kept.add(name)
                        file.write(json.dumps(note) + "\n")
            fresh.replace(self._path)
        finally:
            fresh.unlink(missing_ok=True)
        return kept

    @contextmanager
    def appending(self) -> Iterator[Callable[[Stamp, ClipProbe], None]]:
        """Gives the function that notes a finished file; a noted one survives a kill of this process."""
        with self._path.open("a", encoding="utf-8") as file:

            def note(stamp: Stamp, probe: ClipProbe) -> None:
                file.write(json.dumps({"stamp": stamp, "probe": asdict(probe)}) + "\n")
                file.flush()

            yield note

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields the noted measurements as rows of the probe table, in the order they finished."""
        for note in self._notes():
            yield note["probe"]

    def _notes(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        with self._path.open(encoding="utf-8", errors="replace") as file:
            if _parsed(file.readline()) != self._header:
                return
            for line in file:
                note = _parsed(line)
                if note is not None and {"stamp", "probe"} <= note.keys():
                    yield note


def _parsed(line: str) -> dict[str, Any] | None:
    """Returns the object of a line; None for the torn last line that a kill leaves."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
