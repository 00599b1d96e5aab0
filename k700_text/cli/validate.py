"""k700-text validate: checks manifest files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from k700_text.cli.common import EXIT_FAILED, emit_json, emit_table, tell


def validate(
    files: Annotated[list[Path], typer.Argument(help="Manifest files (Parquet).", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Checks schema, keys, order, values and flags of manifest files; lists all problems, exit code 1 if any.

    Of all files together it tells of clips in two splits, or over each other; that is no problem of a file.

    Example: k700-text validate titles/val.parquet
    """
    from k700_text.manifest.validate import manifest_clashes, validate_manifests

    problems = validate_manifests(files)
    clashes = manifest_clashes(files)
    if json:
        values = {"valid": not problems, "problems": [str(problem) for problem in problems]}
        emit_json("validate", {**values, "clashes": clashes.as_dict()})
    elif problems:
        for line in (*problems, *(f"{name}: {text}" for name, text in clashes.rows())):
            tell(str(line))
    else:
        emit_table("validate", [*((str(file), "valid") for file in files), *clashes.rows()])
    if problems:
        raise typer.Exit(EXIT_FAILED)
