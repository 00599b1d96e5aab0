"""The queue of mean embeddings and the k-means over it."""

from __future__ import annotations

from collections import deque

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lava_model.clustering import ClusterBank, spherical_kmeans
from lava_model.distributed import Ranks


def planted(num_clusters: int, per_cluster: int, dim: int = 16) -> tuple[Tensor, Tensor]:
    """Unit rows around orthogonal directions, in mixed order, and which direction each belongs to."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q[:num_clusters]
    labels = torch.arange(num_clusters).repeat(per_cluster)
    rows = directions[labels] + 0.05 * torch.randn(len(labels), dim, generator=generator)
    return F.normalize(rows, dim=1), labels


@pytest.mark.parametrize("seed", range(5))
def test_planted_clusters_are_found(seed):
    rows, labels = planted(8, 12)
    centres = spherical_kmeans(rows, 8, seed=seed)
    found = (rows @ centres.T).argmax(dim=1)
    assert len(set(zip(found.tolist(), labels.tolist(), strict=True))) == 8
    for label in range(8):
        mean = F.normalize(rows[labels == label].mean(dim=0), dim=0)
        torch.testing.assert_close(centres[found[labels == label][0]], mean)


def test_no_row_would_rather_be_in_another_cluster_and_centres_are_means():
    """What k-means ends at, whatever the rows: no centre and no choice can be bettered by itself."""
    rows = F.normalize(torch.randn(60, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    centres = spherical_kmeans(rows, 6, seed=0)
    nearest = (rows @ centres.T).argmax(dim=1)
    assert nearest.unique().tolist() == list(range(6))
    means = torch.stack([F.normalize(rows[nearest == k].mean(dim=0), dim=0) for k in range(6)])
    torch.testing.assert_close(means, centres)


def test_the_same_rows_and_seed_give_the_same_centres():
    rows, _ = planted(8, 6)
    assert torch.equal(spherical_kmeans(rows, 5, seed=3), spherical_kmeans(rows, 5, seed=3))
    assert not torch.equal(spherical_kmeans(rows, 5, seed=3), spherical_kmeans(rows, 5, seed=4))


@pytest.mark.parametrize("rows", [torch.eye(3).repeat(4, 1), F.normalize(torch.ones(12, 3), dim=1), torch.zeros(12, 3)])
def test_fewer_different_rows_than_clusters_give_finite_centres(rows):
    centres = spherical_kmeans(rows, 5, seed=0)
    assert centres.isfinite().all()
    best = (rows @ centres.T).amax(dim=1)
    torch.testing.assert_close(best, rows.norm(dim=1))


@pytest.mark.parametrize("batch", [3, 7, 20])
def test_the_queue_holds_the_newest_valid_rows(batch):
    bank, expected = ClusterBank(2, 7, 4), deque(maxlen=7)
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        rows, valid = torch.randn(batch, 4, generator=generator), torch.rand(batch, generator=generator) > 0.4
        bank.add(torch.where(valid[:, None], 3 * rows, torch.nan), valid)
        expected.extend(F.normalize(rows[valid], dim=1).tolist())
        held = sorted(row for row in bank.queue.tolist() if any(row))
        torch.testing.assert_close(torch.tensor(held), torch.tensor(sorted(expected)))


def test_nothing_is_clustered_before_there_are_as_many_rows_as_clusters():
    rows, _ = planted(4, 1)
    bank = ClusterBank(4, 9, 16)
    bank.add(rows[:3], torch.ones(3, dtype=torch.bool))
    bank.cluster(1, Ranks())
    assert not bank.clusters.any()
    bank.add(rows[3:], torch.ones(1, dtype=torch.bool))
    bank.cluster(1, Ranks())
    torch.testing.assert_close(sorted(bank.clusters.tolist()), sorted(rows.tolist()))


def test_a_bank_goes_on_from_its_state_bit_for_bit():
    rows, _ = planted(8, 6)
    every = torch.ones(8, dtype=torch.bool)
    banks = [ClusterBank(3, 20, 16), ClusterBank(3, 20, 16)]
    for part in rows[:24].split(8):
        banks[0].add(part, every)
    banks[0].cluster(3, Ranks())
    banks[1].load_state_dict({name: value.clone() for name, value in banks[0].state_dict().items()})
    for bank in banks:
        assert bank.clusters.any()
        for part in rows[24:].split(8):
            bank.add(part, every)
        bank.cluster(6, Ranks())
    for name, value in banks[0].state_dict().items():
        assert torch.equal(value, banks[1].state_dict()[name])
