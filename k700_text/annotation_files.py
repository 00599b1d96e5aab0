"""Opens annotation files: plain, gzipped, and inside tar and zip archives; none is held in memory as a whole."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, cast

from k700_text.errors import AnnotationError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_FILE_BYTES = 2**30
"""What a file may have, and what all of an archive may unpack to."""
MAX_ARCHIVE_MEMBERS = 100_000
BLOCK_BYTES = 1 << 20

# Long names, pax headers and the list of a zip are read in one go; those of real archives have kilobytes.
_MAX_HEADER_BYTES = 8 << 20
# The others of zip (LZMA) take as much memory as the archive likes.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


@contextmanager
def opened(path: Path, what: str = "annotation file") -> Iterator[BinaryIO]:
    """Opens a file such that it can be read several times, which a pipe cannot.

    Args:
        path: the file.
        what: it is, for messages.

    Raises:
        AnnotationError: it is missing, cannot be read, or has more than MAX_FILE_BYTES.
    """
    try:
        with ExitStack() as stack:
            file: BinaryIO = stack.enter_context(path.open("rb"))
            if not stat.S_ISREG(path.stat().st_mode) or not file.seekable():
                # A pipe, or a device: it may be without an end.
                pipe, file = file, cast(BinaryIO, stack.enter_context(tempfile.TemporaryFile()))
                _copy(pipe, file, f"{what} {path}")
            elif path.stat().st_size > MAX_FILE_BYTES:
                raise _too_large(f"{what} {path}")
            yield file
    except FileNotFoundError as error:
        raise AnnotationError(f"no such {what}: {path}") from error
    except OSError as error:
        raise AnnotationError(f"cannot read {what} {path}: {error.strerror or error}") from error


def _copy(pipe: BinaryIO, file: BinaryIO, name: str) -> None:
    num_bytes = 0
    while block := pipe.read(BLOCK_BYTES):
        num_bytes += len(block)
        if num_bytes > MAX_FILE_BYTES:
            raise _too_large(name)
        file.write(block)


def _too_large(name: str) -> AnnotationError:
    return AnnotationError(f"{name} is too large (more than {MAX_FILE_BYTES} bytes): name the list itself")


@contextmanager
def damage_told(name: str) -> Iterator[None]:
    """Turns the errors that a damaged file causes, wherever it is read, into one clear line.

    Raises:
        AnnotationError: the file is damaged.
    """
    try:
        yield
    except OSError as error:
        if error.errno:
            raise  # The disk's fault, not the file's.
        raise AnnotationError(f"{name} is a damaged archive ({error}): download it again") from error


class _Guarded(io.RawIOBase):
    """What is read of an archive: within bounds, and with every fault of it as an OSError without a number.

    Args:
        stream: the archive, or a member of it.
        max_read: how much at a time; more is a fault.
    """

    def __init__(self, stream: BinaryIO, max_read: int | None = None) -> None:
        self._stream = stream
        self._max_read = max_read

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Returns so many bytes, fewer only at the end."""
        with faults_of_archives():
            if self._max_read is None:
                block = self._stream.read(size)
            else:
                block = self._stream.read(self._max_read + 1 if size < 0 else min(size, self._max_read + 1))
                if len(block) > self._max_read:
                    raise OSError(f"a header of it has more than {self._max_read} bytes")
            if self._stream.tell() > MAX_FILE_BYTES:
                raise OSError(f"it unpacks to more than {MAX_FILE_BYTES} bytes")
        return block

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        block = self.read(len(view))
        view[: len(block)] = block
        return len(block)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        with faults_of_archives():
            return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


@contextmanager
def faults_of_archives() -> Iterator[None]:
    """Turns what the readers of archives raise on damaged ones, which is nearly anything, into OSError."""
    try:
        yield
    except (OSError, AnnotationError):
        raise
    except RecursionError as error:
        raise OSError("its headers are chained without end") from error
    except MemoryError as error:
        raise OSError("it asks for more memory than there is") from error
    except (
        *(EOFError, ValueError, LookupError, ArithmeticError, RuntimeError, TypeError, AttributeError, AssertionError),
        *(struct.error, zlib.error, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError),
    ) as error:
        raise OSError(str(error) or type(error).__name__) from error


def members(name: str, stream: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    """Yields (name, content) of every annotation file inside; the format is told by content, not by name.

    Args:
        name: what to call the file in messages.
        stream: the file itself, an archive of such files, or one of them gzipped.

    Raises:
        AnnotationError: an archive without annotation files.
    """
    head = peek(stream)
    if head[:2] == b"\x1f\x8b":
        stream, name = _gunzipped(stream), name.removesuffix(".gz")
        head = peek(stream)
    if head[:4] == b"PK\x03\x04":
        yield from _zipped(name, stream)
    elif head[257:262] == b"ustar":
        yield from _tarred(name, stream)
    else:
        yield name, stream


def sha256_of(stream: BinaryIO) -> str:
    """Returns the hash of a file's content in hexadecimal digits."""
    digest = hashlib.sha256()
    stream.seek(0)
    while block := stream.read(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def peek(stream: BinaryIO) -> bytes:
    """Returns the first bytes of a file, and leaves it at its beginning."""
    stream.seek(0)
    head = stream.read(4096)
    stream.seek(0)
    return head


def _gunzipped(stream: BinaryIO) -> BinaryIO:
    """Returns the unpacked content, which has been read once: whole, and of a bearable size."""
    stream.seek(0)
    unpacked = _guarded(cast(BinaryIO, gzip.GzipFile(fileobj=stream)))
    while unpacked.read(BLOCK_BYTES):
        pass
    return unpacked


def _guarded(stream: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Guarded(stream), BLOCK_BYTES))


def _tarred(name: str, stream: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    headers = cast(BinaryIO, _Guarded(stream, max_read=_MAX_HEADER_BYTES))
    with faults_of_archives():
        archive = tarfile.open(fileobj=headers, mode="r:")  # noqa: SIM115 - the stream is closed by who opened it
        files = {member.name: member for member in _headers(archive) if member.isfile() and _is_wanted(member.name)}
    for member in _tables(name, files):
        # A few bytes can stand for a petabyte of holes.
        if files[member].issparse() or files[member].size > MAX_FILE_BYTES:
            raise OSError(f"{member} is a sparse file, or claims more than {MAX_FILE_BYTES} bytes")
        with _guarded(cast(BinaryIO, archive.extractfile(files[member]))) as data:
            yield f"{name}:{member}", data


def _headers(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for number, member in enumerate(archive):
        if number >= MAX_ARCHIVE_MEMBERS:
            raise OSError(f"it holds more than {MAX_ARCHIVE_MEMBERS} members")
        if member.size < 0:  # So the next header would stand before this one, again and again.
            raise OSError(f"{member.name} has a size below zero")
        yield member


def _zipped(name: str, stream: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    with faults_of_archives():
        archive = zipfile.ZipFile(cast(BinaryIO, _Guarded(stream, max_read=_MAX_HEADER_BYTES)))
        files = {info.filename: info for info in archive.infolist() if not info.is_dir() and _is_wanted(info.filename)}
    if sum(info.file_size for info in files.values()) > MAX_FILE_BYTES:
        raise OSError(f"it unpacks to more than {MAX_FILE_BYTES} bytes")
    for member in _tables(name, files):
        if files[member].compress_type not in _ZIP_METHODS:
            raise OSError(f"{member} is packed in a way that is not read (deflate is)")
        with faults_of_archives():  # Encrypted, or of a name that its own header does not have.
            content = archive.open(files[member])
        with _guarded(cast(BinaryIO, content)) as data:
            yield f"{name}:{member}", data


def _tables(name: str, members: Collection[str]) -> list[str]:
    """Returns the annotation files among the members of an archive."""
    tables = [member for member in members if PurePosixPath(member).suffix == ".csv"]
    # The official archives hold each split as CSV and as JSON; the JSON map can hold a video only once.
    tables = tables or [member for member in members if PurePosixPath(member).suffix == ".json"]
    if not tables:
        found = ", ".join(sorted(members)[:5]) or "nothing"
        raise AnnotationError(f"{name} holds no .csv or .json file (found: {found})")
    return sorted(tables)


def _is_wanted(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not parts[-1].startswith("._") and "__MACOSX" not in parts
