"""Full samples (frames, log-mel, token ids) from prepared clips, to the training loop; ours beside the peers.

The clips of ``loader_raw.py`` are prepared by ``k700-text prepare`` with its defaults. Three questions, a table each:

1. What does one sample cost on one core? Our dataset on the shards, as YUV and RGB, and on the clips as they came with
   their packet index; torchcodec (exact, frames and a range of audio, torchaudio's mel) on the clips as they came, and
   on the prepared pictures, put into MP4 files with the clip's own sound, since a peer has to find it somewhere. All
   cut the same square of the same window, add the same noise and encode the same title, in turn; CPU time.
2. How many samples a second arrive? One process that keeps nothing, threads, ``BatchLoader`` and the plain
   ``DataLoader`` with one process and with ``--workers``; wall time of whole passes with the processes started before,
   in turn, median. Needs cores that nobody else uses.
3. ``--device cuda``: how many arrive on the GPU, as they are and turned into RGB there.

Expected before measuring: a group of 8 pictures, 10 pictures a second and no arithmetic coder make a sample of some
6 ms out of 50 to 70, ten times as many as torchcodec's; handing RGB over from a process costs the DataLoader 2 ms of
that, slots in shared memory a tenth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loading import peers
from loading.clips import make_corpora, real_corpus
from loading.sets import ClipSet, Job, make_set
from loading.timing import Target, milliseconds_in_turn, print_targets, print_times, ratio, use_one_core
from loading.windows import AUDIO
from torch.utils.data import DataLoader, Dataset, default_collate

from k700_text.data.loader import BatchLoader
from k700_text.data.sample import collate
from lava_model.pixels import rgb_from_yuv420

BATCH_SIZE = 32
OURS_YUV, OURS_RGB, OURS_RAW = "ours prepared, YUV", "ours prepared, RGB", "ours raw, packet index, YUV"
PEER_RAW, PEER_PREPARED = "torchcodec raw", "torchcodec on the prepared pictures"

Passes = Mapping[str, Callable[[Sequence[list[Job]]], int]]


def draw_jobs(num_clips: int, num_rounds: int) -> Iterator[list[Job]]:
    """Yields rounds of one window of each clip."""
    for epoch in range(num_rounds):
        yield [(epoch, index) for index in range(num_clips)]


class PeerSamples(Dataset[tuple[Any, ...]]):
    """A peer's map-style dataset: frames, log-mel and token ids by torchcodec."""

    def __init__(self, clips: ClipSet, files: tuple[Path, ...]) -> None:
        self._clips, self._files = clips, files

    def __getitem__(self, job: Job) -> tuple[Any, ...]:
        frames, log_mel = peers.torchcodec_tri_modal(self._clips.window(job, self._files))
        log_mel = log_mel + AUDIO.noise_std * torch.randn_like(log_mel)
        return frames, log_mel, *self._clips.tokenizer.encode(self._clips.titles[job[1]])


def measure_samples(clips: ClipSet, num_rounds: int) -> dict[str, float]:
    """Returns CPU milliseconds a sample by contender and prints them."""
    contenders: dict[str, Callable[[Job], object]] = {
        OURS_YUV: clips.dataset("yuv420p", prepared=True).__getitem__,
        OURS_RGB: clips.dataset("rgb24", prepared=True).__getitem__,
        OURS_RAW: clips.dataset("yuv420p", prepared=False).__getitem__,
    }
    _, missing = peers.sound_peers(clips.raw)
    why = missing.get(peers.TORCHCODEC_SOUND)
    if why is None:
        contenders[PEER_RAW] = PeerSamples(clips, clips.raw).__getitem__
        contenders[PEER_PREPARED] = PeerSamples(clips, clips.prepared).__getitem__
    times = milliseconds_in_turn(contenders, draw_jobs(len(clips.raw), num_rounds))
    print_times(clips.name, times, {} if why is None else {PEER_RAW: why})
    kilobytes = sum(path.stat().st_size for path in clips.shards.glob("*.tar")) / len(clips.raw) / 1000
    print(f"{kilobytes:.0f} kB a prepared clip; {num_rounds * len(clips.raw)} samples each")
    return times


class Order:
    """The batches of the pass that comes next."""

    def __init__(self) -> None:
        self.batches: Sequence[list[Job]] = ()

    def __iter__(self) -> Iterator[list[Job]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def one_process(dataset: Any, batches: Sequence[list[Job]]) -> int:
    """Reads all samples here, and keeps none."""
    return sum(1 for batch in batches for job in batch if dataset[job].has_video)


def in_threads(dataset: Any, num_threads: int, batches: Sequence[list[Job]]) -> int:
    """Reads all samples in threads of this process, and keeps none."""
    with ThreadPoolExecutor(num_threads) as pool:
        return sum(1 for sample in pool.map(dataset.__getitem__, (job for batch in batches for job in batch)) if sample)


class Pass:
    """Whole passes over a loader whose processes stay."""

    def __init__(self, make: Callable[[Order], Any]) -> None:
        self._order = Order()
        self._loader = make(self._order)

    def __call__(self, batches: Sequence[list[Job]]) -> int:
        """Takes all batches; returns the number of samples."""
        self._order.batches = batches
        return sum(len(batch[0]) if isinstance(batch, list) else len(batch.has_video) for batch in self._loader)


def batch_loader(dataset: Any, num_workers: int, order: Order) -> Any:
    """Ours."""
    return BatchLoader(dataset, order, num_workers=num_workers)


def data_loader(dataset: Any, num_workers: int, order: Order, function: Any = collate) -> Any:
    """PyTorch's."""
    return DataLoader(
        dataset, batch_sampler=order, num_workers=num_workers, collate_fn=function, persistent_workers=True
    )


def loaders(clips: ClipSet, num_workers: int, *, with_peer: bool) -> Passes:
    """Returns the ways to the training loop."""
    yuv, rgb = (clips.dataset(pixel_format, prepared=True) for pixel_format in ("yuv420p", "rgb24"))
    passes: dict[str, Callable[[Sequence[list[Job]]], int]] = {
        "one process": partial(one_process, yuv),
        f"{num_workers} threads": partial(in_threads, yuv, num_workers),
    }
    for number in sorted({1, num_workers}):
        passes[f"BatchLoader, {number}"] = Pass(partial(batch_loader, yuv, number))
        passes[f"DataLoader, {number}"] = Pass(partial(data_loader, yuv, number))
    passes[f"BatchLoader, {num_workers}, RGB"] = Pass(partial(batch_loader, rgb, num_workers))
    passes[f"DataLoader, {num_workers}, RGB"] = Pass(partial(data_loader, rgb, num_workers))
    if with_peer:
        raw = PeerSamples(clips, clips.raw)
        passes[PEER_RAW + f", DataLoader, {num_workers}"] = Pass(
            partial(data_loader, raw, num_workers, function=default_collate)
        )
    return passes


def rates_in_turn(passes: Passes, num_clips: int, *, num_batches: int, num_rounds: int) -> dict[str, float]:
    """Returns samples a second, wall time, of each way: the median over rounds, beginning with another each time."""
    rng = np.random.default_rng(0)
    names = list(passes)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1, num_rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            # Peers on raw clips are ten times as slow: they get a tenth of the batches.
            count = 2 if number < 0 else max(2, num_batches // 8) if name.startswith(PEER_RAW) else num_batches
            batches = [[(number + 1, int(index)) for index in rng.integers(0, num_clips, BATCH_SIZE)]] * count
            batches = [[(step, index) for _, index in batch] for step, batch in enumerate(batches)]
            before = time.perf_counter()
            num_samples = passes[name](batches)
            seconds = time.perf_counter() - before
            # The first pass starts the processes.
            if number >= 0:
                rates[name].append(num_samples / seconds)
    return {name: statistics.median(values) for name, values in rates.items()}


def measure_loaders(clips: ClipSet, num_workers: int, *, num_batches: int, num_rounds: int) -> dict[str, float]:
    """Returns samples a second by way and prints them."""
    _, missing = peers.sound_peers(clips.raw)
    passes = loaders(clips, num_workers, with_peer=peers.TORCHCODEC_SOUND not in missing)
    rates = rates_in_turn(passes, len(clips.raw), num_batches=num_batches, num_rounds=num_rounds)
    print(f"\n{'delivered to the training loop':44}{'samples/s':>11}")
    for name, rate in rates.items():
        print(f"{name:44}{rate:11.0f}")
    return rates


def measure_device(clips: ClipSet, num_workers: int, device: str, *, num_batches: int) -> dict[str, float]:
    """Returns samples a second that arrive on a device, and that are turned into RGB there; prints them."""
    rng = np.random.default_rng(0)
    order = Order()
    rates = {}
    dataset = clips.dataset("yuv420p", prepared=True)
    mean, std = (255 * torch.tensor(values, device=device) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with BatchLoader(dataset, order, num_workers=num_workers, device=device, num_slots=8) as loader:
        for name, count in (("", 2 * num_workers), ("delivered", num_batches), ("delivered and RGB", num_batches)):
            order.batches = [
                [(step, int(index)) for index in rng.integers(0, len(clips.raw), BATCH_SIZE)] for step in range(count)
            ]
            before = time.perf_counter()
            for batch in loader:
                if name.endswith("RGB"):
                    rgb_from_yuv420(batch.video, mean, std)
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize(device)
            rates[name] = count * BATCH_SIZE / (time.perf_counter() - before)
    del rates[""]
    print(f"\n{f'on {device}, {num_workers} processes':44}{'samples/s':>11}")
    for name, rate in rates.items():
        print(f"{name:44}{rate:11.0f}")
    return rates


def sample_targets(name: str, times: Mapping[str, float], raw_target: float) -> list[Target]:
    """Returns what was to be reached by samples of one kind of clips."""
    return [
        Target(f"{name}: {OURS_YUV} against {PEER_RAW}", raw_target, ratio(times, PEER_RAW, OURS_YUV)),
        Target(f"{name}: {OURS_YUV} against {PEER_PREPARED}", 2.5, ratio(times, PEER_PREPARED, OURS_YUV)),
        Target(f"{name}: {OURS_RGB} against {PEER_PREPARED}", 2.0, ratio(times, PEER_PREPARED, OURS_RGB)),
    ]


def loader_targets(rates: Mapping[str, float], num_workers: int) -> list[Target]:
    """Returns what was to be reached by the loaders."""
    one, many = rates["BatchLoader, 1"], rates[f"BatchLoader, {num_workers}"]
    peer = rates.get(PEER_RAW + f", DataLoader, {num_workers}")
    plain = rates[f"DataLoader, {num_workers}"]
    return [
        Target("samples/s of one process", 150, rates["one process"]),
        Target("samples/s/core through BatchLoader, 1 process", 140, one),
        Target(f"samples/s/core through BatchLoader, {num_workers} processes", 140, many / num_workers),
        Target("hand-over: BatchLoader, 1, of one process", 0.93, one / rates["one process"]),
        Target(f"scaling: BatchLoader, {num_workers} against 1", 0.9 * num_workers, many / one),
        Target(f"BatchLoader against DataLoader, {num_workers} processes", 1.0, many / plain),
        Target(f"BatchLoader against {PEER_RAW}, DataLoader", 8.0, None if peer is None else many / peer),
    ]


def main() -> None:
    """Makes the clips, prepares them and measures."""
    parser = argparse.ArgumentParser(description="Samples from prepared clips, ours beside the peers.")
    parser.add_argument("--clips", type=Path, help="folder of real MP4 clips with sound, measured beside the made ones")
    parser.add_argument("--work", type=Path, help="folder that keeps clips and shards for the next run")
    parser.add_argument("--workers", type=int, default=2, help="processes of the loaders, 2 by default")
    parser.add_argument("--device", help="measure what arrives there, and nothing else: cuda")
    parser.add_argument("--quick", action="store_true", help="fewer clips and samples: under a minute, and rough")
    options = parser.parse_args()
    peers.provide_ffmpeg()
    quick: bool = options.quick
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        num_large = 0 if options.device else 1 if quick else 3
        corpora = make_corpora(work, num_small=2 if quick else 4, num_large=num_large)
        if options.clips is not None:
            corpora.append(real_corpus(options.clips))
        sets = [
            make_set(corpus, work / f"set-{corpus.name.replace(' ', '-')}-{len(corpus.paths)}") for corpus in corpora
        ]
        record: dict[str, Any] = {"benchmark": "loader_prepared", "workers": options.workers}
        if options.device:
            num_batches = 20 * options.workers
            record["device"] = measure_device(sets[0], options.workers, options.device, num_batches=num_batches)
            targets = [Target("samples/s delivered to the device", 1500, record["device"]["delivered"])]
        else:
            targets = measure_all(sets, record, options.workers, quick=quick)
    print_targets(targets)
    print(json.dumps({**record, "targets": [each.as_json() for each in targets]}))


def measure_all(sets: Sequence[ClipSet], record: dict[str, Any], num_workers: int, *, quick: bool) -> list[Target]:
    """Measures samples of all kinds of clips and the loaders on the first; returns what was to be reached."""
    with use_one_core():
        targets = []
        for clips in sets:
            times = record[clips.name] = measure_samples(clips, num_rounds=4 if quick else 25)
            targets += sample_targets(clips.name, times, 50 if "720" in clips.name else 8)
    num_batches, num_rounds = (6, 1) if quick else (16, 3)
    record["samples_per_second"] = measure_loaders(sets[0], num_workers, num_batches=num_batches, num_rounds=num_rounds)
    return targets + loader_targets(record["samples_per_second"], num_workers)


if __name__ == "__main__":
    main()
