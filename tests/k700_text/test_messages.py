"""The player's messages: every row of the table, its full texts, and the texts that hold the words of two rows."""

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

# (row of the table, message, kind, reason, availability), in the order of the table.
ROWS = [
    (1, "Unable to download webpage: HTTP Error 429: Too Many Requests (caused by <HTTPError 429>)",
     MessageKind.RATE_LIMITED, "rate_limited", UNKNOWN),
    (1, "Too many requests", MessageKind.RATE_LIMITED, "rate_limited", UNKNOWN),
    (2, f"Sign in to confirm you’re not a bot.{LOGIN_HINT}", MessageKind.BOT_CHECK, "bot_check", UNKNOWN),
    (3, SESSION_LIMIT, MessageKind.RATE_LIMITED, "session_limit", UNKNOWN),
    (3, "The current session has been rate-limited by YouTube for up to an hour.",
     MessageKind.RATE_LIMITED, "session_limit", UNKNOWN),
    (4, "Playback on other websites is off. YouTube is requiring a captcha challenge before playback",
     MessageKind.BOT_CHECK, "bot_check", UNKNOWN),
    (5, "All player responses are invalid. Your IP is likely being blocked by Youtube",
     MessageKind.BLOCKED_BY_NETWORK, "blocked_by_network", UNKNOWN),
    (6, "Failed to extract any player response; please report this issue on the tracker",
     MessageKind.PARSER_BROKEN, "parser_broken", UNKNOWN),
    (7, "Unable to download webpage: HTTP Error 403: Forbidden", MessageKind.TRANSIENT, "transient", UNKNOWN),
    (7, "Unable to download API page: <urlopen error [Errno 104] Connection reset by peer>",
     MessageKind.TRANSIENT, "transient", UNKNOWN),
    (7, "The read operation timed out", MessageKind.TRANSIENT, "transient", UNKNOWN),
    (7, "HTTP Error 503: Service Unavailable", MessageKind.TRANSIENT, "transient", UNKNOWN),
    (8, "Private video. Sign in if you've been granted access to this video." + LOGIN_HINT,
     ABOUT_VIDEO, "private", Availability.PRIVATE),
    (9, "Video unavailable. This video has been removed by the uploader",
     ABOUT_VIDEO, "removed_by_user", Availability.REMOVED),
    (9, "YouTube said: This video has been removed by the user.",
     ABOUT_VIDEO, "removed_by_user", Availability.REMOVED),
    (10, "Video unavailable. This video is no longer available because the YouTube account associated with this video "
     "has been terminated.", ABOUT_VIDEO, "account_terminated", Availability.TERMINATED),
    (11, "Video unavailable. This video is no longer available due to a copyright claim by Some Label",
     ABOUT_VIDEO, "copyright", Availability.COPYRIGHT),
    (11, "This video contains content from SME, who has blocked it on copyright grounds",
     ABOUT_VIDEO, "copyright", Availability.COPYRIGHT),
    (12, "This video has been removed for violating YouTube’s policy on nudity or sexual content",
     ABOUT_VIDEO, "policy", Availability.POLICY),
    (12, "This video has been removed for violating YouTube's Terms of Service",
     ABOUT_VIDEO, "policy", Availability.POLICY),
    (12, "This video has been removed because it breaks our rules on hate speech",
     ABOUT_VIDEO, "policy", Availability.POLICY),
    (13, f"Sign in to confirm your age. This video may be inappropriate for some users.{LOGIN_HINT}",
     ABOUT_VIDEO, "age_gate", Availability.AGE_RESTRICTED),
    (13, "This video is age-restricted and only available on YouTube",
     ABOUT_VIDEO, "age_gate", Availability.AGE_RESTRICTED),
    (14, "The uploader has not made this video available in your country",
     ABOUT_VIDEO, "geo_blocked", Availability.GEO_BLOCKED),
    (15, "Join this channel to get access to members-only content like this video, and other exclusive perks.",
     ABOUT_VIDEO, "members_only", Availability.MEMBERS_ONLY),
    (15, "This video is available to this channel’s members on level: Fan (or any higher level).",
     ABOUT_VIDEO, "members_only", Availability.MEMBERS_ONLY),
    (16, "Premieres in 3 hours", ABOUT_VIDEO, "not_ready", UNKNOWN),
    (16, "This live event will begin in 2 days.", ABOUT_VIDEO, "not_ready", UNKNOWN),
    (16, "This live stream recording is not available.", ABOUT_VIDEO, "not_ready", UNKNOWN),
    (17, "This video is not available", ABOUT_VIDEO, "unavailable_unspecified", UNKNOWN),
    (18, "Video unavailable", ABOUT_VIDEO, "not_found", Availability.NOT_FOUND),
    (19, "Playback on other devices is switched off", MessageKind.UNKNOWN, "unknown", UNKNOWN),
]  # fmt: skip
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
]


@pytest.mark.parametrize(("row", "text", "kind", "reason", "availability"), ROWS)
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_each_row_of_the_table_is_read_with_and_without_the_prefix(
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


def test_the_earlier_row_wins_whichever_message_stands_first() -> None:
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


@pytest.mark.parametrize("apostrophe", ["'", "\u2019", "\u2018"])
def test_apostrophes_and_case_do_not_matter(apostrophe: str) -> None:
    text = f"SIGN IN TO CONFIRM  YOU{apostrophe}RE\nNOT A BOT"
    assert classify(text).kind is MessageKind.BOT_CHECK


def test_mentions_in_passing_are_no_match() -> None:
    for text in ("", "a video of private views", "HTTP Error 404: Not Found", "timeouts were raised", "usernames"):
        assert classify(text) == UNKNOWN_MESSAGE, text


@given(st.text(max_size=200))
def test_any_text_has_a_meaning(text: str) -> None:
    meaning = classify(text)
    assert re.fullmatch(r"[a-z_]+", meaning.reason)
    assert classify(f"{text}\nToo Many Requests").kind is MessageKind.RATE_LIMITED
