"""Reading of option values that several commands share, and of the clips and videos that files name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from k700_text.cli.common import say
from k700_text.errors import UsageError
from k700_text.records import Split

if TYPE_CHECKING:
    from k700_text.annotations import Annotations
    from k700_text.crawl.job import Shard

MIN_RATE = 1 / 86_400
# A century: dates have no room for any number of days.
MAX_DAYS = 36_500.0


def parse_split(text: str | None) -> Split | None:
    """Returns the split that an option names."""
    if text is None:
        return None
    try:
        return Split.parse(text)
    except ValueError as error:
        raise UsageError(str(error)) from error


def load_clips(
    annotations: Sequence[Path] | None,
    ids: Sequence[Path] | None,
    split: str | None,
    as_split: str | None,
    *,
    skip_invalid: bool,
) -> Annotations:
    """Returns what annotation files, or plain lists of videos, hold; says what was left out.

    Raises:
        UsageError: neither is given, or both.
        AnnotationError: a file cannot be read, or a row.
    """
    from k700_text.annotations import load_annotations
    from k700_text.crawl.id_lists import load_id_lists

    if bool(annotations) == bool(ids):
        raise UsageError("name either annotations (--annotations FILE) or a list of videos (--ids FILE)")
    read = load_id_lists if ids else load_annotations
    found = read(
        ids or annotations or [], split=parse_split(split), as_split=parse_split(as_split), skip_invalid=skip_invalid
    )
    for problem in found.skipped:
        say(f"left out: {problem}")
    if ids:
        counts = [(found.num_duplicates, "named again"), (len(found.skipped), "left out")]
        told = [f"{len(found.clips):,} videos", *(f"{count:,} {what}" for count, what in counts if count)]
        say(f"list: {', '.join(told)}")
    return found


def parse_names(text: str | None) -> list[str] | None:
    """Returns the names of a comma list, None where the option is not given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def parse_pairs(option: str, values: Sequence[str] | None) -> dict[str, str]:
    """Returns the values of a repeated ``SOURCE=VALUE`` option by source."""
    pairs = {}
    for value in values or []:
        name, separator, rest = value.partition("=")
        if not (name and separator and rest):
            raise UsageError(f"{option} {value!r}: expected SOURCE=VALUE")
        pairs[name] = rest
    return pairs


def parse_rates(values: Sequence[str] | None) -> dict[str, float]:
    """Returns requests per second by source."""
    rates = {}
    for name, text in parse_pairs("--rate", values).items():
        try:
            rates[name] = float(text)
        except ValueError:
            rates[name] = 0.0
        if not MIN_RATE <= rates[name] < float("inf"):
            raise UsageError(f"--rate {name}={text}: expected a number of requests per second, one a day or more")
    return rates


def parse_shard(text: str | None) -> Shard | None:
    """Returns the part that ``i/n`` names, counted from 1."""
    from k700_text.crawl.job import Shard

    if text is None:
        return None
    index, separator, count = text.partition("/")
    if not (separator and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--shard {text!r}: expected I/N with I from 1 to N, for example 2/8")
    return Shard(int(index), int(count))


def parse_columns(text: str | None) -> tuple[str, str] | None:
    """Returns the names of the id and the title column of a dump."""
    if text is None:
        return None
    names = parse_names(text) or []
    if len(names) != 2:
        raise UsageError(f"--dump-columns {text!r}: expected ID_COLUMN,TITLE_COLUMN")
    return names[0], names[1]


def read_removal_list(path: Path | None) -> list[str]:
    """Returns the ids of a removal list: one a line, or an address of the video; ``#`` begins a comment.

    Raises:
        UsageError: a line is no id, or the file is no UTF-8 text; nothing is removed then.
    """
    if path is None:
        return []
    from k700_text.crawl.id_lists import id_in_line

    ids = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: save it as UTF-8, one video id a line") from error
    for number, line in enumerate(lines, 1):
        youtube_id = id_in_line(line)
        if youtube_id is None:
            raise UsageError(
                f"{path}, line {number}: {line.strip()!r} is not a video id of 11 characters, or an address"
            )
        if youtube_id:
            ids.append(youtube_id)
    return ids
