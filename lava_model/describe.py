"""What a configuration will cost, before anything is trained: shapes, parameters, FLOPs, memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path

import pyarrow.compute as pc
import torch
from torch.utils.flop_counter import FlopCounterMode

from k700_text.data.where import Where
from k700_text.manifest_files import read_manifests
from lava_model.config import LavaConfig, PretrainConfig
from lava_model.data import total_steps
from lava_model.encoders.trunk import PIXELS_AT_ONCE, Trunk
from lava_model.errors import DataError
from lava_model.model import Lava

_BYTES_PER_TRAINED_PARAMETER = 16
"""fp32 parameter, gradient and the two moments of Adam."""
_BYTES_PER_GRADIENT = 4
_BYTES_PER_EMA_PARAMETER = 4
_BATCHES_ON_DEVICE = 2
"""The next batch is copied while one is trained on."""
_BESIDE_TENSORS = 3 * 2**29
"""What a GPU needs beside all tensors, reasoned and not measured: its context (some 0.5 GiB), workspaces of cuBLAS and
cuDNN, and pieces of memory too small for the next tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Size and cost of a pre-training configuration; FLOP counts a multiply-add as two."""

    shapes: dict[str, tuple[int, ...]]
    """Tensors of one batch and the tokens of each encoder, cls included."""
    trained_parameters: int
    """Parameters with a gradient."""
    frozen_parameters: int
    """Parameters of the trunk."""
    trunk_flops: float
    """Forward pass of the trunk, one sample."""
    forward_flops: dict[str, float]
    """Forward pass of each encoder without the trunk, one sample."""
    train_flops: float
    """One sample in training: trunk forward, transformers forward and backward (three forwards)."""
    state_bytes: int
    """Parameters, gradients, optimiser state and moving average."""
    samples_at_once: int
    """Samples that go through the model at once: of a micro-batch, else of a batch."""
    activation_bytes: int
    """Estimate of what the encoders' backward pass keeps for these samples (torch.compile keeps less), and with a
    micro-batch of the trunk's features of the whole batch."""
    step_bytes: int
    """Estimate of the most that all tensors of a step take on one process: state, batches, activations, the trunk."""
    device_bytes: int | None
    """Memory of the device, where it is known."""
    fits: bool | None
    """Whether a step fits into it, with what a GPU needs beside tensors; None where it is not known."""
    fitting_micro_batch: int | None
    """Where a step does not fit: the largest power of two that does as ``data.micro_batch``; None where none does."""
    samples_per_step: int
    """Samples of an optimiser step: of all ranks and accumulated batches."""
    total_steps: int | None
    """Optimiser steps of the run at most, where the number of clips is known."""
    run_flops: float | None
    """FLOPs of these steps."""


def cost(
    config: PretrainConfig, *, num_clips: int | None = None, world_size: int = 1, device_bytes: int | None = None
) -> Cost:
    """Returns what a configuration costs; nothing of the model's size is allocated.

    Args:
        config: of the run.
        num_clips: training clips, where that is known.
        world_size: ranks that it runs on.
        device_bytes: memory of the device that it shall run on, where that is known.

    Raises:
        DataError: there are fewer clips than a step takes.
    """
    model, data = config.model, config.data
    trained, frozen = _num_parameters(model)
    at_once = _samples_at_once(config)
    per_step = data.batch_size * data.accumulate * world_size
    steps = None if num_clips is None else total_steps(num_clips, config, world_size)
    fits = None if device_bytes is None else _fits(config, device_bytes)
    return Cost(
        shapes=_shapes(config, at_once),
        trained_parameters=trained,
        frozen_parameters=frozen,
        trunk_flops=trunk_flops(model),
        forward_flops=forward_flops(model),
        train_flops=train_flops(model),
        state_bytes=_state_bytes(config),
        samples_at_once=at_once,
        activation_bytes=_activation_bytes(config),
        step_bytes=step_bytes(config),
        device_bytes=device_bytes,
        fits=fits,
        fitting_micro_batch=None if device_bytes is None or fits else _fitting_micro_batch(config, device_bytes),
        samples_per_step=per_step,
        total_steps=steps,
        run_flops=None if steps is None else train_flops(model) * per_step * steps,
    )


def _shapes(config: PretrainConfig, at_once: int) -> dict[str, tuple[int, ...]]:
    model, batch = config.model, config.data.batch_size
    return {
        "video uint8": (batch, model.num_frames, *model.frame_shape()),
        "log_mel float32": (batch, model.num_mels, model.num_mel_frames),
        "token_ids int64": (batch, model.max_text_length),
        **{f"{name} tokens": (at_once, count, model.width) for name, count in num_tokens(model).items()},
        "embeddings float32": (batch, model.embedding_dim),
    }


def num_clips(config: PretrainConfig) -> int | None:
    """Returns how many training clips a configuration names, at most; None where it names none.

    Of a manifest that is its rows not known to be without video; that a clip is missing on disk shows in training.

    Raises:
        DataError: the manifest is not there.
        K700TextError: it cannot be read.
    """
    if config.data.synthetic:
        return config.data.synthetic_samples
    if config.data.manifest is None:
        return None
    path = Path(config.data.manifest)
    if not path.exists():
        raise DataError(f"--manifest {path} does not exist")
    choice = None if config.data.where is None else Where(config.data.where)
    has_video = read_manifests([path], ["has_video"], optional={"has_video"}, choice=choice)["has_video"]
    return int(pc.sum(pc.fill_null(has_video, True)).as_py() or 0)


@cache
def train_flops(config: LavaConfig) -> float:
    """Returns the FLOPs that training takes for one sample, by the formula of model-notes 5.1.

    The frozen trunk's forward pass once; three forward passes for what trains, of which two stand for the backward
    pass. Projection heads and the similarities of the loss are left out: less than a thousandth.
    """
    return trunk_flops(config) + 3 * sum(forward_flops(config).values())


def forward_flops(config: LavaConfig) -> dict[str, float]:
    """Returns the FLOPs of each encoder's forward pass over one sample, without the trunk."""
    return {
        name: transformer_flops(count, config) + input_flops(name, config) for name, count in num_tokens(config).items()
    }


def num_tokens(config: LavaConfig) -> dict[str, int]:
    """Returns the tokens of each transformer, cls included."""
    extra = 1 if config.pooling == "cls" else 0
    return {
        "video": config.num_video_tokens + extra,
        "audio": config.num_audio_tokens + extra,
        "text": config.max_text_length + extra,
    }


def transformer_flops(num_tokens: int, config: LavaConfig) -> float:
    """Returns the FLOPs of a transformer's forward pass: 2 L (S (4 d^2 + 2 d f) + 2 S^2 d)."""
    d, f = config.width, config.feedforward_width
    return 2.0 * config.num_layers * (num_tokens * (4 * d * d + 2 * d * f) + 2 * num_tokens**2 * d)


def input_flops(modality: str, config: LavaConfig) -> float:
    """Returns the FLOPs that turn one sample into tokens: video has a linear, audio an MLP, text a look-up."""
    if modality == "video":
        return 2.0 * config.num_video_tokens * config.trunk_channels * config.width
    if modality == "audio":
        patch = config.num_mels * config.audio_patch_frames
        return 2.0 * config.num_audio_tokens * config.width * (patch + config.width)
    return 0.0


@cache
def trunk_flops(config: LavaConfig) -> float:
    """Returns the FLOPs of the trunk's forward pass over the frames of a sample, counted on the meta device."""
    frames = torch.empty(1, 1, *config.frame_shape(), dtype=torch.uint8, device="meta")
    with torch.device("meta"):
        trunk = Trunk(config)
    with FlopCounterMode(display=False) as counter:
        trunk(frames)
    return float(counter.get_total_flops() * config.num_frames)


@cache
def _num_parameters(config: LavaConfig) -> tuple[int, int]:
    """Returns how many are trained and how many are frozen."""
    with torch.device("meta"):
        parameters = list(Lava(config).parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return trained, sum(parameter.numel() for parameter in parameters) - trained


def _samples_at_once(config: PretrainConfig) -> int:
    return min(config.data.batch_size, config.data.micro_batch or config.data.batch_size)


def _is_bf16(config: PretrainConfig) -> bool:
    run = config.run
    return run.precision == "bf16" or (run.precision == "auto" and run.device != "cpu")


def _state_bytes(config: PretrainConfig) -> int:
    trained, frozen = _num_parameters(config.model)
    per_parameter = _BYTES_PER_TRAINED_PARAMETER + (_BYTES_PER_EMA_PARAMETER if config.optim.ema_decay else 0)
    return per_parameter * trained + 4 * frozen


def step_bytes(config: PretrainConfig) -> int:
    """Returns about the most that the tensors of a step take, bytes.

    That is reached at the end of the forward pass, or in the trunk where few samples go through the model at once. In
    the backward pass activations go faster than gradients come, so that of one batch in one go the larger of the two
    counts; of several batches or micro-batches the gradients are there already. The similarities of the loss are some
    MB and left out.
    """
    data, model = config.data, config.model
    trained, frozen = _num_parameters(model)
    gradients = _BYTES_PER_GRADIENT * trained
    # Autocast keeps a copy of each matrix and of the trunk for as long as the pass lasts; embeddings are not copied.
    copies = 2 * (trained + frozen - model.vocab_size * model.width) if _is_bf16(config) else 0
    held = _state_bytes(config) - gradients + copies + _BATCHES_ON_DEVICE * data.batch_size * _sample_bytes(model)
    activations = _activation_bytes(config)
    is_in_one_go = data.accumulate == 1 and _samples_at_once(config) == data.batch_size
    in_training = max(activations, gradients) if is_in_one_go else activations + gradients
    # The parts of its features are joined while they are there.
    in_trunk = _trunk_bytes(config) + 2 * data.batch_size * _feature_bytes(config)
    return held + max(in_training, in_trunk)


def _sample_bytes(config: LavaConfig) -> int:
    """Returns the bytes of a sample as the loader hands it over: uint8 frames, float32 log-mel, ids and their mask."""
    frames = config.num_frames * prod(config.frame_shape())
    return frames + 4 * config.num_mels * config.num_mel_frames + 9 * config.max_text_length


def _trunk_bytes(config: PretrainConfig) -> int:
    """Returns what the trunk's first layers take, bytes: pixels in fp32 and as autocast copies them, and two maps.

    These are 64 channels at a quarter of the pixels, before and after BatchNorm.
    """
    pixels = config.data.batch_size * config.model.num_frames * config.model.frame_size**2
    per_pixel = 3 * (4 + 2) + 2 * 16 * 2 if _is_bf16(config) else 3 * 4 + 2 * 16 * 4
    return min(pixels, PIXELS_AT_ONCE) * per_pixel


def _feature_bytes(config: PretrainConfig) -> int:
    """Returns the bytes of the trunk's features of a sample."""
    return config.model.num_video_tokens * config.model.trunk_channels * (2 if _is_bf16(config) else 4)


def _fits(config: PretrainConfig, device_bytes: int) -> bool:
    return step_bytes(config) + _BESIDE_TENSORS <= device_bytes


def _fitting_micro_batch(config: PretrainConfig, device_bytes: int) -> int | None:
    """Returns the largest power of two below the samples at once that fits; None where none does."""
    size = 1 << (_samples_at_once(config) - 1).bit_length()
    while size := size // 2:
        if _fits(replace(config, data=replace(config.data, micro_batch=size)), device_bytes):
            return size
    return None


def _activation_bytes(config: PretrainConfig) -> int:
    at_once, data = _samples_at_once(config), config.data
    # Between the two passes of GradCache.
    kept = data.batch_size * _feature_bytes(config) if at_once < data.batch_size else 0
    return at_once * activation_bytes(config.model, is_bf16=_is_bf16(config)) + kept


def activation_bytes(config: LavaConfig, *, is_bf16: bool) -> int:
    """Returns what the encoders keep of one sample for the backward pass, with a fused attention, to some percent.

    For each token, layer and unit of width, in bf16 autocast: the residual stream before both LayerNorms in fp32 (8),
    and in bf16 what the linear layers (4), the attention (query, key, value, result: 8) and the feed-forward layers
    (before and after GELU: 4 times their ratio) take in; dropout keeps two masks (2). In fp32: 32, and 8 times the
    ratio. The attention keeps a float32 for each token, layer and head.

    Beside the layers: the residual stream before the last LayerNorm (4); the trunk's features as their LayerNorm and
    the linear after it take them in; patches of the log-mel, and what is before and after the GELU of their MLP.
    """
    tokens, ratio = num_tokens(config), config.feedforward_ratio
    number = 2 if is_bf16 else 4
    per_width = (20 + 4 * ratio if is_bf16 else 32 + 8 * ratio) + (2 if config.dropout else 0)
    per_layer = config.width * per_width + 4 * config.num_heads
    in_transformers = sum(tokens.values()) * (config.num_layers * per_layer + 4 * config.width)
    of_features = config.num_video_tokens * config.trunk_channels * (4 + number)
    patch = config.num_mels * config.audio_patch_frames
    of_log_mel = config.num_audio_tokens * (patch + 2 * config.width) * number
    return round(in_transformers + of_features + of_log_mel)


def lines(found: Cost) -> list[str]:
    """Returns the cost as a table of plain text."""
    rows = [
        *((name, " x ".join(map(str, shape))) for name, shape in found.shapes.items()),
        ("trained parameters", f"{found.trained_parameters / 1e6:.1f} M"),
        ("frozen parameters", f"{found.frozen_parameters / 1e6:.1f} M"),
        ("trunk forward", f"{_flops(found.trunk_flops)} per sample"),
        *((f"{name} forward", f"{_flops(flops)} per sample") for name, flops in found.forward_flops.items()),
        (
            "training",
            f"{_flops(found.train_flops)} per sample, {_flops(found.train_flops * found.samples_per_step)} a step",
        ),
        ("samples of a step", f"{found.samples_per_step}, {found.samples_at_once} at once on each process"),
        ("model and optimiser", f"{found.state_bytes / 2**30:.2f} GiB"),
        ("activations (estimate)", f"{found.activation_bytes / 2**30:.2f} GiB for {found.samples_at_once} samples"),
        ("a whole step (estimate)", f"{found.step_bytes / 2**30:.2f} GiB of tensors"),
    ]
    if found.device_bytes is not None:
        rows.append(("device", _fitting(found, found.device_bytes)))
    if found.run_flops is not None:
        rows.append(("whole run", f"{found.total_steps} steps, {_flops(found.run_flops)}, at most"))
    return [f"{name:24}{value}" for name, value in rows]


def _fitting(found: Cost, device_bytes: int) -> str:
    has = f"{device_bytes / 2**30:.2f} GiB"
    if found.fits:
        return f"{has}: a step fits"
    way = f"--micro-batch {found.fitting_micro_batch} does" if found.fitting_micro_batch else "nor does one sample"
    beside = f"with the {_BESIDE_TENSORS / 2**30:.1f} GiB that a GPU needs beside tensors"
    return f"{has}: a step does not fit, {beside}; {way}"


def _flops(count: float) -> str:
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if count >= size:
            return f"{count / size:.1f} {prefix}FLOP"
    return f"{count / 1e6:.1f} MFLOP"
