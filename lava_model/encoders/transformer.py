"""A pre-norm transformer over tokens of any modality, with pooling to one feature vector.

Axes: B batch, S tokens (the cls token included), H heads, K width of a head, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lava_model.config import LavaConfig
from lava_model.encoders.positions import learned_positions


class TransformerBlock(nn.Module):
    """Self-attention, then feed-forward; each behind a LayerNorm and beside a residual."""

    def __init__(self, config: LavaConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.attention_norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.attention_out = nn.Linear(config.width, config.width)
        self.feedforward_norm = nn.LayerNorm(config.width)
        self.feedforward_in = nn.Linear(config.width, config.feedforward_width)
        self.feedforward_out = nn.Linear(config.feedforward_width, config.width)

    def forward(self, tokens_BSD: Tensor, mask_B11S: Tensor | None) -> Tensor:
        """Returns tokens (B, S, D); where the bool mask is False a token is not attended to."""
        tokens_BSD = tokens_BSD + self._drop(self._attend(self.attention_norm(tokens_BSD), mask_B11S))
        hidden_BSF = F.gelu(self.feedforward_in(self.feedforward_norm(tokens_BSD)))
        return tokens_BSD + self._drop(self.feedforward_out(hidden_BSF))

    def _attend(self, tokens_BSD: Tensor, mask_B11S: Tensor | None) -> Tensor:
        B, S, D = tokens_BSD.shape
        qkv_3BHSK = self.qkv(tokens_BSD).view(B, S, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)
        query_BHSK, key_BHSK, value_BHSK = qkv_3BHSK.unbind(0)
        mixed_BHSK = F.scaled_dot_product_attention(
            query_BHSK, key_BHSK, value_BHSK, attn_mask=mask_B11S, dropout_p=self.dropout if self.training else 0.0
        )
        attended: Tensor = self.attention_out(mixed_BHSK.transpose(1, 2).reshape(B, S, D))
        return attended

    def _drop(self, tokens_BSD: Tensor) -> Tensor:
        return F.dropout(tokens_BSD, self.dropout, self.training)


class Transformer(nn.Module):
    """Tokens to one feature vector per sample: blocks, a last LayerNorm, then the cls token or a masked mean."""

    def __init__(self, config: LavaConfig) -> None:
        super().__init__()
        self.cls = learned_positions(1, config.width) if config.pooling == "cls" else None
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)
        self._initialise(config.num_layers)

    def forward(self, tokens_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """Returns features float32 (B, D).

        Args:
            tokens_BSD: embedded tokens with their positions.
            mask_BS: bool, True where a token is real; None when all are. A row without any real token gives
                finite features that mean nothing.
        """
        if self.cls is not None:
            tokens_BSD = torch.cat([self.cls.expand(len(tokens_BSD), -1, -1).to(tokens_BSD.dtype), tokens_BSD], dim=1)
            mask_BS = None if mask_BS is None else F.pad(mask_BS, (1, 0), value=True)
        attention_mask = None if mask_BS is None else _attendable(mask_BS)
        for block in self.blocks:
            tokens_BSD = block(tokens_BSD, attention_mask)
        return whole_precision(self._pool(self.norm(tokens_BSD), mask_BS))

    def _pool(self, tokens_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        if self.cls is not None:
            return tokens_BSD[:, 0]
        if mask_BS is None:
            return tokens_BSD.mean(dim=1)
        kept_BS1 = mask_BS.unsqueeze(-1).to(tokens_BSD.dtype)
        return (tokens_BSD * kept_BS1).sum(dim=1) / kept_BS1.sum(dim=1).clamp(min=1)

    def _initialise(self, num_layers: int) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                initialise_linear(module)
        # Residual branches start small, so that depth does not blow up the sum.
        for block in self.blocks:
            for layer in (block.attention_out, block.feedforward_out):
                assert isinstance(layer, nn.Linear)
                with torch.no_grad():
                    layer.weight.mul_((2 * num_layers) ** -0.5)


def whole_precision(tensor: Tensor) -> Tensor:
    """Returns the tensor as float32, or as float64 where it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def initialise_linear(layer: nn.Linear) -> None:
    """Draws a Glorot-uniform weight and sets the bias to zero."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _attendable(mask_BS: Tensor) -> Tensor:
    # A row in which nothing may be attended to is NaN in the softmax: such a row attends to its first token.
    empty_B1 = ~mask_BS.any(dim=1, keepdim=True)
    first_S = torch.arange(mask_BS.shape[1], device=mask_BS.device) == 0
    return (mask_BS | (empty_B1 & first_S))[:, None, None, :]
