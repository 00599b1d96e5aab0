"""A manifest of 650,000 clips from annotations and ledger, beside a plain pandas script for the same columns.

Expected before measuring: 12 s, most of it in building a record per answer. The first version took 55 s and 0.4 GB: it
read the ledger once per split, and built records on both sides. Aim (issue "A crawl that can be trusted"): under 10 s
and 1 GB, annotations included, with one answer per video. The pandas script takes the last title it sees, judges no
state, and streams nothing.

Run it on an idle machine. ``python benchmarks/manifest_build.py [CLIPS]``
"""

from __future__ import annotations

import json
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from k700_text.crawl.ledger import Ledger
from k700_text.records import Availability, OutcomeStatus, TitleOutcome

NUM_CLIPS = 650_000
ANSWERS_PER_VIDEO = (1, 3)
SHARES = (("train", 0.83), ("validate", 0.06), ("test", 0.11))
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def write_annotations(path: Path, num_clips: int) -> list[str]:
    """Writes an official-looking CSV of one clip per video and returns the ids in order."""
    rng = random.Random(0)
    ids = {"".join(rng.choices(ALPHABET, k=10)) + rng.choice("AEIMQUYcgkosw048") for _ in range(num_clips)}
    splits = rng.choices([name for name, _ in SHARES], [share for _, share in SHARES], k=len(ids))
    with path.open("w", encoding="ascii") as file:
        file.write("label,youtube_id,time_start,time_end,split\n")
        for index, (youtube_id, split) in enumerate(zip(sorted(ids), splits, strict=True)):
            file.write(f"doing thing {index % 700},{youtube_id},{index % 300},{index % 300 + 10},{split}\n")
    return sorted(ids)


def answers(ids: list[str], number: int) -> Iterator[TitleOutcome]:
    """Yields what sources answer, one source after the other; one video in seven is gone."""
    for source in ("data-api", "oembed", "thumbnail")[:number]:
        for index, youtube_id in enumerate(ids):
            title = f"Title number {index} \u2013 of some length, as titles are" if index % 7 else None
            if source == "thumbnail":
                title = None
            yield TitleOutcome(
                youtube_id=youtube_id,
                source=source,
                status=OutcomeStatus.TITLE if title else OutcomeStatus.NO_TITLE,
                availability=Availability.PUBLIC if index % 7 else Availability.NOT_FOUND,
                title=title,
                raw_title=title,
                reason=None if title else "none",
                published_at=NOON - timedelta(days=index % 4000) if source == "data-api" and title else None,
                fetched_at=NOON + timedelta(seconds=index / 4),
                evidence=json.dumps({"id": youtube_id, "title": title}).encode() * 3,
            )


def ours(folder: Path) -> None:
    """Reads the annotations and writes the manifest."""
    from k700_text.annotations import load_annotations
    from k700_text.manifest.build import build_manifest

    build_manifest(load_annotations([folder / "a.csv"]), folder / "ledger.sqlite", None, folder / "ours")


def pandas(folder: Path) -> None:
    """Does what a short script would do: everything in memory, the last title wins."""
    import pandas as pd

    from k700_text.schema import MANIFEST_SCHEMA

    clips = pd.read_csv(folder / "a.csv", keep_default_na=False, dtype={"youtube_id": str})
    clips = clips.rename(columns={"time_start": "start_seconds", "time_end": "end_seconds"})
    spans = clips[["start_seconds", "end_seconds"]].astype(str).apply(lambda column: column.str.zfill(6))
    clips["clip_id"] = clips["youtube_id"] + "_" + spans["start_seconds"] + "_" + spans["end_seconds"]
    connection = sqlite3.connect(folder / "ledger.sqlite")
    found = pd.read_sql("SELECT * FROM outcomes WHERE status <> 'transient' ORDER BY fetched_at", connection)
    connection.close()
    found = found.drop(columns=["evidence"]).rename(
        columns={"source": "title_source", "fetched_at": "title_fetched_at"}
    )
    titled = found[found["title"].notna()].drop_duplicates("youtube_id", keep="last")
    states = found.drop_duplicates("youtube_id", keep="last")[["youtube_id", "availability"]]
    table = clips.merge(titled.drop(columns=["availability"]), on="youtube_id", how="left")
    table = table.merge(states, on="youtube_id", how="left").sort_values(["split", "clip_id"])
    for name in ("title_fetched_at", "published_at"):
        table[name] = pd.to_datetime(table[name], format="ISO8601", utc=True)
    table["has_text"] = table["title"].notna()
    (folder / "pandas").mkdir(exist_ok=True)
    for split, part in table.reindex(columns=MANIFEST_SCHEMA.names).groupby("split"):
        part.to_parquet(folder / "pandas" / f"{split}.parquet", index=False, compression="zstd")


RUNS: dict[str, Callable[[Path], None]] = {"ours": ours, "pandas": pandas}


def measure(name: str, folder: Path) -> dict[str, float]:
    """Returns seconds, seconds of processor time and peak megabytes of a run in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--run", name, str(folder)], check=True, stdout=subprocess.PIPE, text=True
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def run(name: str, folder: Path) -> None:
    """Runs one side in this process and prints its figures, imports of the packages included."""
    started = time.perf_counter()
    RUNS[name](folder)
    seconds = round(time.perf_counter() - started, 2)
    peak_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps({"seconds": seconds, "cpu_seconds": round(time.process_time(), 2), "peak_mb": peak_mb}))


def main(num_clips: int) -> None:
    """Makes the inputs, runs both sides, prints the table and the JSON line."""
    results: dict[str, object] = {"benchmark": "manifest_build", "clips": num_clips}
    print(f"{'answers per video':20}{'':8}{'seconds':>10}{'of CPU':>10}{'peak MB':>10}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ids = write_annotations(folder / "a.csv", num_clips)
        for number in ANSWERS_PER_VIDEO:
            (folder / "ledger.sqlite").unlink(missing_ok=True)
            with Ledger(folder / "ledger.sqlite") as ledger:
                for answer in answers(ids, number):
                    ledger.record(answer)
            sides = {side: measure(side, folder) for side in RUNS}
            for side, figures in sides.items():
                seconds, cpu_seconds, peak_mb = figures.values()
                print(f"{number:<20}{side:8}{seconds:10.1f}{cpu_seconds:10.1f}{peak_mb:10.0f}")
                results[f"{side}_{number}"] = figures
            results[f"ratio_{number}"] = round(sides["pandas"]["seconds"] / sides["ours"]["seconds"], 2)
    print(json.dumps(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2], Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else NUM_CLIPS)
