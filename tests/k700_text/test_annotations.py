from __future__ import annotations

import gzip
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import threading
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from k700_text.annotations import load_annotations
from k700_text.errors import AnnotationError
from k700_text.records import Clip, Split

HEADER = "label,youtube_id,time_start,time_end,split"


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def clip(youtube_id: str, label: str | None, start: float, end: float, split: Split = Split.VAL) -> Clip:
    return Clip(youtube_id=youtube_id, label=label, start_seconds=start, end_seconds=end, split=split)


def test_deepmind_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "validate.csv", f"{HEADER}\ntestifying,---QUuC4vJs,84,94,validate\n")
    assert load_annotations([path]).clips == (clip("---QUuC4vJs", "testifying", 84, 94),)


def test_activitynet_csv_with_bom_crlf_quotes_extra_columns_and_float_times(tmp_path: Path) -> None:
    text = (
        "\ufefflabel,youtube_id,time_start,time_end,split,is_cc\r\n"
        '"tying knot (not on a tie)",-1234567890,7.0,17.000000,val,0\r\n'
        '"playing ""bean bag"" toss, indoors",NaN00000000,0,10,val,1\r\n'
    )
    clips = load_annotations([write(tmp_path / "a.csv", text)]).clips
    assert clips == (
        clip("-1234567890", "tying knot (not on a tie)", 7, 17),
        clip("NaN00000000", 'playing "bean bag" toss, indoors', 0, 10),
    )


def test_ids_that_look_like_numbers_or_missing_values_stay_text(tmp_path: Path) -> None:
    ids = ["00000000012", "1e000000000", "-0000000000", "_NA_NA_NA_A", "TRUE_______"]
    rows = "".join(f"x,{youtube_id},0,10,train\n" for youtube_id in ids)
    clips = load_annotations([write(tmp_path / "train.csv", f"{HEADER}\n{rows}")]).clips
    assert {c.youtube_id for c in clips} == set(ids)


def test_unlabelled_test_file(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "youtube_id,time_start,time_end,split\nabcdefghijk,1,11,holdout_test\n")
    assert load_annotations([path]).clips == (clip("abcdefghijk", None, 1, 11, Split.TEST),)


def test_split_comes_from_the_file_name_when_there_is_no_column(tmp_path: Path) -> None:
    path = write(tmp_path / "k700_val.csv", "label,youtube_id,time_start,time_end\nyoga,abcdefghijk,1,11\n")
    assert load_annotations([path]).clips[0].split is Split.VAL
    other = write(tmp_path / "list.csv", "label,youtube_id,time_start,time_end\nyoga,abcdefghijk,1,11\n")
    with pytest.raises(AnnotationError, match="no split column"):
        load_annotations([other])


def test_official_json_keeps_a_video_with_two_labels(tmp_path: Path) -> None:
    entry = '{"annotations": {"label": "%s", "segment": [5.0, 15.0]}, "duration": 10.0, "subset": "train", "url": "u"}'
    text = '{"abcdefghijk": ' + entry % "yoga" + ', "abcdefghijk": ' + entry % "zumba" + "}"
    clips = load_annotations([write(tmp_path / "train.json", text)]).clips
    assert [c.label for c in clips] == ["yoga", "zumba"]
    assert {c.clip_id for c in clips} == {"abcdefghijk_000005_000015"}


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    # Without the time of day: names of tests are made of these bytes, the same in every process.
    return gzip.compress(buffer.getvalue(), mtime=0)


def test_archives_prefer_csv_over_json_and_skip_mac_leftovers(tmp_path: Path) -> None:
    files = {
        "kinetics700/train.csv": f"{HEADER}\nyoga,abcdefghijk,1,11,train\n".encode(),
        "kinetics700/train.json": b"{}",
        "kinetics700/._train.csv": b"\x00\x05\x16\x07",
        "kinetics700/test.csv": b"youtube_id,time_start,time_end,split\nabcdefghijA,1,11,test\n",
        "kinetics700/readme.txt": b"hello",
    }
    (tmp_path / "k.tar.gz").write_bytes(tar_gz(files))
    with zipfile.ZipFile(tmp_path / "k.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    (tmp_path / "k.csv.gz").write_bytes(gzip.compress(files["kinetics700/train.csv"]))
    expected = (clip("abcdefghijA", None, 1, 11, Split.TEST), clip("abcdefghijk", "yoga", 1, 11, Split.TRAIN))
    assert load_annotations([tmp_path / "k.tar.gz"]).clips == expected
    assert load_annotations([tmp_path / "k.zip"]).clips == expected
    assert load_annotations([tmp_path / "k.csv.gz"]).clips == expected[1:]
    assert load_annotations([tmp_path / "k.tar.gz"], split=Split.TRAIN).clips == expected[1:]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("yoga,short,1,11,val", "youtube id 'short' is not 11 characters"),
        ("yoga,abcdefghij!,1,11,val", "is not 11 characters of"),
        ("yoga,abcdefghijk,one,11,val", "start 'one' is not a number"),
        ("yoga,abcdefghijk,nan,11,val", "start 'nan' is not a time"),
        ("yoga,abcdefghijk,-1,11,val", "start '-1' is not a time"),
        ("yoga,abcdefghijk,11,11,val", "end 11 is not after start 11"),
        ("yoga,abcdefghijk,1,11,sometimes", "unknown split 'sometimes'"),
        ("yoga,abcdefghijk,1,11", "4 fields, expected 5"),
        (",abcdefghijk,1,11,val", "empty label"),
    ],
)
def test_a_malformed_row_is_named_with_file_line_and_reason(tmp_path: Path, row: str, reason: str) -> None:
    path = write(tmp_path / "bad.csv", f"{HEADER}\nyoga,abcdefghijA,1,11,val\n{row}\n")
    with pytest.raises(AnnotationError) as caught:
        load_annotations([path])
    assert len(caught.value.problems) == 1
    assert "bad.csv line 3: " in caught.value.problems[0] and reason in caught.value.problems[0]
    kept = load_annotations([path], skip_invalid=True)
    assert [c.youtube_id for c in kept.clips] == ["abcdefghijA"]
    assert kept.skipped == caught.value.problems


def test_all_problems_of_all_files_are_reported_together(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", f"{HEADER}\nyoga,short,1,11,val\nyoga,abcdefghijk,5,1,val\n")
    two = write(tmp_path / "two.json", json.dumps({"abcdefghijk": {"annotations": {"label": "x"}, "subset": "train"}}))
    with pytest.raises(AnnotationError, match="3 malformed annotation rows") as caught:
        load_annotations([one, two])
    assert [problem.split()[0] for problem in caught.value.problems] == ["one.csv", "one.csv", "two.json:"]


def test_exact_duplicates_are_kept_once_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"{HEADER}\n" + "yoga,abcdefghijk,1,11,val\n" * 3)
    found = load_annotations([path, path])
    assert len(found.clips) == 1 and found.num_duplicates == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no annotation rows"),
        (HEADER.encode() + b"\n", "holds no annotation rows"),
        (b"a,b,c\n1,2,3\n", "no column youtube_id, time_start, time_end"),
        (b"\xff\xfe\x00binary", "not UTF-8"),
        (b"{not json", "not valid JSON"),
        (b"\x1f\x8bbroken", "damaged archive"),
        (b"PK\x03\x04broken", "damaged archive"),
        (tar_gz({"readme.txt": b"x"}), "holds no .csv or .json"),
        (tar_gz({"train.csv": b"x" * 5000})[:60], "damaged archive"),
    ],
)
def test_an_unusable_file_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=message) as caught:
        load_annotations([path])
    assert "train.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file_and_missing_split(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"no such annotation file: .*nowhere\.csv"):
        load_annotations([tmp_path / "nowhere.csv"])
    with pytest.raises(AnnotationError, match="cannot read annotation file"):
        load_annotations([tmp_path])
    path = write(tmp_path / "train.csv", f"{HEADER}\nyoga,abcdefghijk,1,11,train\n")
    with pytest.raises(AnnotationError, match="no valid clips of split val"):
        load_annotations([path], split=Split.VAL)


def test_sha256_of_one_file_is_the_files_own(tmp_path: Path) -> None:
    import hashlib

    path = write(tmp_path / "train.csv", f"{HEADER}\nyoga,abcdefghijk,1,11,train\n")
    other = write(tmp_path / "val.csv", f"{HEADER}\nyoga,abcdefghijA,1,11,val\n")
    assert load_annotations([path]).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_annotations([path, other]).sha256 == load_annotations([other, path]).sha256


@pytest.mark.realdata
def test_the_official_validation_list(real_data: Path) -> None:
    found = load_annotations([real_data / "kinetics/rocksyne/kinetics700/validate.csv"])
    ids = [c.youtube_id for c in found.clips]
    assert len(found.clips) == 33_909 and len(set(ids)) == 33_856
    assert len({c.label for c in found.clips}) == 700 and found.num_duplicates == 0
    assert sum(i.startswith("-") for i in set(ids)) == 316 and sum(i.startswith("_") for i in set(ids)) == 263


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("val.json", '{"abcdefghijk": [1, 2]}', "segment is not"),
        ("val.json", '{"abcdefghijk": {"annotations": [1]}}', "segment is not"),
        ("val.json", '{"abcdefghijk": ' + "1" * 5000 + "}", "not valid JSON"),
        (
            "val.json",
            '{"abcdefghijk": {"annotations": {"segment": [0, 10], "label": "\\ud800"}}}',
            "is not Unicode text",
        ),
        ("val.csv", "x" * 200_000 + ",youtube_id\n", "line 1: not CSV"),
    ],
    ids=["list", "list inside", "huge number", "half a character", "huge header"],
)
def test_hostile_files_are_annotation_errors(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        load_annotations([write(tmp_path / name, text)])
    assert message in "\n".join([str(caught.value), *caught.value.problems])


def test_a_large_file_gives_what_its_rows_give_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    cells = {
        "id": ["abcdefghijk", " abcdefghijA ", "-bcdefghij0", "short", "abcdefghij!", ""],
        "start": ["0", "1", " 2.5 ", "1e2", "-0", "-1", "nan", "inf", "one", "1_0", ""],
        "end": ["11", "12.0", "200", "1e400", "0"],
        "label": ["yoga", " judo ", '"tai, chi"', "", "étude"],
        "split": ["val", "TRAIN", " test ", "holdout_test", "validate", "", "dev"],
    }
    plain = {name: values[:2] for name, values in cells.items()}
    lines = ["label,youtube_id,time_start,time_end,split"]
    for number in range(3000):
        # Stretches without a fault are read by the fast way, others by the careful one.
        choice = cells if number // 100 % 3 else plain
        picked = {name: rng.choice(values) for name, values in choice.items()}
        lines.append(",".join(picked[name] for name in ("label", "id", "start", "end", "split")))
        lines.extend(rng.choice([[], [], [], [""], [" , , , , "], ["a,b"]]) if choice is cells else [])
    path = write(tmp_path / "train.csv", "\n".join(lines))
    results = []
    for rows_at_once in (1, 7, 64, 100_000):
        monkeypatch.setattr("k700_text.annotations._CHUNK_ROWS", rows_at_once)
        results.append(load_annotations([path], skip_invalid=True))
    monkeypatch.setattr("k700_text.annotations._plain_columns", lambda rows, layout: None)
    careful = load_annotations([path], skip_invalid=True)
    assert len(careful.skipped) > 500 and len(careful.clips) > 50 and careful.num_duplicates > 500
    assert all(each == careful for each in results)


def test_a_row_that_is_no_csv_costs_only_itself(tmp_path: Path) -> None:
    huge = "x" * 200_000
    text = f"{HEADER}\nyoga,abcdefghijA,1,11,val\n{huge},abcdefghijE,1,11,val\nyoga,abcdefghijI,1,11,val\n"
    found = load_annotations([write(tmp_path / "a.csv", text)], skip_invalid=True)
    assert [each.youtube_id for each in found.clips] == ["abcdefghijA", "abcdefghijI"]
    (problem,) = found.skipped
    assert problem.startswith("a.csv line 3: not CSV (field larger")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "stray",
    [
        '"yoga,{},1,11,val',
        '"yoga" x,{},1,11,val',
        'yoga,{},1,11,"val',
        '"yoga,{}",1,11,val',
        '"two\nlines",{},1,11,val',
    ],
)
def test_a_stray_quote_costs_its_own_line(tmp_path: Path, stray: str, end: str) -> None:
    good = [f"judo,{number:010d}A,1,11,val" for number in range(4)]
    num_lines = stray.count("\n") + 1
    for place in range(5):
        lines = [*good[:place], *stray.format("abcdefghijk").split("\n"), *good[place:], good[0]]
        path = tmp_path / "a.csv"
        path.write_bytes(end.join([HEADER, *lines]).encode())
        found = load_annotations([path], skip_invalid=True)
        assert [each.youtube_id for each in found.clips] == [f"{number:010d}A" for number in range(4)]
        named = [problem.partition(":")[0] for problem in found.skipped]
        assert named == [f"a.csv line {place + 2 + number}" for number in range(num_lines)]
        with pytest.raises(AnnotationError, match=f"{num_lines} malformed annotation row"):
            load_annotations([path])


def test_two_stray_quotes_do_not_hide_the_rows_between(tmp_path: Path) -> None:
    ids = [f"{number:010d}A" for number in range(4)]
    lines = [f"{quote}yoga,{each},1,11,val" for quote, each in zip(['"', "", '"', ""], ids, strict=True)]
    found = load_annotations([write(tmp_path / "a.csv", "\n".join([HEADER, *lines]))], skip_invalid=True)
    assert [each.youtube_id for each in found.clips] == [ids[1], ids[3]] and len(found.skipped) == 2


@pytest.mark.parametrize("mark", [";", "\t"])
def test_tables_of_spreadsheets_with_other_delimiters(tmp_path: Path, mark: str) -> None:
    lines = [HEADER.replace(",", mark), mark.join(['"tai, ""chi"""', "abcdefghijk", "1", "11", "val"])]
    assert load_annotations([write(tmp_path / "a.csv", "\r\n".join(lines))]).clips == [
        clip("abcdefghijk", 'tai, "chi"', 1, 11)
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("yoga,abcdefghijk,0,1e300,val", "longest video"),
        ("yoga,abcdefghijk,3000000,3000010,val", "longest video"),
        ("yoga,abcdefghijk,0,43201,val", "is no clip"),
        ("yoga,abcdefghijk,1,inf,val", "is not a time"),
        ("yoga,abcdefghijk,1_0,20,val", "is not a number"),
        ("yoga,abcdefghijk,1,2_0,val", "is not a number"),
        ("yoga,abcdefghijk,\u0661,20,val", "is not a number"),
        ("yoga,abcdefghijk,1,\uff12\uff10,val", "is not a number"),
        ("yoga,abcdefghijk,\xa01,20,val", "is not a number"),
        ("yo\0ga,abcdefghijk,1,11,val", "control characters"),
        ("yo\x1b[31mga,abcdefghijk,1,11,val", "control characters"),
        ("yo\x9bga,abcdefghijk,1,11,val", "control characters"),
        ("yo\u2028ga,abcdefghijk,1,11,val", "control characters"),
    ],
)
def test_what_is_no_time_and_no_label_is_named_in_csv_and_json(tmp_path: Path, row: str, reason: str) -> None:
    """By the fast way and by the careful one: a fault beside it sends all rows the careful way."""
    label, youtube_id, start, end, split = row.split(",")
    for others in ("", "yoga,short,1,11,val\n"):
        path = write(tmp_path / "a.csv", f"{HEADER}\n{others}judo,abcdefghijA,1,11,val\n{row}\n")
        found = load_annotations([path], skip_invalid=True)
        assert [each.youtube_id for each in found.clips] == ["abcdefghijA"]
        assert reason in found.skipped[-1] and found.skipped[-1].isprintable()
    entry = {"annotations": {"label": label, "segment": [start, end]}, "subset": split}
    with pytest.raises(AnnotationError) as caught:
        load_annotations([write(tmp_path / "val.json", json.dumps({youtube_id: entry}))])
    assert reason in caught.value.problems[0]


def test_the_longest_clips_are_read(tmp_path: Path) -> None:
    rows = [f"yoga,abcdefghijk,{start},{start + 43_200},val" for start in (0, 2_147_484 - 43_200)]
    assert len(load_annotations([write(tmp_path / "a.csv", "\n".join([HEADER, *rows]))]).clips) == 2


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    for header in (f"label,{HEADER}", f"{HEADER},Label", f"{HEADER},time-start"):
        num_more = header.count(",") - HEADER.count(",")
        path = write(tmp_path / "a.csv", f"{header}\n{'judo,' * num_more}yoga,abcdefghijk,1,11,val\n")
        with pytest.raises(AnnotationError, match=r"a\.csv line 1: column (label|time_start) is there twice"):
            load_annotations([path])


@pytest.mark.parametrize(
    ("known", "more"),
    [("youtube_id", "video_id"), ("time_start", "start_time"), ("time_end", "End"), ("split", "subset")],
)
def test_two_columns_that_mean_the_same_are_refused(tmp_path: Path, known: str, more: str) -> None:
    for header in (f"{HEADER},{more}", f"{more},{HEADER}"):
        cells = dict(zip(HEADER.split(","), ["yoga", "abcdefghijk", "1", "11", "val"], strict=True))
        row = ",".join(cells.get(name, "7") for name in header.split(","))
        path = write(tmp_path / "a.csv", f"{header}\n{row}\n")
        with pytest.raises(AnnotationError, match=r"a\.csv line 1: columns \w+ and \w+ mean the same") as caught:
            load_annotations([path])
        assert known in str(caught.value) and more.lower() in str(caught.value)


@pytest.mark.parametrize("mark", ["\ufeff\ufeff", "\ufeff\u200b", "\u200b", "\u2060", "\u00ad"])
@pytest.mark.parametrize("header", [HEADER, ",".join(f'"{name}"' for name in HEADER.split(","))])
def test_marks_that_nobody_sees_cost_no_labels(tmp_path: Path, mark: str, header: str) -> None:
    rows = 'yoga,abcdefghijk,1,11,val\n"tai ""chi""",abcdefghijA,1,11,val\n'
    for text in (f"{mark}{header}\n{rows}", f"{HEADER.replace(',', mark + ',')}{mark}\n{rows}"):
        found = load_annotations([write(tmp_path / "a.csv", text)])
        assert sorted(each.label or "" for each in found.clips) == ['tai "chi"', "yoga"]


@pytest.mark.parametrize("label", ["", " ", "\u200b", "\u3164", "\ufeff", "\u2800", "\u200d\u0301"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_label_in_which_nothing_is_seen_is_refused_in_csv_and_json(tmp_path: Path, label: str, split: str) -> None:
    for others in ("", "yoga,short,1,11,val\n"):
        path = write(
            tmp_path / "a.csv", f"{HEADER}\n{others}judo,abcdefghijA,1,11,val\n{label},abcdefghijk,1,11,{split}\n"
        )
        found = load_annotations([path], skip_invalid=True)
        assert [each.label for each in found.clips] == ["judo"]
        assert "label" in found.skipped[-1] and found.skipped[-1].isprintable()
    entry = {"annotations": {"label": label, "segment": [1, 11]}, "subset": split}
    with pytest.raises(AnnotationError, match="malformed"):
        load_annotations([write(tmp_path / "a.json", json.dumps({"abcdefghijk": entry}))])


def test_json_without_labels_is_a_test_list_or_malformed(tmp_path: Path) -> None:
    for annotation in ({"segment": [1, 11]}, {"segment": [1, 11], "label": None}, {"segment": [1, 11], "label": ""}):
        for subset in ("train", "validate", "test"):
            path = write(
                tmp_path / "a.json", json.dumps({"abcdefghijk": {"annotations": annotation, "subset": subset}})
            )
            if subset == "test":
                assert load_annotations([path]).clips == (clip("abcdefghijk", None, 1, 11, Split.TEST),)
                continue
            with pytest.raises(AnnotationError) as caught:
                load_annotations([path])
            assert "empty label" in caught.value.problems[0]


def test_a_zero_with_a_sign_is_zero_and_a_row_of_commas_is_counted(tmp_path: Path) -> None:
    for others in ("", "yoga,short,1,11,val\n"):
        text = f"{HEADER}\n{others}yoga,abcdefghijk,-0.0,11,val\n"
        found = load_annotations([write(tmp_path / "a.csv", text)], skip_invalid=True)
        assert [str(each.start_seconds) for each in found.clips] == ["0.0"]
    text = f"{HEADER}\n,,,,\n\n  \nyoga,abcdefghijk,0,11,val\n"
    found = load_annotations([write(tmp_path / "a.csv", text)], skip_invalid=True)
    assert len(found.clips) == 1 and len(found.skipped) == 1 and "a.csv line 2" in found.skipped[0]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ('{"annotations": {"label": "a", "label": "b", "segment": [0, 9]}}', "'label' is there twice"),
        ('{"annotations": {"label": "a", "segment": [0, 9], "segment": [5, 9]}}', "'segment' is there twice"),
        ('{"subset": "val", "annotations": {"segment": [0, 9]}, "subset": "train"}', "'subset' is there twice"),
        ('{"annotations": {"label": ["a"], "segment": [0, 9]}}', "label is not text"),
        ('{"annotations": {"label": {"a": 1}, "segment": [0, 9]}}', "label is not text"),
        ('{"annotations": {"label": "a", "segment": [false, true]}}', "is not a number"),
        ('{"annotations": {"label": "a", "segment": [0, 1e400]}}', "is not a time"),
    ],
)
def test_an_entry_of_json_that_says_two_things_is_malformed(tmp_path: Path, entry: str, reason: str) -> None:
    good = '{"annotations": {"label": "a", "segment": [0, 9]}}'
    text = f'{{"abcdefghijk": {entry}, "abcdefghijA": {good}}}'
    found = load_annotations([write(tmp_path / "val.json", text)], skip_invalid=True)
    assert [each.youtube_id for each in found.clips] == ["abcdefghijA"]
    assert len(found.skipped) == 1 and "abcdefghijk" in found.skipped[0] and reason in found.skipped[0]


def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    pipe = tmp_path / "train.csv"
    os.mkfifo(pipe)
    content = gzip.compress(f"{HEADER}\nyoga,abcdefghijk,1,11,train\n".encode())
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    found = load_annotations([pipe])
    writer.join()
    assert found.clips == (clip("abcdefghijk", "yoga", 1, 11, Split.TRAIN),)


def test_bytes_that_are_no_text_are_found_in_their_line(tmp_path: Path) -> None:
    lines = [HEADER, *(f"yoga,abcdefghijk,{number},{number + 10},val" for number in range(30_000))]
    content = "\n".join(lines).encode() + b"\nyog\xe9,abcdefghijk,1,11,val\n"
    for name, data in (("a.csv", content), ("a.csv.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(AnnotationError, match=r"a\.csv line 30002: not UTF-8"):
            load_annotations([tmp_path / name])


def test_an_archive_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k700_text.annotation_files.MAX_FILE_BYTES", 100_000)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(bytes(2_000_000)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.csv", bytes(2_000_000))
    for name in ("a.csv.gz", "a.zip"):
        with pytest.raises(AnnotationError, match="unpacks to more than 100000 bytes"):
            load_annotations([tmp_path / name])


def test_a_locked_archive_is_one_clear_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("train.csv", f"{HEADER}\n")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1  # the mark of encryption
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(AnnotationError, match=r"a\.zip is a damaged archive \(.*encrypted"):
        load_annotations([tmp_path / "a.zip"])


@pytest.mark.parametrize("chunk", [1, 5, 1 << 16])
def test_json_may_be_cut_anywhere(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k700_text.files.json_stream.CHUNK_CHARACTERS", chunk)
    entries = {
        each: {
            "annotations": {"label": "caf\u00e9 \U0001f600", "segment": [5.0, 15]},
            "subset": "train",
            "x": [None, {}],
        }
        for each in ("abcdefghijk", "abcdefghijA")
    }
    path = write(tmp_path / "train.json", json.dumps(entries, indent=1))
    assert load_annotations([path]).clips == [
        clip(each, "caf\u00e9 \U0001f600", 5, 15, Split.TRAIN) for each in sorted(entries)
    ]
    for broken in (
        json.dumps(entries)[:-20],
        json.dumps(entries) + "x",
        "{" + json.dumps(entries),
        '{"a": tru}',
        "[1 2]",
    ):
        with pytest.raises(AnnotationError, match="not valid JSON"):
            load_annotations([write(path, broken)])


def test_ids_are_offered_once_each(tmp_path: Path) -> None:
    rows = [("abcdefghijk", "val"), ("abcdefghijA", "train"), ("abcdefghijk", "train"), ("abcdefghijk", "test")]
    text = "\n".join(
        [HEADER, *(f"yoga,{each},{place},{place + 9},{split}" for place, (each, split) in enumerate(rows))]
    )
    found = load_annotations([write(tmp_path / "a.csv", text)])
    assert list(found.youtube_ids()) == ["abcdefghijk", "abcdefghijA"]


@pytest.mark.slow
def test_ten_times_the_clips_take_little_more_memory(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from k700_text.annotations import load_annotations;"
        "load_annotations(sys.argv[1:]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for number in (40_000, 400_000):
        with (tmp_path / "train.csv").open("w") as file:
            file.write(f"{HEADER}\n")
            file.writelines(
                f"label {index % 700},{index:010d}A,{index % 9},{index % 9 + 10},train\n" for index in range(number)
            )
        command = [sys.executable, "-c", program, str(tmp_path / "train.csv")]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] < 1.2 * peaks[0]


def _tar(path: Path, body: bytes = b"", *, name: str = "val.csv", **pax: str) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo(name)
        member.size, member.pax_headers = len(body), pax
        archive.addfile(member, io.BytesIO(body))
    return path


def _refusal(path: Path) -> str:
    with pytest.raises(AnnotationError) as caught:
        load_annotations([path])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("pax", "body"),
    [
        ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 50)}, b"1\n0\n9\n"),
        ({"GNU.sparse.size": str(1 << 50), "GNU.sparse.map": "0,9", "GNU.sparse.numblocks": "1"}, b"a"),
        ({"GNU.sparse.map": "three,four"}, b"a"),
        ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, b"none\n"),
        ({"size": "9" * 300}, b"a"),
        ({"size": "-512"}, b"a"),
    ],
)
def test_members_that_claim_what_they_do_not_hold_are_one_line(
    tmp_path: Path, pax: dict[str, str], body: bytes
) -> None:
    text = f"{HEADER}\nyoga,abcdefghijk,1,11,train\n".encode()
    assert _refusal(_tar(tmp_path / "k.tar", body.ljust(512, b"\0") + text, **pax))


def test_long_and_chained_headers_are_refused_before_they_are_read(tmp_path: Path) -> None:
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 1
    (tmp_path / "chain.tar").write_bytes((long.tobuf(tarfile.GNU_FORMAT) + b"a".ljust(512, b"\0")) * 4000 + bytes(1024))
    assert "damaged" in _refusal(tmp_path / "chain.tar")
    long.size = 1 << 30
    with gzip.open(tmp_path / "long.tar.gz", "wb", 1) as file:
        file.write(long.tobuf(tarfile.GNU_FORMAT) + bytes(9 << 20))
    assert "header" in _refusal(tmp_path / "long.tar.gz")


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k700_text.annotation_files.MAX_ARCHIVE_MEMBERS", 20)
    with tarfile.open(tmp_path / "k.tar", "w") as archive:
        for number in range(30):
            archive.addfile(tarfile.TarInfo(f"{number}.txt"))
    assert "more than 20 members" in _refusal(tmp_path / "k.tar")


def test_zip_members_of_other_methods_and_of_lying_sizes(tmp_path: Path) -> None:
    text = f"{HEADER}\nyoga,abcdefghijk,1,11,train\n".encode() * 50
    with zipfile.ZipFile(tmp_path / "lzma.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("val.csv", text)
    assert "packed in a way" in _refusal(tmp_path / "lzma.zip")
    with zipfile.ZipFile(tmp_path / "k.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("val.csv", text)
    lying = (tmp_path / "k.zip").read_bytes().replace(len(text).to_bytes(4, "little"), (40).to_bytes(4, "little"))
    (tmp_path / "lying.zip").write_bytes(lying)
    assert "damaged" in _refusal(tmp_path / "lying.zip")


def test_damaged_archives_are_rows_or_one_line(tmp_path: Path) -> None:
    text = f"{HEADER}\nyoga,abcdefghijk,1,11,train\n".encode() * 20
    _tar(tmp_path / "k.tar", text, comment="é" * 40)
    for name, method in (("d.zip", zipfile.ZIP_DEFLATED), ("b.zip", zipfile.ZIP_BZIP2), ("s.zip", zipfile.ZIP_STORED)):
        with zipfile.ZipFile(tmp_path / name, "w", method) as archive:
            archive.writestr("val.csv", text)
    (tmp_path / "k.tar.gz").write_bytes(gzip.compress((tmp_path / "k.tar").read_bytes()))
    rng = random.Random(5)
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(content)
            for _ in range(rng.choice((1, 1, 8))):
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            with suppress(AnnotationError):
                load_annotations([path], skip_invalid=True)


def test_a_pipe_or_device_without_an_end_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k700_text.annotation_files.MAX_FILE_BYTES", 1 << 20)
    assert "too large" in _refusal(Path("/dev/zero"))


def test_a_json_entry_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k700_text.files.json_stream.MAX_VALUE_CHARACTERS", 1 << 17)
    (tmp_path / "train.json").write_text('{"abcdefghijk": {"annotations": "' + "a" * (1 << 20))
    assert "more than 131072 characters" in _refusal(tmp_path / "train.json")


def test_a_file_of_nothing_but_malformed_rows_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k700_text.annotations.MAX_PROBLEMS", 100)
    (tmp_path / "train.csv").write_text(HEADER + "\n" + "a,b\n" * 101)
    with pytest.raises(AnnotationError, match="no annotation file"):
        load_annotations([tmp_path / "train.csv"], skip_invalid=True)
