"""Video encoder: frozen trunk, linear to the transformer's width, positions, transformer.

Axes: B batch, T frames, P cells of a frame, C channels of the trunk, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from lava_model.config import LavaConfig
from lava_model.encoders.positions import grid_sinusoids, learned_positions
from lava_model.encoders.transformer import Transformer, initialise_linear
from lava_model.encoders.trunk import Trunk


class VideoEncoder(nn.Module):
    """The trunk's features of frames, (B, T, P, C), to features float32 (B, D).

    ``trunk`` makes the former; it is a part of its own because one run of it may serve several passes.
    """

    def __init__(self, config: LavaConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config)
        # A trunk's features may have any scale (a random one's do): the LayerNorm makes them alike.
        self.feature_norm = nn.LayerNorm(config.trunk_channels)
        self.token = nn.Linear(config.trunk_channels, config.width)
        initialise_linear(self.token)
        factorised, learned = config.positions == "factorised", config.positions == "learned"
        self.grid = config.video_grid
        cells = config.video_grid**2
        self.time_positions = learned_positions(config.num_frames, config.width) if factorised else None
        self.space_positions = learned_positions(cells, config.width) if factorised else None
        self.positions = learned_positions(config.num_video_tokens, config.width) if learned else None
        self.transformer = Transformer(config)

    def forward(self, patches_BTPC: Tensor) -> Tensor:
        """Returns features float32 (B, D)."""
        norm = self.feature_norm
        tokens_BTPD = self.token(norm(patches_BTPC.to(norm.weight.dtype)))
        tokens_BTPD = self._placed(tokens_BTPD)
        features_BD: Tensor = self.transformer(tokens_BTPD.flatten(1, 2))
        return features_BD

    def _placed(self, tokens_BTPD: Tensor) -> Tensor:
        if self.time_positions is not None and self.space_positions is not None:
            # In this order: a run of an earlier version goes on with the very same numbers.
            return tokens_BTPD + self.time_positions[:, None] + self.space_positions
        T, P, D = tokens_BTPD.shape[1:]
        if self.positions is not None:
            return tokens_BTPD + self.positions.view(T, P, D)
        return tokens_BTPD + grid_sinusoids(T, self.grid, D, like=self.feature_norm.weight)
