"""k700-text crawl: asks the enabled sources for titles and writes the ledger and the manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from k700_text.cli.common import EXIT_WORK_LEFT, emit_json, emit_table, say
from k700_text.cli.options import (
    MAX_DAYS,
    load_clips,
    parse_columns,
    parse_names,
    parse_pairs,
    parse_rates,
    parse_shard,
    read_removal_list,
)
from k700_text.errors import NetworkDownError, UsageError

if TYPE_CHECKING:
    from k700_text.annotations import Annotations
    from k700_text.crawl.job import CrawlJob
    from k700_text.crawl.planner import CrawlPlan
    from k700_text.crawl.summary import CrawlSummary, SourceSummary

ENGINES = ("local", "ray")


def crawl(
    out: Annotated[Path, typer.Option(help="Folder of the ledger and the manifest.", show_default=False)],
    annotations: Annotated[
        list[Path] | None,
        typer.Option(help="Official CSV, JSON or tar.gz; one or several. Default: the official files are downloaded."),
    ] = None,
    ids: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE|-", help="In their place ids or addresses of videos, one a line or in a column; repeatable."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split: train, val or test.")] = None,
    as_split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Split of rows of which the file tells none. Lists: test.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask about the first N videos only.")] = None,
    sources: Annotated[
        str | None,
        typer.Option(help="Sources to ask, of dumps,data-api,oembed,thumbnail,wayback,archive-item,yt-dlp."),
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE=URL", help="Ask SOURCE at URL (http://host:port); repeatable."),
    ] = None,
    rate: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE=PER_SECOND", help="Requests per second; repeatable.")
    ] = None,
    quota: Annotated[
        int | None, typer.Option(metavar="UNITS", min=1, help="Units a day of your Data API project. Default: 10000.")
    ] = None,
    max_wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Longest pause of a host to wait for; else stop it.")
    ] = 60.0,
    dump: Annotated[
        list[Path] | None, typer.Option(help="Local file of ids and titles: csv, tsv, jsonl, parquet; repeatable.")
    ] = None,
    dump_columns: Annotated[
        str | None, typer.Option(metavar="ID,TITLE", help="Columns of the dumps, where their names are unusual.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option(help="Ask again about what ended without a title.")] = False,
    recheck_after: Annotated[
        float | None,
        typer.Option(metavar="DAYS", min=0, max=MAX_DAYS, help="Ask the live sources again about older answers."),
    ] = None,
    refresh_api: Annotated[
        bool, typer.Option(help="Renew Data API answers before they are 30 days old, delete those that are.")
    ] = False,
    removal_list: Annotated[
        Path | None, typer.Option(help="Ids to forget and never to ask about, one a line.", show_default=False)
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only part I of N; writes OUT/_ledger-I-of-N.sqlite.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: the parts run on a Ray cluster.")] = "local",
    parts: Annotated[
        int | None, typer.Option(min=1, help="Parts for --engine ray. Default: one per node.", show_default=False)
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what it would cost, ask nothing.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="In the end also write <split>.csv, as it is.")] = False,
    spreadsheet: Annotated[
        bool, typer.Option("--spreadsheet", help="And <split>.spreadsheet.csv, in which no title is a formula.")
    ] = False,
    skip_invalid: Annotated[bool, typer.Option(help="Leave malformed rows out and list them on stderr.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Recovers titles from the web; continues where it was. The key of data-api comes from YOUTUBE_API_KEY.

    Exit codes: 0 complete, 3 work left (prints when to resume), 130 interrupted, 1 failed, 2 usage.

    Example: k700-text crawl --ids my-videos.txt --csv --out titles
    """
    from k700_text.crawl import archive
    from k700_text.crawl.crawler import CrawlSettings
    from k700_text.crawl.job import CrawlJob, plan_job
    from k700_text.crawl.registry import ENDPOINT_NAMES, check_source_names, make_sources
    from k700_text.crawl.transport import Endpoints

    addresses, rates = parse_pairs("--endpoint", endpoint), parse_rates(rate)
    check_source_names(addresses, known=(*ENDPOINT_NAMES, archive.ENDPOINT_NAME))
    check_source_names(rates)
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}: expected one of {', '.join(ENGINES)}")
    places = Endpoints(addresses)
    job = CrawlJob(
        out=out,
        sources=parse_names(sources),
        endpoints={name: url for name, url in addresses.items() if name != archive.ENDPOINT_NAME},
        settings=CrawlSettings(rates=rates, daily_quota=quota, max_wait_seconds=max_wait),
        dumps=tuple(dump or ()),
        dump_columns=parse_columns(dump_columns),
        removed=tuple(read_removal_list(removal_list)),
        shard=parse_shard(shard),
        retry_failed=retry_failed,
        recheck_after=None if recheck_after is None else timedelta(days=recheck_after),
        refresh_api=refresh_api,
    )
    make_sources(job.sources, endpoints=Endpoints(job.endpoints))  # A wrong name is told before anything is read.
    if not (annotations or ids):
        annotations = [archive.fetch_annotations(archive.archive_folder(out), endpoints=places, say=say)]
    clips = load_clips(annotations, ids, split, as_split, skip_invalid=skip_invalid)
    if plan:
        _show_plan(plan_job(job, _first_ids(clips, limit)), as_json=json)
        return
    try:
        summary = _run(job, clips, limit, engine, parts)
    except NetworkDownError:
        if job.dumps and not job.shard:
            for file in _write_manifest(job, clips, csv=csv, spreadsheet=spreadsheet):
                say(f"{file}: has what the dumps told")
        raise
    files = [] if job.shard else _write_manifest(job, clips, csv=csv, spreadsheet=spreadsheet)
    _report(job, summary, clips, files, as_json=json)


def _show_plan(cost: CrawlPlan, *, as_json: bool) -> None:
    if as_json:
        emit_json("crawl", {"plan": cost.as_dict()})
    else:
        emit_table("plan", cost.rows())


def _run(job: CrawlJob, clips: Annotations, limit: int | None, engine: str, parts: int | None) -> CrawlSummary:
    from k700_text.cli.progress import crawl_progress
    from k700_text.crawl.job import run_job

    ids = _first_ids(clips, limit)

    def tell_plan(cost: CrawlPlan) -> None:
        _tell_plan(cost, job)

    with crawl_progress() as show:
        if engine == "ray":
            from k700_text.crawl.cluster import run_on_ray

            return run_on_ray(job, ids, parts=parts, on_plan=tell_plan, progress=show, say=say)
        return run_job(job, ids, on_plan=tell_plan, progress=show, say=say)


def _tell_plan(cost: CrawlPlan, job: CrawlJob) -> None:
    from k700_text.crawl.transport import CONTACT_VARIABLE

    for name, text in cost.rows():
        say(f"{name}: {text}")
    is_asking = any(source.num_requests for source in cost.sources)
    if is_asking and not os.environ.get(CONTACT_VARIABLE) and not job.endpoints:
        say(f"set {CONTACT_VARIABLE} to an address under which the services can reach you")


def _write_manifest(job: CrawlJob, clips: Annotations, *, csv: bool, spreadsheet: bool) -> list[Path]:
    from k700_text.manifest.build import build_manifest
    from k700_text.manifest.spreadsheet import write_csvs

    files = build_manifest(clips, job.ledger_path, None, job.out, keep_probe=True, on_wait=say)
    return files + write_csvs(files, plain=csv, for_spreadsheets=spreadsheet)


def _report(job: CrawlJob, summary: CrawlSummary, clips: Annotations, files: Sequence[Path], *, as_json: bool) -> None:
    """Prints the summary; leaves with the exit code for work left, if any is."""
    from k700_text.clashes import find_clashes

    clashes = find_clashes(clips.clips.spans())
    if as_json:
        values = {**summary.as_dict(), "clashes": clashes.as_dict(), "files": [str(file) for file in files]}
        emit_json("crawl", values)
    else:
        emit_table("crawl", [*summary.rows(), *clashes.rows(), *(("manifest", str(file)) for file in files)])
    if job.shard is not None:
        say(f"when all {job.shard.count} parts are done: k700-text merge {job.out} --out {job.out}")
    if summary.work_left:
        _say_what_is_left(summary)
        raise typer.Exit(EXIT_WORK_LEFT)


def _say_what_is_left(summary: CrawlSummary) -> None:
    for source in summary.sources:
        if source.num_left:
            say(f"{source.source}: {source.num_left} videos left ({source.stopped or _why_left(source)})")
    when = f"resume after {summary.resume_at:%Y-%m-%dT%H:%M:%SZ}" if summary.resume_at else "resume when you like"
    say(f"{when}: run the same command again")


def _why_left(source: SourceSummary) -> str:
    # An archive waits for the live sources: what these could not be asked about is no failure of its own.
    is_failed = source.num_left <= source.num_transient
    return "the service failed on them" if is_failed else "the sources before it have not answered about all of them"


def _first_ids(clips: Annotations, limit: int | None) -> Iterator[str]:
    """Returns the distinct ids of the first ``limit`` videos, of all where there is no limit."""
    return islice(clips.youtube_ids(), limit)
