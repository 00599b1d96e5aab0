"""Joins annotations, ledger and probe into manifest files: one row per annotated clip, always.

Annotated clips and the ledger are both in order of video id, so they are merged while they stream. The same inputs
give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import k700_text
from k700_text import schema
from k700_text.annotations import Annotations
from k700_text.crawl.ledger import Video, read_videos
from k700_text.errors import ManifestError
from k700_text.manifest.web import NEVER_ASKED, WebFacts, web_facts
from k700_text.media.files import ClipIndex
from k700_text.records import AudioStatus, Clip, VideoStatus

ROWS_PER_GROUP = 50_000
_WEB_COLUMNS = tuple(WebFacts.__dataclass_fields__)
_DISK_COLUMNS = tuple(column.name for column in schema.CLIP_ON_DISK_COLUMNS)
_DISK_FLAGS = ("has_video", "has_audio")


def build_manifest(
    annotations: Annotations,
    ledger: str | Path | None,
    probe: str | Path | None,
    out: str | Path,
    *,
    keep_probe: bool = False,
) -> list[Path]:
    """Writes ``<split>.parquet`` for every split of the annotations and returns the files.

    Args:
        annotations: the clips; each becomes one row.
        ledger: what a crawl left; without one, rows carry no titles.
        probe: what ``k700-text probe`` measured; without one, the columns of the clip on disk are null.
        out: folder of the files; made if missing. Each file appears complete or not at all.
        keep_probe: without a probe file, carry the columns of the clip on disk over from the files that are replaced.

    Raises:
        LedgerError: the ledger cannot be read.
        ManifestError: the probe file cannot be read.
        OSError: a file cannot be written.
        SchemaMismatchError: the probe file is of another schema.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    given = ProbeJoin(probe) if probe is not None else None
    files = []
    for split, clips in groupby(annotations.clips, key=lambda clip: clip.split):
        path = folder / f"{split.value}.parquet"
        disk = given or (_earlier_probe(path) if keep_probe else None)
        write_atomically(
            path, _stamped(annotations, disk), _tables(clips, Path(ledger) if ledger is not None else None, disk)
        )
        files.append(path)
    return files


def _stamped(annotations: Annotations, disk: ProbeJoin | EarlierProbe | None) -> pa.Schema:
    values = {"annotations_sha256": annotations.sha256, "tool_version": k700_text.__version__}
    if disk is not None and disk.settings is not None:
        values["probe_settings"] = disk.settings
    return schema.with_metadata(schema.MANIFEST_SCHEMA, **values)


def write_atomically(path: Path, table_schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    """Writes a Parquet file under a temporary name and renames it once it is whole.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with pq.ParquetWriter(temporary, table_schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table.cast(table_schema), row_group_size=ROWS_PER_GROUP)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise named(error, path) from error


def named(error: OSError, path: Path) -> OSError:
    """Returns the error of Arrow, which names no file, as one that does."""
    return OSError(error.errno, os.strerror(error.errno), str(path)) if error.errno else error


def _tables(clips: Iterator[Clip], ledger: Path | None, disk: ProbeJoin | EarlierProbe | None) -> Iterator[pa.Table]:
    facts = _with_facts(clips, read_videos(ledger) if ledger is not None else iter(()))
    while rows := list(islice(facts, ROWS_PER_GROUP)):
        yield _table(rows, disk)


def _with_facts(clips: Iterator[Clip], videos: Iterator[Video]) -> Iterator[tuple[Clip, WebFacts]]:
    """Merges two streams that are both in order of video id."""
    video = next(videos, None)
    for youtube_id, group in groupby(clips, key=lambda clip: clip.youtube_id):
        while video is not None and video.youtube_id < youtube_id:
            video = next(videos, None)
        is_known = video is not None and video.youtube_id == youtube_id
        facts = web_facts(video) if video is not None and is_known else NEVER_ASKED
        for clip in group:
            yield clip, facts


def _table(rows: Sequence[tuple[Clip, WebFacts]], disk: ProbeJoin | EarlierProbe | None) -> pa.Table:
    columns: dict[str, object] = {
        "clip_id": [clip.clip_id for clip, _ in rows],
        "youtube_id": [clip.youtube_id for clip, _ in rows],
        "split": [clip.split.value for clip, _ in rows],
        "label": [clip.label for clip, _ in rows],
        "start_seconds": [float(clip.start_seconds) for clip, _ in rows],
        "end_seconds": [float(clip.end_seconds) for clip, _ in rows],
        "has_text": [facts.title is not None for _, facts in rows],
    }
    columns.update({name: [getattr(facts, name) for _, facts in rows] for name in _WEB_COLUMNS})
    clip_ids = pa.array([clip.clip_id for clip, _ in rows], pa.string())
    columns.update(disk.columns(clip_ids) if disk is not None else _never_probed(len(rows)))
    fields = schema.MANIFEST_SCHEMA
    arrays = [_as_array(columns[field.name], field.type) for field in fields]
    return pa.Table.from_arrays(arrays, schema=fields)


def _as_array(values: object, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(kind)
    return pa.array(values, kind)


def _never_probed(num_rows: int) -> dict[str, object]:
    return {name: [None] * num_rows for name in (*_DISK_COLUMNS, *_DISK_FLAGS)}


class ProbeJoin:
    """Finds the measurements of clips by clip id.

    Args:
        path: a file written by ``k700-text probe``.

    Raises:
        ManifestError: the file cannot be read.
        SchemaMismatchError: it is of another schema.
    """

    def __init__(self, path: str | Path) -> None:
        self._table = schema.read_table(path, schema.PROBE_SCHEMA, ["clip_file", *_DISK_COLUMNS])
        self._index = ClipIndex("", self._table["clip_file"].to_pylist())
        self.settings = _probe_settings(path)

    def columns(self, clip_ids: pa.Array) -> dict[str, object]:
        """Returns the columns of the clip on disk and their flags; clips without a file are ``missing``."""
        files = self._index.find(clip_ids)
        rows = pc.index_in(files, value_set=self._table["clip_file"].cast(files.type), skip_nulls=True)
        found = self._table.select(_DISK_COLUMNS).take(rows)
        columns: dict[str, object] = {name: found[name] for name in _DISK_COLUMNS}
        video = pc.fill_null(found["video_status"], VideoStatus.MISSING.value)
        audio = pc.fill_null(found["audio_status"], AudioStatus.MISSING.value)
        good_video = pa.array([VideoStatus.USABLE.value, VideoStatus.PARTIAL.value])
        return {
            **columns,
            "video_status": video,
            "audio_status": audio,
            "has_video": pc.is_in(video, value_set=good_video),
            "has_audio": pc.equal(audio, AudioStatus.USABLE.value),
        }


class EarlierProbe:
    """Finds the measurements of clips in a manifest file that already holds them; other clips were never probed.

    Args:
        path: a manifest file.

    Raises:
        ManifestError: the file cannot be read.
        SchemaMismatchError: it is of another schema.
    """

    def __init__(self, path: Path) -> None:
        self._table = schema.read_table(path, schema.MANIFEST_SCHEMA, ["clip_id", *_DISK_COLUMNS, *_DISK_FLAGS])
        self.settings = _probe_settings(path)

    def columns(self, clip_ids: pa.Array) -> dict[str, object]:
        """Returns the columns of the clip on disk and their flags."""
        found = self._table.take(pc.index_in(clip_ids, value_set=self._table["clip_id"]))
        return {name: found[name] for name in (*_DISK_COLUMNS, *_DISK_FLAGS)}


def _earlier_probe(path: Path) -> EarlierProbe | None:
    try:
        return EarlierProbe(path)
    except ManifestError:
        # Nothing there, or nothing that this version could have written: it is replaced by a whole file.
        return None


def _probe_settings(path: str | Path) -> str | None:
    settings = (pq.read_schema(path).metadata or {}).get(schema.PROBE_SETTINGS_KEY)
    return settings.decode() if settings is not None else None
