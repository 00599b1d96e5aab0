from __future__ import annotations

import gzip
import html
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k700_text.crawl.page_text import MAX_PAGE_BYTES
from k700_text.crawl.watch_pages import Judgement, PageFacts, id_in_url, judge_page, read_page
from k700_text.sandbox.captures import CaptureShares
from k700_text.sandbox.services.wayback import captured_body
from k700_text.sandbox.world import World, WorldConfig
from k700_text.titles import clean_plain_title
from tests.k700_text import saved_pages as pages
from tests.k700_text.crawling import POSSIBLE_ID, ids_where
from tests.k700_text.saved_pages import ANSWERS, OTHER_ID, PAGES, TWIN_ID, document, links, script, watch_url

UTF8 = "text/html; charset=utf-8"
MARKUP_ALONE = ("page_2005", "page_2006", "page_without_data", "page_without_canonical")
TITLES = [
    "How to fold a shirt",
    'Tom & Jerry\'s "best" <3',
    "a &amp; b &lt;3 &#39;c&#39;",
    "Übung – Día 3 日本 ★ школа",
    "\U0001f469‍\U0001f469‍\U0001f467 \U0001f602\U0001f602 \U0001f3f3️‍\U0001f308",
    '};if window.ytcsi </title> {"a": [1',
    "</script><script>alert(1)</script>",
    "X - YouTube",
    "YouTube - X",
    "ytInitialPlayerResponse = {\"videoDetails\": {}}; var swfArgs = {video_id:'jNQXAC9IVRw',title:'evil'}",
    "line one\nline two\t\x07",
    "back\\slash \\u0041 'quote'",
    "مرحبا שלום",
]


def judge(
    page: str | bytes, youtube_id: str = POSSIBLE_ID, *, url: str | None = None, content_type: str = UTF8
) -> Judgement:
    body = page if isinstance(page, bytes) else page.encode()
    return judge_page(read_page(body, content_type), youtube_id, page_url=url)


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("era", PAGES)
def test_every_era_tells_the_title_as_it_was(era: str, title: str) -> None:
    judged = judge(PAGES[era](title, POSSIBLE_ID))
    assert judged.title == clean_plain_title(title)
    assert judged.reason is None and judged.raw_title is not None


@pytest.mark.parametrize("era", PAGES)
@pytest.mark.parametrize("shown", [OTHER_ID, TWIN_ID])
def test_the_page_of_another_id_is_refused_also_where_only_case_differs(era: str, shown: str) -> None:
    judged = judge(PAGES[era]("Another video", shown), url=watch_url(POSSIBLE_ID))
    assert (judged.title, judged.reason) == (None, "wrong_id")


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("form", ANSWERS)
def test_answers_that_are_data_tell_the_title_as_it_was(form: str, title: str) -> None:
    if form in ("oembed_xml", "feed_atom"):
        title = title.replace("\x07", "")  # no XML can say it
    judged = judge(ANSWERS[form](title, POSSIBLE_ID), content_type="application/json; charset=UTF-8")
    assert (judged.title, judged.reason) == (clean_plain_title(title), None)
    assert judged.raw_title in (title, title[:3] + title[3:])


@pytest.mark.parametrize("form", ANSWERS)
@pytest.mark.parametrize("shown", [OTHER_ID, TWIN_ID])
def test_data_about_another_id_is_refused_whatever_address_it_was_captured_under(form: str, shown: str) -> None:
    judged = judge(ANSWERS[form]("Another video", shown), url=f"{watch_url(POSSIBLE_ID)}&pbj=1")
    assert (judged.title, judged.reason) == (None, "wrong_id")


@pytest.mark.parametrize("form", ANSWERS)
@pytest.mark.parametrize("start", ["", "\ufeff", " \r\n"])
@pytest.mark.parametrize("content_type", ["text/html; charset=ISO-8859-1", "", "application/x-shockwave-flash"])
def test_data_is_known_by_itself_not_by_its_content_type(form: str, start: str, content_type: str) -> None:
    title = "Übung 日本 & <b>"
    assert judge(start + ANSWERS[form](title, POSSIBLE_ID), content_type=content_type).title == title


@pytest.mark.parametrize("guard", [")]}'\n", ")]}',\n", ")]}"])
def test_a_guard_against_foreign_scripts_is_no_part_of_the_data(guard: str) -> None:
    assert judge(guard + pages.pbj("A title", POSSIBLE_ID)).title == "A title"


@pytest.mark.parametrize("form", ANSWERS)
def test_data_that_is_cut_off_tells_the_right_title_or_none(form: str) -> None:
    answer = ANSWERS[form]("Tom & Jerry – Übung 日本", POSSIBLE_ID).encode()
    titles = {judge(answer[:length]).title for length in range(0, len(answer), 7)}
    assert titles <= {None, "Tom & Jerry – Übung 日本"}


def test_the_last_field_of_a_form_may_be_cut_off_and_is_no_title() -> None:
    answer = f"status=ok&video_id={POSSIBLE_ID}&title=Tom+%26+Jerry"
    assert {judge(answer[:length]).title for length in range(len(answer) + 1)} == {None}
    assert judge(f"{answer}&author=x").title == "Tom & Jerry"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (json.dumps({"page": "watch", "response": pages.initial_data("Whose?")}), "no_id"),
        (json.dumps({**json.loads(pages.oembed("Whose?", POSSIBLE_ID)), "thumbnail_url": ""}), None),
        (pages.oembed("Whose?", POSSIBLE_ID).replace("/vi/" + POSSIBLE_ID, "/vi/" + OTHER_ID), "unreadable"),
        (pages.oembed("A list", POSSIBLE_ID).replace('"video"', '"rich"'), "unreadable"),
        (
            json.dumps({"feed": {"entry": [json.loads(pages.feed_json("One of many", POSSIBLE_ID))["entry"]]}}),
            "unreadable",
        ),
        (
            pages.feed_atom("A title", POSSIBLE_ID).replace("<entry", "<!DOCTYPE x [<!ENTITY a 'b'>]><entry"),
            "unreadable",
        ),
        (json.dumps({"items": [json.loads(pages.api_list("One of two", POSSIBLE_ID))["items"][0]] * 2}), "unreadable"),
        (json.dumps({"items": [{"id": {"videoId": POSSIBLE_ID}, "snippet": {"title": "Found"}}]}), "unreadable"),
        (pages.api_list("A list", POSSIBLE_ID).replace('youtube#video"', 'youtube#playlist"'), "unreadable"),
        (json.dumps({"data": {"items": [{"id": POSSIBLE_ID, "title": "One"}, {"id": OTHER_ID}]}}), "unreadable"),
        (json.dumps({"items": []}), "unreadable"),
        (json.dumps({"error": {"code": 404, "message": "<title>Not a title - YouTube</title>"}}), "unreadable"),
        (json.dumps({"note": document(f"<title>Not markup - YouTube</title>{links(POSSIBLE_ID)}")}), "unreadable"),
        ("status=fail&errorcode=150&reason=It+is+private.&title=Private+video&video_id=" + POSSIBLE_ID, "dead_page"),
        (pages.youtubei_player("Private video", POSSIBLE_ID).replace("OK", "ERROR"), "dead_page"),
        ("[" * 100_000, "unreadable"),
        ("[1, null, [[]], {}]", "unreadable"),
        ("a=b&" * 5000, "unreadable"),
    ],
)
def test_data_that_names_no_video_tells_no_title(answer: str, reason: str | None) -> None:
    judged = judge(answer, url=watch_url(POSSIBLE_ID))
    assert judged.reason == reason and (judged.title is None) is (reason is not None)


@pytest.mark.parametrize("page", pages.PAGES_ELSEWHERE.values(), ids=pages.PAGES_ELSEWHERE)
def test_the_page_of_something_else_than_a_video_gives_no_title(page: str) -> None:
    judged = judge(page, url=watch_url(POSSIBLE_ID))
    assert judged.title is None and judged.reason in ("wrong_id", "no_id")
    # Only data about exactly this video is believed there: that of a channel's trailer, for instance.
    trailer = script(f"ytplayer.config = {json.dumps({'args': {'video_id': POSSIBLE_ID, 'title': 'The trailer'}})};")
    assert judge(page + trailer, url=watch_url(POSSIBLE_ID)).title == "The trailer"


@pytest.mark.parametrize(
    "url",
    [
        *(f"/watch?v={POSSIBLE_ID}", f"http://m.youtube.com/watch?hl=de&amp;v={POSSIBLE_ID}"),
        *(f"https://youtu.be/{POSSIBLE_ID}", f"https://www.youtube.com/shorts/{POSSIBLE_ID}"),
        f"https://web.archive.org/web/20170304050607/https://www.youtube.com/watch?v={POSSIBLE_ID}",
    ],
)
def test_a_page_that_names_the_video_in_another_spelling_is_its_page(url: str) -> None:
    assert judge(pages.elsewhere(pages.canonical(url))).title == "MLB"
    assert judge(pages.elsewhere(pages.canonical(url)), OTHER_ID).reason == "wrong_id"


@pytest.mark.parametrize("url", ["https://example.org/mlb", "http://[broken"])
def test_a_page_that_names_no_video_and_an_address_of_another_site_gives_no_title(url: str) -> None:
    early = document(f"<title>YouTube - A video</title>{pages.canonical(url)}", "<embed name='movie_player'>")
    assert judge(early, url=watch_url(POSSIBLE_ID)).reason == "no_id"
    assert judge(early.replace(url, ""), url=watch_url(POSSIBLE_ID)).title == "A video"
    # Where the player names the video, the page of an odd host is believed.
    player = script(f"swfArgs = {{'video_id': '{POSSIBLE_ID}'}};")
    assert judge(early.replace("</body>", f"{player}</body>")).title == "A video"


@pytest.mark.parametrize("title", ["mlb's Channel", "Search results for cats", "Movies", "Most Viewed", "Sign Up"])
def test_a_video_may_be_called_like_a_page_of_the_site_where_the_page_names_it(title: str) -> None:
    for era in PAGES:
        if era not in ("page_2005", "page_2006"):
            assert judge(PAGES[era](title, POSSIBLE_ID)).title == title
    for other in ("The Channel", "My mother's channel swim", "Music for cats", "Movies 2008", "Live at the zoo"):
        assert judge(pages.page_2005(other, POSSIBLE_ID)).title == other


@pytest.mark.parametrize(
    "title", ["mlb's Channel", "mlb's Videos", "Kanal von mlb", "Search results for cats", "Movies"]
)
@pytest.mark.parametrize("era", [pages.page_2005, pages.page_2006])
def test_a_channel_that_plays_the_video_gives_it_no_title(title: str, era: Callable[[str, str], str]) -> None:
    """Pages of these years state no address of their own; what plays on a channel's is one of its videos."""
    judged = judge(era(title, POSSIBLE_ID), url=watch_url(POSSIBLE_ID))
    assert judged.title is None and judged.reason == "wrong_id"
    data = script(f"swfConfig = {{'args': {{'title': 'The video', 'video_id': '{POSSIBLE_ID}'}}}};")
    assert judge(document(f"<title>YouTube - {title}</title>", data)).title == "The video"


@pytest.mark.parametrize(
    "head",
    [
        *(f"<link {link}>" for link in (f'rel=" canonical " href="watch?v={POSSIBLE_ID}"',)),
        f"<link rel='nofollow Canonical' href='/watch?v={POSSIBLE_ID}'>",
        pages.canonical(f"?v={POSSIBLE_ID}"),
        pages.canonical(f"http://www.youtube.co.uk/watch?v={POSSIBLE_ID}"),
        pages.canonical(f"http://archive.org/wayback/20150304050607/https://www.youtube.com/watch?v={POSSIBLE_ID}"),
        pages.canonical(f"http://www.youtube.com/watch#!v={POSSIBLE_ID}"),
        pages.canonical(f"http://www.youtube.com/v/{POSSIBLE_ID}&amp;hl=en&amp;fs=1"),
        f'<meta property="al:ios:url" content="vnd.youtube://{POSSIBLE_ID}">',
        f'<meta property="al:ios:url" content="vnd.youtube:{POSSIBLE_ID}?vndapp=x">',
        f'<link rel="alternate" href="android-app://com.google.android.youtube/http/www.youtube.com/watch?v={POSSIBLE_ID}">',
    ],
)
def test_every_spelling_of_the_pages_own_address_names_its_video(head: str) -> None:
    page = document(f"<title>A video - YouTube</title>{head}")
    assert judge(page).title == "A video"
    assert judge(page, OTHER_ID).reason == "wrong_id"


@pytest.mark.parametrize(
    "around",
    [
        *("<!-- {} -->", "<!--[if IE]>{}<![endif]-->", "<!-- > {} -->", "<script>var a = '{}';</script>"),
        *("<SCRIPT TYPE='a>b'>{}</Script >", "<style>{}</style>", "<textarea>{}</textarea>"),
    ],
)
def test_what_a_comment_or_a_script_holds_is_no_tag_of_the_page(around: str) -> None:
    wrong = f"<title>Wrong - YouTube</title>{links(OTHER_ID)}<meta name=title content=Wrong>"
    right = f"<title>Right - YouTube</title>{links(POSSIBLE_ID)}"
    assert judge(document("<!--><!---->" + around.replace("{}", wrong) + right)).title == "Right"
    # Cut off within it, the page has said nothing.
    assert judge("<html><head>" + around.partition("{}")[0] + right, url=watch_url(POSSIBLE_ID)).title is None


@pytest.mark.parametrize("site", ["YouTube Music", "YouTube Gaming", "YouTube Kids"])
def test_the_name_of_a_sister_site_is_no_part_of_the_title(site: str) -> None:
    song = f"<title>A song - {site}</title><meta property='og:title' content='A song - {site}'>{links(POSSIBLE_ID)}"
    assert judge(document(song)).title == "A song"
    assert judge(document(song.replace(f"<title>A song - {site}", f"<title>{site}"))).title == "A song"
    assert judge(pages.page_without_data(f"Best of - {site}", POSSIBLE_ID)).title == f"Best of - {site}"


@pytest.mark.parametrize("end", ["</Head><Body>", "</head\n>", "<bODY class=x>", "</HEAD>"])
def test_the_end_of_the_head_is_seen_in_any_spelling(end: str) -> None:
    page = f"<html><head><title>YouTube - A video</title>{end}<embed name='movie_player'>"
    assert judge(page, url=watch_url(POSSIBLE_ID)).title == "A video"
    assert judge(page.replace(end, ""), url=watch_url(POSSIBLE_ID)).reason == "no_id"


@pytest.mark.parametrize("page", pages.DEAD_PAGES_WITH_TITLE)
def test_a_dead_page_whose_own_metadata_holds_the_title_tells_it(page: str) -> None:
    made = pages.DEAD_PAGES_WITH_TITLE[page]
    assert judge(made("Tom & Jerry"), url=watch_url(POSSIBLE_ID)).title == "Tom & Jerry"
    for junk in ("Private video", "YouTube", "YouTube - Broadcast Yourself.", "Video unavailable"):
        assert judge(made(junk), url=watch_url(POSSIBLE_ID)).reason == "dead_page"
    assert judge(made("Tom & Jerry"), TWIN_ID, url=watch_url(POSSIBLE_ID)).title is None


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        *((page, "dead_page") for page in pages.DEAD_PAGES.values()),
        *((page, "consent_page") for page in pages.CONSENT_PAGES.values()),
        *((page, "block_page") for page in pages.BLOCK_PAGES.values()),
        (pages.LOGIN_PAGE, "junk_title"),
        (document("<title>Loading...</title>"), "junk_title"),
        (document(f"<title>{POSSIBLE_ID} - YouTube</title>{links(POSSIBLE_ID)}"), "junk_title"),
        (document("<title>404 Not Found</title>"), "junk_title"),
        ("", "unreadable"),
        ("plain words", "unreadable"),
        (document("<h1>no title</h1>"), "unreadable"),
        (document("<title>Somewhere else</title>"), "unreadable"),
        (document(f"<title>A page without the site's name</title>{links(POSSIBLE_ID)}"), "unreadable"),
        (document("<title>A video - YouTube</title>"), "no_id"),
    ],
)
def test_pages_that_hide_the_video_give_a_reason_and_no_title(page: str, reason: str) -> None:
    judged = judge(page, url=watch_url(POSSIBLE_ID))
    assert (judged.title, judged.reason) == (None, reason)


@pytest.mark.parametrize("title", ["Private video", "YouTube", "Video unavailable", "- YouTube", "Deleted video"])
@pytest.mark.parametrize("era", ["page_2009", "page_2010", "page_2011", "page_2013", "page_2018", "page_2020"])
def test_an_odd_title_is_kept_where_data_about_this_playable_video_says_so(era: str, title: str) -> None:
    assert judge(PAGES[era](title, POSSIBLE_ID)).title == title


@pytest.mark.parametrize("title", ["Private video", "YouTube", "Video unavailable"])
def test_an_odd_title_in_html_alone_is_refused(title: str) -> None:
    for page in (pages.page_2006, pages.page_without_data):
        assert judge(page(title, POSSIBLE_ID)).reason == "dead_page"


def test_an_odd_title_of_a_video_that_does_not_play_is_refused() -> None:
    code = f"var ytInitialPlayerResponse = {json.dumps(pages.player_response('Private video', POSSIBLE_ID, 'ERROR'))};"
    assert judge(document("", script(code))).reason == "dead_page"


def test_an_old_player_is_not_trusted_where_its_new_response_refuses() -> None:
    response = json.dumps({"playabilityStatus": {"status": "ERROR"}})
    arguments = {"video_id": POSSIBLE_ID, "title": "Private video", "player_response": response}
    code = script(f"ytplayer.config = {json.dumps({'args': arguments})};")
    assert judge(document("", code)).reason == "dead_page"


def test_links_that_disagree_give_no_title_from_html() -> None:
    for first, second in ((POSSIBLE_ID, OTHER_ID), (OTHER_ID, POSSIBLE_ID)):
        head = f'<link rel="canonical" href="{watch_url(first)}"><meta property="og:url" content="{watch_url(second)}">'
        judged = judge(document(f"<title>Whose? - YouTube</title>{head}{pages.meta_titles('Whose?')}"))
        assert (judged.title, judged.reason) == (None, "wrong_id")


def test_a_title_is_kept_where_the_video_only_does_not_play_here() -> None:
    response = pages.player_response("A song", POSSIBLE_ID, "UNPLAYABLE")
    assert judge(document("", script(f"var ytInitialPlayerResponse = {json.dumps(response)};"))).title == "A song"


@pytest.mark.parametrize("era", [era for era in PAGES if era not in MARKUP_ALONE])
def test_a_video_with_an_empty_title_is_no_dead_page(era: str) -> None:
    assert judge(PAGES[era]("", POSSIBLE_ID)).reason == "empty_title"


def test_length_and_publication_come_along() -> None:
    judged = judge(pages.page_2020("A title", POSSIBLE_ID))
    assert judged.duration_seconds == 61.0
    assert judged.published_at == datetime(2012, 5, 1, 20, tzinfo=UTC)


def test_a_day_is_no_publication_time() -> None:
    response = pages.player_response("A title", POSSIBLE_ID)
    response["microformat"]["playerMicroformatRenderer"]["publishDate"] = "2012-05-01"
    judged = judge(document("", script(f"ytInitialPlayerResponse = {json.dumps(response)};")))
    assert (judged.title, judged.published_at) == ("A title", None)


def test_the_players_id_outweighs_the_links_and_decides_alone() -> None:
    response = pages.player_response("From the player", POSSIBLE_ID)
    code = script(f"ytInitialPlayerResponse = {json.dumps(response)};")
    page = document(f"<title>Of the link - YouTube</title>{links(OTHER_ID)}", code)
    assert judge(page).title == "From the player"
    assert judge(page, OTHER_ID).reason == "wrong_id"


def test_data_left_over_from_another_video_is_passed_over() -> None:
    stale = script(f"var ytInitialData = {json.dumps(pages.initial_data('Stale', OTHER_ID))};")
    head = f"<title>Right - YouTube</title>{links(POSSIBLE_ID)}"
    assert judge(document(head, stale)).title == "Right"


def test_a_player_without_titles_leaves_them_to_the_html() -> None:
    code = script(f"ytInitialPlayerResponse = {json.dumps(pages.player_response(None, '', 'LOGIN_REQUIRED'))};")
    head = f"<title>Age-restricted film - YouTube</title>{links(POSSIBLE_ID)}"
    assert judge(document(head, code)).title == "Age-restricted film"


def test_html_that_links_to_another_video_gives_no_title_to_the_players() -> None:
    code = script(f"ytInitialPlayerResponse = {json.dumps({'videoDetails': {'videoId': POSSIBLE_ID}})};")
    page = document(f"<title>Of the link - YouTube</title>{links(OTHER_ID)}{pages.meta_titles('Of the link')}", code)
    assert judge(page).title is None


def test_a_consent_page_in_an_unknown_language_gives_no_title_though_it_links_to_the_video() -> None:
    page = pages.CONSENT_PAGES["unknown language"].replace("</head>", f"{links(POSSIBLE_ID)}</head>")
    assert judge(page).reason == "consent_page"


def test_half_a_character_in_a_literal_is_dropped() -> None:
    code = f"var swfArgs = {{video_id:'{POSSIBLE_ID}',title:'half \\ud83d \\ud83d\\ude02 whole'}};"
    assert judge(document("", script(code))).title == "half \U0001f602 whole"


def test_a_page_without_any_id_needs_a_player_and_the_captured_address() -> None:
    page = document("<title>YouTube - Me at the zoo</title>", "<embed name='movie_player'>")
    assert judge(page, url=f"http://youtube.com/watch?v={POSSIBLE_ID}&feature=related").title == "Me at the zoo"
    assert judge(page, url=watch_url(TWIN_ID)).reason == "no_id"
    assert judge(page).reason == "no_id"


def test_ids_of_several_players_decide_nothing_unless_the_asked_one_is_missing() -> None:
    body = f"<embed src='player.swf?video_id={OTHER_ID}'><embed src='player.swf?video_id={POSSIBLE_ID}'>"
    page = document("<title>YouTube - Two of them</title>", body)
    assert judge(page).reason == "no_id"
    assert judge(page, "aaaaaaaaaaA").reason == "wrong_id"


@pytest.mark.parametrize("era", PAGES)
def test_a_cut_off_page_tells_the_right_title_or_none(era: str) -> None:
    title = "Tom & Jerry – Übung 日本"
    page = PAGES[era](title, POSSIBLE_ID).encode()
    titles = {judge(page[:length]).title for length in range(0, len(page) + 1, 13)}
    assert titles <= {None, clean_plain_title(title)}
    assert judge(page).title == clean_plain_title(title)


@pytest.mark.parametrize("header", ["text/html", UTF8, "text/html; charset=ISO-8859-1", "text/html; charset=nonsense"])
def test_utf8_is_read_as_such_whatever_is_declared(header: str) -> None:
    page = pages.page_2013("Übung 日本", POSSIBLE_ID).replace("utf-8", "windows-1252")
    assert judge(page, content_type=header).title == "Übung 日本"


@pytest.mark.parametrize(
    ("charset", "header", "meta"),
    [
        ("windows-1252", "", ""),
        ("windows-1252", "text/html; charset=windows-1252", ""),
        ("windows-1252", "text/html; charset=utf-8", '<meta charset="iso-8859-1">'),
        ("windows-1251", "text/html; charset=windows-1251", ""),
        ("shift_jis", "text/html", '<meta http-equiv="Content-Type" content="text/html; charset=Shift_JIS">'),
        ("utf-8-sig", "text/html; charset=windows-1252", ""),
        ("utf-16", "", ""),
    ],
)
def test_other_charsets(charset: str, header: str, meta: str) -> None:
    title = {"windows-1251": "Как сложить рубашку", "shift_jis": "シャツの畳み方"}.get(charset, "Café – “naïve” ©")
    head = f"{meta}<title>{html.escape(title)} - YouTube</title>{links(POSSIBLE_ID)}"
    page = document(head, title * 20, charset="").encode(charset)
    assert judge(page, content_type=header).title == clean_plain_title(title)


def test_a_few_broken_bytes_do_not_spoil_the_page_but_no_broken_title_is_taken() -> None:
    page = pages.page_without_data("Übung 日本 Übung", POSSIBLE_ID).encode()
    broken_text = page.replace(b"</body>", b"\xff\xfe</body>")
    assert judge(broken_text).title == "Übung 日本 Übung"
    broken_title = page.replace("日".encode(), "日".encode()[:2])
    assert judge(broken_title).reason == "unreadable"
    code = script(f"var ytInitialPlayerResponse = {json.dumps(pages.player_response('TITLE', POSSIBLE_ID))};")
    broken_data = document("", code).encode().replace(b"TITLE", "Übung 日本".encode() + b"\xff")
    assert judge(broken_data).reason == "unreadable"


def test_a_page_still_compressed_is_unpacked() -> None:
    packed = gzip.compress(pages.page_2020("A title", POSSIBLE_ID).encode())
    assert judge(packed).title == "A title"
    assert judge(packed[: len(packed) // 2]).title in (None, "A title")
    assert judge(b"\x1f\x8bnot gzip").reason == "unreadable"


def test_facts_survive_being_kept() -> None:
    for page in [*(era("A &amp; \ud83d title", POSSIBLE_ID) for era in PAGES.values()), *pages.DEAD_PAGES.values()]:
        facts = read_page(page.encode("utf-8", "replace"), UTF8)
        kept = json.loads(json.dumps({**facts.to_json(), "from_the_future": 1}))
        assert PageFacts.from_json(kept) == facts


def test_the_facts_of_a_large_page_are_small() -> None:
    page = pages.page_2020("A title", POSSIBLE_ID).replace("</body>", "<li>comment</li>" * 100_000 + "</body>")
    assert len(json.dumps(read_page(page.encode(), UTF8).to_json())) < 2000


@pytest.mark.parametrize(
    ("url", "youtube_id"),
    [
        (watch_url(POSSIBLE_ID), POSSIBLE_ID),
        (f"http://www.youtube.com:80/watch?feature=related&v={POSSIBLE_ID}&list=x", POSSIBLE_ID),
        (f"/watch?v={POSSIBLE_ID}", POSSIBLE_ID),
        (f"youtube.com/watch?v={POSSIBLE_ID}", POSSIBLE_ID),
        (f"http://m.youtube.com/watch?gl=US&amp;v={POSSIBLE_ID}", POSSIBLE_ID),
        (f"https://music.youtube.com/watch?v={POSSIBLE_ID}", POSSIBLE_ID),
        (f"https://youtu.be/{POSSIBLE_ID}?t=3", POSSIBLE_ID),
        (f"https://www.youtube.com/shorts/{POSSIBLE_ID}", POSSIBLE_ID),
        (f"https://www.youtube-nocookie.com/embed/{POSSIBLE_ID}?rel=0", POSSIBLE_ID),
        (f"http://www.youtube.com/v/{POSSIBLE_ID}", POSSIBLE_ID),
        (f"https://www.youtube.com/live/{POSSIBLE_ID}", POSSIBLE_ID),
        (f"http://www.youtube.com/?v={POSSIBLE_ID}", POSSIBLE_ID),
        (f"http://www.youtube.com/watch.php?v={POSSIBLE_ID}", POSSIBLE_ID),
        (f"https://www.youtube.com/get_video_info?html5=1&video_id={POSSIBLE_ID}", POSSIBLE_ID),
        (
            f"https://www.youtube.com/oembed?format=json&url=http%3A//www.youtube.com/watch%3Fv%3D{POSSIBLE_ID}",
            POSSIBLE_ID,
        ),
        (f"http://www.youtube.com/oembed?url=https://youtu.be/{POSSIBLE_ID}&format=xml", POSSIBLE_ID),
        (f"http://gdata.youtube.com/feeds/api/videos/{POSSIBLE_ID}?v=2&alt=json", POSSIBLE_ID),
        (f"http://www.youtube.com/v/{POSSIBLE_ID}&hl=en&fs=1", POSSIBLE_ID),
        (f"https://youtu.be/{POSSIBLE_ID}&feature=x", POSSIBLE_ID),
        (f"http://www.youtube.com/watch#!v={POSSIBLE_ID}&feature=x", POSSIBLE_ID),
        (f"http://www.youtube.com/watch?v={POSSIBLE_ID}?feature=x", POSSIBLE_ID),
        (f"http://youtube.com.br/watch?v={POSSIBLE_ID}", POSSIBLE_ID),
        (f"http://notyoutube.de/watch?v={POSSIBLE_ID}", None),
        (f"http://gdata.youtube.com/feeds/api/videos/{POSSIBLE_ID}/related", None),
        ("https://www.youtube.com/embed/videoseries?list=PL0123456789", None),
        ("https://www.youtube.com/embed/live_stream?channel=UC0123", None),
        ("https://www.youtube.com/oembed?url=https://example.org/", None),
        (f"https://www.youtube.com/watch?v={POSSIBLE_ID}x", None),
        (f"https://youtube.com.example.org/watch?v={POSSIBLE_ID}", None),
        (f"https://consent.youtube.com/m?continue=https://www.youtube.com/watch?v={POSSIBLE_ID}", None),
        (f"https://example.org/?v={POSSIBLE_ID}", None),
        ("https://www.youtube.com/", None),
        ("https://[broken", None),
        ("mailto:someone", None),
        ("", None),
        (None, None),
    ],
)
def test_ids_in_addresses(url: str | None, youtube_id: str | None) -> None:
    assert id_in_url(url) == youtube_id


@pytest.mark.parametrize("odd_titles", [0.0, 1.0])
def test_every_page_of_a_hostile_archive_tells_the_right_title_or_none(odd_titles: float) -> None:
    captures = CaptureShares.hostile()
    world = World(
        seed=0, config=WorldConfig(odd_titles=odd_titles, hostile_titles=0.3 * (1 - odd_titles), captures=captures)
    )
    num_titles = 0
    for youtube_id in ids_where(lambda video: bool(video.captures), 80):
        raw_title = world.video(youtube_id).title
        for capture in world.archive.captures(youtube_id):
            judged = judge_page(read_page(*captured_body(world, capture)), youtube_id, page_url=capture.original)
            assert judged.title == (clean_plain_title(raw_title) if capture.kind.has_title else None), capture
            num_titles += judged.title is not None
    assert num_titles > 50


PIECES = st.sampled_from(
    [
        *(
            "<title>",
            "</title>",
            "YouTube - ",
            " - YouTube",
            "<meta ",
            "property=",
            '"og:title" ',
            "content=",
            "'",
            '"',
            ">",
        ),
        *(
            "ytInitialPlayerResponse = ",
            "ytInitialData=",
            "swfArgs={",
            "'PLAYER_CONFIG': ",
            "ytplayer.config=",
            "\\x7b",
        ),
        *(
            '{"videoDetails":',
            '{"args":{"player_response":"',
            "{",
            "[",
            "}",
            "]",
            ":",
            ",",
            "\\",
            "video_id=",
            POSSIBLE_ID,
        ),
        *(
            "&amp;",
            "&#0;",
            "&#x1F600;",
            "\ud83d",
            "\x00",
            "é",
            "日本",
            f'<link rel="canonical" href="{watch_url(POSSIBLE_ID)}">',
        ),
        *(f'"videoId":"{POSSIBLE_ID}"', '"title":', "null", "1e999", "-", "NaN", "JSON.parse('", "simpleText", "runs"),
    ]
)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=60), st.text(max_size=30))
def test_reading_never_fails(parts: list[str], content_type: str) -> None:
    facts = read_page("".join(parts).encode("utf-8", "surrogatepass"), content_type)
    assert PageFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
    judged = judge_page(facts, POSSIBLE_ID)
    assert (judged.title is None) != (judged.reason is None)


def test_facts_of_data_survive_being_kept_and_those_of_older_readers_are_read() -> None:
    for answer in ANSWERS.values():
        facts = read_page(answer("A title", POSSIBLE_ID).encode(), "")
        assert PageFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
    first_reader = {"title_tag": "YouTube - Me at the zoo", "has_player": True}
    judged = judge_page(PageFacts.from_json(first_reader), POSSIBLE_ID, page_url=watch_url(POSSIBLE_ID))
    assert judged.title == "Me at the zoo"


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["", UTF8, "text/html; charset=gb18030", "x; charset=utf-7"]))
def test_bytes_of_any_kind_can_be_read(body: bytes, content_type: str) -> None:
    for data in (body, b"\x1f\x8b" + body, b"\xff\xfe" + body, b"<title>" + body + b" - YouTube</title>"):
        judge_page(read_page(data, content_type), POSSIBLE_ID)


@pytest.mark.parametrize("era", sorted(PAGES))
def test_characters_of_two_utf_16_halves_come_out_whole(era: str) -> None:
    """Programs of UTF-16 write an emoji as two halves: in bytes (CESU-8), or as two references or escapes."""
    page = PAGES[era]("Sm\U0001f600le", POSSIBLE_ID)
    halves = "".join(half.encode("utf-8", "surrogatepass").hex() for half in ("\ud83d", "\ude00"))
    assert judge(page.encode().replace("\U0001f600".encode(), bytes.fromhex(halves))).title == "Sm\U0001f600le"
    spelled = "&#55357;&#56832;" if era in MARKUP_ALONE else "\\ud83d\\ude00"
    assert judge(page.replace("\U0001f600", spelled)).title == "Sm\U0001f600le"


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=80), st.sampled_from(sorted(PAGES)))
def test_any_title_comes_out_of_any_page(title: str, era: str) -> None:
    judged = judge(PAGES[era](title, POSSIBLE_ID))
    assert judged.title in (clean_plain_title(title), None)
    if era not in MARKUP_ALONE:
        assert judged.title == clean_plain_title(title)


@pytest.mark.parametrize(
    "unit",
    [
        *("<title>", "<title", "<meta ", "<meta a=\"'", "<meta a=b ", "a=b ", "ytInitialData={", "PLAYER_CONFIG:{a:"),
        *('swfArgs={"a":', "ytplayer.config={};", "ytInitialData='", "video_id=", " - YouTube ", "&amp", "<!--", "\0"),
        *("<!---->", "<script>", "<script", "<script></script>", "<style ", "</script", "<textarea>x", "</Head"),
        *('{"a":', "["),
    ],
)
def test_hostile_pages_take_time_in_proportion_to_their_size(unit: str) -> None:
    # This takes a fraction of a second; one walk to the end for each of its parts would take minutes.
    page = (unit * (200_000 // len(unit))).encode()
    began = time.process_time()
    for start in (b"", b"<title>", b"<meta ", b"ytInitialData = ", b"swfArgs = {a:"):
        read_page(start + page, "")
    assert time.process_time() - began < 10


def test_many_open_titles_are_not_followed_to_the_end() -> None:
    began = time.process_time()
    assert judge(b"<title>" * 600_000).reason == "unreadable"
    assert time.process_time() - began < 5


def test_deep_nesting_is_no_error() -> None:
    for start in ("var ytInitialData = ", "var swfArgs = "):
        assert (
            judge(document(f"<title>A - YouTube</title>{links(POSSIBLE_ID)}", script(start + '{"a":[' * 100_000))).title
            == "A"
        )


def test_pages_are_read_up_to_a_limit() -> None:
    page = b"<p>padding</p>\n" * (9 << 16) + pages.page_without_data("Too far away", POSSIBLE_ID).encode()
    assert len(page) > MAX_PAGE_BYTES
    assert judge(page).reason == "unreadable"
