"""Which clips of a manifest are looked at, and what is seen and heard of each: values, not yet a picture."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k700_text.config import AudioConfig
from k700_text.data.clips import ClipSource, clip_source
from k700_text.data.where import Where
from k700_text.errors import DecodeError, ManifestError
from k700_text.manifest_files import read_manifests
from k700_text.media.clip import DEFAULT_LIMITS, Cut, FrameArray, OpenClip
from k700_text.media.levels import to_dbfs
from k700_text.media.log_mel import FloatArray
from k700_text.media.pool import each_result
from k700_text.media.probe import GRACE_SECONDS
from k700_text.schema import MANIFEST_SCHEMA

NUM_FRAMES = 4
FRAME_SIZE = 224
NO_FILE = "no clip file"
SKIPPED = "skipped when clips were prepared"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownClip:
    """One clip of a sheet.

    Attributes:
        row: its row of the manifest, by column.
        frames: uint8 (NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3), RGB, the middle square, evenly over the clip; or None.
        log_mel: float32 (M, F), natural log, of the whole clip; None where there is no sound.
        level_dbfs: level of its sound as heard, dB re full scale; None where nothing is heard.
        problems: why something of it cannot be shown.
    """

    row: dict[str, Any]
    frames: FrameArray | None = None
    log_mel: FloatArray | None = None
    level_dbfs: float | None = None
    problems: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Some clips of a manifest.

    Attributes:
        clips: in the order of the manifest.
        num_rows: rows that they were drawn from.
        about: what was asked for, in words.
    """

    clips: list[ShownClip] = field(default_factory=list)
    num_rows: int
    about: str


def make_sheet(
    manifests: Sequence[str | Path],
    clips: str | None = None,
    *,
    where: str | None = None,
    count: int = 12,
    seed: int = 0,
    workers: int = 0,
) -> Sheet:
    """Draws clips at random and reads them; one that cannot be read is shown as such.

    Args:
        manifests: Parquet files, or folders of them.
        clips: folder of clip files, or folder or URL of prepared shards; None shows what the manifest says alone.
        where: which rows to draw from, as in ``KineticsAVT``.
        count: clips to draw; all where there are fewer.
        seed: of the draw.
        workers: processes that read clips, where one that crashes or hangs the decoder costs itself alone; 0 reads in
            this one.

    Raises:
        ManifestError: a manifest cannot be read, or no row is left.
        UsageError: ``where`` cannot be read, or the folder of clips does not exist.
        StorageError: the shards are no shards, or their index is damaged.
    """
    source = None if clips is None else clip_source(clips, None, AudioConfig())
    names = MANIFEST_SCHEMA.names
    choice = None if where is None else Where(where)
    chosen = read_manifests(manifests, names, optional=set(names) - {"clip_id"}, choice=choice)
    chosen = _with_places(chosen, manifests, source)
    if not len(chosen):
        what = f"no row for which {where}" if where else "no row"
        raise ManifestError(f"{', '.join(map(str, manifests))}: {what}")
    drawn = np.sort(np.random.default_rng(seed).permutation(len(chosen))[:count])
    shown = _read_all(chosen.take(pa.array(drawn)).to_pylist(), source, workers)
    words = [f"{len(shown):,} of {len(chosen):,} clips", f"where {where}" if where else "", f"seed {seed}"]
    return Sheet(clips=shown, num_rows=len(chosen), about=", ".join(filter(None, words)))


def _with_places(chosen: pa.Table, manifests: Sequence[str | Path], source: ClipSource | None) -> pa.Table:
    """Returns rows with where their clips are, and why some were skipped, in columns ``_place`` and ``_skipped``."""
    if source is None:
        places, skipped = pa.nulls(len(chosen), pa.int64()), pa.nulls(len(chosen), pa.string())
    else:
        # Among all rows: whether a file that is named after a video is a clip depends on the others.
        every = read_manifests(manifests, ["clip_id"])["clip_id"].combine_chunks()
        rows = pc.index_in(chosen["clip_id"], every)
        places, skipped = source.locate(pa.chunked_array([every])).take(rows), source.skipped(chosen["clip_id"])
    return chosen.append_column("_place", places).append_column("_skipped", skipped)


def _read_all(rows: list[dict[str, Any]], source: ClipSource | None, workers: int) -> list[ShownClip]:
    shown = [ShownClip(row={name: row[name] for name in MANIFEST_SCHEMA.names}) for row in rows]

    def lose(index: int, why: str) -> None:
        shown[index] = replace(shown[index], problems=[f"cannot be read: its process {why}"])

    jobs = [(row, source) for row in rows]
    is_alone = workers == 0 or source is None
    seconds = None if is_alone else DEFAULT_LIMITS.max_seconds + GRACE_SECONDS
    for index, clip in each_result(_read, jobs, workers=workers, max_seconds_per_job=seconds, on_lost=lose):
        shown[index] = shown[index] if clip is None else clip
    return shown


def _read(row: dict[str, Any], source: ClipSource | None) -> ShownClip:
    place, skipped = row.pop("_place"), row.pop("_skipped")
    if source is None:
        return ShownClip(row=row)
    if place is None:
        return ShownClip(row=row, problems=[NO_FILE if skipped is None else f"{SKIPPED}: {skipped}"])
    try:
        with closing(source.open(place, lambda reason: None)) as clip:
            return _seen_and_heard(row, clip)
    except DecodeError as error:
        return ShownClip(row=row, problems=[str(error)])


def _seen_and_heard(row: dict[str, Any], clip: OpenClip) -> ShownClip:
    frames, mel, level = None, None, 0.0
    problems: list[str] = []
    try:
        if clip.has_video:
            frames = _frames(clip)
        else:
            problems.append("no video stream")
    except DecodeError as error:
        problems.append(str(error))
    try:
        if clip.has_audio:
            mel, level = clip.read_log_mel(None, AudioConfig())
        else:
            problems.append("no audio stream")
    except DecodeError as error:
        problems.append(str(error))
    return ShownClip(row=row, frames=frames, log_mel=mel, level_dbfs=to_dbfs(level), problems=problems)


def _frames(clip: OpenClip) -> FrameArray:
    """Returns the frames in the middle of equal parts of the clip."""
    cut = Cut(size=FRAME_SIZE, share=1.0)
    step = max(clip.video_seconds(), 1e-3) / NUM_FRAMES
    return clip.read_cut(step / 2, NUM_FRAMES, 1 / step, cut)
