"""Joins annotations, ledger and probe into manifest files: one row per annotated clip, always.

Annotated clips and the ledger are both in order of video id, so they are merged while they stream: the ledger is read
once, for the files of all splits side by side. The same inputs give the same bytes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import k700_text
from k700_text import schema
from k700_text.annotations import Annotations
from k700_text.clip_table import ClipTable, VideoTable
from k700_text.errors import ManifestError
from k700_text.files.atomic import PartFile
from k700_text.files.lock import FileLock
from k700_text.manifest.web import WEB_COLUMNS, web_tables
from k700_text.manifest_files import read_manifests
from k700_text.media.files import ClipIndex
from k700_text.records import AudioStatus, VideoStatus

ROWS_PER_GROUP = 20_000
LOCK_FILE = ".manifest.lock"
_DISK_COLUMNS = tuple(column.name for column in schema.CLIP_ON_DISK_COLUMNS)
_DISK_FLAGS = ("has_video", "has_audio")
# A dictionary of values that hardly repeat costs time, and a fifth of the file.
_REPEATING_COLUMNS = [
    name
    for name in schema.MANIFEST_SCHEMA.names
    if name not in ("clip_id", "youtube_id", "title", "title_fetched_at", "published_at")
]


def build_manifest(
    annotations: Annotations,
    ledger: str | Path | None,
    probe: str | Path | None,
    out: str | Path,
    *,
    keep_probe: bool = False,
    api_since: datetime | None = None,
    on_wait: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Writes ``<split>.parquet`` for every split of the annotations and returns the files.

    Args:
        annotations: the clips; each becomes one row.
        ledger: what a crawl left; without one, rows carry no titles.
        probe: what ``k700-text probe`` measured; without one, the columns of the clip on disk are null.
        out: folder of the files; made if missing. All files appear complete or none does.
        keep_probe: without a probe file, carry the columns of the clip on disk over from the files that are replaced.
        api_since: leave out answers of the Data API that are older.
        on_wait: told, in a line, if another process is writing manifests there; it is waited for.

    Raises:
        LedgerError: the ledger cannot be read.
        ManifestError: the probe file cannot be read.
        OSError: a file cannot be written.
        SchemaMismatchError: the probe file is of another schema.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    given = ProbeJoin(probe) if probe is not None else None
    with ExitStack() as stack:
        claim = f"another manifest is being written into {folder}"
        stack.enter_context(FileLock(folder / LOCK_FILE, claim, on_wait=on_wait))
        stack.enter_context(_no_search_for_cycles())
        files = []
        for split, clips in annotations.clips.by_split():
            path = folder / f"{split.value}.parquet"
            disk = given or (_earlier_probe(path) if keep_probe else None)
            file = _ManifestFile(path, _stamped(annotations, disk), clips, disk)
            files.append(stack.enter_context(file))
        for facts in web_tables(Path(ledger) if ledger is not None else None, api_since=api_since):
            # The last table stands for all videos behind those of the ledger.
            last_id = facts["youtube_id"][-2].as_py() if len(facts) > 1 else None
            for file in files:
                file.add(facts, last_id)
        for file in files:
            file.finish()
        return [file.publish() for file in files]


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Pauses the search for unreachable cycles: millions of rows hold none, and it takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _stamped(annotations: Annotations, disk: DiskJoin | None) -> pa.Schema:
    values = {"annotations_sha256": annotations.sha256, "tool_version": k700_text.__version__}
    if disk is not None and disk.settings is not None:
        values["probe_settings"] = disk.settings
    columns = schema.MANIFEST_SCHEMA
    is_of_videos = isinstance(annotations.clips, VideoTable)
    return schema.with_metadata(schema.of_videos(columns) if is_of_videos else columns, **values)


class _ManifestFile:
    """One manifest file in the making, under a temporary name until it is published.

    Args:
        path: its name in the end.
        table_schema: of the file, with its metadata.
        clips: of one split.
        disk: where the columns of the clip on disk come from, None if they are null.
    """

    def __init__(self, path: Path, table_schema: pa.Schema, clips: ClipTable, disk: DiskJoin | None) -> None:
        self._path = path
        self._clips = clips
        self._disk = disk
        self._disk_rows = disk.rows(clips.clip_ids()) if disk is not None else None
        self._num_added = self._num_written = 0
        self._waiting: list[pa.Table] = []
        self._schema = table_schema

    def __enter__(self) -> _ManifestFile:
        self._output = PartFile(self._path)
        self._writer = pq.ParquetWriter(
            self._output.file, self._schema, compression="zstd", use_dictionary=_REPEATING_COLUMNS
        )
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # A full disk, perhaps: what went wrong is told already.
            self._writer.close()
        self._output.discard()

    def add(self, facts: pa.Table, last_id: str | None) -> None:
        """Takes what is known about all videos up to an id (None: the rest), and writes the clips that are complete.

        Args:
            facts: of ``web_tables``.
            last_id: clips of later ids wait.
        """
        end = len(self._clips) if last_id is None else self._clips.position_after(last_id)
        while self._num_added < end:
            stop = min(end, self._num_written + ROWS_PER_GROUP)
            self._waiting.append(_known(self._clips.part(self._num_added, stop), facts))
            self._num_added = stop
            if stop == self._num_written + ROWS_PER_GROUP:
                self._write()

    def finish(self) -> None:
        """Writes what is left and closes the file."""
        self._write()
        with self._output.named():
            self._writer.close()

    def publish(self) -> Path:
        """Gives the file its name, and returns it."""
        self._output.publish()
        return self._path

    def _write(self) -> None:
        """Writes the waiting rows as one row group."""
        if self._waiting:
            known = pa.concat_tables(self._waiting)
            disk = self._on_disk(len(known))
            columns = {
                name: known[name] if name in known.column_names else disk[name] for name in schema.MANIFEST_SCHEMA.names
            }
            table = pa.table(columns).combine_chunks().cast(self._schema)
            with self._output.named():
                self._writer.write_table(table, row_group_size=ROWS_PER_GROUP)
            self._waiting.clear()
            self._num_written = self._num_added

    def _on_disk(self, num_rows: int) -> Mapping[str, pa.Array | pa.ChunkedArray]:
        if self._disk is None or self._disk_rows is None:
            fields = map(schema.MANIFEST_SCHEMA.field, (*_DISK_COLUMNS, *_DISK_FLAGS))
            return {field.name: pa.nulls(num_rows, field.type) for field in fields}
        return self._disk.columns(self._disk_rows.slice(self._num_written, num_rows))


def _known(clips: ClipTable, facts: pa.Table) -> pa.Table:
    """Returns the clips with what is known about their videos."""
    columns = clips.columns()
    places = pc.index_in(columns["youtube_id"], value_set=facts["youtube_id"].combine_chunks())
    found = facts.select(WEB_COLUMNS).take(pc.fill_null(places, len(facts) - 1))
    table = pa.table({**columns, **{name: found[name] for name in WEB_COLUMNS}})
    return table.append_column("has_text", pc.is_valid(table["title"]))


class DiskJoin(Protocol):
    """Finds the measurements of clips."""

    settings: str | None

    def rows(self, clip_ids: pa.Array) -> pa.Array:
        """Returns the places of all clips of a file among the measurements; null where there are none."""

    def columns(self, rows: pa.Array) -> Mapping[str, pa.Array | pa.ChunkedArray]:
        """Returns the columns of the clip on disk and their flags for such places."""


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
        self._index = ClipIndex("", self._table["clip_file"])
        self.settings = _probe_settings(path)

    def rows(self, clip_ids: pa.Array) -> pa.Array:
        """Returns the places of clips among the measured files, null where there is no file."""
        files = self._index.find(clip_ids)
        return pc.index_in(files, value_set=self._table["clip_file"].cast(files.type), skip_nulls=True)

    def columns(self, rows: pa.Array) -> dict[str, pa.ChunkedArray]:
        """Returns the columns of the clip on disk and their flags; clips without a file are ``missing``."""
        found = self._table.select(_DISK_COLUMNS).take(rows)
        columns = {name: found[name] for name in _DISK_COLUMNS}
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
        self._table = read_manifests([path], ["clip_id", *_DISK_COLUMNS, *_DISK_FLAGS])
        self.settings = _probe_settings(path)

    def rows(self, clip_ids: pa.Array) -> pa.Array:
        """Returns the places of clips in the file, null where they are not in it."""
        return pc.index_in(clip_ids, value_set=self._table["clip_id"])

    def columns(self, rows: pa.Array) -> dict[str, pa.ChunkedArray]:
        """Returns the columns of the clip on disk and their flags."""
        found = self._table.take(rows)
        return {name: found[name] for name in (*_DISK_COLUMNS, *_DISK_FLAGS)}


def _earlier_probe(path: Path) -> EarlierProbe | None:
    try:
        status = schema.read_table(path, schema.MANIFEST_SCHEMA, ["video_status"])["video_status"]
        return EarlierProbe(path) if status.null_count < len(status) else None
    except ManifestError:
        # Nothing there, or nothing that this version could have written: it is replaced by a whole file.
        return None


def _probe_settings(path: str | Path) -> str | None:
    settings = (pq.read_schema(path).metadata or {}).get(schema.PROBE_SETTINGS_KEY)
    return settings.decode() if settings is not None else None
