from __future__ import annotations

import random
from typing import Any

import pytest

from k700_text.clip_table import ClipTable, ClipTableBuilder
from k700_text.records import Clip, Split, parse_clip_id
from tests.k700_text.crawling import make_ids


def clip(youtube_id: str = "dQw4w9WgXcQ", start: float = 1.0, **values: Any) -> Clip:
    values = {"split": Split.VAL, "label": "yoga", "end_seconds": start + 10, **values}
    return Clip(youtube_id=youtube_id, start_seconds=start, **values)


def in_order(clips: set[Clip]) -> list[Clip]:
    """The order of the manifest, clip by clip."""
    return sorted(clips, key=lambda c: (c.split.value, c.clip_id, c.label or "", c.start_seconds, c.end_seconds))


def random_clips(number: int, seed: int = 0) -> list[Clip]:
    rng = random.Random(seed)
    ids = [*make_ids(20), "-----------", "_NA_NA_NA_A", "00000000000", "zzzzzzzzzzz"]
    times = [0.0, -0.0, 0.25, 5, 5.5, 99_999, 999_999, 1_000_000, 1_000_000.5, 99_999_999, 123_456_789_012, 1e300]
    labels = [None, "a", "b", "yoga", "étude", "\U0001f600", "Z"]
    return [
        clip(
            rng.choice(ids),
            start := rng.choice(times),
            end_seconds=rng.choice([start + 1, start * 2 + 10]),
            split=rng.choice(list(Split)),
            label=rng.choice(labels),
        )
        for _ in range(number)
    ]


@pytest.mark.parametrize("number", [0, 1, 2, 3000])
def test_clips_come_out_distinct_and_in_order(number: int) -> None:
    clips = random_clips(number)
    expected = in_order(set(clips))
    table = ClipTable.of(clips)
    assert list(table) == expected and table == expected and len(table) == len(expected)
    assert table == ClipTable.of(reversed(clips)) and (number < 3 or len(expected) < number)
    columns = {name: column.to_pylist() for name, column in table.columns().items()}
    assert columns == {
        "clip_id": [each.clip_id for each in expected],
        "youtube_id": [each.youtube_id for each in expected],
        "split": [each.split.value for each in expected],
        "label": [each.label for each in expected],
        "start_seconds": [each.start_seconds for each in expected],
        "end_seconds": [each.end_seconds for each in expected],
    }
    assert all(
        parse_clip_id(each)[0] == youtube_id
        for each, youtube_id in zip(columns["clip_id"], columns["youtube_id"], strict=True)
    )


def test_repetitions_are_counted_in_all_splits_and_the_builder_is_empty_after() -> None:
    builder = ClipTableBuilder()
    for each in [clip(), clip(split=Split.TRAIN), clip(), clip(split=Split.TRAIN), clip(split=Split.TRAIN)]:
        builder.add(each)
    assert len(builder) == 5
    table, num_repeated = builder.finish(Split.VAL)
    assert (list(table), num_repeated, len(builder)) == ([clip()], 3, 0)
    builder.add(clip(label="judo"))
    assert list(builder.finish()[0]) == [clip(label="judo")]


def test_it_is_a_sequence() -> None:
    expected = in_order(set(random_clips(50)))
    table = ClipTable.of(expected)
    assert table[0] == expected[0] and table[-1] == expected[-1] and table[7] == expected[7]
    assert (
        table[3:9] == expected[3:9]
        and table[9:3] == []
        and table[::-2] == expected[::-2]
        and table[-4:] == expected[-4:]
    )
    assert expected[5] in table and clip("AAAAAAAAAAA", 77) not in table and table.index(expected[5]) == 5
    assert table[2:][1:][0] == expected[3]
    with pytest.raises(IndexError):
        table[len(expected)]
    assert table != expected[:-1] and table != [*expected[:-1], clip("AAAAAAAAAAA")] and table != "clips"
    assert repr(table) == f"ClipTable({len(expected)} clips)"


def test_splits_and_parts_share_the_columns() -> None:
    expected = in_order(set(random_clips(400)))
    parts = dict(ClipTable.of(expected).by_split())
    assert list(parts) == [Split.TEST, Split.TRAIN, Split.VAL]
    for split, part in parts.items():
        own = [each for each in expected if each.split is split]
        assert list(part) == own
        rest = part.part(3, len(part))
        assert rest.columns()["clip_id"].to_pylist() == [each.clip_id for each in own[3:]]
        for youtube_id in {each.youtube_id for each in own} | {"", "A", "zzzzzzzzzzzz"}:
            assert part.position_after(youtube_id) == sum(each.youtube_id <= youtube_id for each in own)
    assert [split for split, _ in ClipTable.of([clip()]).by_split()] == [Split.VAL]
    assert ClipTable.of([]).by_split() == []


@pytest.mark.parametrize("batch", [1, 3, 8192])
def test_ids_come_once_each_in_order_of_first_occurrence(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k700_text.clip_table._BATCH_CLIPS", batch)
    expected = in_order(set(random_clips(300)))
    assert list(ClipTable.of(expected).youtube_ids()) == list(dict.fromkeys(each.youtube_id for each in expected))
    assert list(ClipTable.of([]).youtube_ids()) == []
    assert list(ClipTable.of(expected)) == expected


def test_labels() -> None:
    table = ClipTable.of(random_clips(100))
    assert table.labels() == ["Z", "a", "b", "yoga", "étude", "\U0001f600"]
    assert ClipTable.of([clip(label=None)]).labels() == []


def test_more_labels_than_two_bytes_can_count() -> None:
    clips = [clip(label=f"label {number:05d}") for number in range(2**15 + 2)]
    table = ClipTable.of(reversed(clips))
    assert table[-1].label == clips[-1].label and len(table.labels()) == len(clips)
