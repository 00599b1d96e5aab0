"""The official annotation archive: fetched once, continued where it broke off, verified, and recorded beside it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from k700_text.crawl.limiter import Clock, parse_retry_after
from k700_text.crawl.transport import Endpoints, Limits, Transport
from k700_text.errors import NetworkDownError, TransportError
from k700_text.files.atomic import write_whole
from k700_text.files.lock import FileLock, lock_beside
from k700_text.files.plain import open_plain

ENDPOINT_NAME = "annotations"
URL = "https://storage.googleapis.com/deepmind-media/Datasets/kinetics700_2020.tar.gz"
FILE_NAME = "kinetics700_2020.tar.gz"
HOST = "storage.googleapis.com"
MAX_BYTES = 1 << 30
MAX_ATTEMPTS = 5
MAX_WAIT_SECONDS = 60.0
LIMITS = Limits(total_seconds=3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveRecord:
    """What was downloaded: the JSON beside the archive.

    Attributes:
        url: the official address.
        sha256: of the file.
        num_bytes: size of the file.
        etag: as the server named the version, None if it did not.
        md5: as the server declared it and the file has it (base64), None if it declared none.
    """

    url: str
    sha256: str
    num_bytes: int
    etag: str | None
    md5: str | None


def fetch_annotations(
    folder: Path,
    *,
    endpoints: Endpoints | None = None,
    clock: Clock | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Path:
    """Returns the official annotation archive in a folder; downloads it unless it is there and unharmed.

    Args:
        folder: where the archive and its record live; made if missing.
        endpoints: where the service is.
        clock: for waits between attempts.
        say: told once when a download begins.

    Raises:
        NetworkDownError: no network; names the way without one.
        TransportError: the server does not give the archive, or gives a damaged one.
    """
    archive = folder / FILE_NAME
    if is_verified(archive):
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    transport = Transport(LIMITS)
    url = (endpoints or Endpoints()).resolve(ENDPOINT_NAME, URL)
    say(f"downloading the official annotations from {urlsplit(url).netloc}")
    claim = f"another process is downloading {archive}"
    try:
        with FileLock(lock_beside(archive), claim, on_wait=say):
            if not is_verified(archive):
                _Download(transport, url, archive, clock or Clock()).run()
    except NetworkDownError as error:
        raise NetworkDownError(
            f"no network to download the official annotations from {HOST}: give a file with --annotations FILE",
            host=error.host,
        ) from None
    finally:
        transport.close()
    return archive


def archive_folder(out: Path) -> Path:
    """Returns where the official annotations of a crawl's folder lie; that of an earlier version is renamed.

    By its underscore programs that read the folder leave it out.
    """
    folder, earlier = out / "_annotations", out / "annotations"
    if not folder.exists() and earlier.is_dir():
        names = {each.name for each in earlier.iterdir()}
        if FILE_NAME in names and all(name.lstrip(".").startswith(FILE_NAME) for name in names):
            earlier.rename(folder)
    return folder


def is_verified(archive: Path) -> bool:
    """Tells whether the archive is there and is the file that its record describes."""
    try:
        record = json.loads(_record_path(archive).read_text())
        return bool(record["num_bytes"] == archive.stat().st_size and record["sha256"] == _sha256(archive))
    except (OSError, ValueError, KeyError, TypeError):
        return False


class _RefusedError(Exception):
    """The server will not give this file however often it is asked; the text is the reason."""


class _Download:
    """One file on its way: the bytes so far, and which version of the file they belong to."""

    def __init__(self, transport: Transport, url: str, archive: Path, clock: Clock) -> None:
        self._transport = transport
        self._url = url
        self._archive = archive
        self._clock = clock
        # Names that stay, since the next run goes on here: what lies under them is looked at before it is opened.
        self._partial = archive.with_name(f".{archive.name}.part")
        self._version_path = archive.with_name(f".{archive.name}.part.etag")

    def run(self) -> None:
        """Downloads, verifies and puts the file in place."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            wait_seconds = random.uniform(0, 2.0 ** (attempt - 1))
            try:
                headers, is_whole = self._continue()
                if is_whole:
                    return self._finish(headers)
                wait_seconds = min(parse_retry_after(headers, self._clock.now()) or wait_seconds, MAX_WAIT_SECONDS)
                problem = "it is busy"
            except NetworkDownError:
                raise
            except TransportError as error:
                problem = str(error)
            except _RefusedError as refusal:
                raise self._failure(str(refusal)) from None
            if attempt < MAX_ATTEMPTS:
                self._sleep(wait_seconds)
        raise self._failure(problem)

    def _failure(self, problem: str) -> TransportError:
        return TransportError(
            f"cannot download the official annotations from {HOST} ({problem}): run again to continue, "
            "or give a file with --annotations FILE",
            host=HOST,
        )

    def _sleep(self, seconds: float) -> None:
        self._clock.wait(seconds, threading.Event())

    def _continue(self) -> tuple[Mapping[str, str], bool]:
        """Asks for what is missing; returns the headers, and whether the file is whole now."""
        version = self._version()
        num_present = self._partial.stat().st_size if version and self._partial.exists() else 0
        request: dict[str, str] = {}
        if version and num_present:
            request = {"Range": f"bytes={num_present}-", "If-Range": version}
        with self._transport.stream(self._url, request) as (status, headers, chunks):
            if status == 416 or (status == 206 and not _continues(headers, num_present)):
                # Our part does not fit the file: begin again.
                self._forget()
                return headers, False
            if status in (200, 206):
                is_new = status == 200
                self._remember(headers)
                flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if is_new else os.O_APPEND)
                with os.fdopen(open_plain(self._partial, flags), "wb" if is_new else "ab") as target:
                    _copy(chunks, target, 0 if is_new else num_present)
                return headers, True
            if status in (408, 429) or status >= 500:
                return headers, False
        raise _RefusedError(f"it answers with status {status}")

    def _version(self) -> str | None:
        """Returns the strong ETag that the partial file belongs to; weak ones cannot be continued."""
        try:
            version = self._version_path.read_text()
        except OSError:
            return None
        return version if version.startswith('"') else None

    def _remember(self, headers: Mapping[str, str]) -> None:
        write_whole(self._version_path, headers.get("etag", ""))

    def _forget(self) -> None:
        self._partial.unlink(missing_ok=True)
        self._version_path.unlink(missing_ok=True)

    def _finish(self, headers: Mapping[str, str]) -> None:
        declared = _declared_md5(headers)
        actual = _digest(self._partial, hashlib.md5(usedforsecurity=False))
        if declared is not None and declared != base64.b64encode(actual).decode():
            self._forget()
            raise TransportError("the file does not have the checksum that the server declares", host=HOST)
        record = ArchiveRecord(
            url=URL,
            sha256=_sha256(self._partial),
            num_bytes=self._partial.stat().st_size,
            etag=headers.get("etag"),
            md5=declared,
        )
        self._partial.replace(self._archive)
        write_whole(_record_path(self._archive), json.dumps(asdict(record), indent=2) + "\n")
        self._version_path.unlink(missing_ok=True)


def _record_path(archive: Path) -> Path:
    return archive.with_name(archive.name + ".json")


def _continues(headers: Mapping[str, str], num_present: int) -> bool:
    return headers.get("content-range", "").startswith(f"bytes {num_present}-")


def _copy(chunks: Any, target: BinaryIO, num_bytes: int) -> None:
    for chunk in chunks:
        num_bytes += len(chunk)
        if num_bytes > MAX_BYTES:
            raise _RefusedError(f"it sends more than {MAX_BYTES} bytes")
        target.write(chunk)


def _declared_md5(headers: Mapping[str, str]) -> str | None:
    """Returns the md5 (base64) of ``x-goog-hash: crc32c=...,md5=...``."""
    for part in headers.get("x-goog-hash", "").split(","):
        name, _, value = part.strip().partition("=")
        if name == "md5":
            return value
    return None


def _sha256(path: Path) -> str:
    return _digest(path, hashlib.sha256()).hex()


def _digest(path: Path, digest: Any) -> bytes:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    result: bytes = digest.digest()
    return result
