"""Numbers beside the loss, against loops in float64, and the loss of a model that knows nothing."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace
from typing import get_args

import pytest
import torch

from k700_text import Batch
from lava_model.config import LossConfig, LossForm, LossWeights, MissingPolicy
from lava_model.loss import LossOutput
from lava_model.metrics import loss_at_chance, measure, measure_pair, report
from lava_model.modalities import PAIRS
from lava_model.model import Embeddings
from lava_model.objective import Objective

DIM = 6


def embeddings_of(num_rows: int, seed: int = 0) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)

    def units() -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(num_rows, DIM, generator=generator), dim=1)

    return Embeddings(**{field.name: units() for field in fields(Embeddings)})


def batch_of(has_audio: list[int], has_text: list[int], titles: list[int] | None = None) -> Batch:
    size = len(has_audio)
    token_ids = torch.tensor(titles or list(range(size)))[:, None].repeat(1, 3)
    return Batch(
        video=torch.zeros(size, 1, 2, 2, 3, dtype=torch.uint8),
        log_mel=torch.zeros(size, 2, 2),
        token_ids=token_ids,
        text_mask=torch.ones(size, 3, dtype=torch.bool),
        has_video=torch.ones(size, dtype=torch.bool),
        has_audio=torch.tensor(has_audio, dtype=torch.bool),
        has_text=torch.tensor(has_text, dtype=torch.bool),
        clip_id=tuple(f"video{index:06d}_000000_000010" for index in range(size)),
        label=(None,) * size,
    )


def some_loss(value: float = 1.5) -> LossOutput:
    numbers = {field.name: torch.tensor(4 if "num" in field.name else value) for field in fields(LossOutput)}
    return LossOutput(**numbers)


def reference(queries: list[list[float]], keys: list[list[float]], rows: list[int]) -> dict[str, float]:
    def cosine(left: list[float], right: list[float]) -> float:
        return sum(x * y for x, y in zip(left, right, strict=True))

    def spread(units: list[list[float]]) -> float:
        kernels = [math.exp(-2 * (2 - 2 * cosine(units[i], units[j]))) for i in rows for j in rows if i != j]
        return math.log(sum(kernels) / len(kernels))

    others = [cosine(queries[i], keys[j]) for i in rows for j in rows if i != j]
    return {
        "num_rows": len(rows),
        "num_retrieved": sum(max(rows, key=lambda j, i=i: cosine(queries[i], keys[j])) == i for i in rows),
        "cos_positive": sum(cosine(queries[i], keys[i]) for i in rows) / len(rows),
        "cos_negative": sum(others) / len(others),
        "uniformity": (spread(queries) + spread(keys)) / 2,
    }


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5, 6], [1, 4, 6], [0, 5]])
def test_a_pair_is_measured_as_loops_measure_it(rows):
    found = embeddings_of(7)
    queries, keys = found.av_video.double(), (found.av_video + 0.7 * found.av_audio).double()
    keys = torch.nn.functional.normalize(keys, dim=1)
    valid = torch.zeros(7, dtype=torch.bool)
    valid[rows] = True
    # What is not valid may hold anything.
    queries[~valid], keys[~valid] = math.nan, 1e9
    measured = {name: float(value) for name, value in measure_pair(queries, keys, valid).items()}
    assert measured == pytest.approx(reference(queries.tolist(), keys.tolist(), rows), rel=1e-9)


def test_uniformity_tells_collapse_from_spread():
    same, all_rows = torch.ones(512, 64) / 8, torch.ones(512, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    spread = torch.nn.functional.normalize(torch.randn(512, 64, generator=generator), dim=1)
    assert float(measure_pair(same, same, all_rows)["uniformity"]) == pytest.approx(0, abs=1e-5)
    assert float(measure_pair(spread, spread, all_rows)["uniformity"]) == pytest.approx(-4, abs=0.15)


def test_what_no_row_has_is_none_and_no_zero():
    numbers = report([measure(embeddings_of(4), batch_of([1, 0, 0, 0], [0, 0, 0, 0]), some_loss())])
    assert numbers["recall_at_1_av"] == 1.0
    assert numbers["cos_positive_av"] is not None
    for name in ("cos_negative_av", "uniformity_av", "cos_positive_vt", "recall_at_1_vt", "recall_at_1_at"):
        assert numbers[name] is None, name
    assert not any(isinstance(value, float) and math.isnan(value) for value in numbers.values())


def test_a_loss_that_is_no_number_shows():
    batch = batch_of([1, 1], [1, 1])
    measured = [measure(embeddings_of(2), batch, some_loss(value)) for value in (1.0, math.nan)]
    assert math.isnan(report(measured)["loss"])


def test_several_batches_are_averaged_and_recall_is_over_all_their_rows():
    batches = [batch_of([1, 1, 1, 1], [1, 1, 1, 0]), batch_of([1, 0, 0, 0], [0, 0, 0, 0])]
    measured = [measure(embeddings_of(4, seed), batch, some_loss()) for seed, batch in enumerate(batches)]
    numbers = report(measured)
    found = sum(int(batch["num_retrieved_av"]) for batch in measured)
    assert numbers["recall_at_1_av"] == found / 5
    assert numbers["cos_positive_av"] == pytest.approx(sum(float(m["cos_positive_av"]) for m in measured) / 2)
    assert numbers["cos_negative_av"] == pytest.approx(float(measured[0]["cos_negative_av"]))
    assert (numbers["loss"], numbers["num_av"]) == (1.5, 4)
    kinds = ("recall_at_1", "cos_positive", "cos_negative", "uniformity")
    assert {f"{kind}_{pair}" for kind in kinds for pair in PAIRS} <= numbers.keys()


# --- chance ---

WEIGHTS = LossWeights(av=1.0, vt=0.5, avt=2.0, at=0.25)
PRESENT = ([1, 1, 1, 1, 1, 0, 1, 0], [1, 1, 0, 1, 1, 1, 1, 0])


@pytest.mark.parametrize(
    ("form", "centroid", "policy"),
    list(itertools.product(get_args(LossForm), ("literal", "stop_grad", "leave_one_out"), get_args(MissingPolicy))),
)
def test_chance_is_ln_n_of_each_contrast(form, centroid, policy):
    config = LossConfig(form=form, centroid=centroid, policy=policy, weights=WEIGHTS)
    chance = loss_at_chance(Objective(config, DIM), embeddings_of(8), batch_of(*PRESENT))

    def contrast(rows: int) -> float:
        return math.log(2 * rows if form == "mil_nce" else rows)

    # 6 rows have audio, 6 text, 5 both; with two modalities of three 7 rows, of which 6 audio and 6 text
    joint = 3 * contrast(5) if policy == "complete_pair" else contrast(7) + 2 * contrast(6)
    expected = contrast(6) + 0.5 * contrast(6) + 2 * joint + 0.25 * contrast(5)
    assert chance == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("form", ["infonce", "symmetric", "mil_nce"])
def test_chance_counts_only_the_negatives_that_are_left(form):
    config = LossConfig(form=form, mask_same_title=True, weights=LossWeights(av=0, vt=1, avt=0))
    everyone = [1] * 6
    chance = loss_at_chance(Objective(config, DIM), embeddings_of(6), batch_of(everyone, everyone, [1, 1, 1, 2, 2, 3]))
    # Three rows have 3 negatives, two have 4, one has 5.
    rows = [4, 4, 4, 5, 5, 6]
    assert chance == pytest.approx(sum(math.log(2 * n if form == "mil_nce" else n) for n in rows) / 6, rel=1e-5)


def test_chance_of_clusters_is_ln_k_for_each_modality_once_there_are_clusters():
    config = LossConfig(centroid="kmeans", num_clusters=5, cluster_queue=40, cluster_every=1)
    objective, batch = Objective(config, DIM), batch_of([1] * 8, [1] * 8)
    without = 2 * math.log(8)
    assert loss_at_chance(objective, embeddings_of(8), batch) == pytest.approx(without, rel=1e-5)
    objective.after_step(embeddings_of(8), batch, 1)
    assert loss_at_chance(objective, embeddings_of(8), batch) == pytest.approx(without + 3 * math.log(5), rel=1e-5)
    half = replace(config, weights=LossWeights(avt=0.5))
    objective.config = half
    assert loss_at_chance(objective, embeddings_of(8), batch) == pytest.approx(without + 1.5 * math.log(5), rel=1e-5)


def test_chance_of_clusters_counts_the_modalities_that_are_there():
    config = LossConfig(
        centroid="kmeans", policy="available_mean", num_clusters=5, cluster_queue=40, weights=LossWeights(vt=0)
    )
    objective, batch = Objective(config, DIM), batch_of([1] * 8, [0] * 8)
    objective.after_step(embeddings_of(8), batch, config.cluster_every)
    chance = loss_at_chance(objective, embeddings_of(8), batch)
    assert chance == pytest.approx(math.log(8) + 2 * math.log(5), rel=1e-5)


def test_nothing_to_contrast_has_no_chance_to_miss():
    objective = Objective(LossConfig(), DIM)
    assert loss_at_chance(objective, embeddings_of(3), batch_of([1, 0, 0], [0, 1, 0])) == 0
