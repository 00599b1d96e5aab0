from __future__ import annotations

import os
from pathlib import Path

import pytest

from k700_text.errors import UsageError
from k700_text.media.files import ClipIndex, find_clip_files, index_clips

FIRST = "-aBcDeFgHi0_000010_000020"
SECOND = "-aBcDeFgHi0_000030_000040"
OTHER = "NA_1234567A_000000_000010"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_files_are_found_at_any_depth_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b.MP4", "a/z.webm", "a/b/c.avi", "notes.txt", ".hidden.mp4", ".git/x.mp4", "no_suffix")
    assert find_clip_files(tmp_path) == ["a/b/c.avi", "a/z.webm", "b.MP4"]


def test_no_link_leads_out_of_the_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    touch(tmp_path, "in/real.mp4", "out/far.mp4")
    (inside / "near.mp4").symlink_to(inside / "real.mp4")
    (inside / "far.mp4").symlink_to(outside / "far.mp4")
    (inside / "dead.mp4").symlink_to(inside / "nowhere.mp4")
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    assert find_clip_files(inside) == ["near.mp4", "real.mp4"]
    assert find_clip_files(inside / "loop") == ["near.mp4", "real.mp4"]


@pytest.mark.parametrize("name", ["absent", "file.mp4"])
def test_what_is_no_folder_is_named(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "file.mp4")
    with pytest.raises(UsageError, match=name):
        find_clip_files(tmp_path / name)


def test_clips_are_matched_by_name(tmp_path: Path) -> None:
    touch(tmp_path, f"{FIRST}.mp4", f"playing guitar (solo)/{SECOND}_raw.mkv", f"{OTHER}x.mp4", "short.mp4")
    found = index_clips(tmp_path).find([SECOND, FIRST, OTHER, "unknown"])
    assert found.to_pylist() == [f"playing guitar (solo)/{SECOND}_raw.mkv", f"{FIRST}.mp4", None, None]


def test_the_plainest_name_wins(tmp_path: Path) -> None:
    names = [f"a/{FIRST}_copy.mp4", f"b/{FIRST}.mp4", f"c/{FIRST}.mp4", "-aBcDeFgHi0.mp4"]
    assert ClipIndex(tmp_path, names).find([FIRST]).to_pylist() == [f"b/{FIRST}.mp4"]


def test_a_video_name_counts_only_where_it_can_mean_one_clip(tmp_path: Path) -> None:
    index = ClipIndex(tmp_path, ["-aBcDeFgHi0.mp4", "NA_1234567A.webm"])
    assert index.find([FIRST, OTHER, FIRST]).to_pylist() == ["-aBcDeFgHi0.mp4", "NA_1234567A.webm", "-aBcDeFgHi0.mp4"]
    assert index.find([FIRST, SECOND, OTHER]).to_pylist() == [None, None, "NA_1234567A.webm"]


def test_nothing_finds_nothing(tmp_path: Path) -> None:
    assert index_clips(tmp_path).find([FIRST]).to_pylist() == [None]
    assert index_clips(tmp_path).find([]).to_pylist() == []


def test_a_clip_below_a_folder_whose_name_is_no_text_is_named(tmp_path: Path) -> None:
    touch(tmp_path, os.fsdecode(b"lat\xe9/notes_are_no_clips.mp4"))
    assert len(index_clips(tmp_path)) == 0
    touch(tmp_path, f"{os.fsdecode(b'lat' + bytes([0xE9]))}/{FIRST}.mp4")
    with pytest.raises(UsageError, match=f"{FIRST}.*rename"):
        index_clips(tmp_path)
