"""k700-text demo: sandbox, crawl, probe, manifest and tokenizer, as the very commands one would type.

Each step is a command of its own process and continues where it was, so a second demo has nothing left to do.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from k700_text.cli.common import EXIT_INTERRUPTED, emit_json, emit_table, say
from k700_text.errors import K700TextError
from k700_text.files.lock import FileLock
from k700_text.starting import takes_last_word

NUM_DATA_STEPS = 7
# Few titles: a small vocabulary keeps its entries to words that more than one title holds.
VOCAB_SIZE = 600
KEY_VARIABLE = "YOUTUBE_API_KEY"

_PASSING_ON_SECONDS = 3.0

Words = list[str | Path]


@dataclass(frozen=True, slots=True)
class DemoSize:
    """Which miniature Kinetics the demo makes, and how large."""

    seed: int = 0
    num_classes: int = 10
    clips_per_class: int = 80
    labelled_per_class: int = 12


SMALL = DemoSize(num_classes=3, clips_per_class=12, labelled_per_class=3)
"""A minute in place of minutes: the whole chain, but nothing to learn from."""


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """Where the demo keeps what it makes."""

    root: Path

    @property
    def annotations(self) -> Path:
        """CSV files of the miniature Kinetics."""
        return self.root / "sandbox" / "annotations"

    @property
    def clips(self) -> Path:
        """Its clip files."""
        return self.root / "sandbox" / "clips"

    @property
    def labelled(self) -> Path:
        """Labelled clips of other videos, for the probe at the end."""
        return self.root / "sandbox" / "labelled"

    @property
    def crawl(self) -> Path:
        """The ledger and the manifest."""
        return self.root / "titles"

    @property
    def manifests(self) -> list[Path]:
        """The manifest, a file for each split that the demo uses."""
        return [self.crawl / "train.parquet", self.crawl / "val.parquet"]

    @property
    def probe(self) -> Path:
        """What was measured of the clip files."""
        return self.root / "probe.parquet"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer, trained on the recovered titles."""
        return self.root / "tokenizer.json"


@dataclass(slots=True)
class Steps:
    """Runs the steps of a demo one after the other, showing each as the command it is."""

    total: int
    number: int = 0

    def announce(self, title: str) -> None:
        """Shows the title of the next step."""
        self.number += 1
        say(f"\n[{self.number}/{self.total}] {title}")

    def run(
        self, title: str, arguments: Sequence[str | Path], *, environment: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Runs ``python -m ARGUMENTS --json`` and returns the JSON object that it prints; stderr passes through.

        Raises:
            K700TextError: the command failed; names it and its exit code.
            KeyboardInterrupt: it was interrupted.
        """
        self.announce(title)
        words = [str(argument) for argument in arguments]
        say("$ " + _as_typed(words, environment or {}))
        code, output = _run([sys.executable, "-m", *words, "--json"], {**os.environ, **(environment or {})})
        if code == EXIT_INTERRUPTED:
            takes_last_word()  # The command has said so.
            raise KeyboardInterrupt
        if code:
            raise K700TextError(f"step {self.number} ({title}) ended with exit code {code}; see above")
        answer: dict[str, Any] = json.loads(output.splitlines()[-1])
        return answer


def _run(words: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Runs a command and returns its exit code and what it printed; an interruption waits for it to save its work."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, text=True, encoding="utf-8") as process:
        try:
            output, _ = process.communicate()
        except KeyboardInterrupt:
            # From a terminal it reaches both of us, from elsewhere us alone.
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PASSING_ON_SECONDS)
            if process.poll() is None:
                process.terminate()
            if process.wait() == EXIT_INTERRUPTED:
                takes_last_word()
            raise
        return process.returncode, output


def _as_typed(words: list[str], environment: Mapping[str, str]) -> str:
    command = ["k700-text", *words[1:]] if words[0] == "k700_text" else ["python", "-m", *words]
    return " ".join([*(f"{name}={value}" for name, value in environment.items()), shlex.join(command)])


def lock_demo(out: Path) -> FileLock:
    """Keeps a second demo out of the folder, which is made if it is not there; raises as ``FileLock`` does."""
    out.mkdir(parents=True, exist_ok=True)
    return FileLock(out / ".demo.lock", f"another demo is at work in {out}", "wait for it to end, or use another --out")


def run_data_steps(folder: DemoFolder, steps: Steps, size: DemoSize) -> dict[str, Any]:
    """Makes the sandbox, crawls it, measures its clips, builds the manifest and the tokenizer; returns the answers."""
    from k700_text.crawl.registry import ENDPOINT_NAMES
    from k700_text.crawl.sources import SOURCE_NAMES, dumps, wayback, yt_dlp
    from k700_text.media.pool import num_cores
    from k700_text.sandbox.server import SandboxServer
    from k700_text.sandbox.world import World, make_kinetics

    folder.root.mkdir(parents=True, exist_ok=True)
    train, val = folder.annotations / "train.csv", folder.annotations / "val.csv"
    answers: dict[str, Any] = {}
    words: Words = ["k700_text", "sandbox", "--no-serve", "--workers", str(num_cores())]
    words += ["--seed", str(size.seed)]
    words += ["--num-classes", str(size.num_classes), "--clips-per-class", str(size.clips_per_class)]
    words += ["--labelled-per-class", str(size.labelled_per_class)]
    words += ["--annotations", folder.annotations, "--clips", folder.clips, "--labelled", folder.labelled]
    answers["sandbox"] = steps.run("a miniature Kinetics: annotations and H.264/AAC clips", words)
    world = World(size.seed)
    miniature = make_kinetics(world, num_classes=size.num_classes, clips_per_class=size.clips_per_class)
    with SandboxServer(world, clips=miniature.clips) as server:
        say(f"(the sandbox answers on {server.url}; without --endpoint the real services are asked)")
        # Real services are asked at their published pace; the sandbox may be asked as fast as it answers.
        crawl: Words = ["k700_text", "crawl", "--out", folder.crawl]
        for source in (name for name in SOURCE_NAMES if name in ENDPOINT_NAMES and name != yt_dlp.NAME):
            crawl += ["--endpoint", f"{source}={server.archive_url if source == wayback.NAME else server.url}"]
        for source in (name for name in SOURCE_NAMES if name not in (dumps.NAME, yt_dlp.NAME)):
            crawl += ["--rate", f"{source}=1000"]
        # With a key, oEmbed is asked for a second opinion on what the Data API does not know; without, for everything.
        # The archives are asked about what is gone.
        words = [*crawl, "--annotations", train]
        answers["crawl_train"] = steps.run("titles with an API key", words, environment={KEY_VARIABLE: "any-will-do"})
        words = [*crawl, "--annotations", val, "--sources", "oembed,thumbnail,wayback,archive-item"]
        answers["crawl_val"] = steps.run("titles without a key", words)
    words = ["k700_text", "probe", folder.clips, "--out", folder.probe]
    answers["probe"] = steps.run("what the clip files hold", words)
    words = ["k700_text", "manifest", "--annotations", train, "--annotations", val]
    words += ["--probe", folder.probe, "--out", folder.crawl]
    answers["manifest"] = steps.run("the manifest, one row per annotated clip", words)
    answers["stats"] = steps.run("what the manifest holds", ["k700_text", "stats", *folder.manifests])
    words = ["k700_text", "tokenizer", "--manifest", folder.manifests[0]]
    words += ["--vocab-size", str(VOCAB_SIZE), "--out", folder.tokenizer]
    answers["tokenizer"] = steps.run("the tokenizer, from the titles", words)
    return answers


def data_rows(answers: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Returns what the data steps gave as rows of a table."""
    stats = answers["stats"]
    num_gone = sum(stats["availability"].get(state, 0) for state in ("not_found", "private"))
    return [
        ("clips in the manifest", stats["num_clips"]),
        ("titles recovered", _share(stats["num_titles"], stats["num_clips"])),
        *((f"  by {source}", count) for source, count in stats["titles_by_source"].items()),
        ("clips of videos gone or private", num_gone),
        ("usable audio", _share(stats["audio_status"].get("usable", 0), stats["num_clips"])),
        ("all three modalities", _share(stats["num_complete"], stats["num_clips"])),
    ]


def _share(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({100 * count / max(1, total):.0f} %)"


def demo(
    out: Annotated[Path, typer.Option(help="Folder to keep everything in.")] = Path("demo-run"),
    small: Annotated[bool, typer.Option("--small", help="Few clips: shows the chain in a minute.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another world.")] = 0,
    clips_per_class: Annotated[
        int | None, typer.Option(min=1, help="Training clips of each class.", show_default=False)
    ] = None,
    labelled_per_class: Annotated[
        int | None, typer.Option(min=0, help="Labelled videos of each class.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Runs the data half of the chain on the offline sandbox: clips, crawl, probe, manifest, tokenizer.

    `make demo` goes on from there with training and evaluation.

    Example: k700-text demo --out demo-run
    """
    size = SMALL if small else DemoSize()
    size = replace(
        size,
        seed=seed,
        clips_per_class=clips_per_class or size.clips_per_class,
        labelled_per_class=size.labelled_per_class if labelled_per_class is None else labelled_per_class,
    )
    folder = DemoFolder(out)
    with lock_demo(out):
        answers = run_data_steps(folder, Steps(total=NUM_DATA_STEPS), size)
    if json:
        emit_json("demo", answers)
    else:
        emit_table("demo", [*data_rows(answers), ("folder", out)])
