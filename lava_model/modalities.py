"""The three modalities and the spaces they meet in (LAVA paper, section 2)."""

from __future__ import annotations

from typing import Literal

Modality = Literal["video", "audio", "text"]
Space = Literal["av", "vt", "avt"]

MODALITIES: tuple[Modality, ...] = ("video", "audio", "text")

SPACES: dict[Space, tuple[Modality, ...]] = {
    "av": ("video", "audio"),
    "vt": ("video", "text"),
    "avt": ("video", "audio", "text"),
}
"""Which modalities are projected into which space: one head for each of the seven pairs."""
