"""Clips that get in each other's way: in two splits, over each other, under one clip id. They are told, not refused.

Numbers of held-out clips rest on it that no split holds a part of another one. All rows are looked at in columns; only
those of videos with several rows are looked at closely.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from k700_text.records import make_clip_id
from k700_text.terminal import readable

SPAN_COLUMNS = ("youtube_id", "split", "start_seconds", "end_seconds")
MAX_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Clash:
    """How often one thing was found, and the first few examples in words."""

    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = "; ..." if self.count > len(self.examples) else ""
        return f"{self.count:,} ({'; '.join(self.examples)}{more})" if self.examples else f"{self.count:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clashes:
    """What was found among the rows of annotations or manifests.

    Attributes:
        clips_in_two_splits: clip ids that more than one split has.
        overlaps_across_splits: videos of which two splits have spans that overlap; those above are among them.
        clip_ids_of_two_spans: clip ids, per split, of rows whose exact times differ: one file stands for both.
        clips_with_two_labels: clip ids, per split, of rows with the same times; official lists have some.
    """

    clips_in_two_splits: Clash
    overlaps_across_splits: Clash
    clip_ids_of_two_spans: Clash
    clips_with_two_labels: Clash

    def _found(self) -> dict[str, Clash]:
        return {name: getattr(self, name) for name in self.__slots__}

    def rows(self) -> list[tuple[str, str]]:
        """Returns what was found as table rows; nothing where nothing was."""
        return [(name.replace("_", " "), str(clash)) for name, clash in self._found().items() if clash.count]

    def as_dict(self) -> dict[str, Any]:
        """Returns all counts, zeros too, and the examples as plain values."""
        found = self._found()
        examples = {name: list(clash.examples) for name, clash in found.items() if clash.examples}
        return {**{name: clash.count for name, clash in found.items()}, "examples": examples}


@dataclass(frozen=True, slots=True)
class _Spans:
    """Rows in columns: place of the id among ``ids``, place of the split among ``names``, seconds."""

    ids: pa.Array
    names: list[str]
    videos: NDArray[np.int64]
    splits: NDArray[np.int64]
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]

    def __getitem__(self, places: NDArray[Any]) -> _Spans:
        columns = (self.videos, self.splits, self.starts, self.ends)
        return _Spans(self.ids, self.names, *(column[places] for column in columns))

    def youtube_id(self, place: int) -> str:
        value = self.ids[int(self.videos[place])].as_py()
        return readable(value.decode() if isinstance(value, bytes) else value)

    def clip_id(self, place: int) -> str:
        return make_clip_id(self.youtube_id(place), self.starts[place], self.ends[place])

    def words(self, place: int) -> str:
        split = readable(self.names[self.splits[place]])
        return f"{self.starts[place]:g} to {self.ends[place]:g} s in {split}"


def find_clashes(rows: pa.Table | pa.RecordBatch) -> Clashes:
    """Looks for clips that clash.

    Args:
        rows: SPAN_COLUMNS of any number of splits, in any order. Rows that lack a value are left out.
    """
    spans = _of_repeated_videos(rows)
    spans = spans[np.lexsort((spans.splits, np.floor(spans.ends), np.floor(spans.starts), spans.videos))]
    is_new_clip = _differs(spans.videos, np.floor(spans.starts), np.floor(spans.ends))
    is_new_part = is_new_clip | _differs(spans.splits)
    clips, parts = np.flatnonzero(is_new_clip), np.flatnonzero(is_new_part)
    num_splits = np.add.reduceat(is_new_part, clips, dtype=np.int64) if len(clips) else clips
    has_two_spans, has_two_rows = _several(spans, parts)
    return Clashes(
        clips_in_two_splits=_clash(spans, clips[num_splits > 1]),
        overlaps_across_splits=_overlaps(spans),
        clip_ids_of_two_spans=_clash(spans, parts[has_two_spans]),
        clips_with_two_labels=_clash(spans, parts[has_two_rows & ~has_two_spans]),
    )


def _of_repeated_videos(rows: pa.Table | pa.RecordBatch) -> _Spans:
    table = pa.table({name: rows.column(name) for name in SPAN_COLUMNS}).drop_null().combine_chunks()
    if not len(table):  # Columns of no type among them: what has no rows may have none.
        nothing = np.zeros(0, np.int64)
        return _Spans(pa.array([], pa.string()), [], nothing, nothing, np.zeros(0), np.zeros(0))
    ids = _encoded(table["youtube_id"])
    splits = _encoded(table["split"])
    videos = ids.indices.to_numpy().astype(np.int64)
    starts, ends = table["start_seconds"].to_numpy(), table["end_seconds"].to_numpy()
    is_repeated = np.bincount(videos, minlength=1)[videos] > 1
    kept = np.flatnonzero(is_repeated & np.isfinite(starts) & np.isfinite(ends))
    codes = splits.indices.to_numpy().astype(np.int64)
    return _Spans(ids.dictionary, splits.dictionary.to_pylist(), videos, codes, starts, ends)[kept]


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    values = column.combine_chunks()
    return values if pa.types.is_dictionary(values.type) else pc.dictionary_encode(values)


def _differs(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Tells of every row whether it is another than the one before it."""
    is_new = np.zeros(len(columns[0]), np.bool_)
    is_new[:1] = True
    for column in columns:
        is_new[1:] |= column[1:] != column[:-1]
    return is_new


def _several(spans: _Spans, parts: NDArray[np.intp]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Returns of every stretch of rows whether their exact times differ, and whether it has several rows."""
    if not len(parts):
        return np.zeros(0, np.bool_), np.zeros(0, np.bool_)
    times = (spans.starts, spans.ends)
    differ = [np.minimum.reduceat(each, parts) < np.maximum.reduceat(each, parts) for each in times]
    return differ[0] | differ[1], np.diff(parts, append=len(spans.videos)) > 1


def _overlaps(spans: _Spans) -> Clash:
    """Finds videos of which a span begins before one of another split ends, by one sweep in order of the starts."""
    if not len(spans.videos):
        return Clash(0, ())
    spans = spans[np.lexsort((spans.starts, spans.videos))]
    values, ranks = np.unique(spans.ends, return_inverse=True)
    first_key = spans.videos * len(values)  # Of a video: its keys are above those of all before it.
    is_over = np.zeros(len(ranks), np.bool_)
    for split in range(len(spans.names)):
        latest = np.maximum.accumulate(np.where(spans.splits == split, first_key + ranks, -1))
        is_of_video = latest >= first_key
        is_over |= is_of_video & (spans.splits != split) & (values[latest % len(values)] > spans.starts)
    places = np.flatnonzero(is_over)
    found = places[np.unique(spans.videos[places], return_index=True)[1]]
    return Clash(len(found), tuple(_pairs(spans, found[:MAX_EXAMPLES].tolist())))


def _pairs(spans: _Spans, places: Iterable[int]) -> Iterator[str]:
    for place in places:
        start, end = spans.starts[place], spans.ends[place]
        is_other = (spans.videos == spans.videos[place]) & (spans.splits != spans.splits[place])
        other = int(np.flatnonzero(is_other & (spans.starts < end) & (spans.ends > start))[0])
        yield f"{spans.youtube_id(place)}: {spans.words(other)}, {spans.words(place)}"


def _clash(spans: _Spans, places: NDArray[np.intp]) -> Clash:
    return Clash(len(places), tuple(spans.clip_id(place) for place in places[:MAX_EXAMPLES].tolist()))
