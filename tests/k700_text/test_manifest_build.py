from __future__ import annotations

import csv
import errno
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k700_text import schema
from k700_text.annotations import Annotations
from k700_text.clip_table import ClipTable
from k700_text.crawl.ledger import Ledger
from k700_text.crawl.verdict import judge
from k700_text.errors import LedgerError, ManifestError, SchemaMismatchError
from k700_text.manifest.build import build_manifest
from k700_text.manifest.spreadsheet import write_csv
from k700_text.manifest.stats import manifest_stats
from k700_text.manifest.validate import validate_manifest
from k700_text.records import Availability, Clip, OutcomeStatus, Split, TitleOutcome
from tests.k700_text.crawling import NOON, make_ids, outcome

IDS = sorted(make_ids(4))


def clip(youtube_id: str, split: Split = Split.VAL, label: str | None = "yoga", start: float = 5.0) -> Clip:
    return Clip(youtube_id=youtube_id, split=split, start_seconds=start, end_seconds=start + 10, label=label)


def annotate(*clips: Clip) -> Annotations:
    return Annotations(ClipTable.of(clips), "ab" * 32)


def write_ledger(path: Path, outcomes: Sequence[TitleOutcome]) -> Path:
    with Ledger(path) as ledger:
        for each in outcomes:
            ledger.record(each)
    return path


def write_probe(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    full = [{name: row.get(name) for name in schema.PROBE_SCHEMA.names} for row in rows]
    stamped = schema.with_metadata(schema.PROBE_SCHEMA, probe_settings='{"x": 1}')
    pq.write_table(pa.Table.from_pylist(full, stamped), path)
    return path


def rows_of(path: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(path).to_pylist()
    return rows


def test_without_ledger_and_probe_every_clip_has_a_row_with_nothing_known(tmp_path: Path) -> None:
    clips = annotate(
        clip(IDS[0]), clip(IDS[0], label="judo"), clip(IDS[1], Split.TRAIN), clip(IDS[2], Split.TEST, None)
    )
    files = build_manifest(clips, None, None, tmp_path / "new")
    assert [file.name for file in files] == ["test.parquet", "train.parquet", "val.parquet"]
    assert pq.read_schema(files[0]).equals(schema.MANIFEST_SCHEMA)
    first, second = rows_of(files[2])
    assert (first["label"], second["label"]) == ("judo", "yoga")
    assert first["clip_id"] == f"{IDS[0]}_000005_000015"
    assert (first["availability"], first["availability_sources"], first["has_text"]) == ("unknown", [], False)
    assert first["has_video"] is first["has_audio"] is first["video_status"] is None
    assert all(validate_manifest(file) == [] for file in files)


def test_the_title_of_the_best_source_and_its_newest_answer_wins(tmp_path: Path) -> None:
    later = NOON + timedelta(days=3)
    ledger = write_ledger(
        tmp_path / "l.sqlite",
        [
            outcome(IDS[0], "zeta", title="from zeta", video_duration_seconds=9.0),
            outcome(IDS[0], "oembed", title="old oembed", availability=Availability.PUBLIC),
            outcome(IDS[0], "oembed", title="new oembed", availability=Availability.PUBLIC, fetched_at=later),
            outcome(IDS[1], "oembed", title="oembed", availability=Availability.PUBLIC, fetched_at=later),
            outcome(IDS[1], "data-api", title="api", availability=Availability.UNLISTED, title_language="de"),
            outcome(IDS[3], "oembed", reason="not_found", availability=Availability.NOT_FOUND),
            outcome(IDS[3], "data-api", reason="not_found", availability=Availability.NOT_FOUND),
        ],
    )
    (file,) = build_manifest(annotate(*map(clip, IDS)), ledger, None, tmp_path)
    rows = rows_of(file)
    assert [row["title"] for row in rows] == ["new oembed", "api", None, None]
    assert [row["title_source"] for row in rows] == ["oembed", "data-api", None, None]
    assert [row["availability"] for row in rows] == ["public", "unlisted", "unknown", "not_found"]
    assert [row["has_text"] for row in rows] == [True, True, False, False]
    assert rows[0]["title_fetched_at"] == later and rows[0]["video_duration_seconds"] == 9.0
    assert rows[1]["title_language"] == "de" and rows[1]["availability_sources"] == ["data-api", "oembed"]
    assert validate_manifest(file) == []


def test_clips_are_joined_to_their_measurements_by_name(tmp_path: Path) -> None:
    names = [f"{each}_000005_000015.mp4" for each in IDS]
    probe = write_probe(
        tmp_path / "probe.parquet",
        [
            {"clip_file": f"yoga/{names[0]}", "video_status": "usable", "audio_status": "usable", "num_frames": 250},
            {"clip_file": names[1], "video_status": "partial", "audio_status": "silent"},
            {"clip_file": names[2], "video_status": "undecodable", "audio_status": "no_stream"},
            {"clip_file": "holiday.mp4", "video_status": "usable", "audio_status": "usable"},
        ],
    )
    (file,) = build_manifest(annotate(*map(clip, IDS)), None, probe, tmp_path)
    rows = rows_of(file)
    assert [row["video_status"] for row in rows] == ["usable", "partial", "undecodable", "missing"]
    assert [row["audio_status"] for row in rows] == ["usable", "silent", "no_stream", "missing"]
    assert [row["has_video"] for row in rows] == [True, True, False, False]
    assert [row["has_audio"] for row in rows] == [True, False, False, False]
    assert rows[0]["num_frames"] == 250 and rows[3]["num_frames"] is None
    metadata = pq.read_schema(file).metadata
    assert metadata[schema.PROBE_SETTINGS_KEY] == b'{"x": 1}'
    assert metadata[schema.ANNOTATIONS_KEY] == b"ab" * 32 and schema.TOOL_KEY in metadata
    assert validate_manifest(file) == []


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    ids = make_ids(200)
    ledger = write_ledger(tmp_path / "l.sqlite", [outcome(each, title=f"t {each}") for each in ids[::2]])
    (file,) = build_manifest(annotate(*map(clip, ids)), ledger, None, tmp_path / "a")
    (again,) = build_manifest(annotate(*map(clip, ids)), ledger, None, tmp_path / "b")
    assert file.read_bytes() == again.read_bytes()
    assert sum(row["has_text"] is True for row in rows_of(file)) == 100


def test_many_rows_stream_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k700_text.manifest.build.ROWS_PER_GROUP", 16)
    ids = make_ids(50)
    ledger = write_ledger(tmp_path / "l.sqlite", [outcome(each, title=each) for each in ids])
    (file,) = build_manifest(annotate(*map(clip, ids)), ledger, None, tmp_path)
    assert pq.ParquetFile(file).num_row_groups == 4
    assert all(row["title"] == row["youtube_id"] for row in rows_of(file))


def test_a_failed_build_leaves_the_former_file(tmp_path: Path) -> None:
    (file,) = build_manifest(annotate(clip(IDS[0])), None, None, tmp_path)
    before = file.read_bytes()
    (tmp_path / "l.sqlite").write_bytes(b"junk" * 2000)
    with pytest.raises(LedgerError):
        build_manifest(annotate(clip(IDS[0])), tmp_path / "l.sqlite", None, tmp_path)
    assert file.read_bytes() == before


def test_a_foreign_probe_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(SchemaMismatchError):
        build_manifest(annotate(clip(IDS[0])), None, tmp_path / "x.parquet", tmp_path)
    with pytest.raises(ManifestError, match="no such file"):
        build_manifest(annotate(clip(IDS[0])), None, tmp_path / "y.parquet", tmp_path)


def test_a_spreadsheet_never_computes_a_title_or_an_id(tmp_path: Path) -> None:
    titles = ["=1+1", "+x", "-y", "@z", 'plain, "quoted"\u2764']
    ids = ["-1234567890", *IDS]
    ledger = write_ledger(
        tmp_path / "l.sqlite",
        [outcome(each, title=title, availability=Availability.PUBLIC) for each, title in zip(ids, titles, strict=True)],
    )
    (file,) = build_manifest(annotate(*map(clip, ids)), ledger, None, tmp_path)
    written = write_csv(file, tmp_path / "val.spreadsheet.csv", for_spreadsheets=True)
    assert written.read_bytes().startswith(b"\xef\xbb\xbf")
    with written.open(encoding="utf-8-sig", newline="") as source:
        rows = {row["youtube_id"]: row for row in csv.DictReader(source)}
    assert rows["'-1234567890"]["title"] == "'=1+1"
    assert [rows[each]["title"] for each in IDS if each in rows][-1] == titles[-1]
    assert rows["'-1234567890"]["availability_sources"] == "oembed"
    assert not any(cell[:1] in ("=", "+", "-", "@") for row in rows.values() for cell in row.values())


def test_a_plain_csv_has_the_very_titles_and_ids(tmp_path: Path) -> None:
    titles = [
        "=1+1",
        "-y",
        'a "quoted", b',
        "NA",
        "007",
        "two  spaces;\ttab",
        "\u0627\u2764\U0001f600",
        "back\\slash\\",
    ]
    ids = ["-1234567890", "00000000000", *IDS, *[f"9999999999{digit}" for digit in "048"]][: len(titles)]
    assert len(ids) == len(titles)
    answers = [outcome(each, title=title) for each, title in zip(ids, titles, strict=True)]
    ledger = write_ledger(tmp_path / "l.sqlite", answers)
    (file,) = build_manifest(annotate(*map(clip, ids)), ledger, None, tmp_path)
    table = pd.read_csv(write_csv(file, tmp_path / "val.csv"), dtype=str, keep_default_na=False)
    rows = rows_of(file)
    assert table["title"].tolist() == [row["title"] for row in rows] and set(table["title"]) == set(titles)
    assert table["clip_id"].tolist() == [row["clip_id"] for row in rows]
    assert not (tmp_path / "val.csv").read_bytes().startswith(b"\xef\xbb\xbf")


def test_statistics_count_what_is_there(tmp_path: Path) -> None:
    ledger = write_ledger(
        tmp_path / "l.sqlite",
        [outcome(IDS[0], title="t", availability=Availability.PUBLIC), outcome(IDS[1], title="t")],
    )
    clips = annotate(clip(IDS[0]), clip(IDS[1], label="judo"), clip(IDS[2], label="judo"), clip(IDS[3], Split.TRAIN))
    found = manifest_stats(build_manifest(clips, ledger, None, tmp_path))
    assert (found.num_clips, found.num_videos, found.num_labels, found.num_titles) == (4, 4, 2, 2)
    assert found.num_distinct_titles == 1 and found.titles_by_source == {"oembed": 2}
    assert found.titles_by_split == {"val": 2} and found.clips_by_split == {"val": 3, "train": 1}
    assert found.availability == {"unknown": 3, "public": 1} and found.audio_status == {"not_probed": 4}
    assert [(each.label, each.share) for each in found.lowest_coverage] == [("judo", 0.5), ("yoga", 0.5)]
    assert dict(found.rows())["titles"] == "2 (50.0%)"
    assert found.as_dict()["lowest_coverage"][0] == {"label": "judo", "num_clips": 2, "num_titles": 1}


def test_times_are_whole_in_utc(tmp_path: Path) -> None:
    moment = datetime(2026, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
    ledger = write_ledger(tmp_path / "l.sqlite", [outcome(IDS[0], title="t", fetched_at=moment, published_at=moment)])
    (file,) = build_manifest(annotate(clip(IDS[0])), ledger, None, tmp_path)
    assert rows_of(file)[0]["title_fetched_at"] == rows_of(file)[0]["published_at"] == moment


def test_writing_again_can_keep_what_a_probe_measured(tmp_path: Path) -> None:
    first, second, new = clip(IDS[0]), clip(IDS[1]), clip(IDS[2])
    probe = write_probe(
        tmp_path / "p.parquet",
        [{"clip_file": f"{first.clip_id}.mp4", "video_status": "usable", "audio_status": "silent", "num_frames": 9}],
    )
    (file,) = build_manifest(annotate(first, second), None, probe, tmp_path)
    before = file.read_bytes()
    build_manifest(annotate(first, second), None, None, tmp_path, keep_probe=True)
    assert file.read_bytes() == before
    build_manifest(annotate(first, second, new), None, None, tmp_path, keep_probe=True)
    assert [(row["video_status"], row["has_video"]) for row in rows_of(file)] == [
        ("usable", True),
        ("missing", False),
        (None, None),
    ]
    assert validate_manifest(file) == []
    build_manifest(annotate(first), None, None, tmp_path)
    assert rows_of(file)[0]["video_status"] is None
    file.write_bytes(b"no parquet")
    build_manifest(annotate(first), None, None, tmp_path, keep_probe=True)
    assert validate_manifest(file) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "val.parquet").mkdir()
    with pytest.raises(OSError) as caught:
        build_manifest(annotate(clip(IDS[0])), None, None, tmp_path)
    assert "val.parquet" in str(caught.value.filename)


SOURCES = ("dumps", "data-api", "oembed", "thumbnail", "wayback", "wayback-cdx", "archive-item", "yt-dlp", "zeta")


def random_outcomes(ids: Sequence[str], seed: int = 0) -> list[TitleOutcome]:
    """Up to seven answers a video, of all sources and kinds, some of them on several days."""
    rng = random.Random(seed)
    found = []
    for youtube_id in ids:
        for number in range(rng.choice([0, 1, 1, 2, 3, 7])):
            moment = NOON + timedelta(days=rng.choice([0, 0, 1, 40]), seconds=number, microseconds=rng.choice([0, 5]))
            title = rng.choice([None, f"title {number} \u00e9"])
            found.append(
                outcome(
                    youtube_id,
                    rng.choice(SOURCES),
                    title=title,
                    status=OutcomeStatus.TITLE
                    if title
                    else rng.choice([OutcomeStatus.NO_TITLE, OutcomeStatus.TRANSIENT]),
                    availability=rng.choice(list(Availability)),
                    title_language=rng.choice([None, "de"]),
                    captured_at=rng.choice([None, moment - timedelta(days=4000)]),
                    published_at=rng.choice([None, moment - timedelta(days=5000)]),
                    video_duration_seconds=rng.choice([None, number + 0.5]),
                    web_has_audio=rng.choice([None, True, False]),
                    fetched_at=moment,
                )
            )
    rng.shuffle(found)
    return found


def expected_row(youtube_id: str, outcomes: Sequence[TitleOutcome]) -> dict[str, object]:
    """What the rules make of a video, spelled out: best source first, of each its titles and the newest one."""
    own = [each for each in outcomes if each.youtube_id == youtube_id and each.status is not OutcomeStatus.TRANSIENT]
    order = {name: SOURCES.index(name) for name in SOURCES}
    own.sort(key=lambda each: (order[each.source], each.title is None, NOON - each.fetched_at))
    titled = next((each for each in own if each.title), None)
    state, sources = judge(youtube_id, own)
    row: dict[str, object] = {
        name: next((value for each in own if (value := getattr(each, name)) is not None), None)
        for name in ("published_at", "video_duration_seconds", "web_has_audio")
    }
    row |= {"availability": state.value, "availability_sources": list(sources), "has_text": titled is not None}
    row |= {"title": titled and titled.title, "title_source": titled and titled.source.removesuffix("-cdx")}
    row |= {"title_fetched_at": titled and titled.fetched_at, "title_captured_at": titled and titled.captured_at}
    return row | {"title_language": titled and titled.title_language}


@pytest.mark.parametrize("pieces", [(1, 1), (3, 2), (7, 5), (20_000, 5_000)])
def test_every_row_says_what_the_rules_make_of_its_video(
    tmp_path: Path, pieces: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k700_text.manifest.build.ROWS_PER_GROUP", pieces[0])
    monkeypatch.setattr("k700_text.manifest.web.VIDEOS_PER_TABLE", pieces[1])
    ids = [*make_ids(60), "-----------", "zzzzzzzzzzz"]
    outcomes = random_outcomes([*ids, *make_ids(20, "nobody asked for")])
    ledger = write_ledger(tmp_path / "l.sqlite", outcomes)
    rng = random.Random(1)
    clips = {clip(each, rng.choice(list(Split)), start=rng.randrange(30)) for each in ids for _ in range(3)}
    files = build_manifest(annotate(*clips), ledger, None, tmp_path)
    rows = [row for file in files for row in rows_of(file)]
    assert [(row["split"], row["clip_id"]) for row in rows] == sorted((each.split, each.clip_id) for each in clips)
    for row in rows:
        expected = expected_row(str(row["youtube_id"]), outcomes)
        assert {name: row[name] for name in expected} == expected
    assert all(validate_manifest(file) == [] for file in files)


def test_answers_of_the_api_may_be_too_old(tmp_path: Path) -> None:
    later = NOON + timedelta(days=40)
    ledger = write_ledger(
        tmp_path / "l.sqlite",
        [
            outcome(IDS[0], "data-api", title="old api", availability=Availability.PUBLIC),
            outcome(IDS[0], "wayback-cdx", title="archive"),
            outcome(IDS[1], "data-api", title="new api", fetched_at=later),
            outcome(IDS[2], "data-api", title="gone with its time", availability=Availability.PUBLIC),
        ],
    )
    (file,) = build_manifest(annotate(*map(clip, IDS)), ledger, None, tmp_path, api_since=NOON + timedelta(days=1))
    rows = rows_of(file)
    assert [row["title"] for row in rows] == ["archive", "new api", None, None]
    assert [row["title_source"] for row in rows] == ["wayback", "data-api", None, None]
    assert {row["availability"] for row in rows} == {"unknown"}


def test_a_failure_leaves_no_half_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = annotate(clip(IDS[0]), clip(IDS[1], Split.TRAIN))

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", fail)
    with pytest.raises(OSError) as caught:
        build_manifest(clips, None, None, tmp_path)
    assert caught.value.errno == errno.ENOSPC and str(caught.value.filename).endswith("train.parquet")
    assert [path.name for path in tmp_path.iterdir()] == [".manifest.lock"]


def test_a_former_file_that_was_never_probed_is_not_read_for_its_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_manifest(annotate(clip(IDS[0])), None, None, tmp_path)
    monkeypatch.setattr("k700_text.manifest.build.EarlierProbe", None)
    (file,) = build_manifest(annotate(clip(IDS[0])), None, None, tmp_path, keep_probe=True)
    assert rows_of(file)[0]["has_video"] is None
