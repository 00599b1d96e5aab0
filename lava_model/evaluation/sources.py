"""Where features come from: the checkpoint, and the controls that tell what its training added.

``trunk_only`` is the mean of the frozen trunk's features over time and space. ``random_init`` is the whole model with
the same trunk and transformers that never trained. Nearly all of a probe's accuracy may come from the trunk alone, so
a number without these two says little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from k700_text.data.sample import Batch
from lava_model.config import LavaConfig
from lava_model.evaluation.features import FeatureSource, weights_fingerprint
from lava_model.modalities import Modality
from lava_model.model import Lava
from lava_model.settings import to_dict

LEARNED = "learned"
TRUNK_ONLY = "trunk_only"
RANDOM_INIT = "random_init"


def feature_sources(
    model: Lava, *, modalities: Sequence[Modality], control_seeds: Sequence[int], device: str
) -> list[FeatureSource]:
    """Returns the learned source, trunk_only, and one random_init for each seed, all on the device, in eval mode.

    They share one trunk, which sees every batch once: the model is taken over, its trunk wrapped.
    """
    trunk = _TrunkOnce(model.video_encoder.trunk)
    sources = [
        _source(LEARNED, model, modalities),
        FeatureSource(
            name=TRUNK_ONLY,
            fingerprint=weights_fingerprint(model.video_encoder.trunk, {"source": TRUNK_ONLY}),
            encode=lambda batch: {"video": trunk(batch.video).float().mean(dim=(1, 2))},
        ),
    ]
    models = [model]
    for seed in control_seeds:
        models.append(untrained(model, seed))
        sources.append(_source(f"{RANDOM_INIT}_{seed}", models[-1], modalities))
    for each in models:  # after the fingerprints, which are of the models as they were
        each.video_encoder.register_module("trunk", trunk)
        each.to(device).eval()
    return sources


def untrained(model: Lava, seed: int) -> Lava:
    """Returns a model of the same shape with the same trunk and freshly drawn weights everywhere else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = Lava(replace(model.config, trunk_weights="random"))
    fresh.video_encoder.trunk = model.video_encoder.trunk
    return fresh


class _TrunkOnce(nn.Module):
    """Gives the features of the last frames again when it is asked about the same tensor."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, video: Tensor) -> Tensor:
        if self._last is None or self._last[0] is not video:
            self._last = (video, self.trunk(video))
        return self._last[1]


def _source(name: str, model: Lava, modalities: Sequence[Modality]) -> FeatureSource:
    def encode(batch: Batch) -> dict[str, Tensor]:
        return model.encode(batch, modalities)

    settings = {"source": "encode", "modalities": sorted(modalities), "model": _shape_settings(model.config)}
    return FeatureSource(name=name, fingerprint=weights_fingerprint(model, settings), encode=encode)


def _shape_settings(config: LavaConfig) -> dict[str, object]:
    """What determines features beside the weights; where the trunk's weights came from does not."""
    return {name: value for name, value in to_dict(config).items() if name not in ("trunk_weights", "trunk_seed")}
