"""Audio encoder: an MLP over patches of the log-mel, learned positions, transformer.

Axes: B batch, M mel bands, F mel frames, S tokens, L length of a patch, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lava_model.config import LavaConfig
from lava_model.encoders.transformer import Transformer, initialise_linear, learned_positions


class AudioEncoder(nn.Module):
    """log-mel float32 (B, M, F) to features float32 (B, D)."""

    def __init__(self, config: LavaConfig) -> None:
        super().__init__()
        self.patch_length = config.num_mels * config.audio_patch_frames
        first = nn.Linear(self.patch_length, config.width)
        second = nn.Linear(config.width, config.width)
        initialise_linear(first)
        initialise_linear(second)
        self.mlp = nn.Sequential(first, nn.GELU(), second)
        self.positions = learned_positions(config.num_audio_tokens, config.width)
        self.transformer = Transformer(config)

    def forward(self, log_mel_BMF: Tensor) -> Tensor:
        """Returns features float32 (B, D)."""
        frames_BFM = standardise(log_mel_BMF).transpose(1, 2)
        patches_BSL = frames_BFM.reshape(len(frames_BFM), -1, self.patch_length)
        features_BD: Tensor = self.transformer(self.mlp(patches_BSL) + self.positions)
        return features_BD


def standardise(log_mel_BMF: Tensor) -> Tensor:
    """Returns the log-mel with zero mean and unit deviation over each whole sample.

    Over the sample, not the patch: what is loud and what is quiet inside it stays visible, the recording level,
    which says little about content, does not. A constant sample gives zeros.
    """
    deviation_B11, mean_B11 = torch.std_mean(log_mel_BMF.float(), dim=(1, 2), keepdim=True, correction=0)
    return (log_mel_BMF - mean_B11) / (deviation_B11 + 1e-3)
