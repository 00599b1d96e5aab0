"""Progress of a crawl on stderr: bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from k700_text.cli.common import say, stderr

if TYPE_CHECKING:
    from k700_text.crawl.source_run import SourceProgress

PLAIN_LINE_SECONDS = 10.0

Show = Callable[[Sequence["SourceProgress"]], None]


@contextmanager
def crawl_progress() -> Iterator[Show]:
    """Gives the function that shows the state of all sources."""
    if not stderr.is_terminal:
        yield _plain_lines()
        return
    columns = (TextColumn("{task.description:>10}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=stderr, transient=False) as bars:
        yield _bars(bars)


def _bars(bars: Progress) -> Show:
    tasks: dict[str, TaskID] = {}

    def show(sources: Sequence[SourceProgress]) -> None:
        for source in sources:
            if source.source not in tasks:
                tasks[source.source] = bars.add_task(source.source, text="", total=None)
            bars.update(tasks[source.source], completed=source.done, total=source.total or 1, text=_text(source))

    return show


def _plain_lines() -> Show:
    last = time.monotonic()

    def show(sources: Sequence[SourceProgress]) -> None:
        nonlocal last
        if time.monotonic() - last < PLAIN_LINE_SECONDS:
            return
        last = time.monotonic()
        for source in sources:
            say(f"{source.source}: {_text(source)}")

    return show


def _text(source: SourceProgress) -> str:
    if source.note:
        return f"{source.done}/{source.total}, {source.note}"
    eta = "unknown" if source.eta_seconds is None else _span(source.eta_seconds)
    return f"{source.done}/{source.total}, {source.rate:.1f}/s, ETA {eta}"


def _span(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
