"""k700-text manifest: writes manifest files from what is on disk, without any network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from k700_text.cli.common import emit_json, emit_table, say
from k700_text.cli.crawl import LEDGER_NAME, parse_split


def manifest(
    annotations: Annotated[
        list[Path], typer.Option(help="Official CSV, JSON or tar.gz; one or several.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder of the ledger and the manifest.", show_default=False)],
    probe: Annotated[Path | None, typer.Option(help="File written by k700-text probe.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split: train, val or test.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Also write <split>.csv for spreadsheets.")] = False,
    skip_invalid: Annotated[bool, typer.Option(help="Leave malformed rows out and list them on stderr.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Writes one row per annotated clip from the ledger in OUT (none: rows without titles) and a probe file.

    Example: k700-text manifest --annotations validate.csv --out titles --probe clips.parquet
    """
    from k700_text.annotations import load_annotations
    from k700_text.manifest.build import build_manifest
    from k700_text.manifest.spreadsheet import write_csv

    found = load_annotations(annotations, split=parse_split(split), skip_invalid=skip_invalid)
    for problem in found.skipped:
        say(f"left out: {problem}")
    ledger = out / LEDGER_NAME
    if not ledger.exists():
        say(f"no ledger in {out}: the rows carry no titles (k700-text crawl recovers them)")
    files = build_manifest(found, ledger if ledger.exists() else None, probe, out)
    if csv:
        files += [write_csv(file, file.with_suffix(".csv")) for file in files]
    if json:
        emit_json("manifest", {"num_clips": len(found.clips), "files": [str(file) for file in files]})
    else:
        emit_table("manifest", [("clips", len(found.clips)), *(("file", file) for file in files)])
