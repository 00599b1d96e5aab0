"""Keys and passwords: what may be sent, and must rest nowhere else.

Who holds such a word says so once (``keep_secret``). Where text leaves for a person, ``hide_in_text`` takes it out: as
it is, backwards, in base64 or hexadecimal, with any of its characters escaped as addresses, JSON, scripts or HTML do
it, and long pieces of it. A server that is asked with a key may echo it in any of these ways.

What a server said goes into a ledger, and must not be altered by mistake: a password of a proxy may be a word of a
title. There ``hide`` takes out only what servers are sent, and what is too long to be such a word.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator, Mapping

MASK = b"(secret)"
# Shorter ones cannot be told from any other word.
MIN_LENGTH = 8
# Nor these, in what a server said, from the words of a title; the keys of Google have 39.
MIN_LENGTH_SENT = 12
# Of a longer word pieces of this length give it away, too.
PIECE_LENGTH = 13

_lock = threading.Lock()
_is_echoed = False


def keep_secret(word: str, *, is_sent: bool = False) -> None:
    """From now on a word is hidden; one that is too short to be told from others is not.

    Args:
        word: a key or password of the user's, never a word that a server chose.
        is_sent: services are sent it, and may echo it: ``hide`` takes it out, too.
    """
    global _words, _sent
    if len(word) < MIN_LENGTH:
        return
    with _lock:
        # As a whole: others look through it meanwhile.
        if word not in _words:
            _words = {**_words, word: _Word(word.encode("utf-8", "surrogatepass"))}
        if is_sent and len(word) >= MIN_LENGTH_SENT:
            _sent = {**_sent, word: _words[word]}


def note_answer(data: bytes) -> None:
    """Looks through what a server sent, once for all that is made of it: see ``is_echoed``."""
    global _is_echoed
    if not _is_echoed and any(word.is_in(data) for word in _sent.values()):
        _is_echoed = True


def is_echoed() -> bool:
    """Returns whether any answer so far held a word that was sent. If none did, nothing made of them does."""
    return _is_echoed


def hide(data: bytes) -> bytes:
    """Returns what a server said with MASK in place of every secret word that servers are sent."""
    return _without(_sent, data)


def hide_in_text(text: str) -> str:
    """Returns text for a person with MASK in place of every secret word."""
    if not _words:
        return text
    return _without(_words, text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")


def _without(words: Mapping[str, _Word], data: bytes) -> bytes:
    # The longest first, and pieces last: one may hold another, or a piece of it.
    found = [word for _, word in sorted(words.items(), key=lambda item: -len(item[0])) if word.is_in(data)]
    for word in found:
        data = word.whole_hidden_in(data)
    for word in found:
        data = word.pieces_hidden_in(data)
    return data


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


_words: Mapping[str, _Word] = {}
_sent: Mapping[str, _Word] = {}


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
