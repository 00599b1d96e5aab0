"""Our crawl beside a plain yt-dlp loop and video2dataset's metadata stage, on the same ids of the same sandbox.

All contenders run unthrottled, each in a process of its own, against a sandbox in another; ids/s are counted between
the first and the last request, so start-up is left out. At the services' published limits ours asks oEmbed 5 times a
second; the peers have no limits. Reasons are judged kindly: a peer's error text is read by our own message rules.

- plain loop: one YoutubeDL, ``extract_info`` for each id, one JSON line each, appended at once; a restart begins anew.
- video2dataset: its own ``VideoDataReader`` with ``yt_metadata_args: {get_info: True}`` in a pool of 32 threads (its
  default), rows written and marked done by shards of 100 (its rule; the default is 1,000). Its own subtitle settings
  are left out: with them a video without subtitles loses its title. Only its reader is used, because the rest of it
  writes no row at all where no media is downloaded. Needs what INSTALL_HINT says.

Expected before measuring: video2dataset builds a YoutubeDL for each id and drops every error, so it is the slowest
(some 10 ids/s on two cores) and keeps no reason; the plain loop has most titles of videos that play, none of the
others, and the best error texts; it asks 3 times an id and starts over after a kill. Ours without a key should be ten
times as fast, recover titles of dead videos from the archive, and ask again only what was in flight; its reasons for
dead videos are vaguer than the player's (oEmbed says "not found" for all of them) unless yt-dlp is switched on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pyarrow.parquet as pq
import yt_dlp

from k700_text.crawl.messages import classify
from k700_text.crawl.sources import SOURCE_NAMES
from k700_text.records import Availability
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World
from k700_text.titles import clean_title

SEED, NUM_IDS, SHARD_SIZE, NUM_THREADS = 0, 300, 100, 32
INSTALL_HINT = "pip install --no-deps video2dataset ffmpeg-python future webvtt-py"
NO_KEY = ("oembed", "thumbnail", "wayback", "wayback-cdx", "archive-item")
OURS = {
    "ours": (),
    "ours, with key": ("data-api", *NO_KEY),
    "ours, with yt-dlp": (*NO_KEY, "yt-dlp"),
}
PEERS = ("plain yt-dlp loop", "video2dataset")


@dataclass(frozen=True)
class Row:
    """What a contender has about one id in the end."""

    title: str | None
    state: Availability


@dataclass(frozen=True)
class Measured:
    """One line of the table; shares in 0..1."""

    ids_per_second: float
    titles_right: int
    titles_wrong: int
    true_reasons: float
    usable_reasons: float
    requests_per_id: float
    asked_again: int
    rows_lost: int
    rows_doubled: int


class Sandbox:
    """A sandbox in a process of its own."""

    def __init__(self) -> None:
        self._connection, theirs = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        self.url: str = self._connection.recv()

    def count(self) -> int:
        """Returns how many requests it got so far."""
        return int(self._ask("count"))

    def seconds(self, since: int) -> float:
        """Returns the time between the first and the last request after the first ``since`` ones."""
        return float(self._ask(since))

    def _ask(self, question: Any) -> Any:
        self._connection.send(question)
        return self._connection.recv()


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with SandboxServer(World(seed=SEED)) as server:
        connection.send(server.url)
        while True:
            question = connection.recv()
            if question == "count":
                connection.send(server.count())
            else:
                log = server.requests[question:]
                connection.send(max(each.answered_at for each in log) - min(each.time for each in log))


def redirect_yt_dlp(url: str) -> None:
    """Points every YoutubeDL of this process at the sandbox."""
    origin, urlopen = urlsplit(url), yt_dlp.YoutubeDL.urlopen

    def redirected(self: Any, request: Any) -> Any:
        request = yt_dlp.networking.Request(request) if isinstance(request, str) else request
        request.url = urlunsplit((origin.scheme, origin.netloc, *urlsplit(request.url)[2:]))
        return urlopen(self, request)

    yt_dlp.YoutubeDL.urlopen = redirected


def plain_loop(ids: Sequence[str], out: Path) -> None:
    """The loop that one finds in every notebook."""
    with yt_dlp.YoutubeDL({"quiet": True, "skip_download": True}) as downloader, (out / "rows.jsonl").open("a") as file:
        for youtube_id in ids:
            title = error = None
            try:
                title = downloader.extract_info(watch_url(youtube_id), download=False)["title"]
            except yt_dlp.utils.DownloadError as failure:
                error = str(failure)
            print(json.dumps({"id": youtube_id, "title": title, "error": error}), file=file, flush=True)


def video2dataset_stage(ids: Sequence[str], out: Path) -> None:
    """What video2dataset's download worker does with a shard, where only metadata is wanted."""
    reader = load_reader()({}, str(out), {"timeout": 60, "yt_args": {"yt_metadata_args": {"get_info": True}}})
    for start in range(0, len(ids), SHARD_SIZE):
        shard, done = ids[start : start + SHARD_SIZE], out / f"{start:05d}_stats.json"
        if done.exists():
            continue
        with ThreadPool(NUM_THREADS) as pool:
            found = list(pool.imap_unordered(reader, [(each, watch_url(each)) for each in shard]))
        with (out / f"{start:05d}.jsonl").open("w") as file:
            for youtube_id, _, meta, error in found:
                title = ((meta or {}).get("info") or {}).get("title")
                print(json.dumps({"id": youtube_id, "title": title, "error": error}), file=file)
        done.write_text("{}")


def load_reader() -> Any:
    """Returns video2dataset's VideoDataReader without importing the rest of the package (torch, wandb, ...)."""
    package = importlib.util.find_spec("video2dataset")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "data_reader.py"
    spec = importlib.util.spec_from_file_location("video2dataset_data_reader", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.VideoDataReader


def watch_url(youtube_id: str) -> str:
    """Returns the address of a video's page."""
    return f"https://www.youtube.com/watch?v={youtube_id}"


def command_of(contender: str, url: str, ids: Sequence[str], out: Path) -> list[str]:
    """Returns the command that runs a contender into a folder, the same after a kill."""
    if contender in PEERS:
        (out / "ids.json").write_text(json.dumps(list(ids)))
        return [sys.executable, __file__, "--run", contender, "--url", url, "--out", str(out)]
    lines = [f"bench,{each},0,10,validate" for each in ids]
    (out / "ids.csv").write_text("\n".join(["label,youtube_id,time_start,time_end,split", *lines]) + "\n")
    command = [sys.executable, "-m", "k700_text", "crawl", "--annotations", str(out / "ids.csv"), "--out", str(out)]
    names = OURS[contender]
    if "yt-dlp" in names:
        command += ["--sources", ",".join(names)]
    for name in names or NO_KEY:
        command += ["--rate", f"{name}=1000000"]
        command += ["--endpoint", f"{name}={url}"] if name != "wayback-cdx" else []
    return command


@contextmanager
def running(contender: str, url: str, ids: Sequence[str], out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a contender, silently."""
    environment = {name: value for name, value in os.environ.items() if name != "YOUTUBE_API_KEY"}
    if "data-api" in OURS.get(contender, ()):
        environment["YOUTUBE_API_KEY"] = "benchmark"
    command = command_of(contender, url, ids, out)
    with tempfile.TemporaryFile() as log, subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env=environment
    ) as process:  # fmt: skip
        yield process
        code = process.wait()
        if code not in (0, -signal.SIGKILL):
            log.seek(0)
            sys.exit(f"{contender} ended with {code}:\n{log.read().decode()[-2000:]}")


def read_rows(contender: str, out: Path) -> tuple[dict[str, Row], int]:
    """Returns what a contender left by id, and how many rows are doubled."""
    if contender not in PEERS:
        (file,) = out.glob("*.parquet")
        table = pq.read_table(file, columns=["youtube_id", "title", "availability"]).to_pylist()
        rows = [(each["youtube_id"], Row(each["title"], Availability(each["availability"]))) for each in table]
    else:
        lines = [json.loads(line) for file in out.glob("*.jsonl") for line in file.read_text().splitlines()]
        rows = [
            (each["id"], Row(clean_title(each["title"] or ""), classify(each["error"] or "").availability))
            for each in lines
        ]
    found = dict(rows)
    return found, len(rows) - len(found)


def measure(contender: str, sandbox: Sandbox, ids: Sequence[str]) -> Measured:
    """Runs a contender once to the end, and once more with a kill in the middle."""
    with tempfile.TemporaryDirectory() as folder:
        before = sandbox.count()
        with running(contender, sandbox.url, ids, Path(folder)):
            pass
        num_requests, seconds = sandbox.count() - before, sandbox.seconds(before)
        rows, _ = read_rows(contender, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        before = sandbox.count()
        with running(contender, sandbox.url, ids, Path(folder)) as process:
            while process.poll() is None and sandbox.count() - before < num_requests // 2:
                time.sleep(0.001)
            process.kill()
        with running(contender, sandbox.url, ids, Path(folder)):
            pass
        asked_again = sandbox.count() - before - num_requests
        rows_after, num_doubled = read_rows(contender, Path(folder))
    world = World(seed=SEED)
    right = [each for each, row in rows.items() if row.title and row.title == clean_title(world.video(each).title)]
    wrong = [each for each, row in rows.items() if row.title and each not in set(right)]
    untitled = [each for each in ids if each not in rows or not rows[each].title]
    said = [(rows[each].state, world.video(each).availability) for each in untitled if each in rows]
    return Measured(
        ids_per_second=len(ids) / seconds,
        titles_right=len(right),
        titles_wrong=len(wrong),
        true_reasons=sum(state is truth for state, truth in said) / max(len(untitled), 1),
        usable_reasons=sum(is_usable(state, truth) for state, truth in said) / max(len(untitled), 1),
        requests_per_id=num_requests / len(ids),
        asked_again=asked_again,
        rows_lost=len(set(rows) - set(rows_after)),
        rows_doubled=num_doubled,
    )


def is_usable(state: Availability, truth: Availability) -> bool:
    """Tells whether a state says rightly that the video is gone, or that it is alive."""
    return state is not Availability.UNKNOWN and state.is_gone == truth.is_gone


def print_table(results: dict[str, Measured], num_ids: int) -> None:
    """Prints one line for each contender."""
    print(f"{num_ids} ids{'':14}{'ids/s':>8}{'right':>7}{'wrong':>7}{'reason':>8}{'usable':>8}{'req/id':>8}"
          f"{'again':>7}{'lost':>6}{'doubled':>9}")  # fmt: skip
    for name, each in results.items():
        print(
            f"{name:{len(str(num_ids)) + 18}}{each.ids_per_second:8.0f}{each.titles_right:7d}{each.titles_wrong:7d}"
            f"{each.true_reasons:8.0%}{each.usable_reasons:8.0%}{each.requests_per_id:8.2f}"
            f"{each.asked_again:7d}{each.rows_lost:6d}{each.rows_doubled:9d}"
        )
    print("reason, usable: share of untitled ids with the true state, with a rightly gone or alive one;")
    print("again: requests repeated after kill -9 in the middle; lost, doubled: rows after the second run")


def main() -> None:
    """Measures all contenders, the peers first."""
    parser = argparse.ArgumentParser(description="Our crawl beside its peers.")
    parser.add_argument("--num-ids", type=int, default=NUM_IDS)
    parser.add_argument("--run", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        redirect_yt_dlp(options.url)
        run: dict[str, Callable[[Sequence[str], Path], None]] = dict(
            zip(PEERS, (plain_loop, video2dataset_stage), strict=True)
        )
        run[options.run](json.loads((options.out / "ids.json").read_text()), options.out)
        return
    contenders = [*PEERS, *OURS]
    if importlib.util.find_spec("video2dataset") is None:
        print(f"video2dataset is not installed, its line is left out: {INSTALL_HINT}", file=sys.stderr)
        contenders.remove("video2dataset")
    assert set(NO_KEY) <= set(SOURCE_NAMES)
    sandbox = Sandbox()
    ids = list(islice(World(seed=SEED).random_ids("peers"), options.num_ids))
    results = {name: measure(name, sandbox, ids) for name in contenders}
    print_table(results, len(ids))
    print(json.dumps({"benchmark": "crawl_peers", "ids": len(ids), **{k: vars(v) for k, v in results.items()}}))


if __name__ == "__main__":
    main()
