"""What the player's messages mean, in the one order in which they may be tested (web-contracts section 12.1).

The player joins a headline ("Video unavailable.") and a sentence. The sentence decides; the headline is read only where
nothing else is said. The order is the point: a rate limit or a filter of the network may be announced behind the same
headline, so whoever looks for a dead video first takes living ones for dead, thousands of them. Sentences about us come
before sentences about the video, a country before copyright, and what no rule knows is unknown, headline or not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from k700_text.records import Availability
from k700_text.titles import unescape

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u2018\u201b\u02bc\u02b9\u2032\uff07\u00b4`", "'"))


class MessageKind(StrEnum):
    """Whom a message is about."""

    RATE_LIMITED = "rate_limited"
    """About us: we asked too often."""
    BOT_CHECK = "bot_check"
    """About us: a person is asked for."""
    BLOCKED_BY_NETWORK = "blocked_by_network"
    """About us: the address gets answers about other videos."""
    RESTRICTED_NETWORK = "restricted_network"
    """About us: a filter of this network (a school's, a company's, of its DNS) hides videos."""
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
        return self in _STOPPING


_STOPPING = frozenset(
    {
        MessageKind.RATE_LIMITED,
        MessageKind.BOT_CHECK,
        MessageKind.BLOCKED_BY_NETWORK,
        MessageKind.RESTRICTED_NETWORK,
    }
)


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


def _about_us(kind: MessageKind, reason: str | None = None) -> Meaning:
    return Meaning(kind, reason or kind.value)


def _video(reason: str, availability: Availability = Availability.UNKNOWN) -> Meaning:
    return Meaning(MessageKind.VIDEO, reason, availability)


# Of a video that lives elsewhere: said before the reasons that a country may have.
_NOT_HERE = (
    r"(?:not|isn't|un) ?available[^.]{0,80}? (?:in|on|from|for) (?:your|this) (?:country|region|location|area)"
    r"|not made this video available in|blocked (?:it )?(?:in|for) your|country domain|geo-?restrict"
)

# The classes of section 12.1, in its order, but that a sentence "not available in your country because ..." goes before
# the reasons. Within a class the more telling words come first.
_RULES: tuple[tuple[Meaning, str], ...] = (
    # About us.
    (_about_us(MessageKind.RATE_LIMITED), r"http error 429|too many requests"),
    (
        # Not "... in your country", "... on this country domain", "... on this app".
        _about_us(MessageKind.RATE_LIMITED, "session_limit"),
        r"this content (?:isn't|is not) available(?!\.? (?:in|on|from|to)\b)|rate-limited by youtube"
        r"|page needs to be reloaded",
    ),
    (_about_us(MessageKind.RATE_LIMITED), r"rate[- ]limit"),
    (
        _about_us(MessageKind.BOT_CHECK),
        r"confirm (?:that )?you(?:'re| are) not a (?:ro)?bot|captcha|unusual traffic",
    ),
    (_about_us(MessageKind.BLOCKED_BY_NETWORK), r"all player responses are invalid|ip is likely being blocked"),
    (
        _about_us(MessageKind.RESTRICTED_NETWORK),
        r"restricted mode|restricted\b.{0,200}\b(?:google (?:workspace|apps)|g suite|administrator)"
        r"|(?:restricted|blocked|approved|allowed) by your (?:school|organi[sz]ation|network|company|admin)"
        r"|\badmin(?:istrator)?s?\b.{0,80}\b(?:restrict|block|not (?:approved|allowed))",
    ),
    (_about_us(MessageKind.PARSER_BROKEN), r"failed to extract any player response"),
    (
        _about_us(MessageKind.TRANSIENT),
        r"unable to download (?:webpage|api page)|timed out|\btime-?out\b|http error 5\d\d",
    ),
    # Exact deaths.
    (
        _video("private", Availability.PRIVATE),
        r"private video\b|video is private|been made private|if the owner of this video has granted you access",
    ),
    (
        _video("account_terminated", Availability.TERMINATED),
        r"\b(?:this|the)(?: youtube)? account\b(?! ?is closed to).{0,40}\b(?:has been|was|is) (?:terminated|suspended)",
    ),
    (
        _video("account_closed", Availability.TERMINATED),
        r"closed (?:their|his|her|its) (?:youtube |google )?account"
        r"|\b(?:this|the)(?: youtube)? account\b.{0,40}\b(?:has been|was) closed",
    ),
    (
        _video("removed_by_user", Availability.REMOVED),
        r"(?:removed|deleted) by (?:the|its) (?:uploader|user|owner|author|creator)\b"
        r"|(?:uploader|user|owner|creator) has (?:removed|deleted)",
    ),
    (_video("geo_blocked", Availability.GEO_BLOCKED), _NOT_HERE),
    (
        _video("age_gate", Availability.AGE_RESTRICTED),
        r"confirm your age|age[- ]restricted|inappropriate for some users|identified .{0,40}as inappropriate",
    ),
    (
        _video("policy", Availability.POLICY),
        r"removed for violat|violat(?:ing|es|ed|ion of) (?:youtube's|our|the) |hate speech"
        r"|(?:privacy|trademark|defamation) (?:claim|complaint) by"
        r"|removed .{0,40}(?:privacy|trademark) (?:claim|complaint)",
    ),
    # Alive, here or for us not: a country goes before copyright.
    (
        _video("geo_blocked", Availability.GEO_BLOCKED),
        r"(?:in|from|for) (?:your|this) (?:country|region|location|territory|area)|court order|legal complaint",
    ),
    # Alive, limits of a player: a copyright owner may forbid other sites only.
    (
        _video("embedding_off", Availability.EMBEDDING_OFF),
        r"other (?:web ?sites|apps)|(?:certain|some) (?:web)?sites|on this website|embedded player|outside of youtube"
        r"|embedding (?:is |has been )?disabled|not allow embedding|cannot be embedded"
        r"|watch (?:this video |it )?on youtube|error (?:code:? )?15[0-3]\b",
    ),
    (
        _video("premium_only", Availability.MEMBERS_ONLY),
        r"\b(?:music|youtube) premium\b|requires? (?:a )?(?:payment|purchase|rental)|purchas|paid content"
        r"|\b(?:rent|rental|rented)\b",
    ),
    (
        _video("members_only", Availability.MEMBERS_ONLY),
        r"members-only|join this channel|channel's members|members of this channel|members on level",
    ),
    (
        _video("player_limit", Availability.PUBLIC),
        r"available on (?:this (?:device|app|platform|browser|tv|player)|mobile|tv)\b|played in this browser"
        r"|latest version of the youtube app|\bdrm\b|licen[cs](?:e|ing)|viewer discretion",
    ),
    # Dead, by the words that a country or a site may stand behind.
    (_video("copyright", Availability.COPYRIGHT), r"copyright claim|copyright grounds|copyright infringement"),
    # Not ready.
    (
        _video("not_ready"),
        r"\bpremieres? (?:in|will|is|has)\b|live event|live stream|still (?:being )?process|processing this video"
        r"|check back later|working to bring it back|recording (?:is )?(?:not|un)\s?available",
    ),
    # Words that tell little.
    (_video("removed", Availability.REMOVED), r"this video (?:has been|was) (?:removed|deleted)"),
    (_video("login_required"), r"please sign in to view this video|sign in to (?:view|watch) this video"),
    (_about_us(MessageKind.TRANSIENT), r"(?:please )?try again|an error occurred|something went wrong"),
)
_PATTERNS = tuple((meaning, re.compile(pattern)) for meaning, pattern in _RULES)

# Headlines, which say something only where they are all that is said. "Not available" is also what the site says of
# videos that this country may not see: it goes before "unavailable".
_HEADLINES: tuple[tuple[Meaning, re.Pattern[str]], ...] = (
    (
        _video("unavailable_unspecified"),
        re.compile(r"(?:this |the )?video (?:you have requested )?(?:is not|isn't|is no longer) available"),
    ),
    (
        _video("not_found", Availability.NOT_FOUND),
        re.compile(
            r"video unavailable|this video is unavailable|(?:this |the )?video (?:does not|doesn't) exist"
            r"|this video (?:isn't|is not) available any ?more"
        ),
    ),
)
_PREFIX = re.compile(r"(?:(?:error|warning|player): )?(?:\[[^\]]*\] ?)?(?:[\w-]{11}: )?(?:youtube said: )?")
# A message begins with who says it; lines without that belong to the one before.
_BEGINNING = re.compile(r"(?:error|warning|player): ")
# What yt-dlp adds of its own.
_ADVICE = re.compile(r"(?:use --cookies|please report this issue|\(caused by|see +https?:).*")
_EMPTY_WORDS = frozenset({"", "sorry about that", "we're sorry", "learn more"})
_TAG = re.compile(r"<[^<>]*>")
# Owners and levels of members may be called anything, "Private Video Ltd." as well.
_NAME = re.compile(
    r"(?<=content from ).{1,200}?(?=,? (?:who|one or more of whom) |\. it is |$)"
    r"|(?<=claim by ).{1,200}?(?= in your country|$)|(?<=complaint by ).{1,200}?(?= in your country|$)"
    r"|(?<=on level: ).{1,200}?(?= \(or any|$)"
)


def classify(text: str) -> Meaning:
    """Returns what a message means; the first rule that matches decides.

    Several lines about one video may be given as one text: the order of the rules then decides between them.

    Args:
        text: the message with or without its prefix (``ERROR: [youtube] <ID>: ``), in any case, with either apostrophe.
    """
    lines = [_folded(line) for line in text.splitlines()]
    whole = " ".join(" ".join(lines).split())
    found = next((meaning for meaning, pattern in _PATTERNS if pattern.search(whole)), None)
    if found is not None:
        return found
    said = {meaning for message in _messages(lines) for meaning in _headlines(message)}
    # A headline with a sentence that no rule knows is not understood.
    return UNKNOWN_MESSAGE if None in said else next((each for each, _ in _HEADLINES if each in said), UNKNOWN_MESSAGE)


def _folded(line: str) -> str:
    words = " ".join(_TAG.sub(" ", unescape(line)).translate(_APOSTROPHES).lower().split())
    return _NAME.sub("x", re.sub(r"\bisnt\b", "isn't", words))


def _messages(lines: list[str]) -> list[str]:
    """Returns messages, whose sentences may stand in several lines."""
    messages: list[str] = []
    for line in lines:
        if messages and not _BEGINNING.match(line):
            messages[-1] += f". {line}"
        else:
            messages.append(line)
    return messages


def _headlines(message: str) -> set[Meaning | None]:
    """Returns what the headlines of a message mean, None for its other sentences; nothing if it holds no headline."""
    said = _ADVICE.sub("", _PREFIX.sub("", message, count=1))
    sentences = {sentence.strip() for sentence in re.split(r"[.!;,]", said)} - _EMPTY_WORDS
    meanings = {_headline_of(sentence) for sentence in sentences}
    return meanings if meanings != {None} else set()


def _headline_of(sentence: str) -> Meaning | None:
    return next((meaning for meaning, pattern in _HEADLINES if pattern.fullmatch(sentence)), None)
