"""One optimiser step: micro-batches and accumulation against the whole batch, its guard, its draws."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from k700_text.data.sample import Batch
from lava_model.config import LossConfig, LossForm, LossWeights
from lava_model.distributed import Ranks
from lava_model.errors import NonFiniteLossError
from lava_model.model import Embeddings
from tests.lava_model import step_ranks
from tests.lava_model.step_ranks import CASES, LOSS, NUM_CLIPS, WORLD_SIZE, config_of, gradients, step_of, taken

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clips() -> Batch:
    return step_ranks.clips()


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert found.keys() == expected.keys()
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in found.items():
        assert (gradient - expected[name]).abs().max() <= tolerance * max(1.0, scale), name


ROOT = Path(__file__).parents[2]
LOSSES = [
    *(replace(LOSS, form=form) for form in get_args(LossForm)),
    *(replace(LOSS, centroid=centroid) for centroid in ("literal", "stop_grad", "kmeans")),
    LossConfig(policy="available_mean", mask_same_title=True, mask_same_video=True, weights=LossWeights(at=0.5)),
    LossConfig(form="pooled", negatives="local", centroid="literal", weights=LossWeights(vt=0)),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.form}-{loss.centroid}-{loss.policy}")
def test_micro_batches_give_loss_and_gradient_of_the_whole_batch(
    tmp_path: Path, clips: Batch, loss: LossConfig
) -> None:
    """To 1e-10, at a size that does not divide the batch; at one that does in a case of its own."""
    config = replace(config_of(tmp_path), loss=loss)
    whole, expected = taken(step_of(config), clips)
    assert whole.grad_norm > 0
    assert ("log_scale" in expected) == loss.learn_temperature
    for micro_batch in (5, 8) if loss == LOSS else (5,):
        cut = replace(config, data=replace(config.data, micro_batch=micro_batch))
        result, found = taken(step_of(cut), clips)
        torch.testing.assert_close(result.measured, whole.measured, rtol=1e-10, atol=1e-10, equal_nan=True)
        assert_close(found, expected)


def test_micro_batches_draw_the_same_dropout_in_both_passes(tmp_path: Path, clips: Batch) -> None:
    """Against the micro-batches' embeddings held with their graphs, with the same draws."""
    step = step_of(config_of(tmp_path, model_dropout=0.4, data_micro_batch=5))
    _, found = taken(step, clips)
    step.optimizer.zero_grad()
    step._seed(0)
    parts = [step.model(clips.rows(first, min(first + 5, NUM_CLIPS))) for first in range(0, NUM_CLIPS, 5)]
    step.objective(Embeddings.cat(parts), clips).total.backward()
    assert_close(found, gradients(step))
    other = step(iter([clips]), 1, 0.0)
    assert abs(float(other.grad_norm) - math.sqrt(sum(float(g.square().sum()) for g in found.values()))) > 1e-6


def test_micro_batches_reach_every_weight_under_autocast(tmp_path: Path, clips: Batch) -> None:
    """Autocast's copies of the weights from a pass without gradient would cut the second pass off."""
    config = config_of(tmp_path, run_precision="bf16")
    _, expected = taken(step_of(config, dtype=torch.float32), clips)
    _, found = taken(step_of(replace(config, data=replace(config.data, micro_batch=5)), dtype=torch.float32), clips)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 0.03 * max(gradient.norm(), 1e-2), name


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_accumulation_is_the_mean_of_the_gradients(tmp_path: Path, clips: Batch, micro_batch: int | None) -> None:
    config = config_of(tmp_path, data_micro_batch=micro_batch)
    halves = [clips.rows(0, 8), clips.rows(8, 16)]
    apart = [taken(step_of(config), half) for half in halves]
    both, found = taken(step_of(replace(config, data=replace(config.data, accumulate=2))), *halves)
    mean = {name: (apart[0][1][name] + apart[1][1][name]) / 2 for name in apart[0][1]}
    assert_close(found, mean)
    torch.testing.assert_close(both.measured, [result.measured[0] for result, _ in apart], equal_nan=True)


def test_the_trunk_looks_at_a_batch_once(tmp_path: Path, clips: Batch) -> None:
    step = step_of(config_of(tmp_path, data_micro_batch=5))
    seen: list[int] = []
    trunk = step.model.video_encoder.trunk
    hook = trunk.register_forward_hook(lambda trunk, inputs, output: seen.append(len(inputs[0])))
    taken(step, clips)
    hook.remove()
    assert sum(seen) == NUM_CLIPS


def test_draws_depend_on_seed_step_and_rank_alone(tmp_path: Path, clips: Batch) -> None:
    step = step_of(config_of(tmp_path, model_dropout=0.4))

    def norm(number: int) -> float:
        torch.rand(number + 1)  # whatever was drawn before
        return float(step(iter([clips]), number, 0.0).grad_norm)

    first = [norm(0), norm(1)]
    assert first == [norm(0), norm(1)]
    assert first[0] != first[1]
    draws = set()
    for seed, rank, number in product((0, 1), repeat=3):
        step.config = replace(step.config, run=replace(step.config.run, seed=seed))
        step.ranks = Ranks(rank=rank)
        step._seed(number)
        draws.add(float(torch.rand(1)))
    assert len(draws) == 8


def test_a_learned_temperature_trains_without_weight_decay(tmp_path: Path, clips: Batch) -> None:
    step = step_of(config_of(tmp_path), dtype=torch.float32)
    assert step.objective.log_scale is not None
    decay = {id(p): group["weight_decay"] for group in step.optimizer.param_groups for p in group["params"]}
    assert decay[id(step.objective.log_scale)] == 0
    before = step.objective.log_scale.item()
    weights = {name: tensor.clone() for name, tensor in step.model.state_dict().items()}
    step(iter([clips]), 0, 0.01)
    assert abs(step.objective.log_scale.item() - before) == pytest.approx(0.01, rel=1e-3)
    step.model.load_state_dict(weights)


def test_a_gradient_that_is_too_long_is_scaled_down(tmp_path: Path, clips: Batch) -> None:
    free, expected = taken(step_of(config_of(tmp_path)), clips)
    norm = float(free.grad_norm)
    assert norm == pytest.approx(math.sqrt(sum(float(gradient.square().sum()) for gradient in expected.values())))
    clipped, found = taken(step_of(config_of(tmp_path, optim_clip_norm=norm / 10)), clips)
    assert float(clipped.grad_norm) == pytest.approx(norm)
    assert_close(found, {name: gradient / 10 for name, gradient in expected.items()}, 1e-5)


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_a_step_that_is_not_finite_changes_nothing_and_tells_the_clips(
    tmp_path: Path, clips: Batch, micro_batch: int | None
) -> None:
    step = step_of(config_of(tmp_path, data_micro_batch=micro_batch), dtype=torch.float32)
    log_mel = clips.log_mel.clone()
    bad = int(clips.has_audio.nonzero()[2])
    log_mel[bad, 3, 5] = math.nan
    before = {name: tensor.clone() for name, tensor in step.model.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match="not finite at step 3") as failure:
        step(iter([replace(clips, log_mel=log_mel)]), 3, 1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in step.model.state_dict().items())
    told = json.loads(failure.value.report_path.read_text())
    assert told["clip_ids"] == list(clips.clip_id)
    assert told["clip_ids_without_finite_embeddings"] == [clips.clip_id[bad]]
    assert (told["step"], told["losses"]) == (3, ["nan"])


def test_a_gradient_that_is_not_finite_is_refused_where_the_loss_is_finite(tmp_path: Path, clips: Batch) -> None:
    step = step_of(config_of(tmp_path), dtype=torch.float32)
    hook = step.model.heads["av_audio"].weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteLossError, match="not finite") as failure:
        step(iter([clips]), 0, 1.0)
    hook.remove()
    told = json.loads(failure.value.report_path.read_text())
    assert math.isfinite(float(told["losses"][0])) and not math.isfinite(float(told["grad_norm"]))


def test_what_an_absent_modality_holds_goes_no_further(tmp_path: Path, clips: Batch) -> None:
    """A transform may leave anything there, a NaN too; of a NaN that is masked later the gradient would be NaN."""
    expected, gradients_then = taken(step_of(config_of(tmp_path)), clips)
    log_mel = clips.log_mel.masked_fill(~clips.has_audio[:, None, None], math.nan)
    assert log_mel.isnan().any()
    found, gradients_now = taken(step_of(config_of(tmp_path)), replace(clips, log_mel=log_mel))
    assert found.measured[0]["loss"] == expected.measured[0]["loss"]
    assert_close(gradients_now, gradients_then)


def test_two_ranks_make_the_step_of_one_process(tmp_path: Path) -> None:
    """Loss and every gradient to 1e-10: whole, by micro-batches, of several batches; and refused on both ranks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(WORLD_SIZE), "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.lava_model.step_ranks", str(tmp_path)]
    ranks = [
        subprocess.Popen(command, env={**environment, "MASTER_ADDR": "127.0.0.1", "RANK": str(rank)}, cwd=ROOT)
        for rank in range(WORLD_SIZE)
    ]
    assert [rank.wait(timeout=100) for rank in ranks] == [0] * WORLD_SIZE
    for name, changes in CASES.items():
        config = config_of(tmp_path, **changes)
        result, expected = taken(step_of(config), *step_ranks.batches_of(config, Ranks()))
        for rank in range(WORLD_SIZE):
            found = torch.load(tmp_path / f"{name}{rank}")
            losses = [batch["loss"] for batch in result.measured]
            torch.testing.assert_close(found.pop("loss"), losses, rtol=1e-10, atol=0)
            assert_close(found, expected)
    reports = [json.loads(Path((tmp_path / f"refused{rank}").read_text()).read_text()) for rank in range(WORLD_SIZE)]
    assert [len(report["clip_ids_without_finite_embeddings"]) for report in reports] == [0, 1]
