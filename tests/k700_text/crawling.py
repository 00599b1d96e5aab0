"""What the tests of the crawl share: a clock that jumps, ids of a wanted kind, and small annotation files."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from k700_text.crawl.limiter import Clock
from k700_text.crawl.transport import Response
from k700_text.records import Availability, OutcomeStatus, TitleOutcome
from k700_text.sandbox.world import SandboxVideo, World

REPOSITORY = Path(__file__).resolve().parents[2]
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
POSSIBLE_ID = "dQw4w9WgXcQ"
IMPOSSIBLE_ID = "dQw4w9WgXc1"


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

    def __call__(self, url: str, params: Mapping[str, str]) -> Response:
        self.params.append(dict(params))
        return self._answers.pop(0)
