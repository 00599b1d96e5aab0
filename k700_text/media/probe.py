"""Measuring a folder of clip files: every file once, in many processes, with a note of each that is finished."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from k700_text import schema
from k700_text.errors import UsageError
from k700_text.files.atomic import check_target, whole_file
from k700_text.files.journal import Journal, Note, journal_beside
from k700_text.files.lock import FileLock, lock_beside
from k700_text.media.coverage import Coverage, compare, write_lists
from k700_text.media.files import LINKS_OUTSIDE
from k700_text.media.listing import Listing
from k700_text.media.measure import ProbeSettings, failed_probe, kind_of, may_pass, probe_clip
from k700_text.media.packet_tables import PacketSummary, PacketTables, check_table, make_table
from k700_text.media.pool import each_result
from k700_text.records import ClipProbe

_BATCH_ROWS = 10_000
# What a job needs beyond decoding; one that takes longer hangs where the decoder cannot be asked to stop.
GRACE_SECONDS = 120.0

Show = Callable[[str, int, int], None]
"""Is told what is being done, how many files of it are done, and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOptions:
    """What a probe does beside measuring, and where.

    Attributes:
        packets: packet index to write as well.
        manifests: manifests to compare the folder with.
        missing: CSV file for the clips without a file and the files without a row.
        for_spreadsheets: no cell of it is a formula, and a byte order mark stands at its beginning.
        workers: processes, or Ray workers; all cores when None. 0 is this process alone, where a file that crashes or
            hangs the decoder takes the run with it.
        engine: ``local`` or ``ray``; see ``pool.each_result``.
    """

    packets: Path | None = None
    manifests: Sequence[Path] = ()
    missing: Path | None = None
    for_spreadsheets: bool = False
    workers: int | None = 0
    engine: str = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSummary:
    """Totals of a probed folder.

    Attributes:
        num_files: clip files in the folder.
        num_measured: files decoded by this run.
        num_reused: files unchanged since an earlier run.
        num_links_outside: links that were left out because they lead out of the folder.
        left_out: what is no clip file though it might seem one, these links among it: paths by what is wrong with them.
        half_downloads: paths of what downloaders left behind, which are no clips.
        video_status: number of files by video status.
        audio_status: number of files by audio status.
        reasons: number of files by kind of reason why a stream is not usable.
        packets: what became of the packet index, None without one.
        num_clips: rows of the manifests, None without one.
        num_clips_without_file: those of them that have no file.
        num_files_without_row: files that are no clip of the manifests.
    """

    num_files: int
    num_measured: int
    num_reused: int
    num_links_outside: int
    left_out: Mapping[str, Sequence[str]]
    half_downloads: Sequence[str]
    video_status: Mapping[str, int]
    audio_status: Mapping[str, int]
    reasons: Mapping[str, int]
    packets: PacketSummary | None = None
    num_clips: int | None = None
    num_clips_without_file: int | None = None
    num_files_without_row: int | None = None


def probe_folder(
    root: str | Path,
    out_parquet: str | Path,
    settings: ProbeSettings | None = None,
    options: ProbeOptions | None = None,
    *,
    on_progress: Show = lambda what, num_done, num_files: None,
) -> ProbeSummary:
    """Measures every clip file below a folder into a Parquet file, sorted by ``clip_file``.

    Every finished file is noted at once in ``.<out_parquet>.journal``: the same call after a kill goes on where it was,
    and decodes only files that are new or changed since. The Parquet file appears whole or not at all.

    Args:
        root: folder of clips.
        out_parquet: file to write.
        settings: thresholds; the defaults when None.
        options: what else to do, and by how many workers; the defaults when None.
        on_progress: told how far it is.

    Raises:
        UsageError: the folder is missing or holds no clip files; workers cannot be started or do not see it.
        ManifestError: a manifest cannot be read.
        OSError: the output cannot be written.
    """
    settings, options = settings or ProbeSettings(), options or ProbeOptions()
    out = Path(out_parquet)
    for path in (out, options.packets, options.missing):
        _check_writable(path)
    # Workers on other machines stand in other folders.
    listing = Listing.of(Path(root).absolute())
    _check_not_empty(listing)
    # First, because it is quick, and so that a wrong manifest is told at once.
    coverage = compare(list(listing.places), options.manifests) if options.manifests else None
    if coverage is not None and options.missing is not None:
        write_lists(coverage, listing.half_downloads, options.missing, for_spreadsheets=options.for_spreadsheets)
    with ExitStack() as stack:
        for path in filter(None, (out, options.packets)):
            stack.enter_context(FileLock(lock_beside(path), f"another probe is writing {path}"))
        tables = stack.enter_context(PacketTables(options.packets, listing)) if options.packets else None
        run = _Run(listing, out, settings, options, tables, on_progress)
        num_measured = run.measure()
        summary = _write_table(_to_table(run.rows(), settings), out, listing, coverage, num_measured)
        return replace(summary, packets=tables.finish(run.check)) if tables is not None else summary


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look at a file gave; None is what was not asked for."""

    probe: ClipProbe | None
    table: bytes | str | None


def look_at(path: str, root: str, settings: ProbeSettings | None, wants_table: bool) -> _Look:
    """Measures a file, if settings are given, and makes its packet tables, if wanted: the job of a worker."""
    return _Look(
        probe_clip(path, root, settings) if settings is not None else None, make_table(path) if wants_table else None
    )


class _Run:
    """One run over the files of a listing."""

    def __init__(
        self,
        listing: Listing,
        out: Path,
        settings: ProbeSettings,
        options: ProbeOptions,
        tables: PacketTables | None,
        show: Show,
    ) -> None:
        self._listing = listing
        self._settings = settings
        self._options = options
        self._tables = tables
        self._show = show
        self._texts = list(listing.places)
        self._is_measured = np.zeros(len(listing), np.bool_)
        # Levels were those of the mono mix once: notes of then are of no use.
        header = {"schema_version": schema.SCHEMA_VERSION, "settings": settings.as_json(), "levels": "as heard"}
        self._journal = Journal(journal_beside(out), header)
        self._journal.resume(self._take)

    def measure(self) -> int:
        """Looks at all files that something is not known of; returns how many were measured."""
        listing = self._listing
        num_measured = len(listing) - int(self._is_measured.sum())
        lost: dict[int, str] = {}
        wanted = [place for place in range(len(listing)) if self._lacks(place)]
        num_done = len(listing) - len(wanted)
        self._show("probe", num_done, len(listing))
        with self._journal.appending() as note:
            for number, look in self._each(look_at, map(self._job, wanted), lost):
                place = wanted[number]
                text = self._texts[place]
                if look is None:
                    look = self._failed(place, f"the decoder's process {lost.pop(number)}")
                if look.probe is not None:
                    note(text, listing.stamp(place), asdict(look.probe))
                if look.table is not None and self._tables is not None:
                    self._tables.note(text, look.table)
                num_done += 1
                self._show("probe", num_done, len(listing))
        return num_measured

    def check(self, jobs: Iterator[tuple[Any, ...]], num_jobs: int) -> Iterator[tuple[int, str | None]]:
        """Runs checks of packet tables."""
        for num_done, result in enumerate(self._each(check_table, jobs, {}), start=1):
            self._show("check", num_done, num_jobs)
            yield result

    def rows(self) -> Iterator[Note]:
        """Yields the rows of the probe table, in the order they were measured."""
        return self._journal.notes()

    def _lacks(self, place: int) -> bool:
        return not self._is_measured[place] or (self._tables is not None and self._tables.lacks(place))

    def _job(self, place: int) -> tuple[Any, ...]:
        settings = None if self._is_measured[place] else self._settings
        wants_table = self._tables is not None and self._tables.lacks(place)
        return self._listing.path(place), str(self._listing.root), settings, wants_table

    def _failed(self, place: int, reason: str) -> _Look:
        _, _, settings, wants_table = self._job(place)
        probe = failed_probe(self._texts[place], reason, int(self._listing.sizes[place])) if settings else None
        return _Look(probe, reason if wants_table else None)

    def _each(self, function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]], lost: dict[int, str]) -> Any:
        is_alone = self._options.workers == 0 and self._options.engine == "local"
        return each_result(
            function,
            jobs,
            workers=self._options.workers,
            engine=self._options.engine,
            max_seconds_per_job=None if is_alone else self._settings.max_seconds + GRACE_SECONDS,
            must_see=[self._listing.path(0)],
            on_lost=lost.__setitem__,
        )

    def _take(self, note: Note) -> bool:
        """Learns that a file is measured; returns whether the note is of use."""
        place = self._listing.place_of(note)
        if place is None or self._is_measured[place] or may_pass(note["reason"]):
            return False
        self._is_measured[place] = True
        return True


def _check_writable(path: Path | None) -> None:
    if path is None:
        return
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder, create it first")
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name the file to write")
    check_target(path)


def _check_not_empty(listing: Listing) -> None:
    if not len(listing):
        odd = "".join(f"; left out: {len(paths)} {reason}" for reason, paths in listing.left_out.items())
        num_halves = len(listing.half_downloads)
        halves = (
            f"; {num_halves} files in it are half downloads, such as {listing.half_downloads[0]!a}"
            if num_halves
            else ""
        )
        raise UsageError(
            f"{listing.root}: holds no clip files (looked for .mp4, .mkv, .webm, .avi and the like){odd}{halves}"
        )


def _to_table(rows: Iterable[Note], settings: ProbeSettings) -> pa.Table:
    stamped = schema.with_metadata(schema.PROBE_SCHEMA, probe_settings=settings.as_json())
    batches = []
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, _BATCH_ROWS)):
        batches.append(pa.RecordBatch.from_pylist(chunk, schema=stamped))
    return pa.Table.from_batches(batches, schema=stamped).sort_by("clip_file").combine_chunks()


def _write_table(
    table: pa.Table, path: Path, listing: Listing, coverage: Coverage | None, num_measured: int
) -> ProbeSummary:
    """Writes the file, whole or not at all, and returns what is in it."""
    with whole_file(path) as file:
        pq.write_table(table, file, compression="zstd")
    return ProbeSummary(
        num_files=len(table),
        num_measured=num_measured,
        num_reused=len(table) - num_measured,
        num_links_outside=len(listing.left_out.get(LINKS_OUTSIDE, ())),
        left_out=listing.left_out,
        half_downloads=listing.half_downloads,
        video_status=_counts(table["video_status"], lambda status: [status]),
        audio_status=_counts(table["audio_status"], lambda status: [status]),
        reasons=_counts(table["reason"], lambda reason: [kind_of(each) for each in reason.split("; ")]),
        num_clips=coverage.num_clips if coverage else None,
        num_clips_without_file=len(coverage.clips_without_file) if coverage else None,
        num_files_without_row=len(coverage.files_without_row) if coverage else None,
    )


def _counts(column: pa.ChunkedArray, parts_of: Callable[[str], list[str]]) -> dict[str, int]:
    """Returns how often each part occurs in a column of text, most frequent first."""
    counts: Counter[str] = Counter()
    for each in column.drop_null().value_counts().to_pylist():
        counts.update(dict.fromkeys(parts_of(each["values"]), each["counts"]))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
