"""The contrastive objective: NCE forms (eq. 1), the terms AV, VT and centroid AVT (eq. 2-5), exact masks.

A row that is not valid for a term leaves it altogether: as a query and as a negative. Values and gradients are those
of the formula on the valid rows, with shapes that do not depend on how many are valid. A term with fewer than two
valid rows has no contrast and is zero, still connected to the graph. Similarities and log-sum-exp are float32
(float64 for float64 input) outside autocast.

With s_ij = cos(query_i, key_j) / temperature over N valid rows, the forms are:

- ``pooled``: lse over all N^2 of s - lse over its diagonal (eq. 1 to the letter: one ratio for the whole batch).
- ``infonce``: mean over i of lse_j s_ij - s_ii.
- ``symmetric``: mean of infonce of s and of its transpose.
- ``mil_nce``: mean over i of lse over row i and column i, s_ii counted in both, - s_ii (as in the public MIL-NCE
  code, which has neither normalisation nor temperature).

At uniform s they are ln N, and ln 2N for ``mil_nce``.

Axes: B batch, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from lava_model.config import Centroid, LossConfig, LossForm, LossWeights, MissingPolicy
from lava_model.modalities import SPACES, Modality

if TYPE_CHECKING:
    from k700_text.data.sample import Batch
    from lava_model.model import Embeddings

_MASKED = -1e30
"""Finite, so that a row of nothing else has no NaN in its gradient; exp(_MASKED - s) is exactly 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOutput:
    """The weighted total and its terms before weighting (scalars), and the rows that each term rests on (int64)."""

    total: Tensor
    av: Tensor
    vt: Tensor
    avt: Tensor
    at: Tensor
    num_av: Tensor
    num_vt: Tensor
    num_avt: Tensor
    num_at: Tensor


def nce(
    queries_BE: Tensor,
    keys_BE: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    form: LossForm = "symmetric",
    valid_B: Tensor | None = None,
) -> Tensor:
    """Returns the contrastive loss of queries against keys, a scalar; row i of one belongs to row i of the other.

    Args:
        queries_BE: any floating dtype and length; normalised here.
        keys_BE: the same.
        temperature: divides the cosine similarities.
        form: see the module's docstring.
        valid_B: bool; rows that are False take no part, whatever they hold. None: all take part.

    Raises:
        ValueError: shapes that do not match, an unknown form, or a temperature that is not above 0 (a tensor's value
            is not looked at: that would wait for the device).
    """
    _check(queries_BE, keys_BE, form, valid_B)
    if not isinstance(temperature, Tensor) and not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
    dtype = torch.promote_types(torch.promote_types(queries_BE.dtype, keys_BE.dtype), torch.float32)
    if valid_B is None:
        valid_B = torch.ones(len(queries_BE), dtype=torch.bool, device=queries_BE.device)
    with torch.autocast(queries_BE.device.type, enabled=False):
        queries_BE, keys_BE = _unit(queries_BE.to(dtype), valid_B), _unit(keys_BE.to(dtype), valid_B)
        scores_BB = queries_BE @ keys_BE.T / temperature
        scores_BB = scores_BB.masked_fill(~(valid_B[:, None] & valid_B), _MASKED)
        loss = _pooled(scores_BB) if form == "pooled" else _mean(_rows(scores_BB, form), valid_B)
        # One row alone has nothing to be told from. The loss is finite here, so its zeroed gradient is zero.
        return torch.where(valid_B.sum() >= 2, loss, 0.0)


def lava_loss(
    embeddings: Embeddings,
    *,
    has_video: Tensor,
    has_audio: Tensor,
    has_text: Tensor,
    temperature: float | Tensor = 0.07,
    form: LossForm = "symmetric",
    centroid: Centroid = "leave_one_out",
    weights: LossWeights | Mapping[str, float] | None = None,
    policy: MissingPolicy = "complete_pair",
) -> LossOutput:
    """Returns the LAVA loss, eq. 5, with its terms.

    AV and VT rest on the rows that have both modalities. The centroid term, eq. 4, sums one NCE for each modality
    against a centroid in the avt space: the mean of the unit-norm embeddings, which NCE then normalises.

    Args:
        embeddings: of the model; an absent modality's rows may hold anything.
        has_video: bool (B,).
        has_audio: bool (B,).
        has_text: bool (B,).
        temperature: divides the cosine similarities.
        form: of every NCE.
        centroid: ``literal`` (mean of all), ``stop_grad`` (the same, no gradient through it), ``leave_one_out``
            (mean of the others: with the mean of all, a modality is a third of its own target).
        weights: of the terms; the default is 1, 1, 1 and no AT.
        policy: eq. 4 rests on the rows with all modalities (``complete_pair``) or with two (``available_mean``).

    Raises:
        ValueError: an unknown centroid or policy.
    """
    _check_choices(centroid, policy)
    weights = LossWeights.of(weights or {})
    present: dict[Modality, Tensor] = {"video": has_video.bool(), "audio": has_audio.bool(), "text": has_text.bool()}
    has_av = present["video"] & present["audio"]
    has_vt = present["video"] & present["text"]
    has_at = present["audio"] & present["text"]

    def contrast(queries_BE: Tensor, keys_BE: Tensor, valid_B: Tensor) -> Tensor:
        return nce(queries_BE, keys_BE, temperature=temperature, form=form, valid_B=valid_B)

    av = contrast(embeddings.av_video, embeddings.av_audio, has_av)
    vt = contrast(embeddings.vt_video, embeddings.vt_text, has_vt)
    at = contrast(embeddings.avt_audio, embeddings.avt_text, has_at)
    has_avt = torch.stack(list(present.values())).sum(dim=0) >= (3 if policy == "complete_pair" else 2)
    projected = {modality: embeddings.of("avt", modality) for modality in SPACES["avt"]}
    targets = _centroids(projected, present, centroid)
    avt = torch.stack([contrast(projected[m], targets[m], has_avt & present[m]) for m in SPACES["avt"]]).sum()
    return LossOutput(
        total=weights.av * av + weights.vt * vt + weights.avt * avt + weights.at * at,
        av=av,
        vt=vt,
        avt=avt,
        at=at,
        num_av=has_av.sum(),
        num_vt=has_vt.sum(),
        num_avt=has_avt.sum(),
        num_at=has_at.sum(),
    )


def batch_loss(embeddings: Embeddings, batch: Batch, config: LossConfig) -> LossOutput:
    """Returns the LAVA loss of a batch as configured."""
    return lava_loss(
        embeddings,
        has_video=batch.has_video,
        has_audio=batch.has_audio,
        has_text=batch.has_text,
        temperature=config.temperature,
        form=config.form,
        centroid=config.centroid,
        weights=config.weights,
        policy=config.policy,
    )


def _centroids(
    projected: Mapping[Modality, Tensor], present: Mapping[Modality, Tensor], centroid: Centroid
) -> dict[Modality, Tensor]:
    """Returns for each modality what it is held against, (B, E): means over the modalities that are present."""
    kept = {modality: torch.where(present[modality][:, None], projected[modality], 0.0) for modality in projected}
    total_BE = torch.stack(list(kept.values())).sum(dim=0)
    count_B1 = torch.stack([present[modality] for modality in projected]).sum(dim=0)[:, None]
    if centroid == "leave_one_out":
        return {m: (total_BE - kept[m]) / (count_B1 - present[m][:, None].long()).clamp(min=1) for m in projected}
    mean_BE = total_BE / count_B1.clamp(min=1)
    return dict.fromkeys(projected, mean_BE.detach() if centroid == "stop_grad" else mean_BE)


def _check(queries_BE: Tensor, keys_BE: Tensor, form: str, valid_B: Tensor | None) -> None:
    if queries_BE.ndim != 2 or queries_BE.shape != keys_BE.shape:
        raise ValueError(f"queries {tuple(queries_BE.shape)} and keys {tuple(keys_BE.shape)} must be the same (B, E)")
    if valid_B is not None and (valid_B.dtype != torch.bool or valid_B.shape != queries_BE.shape[:1]):
        raise ValueError(f"valid_B must be bool ({len(queries_BE)},), got {valid_B.dtype} {tuple(valid_B.shape)}")
    if form not in get_args(LossForm):
        raise ValueError(f"unknown form {form!r}: use one of {', '.join(get_args(LossForm))}")


def _check_choices(centroid: str, policy: str) -> None:
    if centroid not in get_args(Centroid) or policy not in get_args(MissingPolicy):
        raise ValueError(f"unknown {centroid = } or {policy = }")


def _unit(vectors_BE: Tensor, valid_B: Tensor) -> Tensor:
    """Returns the rows at unit length; those not valid, and zero ones, stay (next to) zero with a finite gradient."""
    vectors_BE = torch.where(valid_B[:, None], vectors_BE, 0.0)
    # Squares of very long or short rows leave the range of float32. The direction does not depend on this scale, so
    # its gradient is exact without one through the scale.
    largest_B1 = vectors_BE.detach().abs().amax(dim=1, keepdim=True)
    # Subnormal rows count as zero ones: the gradient of their direction has no finite number.
    vectors_BE = vectors_BE / torch.where(largest_B1 >= torch.finfo(largest_B1.dtype).tiny, largest_B1, 1.0)
    squared_B1 = vectors_BE.square().sum(dim=1, keepdim=True)
    return vectors_BE * torch.where(squared_B1 > 0, squared_B1, 1.0).rsqrt()


def _pooled(scores_BB: Tensor) -> Tensor:
    return scores_BB.flatten().logsumexp(0) - scores_BB.diagonal().logsumexp(0)


def _rows(scores_BB: Tensor, form: LossForm) -> Tensor:
    if form == "infonce":
        denominator_B = scores_BB.logsumexp(1)
    elif form == "symmetric":
        denominator_B = (scores_BB.logsumexp(1) + scores_BB.logsumexp(0)) / 2
    else:
        denominator_B = torch.cat([scores_BB, scores_BB.T], dim=1).logsumexp(1)
    return denominator_B - scores_BB.diagonal()


def _mean(losses_B: Tensor, valid_B: Tensor) -> Tensor:
    return torch.where(valid_B, losses_B, 0.0).sum() / valid_B.sum().clamp(min=1)
