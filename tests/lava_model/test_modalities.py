"""The tables of what is contrasted agree with what the loss does."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest
import torch

from lava_model.config import LossForm, LossWeights
from lava_model.contrast import FORMS
from lava_model.loss import LossOutput, lava_loss, nce
from lava_model.modalities import MODALITIES, PAIRS, RETRIEVALS, SPACES, TERMS, Modality, TermName
from lava_model.model import Embeddings

TRUE_B = torch.ones(6, dtype=torch.bool)


def made(requires_grad: bool = False) -> Embeddings:
    generator = torch.Generator().manual_seed(0)
    names = [field.name for field in fields(Embeddings)]
    return Embeddings(**{name: torch.randn(6, 5, generator=generator).requires_grad_(requires_grad) for name in names})


def loss(embeddings: Embeddings, name: TermName, present: dict[Modality, bool] | None = None) -> LossOutput:
    flags = {f"has_{each}": TRUE_B & (present is None or present[each]) for each in MODALITIES}
    weights = {"av": 0.0, "vt": 0.0, "avt": 0.0, "at": 0.0, name: 1.0}
    return lava_loss(embeddings, weights=weights, policy="available_mean", **flags)


def test_every_table_names_the_same_things() -> None:
    assert set(TERMS) == {field.name for field in fields(LossWeights)} == set(get_args(TermName))
    assert set(FORMS) == set(get_args(LossForm))
    heads = {f"{space}_{modality}" for space, modalities in SPACES.items() for modality in modalities}
    assert heads == {field.name for field in fields(Embeddings)}
    assert all({one, other} <= set(SPACES[space]) for space, one, other in RETRIEVALS.values())
    assert set(PAIRS) == {"av", "vt", "at"}


@pytest.mark.parametrize("name", TERMS)
def test_a_term_trains_what_its_entry_says(name: TermName) -> None:
    embeddings = made(requires_grad=True)
    loss(embeddings, name).total.backward()
    for space, modalities in SPACES.items():
        for modality in modalities:
            gradient = embeddings.of(space, modality).grad
            is_trained = gradient is not None and bool(gradient.abs().sum() > 0)
            assert is_trained == TERMS[name].trains(space, modality), (space, modality)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("has_audio", [True, False])
@pytest.mark.parametrize("has_text", [True, False])
def test_a_term_has_rows_where_its_entry_says(name: TermName, has_audio: bool, has_text: bool) -> None:
    there: dict[Modality, bool] = {"video": True, "audio": has_audio, "text": has_text}
    assert (loss(made(), name, there).total.item() > 0) == TERMS[name].has_rows(there)


@pytest.mark.parametrize("form", FORMS)
def test_chance_is_the_loss_where_all_rows_look_the_same(form: LossForm) -> None:
    same_BE = torch.ones(6, 5)
    assert nce(same_BE, same_BE, form=form).item() == pytest.approx(FORMS[form].chance(6), abs=1e-5)
    embeddings = made().map(torch.ones_like)
    flags = {f"has_{each}": TRUE_B for each in MODALITIES}
    for name, term in TERMS.items():
        value = getattr(lava_loss(embeddings, form=form, **flags), name)
        assert value.item() == pytest.approx(term.num_contrasts * FORMS[form].chance(6), abs=1e-5)
