"""Reading of option values that several commands share: ``NAME=VALUE`` pairs, lists, splits, shards, id lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from k700_text.errors import UsageError
from k700_text.records import YOUTUBE_ID_PATTERN, Split

if TYPE_CHECKING:
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
    """Returns the ids of a removal list: one a line, ``#`` begins a comment.

    Raises:
        UsageError: a line is no id, or the file is no UTF-8 text; nothing is removed then.
    """
    if path is None:
        return []
    ids = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: save it as UTF-8, one video id a line") from error
    for number, line in enumerate(lines, 1):
        word = line.partition("#")[0].strip()
        if word and not YOUTUBE_ID_PATTERN.fullmatch(word):
            raise UsageError(f"{path}, line {number}: {word!r} is not a video id of 11 characters")
        if word:
            ids.append(word)
    return ids
