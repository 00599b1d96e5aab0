"""Finding clip files in a folder, and which clip each of them is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from k700_text.errors import UsageError

VIDEO_EXTENSIONS = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm"}
    | {".wmv"}
)
"""Suffixes of files that are taken for clips, in any case."""

_CLIP_NAME = re.compile(r"(?P<clip_id>[A-Za-z0-9_-]{11}_\d{6,}_\d{6,})(?P<rest>[_.\- ].*)?", re.DOTALL)
_VIDEO_NAME = re.compile(r"[A-Za-z0-9_-]{11}")


def find_clip_files(root: str | Path) -> list[str]:
    """Returns the clip files below a folder as paths relative to it, with ``/``, sorted.

    Hidden files are left out, and so are links that lead out of the folder.

    Raises:
        UsageError: the folder does not exist or is not a folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    inside = os.path.realpath(root)
    return sorted(_walk(inside, inside, ""))


def _walk(folder: str, inside: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, inside, f"{prefix}{entry.name}/")
            elif PurePosixPath(entry.name).suffix.lower() in VIDEO_EXTENSIONS and _is_file_inside(entry, inside):
                yield f"{prefix}{entry.name}"


def _is_file_inside(entry: os.DirEntry[str], inside: str) -> bool:
    if not entry.is_symlink():
        return entry.is_file()
    target = os.path.realpath(entry.path)
    return Path(target).is_file() and os.path.commonpath([inside, target]) == inside


class ClipIndex:
    """Which file is which clip, for many files: two sorted Arrow columns of names, no Python object per file.

    Args:
        root: folder that the files are relative to.
        clip_files: paths relative to it.

    Raises:
        UsageError: the path of a clip is not UTF-8 text, which Arrow asks for.
    """

    def __init__(self, root: str | Path, clip_files: Iterable[str]) -> None:
        self.root = Path(root)
        clips, videos = _keyed(clip_files)
        self._clips = _Names(clips)
        self._videos = _Names(videos)

    def __len__(self) -> int:
        return len(self._clips) + len(self._videos)

    def find(self, clip_ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> pa.Array:
        """Returns the file of every clip id, relative to the root; null where there is none.

        A file ``{clip_id}.ext`` goes before ``{clip_id}_anything.ext``, and that before ``{youtube_id}.ext``, which is
        taken only if all the ids asked for name one clip of that video: else it could be any of them.
        """
        ids = _as_array(clip_ids)
        by_clip = self._clips.find(ids)
        if not len(self._videos):
            return by_clip
        youtube_ids = pc.utf8_slice_codeunits(ids, 0, 11)
        by_video = pc.if_else(_names_one_clip(ids, youtube_ids), self._videos.find(youtube_ids), None)
        return pc.coalesce(by_clip, by_video)


def index_clips(root: str | Path) -> ClipIndex:
    """Returns the index of the clip files below a folder, at any depth.

    Raises:
        UsageError: the folder does not exist or is not a folder.
    """
    return ClipIndex(root, find_clip_files(root))


class _Names:
    """Sorted keys with a path each."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._keys = pa.array([key for key, _ in pairs], pa.large_string())
        try:
            self._paths = pa.array([path for _, path in pairs], pa.large_string())
        except UnicodeEncodeError as error:
            raise UsageError(f"{error.object!r} is not UTF-8 text: rename that file or folder") from error

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, keys: pa.Array) -> pa.Array:
        return self._paths.take(pc.index_in(keys, value_set=self._keys))


def _keyed(clip_files: Iterable[str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Returns (clip id, path) and (video id, path) pairs, one per id: the plainest name, then the first one."""
    clips: dict[str, tuple[bool, str]] = {}
    videos: dict[str, str] = {}
    for path in sorted(clip_files):
        stem = PurePosixPath(path).stem
        match = _CLIP_NAME.fullmatch(stem)
        if match is not None:
            candidate = (match["rest"] is not None, path)
            clips[match["clip_id"]] = min(candidate, clips.get(match["clip_id"], candidate))
        elif _VIDEO_NAME.fullmatch(stem):
            videos.setdefault(stem, path)
    return [(key, path) for key, (_, path) in sorted(clips.items())], sorted(videos.items())


def _as_array(values: Sequence[str] | pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if not isinstance(values, pa.Array):
        return pa.array(values, pa.large_string())
    return values.cast(pa.large_string())


def _names_one_clip(clip_ids: pa.Array, youtube_ids: pa.Array) -> pa.Array:
    """Returns for every row whether its video has no other clip among the rows."""
    pairs = pa.table({"clip": clip_ids, "video": youtube_ids})
    counts = pairs.group_by("video").aggregate([("clip", "count_distinct")])
    single: NDArray[np.bool_] = (counts["clip_count_distinct"].to_numpy() == 1).astype(bool)
    return pc.is_in(youtube_ids, value_set=counts["video"].combine_chunks().filter(pa.array(single)))
