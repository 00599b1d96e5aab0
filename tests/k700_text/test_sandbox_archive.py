"""The sandbox's archives: playback and index with all their faults, availability, items, Common Crawl.

The oracle of ``World.recoverable_title`` is held against a reader that fetches every capture there is.
"""

from __future__ import annotations

import gzip
import html
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import pytest

from k700_text.errors import ConfigError
from k700_text.sandbox.captures import (
    EXTRA_PARAMETERS,
    UNKEYED_PARAMETERS,
    AddressForm,
    Capture,
    CaptureKind,
    CaptureShares,
    RowForm,
    case_twin,
    closest,
    parse_stamp,
)
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.services.watch_page import (
    consent_page,
    dead_page,
    huge_page,
    sorry_page,
    watch_page,
    windows_1252_page,
)
from k700_text.sandbox.world import World, WorldConfig
from tests.k700_text.sandboxing import Client, Reply, Videos, cdx, memento

ORDINARY = World(0)
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


@cache
def odd_capture(kind: CaptureKind) -> Capture:
    captures = (
        capture
        for video in ODD.all
        if not HOSTILE.archive.is_excluded(video.youtube_id)
        for capture in HOSTILE.archive.captures(video.youtube_id)
    )
    return next(capture for capture in captures if capture.kind is kind and capture.row is RowForm.PLAIN)


def play(get: Client, capture: Capture, **headers: str) -> Reply:
    return get(memento(capture.youtube_id, capture.stamp, capture.parameters), **headers)


# --- playback ---


def test_playback_redirects_to_the_closest_capture(get: Client) -> None:
    video = PICK.first(lambda video: len(video.captures) >= 3)
    for timestamp in ("0", "2", "2017", "20130101", "20200615120000"):
        reply = get(memento(video.youtube_id, timestamp))
        assert reply.status == 302 and "Memento-Datetime" not in reply.headers
        location = reply.headers["Location"]
        found = re.search(r"/web/(\d{14})id_/http://www\.youtube\.com/watch\?v=(.{11})$", location)
        assert found is not None and found[2] == video.youtube_id
        if timestamp in "02":
            expected = video.captures[0 if timestamp == "0" else -1]
        else:
            asked = datetime.strptime(timestamp + "00000101000000"[len(timestamp) :], "%Y%m%d%H%M%S")
            expected = min(video.captures, key=lambda moment: abs(moment - asked.replace(tzinfo=UTC)))
        assert found[1] == expected.strftime("%Y%m%d%H%M%S")
        page = get(location)
        made = datetime.strptime(page.headers["Memento-Datetime"], "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
        assert (page.status, made) == (200, expected)
        assert page.headers["x-archive-src"] and page.headers["x-archive-orig-content-type"].startswith("text/html")


def test_a_capture_links_to_its_neighbours(get: Client) -> None:
    video = PICK.first(lambda video: len(video.captures) == 3)
    stamps = [moment.strftime("%Y%m%d%H%M%S") for moment in video.captures]
    links = [get(memento(video.youtube_id, stamp)).headers["Link"] for stamp in stamps]
    pattern = re.compile(r'/web/(\d{14})/[^>]*>; rel="([a-z ]+)"')
    first, middle, last = ({relation: stamp for stamp, relation in pattern.findall(link)} for link in links)
    assert middle == {
        "first memento": stamps[0],
        "prev memento": stamps[0],
        "memento": stamps[1],
        "next memento": stamps[2],
        "last memento": stamps[2],
    }
    assert "prev memento" not in first and "next memento" not in last
    assert all('rel="original"' in link and 'rel="timemap"' in link for link in links)


def test_never_archived_is_404_without_memento_datetime(get: Client) -> None:
    video = PICK.first(lambda video: not video.captures)
    for target in (memento(video.youtube_id, "2017"), "/web/2017id_/http://example.com/", "/web/abc/x"):
        reply = get(target)
        assert reply.status == 404 and "Memento-Datetime" not in reply.headers


@pytest.mark.parametrize(
    ("captured", "title", "signs"),
    [
        ("2008-05-01", "YouTube - {}", ["swfArgs"]),
        ("2010-05-01", "YouTube - {}", ["PLAYER_CONFIG", "watch-userbanner"]),
        ("2012-05-01", "{} - YouTube", ["PLAYER_CONFIG"]),
        ("2015-05-01", "{} - YouTube", ["ytplayer.config", "og:title", 'itemprop="name"']),
        ("2019-05-01", "{} - YouTube", ["ytInitialData", "player_response"]),
        ("2022-05-01", "{} - YouTube", ["ytInitialPlayerResponse"]),
    ],
)
def test_watch_pages_of_every_era(captured: str, title: str, signs: list[str]) -> None:
    video = PICK.first(lambda video: "<" in video.title)
    page = watch_page(video, datetime.fromisoformat(captured).replace(tzinfo=UTC))
    found = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
    assert found is not None and html.unescape(found[1]) == title.format(video.title)
    assert all(sign in page for sign in signs)
    assert video.youtube_id in page
    assert page.count("</script>") == page.count("<script")


def test_dead_and_consent_pages_have_no_title_of_the_video(get: Client) -> None:
    video = PICK.first(
        lambda video: video.died_at is not None and video.captures and video.captures[-1] > video.died_at
    )
    page = get(memento(video.youtube_id, video.captures[-1].strftime("%Y%m%d%H%M%S")))
    assert page.status == 200 and "Memento-Datetime" in page.headers
    assert page.body.decode() == dead_page(video, video.captures[-1])
    assert html.escape(video.title) not in page.body.decode()
    assert "<title>Before you continue to YouTube</title>" in consent_page()
    assert "<title>Bevor Sie zu YouTube weitergehen</title>" in consent_page("de")
    assert "unusual traffic" in sorry_page()


def test_archived_errors_and_redirects_carry_memento_datetime(get_odd: Client) -> None:
    missing = play(get_odd, odd_capture(CaptureKind.NOT_FOUND))
    assert missing.status == 404 and "Memento-Datetime" in missing.headers
    moved = play(get_odd, odd_capture(CaptureKind.REDIRECT))
    assert moved.status == 302 and "Memento-Datetime" in moved.headers
    target = get_odd(urlsplit(moved.headers["Location"]).path)
    assert target.status == 404 and "Memento-Datetime" not in target.headers
    capture = odd_capture(CaptureKind.REDIRECT)
    shown = get_odd(memento(capture.youtube_id, capture.stamp, capture.parameters).replace("id_/", "/"))
    assert shown.status == 200 and b"Got an HTTP 302 response at crawl time" in shown.body


def test_a_circle_leads_back_to_itself(get_odd: Client) -> None:
    capture = odd_capture(CaptureKind.CIRCLE)
    begin = target = memento(capture.youtube_id, capture.stamp, capture.parameters)
    seen = []
    for _ in range(4):
        reply = get_odd(target)
        assert reply.status in (301, 302)
        parts = urlsplit(reply.headers["Location"])
        target = f"{parts.path}?{parts.query}"
        seen.append(target)
    assert seen[1] == seen[3] == begin and seen[0] == seen[2] != begin


def test_a_page_in_windows_1252_is_no_utf_8(get_odd: Client) -> None:
    declared = set()
    for video in ODD.all:
        for capture in HOSTILE.archive.captures(video.youtube_id):
            if capture.kind is CaptureKind.WINDOWS_1252 and not HOSTILE.archive.is_excluded(video.youtube_id):
                reply = play(get_odd, capture)
                with pytest.raises(UnicodeDecodeError):
                    reply.body.decode()
                text = reply.body.decode("cp1252")
                assert title_of(text) == video.title and "Café" in text
                declared.add(("windows-1252" in reply.headers["Content-Type"], "charset=" in text))
        if len(declared) == 4:
            return
    pytest.fail(f"only these ways to declare the encoding were seen: {declared}")


def test_windows_1252_scripts_stay_json() -> None:
    video = replace(PICK.all[0], title="Übung 😂 日本 “x”")
    page = watch_page(video, datetime(2019, 1, 1, tzinfo=UTC))
    text = windows_1252_page(page, declares_charset=True).decode("cp1252")
    found = re.search(r'window\["ytInitialData"\] = (.*?);</script>', text)
    assert found is not None and "\\ud83d\\ude02" in found[1] and "Übung" in found[1]
    assert "Übung 😂 日本 “x”" in json.dumps(json.loads(found[1]), ensure_ascii=False)


def test_a_huge_page_is_2_to_4_megabytes(get_odd: Client) -> None:
    capture = odd_capture(CaptureKind.HUGE)
    reply = play(get_odd, capture)
    assert 2 << 20 <= len(reply.body) <= 5 << 20
    assert title_of(reply.body.decode()) == HOSTILE.video(capture.youtube_id).title
    assert len(huge_page("<body></body>", 10_000).encode()) >= 10_000


def test_a_second_content_encoding_is_empty(get_odd: Client) -> None:
    capture = odd_capture(CaptureKind.DOUBLE_ENCODING)
    reply = play(get_odd, capture, Accept_Encoding="gzip")
    assert reply.headers.get_all("Content-Encoding") == ["gzip", ""]
    assert title_of(gzip.decompress(reply.body).decode()) == HOSTILE.video(capture.youtube_id).title
    assert play(get_odd, capture).headers.get_all("Content-Encoding") == ["identity", ""]


def test_a_wrong_page_is_about_the_id_that_differs_by_case(get_odd: Client) -> None:
    capture = odd_capture(CaptureKind.WRONG_ID)
    page = play(get_odd, capture).body.decode()
    twin = case_twin(capture.youtube_id)
    assert twin is not None and twin.lower() == capture.youtube_id.lower() and case_twin(twin) == capture.youtube_id
    assert twin in page and capture.youtube_id not in page
    assert case_twin("12345678_-A") is None


@pytest.mark.parametrize("status", [200, 403])
def test_excluded_videos_are_told_everywhere_by_status_or_by_words(get_odd: Client, status: int) -> None:
    video = ODD.first(
        lambda video: (
            video.captures
            and HOSTILE.archive.is_excluded(video.youtube_id)
            and HOSTILE.archive.exclusion_status(video.youtube_id) == status
        )
    )
    parameters = HOSTILE.archive.captures(video.youtube_id)[0].parameters
    page = get_odd(memento(video.youtube_id, "2017", parameters))
    index = get_odd(cdx(video.youtube_id, ("matchType", "prefix")))
    assert page.status == status and b"has been excluded from the Wayback Machine" in page.body
    assert ("X-Archive-Wayback-Runtime-Error" in page.headers) is (status == 403)
    assert index.status == 403 and "AdministrativeAccess" in index.headers["X-Archive-Wayback-Runtime-Error"]
    assert "Memento-Datetime" not in page.headers and "Memento-Datetime" not in index.headers
    assert b"Blocked Site Error" in index.body
    assert HOSTILE.recoverable_title(video.youtube_id) is None


def test_captures_under_a_further_parameter_are_found_by_prefix_only(get_odd: Client) -> None:
    video = ODD.first(
        lambda video: (
            video.captures
            and HOSTILE.archive.captures(video.youtube_id)[0].parameters
            and len(HOSTILE.archive.under_key(video.youtube_id)) == len(video.captures)
            and not HOSTILE.archive.is_excluded(video.youtube_id)
        )
    )
    plain = get_odd(memento(video.youtube_id, "2017"))
    assert plain.status == 404 and "Memento-Datetime" not in plain.headers
    assert get_odd(cdx(video.youtube_id)).json() == []
    rows = get_odd(cdx(video.youtube_id, ("matchType", "prefix"), ("fl", "timestamp,original"))).json()[1:]
    assert len(rows) == len(video.captures)
    assert {original for _, original in rows} == {
        f"http://www.youtube.com/watch?v={video.youtube_id}{EXTRA_PARAMETERS}"
    }
    star = cdx(video.youtube_id, ("fl", "timestamp,original")).replace("&output", "*&output")
    assert get_odd(star).json()[1:] == rows
    assert get_odd(memento(video.youtube_id, rows[0][0], EXTRA_PARAMETERS)).status in (200, 301, 302, 404)
    assert "Memento-Datetime" in get_odd(memento(video.youtube_id, rows[0][0], EXTRA_PARAMETERS)).headers


def test_captures_with_parameters_that_the_key_leaves_out_are_found_by_the_plain_address(get_odd: Client) -> None:
    capture = next(
        captures[0]
        for captures in (HOSTILE.archive.under_key(video.youtube_id) for video in ODD.all)
        if len(captures) == 1
        and captures[0].parameters == UNKEYED_PARAMETERS
        and captures[0].kind is CaptureKind.PAGE
        and not HOSTILE.archive.is_excluded(captures[0].youtube_id)
    )
    found = get_odd(memento(capture.youtube_id, "2017"))
    assert found.status == 302 and found.headers["Location"].endswith(f"v={capture.youtube_id}&gl=US&hl=en")
    plain, whole = (get_odd(memento(capture.youtube_id, capture.stamp, more)) for more in ("", UNKEYED_PARAMETERS))
    assert plain.status == 200 and plain.body == whole.body and "Memento-Datetime" in plain.headers
    (row,) = get_odd(cdx(capture.youtube_id, ("fl", "urlkey,original"))).json()[1:]
    assert row == [f"com,youtube)/watch?v={capture.youtube_id.lower()}", capture.original]


def test_the_page_of_excuses_is_a_fault(get: Client) -> None:
    assert get("/sry").status == 503


def test_other_addresses_of_a_video_are_captured_too(get_odd: Client) -> None:
    kinds: dict[str, set[str]] = {}
    for video in ODD.all:
        if HOSTILE.archive.is_excluded(video.youtube_id):
            continue
        for capture in HOSTILE.archive.other_captures(video.youtube_id):
            reply = get_odd(f"/web/{capture.stamp}id_/{capture.original}")
            assert (reply.status, "Memento-Datetime" in reply.headers) == (capture.kind.status, True)
            assert video.published_at <= capture.captured_at
            kinds.setdefault(capture.form.name + capture.parameters, set()).add(capture.kind)
            if capture.kind is CaptureKind.MOVED:
                assert capture.leads_to is not None and reply.headers["Location"].endswith(capture.leads_to)
                target = get_odd(urlsplit(reply.headers["Location"])._replace(scheme="", netloc="").geturl())
                assert target.status in (200, 302)
            elif capture.kind.has_title:
                assert title_of(reply.body.decode()) == video.title
    pages_and_deaths = {CaptureKind.PAGE, CaptureKind.DEAD}
    assert kinds == {
        "EMBED": pages_and_deaths,
        "MOBILE": pages_and_deaths,
        "WATCH&feature=youtu.be": pages_and_deaths,
        "WATCH&pbj=1": {CaptureKind.PAGE},
        "SHORT_LINK": {CaptureKind.MOVED},
        "PLAYER": {CaptureKind.MOVED},
        "OEMBED": {CaptureKind.PAGE, CaptureKind.NOT_FOUND},
        "OEMBED_OF_HTTP": {CaptureKind.PAGE, CaptureKind.NOT_FOUND},
    }


def test_the_oracle_agrees_with_a_reader_of_every_capture(get_odd: Client) -> None:
    num_recoverable = 0
    for video in ODD.all[:400]:
        found = {
            title_of(text)
            for text in pages(get_odd, video.youtube_id)
            if re.search(rf"{re.escape(video.youtube_id)}\b(?!-)", text)
        }
        expected = HOSTILE.recoverable_title(video.youtube_id)
        assert found - {""} == ({expected} if expected else set())
        num_recoverable += expected is not None
    assert 100 < num_recoverable < 350


def pages(get: Client, youtube_id: str) -> Iterator[str]:
    reply = get(cdx(youtube_id, ("matchType", "prefix"), ("fl", "timestamp,original")))
    addresses = [f"/web/{stamp}id_/{original}" for stamp, original in reply.json()[1:]] if reply.status == 200 else []
    for form in AddressForm:
        found = get(f"/web/2id_/{form.format(youtube_id)}")
        if found.status == 302 and form is not AddressForm.WATCH:
            parts = urlsplit(found.headers["Location"])
            addresses.append(f"{parts.path}?{parts.query}" if parts.query else parts.path)
    for address in addresses:
        page = get(address)
        if page.status == 200:
            try:
                yield page.body.decode()
            except UnicodeDecodeError:
                yield page.body.decode("cp1252")


def title_of(page: str) -> str:
    """Returns what a watch page, or an answer that is data, calls its video; other pages give an empty text."""
    if page.startswith(("{", "[")):
        return title_in_data(json.loads(page))
    if preview := re.search(r'"embedded_player_response": ("(?:[^"\\]|\\.)*")', page):
        shown = json.loads(json.loads(preview[1])).get("embedPreview")
        return str(shown["thumbnailPreviewRenderer"]["title"]["runs"][0]["text"]) if shown else ""
    found = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
    assert found is not None
    if not any(sign in page for sign in ('"video_id"', '"videoId"')) or found[1] == "YouTube":
        return ""
    title = html.unescape(found[1])
    is_old = title.startswith("YouTube - ") and any(sign in page for sign in ("swfArgs", "PLAYER_CONFIG"))
    return title.removeprefix("YouTube - ") if is_old else title.removesuffix(" - YouTube")


def title_in_data(data: Any) -> str:
    if isinstance(data, dict):
        return str(data["title"])
    return str(data[1]["playerResponse"].get("videoDetails", {}).get("title", ""))


# --- the world of captures ---


@pytest.mark.parametrize(
    ("digits", "expected"),
    [
        ("2015", "2015-01-01"),
        ("20150500", "2015-05-01"),
        ("20150000", "2015-01-01"),
        ("99999999999999", "9000-12-01"),
        ("0000", "0001-01-01"),
    ],
)
def test_odd_stamps_are_read(digits: str, expected: str) -> None:
    moment = parse_stamp(digits)
    assert moment.isoformat()[:7] == expected[:7] or digits.startswith("9999")
    closest(PLAIN.archive.captures(PICK.first(lambda video: video.captures).youtube_id), digits)


def test_captures_are_a_pure_function_and_leave_the_videos_alone() -> None:
    again = World(0, WorldConfig.hostile())
    for video in ODD.all[:200]:
        assert HOSTILE.archive.captures(video.youtube_id) == again.archive.captures(video.youtube_id)
        assert video.captures == ORDINARY.video(video.youtube_id).captures
        assert video.availability is ORDINARY.video(video.youtube_id).availability
        plain = PLAIN.archive.captures(video.youtube_id)
        assert tuple(capture.captured_at for capture in plain) == video.captures
        assert {capture.kind for capture in plain} <= {CaptureKind.PAGE, CaptureKind.DEAD}


def test_shares_of_captures_are_kept() -> None:
    kinds = Counter(
        capture.kind
        for video in Videos(ORDINARY, 2500, "shares of captures").all
        for capture in ORDINARY.archive.captures(video.youtube_id)
    )
    assert kinds[CaptureKind.PAGE] / kinds.total() > 0.85
    for kind, share in ORDINARY.config.captures.kinds.items():
        assert 0 < kinds[kind] / kinds.total() < 3 * share


@pytest.mark.parametrize("settings", [{"kinds": {CaptureKind.HUGE: 1.2}}, {"excluded": -0.1}, {"consent": 2}])
def test_bad_shares_of_captures_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="sandbox archive"):
        CaptureShares(**settings)  # type: ignore[arg-type]  # the tests of types are mypy's


def test_without_a_title_or_a_good_capture_nothing_is_recoverable() -> None:
    untitled = ODD.first(lambda video: not video.title and video.captures)
    assert HOSTILE.recoverable_title(untitled.youtube_id) is None
    unarchived = ODD.first(lambda video: not video.captures and not HOSTILE.archive.other_captures(video.youtube_id))
    assert HOSTILE.recoverable_title(unarchived.youtube_id) is None
