"""Text on its way to a person: what names, labels, titles and answers of others hold must not steer a terminal.

Escape sequences, carriage returns, characters that turn the direction of text: a hostile title or file name could
rewrite the line before it. Whatever a command prints, and the text of every error, goes through here; what is
confidential ends here, too.
"""

from __future__ import annotations

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
