"""Finding clip files in a folder, and which clip each of them is."""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from k700_text.errors import UsageError
from k700_text.media.names import (
    CONTROL_EXTENSIONS,
    VIDEO_EXTENSIONS,
    is_half_download,
    is_half_download_folder,
    parse_names,
    suffix_of,
)

LINKS_OUTSIDE = "links that lead out of the folder"
LINKS_TO_FOLDERS = "links to folders, which are not followed"
LINKS_NOWHERE = "links that lead nowhere, or in a circle"
NO_FILES = "pipes, sockets or devices under the name of a clip"
UNREADABLE = "folders that cannot be read"
NO_TEXT = "clips whose path is not UTF-8 text"

_MAX_SHOWN = 5


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """What a walk through a folder gave.

    Attributes:
        clip_files: paths of clip files relative to the folder, with ``/``, sorted.
        half_downloads: paths of what downloaders left behind (see ``names``), sorted; they are no clips.
        other_suffixes: number of the other files by suffix.
        left_out: what else is no clip file though it might seem one: sorted paths by what is wrong with them.
    """

    clip_files: list[str]
    half_downloads: list[str] = field(default_factory=list)
    other_suffixes: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def as_texts(self) -> FoundFiles:
        """Returns this without the clips that no table can name, which are left out."""
        texts = [path for path in self.clip_files if path.isascii() or is_text(path)]
        if len(texts) == len(self.clip_files):
            return self
        others = sorted(set(self.clip_files).difference(texts))
        return replace(self, clip_files=texts, left_out={**self.left_out, NO_TEXT: others})


def find_clip_files(root: str | Path) -> list[str]:
    """Returns the clip files below a folder as paths relative to it, with ``/``, sorted.

    Hidden files and half downloads are left out, and so are links that lead out of the folder; links to folders are not
    followed. What cannot be read costs itself.

    Raises:
        UsageError: the folder does not exist or is not a folder.
        OSError: it cannot be read.
    """
    return walk_clip_files(root).clip_files


def walk_clip_files(root: str | Path, *, takes_links: bool = False) -> FoundFiles:
    """Returns the clip files below a folder as ``find_clip_files`` does, and what was left out.

    Args:
        root: the folder.
        takes_links: take files that links lead to, wherever they are.
    """
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    walk = _Walk(os.path.realpath(root), takes_links)
    walk.run()
    left_out = {reason: sorted(paths) for reason, paths in sorted(walk.left_out.items())}
    return FoundFiles(sorted(walk.clips), sorted(walk.halves), dict(sorted(walk.others.items())), left_out)


def some_names(names: Sequence[str]) -> str:
    """Returns the first of some names, in ASCII: names of files may hold anything."""
    shown = [ascii(name)[1:-1] for name in names[:_MAX_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


class _Walk:
    """One walk through a folder and all below it."""

    def __init__(self, inside: str, takes_links: bool) -> None:
        self.clips: list[str] = []
        self.halves: list[str] = []
        self.others: Counter[str] = Counter()
        self.left_out: defaultdict[str, list[str]] = defaultdict(list)
        self._inside = inside
        self._takes_links = takes_links

    def run(self) -> None:
        folders = [""]
        while folders:
            prefix = folders.pop()
            names: list[str] = []
            try:
                with os.scandir(f"{self._inside}/{prefix}") as entries:
                    for entry in entries:
                        if entry.name.startswith("."):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(f"{prefix}{entry.name}/")
                        elif entry.is_file(follow_symlinks=False) or (reason := self._why_not(entry)) is None:
                            names.append(entry.name)
                        elif reason:
                            self.left_out[reason].append(prefix + entry.name)
            except OSError:
                if not prefix:
                    raise
                self.left_out[UNREADABLE].append(prefix.removesuffix("/"))
            self._sort(prefix, names)

    def _why_not(self, entry: os.DirEntry[str]) -> str | None:
        """Returns why a link, pipe, socket or device is no clip; None if it leads to one, "" if it is nothing to us."""
        is_clip = suffix_of(entry.name) in VIDEO_EXTENSIONS
        try:
            mode = os.stat(entry.path).st_mode  # noqa: PTH116 - of what a link leads to; circles are errors
        except OSError:
            return LINKS_NOWHERE if is_clip else ""
        if stat.S_ISDIR(mode):
            return LINKS_TO_FOLDERS
        if not stat.S_ISREG(mode):
            return NO_FILES if is_clip else ""
        if self._takes_links or os.path.commonpath([self._inside, os.path.realpath(entry.path)]) == self._inside:
            return None
        return LINKS_OUTSIDE if is_clip else ""

    def _sort(self, prefix: str, names: list[str]) -> None:
        """Tells what the files of a folder are."""
        is_lost = is_half_download_folder(prefix.rpartition("/")[0])
        # What a downloader keeps a file of its own beside is not whole, whatever it is called.
        controls = (name for name in names if name.endswith(CONTROL_EXTENSIONS))
        unfinished = {name[: name.rfind(".")] for name in controls}
        for name in names:
            dot = name.rfind(".")
            suffix = name[dot:].lower() if dot > 0 else ""
            if suffix not in VIDEO_EXTENSIONS:
                if is_half_download(name):
                    self.halves.append(prefix + name)
                else:
                    self.others[suffix] += 1
            # A name of one dot has no room for the mark of a downloader.
            elif is_lost or name in unfinished or (name.find(".") < dot and is_half_download(name)):
                self.halves.append(prefix + name)
            else:
                self.clips.append(prefix + name)


class ClipIndex:
    """Which file is which clip, for many files: Arrow columns of names, no Python object per file.

    A file is called ``{youtube_id}_{start}_{end}.ext`` in any folder, with or without leading zeros and with anything
    behind it (``_raw``), or ``{youtube_id}.ext``. A path that is not UTF-8 text, which Arrow asks for, is no clip's.

    Args:
        root: folder that the files are relative to.
        clip_files: paths relative to it.
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
        OSError: it cannot be read.
    """
    return ClipIndex(root, find_clip_files(root))


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
    """Returns paths as Arrow text, without those that are no text."""
    if isinstance(clip_files, pa.Array | pa.ChunkedArray):
        return _as_array(clip_files)
    paths = clip_files if isinstance(clip_files, list) else list(clip_files)
    try:
        return pa.array(paths, pa.large_string())
    except UnicodeEncodeError:
        return pa.array([path for path in paths if is_text(path)], pa.large_string())


def is_text(path: str) -> bool:
    """Returns whether a path is UTF-8 text, which all tables ask for."""
    return path.encode("utf-8", "replace").decode() == path


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
