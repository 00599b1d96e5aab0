"""Finding clip files in a folder, and which clip each of them is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

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

# A name without its folders and its last suffix: a video id, or with times behind it a clip, or that with more behind
# it. The id has 11 characters whatever they are, so that times are found where they are though ids hold _ and digits.
# One expression for the whole path would take twice as long.
_FOLDERS, _SUFFIX = r"(?s)^.*/", r"\.[^.]*$"
_STEM = r"(?s)^(?P<video>[A-Za-z0-9_-]{11})(?:_(?P<start>[0-9]+)_(?P<end>[0-9]+)(?P<rest>[_.\- ].*)?)?$"
_TIME_DIGITS = 6
_BATCH_FILES = 1 << 16


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """What a walk through a folder gave.

    Attributes:
        clip_files: paths of clip files relative to the folder, with ``/``, sorted.
        num_outside: links that were left out because they lead out of the folder.
    """

    clip_files: list[str]
    num_outside: int


def find_clip_files(root: str | Path) -> list[str]:
    """Returns the clip files below a folder as paths relative to it, with ``/``, sorted.

    Hidden files are left out, and so are links that lead out of the folder; links to folders are not followed.

    Raises:
        UsageError: the folder does not exist or is not a folder.
        OSError: a folder in it cannot be read.
    """
    return walk_clip_files(root).clip_files


def walk_clip_files(root: str | Path) -> FoundFiles:
    """Returns the clip files below a folder as ``find_clip_files`` does, and what was left out."""
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    inside = os.path.realpath(root)
    found: list[str] = []
    num_outside = 0
    folders = [""]
    while folders:
        prefix = folders.pop()
        with os.scandir(f"{inside}/{prefix}") as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{prefix}{name}/")
                elif name[name.rfind(".") :].lower() in VIDEO_EXTENSIONS and entry.is_file():
                    if entry.is_symlink() and not _is_inside(entry.path, inside):
                        num_outside += 1
                    else:
                        found.append(prefix + name)
    found.sort()
    return FoundFiles(found, num_outside)


def _is_inside(link: str, inside: str) -> bool:
    return os.path.commonpath([inside, os.path.realpath(link)]) == inside


class ClipIndex:
    """Which file is which clip, for many files: Arrow columns of names, no Python object per file.

    A file is called ``{youtube_id}_{start}_{end}.ext`` in any folder, with or without leading zeros and with anything
    behind it (``_raw``), or ``{youtube_id}.ext``.

    Args:
        root: folder that the files are relative to.
        clip_files: paths relative to it.

    Raises:
        UsageError: the path of a clip is not UTF-8 text, which Arrow asks for.
    """

    def __init__(self, root: str | Path, clip_files: Iterable[str] | pa.Array | pa.ChunkedArray) -> None:
        self.root = Path(root)
        names = parse_names(_sorted(_as_texts(clip_files)))
        is_clip = pc.is_valid(names["clip_id"]).to_numpy()
        is_video = pc.is_valid(names["youtube_id"]).to_numpy() & ~is_clip
        # A search finds the first of equal keys: the plainest names go first.
        clips = np.flatnonzero(is_clip)
        clips = clips[np.argsort(names["rank"].to_numpy()[clips], kind="stable")]
        self._clips = _Names(names, "clip_id", clips)
        self._videos = _Names(names, "youtube_id", np.flatnonzero(is_video))

    def __len__(self) -> int:
        return len(self._clips) + len(self._videos)

    def find(self, clip_ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> pa.Array:
        """Returns the file of every clip id, relative to the root; null where there is none.

        A file ``{clip_id}.ext`` goes before one without leading zeros, that before ``{clip_id}_anything.ext``, and that
        before ``{youtube_id}.ext``, which is taken only if all the ids asked for name one clip of that video: else it
        could be any of them. Of equals the first path is taken.
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
        OSError: a folder in it cannot be read.
    """
    return ClipIndex(root, find_clip_files(root))


def parse_names(clip_files: pa.Array) -> pa.Table:
    """Returns what paths (large_string) say about clips, one row each.

    Returns:
        Columns clip_file; clip_id, as the manifest spells it, null if the name holds no times; youtube_id, null if the
        name does not begin with one; rank (int8), how plain the name is: 0 is the clip id itself.
    """
    batches = [_parsed(clip_files[start : start + _BATCH_FILES]) for start in range(0, len(clip_files), _BATCH_FILES)]
    return pa.concat_tables(batches) if batches else _parsed(clip_files)


def _parsed(clip_files: pa.Array) -> pa.Table:
    names = pc.replace_substring_regex(clip_files, _FOLDERS, "")
    parts = pc.extract_regex(pc.replace_substring_regex(names, _SUFFIX, ""), _STEM)
    video, start, end, rest = (pc.struct_field(parts, name) for name in ("video", "start", "end", "rest"))
    is_clip = pc.fill_null(pc.not_equal(start, ""), False)
    starts, ends = _padded(start), _padded(end)
    clip_ids = pc.binary_join_element_wise(video, starts, ends, pa.scalar("_", video.type))
    is_spelled = pc.and_(pc.equal(starts, start), pc.equal(ends, end))
    rank = pc.add(pc.multiply(pc.cast(pc.not_equal(rest, ""), pa.int8()), 2), pc.cast(pc.invert(is_spelled), pa.int8()))
    return pa.table(
        {
            "clip_file": clip_files,
            "clip_id": pc.if_else(is_clip, clip_ids, None),
            "youtube_id": video,
            "rank": pc.fill_null(rank, 0),
        }
    )


def _padded(times: pa.Array) -> pa.Array:
    return pc.ascii_lpad(pc.ascii_ltrim(times, characters="0"), _TIME_DIGITS, "0")


class _Names:
    """Keys with a path each; of equal keys the first counts.

    Args:
        names: of ``parse_names``.
        key: name of the column of keys.
        rows: int64 (N,), the rows to take, in order.
    """

    def __init__(self, names: pa.Table, key: str, rows: NDArray[np.int64]) -> None:
        self._keys = names[key].take(pa.array(rows)).combine_chunks()
        self._paths = names["clip_file"].take(pa.array(rows)).combine_chunks()

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, keys: pa.Array) -> pa.Array:
        return self._paths.take(pc.index_in(keys, value_set=self._keys))


def _as_texts(clip_files: Iterable[str] | pa.Array | pa.ChunkedArray) -> pa.Array:
    """Returns paths as Arrow text, without those that are no text, if they are no clips."""
    if isinstance(clip_files, pa.Array | pa.ChunkedArray):
        return _as_array(clip_files)
    paths = clip_files if isinstance(clip_files, list) else list(clip_files)
    try:
        return pa.array(paths, pa.large_string())
    except UnicodeEncodeError:
        return pa.array([path for path in paths if _is_text(path)], pa.large_string())


def _is_text(path: str) -> bool:
    """Returns whether a path is text.

    Raises:
        UsageError: it is not, and it is the path of a clip.
    """
    spelled = path.encode("utf-8", "replace").decode()
    if spelled == path:
        return True
    if parse_names(pa.array([spelled], pa.large_string()))["youtube_id"].null_count == 0:
        raise UsageError(f"{path!r} is not UTF-8 text: rename that file or folder")
    return False


def _sorted(paths: pa.Array) -> pa.Array:
    in_order = len(paths) < 2 or pc.all(pc.less_equal(paths[:-1], paths[1:])).as_py()
    return paths if in_order else paths.take(pc.sort_indices(paths))


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
