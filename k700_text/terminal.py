"""Text on its way to a person: what names, labels, titles and answers of others hold must not steer a terminal.

Escape sequences, carriage returns, characters that turn the direction of text: a hostile title or file name could
rewrite the line before it. Whatever a command prints, and the text of every error, goes through here; what is
confidential ends here, too.
"""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import suppress

from k700_text.confidential import hide_in_text


def readable(text: str, length: int | None = 300) -> str:
    """Returns text of a file for a message: what a terminal would not show as it is becomes a question mark."""
    shown = "".join(each if each.isprintable() and each != "\ufffd" else "?" for each in text[:length])
    return shown if length is None or len(text) <= length else f"{shown}..."


def one_line(text: str) -> str:
    """Returns text as one line: a line feed within it must not look like a message of its own."""
    return " ".join(readable(line.expandtabs(), None) for line in hide_in_text(text).splitlines())


def shown(text: str) -> str:
    """Returns lines as a terminal may have them; only line feeds part them."""
    return "\n".join(one_line(line) for line in hide_in_text(text).split("\n"))


def hold_streams() -> None:
    """Opens the null device where standard input, output or errors are closed.

    Else the next file that is opened, a ledger perhaps, takes their number and gets what a library prints.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(io.FileIO(os.devnull, "w"), encoding="utf-8"))


def drop_stream(name: str) -> None:
    """Lets what is still to be written to ``stdout`` or ``stderr`` go nowhere: the exit of the process is quiet.

    Args:
        name: of the stream in ``sys``.
    """
    with suppress(OSError, ValueError):  # A stream that a test put there has no number.
        os.dup2(os.open(os.devnull, os.O_WRONLY), getattr(sys, name).fileno())


def reader_has_gone() -> bool:
    """Tells whether nobody reads stdout or stderr any more: a broken pipe may be one of a worker, too."""
    for name in ("stdout", "stderr"):
        with suppress(OSError, ValueError):
            asked = select.poll()
            asked.register(getattr(sys, name).fileno(), 0)
            if any(events & (select.POLLERR | select.POLLHUP) for _, events in asked.poll(0)):
                return True
    return False


def write_out() -> OSError | None:
    """Writes what is left of both streams, and returns why the answer could not be written.

    A reader that has gone (``| head``) is a BrokenPipeError, of which nobody needs to hear. Messages that cannot be
    written are dropped.
    """
    failed: OSError | None = None
    for name in ("stderr", "stdout"):
        try:
            getattr(sys, name).flush()
        except OSError as error:
            drop_stream(name)
            failed = error if name == "stdout" else None
    return failed
