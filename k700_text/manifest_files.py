"""Manifests as people have them: files of any writer, folders of files, tables and data frames in memory."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from k700_text import schema
from k700_text.columns import plain
from k700_text.errors import ManifestError, UsageError
from k700_text.records import Split
from k700_text.terminal import readable

_IDENTITIES = ("clip_id", "youtube_id", "split")


class ArrowStream(Protocol):
    """A table of any library: pyarrow, pandas, polars, a relation of DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Gives its rows as Arrow."""


class Choice(Protocol):
    """Chooses rows by what their columns hold."""

    names: frozenset[str]

    def rows_of(self, table: pa.Table) -> pa.Table:
        """Returns the rows of a table that has the named columns."""


def manifest_files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Returns the manifest files that paths stand for: a file for itself, a folder for what it holds.

    Of a folder that is ``<split>.parquet`` for every split that is there, or else all of its Parquet files, by name.
    Names that begin with ``.`` or ``_`` are those of side files.

    Raises:
        ManifestError: a folder holds none, or a path is neither a file nor a folder.
    """
    files = [file for path in map(Path, paths) for file in (_files_in(path) if path.is_dir() else [path])]
    for file in files:
        schema.check_file(file)
    return files


def _files_in(folder: Path) -> list[Path]:
    named = [file for split in Split if (file := folder / f"{split.value}.parquet").is_file()]
    others = [file for file in sorted(folder.glob("*.parquet")) if file.name[0] not in "._" and file.is_file()]
    if not (named or others):
        names = ", ".join(f"{split.value}.parquet" for split in Split)
        raise ManifestError(f"no manifest in {folder}: expected at least one of {names}")
    return named or others


def is_table(source: object) -> bool:
    """Tells whether something is a table in memory, not the name of a file."""
    return hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__")


def as_table(source: ArrowStream) -> pa.Table:
    """Returns a table in memory as one of pyarrow.

    Raises:
        ManifestError: Arrow cannot hold it.
    """
    try:
        return pa.table(source)
    except (pa.ArrowException, ValueError, TypeError) as error:
        name = f"{type(source).__module__.partition('.')[0]} {type(source).__name__}"
        raise ManifestError(f"the {name} is no manifest: {' '.join(str(error).split())}") from error


class _Source(NamedTuple):
    """One manifest: what messages call it, what it has, and what gives columns of it as they are."""

    name: str
    found: pa.Schema
    read: Callable[[Sequence[str]], pa.Table]


def read_manifests(
    sources: Sequence[str | os.PathLike[str] | pa.Table],
    columns: Sequence[str],
    *,
    optional: Collection[str] = (),
    choice: Choice | None = None,
) -> pa.Table:
    """Returns columns of several manifests together, in their order, with the types of the schema.

    Args:
        sources: files, and tables in memory; folders stand for the files in them.
        columns: names of the schema. ``has_text`` is whether there is a title where a manifest does not say; a blank
            one is none.
        optional: those of them that are null where a manifest does not have them.
        choice: the rows to return; it may name columns that are not of the schema.

    Raises:
        ManifestError: a file is missing, is not Parquet, or an id or a split in it is null.
        SchemaMismatchError: a manifest has not the columns, or they hold what ours cannot.
        UsageError: the choice names a column that a manifest does not have.
    """
    empty = pa.schema([schema.MANIFEST_SCHEMA.field(name).with_nullable(True) for name in columns]).empty_table()
    tables = [_read(source, columns, optional, choice) for source in _each(sources)]
    return pa.concat_tables([empty, *tables])


def _each(sources: Sequence[str | os.PathLike[str] | pa.Table]) -> Iterator[_Source]:
    for source in sources:
        if isinstance(source, pa.Table):
            yield _Source("the table", source.schema, source.select)
        else:
            for file in manifest_files([source]):
                yield _Source(str(file), schema.read_schema(file), partial(schema.read_columns, file))


def _read(source: _Source, columns: Sequence[str], optional: Collection[str], choice: Choice | None) -> pa.Table:
    known = set(source.found.names) | ({"has_text"} if "title" in source.found.names else set())
    needed = dict.fromkeys("title" if name == "has_text" and name not in known else name for name in columns)
    named = choice.names if choice is not None else frozenset()
    used = [*needed, *sorted(named.intersection(source.found.names))]
    schema.check_columns(source.found, schema.MANIFEST_SCHEMA, used, {*optional, "has_text"}, source.name)
    if named - known:
        raise _no_such_column(min(named - known), source)
    more = sorted(named - set(columns))
    others = [each for each in more if each not in schema.MANIFEST_SCHEMA.names]
    ours = [*columns, *(each for each in more if each not in others)]
    if "has_text" in ours and "title" not in ours and "title" in known:
        ours.append("title")
    raw = source.read([each for each in (*ours, *others) if each in source.found.names])
    table = schema.fitted(raw, schema.MANIFEST_SCHEMA, ours, source.name)
    _check_identities(table, known, source.name)
    if "has_text" in ours and "title" in known:
        # A blank title is none: data frames are often filled with them.
        has_words = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(table["title"]), ""), False)
        is_there = pc.coalesce(table["has_text"], has_words)
        table = table.set_column(ours.index("has_text"), "has_text", is_there)
    for each in others:
        table = table.append_column(each, plain(raw[each]))
    return (table if choice is None else choice.rows_of(table)).select(columns)


def _no_such_column(name: str, source: _Source) -> UsageError:
    near = difflib.get_close_matches(name, source.found.names, n=1)
    known = ", ".join(readable(each, 60) for each in source.found.names)
    hint = f"did you mean {readable(near[0], 60)}?" if near else f"it has {known}"
    return UsageError(f"where: {source.name} has no column {readable(name, 60)!r}: {hint}")


def _check_identities(table: pa.Table, given: Collection[str], name: str) -> None:
    for column in set(_IDENTITIES).intersection(table.column_names, given):
        if table[column].null_count:
            row = pc.index(pc.is_null(table[column]), True).as_py()
            raise ManifestError(
                f"{name}: {column} is null in {table[column].null_count:,} rows, row {row + 1:,} first: leave them out"
            )
