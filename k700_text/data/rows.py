"""Which rows of the manifests a dataset serves, and where their clips are."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k700_text.data.clips import ClipSource
from k700_text.data.store import Row
from k700_text.data.where import Where
from k700_text.manifest_files import ArrowStream, as_table, is_table, manifest_files, read_manifests
from k700_text.records import Split

MODALITIES = ("video", "audio", "text")
WITHOUT_FILE = "without a clip file"
"""The reason for which most rows are left out."""

_NUM_EXAMPLES = 3

Manifest = str | os.PathLike[str] | ArrowStream
"""A Parquet file, a folder of them, or a table in memory: of pyarrow, pandas, polars, DuckDB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowQuery:
    """What decides on the rows, beside the clips there are.

    Attributes:
        manifests: Parquet files, and tables in memory.
        split: None takes all.
        require: modalities that a row must not be known to lack, sorted.
        needs_titles: the manifests must have a column of titles.
        clip_ids: the clips to take, each once; None takes all.
        where: which rows to take; None takes all.
    """

    manifests: tuple[str | pa.Table, ...]
    split: Split | None
    require: tuple[str, ...]
    needs_titles: bool = False
    clip_ids: pa.Array | None = None
    where: Where | None = None

    @classmethod
    def of(
        cls,
        manifest: Manifest | Sequence[Manifest],
        split: str | Split | None,
        require: Collection[str],
        *,
        needs_titles: bool = False,
        clip_ids: Iterable[str] | None = None,
        where: str | None = None,
    ) -> RowQuery:
        """Returns the query of arguments as ``KineticsAVT`` takes them.

        Raises:
            ManifestError: a folder holds no manifest, or a table in memory is none.
            UsageError: the expression cannot be read.
            ValueError: there is no manifest, no such split, no such modality or no text among the ids.
        """
        one = isinstance(manifest, str | os.PathLike) or is_table(manifest)
        manifests: list[Any] = list(manifest) if isinstance(manifest, Iterable) and not one else [manifest]
        if not manifests:
            raise ValueError("give at least one manifest")
        if isinstance(require, str) or not set(require) <= set(MODALITIES):
            raise ValueError(f"require must be a collection of {', '.join(MODALITIES)}, got {require!r}")
        return cls(
            manifests=tuple(each for entry in manifests for each in _opened(entry)),
            split=split if split is None or isinstance(split, Split) else Split.parse(split),
            require=tuple(sorted(set(require))),
            needs_titles=needs_titles or "text" in require,
            clip_ids=None if clip_ids is None else _as_ids(clip_ids),
            where=None if where is None else Where(where),
        )

    @property
    def files(self) -> tuple[str, ...] | None:
        """The manifests where all are files; None where one is a table in memory, which has no place."""
        files = tuple(each for each in self.manifests if isinstance(each, str))
        return files if len(files) == len(self.manifests) else None

    @property
    def name(self) -> str:
        """What messages call the manifests."""
        return ", ".join(each if isinstance(each, str) else "the table" for each in self.manifests)


def _opened(entry: Any) -> list[str | pa.Table]:
    if is_table(entry):
        return [as_table(entry)]
    if not isinstance(entry, str | os.PathLike):
        name = f"{type(entry).__module__.partition('.')[0]} {type(entry).__name__}".removeprefix("builtins ")
        remedy = ": collect() it" if hasattr(entry, "collect") else ""
        raise ValueError(f"a manifest is a path, a table or a data frame, not {name}{remedy}")
    return [os.fspath(file) for file in manifest_files([entry])]


def _as_ids(clip_ids: Iterable[str]) -> pa.Array:
    if isinstance(clip_ids, str):
        raise ValueError(f"clip_ids must be several ids, got the text {clip_ids!r}: put it into a list")
    ids = clip_ids.to_pylist() if isinstance(clip_ids, pa.Array | pa.ChunkedArray) else list(clip_ids)
    other = next((each for each in ids if not isinstance(each, str)), "")
    if other != "":
        raise ValueError(f"clip_ids must be texts, got {other!r}")
    return pa.array(dict.fromkeys(map(str, ids)), pa.string())


def select_rows(query: RowQuery, source: ClipSource) -> tuple[pa.Table, dict[str, Any]]:
    """Returns the rows to serve, columns as in ``store.Row``, and what is told about the selection.

    They are in the order of the manifests; rows of prepared shards in the order in which these hold them. ``dropped``
    counts rows left out by reason, ``unknown_clip_ids`` are those that no manifest has: how many, and some.

    Raises:
        ManifestError: a manifest cannot be read.
        UsageError: the folder of clips does not exist.
    """
    optional = {"label", "has_video", "has_audio", *(() if query.needs_titles else ("title",))}
    columns = [name for name in Row._fields if name != "place"]
    columns += [*(["has_text"] if "text" in query.require else []), *(["split"] if query.split is not None else [])]
    table = read_manifests(query.manifests, columns, optional=optional, choice=query.where)
    unknown: list[Any] = []
    if query.clip_ids is not None:
        unknown = _unknown(query.manifests, query.clip_ids)
        table = table.filter(pc.is_in(table["clip_id"], value_set=query.clip_ids))
    if query.split is not None:
        table = table.filter(pc.equal(table["split"], query.split.value))
    table = table.append_column("place", source.locate(table["clip_id"]))
    table = table.append_column("skipped", source.skipped(table["clip_id"]))
    kept, dropped = _kept(table, query.require)
    table = table.filter(kept).select(list(Row._fields))
    if pa.types.is_integer(table.schema.field("place").type):
        # A stable sort: what is in no shard comes last.
        table = table.take(pc.sort_indices(table["place"]))
    return table, {"dropped": dropped, "unknown_clip_ids": unknown}


def _unknown(manifests: Sequence[str | pa.Table], clip_ids: pa.Array) -> list[Any]:
    """Returns how many of the ids no manifest has, and some of them; nothing where they have all."""
    known = read_manifests(manifests, ["clip_id"])["clip_id"].combine_chunks()
    unknown = clip_ids.filter(pc.invert(pc.is_in(clip_ids, value_set=known)))
    return [len(unknown), *unknown.slice(0, _NUM_EXAMPLES).to_pylist()] if len(unknown) else []


def _kept(table: pa.Table, require: Collection[str]) -> tuple[pa.ChunkedArray, dict[str, int]]:
    """Returns a mask of the rows that have what is required, and the number of the others by reason."""
    masks: list[tuple[str, pa.ChunkedArray]] = []
    if "video" in require or "audio" in require:
        masks.append(("skipped when clips were prepared", pc.is_null(table["skipped"])))
        masks.append((WITHOUT_FILE, pc.is_valid(table["place"])))
    if "video" in require:
        masks.append(("known to have no video", pc.fill_null(table["has_video"], True)))
    if "audio" in require:
        masks.append(("known to have no audio", pc.fill_null(table["has_audio"], True)))
    if "text" in require:
        masks.append(("without a title", table["has_text"]))
    dropped: dict[str, int] = {}
    kept = pa.chunked_array([pa.array(np.ones(len(table), dtype=bool))])
    for reason, mask in masks:
        still_kept = pc.and_(kept, mask)
        count = pc.sum(kept).as_py() - pc.sum(still_kept).as_py() if len(table) else 0
        if count:
            dropped[reason] = count
        kept = still_kept
    return kept, dropped
