"""Pre-trains LAVA: ``python -m lava_model.pretrain --manifest M.parquet --clips DIR --tokenizer T.json --out RUN``."""

from __future__ import annotations

from k700_text.starting import end_at_once

if __name__ == "__main__":
    end_at_once()  # before the imports below, which take time

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lava_model.config import PretrainConfig
from lava_model.errors import ConfigError, DataError
from lava_model.files import located
from lava_model.presets import OBJECTIVES, PRESETS, preset, with_objective
from lava_model.program import EXIT_COMPLETE, EXIT_INTERRUPTED, Parser, import_modules, run_program, say, tell
from lava_model.settings import from_file, names_in, override, to_dict

if TYPE_CHECKING:
    import torch

    from lava_model.data import TrainingData
    from lava_model.distributed import Ranks
    from lava_model.trainer import TrainResult

PROGRAM = "python -m lava_model.pretrain"
JSON_VERSION = 1

_NUM_FAILURES_SHOWN = 5

SHORT_OPTIONS = {
    "--manifest": "--data.manifest",
    "--clips": "--data.clips",
    "--packets": "--data.packets",
    "--tokenizer": "--data.tokenizer",
    "--val-manifest": "--data.val-manifest",
    "--val-clips": "--data.val-clips",
    "--synthetic": "--data.synthetic",
    "--batch-size": "--data.batch-size",
    "--micro-batch": "--data.micro-batch",
    "--accumulate": "--data.accumulate",
    "--num-workers": "--data.num-workers",
    "--trunk-weights": "--model.trunk-weights",
    "--negatives": "--loss.negatives",
    "--out": "--run.out",
    "--init-from": "--run.init-from",
    "--epochs": "--run.epochs",
    "--max-steps": "--run.max-steps",
    "--seed": "--run.seed",
    "--device": "--run.device",
    "--tensorboard": "--run.tensorboard",
    "--wandb": "--run.wandb",
}
"""Shorter names of the settings that most runs give."""

_OWN_OPTIONS = (
    "--preset",
    "--config",
    "--objective",
    "--print-config",
    "--dry-run",
    "--device-memory",
    "--json",
    "--debug",
)

_EPILOG = f"""example: {PROGRAM} --preset tiny --synthetic --out runs/try --max-steps 100

short names: {", ".join(f"{short} = {full}" for short, full in SHORT_OPTIONS.items())}

objectives:
{chr(10).join(f"  {name:10} {meaning}" for name, (meaning, _) in OBJECTIVES.items())}

settings (all of them, with the values of preset, file and objective):
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code: 0 done, 1 failed, 2 usage, 130 stopped by a signal."""
    return run_program(_run, arguments, interrupted="the last checkpoint is whole; run the same command to continue")


def _run(words: list[str]) -> int:
    asked, settings = _parser().parse_known_args(words)
    options = [_full_name(word) for word in settings]
    if asked.help:
        print(_parser().format_help())
        print(_EPILOG)
        options = ["--help"]
    base = preset(asked.preset)
    if asked.config == "":
        raise ConfigError("--config must name a file: it is empty")
    if asked.config is not None:
        base = from_file(base, located(asked.config))
    if asked.objective is not None:
        base = with_objective(base, asked.objective)
    own = [*SHORT_OPTIONS, *_OWN_OPTIONS]
    config = override(base, options, program=PROGRAM, also_known=own)
    if asked.print_config:
        print(json.dumps(to_dict(config), indent=2))
        return EXIT_COMPLETE
    # What is missing is named before anything starts.
    import_modules(
        "safetensors", "torch", "torchvision", "lava_model.data", "lava_model.trainer", purpose="pre-training"
    )
    if asked.dry_run:
        return _dry_run(config, as_json=asked.json, device_gib=asked.device_memory)
    if not _says_length(options, asked.config):
        config = _with_length_of_run(config)
    return _pretrain(config, words, as_json=asked.json)


_LENGTH_SETTINGS = ("run.epochs", "run.max_steps")


def _says_length(options: list[str], file: str | None) -> bool:
    """Returns whether the command line, or its file, says how long the run shall be; a preset says it to new runs."""
    named = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in options}
    return bool((named | (names_in(located(file)) if file else set())) & {*_LENGTH_SETTINGS})


def _with_length_of_run(config: PretrainConfig) -> PretrainConfig:
    """Returns the configuration with the length that the run had until now: who does not name one changes none."""
    from lava_model.checkpoint import list_checkpoints

    out = Path(config.run.out)
    if not list_checkpoints(out / "checkpoints") or not (out / "config.json").is_file():
        return config
    try:
        before = from_file(config, out).run
    except ConfigError:  # of another version: the checkpoint tells what differs
        return config
    if (before.epochs, before.max_steps) != (config.run.epochs, config.run.max_steps):
        of_run = f"--epochs {before.epochs}" + (f" --max-steps {before.max_steps}" if before.max_steps else "")
        say(f"note: the length of the run stays as it is ({of_run}): name another one to change it")
    return replace(config, run=replace(config.run, epochs=before.epochs, max_steps=before.max_steps))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=PROGRAM, description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true", help="show this help")
    parser.add_argument("--preset", default="lava", help=f"base configuration: {', '.join(PRESETS)} (default: lava)")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="settings in TOML or JSON, as --print-config prints them and a run folder keeps them; above those of the"
        " preset, below the options given beside it",
    )
    parser.add_argument(
        "--objective",
        metavar="NAME",
        help=f"what to contrast, above preset and file, below --loss.* options: {', '.join(OBJECTIVES)}",
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration as JSON and stop")
    parser.add_argument("--dry-run", action="store_true", help="print shapes, parameters, FLOPs, memory and stop")
    parser.add_argument(
        "--device-memory",
        metavar="GIB",
        type=float,
        help="with --dry-run: memory of the device that it shall run on (default: of the GPU here, if there is one)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    return parser


def _full_name(word: str) -> str:
    name, equals, value = word.partition("=")
    return SHORT_OPTIONS.get(name.replace("_", "-"), name) + equals + value


def _dry_run(config: PretrainConfig, *, as_json: bool, device_gib: float | None) -> int:
    from lava_model.describe import cost, lines, num_clips
    from lava_model.distributed import described_ranks
    from lava_model.hardware import memory_bytes

    if device_gib is not None and not 0 < device_gib < math.inf:
        raise ConfigError(f"--device-memory must be above 0 and finite, got {device_gib}")
    ranks = described_ranks()
    device_bytes = memory_bytes(config.run.device) if device_gib is None else round(device_gib * 2**30)
    found = cost(config, num_clips=num_clips(config), world_size=ranks.world_size, device_bytes=device_bytes)
    if as_json and ranks.is_main:
        print(json.dumps({"command": "pretrain", "version": JSON_VERSION, "cost": dataclasses.asdict(found)}))
    elif ranks.is_main:
        tell("\n".join(lines(found)))
    return EXIT_COMPLETE


def _pretrain(config: PretrainConfig, words: list[str], *, as_json: bool) -> int:
    import torch

    from lava_model.checkpoint import list_checkpoints
    from lava_model.data import open_data
    from lava_model.device import choose_device
    from lava_model.distributed import described_ranks, ranks_from_environment
    from lava_model.pretrained import check_folder
    from lava_model.run_folder import check_own, held
    from lava_model.trained import find_model

    described = described_ranks()
    device = choose_device(config.run.device, described.local_rank)
    out = Path(config.run.out)
    check_own(out)
    check_folder(out / "export")
    if config.run.init_from is not None and not list_checkpoints(out / "checkpoints"):
        find_model(Path(config.run.init_from))  # told now, not after the data are read
    data = open_data(config, described.world_size)
    try:
        with ranks_from_environment(device.type) as ranks, held(out, ranks):
            return _train(config, data, words, device, ranks, as_json=as_json)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DataError(_too_large(config, str(device))) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise DataError(_too_large(config, str(device))) from error


def _too_large(config: PretrainConfig, device: str) -> str:
    """Returns what to do about samples that do not fit into the memory."""
    size = min(config.data.batch_size, config.data.micro_batch or config.data.batch_size)
    less = f"pass --micro-batch {size // 2} (the same loss and gradient in more parts), or " if size > 1 else ""
    smaller = "less --batch-size, or a smaller model (--model.video-grid 4)"
    return (
        f"{size} samples at once do not fit into the memory of {device}: {less}{smaller if less else f'pass {smaller}'}"
    )


def _train(
    config: PretrainConfig, data: TrainingData, words: list[str], device: torch.device, ranks: Ranks, *, as_json: bool
) -> int:
    from lava_model.facts import facts_of_run
    from lava_model.run_folder import record_start
    from lava_model.trainer import Trainer

    tell = say if ranks.is_main else _say_nothing
    trainer = Trainer(config, data, device=device, ranks=ranks, progress=tell, may_extend=True)
    export = trainer.out / "export"
    is_finished = trainer.step >= trainer.total_steps and (export / "config.json").exists()
    if is_finished:
        tell(f"{trainer.out} is finished at step {trainer.step}; use another --out to train anew")
    elif trainer.resumed_from is not None:
        tell(f"continuing {trainer.out} at step {trainer.resumed_from} of {trainer.total_steps}")
        if trainer.length_before is not None:
            tell(_new_length(config, trainer.resumed_from, trainer.length_before, trainer.total_steps))
    else:
        made_up = "made-up " if config.data.synthetic else ""
        processes = f" on each of {ranks.world_size} processes" if ranks.world_size > 1 else ""
        tell(
            f"training {trainer.total_steps} steps of {config.data.batch_size} clips{processes} on"
            f" {len(data.train)} {made_up}clips into {trainer.out} ({device})"
        )
        if trainer.begun_with is not None:
            tell(f"the weights are those of {trainer.begun_with}; optimiser, schedule and steps begin anew")
    for note in trainer.notes:
        tell(f"note: {note}")
    for note in data.notes:
        tell(f"note: {note}")
    if ranks.is_main and not is_finished:
        record_start(
            config,
            data,
            trainer.out,
            command=[*PROGRAM.split(), *words],
            resumed_from=trainer.resumed_from,
            length_before=trainer.length_before,
            total_steps=trainer.total_steps,
            begun_with=trainer.begun_with,
            device=device,
            ranks=ranks,
        )
    result = trainer.run()
    if result.finished and ranks.is_main and not is_finished:
        facts = facts_of_run(trainer.out, step=result.step)
        trainer.evaluated.save_pretrained(export, tokenizer=data.tokenizer, facts=facts)
    if ranks.is_main:
        _say_failures(data.failures)
        _say_plain_reads(data.plain_reads)
        _report(result, trainer.out, ranks, as_json=as_json)
    return EXIT_COMPLETE if result.finished else EXIT_INTERRUPTED


def _new_length(config: PretrainConfig, step: int, before: int, now: int) -> str:
    """Returns what it means that a run has another number of steps than it was begun with."""
    from lava_model.optim import lr_at

    change = f"its length changes from {before} to {now} steps"
    if step >= now:
        return f"{change}: it ends here"
    if step >= before:
        change = f"it was finished, and training goes on from step {step}: {change}"
    last, following = lr_at(step - 1, before, config.optim), lr_at(step, now, config.optim)
    return (
        f"{change}: the learning-rate schedule is stretched over all {now}, so the learning rate goes from"
        f" {last:.3g} to {following:.3g} at the next step; the result is not that of {now} steps in one go"
    )


def _say_failures(failures: Mapping[str, str]) -> None:
    if failures:
        say(f"note: {len(failures)} clips did not decode and took part without the stream that failed, among them:")
    for reason in list(failures.values())[:_NUM_FAILURES_SHOWN]:
        say(f"  {reason}")


def _say_plain_reads(plain_reads: Mapping[str, int]) -> None:
    if plain_reads:
        reasons = ", ".join(f"{count} {reason}" for reason, count in plain_reads.items())
        say(f"note: clips were read without the packet index, in about one and a half times the time: {reasons}")


def _report(result: TrainResult, out: Path, ranks: Ranks, *, as_json: bool) -> None:
    if not result.finished:
        say(
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
            "world_size": ranks.world_size,
            "samples_per_second": result.samples_per_second,
            "mfu_percent": result.last_train.get("mfu_percent"),
            "temperature": result.last_train.get("temperature"),
            "train": dict(result.last_train),
            "val": dict(result.last_val),
            "out": str(out),
            "export": str(out / "export") if result.finished else None,
        }
        print(json.dumps({"command": "pretrain", "version": JSON_VERSION, **values}))
    elif result.finished:
        pace = f" at {result.samples_per_second:.1f} samples/s" if result.samples_per_second else ""
        tell(f"{result.step} steps{pace}; the model is in {out / 'export'}")
        if {"loss", "chance"} <= result.last_val.keys():
            tell(f"held-out loss {result.last_val['loss']:.3f}, at chance {result.last_val['chance']:.3f}")


def _say_nothing(line: str) -> None:
    """Takes the lines of ranks that are not the main one."""


if __name__ == "__main__":
    sys.exit(main())
