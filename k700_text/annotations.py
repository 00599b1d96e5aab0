"""Reads the official Kinetics annotation files, in every published spelling, into Clip records.

CSV of DeepMind (``validate``, unlabelled test), ActivityNet and CVDF (``val``, ``is_cc``, quoted labels), the official
JSON, and ``.tar.gz`` or ``.zip`` archives of them. Ids are text throughout: many begin with ``-``, some look like
numbers or missing values. A malformed row is a problem with file, line and reason; nothing is dropped in silence.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import re
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from k700_text.errors import AnnotationError
from k700_text.records import YOUTUBE_ID_PATTERN, Clip, Split

MAX_PROBLEMS_SHOWN = 50
MAX_FILE_BYTES = 2**30

_COLUMNS = {
    "youtube_id": ("youtube_id", "video_id", "youtubeid"),
    "start": ("time_start", "start_seconds", "start_time", "start"),
    "end": ("time_end", "end_seconds", "end_time", "end"),
    "label": ("label",),
    "split": ("split", "subset"),
}
_SPLIT_IN_NAME = re.compile(r"(?:^|[^a-z])(train|validate|validation|val|holdout_test|test)(?:[^a-z]|$)")


@dataclass(frozen=True, slots=True)
class Annotations:
    """Clips read from annotation files.

    Attributes:
        clips: sorted by (split, clip_id, label); two labels of one video are two clips.
        sha256: of the file, or of the sorted hashes where there are several files.
        skipped: the malformed rows that ``skip_invalid`` left out: file, line and reason each.
        num_duplicates: rows that repeat another row exactly; each is kept once.
    """

    clips: tuple[Clip, ...]
    sha256: str
    skipped: tuple[str, ...] = ()
    num_duplicates: int = 0


class _RowError(Exception):
    """A row that cannot become a Clip; its text is the reason."""


def load_annotations(
    paths: Sequence[str | Path], *, split: Split | None = None, skip_invalid: bool = False
) -> Annotations:
    """Reads annotation files into sorted clips.

    Args:
        paths: CSV or JSON files, plain or gzipped, or tar/zip archives of them.
        split: keep the clips of this split only.
        skip_invalid: leave malformed rows out (they are listed in ``skipped``) in place of failing.

    Raises:
        AnnotationError: a file is missing, unreadable or empty, a row is malformed (all of them are listed), or no
            clip is left.
    """
    if not paths:
        raise AnnotationError("no annotation files given: name at least one with --annotations FILE")
    clips: list[Clip] = []
    problems: list[str] = []
    digests: list[str] = []
    for path in map(Path, paths):
        content = _read_bytes(path)
        digests.append(hashlib.sha256(content).hexdigest())
        num_before = len(clips) + len(problems)
        for name, text in _members(path.name, content):
            for item in _parse(name, text):
                if isinstance(item, str):
                    problems.append(item)
                else:
                    clips.append(item)
        if len(clips) + len(problems) == num_before:
            raise AnnotationError(f"{path} holds no annotation rows: expected a header line and at least one clip")
    if problems and not skip_invalid:
        raise _too_many_problems(problems)
    distinct = set(clips)
    kept = [clip for clip in distinct if split is None or clip.split is split]
    if not kept:
        wanted = f" of split {split.value}" if split else ""
        raise AnnotationError(f"no valid clips{wanted} in {', '.join(map(str, paths))}", problems)
    kept.sort(key=lambda clip: (clip.split.value, clip.clip_id, clip.label or "", clip.start_seconds, clip.end_seconds))
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
    return Annotations(tuple(kept), sha256, tuple(problems), len(clips) - len(distinct))


def _too_many_problems(problems: list[str]) -> AnnotationError:
    shown = problems[:MAX_PROBLEMS_SHOWN]
    if len(problems) > len(shown):
        shown.append(f"... and {len(problems) - len(shown)} more")
    rows = "row" if len(problems) == 1 else "rows"
    return AnnotationError(f"{len(problems)} malformed annotation {rows} (--skip-invalid leaves them out):", shown)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise AnnotationError(f"no such annotation file: {path}") from error
    except OSError as error:
        raise AnnotationError(f"cannot read annotation file {path}: {error.strerror or error}") from error


def _members(name: str, content: bytes) -> Iterator[tuple[str, str]]:
    """Yields (name, text) of every annotation file inside; the format is told by content, not by name."""
    try:
        if content[:2] == b"\x1f\x8b":
            content = _gunzip(content)
            name = name.removesuffix(".gz")
        if content[:4] == b"PK\x03\x04":
            files = _unzip(content)
        elif content[257:262] == b"ustar":
            files = _untar(content)
        else:
            yield name, _decode(name, content)
            return
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, RuntimeError) as error:
        raise AnnotationError(f"{name} is a damaged archive ({error}): download it again") from error
    tables = {member: data for member, data in files.items() if PurePosixPath(member).suffix == ".csv"}
    # The official archives hold each split as CSV and as JSON; the JSON map can hold a video only once.
    tables = tables or {member: data for member, data in files.items() if PurePosixPath(member).suffix == ".json"}
    if not tables:
        raise AnnotationError(
            f"{name} holds no .csv or .json file (found: {', '.join(sorted(files)[:5]) or 'nothing'})"
        )
    for member, data in sorted(tables.items()):
        yield f"{name}:{member}", _decode(f"{name}:{member}", data)


def _gunzip(content: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(f"it unpacks to more than {MAX_FILE_BYTES} bytes")
    return data


def _untar(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = [member for member in archive.getmembers() if member.isfile() and _is_wanted(member.name)]
        return {member.name: stream.read() for member in members if (stream := archive.extractfile(member))}


def _unzip(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir() and _is_wanted(info.filename)]
        if sum(info.file_size for info in infos) > MAX_FILE_BYTES:
            raise OSError(f"it unpacks to more than {MAX_FILE_BYTES} bytes")
        return {info.filename: archive.read(info) for info in infos}


def _is_wanted(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not parts[-1].startswith("._") and "__MACOSX" not in parts


def _decode(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise AnnotationError(f"{name} line {line}: not UTF-8 text; expected an annotation CSV or JSON") from error


def _parse(name: str, text: str) -> Iterable[Clip | str]:
    """Yields a Clip or, for a malformed row, a problem text."""
    if text.lstrip()[:1] in ("{", "["):
        return _parse_json(name, text)
    return _parse_csv(name, text)


def _split_of_name(name: str) -> str | None:
    match = _SPLIT_IN_NAME.search(PurePosixPath(name.rsplit(":", 1)[-1]).name.lower())
    return match[1] if match else None


def _parse_csv(name: str, text: str) -> Iterator[Clip | str]:
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        header = next(rows, None)
    except csv.Error as error:
        raise AnnotationError(f"{name} line 1: not CSV ({error})") from error
    if header is None:
        return
    positions = _columns(name, header)
    default_split = _split_of_name(name)
    if "split" not in positions and default_split is None:
        raise AnnotationError(f"{name}: no split column, and the file name holds none of train, val, test")
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"{name} line {rows.line_num}: not CSV ({error})"
            continue
        if not any(field.strip() for field in row):
            continue
        try:
            if len(row) != len(header):
                raise _RowError(f"{len(row)} fields, expected {len(header)}")
            fields = {column: row[position] for column, position in positions.items()}
            yield _clip(fields, default_split, is_labelled="label" in positions)
        except _RowError as reason:
            yield f"{name} line {rows.line_num}: {reason}"


def _columns(name: str, header: list[str]) -> dict[str, int]:
    """Returns the position of each column we read, by our own name for it."""
    spellings = [title.strip().lower().replace(" ", "_").replace("-", "_") for title in header]
    positions = {
        column: next(spellings.index(known) for known in names if known in spellings)
        for column, names in _COLUMNS.items()
        if any(known in spellings for known in names)
    }
    missing = [
        names[0]
        for column, names in _COLUMNS.items()
        if column in ("youtube_id", "start", "end") and column not in positions
    ]
    if missing:
        found = ", ".join(header)[:200]
        raise AnnotationError(
            f"{name} line 1: no column {', '.join(missing)} (found: {found}); expected a Kinetics CSV"
        )
    return positions


def _parse_json(name: str, text: str) -> Iterator[Clip | str]:
    try:
        # Pairs, not a dict: a video annotated twice appears as the same key twice.
        entries = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{name} is not valid JSON: {error}") from error
    default_split = _split_of_name(name)
    for entry in entries:
        try:
            key, fields = _json_fields(entry)
        except _RowError as reason:
            yield f"{name}: {reason}"
            continue
        try:
            yield _clip(fields, default_split, is_labelled=bool(fields.get("label")))
        except _RowError as reason:
            yield f"{name} entry {key!r}: {reason}"


def _json_fields(entry: Any) -> tuple[str, dict[str, str]]:
    if not (isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[0], str)):
        raise _RowError(f"not a map of youtube ids: {str(entry)[:80]}")
    key, pairs = entry
    values = _object(pairs)
    annotation = _object(values.get("annotations"))
    segment = annotation.get("segment", values.get("segment"))
    if not (isinstance(segment, list) and len(segment) == 2):
        raise _RowError(f"entry {key!r}: annotations.segment is not [start, end]")
    fields = {"youtube_id": key, "start": str(segment[0]), "end": str(segment[1])}
    label = annotation.get("label", values.get("label"))
    if label is not None:
        fields["label"] = str(label)
    if values.get("subset", values.get("split")) is not None:
        fields["split"] = str(values.get("subset", values.get("split")))
    return key, fields


def _object(pairs: Any) -> dict[str, Any]:
    """Returns a JSON object that was read as pairs; anything else, a list of other things too, as an empty one."""
    is_object = isinstance(pairs, list) and all(isinstance(pair, tuple) for pair in pairs)
    return dict(pairs) if is_object else {}


def _clip(fields: Mapping[str, str], default_split: str | None, *, is_labelled: bool) -> Clip:
    youtube_id = fields["youtube_id"].strip()
    if not YOUTUBE_ID_PATTERN.fullmatch(youtube_id):
        raise _RowError(f"youtube id {youtube_id!r} is not 11 characters of A-Z a-z 0-9 _ -")
    start_seconds, end_seconds = _seconds("start", fields["start"]), _seconds("end", fields["end"])
    if end_seconds <= start_seconds:
        raise _RowError(f"end {end_seconds:g} is not after start {start_seconds:g}")
    spelling = fields.get("split", "").strip() or default_split
    if spelling is None:
        raise _RowError("no split")
    try:
        split = Split.parse(spelling)
    except ValueError as error:
        raise _RowError(str(error)) from error
    label = fields.get("label", "").strip() or None
    if label is not None and not _is_text(label):
        raise _RowError(f"label {label!r} is not Unicode text")
    if label is None and is_labelled and split is not Split.TEST:
        raise _RowError("empty label")
    return Clip(
        youtube_id=youtube_id,
        split=split,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        label=sys.intern(label) if label else None,
    )


def _is_text(value: str) -> bool:
    """Tells whether UTF-8, and so Parquet, can hold it: JSON can spell halves of characters."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise _RowError(f"{name} {text!r} is not a number of seconds") from error
    if not math.isfinite(value) or value < 0:
        raise _RowError(f"{name} {text!r} is not a time in seconds, 0 or more")
    return value
