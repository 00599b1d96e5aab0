"""What changed between two manifests, video by video: states, titles, and which videos are there at all.

All clips of a video tell the same about it, so each video is compared once. Columns stay in Arrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k700_text.manifest_files import read_manifests
from k700_text.records import Availability

_COLUMNS = ("youtube_id", "title", "title_source", "availability")
_ALIVE = pa.array([each.value for each in Availability if each.is_alive])
_GONE = pa.array([each.value for each in Availability if each.is_gone])


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one video; a value is None where there is none.

    Attributes:
        kind: a key of ``ManifestDiff.changes``.
        youtube_id: the video.
        before: its state or title in the first manifest.
        after: its state or title in the second one.
    """

    kind: str
    youtube_id: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestDiff:
    """The changes from one manifest to another.

    Attributes:
        num_videos: distinct videos before and after.
        num_clips: rows before and after.
        changes: a table (youtube_id, before, after) by kind, in order of id: ``died`` (alive, then gone),
            ``came_back``, ``state_changed`` (any other change of state), ``title_changed``, ``title_gained``,
            ``title_lost``, ``source_changed`` (the same title from another source), ``appeared``, ``disappeared``.
    """

    num_videos: tuple[int, int]
    num_clips: tuple[int, int]
    changes: Mapping[str, pa.Table]

    @property
    def counts(self) -> dict[str, int]:
        """Videos by kind of change."""
        return {kind: len(table) for kind, table in self.changes.items()}

    def __iter__(self) -> Iterator[Change]:
        """Yields every change, by kind and then by id."""
        for kind, table in self.changes.items():
            for batch in table.to_batches():
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield Change(kind, *values)

    def rows(self) -> list[tuple[str, str]]:
        """Returns the counts as table rows."""
        sizes = [("videos", self.num_videos), ("clips", self.num_clips)]
        rows = [(name, f"{before:,} -> {after:,}") for name, (before, after) in sizes]
        return rows + [(kind.replace("_", " "), f"{count:,}") for kind, count in self.counts.items()]

    def as_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, all lists complete."""
        return {
            "num_videos": list(self.num_videos),
            "num_clips": list(self.num_clips),
            "counts": self.counts,
            "changes": {kind: table.to_pylist() for kind, table in self.changes.items()},
        }


def diff_manifests(before: str | Path, after: str | Path) -> ManifestDiff:
    """Compares two manifests.

    Args:
        before: a manifest file, or a folder with files named after splits.
        after: the same; it need not hold the same splits.

    Raises:
        ManifestError: one of them is missing or damaged.
        SchemaMismatchError: one of them is of another schema.
    """
    old_clips, new_clips = read_manifests([before], _COLUMNS), read_manifests([after], _COLUMNS)
    old, new = _videos(old_clips), _videos(new_clips)
    places = pc.index_in(new["youtube_id"], value_set=old["youtube_id"].combine_chunks())
    appeared = new.filter(pc.is_null(places))
    is_kept = pc.is_in(old["youtube_id"], value_set=new["youtube_id"].combine_chunks())
    disappeared = old.filter(pc.invert(is_kept))
    changes = _changes(old.take(pc.drop_null(places)), new.filter(pc.is_valid(places)))
    changes["appeared"] = _table(appeared["youtube_id"], None, appeared["availability"])
    changes["disappeared"] = _table(disappeared["youtube_id"], disappeared["availability"], None)
    return ManifestDiff(num_videos=(len(old), len(new)), num_clips=(len(old_clips), len(new_clips)), changes=changes)


def _videos(clips: pa.Table) -> pa.Table:
    """Returns the first row of every video."""
    if not len(clips):
        return clips
    codes = clips["youtube_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first_places = np.unique(codes, return_index=True)
    return clips.take(pa.array(first_places))


def _changes(old: pa.Table, new: pa.Table) -> dict[str, pa.Table]:
    """Returns the changes of videos that are on both sides, row by row."""
    states = (old["availability"], new["availability"])
    was_alive, was_gone = (pc.is_in(states[0], value_set=values) for values in (_ALIVE, _GONE))
    is_alive, is_gone = (pc.is_in(states[1], value_set=values) for values in (_ALIVE, _GONE))
    died, came_back = pc.and_(was_alive, is_gone), pc.and_(was_gone, is_alive)
    is_other_state = pc.and_not(pc.not_equal(*states), pc.or_(died, came_back))

    titles = (old["title"], new["title"])
    had_title, has_title = map(pc.is_valid, titles)
    is_same_title = pc.fill_null(pc.equal(*titles), False)
    is_other_title = pc.and_not(pc.and_(had_title, has_title), is_same_title)
    sources = (old["title_source"], new["title_source"])
    is_other_source = pc.and_(is_same_title, pc.fill_null(pc.not_equal(*sources), False))
    chosen = {
        "died": (died, states),
        "came_back": (came_back, states),
        "state_changed": (is_other_state, states),
        "title_changed": (is_other_title, titles),
        "title_gained": (pc.and_not(has_title, had_title), titles),
        "title_lost": (pc.and_not(had_title, has_title), titles),
        "source_changed": (is_other_source, sources),
    }
    return {
        kind: _table(new["youtube_id"].filter(mask), *(values.filter(mask) for values in pair))
        for kind, (mask, pair) in chosen.items()
    }


def _table(youtube_ids: pa.ChunkedArray, before: pa.ChunkedArray | None, after: pa.ChunkedArray | None) -> pa.Table:
    """Returns changes in order of id; None stands for values that are all missing."""
    nothing = pa.nulls(len(youtube_ids), pa.string())
    columns = {"youtube_id": youtube_ids, "before": before, "after": after}
    table = pa.table({name: nothing if values is None else values for name, values in columns.items()})
    return table.sort_by("youtube_id")
