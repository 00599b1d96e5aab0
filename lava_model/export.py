"""Exports a trained model for reuse: ``python -m lava_model.export RUN --out FOLDER [--push OWNER/NAME]``.

stdout is the answer (where the model is, or one JSON object with ``--json``), stderr is progress. Exit codes: 0 done,
1 failed, 2 usage, 130 interrupted.
"""

from __future__ import annotations

from k700_text.starting import end_at_once

if __name__ == "__main__":
    end_at_once()  # before the imports below, which take time

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lava_model.errors import CheckpointError, ConfigError
from lava_model.files import located
from lava_model.program import EXIT_COMPLETE, Parser, import_modules, run_program, say, tell

if TYPE_CHECKING:
    from lava_model.checkpoint import TrainingState
    from lava_model.facts import ModelFacts
    from lava_model.model import Lava

PROGRAM = "python -m lava_model.export"
JSON_VERSION = 1

_EPILOG = f"example: {PROGRAM} runs/lava --out lava-k700 --push OWNER/NAME --private"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code."""
    try:
        return run_program(_run, arguments, interrupted="run the same command again")
    except SystemExit as stop:  # --help
        return int(stop.code or 0)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=PROGRAM, description=__doc__, epilog=_EPILOG, allow_abbrev=False)
    parser.add_argument("source", type=located, metavar="RUN", help="run folder, step_*.pt file or exported model")
    parser.add_argument("--out", type=located, required=True, help="folder for the exported model")
    parser.add_argument("--tokenizer", type=located, help="tokenizer.json of the run, where it is not found any more")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload it to the Hugging Face Hub (HF_TOKEN)")
    parser.add_argument("--private", action="store_true", help="with --push: only its owners may see it")
    parser.add_argument("--revision", help="with --push: branch to upload to")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    return parser


def _run(words: list[str]) -> int:
    asked = _parser().parse_args(words)
    if not asked.push and (asked.private or asked.revision):
        raise ConfigError("--private and --revision go with --push OWNER/NAME")
    if asked.push:
        from lava_model.hub import check_repo_id

        check_repo_id(asked.push)
    import_modules("lava_model.trained", "lava_model.data", purpose="exporting")
    found = open_source(asked.source, tokenizer=asked.tokenizer)
    facts = replace(found.facts, repo_id=asked.push or found.facts.repo_id)
    say(f"exporting {found.place} to {asked.out}")
    found.model.save_pretrained(asked.out, tokenizer=found.tokenizer, facts=facts)
    address = None
    if asked.push:
        from lava_model.hub import push_to_hub

        say(f"uploading {asked.out} to {asked.push}")
        address = push_to_hub(asked.out, asked.push, private=asked.private, revision=asked.revision)
    if asked.json:
        values = {"source": str(found.place), "out": str(asked.out), "push": asked.push, "commit_url": address}
        print(json.dumps({"command": "export", "version": JSON_VERSION, **values}))
    else:
        tell(f"the model is in {asked.out}" + (f" and at {address}" if address else ""))
    return EXIT_COMPLETE


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model to export, and what goes with it."""

    place: Path
    """Checkpoint file or exported folder it was read from."""
    model: Lava
    """With the moving average of its weights where one was kept."""
    facts: ModelFacts
    """What is known of its training."""
    tokenizer: Path | None
    """None: it trained without one, or the model knows it itself."""


def open_source(path: Path, *, tokenizer: Path | None = None) -> Source:
    """Returns the model that a run folder, checkpoint file or exported folder names.

    Args:
        path: where to look; of a run folder the newest checkpoint counts.
        tokenizer: file of the tokenizer, instead of the one that the run names.

    Raises:
        CheckpointError: there is no model, or its tokenizer is not to be found or another.
    """
    from lava_model.checkpoint import load_checkpoint
    from lava_model.facts import facts_of_run, told_settings
    from lava_model.model import Lava
    from lava_model.pretrained import read_facts
    from lava_model.trained import find_model, model_of_checkpoint

    place = find_model(path)
    if place.is_dir():
        return Source(place=place, model=Lava.from_pretrained(place), facts=read_facts(place), tokenizer=tokenizer)
    state = load_checkpoint(place)
    run = place.parent.parent
    facts = replace(
        facts_of_run(run, step=state.step),
        settings=told_settings(state.config),
        data=state.fingerprint,
        world_size=state.world_size,
    )
    model = model_of_checkpoint(state, place)
    return Source(place=place, model=model, facts=facts, tokenizer=_tokenizer_of(state, run, tokenizer))


def _tokenizer_of(state: TrainingState, run: Path, given: Path | None) -> Path | None:
    """Returns the tokenizer that a checkpoint was trained with; None where it was trained without one."""
    from lava_model.data import digest

    wanted = state.fingerprint.get("tokenizer")
    if wanted is None:
        return given
    named = state.config.get("data", {}).get("tokenizer")
    candidates = [given] if given else [Path(named), run / "export" / "tokenizer.json"] if named else []
    for path in candidates:
        if path.is_file() and digest(path) == wanted:
            return path
    if given is not None:
        raise CheckpointError(f"{given} is not the tokenizer that {run} was trained with: its ids mean other words")
    raise CheckpointError(
        f"the tokenizer of {run} is not at {named} any more, or has changed: pass --tokenizer with the file"
    )


if __name__ == "__main__":
    sys.exit(main())
