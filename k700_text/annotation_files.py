"""Opens annotation files: plain, gzipped, and inside tar and zip archives; none is held in memory as a whole.

What an archive says of itself is not believed: members are counted, unpacked bytes too, before anything grows by them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar, cast

from k700_text.errors import AnnotationError

MAX_FILE_BYTES = 2**30
MAX_MEMBERS = 100_000
BLOCK_BYTES = 1 << 20
# The official archives have names of 30 characters.
_MAX_HEADER_BYTES = 1 << 16
_ZIP_END, _ZIP64_END = b"PK\x05\x06", b"PK\x06\x07"
_ZIP_END_BYTES = 22 + 0xFFFF
_ZIP64_LOCATOR_BYTES = 20
_SPECIAL_TYPES = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)

_OTHERS = "these are not the annotations of Kinetics"

_Result = TypeVar("_Result")


@contextmanager
def opened(path: Path, what: str = "annotation file") -> Iterator[BinaryIO]:
    """Opens a file such that it can be read several times, which a pipe cannot.

    Args:
        path: the file.
        what: it is, for messages.

    Raises:
        AnnotationError: it is missing or cannot be read.
    """
    try:
        with ExitStack() as stack:
            file: BinaryIO = stack.enter_context(path.open("rb"))
            if not file.seekable():
                pipe, file = file, cast(BinaryIO, stack.enter_context(tempfile.TemporaryFile()))
                _copy(pipe, file)
            yield file
    except FileNotFoundError as error:
        raise AnnotationError(f"no such {what}: {path}") from error
    except _TooLargeError as error:
        raise AnnotationError(f"{what} {path} {error}: {_OTHERS}") from error
    except OSError as error:
        raise AnnotationError(f"cannot read {what} {path}: {error.strerror or error}") from error


class _TooLargeError(OSError):
    """More than annotations have; an OSError without a number, as damage is."""


def _copy(pipe: BinaryIO, file: BinaryIO) -> None:
    num_bytes = 0
    while block := pipe.read(BLOCK_BYTES):
        num_bytes += len(block)
        _check_size(num_bytes, "gives")
        file.write(block)


def _check_size(num_bytes: int, what: str) -> None:
    if num_bytes > MAX_FILE_BYTES:
        raise _TooLargeError(f"{what} more than {MAX_FILE_BYTES} bytes")


@contextmanager
def damage_told(name: str) -> Iterator[None]:
    """Turns the errors that a damaged archive causes, wherever it is read, into one clear line.

    Raises:
        AnnotationError: the archive is damaged.
    """
    try:
        yield
    except _TooLargeError as error:
        raise AnnotationError(f"{name} {error}: {_OTHERS}") from error
    except OSError as error:
        if error.errno:
            raise  # The disk's fault, not the file's.
        raise AnnotationError(f"{name} is a damaged archive ({error}): download it again") from error


def _of_archive(work: Callable[[], _Result]) -> _Result:
    """Does one step of a library that unpacks; whatever it fails with is damage.

    Raises:
        OSError: without a number, or that of the disk.
    """
    try:
        return work()
    except OSError as error:
        if error.errno or isinstance(error, _TooLargeError):
            raise
        raise OSError(str(error)) from error
    except RecursionError as error:
        raise OSError("headers without end") from error
    except Exception as error:
        # Hostile bytes reach every corner of tarfile, zipfile and the unpackers.
        raise OSError(str(error) or type(error).__name__) from error


class _Unpacked(io.RawIOBase):
    """What a library unpacks, with its errors told as damage, and a bound on the bytes.

    Args:
        stream: that can be read from its beginning again.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._num_bytes = 0

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def seekable(self) -> bool:
        """Back to places that were read, at least."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As the stream does it."""
        self._num_bytes = _of_archive(lambda: self._stream.seek(offset, whence))
        return self._num_bytes

    def tell(self) -> int:
        """Returns the place in what is unpacked."""
        return self._num_bytes

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Reads up to the size of the buffer."""
        block = _of_archive(lambda: self._stream.read(len(buffer)))
        self._num_bytes += len(block)
        _check_size(self._num_bytes, "unpacks to")
        buffer[: len(block)] = block
        return len(block)


def _unpacked(stream: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Unpacked(stream), BLOCK_BYTES))


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
    unpacked = _unpacked(cast(BinaryIO, gzip.GzipFile(fileobj=stream)))
    while unpacked.read(BLOCK_BYTES):
        pass
    return unpacked


class _Member(tarfile.TarInfo):
    """A member whose headers are bounded."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        # Where tarfile decides how to go on behind a header, before it takes in what the header announces.
        if self.type in _SPECIAL_TYPES and not 0 <= self.size <= _MAX_HEADER_BYTES:
            raise _TooLargeError(f"has a header of {self.size} bytes")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return member


def _listed(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Returns the files of an archive."""
    files = []
    for number, member in enumerate(archive):
        if number == MAX_MEMBERS:
            raise _TooLargeError(f"has more than {MAX_MEMBERS} members")
        if member.size < 0:  # So the next header would stand before this one, again and again.
            raise OSError(f"{member.name} has a size below zero")
        if member.isfile():
            files.append(member)
    return files


def _tarred(name: str, stream: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    archive = _of_archive(lambda: tarfile.open(fileobj=stream, mode="r:", tarinfo=_Member))  # noqa: SIM115
    files = {each.name: each for each in _of_archive(lambda: _listed(archive)) if _is_wanted(each.name)}
    for member in _tables(name, files):
        if files[member].issparse():
            raise OSError(f"{member} is a sparse file: pack it without --sparse")
        _check_size(files[member].size, "unpacks to")
        content = _of_archive(lambda info=files[member]: archive.extractfile(info))  # type: ignore[misc]
        with _unpacked(cast(BinaryIO, content)) as data:
            yield f"{name}:{member}", data


def _zipped(name: str, stream: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    _check_directory(stream)
    archive = _of_archive(lambda: zipfile.ZipFile(stream))
    files = {info.filename: info for info in archive.infolist() if not info.is_dir() and _is_wanted(info.filename)}
    _check_size(sum(info.file_size for info in files.values()), "unpacks to")
    for member in _tables(name, files):
        # Also where it is encrypted, or packed in an unknown way.
        with _unpacked(cast(BinaryIO, _of_archive(lambda info=files[member]: archive.open(info)))) as data:  # type: ignore[misc]
            yield f"{name}:{member}", data


def _check_directory(stream: BinaryIO) -> None:
    """Refuses a directory that zipfile would take into memory whole, many times as large as the file has it."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, size - _ZIP_END_BYTES - _ZIP64_LOCATOR_BYTES))
    tail = stream.read()
    at = tail.rfind(_ZIP_END)
    stream.seek(0)
    if at < 0:
        return  # Damaged, as zipfile will say.
    is_large = tail[max(0, at - _ZIP64_LOCATOR_BYTES) : at].startswith(_ZIP64_END)
    if is_large or int.from_bytes(tail[at + 10 : at + 12], "little") == 0xFFFF:
        raise _TooLargeError("has more than 65,534 members, or says so")


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
