"""k700-text diff: tells what changed between two manifests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from k700_text.cli.common import emit_json, emit_table, tell

if TYPE_CHECKING:
    from k700_text.manifest.diff import Change


def diff(
    before: Annotated[Path, typer.Argument(help="Manifest file, or a folder of them.", show_default=False)],
    after: Annotated[Path, typer.Argument(help="The later one.", show_default=False)],
    list_all: Annotated[bool, typer.Option("--list", help="Also print one line per change.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object with counts and complete lists.")] = False,
) -> None:
    """Tells which videos died, came back, changed their title, appeared or disappeared between two manifests.

    Example: k700-text diff titles-2026-01 titles-2026-07 --list
    """
    from k700_text.manifest.diff import diff_manifests

    found = diff_manifests(before, after)
    if json:
        emit_json("diff", found.as_dict())
        return
    emit_table("diff", found.rows())
    if list_all:
        for change in found:
            tell(_line(change))


def _line(change: Change) -> str:
    if change.kind == "appeared":
        return f"{change.kind}  {change.youtube_id}  {change.after}"
    if change.kind == "disappeared":
        return f"{change.kind}  {change.youtube_id}  {change.before}"
    before, after = ("(none)" if value is None else value for value in (change.before, change.after))
    return f"{change.kind}  {change.youtube_id}  {before} -> {after}"
