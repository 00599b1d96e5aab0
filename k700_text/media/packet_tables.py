"""Making the packet index of a folder of clips: tables, a check of some of them by decoding both ways, and the file.

Each finished table is noted in a journal beside the index, 3 kB a clip, so that a killed run goes on where it was.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from k700_text.files.journal import Journal, Note, journal_beside
from k700_text.media.decode import check_packets, packets_of
from k700_text.media.listing import Listing
from k700_text.media.measure import kind_of, may_pass
from k700_text.media.packet_index import PacketRow, write_packet_index
from k700_text.media.packets import ClipPackets
from k700_text.schema import SCHEMA_VERSION

CHECKED_SHARE = 0.01
MIN_CHECKED = 5

RunChecks = Callable[[Iterator[tuple[Any, ...]], int], Iterator[tuple[int, str | None]]]
"""Runs ``check_table`` on jobs, of which there are so many; yields number and result, None if its process died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketSummary:
    """What became of the clips in a packet index.

    Attributes:
        num_indexed: clips with tables.
        num_checked: clips that were decoded by their tables and plainly, in this run or before.
        num_differing: those of them that came out otherwise; they have no tables.
        not_indexed: number of clips that have to be read plainly, by kind of reason.
    """

    num_indexed: int
    num_checked: int
    num_differing: int
    not_indexed: Mapping[str, int]


def make_table(path: str) -> bytes | str:
    """Returns the packet tables of a clip file as bytes, or why it has none."""
    packets = packets_of(path)
    return packets if isinstance(packets, str) else packets.to_bytes()


def check_table(path: str, table: bytes, seed: int) -> str:
    """Returns how a clip comes out otherwise when it is read by its tables; an empty text if it does not."""
    return check_packets(path, ClipPackets.from_bytes(table), seed=seed) or ""


class PacketTables:
    """The packet tables of a listing in the making; a context manager.

    Args:
        path: index file to write in the end.
        listing: the clips.

    Raises:
        OSError: the journal cannot be read or written.
    """

    def __init__(self, path: Path, listing: Listing) -> None:
        self._path = path
        self._listing = listing
        self._is_known = np.zeros(len(listing), np.bool_)
        self._has_table = np.zeros(len(listing), np.bool_)
        self._is_checked = np.zeros(len(listing), np.bool_)
        self._differences: dict[int, str] = {}
        header = {"packet_tables": "1", "schema_version": SCHEMA_VERSION}
        self._journal = Journal(journal_beside(path), header)
        self._is_resuming = True
        self._journal.resume(self._take)
        self._is_resuming = False
        self._stack = ExitStack()
        self._append = self._stack.enter_context(self._journal.appending())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def lacks(self, place: int) -> bool:
        """Returns whether nothing is known of a clip yet."""
        return not self._is_known[place]

    def note(self, clip_file: str, table: bytes | str) -> None:
        """Takes what ``make_table`` gave for a clip."""
        if isinstance(table, str):
            self._note(clip_file, {"reason": table})
        else:
            self._note(clip_file, {"packets": base64.b64encode(table).decode()})

    def finish(self, run_checks: RunChecks) -> PacketSummary:
        """Checks some of the tables, all of them if one is wrong, and writes the index.

        Raises:
            OSError: the index cannot be written.
        """
        self._check(self._chosen(), run_checks)
        if self._differences:
            self._check(self._has_table, run_checks)
        reasons: Counter[str] = Counter()
        write_packet_index(self._path, self._rows(reasons))
        return PacketSummary(
            num_indexed=int(self._is_known.sum()) - reasons.total(),
            num_checked=int(self._is_checked.sum()),
            num_differing=len(self._differences),
            not_indexed=dict(reasons.most_common()),
        )

    def _note(self, clip_file: str, values: dict[str, Any]) -> None:
        stamp = self._listing.stamp(self._listing.places[clip_file])
        self._append(clip_file, stamp, values)
        self._take({"clip_file": clip_file, "stamp": list(stamp), **values})

    def _take(self, note: Note) -> bool:
        """Learns what a note says; returns whether it is of use."""
        place = self._listing.place_of(note)
        if place is None or (self._is_resuming and may_pass(note.get("reason"))):
            return False
        flags = self._is_checked if "difference" in note else self._is_known
        if flags[place]:
            return False
        flags[place] = True
        self._has_table[place] |= "packets" in note
        if note.get("difference"):
            self._differences[place] = note["difference"]
        return True

    def _chosen(self) -> NDArray[np.bool_]:
        """Returns which clips are checked in any case: the same every time, spread evenly."""
        hashes = [int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) for name in self._listing.places]
        order = np.argsort(np.array(hashes, np.uint64), kind="stable")
        order = order[self._has_table[order]]
        chosen = np.zeros(len(self._listing), np.bool_)
        chosen[order[: max(MIN_CHECKED, math.ceil(CHECKED_SHARE * len(order)))]] = True
        return chosen

    def _check(self, wanted: NDArray[np.bool_], run_checks: RunChecks) -> None:
        wanted = wanted & ~self._is_checked
        names: list[str] = []

        def jobs() -> Iterator[tuple[str, bytes, int]]:
            for note in self._journal.notes():
                place = self._listing.place_of(note)
                if place is not None and "packets" in note and wanted[place]:
                    names.append(note["clip_file"])
                    yield self._listing.path(place), base64.b64decode(note["packets"]), place

        for number, difference in run_checks(jobs(), int(wanted.sum())):
            self._note(names[number], {"difference": "its process died" if difference is None else difference})

    def _rows(self, reasons: Counter[str]) -> Iterator[PacketRow]:
        """Yields the rows of the index; counts why clips have no tables."""
        for note in self._journal.notes():
            place = self._listing.place_of(note)
            if place is None or "difference" in note:
                continue
            reason = self._differences.get(place, note.get("reason"))
            if note["clip_file"] != self._listing.names[place]:
                reasons["its name is not UTF-8 text"] += 1
                continue
            if place in self._differences:
                reason = f"comes out otherwise by its packets: {reason}"
            if reason is not None:
                reasons[kind_of(reason)] += 1
            yield PacketRow(
                clip_file=note["clip_file"],
                file_bytes=int(self._listing.sizes[place]),
                mtime_ns=int(self._listing.changes[place]),
                packets=reason if reason is not None else base64.b64decode(note["packets"]),
            )
