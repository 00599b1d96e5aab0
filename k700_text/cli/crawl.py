"""k700-text crawl: asks the enabled sources for titles and writes the ledger and the manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from k700_text.cli.common import EXIT_WORK_LEFT, emit_json, emit_table, say
from k700_text.errors import UsageError
from k700_text.records import Split

if TYPE_CHECKING:
    from k700_text.annotations import Annotations
    from k700_text.crawl.crawler import CrawlSettings
    from k700_text.crawl.ledger import Ledger
    from k700_text.crawl.sources.base import Source
    from k700_text.crawl.summary import CrawlSummary
    from k700_text.crawl.transport import Endpoints

LEDGER_NAME = "ledger.sqlite"
MIN_RATE = 1 / 86_400


def crawl(
    out: Annotated[Path, typer.Option(help="Folder of the ledger and the manifest.", show_default=False)],
    annotations: Annotated[
        list[Path] | None,
        typer.Option(help="Official CSV, JSON or tar.gz; one or several. Default: the official files are downloaded."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split: train, val or test.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask about the first N videos only.")] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE=URL", help="Ask SOURCE at URL (http://host:port); repeatable."),
    ] = None,
    sources: Annotated[str | None, typer.Option(help="Sources to ask, in order: data-api,oembed.")] = None,
    rate: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE=PER_SECOND", help="Requests per second; repeatable.")
    ] = None,
    max_wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Longest pause of a host to wait for; else stop it.")
    ] = 60.0,
    plan: Annotated[bool, typer.Option("--plan", help="Print what it would cost, ask nothing.")] = False,
    skip_invalid: Annotated[bool, typer.Option(help="Leave malformed rows out and list them on stderr.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Recovers titles from the web; continues where it was. The key of data-api comes from YOUTUBE_API_KEY.

    Exit codes: 0 complete, 3 work left (prints when to resume), 130 interrupted, 1 failed, 2 usage.

    Example: k700-text crawl --annotations validate.csv --out titles
    """
    from k700_text.crawl import archive
    from k700_text.crawl.crawler import CrawlSettings, check_source_names, make_sources, plan_crawl
    from k700_text.crawl.ledger import Ledger
    from k700_text.crawl.sources import SOURCE_NAMES
    from k700_text.crawl.transport import CONTACT_VARIABLE, Endpoints

    addresses, rates = _pairs("--endpoint", endpoint), _rates(rate)
    check_source_names(addresses, known=(*SOURCE_NAMES, archive.ENDPOINT_NAME))
    check_source_names(rates)
    places = Endpoints(addresses)
    chosen = make_sources(_names(sources), endpoints=places)
    clips = _load(annotations, out, split, skip_invalid=skip_invalid, endpoints=places)
    settings = CrawlSettings(rates=rates, max_wait_seconds=max_wait)
    with Ledger(out / LEDGER_NAME) as ledger:
        num_ids = ledger.want(_first_ids(clips, limit))
        cost = plan_crawl(ledger, chosen, settings, num_ids)
        if plan:
            if json:
                emit_json("crawl", {"plan": cost.as_dict()})
            else:
                emit_table("plan", cost.rows())
            return
        for name, text in cost.rows():
            say(f"{name}: {text}")
        if not os.environ.get(CONTACT_VARIABLE) and any(places.is_own(source.name) for source in chosen):
            say(f"set {CONTACT_VARIABLE} to an address under which the services can reach you")
        _run_and_report(ledger, chosen, settings, num_ids, clips, out, json=json)


def _run_and_report(
    ledger: Ledger,
    chosen: Sequence[Source],
    settings: CrawlSettings,
    num_ids: int,
    clips: Annotations,
    out: Path,
    *,
    json: bool,
) -> None:
    """Crawls, writes the manifest, prints the summary; leaves with the exit code for work left, if any is."""
    from k700_text.cli.progress import crawl_progress
    from k700_text.crawl.crawler import crawl as run_crawl
    from k700_text.manifest.build import build_manifest

    with crawl_progress() as show:
        summary = run_crawl(ledger, chosen, settings, num_ids=num_ids, progress=show)
    files = build_manifest(clips, out / LEDGER_NAME, None, out, keep_probe=True)
    if json:
        emit_json("crawl", {**summary.as_dict(), "files": [str(file) for file in files]})
    else:
        emit_table("crawl", [*summary.rows(), *(("manifest", str(file)) for file in files)])
    if summary.work_left:
        _say_what_is_left(summary)
        raise typer.Exit(EXIT_WORK_LEFT)


def _say_what_is_left(summary: CrawlSummary) -> None:
    for source in summary.sources:
        if source.num_left:
            say(f"{source.source}: {source.num_left} videos left ({source.stopped or 'the service failed on them'})")
    when = f"resume after {summary.resume_at:%Y-%m-%dT%H:%M:%SZ}" if summary.resume_at else "resume when you like"
    say(f"{when}: run the same command again")


def _load(
    files: list[Path] | None, out: Path, split: str | None, *, skip_invalid: bool, endpoints: Endpoints
) -> Annotations:
    """Reads the annotations, the official ones where no file is given."""
    from k700_text.annotations import load_annotations
    from k700_text.crawl.archive import fetch_annotations

    wanted = parse_split(split)
    paths = files or [fetch_annotations(out / "annotations", endpoints=endpoints, say=say)]
    found = load_annotations(paths, split=wanted, skip_invalid=skip_invalid)
    for problem in found.skipped:
        say(f"left out: {problem}")
    return found


def parse_split(text: str | None) -> Split | None:
    """Returns the split that an option names."""
    if text is None:
        return None
    try:
        return Split.parse(text)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _first_ids(clips: Annotations, limit: int | None) -> Iterator[str]:
    """Yields the distinct ids of the first ``limit`` videos; ids may repeat where there is no limit."""
    if limit is None:
        yield from (clip.youtube_id for clip in clips.clips)
        return
    chosen: dict[str, None] = {}
    for clip in clips.clips:
        chosen.setdefault(clip.youtube_id)
        if len(chosen) == limit:
            break
    yield from chosen


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _pairs(option: str, values: list[str] | None) -> dict[str, str]:
    pairs = {}
    for value in values or []:
        name, separator, rest = value.partition("=")
        if not (name and separator and rest):
            raise UsageError(f"{option} {value!r}: expected SOURCE=VALUE")
        pairs[name] = rest
    return pairs


def _rates(values: list[str] | None) -> dict[str, float]:
    rates = {}
    for name, text in _pairs("--rate", values).items():
        try:
            rates[name] = float(text)
        except ValueError:
            rates[name] = 0.0
        if not MIN_RATE <= rates[name] < float("inf"):
            raise UsageError(f"--rate {name}={text}: expected a number of requests per second, one a day or more")
    return rates
