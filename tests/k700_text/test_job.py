"""What a crawl does besides asking: retries, rechecks, the rules of the API policy, removal, dumps, reading again."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from k700_text.cli import main
from k700_text.cli.common import run_guarded
from k700_text.crawl import source_run
from k700_text.crawl.crawler import CrawlSettings
from k700_text.crawl.job import CrawlJob, plan_job, run_job
from k700_text.crawl.ledger import Ledger, read_videos
from k700_text.errors import UsageError
from k700_text.records import OutcomeStatus, TitleOutcome
from k700_text.sandbox.messages import Answer
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World
from k700_text.titles import clean_plain_title
from tests.k700_text.crawling import ids_where, make_ids, outcome, write_annotations

DEAD = ids_where(lambda video: video.availability.is_gone, 8)
ALIVE = ids_where(lambda video: video.is_embeddable and video.availability.is_alive and bool(video.title), 8)


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(World(seed=0)) as running:
        yield running


@pytest.fixture
def job(server: SandboxServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CrawlJob:
    monkeypatch.setenv("YOUTUBE_API_KEY", "any")
    monkeypatch.setattr(source_run, "BACKOFF_BASE_SECONDS", 0.01)
    endpoints = {"oembed": server.url, "data-api": server.url}
    rates = {"oembed": 1e6, "data-api": 1e6}
    return CrawlJob(out=tmp_path, sources=["oembed"], endpoints=endpoints, settings=CrawlSettings(rates=rates))


def age(path: Path, days: float, source: str | None = None) -> None:
    """Makes the answers of a ledger look older."""
    connection = sqlite3.connect(path)
    with connection:
        for number, text in connection.execute(
            "SELECT outcome_id, fetched_at FROM outcomes WHERE ? IS NULL OR source = ?", (source, source)
        ).fetchall():
            moment = (datetime.fromisoformat(text) - timedelta(days=days)).isoformat()
            connection.execute(
                "UPDATE outcomes SET fetched_at = ?, checksum = NULL WHERE outcome_id = ?", (moment, number)
            )
    connection.close()


def answers(path: Path) -> dict[str, list[TitleOutcome]]:
    return {video.youtube_id: list(video.outcomes) for video in read_videos(path)}


def test_retry_failed_asks_again_what_ended_without_a_title_and_nothing_else(
    job: CrawlJob, server: SandboxServer
) -> None:
    run_job(job, [*DEAD, *ALIVE])
    retry = replace(job, retry_failed=True)
    assert plan_job(retry, [*DEAD, *ALIVE]).sources[0].num_ids == len(DEAD)
    run_job(retry, [*DEAD, *ALIVE])
    assert server.ids_asked("oembed") == {**dict.fromkeys(DEAD, 2), **dict.fromkeys(ALIVE, 1)}
    run_job(job, [*DEAD, *ALIVE])
    assert server.count() == 2 * len(DEAD) + len(ALIVE)


def test_a_retry_that_was_cut_short_goes_on(job: CrawlJob, server: SandboxServer) -> None:
    run_job(job, DEAD)
    server.script("oembed", [Answer()] * 3 + [Answer(status=429, headers={"Retry-After": "7200"})])
    retry = replace(job, retry_failed=True, settings=replace(job.settings, rates={"oembed": 20.0}))
    assert run_job(retry, DEAD).work_left
    done = {each for each, found in answers(job.ledger_path).items() if len(found) == 2}
    assert 0 < len(done) < len(DEAD)
    with sqlite3.connect(job.ledger_path) as connection:
        connection.execute("DELETE FROM hosts")
    connection.close()
    before = server.count()
    assert not run_job(retry, DEAD).work_left
    assert server.count() - before == len(DEAD) - len(done)
    # Through: the next retry is a new one.
    run_job(retry, DEAD)
    assert all(len(found) == 3 for found in answers(job.ledger_path).values())


def test_a_retry_on_which_the_service_failed_goes_on(job: CrawlJob, server: SandboxServer) -> None:
    run_job(job, DEAD)
    server.script("oembed", [Answer(status=503)] * 5)
    retry = replace(job, settings=replace(job.settings, rates={"oembed": 2.0}), retry_failed=True)
    assert run_job(retry, DEAD[:1]).work_left
    before = server.count()
    assert not run_job(retry, DEAD).work_left
    assert server.count() - before == len(DEAD)


def test_recheck_after_asks_again_about_what_is_old(job: CrawlJob, server: SandboxServer) -> None:
    run_job(job, ALIVE)
    again = replace(job, recheck_after=timedelta(days=30))
    run_job(again, ALIVE)
    assert server.count() == len(ALIVE)
    age(job.ledger_path, 31)
    run_job(again, ALIVE)
    run_job(again, ALIVE)
    assert server.ids_asked("oembed") == dict.fromkeys(ALIVE, 2)
    assert all(len(found) == 2 for found in answers(job.ledger_path).values())


def test_recheck_after_0_days_asks_again_about_everything(job: CrawlJob, server: SandboxServer) -> None:
    run_job(job, ALIVE)
    run_job(replace(job, recheck_after=timedelta(0)), ALIVE)
    assert server.ids_asked("oembed") == dict.fromkeys(ALIVE, 2)


@pytest.mark.parametrize(("source", "num_open"), [("oembed", len(DEAD)), ("data-api", 0)])
def test_two_days_are_a_verdict_of_the_official_api_alone(job: CrawlJob, source: str, num_open: int) -> None:
    job = replace(job, sources=[source])
    assert run_job(job, DEAD).availability == {"unknown": len(DEAD)}
    age(job.ledger_path, 2)
    later = run_job(replace(job, recheck_after=timedelta(days=1)), DEAD)
    assert later.availability.get("unknown", 0) == num_open


def test_refresh_api_renews_what_will_expire_and_deletes_what_has(job: CrawlJob, server: SandboxServer) -> None:
    said: list[str] = []
    api = replace(job, sources=["data-api"])
    run_job(api, [*ALIVE, *DEAD])
    age(job.ledger_path, 27)
    run_job(replace(api, refresh_api=True), ALIVE, say=said.append)
    found = answers(job.ledger_path)
    assert all(len(found[each]) == 2 for each in ALIVE) and not said
    age(job.ledger_path, 10)
    assert run_job(replace(api, refresh_api=True), ALIVE, say=said.append).num_titles == len(ALIVE)
    found = answers(job.ledger_path)
    assert set(found) == set(ALIVE)
    recent = datetime.now(UTC) - timedelta(days=30)
    assert all(each.fetched_at > recent for results in found.values() for each in results)
    assert "answers older than 30 days deleted" in said[0]
    assert server.count("oembed") == 0


def test_dumps_need_no_request(job: CrawlJob, server: SandboxServer, tmp_path: Path) -> None:
    dump = tmp_path / "dump.jsonl"
    dump.write_text("".join(json.dumps({"id": each, "title": f"dump of {each}"}) + "\n" for each in ALIVE[:5]))
    summary = run_job(replace(job, dumps=(dump,)), ALIVE)
    assert server.ids_asked("oembed") == dict.fromkeys(ALIVE[5:], 1)
    assert summary.titles_by_source == {"dumps": 5, "oembed": 3}
    assert (summary.sources[0].source, summary.sources[0].num_titles) == ("dumps", 5)
    only = run_job(replace(job, out=tmp_path / "only", sources=["dumps"], dumps=(dump,)), ALIVE)
    assert only.num_titles == 5 and server.count() == 3
    with pytest.raises(UsageError, match="--dump FILE"):
        run_job(replace(job, sources=["dumps"]), ALIVE)


def invoke(*words: object) -> int:
    return run_guarded(lambda: main._invoke([str(word) for word in words]), debug=False)


def titles_of(path: Path) -> dict[str, Any]:
    table = pq.read_table(path, columns=["youtube_id", "title", "availability"])
    return {row["youtube_id"]: (row["title"], row["availability"]) for row in table.to_pylist()}


def test_the_removal_list_is_honoured_in_every_output(
    job: CrawlJob, server: SandboxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", ALIVE)
    words = ["--annotations", annotations, "--out", tmp_path]
    crawl = ["crawl", *words, "--endpoint", f"oembed={server.url}", "--rate", "oembed=1e6"]
    listed = tmp_path / "removed.txt"
    listed.write_text(f"# asked on 2026-06-01\n{ALIVE[0]}  # by mail\n\n")
    assert invoke(*crawl) == 0 and titles_of(tmp_path / "val.parquet")[ALIVE[0]][0] is not None
    assert invoke("manifest", *words, "--csv", "--removal-list", listed) == 0
    rows = titles_of(tmp_path / "val.parquet")
    title = clean_plain_title(server.world.video(ALIVE[0]).title)
    assert title and rows[ALIVE[0]] == (None, "unknown") and len(rows) == len(ALIVE)
    # For good: without the list too, in a new crawl, and in a ledger that takes this one in.
    num_asked = server.count()
    assert invoke(*crawl) == 0 and server.count() == num_asked
    other = tmp_path / "other"
    with Ledger(other / "_ledger.sqlite") as ledger:
        ledger.record(outcome(ALIVE[0], title=title))
    assert invoke("merge", job.ledger_path, "--out", other) == 0
    assert invoke("manifest", "--annotations", annotations, "--out", other) == 0
    assert titles_of(other / "val.parquet") == rows
    capsys.readouterr()
    for command in (crawl, ["manifest", *words]):
        listed.write_text("not an id\n")
        assert invoke(*command, "--removal-list", listed) == 2
        assert "line 1: 'not an id' is not a video id" in capsys.readouterr().err


def test_reparse_applies_todays_rules_without_asking(
    job: CrawlJob, server: SandboxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", [*ALIVE, *DEAD])
    run_job(replace(job, sources=["data-api", "oembed"]), [*ALIVE, *DEAD])
    words = ["manifest", "--annotations", annotations, "--out", tmp_path]
    assert invoke(*words) == 0
    before = (tmp_path / "val.parquet").read_bytes()
    # What an older version with a worse rule would have left.
    connection = sqlite3.connect(job.ledger_path)
    with connection:
        connection.execute("UPDATE outcomes SET title = 'worse ' || title WHERE title IS NOT NULL")
        connection.execute("UPDATE outcomes SET availability = 'unknown', checksum = NULL")
    connection.close()
    num_asked = server.count()
    assert invoke(*words) == 0 and (tmp_path / "val.parquet").read_bytes() != before
    assert invoke(*words, "--reparse") == 0
    assert (tmp_path / "val.parquet").read_bytes() == before and server.count() == num_asked
    assert "mean something else now" in capsys.readouterr().err


def test_old_api_answers_can_be_left_out(job: CrawlJob, tmp_path: Path) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", ALIVE)
    run_job(replace(job, sources=["data-api"]), ALIVE)
    age(job.ledger_path, 31)
    run_job(job, ALIVE[:2])  # nothing is asked: there are titles
    words = ["manifest", "--annotations", annotations, "--out", tmp_path]
    assert invoke(*words) == 0
    assert all(title for title, _ in titles_of(tmp_path / "val.parquet").values())
    assert invoke(*words, "--max-api-age", "32") == 0
    assert all(title for title, _ in titles_of(tmp_path / "val.parquet").values())
    assert invoke(*words, "--max-api-age", "30") == 0
    assert set(titles_of(tmp_path / "val.parquet").values()) == {(None, "unknown")}


def test_a_fault_is_asked_again_in_the_next_run(job: CrawlJob, server: SandboxServer) -> None:
    server.script("oembed", [Answer(status=503)] * 5)
    assert run_job(job, ALIVE[:1]).work_left
    assert not run_job(job, ALIVE[:1]).work_left
    connection = sqlite3.connect(job.ledger_path)
    statuses = [row[0] for row in connection.execute("SELECT status FROM outcomes ORDER BY outcome_id")]
    connection.close()
    assert statuses == [OutcomeStatus.TRANSIENT.value, OutcomeStatus.TITLE.value]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "3/2"], "expected I/N"),
        (["--shard", "0/2"], "expected I/N"),
        (["--dump-columns", "a"], "expected ID_COLUMN,TITLE_COLUMN"),
        (["--engine", "spark"], "unknown engine 'spark'"),
        (["--sources", "dumps"], "--dump FILE"),
        (["--removal-list", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_every_mistake_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(1))
    place = ["--endpoint", "oembed=http://127.0.0.1:1"]
    assert invoke("crawl", "--annotations", annotations, "--out", tmp_path / "out", *place, *words) in (1, 2)
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and message in errors
