"""The transformer written a second time, with a loop for every sum, to hold the real one against.

Nothing but tensor arithmetic on single tokens: no fused attention, no masks (padding is simply not there), no batches.
Gradients come from autograd, so that they can be compared too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lava_model.encoders.transformer import Transformer, TransformerBlock


def features(transformer: Transformer, tokens: list[Tensor]) -> Tensor:
    """Returns the features of one sample from its real tokens (D,) alone."""
    if transformer.cls is not None:
        tokens = [transformer.cls[0], *tokens]
    for block in transformer.blocks:
        assert isinstance(block, TransformerBlock)
        tokens = _block(block, tokens)
    tokens = [_layer_norm(token, transformer.norm) for token in tokens]
    if transformer.cls is not None:
        return tokens[0]
    return sum(tokens[1:], tokens[0]) / len(tokens)


def sinusoid(position: int, width: int) -> list[float]:
    """Returns the sinusoids of one position, sines first."""
    pairs = math.ceil(width / 2)
    angles = [position / 10_000 ** (pair / pairs) for pair in range(pairs)]
    return [*(math.sin(angle) for angle in angles), *(math.cos(angle) for angle in angles)][:width]


def _block(block: TransformerBlock, tokens: list[Tensor]) -> list[Tensor]:
    attended = _attention(block, [_layer_norm(token, block.attention_norm) for token in tokens])
    tokens = [token + update for token, update in zip(tokens, attended, strict=True)]
    results = []
    for token in tokens:
        hidden = _linear(_layer_norm(token, block.feedforward_norm), block.feedforward_in)
        gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        results.append(token + _linear(gelu, block.feedforward_out))
    return results


def _attention(block: TransformerBlock, tokens: list[Tensor]) -> list[Tensor]:
    width = len(tokens[0])
    size = width // block.num_heads
    projected = [_linear(token, block.qkv) for token in tokens]
    results = []
    for asking in projected:
        heads = []
        for start in range(0, width, size):
            query = asking[start : start + size]
            keys = [one[width + start : width + start + size] for one in projected]
            values = [one[2 * width + start : 2 * width + start + size] for one in projected]
            weights = [torch.exp((query * key).sum() / math.sqrt(size)) for key in keys]
            heads.append(sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights))
        results.append(_linear(torch.cat(heads), block.attention_out))
    return results


def _linear(token: Tensor, layer: torch.nn.Linear) -> Tensor:
    return torch.stack([(row * token).sum() for row in layer.weight]) + layer.bias


def _layer_norm(token: Tensor, layer: torch.nn.LayerNorm) -> Tensor:
    centred = token - token.sum() / len(token)
    variance = (centred * centred).sum() / len(token)
    return centred / torch.sqrt(variance + layer.eps) * layer.weight + layer.bias
