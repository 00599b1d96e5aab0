"""The services that know titles: one file each, and their order of preference."""

from __future__ import annotations

# The order of the cascade, and which title a manifest takes where several sources have one.
SOURCE_NAMES = ("dumps", "data-api", "oembed", "thumbnail", "wayback", "wayback-cdx", "archive-item", "yt-dlp")

_ORIGINS = {"wayback-cdx": "wayback"}


def origin(source: str) -> str:
    """Returns the service behind a source: the index of the web archive finds captures of the same archive."""
    return _ORIGINS.get(source, source)


def source_rank(source: str) -> tuple[int, str]:
    """Returns the sort key of a source: known ones in order of preference, then others by name."""
    return (SOURCE_NAMES.index(source) if source in SOURCE_NAMES else len(SOURCE_NAMES), source)
