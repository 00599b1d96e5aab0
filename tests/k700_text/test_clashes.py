from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from k700_text.annotations import load_annotations
from k700_text.clashes import find_clashes
from k700_text.cli import main
from k700_text.cli.common import run_guarded
from k700_text.clip_table import ClipTable
from k700_text.manifest.build import build_manifest
from k700_text.manifest.validate import manifest_clashes, validate_manifests
from k700_text.records import Clip, Split
from tests.k700_text.crawling import make_ids

IDS = sorted(make_ids(12))


def clip(youtube_id: str, split: Split, start: float, end: float, label: str = "yoga") -> Clip:
    return Clip(youtube_id=youtube_id, split=split, start_seconds=start, end_seconds=end, label=label)


def by_hand(clips: Sequence[Clip]) -> dict[str, int]:
    """The same counts, pair by pair."""
    splits, times = defaultdict(set), defaultdict(list)
    for each in clips:
        splits[each.clip_id].add(each.split)
        times[each.split, each.clip_id].append((each.start_seconds, each.end_seconds))
    overlapping = {
        one.youtube_id
        for one, other in combinations(clips, 2)
        if one.youtube_id == other.youtube_id
        and one.split != other.split
        and one.start_seconds < other.end_seconds
        and other.start_seconds < one.end_seconds
    }
    return {
        "clips_in_two_splits": sum(len(each) > 1 for each in splits.values()),
        "overlaps_across_splits": len(overlapping),
        "clip_ids_of_two_spans": sum(len(set(each)) > 1 for each in times.values()),
        "clips_with_two_labels": sum(len(each) > 1 == len(set(each)) for each in times.values()),
    }


def counts(clips: Sequence[Clip]) -> dict[str, int]:
    found = find_clashes(ClipTable.of(clips).spans()).as_dict()
    found.pop("examples")
    return found


@pytest.mark.parametrize("seed", range(30))
def test_the_counts_are_those_of_every_pair(seed: int) -> None:
    rng = random.Random(seed)
    times = [0, 0.5, 1, 5, 10, 10.25, 12, 20, 1e5]
    clips = {
        clip(
            rng.choice(IDS),
            rng.choice(list(Split)[: rng.choice([1, 2, 3, 3])]),
            start := rng.choice(times),
            start + rng.choice([0.25, 4, 4.5, 10]),
            rng.choice(["yoga", "judo"]),
        )
        for _ in range(rng.choice([0, 1, 5, 20, 60]))
    }
    assert counts(list(clips)) == by_hand(list(clips))


def test_each_is_named_with_examples() -> None:
    found = find_clashes(
        ClipTable.of(
            [
                clip(IDS[0], Split.TRAIN, 0, 4),
                clip(IDS[0], Split.VAL, 0, 4),
                clip(IDS[1], Split.TEST, 7, 17.5),
                clip(IDS[1], Split.TRAIN, 12, 22),
                clip(IDS[2], Split.VAL, 0.2, 4.2),
                clip(IDS[2], Split.VAL, 0.7, 4.7),
                clip(IDS[3], Split.VAL, 3, 13, "judo"),
                clip(IDS[3], Split.VAL, 3, 13, "yoga"),
            ]
        ).spans()
    )
    assert dict(found.rows()) == {
        "clips in two splits": f"1 ({IDS[0]}_000000_000004)",
        "overlaps across splits": f"2 ({IDS[1]}: 7 to 17.5 s in test, 12 to 22 s in train; "
        f"{IDS[0]}: 0 to 4 s in train, 0 to 4 s in val)",
        "clip ids of two spans": f"1 ({IDS[2]}_000000_000004)",
        "clips with two labels": f"1 ({IDS[3]}_000003_000013)",
    }
    many = [clip(each, split, 0, 4) for each in IDS for split in (Split.TRAIN, Split.VAL)]
    text = dict(find_clashes(ClipTable.of(many).spans()).rows())["clips in two splits"]
    assert text.startswith("12 (") and text.count("_000004") == 3 and text.endswith("; ...)")


def test_what_only_touches_and_what_one_split_holds_is_no_clash() -> None:
    clips = [clip(IDS[0], Split.TRAIN, 0, 10), clip(IDS[0], Split.VAL, 10, 20), clip(IDS[0], Split.TRAIN, 5, 9)]
    found = find_clashes(ClipTable.of(clips).spans())
    assert found.rows() == [] and found.as_dict() == {**dict.fromkeys(by_hand([]), 0), "examples": {}}


def test_rows_without_a_value_or_a_time_are_left_out() -> None:
    columns = {
        "youtube_id": ["a\x1b[2J", "a\x1b[2J", None, "b", "b"],
        "split": ["train", "val", "val", "train", "val"],
        "start_seconds": [0.0, 1.0, 0.0, float("nan"), 0.0],
        "end_seconds": [9.0, 9.0, 9.0, 9.0, float("inf")],
    }
    assert find_clashes(pa.table(columns)).rows() == [
        ("overlaps across splits", "1 (a?[2J: 0 to 9 s in train, 1 to 9 s in val)")
    ]


@pytest.mark.realdata
def test_the_official_validation_list_has_none(real_data: Path) -> None:
    found = load_annotations([real_data / "kinetics/rocksyne/kinetics700/validate.csv"])
    assert find_clashes(found.clips.spans()).rows() == []


def test_all_clips_of_kinetics_take_a_moment() -> None:
    """The worst case: every video in two splits, four rows each."""
    number = 650_000
    ids = np.repeat(np.array([f"{index:011d}" for index in range(number // 4)]), 4)
    starts = np.arange(len(ids)) % 7 * 3.0
    columns = {
        "youtube_id": ids,
        "split": np.where(np.arange(len(ids)) % 2, "train", "val"),
        "start_seconds": starts,
        "end_seconds": starts + 10,
    }
    started = time.process_time()
    assert find_clashes(pa.table(columns)).overlaps_across_splits.count > number // 5
    assert time.process_time() - started < 10


def invoke(*arguments: object) -> int:
    return run_guarded(lambda: main._invoke([str(argument) for argument in arguments]), debug=False)


def test_annotations_validate_and_crawl_tell_and_refuse_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"figs,{IDS[0]},0,4,train", f"figs,{IDS[0]},0,4,val", f"figs,{IDS[1]},0,4,train", f"figs,{IDS[1]},3,7,test"]
    annotations = tmp_path / "all.csv"
    annotations.write_text("\n".join(["label,youtube_id,time_start,time_end,split", *rows]))
    (tmp_path / "dump.csv").write_text(f"id,title\n{IDS[0]},figs\n")
    out = tmp_path / "out"
    files = [out / f"{split}.parquet" for split in ("train", "val", "test")]
    commands: list[list[object]] = [
        ["annotations", annotations],
        ["crawl", "--annotations", annotations, "--out", out, "--sources", "dumps", "--dump", tmp_path / "dump.csv"],
        ["validate", *files],
    ]
    for arguments in commands:
        assert invoke(*arguments) == 0
        shown = capsys.readouterr().out
        assert "clips in two splits" in shown and "overlaps across splits" in shown and IDS[0] in shown
        assert invoke(*arguments, "--json") == 0
        told = json.loads(capsys.readouterr().out)["clashes"]
        assert (told["clips_in_two_splits"], told["overlaps_across_splits"], told["clip_ids_of_two_spans"]) == (1, 2, 0)
        assert told["examples"]["clips_in_two_splits"] == [f"{IDS[0]}_000000_000004"]
    assert invoke("validate", files[0]) == 0
    assert "splits" not in capsys.readouterr().out


def test_a_file_of_another_schema_does_not_hide_the_clashes_of_others(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    clips = ClipTable.of([clip(IDS[0], split, 0, 4) for split in (Split.TRAIN, Split.VAL)])
    annotations = tmp_path / "all.csv"
    lines = [f"{each.label},{each.youtube_id},0,4,{each.split}" for each in clips]
    annotations.write_text("\n".join(["label,youtube_id,time_start,time_end,split", *lines]))
    files = build_manifest(load_annotations([annotations]), None, None, tmp_path)
    pq.write_table(pa.table({"clip_id": ["x"]}), tmp_path / "other.parquet")
    assert manifest_clashes([tmp_path / "other.parquet", *files]).clips_in_two_splits.count == 1
    assert {problem.path for problem in validate_manifests([tmp_path / "other.parquet", *files])} == {
        str(tmp_path / "other.parquet")
    }
    assert manifest_clashes([]).rows() == []


@pytest.mark.parametrize("kind", [pa.null(), pa.string(), pa.float64()])
@pytest.mark.parametrize("num_rows", [0, 2])
def test_columns_without_values_clash_with_nothing(kind: pa.DataType, num_rows: int) -> None:
    names = ("youtube_id", "split", "start_seconds", "end_seconds")
    found = find_clashes(pa.table({name: pa.nulls(num_rows, kind) for name in names}))
    counts = found.as_dict()
    assert counts.pop("examples") == {} and set(counts.values()) == {0}
