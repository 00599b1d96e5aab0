"""The loss written once more, for tests: whole score matrices, row selection and torch's own cross-entropy.

It shares nothing with ``lava_model.contrast``: rows that take no part are cut out, ranks are blocks of one matrix.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from k700_text.data.sample import Batch
from lava_model.config import LossConfig
from lava_model.model import Embeddings

MODALITIES = ("video", "audio", "text")


def dense_nce(queries: Tensor, keys: Tensor, allowed: Tensor, form: str, temperature: Tensor | float) -> Tensor:
    """NCE over the pairs (i, j) that are allowed, bool (N, N); a row that is allowed nothing but itself is cut out."""
    rows = allowed.sum(dim=1) > 1
    if not rows.any():
        return queries.sum() * 0
    scores = F.normalize(queries[rows], dim=1) @ F.normalize(keys[rows], dim=1).T / temperature
    scores = scores.masked_fill(~allowed[rows][:, rows], -torch.inf)
    own = torch.arange(len(scores))
    if form == "pooled":
        return scores.flatten().logsumexp(0) - scores.diagonal().logsumexp(0)
    if form == "infonce":
        return F.cross_entropy(scores, own)
    if form == "symmetric":
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
    return F.cross_entropy(torch.cat([scores, scores.T], dim=1), own)


def dense_loss(
    embeddings: Embeddings,
    batch: Batch,
    config: LossConfig,
    temperature: Tensor | float,
    block: Tensor,
    clusters: Tensor | None = None,
) -> dict[str, Tensor]:
    """The loss of a configuration, its terms and counts; rows of the same ``block`` int (N,) see each other."""
    has = {"video": batch.has_video, "audio": batch.has_audio, "text": batch.has_text}
    met = block[:, None] == block
    if config.mask_same_video:
        videos = [clip_id[:11] for clip_id in batch.clip_id]
        met = met & torch.tensor([[one != other for other in videos] for one in videos])
    met_by_title = met
    if config.mask_same_title:
        same_title = (batch.token_ids[:, None] == batch.token_ids).all(dim=2)
        met_by_title = met & ~(same_title & has["text"] & has["text"][:, None])

    def contrast(queries: Tensor, keys: Tensor, valid: Tensor, *, with_text: bool) -> Tensor:
        allowed = met_by_title if with_text else met
        allowed = (allowed | torch.eye(len(block), dtype=torch.bool)) & valid & valid[:, None]
        return dense_nce(queries, keys, allowed, config.form, temperature)

    pairs = {"av": ("video", "audio"), "vt": ("video", "text"), "at": ("audio", "text")}
    terms = {}
    for term, (left, right) in pairs.items():
        space = "avt" if term == "at" else term
        sides = (getattr(embeddings, f"{space}_{modality}") for modality in (left, right))
        terms[term] = contrast(*sides, has[left] & has[right], with_text=term != "av")
    count = sum(has[m].long() for m in MODALITIES)
    joint = count >= (3 if config.policy == "complete_pair" else 2)
    z = {m: getattr(embeddings, f"avt_{m}") for m in MODALITIES}
    terms["avt"] = torch.zeros((), dtype=torch.float64)
    for m in MODALITIES:
        rows = joint & has[m]
        if config.centroid == "kmeans":
            mean = sum(z[o].detach() * has[o][:, None] for o in MODALITIES)
            nearest = (mean @ clusters.T).argmax(dim=1)
            logits = F.normalize(z[m], dim=1) @ clusters.T / temperature
            terms["avt"] = terms["avt"] + (F.cross_entropy(logits[rows], nearest[rows]) if rows.any() else 0)
            continue
        others = [o for o in MODALITIES if not (config.centroid == "leave_one_out" and o == m)]
        centroid = (
            sum(z[o] * has[o][:, None] for o in others) / sum(has[o].long() for o in others).clamp(min=1)[:, None]
        )
        centroid = centroid.detach() if config.centroid == "stop_grad" else centroid
        terms["avt"] = terms["avt"] + contrast(z[m], centroid, rows, with_text=True)
    counts = {f"num_{term}": (has[left] & has[right]).sum() for term, (left, right) in pairs.items()}
    total = sum(getattr(config.weights, term) * loss for term, loss in terms.items())
    return {**terms, **counts, "num_avt": joint.sum(), "total": total}
