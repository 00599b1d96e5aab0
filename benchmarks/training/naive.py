"""The step as the authors' code has it (github.com/sumanthgenz/lava, versions of June to August 2021), on our shapes.

What it does, and ours does not:

- float32 everywhere: no autocast (TF32 is off, as in ours);
- frames become floats of 0 to 255, neither scaled nor normalised, in NCHW order;
- the ResNet-18 runs without gradient but in training mode: BatchNorm takes the statistics of the batch and moves its
  own; the weights are drawn, which costs the same;
- attention is ``nn.MultiheadAttention`` with its weights asked for: similarities, softmax and sum as three steps that
  keep (B, H, S, S); in 2021 there was no fused one. Post-norm layers, GELU, learned positions, a token at the end;
- no mask for padding: every text is as long as the longest may be;
- three projection heads for all spaces; symmetric cross-entropy of AV, VT and AVT; centroid of all three; AdamW as it
  comes, no clipping.

Widths, layers, heads, tokens and batch are those of our model. Written from what the notes on that code say, not
copied: it has no licence.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from k700_text.data.sample import Batch
from lava_model.config import LavaConfig


class _Layer(nn.Module):
    def __init__(self, config: LavaConfig) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(config.width, config.num_heads, batch_first=True)
        self.first = nn.Linear(config.width, config.feedforward_width)
        self.second = nn.Linear(config.feedforward_width, config.width)
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(2))

    def forward(self, tokens_BSD: Tensor) -> Tensor:
        mixed_BSD, _ = self.attention(tokens_BSD, tokens_BSD, tokens_BSD, need_weights=True)
        tokens_BSD = self.norms[0](tokens_BSD + mixed_BSD)
        return self.norms[1](tokens_BSD + self.second(F.gelu(self.first(tokens_BSD))))


class _Encoder(nn.Module):
    def __init__(self, config: LavaConfig, num_tokens: int) -> None:
        super().__init__()
        self.feature = nn.Parameter(torch.rand(1, 1, config.width) * config.width**-0.5)
        self.positions = nn.Parameter(torch.rand(num_tokens + 1, config.width) * config.width**-0.5)
        self.layers = nn.Sequential(*(_Layer(config) for _ in range(config.num_layers)))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.embedding_dim)

    def forward(self, tokens_BSD: Tensor) -> Tensor:
        feature_B1D = self.feature.expand(len(tokens_BSD), -1, -1)
        tokens_BSD = torch.cat([tokens_BSD, feature_B1D], dim=1) + self.positions
        return F.normalize(self.head(F.normalize(self.norm(self.layers(tokens_BSD)[:, -1]), dim=1)), dim=1)


class NaiveLava(nn.Module):
    """The model; takes frames in RGB."""

    def __init__(self, config: LavaConfig) -> None:
        super().__init__()
        resnet = torchvision.models.resnet18(weights=None)
        stages = list(resnet.children())[: 4 + config.trunk_stage]
        self.trunk = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(config.video_grid))
        self.patch = config.num_mels * config.audio_patch_frames
        self.video_token = nn.Linear(config.trunk_channels, config.width)
        self.audio_token = nn.Sequential(nn.Linear(self.patch, config.width), nn.Linear(config.width, config.width))
        self.text_token = nn.Embedding(config.vocab_size, config.width)
        self.video = _Encoder(config, config.num_video_tokens)
        self.audio = _Encoder(config, config.num_audio_tokens)
        self.text = _Encoder(config, config.max_text_length)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Returns unit embeddings (B, E) of video, audio and text."""
        pixels_NCHW = batch.video.flatten(0, 1).permute(0, 3, 1, 2).contiguous().float()
        with torch.no_grad():
            maps_NCGG = self.trunk(pixels_NCHW)
        patches_BSC = maps_NCGG.flatten(2).transpose(1, 2).reshape(len(batch), -1, maps_NCGG.shape[1])
        frames_BFM = batch.log_mel.transpose(1, 2)
        video_BE = self.video(self.video_token(patches_BSC))
        audio_BE = self.audio(self.audio_token(frames_BFM.reshape(len(batch), -1, self.patch)))
        return video_BE, audio_BE, self.text(self.text_token(batch.token_ids))


def naive_step(config: LavaConfig, batch: Batch, device: torch.device) -> Callable[[], None]:
    """Returns a function that makes one training step.

    Args:
        config: gives the shapes.
        batch: on the device, frames in RGB.
        device: where to train.
    """
    model = NaiveLava(config).to(device).train()
    trained = [parameter for name, parameter in model.named_parameters() if not name.startswith("trunk.")]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def step() -> None:
        video_BE, audio_BE, text_BE = model(batch)
        centroid_BE = F.normalize((video_BE + audio_BE + text_BE) / 3, dim=1)
        pairs = [(audio_BE, video_BE), (video_BE, text_BE)]
        pairs += [(embedding_BE, centroid_BE) for embedding_BE in (video_BE, audio_BE, text_BE)]
        loss = sum((clip_loss(one_BE, other_BE) for one_BE, other_BE in pairs), torch.zeros((), device=device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def clip_loss(one_BE: Tensor, other_BE: Tensor, scale: float = 1 / 0.07) -> Tensor:
    """Returns the symmetric loss as open_clip's ``ClipLoss`` has it: two cross-entropies over one process's rows."""
    logits_BB = scale * one_BE @ other_BE.T
    labels_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return (F.cross_entropy(logits_BB, labels_B) + F.cross_entropy(scale * other_BE @ one_BE.T, labels_B)) / 2
