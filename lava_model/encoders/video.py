"""Video encoder: frozen trunk, linear to the transformer's width, factorised positions, transformer.

Axes: B batch, T frames, H height, W width, C colour, P cells of a frame, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from lava_model.config import LavaConfig
from lava_model.encoders.transformer import Transformer, initialise_linear, learned_positions
from lava_model.encoders.trunk import Trunk


class VideoEncoder(nn.Module):
    """Frames, uint8 (B, T, H, W, C) or in 4:2:0 (B, T, H * 3 / 2, W), to features float32 (B, D)."""

    def __init__(self, config: LavaConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config)
        # A trunk's features may have any scale (a random one's do): the LayerNorm makes them alike.
        self.feature_norm = nn.LayerNorm(config.trunk_channels)
        self.token = nn.Linear(config.trunk_channels, config.width)
        initialise_linear(self.token)
        self.time_positions = learned_positions(config.num_frames, config.width)
        self.space_positions = learned_positions(config.video_grid**2, config.width)
        self.transformer = Transformer(config)

    def forward(self, video: Tensor) -> Tensor:
        """Returns features float32 (B, D)."""
        tokens_BTPD = self.token(self.feature_norm(self.trunk(video).float()))
        tokens_BTPD = tokens_BTPD + self.time_positions[:, None] + self.space_positions
        features_BD: Tensor = self.transformer(tokens_BTPD.flatten(1, 2))
        return features_BD
