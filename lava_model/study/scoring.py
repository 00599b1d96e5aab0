"""What a trained model of a study is worth: held-out retrieval and a linear probe, never its loss.

Losses of different forms have different scales, so that they rank nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from k700_text.data.sample import Batch
from lava_model.config import LossWeights
from lava_model.evaluation.features import ClipFeatures, select_features
from lava_model.evaluation.linear_probe import ProbeTask, probe
from lava_model.evaluation.results import Scores
from lava_model.evaluation.retrieval import identity_only, retrieve, within_videos
from lava_model.evaluation.sources import LEARNED, RANDOM_INIT, TRUNK_ONLY, untrained
from lava_model.modalities import MODALITIES, RETRIEVALS, TERMS
from lava_model.model import Embeddings, Lava
from lava_model.objective import video_ids
from lava_model.study.views import CachedViews

_BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """Labelled clips to probe features on.

    Attributes:
        views: of all of them.
        task: labels, folds and protocol of those that decode.
    """

    views: CachedViews
    task: ProbeTask


def is_trained(name: str, weights: LossWeights) -> bool:
    """Whether a loss with these weights trains the two embeddings of a retrieval; untrained ones say nothing."""
    return any(getattr(weights, term) > 0 for term in TERMS if TERMS[term].trains(*RETRIEVALS[name]))


def held_out(model: Lava, views: CachedViews, weights: LossWeights) -> dict[str, dict[str, Any]]:
    """Returns the retrievals among all clips of the views, by name, of those that the weights train.

    Each has beside it ``identity_only``, what knowing the video of each clip gives, and ``within_video``, retrieval
    among the clips of each video (None where no video has two).
    """
    batches = list(_batches(views, 0))
    device = next(model.parameters()).device
    embeddings = Embeddings.cat([model.embed(batch.to(device)).map(Tensor.cpu) for batch in batches])
    present = {each: torch.cat([batch.present[each] for batch in batches]) for each in MODALITIES}
    videos_N = video_ids(views.clip_ids)
    found = {
        name: _retrieval(
            embeddings.of(space, one), embeddings.of(space, other), present[one] & present[other], videos_N
        )
        for name, (space, one, other) in RETRIEVALS.items()
        if is_trained(name, weights)
    }
    return {name: result for name, result in found.items() if result is not None}


def _retrieval(first_NE: Tensor, second_NE: Tensor, valid_N: Tensor, videos_N: Tensor) -> dict[str, Any] | None:
    among_all = retrieve(first_NE, second_NE, valid_N)
    if among_all is None:
        return None
    within = within_videos(first_NE, second_NE, valid_N, videos_N)
    return {
        **asdict(among_all),
        "identity_only": asdict(identity_only(videos_N[valid_N])),
        "within_video": None if within is None else asdict(within),
    }


def probe_learned(model: Lava, probing: Probing) -> dict[str, Any]:
    """Returns the linear probe of a model's video features."""
    return _probe(LEARNED, _video_features(model), probing)


def probe_controls(model: Lava, probing: Probing, seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Returns the probe of the frozen trunk alone and of models that never trained, one a seed."""
    device = next(model.parameters()).device
    controls = {TRUNK_ONLY: _probe(TRUNK_ONLY, lambda batch: model.patches(batch).float().mean(dim=(1, 2)), probing)}
    for seed in seeds:
        name = f"{RANDOM_INIT}_{seed}"
        controls[name] = _probe(name, _video_features(untrained(model, seed).to(device)), probing)
    return controls


def _video_features(model: Lava) -> Callable[[Batch], Tensor]:
    device = next(model.parameters()).device
    return lambda batch: model.encode(batch.to(device), ("video",))["video"]


def _probe(name: str, encode: Callable[[Batch], Tensor], probing: Probing) -> dict[str, Any]:
    views = probing.views
    features: list[npt.NDArray[np.float32]] = []
    has_video: list[npt.NDArray[np.bool_]] = []
    for view in range(views.num_views):
        batches = list(_batches(views, view))
        with torch.inference_mode():
            features.append(np.concatenate([encode(batch).float().cpu().numpy() for batch in batches]))
        has_video.append(np.concatenate([batch.has_video.numpy() for batch in batches]))
    seen = np.stack(has_video, axis=1)
    clip_features = ClipFeatures(
        features={"video": np.stack(features, axis=1)}, has_video=seen, has_audio=np.zeros_like(seen)
    )
    scores = Scores(name=name, runs=(probe(select_features(clip_features, ["video"]), probing.task),))
    return {"top1_accuracy": scores.mean, "top1_accuracy_per_fold": list(scores.per_fold)}


def _batches(views: CachedViews, view: int) -> list[Batch]:
    starts = range(0, len(views), _BATCH)
    return [views.batch([(view, index) for index in range(start, min(start + _BATCH, len(views)))]) for start in starts]
