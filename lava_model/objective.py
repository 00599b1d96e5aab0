"""The objective of a run: the configured loss, what of it is learned, and what it remembers between steps.

Axes: B batch, S tokens, E embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from k700_text.records import parse_clip_id
from lava_model.clustering import ClusterBank
from lava_model.config import LossConfig
from lava_model.distributed import Ranks, gather
from lava_model.loss import LossOutput, joint_means, lava_loss

if TYPE_CHECKING:
    from k700_text.data.sample import Batch
    from lava_model.model import Embeddings


class Objective(nn.Module):
    """The loss of a batch; its parameters (a learned temperature) train beside the model's, its buffers are saved.

    It is not part of the model that is exported.
    """

    def __init__(self, config: LossConfig, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature))) if config.learn_temperature else None
        self.bank = (
            ClusterBank(config.num_clusters, config.cluster_queue, embedding_dim)
            if config.centroid == "kmeans"
            else None
        )

    @property
    def temperature(self) -> float | Tensor:
        """The temperature in use; learned: a float32 scalar."""
        if self.log_scale is None:
            return self.config.temperature
        return torch.exp(-self.log_scale.clamp(max=math.log(self.config.max_scale)))

    def forward(self, embeddings: Embeddings, batch: Batch, ranks: Ranks | None = None) -> LossOutput:
        """Returns the loss of a batch, with ranks that of all their rows, the same on every rank.

        The gradients on each rank, those of this module's parameters too, are W times the rank's share: their mean
        over ranks is what a single process with all rows has.

        Args:
            embeddings: of this rank's rows.
            batch: which modalities those have, their titles and videos.
            ranks: who else contributes as many rows; None: nobody.
        """
        config = self.config
        device = batch.token_ids.device
        return lava_loss(
            embeddings,
            has_video=batch.has_video,
            has_audio=batch.has_audio,
            has_text=batch.has_text,
            temperature=self.temperature,
            form=config.form,
            centroid=config.centroid,
            weights=config.weights,
            policy=config.policy,
            titles_B=title_ids(batch.token_ids) if config.mask_same_title else None,
            videos_B=video_ids(batch.clip_id).to(device, non_blocking=True) if config.mask_same_video else None,
            clusters_KE=None if self.bank is None else self.bank.clusters,
            negatives=config.negatives,
            ranks=ranks,
        )

    @torch.no_grad()
    def after_step(self, embeddings: Embeddings, batch: Batch, step: int, ranks: Ranks | None = None) -> None:
        """Keeps a learned temperature in its range, and takes note of the batch where centroids are clusters.

        Args:
            embeddings: of this rank's rows.
            batch: theirs.
            step: number of the optimiser step just made, counted from 1.
            ranks: who else calls this.
        """
        ranks = ranks or Ranks()
        if self.log_scale is not None:
            # Past the limit it would have no gradient to come back by.
            self.log_scale.clamp_(max=math.log(self.config.max_scale))
        if self.bank is not None:
            means_BE, is_joint_B = joint_means(embeddings, batch.present, self.config.policy)
            packed_NE = gather(torch.cat([means_BE, is_joint_B[:, None].to(means_BE.dtype)], dim=1), ranks)
            self.bank.add(packed_NE[:, :-1], packed_NE[:, -1] > 0)
            if step % self.config.cluster_every == 0:
                self.bank.cluster(step, ranks)


def title_ids(token_ids_BS: Tensor) -> Tensor:
    """Returns a number for each title, int64 (B,): the same for the same tokens, by all odds another for others."""
    return (token_ids_BS * _odd_numbers(token_ids_BS.shape[1], token_ids_BS.device)).sum(dim=1)


def video_ids(clip_ids: Sequence[str]) -> Tensor:
    """Returns a number for each clip's video, int64 (B,) on the CPU; any other id is a video of its own."""
    return torch.tensor([_hash(_video_of(clip_id)) for clip_id in clip_ids], dtype=torch.int64)


def _video_of(clip_id: str) -> str:
    try:
        return parse_clip_id(clip_id)[0]
    except ValueError:
        return clip_id


def _hash(text: str) -> int:
    return int.from_bytes(
        blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little", signed=True
    )


def _odd_numbers(count: int, device: torch.device) -> Tensor:
    """Returns fixed numbers of 64 bits that look random, int64 (count,): splitmix64 made odd. Products wrap around."""
    numbers = torch.arange(1, count + 1, device=device) * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        numbers = (numbers ^ (numbers >> shift)) * factor
    return (numbers ^ (numbers >> 31)) | 1
