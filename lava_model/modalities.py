"""What meets where (LAVA paper, section 2): the modalities, their spaces, and what the loss contrasts there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from k700_text.records import Modality as Modality

Space = Literal["av", "vt", "avt"]
TermName = Literal["av", "vt", "avt", "at"]

MODALITIES: tuple[Modality, ...] = ("video", "audio", "text")

SPACES: dict[Space, tuple[Modality, ...]] = {
    "av": ("video", "audio"),
    "vt": ("video", "text"),
    "avt": ("video", "audio", "text"),
}
"""Which modalities are projected into which space: one head for each of the seven pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A term of the loss, eq. 5.

    Attributes:
        space: where it contrasts.
        modalities: two of them with each other, or three, each with the centroid of the others.
        equation: of the paper.
    """

    space: Space
    modalities: tuple[Modality, ...]
    equation: str

    @property
    def is_joint(self) -> bool:
        """It contrasts each modality with a centroid, eq. 4."""
        return len(self.modalities) > 2

    @property
    def num_contrasts(self) -> int:
        """How many losses of eq. 1 it sums."""
        return len(self.modalities) if self.is_joint else 1

    def has_rows(self, there: Mapping[Modality, bool]) -> bool:
        """Whether clips with these modalities have anything to contrast; a centroid needs two."""
        return sum(there[modality] for modality in self.modalities) >= 2

    def trains(self, space: Space, *modalities: Modality) -> bool:
        """Whether it trains the embeddings of these modalities in a space."""
        return space == self.space and set(modalities) <= set(self.modalities)


TERMS: dict[TermName, Term] = {
    "av": Term(space="av", modalities=("video", "audio"), equation="2"),
    "vt": Term(space="vt", modalities=("video", "text"), equation="3"),
    "avt": Term(space="avt", modalities=SPACES["avt"], equation="4"),
    "at": Term(space="avt", modalities=("audio", "text"), equation="none: ours"),
}

PAIRS: dict[TermName, Term] = {name: term for name, term in TERMS.items() if not term.is_joint}
"""The terms that contrast two modalities with each other: what retrieval is measured on in training."""

RETRIEVALS: dict[str, tuple[Space, Modality, Modality]] = {
    "av": ("av", "video", "audio"),
    "vt": ("vt", "video", "text"),
    "avt_av": ("avt", "video", "audio"),
    "avt_vt": ("avt", "video", "text"),
    "avt_at": ("avt", "audio", "text"),
}
"""Every pair of modalities in every space that has both, by the names of records."""
