"""k700-text annotations: reads annotation files and tells what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from k700_text.cli.common import emit_json, emit_table, say


def annotations_command(
    files: Annotated[list[Path], typer.Argument(help="Official CSV, JSON, .tar.gz or .zip.", show_default=False)],
    skip_invalid: Annotated[bool, typer.Option(help="Leave malformed rows out and list them on stderr.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Checks annotation files and counts what they hold; tells of clips in two splits, or over each other.

    Example: k700-text annotations kinetics700_2020.tar.gz
    """
    from k700_text.annotations import load_annotations
    from k700_text.clashes import find_clashes

    found = load_annotations(files, skip_invalid=skip_invalid)
    for problem in found.skipped:
        say(f"left out: {problem}")
    counts = {
        "clips": len(found.clips),
        "clips_by_split": {split.value: len(clips) for split, clips in found.clips.by_split()},
        "videos": sum(1 for _ in found.youtube_ids()),
        "labels": len(found.clips.labels()),
        "exact_duplicates": found.num_duplicates,
        "left_out": len(found.skipped),
        "sha256": found.sha256,
    }
    clashes = find_clashes(found.clips.spans())
    if json:
        emit_json("annotations", {**counts, "clashes": clashes.as_dict()})
    else:
        rows = [(name.replace("_", " "), value) for name, value in counts.items()]
        emit_table("annotations", [*rows, *clashes.rows()])
