"""The only home of column names, Parquet types, units and nullability, and of SCHEMA_VERSION."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from k700_text.columns import converted
from k700_text.errors import ManifestError, SchemaMismatchError
from k700_text.file_kinds import kind_of_file
from k700_text.our_files import kind_of_columns, kind_of_ours
from k700_text.terminal import readable

SCHEMA_VERSION = "1"
VERSION_KEY = b"k700_text.schema_version"
ANNOTATIONS_KEY = b"k700_text.annotations_sha256"
MAX_TABLE_BYTES = 4 << 30
"""Of the columns that are read at once, unpacked; those of all Kinetics-700 have a hundredth of it."""
TOOL_KEY = b"k700_text.tool_version"
PROBE_SETTINGS_KEY = b"k700_text.probe_settings"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, Parquet type, meaning (with unit), group, and whether it may be null."""

    name: str
    type: pa.DataType
    description: str
    group: str
    nullable: bool = True

    def field(self) -> pa.Field:
        """Returns the pyarrow field."""
        return pa.field(self.name, self.type, nullable=self.nullable)


_UTC = pa.timestamp("us", tz="UTC")
_TEXT = pa.string()
_TEXTS = pa.list_(pa.field("element", pa.string()))  # "element" is what Parquet calls the items of a list

IDENTITY = "identity"
TITLE = "title"
WEB = "video on the web"
DISK = "clip on disk"
FLAGS = "training flags"
RECORD = "record of a shard"

CLIP_ON_DISK_COLUMNS: tuple[Column, ...] = (
    Column("video_status", _TEXT, "usable, no_stream, partial, undecodable, missing; null: never probed", DISK),
    Column("num_frames", pa.int32(), "frames that decode", DISK),
    Column("frame_rate", pa.float64(), "frames per second, average over the file", DISK),
    Column("width", pa.int32(), "pixels as shown: turned, and square", DISK),
    Column("height", pa.int32(), "pixels as shown: turned, and square", DISK),
    Column("clip_duration_seconds", pa.float64(), "measured length of the file, seconds", DISK),
    Column(
        "audio_status",
        _TEXT,
        "usable, no_stream, silent, near_silent, partial, undecodable, missing; null: never probed",
        DISK,
    ),
    Column("audio_sample_rate", pa.int32(), "hertz, as stored", DISK),
    Column("audio_channels", pa.int32(), "channels, as stored", DISK),
    Column(
        "audio_rms_dbfs",
        pa.float64(),
        "level as heard (loudest channel, no constant part), dB re full scale; null: nothing is heard",
        DISK,
    ),
    Column("audio_peak_dbfs", pa.float64(), "peak of all channels, dB re full scale; null: digital silence", DISK),
    Column("audio_silent_fraction", pa.float64(), "share of 50 ms blocks below the silence threshold, 0..1", DISK),
)

MANIFEST_COLUMNS: tuple[Column, ...] = (
    Column("clip_id", _TEXT, "{youtube_id}_{start:06d}_{end:06d}; unique together with label", IDENTITY, False),
    Column("youtube_id", _TEXT, "11 characters, case-sensitive, always text", IDENTITY, False),
    Column("split", _TEXT, "train, val or test", IDENTITY, False),
    Column("label", _TEXT, "action class; null in unlabelled test sets", IDENTITY),
    Column("start_seconds", pa.float64(), "start of the clip in the video, seconds", IDENTITY, False),
    Column("end_seconds", pa.float64(), "end of the clip in the video, seconds", IDENTITY, False),
    Column("title", _TEXT, "title of the video on the web, cleaned (NFC, no control characters)", TITLE),
    Column("title_source", _TEXT, "source the title came from", TITLE),
    Column("title_fetched_at", _UTC, "when the title was fetched", TITLE),
    Column("title_captured_at", _UTC, "when an archive captured the page the title is from", TITLE),
    Column("title_language", _TEXT, "language as declared by the service (BCP 47)", TITLE),
    Column("availability", _TEXT, "state of the video; one of records.Availability", WEB, False),
    Column("availability_sources", _TEXTS, "sources that agree on the state, sorted", WEB, False),
    Column("published_at", _UTC, "upload time as told by the service", WEB),
    Column("video_duration_seconds", pa.float64(), "length of the whole video, seconds", WEB),
    Column("web_has_audio", pa.bool_(), "the service lists an audio stream; null: it cannot tell", WEB),
    *CLIP_ON_DISK_COLUMNS,
    Column("has_video", pa.bool_(), "a sample of this clip carries frames; null: never probed", FLAGS),
    Column("has_audio", pa.bool_(), "a sample of this clip carries audio; null: never probed", FLAGS),
    Column("has_text", pa.bool_(), "a sample of this clip carries its title", FLAGS, False),
)

PROBE_COLUMNS: tuple[Column, ...] = (
    Column("clip_file", _TEXT, "path of the clip, relative to the probed folder, with /", IDENTITY, False),
    *CLIP_ON_DISK_COLUMNS,
    Column("reason", _TEXT, "why a stream is not usable", DISK),
    Column("file_bytes", pa.int64(), "size of the file, bytes", DISK),
)

SHARD_COLUMNS: tuple[Column, ...] = (
    Column("clip_id", _TEXT, "id of the clip; its path where it is named after none", IDENTITY, False),
    Column("split", _TEXT, "train, val or test; null without a manifest", IDENTITY),
    Column("label", _TEXT, "action class; null where there is none", IDENTITY),
    Column("clip_file", _TEXT, "path of the source, relative to the folder of clips, with /", IDENTITY, False),
    Column("source_bytes", pa.int64(), "size of the source, bytes", DISK, False),
    Column("reason", _TEXT, "why the clip, or a stream of it, is not in the shard; null: nothing is missing", RECORD),
    Column("has_video", pa.bool_(), "the record holds frames", RECORD, False),
    Column("has_audio", pa.bool_(), "the record holds audio", RECORD, False),
    Column("num_frames", pa.int32(), "frames stored", RECORD, False),
    Column("width", pa.int32(), "pixels", RECORD, False),
    Column("height", pa.int32(), "pixels", RECORD, False),
    Column("video_seconds", pa.float64(), "length of the stored video, seconds", RECORD, False),
    Column("audio_seconds", pa.float64(), "length of the stored audio, seconds", RECORD, False),
    Column("num_audio_steps", pa.int64(), "mel frames, or samples of PCM", RECORD, False),
    Column("shard", _TEXT, "name of the tar file", RECORD, False),
    Column("record_offset", pa.int64(), "where its first header lies in the tar, bytes", RECORD, False),
    Column("record_bytes", pa.int64(), "size with headers and padding; 0: the clip is not in the shard", RECORD, False),
    Column("video_offset", pa.int64(), "where the .mp4 lies in the tar, bytes", RECORD, False),
    Column("video_bytes", pa.int64(), "its size", RECORD, False),
    Column("audio_offset", pa.int64(), "where the .mel.npy or .wav lies in the tar, bytes", RECORD, False),
    Column("audio_bytes", pa.int64(), "its size", RECORD, False),
    Column("level_offset", pa.int64(), "where the .level.npy lies in the tar, bytes", RECORD, False),
    Column("level_bytes", pa.int64(), "its size", RECORD, False),
    Column("json_offset", pa.int64(), "where the .json lies in the tar, bytes", RECORD, False),
    Column("json_bytes", pa.int64(), "its size", RECORD, False),
    Column("packets", pa.binary(), "packet table of the video, offsets in the tar; null without one", RECORD),
    Column("checksums", pa.binary(), "CRC-32 of every 16 KiB of the record, little-endian uint32 each", RECORD, False),
)

PACKET_INDEX_COLUMNS: tuple[Column, ...] = (
    Column("clip_file", _TEXT, "path of the clip, relative to the indexed folder, with /; sorted", IDENTITY, False),
    Column("file_bytes", pa.int64(), "size of the file when it was indexed, bytes", DISK, False),
    Column("mtime_ns", pa.int64(), "when the file had last been changed, nanoseconds since 1970", DISK, False),
    Column("packets", pa.binary(), "its packet tables, as packets.ClipPackets writes them; null: not indexable", DISK),
    Column("reason", _TEXT, "why it is not indexable", DISK),
)

MANIFEST_SCHEMA = pa.schema([column.field() for column in MANIFEST_COLUMNS])
PROBE_SCHEMA = pa.schema([column.field() for column in PROBE_COLUMNS])
PACKET_INDEX_SCHEMA = pa.schema([column.field() for column in PACKET_INDEX_COLUMNS])
SHARD_SCHEMA = pa.schema([column.field() for column in SHARD_COLUMNS])
# Column j: number of the row that has the j-th clip id in order of the ids.
SHARD_INDEX_SCHEMA = SHARD_SCHEMA.append(pa.field("by_clip_id", pa.int32(), nullable=False))


def of_videos(schema: pa.Schema) -> pa.Schema:
    """Returns the manifest's schema for rows of whole videos, which have no times; all readers take both."""
    times = ("start_seconds", "end_seconds")
    fields = [field.with_nullable(field.nullable or field.name in times) for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def with_metadata(schema: pa.Schema, **values: str) -> pa.Schema:
    """Returns the schema with the schema version and the given values as Parquet metadata.

    Args:
        schema: the schema to stamp.
        values: metadata by short name; ``annotations_sha256`` becomes ``k700_text.annotations_sha256``.
    """
    metadata = {VERSION_KEY: SCHEMA_VERSION.encode()}
    metadata.update({f"k700_text.{name}".encode(): value.encode() for name, value in sorted(values.items())})
    return schema.with_metadata(metadata)


def flattened(schema: pa.Schema) -> pa.Schema:
    """Returns the schema with lists as plain text, for formats that have no lists."""
    types = {field.name: _TEXT if pa.types.is_list(field.type) else field.type for field in schema}
    return pa.schema([pa.field(name, type_) for name, type_ in types.items()])


def check_file(path: str | Path) -> None:
    """Raises ManifestError for a pipe or the like: Parquet is not read in turn, and we would wait for ever."""
    if Path(path).exists() and not Path(path).is_file():
        raise ManifestError(f"cannot read {path} as Parquet: it is no file (of a pipe, make a file first)")


def read_schema(path: str | Path) -> pa.Schema:
    """Reads the schema of a Parquet file.

    Raises:
        ManifestError: the file is missing or is not Parquet.
    """
    check_file(path)
    try:
        found = pq.read_schema(path)
        found.names  # noqa: B018 - these are decoded only here, and may be no UTF-8.
        return found
    except FileNotFoundError as error:
        raise ManifestError(f"no such file: {path}") from error
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        kind = kind_of_ours(path) or kind_of_file(path)
        reason = f"it is {kind}" if kind else " ".join(str(error).split())[:200]
        raise ManifestError(f"cannot read {path} as Parquet: {reason}") from error


def read_table(
    path: str | Path, schema: pa.Schema, columns: Sequence[str] | None = None, optional: Collection[str] = ()
) -> pa.Table:
    """Reads columns of a Parquet file that holds them, whoever wrote it, with the types of a schema.

    Args:
        path: a Parquet file.
        schema: MANIFEST_SCHEMA or PROBE_SCHEMA.
        columns: the columns to read; all of the schema when None.
        optional: those of them that are null where the file does not have them.

    Raises:
        ManifestError: the file is missing, is not Parquet, is damaged, or claims more than MAX_TABLE_BYTES.
        SchemaMismatchError: it is of another schema version, or columns are missing or cannot be ours.
    """
    wanted = list(columns) if columns is not None else schema.names
    found = read_schema(path)
    check_columns(found, schema, wanted, optional, path)
    return fitted(read_columns(path, [name for name in wanted if name in found.names]), schema, wanted, path)


def read_columns(path: str | Path, names: Sequence[str]) -> pa.Table:
    """Reads columns of a Parquet file as they are; it must have them.

    Raises:
        ManifestError: it is damaged, or claims more than MAX_TABLE_BYTES.
    """
    try:
        num_bytes = declared_bytes(pq.read_metadata(path), names)
        if num_bytes > MAX_TABLE_BYTES:
            raise ManifestError(
                f"{path} claims {num_bytes} bytes in the columns that are read, more than {MAX_TABLE_BYTES}: split it"
            )
        num_bytes = _repeated_bytes(path, names)
        if num_bytes > MAX_TABLE_BYTES:
            raise ManifestError(f"{path} unpacks to {num_bytes} bytes of text, more than {MAX_TABLE_BYTES}: split it")
        table = pq.read_table(path, columns=list(names))
        table.validate(full=True)  # Parquet does not check that text is UTF-8.
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ManifestError(f"{path} is damaged ({reason}): write it again, or restore a copy") from error
    return table


def declared_bytes(metadata: pq.FileMetaData, names: Sequence[str]) -> int:
    """Returns how many bytes the columns unpack to, by what a Parquet file says of itself."""
    wanted = set(names)
    return sum(
        chunk.total_uncompressed_size for chunk in _chunks(metadata) if chunk.path_in_schema.split(".")[0] in wanted
    )


def _repeated_bytes(path: str | Path, names: Collection[str]) -> int:
    """Returns how many bytes of text columns unpack to whose values are written once and named many times.

    Of such a column the file does not say it, so that a few kilobytes may stand for terabytes. Looked at are only those
    that could pass MAX_TABLE_BYTES.
    """
    metadata = pq.read_metadata(path)
    num_bytes = 0
    for name in encoded_columns(metadata, names):
        chunks = [chunk for chunk in _chunks(metadata) if chunk.path_in_schema == name]
        if sum(chunk.num_values * chunk.total_uncompressed_size for chunk in chunks) > MAX_TABLE_BYTES:
            column = pq.read_table(path, columns=[name], read_dictionary=[name])[name]
            for each in column.chunks:
                lengths = pc.binary_length(each.dictionary).cast(pa.int64())
                num_bytes += pc.sum(lengths.take(each.indices)).as_py() or 0
    return num_bytes


def encoded_columns(metadata: pq.FileMetaData, names: Collection[str]) -> list[str]:
    """Returns which of the columns are of text whose values are written once and named many times."""
    found = {
        chunk.path_in_schema: None
        for chunk in _chunks(metadata)
        if chunk.has_dictionary_page and chunk.physical_type == "BYTE_ARRAY" and chunk.path_in_schema in names
    }
    return list(found)


def _chunks(metadata: pq.FileMetaData) -> Iterator[pq.ColumnChunkMetaData]:
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    return (group.column(number) for group in groups for number in range(group.num_columns))


def fitted(table: pa.Table, schema: pa.Schema, columns: Sequence[str], name: str | Path) -> pa.Table:
    """Returns columns of a table with the types of a schema, null where the table does not have them.

    Raises:
        SchemaMismatchError: a column cannot be ours, or a value of it would be lost.
    """
    for each in columns:
        if each not in table.column_names:
            table = table.append_column(each, pa.nulls(len(table), schema.field(each).type))
    return converted(table, [schema.field(each) for each in columns], str(name))


def check_columns(
    found: pa.Schema, expected: pa.Schema, columns: Sequence[str], optional: Collection[str], path: str | Path
) -> None:
    """Raises SchemaMismatchError where a file is of another version of ours, or has not the columns that are needed."""
    if (found.metadata or {}).get(VERSION_KEY) not in (None, SCHEMA_VERSION.encode()):
        raise _another_version(found, path)
    missing = [name for name in columns if name not in found.names and name not in optional]
    repeated = [name for name in columns if found.names.count(name) > 1]
    if repeated:
        raise SchemaMismatchError(f"{path} has several columns {repeated[0]}", expected="one", actual="several")
    if missing:
        raise SchemaMismatchError(_missing(found, expected, missing, path), expected=missing[0], actual="missing")


def _missing(found: pa.Schema, expected: pa.Schema, missing: Sequence[str], path: str | Path) -> str:
    kind = kind_of_columns(found.names)
    if kind is not None and kind is not kind_of_columns(expected.names):
        return f"{path} is {kind}: name {kind_of_columns(expected.names)}"
    one = len(missing) == 1
    which = f"column {missing[0]} is missing" if one else f"columns {', '.join(missing)} are missing"
    if is_stamped(found):
        return f"{path}: {which}: write it again with k700-text"
    if not set(found.names) & set(expected.names):
        return f"{path} is not {kind_of_columns(expected.names)}: it has none of its columns"
    return f"{path} was rewritten by another program, and {which}: keep {'it' if one else 'them'} there"


def is_stamped(found: pa.Schema) -> bool:
    """Tells whether a file is as this package wrote it: other programs leave out what its metadata says."""
    return VERSION_KEY in (found.metadata or {})


def check_schema(found: pa.Schema, expected: pa.Schema, path: str | Path) -> None:
    """Raises SchemaMismatchError unless the version is ours and every expected column is there with its type.

    For files that nobody else writes, and that are read by their bytes.
    """
    if (found.metadata or {}).get(VERSION_KEY) != SCHEMA_VERSION.encode():
        raise _another_version(found, path)
    for field in expected:
        index = found.get_field_index(field.name)
        actual = "missing" if index < 0 else str(found.field(index).type)
        if actual != str(field.type):
            raise SchemaMismatchError(
                f"{path}: column {field.name} is {actual}, expected {field.type}",
                expected=str(field.type),
                actual=actual,
            )


def _another_version(found: pa.Schema, path: str | Path) -> SchemaMismatchError:
    version = (found.metadata or {}).get(VERSION_KEY, b"none").decode(errors="replace")
    return SchemaMismatchError(
        f"{path} has schema version {readable(version, 20)}, this version reads {SCHEMA_VERSION}: "
        "write it again with this version of k700-text (the ledger and the probe file are kept)",
        expected=SCHEMA_VERSION,
        actual=version,
    )
