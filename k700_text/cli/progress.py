"""Progress on stderr: bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from k700_text.cli.common import say, stderr

if TYPE_CHECKING:
    from k700_text.crawl.source_run import SourceProgress

PLAIN_LINE_SECONDS = 10.0

Show = Callable[[Sequence["SourceProgress"]], None]
ShowCount = Callable[[int, int], None]


@contextmanager
def crawl_progress() -> Iterator[Show]:
    """Gives the function that shows the state of all sources."""
    if not stderr.is_terminal:
        yield _plain_lines()
        return
    columns = (TextColumn("{task.description:>10}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=stderr, transient=False) as bars:
        yield _bars(bars)


@contextmanager
def item_progress(name: str) -> Iterator[ShowCount]:
    """Gives the function that shows how many items are done; nothing is shown before its first call."""
    pace = _Pace()
    if not stderr.is_terminal:
        yield _plain_counts(name, pace)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    bar = Progress(*columns, console=stderr)
    task = bar.add_task(name, total=None, text="")

    def show(num_done: int, num_items: int) -> None:
        bar.start()
        bar.update(task, completed=num_done, total=num_items, text=pace.text(num_done, num_items))

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def phase_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Gives the function that shows how many items of a phase are done; phases follow on one another."""
    with ExitStack() as stack:
        phase = ""
        show_count: ShowCount | None = None

        def show(name: str, num_done: int, num_items: int) -> None:
            nonlocal phase, show_count
            if show_count is None or name != phase:
                stack.close()
                phase, show_count = name, stack.enter_context(item_progress(name))
            show_count(num_done, num_items)

        yield show


class _Pace:
    """How fast it goes, by what was done since it was first asked: what an earlier run has done took no time."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def text(self, num_done: int, num_items: int) -> str:
        """Returns items per second and the time that the rest will take; nothing before there is a rate."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, num_done)
        began, num_before = self._first
        if num_done <= num_before or now <= began:
            return ""
        rate = (num_done - num_before) / (now - began)
        return f"{rate:.1f}/s, ETA {span((num_items - num_done) / rate)}"


def _plain_counts(name: str, pace: _Pace) -> ShowCount:
    last = time.monotonic()

    def show(num_done: int, num_items: int) -> None:
        nonlocal last
        text = pace.text(num_done, num_items)
        if time.monotonic() - last >= PLAIN_LINE_SECONDS:
            last = time.monotonic()
            say(", ".join(filter(None, (f"{name}: {num_done}/{num_items}", text))))

    return show


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
    eta = "unknown" if source.eta_seconds is None else span(source.eta_seconds)
    return f"{source.done}/{source.total}, {source.rate:.1f}/s, ETA {eta}"


def span(seconds: float) -> str:
    """Returns a length of time as hours, minutes and seconds."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
