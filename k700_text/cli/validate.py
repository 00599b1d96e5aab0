"""k700-text validate: checks manifest files and ledgers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from k700_text.cli.common import EXIT_FAILED, emit_json, emit_table, tell

_VALID = {False: "valid", True: "valid; rewritten by another program"}


def validate(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILES...", help="Manifest files or folders of them, or ledgers.", show_default=False),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Checks schema, keys, order, values and flags of manifest files; lists all problems, exit code 1 if any.

    Of what another program wrote the columns count: other types for the same values, further columns and another order
    are no problem.
    Of a ledger (*.sqlite): whether every answer fits its checksum, and its evidence its hash.

    Of all files together it tells of clips in two splits, or over each other; that is no problem of a file.

    Example: k700-text validate titles/val.parquet
    """
    from k700_text.manifest.validate import is_rewritten, manifest_clashes, validate_manifests
    from k700_text.manifest_files import manifest_files

    ledgers = [path for path in paths if path.suffix == ".sqlite"]
    files = manifest_files([path for path in paths if path not in ledgers])
    problems = [*validate_manifests(files), *_problems_of(ledgers)]
    clashes = manifest_clashes(files)
    if json:
        values = {"valid": not problems, "problems": [str(problem) for problem in problems]}
        emit_json("validate", {**values, "clashes": clashes.as_dict()})
    elif problems:
        for line in (*problems, *(f"{name}: {text}" for name, text in clashes.rows())):
            tell(str(line))
    else:
        emit_table("validate", [*((str(file), _VALID[is_rewritten(file)]) for file in files), *clashes.rows()])
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
