"""Keys, passwords and cookies: what may be sent, and must rest nowhere else.

Who holds such a word says so once (``keep_secret``). Where text leaves for good, into the ledger or to a person,
``hide`` takes it out: as it is, backwards, in base64 or hexadecimal, with any of its characters escaped as addresses,
JSON, scripts or HTML do it, and long pieces of it. A server that is asked with a key may echo it in any of these ways.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator

MASK = b"(secret)"
# Shorter ones cannot be told from the words of a title.
MIN_LENGTH = 8
# Of a longer word pieces of this length give it away, too.
PIECE_LENGTH = 13
# The oldest are forgotten: a session's cookies change.
MAX_WORDS = 64

_lock = threading.Lock()
_is_echoed = False


def keep_secret(word: str) -> None:
    """From now on a word is hidden; one that is too short to be told from others is not."""
    global _words
    if len(word) < MIN_LENGTH or word in _words:
        return
    with _lock:
        known = {**_words, word: _Word(word.encode("utf-8", "surrogatepass"))}
        for oldest in list(known)[:-MAX_WORDS]:
            del known[oldest]
        # As a whole: others look through it meanwhile.
        _words = known


def is_clean(data: bytes) -> bool:
    """Returns whether nothing in the data is to be hidden."""
    return not any(word.is_in(data) for word in _words.values())


def note_answer(data: bytes) -> None:
    """Looks through what a server sent, once for all that is made of it: see ``is_echoed``."""
    global _is_echoed
    if _words and not _is_echoed and not is_clean(data):
        _is_echoed = True


def is_echoed() -> bool:
    """Returns whether any answer so far held a secret word. If none did, nothing that was made of them does."""
    return _is_echoed


def hide(data: bytes) -> bytes:
    """Returns the data with MASK in place of every secret word."""
    # The longest first, and pieces last: one may hold another, or a piece of it.
    words = [word for _, word in sorted(_words.items(), key=lambda item: -len(item[0])) if word.is_in(data)]
    for word in words:
        data = word.whole_hidden_in(data)
    for word in words:
        data = word.pieces_hidden_in(data)
    return data


def hide_in_text(text: str) -> str:
    """Returns the text with MASK in place of every secret word."""
    data = text.encode("utf-8", "surrogatepass") if _words else b""
    return text if is_clean(data) else hide(data).decode("utf-8", "surrogatepass")


class _Word:
    """One secret word and its disguises."""

    def __init__(self, word: bytes) -> None:
        self._forms = tuple(dict.fromkeys(_forms(word)))
        self._pieces = tuple(
            word[start : start + PIECE_LENGTH] for start in range(0, len(word) - PIECE_LENGTH + 1, PIECE_LENGTH)
        )
        self._word = word
        self._escaped = re.compile(b"".join(_spellings(byte) for byte in word))

    def is_in(self, data: bytes) -> bool:
        """Returns whether the data hold the word, in any form."""
        for form in self._forms:
            if form in data:
                return True
        for piece in self._pieces:
            if piece in data:
                return True
        has_escapes = b"%" in data or b"&#" in data or b"\\u00" in data or b"\\x" in data
        return has_escapes and self._escaped.search(data) is not None

    def whole_hidden_in(self, data: bytes) -> bytes:
        """Returns the data without the whole word, in any form."""
        for form in self._forms:
            data = data.replace(form, MASK)
        return self._escaped.sub(MASK, data)

    def pieces_hidden_in(self, data: bytes) -> bytes:
        """Returns the data without long pieces of the word."""
        for piece in self._pieces:
            while (start := data.find(piece)) >= 0:
                start, end = self._run(data, piece, start)
                data = data[:start] + MASK + data[end:]
        return data

    def _run(self, data: bytes, piece: bytes, start: int) -> tuple[int, int]:
        """Returns from where to where the data agree with the word around a piece of it."""
        place, end = self._word.index(piece), start + len(piece)
        behind = place + len(piece)
        while start and place and data[start - 1] == self._word[place - 1]:
            start, place = start - 1, place - 1
        while end < len(data) and behind < len(self._word) and data[end] == self._word[behind]:
            end, behind = end + 1, behind + 1
        return start, end


_words: dict[str, _Word] = {}


def _forms(word: bytes) -> Iterator[bytes]:
    """Yields a word as it is, backwards, in base64 (wherever it begins in what is encoded) and in hexadecimal."""
    yield word
    yield word[::-1]
    yield word.hex().encode()
    yield word.hex().upper().encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for num_before in range(3):
            coded = encode(b"\0" * num_before + word)
            # The characters at both ends hold bits of what stands around it.
            first = (8 * num_before + 5) // 6
            last = 8 * (num_before + len(word)) // 6
            yield coded[first:last]


def _spellings(byte: int) -> bytes:
    """Returns a pattern for the ways to write one character (ASCII) in addresses, JSON, scripts and HTML."""
    digits = b"".join(b"[%c%c]" % (digit, digit ^ 32) if digit > 57 else b"%c" % digit for digit in b"%02x" % byte)
    ways = (
        re.escape(b"%c" % byte),
        b"%%(?:25)*%s" % digits,
        # Each way begins with a character, not with a repetition: so the whole is looked for quickly.
        rb"\\\\*u00%s" % digits,
        rb"\\\\*x%s" % digits,
        b"&#0*%d;" % byte,
        b"&#[xX]0*%s;" % digits,
    )
    return b"(?:%s)" % b"|".join(ways)
