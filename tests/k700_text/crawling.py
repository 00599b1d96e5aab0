"""What the tests of the crawl share: a clock that jumps, ids of a wanted kind, and small annotation files."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from k700_text.crawl.limiter import Clock
from k700_text.crawl.transport import Response
from k700_text.records import Availability, OutcomeStatus, TitleOutcome
from k700_text.sandbox.world import SandboxVideo, World

REPOSITORY = Path(__file__).resolve().parents[2]
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
POSSIBLE_ID = "dQw4w9WgXcQ"
IMPOSSIBLE_ID = "dQw4w9WgXc1"


class FastClock(Clock):
    """A clock that is ``speed`` times as fast as the wall's."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._real_start = time.monotonic()
        self._start = datetime.now(UTC)

    def monotonic(self) -> float:
        return (time.monotonic() - self._real_start) * self.speed

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic())

    def timestamp(self) -> float:
        """Returns seconds since 1970: the clock of the sandbox."""
        return self.now().timestamp()

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        return stop.wait(seconds / self.speed) if seconds > 0 else stop.is_set()


class JumpingClock(Clock):
    """Waiting takes no time: the clock jumps."""

    def __init__(self, now: datetime = NOON) -> None:
        self._now = now
        self._seconds = 0.0
        self.waits: list[float] = []
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        return self._seconds

    def now(self) -> datetime:
        return self._now + timedelta(seconds=self._seconds)

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        with self._lock:
            if seconds > 0:
                self.waits.append(seconds)
                self._seconds += seconds
        return stop.is_set()


def make_ids(number: int, purpose: str = "crawl") -> list[str]:
    """Returns that many distinct possible ids."""
    return list(islice(World(seed=0).random_ids(purpose), number))


def ids_where(condition: Callable[[SandboxVideo], bool], number: int) -> list[str]:
    """Returns ids whose video in the sandbox world fulfils the condition."""
    world = World(seed=0)
    return list(islice((each for each in world.random_ids("where") if condition(world.video(each))), number))


def write_annotations(path: Path, ids: Iterable[str], split: str = "validate") -> Path:
    """Writes an official-looking CSV with one clip per id."""
    lines = [f"label {index % 7},{each},{index},{index + 10},{split}" for index, each in enumerate(ids)]
    path.write_text("\n".join(["label,youtube_id,time_start,time_end,split", *lines]) + "\n")
    return path


def answer(status: int = 200, body: object = b"", headers: Mapping[str, str] | None = None) -> Response:
    """Returns a response; what is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, dict(headers or {}), data, 0.01)


def outcome(youtube_id: str = POSSIBLE_ID, source: str = "oembed", **values: Any) -> TitleOutcome:
    """Returns an outcome: a title unless told otherwise."""
    title = values.pop("title", None)
    default = OutcomeStatus.TITLE if title else OutcomeStatus.NO_TITLE
    values.setdefault("availability", Availability.UNKNOWN)
    values.setdefault("fetched_at", NOON)
    status = values.pop("status", default)
    return TitleOutcome(youtube_id=youtube_id, source=source, status=status, title=title, **values)


class Answers:
    """Stands in for ``get``: gives prepared answers and keeps the parameters."""

    def __init__(self, answers: Sequence[Response]) -> None:
        self._answers = list(answers)
        self.params: list[dict[str, str]] = []

    def __call__(
        self, url: str, params: Mapping[str, str] | None = None, *, method: str = "GET", lane: str | None = None
    ) -> Response:
        self.params.append(dict(params or {}))
        return self._answers.pop(0)


def command(*arguments: str | Path) -> list[str]:
    """Returns the words that run k700-text in a process of its own."""
    program = "from k700_text.cli.main import run; run()"
    return [sys.executable, "-c", program, *map(str, arguments)]


def call(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs k700-text in a process of its own."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
    )


def rows_without_times(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a manifest but for the times at which answers came."""
    rows: list[dict[str, Any]] = pq.read_table(path).drop_columns(["title_fetched_at"]).to_pylist()
    return rows


def finished(ledger: Path) -> set[tuple[str, str]]:
    """Returns the pairs that are answered for good, after checking that the file is sound."""
    if not ledger.exists():
        return set()
    connection = sqlite3.connect(ledger)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'outcomes'").fetchall():
            return set()
        return set(connection.execute("SELECT youtube_id, source FROM outcomes WHERE status <> 'transient'").fetchall())
    finally:
        connection.close()
