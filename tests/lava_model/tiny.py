"""The smallest model that the tests of the evaluation share."""

from __future__ import annotations

from lava_model import LavaConfig

TINY = LavaConfig(
    width=32,
    num_layers=1,
    num_heads=2,
    embedding_dim=16,
    num_frames=2,
    frame_size=32,
    short_side=36,
    trunk_weights="random",
    trunk_stage=2,
    video_grid=2,
    vocab_size=64,
    max_text_length=4,
)
