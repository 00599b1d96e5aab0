"""The training step: samples a second, where the time goes, what it takes, and the peers beside it.

Batches are noise that lies on the device already, so that no loader is measured; the trunk's weights are drawn, which
costs the same as ImageNet's. Four questions:

1. How fast is a step, and where does the time go? Trunk forward; each encoder, heads and loss forward and backward;
   clipping and optimiser; what is left of the step. With peak memory, and on a GPU in the table of
   ``lava_model.hardware`` the share of its peak that is used (MFU), by the formula of ``lava_model.describe``.
2. How does the step as the authors' code has it compare (``training/naive.py`` says what that is)?
3. What does ``data.micro_batch`` (GradCache) cost at the same batch?
4. What does the loss alone cost at a batch of 1024, beside open_clip's formula for as many pairs?

``--prepared`` asks another: the trainer itself on shards of ``k700-text prepare``, with the share of the time that it
waits for data.

On a CPU it measures CPU time on one core with small shapes (preset ``tiny``: 8 frames of 48 pixels, 72 video tokens,
width 128, two layers; batches of 8 and 32) in about a minute. On a GPU it is the paper's architecture at batch 32,
doubled until memory ends.

Expected before measuring, on a CPU: 1. the trunk more than half of a step; 2. 1.4 times our time, as the trunk does not
lie in channels-last order and BatchNorm takes statistics; 3. one more forward pass of the encoders, 1.1 to 1.2 times;
4. about the same, since the products of matrices dominate. On one H200 at 784 tokens: 5 to 8 times our time for 2.,
which stays in float32; 1.25 times for 3.; 700 samples a second at the best batch, at 40 % MFU in the encoders.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from training.clock import Clock
from training.naive import clip_loss, naive_step
from training.ours import LOSS, OPTIMISER, REST, TRUNK, Ours, random_batch

from k700_text.errors import K700TextError
from lava_model.config import LossConfig, PretrainConfig
from lava_model.data import open_data
from lava_model.describe import forward_flops, trunk_flops
from lava_model.device import choose_device
from lava_model.distributed import Ranks
from lava_model.errors import LavaError
from lava_model.hardware import mfu, peak_tflops
from lava_model.modalities import MODALITIES
from lava_model.model import Embeddings
from lava_model.objective import Objective
from lava_model.presets import PRESETS, preset
from lava_model.run_folder import code_revision, machine, versions
from lava_model.trainer import Trainer

LOSS_BATCH = 1024
LOSS_PAIRS = 6
"""AV, VT, AT (which is logged whatever its weight), and three modalities against their centroids."""


def configuration(name: str, options: argparse.Namespace) -> PretrainConfig:
    """Returns a preset as it is measured here."""
    config = preset(name)
    return replace(
        config,
        model=replace(config.model, trunk_weights="random"),
        run=replace(config.run, precision=options.precision, compile=options.compile, peak_tflops=options.peak_tflops),
    )


def measure_step(ours: Ours, clock: Clock, batch_size: int, num_rounds: int) -> dict[str, Any]:
    """Returns time of a step and of its parts, rates and memory at a batch size."""
    batch = random_batch(ours.config.model, batch_size, ours.device)
    step = ours.whole(batch)
    step()
    with clock.peak_bytes() as peak:
        step()
    whole = "step"
    times = clock.in_turn({whole: step, **ours.parts(batch)}, num_rounds)
    total = times.pop(whole)
    times[REST] = total - sum(times.values())
    rate = 1000 * batch_size / total
    return {
        "batch_size": batch_size,
        "step_ms": total,
        "samples_per_second": rate,
        "parts_ms": times,
        "tflops": part_tflops(ours.config, times, batch_size),
        "mfu_percent": mfu(rate, ours.config, ours.device, 1),
        "mfu_encoders_percent": mfu_of_encoders(ours, times, batch_size),
        "peak_bytes": peak[0] if peak else None,
    }


def part_tflops(config: PretrainConfig, times: dict[str, float], batch_size: int) -> dict[str, float]:
    """Returns the useful TFLOP/s of the trunk and of each encoder."""
    work = {name: 3 * flops for name, flops in forward_flops(config.model).items()}
    work[TRUNK] = trunk_flops(config.model)
    return {name: batch_size * flops / times[name] / 1e9 for name, flops in work.items()}


def mfu_of_encoders(ours: Ours, times: dict[str, float], batch_size: int) -> float | None:
    """Returns the share of the device's peak that the three encoders use, percent; None where that is not known."""
    peak = peak_tflops(ours.device, ours.config.run.precision, ours.config.run.peak_tflops)
    if peak is None:
        return None
    work = 3 * batch_size * sum(forward_flops(ours.config.model).values())
    return 100 * work / sum(times[name] for name in MODALITIES) / 1e9 / peak


def measure_peers(ours: Ours, clock: Clock, batch_size: int, num_rounds: int) -> dict[str, Any]:
    """Returns our step, the naive one and GradCache's with a quarter of the batch, in turn at the same batch size."""
    config = ours.config.model
    batch = random_batch(config, batch_size, ours.device)
    contenders: dict[str, Callable[[], None]] = {
        "ours": ours.whole(batch),
        "ours, micro-batches": ours.whole(batch, max(1, batch_size // 4)),
        "encoders forward": ours.forward_only(batch),
        "naive": naive_step(config, random_batch(config, batch_size, ours.device, pixel_format="rgb24"), ours.device),
    }
    peaks = {name: peak_of_a_call(contenders, name, clock) for name in tuple(contenders)}
    times = clock.in_turn(contenders, num_rounds)
    return {
        "batch_size": batch_size,
        "ms": times,
        "peak_bytes": peaks,
        "naive_over_ours": times["naive"] / times["ours"] if "naive" in times else None,
        "grad_cache_over_direct": times["ours, micro-batches"] / times["ours"],
        "grad_cache_expected": 1 + times["encoders forward"] / times["ours"],
    }


def peak_of_a_call(contenders: dict[str, Callable[[], None]], name: str, clock: Clock) -> int | None:
    """Returns the most memory that a contender takes; leaves out one that needs more than there is."""
    try:
        contenders[name]()
        with clock.peak_bytes() as peak:
            contenders[name]()
    except torch.cuda.OutOfMemoryError:
        print(f"{name}: out of memory")
        del contenders[name]
        return None
    return peak[0] if peak else None


def measure_loss(clock: Clock, num_rounds: int) -> dict[str, Any]:
    """Returns loss and gradient with respect to the embeddings at a large batch: ours, and open_clip's formula."""
    config, device = preset("lava").model, clock.device
    batch = random_batch(replace(config, num_frames=1, frame_size=2, video_grid=1), LOSS_BATCH, device)
    names = list(Embeddings.__dataclass_fields__)
    leaves = [torch.randn(LOSS_BATCH, config.embedding_dim, device=device, requires_grad=True) for _ in names]

    def with_gradient(value: Callable[[list[torch.Tensor]], torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            for leaf in leaves:
                leaf.grad = None
            value([torch.nn.functional.normalize(leaf, dim=1) for leaf in leaves]).backward()

        return run

    objective = Objective(LossConfig(), config.embedding_dim).to(device)
    contenders = {
        "ours, all terms, masked": with_gradient(
            lambda units: objective(Embeddings(**dict(zip(names, units, strict=True))), batch).total
        ),
        f"open_clip's formula, {LOSS_PAIRS} pairs": with_gradient(
            lambda units: sum((clip_loss(units[0], other) for other in units[1:]), units[0].new_zeros(()))
        ),
    }
    return {"batch_size": LOSS_BATCH, "ms": clock.in_turn(contenders, num_rounds)}


def doubled(ours: Ours, clock: Clock, first: int, num_rounds: int) -> Iterator[dict[str, Any]]:
    """Yields what is measured at a batch size and its doubles, until memory ends."""
    batch_size = first
    while True:
        try:
            yield measure_step(ours, clock, batch_size, num_rounds)
        except torch.cuda.OutOfMemoryError:
            return
        finally:
            torch.cuda.empty_cache()
        batch_size *= 2


def measure_preset(name: str, clock: Clock, options: argparse.Namespace) -> dict[str, Any]:
    """Measures a preset at all batch sizes and beside its peers, and prints the tables."""
    ours = Ours(configuration(name, options), clock.device)
    sizes: Sequence[int] | None = options.batch_size
    if sizes is None and clock.device.type == "cuda":
        runs = doubled(ours, clock, 32, options.rounds)
    else:
        runs = (measure_step(ours, clock, size, options.rounds) for size in sizes or (8, 32))
    print(f"\npreset {name}, {clock.unit} a step by its parts")
    rows = []
    for row in runs:
        print_header_of(rows, clock)
        print_row(row)
        rows.append(row)
    record: dict[str, Any] = {"steps": rows}
    if not options.no_peers:
        record["peers"] = measure_peers(ours, clock, options.peer_batch, options.rounds)
        print_peers(record["peers"], clock)
    return record


def print_header_of(rows: Sequence[object], clock: Clock) -> None:
    """Prints the header of the table before its first row."""
    if not rows:
        parts = (TRUNK, *MODALITIES, LOSS, OPTIMISER, REST)
        rate = "samples/s" if clock.device.type == "cuda" else "samples/s/core"
        print(f"{'batch':>6}{'step':>9}" + "".join(f"{name:>{max(10, len(name) + 2)}}" for name in parts), end="")
        print(f"{rate:>16}{'MFU %':>8}{'encoders':>10}{'peak GB':>9}")


def print_row(row: dict[str, Any]) -> None:
    """Prints a row of that table."""
    parts = row["parts_ms"]
    print(f"{row['batch_size']:6d}{row['step_ms']:9.1f}", end="")
    print("".join(f"{value:{max(10, len(name) + 2)}.1f}" for name, value in parts.items()), end="")
    shares = (row["mfu_percent"], row["mfu_encoders_percent"])
    shown = ["-" if share is None else f"{share:.1f}" for share in shares]
    print(f"{row['samples_per_second']:16.1f}{shown[0]:>8}{shown[1]:>10}{gigabytes(row['peak_bytes']):>9}")


def print_peers(found: dict[str, Any], clock: Clock) -> None:
    """Prints the step beside its peers."""
    print(f"\nin turn at batch {found['batch_size']}{clock.unit:>20}{'peak GB':>10}")
    for name, value in found["ms"].items():
        print(f"{name:25}{value:14.1f}{gigabytes(found['peak_bytes'].get(name)):>10}")
    if found["naive_over_ours"] is not None:
        print(f"naive / ours {found['naive_over_ours']:.2f}")
    print(f"micro-batches / whole {found['grad_cache_over_direct']:.2f}", end="")
    print(f" (one more forward pass of the encoders: {found['grad_cache_expected']:.2f})")


def gigabytes(count: int | None) -> str:
    """Returns bytes as text."""
    return "-" if count is None else f"{count / 1e9:.2f}"


def measure_prepared(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Trains on prepared shards as the trainer does; the second half of the steps counts."""
    config = configuration(options.preset[0], options)
    sizes = options.batch_size or (config.data.batch_size,)
    with tempfile.TemporaryDirectory() as out:
        data = replace(
            config.data,
            manifest=options.manifest,
            clips=options.prepared,
            tokenizer=options.tokenizer,
            batch_size=sizes[0],
            micro_batch=options.micro_batch,
            num_workers=options.workers,
        )
        half = max(1, options.steps // 2)
        run = replace(config.run, out=out, epochs=1_000_000, max_steps=2 * half, log_every=half, checkpoint_every=10**9)
        config = replace(config, data=data, run=run)
        last = Trainer(config, open_data(config), device=device).run().last_train
    names = ("samples_per_second", "data_wait_percent", "mfu_percent")
    found = {"batch_size": sizes[0], "workers": options.workers, **{name: last.get(name) for name in names}}
    print(f"\nthe trainer on prepared shards, batch {sizes[0]}, {options.workers} loader processes")
    print("".join(f"{name.replace('_', ' ')} {found[name]}\n" for name in names))
    return found


def parsed() -> argparse.Namespace:
    """Returns the command line."""
    parser = argparse.ArgumentParser(description="The training step, whole, in parts and beside its peers.")
    parser.add_argument("--preset", nargs="+", choices=PRESETS, help="tiny on a CPU, paper on a GPU by default")
    parser.add_argument("--batch-size", nargs="+", type=count, help="8 and 32 on a CPU; on a GPU 32, doubled")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"), help="as --run.precision")
    parser.add_argument("--compile", action="store_true", help="as --run.compile")
    parser.add_argument("--peak-tflops", type=float, help="as --run.peak-tflops")
    parser.add_argument("--rounds", type=count, default=5, help="measured calls of each, 5 by default")
    parser.add_argument("--peer-batch", type=count, default=32, help="batch of the peers, 32 by default")
    parser.add_argument("--no-peers", action="store_true", help="only our own step and its parts")
    parser.add_argument("--prepared", help="folder or URL of shards: measure the trainer on them, and nothing else")
    parser.add_argument("--manifest", help="of --prepared")
    parser.add_argument("--tokenizer", help="of --prepared")
    parser.add_argument("--workers", type=int, default=8, help="loader processes of --prepared, 8 by default")
    parser.add_argument("--steps", type=count, default=100, help="of --prepared, 100 by default")
    parser.add_argument("--micro-batch", type=count, help="of --prepared, as --data.micro-batch")
    parser.add_argument("--json", action="store_true", help="print a JSON line at the end")
    asked = parser.parse_args()
    absent = [name for name in ("manifest", "tokenizer") if asked.prepared and getattr(asked, name) is None]
    idle = [name for name in ("manifest", "tokenizer") if not asked.prepared and getattr(asked, name) is not None]
    if absent or idle:
        parser.error(f"--prepared goes with --manifest and --tokenizer: --{(absent + idle)[0]}")
    return asked


def count(text: str) -> int:
    """Returns a whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def main() -> None:
    """Reads the command line and measures."""
    options = parsed()
    try:
        measure(options, choose_device(options.device, option="--device"))
    except (LavaError, K700TextError) as error:
        raise SystemExit(f"error: {error}") from error


def measure(options: argparse.Namespace, device: torch.device) -> None:
    """Measures what is asked for, prints tables and, if asked, the record."""
    options.preset = options.preset or ["tiny" if device.type == "cpu" else "paper"]
    clock = Clock(device)
    record = {"benchmark": "train_step", "precision": options.precision, "compile": options.compile}
    record |= {"versions": versions(), **code_revision(), **machine(device, Ranks())}
    print(f"{record['device']}, torch {torch.__version__}, precision {options.precision}", end="")
    print(", compiled" if options.compile else "")
    if options.prepared:
        record["prepared"] = measure_prepared(options, device)
    else:
        with clock.measuring():
            for name in options.preset:
                record[name] = measure_preset(name, clock, options)
            if not options.no_peers:
                found = record["loss"] = measure_loss(clock, options.rounds)
                print(f"\nloss and gradient at batch {found['batch_size']}, {clock.unit}")
                print("".join(f"{name:36}{value:9.1f}\n" for name, value in found["ms"].items()), end="")
    if options.json:
        print(json.dumps(record))


if __name__ == "__main__":
    main()
