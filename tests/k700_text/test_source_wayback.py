from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from k700_text.crawl import captures as capture_module
from k700_text.crawl.captures import Address, Play, Trail, stamp_time
from k700_text.crawl.sources import wayback
from k700_text.crawl.sources.wayback import Wayback, WaybackIndex, parse_evidence, parse_index, parse_index_evidence
from k700_text.crawl.transport import Response, Transport
from k700_text.crawl.watch_pages import id_in_url
from k700_text.errors import K700TextError, ParseError, RateLimitedError, RefusedError, TransportError
from k700_text.records import Availability, OutcomeStatus, TitleOutcome
from k700_text.sandbox.captures import CaptureKind
from k700_text.sandbox.messages import Answer
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World, WorldConfig
from k700_text.titles import clean_plain_title
from tests.k700_text import saved_pages as pages
from tests.k700_text.crawling import NOON, POSSIBLE_ID, answer
from tests.k700_text.saved_pages import TWIN_ID

OTHER_STAMP = "20130601000000"
EMBED, EMBED_OF_OEMBED, SHORT_LINK, OEMBED, OEMBED_OF_HTTP, MOBILE, PLAYER = OTHERS = tuple(
    address.format(POSSIBLE_ID) for address in wayback.OTHER_ADDRESSES
)
HTML = {"content-type": "text/html; charset=utf-8"}
NEVER = answer(404, b"<html>Hrm. not archived</html>", HTML)
OFFLINE = answer(302, b"", {"location": "/sry"})
PARSERS = {"wayback": parse_evidence, "wayback-cdx": parse_index_evidence}


class Archive:
    """Stands in for the web archive: captures by time stamp, played in the way of the real one.

    Args:
        captures: page, response or error by time stamp, of the watch page.
        rows: what the index answers.
        originals: the address that was captured, by time stamp.
        others: page, response or error by further addresses of the video; of each there is one capture at most.

    Attributes:
        asked: the time stamps that were asked for, of the watch page; ``index`` for the index.
        others_asked: the further addresses that were asked for.
    """

    def __init__(
        self,
        captures: Mapping[str, str | Response | K700TextError],
        rows: Response | None = None,
        originals: Mapping[str, str] | None = None,
        others: Mapping[str, str | Response | K700TextError] | None = None,
    ) -> None:
        self.captures, self.rows = dict(captures), rows
        self.originals, self.others = originals or {}, dict(others or {})
        self.asked: list[str] = []
        self.others_asked: list[str] = []
        self.lanes: list[str | None] = []

    def __call__(
        self, url: str, params: Mapping[str, str] | None = None, *, method: str = "GET", lane: str | None = None
    ) -> Response:
        assert params is None and method == "GET"
        self.lanes.append(lane)
        if url.startswith(wayback.INDEX_URL):
            self.asked.append("index")
            assert self.rows is not None
            return self.rows
        address = Address.parse(url)
        assert address is not None and url.startswith(f"https://web.archive.org/web/{address.stamp}id_/http")
        if address.original in OTHERS:
            return self._play_other(address)
        self.asked.append(address.stamp)
        if address.stamp not in self.captures:
            return self._redirect(address)
        found = self.captures[address.stamp]
        if isinstance(found, K700TextError):
            raise found
        return found if isinstance(found, Response) else self.play(address.stamp, found)

    def _play_other(self, address: Address) -> Response:
        self.others_asked.append(address.original)
        found = self.others.get(address.original, NEVER)
        if isinstance(found, K700TextError):
            raise found
        if found is NEVER or address.stamp == OTHER_STAMP:
            return found if isinstance(found, Response) else self.play(OTHER_STAMP, found, link="")
        return answer(302, b"", {"location": f"https://web.archive.org/web/{OTHER_STAMP}id_/{address.original}"})

    def _redirect(self, address: Address) -> Response:
        if not self.captures:
            return NEVER
        wanted = stamp_time(address.stamp)
        assert wanted is not None
        stamp = min(self.captures, key=lambda each: abs((stamp_time(each) or wanted) - wanted))
        return answer(302, b"", {"location": f"https://web.archive.org/web/{stamp}id_/{self.original(stamp)}"})

    def original(self, stamp: str) -> str:
        return self.originals.get(stamp, f"http://www.youtube.com/watch?v={POSSIBLE_ID}")

    def play(self, stamp: str, page: str = "", status: int = 200, **headers: str) -> Response:
        moment = stamp_time(stamp)
        assert moment is not None
        stamps = self.captures or (stamp,)
        ends = (("first memento", min(stamps)), ("last memento", max(stamps)))
        link = ", ".join(
            f'<https://web.archive.org/web/{each}/{self.original(each)}>; rel="{name}"; datetime="x"'
            for name, each in ends
        )
        memento = {"memento-datetime": moment.strftime("%a, %d %b %Y %H:%M:%S GMT"), "link": link}
        return answer(status, page.encode(), {**HTML, **memento, **headers})


def fetch(
    archive: Archive, source: Wayback | WaybackIndex | None = None, youtube_id: str = POSSIBLE_ID
) -> TitleOutcome:
    """Asks about one video, and checks that the evidence alone gives the same outcome."""
    source = source or Wayback()
    (outcome,) = source.fetch([youtube_id], archive)
    assert outcome.evidence is not None
    again = PARSERS[source.name](youtube_id, outcome.evidence, outcome.http_status, outcome.fetched_at)
    assert again == outcome
    assert outcome.availability is Availability.UNKNOWN
    assert outcome.source == source.name
    return outcome


def alive(title: str = "A title") -> str:
    return pages.page_2013(title, POSSIBLE_ID)


DEAD = pages.DEAD_PAGES["2014"]


def test_the_closest_capture_tells_the_title_in_two_requests() -> None:
    archive = Archive({"20120304050607": alive(), "20160304050607": alive("Tom & Éric"), "20190101000000": DEAD})
    outcome = fetch(archive)
    assert (outcome.status, outcome.title) == (OutcomeStatus.TITLE, "Tom & Éric")
    assert outcome.captured_at == datetime(2016, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert outcome.http_status == 200
    assert archive.asked == ["20170101000000", "20160304050607"]
    assert archive.lanes == [None, None]


def test_a_video_never_archived_costs_one_request_for_each_of_its_addresses() -> None:
    archive = Archive({})
    outcome = fetch(archive)
    assert (outcome.reason, outcome.http_status, len(archive.asked)) == ("not_archived", 404, 1)
    assert archive.others_asked == list(OTHERS)
    assert all(id_in_url(address) == POSSIBLE_ID for address in OTHERS)


def test_no_other_address_is_asked_for_where_the_watch_page_has_the_title() -> None:
    archive = Archive({"20180101000000": alive()}, others={EMBED: pages.embed_page_2013("A title", POSSIBLE_ID)})
    assert fetch(archive).title == "A title" and archive.others_asked == []


@pytest.mark.parametrize("captures", [{}, {"20180101000000": pages.DEAD_PAGES["2014"]}], ids=["no page", "dead page"])
@pytest.mark.parametrize(
    ("address", "page"),
    [
        (EMBED, pages.embed_page_2013),
        (EMBED_OF_OEMBED, pages.embed_page_2021),
        (OEMBED, pages.oembed),
        (OEMBED_OF_HTTP, pages.oembed),
        (MOBILE, pages.page_without_data),
        (PLAYER, pages.embed_page_2021),
    ],
)
def test_a_capture_of_another_address_tells_the_title(
    captures: dict[str, str], address: str, page: Callable[[str, str], str]
) -> None:
    archive = Archive(captures, others={address: page("Tom & Jerry", POSSIBLE_ID)})
    outcome = fetch(archive)
    assert (outcome.title, outcome.captured_at) == ("Tom & Jerry", stamp_time(OTHER_STAMP))
    # One request for what was never archived, two for what was, none for what comes after it.
    assert archive.others_asked == [*OTHERS[: OTHERS.index(address)], address, address]
    archive = Archive(captures, others={address: page("Another's", TWIN_ID)})
    assert fetch(archive).reason == "wrong_id"


def test_a_short_link_is_followed_to_the_page_that_was_captured_behind_it() -> None:
    behind = f"http://www.youtube.com/watch?v={POSSIBLE_ID}&feature=youtu.be"
    archive = Archive({}, others={SHORT_LINK: ""})
    location = f"https://web.archive.org/web/{OTHER_STAMP}id_/{behind}"
    archive.others[SHORT_LINK] = archive.play(OTHER_STAMP, status=301, location=location, link="")
    asked: list[str] = []

    def get(url: str, *rest: Any, **options: Any) -> Response:
        if not url.endswith(behind):
            return archive(url, *rest, **options)
        asked.append(url)
        return archive.play(OTHER_STAMP, alive("Behind the link"), link="")

    (outcome,) = Wayback().fetch([POSSIBLE_ID], get)
    assert outcome.title == "Behind the link" and len(asked) == 1
    assert archive.others_asked == [EMBED, EMBED_OF_OEMBED, SHORT_LINK, SHORT_LINK]


def test_captures_of_one_moment_under_two_addresses_are_two() -> None:
    archive = Archive({OTHER_STAMP: DEAD}, others={EMBED: pages.embed_page_2013("A title", POSSIBLE_ID)})
    assert fetch(archive).title == "A title"


def test_an_exclusion_ends_the_search_and_a_fault_of_the_archive_is_tried_again() -> None:
    archive = Archive({"20180101000000": DEAD}, others={EMBED: answer(403, b"RobotAccessControlException", HTML)})
    assert fetch(archive).reason == "excluded" and len(archive.others_asked) == 2
    for error in (TransportError("cut off", host="web.archive.org"), RefusedError("refused", host="web.archive.org")):
        with pytest.raises(type(error)):
            fetch(Archive({}, others={SHORT_LINK: error}))
    # A fault of one capture is remembered, while the others may still tell the title.
    archive = Archive({"20170101000001": answer(503, b"")}, others={OEMBED: pages.oembed("A title", POSSIBLE_ID)})
    assert fetch(archive).title == "A title"


def test_no_video_costs_more_requests_than_the_plan_says() -> None:
    dates = ("20050301000000", "20130101000001", "20170101000001", "20200101000001")
    archive = Archive(dict.fromkeys(dates, DEAD), others=dict.fromkeys(OTHERS, pages.LOGIN_PAGE))
    fetch(archive)
    num_requests = len(archive.asked) + len(archive.others_asked)
    assert num_requests <= Wayback.requests_per_batch <= num_requests + 6
    assert Wayback().plan(1000, 8.0, None).num_requests == 1000 * Wayback.requests_per_batch


def test_a_dead_page_sends_to_the_other_dates_and_nothing_is_played_twice() -> None:
    archive = Archive({"20110101000000": alive(), "20161231000000": DEAD, "20230101000000": DEAD})
    outcome = fetch(archive)
    assert outcome.title == "A title"
    # 2013 leads to 2011; the rest was not needed.
    assert archive.asked == ["20170101000000", "20161231000000", "20130101000000", "20110101000000"]


def test_a_single_capture_is_known_to_be_all_there_is() -> None:
    archive = Archive({"20180101000000": DEAD})
    outcome = fetch(archive)
    assert (outcome.reason, outcome.http_status) == ("dead_page", 200)
    assert archive.asked == ["20170101000000", "20180101000000"]


def test_without_a_link_header_every_date_is_asked_but_no_capture_twice() -> None:
    archive = Archive({"20180101000000": DEAD})
    page = archive.play("20180101000000", DEAD)
    archive.captures["20180101000000"] = Response(200, {**page.headers, "link": ""}, page.body, 0.0)
    assert fetch(archive).reason == "dead_page"
    assert archive.asked.count("20180101000000") == 1 and len(archive.asked) == 5


@pytest.mark.parametrize("status", [301, 404, 410, 429, 500, 503])
def test_an_archived_error_is_a_capture_without_title_and_no_fault_of_the_archive(status: int) -> None:
    archive = Archive({"20120101000000": alive(), "20170101000001": ""})
    archive.captures["20170101000001"] = archive.play("20170101000001", "Gone", status)
    assert fetch(archive).title == "A title"
    del archive.captures["20120101000000"]
    outcome = fetch(archive)
    assert (outcome.reason, outcome.http_status) == ("archived_error", status)


def test_an_archived_redirect_to_https_is_followed() -> None:
    location = f"https://web.archive.org/web/20170101000001id_/https://www.youtube.com/watch?v={POSSIBLE_ID}"
    archive = Archive({"20170101000001": "", "20170101000005": alive()})
    redirect = archive.play("20170101000001", status=301, location=location)

    def get(url: str, *rest: Any, **options: Any) -> Response:
        if "20170101000001id_/https:" in url:
            # The archive does not play the redirect to itself again, but what comes next to it.
            archive.asked.append("https")
            return answer(302, b"", {"location": location.replace("000001", "000005")})
        return archive(url, *rest, **options)

    archive.captures["20170101000001"] = redirect
    (outcome,) = Wayback().fetch([POSSIBLE_ID], get)
    assert outcome.title == "A title"
    assert archive.asked == ["20170101000000", "20170101000001", "https", "20170101000005"]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("https://web.archive.org/web/20180101000000id_/http://www.youtube.com/", "archived_error"),
        ("https://consent.youtube.com/m?continue=x", "consent_page"),
        ("https://www.google.com/sorry/index?continue=x", "block_page"),
        (f"http://www.youtube.com/watch?v={POSSIBLE_ID}", "archived_error"),
        (
            f"https://web.archive.org/web/20180101000001id_/http://www.youtube.com/watch?v={POSSIBLE_ID}",
            "archived_error",
        ),
        ("http://[broken", "archived_error"),
    ],
)
def test_archived_redirects_elsewhere_and_in_circles_end_without_a_title(location: str, reason: str) -> None:
    archive = Archive({"20180101000000": ""})
    archive.captures["20180101000000"] = archive.play("20180101000000", status=302, location=location)
    assert fetch(archive).reason == reason
    assert len(archive.asked) < 6


def test_a_circle_of_the_archives_own_redirects_is_a_fault() -> None:
    there = f"https://web.archive.org/web/20180101000000id_/http://www.youtube.com/watch?v={POSSIBLE_ID}"
    archive = Archive({"20180101000000": answer(302, b"", {"location": there})})
    with pytest.raises(TransportError, match="redirects in a circle"):
        fetch(archive)


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (OFFLINE, TransportError),
        (answer(302, b"", {"location": "https://archive.org/account/login"}), TransportError),
        (answer(200, b"<html>Please log in</html>", HTML), ParseError),
        (answer(200, b"", HTML), ParseError),
        (answer(400, b"bad"), ParseError),
        (answer(403, b"<html>no</html>", HTML), TransportError),
        *((answer(status, b""), TransportError) for status in (413, 421, 500, 502, 503, 504, 599)),
        (answer(429, b"<html>Too Many</html>", {**HTML, "x-rl": "1"}), RateLimitedError),
        (answer(429, b"", {"retry-after": "17"}), RateLimitedError),
    ],
)
def test_what_is_no_capture_is_an_error(response: Response, error: type[K700TextError]) -> None:
    for archive in (Archive({"20170101000000": response}), Archive({"20180101000000": response})):
        with pytest.raises(error) as caught:
            fetch(archive)
        assert type(caught.value) is error
        if isinstance(caught.value, RateLimitedError):
            assert caught.value.retry_after_seconds == (17.0 if "retry-after" in response.headers else None)


@pytest.mark.parametrize(
    "fault", [answer(503, b""), TransportError("cut off", host="web.archive.org"), answer(200, b"x")]
)
def test_a_capture_that_cannot_be_played_does_not_hide_the_others(fault: Response | TransportError) -> None:
    archive = Archive({"20120101000000": alive(), "20170101000001": fault})
    assert fetch(archive).title == "A title"
    archive = Archive({"20120101000000": DEAD, "20170101000001": fault})
    with pytest.raises((TransportError, ParseError)):
        fetch(archive)


def test_a_firewall_ends_the_attempt_at_once() -> None:
    archive = Archive({"20120101000000": alive(), "20170101000001": RefusedError("refused", host="web.archive.org")})
    with pytest.raises(RefusedError):
        fetch(archive)
    assert len(archive.asked) == 2


def test_the_archives_word_for_what_it_captured_decides_where_the_page_names_no_video() -> None:
    page = pages.document("<title>YouTube - Whose?</title>", "<embed name='movie_player'>")
    archive = Archive({"20170101000000": page})
    assert fetch(archive).title == "Whose?"
    link = f'<http://www.youtube.com/watch?v={TWIN_ID}>; rel="original"'
    archive.captures["20170101000000"] = archive.play("20170101000000", page, link=link)
    assert fetch(archive).reason == "no_id"


def test_captures_closed_to_the_public_are_final() -> None:
    header = {"x-archive-wayback-runtime-error": "AdministrativeAccessControlException: Blocked Site Error"}
    for response in (answer(403, b"", header), answer(403, b"org.archive...RobotAccessControlException: x")):
        outcome = fetch(Archive({"20170101000000": response}))
        assert (outcome.reason, outcome.http_status) == ("excluded", 403)
        outcome = fetch(Archive({}, rows=response), WaybackIndex())
        assert (outcome.reason, outcome.http_status) == ("excluded", 403)


@pytest.mark.parametrize("status", [200, 403, 404])
@pytest.mark.parametrize(
    "words",
    [
        "<p>Sorry.</p><p>This URL has been excluded from the Wayback Machine.</p>",
        "<h1>Page cannot be crawled or displayed due to robots.txt.</h1>",
        "org.archive.util.io.RuntimeIOException: ...RobotAccessControlException: Blocked By Robots",
        '<p>This URL has been excluded from the <a href="/">Wayback Machine</a>.</p>',
        "<p>This URL has been excluded\r\n\t from the Wayback&nbsp;Machine.</p>",
        "<p>This URL has been <b>EXCLUDED</b><br>from the Wayback\u00a0Machine.</p>",
        "<h1>Page cannot be displayed due to <a href='x'>robots.txt</a>.</h1>",
        "<title>Blocked Site Error</title>",
        "<h2>Robots.txt Query Exclusion.</h2> access to this page has been blocked by the site owner via robots.txt.",
    ],
)
def test_words_that_close_a_capture_are_final_whatever_their_status(words: str, status: int) -> None:
    response = answer(status, words.encode(), HTML)
    for archive, source in (
        (Archive({"20170101000000": response}), Wayback()),
        (Archive({}, response), WaybackIndex()),
    ):
        outcome = fetch(archive, source)
        assert (outcome.reason, len(archive.asked)) == ("excluded", 1)
    # Said by a page that was captured they are nothing but words, and by a server in distress no answer.
    archive = Archive({"20170101000000": ""})
    archive.captures["20170101000000"] = archive.play("20170101000000", alive(words), 200)
    assert fetch(archive).status is OutcomeStatus.TITLE
    for distress, error in ((503, TransportError), (429, RateLimitedError)):
        with pytest.raises(error):
            fetch(Archive({"20170101000000": answer(distress, words.encode(), HTML)}))


def test_a_capture_closed_by_law_is_final() -> None:
    outcome = fetch(Archive({"20170101000000": answer(451, b"Unavailable", HTML)}))
    assert outcome.reason == "excluded"


def test_a_list_of_captures_may_quote_the_words() -> None:
    archive = Archive({}, index(row("20150101000000", "&t=Blocked Site&u=has not archived that URL", digest="x")))
    archive.captures["20150101000000"] = DEAD
    assert fetch(archive, WaybackIndex()).reason == "dead_page"


def test_that_nothing_was_archived_may_be_said_under_status_200() -> None:
    for words in (
        b"<p>The Wayback Machine has not archived that URL.</p>",
        b"<p>We don't have that page archived.</p>",
    ):
        archive = Archive({"20170101000000": answer(200, words, HTML)})
        assert fetch(archive).reason == "not_archived"
    offline = answer(200, b"<p>The Wayback Machine is temporarily offline.</p>", HTML)
    with pytest.raises(TransportError, match="has a fault"):
        fetch(Archive({"20170101000000": offline}))


def test_an_id_that_differs_by_case_is_recognised_in_the_address_and_on_the_page() -> None:
    twin = f"http://www.youtube.com/watch?v={TWIN_ID}"
    archive = Archive({"20170101000001": alive()}, originals={"20170101000001": twin})
    assert fetch(archive).reason == "wrong_id"
    assert archive.asked == ["20170101000000"] * 1 + ["20130101000000", "20200101000000", "20050214000000"]
    archive = Archive({"20170101000001": pages.page_2013("The twin's", TWIN_ID)})
    assert fetch(archive).reason == "wrong_id"


@pytest.mark.parametrize(
    ("page", "reason", "is_kept"),
    [
        (DEAD, "dead_page", False),
        (pages.CONSENT_PAGES["el"], "consent_page", False),
        (pages.BLOCK_PAGES["sorry"], "block_page", False),
        (pages.LOGIN_PAGE, "junk_title", False),
        (pages.page_2020("", POSSIBLE_ID), "empty_title", False),
        (pages.document("<title>A new kind of page</title>", "x" * 600_000), "unreadable", True),
        (pages.document("<title>Which video? - YouTube</title>"), "no_id", True),
    ],
)
def test_only_pages_that_were_not_understood_are_kept(page: str, reason: str, is_kept: bool) -> None:
    outcome = fetch(Archive({"20180101000000": page}))
    assert outcome.reason == reason and outcome.evidence is not None
    (play,) = json.loads(outcome.evidence)["plays"]
    assert play["sha256"] and play["memento"] == "Mon, 01 Jan 2018 00:00:00 GMT" and play["status"] == 200
    assert ("page" in play) is is_kept
    assert len(outcome.evidence) < (520_000 if is_kept else 2000)


def test_what_is_no_text_is_not_kept() -> None:
    archive = Archive({"20180101000000": "\x00\x01\x02 a picture"})
    assert b'"page"' not in (fetch(archive).evidence or b"")


def test_a_kept_page_is_read_again_when_the_reader_has_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = fetch(Archive({"20180101000000": pages.document("<title>No site name</title>")}))
    kept = json.loads(outcome.evidence or b"")
    kept["plays"][0]["page"] = alive("Understood now")
    evidence = json.dumps(kept).encode()
    assert parse_evidence(POSSIBLE_ID, evidence, 200, NOON).reason == "unreadable"
    monkeypatch.setattr(capture_module, "READER_VERSION", capture_module.READER_VERSION + 1)
    assert parse_evidence(POSSIBLE_ID, evidence, 200, NOON).title == "Understood now"


def test_what_earlier_versions_kept_is_judged_by_the_rules_of_today() -> None:
    def kept(**play: Any) -> bytes:
        about = {"url": f"http://www.youtube.com/watch?v={POSSIBLE_ID}", "stamp": "20170304050607", "status": 200}
        return json.dumps({"reader": 1, "status": 200, "plays": [{**about, **play}]}).encode()

    def again(evidence: bytes) -> TitleOutcome:
        return parse_evidence(POSSIBLE_ID, evidence, 200, NOON)

    stated = [{"place": "args", "video_id": POSSIBLE_ID, "titles": ["A title"], "playability": "OK"}]
    assert again(kept(facts={"stated": stated})).title == "A title"
    first_year = {"title_tag": "YouTube - Me at the zoo", "has_player": True}
    assert again(kept(facts=first_year)).title == "Me at the zoo"
    # A channel's name that was taken for the video's title.
    channel = {"canonical": "https://www.youtube.com/user/mlb", "og_url": "https://www.youtube.com/user/mlb"}
    assert again(kept(facts={**channel, "title_tag": "MLB - YouTube", "has_player": True})).reason == "wrong_id"
    # Data that the first reader did not understand was kept whole.
    assert again(kept(facts={}, page=pages.pbj("In the data", POSSIBLE_ID))).title == "In the data"
    ended = json.dumps({"reader": 1, "status": 404, "plays": [], "ending": "not_archived"}).encode()
    assert again(ended).reason == "not_archived"


@pytest.mark.parametrize("evidence", [b"", b"{}", b"[]", b'{"plays": [1]}', b'{"plays": [{"what": 1}]}'])
def test_broken_evidence_is_a_parse_error(evidence: bytes) -> None:
    for parse in (parse_evidence, parse_index_evidence):
        with pytest.raises(ParseError, match="cannot be read"):
            parse(POSSIBLE_ID, evidence, 200, NOON)


def test_the_most_telling_reason_is_reported() -> None:
    plays = [
        Play(url="", stamp="20180101000000", note=note)
        for note in ("archived_error", "dead_page", "junk_title", "consent_page", "wrong_id", "excluded")
    ]
    for number in range(1, len(plays) + 1):
        assert Trail(plays[:number]).outcome("wayback", POSSIBLE_ID, NOON).reason == plays[number - 1].note


@pytest.mark.parametrize(
    ("stamp", "moment"),
    [
        ("20160304050607", datetime(2016, 3, 4, 5, 6, 7, tzinfo=UTC)),
        ("20180700120000", datetime(2018, 7, 1, 12, tzinfo=UTC)),
        ("20180000000000", datetime(2018, 1, 1, tzinfo=UTC)),
        ("20180230000000", datetime(2018, 3, 2, tzinfo=UTC)),
        ("2015", datetime(2015, 1, 1, tzinfo=UTC)),
        ("20181301000000", None),
        ("00000000000000", None),
        ("99999999999999", None),
        ("२०१८0101000000", None),
        ("201801010000001", None),
    ],
)
def test_time_stamps(stamp: str, moment: datetime | None) -> None:
    assert stamp_time(stamp) == moment


def test_without_a_readable_header_the_stamp_tells_when_the_page_was_captured() -> None:
    archive = Archive({"20180700120000": ""})
    page = archive.play("20180700120000", alive())
    archive.captures["20180700120000"] = Response(200, {**page.headers, "memento-datetime": "?"}, page.body, 0.0)
    assert fetch(archive).captured_at == datetime(2018, 7, 1, 12, tzinfo=UTC)


# --- the index -------------------------------------------------------------------------------------------------------

NAMES = ["timestamp", "original", "mimetype", "statuscode", "digest"]
JSON = {"content-type": "application/json"}


def row(stamp: str, extra: str = "", *, youtube_id: str = POSSIBLE_ID, digest: str = "", **other: str) -> list[str]:
    values = {
        "timestamp": stamp,
        "original": f"http://www.youtube.com/watch?v={youtube_id}{extra}",
        "statuscode": "200",
    }
    return [{**values, "mimetype": "text/html", "digest": digest or stamp, **other}[name] for name in NAMES]


def index(*rows: Sequence[str]) -> Response:
    return answer(200, [NAMES, *rows] if rows else [], JSON)


def test_the_index_is_asked_as_documented() -> None:
    urls: list[str] = []

    def get(
        url: str, params: Mapping[str, str] | None = None, *, method: str = "GET", lane: str | None = None
    ) -> Response:
        urls.append(url)
        return index()

    WaybackIndex().fetch(["-_b2HzcQ0ys"], get)
    assert urls[0].startswith("https://web.archive.org/cdx/search/cdx?")
    assert parse_qsl(urlsplit(urls[0]).query) == [
        ("url", "youtube.com/watch?v=-_b2HzcQ0ys"),
        ("matchType", "prefix"),
        ("output", "json"),
        ("fl", "timestamp,original,mimetype,statuscode,digest"),
        ("filter", "statuscode:200"),
        ("filter", "mimetype:(text/html|application/json)"),
        ("collapse", "digest"),
        ("limit", "500"),
    ]


def test_captures_under_further_parameters_are_found_on_the_playback_lane() -> None:
    stamp = "20150101000000"
    archive = Archive({stamp: alive()}, index(row(stamp, "&feature=related")))
    outcome = fetch(archive, WaybackIndex())
    assert (outcome.title, outcome.captured_at) == ("A title", stamp_time(stamp))
    assert archive.lanes == [None, "wayback"]
    assert json.loads(outcome.evidence or b"")["rows"] == [[stamp, row(stamp, "&feature=related")[1], stamp]]


def test_at_most_four_captures_of_different_content_are_played_the_promising_first() -> None:
    stamps = [
        "20060101000000",
        "20100101000000",
        "20140101000000",
        "20161201000000",
        "20180101000000",
        "20220101000000",
    ]
    rows = [row(stamp, "&list=x") for stamp in stamps]
    rows.insert(3, row("20150101000000", "&list=y", digest="20140101000000"))
    archive = Archive(dict.fromkeys(stamps, pages.LOGIN_PAGE), index(*rows))
    outcome = fetch(archive, WaybackIndex())
    assert outcome.reason == "junk_title"
    assert archive.asked == ["index", "20161201000000", "20180101000000", "20140101000000", "20100101000000"]


def test_after_a_death_earlier_captures_come_first() -> None:
    stamps = ["20060101000000", "20100101000000", "20161201000000", "20180101000000", "20190101000000"]
    archive = Archive(dict.fromkeys(stamps, DEAD), index(*(row(stamp, "&list=x") for stamp in stamps)))
    assert fetch(archive, WaybackIndex()).reason == "dead_page"
    assert archive.asked == ["index", "20161201000000", "20100101000000", "20060101000000", "20180101000000"]


def test_what_playback_comes_to_by_itself_goes_last() -> None:
    stamps = ["20120101000000", "20150101000000", "20161201000000", "20170601000000", "20210101000000"]
    archive = Archive(dict.fromkeys(stamps, pages.LOGIN_PAGE), index(*map(row, stamps)))
    fetch(archive, WaybackIndex())
    # Closest to 2017, 2013 and 2020, and oldest, are 20161201, 20120101, 20210101 and 20120101.
    assert archive.asked[1:] == ["20170601000000", "20150101000000", "20161201000000", "20120101000000"]


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (index(), "not_archived"),
        (answer(200, b"[]\n", JSON), "not_archived"),
        (answer(200, b"", JSON), "not_archived"),
        (answer(200, [NAMES], JSON), "not_archived"),
        (index(row("20150101000000", youtube_id=TWIN_ID)), "wrong_id"),
        (index(row("20150101000000", "xyz")), "wrong_id"),
        (index(row("20150101000000", mimetype="image/jpeg"), row("20150101000000", statuscode="404")), "not_archived"),
        (index(row("2015010100"), row("2015010100000x"), ["short"]), "not_archived"),
    ],
)
def test_an_index_without_a_capture_of_this_video(response: Response, reason: str) -> None:
    archive = Archive({}, response)
    outcome = fetch(archive, WaybackIndex())
    assert (outcome.reason, outcome.http_status, archive.asked) == (reason, 200, ["index"])


def test_odd_rows_are_read() -> None:
    order = ["digest", "statuscode", "original", "timestamp", "mimetype", "length"]
    original = f"https://m.youtube.com/watch?gl=US&v={POSSIBLE_ID}"
    table = [
        order,
        ["A", "-", original, "20180700000000", "warc/revisit", "-"],
        ["-", "200", original, "20190101000000", "text/html", "1"],
        [],
        ["com%2Cyoutube%29%2F+20190101000000%21"],
    ]
    rows = parse_index(answer(200, table, JSON), POSSIBLE_ID)
    assert [(each.stamp, each.original, each.digest) for each in rows] == [
        ("20180700000000", original, "A"),
        ("20190101000000", original, ""),
    ]


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (answer(200, b"<html>busy</html>", HTML), ParseError),
        (answer(200, b"", {"content-type": "text/plain"}), ParseError),
        (answer(200, {"a": 1}), ParseError),
        (answer(200, ["a"]), ParseError),
        (answer(200, [["com,youtube)/", "20150101000000"]]), ParseError),
        (answer(400, b"bad parameter"), ParseError),
        (answer(403, b"<html>no</html>", HTML), TransportError),
        (OFFLINE, TransportError),
        (answer(503, b""), TransportError),
        (answer(429, b"<html>", HTML), RateLimitedError),
    ],
)
def test_what_is_no_index_is_an_error(response: Response, error: type[K700TextError]) -> None:
    with pytest.raises(error) as caught:
        fetch(Archive({}, response), WaybackIndex())
    assert type(caught.value) is error


def test_the_plan_prices_both_lanes() -> None:
    plan = WaybackIndex().plan(24_000, 0.4, None)
    assert (plan.num_requests, plan.quota_units) == (120_000, 0)
    assert plan.hours == pytest.approx(24_000 / 0.4 / 3600)
    assert WaybackIndex().plan(1000, 100.0, None).hours == pytest.approx(4000 / 8 / 3600)


# --- against the sandbox ---------------------------------------------------------------------------------------------

Plain = Callable[..., Response]


@pytest.fixture
def plain_get() -> Iterator[Plain]:
    transport = Transport()

    def get(
        url: str, params: Mapping[str, str] | None = None, *, method: str = "GET", lane: str | None = None
    ) -> Response:
        return transport.get(url, params, method=method)

    yield get
    transport.close()


def hostile_config(*, has_double_encoding: bool) -> WorldConfig:
    """Returns the hostile world, or the same where nothing is encoded twice."""
    config = WorldConfig.hostile()
    if has_double_encoding:
        return replace(config, captures=replace(config.captures, kinds={CaptureKind.DOUBLE_ENCODING: 1.0}))
    kinds = {kind: share for kind, share in config.captures.kinds.items() if kind is not CaptureKind.DOUBLE_ENCODING}
    return replace(config, captures=replace(config.captures, kinds=kinds))


@pytest.mark.parametrize("has_double_encoding", [False, True])
def test_everything_that_a_hostile_archive_can_tell_is_found_and_nothing_else(
    plain_get: Plain, has_double_encoding: bool
) -> None:
    world = World(seed=3, config=hostile_config(has_double_encoding=has_double_encoding))
    num_found = num_recoverable = 0
    with SandboxServer(world) as server:
        playback = Wayback(f"{server.url}/web")
        searching = WaybackIndex(f"{server.url}/cdx/search/cdx", f"{server.url}/web")
        for youtube_id in islice(world.random_ids("wayback"), 120):
            title = clean_plain_title(world.recoverable_title(youtube_id) or "")
            outcomes = ask_both(playback, searching, youtube_id, plain_get)
            titles = {outcome.title for outcome in outcomes} - {None}
            assert titles <= {title}, youtube_id
            num_recoverable += title is not None
            num_found += bool(titles)
        assert server.count("unknown") == 0
    assert num_found == num_recoverable > 40


def ask_both(playback: Wayback, searching: WaybackIndex, youtube_id: str, get: Plain) -> list[TitleOutcome]:
    outcomes = []
    for source in (playback, searching):
        (outcome,) = source.fetch([youtube_id], get)
        evidence = outcome.evidence or b""
        assert PARSERS[source.name](youtube_id, evidence, outcome.http_status, outcome.fetched_at) == outcome
        outcomes.append(outcome)
    return outcomes


def test_scripted_faults_of_the_sandbox_are_errors(plain_get: Plain) -> None:
    world = World(seed=0)
    youtube_id = next(each for each in world.random_ids("faults") if world.recoverable_title(each))
    with SandboxServer(world) as server:
        source = Wayback(f"{server.url}/web")
        for fault, error in (
            (Answer(302, {"Location": "/sry"}), TransportError),
            (Answer(429, {"x-rl": "1"}), RateLimitedError),
            (Answer(200, {"Content-Type": "text/html"}, "<html>maintenance</html>"), ParseError),
            (Answer(reset=True), TransportError),
        ):
            server.script("wayback", [fault])
            with pytest.raises(error):
                source.fetch([youtube_id], plain_get)
        (outcome,) = source.fetch([youtube_id], plain_get)
        assert outcome.title == clean_plain_title(world.video(youtube_id).title)


def test_a_page_that_was_mixed_up_on_the_way_is_asked_for_once_more() -> None:
    stamp = "20170304050607"
    archive = Archive({stamp: pages.page_2013("Another one", TWIN_ID)})

    def mixed_up(url: str, params: Mapping[str, str] | None = None, **options: Any) -> Response:
        response = archive(url, params, **options)
        if archive.asked.count(stamp):
            archive.captures[stamp] = alive()
        return response

    (outcome,) = Wayback().fetch([POSSIBLE_ID], mixed_up)
    assert outcome.title == "A title" and archive.asked == ["20170101000000", stamp, stamp]
    # What is really about another video is so the second time, too, and is not asked a third time.
    stubborn = Archive({stamp: pages.page_2013("Another one", TWIN_ID)})
    assert fetch(stubborn).reason == "wrong_id"
    assert stubborn.asked.count(stamp) == 2
