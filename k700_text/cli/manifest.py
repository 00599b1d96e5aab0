"""k700-text manifest: writes manifest files from what is on disk, without any network."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from k700_text.cli.common import emit_json, emit_table, say
from k700_text.cli.options import MAX_DAYS, load_clips, read_removal_list


def manifest(
    out: Annotated[Path, typer.Option(help="Folder of the ledger and the manifest.", show_default=False)],
    annotations: Annotated[
        list[Path] | None, typer.Option(help="Official CSV, JSON or tar.gz; one or several.", show_default=False)
    ] = None,
    ids: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE|-", help="In their place ids or addresses of videos; repeatable."),
    ] = None,
    probe: Annotated[Path | None, typer.Option(help="File written by k700-text probe.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split: train, val or test.")] = None,
    as_split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Split of rows of which the file tells none. Lists: test.")
    ] = None,
    reparse: Annotated[
        bool, typer.Option("--reparse", help="First read the kept answers again by today's rules; asks nobody.")
    ] = False,
    max_api_age: Annotated[
        float | None,
        typer.Option(metavar="DAYS", min=0, max=MAX_DAYS, help="Leave out Data API answers older than this; 0: all."),
    ] = None,
    removal_list: Annotated[
        Path | None, typer.Option(help="Ids to forget and never to ask about, one a line.", show_default=False)
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Also write <split>.csv, as it is.")] = False,
    spreadsheet: Annotated[
        bool, typer.Option("--spreadsheet", help="And <split>.spreadsheet.csv, in which no title is a formula.")
    ] = False,
    skip_invalid: Annotated[bool, typer.Option(help="Leave malformed rows out and list them on stderr.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Writes one row per annotated clip, or video of a list, from the ledger in OUT (none: no titles) and a probe file.

    Example: k700-text manifest --annotations validate.csv --out titles --probe clips.parquet
    """
    from k700_text.crawl.ledger_place import ledger_in, settle_ledger
    from k700_text.manifest.build import build_manifest
    from k700_text.manifest.spreadsheet import write_csvs

    removed = read_removal_list(removal_list)
    found = load_clips(annotations, ids, split, as_split, skip_invalid=skip_invalid)
    ledger = ledger_in(out)
    if not ledger.exists():
        say(f"no ledger in {out}: the rows carry no titles (k700-text crawl recovers them)")
    elif removed or reparse:
        ledger = settle_ledger(out, say=say)
        _revise(ledger, removed, reparse=reparse)
    since = None if max_api_age is None else datetime.now(UTC) - timedelta(days=max_api_age)
    files = build_manifest(found, ledger if ledger.exists() else None, probe, out, api_since=since, on_wait=say)
    files += write_csvs(files, plain=csv, for_spreadsheets=spreadsheet)
    if json:
        emit_json("manifest", {"num_clips": len(found.clips), "files": [str(file) for file in files]})
    else:
        emit_table("manifest", [("clips", len(found.clips)), *(("file", file) for file in files)])


def _revise(path: Path, removed: list[str], *, reparse: bool) -> None:
    """Brings the ledger up to date with the removal list and with today's rules."""
    from k700_text.crawl.ledger import Ledger
    from k700_text.crawl.registry import parse_evidence

    with Ledger(path) as ledger:
        num_new = ledger.remove(removed)
        if removed:
            say(f"removal list: {len(removed)} videos, {num_new} of them new")
        if reparse:
            done = ledger.reparse(parse_evidence)
            say(
                f"read {done.num_answers} answers again: {done.num_changed} mean something else now "
                f"({done.num_titles_gained} titles gained, {done.num_titles_lost} lost), "
                f"{done.num_unreadable} cannot be read by today's rules and stay as they were"
            )
            if done.num_mended:
                say(f"{done.num_mended} damaged answers are as they were again, by what was kept of them")
            if done.dropped.num_rows:
                say(f"deleted, for k700-text crawl to ask again: {done.dropped}")
            if done.evidence_damaged.num_rows:
                say(f"kept, but they cannot be read again: {done.evidence_damaged}")
