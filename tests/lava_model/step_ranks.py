"""What test_step.py runs on each of two ranks: steps under DDP, by micro-batches and by several batches.

Run as a program it is one rank, with torchrun's environment: ``python -m tests.lava_model.step_ranks FOLDER``.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from k700_text.data.sample import Batch, collate
from lava_model.config import LavaConfig, LossConfig, LossWeights, PretrainConfig
from lava_model.distributed import Ranks, ranks_from_environment
from lava_model.errors import NonFiniteLossError
from lava_model.model import Lava
from lava_model.objective import Objective
from lava_model.presets import tiny
from lava_model.step import StepResult, TrainStep
from lava_model.synthetic import SyntheticAVT
from tests.lava_model.tiny import TINY

MODEL = replace(
    TINY,
    width=16,
    embedding_dim=8,
    num_frames=1,
    num_mels=10,
    num_mel_frames=16,
    trunk_stage=1,
    vocab_size=80,
    max_text_length=12,
)
NUM_CLIPS, WORLD_SIZE = 16, 2
CASES: dict[str, dict[str, Any]] = {
    "whole": {},
    "micro": {"data_micro_batch": 3},
    "pooled": {"data_micro_batch": 3, "loss_form": "pooled", "loss_weights": LossWeights(at=0.5)},
    "kmeans": {"data_micro_batch": 3, "loss_centroid": "kmeans"},
    "several": {"data_accumulate": 2},
    "several_micro": {"data_accumulate": 2, "data_micro_batch": 2},
}
LOSS = LossConfig(learn_temperature=True, num_clusters=3, cluster_queue=16)


def clips() -> Batch:
    samples = SyntheticAVT(MODEL, NUM_CLIPS, audio_fraction=0.7, text_fraction=0.6)
    return collate([samples[0, index] for index in range(NUM_CLIPS)])


def config_of(out: Path, **changes: Any) -> PretrainConfig:
    """Returns a configuration of the smallest model; changes are named group_setting."""
    config = replace(tiny(), model=MODEL, loss=LOSS)
    config = replace(
        config, optim=replace(config.optim, clip_norm=0.0), run=replace(config.run, out=str(out), precision="fp32")
    )
    for name, value in changes.items():
        group, setting = name.split("_", 1)
        config = replace(config, **{group: replace(getattr(config, group), **{setting: value})})
    return config


_models: dict[tuple[LavaConfig, torch.dtype], Lava] = {}


def step_of(config: PretrainConfig, *, dtype: torch.dtype = torch.float64, ranks: Ranks | None = None) -> TrainStep:
    """Returns a step on a model that is the same each time, and has clusters where centroids are clusters."""
    model = _models.get((config.model, dtype))
    if model is None:
        torch.manual_seed(0)
        model = _models[config.model, dtype] = Lava(config.model).to(dtype)
    objective = Objective(config.loss, config.model.embedding_dim).to(dtype)
    if config.loss.centroid == "kmeans":
        batch = clips()
        objective.after_step(model.embed(batch), batch, config.loss.cluster_every)
    return TrainStep(model, objective, config, device=torch.device("cpu"), ranks=ranks)


def taken(step: TrainStep, *batches: Batch) -> tuple[StepResult, dict[str, Tensor]]:
    """Returns what a step that changes no weight leaves: its numbers and its gradients."""
    return step(iter(batches), 0, 0.0, measuring=True), gradients(step)


def gradients(step: TrainStep) -> dict[str, Tensor]:
    named = [*step.model.named_parameters(), *step.objective.named_parameters()]
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


def batches_of(config: PretrainConfig, ranks: Ranks) -> list[Batch]:
    """Returns a rank's part of the clips of each batch."""
    accumulate = config.data.accumulate
    size = NUM_CLIPS // accumulate // ranks.world_size
    firsts = [number * NUM_CLIPS // accumulate + ranks.rank * size for number in range(accumulate)]
    return [clips().rows(first, first + size) for first in firsts]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with ranks_from_environment("cpu", timeout_seconds=60) as ranks:
        for name, changes in CASES.items():
            config = config_of(folder, **changes)
            result, found = taken(step_of(config, ranks=ranks), *batches_of(config, ranks))
            torch.save({"loss": [batch["loss"] for batch in result.measured], **found}, folder / f"{name}{ranks.rank}")
        step = step_of(config_of(folder), ranks=ranks)
        (batch,) = batches_of(step.config, ranks)
        if ranks.rank == 1:
            batch.log_mel[int(batch.has_audio.nonzero()[0])] = math.nan
        try:
            taken(step, batch)
        except NonFiniteLossError as error:
            (folder / f"refused{ranks.rank}").write_text(str(error.report_path))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
