from __future__ import annotations

import errno
import gc
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from k700_text.errors import UsageError
from k700_text.files.stamps import folder_stamps
from k700_text.media.files import (
    LINKS_NOWHERE,
    LINKS_OUTSIDE,
    LINKS_TO_FOLDERS,
    NO_FILES,
    NO_TEXT,
    UNREADABLE,
    ClipIndex,
    FoundFiles,
    find_clip_files,
    index_clips,
    some_names,
    walk_clip_files,
)
from k700_text.media.names import is_half_download, without_copy_mark, youtube_id_of
from tests.k700_text.odd_files import make_all_that_is_odd

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


@pytest.mark.parametrize(
    "name",
    [
        "{id}_000010_000020.mp4",
        "train/{id}_000010_000020.mp4",
        "playing guitar (solo)/{id}_000010_000020.MP4",
        "val/label/{id}_10_20.webm",
        "{id}_0010_20.mkv",
        "{id}_000010_000020_raw.mp4",
        "{id}_000010_000020.f137.mp4",
        "{id}_10_20 (1).mp4",
        "{id}_000010_000020(1).mp4",
        "{id}_10_20[h264].mp4",
        "{id}_000010_000020-h264.avi",
        "{id}.mp4",
        "label.with.dots/{id}.MOV",
    ],
)
@pytest.mark.parametrize(
    "youtube_id", ["abcdefghijk", "-bcdefghij-", "_bcdefghij_", "a_000010_00", "12_34_56_78", "NULL_000001"]
)
def test_every_usual_layout_is_known(name: str, youtube_id: str) -> None:
    clip_id = f"{youtube_id}_000010_000020"
    file = name.format(id=youtube_id)
    assert ClipIndex("", [file, "other.mp4"]).find([clip_id]).to_pylist() == [file]
    names_one_video = file.endswith((f"{youtube_id}.mp4", f"{youtube_id}.MOV"))
    assert ClipIndex("", [file]).find([f"{youtube_id}_000010_000021"]).to_pylist() == [
        file if names_one_video else None
    ]


@pytest.mark.parametrize(
    "name",
    [
        "{id}x_000010_000020.mp4",
        "x{id}_000010_000020.mp4",
        "{id}_000010.mp4",
        "{id}_000010_000020x.mp4",
        "{id}_000010_0000200.mp4",
        "{id}_10.5_20.5.mp4",
        "{id}_000010_000020/clip.mp4",
        "{id} .mp4",
    ],
)
def test_names_that_mean_something_else_are_no_clips(name: str) -> None:
    assert ClipIndex("", [name.format(id="abcdefghijk")]).find(["abcdefghijk_000010_000020"]).to_pylist() == [None]


def test_times_of_more_than_six_digits_stay_whole() -> None:
    files = ["abcdefghijk_1000000_1000010.mp4", "abcdefghijk_0_10.mp4"]
    ids = ["abcdefghijk_1000000_1000010", "abcdefghijk_000000_000010", "abcdefghijk_000000_1000010"]
    assert ClipIndex("", files).find(ids).to_pylist() == [*files, None]


def test_the_plainest_name_wins(tmp_path: Path) -> None:
    names = [
        f"b/{FIRST}.mp4",
        f"c/{FIRST}.mp4",
        "a/-aBcDeFgHi0_10_20.mp4",
        f"a/{FIRST}_copy.mp4",
        "a/-aBcDeFgHi0_10_20_copy.mp4",
        "-aBcDeFgHi0.mp4",
    ]
    for best in range(len(names)):
        for order in (names[best:], names[: best - 1 : -1] if best else names[::-1]):
            assert ClipIndex(tmp_path, order).find([FIRST]).to_pylist() == [names[best]]


def test_a_file_without_a_suffix_is_no_clip(tmp_path: Path) -> None:
    touch(tmp_path, "mp4", "a.mp4 ", "b.", "c.mp4.part", "d.mp4")
    assert find_clip_files(tmp_path) == ["d.mp4"]


def test_links_out_of_the_folder_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "in/real.mp4", "out/far.mp4", "inner/near.mp4")
    (tmp_path / "in" / "far.mp4").symlink_to("../out/far.mp4")
    (tmp_path / "in" / "twin.mp4").symlink_to("../inner/near.mp4")
    assert walk_clip_files(tmp_path / "in") == FoundFiles(
        ["real.mp4"], left_out={LINKS_OUTSIDE: ["far.mp4", "twin.mp4"]}
    )


def test_many_files_need_no_python_object_each(tmp_path: Path) -> None:
    files = pa.array([f"label {n % 700}/{n:011d}_{n % 600:06d}_{n % 600 + 10:06d}.mp4" for n in range(200_000)])
    index = ClipIndex(tmp_path, files)
    ids = pa.array([file.rpartition("/")[2].removesuffix(".mp4") for file in reversed(files.to_pylist())])
    assert index.find(ids).equals(files.take(pa.array(range(199_999, -1, -1))).cast(pa.large_string()))
    gc.collect()
    before = len(gc.get_objects())
    kept = ClipIndex(tmp_path, files)
    assert len(gc.get_objects()) - before < 100 and len(kept) == 200_000


def test_a_video_name_counts_only_where_it_can_mean_one_clip(tmp_path: Path) -> None:
    index = ClipIndex(tmp_path, ["-aBcDeFgHi0.mp4", "NA_1234567A.webm"])
    assert index.find([FIRST, OTHER, FIRST]).to_pylist() == ["-aBcDeFgHi0.mp4", "NA_1234567A.webm", "-aBcDeFgHi0.mp4"]
    assert index.find([FIRST, SECOND, OTHER]).to_pylist() == [None, None, "NA_1234567A.webm"]


def test_nothing_finds_nothing(tmp_path: Path) -> None:
    assert index_clips(tmp_path).find([FIRST]).to_pylist() == [None]
    assert index_clips(tmp_path).find([]).to_pylist() == []


def test_a_clip_below_a_folder_whose_name_is_no_text_costs_itself(tmp_path: Path) -> None:
    touch(tmp_path, os.fsdecode(b"lat\xe9/notes_are_no_clips.mp4"))
    assert len(index_clips(tmp_path)) == 0
    touch(tmp_path, f"{os.fsdecode(b'lat' + bytes([0xE9]))}/{FIRST}.mp4", f"{OTHER}.mp4")
    assert index_clips(tmp_path).find([FIRST, OTHER]).to_pylist() == [None, f"{OTHER}.mp4"]


HALVES = [
    f"{FIRST}.f137.mp4",
    f"{FIRST}.f251.webm",
    f"{FIRST}.f140-drc.m4a",
    f"{FIRST}.fhls-1080.mp4",
    f"{FIRST}.fdash-video=4800.mp4",
    f"{FIRST}.fhttps-720p.MP4",
    f"{FIRST}.fsd.mp4",
    f"{FIRST}.f248+251.webm",
    f"{FIRST}.f720p.mp4",
    f"{FIRST}.f5.flv",
    f"{FIRST}.temp.mp4",
    f"{FIRST}.keyframes.temp.mkv",
    f"{FIRST}.part.mp4",
    f"{FIRST}.mp4.part",
    f"{FIRST}.mp4.ytdl",
    f"{FIRST}.mp4.f248.mkv",
    f"{FIRST}.mp4.part-Frag12",
    f"{FIRST}.f137.mp4.part-Frag12.part",
    f"{FIRST}.mp4-Frag3",
    f"{FIRST}.MP4.aria2",
    f"{FIRST}.mp4.crdownload",
    "Unconfirmed 123456.crdownload",
    f"{FIRST}.mp4.opdownload",
    f"{FIRST}.mp4.partial",
    f"{FIRST}.webm.filepart",
    f"{FIRST}.mp4.tmp",
    f"{FIRST}.mp4.!qB",
    "A title of words.f399.mp4",
]
WHOLE = [
    f"{FIRST}.mp4",
    f"{FIRST}_raw.mp4",
    f"{FIRST} (1).mp4",
    f"{FIRST}.h264.mp4",
    f"{FIRST}.1080p.mp4",
    "tour de france.fr.mp4",
    "cut.final.mp4",
    "race.f1.mp4",
    f"{FIRST}.final.mp4",
    f"{FIRST}.fixed.mp4",
    f"{FIRST}.flipped.mp4",
    f"{FIRST}.ffmpeg.mp4",
    f"{FIRST}.fallback-2.mp4",
    f"{FIRST}.f25fps.mp4",
    f"{FIRST}(1).mp4",
    "part.mp4",
    "temp.mp4",
    "f137.mp4",
    "v_ApplyEyeMakeup_g01_c01.avi",
    "notes.part",
    "a.tmp",
    "-Frag1.txt",
]


@pytest.mark.parametrize("name", HALVES)
def test_what_downloaders_leave_is_no_clip(name: str, tmp_path: Path) -> None:
    assert is_half_download(name)
    touch(tmp_path, f"label/{name}", f"{OTHER}.mp4")
    assert walk_clip_files(tmp_path) == FoundFiles([f"{OTHER}.mp4"], half_downloads=[f"label/{name}"])
    assert index_clips(tmp_path).find([FIRST, OTHER]).to_pylist() == [None, f"{OTHER}.mp4"]


@pytest.mark.parametrize("name", WHOLE)
def test_other_names_are_no_half_downloads(name: str, tmp_path: Path) -> None:
    assert not is_half_download(name)
    touch(tmp_path, name)
    found = walk_clip_files(tmp_path)
    is_video = name.endswith((".mp4", ".avi"))
    assert (found.clip_files, found.half_downloads) == ([name] if is_video else [], [])
    assert sum(found.other_suffixes.values()) == (0 if is_video else 1)


def test_a_file_beside_that_of_its_downloader_is_not_whole(tmp_path: Path) -> None:
    # aria2 makes room for the whole file at once; yt-dlp --no-part writes under the last name.
    touch(
        tmp_path, "a/x.mp4", "a/x.mp4.aria2", "b/x.mp4", "b/y.MP4", "b/y.MP4.ytdl", "z.mp4.download/z.mp4", "w.mp4.part"
    )
    touch(tmp_path, "w.mp4")  # Taken up again, with what was there before still whole.
    found = walk_clip_files(tmp_path)
    assert found.clip_files == ["b/x.mp4", "w.mp4"]
    assert found.half_downloads == [
        "a/x.mp4",
        "a/x.mp4.aria2",
        "b/y.MP4",
        "b/y.MP4.ytdl",
        "w.mp4.part",
        "z.mp4.download/z.mp4",
    ]


def test_links_may_be_taken_wherever_they_lead(tmp_path: Path) -> None:
    touch(tmp_path, "in/real.mp4", "out/far.mp4")
    (tmp_path / "in" / "far.mp4").symlink_to("../out/far.mp4")
    (tmp_path / "in" / "dead.mp4").symlink_to("../out/nowhere.mp4")
    (tmp_path / "in" / "dead.txt").symlink_to("../out/nowhere.txt")
    (tmp_path / "in" / "label").symlink_to("../out")
    assert walk_clip_files(tmp_path / "in", takes_links=True) == FoundFiles(
        ["far.mp4", "real.mp4"], left_out={LINKS_NOWHERE: ["dead.mp4"], LINKS_TO_FOLDERS: ["label"]}
    )
    assert walk_clip_files(tmp_path / "in").left_out == {
        LINKS_NOWHERE: ["dead.mp4"],
        LINKS_OUTSIDE: ["far.mp4"],
        LINKS_TO_FOLDERS: ["label"],
    }


ODD = {
    LINKS_NOWHERE: ["back.mp4", "circle.mp4", "dead.mp4", "there.mp4"],
    LINKS_OUTSIDE: ["host.mp4"],
    LINKS_TO_FOLDERS: ["up"],
    NO_FILES: ["null.mp4", "pipe.mp4", "s.mp4"],
}


def test_one_odd_thing_costs_itself(tmp_path: Path) -> None:
    make_all_that_is_odd(tmp_path)
    found = walk_clip_files(tmp_path)
    whole = ["a\n\x1b[31mred.mp4", "folder.mp4/inner.mp4", "good.mp4", "x" * 251 + ".mp4"]
    no_text = [os.fsdecode(b"caf\xe9.mp4"), os.fsdecode(b"\xff\xfe/low.mp4")]
    assert found.clip_files == sorted([*whole, *no_text]) and found.left_out == ODD
    assert found.as_texts().clip_files == whole and found.as_texts().left_out == {**ODD, NO_TEXT: no_text}
    assert some_names(sorted([*whole, *no_text])).isascii()
    assert folder_stamps(str(tmp_path)).keys() == {str(tmp_path / name) for name in ("", "folder.mp4", "\udcff\udcfe")}


def test_a_folder_that_cannot_be_read_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.mp4", "locked/b.mp4", "c/d.mp4")
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if str(path).rstrip("/").endswith("locked"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr("os.scandir", refusing)
    found = walk_clip_files(tmp_path)
    assert (found.clip_files, found.left_out) == (["a.mp4", "c/d.mp4"], {UNREADABLE: ["locked"]})
    assert folder_stamps(str(tmp_path)).keys() == {str(tmp_path / name) for name in ("", "c", "locked")}
    with pytest.raises(PermissionError):
        walk_clip_files(tmp_path / "locked")


@pytest.mark.parametrize(
    ("stem", "video"),
    [
        (FIRST, "-aBcDeFgHi0"),
        ("-aBcDeFgHi0_10_20", "-aBcDeFgHi0"),
        (f"{FIRST}_raw", "-aBcDeFgHi0"),
        (f"{FIRST} (1)", "-aBcDeFgHi0"),
        ("-aBcDeFgHi0", "-aBcDeFgHi0"),
        ("a_000010_00_000010_000020", "a_000010_00"),
        ("clip_000001", None),
        ("my_holidays", None),
        ("VIDEO_00001", None),
        ("Recording01", None),
        ("-aBcDeFgHi0_10", None),
        ("holiday", None),
        ("", None),
    ],
)
def test_the_video_of_a_single_name(stem: str, video: str | None) -> None:
    assert youtube_id_of(stem) == video


@pytest.mark.parametrize(
    ("stem", "original"),
    [
        ("x (1)", "x"),
        ("x(2)", "x"),
        ("x - Copy", "x"),
        ("x - Copy (3)", "x"),
        ("x copy", "x"),
        ("x copy 2", "x"),
        ("run (2019)", "run (2019)"),
        ("photocopy", "photocopy"),
        ("(1)", "(1)"),
        ("x", "x"),
    ],
)
def test_marks_of_copies(stem: str, original: str) -> None:
    assert without_copy_mark(stem) == original
