"""k700-text demo: sandbox, crawl, probe, manifest and tokenizer, as the very commands one would type.

Each step is a command of its own process and continues where it was, so a second demo has nothing left to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from k700_text.cli.common import emit_json, emit_table, say
from k700_text.cli.steps import Steps, need_packages
from k700_text.files.lock import FileLock

NUM_DATA_STEPS = 7
# Few titles: a small vocabulary keeps its entries to words that more than one title holds.
VOCAB_SIZE = 600
NUM_TITLES_SHOWN = 5
_WITHOUT_FLAW = {"none": "without a flaw"}
KEY_VARIABLE = "YOUTUBE_API_KEY"

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
    def ledger(self) -> Path:
        """What was asked and answered."""
        from k700_text.crawl.ledger_place import LEDGER_NAME

        return self.crawl / LEDGER_NAME

    @property
    def lists(self) -> tuple[Path, Path]:
        """The annotations of the two splits that the demo uses."""
        return self.annotations / "train.csv", self.annotations / "val.csv"

    @property
    def linear_probe(self) -> Path:
        """What the linear probe found."""
        return self.root / "linear_probe.json"

    @property
    def record(self) -> Path:
        """Which steps are finished."""
        return self.root / ".steps.json"

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


def lock_demo(out: Path) -> FileLock:
    """Keeps a second demo out of the folder, which is made if it is not there; raises as ``FileLock`` does."""
    out.mkdir(parents=True, exist_ok=True)
    return FileLock(out / ".demo.lock", f"another demo is at work in {out}", "wait for it to end, or use another --out")


def run_data_steps(folder: DemoFolder, steps: Steps, size: DemoSize) -> dict[str, Any]:
    """Makes the sandbox, crawls it, measures its clips, builds the manifest and the tokenizer; returns the answers."""
    answers = {"sandbox": _make_sandbox(folder, steps, size), **_crawl(folder, steps, size)}
    train, val = folder.lists
    words: Words = ["k700_text", "probe", folder.clips, "--out", folder.probe]
    answers["probe"] = steps.run(
        "what the clip files hold",
        words,
        files=[folder.clips, folder.probe],
        shows=lambda answer: [f"{kind}: {_counts(answer[kind + '_status'])}" for kind in ("video", "audio")],
    )
    words = ["k700_text", "manifest", "--annotations", train, "--annotations", val]
    words += ["--probe", folder.probe, "--out", folder.crawl]
    answers["manifest"] = steps.run(
        "the manifest, one row per annotated clip",
        words,
        files=[train, val, folder.probe, folder.ledger, *folder.manifests],
        shows=lambda answer: [f"{path}: {_num_rows(path):,} clips" for path in folder.manifests],
    )
    answers["stats"] = steps.run(
        "what the manifest holds",
        ["k700_text", "stats", *folder.manifests],
        files=folder.manifests,
        shows=lambda answer: [f"{name}: {value}" for name, value in _coverage_rows(answer)],
    )
    words = ["k700_text", "tokenizer", "--manifest", folder.manifests[0]]
    words += ["--vocab-size", str(VOCAB_SIZE), "--out", folder.tokenizer]
    answers["tokenizer"] = steps.run(
        "the tokenizer, from the titles",
        words,
        files=[folder.manifests[0], folder.tokenizer],
        shows=lambda answer: [
            f"{answer['entries']} entries from {answer['titles']:,} titles, "
            f"{answer['characters_per_token']} characters a token"
        ],
    )
    return answers


def _make_sandbox(folder: DemoFolder, steps: Steps, size: DemoSize) -> dict[str, Any]:
    from k700_text.media.pool import num_cores

    words: Words = ["k700_text", "sandbox", "--no-serve", "--workers", str(num_cores())]
    words += ["--seed", str(size.seed)]
    words += ["--num-classes", str(size.num_classes), "--clips-per-class", str(size.clips_per_class)]
    words += ["--labelled-per-class", str(size.labelled_per_class)]
    words += ["--annotations", folder.annotations, "--clips", folder.clips, "--labelled", folder.labelled]
    return steps.run(
        "a miniature Kinetics: annotations and H.264/AAC clips",
        words,
        files=[folder.annotations, folder.clips, folder.labelled],
        shows=lambda answer: [
            f"{answer['clips']:,} clips of {len(answer['labels'])} classes are listed: {', '.join(answer['labels'])}",
            f"{_num_files(answer['clip_files']):,} of them have a file; "
            + _counts({_WITHOUT_FLAW.get(name, name): count for name, count in answer["flawed_clips"].items()}),
            f"{_num_files(answer['labelled_files']):,} labelled clips of other videos, for the probe at the end",
        ],
    )


def _crawl(folder: DemoFolder, steps: Steps, size: DemoSize) -> dict[str, Any]:
    from k700_text.crawl.registry import ENDPOINT_NAMES
    from k700_text.crawl.sources import SOURCE_NAMES, dumps, wayback, yt_dlp
    from k700_text.sandbox.server import SandboxServer
    from k700_text.sandbox.world import World, make_kinetics

    world = World(size.seed)
    miniature = make_kinetics(world, num_classes=size.num_classes, clips_per_class=size.clips_per_class)
    train, val = folder.lists
    answers: dict[str, Any] = {}
    with SandboxServer(world, clips=miniature.clips) as server:
        say(f"\n(the sandbox answers on {server.url}; without --endpoint the real services are asked)")
        # Real services are asked at their published pace; the sandbox may be asked as fast as it answers.
        crawl: Words = ["k700_text", "crawl", "--out", folder.crawl]
        for source in (name for name in SOURCE_NAMES if name in ENDPOINT_NAMES and name != yt_dlp.NAME):
            crawl += ["--endpoint", f"{source}={server.archive_url if source == wayback.NAME else server.url}"]
        for source in (name for name in SOURCE_NAMES if name not in (dumps.NAME, yt_dlp.NAME)):
            crawl += ["--rate", f"{source}=1000"]
        # With a key, oEmbed is asked for a second opinion on what the Data API does not know; without, for everything.
        # The archives are asked about what is gone.
        answers["crawl_train"] = steps.run(
            "titles with an API key",
            [*crawl, "--annotations", train],
            environment={KEY_VARIABLE: "any-will-do"},
            files=[train, folder.ledger],
            shows=lambda answer: _recovered(answer, folder.manifests[0]),
        )
        answers["crawl_val"] = steps.run(
            "titles without a key",
            [*crawl, "--annotations", val, "--sources", "oembed,thumbnail,wayback,archive-item"],
            files=[val, folder.ledger],
            shows=lambda answer: _recovered(answer, folder.manifests[1]),
        )
    return answers


def _recovered(answer: Mapping[str, Any], manifest: Path) -> list[str]:
    """Returns what a crawl brought, with some titles to look at."""
    titles = [f"{clip_id}  {source:12}  {title}" for clip_id, source, title in some_titles(manifest)]
    return [
        f"{answer['num_titles']:,} titles of {answer['num_ids']:,} videos: {_counts(answer['titles_by_source'])}",
        *titles,
    ]


def some_titles(manifest: Path, number: int = NUM_TITLES_SHOWN) -> list[tuple[str, str, str]]:
    """Returns (clip id, source, title) of some clips of a manifest: the first of each source, then the second, ..."""
    import pyarrow.compute as pc

    from k700_text.schema import MANIFEST_SCHEMA, read_table

    table = read_table(manifest, MANIFEST_SCHEMA, ["clip_id", "title_source", "title"])
    rows = {row["clip_id"][:11]: row for row in table.filter(pc.is_valid(table["title"])).to_pylist()}  # one a video
    seen: Counter[str] = Counter()
    ranked = []
    for row in rows.values():
        source = row["title_source"] or ""
        ranked.append((seen[source], row["clip_id"], source, row["title"]))
        seen[source] += 1
    return [tuple(entry[1:]) for entry in sorted(ranked, key=lambda entry: entry[0])[:number]]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _num_files(answer: Mapping[str, Any]) -> int:
    return int(answer["written"]) + int(answer["kept"])


def _num_rows(manifest: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(manifest).num_rows)


def data_rows(answers: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Returns what the data steps gave as rows of a table."""
    return _coverage_rows(answers["stats"])


def _coverage_rows(stats: Mapping[str, Any]) -> list[tuple[str, object]]:
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
    need_packages(("torch", "tokenizers"), purpose="the demo", extra="data")
    folder = DemoFolder(out)
    with lock_demo(out):
        answers = run_data_steps(folder, Steps(total=NUM_DATA_STEPS, record=folder.record), size)
    if json:
        emit_json("demo", answers)
    else:
        emit_table("demo", [*data_rows(answers), ("folder", out)])
