from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from k700_text.media.encode import encode_clip
from k700_text.media.files import find_clip_files
from lava_model import Lava
from lava_model.errors import DataError
from lava_model.evaluate import main
from lava_model.evaluation.datasets.folder import group_of_name, list_folder
from tests.lava_model.tiny import TINY


def make_folder(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", "run/a.mp4", "run/b.mp4", "swim/c.mp4", "swim/d.mp4")


@pytest.mark.parametrize(
    ("stem", "label", "expected"),
    [
        ("R6llTwEh07w_000000_000010", "using segway", ("kinetics", "R6llTwEh07w")),
        ("-_a_b_c_d_e_000001_000011", "x", ("kinetics", "-_a_b_c_d_e")),
        ("R6llTwEh07w_0_10", "using segway", ("kinetics", "R6llTwEh07w")),
        ("R6llTwEh07w_000000_000010_raw", "using segway", ("kinetics", "R6llTwEh07w")),
        ("R6llTwEh07w_000000_000010 (1)", "using segway", ("kinetics", "R6llTwEh07w")),
        ("R6llTwEh07w-cut", "x", ("file", "R6llTwEh07w-cut")),
        ("R6llTwEh07w", "x", ("kinetics", "R6llTwEh07w")),
        ("clip_000001", "x", ("file", "clip_000001")),
        ("holiday - Copy (2)", "x", ("file", "holiday")),
        ("v_ApplyEyeMakeup_g08_c01 (1)", "ApplyEyeMakeup", ("ucf", "applyeyemakeup_g08")),
        ("v_biking_07_02", "biking", ("ucf", "biking_g07")),
        ("v_golf_swing_07_02", "golf", ("ucf", "golf_swing_g07")),
        ("v_ApplyEyeMakeup_g08_c01", "ApplyEyeMakeup", ("ucf", "applyeyemakeup_g08")),
        ("v_HandStandPushups_g01_c02", "HandstandPushups", ("ucf", "handstandpushups_g01")),
        ("April_09_brush_hair_u_nm_np1_ba_goo_0", "brush_hair", ("hmdb", "April_09")),
        ("AmericanGangster_walk_u_cm_np1_le_bad_48", "walk", ("hmdb", "AmericanGangster")),
        ("AmericanGangster_shoot_gun_u_cm_np1_le_bad_4", "shoot gun", ("hmdb", "AmericanGangster")),
        ("holiday", "run", ("file", "holiday")),
    ],
)
def test_file_names_tell_the_source_video(stem: str, label: str, expected: tuple[str, str]) -> None:
    assert group_of_name(stem, label) == expected


@pytest.mark.realdata
def test_every_official_hmdb_name_tells_its_film(real_data: Path) -> None:
    splits = sorted((real_data / "splits" / "tsn" / "hmdb51_splits").glob("*_test_split1.txt"))
    films = defaultdict(set)
    for split in splits:
        label = split.name.removesuffix("_test_split1.txt")
        for line in split.read_text(encoding="latin-1").splitlines():
            kind, film = group_of_name(line.rsplit(maxsplit=1)[0].removesuffix(".avi"), label)
            assert kind == "hmdb"
            films[film].add(label)
    assert len(films) == 1407
    assert sum(len(labels) > 1 for labels in films.values()) == 271


@pytest.mark.realdata
def test_official_ucf_groups_do_not_cross_official_splits(real_data: Path) -> None:
    splits = real_data / "splits" / "tsn" / "ucf101_splits"
    sides = []
    for name in ("trainlist01.txt", "testlist01.txt"):
        stems = [Path(line.split()[0]).stem for line in (splits / name).read_text().splitlines() if line.strip()]
        kinds = [group_of_name(stem, "") for stem in stems]
        assert {kind for kind, _ in kinds} == {"ucf"}
        sides.append({group for _, group in kinds})
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 101 * 25


@pytest.mark.realdata
def test_real_clips_fall_into_the_fourteen_videos_of_their_table(real_data: Path) -> None:
    root = real_data / "videos-labelled" / "fight-surv"
    listed = list_folder(root, root / "manifest.csv")
    assert len(listed.clips) == 60
    assert {clip.label for clip in listed.clips} == {"fight", "noFight"}
    assert len({clip.group for clip in listed.clips}) == 14
    assert (listed.grouping, listed.notes) == ({"table": 60}, ())


def test_clips_are_listed_by_name_with_every_suffix_and_depth(tmp_path: Path) -> None:
    root = make_folder(tmp_path, "run/x.MP4", "run/deep/er/y.webm", "swim/a.mkv", "swim/b.mov", "swim/c.avi")
    make_folder(root, "notes.mp4", ".cache/z.mp4", "run/readme.txt", "run/._x.mp4")
    listed = list_folder(root)
    assert [clip.name for clip in listed.clips] == [
        "run/deep/er/y.webm",
        "run/x.MP4",
        "swim/a.mkv",
        "swim/b.mov",
        "swim/c.avi",
    ]
    assert [clip.label for clip in listed.clips] == ["run", "run", "swim", "swim", "swim"]


def test_clips_are_those_that_the_loader_knows_and_the_rest_is_told(tmp_path: Path) -> None:
    suffixes = ["mp4", "MPG", "mpeg", "m4v", "wmv", "3gp", "flv", "ts", "m2ts", "vob", "qt", "asf"]
    root = make_folder(tmp_path, *(f"{label}/c{label}.{suffix}" for label in ("run", "swim") for suffix in suffixes))
    make_folder(root, "run/R6llTwEh07w_1_2.f137.mp4", "swim/a.mp4.part", "swim/b.webm", "swim/b.webm.aria2")
    make_folder(root, "run/deep/\x1b[31m.f22.mp4", "run/notes.txt", "swim/frame.jpg", "swim/frame2.JPG", "swim/list")
    make_folder(root, "swim/.git/x.mp4", "swim/other.mp4", "run/other2.mp4")
    listed = list_folder(root)
    assert [clip.name for clip in listed.clips] == sorted(find_clip_files(root)) and len(listed.clips) == 26
    halves, others = listed.notes[:2]
    assert halves.startswith("5 files are left out, which are half downloads and no clips: ")
    assert "R6llTwEh07w_1_2.f137.mp4" in halves and "\x1b" not in halves and "\\x1b[31m.f22.mp4" in halves
    assert others == "4 files are left out, whose suffix is none of a video: no suffix (1), .jpg (2), .txt (1)"


def test_clips_in_no_class_and_links_that_are_not_followed_are_told(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", *(f"{label}/{name}.mp4" for label in ("run", "swim") for name in "ab"))
    make_folder(root, "\x1b[31m.mp4", "readme.txt")
    make_folder(tmp_path, "elsewhere/c.mp4")
    (root / "run" / "good.mp4").symlink_to("../../elsewhere/c.mp4")
    (root / "run" / "dead.mp4").symlink_to("nowhere.mp4")
    (root / "swim" / "more").symlink_to("../../elsewhere")
    (root / "gone").symlink_to("../nowhere")
    listed = list_folder(root)
    assert [clip.name for clip in listed.clips] == [
        "run/a.mp4",
        "run/b.mp4",
        "run/good.mp4",
        "swim/a.mp4",
        "swim/b.mp4",
    ]
    assert listed.notes[:3] == (
        "1 clips are left out, which lie in no class folder: \\x1b[31m.mp4",
        "left out: 2 links that lead nowhere, or in a circle: gone, run/dead.mp4",
        "left out: 1 links to folders, which are not followed: swim/more",
    )


def test_clips_of_one_video_are_of_one_group_however_they_are_spelled(tmp_path: Path) -> None:
    names = ["R6llTwEh07w_000000_000010.mp4", "R6llTwEh07w_20_30.mkv", "R6llTwEh07w_40_50_raw.mp4", "R6llTwEh07w.mp4"]
    names += ["R6llTwEh07w (1).mp4", "R6llTwEh07w_000060_000070 - Copy.mp4"]
    others = ["swim/a.mp4", "swim/b.mp4", "run/c.mp4", "run/c (1).mp4", "run/c.webm"]
    listed = list_folder(make_folder(tmp_path, *(f"run/{name}" for name in names), *others))
    assert listed.grouping == {"kinetics": 6, "file": 5}
    assert {clip.group for clip in listed.clips if clip.label == "run"} == {"R6llTwEh07w", "c"}


def test_linked_clips_are_taken(tmp_path: Path) -> None:
    store = make_folder(tmp_path / "store", "one/a.mp4", "b.mp4", "c.mp4", "d.mp4")
    root = make_folder(tmp_path / "data", "run/e.mp4")
    (root / "swim").mkdir()
    (root / "swim" / "b.mp4").symlink_to(store / "b.mp4")
    (root / "swim" / "c.mp4").symlink_to(store / "c.mp4")
    (root / "run" / "d.mp4").symlink_to(store / "d.mp4")
    (root / "linked").symlink_to(store)
    labels = [clip.name for clip in list_folder(root).clips]
    assert labels == [
        *("linked/b.mp4", "linked/c.mp4", "linked/d.mp4", "linked/one/a.mp4"),
        *("run/d.mp4", "run/e.mp4", "swim/b.mp4", "swim/c.mp4"),
    ]


def test_grouping_by_file_is_told(folder: Path) -> None:
    listed = list_folder(folder)
    assert listed.grouping == {"file": 4}
    assert "4 of 4 clips are grouped by file" in listed.notes[0]


def test_a_folder_without_clips_is_told_and_is_no_class(folder: Path) -> None:
    (folder / "annotations").mkdir()
    listed = list_folder(folder)
    assert {clip.label for clip in listed.clips} == {"run", "swim"}
    assert "'annotations' holds no clips" in listed.notes[0]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no clips in"),
        (["loose.mp4"], "no clips in"),
        (["run/a.mp4", "run/b.mp4"], "single class 'run'"),
        (["run/a.mp4", "run/b.mp4", "swim/c.mp4"], r"1 of 2 classes .* single source video \('swim'\)"),
        (
            ["run/a.mp4", "run/b.mp4", "swim/R6llTwEh07w_000000_000010.mp4", "swim/R6llTwEh07w_000020_000030.mp4"],
            "single source video",
        ),
    ],
)
def test_a_folder_that_cannot_be_probed_is_one_line(tmp_path: Path, names: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        list_folder(make_folder(tmp_path, *names))
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder at .*nowhere"):
        list_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "table",
    [
        "clip,youtube_id\nrun/a.mp4,v1\nrun/b.mp4,v2\nswim/c.mp4,v1\nswim/d.mp4,v3\n",
        "\ufeffgroup,file\nv1,/elsewhere/a.mp4\nv2,/elsewhere/b.mp4\nv1,c.mp4\nv3,d.mp4\n",
        "path,video\n.\\run\\a.mp4,v1\nrun\\b.mp4,v2\nswim/c.mp4,v1\nswim/d.mp4,v3\nswim/unused.mp4,v9\n",
        "clip_file,group,label\nrun/a.mp4,v1,x\nrun/a.mp4,v1,x\nrun/b.mp4,v2,x\nswim/c.mp4,v1,x\nswim/d.mp4,v3,x\n",
    ],
)
def test_a_table_of_groups_is_read_in_many_spellings(folder: Path, tmp_path: Path, table: str) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text(table, encoding="utf-8")
    listed = list_folder(folder, groups)
    assert [clip.group for clip in listed.clips] == ["v1", "v2", "v1", "v3"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("clip,label\nrun/a.mp4,x\n", "none of the columns group, youtube_id, video"),
        ("", r"none of the columns clip, .*its columns: none"),
        ("clip,group\nrun/a.mp4,v1\n", "names no group for clip run/b.mp4"),
        ("clip,group\nrun/a.mp4,\n", "has no group for clip 'run/a.mp4'"),
        ("clip,group\nrun/a.mp4,v1\nrun/a.mp4,v2\n", "two groups for clip 'run/a.mp4'"),
        ("clip,group\nx/a.mp4,v1\ny/a.mp4,v2\n", "names no group for clip run/a.mp4"),
        ("clip,group\nrun/a.mp4\n", "has no group for clip"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(folder: Path, tmp_path: Path, table: str, words: str) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text(table, encoding="utf-8")
    with pytest.raises(DataError, match=words) as caught:
        list_folder(folder, groups)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_no_text_is_one_line(folder: Path, tmp_path: Path) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_bytes(b"clip,group\n\xff\xfe\x00,v1\n")
    with pytest.raises(DataError, match="not a CSV table in UTF-8"):
        list_folder(folder, groups)
    with pytest.raises(DataError, match="cannot read"):
        list_folder(folder, tmp_path / "absent.csv")


def write_clip(path: Path, colour: tuple[int, int, int], *, has_sound: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    frames = [np.clip(np.full((32, 48, 3), colour) + rng.integers(-20, 20, 3), 0, 255).astype(np.uint8)] * 10
    tone = 0.3 * np.sin(np.arange(16_000) / 9).astype(np.float32)
    encode_clip(path, frames, frame_rate=10, audio=tone if has_sound else None, sample_rate=16_000)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red and blue clips, two of each of four videos a class, and one file that is no video."""
    root = tmp_path_factory.mktemp("colours")
    for number in range(4):
        for part in range(2):
            red = root / "red" / f"redvideo{number:03d}_{part:06d}_{part + 1:06d}.mp4"
            blue = root / "blue" / f"bluvideo{number:03d}_{part:06d}_{part + 1:06d}.mp4"
            write_clip(red, (200, 30, 30), has_sound=True)
            write_clip(blue, (30, 30, 200), has_sound=False)
    (root / "red" / "badvideo000_000000_000010.mp4").write_bytes(b"this is no video" * 50)
    return root


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Lava(TINY).save_pretrained(folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def probe_arguments(export: Path, colours: Path, cache: Path) -> list[str | Path]:
    where = ["--checkpoint", export, "--data", colours, "--cache", cache]
    return ["linear-probe", *where, "--views", "2", "--folds", "2"]


def test_a_probe_prints_learned_features_beside_controls_and_chance(
    export: Path, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = probe_arguments(export, colours, tmp_path)
    code, out, err = run(capsys, *arguments, "--out", tmp_path / "record.json")
    assert code == 0
    for word in ("learned", "trunk_only", "random_init", "chance: largest class", "chance: 1 / classes", "margin over"):
        assert word in out
    assert "1 of 17 clips do not decode" in err
    assert "34/34 views" in err
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["scores"]["learned"]["top1_accuracy"] == 1.0
    assert list(record["data"]["undecodable"]) == ["red/badvideo000_000000_000010.mp4"]
    assert record["data"]["classes"] == {"blue": 8, "red": 8}
    assert record["data"]["num_groups"] == 8
    assert record["data"]["grouping"] == {"kinetics": 17}
    assert record["views"]["video"]["num_frames"] == 2
    assert len(record["checkpoint"]["sha256"]) == 64
    # Half of these clips have sound, and nobody listened.
    assert record["data"]["num_with_sound"] is None and record["views"]["audio"] is None


def test_audio_and_video_have_the_has_audio_bit_as_a_control(
    export: Path, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--modalities", "audio+video", "--control-seeds", "2", "--json")
    code, out, _ = run(capsys, *probe_arguments(export, colours, tmp_path), *options)
    record = json.loads(out)
    assert code == 0
    assert (record["command"], record["version"]) == ("evaluate linear-probe", 1)
    assert list(record["scores"]) == ["learned", "trunk_only", "random_init", "has_audio_bit"]
    assert len(record["scores"]["random_init"]["runs"]) == 2
    assert record["data"]["num_with_sound"] == 8
    folds = [
        [(fold["seed"], fold["fold"], fold["num_train"], fold["num_test"]) for fold in score["runs"][0]]
        for score in record["scores"].values()
    ]
    assert all(each == folds[0] for each in folds)


def test_the_same_command_gives_the_same_record_from_the_cache(
    export: Path, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = []
    for _ in range(2):
        code, out, err = run(capsys, *probe_arguments(export, colours, tmp_path), "--json")
        assert code == 0
        records.append(json.loads(out) | {"seconds": None})
    assert "views" not in err
    assert records[0] == records[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["probe"], 2, "unknown task 'probe': expected one of linear-probe"),
        (["linear-probe"], 2, "--checkpoint and --data must be given"),
        (["linear-probe", "--dat", "x"], 2, "unknown option --dat: did you mean --data"),
        (["linear-probe", "--folds", "1", "--seeds", "0"], 2, "--folds must be at least 2, got 1; --seeds must be"),
        (["linear-probe", "--data", ".", "--checkpoint", ".", "--protocol", "x"], 2, "unknown protocol 'x'"),
        (["linear-probe", "--data", ".", "--checkpoint", ".", "--protocol", "lavva"], 2, "did you mean 'lava'?"),
        (
            ["linear-probe", "--data", ".", "--checkpoint", ".", "--device", "moon"],
            2,
            "device cannot be 'moon': use auto, cpu, cuda or cuda:N",
        ),
        (["linear-probe", "--data", "absent", "--checkpoint", "."], 1, "no folder at absent"),
        (["linear-probe", "--data", "{data}", "--checkpoint", "absent"], 1, "there is no absent: give"),
        (["linear-probe", "--data", ".", "--checkpoint", ".", "--out", "no/x.json"], 1, "no folder no for --out"),
    ],
)
def test_what_cannot_work_is_one_line(
    arguments: list[str], code: int, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code, out, err = run(capsys, *(argument.format(data=folder) for argument in arguments))
    assert (exit_code, out) == (code, "")
    errors = [line for line in err.splitlines() if not line.startswith("note:")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert words in errors[0]


def test_clips_of_which_none_decodes_are_one_line(
    export: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *probe_arguments(export, folder, tmp_path / "cache"))
    assert code == 1
    assert "error: none of the 4 clips decodes, the first because: " in err
    assert "the file is empty" in err


@pytest.mark.parametrize("arguments", [["-h"], ["--help"]])
def test_help_names_the_tasks_with_an_example(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "linear-probe" in out
    assert "example:" in out


def test_help_of_a_task_names_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "linear-probe", "--help")
    assert code == 0
    for word in ("--checkpoint", "--groups", "--modalities", "--control-seeds", "Example:"):
        assert word in out
