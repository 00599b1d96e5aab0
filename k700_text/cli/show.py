"""k700-text show: a sheet of some clips of a manifest, to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from k700_text.cli.common import emit_json, emit_table
from k700_text.errors import UsageError

_KINDS = (".html", ".htm", ".png")


def show(
    manifests: Annotated[
        list[Path],
        typer.Argument(metavar="MANIFEST...", help="Manifest files (Parquet), or folders of them.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="sheet.html or sheet.png.", show_default=False)],
    clips: Annotated[
        str | None,
        typer.Option(help="Folder of clip files, or of prepared shards. Without: only what the manifest says."),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Draw from these rows, such as \"has_audio and label == 'yoga'\".")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=200, help="Clips to draw.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other clips.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draws clips at random and shows frames, log-mel, title, label, flags, loudness, or why there is nothing to see.

    Example: k700-text show titles/val.parquet --clips clips --where "has_text and has_audio" --out sheet.html
    """
    if out.suffix.lower() not in _KINDS:
        raise UsageError(f"--out {out}: expected a name that ends with .html or .png")
    from k700_text.files.atomic import whole_file
    from k700_text.report.page import sheet_html
    from k700_text.report.pictures import check_pillow, sheet_png
    from k700_text.report.sheet import make_sheet

    check_pillow()
    sheet = make_sheet(manifests, clips, where=where, count=count, seed=seed, workers=1)
    content = sheet_png(sheet) if out.suffix.lower() == ".png" else sheet_html(sheet).encode()
    with whole_file(out) as file:
        file.write(content)
    problems = [(clip.row["clip_id"], "; ".join(clip.problems)) for clip in sheet.clips if clip.problems]
    counts = {"out": str(out), "num_clips": len(sheet.clips), "num_rows": sheet.num_rows}
    if json:
        emit_json("show", {**counts, "problems": dict(problems)})
    else:
        rows = [("out", out), ("clips", len(sheet.clips)), ("drawn from", sheet.num_rows)]
        emit_table("show", [*rows, *problems])
