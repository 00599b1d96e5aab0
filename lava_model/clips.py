"""Clip files and titles as a batch for a model, cut exactly as evaluation cuts them.

What decodes, places and cuts is the loader's own ``SampleReader``: a clip gives the same sample as
``KineticsAVT(..., train=False, num_views=num_windows)`` gives for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from k700_text.data.reader import SampleReader
from k700_text.data.sample import Batch, Sample, collate
from k700_text.data.video import View
from k700_text.terminal import one_line
from lava_model.errors import DataError
from lava_model.files import located
from lava_model.modalities import MODALITIES, Modality

if TYPE_CHECKING:
    from lava_model.model import Lava

OnFailure = Callable[[str, str], None]
"""Takes the file that does not decode, and why."""


def warn(path: str, reason: str) -> None:
    """Warns that a clip, or a stream of it, does not decode; what an ``on_failure`` does by default."""
    line = one_line(f"{path} takes part without what does not decode: {reason}")
    warnings.warn(line, UserWarning, stacklevel=4)


def read_clips(
    model: Lava,
    clips: Sequence[str | Path | None],
    titles: Sequence[str | None] | None,
    *,
    num_windows: int,
    on_failure: OnFailure,
    modalities: Collection[Modality] = MODALITIES,
) -> Batch:
    """Returns the batch of ``Lava.read``, on the model's device; of clips only the modalities asked for are decoded.

    Raises:
        DataError: a file is not there, the lengths differ, or there are titles and no tokenizer.
    """
    paths = checked_paths(clips)
    titles = _checked_titles(model, titles, len(paths))
    if not isinstance(num_windows, int) or num_windows < 1:
        raise DataError(f"num_windows must be a whole number of at least 1, got {num_windows!r}")
    config = model.config
    reader = SampleReader(
        video=config.video_config(),
        audio=config.audio_config(),
        text=config.text_config(),
        tokenizer=model.tokenizer,
    )
    samples: list[Sample] = []
    for path, title in zip(paths, titles, strict=True):
        reasons: dict[str, None] = {}
        for window in range(num_windows):
            view = View(temporal_index=window, num_temporal=num_windows)
            sample, problems = reader.read(
                path,
                clip_id="" if path is None else str(path),
                title=title,
                view=view,
                wants_video="video" in modalities,
                wants_audio="audio" in modalities,
            )
            samples.append(sample)
            reasons |= dict.fromkeys(map(str, problems))
        if reasons:
            on_failure(str(path), "; ".join(reasons))
    return collate(samples).to(next(model.parameters()).device)


def checked_paths(clips: Sequence[str | Path | None]) -> list[Path | None]:
    """Returns the files of clips.

    Raises:
        DataError: one is not there, or is no file; or there are none.
    """
    if isinstance(clips, str | Path):
        raise DataError(f"clips must be a list of files, got {str(clips)!r}: use [{str(clips)!r}]")
    for clip in clips:
        if not isinstance(clip, str | Path | None):
            raise DataError(f"a clip must be a path or None, got {clip!r}")
    paths = [None if clip is None else located(clip) for clip in clips]
    if not paths:
        raise DataError("there are no clips to read: give at least one file")
    for path in paths:
        if path is not None and not path.is_file():
            raise DataError(f"{path} is a folder, not a clip" if path.is_dir() else f"no such clip: {path}")
    return paths


def token_batches(model: Lava, titles: Sequence[str | None], *, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields token ids, int64 (B, S), and masks, bool (B, S), of titles in order, on the model's device.

    Raises:
        DataError: what is no list of titles, or the model has no tokenizer.
    """
    _checked_titles(model, titles, len(titles))
    if len(titles) == 0:
        raise DataError("there are no titles to encode: give at least one")
    check_batch_size(batch_size)
    config, tokenizer = model.config, model.tokenizer
    reader = SampleReader(text=config.text_config(), tokenizer=tokenizer)
    device = next(model.parameters()).device
    for start in range(0, len(titles), batch_size):
        encoded = [reader.encode_title(title) for title in titles[start : start + batch_size]]
        ids_BS, mask_BS = (torch.stack(rows) for rows in zip(*encoded, strict=True))
        yield ids_BS.to(device), mask_BS.to(device)


def check_batch_size(batch_size: int) -> None:
    """Refuses a number of clips or titles at a time that is none.

    Raises:
        DataError: it is.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise DataError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")


def _checked_titles(model: Lava, titles: Sequence[str | None] | None, num_clips: int) -> Sequence[str | None]:
    if titles is None:
        return [None] * num_clips
    if isinstance(titles, str):
        raise DataError(f"titles must be a list, one for each clip, got {titles!r}: use [{titles!r}]")
    if len(titles) != num_clips:
        raise DataError(
            f"there are {num_clips} clips and {len(titles)} titles: give one for each, None where it has none"
        )
    for title in titles:
        if not isinstance(title, str | None):
            raise DataError(f"a title must be text, or None where there is none, got {title!r}")
    if model.tokenizer is None and any(title is not None for title in titles):
        raise DataError(
            "this model has no tokenizer, so it cannot read titles: export it with one"
            " (python -m lava_model.export RUN --tokenizer FILE --out FOLDER)"
        )
    return titles
