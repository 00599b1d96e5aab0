"""Plain lists of videos: what is read from them, and what a crawl makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k700_text import annotations
from k700_text.annotations import load_annotations
from k700_text.cli.main import _invoke
from k700_text.crawl import id_lists
from k700_text.crawl.id_lists import load_id_lists
from k700_text.data.rows import RowQuery
from k700_text.errors import AnnotationError, UsageError
from k700_text.manifest.validate import validate_manifest
from k700_text.records import Split
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World
from tests.k700_text.crawling import call, ids_where, make_ids

IDS = make_ids(8, "lists")
FORMS = (
    "{}",
    "  {}\t",
    "https://www.youtube.com/watch?v={}&list=PL0&t=3s",
    "http://youtu.be/{}?si=abc#t=1",
    "m.youtube.com/shorts/{}",
    "//www.youtube-nocookie.com/embed/{}?rel=0",
    "https://www.youtube.com/#!v={}",
    "https://music.youtube.com/watch?feature=x&v={}",
    "https://www.youtube.com/live/{}",
    "https://i.ytimg.com/vi_webp/{}/hqdefault.webp",
    "https://www.youtube.com/oembed?url=https%3A%2F%2Fyoutu.be%2F{}",
)


def ids_of(path: Path, **options: Split | bool) -> list[str]:
    return [clip.youtube_id for clip in load_id_lists([path], **options).clips]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("form", "behind"), [*((form, behind) for form in FORMS for behind in ("", "  # seen")), ("{}", "#seen")]
)
def test_every_form_of_an_address_is_read(form: str, behind: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(form.format(IDS[0]) + behind)
    assert ids_of(tmp_path / "list.txt") == [IDS[0]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_comments_blank_lines_and_repeats(encoding: str, end: str, tmp_path: Path) -> None:
    lines = ["# mine", "", IDS[0], "   ", f"https://youtu.be/{IDS[1]}", IDS[0], ""]
    (tmp_path / "list.txt").write_bytes(end.join(lines).encode(encoding))
    found = load_id_lists([tmp_path / "list.txt"])
    assert sorted(IDS[:2]) == [clip.youtube_id for clip in found.clips] and found.num_duplicates == 1


TABLES = {
    "header.csv": 'Title,Video ID,x\n"a ""b"", c\nand more",{0},1\n,https://youtu.be/{1},\n',
    "semicolons.csv": "url;n\nhttps://youtu.be/{0};1\n{1};2\n",
    "bare.tsv": "1\t{0}\tdog\n2\t{1}\tcat\n",
    "bare.csv": '{0}, 0.000, 10.000, "/m/01,/m/02"\n{1}, 5.000, 15.000, "/m/03"\n',
    "comment.csv": "# by hand\n# twice\nid\n{0}\n# no\n{1}\n",
    "quoted.csv": '"{0}"\n"{1}"\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_columns_of_text(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(TABLES[name].format(*IDS))
    assert ids_of(tmp_path / name) == sorted(IDS[:2])


def test_a_column_of_parquet_and_of_splits(tmp_path: Path) -> None:
    table = pa.table({"n": [1, 2, 3], "url": [IDS[0], f"youtu.be/{IDS[1]}", None], "split": ["val", "train", "val"]})
    pq.write_table(table, tmp_path / "l.parquet")
    with pytest.raises(AnnotationError) as refused:
        load_id_lists([tmp_path / "l.parquet"])
    assert list(refused.value.problems) == ["l.parquet row 3: '' names no YouTube video"]
    found = load_id_lists([tmp_path / "l.parquet"], skip_invalid=True)
    assert [(clip.split, clip.youtube_id) for clip in found.clips] == [(Split.TRAIN, IDS[1]), (Split.VAL, IDS[0])]
    pq.write_table(table.select(["n"]), tmp_path / "l.parquet")
    with pytest.raises(AnnotationError, match=r"no column of ids or addresses \(found: n\)"):
        load_id_lists([tmp_path / "l.parquet"])


def test_malformed_lines_are_named_and_counted(tmp_path: Path) -> None:
    lines = [IDS[0], "short", "https://vimeo.com/12345678901", f"{IDS[1]}x", "\x1b[2Jboo", "https://youtu.be/"]
    (tmp_path / "l.txt").write_text("\n".join(lines))
    with pytest.raises(AnnotationError, match="5 malformed list rows") as refused:
        load_id_lists([tmp_path / "l.txt"])
    assert refused.value.problems[0] == "l.txt line 2: 'short' names no YouTube video"
    assert not any("\x1b" in problem for problem in refused.value.problems)
    found = load_id_lists([tmp_path / "l.txt"], skip_invalid=True)
    assert len(found.clips) == 1 and len(found.skipped) == 5


def test_what_names_nothing_is_one_line(tmp_path: Path) -> None:
    for content, message in ((b"", "names no video"), (b"# only\n", "names no video"), (b"\xfd7zXZ\0", "xz file")):
        (tmp_path / "l.txt").write_bytes(content)
        with pytest.raises(AnnotationError, match=message):
            load_id_lists([tmp_path / "l.txt"])
    with pytest.raises(AnnotationError, match="no such list of videos"):
        load_id_lists([tmp_path / "absent.txt"])
    (tmp_path / "l.csv").write_text("title,views,length\na,1,2\n")
    with pytest.raises(AnnotationError, match="no column of ids or addresses"):
        load_id_lists([tmp_path / "l.csv"])
    for both in ([], ["--ids", "l.csv", "--annotations", "l.csv"]):
        with pytest.raises(UsageError, match="either"):
            _invoke(["manifest", "--out", str(tmp_path), *both])


def test_a_split_that_nothing_tells_is_the_one_asked_for(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(IDS[0])
    (tmp_path / "train-list.txt").write_text(IDS[0])
    assert load_id_lists([tmp_path / "list.txt"]).clips[0].split is Split.TEST
    assert load_id_lists([tmp_path / "list.txt"], as_split=Split.VAL).clips[0].split is Split.VAL
    assert load_id_lists([tmp_path / "train-list.txt"], as_split=Split.VAL).clips[0].split is Split.TRAIN
    (tmp_path / "mine.csv").write_text(f"youtube_id,time_start,time_end,label\n{IDS[0]},0,10,yoga\n")
    with pytest.raises(AnnotationError, match="--as-split"):
        load_annotations([tmp_path / "mine.csv"])
    assert load_annotations([tmp_path / "mine.csv"], as_split=Split.VAL).clips[0].split is Split.VAL


def test_one_command_from_ids_to_titles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with SandboxServer(World(0)) as server:
        listed = [*IDS, *ids_where(lambda video: '"' in (video.title or ""), 2)]
        (tmp_path / "list.txt").write_text("\n".join(listed))
        options = ["--endpoint", f"oembed={server.url}", "--rate", "oembed=1000", "--csv"]
        out = tmp_path / "out"
        _invoke(["crawl", "--ids", str(tmp_path / "list.txt"), "--out", str(out), *options, "--as-split", "val"])
    capsys.readouterr()
    rows = pq.read_table(out / "val.parquet").to_pylist()
    assert {row["youtube_id"] for row in rows} == set(listed) and sum(row["has_text"] for row in rows) > 2
    assert all(row["clip_id"] == row["youtube_id"] and row["start_seconds"] is None for row in rows)
    assert validate_manifest(out / "val.parquet") == []
    table = pd.read_csv(out / "val.csv", dtype=str, keep_default_na=False)
    assert table["title"].tolist() == [row["title"] or "" for row in rows]
    # Everything else that reads manifests takes it beside one of clips.
    (tmp_path / "v.csv").write_text(f"youtube_id,time_start,time_end,label,split\n{IDS[0]},0,10,yoga,train\n")
    _invoke(["manifest", "--annotations", str(tmp_path / "v.csv"), "--out", str(out)])
    for command in (["validate"], ["stats"]):
        _invoke([*command, str(out / "train.parquet"), str(out / "val.parquet"), "--json"])
    _invoke(["diff", str(out), str(out), "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_clips"] == [len(rows) + 1] * 2
    assert RowQuery.of([out / "train.parquet", out / "val.parquet"], None, ())


def test_a_pipe_is_a_list_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "k700_text", "manifest", "--ids", "-", "--out", str(tmp_path), "--json"],
        input=f"{IDS[0]}\nhttps://youtu.be/{IDS[1]}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and json.loads(done.stdout)["num_clips"] == 2, done.stderr
    assert "list: 2 videos" in done.stderr


def test_an_old_removal_list_and_one_of_addresses(tmp_path: Path) -> None:
    (tmp_path / "gone.txt").write_text(f"{IDS[0]}#why\nhttps://youtu.be/{IDS[1]} # asked\n")
    (tmp_path / "list.txt").write_text(IDS[2])
    arguments = ["--ids", tmp_path / "list.txt", "--out", tmp_path, "--removal-list", tmp_path / "gone.txt"]
    assert call("manifest", *arguments).returncode == 0


def test_what_is_no_list_ends_early_whatever_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of nothing but words, a line without an end, and columns that unpack to any size."""
    monkeypatch.setattr(annotations, "MAX_PROBLEMS", 99)
    (tmp_path / "words.txt").write_text("no video here\n" * 100)
    with pytest.raises(AnnotationError, match="more than 99 malformed rows: this is no list of videos"):
        load_id_lists([tmp_path / "words.txt"], skip_invalid=True)
    (tmp_path / "zeros.txt").write_bytes(f"{IDS[0]}\n".encode() + bytes(5 << 20) + f"\n{IDS[1]}\n".encode())
    with pytest.raises(AnnotationError, match="a line of more than 4,194,304 bytes: it is no list"):
        load_id_lists([tmp_path / "zeros.txt"], skip_invalid=True)
    monkeypatch.setattr(id_lists, "MAX_FILE_BYTES", 1 << 20)
    pq.write_table(pa.table({"url": ["x" * (2 << 20)]}), tmp_path / "packed.parquet", use_dictionary=False)
    with pytest.raises(AnnotationError, match=r"packed\.parquet claims \d+ bytes of ids, more than 1048576: split it"):
        load_id_lists([tmp_path / "packed.parquet"], skip_invalid=True)
