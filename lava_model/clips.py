"""Clip files and titles as a batch for a model, cut exactly as evaluation cuts them.

What decodes, places and cuts is the loader's own ``SampleReader``: a clip gives the same sample as
``KineticsAVT(..., train=False, num_views=num_windows)`` gives for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from k700_text.data.reader import SampleReader
from k700_text.data.sample import Batch, Sample, collate
from k700_text.data.video import View
from lava_model.errors import DataError
from lava_model.files import located

if TYPE_CHECKING:
    from lava_model.model import Lava

OnFailure = Callable[[str, str], None]
"""Takes the file that does not decode, and why."""


def warn(path: str, reason: str) -> None:
    """Warns that a clip, or a stream of it, does not decode; what an ``on_failure`` does by default."""
    warnings.warn(f"{path} takes part without what does not decode: {reason}", UserWarning, stacklevel=4)


def read_clips(
    model: Lava,
    clips: Sequence[str | Path | None],
    titles: Sequence[str | None] | None,
    *,
    num_windows: int,
    on_failure: OnFailure,
) -> Batch:
    """Returns the batch of ``Lava.read``, on the model's device.

    Raises:
        DataError: a file is not there, the lengths differ, or there are titles and no tokenizer.
    """
    paths = _checked_paths(clips)
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
            sample, problems = reader.read(path, clip_id="" if path is None else str(path), title=title, view=view)
            samples.append(sample)
            reasons |= dict.fromkeys(map(str, problems))
        if reasons:
            on_failure(str(path), "; ".join(reasons))
    return collate(samples).to(next(model.parameters()).device)


def _checked_paths(clips: Sequence[str | Path | None]) -> list[Path | None]:
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
