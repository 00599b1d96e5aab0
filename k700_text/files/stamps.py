"""How to tell that files and folders did not change, without reading them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress

Stamp = list[int]
"""Size, time of modification, time of the last change (nanoseconds), inode; a list, as JSON gives it back."""

CACHE_TAG = "CACHEDIR.TAG"
"""A folder with a file of this name is a cache, by the Cache Directory Tagging Specification."""

_TICK_SECONDS = 0.05
_COARSE_SECONDS = 2.5
_NANO = 1_000_000_000


def stamp_of(path: str | os.PathLike[str]) -> Stamp:
    """Returns the stamp of a file or folder; a folder's changes with every entry that comes, goes or is renamed.

    Raises:
        OSError: it is not there.
    """
    status = os.stat(path)  # noqa: PTH116 - making a Path takes longer than the call, for 700 folders each time
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def folder_stamps(root: str) -> dict[str, Stamp]:
    """Returns the stamps of a folder and of all folders in it, by path; without hidden ones and without caches.

    Raises:
        OSError: the folder is not there or cannot be read; one in it costs itself.
    """
    stamps: dict[str, Stamp] = {}
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            stamp = stamp_of(folder)
            inner = _inner_folders(folder)
        except OSError:
            # One that cannot be read holds no clips; it has another stamp when it can.
            if folder == root:
                raise
            with suppress(OSError):
                stamps[folder] = stamp_of(folder)
        else:
            if inner is not None:
                stamps[folder] = stamp
                waiting += inner
    return stamps


def _inner_folders(folder: str) -> list[str] | None:
    """Returns the folders in a folder, without hidden ones; None for a cache."""
    inner: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == CACHE_TAG:
                return None
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                inner.append(entry.path)
    return inner


def still_hold(stamps: Mapping[str, Stamp]) -> bool:
    """Returns whether everything still has its stamp."""
    try:
        return all(stamp_of(path) == stamp for path, stamp in stamps.items())
    except OSError:
        return False


def are_settled(stamps: Mapping[str, Stamp]) -> bool:
    """Returns whether any change from now on gives another stamp.

    A file system's clock goes in ticks, of milliseconds or, with whole seconds as times, of up to two seconds: what
    changes twice in one tick has the same stamp.
    """
    return all(_settled_at(stamp) <= time.time() for stamp in stamps.values())


def settle(stamps: Mapping[str, Stamp]) -> bool:
    """Waits for a tick, if that is all that is missing for ``are_settled``; returns whether it did."""
    missing = max((_settled_at(stamp) for stamp in stamps.values()), default=0.0) - time.time()
    if not 0 < missing <= _TICK_SECONDS:
        return False
    time.sleep(missing)
    return True


def _settled_at(stamp: Stamp) -> float:
    # Not the time of modification, which anybody may set: a date in the future would never settle.
    changed_ns = stamp[2]
    return changed_ns / _NANO + (_TICK_SECONDS if changed_ns % _NANO else _COARSE_SECONDS)
