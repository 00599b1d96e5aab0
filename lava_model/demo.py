"""The whole chain on the offline sandbox, from annotations to a linear probe: ``python -m lava_model.demo --out DIR``.

Every step is the command that one would type oneself; a second run continues where the first one was.
"""

from __future__ import annotations

from k700_text.starting import end_at_once

if __name__ == "__main__":
    end_at_once()  # before the imports below, which take time

import argparse
import json
import math
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from k700_text.cli.common import (
    EXIT_COMPLETE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    describe,
    emit_json,
    emit_table,
    say,
    tell,
)
from k700_text.cli.demo import NUM_DATA_STEPS, SMALL, DemoFolder, DemoSize, data_rows, lock_demo, run_data_steps
from k700_text.cli.steps import Steps, need_packages
from k700_text.errors import K700TextError
from k700_text.files.atomic import write_whole
from k700_text.files.journal import json_lines
from k700_text.media.pool import num_cores
from k700_text.starting import interrupting
from lava_model.errors import LavaError
from lava_model.modalities import TERMS, TermName

NUM_STEPS = NUM_DATA_STEPS + 3
TRAIN_STEPS, SMALL_TRAIN_STEPS = 300, 4
PICTURE_CLIPS = 8
NEEDED_PACKAGES = ("torch", "torchvision", "tokenizers", "safetensors", "tyro", "sklearn", "PIL")
"""What the steps import in the end: their absence is told before the first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo and returns its exit code: 0 done, 1 failed, 2 usage, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m lava_model.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-run"), help="folder to keep everything in")
    parser.add_argument("--small", action="store_true", help="few clips and steps: shows the chain in a minute")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    asked = parser.parse_args(arguments)
    try:
        with interrupting():
            need_packages(NEEDED_PACKAGES, purpose="the demo", extra="train")
            is_new = not asked.out.exists()
            with lock_demo(asked.out):
                _run(asked.out, is_new=is_new, is_small=asked.small, as_json=asked.json)
    except KeyboardInterrupt:
        say("interrupted: finished steps are kept; run the same command to continue")
        return EXIT_INTERRUPTED
    except (K700TextError, LavaError, OSError) as error:
        if asked.debug:
            traceback.print_exc()
        say(f"error: {error if isinstance(error, LavaError) else describe(error)}")
        return EXIT_FAILED
    return EXIT_COMPLETE


def _run(out: Path, *, is_new: bool, is_small: bool, as_json: bool) -> None:
    started = time.monotonic()
    say(f"everything goes to {out}" if is_new else f"continuing {out}: what is finished is kept")
    folder = DemoFolder(out)
    steps = Steps(total=NUM_STEPS, record=folder.record)
    answers = run_data_steps(folder, steps, SMALL if is_small else DemoSize())
    picture, run = out / "batch.png", out / "run"
    answers["picture"] = steps.once(
        "what the model will see",
        lambda: {"path": str(picture), "not_drawn": draw_batch(folder, picture)},
        same=["one batch"],
        files=[*folder.manifests, folder.clips, folder.tokenizer, picture, picture.with_suffix(".html")],
        shows=lambda answer: _drawn(answer, picture),
    )
    answers["pretrain"] = steps.run(
        "pre-training of a tiny LAVA, held-out loss beside it",
        _pretrain_words(folder, SMALL_TRAIN_STEPS if is_small else TRAIN_STEPS),
        environment=_threads(),
        files=[*folder.manifests, folder.clips, folder.tokenizer, run],
        shows=lambda answer: [f"{name}: {value}" for name, value in _training_rows(answer, run)],
    )
    answers["probe_result"] = steps.run(
        "a linear probe on the learned video features, with its controls",
        _probe_words(folder),
        environment=_threads(),
        files=[folder.labelled, run, folder.linear_probe],
        shows=lambda answer: [f"{name}: {_percent(scores)}" for name, scores in answer["scores"].items()],
    )
    summary = {**answers, "seconds": round(time.monotonic() - started, 1)}
    write_whole(out / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    if as_json:
        emit_json("demo", summary)
    else:
        emit_table("demo", _rows(summary, out))
        tell(summary["probe_result"]["verdict"])


def _threads() -> dict[str, str]:
    """One core reads clips, the others compute: more threads than that slow each other down."""
    return {"OMP_NUM_THREADS": str(max(1, num_cores() - 1))}


def _pretrain_words(folder: DemoFolder, train_steps: int) -> list[str | Path]:
    train, val = folder.manifests
    return [
        *("lava_model.pretrain", "--preset", "tiny"),
        *("--manifest", train, "--val-manifest", val, "--clips", folder.clips, "--tokenizer", folder.tokenizer),
        *("--num-workers", "1", "--epochs", "1000", "--max-steps", str(train_steps), "--out", folder.root / "run"),
    ]


def _probe_words(folder: DemoFolder) -> list[str | Path]:
    run, record = folder.root / "run", folder.linear_probe
    return [
        *("lava_model.evaluate", "linear-probe", "--checkpoint", run, "--data", folder.labelled),
        *("--workers", "1", "--cache", folder.root / "features", "--out", record),
    ]


def _rows(summary: dict[str, Any], out: Path) -> list[tuple[str, object]]:
    probe = summary["probe_result"]
    return [
        *data_rows(summary),
        *_training_rows(summary["pretrain"], out / "run"),
        ("linear probe, top-1 accuracy", ""),
        *((f"  {name}", _percent(scores)) for name, scores in probe["scores"].items()),
        ("  chance (largest class)", f"{100 * probe['chance']['majority_share_of_test']:.1f} %"),
        ("time of this run", f"{summary['seconds']:.0f} s"),
        ("manifest", ", ".join(map(str, DemoFolder(out).manifests))),
        ("one batch as a picture", f"{out / 'batch.png'}, {out / 'batch.html'}"),
        ("trained model", out / "run" / "export"),
        ("log of the training", out / "run" / "log.jsonl"),
        ("record of the probe", out / "linear_probe.json"),
        ("all of this as JSON", out / "summary.json"),
    ]


def _training_rows(pretrain: dict[str, Any], run: Path) -> list[tuple[str, object]]:
    first, last = _held_out(run / "log.jsonl")
    return [
        ("pre-training", f"{pretrain['step']} steps of 32 clips"),
        ("held-out loss, start -> end", f"{first['loss']:.2f} -> {last['loss']:.2f} (chance {last['chance']:.2f})"),
        *((f"  {term.upper()}", _term(first, last, term)) for term in _TOLD),
    ]


_TOLD: tuple[TermName, ...] = ("av", "vt", "avt")


def _term(first: dict[str, Any], last: dict[str, Any], term: TermName) -> str:
    """Returns how a term of the held-out loss fell, beside what knowing nothing gives: ln of the rows it rests on."""
    num_rows, num_contrasts = last[f"num_{term}"], TERMS[term].num_contrasts
    chance = num_contrasts * math.log(num_rows)
    times = f"{num_contrasts} x " if num_contrasts > 1 else ""
    return f"{first[f'loss_{term}']:.2f} -> {last[f'loss_{term}']:.2f} ({times}ln {num_rows:.0f} = {chance:.2f})"


def _percent(scores: dict[str, Any]) -> str:
    return f"{100 * scores['top1_accuracy']:.1f} % ± {100 * scores['top1_accuracy_std']:.1f}"


def _held_out(log: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the first and the last held-out line of a training log."""
    with log.open("rb") as file:
        held_out = [line for _, line in json_lines(file) if line is not None and line["kind"] == "val"]
    return held_out[0], held_out[-1]


def draw_batch(folder: DemoFolder, path: Path) -> list[str]:
    """Writes a picture of some training samples: title, frames in a row, log-mel under them; and the same as a page.

    Returns:
        The characters that the picture could not show, as no font here has them; the page can.
    """
    try:
        from k700_text import KineticsAVT
        from k700_text.data.text import TitleTokenizer
        from lava_model.picture import draw_sheet
        from lava_model.presets import preset
    except ImportError as error:
        raise K700TextError(f"{error.name} is not installed: pip install 'k700-text[train]'") from error
    model = preset("tiny").model
    video, audio, text = replace(model.video_config(), pixel_format="rgb24"), model.audio_config(), model.text_config()
    tokenizer = TitleTokenizer(folder.tokenizer)
    dataset = KineticsAVT(
        folder.manifests[0], folder.clips, tokenizer=tokenizer, train=False, video=video, audio=audio, text=text
    )
    rows = []
    for number in range(min(PICTURE_CLIPS, len(dataset))):
        sample = dataset[number * len(dataset) // PICTURE_CLIPS]
        title = tokenizer.decode(sample.token_ids[sample.text_mask]) if sample.has_text else "(no title)"
        sound = "" if sample.has_audio else "  (no usable audio)"
        rows.append((sample, f"{sample.clip_id}  {sample.label}: {title}{sound}"))
    return sorted(draw_sheet(rows, path))


def _drawn(answer: dict[str, Any], path: Path) -> list[str]:
    lines = [f"{PICTURE_CLIPS} samples are in {path}: title, frames, log-mel"]
    if answer["not_drawn"]:
        missing = f"no font here has {' '.join(answer['not_drawn'])}"
        lines.append(f"{missing}: boxes in the picture, letters in {path.with_suffix('.html')} in a browser")
    return lines


if __name__ == "__main__":
    sys.exit(main())
