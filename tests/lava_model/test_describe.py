"""What a configuration is said to cost, against torch's own count on the model and the figures of the design notes."""

from __future__ import annotations

import json
import weakref
from dataclasses import fields, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from k700_text import Batch, collate
from k700_text.schema import MANIFEST_SCHEMA, SCHEMA_VERSION, VERSION_KEY
from lava_model import Lava, LavaConfig
from lava_model.config import DataConfig, OptimConfig, PretrainConfig, RunConfig
from lava_model.describe import (
    activation_bytes,
    cost,
    forward_flops,
    lines,
    num_clips,
    num_tokens,
    step_bytes,
    train_flops,
    trunk_flops,
)
from lava_model.errors import DataError
from lava_model.modalities import SPACES
from lava_model.objective import Objective
from lava_model.presets import preset
from lava_model.pretrain import main
from lava_model.step import TrainStep
from lava_model.synthetic import SyntheticAVT

SMALL = LavaConfig(
    width=32,
    num_layers=2,
    num_heads=2,
    embedding_dim=24,
    num_frames=3,
    frame_size=32,
    short_side=32,
    trunk_weights="random",
    trunk_stage=2,
    video_grid=4,
    vocab_size=100,
    max_text_length=10,
)
CHANGES = [
    {},
    {"pooling": "mean", "audio_patch_frames": 1, "num_layers": 1, "positions": "learned", "video_grid": 1},
    {"trunk_stage": 3, "video_grid": 2, "feedforward_ratio": 1.0, "pixel_format": "rgb24", "positions": "sinusoidal"},
]


def batch_of(config: LavaConfig, size: int) -> Batch:
    samples = SyntheticAVT(config, size)
    return collate([samples[0, index] for index in range(size)])


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_flops_are_those_that_torch_counts_on_the_model(changes):
    config = replace(SMALL, **changes)
    with torch.device("meta"):  # counts the same and computes nothing
        model = Lava(config)
    batch = batch_of(config, 2).to("meta")
    heads = sum(map(len, SPACES.values())) * 2 * config.width * config.embedding_dim
    # The loss is no part of this: a sum stands for it. Attention by plain products: the fused one counts otherwise.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        embeddings = model(batch)
        forward = counter.get_total_flops() / len(batch)
        total = sum(getattr(embeddings, f"{space}_{m}").sum() for space, names in SPACES.items() for m in names)
        total.backward()
    assert forward == trunk_flops(config) + sum(forward_flops(config).values()) + heads
    # The log-mel needs no gradient, which the formula's backward of two forward passes takes for one.
    not_needed = 2 * config.num_mel_frames * config.num_mels * config.width
    assert counter.get_total_flops() / len(batch) == train_flops(config) + 3 * heads - not_needed


@pytest.mark.parametrize(
    ("name", "video_grid", "audio_patch_frames", "ratio", "video", "audio", "text", "total"),
    [
        ("A", 7, 1, 4.0, 89.9, 27.2, 13.3, 449),
        ("B", 7, 1, 1.0, 50.4, 14.3, 6.8, 273),
        ("C", 7, 8, 4.0, 89.9, 3.4, 13.3, 378),
        ("D", 7, 8, 1.0, 50.4, 1.7, 6.8, 235),
        ("E", 4, 1, 4.0, 27.2, 27.2, 13.3, 261),
        ("F", 1, 1, 4.0, 1.7, 27.2, 13.3, 185),
        ("G", 1, 8, 1.0, 0.9, 1.7, 6.8, 86),
    ],
)
def test_flops_are_those_of_the_notes(name, video_grid, audio_patch_frames, ratio, video, audio, text, total):
    """GFLOP per sample worked out by hand, without the layers that make tokens: 1 % more at most."""
    config = LavaConfig(video_grid=video_grid, audio_patch_frames=audio_patch_frames, feedforward_ratio=ratio)
    assert trunk_flops(config) == pytest.approx(58.0e9, rel=0.005)
    found = forward_flops(config)
    for modality, expected in (("video", video), ("audio", audio), ("text", text)):
        assert found[modality] / 1e9 == pytest.approx(expected, abs=0.9), modality
    assert train_flops(config) == pytest.approx(total * 1e9, rel=0.015)


def test_parameters_and_their_state_are_those_of_the_notes():
    found = cost(preset("paper"))
    assert found.trained_parameters == pytest.approx(210e6, rel=0.002)
    assert found.frozen_parameters == pytest.approx(11.2e6, rel=0.005)
    assert found.state_bytes == pytest.approx(3.4e9, rel=0.01)
    averaged = cost(PretrainConfig(optim=OptimConfig(ema_decay=0.999)))
    assert averaged.state_bytes - found.state_bytes == 4 * found.trained_parameters
    assert num_tokens(LavaConfig(pooling="mean", video_grid=4)) == {"video": 256, "audio": 32, "text": 128}


@pytest.mark.parametrize("is_bf16", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"feedforward_ratio": 1.0},
        {"num_layers": 1, "trunk_stage": 4, "frame_size": 64, "short_side": 64, "video_grid": 2},
        {"pooling": "mean", "audio_patch_frames": 2},
    ],
    ids=str,
)
def test_activations_are_what_autograd_keeps(changes, is_bf16):
    config = replace(SMALL, **{"width": 64, "num_layers": 6, **changes})
    with torch.device("meta"):
        model = Lava(config)
    model.to_empty(device="cpu")  # whatever the weights are
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}

    def kept_bytes(size: int) -> int:
        kept = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                # With the tensor, so that the storage is not freed and its address not given away again.
                kept[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=is_bf16),
        ):
            _ = model(batch_of(config, size))
        return sum(num_bytes for num_bytes, _ in kept.values())

    # The difference of two batches: autocast's copies of the weights are in both.
    assert activation_bytes(config, is_bf16=is_bf16) == pytest.approx(kept_bytes(3) - kept_bytes(2), rel=0.04)


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all tensors that there are, and the most that there were."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        super().__init__()
        self.bytes, self.most = 0, 0
        self._live: dict[int, int] = {}
        for tensor in tensors:
            self._add(tensor)

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._live:
            self._live[storage._cdata] = storage.nbytes()
            self.bytes += storage.nbytes()
            self.most = max(self.most, self.bytes)
            weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, number: int) -> None:
        self.bytes -= self._live.pop(number, 0)

    def __torch_dispatch__(self, function, kinds, arguments=(), options=None):
        found = function(*arguments, **(options or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor)
        return found


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        ({"batch_size": 48}, 0.04),
        ({"batch_size": 48, "micro_batch": 16}, 0.06),
        ({"batch_size": 24, "accumulate": 2}, 0.04),
    ],
    ids=str,
)
def test_the_memory_of_a_step_is_what_its_tensors_take(data, precision, tolerance, monkeypatch):
    monkeypatch.setattr("lava_model.describe._BATCHES_ON_DEVICE", data.get("accumulate", 1))
    model = replace(SMALL, width=96, num_layers=4, num_heads=3, video_grid=4, max_text_length=40)
    config = PretrainConfig(
        model=model, data=DataConfig(**data), run=RunConfig(precision=precision, device="cpu"), optim=OptimConfig()
    )
    lava, objective = Lava(model), Objective(config.loss, model.embedding_dim)
    make_step = TrainStep(lava, objective, config, device=torch.device("cpu"))
    batches = [batch_of(model, config.data.batch_size) for _ in range(config.data.accumulate)]
    make_step(iter(batches), 0, 1e-4)
    held = [*lava.parameters(), *objective.parameters(), *(getattr(b, f.name) for b in batches for f in fields(b))]
    held += [value for state in make_step.optimizer.state.values() for value in state.values()]
    make_step.optimizer.zero_grad()
    with LiveTensors(*(each for each in held if isinstance(each, torch.Tensor))) as live:
        make_step(iter(batches), 1, 1e-4)
    assert step_bytes(config) == pytest.approx(live.most, rel=tolerance)


H200 = 139.8 * 2**30


@pytest.mark.parametrize(
    ("data", "changes", "device_bytes", "fits", "micro_batch"),
    [
        ({"batch_size": 1024}, {}, H200, False, 512),
        ({"batch_size": 1024, "micro_batch": 512}, {}, H200, True, None),
        ({"batch_size": 768}, {}, H200, True, None),
        ({"batch_size": 256}, {}, 23.6 * 2**30, False, 128),
        ({"batch_size": 256, "micro_batch": 100}, {}, 8 * 2**30, False, None),
        ({"batch_size": 256}, {"video_grid": 4}, 23.6 * 2**30, True, None),
        ({"batch_size": 1024}, {}, None, None, None),
    ],
)
def test_a_dry_run_says_what_fits(data, changes, device_bytes, fits, micro_batch):
    base = preset("lava")
    config = replace(base, model=replace(base.model, **changes), data=replace(base.data, **data))
    found = cost(config, device_bytes=None if device_bytes is None else int(device_bytes))
    assert (found.fits, found.fitting_micro_batch) == (fits, micro_batch)
    shown = "\n".join(lines(found))
    assert (f"--micro-batch {micro_batch} does" in shown) is (micro_batch is not None)
    assert ("does not fit" in shown) is (fits is False) and ("a step fits" in shown) is (fits is True)
    if micro_batch:
        less = replace(config, data=replace(config.data, micro_batch=micro_batch))
        assert cost(less, device_bytes=int(device_bytes)).fits
        assert not cost(
            replace(less, data=replace(less.data, micro_batch=2 * micro_batch)), device_bytes=int(device_bytes)
        ).fits


def test_a_micro_batch_bounds_the_activations_and_all_ranks_and_batches_make_a_step():
    data = DataConfig(batch_size=64, micro_batch=16, accumulate=3, synthetic=True, synthetic_samples=1000)
    config = PretrainConfig(model=SMALL, data=data, run=RunConfig(epochs=5))
    found = cost(config, num_clips=num_clips(config), world_size=2)
    features = 64 * SMALL.num_video_tokens * SMALL.trunk_channels * 2
    assert found.activation_bytes == 16 * activation_bytes(SMALL, is_bf16=True) + features
    assert (found.samples_at_once, found.samples_per_step) == (16, 384)
    assert found.shapes["video tokens"] == (16, 49, 32)
    assert found.shapes["embeddings float32"] == (64, 24)
    # 7 batches of 128 in an epoch, 35 in five, three to a step
    assert found.total_steps == 11
    assert found.run_flops == 11 * 384 * train_flops(SMALL)
    assert cost(config).total_steps is None
    with pytest.raises(DataError, match="1000 training clips are fewer than one batch of 1024"):
        cost(config, num_clips=1000, world_size=16)


def test_clips_of_a_manifest_are_its_rows_not_known_to_be_without_video(tmp_path):
    fields = [field.with_nullable(True) for field in MANIFEST_SCHEMA]
    nullable = pa.schema(fields, metadata={VERSION_KEY: SCHEMA_VERSION})
    columns = {field.name: pa.nulls(4, field.type) for field in nullable}
    columns["has_video"] = pa.array([True, None, False, True])
    pq.write_table(pa.table(columns, schema=nullable), tmp_path / "m.parquet")
    config = PretrainConfig(data=DataConfig(manifest=str(tmp_path / "m.parquet")))
    assert num_clips(config) == 3
    assert num_clips(PretrainConfig()) is None
    with pytest.raises(DataError, match=r"none\.parquet does not exist"):
        num_clips(PretrainConfig(data=DataConfig(manifest=str(tmp_path / "none.parquet"))))


def test_dry_run_answers_as_text_and_json(capsys, monkeypatch):
    assert main(["--preset", "paper", "--dry-run", "--micro-batch", "8"]) == 0
    shown = capsys.readouterr().out
    assert "378.0 GFLOP per sample, 12.1 TFLOP a step" in shown
    assert "32, 8 at once on each process" in shown
    assert "GiB for 8 samples" in shown
    assert "EFLOP" not in shown
    command = ["--preset", "paper", "--dry-run", "--synthetic", "--accumulate", "2", "--json"]
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)["cost"]
    # 2048 made-up samples are 16 batches of 4 x 32, 25 epochs of them 400
    assert (found["samples_per_step"], found["total_steps"]) == (256, 200)
    assert found["run_flops"] == pytest.approx(200 * 256 * 378e9, rel=0.001)
    assert (found["device_bytes"], found["fits"]) == (None, None)
    monkeypatch.setenv("RANK", "1")
    assert main(command) == 0
    assert capsys.readouterr().out == ""
    monkeypatch.delenv("WORLD_SIZE")
    assert main(["--dry-run", "--batch-size", "1024", "--device-memory", "139.8"]) == 0
    assert "139.80 GiB: a step does not fit" in (shown := capsys.readouterr().out) and "--micro-batch 512 does" in shown
    assert main(["--dry-run", "--device-memory", "nan"]) == 2
    assert "--device-memory must be above 0 and finite, got nan" in capsys.readouterr().err
