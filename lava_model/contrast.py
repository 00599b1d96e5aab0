"""One contrast over the rows of many ranks, from a few numbers per row.

A loss over N rows needs of each row only the log-sum-exp of its scores against the others, of the others against it,
and its own score. Each rank makes those of its own rows against a pool: the rows of all ranks, or its own alone. The
numbers are gathered, and every rank forms the same scalar from them. It has the value and the gradients of a single
process with all rows, for the pooled form too, which is no mean over ranks.

With s_ij = cos(query_i, key_j) / temperature over the N rows that take part, the forms are:

- ``pooled``: lse over all N^2 of s - lse over its diagonal (eq. 1 to the letter: one ratio for the whole batch).
- ``infonce``: mean over i of lse_j s_ij - s_ii.
- ``symmetric``: mean of infonce of s and of its transpose.
- ``mil_nce``: mean over i of lse over row i and column i, s_ii counted in both, - s_ii (as in the public MIL-NCE
  code, which has neither normalisation nor temperature).

``FORMS`` is the table of them; a further one is an entry there and a name in ``config.LossForm``.

Axes: B rows of this rank, N rows of the pool, E embedding, K clusters or contrasts, S statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lava_model.config import LossForm, Negatives
from lava_model.distributed import Ranks, gather

_MASKED = -1e30
"""Finite, so that a row of nothing else has no NaN in its gradient; exp(_MASKED - s) is exactly 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the numbers of rows become one loss.

    Attributes:
        of_row: takes the log-sum-exp of a row and of its column, and gives what the row's positive is held against;
            the loss is the mean over the rows. None: one ratio for all rows together.
        needs_columns: ``of_row`` has a use for the second.
        num_at_chance: N times this is what the loss is the logarithm of, where all N rows look the same.
    """

    of_row: Callable[[Tensor, Tensor], Tensor] | None
    needs_columns: bool
    num_at_chance: int = 1

    def chance(self, num_rows: float) -> float:
        """Returns the loss of a model to which all rows look the same."""
        return math.log(num_rows * self.num_at_chance)


FORMS: dict[LossForm, Form] = {
    "symmetric": Form(of_row=lambda row, column: (row + column) / 2, needs_columns=True),
    "pooled": Form(of_row=None, needs_columns=False),
    "infonce": Form(of_row=lambda row, column: row, needs_columns=False),
    "mil_nce": Form(of_row=torch.logaddexp, needs_columns=True, num_at_chance=2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Whose rows a rank's own B rows are held against: N rows, its own among them."""

    num_own: int
    """B, the same on every rank."""
    ranks: Ranks
    """Those whose rows are in the pool, in their order."""

    @classmethod
    def of(cls, num_own: int, negatives: Negatives, ranks: Ranks) -> Pool:
        """Returns the pool of all ranks (``global``) or that of the own rank (``local``)."""
        return cls(num_own=num_own, ranks=ranks if negatives == "global" else Ranks())

    @property
    def own(self) -> slice:
        """Which of the N rows are this rank's."""
        start = self.ranks.rank * self.num_own
        return slice(start, start + self.num_own)

    def gather(self, tensor: Tensor) -> Tensor:
        """Returns the N rows to this rank's B, differentiable."""
        return gather(tensor, self.ranks)

    def same(self, ids_N: Tensor) -> Tensor:
        """Returns which own row has the same id as which row of the pool, bool (B, N); 0 stands for no id."""
        return (ids_N[self.own, None] == ids_N) & (ids_N != 0)

    def itself(self, device: torch.device) -> Tensor:
        """Returns where an own row meets itself in the pool, bool (B, N)."""
        rows_N = torch.arange(self.num_own * self.ranks.world_size, device=device)
        return rows_N[self.own, None] == rows_N


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStatistics:
    """What a contrast needs of each of its rows, (B,) or more; 0 for rows that take no part."""

    row_lse: Tensor
    """Log-sum-exp over the scores of the row's query against all keys, its own included."""
    column_lse: Tensor
    """Log-sum-exp over the scores of all queries against the row's key; 0 where the form has no use for it."""
    positive: Tensor
    """The score of the row's query against its own key."""
    takes_part: Tensor
    """bool: the row is valid and has a negative in its pool. A row alone has nothing to be told from."""
    is_valid: Tensor
    """bool: the row has what the contrast is about."""

    def pack(self) -> Tensor:
        """Returns all of them behind each other, (..., S), in the dtype of the scores."""
        parts = (self.row_lse, self.column_lse, self.positive, self.takes_part, self.is_valid)
        return torch.stack([part.to(self.row_lse.dtype) for part in parts], dim=-1)

    @classmethod
    def unpack(cls, packed: Tensor) -> RowStatistics:
        """Returns what ``pack`` packed."""
        row_lse, column_lse, positive, takes_part, is_valid = packed.unbind(-1)
        return cls(
            row_lse=row_lse,
            column_lse=column_lse,
            positive=positive,
            takes_part=takes_part > 0,
            is_valid=is_valid > 0,
        )


def row_statistics(
    queries_NE: Tensor,
    keys_NE: Tensor,
    valid_N: Tensor,
    *,
    pool: Pool,
    temperature: float | Tensor,
    form: LossForm,
    excluded_BN: Tensor | None = None,
) -> RowStatistics:
    """Returns the statistics (B,) of this rank's rows.

    Args:
        queries_NE: float32 or float64, of any length.
        keys_NE: the same; row i belongs to row i of the queries.
        valid_N: bool; rows that are False take no part, whatever they hold.
        pool: where this rank's rows are among the N.
        temperature: divides the cosine similarities.
        form: whether columns are of use.
        excluded_BN: bool, symmetric between ranks; pairs that are no negatives of each other.
    """
    itself_BN = pool.itself(valid_N.device)
    negative_BN = valid_N[pool.own, None] & valid_N & ~itself_BN
    if excluded_BN is not None:
        negative_BN &= ~excluded_BN
    takes_part_B = negative_BN.any(dim=1)
    left_out_BN = ~(negative_BN | itself_BN)
    queries_NE, keys_NE = unit(queries_NE, valid_N) / temperature, unit(keys_NE, valid_N)
    scores_BN = (queries_NE[pool.own] @ keys_NE.T).masked_fill(left_out_BN, _MASKED)
    row_B = scores_BN.logsumexp(dim=1)
    if not FORMS[form].needs_columns:
        column_B = torch.zeros_like(row_B)
    elif pool.ranks.is_alone:
        column_B = scores_BN.logsumexp(dim=0)
    else:
        # Who is left out is symmetric: the mask of the rows is that of the columns.
        column_B = (keys_NE[pool.own] @ queries_NE.T).masked_fill(left_out_BN, _MASKED).logsumexp(dim=1)
    positive_B = scores_BN.diagonal(offset=pool.own.start)
    return RowStatistics(
        row_lse=torch.where(takes_part_B, row_B, 0.0),
        column_lse=torch.where(takes_part_B, column_B, 0.0),
        positive=torch.where(takes_part_B, positive_B, 0.0),
        takes_part=takes_part_B,
        is_valid=valid_N[pool.own],
    )


def cluster_statistics(
    queries_BE: Tensor, means_BE: Tensor, valid_B: Tensor, clusters_KE: Tensor, *, temperature: float | Tensor
) -> RowStatistics:
    """Returns the statistics (B,) of rows that are held against clusters, for the form ``infonce``.

    A row's own cluster is that nearest to its mean; no gradient goes to means and clusters. While all clusters are
    zero, which is before the first clustering, no row takes part.
    """
    clusters_KE = clusters_KE.to(queries_BE.dtype)
    # Of the mean only the direction matters, and to the order of its scores not even the length.
    means_BE = torch.where(valid_B[:, None], means_BE.detach(), 0.0)
    nearest_B = (means_BE @ clusters_KE.T).argmax(dim=1)
    scores_BK = (unit(queries_BE, valid_B) / temperature) @ clusters_KE.T
    takes_part_B = valid_B & clusters_KE.any()
    positive_B = scores_BK.gather(1, nearest_B[:, None])[:, 0]
    row_B = torch.where(takes_part_B, scores_BK.logsumexp(dim=1), 0.0)
    return RowStatistics(
        row_lse=row_B,
        column_lse=torch.zeros_like(row_B),
        positive=torch.where(takes_part_B, positive_B, 0.0),
        takes_part=takes_part_B,
        is_valid=takes_part_B,
    )


def losses_of(statistics: RowStatistics, form: LossForm) -> Tensor:
    """Returns the loss of each contrast, (K,), from the statistics (N, K) of the rows of all ranks.

    A contrast in which no row takes part is zero, still connected to the graph.
    """
    row_NK, part_NK = statistics.row_lse, statistics.takes_part
    of_row = FORMS[form].of_row
    if of_row is None:
        ratio_K = row_NK.masked_fill(~part_NK, _MASKED).logsumexp(dim=0)
        ratio_K = ratio_K - statistics.positive.masked_fill(~part_NK, _MASKED).logsumexp(dim=0)
        return torch.where(part_NK.any(dim=0), ratio_K, 0.0)
    losses_NK = torch.where(part_NK, of_row(row_NK, statistics.column_lse) - statistics.positive, 0.0)
    return losses_NK.sum(dim=0) / part_NK.sum(dim=0).clamp(min=1)


def unit(vectors_BE: Tensor, valid_B: Tensor) -> Tensor:
    """Returns the rows at unit length; those not valid, and zero ones, stay (next to) zero with a finite gradient."""
    vectors_BE = torch.where(valid_B[:, None], vectors_BE, 0.0)
    # Squares of very long or short rows leave the range of float32. The direction does not depend on this scale, so
    # its gradient is exact without one through the scale.
    largest_B1 = vectors_BE.detach().abs().amax(dim=1, keepdim=True)
    # Subnormal rows count as zero ones: the gradient of their direction has no finite number.
    vectors_BE = vectors_BE / torch.where(largest_B1 >= torch.finfo(largest_B1.dtype).tiny, largest_B1, 1.0)
    squared_B1 = vectors_BE.square().sum(dim=1, keepdim=True)
    return vectors_BE * torch.where(squared_B1 > 0, squared_B1, 1.0).rsqrt()
