"""k700-text validate: checks manifest files and ledgers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from k700_text.cli.common import EXIT_FAILED, emit_json, emit_table, shown


def validate(
    files: Annotated[list[Path], typer.Argument(help="Manifest files (Parquet), or ledgers.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Checks schema, keys, order, values and flags of manifest files; lists all problems, exit code 1 if any.

    Of a ledger (*.sqlite): whether every answer fits its checksum, and its evidence its hash.

    Of all files together it tells of clips in two splits, or over each other; that is no problem of a file.

    Example: k700-text validate titles/val.parquet
    """
    from k700_text.manifest.validate import manifest_clashes, validate_manifests

    ledgers = [file for file in files if file.suffix == ".sqlite"]
    manifests = [file for file in files if file not in ledgers]
    problems = [*validate_manifests(manifests), *_problems_of(ledgers)]
    clashes = manifest_clashes(manifests)
    if json:
        values = {"valid": not problems, "problems": [str(problem) for problem in problems]}
        emit_json("validate", {**values, "clashes": clashes.as_dict()})
    elif problems:
        for line in (*problems, *(f"{name}: {text}" for name, text in clashes.rows())):
            print(shown(str(line)))
    else:
        emit_table("validate", [*((str(file), "valid") for file in files), *clashes.rows()])
    if problems:
        raise typer.Exit(EXIT_FAILED)


def _problems_of(ledgers: list[Path]) -> list[str]:
    from k700_text.crawl.answers import check_answers
    from k700_text.errors import LedgerError

    problems = []
    for ledger in ledgers:
        try:
            check_answers(ledger)
        except LedgerError as error:
            problems.append(str(error))
    return problems
