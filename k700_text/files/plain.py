"""Opening files under names that others can guess: no link is followed, nothing but a plain file is taken.

Whoever may write into a folder may put something under such a name: a link or a second name of another file, through
which we would write into that, or a pipe, at which we would wait for ever.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_plain(path: str | os.PathLike[str], flags: int) -> int:
    """Returns the descriptor of a plain file that has this name only; a new one gets the rights of the umask.

    Args:
        path: the file.
        flags: of ``os.open``.

    Raises:
        OSError: it is a link, has a second name, or is no plain file; or it cannot be opened. It names the file.
    """
    safe = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | safe, 0o666)
    except OSError as error:
        raise _told(error, path) from error
    try:
        check_plain(os.fstat(descriptor), path)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            _check_one_name(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def write_plain(path: str | os.PathLike[str], content: str) -> None:
    """Writes a short note in place, for what is neither kept nor read by others; raises as ``open_plain`` does."""
    with os.fdopen(open_plain(path, os.O_WRONLY | os.O_CREAT), "w", encoding="utf-8") as file:
        file.truncate()
        file.write(content)


def check_plain(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    """Refuses to write over what is no plain file.

    Args:
        status: of ``os.lstat``.
        path: for the message.

    Raises:
        OSError: it is a link, a folder, a pipe, a socket or a device.
    """
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "a link is not written through", os.fspath(path))
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.ENXIO, "a pipe, socket or device is where a file is needed", os.fspath(path))


def _check_one_name(descriptor: int, path: str | os.PathLike[str]) -> None:
    if os.fstat(descriptor).st_nlink > 1:
        raise OSError(
            errno.EMLINK,
            "the file has a second name (hard link) and is not written into: put a copy in its place",
            os.fspath(path),
        )


def _told(error: OSError, path: str | os.PathLike[str]) -> OSError:
    """Returns an error of ``open`` in words that say what is there."""
    try:
        check_plain(Path(path).lstat(), path)
    except OSError as better:
        return better if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR) else error
    return error
