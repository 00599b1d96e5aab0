"""KineticsAVT: samples of video, audio and title from a manifest and a folder of clips."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch.utils.data import Dataset

from k700_text.config import AudioConfig, TextConfig, VideoConfig
from k700_text.data.reader import SampleReader
from k700_text.data.sample import Sample
from k700_text.data.store import SharedRows
from k700_text.data.text import TitleTokenizer
from k700_text.data.video import View
from k700_text.errors import DecodeError, ManifestError
from k700_text.media.files import index_clips
from k700_text.media.levels import SILENCE_DBFS
from k700_text.records import Split
from k700_text.schema import MANIFEST_SCHEMA, read_table

MODALITIES = ("video", "audio", "text")
_COLUMNS = ("clip_id", "label", "title", "has_video", "has_audio")
_DEFAULT_FAILURE_SHARE = 0.1
_DEFAULT_FAILURE_FLOOR = 10
_NUM_FAILURES_SHOWN = 5

Clips = str | Path | Mapping[str, str | Path]


class KineticsAVT(Dataset[Sample]):
    """Map-style dataset: ``dataset[index]`` is a ``Sample``.

    ``dataset[(epoch, index)]`` is the same clip cut as in that epoch, which is what ``StepSampler`` asks for. Samples
    depend on (seed, epoch, index) alone, not on the number of workers. With ``train=False`` every cut is fixed, and
    index ``i * num_views + v`` is view ``v`` of clip ``i``.

    A clip that does not decode gives a sample whose flags are False; it is counted (``failures``) and never replaced
    by another clip.

    Args:
        manifest: Parquet file of ``k700-text manifest``, or several.
        clips: folder of clip files (``{clip_id}.mp4``, ``{clip_id}_suffix.mp4`` or ``{youtube_id}.mp4`` holding just
            the clip; any depth), or a mapping from clip id to file.
        split: train, val or test; None serves all.
        tokenizer: a ``TitleTokenizer`` or its file; without one no sample has text.
        train: random window, crop, mirror and noise; False cuts deterministic views.
        seed: of the randomness; not negative.
        require: modalities that a row must not be known to lack (has_video, has_audio, has_text of the manifest, and
            a clip file for video and audio). Rows that lack them are left out and counted in ``dropped``.
        video: how frames are cut.
        audio: how the log-mel is made.
        text: length of the tokens and the size of tokenizer that fits.
        num_views: windows per clip for evaluation, spread evenly over the clip.
        max_failures: clips that may fail to decode before reading stops with an error; None is a tenth of them, and
            no less than 10.
        on_error: ``mask`` as described; ``raise`` makes every clip that does not decode a DecodeError.
        silence_dbfs: an audio window below this level (RMS) is absent audio.

    Attributes:
        dropped: number of rows left out, by reason.

    Raises:
        ManifestError: no row is left, or the manifest cannot be read.
        UsageError: the folder of clips does not exist.
        TokenizerError: the tokenizer is missing, not ours or too large.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        manifest: str | Path | Sequence[str | Path],
        clips: Clips,
        *,
        split: str | Split | None = None,
        tokenizer: str | Path | TitleTokenizer | None = None,
        train: bool = True,
        seed: int = 0,
        require: Collection[str] = ("video",),
        video: VideoConfig | None = None,
        audio: AudioConfig | None = None,
        text: TextConfig | None = None,
        num_views: int = 1,
        max_failures: int | None = None,
        on_error: str = "mask",
        silence_dbfs: float = SILENCE_DBFS,
    ) -> None:
        _check_arguments(require, tokenizer, train, seed, num_views, max_failures, on_error)
        text = text or TextConfig()
        if tokenizer is not None and not isinstance(tokenizer, TitleTokenizer):
            tokenizer = TitleTokenizer(tokenizer, max_vocab_size=text.vocab_size)
        self._reader = SampleReader(
            video=video or VideoConfig(),
            audio=audio or AudioConfig(),
            text=text,
            tokenizer=tokenizer,
            silence_dbfs=silence_dbfs,
        )
        table, self.dropped = _served_rows(_read_manifests(manifest, split), clips, require)
        if not len(table):
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
            where = "the clips given" if isinstance(clips, Mapping) else f"{clips} (files named after their clip_id)"
            raise ManifestError(
                f"no clip to serve from {_names(manifest)} with {where}: "
                f"{reasons or f'no row of split {split}' if split else reasons or 'the manifest has no rows'}"
            )
        self._rows = SharedRows(table)
        self.train = train
        self.seed = seed
        self.num_views = num_views
        self._needs_video = "video" in require
        self._on_error = on_error
        share = math.ceil(_DEFAULT_FAILURE_SHARE * len(table))
        self._max_failures = max(_DEFAULT_FAILURE_FLOOR, share) if max_failures is None else max_failures
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._rows) * self.num_views

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        epoch, position = index if isinstance(index, tuple) else (self._epoch, index)
        position = position + len(self) if position < 0 else position
        if not 0 <= position < len(self):
            raise IndexError(f"index {index} is outside 0..{len(self) - 1}")
        row_index, view_index = divmod(position, self.num_views)
        row = self._rows.row(row_index)
        sample, problems = self._reader.read(
            row["path"],
            clip_id=row["clip_id"],
            label=row["label"],
            title=row["title"],
            rng=np.random.default_rng([self.seed, epoch, position]) if self.train else None,
            view=View(temporal_index=view_index, num_temporal=self.num_views),
            wants_video=row["has_video"] is not False,
            wants_audio=row["has_audio"] is not False,
        )
        if not problems and self._needs_video and not sample.has_video:
            problems = (DecodeError(f"{row['path']}: no video stream", path=str(row["path"])),)
        if problems:
            self._take_failure(row["clip_id"], problems)
        return sample

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of plain indexes; running workers keep theirs (``StepSampler`` carries it in the index)."""
        self._epoch = epoch

    @property
    def num_dropped(self) -> int:
        """Rows left out because a required modality is known to be absent."""
        return sum(self.dropped.values())

    @property
    def num_with(self) -> dict[str, int]:
        """Number of clips that are not known to lack video, audio or text, by modality."""
        may_have = {
            "video": [flag is not False for flag in self._rows.column("has_video")],
            "audio": [flag is not False for flag in self._rows.column("has_audio")],
            "text": [self._reader.reads_text(title) for title in self._rows.column("title")],
        }
        return {modality: sum(flags) for modality, flags in may_have.items()}

    @property
    def failures(self) -> dict[str, str]:
        """Why clips did not decode, by clip id, as met so far by this process and its workers."""
        return self._rows.failures()

    @property
    def clip_ids(self) -> list[str]:
        """Clip ids in the order of the indexes (one per clip, not per view)."""
        return self._rows.column("clip_id")

    @property
    def labels(self) -> list[str | None]:
        """Labels in the order of the indexes (one per clip, not per view)."""
        return self._rows.column("label")

    def _take_failure(self, clip_id: str, problems: tuple[DecodeError, ...]) -> None:
        if self._on_error == "raise":
            raise problems[0]
        num_failures = self._rows.note_failure(clip_id, "; ".join(map(str, problems)))
        if num_failures > self._max_failures:
            failures = list(self._rows.failures().values())
            shown = "; ".join(failures[:_NUM_FAILURES_SHOWN])
            more = f"; and {len(failures) - _NUM_FAILURES_SHOWN} more" if len(failures) > _NUM_FAILURES_SHOWN else ""
            raise DecodeError(
                f"{num_failures} of {len(self._rows)} clips do not decode, max_failures is {self._max_failures}: "
                f"{shown}{more}",
                path=problems[0].path,
            )


def _check_arguments(
    require: Collection[str],
    tokenizer: object,
    train: bool,
    seed: int,
    num_views: int,
    max_failures: int | None,
    on_error: str,
) -> None:
    if isinstance(require, str) or not set(require) <= set(MODALITIES):
        raise ValueError(f"require must be a collection of {', '.join(MODALITIES)}, got {require!r}")
    if "text" in require and tokenizer is None:
        raise ValueError("require holds 'text': give a tokenizer (k700-text tokenizer makes one)")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if num_views < 1 or (train and num_views != 1):
        raise ValueError(f"num_views must be at least 1, and 1 in training, got {num_views}")
    if max_failures is not None and max_failures < 0:
        raise ValueError(f"max_failures must not be negative, got {max_failures}")
    if on_error not in ("mask", "raise"):
        raise ValueError(f"on_error must be 'mask' or 'raise', got {on_error!r}")


def _names(manifest: str | Path | Sequence[str | Path]) -> str:
    return str(manifest) if isinstance(manifest, str | Path) else ", ".join(map(str, manifest))


def _read_manifests(manifest: str | Path | Sequence[str | Path], split: str | Split | None) -> pa.Table:
    paths = [manifest] if isinstance(manifest, str | Path) else list(manifest)
    if not paths:
        raise ValueError("give at least one manifest")
    columns = [*_COLUMNS, "has_text", "split"]
    table = pa.concat_tables([read_table(path, MANIFEST_SCHEMA, columns) for path in paths])
    if split is None:
        return table
    wanted = Split.parse(split) if not isinstance(split, Split) else split
    return table.filter(pc.equal(table["split"], wanted.value))


def _served_rows(table: pa.Table, clips: Clips, require: Collection[str]) -> tuple[pa.Table, dict[str, int]]:
    """Returns the rows that can be served, with their file in column ``path``, and the number of others by reason."""
    table = table.append_column("path", _find_files(table["clip_id"], clips))
    masks: list[tuple[str, pa.ChunkedArray]] = []
    if "video" in require or "audio" in require:
        masks.append(("without a clip file", pc.is_valid(table["path"])))
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
    return table.filter(kept).select([*_COLUMNS, "path"]), dropped


def _find_files(clip_ids: pa.ChunkedArray, clips: Clips) -> pa.Array:
    if isinstance(clips, Mapping):
        found = (clips.get(clip_id) for clip_id in clip_ids.to_pylist())
        return pa.array([None if path is None else str(path) for path in found], pa.large_string())
    index = index_clips(clips)
    root, separator = (pa.scalar(text, pa.large_string()) for text in (str(index.root), "/"))
    return pc.binary_join_element_wise(root, index.find(clip_ids), separator)
