"""What a large manifest costs: time to open, memory of a worker, size of a pickle. Only the decoding is left out."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from k700_text import KineticsAVT
from k700_text.data import clips as clips_module
from k700_text.data.reader import SampleReader
from k700_text.schema import MANIFEST_SCHEMA, with_metadata

MB = 1024 * 1024
SIZES = [
    50_000,
    pytest.param(650_000, marks=pytest.mark.slow),  # a quarter of a minute
]


class _EveryClip:
    """Finds a file for every clip: making 650,000 of them takes longer than the test."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, clip_ids: pa.ChunkedArray) -> pa.Array:
        ids = clip_ids.combine_chunks().cast(pa.large_string())
        folder, suffix, nothing = (pa.scalar(text, pa.large_string()) for text in ("some label/", ".mp4", ""))
        return pc.binary_join_element_wise(folder, ids, suffix, nothing)


def _no_decoding(self: SampleReader, clip: Any, *, clip_id: str, **rest: Any) -> tuple[Any, tuple[()]]:
    return SimpleNamespace(has_video=True, clip_id=clip_id), ()


def write_large_manifest(path: Path, num_rows: int) -> Path:
    numbers = pa.array(np.arange(num_rows) * 7919 % 10**8).cast(pa.string())
    names = pc.utf8_lpad(numbers, 11, "v")
    title = pa.scalar("how to ride a bike in the rain with my best friends and other stories, part ")
    columns: dict[str, Any] = {field.name: pa.nulls(num_rows, field.type) for field in MANIFEST_SCHEMA}
    columns |= {
        "clip_id": pc.binary_join_element_wise(names, pa.scalar("000000_000010"), "_"),
        "youtube_id": names,
        "split": pa.array(["train"] * num_rows),
        "label": pc.binary_join_element_wise(pa.scalar("doing something "), pc.utf8_slice_codeunits(names, 9, 11), ""),
        "title": pc.binary_join_element_wise(title, numbers, ""),
        "start_seconds": pa.array(np.zeros(num_rows)),
        "end_seconds": pa.array(np.full(num_rows, 10.0)),
        "availability": pa.array(["public"] * num_rows),
        "availability_sources": pa.array([[]] * num_rows, MANIFEST_SCHEMA.field("availability_sources").type),
        "has_text": pa.array(np.ones(num_rows, dtype=bool)),
    }
    schema = with_metadata(MANIFEST_SCHEMA)
    pq.write_table(pa.table([columns[name] for name in schema.names], schema=schema), path)
    return path


@pytest.fixture(scope="module", params=SIZES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    write_large_manifest(folder / "train.parquet", request.param)
    (folder / "clips").mkdir()
    return folder


@pytest.fixture
def make_dataset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], KineticsAVT]:
    monkeypatch.setattr(clips_module, "index_clips", _EveryClip)
    monkeypatch.setattr(SampleReader, "read", _no_decoding)
    return lambda: KineticsAVT(folder / "train.parquet", folder / "clips")


def private_bytes() -> int:
    """Returns what this process has for itself alone, however it came by it."""
    text = Path("/proc/self/smaps_rollup").read_text("ascii")
    return 1024 * sum(int(kilobytes) for kilobytes in re.findall(r"Private_\w+:\s+(\d+) kB", text))


def _epoch(dataset: KineticsAVT, results: Any) -> None:
    # The first run of the collector writes to what the parent has loaded (torch, most of it), which copies it.
    gc.collect()
    # What one of two workers reads.
    order = np.random.default_rng(1).permutation(len(dataset))[: len(dataset) // 2]
    for index in order[:1000]:
        dataset[(0, int(index))]
    readings = [private_bytes()]
    for part in np.array_split(order, 4):
        for index in part:
            dataset[(0, int(index))]
        readings.append(private_bytes())
    results.put(readings)


def _train(folder: Path, results: Any) -> None:
    SampleReader.read = _no_decoding  # type: ignore[method-assign, assignment]  # in a process of its own
    dataset = KineticsAVT(folder / "train.parquet", folder / "clips")
    # One alone: what two processes map would count for neither.
    worker = multiprocessing.get_context("fork").Process(target=_epoch, args=(dataset, results))
    worker.start()
    worker.join()


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is told apart on Linux only")
@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_worker_needs_no_memory_for_the_rows(make_dataset: Callable[[], KineticsAVT], folder: Path) -> None:
    make_dataset()
    # A fresh process: what this one has freed is copied bit by bit as the worker uses it again.
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    main = context.Process(target=_train, args=(folder, results))
    main.start()
    first, *rest = results.get(timeout=500)
    main.join()
    readings = [round(each / MB, 1) for each in (first, *rest)]
    assert max(rest) - first < 10 * MB, readings
    assert rest[-1] - rest[0] < 2 * MB, f"it grows as it goes on: {readings}"


def test_it_pickles_to_paths_and_opens_at_once(make_dataset: Callable[[], KineticsAVT]) -> None:
    dataset = make_dataset()
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 10_000
    assert pickle.loads(pickled)[5].clip_id == dataset[5].clip_id
    # The best of several: another process may have the processor for a while.
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        again = make_dataset()
        seconds.append(time.perf_counter() - start)
        assert len(again) == len(dataset)
    assert min(seconds) < 0.3
    assert dataset.num_with == {"video": len(dataset), "audio": len(dataset), "text": 0}
    assert len(dataset.clip_ids) == len(dataset) == len(dataset.labels)
