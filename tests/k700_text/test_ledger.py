from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import zlib
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from k700_text.crawl.ledger import Ledger, read_videos
from k700_text.crawl.limiter import HostState
from k700_text.crawl.pending import Freshness, PendingQuery
from k700_text.crawl.verdict import judge
from k700_text.errors import LedgerError
from k700_text.records import Availability, OutcomeStatus, TitleOutcome
from tests.k700_text.crawling import NOON, REPOSITORY, make_ids, outcome

IDS = make_ids(6)
OEMBED = PendingQuery(source="oembed")
ARCHIVE = PendingQuery(source="wayback", preferred=["oembed"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_an_outcome_comes_back_as_it_went_in(path: Path) -> None:
    kept = outcome(
        IDS[0],
        title="A title",
        raw_title=" A  title",
        title_language="de",
        availability=Availability.PUBLIC,
        captured_at=NOON - timedelta(days=900),
        published_at=NOON - timedelta(days=999),
        video_duration_seconds=12.5,
        web_has_audio=True,
        http_status=200,
        fetched_at=NOON + timedelta(microseconds=7),
    )
    with Ledger(path) as ledger:
        ledger.record(kept)
    (video,) = read_videos(path)
    assert (video.youtube_id, video.outcomes) == (IDS[0], (kept,))


def test_evidence_is_compressed_and_hashed(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.record(outcome(IDS[0], evidence=b"x" * 10_000), attempt=3)
    with sqlite3.connect(path) as connection:
        row = connection.execute("SELECT length(evidence), evidence_sha256, attempt FROM outcomes").fetchone()
    connection.close()
    assert row[0] < 100 and len(row[1]) == 64 and row[2] == 3


def test_a_lone_surrogate_is_stored(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.record(outcome(IDS[0], title="t", raw_title="t \ud83d"))
    assert next(read_videos(path)).outcomes[0].raw_title == "t ?"


def test_finished_pairs_are_not_pending_and_a_title_ends_the_search(path: Path) -> None:
    with Ledger(path) as ledger:
        assert ledger.want([*IDS, IDS[0]]) == 6
        ledger.record(outcome(IDS[0], title="t"))
        ledger.record(outcome(IDS[1], reason="not_found"))
        ledger.record(outcome(IDS[2], status=OutcomeStatus.TRANSIENT, reason="transport"))
        ledger.flush()
        assert ledger.pending(OEMBED) == sorted(IDS[3:])
        assert ledger.pending(ARCHIVE) == sorted(IDS[1:])
        assert ledger.pending(replace(ARCHIVE, answered_by=["oembed"])) == sorted(IDS[1:3])
        assert ledger.pending(OEMBED, after=sorted(IDS[3:])[0], limit=1) == sorted(IDS[3:])[1:2]
        assert (ledger.num_pending(OEMBED), ledger.num_pending(OEMBED, with_failed=True)) == (3, 4)
    with Ledger(path) as ledger:
        # The next run asks again where the service failed.
        assert ledger.pending(OEMBED) == sorted(IDS[2:])
        assert ledger.want(IDS[:1]) == 1
        assert ledger.pending(OEMBED) == []


def test_a_less_preferred_title_does_not_end_the_search(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.want(IDS[:1])
        ledger.record(outcome(IDS[0], source="wayback", title="old"))
        ledger.flush()
        assert ledger.pending(OEMBED) == IDS[:1]
        assert ledger.pending(ARCHIVE) == []


def test_a_witness_is_asked_where_exactly_one_source_says_gone(path: Path) -> None:
    witness = PendingQuery(source="thumbnail", is_witness=True, preferred=["oembed"])
    gone, alive = Availability.NOT_FOUND, Availability.EMBEDDING_OFF
    with Ledger(path) as ledger:
        ledger.want(IDS)
        ledger.record(outcome(IDS[0], availability=gone))
        ledger.record(outcome(IDS[1], availability=gone))
        ledger.record(outcome(IDS[1], source="data-api", availability=gone))
        ledger.record(outcome(IDS[2], availability=alive))
        ledger.record(outcome(IDS[2], source="data-api", availability=gone))
        ledger.record(outcome(IDS[3], reason="bad_request"))
        ledger.record(outcome(IDS[4], title="t", availability=Availability.PUBLIC))
        ledger.flush()
        assert ledger.pending(witness) == IDS[:1]


def test_a_witness_is_asked_wherever_its_word_decides(path: Path) -> None:
    """401 of oEmbed beside a service that says gone is no sign of life, unless it settles the question itself."""
    witness = PendingQuery(source="thumbnail", is_witness=True)
    cases = [("yt-dlp", Availability.REMOVED), ("data-api", Availability.NOT_FOUND), ("yt-dlp", Availability.PRIVATE)]
    with Ledger(path) as ledger:
        ledger.want(IDS)
        for youtube_id, (source, state) in zip(IDS, cases, strict=False):
            said = [
                outcome(youtube_id, availability=Availability.EMBEDDING_OFF, http_status=401),
                outcome(youtube_id, source=source, availability=state),
            ]
            for each in said:
                ledger.record(each)
            ledger.flush()
            silent, spoken = (
                judge(youtube_id, [*said, *also])
                for also in ([], [outcome(youtube_id, source="thumbnail", availability=Availability.NOT_FOUND)])
            )
            assert (youtube_id in ledger.pending(witness)) == (silent[0] != spoken[0])


def test_answers_age(path: Path) -> None:
    old, new = NOON - timedelta(days=40), NOON
    with Ledger(path) as ledger:
        ledger.want(IDS)
        ledger.record(outcome(IDS[0], title="t", fetched_at=old))
        ledger.record(outcome(IDS[1], title="t", fetched_at=new))
        ledger.record(outcome(IDS[2], reason="not_found", fetched_at=old))
        ledger.record(outcome(IDS[3], reason="not_found", fetched_at=new))
        ledger.record(outcome(IDS[4], title="t", fetched_at=old))
        ledger.record(outcome(IDS[4], title="t", fetched_at=new))
    since = NOON - timedelta(days=30)
    with Ledger(path) as ledger:
        rechecked = replace(OEMBED, freshness=Freshness(titles_since=since, answers_since=since))
        assert ledger.pending(rechecked) == sorted([IDS[0], IDS[2], IDS[5]])
        retried = replace(OEMBED, freshness=Freshness(answers_since=since))
        assert ledger.pending(retried) == sorted([IDS[2], IDS[5]])
        renewed = replace(ARCHIVE, freshness=Freshness(titles_since=since))
        assert ledger.pending(renewed) == sorted([IDS[0], IDS[2], IDS[3], IDS[5]])
        assert ledger.num_answers_before("oembed", since) == 2
        assert ledger.forget_before("oembed", since) == 3
        assert ledger.num_answers_before("oembed", since) == 0
    assert {video.youtube_id for video in read_videos(path)} == {IDS[1], IDS[3], IDS[4]}
    assert [video.youtube_id for video in read_videos(path, leave_out=("oembed", NOON + timedelta(1)))] == []


def test_removed_videos_are_forgotten_for_good(path: Path) -> None:
    secret = b"the words that must go " * 3
    with Ledger(path) as ledger:
        ledger.want(IDS)
        ledger.record(outcome(IDS[0], title="words that must go", evidence=zlib.compress(secret)))
        ledger.record(outcome(IDS[1], title="t"))
        assert ledger.remove(IDS[:1]) == 1
        assert ledger.remove(IDS[:1]) == 0
        assert ledger.want(IDS) == 5
        assert IDS[0] not in ledger.pending(OEMBED)
    assert [video.youtube_id for video in read_videos(path)] == IDS[1:2]
    assert b"words that must go" not in path.read_bytes()


def test_reading_answers_again_alters_their_meaning_and_nothing_else(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.record(outcome(IDS[0], title="YouTube", http_status=200, evidence=b"1"))
        ledger.record(outcome(IDS[1], reason="junk", http_status=200, evidence=b"2"))
        ledger.record(outcome(IDS[2], title="same", http_status=200, evidence=b"3"))
        ledger.record(outcome(IDS[3], title="foreign", http_status=200, evidence=b"4"))
        ledger.record(outcome(IDS[4], title="no evidence"))

    def today(source: str, youtube_id: str, evidence: bytes, status: int | None, at: datetime) -> TitleOutcome | None:
        assert (source, status, at) == ("oembed", 200, NOON)
        titles = {b"1": None, b"2": "found", b"3": "same"}
        if evidence not in titles:
            return None
        return outcome(youtube_id, title=titles[evidence], http_status=status, fetched_at=at)

    with sqlite3.connect(path) as connection:
        kept = "SELECT outcome_id, run, youtube_id, fetched_at, attempt, evidence_sha256, evidence FROM outcomes"
        before = connection.execute(kept).fetchall()
        with Ledger(path) as ledger:
            summary = ledger.reparse(today)
        assert connection.execute(kept).fetchall() == before
    connection.close()
    assert (summary.dropped.num_rows, summary.evidence_damaged.num_rows) == (0, 0)
    numbers = {name: value for name, value in asdict(summary).items() if name.startswith("num_")}
    assert numbers == {
        "num_answers": 4,
        "num_changed": 2,
        "num_titles_gained": 1,
        "num_titles_lost": 1,
        "num_unreadable": 1,
        "num_mended": 0,
    }
    titles = {video.youtube_id: video.outcomes[0].title for video in read_videos(path)}
    assert titles == dict(zip(IDS, (None, "found", "same", "foreign", "no evidence"), strict=False))


def test_settings_survive(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.remember("a", "1")
        ledger.remember("b", "2")
        ledger.remember("a", "3")
        ledger.remember("b", None)
    with Ledger(path) as ledger:
        assert (ledger.setting("a"), ledger.setting("b")) == ("3", None)


def test_videos_come_in_order_without_failures_and_only_the_wanted_ones(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.want(IDS[:2])
        for each in reversed(IDS):
            ledger.record(outcome(each, reason="not_found"))
            ledger.record(outcome(each, source="x", status=OutcomeStatus.TRANSIENT, reason="transport"))
        assert [video.youtube_id for video in ledger.wanted_videos()] == sorted(IDS[:2])
    assert [video.youtube_id for video in read_videos(path)] == sorted(IDS)
    assert all(len(video.outcomes) == 1 for video in read_videos(path))


def test_quota_and_pauses_survive(path: Path) -> None:
    state = HostState(until=NOON, level=2, rates={"a": 0.5})
    with Ledger(path) as ledger:
        ledger.add_quota("data-api", "2026-06-01", 2)
        ledger.add_quota("data-api", "2026-06-01", 3)
        ledger.save_host("h", state)
    with Ledger(path) as ledger:
        assert ledger.quota_used("data-api", "2026-06-01") == 5
        assert ledger.quota_used("data-api", "2026-06-02") == 0
        assert ledger.host("h") == state
        assert ledger.host("other") is None


def test_reading_works_beside_a_writer_but_a_second_writer_is_turned_away(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.record(outcome(IDS[0], reason="not_found"))
        ledger.flush()
        assert len(list(read_videos(path))) == 1
        with pytest.raises(LedgerError, match="another crawl is using"):
            Ledger(path)
    Ledger(path).close()


def test_a_ledger_in_a_read_only_folder_can_be_read(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.record(outcome(IDS[0], reason="not_found"))
    path.parent.chmod(0o555)
    try:
        assert len(list(read_videos(path))) == 1
    finally:
        path.parent.chmod(0o755)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a database at all, but long enough to be read as one" * 40, "not an SQLite file"), (None, "not a ledger")],
)
def test_a_foreign_file_is_refused_in_one_line(path: Path, content: bytes | None, message: str) -> None:
    if content is None:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE other (x)")
        connection.close()
    else:
        path.write_bytes(content)
    for use in (lambda: Ledger(path).close(), lambda: list(read_videos(path))):
        with pytest.raises(LedgerError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_another_version_is_refused(path: Path) -> None:
    Ledger(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for use in (lambda: Ledger(path).close(), lambda: list(read_videos(path))):
        with pytest.raises(LedgerError, match="version 99"):
            use()


def test_a_damaged_ledger_is_one_line(path: Path) -> None:
    with Ledger(path) as ledger:
        for each in make_ids(2000):
            ledger.record(outcome(each, reason="not_found", evidence=os.urandom(64)))
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (path.stat().st_size - 8192))
    with pytest.raises(LedgerError, match="damaged"):
        list(read_videos(path))


def test_a_missing_ledger_is_one_line(path: Path) -> None:
    with pytest.raises(LedgerError, match="no such ledger"):
        list(read_videos(path))


def test_a_full_disk_stops_recording_and_keeps_what_was_committed(path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from k700_text.crawl.ledger import Ledger
from k700_text.errors import LedgerError
from tests.k700_text.crawling import make_ids, outcome
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger = Ledger(Path(sys.argv[1]))
ledger.record(outcome(make_ids(1)[0], reason="not_found"))
ledger.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    for each in make_ids(3000, "more"):
        ledger.record(outcome(each, reason="not_found", evidence=each.encode() * 9))
    ledger.close()
except LedgerError as error:
    print("stopped:", error)
"""
    result = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=REPOSITORY,
    )
    assert result.stdout.startswith("stopped:") and result.stdout.count("\n") == 1, result
    assert make_ids(1)[0] in {video.youtube_id for video in read_videos(path)}


def test_a_killed_writer_loses_nothing_that_it_had_flushed(path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from k700_text.crawl.ledger import Ledger
from tests.k700_text.crawling import make_ids, outcome
ledger = Ledger(Path(sys.argv[1]))
for each in make_ids(700):
    ledger.record(outcome(each, reason="not_found"))
ledger.flush()
ledger.record(outcome(make_ids(1, "late")[0], reason="not_found"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", script, str(path)], timeout=60, check=False, cwd=REPOSITORY)
    assert result.returncode == -signal.SIGKILL
    assert set(make_ids(700)) <= {video.youtube_id for video in read_videos(path)}
    Ledger(path).close()


def test_times_are_utc(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.record(outcome(IDS[0], reason="x", fetched_at=datetime.fromisoformat("2026-06-01T14:00:00+02:00")))
    stored = next(read_videos(path)).outcomes[0].fetched_at
    assert stored == NOON and stored.tzinfo == UTC


def test_what_the_file_cannot_hold_ends_the_crawl_instead_of_hanging_it(path: Path) -> None:
    ledger = Ledger(path)
    ledger.record(outcome(video_duration_seconds=10**30))
    with pytest.raises(LedgerError, match="cannot hold"):
        ledger.flush()
    with pytest.raises(LedgerError, match="cannot hold"):
        ledger.close()


def test_nobody_waits_for_a_closed_ledger(path: Path) -> None:
    ledger = Ledger(path)
    ledger.close()
    with pytest.raises(LedgerError, match="is closed"):
        ledger.record(outcome())
    with pytest.raises(LedgerError, match="is closed"):
        ledger.flush()


@pytest.mark.parametrize("is_made_again", [False, True])
def test_a_ledger_deleted_under_the_crawl_ends_it_at_once(path: Path, is_made_again: bool) -> None:
    ledger = Ledger(path)
    ledger.record(outcome())
    ledger.flush()
    path.rename(path.with_name("elsewhere"))
    if is_made_again:
        path.touch()
    ledger.record(outcome())
    with pytest.raises(LedgerError, match="deleted or replaced"):
        ledger.flush()
    with pytest.raises(LedgerError, match="deleted or replaced"):
        ledger.close()
