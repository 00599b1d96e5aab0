"""Data API crawl of 40,000 and 400,000 ids with limits lifted: memory, rate, and time spent outside the network.

Beside it a bare thread pool of ``requests`` that reads the titles and forgets them. Expected before measuring: each
request brings 50 items, so parsing 50 items (JSON, cleaning) and storing them costs more than the transfer from
loopback, where a real service takes a tenth of a second; peak memory is that of the imports plus the annotations, about
50 bytes a clip, so 400,000 ids stay within 1.2 times the 40,000 ids (aim of the issue "A crawl that can be trusted").
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import requests

from k700_text.sandbox.world import World

SIZES = (40_000, 400_000)
NUM_THREADS = 4


def child(arguments: list[str]) -> None:
    """Runs the command in this process and prints how long at least one request was under way."""
    from k700_text.__main__ import run
    from k700_text.crawl.transport import Transport

    real, lock = Transport.get, threading.Lock()
    under_way, since, busy = 0, 0.0, 0.0

    def timed(*values: Any, **options: Any) -> Any:
        nonlocal under_way, since, busy
        with lock:
            if under_way == 0:
                since = time.perf_counter()
            under_way += 1
        try:
            return real(*values, **options)
        finally:
            with lock:
                under_way -= 1
                if under_way == 0:
                    busy += time.perf_counter() - since

    Transport.get = timed  # type: ignore[method-assign]  # the point of this process: measure one method
    started = time.perf_counter()
    sys.argv = ["k700-text", *arguments]
    try:
        run()
    finally:
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "network_seconds": busy}), file=sys.stderr)


def ours(url: str, ids: list[str]) -> dict[str, float]:
    """Returns rate, peak memory and the share of time outside the network of one crawl, process start included."""
    with tempfile.TemporaryDirectory() as folder:
        annotations = Path(folder) / "train.csv"
        rows = (f"label {index % 700},{each},{index % 300},{index % 300 + 10},train" for index, each in enumerate(ids))
        annotations.write_text("label,youtube_id,time_start,time_end,split\n" + "\n".join(rows) + "\n")
        words = ["crawl", "--annotations", str(annotations), "--out", f"{folder}/out", "--sources", "data-api"]
        words += ["--endpoint", f"data-api={url}", "--rate", "data-api=1e6", "--quota", "1000000", "--json"]
        with subprocess.Popen(
            [sys.executable, __file__, "--child", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "YOUTUBE_API_KEY": "any"},
        ) as process:
            out, err = process.communicate()
            assert process.returncode == 0, err
        summary, times = json.loads(out), json.loads(err.splitlines()[-1])
        memory = _peak_megabytes(words, folder)
    source = summary["sources"][0]
    return {
        "ids": len(ids),
        "titles": summary["num_titles"],
        "ids_per_second": len(ids) / source["elapsed_seconds"],
        "requests_per_second": source["num_requests"] / source["elapsed_seconds"],
        "outside_network": 1 - times["network_seconds"] / source["elapsed_seconds"],
        "seconds_all": times["seconds"],
        "peak_megabytes": memory,
    }


def _peak_megabytes(words: list[str], folder: str) -> float:
    """Returns the peak memory of the same command in a process of its own, into a fresh folder."""
    again = [f"{folder}/again" if word == f"{folder}/out" else word for word in words]
    environment = {**os.environ, "YOUTUBE_API_KEY": "any"}
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "k700_text", *again],
        environment,
        file_actions=[(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)],
    )
    _, status, usage = os.wait4(process, 0)
    assert status == 0
    return usage.ru_maxrss / 1024


def bare(url: str, ids: list[str]) -> float:
    """Returns ids per second of a thread pool that reads the titles and forgets them."""
    sessions = threading.local()

    def fetch(start: int) -> int:
        if not hasattr(sessions, "session"):
            sessions.session = requests.Session()
        params = {"part": "snippet,contentDetails,status", "id": ",".join(ids[start : start + 50]), "key": "any"}
        answer = sessions.session.get(f"{url}/youtube/v3/videos", params=params, timeout=30)
        return len([item["snippet"]["title"] for item in answer.json()["items"]])

    started = time.perf_counter()
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        assert sum(pool.map(fetch, range(0, len(ids), 50)))
    return len(ids) / (time.perf_counter() - started)


def main() -> None:
    """Runs both sizes and prints the table and one JSON line."""
    command = [sys.executable, "-m", "k700_text", "sandbox", "--json", "--no-log", "--daily-quota", "1000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            ids = list(islice(World(seed=1).random_ids("benchmark"), SIZES[-1]))
            bare_rate = bare(url, ids[: SIZES[0]])
            results = [ours(url, ids[:size]) for size in SIZES]
        finally:
            server.terminate()
    names = list(results[0])
    for name in names:
        print(f"{name:20}" + "".join(f"{result[name]:14,.2f}" for result in results))
    memory_ratio = results[-1]["peak_megabytes"] / results[0]["peak_megabytes"]
    rate_ratio = results[0]["ids_per_second"] / bare_rate
    print(f"memory ratio {memory_ratio:.3f}; bare pool {bare_rate:,.0f} ids/s, ours / bare {rate_ratio:.2f}")
    print(
        json.dumps(
            {
                "benchmark": "crawl_data_api",
                "sizes": results,
                "memory_ratio": memory_ratio,
                "bare_ids_per_second": bare_rate,
                "ratio": rate_ratio,
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()
