"""Audio encoder: an MLP over patches of the log-mel, positions, transformer.

Axes: B batch, M mel bands, F mel frames, S tokens, L length of a patch, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lava_model.config import LavaConfig
from lava_model.encoders.positions import row_positions, sinusoids
from lava_model.encoders.transformer import Transformer, initialise_linear


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
        self.positions = row_positions(config, config.num_audio_tokens)
        self.transformer = Transformer(config)

    def forward(self, log_mel_BMF: Tensor) -> Tensor:
        """Returns features float32 (B, D)."""
        weight = self.transformer.norm.weight
        frames_BFM = standardise(log_mel_BMF.to(weight.dtype)).transpose(1, 2)
        patches_BSL = frames_BFM.reshape(len(frames_BFM), -1, self.patch_length)
        tokens_BSD = self.mlp(patches_BSL)
        S, D = tokens_BSD.shape[1:]
        positions_SD = sinusoids(S, D, like=weight) if self.positions is None else self.positions
        features_BD: Tensor = self.transformer(tokens_BSD + positions_SD)
        return features_BD


def standardise(log_mel_BMF: Tensor) -> Tensor:
    """Returns the log-mel with zero mean and unit deviation over each whole sample.

    Over the sample, not the patch: what is loud and what is quiet inside it stays visible, the recording level,
    which says little about content, does not. A constant sample gives zeros.
    """
    deviation_B11, mean_B11 = torch.std_mean(log_mel_BMF, dim=(1, 2), keepdim=True, correction=0)
    return (log_mel_BMF - mean_B11) / (deviation_B11 + 1e-3)
