"""k700-text merge: brings the ledgers of parts or machines into one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from k700_text.cli.common import emit_json, emit_table, say
from k700_text.errors import UsageError


def merge(
    ledgers: Annotated[
        list[Path], typer.Argument(help="Ledger files, or folders of them (_ledger-*.sqlite).", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder whose ledger takes them in.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Unites the answers of several ledgers in OUT/_ledger.sqlite; merging again changes nothing.

    Example: k700-text merge machine-a/_ledger-1-of-2.sqlite machine-b/_ledger-2-of-2.sqlite --out titles
    """
    from k700_text.crawl.ledger import Ledger
    from k700_text.crawl.ledger_place import ledger_in
    from k700_text.crawl.merge import merge_ledgers

    files = [file for path in ledgers for file in _files(path)]
    path = ledger_in(out)
    with Ledger(path) as target:
        summary = merge_ledgers(target, files)
    for line in summary.damage:
        say(line)
    values = {**asdict(summary), "ledger": str(path)}
    del values["damage"]
    if json:
        emit_json("merge", values)
    else:
        emit_table("merge", [(name.removeprefix("num_").replace("_", " "), value) for name, value in values.items()])


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    from k700_text.crawl.ledger_place import part_ledgers

    found = part_ledgers(path)
    if not found:
        raise UsageError(f"{path} holds no _ledger-*.sqlite: name the ledger files themselves")
    return found
