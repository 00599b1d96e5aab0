"""The sandbox's index of captures and its items, to the parameter."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from k700_text.sandbox.captures import CaptureShares, RowForm, case_twin
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World, WorldConfig
from tests.k700_text.sandboxing import Client, Videos, cdx, watch

HOSTILE = World(0, WorldConfig.hostile())
NOTHING_ODD = CaptureShares(kinds={}, consent=0, day_zero=0, excluded=0, unkeyed_parameters=0, case_twins=0)
PLAIN = World(0, WorldConfig(captures=NOTHING_ODD))
PICK = Videos(PLAIN, 400)
ODD = Videos(HOSTILE, 1500)


@pytest.fixture(scope="module")
def get() -> Iterator[Client]:
    with SandboxServer(PLAIN) as server:
        client = Client(server.port)
        yield client
        client.close()


@pytest.fixture(scope="module")
def get_odd() -> Iterator[Client]:
    with SandboxServer(HOSTILE) as server:
        client = Client(server.port, timeout=30)
        yield client
        client.close()


# --- index ---


def test_the_index_lists_the_captures(get: Client) -> None:
    video = PICK.first(lambda video: len(video.captures) >= 2)
    header, *rows = get(cdx(video.youtube_id)).json()
    assert header == ["urlkey", "timestamp", "original", "mimetype", "statuscode", "digest", "length"]
    assert [row[1] for row in rows] == [moment.strftime("%Y%m%d%H%M%S") for moment in video.captures]
    assert all(row[0] == f"com,youtube)/watch?v={video.youtube_id.lower()}" for row in rows)
    assert all(re.fullmatch("[A-Z2-7]{32}", row[5]) for row in rows)
    assert get(cdx(video.youtube_id, ("limit", "-1"), ("fl", "timestamp"))).json() == [["timestamp"], [rows[-1][1]]]
    assert get(cdx(video.youtube_id, ("offset", "1"), ("fl", "timestamp"))).json()[1:] == [[row[1]] for row in rows[1:]]
    lines = get(cdx(video.youtube_id).replace("&output=json", "")).body.decode().splitlines()
    assert lines == [" ".join(row) for row in rows]
    packed = get(cdx(video.youtube_id), Accept_Encoding="gzip")
    assert json.loads(gzip.decompress(packed.body)) == [header, *rows]
    assert "Content-Encoding" not in get(cdx(video.youtube_id, ("gzip", "false")), Accept_Encoding="gzip").headers
    absent = PICK.first(lambda video: not video.captures)
    empty = get(cdx(absent.youtube_id))
    assert (empty.status, empty.json()) == (200, [])
    assert get(cdx(absent.youtube_id).replace("&output=json", "")).body == b""


def test_the_index_filters_and_collapses(get_odd: Client) -> None:
    video = ODD.first(
        lambda video: (
            len(video.captures) >= 3
            and not HOSTILE.archive.is_excluded(video.youtube_id)
            and {"200", "-"} <= {str(row[4]) for row in get_odd(cdx(video.youtube_id)).json()[1:]}
        )
    )
    rows = get_odd(cdx(video.youtube_id)).json()[1:]

    def chosen(*more: tuple[str, str]) -> list[list[str]]:
        return list(get_odd(cdx(video.youtube_id, *more)).json()[1:])

    good = [row for row in rows if row[4] == "200"]
    assert chosen(("filter", "statuscode:200")) == good
    assert chosen(("filter", "!statuscode:200")) == [row for row in rows if row not in good]
    assert chosen(("filter", "statuscode:20")) == []
    assert chosen(("filter", "statuscode:[23]..|-"), ("filter", "mimetype:text/html")) == [
        row for row in rows if row[3] == "text/html" and row[4] != "404"
    ]
    assert chosen(("filter", "~original:watch")) == rows
    year = rows[0][1][:4]
    assert chosen(("from", year), ("to", year)) == [row for row in rows if row[1].startswith(year)]
    firsts = [row for index, row in enumerate(rows) if index == 0 or rows[index - 1][1][:3] != row[1][:3]]
    assert chosen(("collapse", "timestamp:3")) == firsts
    assert chosen(("collapse", "urlkey")) == rows[:1]


def test_the_index_resumes(get: Client) -> None:
    video = PICK.first(lambda video: len(video.captures) == 4)
    whole = get(cdx(video.youtube_id)).json()[1:]
    first = get(cdx(video.youtube_id, ("limit", "3"), ("showResumeKey", "true"))).json()
    assert first[1:4] == whole[:3] and first[4] == [] and len(first[5]) == 1
    rest = get(cdx(video.youtube_id, ("limit", "3"), ("showResumeKey", "true"), ("resumeKey", first[5][0]))).json()
    assert rest[1:] == whole[3:]
    # The key may also be put into the address as it is: it is encoded already.
    again = get(f"{cdx(video.youtube_id)}&resumeKey={first[5][0]}").json()
    assert again == rest
    assert get(cdx(video.youtube_id, ("limit", "3"))).json() == [first[0], *whole[:3]]
    text = get(cdx(video.youtube_id, ("limit", "3"), ("showResumeKey", "true")).replace("&output=json", "")).body
    assert text.decode().splitlines()[3:] == ["", first[5][0]]


def test_the_index_lists_revisits_bare_rows_and_day_zero(get_odd: Client) -> None:
    forms = Counter(
        capture.row if capture.stamp[6:8] != "00" else "day 00"
        for video in ODD.all
        for capture in HOSTILE.archive.captures(video.youtube_id)
    )
    assert forms[RowForm.REVISIT] > 20 and forms[RowForm.BARE] > 10 and forms["day 00"] > 20
    for video in ODD.all[:300]:
        captures = HOSTILE.archive.captures(video.youtube_id)
        is_mixed_up = len(HOSTILE.archive.under_key(video.youtube_id)) != len(captures)
        if is_mixed_up or HOSTILE.archive.is_excluded(video.youtube_id):
            continue
        rows = get_odd(cdx(video.youtube_id, ("matchType", "prefix"))).json()[1:]
        for capture, row in zip(captures, rows, strict=True):
            expected = {
                RowForm.PLAIN: ["text/html", str(capture.kind.status)],
                RowForm.REVISIT: ["warc/revisit", "-"],
                RowForm.BARE: ["text/html", "-"],
            }[capture.row]
            assert row[1:3] == [capture.stamp, capture.original] and row[3:5] == expected
            if capture.row is RowForm.REVISIT:
                assert row[5] in {earlier[5] for earlier in rows if earlier[3] == "text/html"}
            if capture.row is RowForm.BARE:
                assert row[6] == "-"


def test_two_ids_that_differ_by_case_share_a_key(get_odd: Client) -> None:
    video = ODD.first(
        lambda video: (
            len({capture.youtube_id for capture in HOSTILE.archive.under_key(video.youtube_id)}) == 2
            and not HOSTILE.archive.is_excluded(video.youtube_id)
        )
    )
    twin = case_twin(video.youtube_id)
    assert twin is not None
    rows = get_odd(cdx(video.youtube_id, ("matchType", "prefix"), ("fl", "urlkey,original"))).json()[1:]
    assert rows == get_odd(cdx(twin, ("matchType", "prefix"), ("fl", "urlkey,original"))).json()[1:]
    keys = {urlkey.partition("&")[0] for urlkey, _ in rows}
    assert keys == {f"com,youtube)/watch?v={video.youtube_id.lower()}"}
    ids = {original.partition("v=")[2][:11] for _, original in rows}
    assert ids == {video.youtube_id, twin}


@pytest.mark.parametrize(
    "more",
    [
        "&limit=many", "&from=yesterday", "&to=1234567890123456", "&filter=statuscode", "&filter=colour:red",
        "&filter=statuscode:[", "&collapse=timestamp:x", "&collapse=colour", "&matchType=domain", "&page=1",
        "&showNumPages=true",
    ],
)  # fmt: skip
def test_bad_parameters_are_refused(get: Client, more: str) -> None:
    assert get(cdx("dQw4w9WgXcQ") + more).status == 400


def test_the_index_needs_an_address(get: Client) -> None:
    assert get("/cdx/search/cdx?output=json").status == 400
    assert get("/cdx/search/cdx?url=example.com&output=json").json() == []


# --- items ---


def test_items_have_three_forms_of_names_and_may_be_dark_or_foreign(get_odd: Client) -> None:
    seen: Counter[str] = Counter()
    for video in ODD.all:
        mirror = HOSTILE.mirror(video.youtube_id)
        forms = [f"youtube-{video.youtube_id}", f"youtube_{video.youtube_id}", video.youtube_id]
        if mirror is None:
            if seen["none"] < 20:
                assert [get_odd(f"/metadata/{form}").json() for form in forms] == [{}, {}, {}]
            seen["none"] += 1
            continue
        item = get_odd(f"/metadata/{mirror.item}").json()
        assert all(get_odd(f"/metadata/{form}").json() == {} for form in forms if form != mirror.item)
        seen[mirror.item.replace(video.youtube_id, "")] += 1
        if mirror.is_dark:
            seen["dark"] += 1
            assert item == {"is_dark": True} and HOSTILE.mirrored_title(video.youtube_id) is None
        elif mirror.is_foreign:
            seen["foreign"] += 1
            assert video.youtube_id not in item["metadata"]["originalurl"]
            assert HOSTILE.mirrored_title(video.youtube_id) is None
        else:
            title = item["metadata"]["title"]
            seen["list"] += isinstance(title, list)
            assert (title[0] if isinstance(title, list) else title) == video.title
            assert HOSTILE.mirrored_title(video.youtube_id) == (video.title or None)
            assert item["metadata"]["originalurl"] == watch(video.youtube_id)
    assert min(seen[name] for name in ("none", "youtube-", "youtube_", "", "dark", "foreign", "list")) >= 5
