"""Sinusoids against their formula, and where learned positions are kept."""

from __future__ import annotations

import pytest
import torch

from lava_model.encoders.positions import grid_sinusoids, sinusoids
from tests.lava_model.naive import sinusoid

DOUBLE = torch.zeros(0, dtype=torch.float64)


@pytest.mark.parametrize("width", [1, 2, 7, 16])
def test_sinusoids_are_their_formula(width):
    expected = torch.tensor([sinusoid(position, width) for position in range(9)], dtype=torch.float64)
    torch.testing.assert_close(sinusoids(9, width, DOUBLE), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("width", "per_side"), [(32, 10), (26, 8), (7, 2), (4, 0)])
def test_a_cell_of_the_grid_has_its_time_row_and_column(width, per_side):
    found = grid_sinusoids(3, 2, width, DOUBLE)
    assert found.shape == (3, 4, width)
    for time in range(3):
        for row in range(2):
            for column in range(2):
                sides = [*sinusoid(row, per_side), *sinusoid(column, per_side)] if per_side else []
                expected = torch.tensor([*sinusoid(time, width - 2 * per_side), *sides], dtype=torch.float64)
                torch.testing.assert_close(found[time, 2 * row + column], expected, rtol=0, atol=1e-12)


def test_positions_of_the_longest_rows_are_told_apart_in_float32():
    vectors = torch.nn.functional.normalize(sinusoids(784, 1024, torch.zeros(0)), dim=1)
    cosines = vectors @ vectors.T - 2 * torch.eye(784)
    assert cosines.max() < 0.999
    double = sinusoids(784, 1024, DOUBLE)
    torch.testing.assert_close(sinusoids(784, 1024, torch.zeros(0)).double(), double, rtol=0, atol=1e-4)
