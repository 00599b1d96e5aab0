"""k700-text stats: counts what manifest files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from k700_text.cli.common import emit_json, emit_table


def stats(
    files: Annotated[list[Path], typer.Argument(help="Manifest files, or folders of them.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Counts titles, states of videos and worth of audio, by split, source and label.

    Example: k700-text stats titles/train.parquet titles/val.parquet
    """
    from k700_text.manifest.stats import manifest_stats

    found = manifest_stats(files)
    if json:
        emit_json("stats", found.as_dict())
    else:
        emit_table("stats", found.rows())
