"""Splits that keep every source video on one side."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from lava_model.errors import DataError

IntArray = npt.NDArray[np.int64]

_NUM_DRAWS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """One division of the videos into train and test.

    Attributes:
        seed: of the draw that this fold belongs to.
        index: which fold of that draw, from 0.
        train: int64 positions.
        test: int64 positions; the test parts of one draw together cover every video once.
    """

    seed: int
    index: int
    train: IntArray
    test: IntArray


def smallest_group_count(labels: IntArray, groups: Sequence[str]) -> int:
    """Returns how many groups the class with the fewest of them has: no more folds than this are possible."""
    groups_of_label: dict[int, set[str]] = defaultdict(set)
    for label, group in zip(labels.tolist(), groups, strict=True):
        groups_of_label[label].add(group)
    return min(len(found) for found in groups_of_label.values())


def grouped_folds(labels: IntArray, groups: Sequence[str], *, num_folds: int, seed: int) -> tuple[Fold, ...]:
    """Divides videos into folds of about equal class shares; no group falls on both sides of a fold.

    Every train part holds every class. Where a draw leaves one out, another is tried, by labels and groups alone.

    Args:
        labels: int64 (N,), class of each video.
        groups: N source videos.
        num_folds: wanted; lowered to the number of groups of the class with the fewest.
        seed: of the draw.

    Raises:
        DataError: a class has a single group, or no draw keeps every class in training.
    """
    num_folds = min(num_folds, smallest_group_count(labels, groups))
    if num_folds < 2:
        raise DataError("a split by source video needs two videos of every class")
    group_numbers = np.unique(np.asarray(groups), return_inverse=True)[1]
    for draw in range(_NUM_DRAWS):
        random_state = int(np.random.SeedSequence([seed, draw]).generate_state(1)[0])
        folds = _draw(labels, group_numbers, num_folds, random_state)
        if all(len(np.unique(labels[train])) == len(np.unique(labels)) and len(test) for train, test in folds):
            return tuple(Fold(seed=seed, index=i, train=train, test=test) for i, (train, test) in enumerate(folds))
    raise DataError(
        f"no split by source video into {num_folds} folds keeps every class in training: "
        "some classes share their few videos; add videos or leave those classes out"
    )


def _draw(
    labels: IntArray, groups: npt.NDArray[np.int64], num_folds: int, random_state: int
) -> list[tuple[IntArray, IntArray]]:
    splitter = StratifiedGroupKFold(n_splits=num_folds, shuffle=True, random_state=random_state)
    with warnings.catch_warnings():
        # "least populated class": with groups of one clip each this is the case we allow, two folds of two clips.
        warnings.simplefilter("ignore", UserWarning)
        folds = splitter.split(np.zeros(len(labels)), labels, groups)
        return [(train.astype(np.int64), test.astype(np.int64)) for train, test in folds]
