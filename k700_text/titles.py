"""Pure functions on the text of a title: clean it, and tell what is not a title at all.

The service allows 100 code points. A longer text is kept whole (old titles and decoded entities exceed the limit a
little, and the tokenizer cuts anyway); past MAX_TITLE_LENGTH it is page text that is no title. The text as received
stays in the ledger (``raw_title`` and the evidence), so a better rule can be applied later.
"""

from __future__ import annotations

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
_TAG_CHARACTERS = range(0xE0020, 0xE0080)


def clean_title(raw: str) -> str | None:
    """Returns the title as people read it, or None if nothing readable is left.

    HTML entities (with their semicolon) are decoded once, text is composed (NFC), control characters and whitespace
    become one space, invisible marks are dropped. Joiners stay where they carry meaning: inside emoji and between
    letters of scripts that need them.

    Args:
        raw: the title as the service spelled it.
    """
    text = unicodedata.normalize("NFC", _REFERENCE.sub(_decode, raw))
    if not text.isascii():
        text = "".join(_keep(text, index) for index in range(len(text)))
    else:
        text = "".join(character if character.isprintable() else _keep(character, 0) for character in text)
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    return text if text and len(text) <= MAX_TITLE_LENGTH else None


def _decode(reference: re.Match[str]) -> str:
    """Returns the character that an HTML entity stands for; what is none stays."""
    spelled = reference[0]
    return html.unescape(spelled) if spelled[1] == "#" or spelled[1:] in html5 else spelled


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
        return character if code in _TAG_CHARACTERS else ""
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
