"""Opens annotation files: plain, gzipped, and inside tar and zip archives; none is held in memory as a whole."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from k700_text.errors import AnnotationError

MAX_FILE_BYTES = 2**30
BLOCK_BYTES = 1 << 20


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Opens a file such that it can be read several times, which a pipe cannot.

    Raises:
        AnnotationError: it is missing or cannot be read.
    """
    try:
        with ExitStack() as stack:
            file: BinaryIO = stack.enter_context(path.open("rb"))
            if not file.seekable():
                pipe, file = file, cast(BinaryIO, stack.enter_context(tempfile.TemporaryFile()))
                shutil.copyfileobj(pipe, file)
            yield file
    except FileNotFoundError as error:
        raise AnnotationError(f"no such annotation file: {path}") from error
    except OSError as error:
        raise AnnotationError(f"cannot read annotation file {path}: {error.strerror or error}") from error


@contextmanager
def damage_told(name: str) -> Iterator[None]:
    """Turns the errors that a damaged archive causes, wherever it is read, into one clear line.

    Raises:
        AnnotationError: the archive is damaged.
    """
    try:
        yield
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # The disk's fault, not the file's.
        raise AnnotationError(f"{name} is a damaged archive ({error}): download it again") from error


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
    unpacked = cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    num_bytes = 0
    while block := unpacked.read(BLOCK_BYTES):
        num_bytes += len(block)
        if num_bytes > MAX_FILE_BYTES:
            raise OSError(f"it unpacks to more than {MAX_FILE_BYTES} bytes")
    return unpacked


def _tarred(name: str, stream: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        files = {member.name: member for member in archive if member.isfile() and _is_wanted(member.name)}
        for member in _tables(name, files):
            with cast(BinaryIO, archive.extractfile(files[member])) as data:
                yield f"{name}:{member}", data


def _zipped(name: str, stream: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    with zipfile.ZipFile(stream) as archive:
        files = {info.filename: info for info in archive.infolist() if not info.is_dir() and _is_wanted(info.filename)}
        if sum(info.file_size for info in files.values()) > MAX_FILE_BYTES:
            raise OSError(f"it unpacks to more than {MAX_FILE_BYTES} bytes")
        for member in _tables(name, files):
            try:
                content = archive.open(files[member])
            except RuntimeError as error:  # Encrypted, or packed in an unknown way.
                raise OSError(str(error)) from error
            with cast(BinaryIO, content) as data:
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
