"""Telling what a file is that is no media file: what stands in its place, and what to do about it."""

from __future__ import annotations

from pathlib import Path

_HEAD_BYTES = 1024
_DOWNLOAD_AGAIN = "download it again"
# How files begin, in lower case and without blanks before it; the first that fits tells.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs.github.com/spec/", "is a Git LFS pointer, not the file: run `git lfs pull`"),
    (b"/annex/objects/", "is a git-annex pointer, not the file: run `git annex get`"),
    (b"<!doctype html", f"is a web page, not a video: {_DOWNLOAD_AGAIN}"),
    (b"<html", f"is a web page, not a video: {_DOWNLOAD_AGAIN}"),
    (b"<?xml", f"is XML (an answer of a server?), not a video: {_DOWNLOAD_AGAIN}"),
    (b"<error", f"is XML (an answer of a server?), not a video: {_DOWNLOAD_AGAIN}"),
    (b'{"', f"is JSON (an answer of a server?), not a video: {_DOWNLOAD_AGAIN}"),
    (b"pk\x03\x04", "is a ZIP archive, not a video: unpack it"),
    (b"\x1f\x8b", "is a gzip archive, not a video: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive, not a video: unpack it"),
    (b"rar!\x1a\x07", "is a RAR archive, not a video: unpack it"),
)


def what_stands_there(path: Path) -> str | None:
    """Returns in words what a file is that holds no video and no audio, None if its beginning does not tell."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return None
    if not head.strip(b"\0"):
        return f"holds zeros where it begins (room was made for it, and it never came): {_DOWNLOAD_AGAIN}"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((words for beginning, words in _BEGINNINGS if text.startswith(beginning)), None)
