"""Which clips are to be prepared, and into which shards: the same answer every time for the same clips.

Within a split, clips are in the order of a hash of their ids, which mixes labels, and are cut into shards in that
order. What is in finished shards is left out; the rest fills the shard numbers that are free. A run that was killed
therefore goes on with the very shards it had not finished, and clips that come later get shards of their own.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k700_text.errors import StorageError, UsageError
from k700_text.manifest_files import read_manifests
from k700_text.media.files import ClipIndex, FoundFiles, walk_clip_files
from k700_text.media.names import parse_names
from k700_text.media.record import ClipTask
from k700_text.media.shards import finished_shards, read_shard_rows
from k700_text.schema import SHARD_SCHEMA

NO_SPLIT = "clips"
"""What shards are named after where there is no manifest."""

_COLUMNS = ("clip_id", "split", "label", "title", "youtube_id", "start_seconds", "end_seconds")
_SHARD_COLUMNS = ("clip_id", "split", "clip_file", "source_bytes", "reason", "record_bytes")


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to write: its name without suffix, and its clips in order."""

    name: str
    clips: list[ClipTask]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparePlan:
    """What is there, what is done, and what is left to do.

    Attributes:
        num_rows: rows of the manifests; clip files without a manifest.
        num_repeated: rows that name a clip of the same split once more, with another label.
        num_missing: clips that have no file.
        num_finished: clips that are in finished shards already, skipped ones among them.
        pending: the clips to prepare, columns of ``ClipTask``, in the order of the shards.
        wanted: ids and splits of all clips of this plan that have a file.
        shard_size: clips of a shard.
        taken: names of the shards that are finished.
        left_out: what is no clip file though it might seem one: paths by what is wrong with them.
    """

    num_rows: int
    num_repeated: int
    num_missing: int
    num_finished: int
    pending: pa.Table
    wanted: pa.Table
    shard_size: int
    taken: frozenset[str]
    left_out: Mapping[str, Sequence[str]]

    @property
    def num_pending(self) -> int:
        """Clips to prepare."""
        return len(self.pending)

    @property
    def num_shards(self) -> int:
        """Shards to write."""
        counts = pc.value_counts(self._prefixes().combine_chunks())
        return sum(-(-each["counts"].as_py() // self.shard_size) for each in counts)

    def shards(self) -> Iterator[ShardTask]:
        """Yields the shards to write; the clips become Python objects one shard at a time."""
        prefixes = self._prefixes()
        for prefix in pc.unique(prefixes).to_pylist():
            clips = self.pending.filter(pc.equal(prefixes, prefix))
            names = (f"{prefix}-{number:06d}" for number in itertools.count())
            free = (name for name in names if name not in self.taken)
            for first in range(0, len(clips), self.shard_size):
                yield ShardTask(next(free), _tasks(clips.slice(first, self.shard_size)))

    def sample(self, count: int) -> list[ClipTask]:
        """Returns some of the clips to prepare, evenly spread."""
        places = np.unique(np.linspace(0, self.num_pending - 1, min(count, self.num_pending)).round().astype(np.int64))
        return _tasks(self.pending.take(pa.array(places)))

    def _prefixes(self) -> pa.ChunkedArray:
        return pc.fill_null(self.pending["split"], NO_SPLIT)


def make_plan(
    root: str | Path, out: str | Path, manifests: Sequence[str | Path], *, shard_size: int, retry_skipped: bool = False
) -> PreparePlan:
    """Returns what there is to do.

    Args:
        root: folder of clips.
        out: folder of shards; it may not exist yet.
        manifests: Parquet files of ``k700-text manifest``; without any, every clip file is prepared.
        shard_size: clips of a shard.
        retry_skipped: take up clips that were skipped; those whose file has another size now are taken up anyway.

    Raises:
        UsageError: the folder of clips is missing, or holds no clip that is asked for.
        ManifestError: a manifest cannot be read.
        StorageError: the rows of a finished shard are damaged.
    """
    root = Path(root)
    found = walk_clip_files(root).as_texts()
    listed, num_rows, num_missing = _from_manifests(root, found, manifests) if manifests else _from_files(found)
    if not len(listed):
        if manifests and not num_rows:
            raise UsageError("there are no clips in the manifest: name one with rows")
        what = f"none of the {num_rows} clips of the manifest has a file there" if manifests else "holds no clip files"
        raise UsageError(f"{root}: {what} (see `k700-text probe` for the names it knows)")
    ordered = _in_hash_order(listed)
    is_first = _first_of_each(_keys(ordered))
    clips = ordered.filter(is_first)
    taken = finished_shards(out)
    _check_lengths(Path(out), taken)
    finished = _finished(root, out, taken, retry_skipped)
    is_finished = pc.is_in(_keys(clips), value_set=finished)
    return PreparePlan(
        num_rows=num_rows,
        num_repeated=len(listed) - len(clips),
        num_missing=num_missing,
        num_finished=pc.sum(is_finished).as_py() or 0,
        pending=clips.filter(pc.invert(is_finished)),
        wanted=clips.select(["clip_id", "split"]),
        shard_size=shard_size,
        taken=frozenset(taken),
        left_out=found.left_out,
    )


def shard_rows(out: str | Path) -> pa.Table:
    """Returns what the finished shards of a folder say of their clips, the columns that accounting needs."""
    tables = [read_shard_rows(out, name).select(_SHARD_COLUMNS) for name in finished_shards(out)]
    return pa.concat_tables([SHARD_SCHEMA.empty_table().select(_SHARD_COLUMNS), *tables])


def row_keys(rows: pa.Table) -> pa.ChunkedArray:
    """Returns what tells the clips of a table apart: split and clip id."""
    return _keys(rows)


def _from_manifests(root: Path, found: FoundFiles, manifests: Sequence[str | Path]) -> tuple[pa.Table, int, int]:
    """Returns the rows that have a file, how many rows there are, and how many have none."""
    rows = read_manifests(manifests, _COLUMNS, optional=set(_COLUMNS) - {"clip_id"})
    files = ClipIndex(root, found.clip_files).find(rows["clip_id"]).cast(pa.string())
    rows = rows.append_column("clip_file", files)
    there = rows.filter(pc.is_valid(files))
    return there, len(rows), len(rows) - len(there)


def _from_files(found: FoundFiles) -> tuple[pa.Table, int, int]:
    files = pa.array(found.clip_files, pa.large_string())
    # A file that is named after no clip goes by its path.
    ids = pc.coalesce(parse_names(files)["clip_id"].cast(pa.string()), files.cast(pa.string()))
    nothing = pa.nulls(len(files), pa.string())
    no_time = pa.nulls(len(files), pa.float64())
    columns = [ids, nothing, nothing, nothing, nothing, no_time, no_time, files.cast(pa.string())]
    return pa.table(columns, [*_COLUMNS, "clip_file"]), len(files), 0


def _in_hash_order(rows: pa.Table) -> pa.Table:
    ids = rows["clip_id"].to_pylist()
    hashes = [int.from_bytes(hashlib.blake2b(each.encode(), digest_size=8).digest(), "little") for each in ids]
    keys = pa.table(
        {
            "split": pc.fill_null(rows["split"], NO_SPLIT),
            "hash": pa.array(hashes, pa.uint64()),
            "clip_id": rows["clip_id"],
            "label": pc.fill_null(rows["label"], ""),
            "clip_file": rows["clip_file"],
        }
    )
    return rows.take(pc.sort_indices(keys, [(name, "ascending") for name in keys.schema.names]))


def _keys(rows: pa.Table) -> pa.ChunkedArray:
    # Clip ids hold no such byte.
    return pc.binary_join_element_wise(pc.fill_null(rows["split"], NO_SPLIT), rows["clip_id"], "\n")


def _first_of_each(keys: pa.ChunkedArray) -> pa.Array:
    """Returns, for sorted keys, whether a row is the first of its key."""
    codes = pc.index_in(keys, value_set=pc.unique(keys)).combine_chunks().to_numpy()
    return pa.array(np.diff(codes, prepend=-1) != 0)


def _check_lengths(out: Path, taken: Sequence[str]) -> None:
    """Checks that no shard ends before what its rows say: its clips would count as done, and nobody could read them."""
    for name in taken:
        rows, path = read_shard_rows(out, name), out / f"{name}.tar"
        end = pc.max(pc.add(rows["record_offset"], rows["record_bytes"])).as_py() or 0
        if path.stat().st_size < end:
            remedy = "copy it there again, or remove it and run the same command: it is made anew"
            raise StorageError(f"{path}: ends before what {name}.arrow says is in it: {remedy}", path=str(path))


def _finished(root: Path, out: str | Path, taken: Sequence[str], retry_skipped: bool) -> pa.Array:
    """Returns the keys of the clips that need not be looked at again."""
    rows = shard_rows(out) if taken else None
    if rows is None:
        return pa.array([], pa.string())
    is_skipped = pc.equal(rows["record_bytes"], 0)
    stored = _keys(rows.filter(pc.invert(is_skipped)))
    skipped = rows.filter(is_skipped)
    if retry_skipped:
        return stored.combine_chunks()
    same = [
        _size(root / name) in (None, size)
        for name, size in zip(skipped["clip_file"].to_pylist(), skipped["source_bytes"].to_pylist(), strict=True)
    ]
    unchanged = _keys(skipped.filter(pa.array(same, pa.bool_())))
    return pa.concat_arrays([stored.combine_chunks(), unchanged.combine_chunks()])


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _tasks(rows: pa.Table) -> list[ClipTask]:
    return [ClipTask(**row) for row in rows.to_pylist()]
