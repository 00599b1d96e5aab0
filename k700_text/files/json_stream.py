"""Reads one large JSON array or object entry by entry, so that it never has to fit into memory as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, TextIO

CHUNK_CHARACTERS = 1 << 16
MAX_VALUE_CHARACTERS = 1 << 25
"""One entry; what a service tells about one video has a million at most."""
# The longest word of JSON is "-Infinity": an error this near to the end of what was read may be a mere cut.
_CUT_MARGIN = 16


def iter_json(
    text: TextIO, *, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Iterator[Any]:
    """Yields the elements of the array, or the (key, value) pairs of the object, that a text consists of.

    A key that occurs twice is yielded twice.

    Args:
        text: a text stream, at the beginning.
        object_pairs_hook: as of ``json.loads``, for the values.

    Raises:
        ValueError: it is not JSON, neither array nor object, or an entry of it is longer than MAX_VALUE_CHARACTERS;
            what comes before the fault has been yielded.
        RecursionError: it is nested too deeply.
    """
    reader = _Reader(text, json.JSONDecoder(object_pairs_hook=object_pairs_hook))
    opening = reader.peek()
    if opening not in ("[", "{"):
        raise reader.fault("Expecting an array or an object")
    closing = "]" if opening == "[" else "}"
    reader.take()
    is_first = True
    while reader.peek() != closing:
        if not is_first:
            reader.expect(",")
        is_first = False
        yield reader.value() if opening == "[" else reader.pair()
    reader.take()
    if reader.peek():
        raise reader.fault("Extra data")


class _Reader:
    """A window on the text that grows until it holds the value wanted."""

    def __init__(self, text: TextIO, decoder: json.JSONDecoder) -> None:
        self._text = text
        self._decoder = decoder
        self._window = ""
        self._at = 0
        self._num_dropped = 0
        self._is_end = False

    def peek(self) -> str:
        """Returns the next character that is no space, nothing at the end."""
        while True:
            while self._at < len(self._window) and self._window[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._window) or self._is_end:
                return self._window[self._at : self._at + 1]
            self._grow()

    def take(self) -> None:
        self._at += 1

    def expect(self, character: str) -> None:
        if self.peek() != character:
            raise self.fault(f"Expecting {character!r}")
        self.take()

    def pair(self) -> tuple[str, Any]:
        if self.peek() != '"':
            raise self.fault("Expecting a key in double quotes")
        key = self.value()
        self.expect(":")
        return key, self.value()

    def value(self) -> Any:
        while True:
            self.peek()
            try:
                value, end = self._decoder.raw_decode(self._window, self._at)
            except json.JSONDecodeError as error:
                is_near_end = error.pos >= len(self._window) - _CUT_MARGIN
                if self._is_end or not (is_near_end or error.msg.startswith("Unterminated string")):
                    raise self.fault(error.msg, error.pos) from error
            else:
                # A number that ends where the window ends may go on.
                if end < len(self._window) or self._is_end:
                    self._at = end
                    return value
            self._grow()

    def fault(self, message: str, position: int | None = None) -> ValueError:
        place = self._num_dropped + (self._at if position is None else position)
        return ValueError(f"{message} (character {place})")

    def _grow(self) -> None:
        """Drops what is used and reads as much again as is left: a long value costs no more than twice its length."""
        self._num_dropped += self._at
        self._window = self._window[self._at :]
        self._at = 0
        if len(self._window) > MAX_VALUE_CHARACTERS:
            raise self.fault(f"An entry of more than {MAX_VALUE_CHARACTERS} characters")
        more = self._text.read(max(CHUNK_CHARACTERS, len(self._window)))
        self._is_end = not more
        self._window += more
