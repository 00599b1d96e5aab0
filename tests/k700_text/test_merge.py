"""Ledgers become one: nothing twice, nothing lost, whatever the order and whatever happens in between."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from k700_text.crawl.crawler import summarise
from k700_text.crawl.ledger import Ledger, read_videos
from k700_text.crawl.ledger_store import LEDGER_VERSION, OUTCOME_COLUMNS
from k700_text.crawl.limiter import HostState
from k700_text.crawl.merge import MergeSummary, merge_ledgers, seed_part
from k700_text.crawl.pending import PendingQuery
from k700_text.crawl.verdict import judge
from k700_text.errors import LedgerError, UsageError
from k700_text.records import Availability, OutcomeStatus, TitleOutcome
from tests.k700_text.crawling import NOON, REPOSITORY, make_ids, outcome

IDS = make_ids(40, "merge")
DAY = NOON.date().isoformat()

# The tables as version 1 wrote them.
VERSION_1 = """
CREATE TABLE outcomes (
    outcome_id INTEGER PRIMARY KEY, run INTEGER NOT NULL, youtube_id TEXT NOT NULL, source TEXT NOT NULL,
    status TEXT NOT NULL, availability TEXT NOT NULL, title TEXT, raw_title TEXT, title_language TEXT,
    captured_at TEXT, published_at TEXT, video_duration_seconds REAL, web_has_audio INTEGER, http_status INTEGER,
    reason TEXT, fetched_at TEXT NOT NULL, attempt INTEGER NOT NULL, evidence_sha256 TEXT, evidence BLOB
);
CREATE INDEX outcomes_by_video ON outcomes (youtube_id, source, status, run);
CREATE TABLE wanted (youtube_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE runs (run INTEGER PRIMARY KEY, started_at TEXT NOT NULL);
CREATE TABLE quota (source TEXT NOT NULL, day TEXT NOT NULL, units INTEGER NOT NULL, PRIMARY KEY (source, day));
CREATE TABLE cooldowns (host TEXT PRIMARY KEY, until TEXT NOT NULL, level INTEGER NOT NULL, rate REAL NOT NULL);
PRAGMA application_id = 0x4B373030;
PRAGMA user_version = 1;
"""


def write(path: Path, outcomes: Sequence[TitleOutcome]) -> Path:
    with Ledger(path) as ledger:
        for each in outcomes:
            ledger.record(each)
    return path


def merged(target: Path, *sources: Path) -> MergeSummary:
    with Ledger(target) as ledger:
        return merge_ledgers(ledger, sources)


def table(path: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return sorted(connection.execute(sql).fetchall(), key=repr)
    finally:
        connection.close()


def content(path: Path) -> tuple[list[tuple[Any, ...]], ...]:
    """Returns everything a merge may carry over."""
    answers = f"SELECT {', '.join(OUTCOME_COLUMNS)}, attempt, evidence_sha256, evidence FROM outcomes"
    others = ("SELECT * FROM quota", "SELECT * FROM hosts", "SELECT youtube_id FROM removed")
    return tuple(table(path, sql) for sql in (answers, *others))


def three_ledgers(folder: Path) -> list[Path]:
    """Returns ledgers that overlap, disagree, spend quota and pause hosts."""
    paths = []
    for number in range(3):
        path = folder / f"_ledger-{number + 1}-of-3.sqlite"
        shared = [outcome(IDS[0], title="same", evidence=b"same answer")]
        own = [
            outcome(each, title=f"title {number}", fetched_at=NOON + timedelta(hours=number), evidence=bytes([number]))
            for each in IDS[10 * number : 10 * number + 12]
        ]
        failed = [outcome(IDS[5], status=OutcomeStatus.TRANSIENT, reason="transport", fetched_at=NOON)]
        write(path, [*shared, *own, *failed])
        with Ledger(path) as ledger:
            ledger.add_quota("data-api", DAY, 100 + number)
            until = NOON + timedelta(hours=number % 2)
            ledger.save_host("a.example", HostState(until=until, level=number, rates={"x": 1 / (number + 1)}))
            ledger.remove([IDS[11 + number]])
        paths.append(path)
    return paths


def test_the_order_does_not_matter_and_merging_again_changes_nothing(tmp_path: Path) -> None:
    paths = three_ledgers(tmp_path)
    before = [content(path) for path in paths]
    results = []
    for number, order in enumerate(itertools.permutations(paths)):
        target = tmp_path / f"whole-{number}.sqlite"
        first = merged(target, *order)
        results.append(content(target))
        again = merged(target, *reversed(order))
        assert first.num_new > 0 and again.num_new == 0 and again.num_read == first.num_read
        assert content(target) == results[-1]
    assert all(result == results[0] for result in results)
    assert [content(path) for path in paths] == before
    one_by_one = tmp_path / "one-by-one.sqlite"
    for path in paths:
        merged(one_by_one, path)
    assert content(one_by_one) == results[0]


def test_the_figures_of_the_summary_are_true(tmp_path: Path) -> None:
    one = write(tmp_path / "1.sqlite", [outcome(each, title="t") for each in IDS[:6]])
    two = write(tmp_path / "2.sqlite", [outcome(each, title="t") for each in IDS[4:8]])
    with Ledger(two) as ledger:
        ledger.remove([IDS[30]])
    assert merged(tmp_path / "whole.sqlite", one, two) == MergeSummary(2, num_read=10, num_new=8, num_removed=1)
    assert merged(tmp_path / "whole.sqlite", one, two) == MergeSummary(2, num_read=10, num_new=0, num_removed=1)


def test_quota_adds_up_by_ledger_and_over_several_merges(tmp_path: Path) -> None:
    one, two, three = three_ledgers(tmp_path)
    middle, whole = tmp_path / "middle.sqlite", tmp_path / "whole.sqlite"
    merged(middle, one, two)
    merged(whole, middle, two, three)
    with Ledger(whole) as ledger:
        assert ledger.quota_used("data-api", DAY) == 100 + 101 + 102
        ledger.add_quota("data-api", DAY, 5)
    with Ledger(one) as ledger:
        ledger.add_quota("data-api", DAY, 1000)
    merged(whole, one)
    merged(whole, middle)
    with Ledger(whole) as ledger:
        assert ledger.quota_used("data-api", DAY) == 1100 + 101 + 102 + 5


def test_the_later_pause_wins(tmp_path: Path) -> None:
    early, late = tmp_path / "early.sqlite", tmp_path / "late.sqlite"
    for path, hours, level in ((early, 1, 9), (late, 2, 3)):
        with Ledger(path) as ledger:
            until = NOON + timedelta(hours=hours)
            ledger.save_host("a.example", HostState(until=until, level=level, rates={"lane": 1.0 * level}))
    merged(late, early)
    merged(early, late)
    expected = HostState(until=NOON + timedelta(hours=2), level=3, rates={"lane": 3.0})
    for path in (early, late):
        with Ledger(path) as ledger:
            assert ledger.host("a.example") == expected


def test_a_removal_wins_over_the_answers_of_any_ledger(tmp_path: Path) -> None:
    knows = write(tmp_path / "knows.sqlite", [outcome(each, title="secret words", evidence=b"{}") for each in IDS[:3]])
    removes = write(tmp_path / "removes.sqlite", [outcome(IDS[3], title="kept")])
    with Ledger(removes) as ledger:
        ledger.remove([IDS[0]])
    for number, order in enumerate(([knows, removes], [removes, knows])):
        target = tmp_path / f"whole-{number}.sqlite"
        assert merged(target, *order).num_removed == 1
        assert {video.youtube_id for video in read_videos(target)} == {IDS[1], IDS[2], IDS[3]}
        # What comes later finds it on the list as well.
        merged(target, knows)
        assert IDS[0] not in {video.youtube_id for video in read_videos(target)}
        with Ledger(target) as ledger:
            assert ledger.want(IDS[:2]) == 1


def test_a_removed_video_is_beyond_recovery_in_the_file(tmp_path: Path) -> None:
    target = write(tmp_path / "whole.sqlite", [outcome(IDS[0], title="unmistakable words")])
    with Ledger(tmp_path / "removes.sqlite") as ledger:
        ledger.remove([IDS[0]])
    merged(target, tmp_path / "removes.sqlite")
    assert b"unmistakable" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_contradictions_are_both_kept_and_judged(tmp_path: Path) -> None:
    gone = outcome(IDS[0], "data-api", availability=Availability.NOT_FOUND, reason="not_found", fetched_at=NOON)
    later = NOON + timedelta(days=3)
    also_gone = outcome(IDS[0], "data-api", availability=Availability.PRIVATE, reason="private", fetched_at=later)
    alive = outcome(IDS[1], "data-api", title="Alive", availability=Availability.PUBLIC)
    denied = outcome(IDS[1], "oembed", availability=Availability.NOT_FOUND, reason="not_found", fetched_at=later)
    paths = [
        write(tmp_path / "1.sqlite", [gone, alive]),
        write(tmp_path / "2.sqlite", [also_gone, denied]),
    ]
    for path in paths:
        found = {video.youtube_id: video.outcomes for video in read_videos(path)}
        assert judge(IDS[0], found[IDS[0]])[0] is Availability.UNKNOWN
    merged(tmp_path / "whole.sqlite", *paths)
    first, second = sorted(read_videos(tmp_path / "whole.sqlite"), key=lambda video: IDS.index(video.youtube_id))
    assert first.outcomes == (gone, also_gone)
    # The official API, on two days.
    assert judge(IDS[0], first.outcomes) == (Availability.PRIVATE, ("data-api",))
    assert set(second.outcomes) == {alive, denied}
    assert judge(IDS[1], second.outcomes) == (Availability.PUBLIC, ("data-api",))


def test_evidence_arrives_byte_for_byte(tmp_path: Path) -> None:
    large = bytes(range(256)) * 500
    source = write(tmp_path / "1.sqlite", [outcome(IDS[0], evidence=large), outcome(IDS[1], evidence=b"")])
    merged(tmp_path / "whole.sqlite", source)
    assert content(tmp_path / "whole.sqlite") == content(source)
    found = []

    def parse(name: str, youtube_id: str, evidence: bytes, status: int | None, at: datetime) -> None:
        found.append((youtube_id, evidence))

    with Ledger(tmp_path / "whole.sqlite") as ledger:
        ledger.reparse(parse)
    assert dict(found) == {IDS[0]: large, IDS[1]: b""}


def test_what_was_read_anew_stays_so_when_an_older_copy_is_merged(tmp_path: Path) -> None:
    old = write(tmp_path / "old.sqlite", [outcome(IDS[0], title="YouTube", evidence=b"page")])
    merged(tmp_path / "whole.sqlite", old)
    with Ledger(tmp_path / "whole.sqlite") as ledger:
        changes = ledger.reparse(
            lambda source, youtube_id, evidence, status, at: outcome(youtube_id, reason="junk", evidence=evidence)
        )
        assert changes.num_titles_lost == 1
        assert merge_ledgers(ledger, [old]).num_new == 0
    (video,) = read_videos(tmp_path / "whole.sqlite")
    assert [each.reason for each in video.outcomes] == ["junk"]


def write_version_1(path: Path) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1)
    rows = [
        (IDS[0], "oembed", "title", "public", "Old title", None, NOON.isoformat(), b"\x01\x02"),
        (IDS[1], "oembed", "no_title", "not_found", None, "not_found", NOON.isoformat(), None),
        (IDS[2], "oembed", "transient", "unknown", None, "transport", NOON.isoformat(), None),
    ]
    connection.executemany(
        "INSERT INTO outcomes (run, attempt, youtube_id, source, status, availability, title, reason, fetched_at,"
        " evidence) VALUES (1, 1, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    connection.execute("INSERT INTO quota VALUES ('data-api', ?, 77)", (DAY,))
    connection.execute("INSERT INTO cooldowns VALUES ('a.example', ?, 1, 0.5)", (NOON.isoformat(),))
    connection.execute("INSERT INTO runs VALUES (1, ?)", (NOON.isoformat(),))
    connection.commit()
    connection.close()
    return path


def test_a_ledger_of_version_1_is_read_merged_and_upgraded(tmp_path: Path) -> None:
    old = write_version_1(tmp_path / "old.sqlite")
    expected = {IDS[0]: ("Old title", None), IDS[1]: (None, "not_found")}
    before = old.read_bytes()

    def known(path: Path) -> dict[str, tuple[str | None, str | None]]:
        return {video.youtube_id: (video.outcomes[0].title, video.outcomes[0].reason) for video in read_videos(path)}

    assert known(old) == expected
    assert merged(tmp_path / "whole.sqlite", old) == MergeSummary(1, 3, 3, 0)
    assert known(tmp_path / "whole.sqlite") == expected and old.read_bytes() == before
    with Ledger(old) as ledger:
        assert ledger.quota_used("data-api", DAY) == 77
        pause = ledger.host("a.example")
        assert pause is not None and (pause.level, pause.rates) == (1, {})
        assert ledger.want(IDS[:4]) == 4
        assert ledger.pending(PendingQuery(source="oembed")) == sorted(IDS[2:4])
        assert summarise(ledger, (), 4, 0.0).num_titles == 1
    assert table(old, "PRAGMA user_version") == [(LEDGER_VERSION,)]
    assert known(old) == expected
    assert merged(tmp_path / "whole.sqlite", old).num_new == 0


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE outcomes (title TEXT)")
    connection.close()


def newer(path: Path) -> None:
    write(path, [])
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {LEDGER_VERSION + 1}")
    connection.close()


def torn(path: Path) -> None:
    write(path, [outcome(each, title="t" * 100, evidence=os.urandom(3000)) for each in IDS])
    data = bytearray(path.read_bytes())
    data[8192 : len(data) - 4096] = bytes(len(data) - 12288)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: path.write_bytes(b"not a ledger at all" * 100), "not an SQLite file"),
        (foreign, "not a ledger of k700-text"),
        (newer, "use the k700-text that wrote it"),
        (torn, "is damaged"),
        (lambda path: None, "no such ledger"),
        (lambda path: path.mkdir(), "no such ledger"),
    ],
)
def test_a_bad_ledger_is_one_line_and_leaves_the_result_whole(tmp_path: Path, make: Any, text: str) -> None:
    good = write(tmp_path / "good.sqlite", [outcome(each, title="good") for each in IDS])
    target = write(tmp_path / "whole.sqlite", [outcome(IDS[0], title="first", fetched_at=NOON - timedelta(days=1))])
    bad = tmp_path / "bad.sqlite"
    make(bad)
    with Ledger(target) as ledger:
        with pytest.raises(LedgerError, match=text) as caught:
            merge_ledgers(ledger, [good, bad])
        assert str(bad) in str(caught.value) and "\n" not in str(caught.value)
        # The ledger itself still works.
        ledger.record(outcome(IDS[1], "wayback", title="later"))
    kept = {each.title for video in read_videos(target) for each in video.outcomes}
    assert kept >= {"first", "good", "later"}
    assert len(content(target)[0]) >= len(IDS) + 2


def test_a_ledger_is_not_merged_into_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.sqlite", [outcome(IDS[0], title="t")])
    (tmp_path / "link.sqlite").symlink_to(path)
    with Ledger(path) as ledger, pytest.raises(UsageError, match="into itself"):
        merge_ledgers(ledger, [tmp_path / "link.sqlite"])


def test_a_merge_killed_in_the_middle_is_done_again(tmp_path: Path) -> None:
    ids = make_ids(6000, "killed merge")
    paths = []
    for number in range(2):
        half = [outcome(each, title=f"title of {each}", evidence=each.encode()) for each in ids[number::2]]
        paths.append(write(tmp_path / f"{number}.sqlite", half))
    expected, target = tmp_path / "expected.sqlite", tmp_path / "killed.sqlite"
    merged(expected, *paths)
    # Pages of ten answers: more moments at which something is half done.
    program = (
        "import sys, pathlib, k700_text.crawl.merge as m\n"
        "m.PAGE_ROWS = 10\n"
        "with m.Ledger(pathlib.Path(sys.argv[1])) as target: m.merge_ledgers(target, map(pathlib.Path, sys.argv[2:]))"
    )
    nums_found = []
    for num_at_least in (1, 2000, 4000):
        process = subprocess.Popen([sys.executable, "-c", program, *map(str, (target, *paths))], cwd=REPOSITORY)
        deadline = time.monotonic() + 30
        while num_answers(target) < num_at_least and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        nums_found.append(num_answers(target))
    assert 0 < nums_found[0] < 6000 and nums_found == sorted(nums_found)
    assert merged(target, *paths).num_new == 6000 - nums_found[-1]
    assert content(target) == content(expected)


def num_answers(path: Path) -> int:
    if not path.exists():
        return 0
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM outcomes").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def test_a_part_is_given_what_the_whole_knows_about_its_videos(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.sqlite", [outcome(each, title=f"title of {each}", evidence=b"x") for each in IDS])
    ours = set(IDS[::3])
    with Ledger(whole) as ledger:
        ledger.add_quota("data-api", DAY, 100)
        ledger.save_host("a.example", HostState(until=NOON, level=1, rates={}))
        ledger.remove([IDS[0]])
    with Ledger(tmp_path / "part.sqlite") as part:
        for _ in range(2):
            seed_part(part, whole, holds=ours.__contains__, num_parts=3)
        assert {video.youtube_id for video in read_videos(part.path)} == ours - {IDS[0]}
        # A third of what was spent, rounded up, beside what it spends itself.
        part.add_quota("data-api", DAY, 10)
        assert part.quota_used("data-api", DAY) == 34 + 10
        assert part.host("a.example") == HostState(until=NOON, level=1, rates={})
        assert part.want(IDS[:1]) == 0
    before = content(whole)[0]
    merged(whole, part.path)
    assert content(whole)[0] == before
    with Ledger(whole) as ledger:
        assert ledger.quota_used("data-api", DAY) == 100 + 10


@pytest.mark.slow
def test_a_large_merge_is_quick(tmp_path: Path) -> None:
    """40,000 answers with evidence; the floor, a tenth of a busy machine's rate, tells linear from quadratic."""
    now = datetime.now(UTC)
    ids = make_ids(40_000, "large merge")
    source = write(
        tmp_path / "1.sqlite",
        [outcome(each, title="A title", fetched_at=now, evidence=os.urandom(400)) for each in ids],
    )
    began = time.perf_counter()
    assert merged(tmp_path / "whole.sqlite", source).num_new == len(ids)
    rate = len(ids) / (time.perf_counter() - began)
    began = time.perf_counter()
    assert merged(tmp_path / "whole.sqlite", source).num_new == 0
    again = len(ids) / (time.perf_counter() - began)
    assert rate > 2_000 and again > 2_000, f"{rate:.0f} new, {again:.0f} known answers a second"
