"""KineticsAVT: samples of video, audio and title from a manifest and its clips."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, overload

import numpy as np
import pyarrow.compute as pc
from torch.utils.data import Dataset, Subset

from k700_text.config import AudioConfig, TextConfig, VideoConfig
from k700_text.data.clips import Clips, clip_source
from k700_text.data.epochs import SharedEpoch, address_of
from k700_text.data.reader import SampleReader
from k700_text.data.row_cache import open_rows
from k700_text.data.rows import WITHOUT_FILE, Manifest, RowQuery
from k700_text.data.sample import Sample
from k700_text.data.sampler import Address
from k700_text.data.store import RunNotes
from k700_text.data.text import AnyTokenizer, tokenizer_of
from k700_text.data.video import View
from k700_text.errors import DecodeError, ManifestError
from k700_text.media.levels import SILENCE_DBFS
from k700_text.media.shards import is_prepared
from k700_text.records import Split
from k700_text.terminal import one_line, readable

_DEFAULT_FAILURE_SHARE = 0.1
_DEFAULT_FAILURE_FLOOR = 10
_NUM_FAILURES_SHOWN = 5

Transform = Callable[[Sample, np.random.Generator | None], Sample]
"""Changes a sample. The generator is the sample's own (training) or None (fixed views); it is pickled to workers."""


class KineticsAVT(Dataset[Sample]):
    """Map-style dataset: ``dataset[index]`` is a ``Sample``.

    ``dataset[(epoch, index)]`` is the same clip cut as in that epoch, which is what ``StepSampler`` asks for; a plain
    index is of the epoch that ``set_epoch`` said. Such samples depend on (seed, epoch, index) alone, not on the number
    of workers. Where nobody said which epoch it is, a clip is cut anew whenever it is read, and torch's generator says
    how: ``torch.manual_seed`` makes a run repeat itself.

    With ``train=False`` every cut is fixed, whatever the epoch, and index
    ``(i * num_views + t) * num_spatial_views + s`` is window ``t`` and square ``s`` of clip ``i``. A slice is the
    ``Subset`` of its samples; none is read before it is asked for.

    Clips come in the order of the manifests, those of prepared shards in the order of the shards. Which rows there are
    is worked out once and kept beside the first manifest, in ``.{manifest}.cache/`` (or the user's cache folder),
    until a manifest or the clips change; a process holds none of it in its memory.

    A clip that does not decode gives a sample whose flags are False; it is counted (``failures``) and never replaced
    by another clip. A shard that is missing, cut short or out of reach stops reading with a ``StorageError``: all the
    clips in it are gone.

    Args:
        manifest: Parquet file, folder of such files, or a table in memory (pyarrow, pandas, polars, a relation of
            DuckDB); or several. Who wrote it does not matter: ``clip_id`` is needed, ``title`` for text, and what else
            is asked for here; ``label`` and the flags may be missing (unknown), further columns are let be.
        clips: folder of clip files (``{clip_id}.mp4``, ``{clip_id}_suffix.mp4`` or ``{youtube_id}.mp4`` holding just
            the clip; any depth), folder or URL of shards of ``k700-text prepare``, or a mapping from clip id to file.
        split: train, val or test; None serves all.
        clip_ids: the clips to serve, in the order of the manifest; ids that it does not have are told in a warning.
        where: which rows to serve, an expression over the manifest's columns, further ones too, for example
            ``"has_text and has_audio and label in ['archery', 'yoga']"`` (``data.where`` has all of it).
        tokenizer: a file of ``k700-text tokenizer``, the ``TitleTokenizer`` of it, or any ``tokenizers.Tokenizer`` (or
            fast tokenizer of transformers), which is used as it is; without one no sample has text.
        train: random window, crop, mirror and noise; False cuts deterministic views.
        seed: of the randomness; not negative.
        require: modalities that a row must not be known to lack (has_video, has_audio, has_text of the manifest, and
            a clip for video and audio). Rows that lack them are left out and counted in ``dropped``.
        video: how frames are cut, and their pixel format.
        audio: how the log-mel is made.
        text: length of the tokens and the size of tokenizer that fits.
        packets: packet index of the folder of clip files; decodes the same frames in about two thirds of the time.
            Files that are not in it, or changed since, are read without it and counted (``plain_reads``).
        num_views: windows per clip for evaluation, spread evenly over the clip.
        num_spatial_views: squares per window for evaluation, spread evenly along the longer side.
        transform: called with every sample and its generator; what it returns is the sample.
        max_failures: clips that may fail to decode before reading stops with an error; None is a tenth of them, and
            no less than 10, but never all of several.
        on_error: ``mask`` as described; ``raise`` makes every clip that does not decode a DecodeError.
        silence_dbfs: an audio window below this level (RMS) is absent audio.

    Attributes:
        dropped: number of rows left out, by reason.

    Raises:
        ManifestError: no row is left, or the manifest cannot be read; SchemaMismatchError where columns are missing.
        UsageError: the folder of clips does not exist, ``packets`` is not for it, or ``where`` cannot be read.
        ConfigError: the shards hold audio of another kind than ``audio`` asks for.
        StorageError: the shards or the packet index are missing or damaged.
        TokenizerError: the tokenizer is missing, not ours or too large.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        manifest: Manifest | Sequence[Manifest],
        clips: Clips,
        *,
        split: str | Split | None = None,
        clip_ids: Iterable[str] | None = None,
        where: str | None = None,
        tokenizer: str | os.PathLike[str] | AnyTokenizer | None = None,
        train: bool = True,
        seed: int = 0,
        require: Collection[str] = ("video",),
        video: VideoConfig | None = None,
        audio: AudioConfig | None = None,
        text: TextConfig | None = None,
        packets: str | os.PathLike[str] | None = None,
        num_views: int = 1,
        num_spatial_views: int = 1,
        transform: Transform | None = None,
        max_failures: int | None = None,
        on_error: str = "mask",
        silence_dbfs: float = SILENCE_DBFS,
    ) -> None:
        has_tokenizer = tokenizer is not None
        query = RowQuery.of(manifest, split, require, needs_titles=has_tokenizer, clip_ids=clip_ids, where=where)
        if "text" in require and tokenizer is None:
            raise ValueError("require holds 'text': give a tokenizer (k700-text tokenizer makes one)")
        _check_arguments(train, seed, num_views, num_spatial_views, max_failures, on_error)
        text = text or TextConfig()
        self._reader = SampleReader(
            video=video or VideoConfig(),
            audio=audio or AudioConfig(),
            text=text,
            tokenizer=None if tokenizer is None else tokenizer_of(tokenizer, text.vocab_size),
            silence_dbfs=silence_dbfs,
        )
        self._source = clip_source(clips, packets, self._reader.audio)
        self._rows = open_rows(query, self._source)
        self.dropped: dict[str, int] = self._rows.about["dropped"]
        _tell_unknown(self._rows.about["unknown_clip_ids"])
        if not len(self._rows):
            raise ManifestError(_nothing_to_serve(query, clips, self._source.name, self.dropped))
        self._notes = RunNotes(len(self._rows))
        self.train = train
        self.seed = seed
        self.num_views = num_views
        self.num_spatial_views = num_spatial_views
        self._transform = transform
        self._needs_video = "video" in query.require
        self._on_error = on_error
        share = math.ceil(_DEFAULT_FAILURE_SHARE * len(self._rows))
        if max_failures is None:
            max_failures = min(max(_DEFAULT_FAILURE_FLOOR, share), max(1, len(self._rows) - 1))
        self._max_failures = max_failures
        self._epoch = SharedEpoch()
        self._origin = f"{query.name} with {self._source.name}"

    def __len__(self) -> int:
        return len(self._rows) * self.num_views * self.num_spatial_views

    def __repr__(self) -> str:
        known = ", ".join(f"{count} {name}" for name, count in self.num_with.items())
        views = "" if len(self) == self.num_clips else f" in {len(self)} views"
        cuts = f"training cuts, seed {self.seed}" if self.train else "fixed cuts"
        left_out = "".join(f", {count} left out ({reason})" for reason, count in self.dropped.items())
        return f"KineticsAVT({self.num_clips} clips{views} ({known}) from {one_line(self._origin)}; {cuts}{left_out})"

    @overload
    def __getitem__(self, index: int | Address) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Subset[Sample]: ...

    def __getitem__(self, index: int | Address | slice) -> Sample | Subset[Sample]:
        if isinstance(index, slice):
            return Subset(self, range(*index.indices(len(self))))
        key, position = address_of(index, len(self))
        clip_view, spatial_index = divmod(position, self.num_spatial_views)
        row_index, temporal_index = divmod(clip_view, self.num_views)
        row = self._rows.row(row_index)
        rng = np.random.default_rng([self.seed, *(key or self._epoch.key()), position]) if self.train else None
        note_plain_read = partial(self._notes.note_plain_read, row_index)
        sample, problems = self._reader.read(
            None if row.place is None else partial(self._source.open, row.place, note_plain_read),
            clip_id=row.clip_id,
            label=row.label,
            title=row.title,
            rng=rng,
            view=View(
                temporal_index=temporal_index,
                num_temporal=self.num_views,
                spatial_index=spatial_index,
                num_spatial=self.num_spatial_views,
            ),
            wants_video=row.has_video is not False,
            wants_audio=row.has_audio is not False,
        )
        if not problems and self._needs_video and not sample.has_video:
            name = row.place if isinstance(row.place, str) else row.clip_id
            problems = (DecodeError(f"{name}: no video stream", path=name),)
        if problems:
            self._take_failure(row_index, row.clip_id, problems)
        return sample if self._transform is None else self._transform(sample, rng)

    def __getitems__(self, indexes: Sequence[int | Address]) -> list[Sample]:
        """Returns several samples; what a DataLoader calls for a batch."""
        return [self[index] for index in indexes]

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch plain indexes are of, in this process and in all workers, running ones included.

        Call it before each iteration, with the same number in every rank, and training samples are the same in every
        run, and in one that is taken up again; wrappers like ``Subset`` do not stand in the way.

        Raises:
            ValueError: it is negative, or has more than 63 bits.
            TypeError: it is no whole number.
        """
        self._epoch.set(epoch)

    @property
    def video(self) -> VideoConfig:
        """How frames are cut."""
        return self._reader.video

    @property
    def num_clips(self) -> int:
        """Number of clips, however many views each has."""
        return len(self._rows)

    @property
    def num_dropped(self) -> int:
        """Rows left out because a required modality is known to be absent."""
        return sum(self.dropped.values())

    @property
    def num_with(self) -> dict[str, int]:
        """Number of clips that are not known to lack video, audio or text, by modality."""
        counts = {name: self._num_not_false(f"has_{name}") for name in ("video", "audio")}
        return {**counts, "text": self._num_titles() if self._reader.tokenizer is not None else 0}

    @property
    def failures(self) -> dict[str, str]:
        """Why clips did not decode, by clip id, as met so far by this process and its workers."""
        return self._notes.failures()

    @property
    def plain_reads(self) -> dict[str, int]:
        """Number of clips that were read without their packet table so far, by reason; empty without ``packets``."""
        return self._notes.plain_reads()

    @property
    def clip_ids(self) -> list[str]:
        """Clip ids in the order of the indexes (one per clip, not per view)."""
        ids: list[str] = self._rows.column("clip_id").to_pylist()
        return ids

    @property
    def labels(self) -> list[str | None]:
        """Labels in the order of the indexes (one per clip, not per view)."""
        labels: list[str | None] = self._rows.column("label").to_pylist()
        return labels

    @cached_property
    def classes(self) -> list[str]:
        """The labels of the clips that are served, sorted, each once; clips without a label have none.

        Those of a part may be fewer: take the training set's for every split.
        """
        labels: list[str] = pc.unique(self._rows.column("label")).drop_null().to_pylist()
        return sorted(labels)

    @cached_property
    def class_to_idx(self) -> dict[str, int]:
        """The place of each label in ``classes``."""
        return {label: index for index, label in enumerate(self.classes)}

    def _num_not_false(self, column: str) -> int:
        return sum(len(chunk) - chunk.false_count for chunk in self._rows.column(column).chunks)

    def _num_titles(self) -> int:
        """Returns the number of titles that ``SampleReader.reads_text``: Arrow's own idea of a blank is another."""
        blanks = "".join(filter(str.isspace, map(chr, range(_LAST_BLANK + 1))))
        lengths = pc.binary_length(pc.utf8_trim(self._rows.column("title"), characters=blanks))
        return int(pc.sum(pc.greater(lengths, 0)).as_py() or 0)

    def _take_failure(self, row_index: int, clip_id: str, problems: tuple[DecodeError, ...]) -> None:
        if self._on_error == "raise":
            raise problems[0]
        num_failures = self._notes.note_failure(row_index, clip_id, "; ".join(map(str, problems)))
        if num_failures > self._max_failures:
            failures = list(self._notes.failures().values())
            shown = "; ".join(failures[:_NUM_FAILURES_SHOWN])
            more = f"; and {len(failures) - _NUM_FAILURES_SHOWN} more" if len(failures) > _NUM_FAILURES_SHOWN else ""
            raise DecodeError(
                f"{num_failures} of {len(self._rows)} clips do not decode, max_failures is {self._max_failures}: "
                f"{shown}{more}",
                path=problems[0].path,
            )


_LAST_BLANK = 0x3000
"""The last character that ``str.isspace`` knows."""


def _check_arguments(
    train: bool, seed: int, num_views: int, num_spatial_views: int, max_failures: int | None, on_error: str
) -> None:
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    for name, count in (("num_views", num_views), ("num_spatial_views", num_spatial_views)):
        if count < 1 or (train and count != 1):
            raise ValueError(f"{name} must be at least 1, and 1 in training, got {count}")
    if max_failures is not None and max_failures < 0:
        raise ValueError(f"max_failures must not be negative, got {max_failures}")
    if on_error not in ("mask", "raise"):
        raise ValueError(f"on_error must be 'mask' or 'raise', got {on_error!r}")


def _tell_unknown(unknown: Sequence[Any]) -> None:
    if unknown:
        count, *examples = unknown
        more = ", ..." if count > len(examples) else ""
        names = readable(", ".join(examples))
        warnings.warn(f"{count:,} of clip_ids are in no manifest ({names}{more})", UserWarning, stacklevel=3)


def _nothing_to_serve(
    query: RowQuery,
    clips: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    name: str,
    dropped: Mapping[str, int],
) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    if not reasons:
        chosen = [f"split {query.split}"] if query.split else []
        chosen += ["these clip_ids"] if query.clip_ids is not None else []
        chosen += [f"where {readable(query.where.text)}"] if query.where is not None else []
        reasons = f"no row of {', '.join(chosen)}" if chosen else "the manifest has no rows"
    remedy = ""
    if WITHOUT_FILE in dropped and not isinstance(clips, Mapping) and is_prepared(clips):
        remedy = (
            f"; these shards are of other clips: k700-text prepare DIR --out {os.fspath(clips)} with a --manifest for"
            f" each file that will be used, {query.name} among them"
        )
    elif WITHOUT_FILE in dropped:
        remedy = "; k700-text probe DIR --manifest FILE --missing CSV lists what does not fit together"
    return f"no clip to serve from {query.name} with {name}: {reasons}{remedy}"
