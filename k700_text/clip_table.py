"""Many clips in little memory: columns in Arrow, about 31 bytes a clip; ``Clip`` records are made when looked at."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from k700_text.records import Clip, Split

ID_BYTES = 11
_SPLITS = tuple(sorted(Split))
_CODES = {split: code for code, split in enumerate(_SPLITS)}
_NO_LABEL = -1
_BATCH_CLIPS = 8192


class ClipTable(Sequence[Clip]):
    """Clips sorted by (split, clip_id, label, exact times); equal to any sequence of equal clips.

    Args:
        batch: youtube_id (11 bytes each), split and label (dictionaries), start_seconds, end_seconds.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    @classmethod
    def of(cls, clips: Iterable[Clip]) -> ClipTable:
        """Returns the distinct ones of these clips, sorted."""
        builder = ClipTableBuilder()
        for clip in clips:
            builder.add(clip)
        return builder.finish()[0]

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Clip]: ...
    def __getitem__(self, index: int | slice) -> Clip | Sequence[Clip]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self.part(start, max(start, stop))
            return [self[position] for position in range(start, stop, step)]
        position = range(len(self))[index]
        return next(_clips(self._batch.slice(position, 1)))

    def __iter__(self) -> Iterator[Clip]:
        for start in range(0, len(self), _BATCH_CLIPS):
            yield from _clips(self._batch.slice(start, _BATCH_CLIPS))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"ClipTable({len(self)} clips)"

    def part(self, start: int, stop: int) -> ClipTable:
        """Returns the clips from one position up to another; they share their memory with these."""
        return type(self)(self._batch.slice(start, stop - start))

    def by_split(self) -> list[tuple[Split, ClipTable]]:
        """Returns the clips of every split that has some, in order."""
        codes = self._batch.column("split").indices.to_numpy()
        ends = np.searchsorted(codes, np.arange(len(_SPLITS)), side="right").tolist()
        parts = zip(_SPLITS, [0, *ends], ends, strict=False)
        return [(split, self.part(start, end)) for split, start, end in parts if end > start]

    def youtube_ids(self) -> Iterator[str]:
        """Yields the distinct ids in the order in which they first occur; no set of them all is made."""
        parts = [part._ids() for _, part in self.by_split()]
        for number, ids in enumerate(parts):
            for start in range(0, len(ids), _BATCH_CLIPS):
                batch = ids[start : start + _BATCH_CLIPS]
                is_new = np.ones(len(batch), np.bool_)
                is_new[1:] = batch[1:] != batch[:-1]
                is_new[0] = start == 0 or batch[0] != ids[start - 1]
                for earlier in parts[:number]:
                    places = np.minimum(np.searchsorted(earlier, batch), len(earlier) - 1)
                    is_new &= earlier[places] != batch
                yield from batch[is_new].astype(str).tolist()

    def labels(self) -> list[str]:
        """Returns the distinct labels, sorted."""
        return sorted(label for label in self._batch.column("label").unique().to_pylist() if label is not None)

    def position_after(self, youtube_id: str) -> int:
        """Returns the position of the first clip whose id comes later; the clips must be of one split."""
        return int(np.searchsorted(self._ids(), youtube_id.encode(), side="right"))

    def columns(self) -> dict[str, pa.Array]:
        """Returns the columns that identify a clip, as in the manifest: text and seconds."""
        return {
            "clip_id": self.clip_ids(),
            "youtube_id": self._id_texts(),
            "split": self._batch.column("split").cast(pa.string()),
            "label": self._batch.column("label").cast(pa.string()),
            "start_seconds": self._batch.column("start_seconds"),
            "end_seconds": self._batch.column("end_seconds"),
        }

    def spans(self) -> pa.RecordBatch:
        """Returns the columns that ``clashes.find_clashes`` wants, as they are held: ids are bytes."""
        return self._batch

    def clip_ids(self) -> pa.Array:
        """Returns the clip ids, in order."""
        times = [self._batch.column(name).to_numpy() for name in ("start_seconds", "end_seconds")]
        return pc.binary_join_element_wise(self._id_texts(), *map(_second_texts, times), "_")

    def _id_texts(self) -> pa.Array:
        # Not a cast: of a part, it would copy the ids of the whole.
        offsets = np.arange(0, (len(self) + 1) * ID_BYTES, ID_BYTES, dtype=np.int32)
        return pa.StringArray.from_buffers(len(self), pa.py_buffer(offsets), pa.py_buffer(self._ids()))

    def _ids(self) -> NDArray[np.bytes_]:
        """Returns a view of the ids."""
        ids = self._batch.column("youtube_id")
        view: NDArray[np.bytes_] = np.frombuffer(ids.buffers()[1], f"S{ID_BYTES}")
        return view[ids.offset : ids.offset + len(ids)]


class VideoTable(ClipTable):
    """Whole videos, of which no span is annotated: a row is called by its youtube_id and has no times in a manifest.

    As ``Clip`` records they begin and end at 0.
    """

    def columns(self) -> dict[str, pa.Array]:
        """Returns the columns that identify a row; the times are null."""
        nothing = pa.nulls(len(self), pa.float64())
        return {**super().columns(), "start_seconds": nothing, "end_seconds": nothing}

    def spans(self) -> pa.RecordBatch:
        """Returns no rows: without times nothing can clash."""
        return self._batch.slice(0, 0)

    def clip_ids(self) -> pa.Array:
        """Returns the ids of the videos."""
        return self._id_texts()


class ClipTableBuilder:
    """Collects clips in any order."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._ids = bytearray()
        self._splits = array("b")
        self._labels = array("i")
        self._starts = array("d")
        self._ends = array("d")
        self._label_codes: dict[str | None, int] = {None: _NO_LABEL}

    def __len__(self) -> int:
        return len(self._splits)

    def add(self, clip: Clip) -> None:
        """Takes one clip."""
        self.extend([clip.youtube_id], [clip.split], [clip.start_seconds], [clip.end_seconds], [clip.label])

    def extend(
        self,
        youtube_ids: Sequence[str],
        splits: Iterable[Split],
        starts: Iterable[float],
        ends: Iterable[float],
        labels: Sequence[str | None],
    ) -> None:
        """Takes clips column by column."""
        self._ids += "".join(youtube_ids).encode()
        self._splits.extend(map(_CODES.__getitem__, splits))
        self._starts.extend(starts)
        self._ends.extend(ends)
        codes = self._label_codes
        # The code of "no label" is no place in the list of labels, hence the -1.
        for label in set(labels):
            codes.setdefault(label, len(codes) - 1)
        self._labels.extend(map(codes.__getitem__, labels))

    def finish(self, split: Split | None = None) -> tuple[ClipTable, int]:
        """Returns the distinct clips, sorted, and how many repeated another one exactly; the builder is empty then.

        Args:
            split: only the clips of this split; repetitions are counted in all of them.
        """
        names, labels = self._sorted_labels()
        columns: dict[str, NDArray[Any]] = {
            "youtube_id": np.frombuffer(self._ids, f"S{ID_BYTES}"),
            "split": np.frombuffer(self._splits, np.int8),
            "label": labels,
            "start_seconds": np.frombuffer(self._starts, np.float64),
            "end_seconds": np.frombuffer(self._ends, np.float64),
        }
        self._clear()
        order = _order(columns)
        is_new = np.zeros(len(order), np.bool_)
        is_new[:1] = True
        for name in columns:
            # One after the other: at no time are there two copies of all.
            columns[name] = columns[name][order]
            is_new[1:] |= columns[name][1:] != columns[name][:-1]
        num_repeated = len(order) - int(is_new.sum())
        if split is not None:
            is_new &= columns["split"] == _CODES[split]
        if not is_new.all():
            columns = {name: values[is_new] for name, values in columns.items()}
        return ClipTable(_batch_of(columns, names)), num_repeated

    def _sorted_labels(self) -> tuple[list[str], NDArray[Any]]:
        """Returns the labels in order, and every clip's place among them."""
        names = sorted(name for name in self._label_codes if name is not None)
        kind = np.int16 if len(names) < 2**15 else np.int32
        places = np.full(len(names) + 1, _NO_LABEL, kind)  # The last one stands for "no label".
        for place, name in enumerate(names):
            places[self._label_codes[name]] = place
        return names, places[np.frombuffer(self._labels, np.int32)]


def _order(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.intp]:
    """Returns the places of the clips in the order of (split, clip_id, label, exact times)."""
    starts, ends = columns["start_seconds"], columns["end_seconds"]
    # Within one id, the order of the clip ids is that of the times as text.
    texts = (_text_ranks(ends, ""), _text_ranks(starts, "_"))
    return np.lexsort((ends, starts, columns["label"], *texts, columns["youtube_id"], columns["split"]))


def _batch_of(columns: Mapping[str, NDArray[Any]], labels: list[str]) -> pa.RecordBatch:
    num_clips = len(columns["split"])
    id_buffers = [None, pa.py_buffer(np.ascontiguousarray(columns["youtube_id"]))]
    label_codes = pa.array(columns["label"], mask=columns["label"] == _NO_LABEL)
    arrays = {
        "youtube_id": pa.FixedSizeBinaryArray.from_buffers(pa.binary(ID_BYTES), num_clips, id_buffers),
        "split": pa.DictionaryArray.from_arrays(pa.array(columns["split"]), pa.array([each.value for each in _SPLITS])),
        "label": pa.DictionaryArray.from_arrays(label_codes, pa.array(labels, pa.string())),
        "start_seconds": pa.array(columns["start_seconds"]),
        "end_seconds": pa.array(columns["end_seconds"]),
    }
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


def _clips(batch: pa.RecordBatch) -> Iterator[Clip]:
    values = {name: batch.column(name).to_pylist() for name in batch.schema.names}
    for youtube_id, split, label, start, end in zip(*values.values(), strict=True):
        yield Clip(
            youtube_id=youtube_id.decode(), split=Split(split), start_seconds=start, end_seconds=end, label=label
        )


def _whole_seconds(seconds: NDArray[np.float64]) -> tuple[list[str], NDArray[np.intp]]:
    """Returns the distinct times as a clip id spells them, and the place of every time among them."""
    distinct, places = np.unique(np.floor(seconds), return_inverse=True)
    return [f"{int(value):06d}" for value in distinct.tolist()], places


def _second_texts(seconds: NDArray[np.float64]) -> pa.Array:
    texts, places = _whole_seconds(seconds)
    return pa.array(texts, pa.string()).take(pa.array(places))


def _text_ranks(seconds: NDArray[np.float64], following: str) -> NDArray[np.int32]:
    """Returns the ranks of times as text, for the text that a clip id has behind them."""
    texts, places = _whole_seconds(seconds)
    ranks = np.empty(len(texts), np.int32)
    ranks[sorted(range(len(texts)), key=lambda index: texts[index] + following)] = np.arange(len(texts))
    return ranks[places]
