"""The rows of a dataset, selected once and kept as an Arrow file beside the manifest, which opens in milliseconds.

::

    .train.parquet.cache/manifests.json            content hashes of the manifests, by their stamps
    .train.parquet.cache/rows-{key}-{token}.arrow  the rows that one query gave, and the stamps of the clips' folders

Its name begins with a dot, by which pyarrow, pandas and ``datasets`` leave it out where they read the whole folder.
The key is a hash of the query, the manifests' content and the place of the clips. Files never change: another state of
the clips is another file, which the processes of a running loader do not see.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from k700_text.data.clips import ClipSource
from k700_text.data.rows import RowQuery, select_rows
from k700_text.data.store import RowFile, write_rows
from k700_text.errors import ManifestError
from k700_text.files.atomic import whole_file, write_whole
from k700_text.files.lock import remove_unused
from k700_text.files.stamps import CACHE_TAG, are_settled, settle, stamp_of, still_hold
from k700_text.files.storage import cache_folder

_FORMAT = 1
_NUM_KEPT = 8
_ABANDONED_SECONDS = 3600.0
_HASHES = "manifests.json"
_TAG_TEXT = """Signature: 8a477f597d28d172789f06886806bc55
# Rows selected from a manifest by k700-text: they may be removed at any time, and are made again.
"""


def open_rows(query: RowQuery, source: ClipSource) -> RowFile:
    """Returns the rows to serve; ``about`` is what ``select_rows`` tells, and more.

    Raises:
        ManifestError: a manifest cannot be read, or there is no place to write the rows.
        UsageError: the folder of clips does not exist.
    """
    if source.identity is None or query.files is None:
        return _for_now(*select_rows(query, source))
    folders = _cache_folders(query.files[0])
    _remove_earlier(Path(query.files[0]))
    key = _key(query, _content_hashes(query.files, folders), source.identity)
    for folder in folders:
        for path in _newest_first(folder, f"rows-{key}-*.arrow"):
            rows = _usable(path)
            if rows is not None:
                return rows
    # Made first: it may lie in a folder whose stamp is taken.
    home = _made(folders)
    stamps = source.stamps()
    if settle(stamps):
        stamps = source.stamps()
    is_settled = are_settled(stamps)
    table, about = select_rows(query, source)
    about |= {"stamps": stamps, "is_settled": is_settled}
    return _for_now(table, about) if home is None else _kept(table, about, home, key)


def _key(query: RowQuery, hashes: Sequence[str], identity: str) -> str:
    """Returns what the rows depend on, beside the state of the clips, as a name."""
    where = query.where and query.where.text
    ids = None if query.clip_ids is None else query.clip_ids.to_pylist()
    facts = [_FORMAT, hashes, query.split, query.require, query.needs_titles, where, ids, identity]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _usable(path: Path) -> RowFile | None:
    """Returns the rows in a file of the cache, if nothing changed since they were selected."""
    try:
        rows = RowFile(path)
    except ManifestError:  # damaged, or another process has just removed it
        return None
    if not rows.about.get("is_settled") or not still_hold(rows.about["stamps"]):
        return None
    with suppress(OSError):
        os.utime(path)
    return rows


def _kept(table: pa.Table, about: Mapping[str, Any], folder: Path, key: str) -> RowFile:
    """Returns the rows in a file of the cache."""
    path = folder / f"rows-{key}-{secrets.token_hex(4)}.arrow"
    try:
        with whole_file(path) as file:
            write_rows(file, table, about)
    except OSError:  # no room there
        return _for_now(table, about)
    rows = RowFile(path)
    _clear_up(folder)
    return rows


def _for_now(table: pa.Table, about: Mapping[str, Any]) -> RowFile:
    """Returns the rows in a file that goes when the process that made it drops them."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="k700_text_rows_", suffix=".arrow")
        with os.fdopen(descriptor, "wb") as file:
            write_rows(file, table, about)
    except OSError as error:
        raise ManifestError(f"no place for the dataset's rows ({error}): make room, or set TMPDIR") from error
    rows = RowFile(name)
    weakref.finalize(rows, _remove, name, os.getpid())
    return rows


def _cache_folders(manifest: str) -> list[Path]:
    """Returns where the rows of a manifest may be kept, best first."""
    path = Path(manifest).absolute()
    folders = [path.with_name(f".{path.name}.cache")]
    with suppress(RuntimeError):  # there is no home folder
        place = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
        folders.append(cache_folder() / f"{path.name}-{place}.cache")
    return folders


def _made(folders: Sequence[Path]) -> Path | None:
    """Returns the first folder that can be written to, which is made if need be."""
    for folder in folders:
        tag = folder / CACHE_TAG
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if not tag.exists():
                write_whole(tag, _TAG_TEXT)
            if os.access(folder, os.W_OK):
                return folder
    return None


def _content_hashes(manifests: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Returns the SHA-256 of each file; one that still has its stamp is not read again."""
    known = _known_hashes(folders)
    hashes, news = [], {}
    for manifest in manifests:
        path = os.path.realpath(manifest)
        try:
            stamp = stamp_of(path)
            digest = known.get(path, {}).get(str(stamp))
            if digest is None:
                if settle({path: stamp}):
                    stamp = stamp_of(path)
                is_settled = are_settled({path: stamp})
                with Path(path).open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                if is_settled:
                    news[path] = {str(stamp): digest}
        except FileNotFoundError as error:
            raise ManifestError(f"no such file: {manifest}") from error
        except OSError as error:
            raise ManifestError(f"cannot read {manifest}: {error.strerror}") from error
        hashes.append(digest)
    if news:
        _keep_hashes({**known, **news}, folders)
    return hashes


def _known_hashes(folders: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Returns the SHA-256 by stamp (as text), by path."""
    known: dict[str, dict[str, str]] = {}
    for folder in reversed(folders):
        with suppress(OSError, ValueError, TypeError):
            content = json.loads((folder / _HASHES).read_text("utf-8"))
            known |= {path: dict(by_stamp) for path, by_stamp in dict(content).items()}
    return known


def _keep_hashes(hashes: Mapping[str, Mapping[str, str]], folders: Sequence[Path]) -> None:
    home = _made(folders)
    if home is not None:
        with suppress(OSError), whole_file(home / _HASHES) as file:
            file.write(json.dumps(hashes).encode())


def _newest_first(folder: Path, pattern: str) -> list[Path]:
    found: list[tuple[float, Path]] = []
    for path in folder.glob(pattern):
        with suppress(OSError):  # another process has just removed it
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def _clear_up(folder: Path) -> None:
    """Removes our files of the past: all but the last few and those in use, and what killed processes left."""
    for path in _newest_first(folder, "rows-*.arrow")[_NUM_KEPT:]:
        with suppress(OSError):
            remove_unused(path)  # refused while a dataset has it open
    for path in folder.glob(".*.part"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                remove_unused(path)


def _remove_earlier(manifest: Path) -> None:
    """Removes the cache of an earlier version, which lay where other readers of the folder took it for the manifest."""
    folder = manifest.with_name(f"{manifest.name}.cache")
    with suppress(OSError, UnicodeDecodeError):
        if (folder / CACHE_TAG).read_text("utf-8") != _TAG_TEXT:
            return
        for path in folder.glob("rows-*.arrow"):
            remove_unused(path)
        if not any(folder.glob("rows-*.arrow")):
            for path in (folder / _HASHES, *folder.glob(".*.part"), folder / CACHE_TAG):
                path.unlink(missing_ok=True)
            folder.rmdir()


def _remove(path: str, owner: int) -> None:
    # A forked worker holds a copy of the object; only its maker removes the file.
    if os.getpid() == owner:
        Path(path).unlink(missing_ok=True)
