"""What is compared: a study is a list of variants, each one change to the same base configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import get_args

from lava_model.config import Centroid, LossConfig, LossForm, LossWeights, MissingPolicy, PretrainConfig
from lava_model.presets import with_objective

RATE_FACTORS = {"third": 1 / 3, "base": 1.0, "triple": 3.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One row of a table.

    Attributes:
        name: also of its folder.
        config: of its runs, but for folder and seed.
    """

    name: str
    config: PretrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One question, asked as a table.

    Attributes:
        question: in words.
        reference: the variant that the others are held against, seed by seed.
        variants: makes the rows from the base configuration.
    """

    question: str
    reference: str
    variants: Callable[[PretrainConfig], list[Variant]]


def _with_loss(base: PretrainConfig, losses: Mapping[str, LossConfig]) -> list[Variant]:
    return [Variant(name=name, config=replace(base, loss=loss)) for name, loss in losses.items()]


def _losses(base: PretrainConfig) -> list[Variant]:
    centroids: list[Centroid] = ["leave_one_out", "literal", "stop_grad"]
    forms: tuple[LossForm, ...] = get_args(LossForm)
    return _with_loss(
        base,
        {f"{form}-{c}": replace(base.loss, form=form, centroid=c) for form in forms for c in centroids},
    )


def _forms(base: PretrainConfig) -> list[Variant]:
    forms: tuple[LossForm, ...] = get_args(LossForm)
    return _with_loss(base, {form: replace(base.loss, form=form) for form in forms})


def _terms(base: PretrainConfig) -> list[Variant]:
    named = ["av", "av+vt", "av+vt+avt", "av+vt+at", "mil-nce", "kmeans"]
    variants = [Variant(name=name, config=with_objective(base, name)) for name in named]
    everything = replace(base.loss, weights=LossWeights(av=1, vt=1, avt=1, at=1))
    # Nothing but clusters in a space may draw all of it together: AT is a contrast in the same space.
    clusters = replace(everything, centroid="kmeans")
    return [*variants, *_with_loss(base, {"av+vt+avt+at": everything, "kmeans+at": clusters})]


def _policies(base: PretrainConfig) -> list[Variant]:
    policies: tuple[MissingPolicy, ...] = get_args(MissingPolicy)
    return _with_loss(base, {policy: replace(base.loss, policy=policy) for policy in policies})


def _rates(base: PretrainConfig) -> list[Variant]:
    forms: tuple[LossForm, ...] = get_args(LossForm)
    return [
        Variant(
            name=f"{form}-{name}",
            config=replace(
                base,
                loss=replace(base.loss, form=form),
                optim=replace(base.optim, lr=base.optim.lr * factor),
            ),
        )
        for form in forms
        for name, factor in RATE_FACTORS.items()
    ]


STUDIES: dict[str, Study] = {
    "losses": Study(
        question="Which form of the loss and which centroid learn best?",
        reference="symmetric-leave_one_out",
        variants=_losses,
    ),
    "forms": Study(
        question="Which form of the loss learns best?",
        reference="symmetric",
        variants=_forms,
    ),
    "terms": Study(
        question="Which terms of the loss help (the paper's Table 2, and its argument against clustering)?",
        reference="av+vt+avt",
        variants=_terms,
    ),
    "policies": Study(
        question="Which rows should the centroid term rest on where a modality is missing?",
        reference="complete_pair",
        variants=_policies,
    ),
    "rates": Study(
        question="Which learning rate suits each form? Choose on clips that no other table is made of.",
        reference="symmetric-base",
        variants=_rates,
    ),
}
