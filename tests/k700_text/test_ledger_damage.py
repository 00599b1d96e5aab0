"""Ledgers that are damaged on disk, or hold what no ledger of ours would: never a silently altered manifest."""

from __future__ import annotations

import json
import random
import sqlite3
import zlib
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from k700_text.annotations import load_annotations
from k700_text.crawl.answers import check_answers
from k700_text.crawl.ledger import Ledger, read_videos
from k700_text.crawl.ledger_store import LEDGER_VERSION
from k700_text.crawl.merge import merge_ledgers
from k700_text.crawl.registry import parse_evidence
from k700_text.errors import LedgerError
from k700_text.manifest.build import build_manifest
from tests.k700_text.crawling import NOON, make_ids, write_annotations

IDS = sorted(make_ids(60))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        for number, youtube_id in enumerate(IDS):
            picture = f"https://i.ytimg.com/vi/{youtube_id}/hqdefault.jpg"
            answer = json.dumps({"title": f"Ein schöner Titel {number}", "thumbnail_url": picture})
            evidence, status = (answer.encode(), 200) if number % 5 else (b"Not Found", 404)
            found = parse_evidence("oembed", youtube_id, evidence, status, NOON + timedelta(seconds=number))
            assert found is not None
            ledger.record(found)
    return path


def alter(path: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(f"UPDATE outcomes SET {sql}", values).rowcount


def manifest_of(path: Path) -> bytes:
    annotations = load_annotations([write_annotations(path.parent / "validate.csv", IDS)])
    (file,) = build_manifest(annotations, path, None, path.parent / "out")
    return file.read_bytes()


def reparse(path: Path) -> tuple[int, int, int]:
    with Ledger(path) as ledger:
        done = ledger.reparse(parse_evidence)
    return done.num_mended, done.dropped.num_rows, done.evidence_damaged.num_rows


ALTERATIONS = (
    "title = 'Another title'",
    "title = char(27) || '[31mred'",
    "title = CAST(x'c328' AS TEXT)",
    "title = 5",
    "title = NULL",
    "status = 'titlf'",
    "availability = 'pubmic'",
    "availability = 'private'",
    "published_at = '2026-13-01'",
    "captured_at = '2020-01-01T00:00:00+00:00'",
    "video_duration_seconds = 1e308",
    "web_has_audio = 1",
)


@pytest.mark.parametrize("sql", ALTERATIONS)
def test_an_altered_answer_is_named_and_its_evidence_mends_it(path: Path, sql: str) -> None:
    whole = manifest_of(path)
    alter(path, f"{sql} WHERE youtube_id = ?", IDS[7])
    with pytest.raises(LedgerError, match="--reparse"):
        manifest_of(path)
    assert reparse(path) == (1, 0, 0)
    assert manifest_of(path) == whole


@pytest.mark.parametrize(
    "sql", ["youtube_id = 'AAAAAAAAAAA'", "source = 'oembee'", "fetched_at = 'now'", "checksum = 5"]
)
def test_an_answer_that_nothing_vouches_for_is_dropped_and_asked_again(path: Path, sql: str) -> None:
    alter(path, f"{sql} WHERE youtube_id = ?", IDS[7])
    with pytest.raises(LedgerError, match="1 damaged answer "):
        manifest_of(path)
    assert reparse(path) == (0, 1, 0)
    manifest_of(path)
    titles = pq.read_table(path.parent / "out" / "val.parquet")["title"]
    assert titles.null_count == 13  # 12 videos are gone


def test_damaged_evidence_is_told_and_takes_no_title_along(path: Path) -> None:
    whole = manifest_of(path)
    alter(path, "evidence = zlib WHERE youtube_id = ?".replace("zlib", "x'0102'"), IDS[7])
    alter(path, "evidence_sha256 = 'f' || substr(evidence_sha256, 2) WHERE youtube_id = ?", IDS[8])
    with pytest.raises(LedgerError, match="2 damaged answers"):
        check_answers(path)
    assert reparse(path) == (0, 0, 2)
    assert manifest_of(path) == whole


def test_evidence_unpacks_to_no_more_than_an_answer_has(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k700_text.crawl.ledger_checks.MAX_EVIDENCE_BYTES", 1 << 16)
    alter(path, "evidence = ? WHERE youtube_id = ?", zlib.compress(bytes(1 << 20)), IDS[7])
    assert reparse(path) == (0, 0, 1)


def test_merge_takes_no_damaged_answers_and_tells_them(path: Path) -> None:
    alter(path, "title = 'Another title' WHERE youtube_id = ?", IDS[7])
    alter(path, "title = char(27), checksum = NULL WHERE youtube_id = ?", IDS[8])
    with Ledger(path.with_name("whole.sqlite")) as target:
        summary = merge_ledgers(target, [path])
    assert (summary.num_new, summary.num_damaged) == (58, 2) and IDS[7] in summary.damage[0]


def test_merge_takes_what_can_be_read_of_a_malformed_file(path: Path) -> None:
    content = bytearray(path.read_bytes())
    with closing(sqlite3.connect(path)) as connection:
        (page,) = (
            connection.execute(
                "SELECT max(pageno) FROM dbstat WHERE name = 'outcomes' AND pagetype = 'leaf'"
            ).fetchone()
            if _has_dbstat(connection)
            else (None,)
        )
    if page is None:
        pytest.skip("this SQLite cannot tell its pages")
    content[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="k700-text merge"):
        manifest_of(path)
    with Ledger(path.with_name("whole.sqlite")) as target:
        summary = merge_ledgers(target, [path])
    assert summary.num_new + summary.num_damaged == len(IDS) and summary.num_damaged and summary.num_new


def _has_dbstat(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1 FROM dbstat LIMIT 1")
    except sqlite3.OperationalError:
        return False
    return True


def test_a_ledger_of_version_2_is_read_and_gets_checksums_when_it_is_read_again(path: Path) -> None:
    whole = manifest_of(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE outcomes DROP COLUMN checksum")
        connection.execute("PRAGMA user_version = 2")
    assert manifest_of(path) == whole
    alter(path, "availability = 'pubmic' WHERE youtube_id = ?", IDS[7])
    with pytest.raises(LedgerError, match="availability cannot be so"):
        manifest_of(path)
    assert reparse(path) == (1, 0, 0)
    assert manifest_of(path) == whole
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (LEDGER_VERSION,)
        assert connection.execute("SELECT count(*) FROM outcomes WHERE checksum IS NULL").fetchone() == (0,)


@pytest.mark.parametrize("sql", ["title = 'Another title'", "availability = 'private'", "source = 'oembee'"])
def test_what_is_told_at_the_end_of_a_crawl_is_without_altered_answers(path: Path, sql: str) -> None:
    alter(path, f"{sql} WHERE youtube_id = ?", IDS[7])
    known = []
    with pytest.raises(LedgerError, match=r"1 damaged answer .*--reparse"):
        for video in read_videos(path):
            known.append(video.youtube_id)
    assert known == [each for each in IDS if each != IDS[7]]
    with Ledger(path) as ledger:
        ledger.want(IDS)
        with pytest.raises(LedgerError, match="1 damaged answer "):
            list(ledger.wanted_videos())


def test_damaged_bytes_never_alter_a_manifest(path: Path) -> None:
    whole, content = manifest_of(path), path.read_bytes()
    rng = random.Random(3)
    num_refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        place = rng.randrange(len(content))
        size = rng.choice((1, 1, 16))
        damaged[place : place + size] = rng.randbytes(size)
        path.write_bytes(damaged)
        try:
            assert manifest_of(path) == whole
        except LedgerError:
            num_refused += 1
    assert num_refused > 5


def test_values_of_other_tables_are_one_line_too(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO hosts VALUES ('a.example', 'tomorrow', 1, '[')")
        connection.execute("INSERT INTO quota VALUES ('data-api', 'd', 'l', 'many')")
    with Ledger(path) as ledger:
        with pytest.raises(LedgerError, match="damaged"):
            ledger.host("a.example")
        assert ledger.quota_used("data-api", "d") == 0
