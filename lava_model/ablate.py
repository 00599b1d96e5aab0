"""Compares variants of a training run: ``python -m lava_model.ablate STUDY --manifest M ... --out DIR``.

Every variant is trained by the Trainer with the same steps, batches, order and initial weights, over several seeds, in
DIR/STUDY/VARIANT/seed-K. stdout is the table (Markdown), stderr is progress; DIR/STUDY.json is the record. Run the same
command again to continue.
"""

from __future__ import annotations

from k700_text.starting import end_at_once

if __name__ == "__main__":
    end_at_once()  # before the imports below, which take time

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lava_model.config import PretrainConfig
from lava_model.errors import ConfigError
from lava_model.files import located, write_json
from lava_model.presets import PRESETS, preset
from lava_model.pretrain import SHORT_OPTIONS
from lava_model.program import EXIT_COMPLETE, EXIT_INTERRUPTED, Parser, import_modules, run_program, say, tell
from lava_model.settings import flatten, override, to_dict
from lava_model.study.variants import STUDIES, Study, Variant

if TYPE_CHECKING:
    from lava_model.study.runs import StudyData

PROGRAM = "python -m lava_model.ablate"
RECORD_VERSION = 1

_OWN_OPTIONS = (
    *("--out", "--seeds", "--views", "--probe", "--groups", "--only", "--preset"),
    *("--print-config", "--dry-run", "--json", "--debug"),
)
_SETTING_NAMES = {
    short: full for short, full in SHORT_OPTIONS.items() if short not in ("--out", "--seed", "--init-from")
}

_EPILOG = f"""studies:
{chr(10).join(f"  {name:10}{study.question}" for name, study in STUDIES.items())}

example: {PROGRAM} losses --preset tiny --synthetic --max-steps 100 --out runs/losses

Any setting of lava_model.pretrain may follow (--optim.lr 3e-4, --batch-size 64): it holds for all variants.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code: 0 done, 1 failed, 2 usage, 130 stopped by a signal."""
    return run_program(_run, arguments, interrupted="run the same command to continue")


def _run(words: list[str]) -> int:
    asked, settings = _parser().parse_known_args(words)
    study = _study(asked.study)
    base = override(
        _base(asked.preset),
        [_full_name(word) for word in settings],
        program=f"{PROGRAM} {asked.study}",
        also_known=[*_SETTING_NAMES, *_OWN_OPTIONS],
    )
    if base.run.init_from is not None:
        raise ConfigError("a study compares what is learned from the weights of a seed: leave --run.init-from out")
    variants = _chosen(study, base, asked.only)
    if asked.print_config:
        print(json.dumps(to_dict(base), indent=2))
        return EXIT_COMPLETE
    if asked.dry_run:
        tell("\n".join(_changes(variant, base) for variant in variants))
        return EXIT_COMPLETE
    if asked.out is None:
        raise ConfigError("--out must be given: the folder for runs, views and records")
    for name, least in (("seeds", 1), ("views", 1)):
        if getattr(asked, name) < least:
            raise ConfigError(f"--{name} must be at least {least}, got {getattr(asked, name)}")
    _check_probe(asked.probe, asked.groups)
    return _compare(asked, study, base, variants, words)


def _check_probe(probe: Path | None, groups: Path | None) -> None:
    """Refuses what would be found missing only after all views are made."""
    if groups is not None and probe is None:
        raise ConfigError("--groups tells the source videos of the clips in --probe: pass that too")
    if probe is not None and not probe.is_dir():
        raise ConfigError(f"--probe {probe} is no folder")
    if groups is not None and not groups.is_file():
        raise ConfigError(f"--groups {groups} is no file")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=PROGRAM,
        description=__doc__,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument("--out", type=located, help="folder for runs, cached views and records; continued if it exists")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of initialisation and order (default: 3)")
    parser.add_argument("--views", type=int, default=4, help="augmented views kept of each training clip (default: 4)")
    parser.add_argument("--probe", type=located, help="folder of labelled clips for a linear probe of each run")
    parser.add_argument("--groups", type=located, help="CSV of the labelled clips' source videos, as evaluate takes it")
    parser.add_argument(
        "--only",
        help="these variants, separated by commas: to divide a study among processes (one more run without it gives the"
        " table of all)",
    )
    parser.add_argument("--preset", default="tiny", help=f"base configuration: {', '.join(PRESETS)} (default: tiny)")
    parser.add_argument("--print-config", action="store_true", help="print the base configuration as JSON and stop")
    parser.add_argument("--dry-run", action="store_true", help="print what each variant changes and stop")
    parser.add_argument("--json", action="store_true", help="print the record as one JSON object")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    return parser


def _study(name: str) -> Study:
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown study {name!r}: did you mean {near!r}? There are {', '.join(STUDIES)}")
    return STUDIES[name]


def _base(name: str) -> PretrainConfig:
    """A preset for many runs: held-out clips are looked at by the study itself, and one checkpoint of each stays."""
    base = preset(name)
    return replace(base, run=replace(base.run, eval_every=0, keep_checkpoints=1))


def _full_name(word: str) -> str:
    name, equals, value = word.partition("=")
    return _SETTING_NAMES.get(name.replace("_", "-"), name) + equals + value


def _chosen(study: Study, base: PretrainConfig, only: str | None) -> list[Variant]:
    variants = study.variants(base)
    if only is None:
        return variants
    names = only.split(",")
    known = [variant.name for variant in variants]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"unknown variants {', '.join(unknown)}: there are {', '.join(known)}")
    return [variant for variant in variants if variant.name in names]


def _changes(variant: Variant, base: PretrainConfig) -> str:
    before, after = flatten(to_dict(base)), flatten(to_dict(variant.config))
    changed = [f"{name} {value}" for name, value in after.items() if before[name] != value]
    return f"{variant.name:28}{', '.join(changed) or 'the base configuration'}"


def _compare(
    asked: argparse.Namespace, study: Study, base: PretrainConfig, variants: list[Variant], words: list[str]
) -> int:
    import_modules("lava_model.study.runs", "lava_model.study.summary", purpose="a study")
    from lava_model.run_folder import code_revision, versions
    from lava_model.study import runs
    from lava_model.study.markdown import markdown
    from lava_model.study.summary import summarise

    seeds = range(asked.seeds)
    data = runs.open_study_data(
        base, asked.out / "views", num_views=asked.views, probe=asked.probe, groups=asked.groups, say=say
    )
    try:
        results = runs.run_all(variants, seeds, data, asked.out / asked.study, say=say)
    except runs.StoppedError as stop:
        say(f"stopped by {stop}: run the same command to continue")
        return EXIT_INTERRUPTED
    record: dict[str, Any] = {
        "task": f"ablate {asked.study}",
        "record_version": RECORD_VERSION,
        "question": study.question,
        "reference": study.reference,
        "command": [*PROGRAM.split(), *words],
        "setup": _setup(asked, base, data),
        "made_with": {**versions(), **code_revision()},
        "base": to_dict(base),
        "controls": runs.controls(base, data, seeds, asked.out),
        "summary": summarise(results, study.reference),
        "results": results,
    }
    write_json(asked.out / f"{asked.study}.json", record)
    tell(json.dumps(record) if asked.json else markdown(record))
    return EXIT_COMPLETE


def _setup(asked: argparse.Namespace, base: PretrainConfig, data: StudyData) -> dict[str, Any]:
    """What was held equal."""
    before, after = flatten(to_dict(preset(asked.preset))), flatten(to_dict(base))
    shaping = ("model.", "loss.", "optim.", "data.batch_size", "data.micro_batch", "data.accumulate")
    task = None if data.probing is None else data.probing.task
    return {
        "preset": asked.preset,
        "changed": {name: after[name] for name in after if before[name] != after[name] and name.startswith(shaping)},
        "batch_size": base.data.batch_size,
        "num_seeds": asked.seeds,
        "num_views": asked.views,
        "num_train": len(data.training.train),
        "num_held_out": len(data.held_out),
        "probe": None if task is None else {"num_clips": len(task.labels), "num_videos": len(set(task.groups))},
        "data": data.training.fingerprint,
    }


if __name__ == "__main__":
    sys.exit(main())
