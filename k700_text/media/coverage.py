"""Which clips of manifests have no file, and which files no row."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from k700_text.files.atomic import whole_file
from k700_text.manifest_files import read_manifests
from k700_text.media.files import ClipIndex
from k700_text.media.names import parse_names

NO_FILE = "the clip has no file"
NO_ROW = "no row names this clip"
NO_CLIP_NAME = "the name is no clip id"
SPARE = "another file is taken for this clip"
HALF_DOWNLOAD = "a half download, no clip"

# What spreadsheet programs take for the beginning of a formula.
_FORMULA = r"^[=+\-@\t\r]"

_COLUMNS = ("clip_id", "split", "label")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coverage:
    """How the rows of manifests and the files of a folder match.

    Attributes:
        num_clips: rows of the manifests, each counted once.
        clips_without_file: clip_id, split, label of those that have no file.
        files_without_row: clip_file and problem of those that are no clip of the manifests.
    """

    num_clips: int
    clips_without_file: pa.Table
    files_without_row: pa.Table


def compare(clip_files: Sequence[str], manifests: Sequence[str | Path]) -> Coverage:
    """Returns how files and manifests match, by the rules of ``ClipIndex``.

    Args:
        clip_files: paths relative to the folder of clips, sorted.
        manifests: Parquet files.

    Raises:
        ManifestError: a manifest cannot be read.
    """
    rows = read_manifests(manifests, _COLUMNS, optional={"split", "label"})
    rows = rows.group_by(list(_COLUMNS)).aggregate([])
    names = parse_names(pa.array(clip_files, pa.large_string()))
    taken = ClipIndex("", names["clip_file"]).find(rows["clip_id"])
    lost = rows.filter(pc.is_null(taken))
    others = names.filter(pc.invert(pc.is_in(names["clip_file"], value_set=taken)))
    has_row = pc.is_in(others["clip_id"], value_set=rows["clip_id"].combine_chunks().cast(pa.large_string()))
    problem = pc.if_else(pc.is_null(others["youtube_id"]), NO_CLIP_NAME, pc.if_else(has_row, SPARE, NO_ROW))
    return Coverage(
        num_clips=len(rows),
        clips_without_file=lost.sort_by([(name, "ascending") for name in ("split", "clip_id", "label")]),
        files_without_row=pa.table({"clip_file": others["clip_file"], "problem": problem}),
    )


def write_lists(
    coverage: Coverage, half_downloads: Sequence[str], path: Path, *, for_spreadsheets: bool = False
) -> None:
    """Writes one CSV file: clips without a file, files without a row, then half downloads; all cells are quoted.

    Args:
        coverage: what was compared.
        half_downloads: paths, as text.
        path: the file.
        for_spreadsheets: begin with a byte order mark, and put an apostrophe before cells that would be formulas.

    Raises:
        OSError: the file cannot be written.
    """
    text = pa.string()
    halves = pa.table(
        {"clip_file": pa.array(half_downloads, text), "problem": pa.array([HALF_DOWNLOAD] * len(half_downloads), text)}
    )
    found = coverage.files_without_row.select(halves.schema.names).cast(halves.schema)
    lost, others = coverage.clips_without_file, pa.concat_tables([found, halves])
    columns = {name: pa.chunked_array([*lost[name].chunks, pa.nulls(len(others), text)], text) for name in _COLUMNS}
    files = [pa.nulls(len(lost), text), *others["clip_file"].cast(text).chunks]
    problems = [pa.repeat(pa.scalar(NO_FILE), len(lost)), *others["problem"].cast(text).chunks]
    table = pa.table(
        {"problem": pa.chunked_array(problems, text), "clip_file": pa.chunked_array(files, text), **columns}
    )
    if for_spreadsheets:
        table = pa.table(
            {name: pa.chunked_array(map(escaped, table[name].chunks), text) for name in table.column_names}
        )
    with whole_file(path) as file:
        file.write(codecs.BOM_UTF8 if for_spreadsheets else b"")
        pacsv.write_csv(table, file, pacsv.WriteOptions(quoting_style="all_valid"))


def escaped(column: pa.Array) -> pa.Array:
    """Returns cells for a spreadsheet: before text that it would take for a formula stands an apostrophe."""
    if not pa.types.is_string(column.type):
        return column
    is_formula = pc.match_substring_regex(column, _FORMULA)
    return pc.if_else(is_formula, pc.binary_join_element_wise("'", column, ""), column)
