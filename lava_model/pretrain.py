"""Pre-trains LAVA: ``python -m lava_model.pretrain --manifest M.parquet --clips DIR --tokenizer T.json --out RUN``."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k700_text.errors import K700TextError
from lava_model.config import PretrainConfig
from lava_model.errors import DataError, LavaError, MissingExtraError
from lava_model.files import writing
from lava_model.presets import PRESETS, preset
from lava_model.settings import override, to_dict

if TYPE_CHECKING:
    from lava_model.data import TrainingData
    from lava_model.describe import Cost
    from lava_model.distributed import Ranks
    from lava_model.trainer import TrainResult

PROGRAM = "python -m lava_model.pretrain"
JSON_VERSION = 1

_NUM_FAILURES_SHOWN = 5

EXIT_COMPLETE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

SHORT_OPTIONS = {
    "--manifest": "--data.manifest",
    "--clips": "--data.clips",
    "--packets": "--data.packets",
    "--tokenizer": "--data.tokenizer",
    "--val-manifest": "--data.val-manifest",
    "--val-clips": "--data.val-clips",
    "--synthetic": "--data.synthetic",
    "--batch-size": "--data.batch-size",
    "--num-workers": "--data.num-workers",
    "--out": "--run.out",
    "--epochs": "--run.epochs",
    "--max-steps": "--run.max-steps",
    "--seed": "--run.seed",
    "--device": "--run.device",
}
"""Shorter names of the settings that most runs give."""

_OWN_OPTIONS = ("--preset", "--print-config", "--dry-run", "--json", "--debug")

_EPILOG = f"""example: {PROGRAM} --preset tiny --synthetic --out runs/try --max-steps 100

short names: {", ".join(f"{short} = {full}" for short, full in SHORT_OPTIONS.items())}

settings (all of them, with this preset's values):
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code: 0 done, 1 failed, 2 usage, 130 stopped by a signal."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except KeyboardInterrupt:
        _say("interrupted: the last checkpoint is whole; run the same command to continue")
        return EXIT_INTERRUPTED
    except (LavaError, K700TextError, OSError) as error:
        if "--debug" in words:
            traceback.print_exc()
        _say(f"error: {error}")
        return error.exit_code if isinstance(error, LavaError | K700TextError) else EXIT_FAILED


def _run(words: list[str]) -> int:
    asked, settings = _parser().parse_known_args(words)
    base = preset(asked.preset)
    options = [_full_name(word) for word in settings]
    if asked.help:
        print(_parser().format_help())
        print(_EPILOG)
        options = ["--help"]
    own = [*SHORT_OPTIONS, *_OWN_OPTIONS]
    config = override(base, options, program=PROGRAM, also_known=own)
    if asked.print_config:
        print(json.dumps(to_dict(config), indent=2))
        return EXIT_COMPLETE
    try:
        for name in ("safetensors", "torch", "torchvision"):  # what is missing is named before anything starts
            importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"pre-training needs {error.name or error}: pip install 'k700-text[train]'") from error
    if asked.dry_run:
        return _dry_run(config, as_json=asked.json)
    return _pretrain(config, words, as_json=asked.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true", help="show this help")
    parser.add_argument("--preset", default="lava", help=f"base configuration: {', '.join(PRESETS)} (default: lava)")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration as JSON and stop")
    parser.add_argument("--dry-run", action="store_true", help="print shapes, parameters, FLOPs, memory and stop")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    return parser


def _full_name(word: str) -> str:
    name, equals, value = word.partition("=")
    return SHORT_OPTIONS.get(name.replace("_", "-"), name) + equals + value


def _dry_run(config: PretrainConfig, *, as_json: bool) -> int:
    from lava_model.describe import cost

    found = cost(config)
    if as_json:
        print(json.dumps({"command": "pretrain", "version": JSON_VERSION, "cost": dataclasses.asdict(found)}))
    else:
        print("\n".join(_cost_lines(found)))
    return EXIT_COMPLETE


def _cost_lines(found: Cost) -> list[str]:
    return [
        *(f"{name:24}{' x '.join(map(str, shape))}" for name, shape in found.shapes.items()),
        f"{'trained parameters':24}{found.trained_parameters / 1e6:.1f} M",
        f"{'frozen parameters':24}{found.frozen_parameters / 1e6:.1f} M",
        f"{'trunk forward':24}{found.trunk_flops / 1e9:.1f} GFLOP per sample",
        *(f"{name + ' forward':24}{flops / 1e9:.1f} GFLOP per sample" for name, flops in found.forward_flops.items()),
        f"{'training':24}{found.train_flops / 1e9:.1f} GFLOP per sample",
        f"{'model and optimiser':24}{found.state_bytes / 2**30:.2f} GiB",
        f"{'activations (estimate)':24}{found.activation_bytes / 2**30:.2f} GiB per batch",
    ]


def _pretrain(config: PretrainConfig, words: list[str], *, as_json: bool) -> int:
    import torch

    from lava_model.data import open_data
    from lava_model.device import choose_device
    from lava_model.distributed import ranks_from_environment

    device = choose_device(config.run.device, int(os.environ.get("LOCAL_RANK", "0")))
    data = open_data(config)
    try:
        with ranks_from_environment(device.type) as ranks:
            return _train(config, data, words, device, ranks, as_json=as_json)
    except torch.OutOfMemoryError as error:
        raise DataError(
            f"a batch of {config.data.batch_size} does not fit into the memory of {device}: pass --data.batch-size"
            " with less, or a smaller model (--model.video-grid 4)"
        ) from error


def _train(
    config: PretrainConfig, data: TrainingData, words: list[str], device: Any, ranks: Ranks, *, as_json: bool
) -> int:
    from lava_model.trainer import Trainer

    say = _say if ranks.is_main else _say_nothing
    trainer = Trainer(config, data, device=device, ranks=ranks, progress=say)
    export = trainer.out / "export"
    is_finished = trainer.step >= trainer.total_steps and (export / "config.json").exists()
    if is_finished:
        say(f"{trainer.out} is finished at step {trainer.step}; use another --out to train anew")
    elif trainer.resumed_from is not None:
        say(f"continuing {trainer.out} at step {trainer.resumed_from} of {trainer.total_steps}")
    else:
        say(f"training {trainer.total_steps} steps on {len(data.train)} clips into {trainer.out} ({device})")
    for note in data.notes:
        say(f"note: {note}")
    if ranks.is_main and not is_finished:
        _record_start(config, data, words, trainer.out, trainer.resumed_from)
    result = trainer.run()
    if result.finished and ranks.is_main and not is_finished:
        trainer.model.save_pretrained(export, tokenizer=data.tokenizer)
    if ranks.is_main:
        _say_failures(data.failures)
        _say_plain_reads(data.plain_reads)
        _report(result, trainer.out, as_json=as_json)
    return EXIT_COMPLETE if result.finished else EXIT_INTERRUPTED


def _record_start(
    config: PretrainConfig, data: TrainingData, words: list[str], out: Path, resumed_from: int | None
) -> None:
    """Writes what the run was started with; each start adds a line to starts.jsonl."""
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": [*PROGRAM.split(), *words],
        "resumed_from": resumed_from,
        "data": data.fingerprint,
        "versions": _versions(),
        "git_commit": _git_commit(),
    }
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(json.dumps(to_dict(config), indent=2) + "\n", "utf-8")
        with (out / "starts.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(start) + "\n")


def _versions() -> dict[str, str]:
    import torch

    versions = {"python": platform.python_version()}
    for name in ("k700-text", "torch", "torchvision", "av", "tokenizers", "safetensors", "numpy"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    # The name of the build, which the package's version leaves out: 2.11.0+cpu.
    return {**versions, "torch": torch.__version__}


def _git_commit() -> str | None:
    """Returns the commit of the code, or None where it was installed without git."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return answer.stdout.strip() or None


def _say_failures(failures: Mapping[str, str]) -> None:
    if failures:
        _say(f"note: {len(failures)} clips did not decode and took part without the stream that failed, among them:")
    for reason in list(failures.values())[:_NUM_FAILURES_SHOWN]:
        _say(f"  {reason}")


def _say_plain_reads(plain_reads: Mapping[str, int]) -> None:
    if plain_reads:
        reasons = ", ".join(f"{count} {reason}" for reason, count in plain_reads.items())
        _say(f"note: clips were read without the packet index, at about half the speed: {reasons}")


def _report(result: TrainResult, out: Path, *, as_json: bool) -> None:
    if not result.finished:
        _say(
            f"stopped by {result.stopped_by} at step {result.step} of {result.total_steps}; checkpoint saved;"
            " run the same command to continue"
        )
    if as_json:
        values = {
            "step": result.step,
            "total_steps": result.total_steps,
            "finished": result.finished,
            "resumed_from": result.resumed_from,
            "stopped_by": result.stopped_by,
            "samples_per_second": result.samples_per_second,
            "train": dict(result.last_train),
            "val": dict(result.last_val),
            "out": str(out),
            "export": str(out / "export") if result.finished else None,
        }
        print(json.dumps({"command": "pretrain", "version": JSON_VERSION, **values}))
    elif result.finished:
        print(f"{result.step} steps at {result.samples_per_second:.1f} samples/s; the model is in {out / 'export'}")
        if result.last_val:
            print(f"held-out loss {result.last_val['loss']:.3f}, at chance {result.last_val['chance']:.3f}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _say_nothing(line: str) -> None:
    """Takes the lines of ranks that are not the main one."""


if __name__ == "__main__":
    sys.exit(main())
