"""What a configuration will cost, before anything is trained: shapes, parameters, FLOPs, memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from lava_model.config import LavaConfig, PretrainConfig
from lava_model.encoders.trunk import Trunk
from lava_model.model import Lava

_BYTES_PER_TRAINED_PARAMETER = 16
"""fp32 parameter, gradient and the two moments of Adam."""
_ACTIVATION_BYTES_PER_TOKEN = 34
"""Per unit of width and layer, in bf16 with a fused attention; twice that in fp32."""


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
    """Parameters, gradients and optimiser state."""
    activation_bytes: int
    """Estimate of what the backward pass keeps for one batch."""


def cost(config: PretrainConfig) -> Cost:
    """Returns what a configuration costs; nothing of the model's size is allocated."""
    model = config.model
    with torch.device("meta"):
        parameters = list(Lava(model).parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
    tokens = num_tokens(model)
    forward = {name: transformer_flops(count, model) + input_flops(name, model) for name, count in tokens.items()}
    trunk = trunk_flops(model)
    batch = config.data.batch_size
    return Cost(
        shapes={
            "video uint8": (batch, model.num_frames, *model.frame_shape()),
            "log_mel float32": (batch, model.num_mels, model.num_mel_frames),
            "token_ids int64": (batch, model.max_text_length),
            **{f"{name} tokens": (batch, count, model.width) for name, count in tokens.items()},
            "embeddings float32": (batch, model.embedding_dim),
        },
        trained_parameters=trained,
        frozen_parameters=frozen,
        trunk_flops=trunk,
        forward_flops=forward,
        train_flops=trunk + 3 * sum(forward.values()),
        state_bytes=_BYTES_PER_TRAINED_PARAMETER * trained + 4 * frozen,
        activation_bytes=_activation_bytes(config, tokens),
    )


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


def trunk_flops(config: LavaConfig) -> float:
    """Returns the FLOPs of the trunk's forward pass over the frames of a sample, counted on the meta device."""
    frames = torch.empty(1, 1, *config.frame_shape(), dtype=torch.uint8, device="meta")
    with torch.device("meta"):
        trunk = Trunk(config)
    with FlopCounterMode(display=False) as counter:
        trunk(frames)
    return float(counter.get_total_flops() * config.num_frames)


def _activation_bytes(config: PretrainConfig, tokens: dict[str, int]) -> int:
    per_token = _ACTIVATION_BYTES_PER_TOKEN * config.model.width * config.model.num_layers
    return config.data.batch_size * sum(tokens.values()) * per_token * (2 if config.run.precision == "fp32" else 1)
