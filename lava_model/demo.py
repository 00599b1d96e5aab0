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
from typing import TYPE_CHECKING, Any

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
from k700_text.cli.demo import NUM_DATA_STEPS, SMALL, DemoFolder, DemoSize, Steps, data_rows, lock_demo, run_data_steps
from k700_text.errors import K700TextError
from k700_text.files.atomic import write_whole
from k700_text.files.journal import json_lines
from k700_text.media.pool import num_cores
from k700_text.starting import interrupting
from lava_model.errors import LavaError
from lava_model.modalities import TERMS, TermName

if TYPE_CHECKING:
    from PIL import Image

    from k700_text import Sample

NUM_STEPS = NUM_DATA_STEPS + 3
TRAIN_STEPS, SMALL_TRAIN_STEPS = 300, 4
PICTURE_CLIPS = 8


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
    folder, steps = DemoFolder(out), Steps(total=NUM_STEPS)
    say(f"everything goes to {out}" if is_new else f"continuing {out}: what is finished is kept")
    answers = run_data_steps(folder, steps, SMALL if is_small else DemoSize())
    steps.announce("what the model will see")
    answers["picture"] = draw_batch(folder, out / "batch.png")
    say(f"{PICTURE_CLIPS} samples are in {out / 'batch.png'}: frames, log-mel, title")
    answers["pretrain"] = steps.run(
        "pre-training of a tiny LAVA, held-out loss beside it",
        _pretrain_words(folder, SMALL_TRAIN_STEPS if is_small else TRAIN_STEPS),
        environment=_threads(),
    )
    answers["probe_result"] = steps.run(
        "a linear probe on the learned video features, with its controls",
        _probe_words(folder),
        environment=_threads(),
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
    run, record = folder.root / "run", folder.root / "linear_probe.json"
    return [
        *("lava_model.evaluate", "linear-probe", "--checkpoint", run, "--data", folder.labelled),
        *("--workers", "1", "--cache", folder.root / "features", "--out", record),
    ]


def _rows(summary: dict[str, Any], out: Path) -> list[tuple[str, object]]:
    pretrain, probe = summary["pretrain"], summary["probe_result"]
    first, last = _held_out(out / "run" / "log.jsonl")
    return [
        *data_rows(summary),
        ("pre-training", f"{pretrain['step']} steps of 32 clips"),
        ("held-out loss, start -> end", f"{first['loss']:.2f} -> {last['loss']:.2f} (chance {last['chance']:.2f})"),
        *((f"  {term.upper()}", _term(first, last, term)) for term in _TOLD),
        ("linear probe, top-1 accuracy", ""),
        *((f"  {name}", _percent(scores)) for name, scores in probe["scores"].items()),
        ("  chance (largest class)", f"{100 * probe['chance']['majority_share_of_test']:.1f} %"),
        ("time", f"{summary['seconds']:.0f} s"),
        ("manifest", ", ".join(map(str, DemoFolder(out).manifests))),
        ("one batch as a picture", out / "batch.png"),
        ("trained model", out / "run" / "export"),
        ("log of the training", out / "run" / "log.jsonl"),
        ("record of the probe", out / "linear_probe.json"),
        ("all of this as JSON", out / "summary.json"),
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


def draw_batch(folder: DemoFolder, path: Path) -> str:
    """Writes a picture of some training samples: title, frames in a row, log-mel under them."""
    try:
        from PIL import Image

        from k700_text import KineticsAVT
        from k700_text.data.text import TitleTokenizer
        from lava_model.presets import preset
    except ImportError as error:
        raise K700TextError(f"{error.name} is not installed: pip install 'k700-text[train]'") from error
    model = preset("tiny").model
    video, audio, text = replace(model.video_config(), pixel_format="rgb24"), model.audio_config(), model.text_config()
    tokenizer = TitleTokenizer(folder.tokenizer)
    dataset = KineticsAVT(
        folder.manifests[0], folder.clips, tokenizer=tokenizer, train=False, video=video, audio=audio, text=text
    )
    drawn = []
    for number in range(min(PICTURE_CLIPS, len(dataset))):
        sample = dataset[number * len(dataset) // PICTURE_CLIPS]
        title = tokenizer.decode(sample.token_ids[sample.text_mask]) if sample.has_text else "(no title)"
        drawn.append(_draw_sample(sample, title))
    sheet = Image.new("RGB", (drawn[0].width, sum(picture.height for picture in drawn)), "white")
    for number, picture in enumerate(drawn):
        sheet.paste(picture, (0, number * picture.height))
    sheet.save(path)
    return str(path)


def _draw_sample(sample: Sample, title: str) -> Image.Image:
    from PIL import Image, ImageDraw

    num_frames, size = sample.video.shape[:2]
    num_mels = sample.log_mel.shape[0]
    side, gap, line = 2 * size, 2, 18
    width = num_frames * (side + gap) - gap
    picture = Image.new("RGB", (width, line + side + gap + num_mels + 8), "white")
    sound = "" if sample.has_audio else "  (no usable audio)"
    ImageDraw.Draw(picture).text((2, 2), f"{sample.label}: {title}{sound}", fill="black")
    for number, frame in enumerate(sample.video):
        picture.paste(Image.fromarray(frame.numpy()).resize((side, side)), (number * (side + gap), line))
    mel = sample.log_mel.flip(0)  # low notes at the bottom
    gray = ((mel - mel.min()) / (mel.max() - mel.min()).clamp(min=1e-6) * 255).byte()
    picture.paste(Image.fromarray(gray.numpy()).resize((width, num_mels)), (0, line + side + gap))
    return picture


if __name__ == "__main__":
    sys.exit(main())
