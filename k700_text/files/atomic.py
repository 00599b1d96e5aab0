"""Files that are there whole or not at all, however a run ends.

What is written lies beside its place under a name of its own (hidden, new for every attempt, never opened if it is
there already), is forced to disk and then renamed. Two writers of one file do not meet: the last one wins, and readers
see one or the other. A target that is a link is refused, not followed and not replaced: the name of a file of somebody
else may be behind it. The rights of a file that was there stay, and its owner and group where we may give it away.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from k700_text.files.lock import remove_unused
from k700_text.files.plain import check_plain

# A name has 255 bytes; what comes before and behind it takes 15.
_MOST_NAME_BYTES = 200
_BUFFER_BYTES = 1 << 17


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Gives a file to write to that appears under its name at the end, on disk and whole, or not at all.

    What killed writers of this file left is removed.

    Raises:
        OSError: it cannot be written, or another thing than a plain file has its name; names the file.
    """
    path = Path(path)
    remove_abandoned(path)
    output = PartFile(path)
    try:
        yield output.file
        output.publish()
    finally:
        output.discard()


@contextmanager
def whole_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives the name of a file for a library to write, as ``whole_file`` does: empty and private when it is given."""
    path = Path(path)
    remove_abandoned(path)
    output = PartFile(path)
    try:
        with output.named():
            yield output.part
        output.publish()
    finally:
        output.discard()


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file, whole or not at all; text as UTF-8. Raises as ``whole_file`` does."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


class PartFile:
    """A file that is written beside its place: hidden, and under a name of its own for every attempt.

    Attributes:
        file: where to write; errors name the file it will be.
        part: the name it has until it is published.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stem = _stem(path)
        with self.named():
            before = _status_of(path)
            self.part, descriptor = _create(path)
        self._like = os.fstat(descriptor) if before is None else before
        self.file: BinaryIO = io.BufferedWriter(_NamedFile(descriptor, path), _BUFFER_BYTES)

    def write(self, data: bytes | bytearray) -> None:
        """Adds bytes."""
        with self.named():
            self.file.write(data)

    def sync(self) -> None:
        """Puts what was written on disk: after that, publishing takes no more room."""
        with self.named():
            self.file.flush()
            # By its name: a library may have put another file there.
            descriptor = os.open(self.part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _make_alike(descriptor, self._like)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def publish(self) -> None:
        """Puts the file on disk and under its name, in place of one that is there."""
        self.sync()
        with self.named():
            _status_of(self._path)
            # Closed last: as long as it is open, nobody takes it for abandoned.
            self.part.replace(self._path)
            self.file.close()
        sync_folder(self._path.parent)

    def discard(self) -> None:
        """Removes what has not been published."""
        # What a full disk has no room for is not worth an error of its own.
        with suppress(OSError):
            self.file.close()
        with suppress(OSError):
            self.part.unlink(missing_ok=True)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Puts the name that the file will have into errors of the system."""
        try:
            yield
        except OSError as error:
            is_ours = error.filename is None or str(error.filename).startswith(str(self._path.with_name(self._stem)))
            if error.errno is None or not is_ours:
                raise
            raise _named(error, self._path) from error


class _NamedFile(io.FileIO):
    """A file whose errors name the one that it will be."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, "r+b")
        self._path = path

    def write(self, data: object) -> int:
        with errors_named(self._path):
            return super().write(data)  # type: ignore[arg-type] # whatever holds bytes


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Puts the name of a file into errors of the system, which have none when an open file is written."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise _named(error, path) from error


def remove_parts(folder: str | Path) -> None:
    """Removes what killed runs left half written; nobody may be writing into the folder."""
    for path in Path(folder).glob(".*.part"):
        if _PART_NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)


_PART_NAME = re.compile(r"\..+\.(tar|arrow|json)\.[0-9a-f]{8}\.part")


def check_target(path: Path) -> None:
    """Finds out before the work that something is in the way of its result.

    Raises:
        OSError: a link, or another thing than a plain file, has its name.
    """
    _status_of(path)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder outlive a power cut, where the file system can.

    Raises:
        OSError: the disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise _named(error, folder) from error
    finally:
        os.close(descriptor)


def _status_of(path: Path) -> os.stat_result | None:
    """Returns what is known of the file that is to be replaced, None without one; refuses all else that is there."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    check_plain(status, path)
    return status


def _make_alike(descriptor: int, like: os.stat_result) -> None:
    """Gives a file the rights of another one, and its owner and group if this process may."""
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (like.st_uid, like.st_gid):
        # As root; anybody else may give a group of theirs, at most.
        for owner in (like.st_uid, -1):
            with suppress(OSError):
                os.fchown(descriptor, owner, like.st_gid)
                break
    # Last: a change of owner takes some of them away.
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != stat.S_IMODE(like.st_mode):
        os.fchmod(descriptor, stat.S_IMODE(like.st_mode))


def _create(path: Path) -> tuple[Path, int]:
    """Returns a new private file beside a path, and its descriptor, which tells that it is in use."""
    while True:
        part = path.with_name(f"{_stem(path)}{secrets.token_hex(4)}.part")
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        if _is_marked(part, descriptor):
            return part, descriptor
        os.close(descriptor)


def _is_marked(part: Path, descriptor: int) -> bool:
    """Marks a file as in use; returns False if it has been taken for abandoned before that."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # A file system without locks: there nobody clears up either.
    try:
        return os.path.samestat(part.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _stem(path: Path) -> str:
    return f".{os.fsdecode(os.fsencode(path.name)[:_MOST_NAME_BYTES])}."


def remove_abandoned(path: Path) -> None:
    """Removes what killed writers of a file left; those that are at work are left alone."""
    is_part = re.compile(re.escape(_stem(path)) + r"[0-9a-f]{8}\.part").fullmatch
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in [entry for entry in entries if is_part(entry.name) and entry.is_file(follow_symlinks=False)]:
            with suppress(OSError):
                remove_unused(entry.path)


def _named(error: OSError, path: Path) -> OSError:
    # Not the text of the error: Arrow's has a paragraph of it.
    return OSError(error.errno, os.strerror(error.errno or 0) if error.filename is None else error.strerror, str(path))
