"""Checks of manifest files: everything that readers rely on, all problems together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from k700_text import schema
from k700_text.clashes import SPAN_COLUMNS, Clashes, find_clashes
from k700_text.columns import convert
from k700_text.errors import SchemaMismatchError
from k700_text.our_files import MANIFEST, kind_of_columns
from k700_text.records import (
    CLIP_ID_PATTERN,
    LONGEST_CLIP_SECONDS,
    LONGEST_VIDEO_SECONDS,
    YOUTUBE_ID_PATTERN,
    AudioStatus,
    Availability,
    Split,
    VideoStatus,
)
from k700_text.terminal import readable

MAX_EXAMPLES = 3

_ENUMS: dict[str, tuple[str, ...]] = {
    "split": tuple(Split),
    "availability": tuple(Availability),
    "video_status": tuple(VideoStatus),
    "audio_status": tuple(AudioStatus),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of fault in one file.

    Attributes:
        path: the file.
        text: what is wrong, how often, and examples.
    """

    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def validate_manifest(path: str | Path) -> list[Problem]:
    """Returns every problem of a manifest file; none means that readers can rely on it.

    A file that another program wrote may have other types for the same values, further columns, rows in another order,
    and none of the metadata; that is no problem.

    Raises:
        ManifestError: the file is missing or not Parquet at all, or is another one of our files.
    """
    found = schema.read_schema(path)
    kind = kind_of_columns(found.names)
    if kind is not None and kind != MANIFEST:
        raise SchemaMismatchError(f"{path} is {kind}: name {MANIFEST}", expected="a manifest", actual=kind)
    problems = list(_schema_problems(found))
    table = schema.MANIFEST_SCHEMA.empty_table()
    if not problems:
        table, problems = _read(path)
    if not problems:
        problems += _table_problems(table if schema.is_stamped(found) else _sorted(table))
    return [Problem(str(path), text) for text in problems]


def _schema_problems(found: pa.Schema) -> Iterator[str]:
    metadata = found.metadata or {}
    missing = [name for name in schema.MANIFEST_SCHEMA.names if name not in found.names]
    if missing and not schema.is_stamped(found):
        yield f"rewritten by another program, and without {', '.join(missing)}"
    version = metadata.get(schema.VERSION_KEY, schema.SCHEMA_VERSION.encode()).decode(errors="replace")
    if version != schema.SCHEMA_VERSION:
        yield f"schema version {readable(version)}, expected {schema.SCHEMA_VERSION}"
    for name in (schema.ANNOTATIONS_KEY, schema.TOOL_KEY) if schema.is_stamped(found) else ():
        if name not in metadata:
            yield f"metadata {name.decode()} is missing"
    for field in schema.MANIFEST_SCHEMA:
        count = found.names.count(field.name)
        if count == 0 and schema.is_stamped(found):
            yield f"column {field.name} is missing"
        elif count > 1:
            yield f"column {field.name} is there {count} times"
        elif schema.is_stamped(found) and found.field(field.name).type != field.type:
            yield f"column {field.name} is {found.field(field.name).type}, expected {field.type}"
    for name in found.names if schema.is_stamped(found) else ():
        if name not in schema.MANIFEST_SCHEMA.names:
            yield f"column {readable(name)} is not part of the schema"


def _read(path: str | Path) -> tuple[pa.Table, list[str]]:
    """Returns the columns of a file that has all of them, and which of them cannot be ours."""
    raw = schema.read_columns(path, schema.MANIFEST_SCHEMA.names)
    columns, problems = {}, []
    for field in schema.MANIFEST_SCHEMA:
        try:
            columns[field.name] = convert(raw[field.name], field, "")
        except SchemaMismatchError as error:
            problems.append(str(error).removeprefix(": "))
    return pa.table(columns), problems


def _sorted(table: pa.Table) -> pa.Table:
    """Returns the rows of a file that people put into another order, as the checks of neighbours need them."""
    keys = pa.table({name: pc.fill_null(table[name], "") for name in ("split", "clip_id", "label")})
    return table.take(pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names]))


def is_rewritten(path: str | Path) -> bool:
    """Tells whether another program wrote a manifest file.

    Raises:
        ManifestError: the file is missing or not Parquet at all.
    """
    return not schema.is_stamped(schema.read_schema(path))


def _table_problems(table: pa.Table) -> Iterator[str]:
    yield from _null_problems(table)
    yield from _enum_problems(table)
    yield from _identity_problems(table)
    yield from _order_problems(table)
    yield from _title_problems(table)
    yield from _flag_problems(table)


def _report(table: pa.Table, is_bad: pa.ChunkedArray, text: str) -> Iterator[str]:
    """Yields one line if any row is bad: how many, and which for example."""
    bad = table["clip_id"].filter(pc.fill_null(is_bad, False))
    if len(bad):
        examples = ", ".join(readable(str(value)) for value in bad.slice(0, MAX_EXAMPLES).to_pylist())
        yield f"{text} in {len(bad)} of {len(table)} rows ({examples}{', ...' if len(bad) > MAX_EXAMPLES else ''})"


def _null_problems(table: pa.Table) -> Iterator[str]:
    for field in schema.MANIFEST_SCHEMA:
        if not field.nullable and table[field.name].null_count:
            is_bad = pc.is_null(table[field.name])
            if field.name in ("start_seconds", "end_seconds"):
                is_bad = pc.and_not(is_bad, _is_video(table))
            yield from _report(table, is_bad, f"{field.name} is null")


def _is_video(table: pa.Table) -> pa.ChunkedArray:
    """Tells of every row whether it is a whole video: it is called by the video's id, and has no times."""
    has_no_times = pc.and_(pc.is_null(table["start_seconds"]), pc.is_null(table["end_seconds"]))
    return pc.and_(has_no_times, pc.fill_null(pc.equal(table["clip_id"], table["youtube_id"]), False))


def _enum_problems(table: pa.Table) -> Iterator[str]:
    for name, values in _ENUMS.items():
        known = pa.array([str(value) for value in values], pa.string())
        is_bad = pc.and_(pc.is_valid(table[name]), pc.invert(pc.is_in(table[name], value_set=known)))
        yield from _report(table, is_bad, f"{name} holds an unknown value")


def _identity_problems(table: pa.Table) -> Iterator[str]:
    id_pattern = rf"^(?:{YOUTUBE_ID_PATTERN.pattern})$"
    yield from _report(table, _not(pc.match_substring_regex(table["youtube_id"], id_pattern)), "youtube_id is no id")
    clip_pattern = "^" + CLIP_ID_PATTERN.pattern + "$"
    is_other = _not(pc.match_substring_regex(table["clip_id"], clip_pattern))
    yield from _report(table, pc.and_not(is_other, _is_video(table)), "clip_id is no clip id")
    prefix = pc.utf8_slice_codeunits(table["clip_id"], 0, 11)
    yield from _report(table, pc.not_equal(prefix, table["youtube_id"]), "clip_id is not of this youtube_id")
    yield from _time_problems(table, clip_pattern)


def _time_problems(table: pa.Table, clip_pattern: str) -> Iterator[str]:
    named = pc.extract_regex(table["clip_id"], clip_pattern)
    for part in ("start", "end"):
        seconds = pc.cast(pc.struct_field(named, [part]), pa.float64())
        is_other = pc.not_equal(seconds, pc.floor(table[f"{part}_seconds"]))
        yield from _report(table, is_other, f"clip_id does not name {part}_seconds")
    is_finite = pc.and_(pc.is_finite(table["start_seconds"]), pc.is_finite(table["end_seconds"]))
    is_span = pc.and_(
        pc.greater_equal(table["start_seconds"], 0), pc.greater(table["end_seconds"], table["start_seconds"])
    )
    is_long = pc.greater(pc.subtract(table["end_seconds"], table["start_seconds"]), float(LONGEST_CLIP_SECONDS))
    is_long = pc.or_(is_long, pc.greater(table["end_seconds"], float(LONGEST_VIDEO_SECONDS)))
    is_span = pc.and_not(is_span, is_long)
    yield from _report(table, _not(pc.and_(is_finite, is_span)), "start_seconds and end_seconds are no span of time")


def _not(mask: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.invert(pc.fill_null(mask, True))


def _order_problems(table: pa.Table) -> Iterator[str]:
    """Looks at neighbours only: in a sorted file, equal keys are neighbours."""
    if len(table) < 2:
        return
    keys = ["split", "clip_id", "label"]
    flat = {name: pc.fill_null(table[name], "").combine_chunks() for name in keys}
    # Two clips that begin within one second share their clip_id and label: the exact times tell them apart.
    times = {name: pc.fill_null(table[name], -1.0).combine_chunks() for name in ("start_seconds", "end_seconds")}
    before = {name: values.slice(0, len(table) - 1) for name, values in (flat | times).items()}
    after = {name: values.slice(1) for name, values in (flat | times).items()}
    is_equal, is_less = pa.scalar(True), pa.scalar(False)
    for name in keys:
        is_less = pc.or_(is_less, pc.and_(is_equal, pc.less(after[name], before[name])))
        is_equal = pc.and_(is_equal, pc.equal(after[name], before[name]))
    is_same = pc.and_(is_equal, pc.equal(after["start_seconds"], before["start_seconds"]))
    is_same = pc.and_(is_same, pc.equal(after["end_seconds"], before["end_seconds"]))
    later_rows = table.slice(1)
    yield from _report(later_rows, is_less, "rows are not sorted by (split, clip_id, label)")
    yield from _report(later_rows, is_same, "rows repeat an earlier row")


def _title_problems(table: pa.Table) -> Iterator[str]:
    has_title = pc.is_valid(table["title"])
    yield from _report(table, pc.equal(pc.utf8_length(table["title"]), 0), "title is empty")
    has_control = pc.match_substring_regex(table["title"], r"[\x00-\x1f\x7f]|^\s|\s$")
    yield from _report(table, has_control, "title is not clean (control characters, outer spaces)")
    for name in ("title_source", "title_fetched_at"):
        yield from _report(table, pc.not_equal(has_title, pc.is_valid(table[name])), f"{name} does not go with title")
    is_unknown = pc.equal(table["availability"], Availability.UNKNOWN.value)
    num_sources = pc.list_value_length(table["availability_sources"])
    yield from _report(table, pc.and_(is_unknown, pc.greater(num_sources, 0)), "availability unknown has sources")
    yield from _report(table, pc.and_(pc.invert(is_unknown), pc.equal(num_sources, 0)), "availability has no source")


def _flag_problems(table: pa.Table) -> Iterator[str]:
    has_title = pc.is_valid(table["title"])
    yield from _report(table, pc.not_equal(table["has_text"], has_title), "has_text does not agree with title")
    good = {
        "has_video": ("video_status", [VideoStatus.USABLE.value, VideoStatus.PARTIAL.value]),
        "has_audio": ("audio_status", [AudioStatus.USABLE.value]),
    }
    for flag, (status, values) in good.items():
        is_probed = pc.is_valid(table[status])
        expected = pc.is_in(table[status], value_set=pa.array(values))
        is_wrong = pc.if_else(is_probed, pc.not_equal(pc.fill_null(table[flag], False), expected), False)
        yield from _report(table, is_wrong, f"{flag} does not agree with {status}")
        yield from _report(
            table, pc.not_equal(is_probed, pc.is_valid(table[flag])), f"{flag} and {status}: one is null"
        )


def validate_manifests(paths: Sequence[str | Path]) -> list[Problem]:
    """Returns the problems of several files, in their order.

    Raises:
        ManifestError: a file is missing or not Parquet at all.
    """
    return [problem for path in paths for problem in validate_manifest(path)]


def manifest_clashes(paths: Sequence[str | Path]) -> Clashes:
    """Returns the clips of all files together that clash; files that have not the columns are left out.

    Raises:
        ManifestError: a file is missing, not Parquet at all, or damaged.
    """
    tables = [schema.of_videos(schema.MANIFEST_SCHEMA).empty_table().select(list(SPAN_COLUMNS))]
    for path in paths:
        with suppress(SchemaMismatchError):
            table = schema.read_table(path, schema.MANIFEST_SCHEMA, SPAN_COLUMNS)
            tables.append(pa.table(table.columns, schema=tables[0].schema))
    return find_clashes(pa.concat_tables(tables))
