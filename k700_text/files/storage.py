"""Where prepared shards lie: a local folder, or whatever fsspec can reach (``s3://``, ``gs://``, ``memory://``).

Everything is read by name and byte range. A storage pickles to its location, and a process that was forked may go on
with its parent's. This is the only importer of ``fsspec``.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from k700_text.errors import MissingExtraError, StorageError
from k700_text.files.atomic import whole_path

_MAX_OPEN_FILES = 64
_REMEDY = "copy it there again, or remove it if it is there and run the same `k700-text prepare` again"
# What of a remote file's description changes when the file does; stores name it differently.
_STAMPS = ("ETag", "etag", "md5Hash", "crc32c", "LastModified", "last_modified", "mtime", "updated", "created")


class ByteRange(NamedTuple):
    """A stretch of a file."""

    name: str
    offset: int
    size: int


class Storage(Protocol):
    """A flat folder of files that are only read.

    Every method raises StorageError, which names the file, for what is missing, shorter than asked for, or unreadable.
    """

    @property
    def location(self) -> str:
        """Absolute path or URL of the folder."""

    def exists(self, name: str) -> bool:
        """Returns whether there is a file of this name."""

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Returns ``size`` bytes of a file."""

    def read_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Returns several stretches; from a remote store all at the same time."""

    def read_file(self, name: str) -> bytes:
        """Returns a whole file."""

    def local_file(self, name: str) -> Path:
        """Returns a file of the local disk with this content: the file itself, or a copy that is made once."""


def open_storage(location: str | os.PathLike[str]) -> Storage:
    """Returns the storage at a path or URL.

    Raises:
        MissingExtraError: it is a URL, and fsspec (or the part of it that knows this kind of URL) is not installed.
        StorageError: the URL cannot be used.
    """
    text = os.fspath(location)
    text = text.removeprefix("file://")
    return _RemoteStorage(text) if "://" in text else _LocalStorage(text)


class _Descriptor:
    """An open file, closed when the last one who uses it lets go."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        # Not there where opening failed.
        if hasattr(self, "number"):
            os.close(self.number)


class _LocalStorage:
    """Reads with ``pread``, which has no position to share: threads and forked processes do not disturb each other."""

    def __init__(self, folder: str) -> None:
        self.location = str(Path(folder).absolute())
        # No lock of ours, which a fork could leave locked for ever.
        self._open = functools.lru_cache(maxsize=_MAX_OPEN_FILES)(_Descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_storage, (self.location,)

    def exists(self, name: str) -> bool:
        return (Path(self.location) / name).is_file()

    def read(self, name: str, offset: int, size: int) -> bytes:
        path = f"{self.location}/{name}"
        with self._translated(name):
            # Held until the bytes are here: the number of a file that is closed may be another file's the next moment.
            file = self._open(path)
            data = os.pread(file.number, size, offset)
            # The system hands out 2 GiB at most, and less when a signal comes in between.
            while 0 < len(data) < size:
                more = os.pread(file.number, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        return _of_size(data, size, path)

    def read_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        return [self.read(*each) for each in ranges]

    def read_file(self, name: str) -> bytes:
        with self._translated(name):
            return (Path(self.location) / name).read_bytes()

    def local_file(self, name: str) -> Path:
        path = Path(self.location) / name
        if not path.is_file():
            raise StorageError(f"{path}: no such file: {_REMEDY}", path=str(path))
        return path

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        path = f"{self.location}/{name}"
        try:
            yield
        except FileNotFoundError as error:
            raise StorageError(f"{path}: no such file: {_REMEDY}", path=path) from error
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror or error}", path=path) from error


class _RemoteStorage:
    """Reads through fsspec; its clients do not survive a fork, so that each process makes its own."""

    def __init__(self, url: str) -> None:
        self.location = url.rstrip("/") if not url.endswith("://") else url
        self._process = -1
        self._connect()

    def __reduce__(self) -> tuple[Any, ...]:
        return open_storage, (self.location,)

    def _connect(self) -> tuple[Any, str]:
        """Returns the file system and the path of the folder in it."""
        if self._process != os.getpid():
            try:
                from fsspec.core import url_to_fs

                self._files, self._root = url_to_fs(self.location)
            except ImportError as error:
                raise MissingExtraError(
                    f"{self.location}: to read it, pip install 'k700-text[data]' and what fsspec needs for this kind "
                    f"of address ({error})"
                ) from error
            except (ValueError, OSError) as error:
                raise StorageError(f"{self.location}: {error}", path=self.location) from error
            self._process = os.getpid()
        return self._files, str(self._root).rstrip("/")

    def exists(self, name: str) -> bool:
        files, root = self._connect()
        with self._translated(name):
            return bool(files.exists(f"{root}/{name}"))

    def read(self, name: str, offset: int, size: int) -> bytes:
        return self.read_many([ByteRange(name, offset, size)])[0]

    def read_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        files, root = self._connect()
        paths = [f"{root}/{each.name}" for each in ranges]
        starts = [each.offset for each in ranges]
        ends = [each.offset + each.size for each in ranges]
        # Failures come back as values, so that each is told of with its own file.
        pieces = files.cat_ranges(paths, starts, ends, on_error="return")
        results = []
        for each, piece in zip(ranges, pieces, strict=True):
            with self._translated(each.name):
                if isinstance(piece, BaseException):
                    raise piece
            results.append(_of_size(bytes(piece), each.size, f"{self.location}/{each.name}"))
        return results

    def read_file(self, name: str) -> bytes:
        files, root = self._connect()
        with self._translated(name):
            return bytes(files.cat_file(f"{root}/{name}"))

    def local_file(self, name: str) -> Path:
        files, root = self._connect()
        with self._translated(name):
            facts = files.info(f"{root}/{name}")
        stamp = [self.location, name, facts.get("size"), *(str(facts.get(key)) for key in _STAMPS)]
        folder = cache_folder()
        path = folder / f"{hashlib.sha256(repr(stamp).encode()).hexdigest()[:32]}-{name}"
        if path.exists():
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with self._translated(name), whole_path(path) as part:
            files.get_file(f"{root}/{name}", str(part))
        return path

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        """Every store fails in its own way: here all of them become a StorageError of one line."""
        url = f"{self.location}/{name}"
        try:
            yield
        except StorageError:
            raise
        except FileNotFoundError as error:
            raise StorageError(f"{url}: no such file: {_REMEDY}", path=url) from error
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise StorageError(f"{url}: {text}", path=url) from error


def cache_folder() -> Path:
    """Returns the folder of local copies: ``k700-text`` in ``XDG_CACHE_HOME``, which is ``~/.cache`` if not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "k700-text"


def _of_size(data: bytes, size: int, path: str) -> bytes:
    if len(data) != size:
        raise StorageError(
            f"{path}: ends before what the index says is in it (truncated, or of another run): {_REMEDY}", path=path
        )
    return data
