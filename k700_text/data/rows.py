"""Which rows of the manifests a dataset serves, and where their clips are."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k700_text.data.clips import ClipSource
from k700_text.data.store import Row
from k700_text.records import Split
from k700_text.schema import MANIFEST_SCHEMA, read_table

MODALITIES = ("video", "audio", "text")
_COLUMNS = tuple(name for name in Row._fields if name != "place")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowQuery:
    """What decides on the rows, beside the clips there are.

    Attributes:
        manifests: Parquet files of ``k700-text manifest``.
        split: None takes all.
        require: modalities that a row must not be known to lack, sorted.
    """

    manifests: tuple[str, ...]
    split: Split | None
    require: tuple[str, ...]

    @classmethod
    def of(
        cls,
        manifest: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        split: str | Split | None,
        require: Collection[str],
    ) -> RowQuery:
        """Returns the query of arguments as ``KineticsAVT`` takes them.

        Raises:
            ValueError: there is no manifest, no such split or no such modality.
        """
        manifests = [manifest] if isinstance(manifest, str | os.PathLike) else list(manifest)
        if not manifests:
            raise ValueError("give at least one manifest")
        if isinstance(require, str) or not set(require) <= set(MODALITIES):
            raise ValueError(f"require must be a collection of {', '.join(MODALITIES)}, got {require!r}")
        return cls(
            manifests=tuple(os.fspath(path) for path in manifests),
            split=split if split is None or isinstance(split, Split) else Split.parse(split),
            require=tuple(sorted(set(require))),
        )


def select_rows(query: RowQuery, source: ClipSource) -> tuple[pa.Table, dict[str, int]]:
    """Returns the rows to serve, columns as in ``store.Row``, and the number of the others by reason.

    They are in the order of the manifests; rows of prepared shards in the order in which these hold them.

    Raises:
        ManifestError: a manifest cannot be read.
        UsageError: the folder of clips does not exist.
    """
    columns = [*_COLUMNS, "has_text", "split"]
    table = pa.concat_tables([read_table(path, MANIFEST_SCHEMA, columns) for path in query.manifests])
    if query.split is not None:
        table = table.filter(pc.equal(table["split"], query.split.value))
    table = table.append_column("place", source.locate(table["clip_id"]))
    table = table.append_column("skipped", source.skipped(table["clip_id"]))
    kept, dropped = _kept(table, query.require)
    table = table.filter(kept).select(list(Row._fields))
    if pa.types.is_integer(table.schema.field("place").type):
        # A stable sort: what is in no shard comes last.
        table = table.take(pc.sort_indices(table["place"]))
    return table, dropped


def _kept(table: pa.Table, require: Collection[str]) -> tuple[pa.ChunkedArray, dict[str, int]]:
    """Returns a mask of the rows that have what is required, and the number of the others by reason."""
    masks: list[tuple[str, pa.ChunkedArray]] = []
    if "video" in require or "audio" in require:
        masks.append(("skipped when clips were prepared", pc.is_null(table["skipped"])))
        masks.append(("without a clip file", pc.is_valid(table["place"])))
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
