"""The player's messages: every class of section 12.1 behind every headline, and texts that hold the words of two."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k700_text.crawl.messages import UNKNOWN_MESSAGE, Meaning, MessageKind, classify
from k700_text.records import Availability

PREFIX = "ERROR: [youtube] dQw4w9WgXcQ: "
LOGIN_HINT = (
    " Use --cookies-from-browser or --cookies for the authentication. See  "
    "https://github.com/yt-dlp/yt-dlp/wiki/FAQ#how-do-i-pass-cookies-to-yt-dlp  for how to manually pass cookies. "
    "Also see  https://github.com/yt-dlp/yt-dlp/wiki/Extractors#exporting-youtube-cookies  for tips on effectively "
    "exporting YouTube cookies"
)
SESSION_LIMIT = (
    "This content isn't available, try again later. The current session has been rate-limited by YouTube for up to an "
    "hour. It is recommended to use `-t sleep` to add a delay between video requests to avoid exceeding the rate limit."
)
ABOUT_VIDEO, UNKNOWN = MessageKind.VIDEO, Availability.UNKNOWN

BY = "This video contains content from"
CLOSED_BY_NETWORK = (
    "This video is restricted. Please check the Google Workspace administrator and/or the network administrator "
    "restrictions."
)

# (class of section 12.1, sentence, kind, reason, availability), in the order of the classes.
ROWS = [
    (1, "Unable to download webpage: HTTP Error 429: Too Many Requests (caused by <HTTPError 429>)",
     MessageKind.RATE_LIMITED, "rate_limited", UNKNOWN),
    (1, "Too many requests", MessageKind.RATE_LIMITED, "rate_limited", UNKNOWN),
    (2, SESSION_LIMIT, MessageKind.RATE_LIMITED, "session_limit", UNKNOWN),
    (2, "The current session has been rate-limited by YouTube for up to an hour.",
     MessageKind.RATE_LIMITED, "session_limit", UNKNOWN),
    (2, "This content isn’t available.", MessageKind.RATE_LIMITED, "session_limit", UNKNOWN),
    (2, "The page needs to be reloaded.", MessageKind.RATE_LIMITED, "session_limit", UNKNOWN),
    (3, f"Sign in to confirm you’re not a bot.{LOGIN_HINT}", MessageKind.BOT_CHECK, "bot_check", UNKNOWN),
    (3, "Please confirm that you are not a robot", MessageKind.BOT_CHECK, "bot_check", UNKNOWN),
    (3, "Playback on other websites is off. YouTube is requiring a captcha challenge before playback",
     MessageKind.BOT_CHECK, "bot_check", UNKNOWN),
    (4, "All player responses are invalid. Your IP is likely being blocked by Youtube",
     MessageKind.BLOCKED_BY_NETWORK, "blocked_by_network", UNKNOWN),
    (5, CLOSED_BY_NETWORK, MessageKind.RESTRICTED_NETWORK, "restricted_network", UNKNOWN),
    (5, "This video is restricted. Try signing in with a Google Apps account.",
     MessageKind.RESTRICTED_NETWORK, "restricted_network", UNKNOWN),
    (5, "Your network administrator has blocked this video",
     MessageKind.RESTRICTED_NETWORK, "restricted_network", UNKNOWN),
    (6, "Failed to extract any player response; please report this issue on the tracker",
     MessageKind.PARSER_BROKEN, "parser_broken", UNKNOWN),
    (7, "Unable to download webpage: HTTP Error 403: Forbidden", MessageKind.TRANSIENT, "transient", UNKNOWN),
    (7, "Unable to download API page: <urlopen error [Errno 104] Connection reset by peer>",
     MessageKind.TRANSIENT, "transient", UNKNOWN),
    (7, "The read operation timed out", MessageKind.TRANSIENT, "transient", UNKNOWN),
    (7, "HTTP Error 503: Service Unavailable", MessageKind.TRANSIENT, "transient", UNKNOWN),
    (8, "Private video. Sign in if you've been granted access to this video." + LOGIN_HINT,
     ABOUT_VIDEO, "private", Availability.PRIVATE),
    (8, "This video is private. If the owner of this video has granted you access, please sign in.",
     ABOUT_VIDEO, "private", Availability.PRIVATE),
    (9, "This video is no longer available because the YouTube account associated with this video has been terminated.",
     ABOUT_VIDEO, "account_terminated", Availability.TERMINATED),
    (9, "This video is no longer available because the YouTube account associated with this video has been terminated "
     "due to multiple third-party notifications of copyright infringement.",
     ABOUT_VIDEO, "account_terminated", Availability.TERMINATED),
    (10, "This video is no longer available because the uploader has closed their YouTube account.",
     ABOUT_VIDEO, "account_closed", Availability.TERMINATED),
    (11, "This video has been removed by the uploader", ABOUT_VIDEO, "removed_by_user", Availability.REMOVED),
    (11, "YouTube said: This video has been removed by the user.",
     ABOUT_VIDEO, "removed_by_user", Availability.REMOVED),
    (14, "This video has been removed for violating YouTube’s policy on nudity or sexual content",
     ABOUT_VIDEO, "policy", Availability.POLICY),
    (14, "This video has been removed for violating YouTube's Terms of Service",
     ABOUT_VIDEO, "policy", Availability.POLICY),
    (14, "This video has been removed because it breaks our rules on hate speech",
     ABOUT_VIDEO, "policy", Availability.POLICY),
    (14, "This video is no longer available due to a privacy claim by a third party",
     ABOUT_VIDEO, "policy", Availability.POLICY),
    (12, "The uploader has not made this video available in your country",
     ABOUT_VIDEO, "geo_blocked", Availability.GEO_BLOCKED),
    (12, f"{BY} SME, who has blocked it in your country on copyright grounds",
     ABOUT_VIDEO, "geo_blocked", Availability.GEO_BLOCKED),
    (12, f"{BY} Warner Bros. Entertainment. It is not available in your country.",
     ABOUT_VIDEO, "geo_blocked", Availability.GEO_BLOCKED),
    (12, "This content is not available on this country domain due to a court order.",
     ABOUT_VIDEO, "geo_blocked", Availability.GEO_BLOCKED),
    (12, "This content is not available on this country domain due to a legal complaint from the government.",
     ABOUT_VIDEO, "geo_blocked", Availability.GEO_BLOCKED),
    (12, "Video geo-restricted. This video is not available from your location.",
     ABOUT_VIDEO, "geo_blocked", Availability.GEO_BLOCKED),
    (13, f"Sign in to confirm your age. This video may be inappropriate for some users.{LOGIN_HINT}",
     ABOUT_VIDEO, "age_gate", Availability.AGE_RESTRICTED),
    (13, "This video is age-restricted and only available on YouTube. Watch on YouTube",
     ABOUT_VIDEO, "age_gate", Availability.AGE_RESTRICTED),
    (15, "Playback on other websites has been disabled by the video owner",
     ABOUT_VIDEO, "embedding_off", Availability.EMBEDDING_OFF),
    (15, "Error code: 153", ABOUT_VIDEO, "embedding_off", Availability.EMBEDDING_OFF),
    (15, f"{BY} WMG, who has blocked it from display on this website or application. Watch on YouTube",
     ABOUT_VIDEO, "embedding_off", Availability.EMBEDDING_OFF),
    (15, f"{BY} UMG. It is restricted from playback on certain sites.",
     ABOUT_VIDEO, "embedding_off", Availability.EMBEDDING_OFF),
    (16, "This video is only available to Music Premium members",
     ABOUT_VIDEO, "premium_only", Availability.MEMBERS_ONLY),
    (16, "This video requires payment to watch.", ABOUT_VIDEO, "premium_only", Availability.MEMBERS_ONLY),
    (17, "Join this channel to get access to members-only content like this video, and other exclusive perks.",
     ABOUT_VIDEO, "members_only", Availability.MEMBERS_ONLY),
    (17, "This video is available to this channel’s members on level: Fan (or any higher level).",
     ABOUT_VIDEO, "members_only", Availability.MEMBERS_ONLY),
    (18, "This video is unavailable on this device", ABOUT_VIDEO, "player_limit", Availability.PUBLIC),
    (18, "The following content is not available on this app. Watch this content on the latest version of the YouTube "
     "app.", ABOUT_VIDEO, "player_limit", Availability.PUBLIC),
    (18, "The following content may contain graphic or violent imagery. Viewer discretion is advised.",
     ABOUT_VIDEO, "player_limit", Availability.PUBLIC),
    (19, "This video is no longer available due to a copyright claim by Some Label",
     ABOUT_VIDEO, "copyright", Availability.COPYRIGHT),
    (19, f"{BY} SME, who has blocked it on copyright grounds", ABOUT_VIDEO, "copyright", Availability.COPYRIGHT),
    (12, "This video is not available in your country due to a privacy complaint by a third party",
     ABOUT_VIDEO, "geo_blocked", Availability.GEO_BLOCKED),
    (12, "This content isn't available in your country because of a violation of the NetzDG, a hate speech law",
     ABOUT_VIDEO, "geo_blocked", Availability.GEO_BLOCKED),
    (13, "This video has been identified by the YouTube community as inappropriate because of hate speech",
     ABOUT_VIDEO, "age_gate", Availability.AGE_RESTRICTED),
    (14, "This video has been removed for violating YouTube's policy on hate speech. Learn more about combating hate "
     "speech in your country.", ABOUT_VIDEO, "policy", Availability.POLICY),
    (5, "This video is unavailable with Restricted Mode enabled. To view this video, you will need to disable "
     "Restricted Mode.", MessageKind.RESTRICTED_NETWORK, "restricted_network", UNKNOWN),
    (5, "This video is not approved by your admin", MessageKind.RESTRICTED_NETWORK, "restricted_network", UNKNOWN),
    (15, "Playback on other apps has been disabled by the video owner",
     ABOUT_VIDEO, "embedding_off", Availability.EMBEDDING_OFF),
    (17, "This video is available to this channel's members on level: Private video (or any higher level).",
     ABOUT_VIDEO, "members_only", Availability.MEMBERS_ONLY),
    (20, "Premieres in 3 hours", ABOUT_VIDEO, "not_ready", UNKNOWN),
    (20, "This live event will begin in 2 days.", ABOUT_VIDEO, "not_ready", UNKNOWN),
    (20, "This live stream recording is not available.", ABOUT_VIDEO, "not_ready", UNKNOWN),
    (20, "We're processing this video. Check back later.", ABOUT_VIDEO, "not_ready", UNKNOWN),
    (20, "We're experiencing technical difficulties and working to bring it back", ABOUT_VIDEO, "not_ready", UNKNOWN),
    (21, "An error occurred. Please try again later. (Playback ID: x)", MessageKind.TRANSIENT, "transient", UNKNOWN),
]  # fmt: skip
HEADLINES = [
    ("Video unavailable", "not_found", Availability.NOT_FOUND),
    ("This video is unavailable.", "not_found", Availability.NOT_FOUND),
    ("Video unavailable. This video isn’t available anymore", "not_found", Availability.NOT_FOUND),
    ("This video is not available", "unavailable_unspecified", UNKNOWN),
    # What the site says of some videos that this country may not see.
    ("Video unavailable. This video is not available", "unavailable_unspecified", UNKNOWN),
]
OLD_LOGS = [
    ("ERROR: dQw4w9WgXcQ: YouTube said: This video does not exist.", "not_found", Availability.NOT_FOUND),
    ("ERROR: This video has been removed by the user.", "removed_by_user", Availability.REMOVED),
    ("ERROR: dQw4w9WgXcQ: YouTube said: Please sign in to view this video.", "login_required", UNKNOWN),
    ("ERROR: This video is unavailable.", "not_found", Availability.NOT_FOUND),
    ("ERROR: This video is private. Sorry about that.", "private", Availability.PRIVATE),
    ("ERROR: This video is no longer available. Sorry about that.", "unavailable_unspecified", UNKNOWN),
    (
        "ERROR: dQw4w9WgXcQ: YouTube said: This video is no longer available due to a copyright claim by X.",
        "copyright",
        Availability.COPYRIGHT,
    ),
    (
        'ERROR: dQw4w9WgXcQ: YouTube said: <a href="http://www.youtube.com/watch?v=dQw4w9WgXcQ">Watch this video on '
        "YouTube.</a><br/>Playback on other websites has been disabled by the video owner.",
        "embedding_off",
        Availability.EMBEDDING_OFF,
    ),
]


@pytest.mark.parametrize(("row", "text", "kind", "reason", "availability"), ROWS)
@pytest.mark.parametrize("prefix", ["", PREFIX, f"{PREFIX}Video unavailable. ", "This video is unavailable. "])
def test_the_sentence_decides_whatever_stands_before_it(
    row: int, text: str, kind: MessageKind, reason: str, availability: Availability, prefix: str
) -> None:
    assert classify(prefix + text) == Meaning(kind, reason, availability), row


@pytest.mark.parametrize(("text", "reason", "availability"), OLD_LOGS)
def test_old_logs_are_read_too(text: str, reason: str, availability: Availability) -> None:
    assert classify(text) == Meaning(MessageKind.VIDEO, reason, availability)


def test_rate_limit_behind_video_unavailable_is_no_death() -> None:
    for text in (f"{PREFIX}Video unavailable. {SESSION_LIMIT}", "Video unavailable. This content isn’t available, try "
                 "again later."):  # fmt: skip
        meaning = classify(text)
        assert meaning == Meaning(MessageKind.RATE_LIMITED, "session_limit")
        assert meaning.kind.stops_host


@pytest.mark.parametrize(("text", "reason", "availability"), HEADLINES)
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_headline_is_read_only_where_it_stands_alone(
    text: str, reason: str, availability: Availability, prefix: str
) -> None:
    assert classify(f"{prefix}{text}") == Meaning(ABOUT_VIDEO, reason, availability)
    assert classify(f"{prefix}{text}{LOGIN_HINT}") == Meaning(ABOUT_VIDEO, reason, availability)
    for unheard in ("Bitte versuche es mit einem anderen Konto.", "A sentence that the site has not yet said."):
        assert classify(f"{prefix}{text.rstrip('.')}. {unheard}") == UNKNOWN_MESSAGE
        # In a line of its own it is about something else.
        assert classify(f"WARNING: [youtube] {unheard}\n{PREFIX}{text}").availability is availability
        # In the next line of the same message it is not, whatever ends a line.
        for end in ("\n", "\r\n", "\u2028"):
            assert classify(f"{prefix}{text}{end}{unheard}") == UNKNOWN_MESSAGE
        assert classify(f"WARNING: [youtube] {text.rstrip('.')}. {unheard}\n{PREFIX}{text}") == UNKNOWN_MESSAGE


@pytest.mark.parametrize("name", ["Private Video Ltd", "Rent A Car TV", "Music Premium", "Watch It On YouTube Inc."])
def test_names_of_owners_are_not_read(name: str) -> None:
    for text, state in (
        (f"Video unavailable. {BY} {name}, who has blocked it on copyright grounds", Availability.COPYRIGHT),
        (f"{BY} {name}, who has blocked it in your country on copyright grounds", Availability.GEO_BLOCKED),
        (f"{BY} {name}. It is not available in your country.", Availability.GEO_BLOCKED),
        (f"This video is no longer available due to a copyright claim by {name}", Availability.COPYRIGHT),
    ):
        assert classify(text).availability is state


def test_the_earlier_class_wins_whichever_message_stands_first() -> None:
    first_of_row = {row: (text, reason) for row, text, _, reason, _ in reversed(ROWS)}
    for (row, (text, reason)), (later, (other, _)) in combinations(sorted(first_of_row.items()), 2):
        assert classify(f"{PREFIX}{text}\n{PREFIX}{other}").reason == reason, (row, later)
        assert classify(f"{PREFIX}{other}\n{PREFIX}{text}").reason == reason, (row, later)


def test_only_messages_about_us_stop_the_host() -> None:
    stopping = {row for row, text, *_ in ROWS if classify(text).kind.stops_host}
    assert stopping == {1, 2, 3, 4, 5}


def test_only_messages_about_the_video_carry_a_state() -> None:
    for _, text, kind, _, availability in ROWS:
        assert kind is ABOUT_VIDEO or availability is UNKNOWN, text


@pytest.mark.parametrize("apostrophe", ["'", "\u2019", "\u2018", "\u2032", "\u201b", "\u02b9", "`", "&#39;", "&rsquo;"])
def test_apostrophes_and_case_do_not_matter(apostrophe: str) -> None:
    text = f"SIGN IN TO CONFIRM  YOU{apostrophe}RE\nNOT A BOT"
    assert classify(text).kind is MessageKind.BOT_CHECK


@pytest.mark.parametrize(
    "text",
    [
        "Your account has been suspended from using this",
        "YouTube Premium account was suspended. Please renew to watch",
        "The channel's account is closed to new members. Members-only",
        "Private videos cannot be embedded. Watch on YouTube",
    ],
)
def test_words_of_a_death_about_something_else_are_none(text: str) -> None:
    assert not classify(text).availability.is_gone


def test_mentions_in_passing_are_no_match() -> None:
    for text in ("", "a video of private views", "HTTP Error 404: Not Found", "timeouts were raised", "usernames"):
        assert classify(text) == UNKNOWN_MESSAGE, text


@given(st.text(max_size=200))
def test_any_text_has_a_meaning(text: str) -> None:
    meaning = classify(text)
    assert re.fullmatch(r"[a-z_]+", meaning.reason)
    assert classify(f"{text}\nToo Many Requests").kind is MessageKind.RATE_LIMITED
