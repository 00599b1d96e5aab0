from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k700_text.crawl.sources.dumps import DumpRow, import_dumps, parse_evidence, read_dump
from k700_text.errors import UsageError
from k700_text.records import Availability, OutcomeStatus, TitleOutcome

IDS = ("-abcdefghiA", "NA_NA_NA_NA", "00000000012", "dQw4w9WgXcQ")
TITLES = ("Plain", 'With "quotes", comma and\ttab', "二つの言葉 ♥ &amp; more", "= not a formula")
PAIRS = dict(zip(IDS, TITLES, strict=True))


class FakeLedger:
    """Keeps outcomes in memory."""

    def __init__(self, wanted: Iterator[str] | list[str], done: list[str] | None = None) -> None:
        self.wanted = list(wanted)
        self.done = done or []
        self.outcomes: list[TitleOutcome] = []
        self.num_flushed = 0

    def wanted_ids(self) -> Iterator[str]:
        yield from self.wanted

    def ids_with_title(self, source: str) -> Iterator[str]:
        assert source == "dumps"
        yield from self.done

    def record(self, outcome: TitleOutcome) -> None:
        self.outcomes.append(outcome)

    def flush(self) -> None:
        self.num_flushed = len(self.outcomes)

    @property
    def titles(self) -> dict[str, str | None]:
        return {outcome.youtube_id: outcome.title for outcome in self.outcomes}


def table(delimiter: str = ",", header: tuple[str, str] = ("youtube_id", "title"), end: str = "\n") -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end)
    writer.writerows([("index", *header), *((7, *pair) for pair in PAIRS.items())])
    return text.getvalue().encode()


def objects(**names: str) -> list[dict[str, Any]]:
    id_name, title_name = names.get("id", "id"), names.get("title", "title")
    return [{"n": 1.5, id_name: key, title_name: title, "extra": {"a": [1]}} for key, title in PAIRS.items()]


def parquet(id_name: str = "videoID", string: pa.DataType | None = None) -> bytes:
    sink = io.BytesIO()
    columns = {"number": pa.array([1] * 4), id_name: pa.array(IDS).cast(string or pa.string())}
    pq.write_table(pa.table(columns | {"title": pa.array(TITLES)}), sink, row_group_size=3)
    return sink.getvalue()


FORMATS: dict[str, bytes] = {
    "a.csv": table(),
    "bom_and_crlf.csv": b"\xef\xbb\xbf" + table(end="\r\n"),
    "semicolons.csv": table(";", ("Video ID", "Video-Title")),
    "utf16.txt": table("\t").decode().encode("utf-16"),
    "a.tsv": table("\t", ("vid", "name")),
    "a.tsv.gz": gzip.compress(table("\t")),
    "addresses.csv": table().replace(b",dQw4w9WgXcQ,", b",https://youtu.be/dQw4w9WgXcQ?t=3,"),
    "a.jsonl": "\n".join(map(json.dumps, objects())).encode(),
    "a.ndjson.gz": gzip.compress("\r\n".join(map(json.dumps, objects(id="display_id", title="fulltitle"))).encode()),
    "told_by_content": json.dumps(objects(id="ytid"), indent=2).encode(),
    "a.json.gz": gzip.compress(json.dumps(objects(), ensure_ascii=False).encode()),
    "a.parquet": parquet(),
    "dictionary.parquet": parquet("id", pa.dictionary(pa.int32(), pa.string())),
    "large.parquet": parquet("url", pa.large_string()),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMATS[name])
    rows = list(read_dump(tmp_path / name))
    assert [(row.number, row.youtube_id, row.title) for row in rows] == [
        (number, key, title) for number, (key, title) in enumerate(PAIRS.items(), 1)
    ]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_a_json_array_may_be_cut_anywhere(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k700_text.files.json_stream.CHUNK_CHARACTERS", chunk)
    values = [*objects(), {"id": IDS[0], "title": None, "x": [1e9, -1, True, None, "\\\u2028\U0001f600"]}, 12345]
    (tmp_path / "a.json").write_text(json.dumps(values))
    rows = list(read_dump(tmp_path / "a.json"))
    assert [row.youtube_id for row in rows] == [*IDS, IDS[0], None]
    assert [row.title for row in rows] == [*TITLES, None, None]


@pytest.mark.parametrize(
    "address",
    [
        "https://www.youtube.com/watch?v={}",
        "http://youtube.com/watch?feature=share&v={}&t=3s",
        "https://m.youtube.com/watch?app=desktop&amp;v={}",
        "https://music.youtube.com/watch?v={}",
        "https://youtu.be/{}?si=abc",
        "youtu.be/{}",
        "https://www.youtube.com/shorts/{}",
        "https://www.youtube.com/embed/{}?rel=0",
        "//www.youtube.com/v/{}",
        "https://www.youtube.com/live/{}",
        "https://www.youtube-nocookie.com/embed/{}",
        "HTTPS://WWW.YOUTUBE.COM/watch?v={}",
        "https://i.ytimg.com/vi/{}/default.jpg",
        "https://i1.ytimg.com/vi_webp/{}/hqdefault.webp",
        "https://img.youtube.com/vi/{}/0.jpg",
        "  {} ",
    ],
)
def test_addresses_name_their_video(tmp_path: Path, address: str) -> None:
    (tmp_path / "a.csv").write_text("link,title\n" + "".join(f'"{address.format(each)}",t\n' for each in IDS))
    assert [row.youtube_id for row in read_dump(tmp_path / "a.csv")] == list(IDS)


def test_of_two_ids_in_an_address_the_first_counts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"url,title\nhttps://www.youtube.com/watch?v={IDS[3]}&ref=x&v={IDS[0]},t\n")
    assert [row.youtube_id for row in read_dump(tmp_path / "a.csv")] == [IDS[3]]


@pytest.mark.parametrize(
    "cell",
    [
        "https://www.youtube.com/embed/videoseries?list=PL1",
        "https://www.youtube.com/embed/live_stream?channel=UC1",
        "https://www.youtube.com/watch?v=dQw4w9WgXcQQ",
        "https://www.youtube.com/playlist?list=dQw4w9WgXcQ",
        "https://notyoutube.com/watch?v=dQw4w9WgXcQ",
        "https://example.com/?u=https://youtu.be/dQw4w9WgXcQ",
        "dQw4w9WgXc",
        "dQw4w9WgXcQ2",
        "dQw4w9WgXc!",
        "",
    ],
)
def test_what_names_no_video_is_no_id(tmp_path: Path, cell: str) -> None:
    (tmp_path / "a.csv").write_text(f"url,title\n{cell},t\n")
    assert list(read_dump(tmp_path / "a.csv")) == [DumpRow(1, None, "t")]


def test_a_running_number_called_id_gives_way_to_the_address(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id,url,title\n1,https://youtu.be/{IDS[0]},a\n{IDS[1]},,b\n")
    assert [row.youtube_id for row in read_dump(tmp_path / "a.csv")] == [IDS[0], IDS[1]]
    pq.write_table(pa.table({"id": [5], "videoid": [IDS[3]], "title": ["t"]}), tmp_path / "a.parquet")
    assert [row.youtube_id for row in read_dump(tmp_path / "a.parquet")] == [IDS[3]]


def test_numbers_are_never_ids(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 12345678901, "title": "a"}\n{"id": "12345678901", "title": 5}\n')
    assert list(read_dump(tmp_path / "a.jsonl")) == [DumpRow(1, None, "a"), DumpRow(2, "12345678901", None)]


def test_damaged_rows_are_counted_and_give_no_title(tmp_path: Path) -> None:
    lines = [
        "id,title,description",
        f"{IDS[0]},Unquoted, comma,x",
        f'{IDS[1]},"a" b,x',
        f'{IDS[2]},fine,"two\r\nlines"',
    ]
    (tmp_path / "a.csv").write_bytes("\n".join(lines).encode())
    rows = list(read_dump(tmp_path / "a.csv"))
    assert [(row.youtube_id, row.title) for row in rows] == [(None, None), (None, None), (IDS[2], "fine")]
    (tmp_path / "b.jsonl").write_text(f'{{"id": "{IDS[0]}", "ti\n\n[1]\n{{"id": "{IDS[1]}", "title": "b"}}\n')
    assert [row.title for row in read_dump(tmp_path / "b.jsonl")] == [None, None, "b"]


def test_a_quote_that_would_swallow_rows_costs_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        f'id,title\n{IDS[0]},"Unclosed\n{IDS[1]},"a ""b"", c"\n{IDS[2]},Nul\0byte\n{IDS[3]}," fine\n"\n'
    )
    ledger = FakeLedger(list(IDS))
    told: list[str] = []
    found = import_dumps(ledger, [tmp_path / "a.csv"], say=told.append)
    assert found.reasons == {"damaged_row": 1, "damaged_title": 1}
    assert ledger.titles == {IDS[1]: 'a "b", c', IDS[3]: "fine"}
    assert told == ["dumps: a.csv: 4 rows, 2 titles of wanted videos (1 damaged rows)"]


QUOTED_TITLES = (
    '"Weird" cover, live',
    "plain",
    '"Heroes"',
    '"never closed',
    '5" pipe',
    'ends in a quote"',
    'say "hi" now',
)


VIDEOS = [f"AAAAAAAAA{tens}{units}" for tens in "BCDE" for units in "AEIMQU"]
# Each mimics a row in another way: id of another video in a cell of its own, commas, the quote at its end.
TEXTS = (
    "Thanks!\nLike, comment and subscribe",
    "Songs:\nrock, pop, jazz",
    "More:\nhttps://youtu.be/{0} , part 2, the end",
    "a\n{0}, c",
    "{0},b,c\n{0},b,c",
    'said "so"\nz, w',
    "x,{0}\ny,{0}",
    "x,y,{0}\n{0},y,z\nbye, all",
    "\nhttps://youtu.be/{0}, see, it, there\n",
    "short",
)


@pytest.mark.parametrize("options", [{}, {"quoting": csv.QUOTE_ALL}, {"delimiter": ";"}, {"delimiter": "\t"}])
@pytest.mark.parametrize("text", [*TEXTS, None])
def test_lines_of_a_description_never_give_titles(tmp_path: Path, options: dict[str, Any], text: str | None) -> None:
    """Whatever the order of the columns; a row that can be read in two ways is counted, others keep their title."""
    truth = {video: f"title {place}" for place, video in enumerate(VIDEOS)}
    mark = str(options.get("delimiter", ",")).replace("\t", ",")  # No text has tabs.
    for order in (*itertools.permutations(("video_id", "title", "text")), ("title", "tags", "text", "video_id", "n")):
        written = io.StringIO(newline="")
        writer = csv.writer(written, lineterminator="\n", **options)
        writer.writerow(order)
        for place, (video, title) in enumerate(truth.items()):
            other = VIDEOS[(place + 1) % len(VIDEOS)]
            words = (text or TEXTS[place % len(TEXTS)]).format(other).replace(",", mark)
            cells = {"video_id": video, "title": title, "text": words, "tags": "a", "n": str(place)}
            writer.writerow([cells[name] for name in order])
        (tmp_path / "a.csv").write_text(written.getvalue(), newline="")
        rows = list(read_dump(tmp_path / "a.csv"))
        found = [(row.youtube_id, row.title) for row in rows if row.youtube_id and row.title]
        assert set(found) <= set(truth.items())
        assert len(found) + sum(row.is_damaged for row in rows) >= len(truth)
        if order.index("text") > 1 and len(order) == 3:
            assert dict(found) == truth


@pytest.mark.parametrize("options", [{}, {"quoting": csv.QUOTE_ALL}])
@pytest.mark.parametrize("mark", ["\t", ",", ";"])
def test_lines_of_a_description_with_as_many_marks_as_a_row_give_no_titles(
    tmp_path: Path, options: dict[str, Any], mark: str
) -> None:
    """Without the quotes, each physical line has the cells of a row: only the ids tell which reading is right."""
    truth = {video: f"title {place}" for place, video in enumerate(VIDEOS)}
    # In front of the other cells, between them, behind them: each line has two marks.
    texts = ["a{0}b{0}c\nd", "a{0}b\nc{0}d", "a{0}b\nc{0}d{0}e\nf{0}g", "a\nb{0}c{0}d\ne{0}f{0}g"]
    path = tmp_path / ("a.tsv" if mark == "\t" else "a.csv")
    for order in itertools.permutations(("video_id", "title", "text")):
        for text in texts:
            written = io.StringIO(newline="")
            writer = csv.writer(written, delimiter=mark, lineterminator="\n", **options)
            writer.writerow(order)
            for video, title in truth.items():
                cells = {"video_id": video, "title": title, "text": text.format(mark)}
                writer.writerow([cells[name] for name in order])
            path.write_text(written.getvalue(), newline="")
            found = [(row.youtube_id, row.title) for row in read_dump(path) if row.youtube_id]
            assert found == list(truth.items())


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["t0,x,{0}", 't1,"q ""', 'z, w",{1}'], ["t0", "t1"]),
        # The title has the end of a line: that of no video, and its last line is no title either.
        (["t0,x,{0}", '"t', '1",x,{1}', "t2,x,{2}"], ["t0", "t\n1", "t2"]),
        # Quotes that are not doubled: nothing is read from the lines behind them, up to the next whole row.
        (["t0,x,{0}", 't1,"he said "hi" so', 'Like, comment",{1}', 't2,"a ""b""",{2}'], ["t0", None, "t2"]),
        # A comma too many: one damaged row, not two.
        (['t0,"x ""y""",{0}', 't,1,"so', 'z, w",{1}', 't2,"""",{2}', 't3,"""",{3}'], ["t0", None, "t2", "t3"]),
        # Two rows or one: no title.
        (['t,"""",{2}', 't0,"x,{0}', 't1,y",{1}'], [None, None, "t"]),
    ],
)
def test_what_can_be_read_in_two_ways_gives_no_title(
    tmp_path: Path, rows: list[str], expected: list[str | None]
) -> None:
    text = "\n".join(["title,text,id", *rows, ""]).format(*VIDEOS)
    (tmp_path / "a.csv").write_text(text)
    found = list(read_dump(tmp_path / "a.csv"))
    titles = {row.youtube_id: row.title for row in found if row.youtube_id}
    assert [titles.get(video) for video in VIDEOS[: len(expected)]] == expected
    assert any(row.is_damaged for row in found) is (None in expected)


def test_a_row_that_a_quote_may_have_swallowed_is_counted(tmp_path: Path) -> None:
    text = 'id,title,text\n{},t0,"a ""b"""\n{},t1,"open\n{},t2,close"\n{},t3,x\n'.format(*VIDEOS)
    (tmp_path / "a.csv").write_text(text)
    rows = list(read_dump(tmp_path / "a.csv"))
    assert [row.title for row in rows] == ["t0", "t1", None, "t3"]
    assert [row.is_damaged for row in rows] == [False, False, True, False]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "utf16.tsv", "crlf.tsv.gz"])
def test_titles_with_quotes_in_a_table_that_does_not_quote(tmp_path: Path, name: str) -> None:
    ids = [f"{number:010d}A" for number in range(5 * len(QUOTED_TITLES))]
    titles = [title.replace(",", "" if name == "a.csv" else ",") for title in QUOTED_TITLES * 5]
    mark, end = "," if name == "a.csv" else "\t", "\r\n" if name.startswith("crlf") else "\n"
    text = "".join(f"{key}{mark}{title}{end}" for key, title in [("id", "title"), *zip(ids, titles, strict=True)])
    content = text.encode("utf-16" if name.startswith("utf16") else "utf-8")
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert [(row.youtube_id, row.title) for row in read_dump(tmp_path / name)] == list(zip(ids, titles, strict=True))


def test_a_damaged_line_of_json_costs_itself(tmp_path: Path) -> None:
    lines = [json.dumps({"id": key, "title": "t"}) for key in IDS]
    lines[1] = lines[1][:-4]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, '"unclosed']))
    found = import_dumps(FakeLedger(list(IDS)), [tmp_path / "a.jsonl"])
    assert found.num_titles == 3 and found.reasons == {"damaged_row": 2}


def test_of_two_columns_of_titles_none_is_chosen(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id,title,Title\n{IDS[0]},a,b\n")
    twice = pa.Table.from_arrays([pa.array([IDS[0]]), pa.array(["a"]), pa.array(["b"])], ["id", "title", "title"])
    pq.write_table(twice, tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(UsageError, match=rf"{name} has column title twice"):
            list(read_dump(tmp_path / name))
    assert [row.title for row in read_dump(tmp_path / "a.csv", ("id", "Title"))] == ["b"]
    (tmp_path / "b.csv").write_text(f"id,Video Title,title\n{IDS[0]},a,b\n")
    with pytest.raises(UsageError, match=r"b\.csv has columns Video Title and title: name the one"):
        list(read_dump(tmp_path / "b.csv"))
    assert [row.title for row in read_dump(tmp_path / "b.csv", ("id", "Video Title"))] == ["a"]
    # A table of yt-dlp has both, and of them "title" is the title.
    (tmp_path / "c.csv").write_text(f"id,fulltitle,title\n{IDS[0]},a,b\n")
    assert [row.title for row in read_dump(tmp_path / "c.csv")] == ["b"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.binary()),
        pa.large_string(),
        pa.string_view(),
    ],
    ids=str,
)
def test_text_that_is_not_marked_as_text_in_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    titles = ["one", "zwei \u00e4", None, "\u4e8c"]
    is_text = pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    values = [title if is_text or title is None else title.encode() for title in titles]
    ids = pa.array([key.encode() for key in IDS], pa.binary(11))
    plain = pa.binary() if pa.types.is_dictionary(kind) else kind
    columns = {"id": ids, "title": pa.array(values, plain).cast(kind)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert [(row.youtube_id, row.title) for row in read_dump(tmp_path / "a.parquet")] == list(
        zip(IDS, titles, strict=True)
    )


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), "dictionary", "list"])
def test_text_in_parquet_that_is_not_utf8_is_counted(tmp_path: Path, kind: Any) -> None:
    offsets, content = pa.py_buffer(np.array([0, 4, 8], np.int32)), pa.py_buffer(b"caf\xe9good")
    titles = pa.Array.from_buffers(pa.string(), 2, [None, offsets, content])
    if kind == "dictionary":
        titles = titles.dictionary_encode()
    elif kind == "list":
        titles = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), titles)
    elif kind != pa.string():
        binary = pa.large_binary() if kind == pa.large_string() else pa.binary_view()
        titles = titles.cast(pa.binary()).cast(binary).view(kind)
    pq.write_table(pa.table({"id": IDS[:2], "title": titles}), tmp_path / "a.parquet")
    ledger = FakeLedger(list(IDS))
    summary = import_dumps(ledger, [tmp_path / "a.parquet"])
    if kind == "list":
        assert summary.num_titles == 0 and dict(summary.reasons) == {"no_title": 2}
    else:
        assert ledger.titles == {IDS[1]: "good"} and dict(summary.reasons) == {"damaged_title": 1}


def test_a_column_of_parquet_whose_name_is_not_utf8(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["x"], "titlx": ["y"]}), tmp_path / "a.parquet", store_schema=False)
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes().replace(b"titlx", b"titl\xe9"))
    with pytest.raises(UsageError, match="column whose name is not UTF-8"):
        list(read_dump(tmp_path / "a.parquet"))


def test_marks_that_nobody_sees_do_not_hide_columns(tmp_path: Path) -> None:
    for header in ("\ufeff\ufeffid,title", '\ufeff\ufeff"id","title"', "\u200bid,\u200btitle\u200d"):
        (tmp_path / "a.csv").write_text(f'{header}\n{IDS[0]},"a ""b"""\n')
        assert list(read_dump(tmp_path / "a.csv")) == [DumpRow(1, IDS[0], 'a "b"')]


def test_bytes_in_parquet_that_are_no_utf8_are_counted(tmp_path: Path) -> None:
    titles = pa.array([b"caf\xe9", b"tea", b"padded\0\0"], pa.binary())
    pq.write_table(pa.table({"id": IDS[:3], "title": titles}), tmp_path / "a.parquet")
    ledger = FakeLedger(list(IDS))
    assert import_dumps(ledger, [tmp_path / "a.parquet"]).reasons == {"damaged_title": 2}
    assert ledger.titles == {IDS[1]: "tea"}
    fixed = pa.array([b"tea\0\0\0", b"coffee"], pa.binary(6))
    pq.write_table(pa.table({"id": IDS[:2], "title": fixed}), tmp_path / "b.parquet")
    assert [row.title for row in read_dump(tmp_path / "b.parquet")] == ["tea", "coffee"]


def test_the_columns_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id,Picture,Heading\nx,https://i.ytimg.com/vi/{IDS[0]}/0.jpg,t\n")
    assert list(read_dump(tmp_path / "a.csv", ("picture", "Heading"))) == [DumpRow(1, IDS[0], "t")]
    with pytest.raises(UsageError, match=r"a\.csv has no columns of ids and of titles \(found: id, Picture, Heading\)"):
        list(read_dump(tmp_path / "a.csv"))
    with pytest.raises(UsageError, match=r"has no columns picture and titel .*--dump-columns ID,TITLE"):
        list(read_dump(tmp_path / "a.csv", ("picture", "titel")))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"\xef\xbb\xbf \n", "is empty"),
        ("a.csv", b"1,2\n", "has no columns of ids"),
        ("a.csv", b'"x' * 200_000, "not a header"),
        ("a.gz", gzip.compress(table() * 9000)[:5000], "damaged gzip file"),
        ("a.gz", b"\x1f\x8bbroken", "damaged gzip file"),
        ("a.parquet", parquet()[:-20], "damaged"),
        ("a.parquet", b"PAR1" + bytes(100) + parquet()[104:], "damaged"),
        ("a.json", b'[{"id": "x", "title": "y"}, {"id"', "not valid JSON"),
        ("a.json", b"[" * 200_000, "not valid JSON"),
        ("a.jsonl", b"{broken", r"has no columns of ids and of titles \(found: none\)"),
        ("a.jsonl", b'{"a": 1}\n{"b": 2}', r"\(found: a\)"),
    ],
)
def test_an_unusable_file_is_one_clear_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        list(read_dump(tmp_path / name))
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_characters_of_two_utf_16_halves_are_read_in_every_format(tmp_path: Path) -> None:
    """Programs of UTF-16 (Java, old databases) write an emoji as two halves: CESU-8, or two escapes in JSON."""
    halves = "a \ud83d\ude00 b".encode("utf-8", "surrogatepass")
    (tmp_path / "t.csv").write_bytes(b"id,title\n" + IDS[0].encode() + b"," + halves + b"\n")
    (tmp_path / "t.tsv").write_bytes(b"id\ttitle\n" + IDS[0].encode() + b"\t" + halves + b"\n")
    (tmp_path / "t.jsonl").write_text(f'{{"id": "{IDS[0]}", "title": "a \\ud83d\\ude00 b"}}\n')
    (tmp_path / "raw.jsonl").write_bytes(b'{"id": "' + IDS[0].encode() + b'", "title": "' + halves + b'"}\n')
    pq.write_table(pa.table({"id": [IDS[0].encode()], "title": [halves]}), tmp_path / "t.parquet")
    for path in sorted(tmp_path.iterdir()):
        ledger = FakeLedger([IDS[0]])
        import_dumps(ledger, [path])
        assert ledger.titles == {IDS[0]: "a \U0001f600 b"}, path.name


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such dump: .*nowhere\.csv"):
        list(read_dump(tmp_path / "nowhere.csv"))
    with pytest.raises(UsageError, match="cannot be read"):
        list(read_dump(tmp_path))


def test_titles_of_wanted_videos_go_to_the_ledger(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(table())
    (tmp_path / "b.jsonl").write_text(json.dumps({"id": IDS[0], "title": "later file"}))
    ledger = FakeLedger([IDS[2], IDS[0], "abcdefghijk", IDS[1]], done=[IDS[1], "zzzzzzzzzzA"])
    told: list[str] = []
    found = import_dumps(ledger, [tmp_path / "a.csv", tmp_path / "b.jsonl"], say=told.append)
    assert ledger.titles == {IDS[0]: "Plain", IDS[2]: "二つの言葉 ♥ &amp; more"}
    assert ledger.num_flushed == found.num_titles == found.num_answered == 2 and found.num_left == 0
    assert told == [
        "dumps: a.csv: 4 rows, 2 titles of wanted videos",
        "dumps: b.jsonl: 1 rows, 0 titles of wanted videos",
    ]
    (first, second) = ledger.outcomes
    assert (first.source, first.status, first.availability) == ("dumps", OutcomeStatus.TITLE, Availability.UNKNOWN)
    assert second.raw_title == TITLES[2] and second.http_status is None
    assert json.loads(second.evidence or b"") == {"file": "a.csv", "row": 3, "id": IDS[2], "title": TITLES[2]}


def test_impossible_ids_are_found_too(tmp_path: Path) -> None:
    # "dQw4w9WgXcQ" and "dQw4w9WgXcR" differ in bits that a 64-bit number does not hold.
    (tmp_path / "a.csv").write_text("id,title\ndQw4w9WgXcR,impossible\ndQw4w9WgXcQ,possible\ndQw4w9WgXcR,again\n")
    for wanted in (["dQw4w9WgXcR"], ["dQw4w9WgXcQ"], ["dQw4w9WgXcQ", "dQw4w9WgXcR"]):
        ledger = FakeLedger(wanted)
        import_dumps(ledger, [tmp_path / "a.csv"])
        expected = {"dQw4w9WgXcR": "impossible", "dQw4w9WgXcQ": "possible"}
        assert ledger.titles == {each: expected[each] for each in wanted}
        again = FakeLedger(wanted, done=wanted)
        assert import_dumps(again, [tmp_path / "a.csv"]).num_titles == 0 and not again.outcomes


def test_nothing_wanted_nothing_found(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(table())
    assert import_dumps(FakeLedger([]), [tmp_path / "a.csv"]).num_titles == 0


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("Video unavailable", "junk_title"),
        ("[Private video]", "junk_title"),
        ("[Deleted video]", "junk_title"),
        (IDS[0], "junk_title"),
        ("NaN", "no_title"),
        ("\\N", "no_title"),
        ("\u200b", "no_title"),
        (" ", "no_title"),
        ("caf\ufffd", "damaged_title"),
    ],
)
def test_what_is_no_title_is_counted_and_the_next_row_tried(tmp_path: Path, cell: str, reason: str) -> None:
    (tmp_path / "a.csv").write_text(f"id,title\n{IDS[0]},{cell}\n{IDS[0]},A title\n")
    ledger = FakeLedger([IDS[0]])
    found = import_dumps(ledger, [tmp_path / "a.csv"])
    assert ledger.titles == {IDS[0]: "A title"} and found.reasons == {reason: 1}


def test_titles_that_are_not_utf8_are_refused_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(f"id,title\n{IDS[0]},café\n{IDS[1]},tea\n".encode("latin-1"))
    ledger = FakeLedger(list(IDS))
    assert import_dumps(ledger, [tmp_path / "a.csv"]).reasons == {"damaged_title": 1}
    assert ledger.titles == {IDS[1]: "tea"}


def test_rows_without_an_id_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id,title\nx,1\ny,2\n{IDS[0]},3\n")
    told: list[str] = []
    found = import_dumps(FakeLedger([IDS[0]]), [tmp_path / "a.csv"], say=told.append)
    assert found.reasons == {"no_id": 2}
    assert told == ["dumps: a.csv: 3 rows, 1 titles of wanted videos (2 rows without an id)"]


def test_titles_read_before_a_fault_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(table())
    (tmp_path / "b.csv").write_text("x,y\n")
    ledger = FakeLedger(list(IDS))
    with pytest.raises(UsageError, match=r"b\.csv"):
        import_dumps(ledger, [tmp_path / "a.csv", tmp_path / "b.csv"])
    assert len(ledger.outcomes) == 4


def test_evidence_gives_the_same_outcome_again(tmp_path: Path) -> None:
    rows = [*objects(), {"id": "zzzzzzzzzzA", "title": "half \ud800 a character", "language": "de-CH"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ledger = FakeLedger([*IDS, "zzzzzzzzzzA"])
    import_dumps(ledger, [tmp_path / "a.jsonl"])
    assert len(ledger.outcomes) == 5 and ledger.outcomes[-1].title_language == "de-CH"
    assert ledger.outcomes[-1].title == "half a character"
    for each in ledger.outcomes:
        assert each.evidence is not None
        assert parse_evidence(each.youtube_id, each.evidence, each.http_status, each.fetched_at) == each


def test_kept_rows_are_judged_by_todays_rules() -> None:
    now = datetime.now(UTC)
    evidence = json.dumps({"file": "a", "row": 1, "id": IDS[0], "title": "Private video"}).encode()
    outcome = parse_evidence(IDS[0], evidence, None, now)
    assert (outcome.status, outcome.title, outcome.reason) == (OutcomeStatus.NO_TITLE, None, "junk_title")


def test_a_large_dump_takes_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    def grow(number: int) -> int:
        with (tmp_path / "a.csv").open("w") as file:
            file.write("id,title\n")
            file.writelines(f"{index:011d},title number {index}\n" for index in range(number))
        tracemalloc.start()
        assert sum(1 for _ in read_dump(tmp_path / "a.csv")) == number
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    grow(10)
    assert grow(20_000) < grow(2_000) + 300_000


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "num_rows"), [("US", 5_236), ("GB", 2_618)])
def test_real_tables_of_trending_videos(real_data: Path, name: str, num_rows: int) -> None:
    path = real_data / f"titles/trending-2018/{name}videos.csv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        expected = {row["thumbnail_link"].split("/")[4]: row["title"] for row in csv.DictReader(file)}
    rows = list(read_dump(path, ("thumbnail_link", "title")))
    assert len(rows) == num_rows and all(row.youtube_id and row.title for row in rows)
    assert {row.youtube_id: row.title for row in rows} == expected
    with pytest.raises(UsageError, match="thumbnail_link"):
        list(read_dump(path))


@pytest.mark.realdata
def test_the_real_table_of_another_tool(real_data: Path) -> None:
    path = real_data / "titles/video2dataset/youtube.parquet"
    expected = pq.read_table(path, columns=["videoID", "title"]).to_pylist()
    ledger = FakeLedger([row["videoID"] for row in expected])
    found = import_dumps(ledger, [path])
    assert found.num_titles == 100 and len(ledger.titles) == 100
    assert [(each.youtube_id, each.raw_title) for each in ledger.outcomes] == [
        (row["videoID"], row["title"]) for row in expected
    ]


def test_the_real_ledger_takes_them(tmp_path: Path) -> None:
    from k700_text.crawl.ledger import Ledger, read_videos

    (tmp_path / "a.csv").write_bytes(table())
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.want(IDS[:3])
        assert [import_dumps(ledger, [tmp_path / "a.csv"]).num_titles for _ in range(2)] == [3, 0]
    assert [(video.youtube_id, video.outcomes[0].source) for video in read_videos(path)] == [
        (each, "dumps") for each in sorted(IDS[:3])
    ]


@pytest.mark.parametrize("head", ["youtube_id,title\n", '{"youtube_id": "', "youtube_id,"])
def test_a_line_without_an_end_is_one_line_and_not_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.setattr("k700_text.crawl.dump_files.MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "dump.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(head.encode())
        file.write(b"a" * (3 << 20))
    with pytest.raises(UsageError, match=r"a line of more than 1048576 bytes"):
        list(read_dump(path))


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_title_that_is_written_once_and_named_many_times_stays_one(tmp_path: Path, is_stored: bool) -> None:
    ids = [f"{number:010d}A" for number in range(2000)]
    column = pa.DictionaryArray.from_arrays(pa.array([0, None] * 1000, pa.int32()), pa.array(["x" * 1_000_000]))
    path = tmp_path / "dump.parquet"
    pq.write_table(pa.table({"youtube_id": ids, "title": column}), path, store_schema=is_stored)
    titles = {id(row.title): row.title for row in read_dump(path) if row.title is not None}
    assert list(titles.values()) == ["x" * 1_000_000]
