"""How a probe is fitted and tested, by name. Papers differ in every one of these, so each record spells them out."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from lava_model.errors import ConfigError

ClassifierName = Literal["logistic_regression", "linear_svm", "adam_linear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """One way to fit a linear classifier on frozen features.

    A video gives one training row per view; its test logits are the mean over its views (LAVA paper, section 4).
    """

    name: str
    """How the command line calls it."""
    num_views: int
    """Deterministic time windows of a video, spread evenly over it."""
    classifier: ClassifierName
    """logistic_regression: multinomial, L2. linear_svm: one against the rest, squared hinge. adam_linear: softmax."""
    c_grid: tuple[float, ...]
    """Inverse regularisation strengths to choose from, ascending; a single one is not chosen but given."""
    standardise: bool
    """Shift and scale every feature to zero mean and unit variance, as measured on the train part."""
    num_selection_folds: int = 3
    """Folds of the train part, by source video, that choose C; the test part takes no part in it."""
    learning_rate: float = 0.0
    """adam_linear: constant learning rate."""
    batch_size: int = 0
    """adam_linear: rows a step."""
    num_epochs: int = 0
    """adam_linear: passes over the train part."""
    note: str = ""
    """Where it comes from, and what its source leaves open."""

    @property
    def selection_rule(self) -> str:
        """How C is chosen, in words."""
        if len(self.c_grid) == 1:
            return "fixed by the protocol"
        return (
            f"best mean top-1 accuracy over {self.num_selection_folds} folds of the train part, "
            "grouped by source video; ties go to the smallest C"
        )


_PROTOCOLS = (
    Protocol(
        name="logistic",
        num_views=4,
        classifier="logistic_regression",
        c_grid=(1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        standardise=True,
        note="Convex, so it has one answer; the default.",
    ),
    Protocol(
        name="lava",
        num_views=4,
        classifier="adam_linear",
        c_grid=(1.0,),
        standardise=True,
        learning_rate=1e-4,
        batch_size=32,
        num_epochs=100,
        note="LAVA paper: linear layer, learning rate 1e-4, batch 32, logits averaged over clips. The paper leaves "
        "open optimiser, epochs, number of clips, scaling, initial weights: here Adam, 100, 4, standardised, zeros.",
    ),
    Protocol(
        name="mil-nce",
        num_views=10,
        classifier="linear_svm",
        c_grid=(100.0,),
        standardise=False,
        note="MIL-NCE's published HMDB-51 script: ten windows, each a training row, no scaling, linear SVM, C=100.",
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in _PROTOCOLS}


def get_protocol(name: str) -> Protocol:
    """Returns the protocol of that name.

    Raises:
        ConfigError: there is none; the text names the nearest.
    """
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown protocol {name!r}: expected one of {', '.join(PROTOCOLS)} (did you mean {near!r}?)")
    return PROTOCOLS[name]
