"""oEmbed crawl with limits lifted beside a bare thread pool that stores nothing, on the same sandbox ids.

Expected before measuring: the sandbox answers some 3,500 requests/s, so both are bound by Python's HTTP client; ours
also parses, checks and stores each answer. Aim (issue "A crawl that can be trusted"): at least 0.7 of the bare rate.
Then the same crawl with a limit set: slots lie on a time grid that is reserved ahead, so late wake-ups should not
cost rate. Aim: at least 97 % of the permitted rate, and never more than it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local

import requests

from k700_text.crawl.crawler import UNLIMITED_WORKERS, CrawlSettings, crawl
from k700_text.crawl.ledger import Ledger
from k700_text.crawl.registry import make_sources
from k700_text.crawl.transport import Endpoints
from k700_text.sandbox.world import World

LIMITS = (5.0, 50.0)
NUM_IDS, NUM_ROUNDS, NUM_THREADS = 3000, 3, UNLIMITED_WORKERS  # as many threads as ours has


def bare(url: str, ids: list[str]) -> float:
    """Returns ids per second of a thread pool that reads the titles and forgets them."""
    sessions = local()

    def fetch(youtube_id: str) -> str | None:
        if not hasattr(sessions, "session"):
            sessions.session = requests.Session()
        params = {"url": f"https://www.youtube.com/watch?v={youtube_id}", "format": "json"}
        answer = sessions.session.get(f"{url}/oembed", params=params, timeout=30)
        return str(answer.json()["title"]) if answer.status_code == 200 else None

    started = time.perf_counter()
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        titles = list(pool.map(fetch, ids))
    assert any(titles)
    return len(ids) / (time.perf_counter() - started)


def ours(url: str, ids: list[str], rate: float = 1e6) -> float:
    """Returns ids per second of the crawl, ledger included, with a limit of so many requests per second."""
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
        num_ids = ledger.want(iter(ids))
        sources = make_sources(["oembed"], endpoints=Endpoints({"oembed": url}))
        started = time.perf_counter()
        summary = crawl(ledger, sources, CrawlSettings(rates={"oembed": rate}), num_ids=num_ids)
        seconds = time.perf_counter() - started
        assert not summary.work_left
    return len(ids) / seconds


def main() -> None:
    """Runs both, one after the other in turn, and prints medians and their ratio."""
    command = [sys.executable, "-m", "k700_text", "sandbox", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            generator = World(seed=1).random_ids("benchmark")
            rates: dict[str, list[float]] = {"bare": [], "ours": []}
            for _ in range(NUM_ROUNDS):
                ids = [next(generator) for _ in range(NUM_IDS)]
                rates["bare"].append(bare(url, ids))
                rates["ours"].append(ours(url, ids))
            # 20 seconds each: starting and ending are part of the figure.
            used = {limit: ours(url, ids[: int(20 * limit)], limit) / limit for limit in LIMITS}
        finally:
            server.terminate()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{'':8}{'ids/s':>10}")
    for name, value in medians.items():
        print(f"{name:8}{value:10.0f}")
    ratio = medians["ours"] / medians["bare"]
    for limit, share in used.items():
        print(f"{share:.1%} of a limit of {limit:g} requests/s used")
    facts = {"used": {str(limit): share for limit, share in used.items()}, "ids": NUM_IDS, "threads": NUM_THREADS}
    print(json.dumps({"benchmark": "crawl_oembed", **medians, "ratio": ratio, **facts}))


if __name__ == "__main__":
    main()
