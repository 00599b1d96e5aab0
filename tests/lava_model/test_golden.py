"""The losses of the first steps of small runs, as a file has them: a change of the code must reproduce them.

Where the numbers are meant to change, ``python -m tests.lava_model.test_golden`` writes the file anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from k700_text.data.sample import Batch, collate
from lava_model.config import LossConfig, LossWeights
from lava_model.data import TrainingData
from lava_model.presets import paper, preset
from lava_model.synthetic import SyntheticAVT
from lava_model.trainer import Trainer
from tests.lava_model.step_ranks import MODEL, config_of

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
NUM_STEPS, NUM_CLIPS = 8, 40
RUNS: dict[str, dict[str, Any]] = {
    "paper's loss and optimiser": {"loss": paper().loss, "optim": paper().optim},
    "symmetric, leave one out": {"loss_centroid": "leave_one_out"},
    "mil_nce": {"loss_form": "mil_nce"},
    "infonce, stop_grad": {"loss_form": "infonce", "loss_centroid": "stop_grad"},
    "available mean, masks, all pairs, fixed temperature": {
        "loss": LossConfig(
            policy="available_mean", mask_same_title=True, mask_same_video=True, weights=LossWeights(at=0.5)
        )
    },
    "two batches a step, dropout": {"data_accumulate": 2, "model_dropout": 0.2},
    "micro-batches": {"data_micro_batch": 3},
}


class Held:
    """Samples that were made once."""

    def __init__(self) -> None:
        samples = SyntheticAVT(MODEL, NUM_CLIPS)
        self._samples = [samples[0, index] for index in range(NUM_CLIPS)]

    def __len__(self) -> int:
        return NUM_CLIPS

    def batch(self, addresses: list[tuple[int, int]]) -> Batch:
        return collate([self._samples[index] for _, index in addresses])


def losses_of(changes: dict[str, Any], samples: Held, out: Path) -> list[float]:
    """Returns the loss of each step."""
    groups = {name: value for name, value in changes.items() if "_" not in name}
    config = config_of(out, **{name: value for name, value in changes.items() if "_" in name}, data_batch_size=8)
    optim = replace(preset("tiny").optim, lr=0.01)
    config = replace(config, **{"optim": optim, **groups})
    config = replace(config, run=replace(config.run, max_steps=NUM_STEPS, log_every=1, epochs=99))
    data = TrainingData(train=samples, val=None, fingerprint={})
    Trainer(config, data, device=torch.device("cpu")).run()
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def samples() -> Iterator[Held]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Held()
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_of_the_file(name: str, samples: Held, tmp_path: Path) -> None:
    assert losses_of(RUNS[name], samples, tmp_path) == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=1e-4)


def main() -> None:
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        found = {name: losses_of(changes, Held(), Path(folder) / name) for name, changes in RUNS.items()}
    lines = [f"  {json.dumps(name)}: {json.dumps([round(loss, 6) for loss in found[name]])}" for name in found]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
