"""The objective of a run: what it makes of its configuration, learns and remembers."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from loss_dense import dense_loss
from loss_ranks import EMBEDDING, build_model, embeddings_of, rows_of_all

from k700_text.data.sample import Batch
from lava_model.config import LossConfig
from lava_model.loss import lava_loss
from lava_model.model import Embeddings
from lava_model.objective import Objective, title_ids, video_ids


def rows() -> tuple[Embeddings, Batch]:
    inputs, batch = rows_of_all(2)
    return embeddings_of(build_model()(inputs).detach()), batch


def test_the_configured_loss_is_what_lava_loss_gives():
    embeddings, batch = rows()
    config = LossConfig(form="mil_nce", centroid="literal", policy="available_mean", temperature=0.3)
    expected = lava_loss(
        embeddings,
        has_video=batch.has_video,
        has_audio=batch.has_audio,
        has_text=batch.has_text,
        form="mil_nce",
        centroid="literal",
        policy="available_mean",
        temperature=0.3,
    )
    objective = Objective(config, EMBEDDING)
    assert torch.equal(objective(embeddings, batch).total, expected.total)
    assert not list(objective.parameters()) and not objective.state_dict()
    assert objective.temperature == 0.3


@pytest.mark.parametrize("masks", [("mask_same_title",), ("mask_same_video",), ("mask_same_title", "mask_same_video")])
def test_masks_leave_out_pairs_of_the_same_title_or_video(masks):
    embeddings, batch = rows()
    config = LossConfig(policy="available_mean", temperature=0.2, **dict.fromkeys(masks, True))
    loss = Objective(config, EMBEDDING)(embeddings, batch)
    expected = dense_loss(embeddings, batch, config, 0.2, torch.zeros(len(batch)))
    plain = Objective(LossConfig(policy="available_mean", temperature=0.2), EMBEDDING)(embeddings, batch)
    for term in ("av", "vt", "at", "avt"):
        assert getattr(loss, term).item() == pytest.approx(expected[term].item(), abs=1e-10)
        is_masked = masks != ("mask_same_title",) or term != "av"
        assert torch.equal(getattr(loss, term), getattr(plain, term)) != is_masked


def test_titles_are_the_same_if_all_their_tokens_are():
    titles = torch.tensor([[1, 7, 8, 2, 0], [1, 8, 7, 2, 0], [1, 7, 8, 2, 0], [1, 7, 8, 9, 2], [1, 7, 2, 0, 0]])
    ids = title_ids(titles).tolist()
    assert ids[0] == ids[2]
    assert len(set(ids)) == 4


def test_many_titles_that_hardly_differ_have_no_id_in_common():
    titles = torch.zeros(3, 4_000, 128, dtype=torch.int64)
    for number, place in enumerate((0, 1, 127)):
        titles[number, :, place] = torch.arange(1, 48_001, 12)
    ids = title_ids(titles.flatten(0, 1))
    assert len(ids.unique()) == len(ids)
    # What ranks send each other must keep all 64 bits.
    assert (ids.double().long() != ids).any()


def test_clips_of_one_video_share_an_id_and_other_names_are_videos_of_their_own():
    names = (
        "-_abcdefg_1_000001_000011",
        "-_abcdefg_1_000007_000017",
        "-_abcdefg_2_000001_000011",
        "a.mp4",
        "b.mp4",
        "",
    )
    ids = video_ids(names).tolist()
    assert ids[0] == ids[1]
    assert len(set(ids)) == 5
    assert ids == video_ids(names).tolist() and 0 not in ids
    # The same in every process, unlike hash().
    assert ids[0] == 1085322281422835656


def test_a_learned_temperature_starts_as_configured_and_has_a_gradient():
    embeddings, batch = rows()
    objective = Objective(LossConfig(learn_temperature=True, temperature=0.2), EMBEDDING)
    assert objective.temperature.item() == pytest.approx(0.2)
    assert objective.log_scale.dtype == torch.float32
    loss = objective(embeddings, batch)
    loss.total.backward()
    assert loss.total.item() == pytest.approx(
        Objective(LossConfig(temperature=0.2), EMBEDDING)(embeddings, batch).total.item()
    )
    shift = 1e-4
    around = [
        Objective(LossConfig(temperature=0.2 * math.exp(sign * shift)), EMBEDDING)(embeddings, batch).total.item()
        for sign in (-1, 1)
    ]
    assert objective.log_scale.grad.item() == pytest.approx((around[0] - around[1]) / (2 * shift), rel=1e-4)


def test_a_learned_temperature_stays_in_its_range_and_comes_back_from_the_limit():
    embeddings, batch = rows()
    objective = Objective(LossConfig(learn_temperature=True, max_scale=50.0), EMBEDDING)
    optimizer = torch.optim.SGD(objective.parameters(), lr=1.0)
    objective.log_scale.grad = torch.tensor(-9.0)
    optimizer.step()
    assert objective.temperature.item() == pytest.approx(1 / 50)
    objective.after_step(embeddings, batch, 1)
    assert objective.log_scale.item() == pytest.approx(math.log(50))
    objective.zero_grad()
    objective(embeddings, batch).total.backward()
    assert objective.log_scale.grad.item() != 0
    objective.log_scale.grad = torch.tensor(1.0)
    optimizer.step()
    assert objective.temperature.item() == pytest.approx(math.e / 50)


KMEANS = LossConfig(
    centroid="kmeans", learn_temperature=True, num_clusters=3, cluster_queue=8, cluster_every=2, policy="available_mean"
)


def test_clusters_come_with_the_steps_that_ask_for_them():
    embeddings, batch = rows()
    objective = Objective(KMEANS, EMBEDDING)
    terms = []
    for step in (1, 2, 3):
        terms.append(objective(embeddings, batch).avt.item())
        objective.after_step(embeddings, batch, step)
    assert terms[:2] == [0, 0]
    assert terms[2] > 0


def test_the_state_of_an_objective_comes_back_bit_for_bit(tmp_path):
    embeddings, batch = rows()
    objectives = [Objective(KMEANS, EMBEDDING), Objective(replace(KMEANS, temperature=0.5), EMBEDDING)]
    for step in (1, 2):
        objectives[0].after_step(embeddings, batch, step)
    torch.save(objectives[0].state_dict(), tmp_path / "state.pt")
    objectives[1].load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    results = []
    for objective in objectives:
        objective.after_step(embeddings.map(torch.neg), batch, 3)
        objective.after_step(embeddings.map(torch.neg), batch, 4)
        loss = objective(embeddings, batch)
        loss.total.backward()
        results.append((loss.total, loss.avt, objective.log_scale.grad, objective.bank.clusters))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert results[0][1] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
@pytest.mark.parametrize("config", [KMEANS, LossConfig(form="mil_nce", mask_same_title=True, mask_same_video=True)])
def test_a_gpu_gives_the_same_and_is_never_waited_for(config):
    results = []
    for device in ("cpu", "cuda"):
        embeddings, batch = rows()
        embeddings = embeddings.map(lambda rows, device=device: rows.float().to(device).requires_grad_())
        batch, objective = batch.to(device), Objective(config, EMBEDDING).to(device)
        for step in (1, 2):
            objective.after_step(embeddings, batch, step)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            loss = objective(embeddings, batch)
            loss.total.backward()
            objective.after_step(embeddings, batch, 3)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        gradients = [getattr(embeddings, field.name).grad for field in fields(Embeddings)]
        values = [loss.total, loss.avt, *(gradient for gradient in gradients if gradient is not None)]
        results.append([value.detach().cpu() for value in values])
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-4, atol=1e-5)
