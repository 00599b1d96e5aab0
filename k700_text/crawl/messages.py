"""What the player's messages mean, in the one order in which they may be tested (web-contracts section 3.5).

The order is the point: a rate limit may be announced behind the words "Video unavailable", so whoever looks for a dead
video first takes living ones for dead, thousands of them, for as long as the limit lasts. Rules about us come before
rules about the video, and the general words come last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from k700_text.records import Availability

_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\uff07": "'"})


class MessageKind(StrEnum):
    """Whom a message is about."""

    RATE_LIMITED = "rate_limited"
    """About us: we asked too often."""
    BOT_CHECK = "bot_check"
    """About us: a person is asked for."""
    BLOCKED_BY_NETWORK = "blocked_by_network"
    """About us: the address gets answers about other videos."""
    PARSER_BROKEN = "parser_broken"
    """About the tool: no answer could be read."""
    TRANSIENT = "transient"
    """About the connection or the server."""
    VIDEO = "video"
    """About the video."""
    UNKNOWN = "unknown"
    """No rule knows the message."""

    @property
    def stops_host(self) -> bool:
        """The host is to be left alone for a while; nothing is known about the video."""
        return self in (MessageKind.RATE_LIMITED, MessageKind.BOT_CHECK, MessageKind.BLOCKED_BY_NETWORK)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a message says.

    Attributes:
        kind: whom it is about.
        reason: short and machine-readable.
        availability: state of the video; UNKNOWN unless ``kind`` is VIDEO, and also for words that fit several states.
    """

    kind: MessageKind
    reason: str
    availability: Availability = Availability.UNKNOWN


UNKNOWN_MESSAGE = Meaning(MessageKind.UNKNOWN, "unknown")


def _about_us(kind: MessageKind) -> Meaning:
    return Meaning(kind, kind.value)


def _video(reason: str, availability: Availability = Availability.UNKNOWN) -> Meaning:
    return Meaning(MessageKind.VIDEO, reason, availability)


# Rows 1 to 18 of section 3.5, in its order; then what the logs of youtube-dl say and no row matches.
_RULES: tuple[tuple[Meaning, str], ...] = (
    (_about_us(MessageKind.RATE_LIMITED), r"http error 429|too many requests"),
    (_about_us(MessageKind.BOT_CHECK), r"confirm you're not a bot"),
    (
        Meaning(MessageKind.RATE_LIMITED, "session_limit"),
        r"content isn't available, try again later|rate-limited by youtube",
    ),
    (_about_us(MessageKind.BOT_CHECK), r"captcha challenge"),
    (_about_us(MessageKind.BLOCKED_BY_NETWORK), r"all player responses are invalid|ip is likely being blocked"),
    (_about_us(MessageKind.PARSER_BROKEN), r"failed to extract any player response"),
    (
        _about_us(MessageKind.TRANSIENT),
        r"unable to download (?:webpage|api page)|timed out|\btime-?out\b|http error 5\d\d",
    ),
    (_video("private", Availability.PRIVATE), r"private video"),
    (_video("removed_by_user", Availability.REMOVED), r"removed by the (?:uploader|user)\b"),
    (
        _video("account_terminated", Availability.TERMINATED),
        r"account associated with this video has been terminated",
    ),
    (_video("copyright", Availability.COPYRIGHT), r"copyright claim|copyright grounds|blocked it"),
    (
        _video("policy", Availability.POLICY),
        r"violating youtube's|terms of service|hate speech|removed for violating",
    ),
    (
        _video("age_gate", Availability.AGE_RESTRICTED),
        r"confirm your age|age-restricted|inappropriate for some users",
    ),
    (
        _video("geo_blocked", Availability.GEO_BLOCKED),
        r"not made this video available in your country|georestrictederror",
    ),
    (
        _video("members_only", Availability.MEMBERS_ONLY),
        r"members-only|join this channel|available to this channel's members",
    ),
    (_video("not_ready"), r"premieres in|live event will begin|live stream recording is not available"),
    (_video("unavailable_unspecified"), r"this video is not available"),
    (_video("not_found", Availability.NOT_FOUND), r"video unavailable"),
    (_video("private", Availability.PRIVATE), r"this video is private"),
    (_video("not_found", Availability.NOT_FOUND), r"this video does not exist|this video is unavailable"),
    (_video("login_required"), r"please sign in to view this video"),
    (_video("unavailable_unspecified"), r"this video is no longer available"),
)
_PATTERNS = tuple((meaning, re.compile(pattern)) for meaning, pattern in _RULES)


def classify(text: str) -> Meaning:
    """Returns what a message means; the first rule that matches decides.

    Several lines about one video may be given as one text: the order of the rules then decides between them.

    Args:
        text: the message with or without its prefix (``ERROR: [youtube] <ID>: ``), in any case, with either apostrophe.
    """
    folded = " ".join(text.translate(_APOSTROPHES).lower().split())
    return next((meaning for meaning, pattern in _PATTERNS if pattern.search(folded)), UNKNOWN_MESSAGE)
