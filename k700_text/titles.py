"""Pure functions on the text of a title: clean it, and tell what is not a title at all.

The service allows 100 code points. A longer text is kept whole (old titles and decoded entities exceed the limit a
little, and the tokenizer cuts anyway); past MAX_TITLE_LENGTH it is page text that is no title. The text as received
stays in the ledger (``raw_title`` and the evidence), so a better rule can be applied later.
"""

from __future__ import annotations

import codecs
import html
import re
import unicodedata
from html.entities import html5

from k700_text.junk_titles import junk_reason

SERVICE_TITLE_LENGTH = 100
MAX_TITLE_LENGTH = 500

# With its semicolon only: "Fish&parasailing" holds no pilcrow. Bounded: longer numbers are no characters.
_REFERENCE = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_ZERO_WIDTH_JOINER = "\u200d"
_ZERO_WIDTH_NON_JOINER = "\u200c"
# Marks of a flag of a region stand behind a black flag; elsewhere they are text that nobody sees.
_TAG_CHARACTERS = range(0xE0020, 0xE0080)
_STRAY_TAGS = re.compile("(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0020-\U000e007f]+")
_HALVES = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_HALF_IN_BYTES = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
KEEP_HALVES = "k700_text.keep_halves"
"""``errors=`` for reading UTF-8: UTF-16 halves, which programs of UTF-16 write as such (CESU-8), are read for
``join_halves``; all else that does not fit becomes U+FFFD, as with ``replace``."""
# What a person does not see: Unicode's Default_Ignorable_Code_Point, marks of annotations, and signs that are blank.
_IGNORABLE = (
    *(range(0xAD, 0xAE), range(0x34F, 0x350), range(0x61C, 0x61D), range(0x115F, 0x1161), range(0x17B4, 0x17B6)),
    *(range(0x180B, 0x1810), range(0x200B, 0x2010), range(0x202A, 0x202F), range(0x2060, 0x2070)),
    *(range(0x3164, 0x3165), range(0xFE00, 0xFE10), range(0xFEFF, 0xFF00), range(0xFFA0, 0xFFA1)),
    *(range(0xFFF0, 0xFFFC), range(0x1BCA0, 0x1BCA4), range(0x1D173, 0x1D17B), range(0xE0000, 0xE1000)),
)
_UNSEEN = frozenset(chr(code) for codes in (*_IGNORABLE, range(0x2800, 0x2801), range(0x20, 0x21)) for code in codes)


def clean_title(raw: str) -> str | None:
    """Returns a title that HTML spells as people read it, or None if nothing that is seen is left.

    References (with their semicolon) are decoded, once; the rest is ``clean_plain_title``.

    Args:
        raw: the title as the tags or attributes of a page spell it.
    """
    return clean_plain_title(unescape(raw))


def clean_plain_title(raw: str) -> str | None:
    """Returns a title that data spells as people read it, or None if nothing that is seen is left.

    For JSON, tables and all else that is not HTML: there "&amp;" is what the uploader wrote. Text is composed (NFC),
    control characters and whitespace become one space, marks that nobody sees are dropped, two UTF-16 halves become one
    character. Joiners stay where they carry meaning: inside emoji and between letters of scripts that need them.

    Args:
        raw: the title as the service spelled it.
    """
    text = unicodedata.normalize("NFC", join_halves(raw))
    if not text.isascii():
        text = _STRAY_TAGS.sub("", text)
        text = "".join(_keep(text, index) for index in range(len(text)))
    else:
        text = "".join(character if character.isprintable() else _keep(character, 0) for character in text)
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    return text if not _UNSEEN.issuperset(text) and len(text) <= MAX_TITLE_LENGTH else None


def unescape(text: str) -> str:
    """Returns what HTML spells with references, decoded once; references without a semicolon are text."""
    return join_halves(_REFERENCE.sub(_decode, text)) if "&" in text else text


def join_halves(text: str) -> str:
    """Returns the text with each pair of UTF-16 halves as the one character that it stands for."""
    return text if text.isascii() else _HALVES.sub(_join, text)


def _join(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def _keep_half(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeDecodeError) and (half := _HALF_IN_BYTES.match(error.object, error.start)):
        return half[0].decode("utf-8", "surrogatepass"), half.end()
    return codecs.replace_errors(error)


codecs.register_error(KEEP_HALVES, _keep_half)


def _decode(reference: re.Match[str]) -> str:
    """Returns the character that an HTML reference stands for; what is none stays."""
    spelled = reference[0]
    if spelled[1] != "#":
        return html.unescape(spelled) if spelled[1:] in html5 else spelled
    number = int(spelled[3:-1], 16) if spelled[2] in "xX" else int(spelled[2:-1])
    # Old pages spell an emoji as two references, one for each half.
    return chr(number) if 0xD800 <= number <= 0xDFFF else html.unescape(spelled)


def _keep(text: str, index: int) -> str:
    """Returns what becomes of one character: itself, a space, or nothing."""
    character = text[index]
    code = ord(character)
    if character in (_ZERO_WIDTH_JOINER, _ZERO_WIDTH_NON_JOINER):
        return character if _joins(text, index) else ""
    category = unicodedata.category(character)
    if category == "Cc" or category.startswith("Z"):
        return " "
    if category == "Cf":
        # Some of these are seen: the Arabic signs that enclose a number, say.
        return "" if character in _UNSEEN and code not in _TAG_CHARACTERS else character
    is_noncharacter = 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
    return "" if category == "Cs" or is_noncharacter else character


def _joins(text: str, index: int) -> bool:
    """A joiner means something only between two visible, non-ASCII characters (emoji parts, Persian, Indic)."""
    if index == 0 or index + 1 == len(text):
        return False
    before, after = text[index - 1], text[index + 1]
    return all(ord(side) > 0x7F and unicodedata.category(side)[0] in "LMS" for side in (before, after))


def is_junk_title(title: str, youtube_id: str) -> bool:
    """Tells whether a title names a page of the site's own (consent, error, start page) instead of a video.

    For titles read from HTML, which may be anything. A title that structured data gave for exactly this video is never
    junk: videos called "Private video" exist. Consent and error pages are known in the languages of the site, in any
    spelling of case, quotes, dashes, dots and spaces (web-contracts section 4.6); a title that merely contains such
    words is a title.

    Args:
        title: the cleaned title, with or without the site's name around it.
        youtube_id: the video asked about; a title equal to it is no title.
    """
    return junk_reason(title, youtube_id) is not None
