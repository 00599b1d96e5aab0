"""Outcomes per second that the ledger stores, beside the shortest SQLite program that would do.

The peer inserts (id, title, raw answer) one by one and commits each (what a quick script does, in WAL mode), and in one
transaction of all (which loses everything when killed). Expected before measuring: a commit each costs ten times ours;
one transaction without hash, compression and index is some three times as fast. Aim: at least 20,000 outcomes/s.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import tempfile
import time
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from k700_text.crawl.ledger import Ledger
from k700_text.records import Availability, OutcomeStatus, TitleOutcome
from k700_text.sandbox.messages import Request
from k700_text.sandbox.services.oembed import Oembed
from k700_text.sandbox.world import World

NUM_OUTCOMES, NUM_ROUNDS = 60_000, 3


def make_outcomes() -> list[TitleOutcome]:
    """Returns outcomes with real oEmbed answers as evidence."""
    world = World(seed=1)
    service = Oembed(world)
    outcomes = []
    for youtube_id in islice(world.random_ids("ledger"), NUM_OUTCOMES):
        target = f"/oembed?url=https%3A%2F%2Fwww.youtube.com%2Fwatch%3Fv%3D{youtube_id}&format=json"
        body = service.answer(Request("GET", target, {})).body
        title = f"title of {youtube_id}"
        outcomes.append(
            TitleOutcome(
                youtube_id=youtube_id,
                source="oembed",
                status=OutcomeStatus.TITLE,
                availability=Availability.PUBLIC,
                title=title,
                raw_title=title,
                http_status=200,
                fetched_at=datetime.now(UTC),
                evidence=body,
            )
        )
    return outcomes


def ours(folder: Path, outcomes: list[TitleOutcome]) -> float:
    """Returns outcomes per second until the last one is committed."""
    with Ledger(folder / "ours.sqlite") as ledger:
        started = time.perf_counter()
        for outcome in outcomes:
            ledger.record(outcome)
        ledger.flush()
        return len(outcomes) / (time.perf_counter() - started)


def plain(folder: Path, outcomes: list[TitleOutcome], *, commit_each: bool) -> float:
    """Returns rows per second of a quick script."""
    connection = sqlite3.connect(folder / f"plain{commit_each}.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE titles (youtube_id TEXT, title TEXT, answer BLOB)")
    started = time.perf_counter()
    if not commit_each:
        connection.execute("BEGIN")
    for outcome in outcomes:
        values = (outcome.youtube_id, outcome.title, outcome.evidence)
        connection.execute("INSERT INTO titles VALUES (?, ?, ?)", values)
    if not commit_each:
        connection.execute("COMMIT")
    seconds = time.perf_counter() - started
    connection.close()
    return len(outcomes) / seconds


def main() -> None:
    """Runs all three in turn and prints medians."""
    outcomes = make_outcomes()
    rates: dict[str, list[float]] = {"ours": [], "commit each": [], "one transaction": []}
    for _ in range(NUM_ROUNDS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rates["ours"].append(ours(folder, outcomes))
            rates["commit each"].append(plain(folder, outcomes, commit_each=True))
            rates["one transaction"].append(plain(folder, outcomes, commit_each=False))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in medians.items():
        print(f"{name:16}{value:12,.0f} outcomes/s{value / medians['ours']:8.2f} x ours")
    ratio = medians["ours"] / medians["commit each"]
    print(json.dumps({"benchmark": "ledger_write", **medians, "ratio": ratio, "outcomes": NUM_OUTCOMES}))


if __name__ == "__main__":
    main()
