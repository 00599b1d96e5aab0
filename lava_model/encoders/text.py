"""Text encoder: token embeddings, positions, transformer with a padding mask.

Axes: B batch, S tokens, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lava_model.config import LavaConfig
from lava_model.encoders.positions import row_positions, sinusoids
from lava_model.encoders.transformer import Transformer


class TextEncoder(nn.Module):
    """token ids int64 (B, S) to features float32 (B, D); padding changes nothing."""

    def __init__(self, config: LavaConfig) -> None:
        super().__init__()
        self.max_length = config.max_text_length
        self.token = nn.Embedding(config.vocab_size, config.width)
        with torch.no_grad():
            self.token.weight.mul_(config.width**-0.5)
        self.positions = row_positions(config, config.max_text_length)
        self.transformer = Transformer(config)

    def forward(self, token_ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
        """Returns features float32 (B, D).

        Args:
            token_ids_BS: int64 ids below ``vocab_size``.
            mask_BS: bool, True where a token stands.
        """
        features_BD: Tensor = self.transformer(self.token(token_ids_BS) + self._positions(), mask_BS)
        return features_BD

    def _positions(self) -> Tensor:
        if self.positions is not None:
            return self.positions
        # Token embeddings start at unit length: the sinusoids are brought down to it.
        width = self.token.embedding_dim
        return sinusoids(self.max_length, width, like=self.token.weight) * math.sqrt(2 / width)
