"""Whoever reads the folder of a crawl reads the manifest and nothing else; folders of earlier versions go on."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from k700_text import schema
from k700_text.cli.main import app
from k700_text.crawl.archive import FILE_NAME, archive_folder
from k700_text.crawl.job import CrawlJob, Shard
from k700_text.crawl.ledger import Ledger
from k700_text.crawl.ledger_place import LEDGER_NAME, ledger_in, part_ledgers, settle_ledger
from k700_text.crawl.ledger_store import connect_read_only
from k700_text.errors import LedgerError, UsageError
from k700_text.files.journal import journal_beside
from tests.k700_text.crawling import finished, make_ids
from tests.k700_text.media_files import make_clip

IDS = sorted(make_ids(6))
EARLIER_NAME = "ledger.sqlite"


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def write_inputs(folder: Path) -> tuple[Path, Path]:
    """Writes annotations of two splits and a dump with the titles of all videos."""
    annotations, dump = folder / "clips.csv", folder / "dump.csv"
    rows = [f"yoga,{each},1,3,{('train', 'val')[number % 2]}\n" for number, each in enumerate(IDS)]
    annotations.write_text("label,youtube_id,time_start,time_end,split\n" + "".join(rows))
    dump.write_text("youtube_id,title\n" + "".join(f"{each},title of {each}\n" for each in IDS))
    return annotations, dump


def crawl(folder: Path, out: Path) -> str:
    annotations, dump = write_inputs(folder)
    return run("crawl", "--annotations", annotations, "--out", out, "--sources", "dumps", "--dump", dump)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which everything happened that leaves files, while a crawl and two datasets still have it open."""
    from k700_text import KineticsAVT

    root = tmp_path_factory.mktemp("used")
    clips, titles = root / "clips", root / "titles"
    make_clip(clips / f"{IDS[0]}_000001_000003.mp4", 1.0)
    make_clip(clips / f"{IDS[1]}_000001_000003.mp4", 1.0)
    crawl(root, titles)
    archive = archive_folder(titles) / FILE_NAME
    archive.parent.mkdir()
    archive.touch()
    # A probe table and a packet index are results: people choose their place, but not that of the notes beside them.
    run("probe", clips, "--out", root / "probe.parquet", "--packets", root / "packets.arrow", "--workers", 1)
    for result in ("probe.parquet", "packets.arrow"):
        shutil.copy(journal_beside(root / result), titles)
    run("manifest", "--annotations", root / "clips.csv", "--out", titles, "--probe", root / "probe.parquet")
    sources = ("--sources", "dumps", "--dump", root / "dump.csv")
    run("crawl", "--annotations", root / "clips.csv", "--out", titles, *sources, "--shard", "1/2")
    run("tokenizer", "--manifest", titles, "--out", root / "tokenizer.json")
    open_sets = [KineticsAVT(titles, clips), KineticsAVT(titles / "train.parquet", clips, where="has_video")]
    assert [dataset[0].has_video for dataset in open_sets] == [True, True]
    with Ledger(titles / LEDGER_NAME) as ledger:
        ledger.want(IDS)
        yield titles


def expected_rows(titles: Path) -> list[dict[str, Any]]:
    rows = [row for split in ("train", "val") for row in pq.read_table(titles / f"{split}.parquet").to_pylist()]
    assert len(rows) == len(IDS)
    return rows


def test_all_kinds_of_side_files_are_there(used: Path) -> None:
    """Or the tests below would show nothing."""
    names = {path.name for path in used.iterdir()}
    assert {LEDGER_NAME, f"{LEDGER_NAME}-wal", f"{LEDGER_NAME}-shm", f"{LEDGER_NAME}.lock"} <= names
    assert {".train.parquet.cache", ".probe.parquet.journal", "_ledger-1-of-2.sqlite", "_annotations"} <= names
    assert {name for name in names if name[0] not in "._"} == {"train.parquet", "val.parquet"}


def test_pandas_and_pyarrow_read_the_manifest_alone(used: Path) -> None:
    rows = expected_rows(used)
    frame = pd.read_parquet(used)
    assert list(frame.columns) == schema.MANIFEST_SCHEMA.names
    assert list(frame.clip_id) == [row["clip_id"] for row in rows]
    assert pq.read_table(used).to_pylist() == rows
    assert [Path(file).name for file in ds.dataset(used).files] == ["train.parquet", "val.parquet"]


def test_datasets_reads_the_manifest_alone(used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    found = datasets.load_dataset(str(used), cache_dir=str(tmp_path))
    rows = [row["clip_id"] for split in ("train", "validation") for row in found[split]]
    assert rows == [row["clip_id"] for row in expected_rows(used)]
    assert found["train"].column_names == schema.MANIFEST_SCHEMA.names


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A folder of an earlier version, whose last process was killed: what it wrote last is in the log beside."""
    out = tmp_path / "titles"
    crawl(tmp_path, out)
    (out / LEDGER_NAME).rename(out / EARLIER_NAME)
    (out / f"{LEDGER_NAME}.lock").rename(out / f"{EARLIER_NAME}.lock")
    connection = sqlite3.connect(out / EARLIER_NAME)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("UPDATE outcomes SET title = 'of the log', checksum = NULL WHERE youtube_id = ?", (IDS[0],))
    connection.commit()
    for name in (EARLIER_NAME, f"{EARLIER_NAME}-wal"):
        shutil.copy(out / name, tmp_path / name)
    connection.close()
    for name in (EARLIER_NAME, f"{EARLIER_NAME}-wal"):
        (tmp_path / name).replace(out / name)
    (out / "train.parquet").unlink()
    return out


def titles_in(out: Path) -> dict[str, str]:
    table = pq.read_table(out / "train.parquet")
    return dict(zip(table["youtube_id"].to_pylist(), table["title"].to_pylist(), strict=True))


def test_a_ledger_of_before_is_read_where_it_lies(earlier: Path) -> None:
    run("manifest", "--annotations", earlier.parent / "clips.csv", "--out", earlier)
    assert titles_in(earlier)[IDS[0]] == "of the log" and len(titles_in(earlier)) == 3
    assert (earlier / EARLIER_NAME).exists() and not (earlier / LEDGER_NAME).exists()


def test_a_crawl_gives_it_its_name_of_today_and_goes_on_with_it(earlier: Path) -> None:
    known = finished(earlier / EARLIER_NAME)
    text = crawl(earlier.parent, earlier)
    assert "titles/ledger.sqlite is _ledger.sqlite now" in text.replace("\n", "")
    assert finished(earlier / LEDGER_NAME) == known and titles_in(earlier)[IDS[0]] == "of the log"
    assert not list(earlier.glob("ledger*")) and len(pd.read_parquet(earlier)) == len(IDS)
    assert "is _ledger.sqlite now" not in crawl(earlier.parent, earlier)


def test_a_ledger_in_use_stays_where_it_is(earlier: Path) -> None:
    with Ledger(earlier / EARLIER_NAME), pytest.raises(LedgerError, match="another crawl is using"):
        settle_ledger(earlier)
    reader = connect_read_only(earlier / EARLIER_NAME)
    try:
        reader.execute("BEGIN")
        num_rows = reader.execute("SELECT count(*) FROM outcomes").fetchone()
        assert settle_ledger(earlier) == earlier / EARLIER_NAME
        assert reader.execute("SELECT count(*) FROM outcomes").fetchone() == num_rows
    finally:
        reader.close()
    assert settle_ledger(earlier) == earlier / LEDGER_NAME


def test_two_ledgers_are_not_chosen_between(earlier: Path) -> None:
    shutil.copy(earlier / EARLIER_NAME, earlier / LEDGER_NAME)
    for use in (ledger_in, settle_ledger):
        with pytest.raises(UsageError, match=r"two ledgers, _ledger\.sqlite and ledger\.sqlite: .* k700-text merge"):
            use(earlier)
    outside = (earlier / EARLIER_NAME).rename(earlier.parent / "old.sqlite")
    assert "new" in run("merge", outside, "--out", earlier)


def test_what_is_no_ledger_keeps_its_name(tmp_path: Path) -> None:
    for content, message in ((b"junk" * 4000, "is not a ledger"), (b"", "not a ledger of k700-text")):
        (tmp_path / EARLIER_NAME).write_bytes(content)
        with pytest.raises(LedgerError, match=message):
            settle_ledger(tmp_path)
        assert (tmp_path / EARLIER_NAME).read_bytes() == content and not (tmp_path / LEDGER_NAME).exists()


def test_ledgers_of_parts_go_on_too(tmp_path: Path) -> None:
    job = CrawlJob(out=tmp_path, shard=Shard(1, 2))
    for name in ("ledger-1-of-2.sqlite", "_ledger-2-of-2.sqlite"):
        with Ledger(tmp_path / name):
            pass
    assert [path.name for path in part_ledgers(tmp_path)] == ["_ledger-2-of-2.sqlite", "ledger-1-of-2.sqlite"]
    assert job.ledger_path.name == "ledger-1-of-2.sqlite"
    run("merge", tmp_path, "--out", tmp_path / "all")
    assert job.settle(lambda text: None).name == job.ledger_path.name == "_ledger-1-of-2.sqlite"


def test_annotations_of_before_are_taken_over_unless_other_files_are_among_them(tmp_path: Path) -> None:
    assert archive_folder(tmp_path) == tmp_path / "_annotations"
    earlier = tmp_path / "annotations"
    earlier.mkdir()
    (earlier / "mine.csv").touch()
    (earlier / FILE_NAME).write_bytes(b"tar")
    assert archive_folder(tmp_path) == tmp_path / "_annotations" and not (tmp_path / "_annotations").exists()
    (earlier / "mine.csv").unlink()
    assert (archive_folder(tmp_path) / FILE_NAME).read_bytes() == b"tar" and not earlier.exists()


def test_a_probe_goes_on_with_a_journal_of_before(tmp_path: Path) -> None:
    make_clip(tmp_path / "clips" / f"{IDS[0]}_000001_000003.mp4", 1.0)
    words = ("probe", tmp_path / "clips", "--out", tmp_path / "p.parquet", "--workers", 1, "--json")
    assert '"num_measured": 1' in run(*words)
    os.rename(tmp_path / ".p.parquet.journal", tmp_path / "p.parquet.journal")  # noqa: PTH104
    assert '"num_measured": 0' in run(*words)
    assert not (tmp_path / "p.parquet.journal").exists()
