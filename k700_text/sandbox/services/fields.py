"""Partial answers: the ``fields`` selector of the Data API, such as ``etag,items(id,snippet/title)``."""

from __future__ import annotations

import re
from typing import Any

Selection = dict[str, "Selection"]
"""Names to keep; an empty selection below a name keeps all of it."""

_TOKEN = re.compile(r"[A-Za-z0-9_*]+|[(),/]")


def parse_fields(text: str) -> Selection:
    """Returns the selection that a selector spells.

    Raises:
        ValueError: the selector is malformed.
    """
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text.replace(" ", "") or not tokens:
        raise ValueError(text)
    selection, rest = _parse_list(tokens)
    if rest:
        raise ValueError(text)
    return selection


def _parse_list(tokens: list[str]) -> tuple[Selection, list[str]]:
    selection: Selection = {}
    while True:
        tokens = _parse_path(tokens, selection)
        if not tokens or tokens[0] != ",":
            return selection, tokens
        tokens = tokens[1:]


def _parse_path(tokens: list[str], selection: Selection) -> list[str]:
    if not tokens or tokens[0] in "(),/":
        raise ValueError("a name was expected")
    inner = selection.setdefault(tokens[0], {})
    tokens = tokens[1:]
    if tokens[:1] == ["/"]:
        return _parse_path(tokens[1:], inner)
    if tokens[:1] == ["("]:
        nested, tokens = _parse_list(tokens[1:])
        if tokens[:1] != [")"]:
            raise ValueError("a bracket is not closed")
        inner.update(nested)
        return tokens[1:]
    return tokens


def unknown_names(selection: Selection, known: frozenset[str]) -> list[str]:
    """Returns the selected names that no answer ever holds."""
    unknown = [name for name in selection if name != "*" and name not in known]
    for inner in selection.values():
        unknown += unknown_names(inner, known)
    return unknown


def select(value: Any, selection: Selection) -> Any:
    """Returns the part of a JSON value that a selection keeps."""
    if not selection or "*" in selection:
        return value
    if isinstance(value, list):
        return [select(item, selection) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: select(value[name], inner) for name, inner in selection.items() if name in value}
