"""The services that know titles: one file each, and their order of preference."""

from __future__ import annotations

# The order of the cascade, and which title a manifest takes where several sources have one.
SOURCE_NAMES = ("data-api", "oembed")
