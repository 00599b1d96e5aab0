"""Reads the official Kinetics annotation files, in every published spelling, into Clip records.

CSV of DeepMind (``validate``, unlabelled test), ActivityNet and CVDF (``val``, ``is_cc``, quoted labels), the official
JSON, and ``.tar.gz`` or ``.zip`` archives of them. Ids are text throughout: many begin with ``-``, some look like
numbers or missing values. A malformed row is a problem with file, line and reason; nothing is dropped in silence.

Files are read piece by piece into columns, so that memory is little more than the columns take.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TextIO

import numpy as np

from k700_text.annotation_files import BLOCK_BYTES, damage_told, members, opened, peek, sha256_of
from k700_text.clip_table import ClipTable, ClipTableBuilder
from k700_text.delimited import BrokenRow, RowReader, Spelling, delimiter_of, header_of
from k700_text.errors import AnnotationError
from k700_text.file_kinds import foreign_kind, visible
from k700_text.files.json_stream import iter_json
from k700_text.records import LONGEST_CLIP_SECONDS, LONGEST_VIDEO_SECONDS, YOUTUBE_ID_PATTERN, Clip, Split
from k700_text.terminal import readable

MAX_PROBLEMS_SHOWN = 50
MAX_PROBLEMS = 100_000
MAX_PROBLEM_CHARACTERS = 500

# Few enough to stay in the processor's cache: twice as fast as thousands.
_CHUNK_ROWS = 512
_COLUMNS = {
    "youtube_id": ("youtube_id", "video_id", "youtubeid"),
    "start": ("time_start", "start_seconds", "start_time", "start"),
    "end": ("time_end", "end_seconds", "end_time", "end"),
    "label": ("label",),
    "split": ("split", "subset"),
}
# Control characters, ends of lines, halves of characters: no action is called so.
_NO_LABEL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# Letters and signs by category, of which nothing is seen.
_BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
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

    clips: ClipTable
    sha256: str
    skipped: tuple[str, ...] = ()
    num_duplicates: int = 0

    def youtube_ids(self) -> Iterator[str]:
        """Yields the distinct ids in the order in which they first occur."""
        return self.clips.youtube_ids()


class _RowError(Exception):
    """A row that cannot become a Clip; its text is the reason."""


def load_annotations(
    paths: Sequence[str | Path],
    *,
    split: Split | None = None,
    as_split: Split | None = None,
    skip_invalid: bool = False,
) -> Annotations:
    """Reads annotation files into sorted clips.

    Args:
        paths: CSV or JSON files, plain or gzipped, or tar/zip archives of them.
        split: keep the clips of this split only.
        as_split: what rows are of whose split neither a column nor the name of their file tells.
        skip_invalid: leave malformed rows out (they are listed in ``skipped``) in place of failing.

    Raises:
        AnnotationError: a file is missing, unreadable or empty, a row is malformed (all of them are listed), or no
            clip is left.
    """
    if not paths:
        raise AnnotationError("no annotation files given: name at least one with --annotations FILE")
    builder = ClipTableBuilder()
    problems: list[str] = Problems()
    digests: list[str] = []
    for path in map(Path, paths):
        num_before = len(builder) + len(problems)
        with opened(path) as file, damage_told(path.name):
            digests.append(sha256_of(file))
            for name, stream in members(path.name, file):
                _read(name, stream, builder, problems, as_split)
        if len(builder) + len(problems) == num_before:
            raise AnnotationError(f"{path} holds no annotation rows: expected a header line and at least one clip")
    if problems and not skip_invalid:
        raise malformed_rows(problems)
    clips, num_duplicates = builder.finish(split)
    if not clips:
        wanted = f" of split {split.value}" if split else ""
        raise AnnotationError(f"no valid clips{wanted} in {', '.join(map(str, paths))}", problems)
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
    return Annotations(clips, sha256, tuple(problems), num_duplicates)


class Problems(list[str]):
    """Malformed rows; a file of nothing else ends early, for each is kept to be told.

    Args:
        what: the rows are of, for messages.
    """

    def __init__(self, what: str = "annotation file") -> None:
        super().__init__()
        self._what = what

    def append(self, problem: str, /) -> None:
        """Keeps one, cut to MAX_PROBLEM_CHARACTERS.

        Raises:
            AnnotationError: there are MAX_PROBLEMS of them.
        """
        if len(self) == MAX_PROBLEMS:
            raise AnnotationError(f"more than {MAX_PROBLEMS} malformed rows: this is no {self._what}", self[:1])
        super().append(problem[:MAX_PROBLEM_CHARACTERS])


def malformed_rows(problems: Sequence[str], what: str = "annotation") -> AnnotationError:
    """Returns the error that names malformed rows, the first of them where there are many."""
    shown = list(problems[:MAX_PROBLEMS_SHOWN])
    if len(problems) > len(shown):
        shown.append(f"... and {len(problems) - len(shown)} more")
    rows = f"{what} row" if len(problems) == 1 else f"{what} rows"
    return AnnotationError(f"{len(problems)} malformed {rows} (--skip-invalid leaves them out):", shown)


def _read(name: str, stream: BinaryIO, builder: ClipTableBuilder, problems: list[str], as_split: Split | None) -> None:
    """Gives the clips of an annotation file to the builder, and its malformed rows to the problems."""
    head = peek(stream)
    kind = foreign_kind(head)
    if kind is None and head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        kind = "UTF-16 text, not UTF-8: save it as UTF-8"
    if kind is not None:
        raise AnnotationError(f"{name} is {kind}; expected an annotation CSV or JSON")
    is_json = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"[")
    text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
    try:
        default_split = split_of_name(name) or as_split
        (_read_json if is_json else _read_csv)(name, text, builder, problems, default_split)
    except UnicodeDecodeError as error:
        line = _line_of_fault(text.detach())
        raise AnnotationError(f"{name} line {line}: not UTF-8 text; expected an annotation CSV or JSON") from error
    text.detach()  # Else it would close the stream, which is not its own.


def _line_of_fault(stream: BinaryIO) -> int:
    """Returns the line of the first bytes that are no UTF-8."""
    stream.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    while block := stream.read(BLOCK_BYTES):
        try:
            decoder.decode(block)
        except UnicodeDecodeError as error:
            return line + error.object.count(b"\n", 0, error.start)
        line += block.count(b"\n")
    return line


def split_of_name(name: str) -> str | None:
    """Returns what the name of a file, or of a member of an archive, says about the split."""
    match = _SPLIT_IN_NAME.search(PurePosixPath(name.rsplit(":", 1)[-1]).name.lower())
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the rows of one CSV file are to be read: number of fields, place of each column, split where none is."""

    width: int
    positions: Mapping[str, int]
    default_split: str | None


def _read_csv(
    name: str, text: TextIO, builder: ClipTableBuilder, problems: list[str], default_split: str | None
) -> None:
    line = next(text, None)
    if line is None:
        return
    line = header_of(line)
    spelling = Spelling(delimiter_of(line))
    header = spelling.cells(line)
    if isinstance(header, BrokenRow):
        raise AnnotationError(f"{name} line 1: not CSV ({header[0]})")
    layout = _Layout(len(header), _columns(name, header), default_split)
    if "split" not in layout.positions and layout.default_split is None:
        raise AnnotationError(
            f"{name}: no split column, and the file name holds none of train, val, test: add --as-split"
        )
    # No row goes over several lines: no label does.
    for lines, rows in RowReader(text, spelling, tuple(header), rows_at_once=_CHUNK_ROWS).chunks():
        columns = _plain_columns(rows, layout)
        if columns is not None:
            builder.extend(*columns)
            continue
        # Something in it is not as it should be: row by row, for the reasons.
        for number, row in zip(lines, rows, strict=True):
            try:
                if len(row) > 1 or row[0].strip():  # A line of nothing but spaces is no row.
                    builder.add(_csv_clip(row, layout))
            except _RowError as reason:
                problems.append(f"{name} line {number}: {reason}")


def _plain_columns(
    rows: Sequence[Sequence[str]], layout: _Layout
) -> tuple[list[str], list[Split], list[float], list[float], list[str | None]] | None:
    """Returns ids, splits, starts, ends and labels of rows that are all as they should be, else None.

    It accepts no row that ``_csv_clip`` would refuse, and makes the same of it, many times faster.
    """
    if set(map(len, rows)) != {layout.width}:
        return None
    cells = list(zip(*rows, strict=True))
    values = {column: cells[place] for column, place in layout.positions.items()}
    empty = ("",) * len(rows)
    ids = list(map(str.strip, values["youtube_id"]))
    split_texts, label_texts = values.get("split", empty), values.get("label", empty)
    try:
        starts, ends = list(map(float, values["start"])), list(map(float, values["end"]))
        known = {text: Split.parse(text.strip() or layout.default_split or "") for text in set(split_texts)}
    except ValueError:
        return None
    splits = list(map(known.__getitem__, split_texts))
    names = {text: text.strip() or None for text in set(label_texts)}
    labels = list(map(names.__getitem__, label_texts))
    known_labels = list(filter(None, names.values()))
    numbers = "".join((*values["start"], *values["end"]))
    is_plain = (
        _is_number(numbers)
        and "-" not in numbers  # "-0" is a zero with a sign.
        and not _NO_LABEL.search("".join(known_labels))
        and all(map(_is_seen, known_labels))
    )
    first, last = np.array(starts), np.array(ends)
    is_span = (first >= 0) & (last > first) & (last <= np.minimum(LONGEST_VIDEO_SECONDS, first + LONGEST_CLIP_SECONDS))
    lacks_label = (
        "label" in values
        and None in labels
        and any(label is None and split is not Split.TEST for label, split in zip(labels, splits, strict=True))
    )
    if lacks_label or not is_plain or not is_span.all() or not _are_ids(ids):
        return None
    return ids, splits, starts, ends, labels


def _are_ids(texts: Sequence[str]) -> bool:
    """Tells whether all are ids: a look at all of them at once, at each only where that leaves a doubt."""
    joined = "".join(texts)
    is_plain = joined.isascii() and joined.replace("-", "").replace("_", "").isalnum()
    return (is_plain and set(map(len, texts)) == {11}) or all(map(YOUTUBE_ID_PATTERN.fullmatch, texts))


def _csv_clip(row: Sequence[str], layout: _Layout) -> Clip:
    if isinstance(row, BrokenRow):
        raise _RowError(f"not CSV ({row[0]})")
    if len(row) != layout.width:
        raise _RowError(f"{len(row)} fields, expected {layout.width}")
    fields = {column: row[position] for column, position in layout.positions.items()}
    return _clip(fields, layout.default_split, is_labelled="label" in layout.positions)


def _columns(name: str, header: Sequence[str]) -> dict[str, int]:
    """Returns the position of each column we read, by our own name for it."""
    spellings = [re.sub(r"[\s-]", "_", visible(title).strip()).lower() for title in header]
    found = {
        column: next(known for known in names if known in spellings)
        for column, names in _COLUMNS.items()
        if any(known in spellings for known in names)
    }
    for column in found:
        rivals = sorted(set(spellings).intersection(_COLUMNS[column]))
        if len(rivals) > 1:
            shown = " and ".join(rivals)
            raise AnnotationError(f"{name} line 1: columns {shown} mean the same: remove or rename all but one")
    missing = [_COLUMNS[column][0] for column in ("youtube_id", "start", "end") if column not in found]
    if missing:
        shown = readable(", ".join(header), 200)
        raise AnnotationError(
            f"{name} line 1: no column {', '.join(missing)} (found: {shown}); expected a Kinetics CSV"
        )
    doubled = [known for known in found.values() if spellings.count(known) > 1]
    if doubled:
        raise AnnotationError(f"{name} line 1: column {', '.join(doubled)} is there twice: rename or remove one")
    return {column: spellings.index(known) for column, known in found.items()}


def _read_json(
    name: str, text: TextIO, builder: ClipTableBuilder, problems: list[str], default_split: str | None
) -> None:
    for entry in _json_entries(name, text):
        try:
            key, fields = _json_fields(entry)
        except _RowError as reason:
            problems.append(f"{name}: {reason}")
            continue
        try:
            builder.add(_clip(fields, default_split, is_labelled=True))
        except _RowError as reason:
            problems.append(f"{name} entry {key!r}: {reason}")


def _json_entries(name: str, text: TextIO) -> Iterator[Any]:
    try:
        # Pairs, not a dict: a video annotated twice appears as the same key twice.
        yield from iter_json(text, object_pairs_hook=list)
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{name} is not valid JSON: {error}") from error


def _json_fields(entry: Any) -> tuple[str, dict[str, str]]:
    if not (isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[0], str)):
        raise _RowError(f"not a map of youtube ids: {str(entry)[:80]}")
    key, pairs = entry
    values = _object(key, pairs)
    annotation = _object(key, values.get("annotations"))
    segment = annotation.get("segment", values.get("segment"))
    if not (isinstance(segment, list) and len(segment) == 2):
        raise _RowError(f"entry {key!r}: annotations.segment is not [start, end]")
    fields = {"youtube_id": key, "start": str(segment[0]), "end": str(segment[1])}
    label = annotation.get("label", values.get("label"))
    if isinstance(label, list | bool):
        raise _RowError(f"entry {key!r}: label is not text")
    if label is not None:
        fields["label"] = str(label)
    if values.get("subset", values.get("split")) is not None:
        fields["split"] = str(values.get("subset", values.get("split")))
    return key, fields


def _object(key: str, pairs: Any) -> dict[str, Any]:
    """Returns a JSON object that was read as pairs; anything else, a list of other things too, as an empty one."""
    is_object = isinstance(pairs, list) and all(isinstance(pair, tuple) for pair in pairs)
    values: dict[str, Any] = dict(pairs) if is_object else {}
    if is_object and len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RowError(f"entry {key!r}: {max(names, key=names.count)!r} is there twice")
    return values


def _clip(fields: Mapping[str, str], default_split: str | None, *, is_labelled: bool) -> Clip:
    youtube_id = fields["youtube_id"].strip()
    if not YOUTUBE_ID_PATTERN.fullmatch(youtube_id):
        raise _RowError(f"youtube id {youtube_id!r} is not 11 characters of A-Z a-z 0-9 _ -")
    start_seconds, end_seconds = _seconds("start", fields["start"]), _seconds("end", fields["end"])
    if end_seconds <= start_seconds:
        raise _RowError(f"end {end_seconds:g} is not after start {start_seconds:g}")
    if end_seconds > LONGEST_VIDEO_SECONDS:
        raise _RowError(f"end {end_seconds:g} is behind the end of the longest video ({LONGEST_VIDEO_SECONDS} s)")
    if end_seconds - start_seconds > LONGEST_CLIP_SECONDS:
        raise _RowError(f"{start_seconds:g} to {end_seconds:g} is no clip: longer than {LONGEST_CLIP_SECONDS} s")
    spelling = fields.get("split", "").strip() or default_split
    if spelling is None:
        raise _RowError("no split (--as-split names one)")
    try:
        split = Split.parse(spelling)
    except ValueError as error:
        raise _RowError(str(error)) from error
    label = fields.get("label", "").strip() or None
    if label is not None and _NO_LABEL.search(label):
        raise _RowError(f"label {label!r} is not Unicode text, or holds control characters")
    if label is not None and not _is_seen(label):
        raise _RowError(f"label {label!r} holds nothing that is seen")
    if label is None and is_labelled and split is not Split.TEST:
        raise _RowError("empty label")
    return Clip(
        youtube_id=youtube_id,
        split=split,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        label=label,
    )


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text) if _is_number(text) else None
    except ValueError:
        value = None
    if value is None:
        raise _RowError(f"{name} {text!r} is not a number of seconds")
    if not math.isfinite(value) or value < 0:
        raise _RowError(f"{name} {text!r} is not a time in seconds, 0 or more")
    return value + 0.0  # Without the sign of "-0".


@lru_cache(maxsize=4096)
def _is_seen(label: str) -> bool:
    """Tells whether a person sees anything of a label; hundreds of clips share one."""
    return any(
        sign.isprintable() and not sign.isspace() and sign not in _BLANKS and unicodedata.category(sign) != "Mn"
        for sign in label
    )


def _is_number(text: str) -> bool:
    """Tells what ``float`` takes for numbers, and tables do not: 1_0, digits of other scripts."""
    return text.isascii() and "_" not in text
