"""One writer at a time: a lock that the system gives away when its holder ends, however it ends.

The lock is one of ``flock`` on a small file that stays, and that says who holds it. A process that was killed holds
nothing, whatever the file says. Over NFS, Linux asks the server, so that it holds between machines, unless the folder
was mounted with ``nolock`` or ``local_lock``; where a file system knows no locks (Lustre without ``flock``), two
writers are the user's to keep apart.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from k700_text.errors import LockedError
from k700_text.files.plain import open_plain

_MOST_BYTES = 1000
_held: set[int] = set()


def lock_beside(path: Path) -> Path:
    """Returns the lock file of an output: beside it, under a name that readers of folders skip."""
    return path.with_name(f".{path.name}.lock")


def remove_unused(path: str | os.PathLike[str]) -> None:
    """Removes a file, unless a process has it open and locked: the system gives away the locks of the dead.

    Raises:
        OSError: it is in use, or cannot be removed.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        # To be written, which NFS demands for such a lock.
        descriptor = os.open(path, os.O_RDWR | flags)
    except PermissionError:
        descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        Path(path).unlink()
    finally:
        os.close(descriptor)


class FileLock:
    """A lock, taken when it is made; a context manager. Not taken along by processes that are forked.

    Args:
        path: the lock file; its folder exists.
        claim: what its holder does, for the message: ``another probe is writing p.parquet``.
        remedy: what to do about it.
        on_wait: told once, in a line, if the lock is another's; then it is waited for. None: it is not.

    Raises:
        LockedError: another one holds it; says who.
        OSError: the lock file cannot be made, or is no plain file.
    """

    def __init__(
        self,
        path: Path,
        claim: str,
        remedy: str = "wait for it to end, or stop it",
        *,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self._owner = os.getpid()
        self._descriptor, self._can_write = _open(path)
        try:
            self._take(claim, remedy, on_wait)
        except BaseException:
            os.close(self._descriptor)
            raise
        _held.add(self._descriptor)
        self._note({"pid": self._owner, "host": platform.node(), "since": _now()})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives the lock away; again, or in a forked process, it does nothing."""
        if self._descriptor in _held and os.getpid() == self._owner:
            self._note(None)
            _held.remove(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _take(self, claim: str, remedy: str, on_wait: Callable[[str], None] | None) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            text = f"{claim}{_holder(self._descriptor)}"
            if on_wait is None:
                raise LockedError(f"{text}: {remedy}") from error
            on_wait(f"{text}: waiting for it to end")
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks

    def _note(self, holder: dict[str, Any] | None) -> None:
        """Writes who holds it, which is a help and no more: a full disk is no reason to stop."""
        if self._can_write and (not os.fstat(self._descriptor).st_size or _read(self._descriptor) is not None):
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
                if holder is not None:
                    os.pwrite(self._descriptor, json.dumps(holder).encode() + b"\n", 0)


def _open(path: Path) -> tuple[int, bool]:
    try:
        return open_plain(path, os.O_RDWR | os.O_CREAT), True
    except PermissionError:
        # Another user's: it can be locked, but not written.
        with suppress(OSError):
            return open_plain(path, os.O_RDONLY), False
        raise


def _read(descriptor: int) -> dict[str, Any] | None:
    """Returns what a lock file says of its holder; None for the content of any other file."""
    try:
        holder = json.loads(os.pread(descriptor, _MOST_BYTES, 0))
    except (OSError, ValueError, RecursionError):
        return None
    return holder if isinstance(holder, dict) and {"pid", "host", "since"} <= holder.keys() else None


def _holder(descriptor: int) -> str:
    holder = _read(descriptor)
    if holder is None:
        return ""
    pid, host, since = (str(holder[name]).encode("ascii", "replace").decode()[:64] for name in ("pid", "host", "since"))
    return f" (process {pid} on {host} since {since})"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


def _let_go() -> None:
    # A worker that outlives its killed parent must not hold on to the lock.
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
