"""What a manifest of 650,000 rows costs a loader: seconds to open, and private memory of each process over an epoch.

Ours is ``KineticsAVT`` on a folder of 650,000 clip files (empty ones: the manifest says that they hold nothing, so no
decoder gets in the way). The peers are the datasets that one finds everywhere, with the same manifest: a list of
dicts, and a pandas DataFrame, read in ``__init__`` and indexed in ``__getitem__``. Each is opened in a process of its
own that forks two workers, and these read every row once, in random order; what they hold alone is read from the kernel
at the first row and at the last (``Private_*`` of ``smaps_rollup``, so Linux only).

Expected before measuring: the list grows by 100 MB a worker, because counting references writes to every object;
pandas by some 50; ours by nothing but buffers (loader notes, 5).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from k700_text.config import AudioConfig, TextConfig, VideoConfig
from k700_text.data.dataset import KineticsAVT
from k700_text.schema import MANIFEST_SCHEMA, with_metadata

NUM_ROWS, NUM_QUICK_ROWS, NUM_WORKERS = 650_000, 50_000, 2
FOLDER_SIZE = 5000


def make_manifest(path: Path, num_rows: int) -> list[str]:
    """Writes a manifest whose rows name clips without video and audio; returns their ids."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"))
    video_ids = ["".join(row) for row in letters[rng.integers(0, 64, (num_rows, 11))]]
    starts = rng.integers(0, 600, num_rows)
    words = np.array(
        ["how", "to", "best", "funny", "dog", "guitar", "lesson", "part", "school", "trip", "live", "2014"]
    )
    clip_ids = [f"{video}_{start:06d}_{start + 10:06d}" for video, start in zip(video_ids, starts, strict=True)]
    columns: dict[str, Any] = {
        "clip_id": clip_ids,
        "youtube_id": video_ids,
        "split": ["train"] * num_rows,
        "label": [f"label {number}" for number in rng.integers(0, 700, num_rows)],
        "start_seconds": starts.astype(float),
        "end_seconds": starts.astype(float) + 10,
        "title": [" ".join(row) for row in words[rng.integers(0, len(words), (num_rows, 8))]],
        "availability": ["public"] * num_rows,
        "availability_sources": [["oembed"]] * num_rows,
        "has_video": [False] * num_rows,
        "has_audio": [False] * num_rows,
        "has_text": [True] * num_rows,
    }
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(num_rows, field.type)
        for field in MANIFEST_SCHEMA
    ]
    pq.write_table(pa.Table.from_arrays(arrays, schema=with_metadata(MANIFEST_SCHEMA)), path)
    return clip_ids


def make_files(folder: Path, clip_ids: list[str]) -> None:
    """Makes an empty clip file for every id."""
    for number, clip_id in enumerate(clip_ids):
        group = folder / f"{number // FOLDER_SIZE:04d}"
        if number % FOLDER_SIZE == 0:
            group.mkdir(parents=True)
        os.mknod(group / f"{clip_id}.mp4")


def open_ours(manifest: Path, clips: Path) -> KineticsAVT:
    """Opens our dataset; samples of few pixels, so that an epoch is about rows."""
    return KineticsAVT(
        manifest,
        clips,
        require=(),
        train=False,
        video=VideoConfig(num_frames=1, size=16, short_side=16),
        audio=AudioConfig(num_mel_frames=1),
        text=TextConfig(max_length=8),
    )


def open_list(manifest: Path, clips: Path) -> list[dict[str, Any]]:
    """Opens the peer that keeps a list of dicts."""
    rows: list[dict[str, Any]] = pq.read_table(manifest).to_pylist()
    return rows


class FrameRows:
    """The peer that keeps a DataFrame."""

    def __init__(self, manifest: Path) -> None:
        self._frame = pd.read_parquet(manifest)

    def __len__(self) -> int:
        return len(self._frame)

    def __getitem__(self, index: int) -> Any:
        return self._frame.iloc[index]


def open_frame(manifest: Path, clips: Path) -> FrameRows:
    """Opens the peer that keeps a DataFrame."""
    return FrameRows(manifest)


def private_megabytes() -> float:
    """Returns the memory that this process has to itself."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000


def read_all(dataset: Any, indexes: Any, results: Any) -> None:
    """Reads rows, and tells how much memory it had before and after."""
    dataset[int(indexes[0])]
    before = private_megabytes()
    for index in indexes.tolist():
        dataset[index]
    results.put((before, private_megabytes()))


def measure(make: Callable[[Path, Path], Any], manifest: Path, clips: Path, results: Any) -> None:
    """Opens a dataset in this process and reads all of it in workers."""
    before = time.perf_counter()
    dataset = make(manifest, clips)
    seconds = time.perf_counter() - before
    context = multiprocessing.get_context("fork")
    order = np.random.default_rng(0).permutation(len(dataset))
    answers = context.Queue()
    workers = [
        context.Process(target=read_all, args=(dataset, order[number::NUM_WORKERS], answers))
        for number in range(NUM_WORKERS)
    ]
    for worker in workers:
        worker.start()
    before_and_after = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    first, last = np.mean(before_and_after, axis=0).tolist()
    results.put({"open_seconds": seconds, "first_mb": first, "last_mb": last, "parent_mb": private_megabytes()})


def main() -> None:
    """Makes the manifest and its clips and measures."""
    parser = argparse.ArgumentParser(description="What a large manifest costs a loader.")
    parser.add_argument("--quick", action="store_true", help=f"{NUM_QUICK_ROWS:,} rows")
    num_rows = NUM_QUICK_ROWS if parser.parse_args().quick else NUM_ROWS
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("loader_memory: private memory can be read on Linux only")
    contenders: dict[str, Callable[[Path, Path], Any]] = {
        "ours, first time": open_ours,
        "ours": open_ours,
        "list of dicts": open_list,
        "pandas": open_frame,
    }
    context = multiprocessing.get_context("spawn")
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        manifest, clips = Path(folder) / "manifest.parquet", Path(folder) / "clips"
        make_files(clips, make_manifest(manifest, num_rows))
        for name, make in contenders.items():
            answers = context.SimpleQueue()
            process = context.Process(target=measure, args=(make, manifest, clips, answers))
            process.start()
            process.join()
            with suppress(IndexError):
                results[name] = answers.get() if not answers.empty() else {}
    print(f"{num_rows:,} rows{'':12}{'open, s':>10}{'MB a worker, first':>20}{'last row':>10}{'growth':>8}")
    for name, row in results.items():
        if not row:
            print(f"{name:24}died")
            continue
        growth = row["last_mb"] - row["first_mb"]
        print(f"{name:24}{row['open_seconds']:10.3f}{row['first_mb']:20.1f}{row['last_mb']:10.1f}{growth:8.1f}")
    print("targets: ours opens in 0.3 s, and a worker grows by no more than 10 MB")
    print(json.dumps({"benchmark": "loader_memory", "rows": num_rows, **results}))


if __name__ == "__main__":
    main()
