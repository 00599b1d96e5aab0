"""Cached views: samples decoded once and kept as what the frozen trunk makes of them, for many runs to share.

The trunk never trains, so its features of a view are the same in every run that has its weights. Epoch e sees view
e mod K of each clip: augmentation is frozen to K views, which a comparison can live with as long as it says so.

Axes: K views, N clips, B batch, T frames, P cells of a frame, C channels of the trunk.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from k700_text.data.sample import Batch, Sample
from k700_text.files.lock import FileLock, lock_beside
from lava_model.errors import DataError
from lava_model.files import writing
from lava_model.loading import batches_of
from lava_model.model import Lava

_ABOUT = "views.json"
_OF_A_VIEW = ("video", "log_mel", "has_video", "has_audio")
_OF_A_CLIP = ("token_ids", "text_mask", "has_text")
_BATCH = 64


class ViewReader(Protocol):
    """Gives view ``address[0]`` of clip ``address[1]``."""

    def __getitem__(self, address: tuple[int, int], /) -> Sample:
        """Returns it."""


class CachedViews:
    """K views of N clips in memory-mapped files, handed out by whole batches whose ``video`` is trunk features.

    Attributes:
        num_views: K.
        clip_ids: N texts.
        labels: N texts or None.
    """

    def __init__(self, folder: Path) -> None:
        """Opens a folder that ``cache_views`` made.

        Raises:
            DataError: it cannot be read.
        """
        try:
            about: dict[str, Any] = json.loads((folder / _ABOUT).read_text("utf-8"))
            self._arrays: dict[str, npt.NDArray[Any]] = {
                name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in (*_OF_A_VIEW, *_OF_A_CLIP)
            }
        except (OSError, ValueError) as error:
            raise DataError(f"the cached views in {folder} cannot be read ({error}): remove that folder") from error
        self.clip_ids: list[str] = about["clip_ids"]
        self.labels: list[str | None] = about["labels"]
        self.num_views: int = about["num_views"]

    def __len__(self) -> int:
        return len(self.clip_ids)

    def decodable(self) -> list[bool]:
        """Returns of each clip whether any of its views shows frames."""
        return [bool(seen) for seen in np.any(self._arrays["has_video"], axis=0)]

    def batch(self, addresses: Sequence[tuple[int, int]]) -> Batch:
        """Returns the views of (epoch, index) addresses; ``video`` is float32 (B, T, P, C)."""
        views = np.array([epoch % self.num_views for epoch, _ in addresses])
        rows = np.array([index for _, index in addresses])
        tensors: dict[str, Tensor] = {
            **{name: torch.from_numpy(self._arrays[name][views, rows]) for name in _OF_A_VIEW},
            **{name: torch.from_numpy(self._arrays[name][rows]) for name in _OF_A_CLIP},
        }
        return Batch(
            **tensors,
            clip_id=tuple(self.clip_ids[row] for row in rows),
            label=tuple(self.labels[row] for row in rows),
        )


def cache_views(
    folder: Path,
    reader: ViewReader,
    model: Lava,
    *,
    num_clips: int,
    num_views: int,
    key: Mapping[str, Any],
    num_workers: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> CachedViews:
    """Returns views from the folder of their key, ``{folder}-{digest}``, made first where they are not there yet.

    Args:
        folder: where to keep them; it appears only when they are whole.
        reader: gives each view.
        model: its trunk looks at the frames, on the device where it is.
        num_clips: N.
        num_views: K.
        key: what determines the views beside K and N, JSON values.
        num_workers: reading processes; 0 reads in this one.
        say: takes a line of progress.

    Raises:
        DataError: the folder is damaged.
        OutputError: they cannot be written.
    """
    key = {**key, "num_views": num_views, "num_clips": num_clips}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    folder = folder.with_name(f"{folder.name}-{digest[:12]}")
    with _alone(folder, say):
        if not (folder / _ABOUT).is_file():
            with writing(folder):
                _make(folder, reader, model, num_clips, num_views, key, num_workers, say)
    return CachedViews(folder)


@contextmanager
def _alone(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Makes processes that share a study take turns: the first one makes the views, the others find them."""
    path = lock_beside(folder)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, f"another process is making {folder}", on_wait=say)
    with lock:
        yield


def _make(
    folder: Path,
    reader: ViewReader,
    model: Lava,
    num_clips: int,
    num_views: int,
    key: Mapping[str, Any],
    num_workers: int,
    say: Callable[[str], None],
) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    order = [
        [(view, index) for index in range(start, min(start + _BATCH, num_clips))]
        for view in range(num_views)
        for start in range(0, num_clips, _BATCH)
    ]
    files = _Files(partial, num_views, num_clips)
    device = next(model.parameters()).device
    for addresses, batch in zip(order, batches_of(reader, order, num_workers=num_workers, device=device), strict=True):
        view, start = addresses[0]
        files.write(view, start, replace(batch, video=model.patches(batch).float()))
        if start + len(batch) == num_clips:
            say(f"view {view + 1} of {num_views} of {num_clips} clips is kept in {folder}")
    files.finish(key)
    partial.rename(folder)


class _Files:
    """The files of a folder while it is made."""

    def __init__(self, folder: Path, num_views: int, num_clips: int) -> None:
        self._folder, self._num_views, self._num_clips = folder, num_views, num_clips
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._clip_ids: list[str] = []
        self._labels: list[str | None] = []

    def write(self, view: int, start: int, batch: Batch) -> None:
        """Writes neighbouring clips of a view, whose ``video`` is trunk features already."""
        clips = slice(start, start + len(batch))
        for name in _OF_A_VIEW:
            values = getattr(batch, name).cpu().numpy()
            self._array(name, (self._num_views, self._num_clips), values)[view, clips] = values
        if view == 0:
            for name in _OF_A_CLIP:
                values = getattr(batch, name).cpu().numpy()
                self._array(name, (self._num_clips,), values)[clips] = values
            self._clip_ids += batch.clip_id
            self._labels += batch.label

    def finish(self, key: Mapping[str, Any]) -> None:
        """Writes what else there is to say; the folder is whole then."""
        about = {"num_views": self._num_views, "clip_ids": self._clip_ids, "labels": self._labels, "key": key}
        self._arrays.clear()  # which writes the mapped files out
        (self._folder / _ABOUT).write_text(json.dumps(about) + "\n", "utf-8")

    def _array(self, name: str, leading: tuple[int, ...], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if name not in self._arrays:
            shape = (*leading, *values.shape[1:])
            path = self._folder / f"{name}.npy"
            self._arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=values.dtype, shape=shape)
        return self._arrays[name]
