"""The contrastive objective: NCE, and the terms AV, VT and centroid AVT (eq. 2-5) on exactly the rows they are about.

A row that is not valid for a term leaves it altogether: as a query and as a negative. So does a row without any
negative. Values and gradients are those of the formula on the remaining rows (see ``contrast``), with shapes that do
not depend on how many they are. A term without such rows has no contrast and is zero, still connected to the graph.
Similarities and log-sum-exp are float32 (float64 for float64 input) outside autocast.

Axes: B batch, N rows of all ranks, E embedding, G groupings, K clusters or contrasts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from lava_model.config import Centroid, LossForm, LossWeights, MissingPolicy, Negatives
from lava_model.contrast import Pool, RowStatistics, cluster_statistics, losses_of, row_statistics
from lava_model.distributed import Ranks, gather
from lava_model.modalities import MODALITIES, PAIRS, SPACES, Modality

if TYPE_CHECKING:
    from lava_model.model import Embeddings

_Contrast = Callable[..., RowStatistics]
"""row_statistics with a run's choices filled in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOutput:
    """The weighted total and its terms before weighting (scalars), and the rows that each term rests on (int64).

    With ranks all of these are over the rows of all ranks, and the same on each.
    """

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
    groups_BG: Tensor | None = None,
    negatives: Negatives = "global",
    ranks: Ranks | None = None,
) -> Tensor:
    """Returns the contrastive loss of queries against keys, a scalar; row i of one belongs to row i of the other.

    Args:
        queries_BE: any floating dtype and length; normalised here.
        keys_BE: the same.
        temperature: divides the cosine similarities.
        form: see ``contrast``.
        valid_B: bool; rows that are False take no part, whatever they hold. None: all take part.
        groups_BG: int64; rows with the same number in a column are no negatives of each other. 0 is no group.
        negatives: whether rows of other ranks are negatives too (``global``) or not (``local``).
        ranks: who else calls this with rows, as many on each rank; the loss is over the rows of all. None: nobody.

    Raises:
        ValueError: shapes that do not match, an unknown form, or a temperature that is not above 0 (a tensor's value
            is not looked at: that would wait for the device).
    """
    _check_nce(queries_BE, keys_BE, valid_B, groups_BG)
    _check_choices(form=form, negatives=negatives)
    _check_temperature(temperature)
    ranks = ranks or Ranks()
    dtype = _dtype_of(queries_BE, keys_BE)
    if valid_B is None:
        valid_B = torch.ones(len(queries_BE), dtype=torch.bool, device=queries_BE.device)
    if groups_BG is None:
        groups_BG = valid_B.new_zeros((len(valid_B), 0), dtype=torch.int64)
    with torch.autocast(queries_BE.device.type, enabled=False):
        pool = Pool.of(len(queries_BE), negatives, ranks)
        queries_NE, keys_NE = pool.gather(torch.stack([queries_BE.to(dtype), keys_BE.to(dtype)], dim=1)).unbind(dim=1)
        numbers_N = pool.gather(torch.cat([valid_B[:, None].long(), groups_BG], dim=1))
        valid_N, groups_NG = numbers_N[:, 0] > 0, numbers_N[:, 1:]
        statistics = row_statistics(
            queries_NE,
            keys_NE,
            valid_N,
            pool=pool,
            temperature=temperature,
            form=form,
            excluded_BN=_excluded(pool, *groups_NG.unbind(dim=1)),
        )
        return losses_of(RowStatistics.unpack(gather(statistics.pack()[:, None], ranks)), form)[0]


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
    titles_B: Tensor | None = None,
    videos_B: Tensor | None = None,
    clusters_KE: Tensor | None = None,
    negatives: Negatives = "global",
    ranks: Ranks | None = None,
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
            (mean of the others: with the mean of all, a modality is a third of its own target), or ``kmeans``: each
            modality is classified as the cluster nearest to the mean (Chen et al. 2021, arXiv 2104.12671, L_cluster).
        weights: of the terms; the default is 1, 1, 1 and no AT.
        policy: eq. 4 rests on the rows with all modalities (``complete_pair``) or with two (``available_mean``).
        titles_B: int64; rows with the same number have the same title, and are no negatives of each other in terms
            with text. 0, and rows without text: no title.
        videos_B: int64; the same for clips of one video, in all terms but that of clusters.
        clusters_KE: unit-norm centres for ``kmeans``; all zero: none yet, and the term is zero.
        negatives: whether rows of other ranks are negatives too (``global``) or not (``local``).
        ranks: who else calls this with rows, as many on each rank; the loss is over the rows of all, and on each rank
            its gradient is W times the rank's share, so that the mean over W ranks is the gradient. None: nobody.

    Raises:
        ValueError: an unknown choice, clusters that are missing, or a temperature that is not above 0.
    """
    _check_choices(form=form, centroid=centroid, policy=policy, negatives=negatives)
    _check_temperature(temperature)
    if centroid == "kmeans" and clusters_KE is None:
        raise ValueError("centroid 'kmeans' needs clusters_KE")
    weights, ranks = LossWeights.of(weights or {}), ranks or Ranks()
    with torch.autocast(has_video.device.type, enabled=False):
        own = _Rows.of(embeddings, (has_video, has_audio, has_text), titles_B, videos_B)
        pool = Pool.of(len(has_video), negatives, ranks)
        rows = own.gathered(pool)
        contrast = partial(row_statistics, pool=pool, temperature=temperature, form=form)
        if centroid == "kmeans":
            assert clusters_KE is not None
            joint_statistics = _cluster_statistics(own, clusters_KE, policy, temperature)
        else:
            joint_statistics = _centroid_statistics(rows, pool, contrast, centroid, policy)
        statistics = [*_pair_statistics(rows, pool, contrast), *joint_statistics]
        # All that ranks tell each other about their losses: a few numbers for each row and contrast.
        packed_NKS = gather(torch.stack([each.pack() for each in statistics], dim=1), ranks)
        pairs, joint = map(RowStatistics.unpack, (packed_NKS[:, : len(PAIRS)], packed_NKS[:, len(PAIRS) :]))
        av, vt, at = losses_of(pairs, form)
        avt = losses_of(joint, "infonce" if centroid == "kmeans" else form).sum()
        num_av, num_vt, num_at = pairs.is_valid.sum(dim=0)
        return LossOutput(
            total=weights.av * av + weights.vt * vt + weights.avt * avt + weights.at * at,
            av=av,
            vt=vt,
            avt=avt,
            at=at,
            num_av=num_av,
            num_vt=num_vt,
            num_avt=joint.is_valid.any(dim=1).sum(),
            num_at=num_at,
        )


def joint_means(
    embeddings: Embeddings, present: Mapping[Modality, Tensor], policy: MissingPolicy
) -> tuple[Tensor, Tensor]:
    """Returns the means (B, E) of the present modalities in the avt space, and for which rows eq. 4 has one.

    Args:
        embeddings: an absent modality's rows may hold anything.
        present: bool (B,) for each modality.
        policy: which rows eq. 4 rests on, bool (B,) in the result.
    """
    return _centroids(embeddings, present, "literal")["video"], _is_joint(present, policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Rows of one rank or of a pool, and what decides whom they are held against."""

    embeddings: Embeddings
    present: dict[Modality, Tensor]
    titles: Tensor
    videos: Tensor

    @classmethod
    def of(
        cls,
        embeddings: Embeddings,
        flags: tuple[Tensor, Tensor, Tensor],
        titles_B: Tensor | None,
        videos_B: Tensor | None,
    ) -> _Rows:
        """Returns the rows of a rank, in the precision of the loss.

        Raises:
            ValueError: tensors that do not have one row for each sample.
        """
        none_B = torch.zeros_like(flags[0], dtype=torch.int64)
        ids = {
            "titles_B": none_B if titles_B is None else titles_B,
            "videos_B": none_B if videos_B is None else videos_B,
        }
        flagged = dict(zip(("has_video", "has_audio", "has_text"), flags, strict=True))
        matrices = {field.name: getattr(embeddings, field.name) for field in fields(embeddings)}
        for name, tensor in {**matrices, **flagged, **ids}.items():
            if tensor.shape[:1] != flags[0].shape or tensor.ndim != (2 if name in matrices else 1):
                raise ValueError(
                    f"{name} must have a row for each of {len(flags[0])} samples, got {tuple(tensor.shape)}"
                )
        present = dict(zip(MODALITIES, (flag.bool() for flag in flags), strict=True))
        dtype = _dtype_of(*matrices.values())
        return cls(
            embeddings=embeddings.map(lambda tensor_BE: tensor_BE.to(dtype)),
            present=present,
            titles=torch.where(present["text"], ids["titles_B"], 0),
            videos=ids["videos_B"],
        )

    def gathered(self, pool: Pool) -> _Rows:
        """Returns the rows of the pool, by two collectives where it holds those of other ranks."""
        if pool.ranks.is_alone:
            return self
        names = [field.name for field in fields(self.embeddings)]
        tensors = [getattr(self.embeddings, name) for name in names]
        parts = torch.split(pool.gather(torch.cat(tensors, dim=1)), [tensor.shape[1] for tensor in tensors], dim=1)
        # Hashes are 64 bits: no float holds them.
        numbers_N = pool.gather(torch.stack([*self.present.values(), self.titles, self.videos], dim=1)).unbind(dim=1)
        return _Rows(
            embeddings=replace(self.embeddings, **dict(zip(names, parts, strict=True))),
            present=dict(zip(self.present, (flag > 0 for flag in numbers_N[:3]), strict=True)),
            titles=numbers_N[3],
            videos=numbers_N[4],
        )


def _pair_statistics(rows: _Rows, pool: Pool, contrast: _Contrast) -> list[RowStatistics]:
    """Returns the terms of pairs, each on the rows that have both modalities."""
    video, either = _excluded(pool, rows.videos), _excluded(pool, rows.videos, rows.titles)
    return [
        contrast(
            rows.embeddings.of(pair.space, one),
            rows.embeddings.of(pair.space, other),
            rows.present[one] & rows.present[other],
            excluded_BN=either if "text" in pair.modalities else video,
        )
        for pair in PAIRS.values()
        for one, other in [pair.modalities]
    ]


def _centroid_statistics(
    rows: _Rows, pool: Pool, contrast: _Contrast, centroid: Centroid, policy: MissingPolicy
) -> list[RowStatistics]:
    """Returns eq. 4: one contrast for each modality against what it has in common with the others."""
    targets, is_joint = _centroids(rows.embeddings, rows.present, centroid), _is_joint(rows.present, policy)
    excluded = _excluded(pool, rows.videos, rows.titles)
    return [
        contrast(rows.embeddings.of("avt", m), targets[m], is_joint & rows.present[m], excluded_BN=excluded)
        for m in SPACES["avt"]
    ]


def _cluster_statistics(
    rows: _Rows, clusters_KE: Tensor, policy: MissingPolicy, temperature: float | Tensor
) -> list[RowStatistics]:
    means_BE, is_joint_B = joint_means(rows.embeddings, rows.present, policy)
    return [
        cluster_statistics(
            rows.embeddings.of("avt", m), means_BE, is_joint_B & rows.present[m], clusters_KE, temperature=temperature
        )
        for m in SPACES["avt"]
    ]


def _centroids(
    embeddings: Embeddings, present: Mapping[Modality, Tensor], centroid: Centroid
) -> dict[Modality, Tensor]:
    """Returns for each modality what it is held against, (B, E): means over the modalities that are present."""
    kept = {m: torch.where(present[m][:, None], embeddings.of("avt", m), 0.0) for m in SPACES["avt"]}
    total_BE = torch.stack(list(kept.values())).sum(dim=0)
    count_B1 = torch.stack([present[m] for m in kept]).sum(dim=0)[:, None]
    if centroid == "leave_one_out":
        return {m: (total_BE - kept[m]) / (count_B1 - present[m][:, None].long()).clamp(min=1) for m in kept}
    mean_BE = total_BE / count_B1.clamp(min=1)
    return dict.fromkeys(kept, mean_BE.detach() if centroid == "stop_grad" else mean_BE)


def _is_joint(present: Mapping[Modality, Tensor], policy: MissingPolicy) -> Tensor:
    """Returns which rows eq. 4 rests on, bool (B,)."""
    return torch.stack(list(present.values())).sum(dim=0) >= (3 if policy == "complete_pair" else 2)


def _excluded(pool: Pool, *ids: Tensor) -> Tensor | None:
    """Returns which pairs are no negatives of each other, bool (B, N), because an id is the same."""
    return torch.stack([pool.same(ids_N) for ids_N in ids]).any(dim=0) if ids else None


def _dtype_of(*tensors: Tensor) -> torch.dtype:
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _check_choices(**choices: str) -> None:
    known = {"form": LossForm, "centroid": Centroid, "policy": MissingPolicy, "negatives": Negatives}
    for name, value in choices.items():
        if value not in get_args(known[name]):
            raise ValueError(f"unknown {name} {value!r}: use one of {', '.join(get_args(known[name]))}")


def _check_temperature(temperature: float | Tensor) -> None:
    if not isinstance(temperature, Tensor) and not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be above 0 and finite, got {temperature}")


def _check_nce(queries_BE: Tensor, keys_BE: Tensor, valid_B: Tensor | None, groups_BG: Tensor | None) -> None:
    if queries_BE.ndim != 2 or queries_BE.shape != keys_BE.shape:
        raise ValueError(f"queries {tuple(queries_BE.shape)} and keys {tuple(keys_BE.shape)} must be the same (B, E)")
    if valid_B is not None and (valid_B.dtype != torch.bool or valid_B.shape != queries_BE.shape[:1]):
        raise ValueError(f"valid_B must be bool ({len(queries_BE)},), got {valid_B.dtype} {tuple(valid_B.shape)}")
    if groups_BG is not None and (
        groups_BG.dtype != torch.int64 or groups_BG.ndim != 2 or len(groups_BG) != len(queries_BE)
    ):
        raise ValueError(
            f"groups_BG must be int64 ({len(queries_BE)}, G), got {groups_BG.dtype} {tuple(groups_BG.shape)}"
        )
