"""k700-text sandbox: an offline stand-in for the services, with a miniature Kinetics to crawl and train on."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from k700_text.cli.common import emit_json, emit_table, say
from k700_text.files.atomic import write_whole

if TYPE_CHECKING:
    from k700_text.sandbox.server import SandboxServer
    from k700_text.sandbox.world import Miniature, World


def sandbox(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve on; 0 takes a free one.")] = 0,
    seed: Annotated[int, typer.Option(help="Another seed is another world.")] = 0,
    annotations: Annotated[
        Path | None, typer.Option(help="Write train.csv, val.csv and test.csv into this folder.", show_default=False)
    ] = None,
    clips: Annotated[
        Path | None, typer.Option(help="Write the clip files into this folder.", show_default=False)
    ] = None,
    labelled: Annotated[
        Path | None, typer.Option(help="Write a labelled evaluation set of other videos.", show_default=False)
    ] = None,
    num_classes: Annotated[int, typer.Option(min=1, max=10, help="Classes, 1 to 10.")] = 10,
    clips_per_class: Annotated[int, typer.Option(min=0, help="Training clips of each class.")] = 60,
    labelled_per_class: Annotated[int, typer.Option(min=0, help="Videos of each class in the evaluation set.")] = 12,
    workers: Annotated[int, typer.Option(min=1, help="Processes that write clips.")] = 2,
    serve: Annotated[bool, typer.Option(help="Serve until Ctrl-C.")] = True,
    hostile: Annotated[
        bool, typer.Option("--hostile", help="Serve a world full of odd titles, captures and items.")
    ] = False,
    storm: Annotated[
        bool, typer.Option("--storm", help="Answer some requests with faults, rate limits and block pages.")
    ] = False,
    enforce: Annotated[
        bool, typer.Option("--enforce", help="Let the web archive enforce its limits: 429, then a firewall.")
    ] = False,
    daily_quota: Annotated[int, typer.Option(min=0, help="Calls a day of the Data API.")] = 10_000,
    log: Annotated[bool, typer.Option(help="Keep every request in memory; without, only their number.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Writes a miniature Kinetics and serves what the web says about it, until Ctrl-C.

    Example: k700-text sandbox --port 8700 --annotations mini --clips mini/clips
    """
    from k700_text.sandbox.world import World, WorldConfig, make_kinetics

    world = World(seed=seed, config=WorldConfig.hostile() if hostile else None)
    miniature = make_kinetics(world, num_classes=num_classes, clips_per_class=clips_per_class)
    facts: dict[str, Any] = {"seed": seed, "clips": len(miniature.clips), "labels": list(miniature.labels)}
    if annotations is not None:
        facts["annotations"] = _write_annotations(miniature, annotations)
    facts.update(_write_clips(miniature, clips, labelled, labelled_per_class, workers))
    if serve:
        server = _server(world, miniature, port, storm=storm, enforce=enforce, daily_quota=daily_quota, log=log)
        _serve(server, facts, as_json=json)
    else:
        _tell(facts, as_json=json)


def _write_annotations(miniature: Miniature, folder: Path) -> list[str]:
    from k700_text.records import Split
    from k700_text.sandbox.services.annotations import annotations_csv

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for split in Split:
        path = folder / f"{split.value}.csv"
        write_whole(path, annotations_csv(miniature.split(split)))
        paths.append(str(path))
    return paths


def _write_clips(
    miniature: Miniature, clips: Path | None, labelled: Path | None, labelled_per_class: int, workers: int
) -> dict[str, Any]:
    from k700_text.cli.progress import item_progress
    from k700_text.sandbox.clips import generate_clips, generate_labelled_folder

    facts: dict[str, Any] = {}
    if clips is not None:
        with item_progress("clips") as show:
            report = generate_clips(miniature, clips, workers=workers, on_progress=show)
        facts["clip_files"] = {"folder": str(clips), "written": report.num_written, "kept": report.num_kept}
        facts["flawed_clips"] = report.flaws
    if labelled is not None:
        with item_progress("labelled clips") as show:
            report = generate_labelled_folder(
                miniature.world,
                labelled,
                num_classes=len(miniature.labels),
                videos_per_class=labelled_per_class,
                workers=workers,
                on_progress=show,
            )
        facts["labelled_files"] = {"folder": str(labelled), "written": report.num_written, "kept": report.num_kept}
    return facts


def _server(
    world: World, miniature: Miniature, port: int, *, storm: bool, enforce: bool, daily_quota: int, log: bool
) -> SandboxServer:
    from k700_text.sandbox.faults import Storm
    from k700_text.sandbox.server import SandboxServer

    return SandboxServer(
        world,
        clips=miniature.clips,
        port=port,
        storm=Storm(world.seed) if storm else None,
        enforce=enforce,
        daily_quota=daily_quota,
        log_size=None if log else 0,
    )


def _serve(server: SandboxServer, facts: dict[str, Any], *, as_json: bool) -> None:
    from k700_text.crawl.sources import SOURCE_NAMES, dumps, yt_dlp

    with server:
        facts["url"] = server.url
        facts["archive_url"] = server.archive_url
        facts["endpoint_options"] = " ".join(f"--endpoint {name}={url}" for name, url in _endpoints(server).items())
        # The published paces are for real hosts; a person who tries things out need not wait for them.
        rated = [name for name in SOURCE_NAMES if name not in (dumps.NAME, yt_dlp.NAME)]
        facts["rate_options"] = " ".join(f"--rate {name}=1000" for name in rated)
        _tell(facts, as_json=as_json)
        say(f"serving on {server.url}; Ctrl-C stops")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say(f"stopped after {server.count()} requests")
            for violation in server.violations():
                say(f"impolite: {violation}")


def _endpoints(server: SandboxServer) -> dict[str, str]:
    from k700_text.crawl.archive import ENDPOINT_NAME
    from k700_text.crawl.registry import ENDPOINT_NAMES

    return dict.fromkeys([*ENDPOINT_NAMES, ENDPOINT_NAME], server.url) | {"wayback": server.archive_url}


def _tell(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        emit_json("sandbox", facts)
    else:
        options = [facts.pop(name) for name in ("endpoint_options", "rate_options") if name in facts]
        emit_table("sandbox", [(name.replace("_", " "), value) for name, value in facts.items()])
        if options:
            say("crawl it, in another terminal, with these options (any YOUTUBE_API_KEY will do):")
        for line in options:
            print(line)
    # Whoever reads the port from a pipe gets it now, not at the end.
    sys.stdout.flush()
