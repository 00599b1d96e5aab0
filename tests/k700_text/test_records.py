from __future__ import annotations

from datetime import UTC, datetime

import pytest

from k700_text.records import (
    POSSIBLE_YOUTUBE_ID_PATTERN,
    Availability,
    Clip,
    OutcomeStatus,
    Split,
    TitleOutcome,
    parse_clip_id,
)


@pytest.mark.parametrize("youtube_id", ["---QUuC4vJs", "_a_000010_0", "abcdefghijk", "__000001_00"])
def test_clip_id_is_parsed_from_the_right(youtube_id: str) -> None:
    clip = Clip(youtube_id=youtube_id, split=Split.VAL, start_seconds=84, end_seconds=94.0)
    assert clip.clip_id == f"{youtube_id}_000084_000094"
    assert parse_clip_id(clip.clip_id) == (youtube_id, 84, 94)


@pytest.mark.parametrize(
    "text", ["", "abcdefghijk", "abcdefghijk_1_2", "abcdefghij_000001_000002", "abcdefghijk_000001_00000x"]
)
def test_what_is_not_a_clip_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a clip id"):
        parse_clip_id(text)


def test_split_spellings() -> None:
    assert {Split.parse(s) for s in ("validate", "val", "validation", " VAL ")} == {Split.VAL}
    assert {Split.parse(s) for s in ("test", "holdout_test", "testing")} == {Split.TEST}
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        Split.parse("dev")


def test_every_availability_is_alive_or_gone_or_unknown() -> None:
    for state in Availability:
        assert state.is_alive + state.is_gone == (state is not Availability.UNKNOWN)


def test_the_eleventh_character_carries_four_bits() -> None:
    # Observed (web-contracts section 0): these give 400 and 404.
    assert not POSSIBLE_YOUTUBE_ID_PATTERN.fullmatch("aaaaaaaaaaa")
    assert not POSSIBLE_YOUTUBE_ID_PATTERN.fullmatch("dQw4w9WgXc1")
    assert POSSIBLE_YOUTUBE_ID_PATTERN.fullmatch("00000000000")
    assert POSSIBLE_YOUTUBE_ID_PATTERN.fullmatch("abcdefghijk")


def test_a_title_goes_with_status_title_only() -> None:
    with pytest.raises(ValueError, match="a title goes with status"):
        TitleOutcome(youtube_id="x", source="oembed", status=OutcomeStatus.TITLE, fetched_at=datetime.now(UTC))
    with pytest.raises(ValueError, match="time zone"):
        TitleOutcome(
            youtube_id="x",
            source="oembed",
            status=OutcomeStatus.NO_TITLE,
            fetched_at=datetime.now(UTC).replace(tzinfo=None),
        )
