"""Parts of a crawl: every video in exactly one, the same on every machine, and together what one crawl gives."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from k700_text.annotations import load_annotations
from k700_text.cli import main
from k700_text.cli.common import run_guarded
from k700_text.cli.options import parse_shard
from k700_text.config import Pace
from k700_text.crawl.crawler import CrawlSettings
from k700_text.crawl.job import CrawlJob, Shard, plan_job, run_job
from k700_text.crawl.ledger import Ledger
from k700_text.crawl.merge import seed_part
from k700_text.crawl.sources.data_api import DataApi
from k700_text.errors import UsageError
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World
from tests.k700_text.crawling import (
    IMPOSSIBLE_ID,
    POSSIBLE_ID,
    finished,
    make_ids,
    rows_without_times,
    write_annotations,
)

PLACES = ("oembed", "thumbnail", "wayback", "archive-item")
KEY = "any-key"


def part_of(youtube_id: str, count: int) -> int:
    """Returns the only part that holds an id."""
    (index,) = (index for index in range(1, count + 1) if Shard(index, count).holds(youtube_id))
    return index


def check_balance(ids: list[str], count: int) -> None:
    sizes = Counter(part_of(each, count) for each in ids)
    assert sum(sizes.values()) == len(ids)
    assert all(abs(sizes[index] * count / len(ids) - 1) < 0.05 for index in range(1, count + 1)), sizes


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_id_is_in_one_part_and_parts_are_of_a_size(count: int) -> None:
    check_balance(make_ids(30_000, "shard"), count)


@pytest.mark.realdata
@pytest.mark.parametrize("count", [2, 7])
def test_parts_of_the_real_ids_are_of_a_size(real_data: Path, count: int) -> None:
    clips = load_annotations([real_data / "kinetics/rocksyne/kinetics700/validate.csv"]).clips
    ids = sorted({clip.youtube_id for clip in clips})
    assert len(ids) == 33_856
    check_balance(ids, count)


def test_the_part_of_an_id_never_changes() -> None:
    """A crawl begun by one version, on one machine, is gone on with by another: these values are for ever."""
    expected = {POSSIBLE_ID: (2, 2, 4), IMPOSSIBLE_ID: (2, 3, 8), "-_-_-_-_-_A": (2, 2, 6), "AAAAAAAAAAA": (1, 2, 1)}
    assert {each: tuple(part_of(each, count) for count in (2, 3, 8)) for each in expected} == expected


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3", "1.0/2", "", "/2"])
def test_a_bad_shard_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="expected I/N"):
        parse_shard(text)


def test_shards_have_ledgers_in_the_order_of_their_numbers() -> None:
    assert parse_shard("2/8") == Shard(2, 8)
    names = [part.ledger_path.name for part in CrawlJob(out=Path("out")).split(12)]
    assert names == sorted(names) and names[1] == "_ledger-02-of-12.sqlite" and len(set(names)) == 12
    assert CrawlJob(out=Path("out")).ledger_path == Path("out/_ledger.sqlite")


@pytest.mark.parametrize("count", [2, 5])
def test_parts_together_have_the_rate_and_the_quota_of_the_whole(count: int, tmp_path: Path) -> None:
    pace = Pace(start_rate=1.0, max_rate=5.0, concurrency=4)
    whole = CrawlSettings(rates={"named": 8.0}, daily_quota=1003)
    part = CrawlSettings(rates={"named": 8.0}, daily_quota=1003, share=1 / count)
    assert part.pace("other", pace).max_rate * count == pytest.approx(whole.pace("other", pace).max_rate)
    assert part.pace("other", pace).start_rate * count == pytest.approx(1.0)
    assert part.pace("named", pace).max_rate * count == pytest.approx(8.0)
    source = DataApi(KEY, "http://127.0.0.1:1/")
    units = part.quota(source)
    assert units is not None and 1003 - count < units * count <= 1003


def test_a_part_asks_for_its_own_ids_at_its_share_of_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = make_ids(60, "rate")
    with SandboxServer(World(seed=0)) as server:
        job = CrawlJob(
            out=tmp_path,
            sources=["oembed"],
            endpoints={"oembed": server.url},
            settings=CrawlSettings(rates={"oembed": 80.0}),
            shard=Shard(1, 2),
        )
        own = [each for each in ids if Shard(1, 2).holds(each)]
        (plan,) = plan_job(job, ids).sources
        assert plan.num_requests == len(own) and plan.hours == pytest.approx(len(own) / 40 / 3600)
        summary = run_job(job, ids)
        assert summary.num_ids == len(own) and server.ids_asked("oembed") == Counter(own)
        times = sorted(each.time for each in server.requests)
    assert (len(times) - 1) / (times[-1] - times[0]) < 40 * 1.3


def test_the_parts_spend_no_more_than_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOUTUBE_API_KEY", KEY)
    ids = make_ids(900, "quota")
    with SandboxServer(World(seed=0)) as server:
        whole = CrawlJob(
            out=tmp_path,
            sources=["data-api"],
            endpoints={"data-api": server.url},
            settings=CrawlSettings(rates={"data-api": 1e6}, daily_quota=11),
        )
        summaries = [run_job(part, ids) for part in whole.split(2)]
        assert all(summary.sources[0].resume_at for summary in summaries)
        assert server.count("data-api") == 10


def test_parts_of_what_a_crawl_began_spend_only_what_it_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOUTUBE_API_KEY", KEY)
    ids = make_ids(900, "quota")
    with SandboxServer(World(seed=0)) as server:
        whole = CrawlJob(
            out=tmp_path,
            sources=["data-api"],
            endpoints={"data-api": server.url},
            settings=CrawlSettings(rates={"data-api": 1e6}, daily_quota=12),
        )
        run_job(whole, ids[:200])
        assert server.count("data-api") == 4
        for part in whole.split(2):
            assert part.shard is not None
            with Ledger(part.ledger_path) as ledger:
                seed_part(ledger, whole.ledger_path, holds=part.shard.holds, num_parts=2)
            run_job(part, ids)
            run_job(part, ids)
        assert server.count("data-api") == 12
        assert set(server.ids_asked("data-api").values()) == {1}


def invoke(*arguments: str | Path) -> int:
    return run_guarded(lambda: main._invoke([str(argument) for argument in arguments]), debug=False)


def test_two_shards_in_one_folder_and_merged_are_one_crawl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = make_ids(150)
    annotations = write_annotations(tmp_path / "validate.csv", ids)

    def crawl(server: SandboxServer, out: Path, *more: str) -> int:
        places = [f"--endpoint={name}={server.url}" for name in PLACES]
        rates = [f"--rate={name}=1000000" for name in (*PLACES, "wayback-cdx")]
        return invoke("crawl", "--annotations", annotations, "--out", out, *places, *rates, *more)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with SandboxServer(World(seed=0)) as server:
        assert crawl(server, whole) == 0
        expected = Counter((each.service, each.path, str(each.query)) for each in server.requests)
    with SandboxServer(World(seed=0)) as server:
        assert [crawl(server, parts, f"--shard={index}/2") for index in (1, 2)] == [0, 0]
        assert Counter((each.service, each.path, str(each.query)) for each in server.requests) == expected
    assert sorted(path.name for path in parts.glob("*.sqlite")) == [
        "_ledger-1-of-2.sqlite",
        "_ledger-2-of-2.sqlite",
    ]
    assert not list(parts.glob("*.parquet"))
    assert "k700-text merge" in capsys.readouterr().err
    for num_new in (len(finished(whole / "_ledger.sqlite")), 0):
        assert invoke("merge", parts, "--out", parts, "--json") == 0
        values = json.loads(capsys.readouterr().out)
        assert values["num_ledgers"] == 2 and values["num_new"] == num_new
    assert invoke("manifest", "--annotations", annotations, "--out", parts) == 0
    assert rows_without_times(parts / "val.parquet") == rows_without_times(whole / "val.parquet")
    assert finished(parts / "_ledger.sqlite") == finished(whole / "_ledger.sqlite")
    # Gone on with as one: nothing is asked again.
    with SandboxServer(World(seed=0)) as server:
        assert crawl(server, parts) == 0 and server.count() == 0
