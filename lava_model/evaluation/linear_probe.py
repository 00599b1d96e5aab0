"""A linear classifier on frozen features, tested on videos whose source it never saw.

Axes: N videos, V views of each, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lava_model.errors import DataError
from lava_model.evaluation.classifiers import FittedClassifier, FloatArray, IntArray, fit_classifier
from lava_model.evaluation.protocols import Protocol
from lava_model.evaluation.splits import Fold, grouped_folds

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFeatures:
    """Features of videos, one row a view.

    Attributes:
        values: float32 (N, V, D).
        is_valid: bool (N, V); the view decoded. Each video has at least one.
    """

    values: FloatArray
    is_valid: BoolArray

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.is_valid.shape != self.values.shape[:2]:
            raise ValueError(f"values must be (N, V, D), is_valid (N, V): {self.values.shape}, {self.is_valid.shape}")
        if not self.is_valid.any(axis=1).all():
            raise ValueError("every video needs at least one valid view")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTask:
    """What every feature set is asked, so that they can be compared: the same labels, folds and protocol.

    Attributes:
        labels: int64 (N,) in 0..num_classes-1.
        groups: N source videos.
        num_classes: how many classes.
        folds: outer splits.
        protocol: classifier, grid and selection rule.
    """

    labels: IntArray
    groups: tuple[str, ...]
    num_classes: int
    folds: tuple[Fold, ...]
    protocol: Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldResult:
    """One fold's outcome.

    Attributes:
        seed: of the draw of the folds.
        fold: position in that draw.
        num_train: train videos.
        num_test: test videos.
        c: inverse regularisation strength used.
        c_was_chosen: by the selection rule; False where the protocol fixes it or too few source videos were left.
        top1_accuracy: share of test videos whose mean logits are largest at their class, 0..1.
        converged: the solver reached its tolerance.
    """

    seed: int
    fold: int
    num_train: int
    num_test: int
    c: float
    c_was_chosen: bool
    top1_accuracy: float
    converged: bool


def make_task(
    labels: Sequence[str], groups: Sequence[str], *, protocol: Protocol, num_folds: int, seeds: Sequence[int]
) -> ProbeTask:
    """Numbers the classes in sorted order and draws the outer folds, one draw a seed.

    Raises:
        DataError: no split by source video is possible.
    """
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    numbers = numbers.astype(np.int64)
    folds = [fold for seed in seeds for fold in grouped_folds(numbers, groups, num_folds=num_folds, seed=seed)]
    return ProbeTask(
        labels=numbers, groups=tuple(groups), num_classes=len(names), folds=tuple(folds), protocol=protocol
    )


def probe(features: VideoFeatures, task: ProbeTask) -> tuple[FoldResult, ...]:
    """Fits and tests a linear classifier on every fold of the task; C is chosen inside each train part."""
    if len(features.values) != len(task.labels):
        raise ValueError(f"{len(features.values)} videos have features and {len(task.labels)} have labels")
    return tuple(_probe_fold(features, task, fold) for fold in task.folds)


def choose_c(features: VideoFeatures, task: ProbeTask, fold: Fold) -> tuple[float, bool]:
    """Returns (C, whether it was chosen) for one fold, from the train part alone.

    Where the train part has too few source videos to hold some out, the middle of the grid is taken.
    """
    grid = task.protocol.c_grid
    labels, groups = task.labels[fold.train], [task.groups[i] for i in fold.train]
    if len(grid) == 1:
        return grid[0], False
    try:
        inner = grouped_folds(labels, groups, num_folds=task.protocol.num_selection_folds, seed=fold.seed)
    except DataError:
        return grid[len(grid) // 2], False
    means = [np.mean([_inner_accuracy(features, task, fold, part, c) for part in inner]) for c in grid]
    return grid[int(np.argmax(means))], True


def majority_share(task: ProbeTask) -> float:
    """Share of the largest class among the test videos, mean over folds: what naming one class always would score."""
    return float(np.mean([np.bincount(task.labels[fold.test]).max() / len(fold.test) for fold in task.folds]))


def video_logits(classifier: FittedClassifier, features: VideoFeatures, videos: IntArray) -> npt.NDArray[np.float64]:
    """Returns float64 (videos, K): the mean over each video's valid views of their logits."""
    valid = features.is_valid[videos]
    logits = classifier.logits(features.values[videos][valid])
    owner = np.nonzero(valid)[0]
    sums = np.zeros((len(videos), logits.shape[1]))
    np.add.at(sums, owner, logits)
    means: npt.NDArray[np.float64] = sums / valid.sum(axis=1, keepdims=True)
    return means


def _probe_fold(features: VideoFeatures, task: ProbeTask, fold: Fold) -> FoldResult:
    c, was_chosen = choose_c(features, task, fold)
    classifier = _fit(features, task, fold.train, c, fold.seed)
    return FoldResult(
        seed=fold.seed,
        fold=fold.index,
        num_train=len(fold.train),
        num_test=len(fold.test),
        c=c,
        c_was_chosen=was_chosen,
        top1_accuracy=_accuracy(classifier, features, task, fold.test),
        converged=classifier.converged,
    )


def _inner_accuracy(features: VideoFeatures, task: ProbeTask, outer: Fold, inner: Fold, c: float) -> float:
    classifier = _fit(features, task, outer.train[inner.train], c, outer.seed)
    return _accuracy(classifier, features, task, outer.train[inner.test])


def _fit(features: VideoFeatures, task: ProbeTask, videos: IntArray, c: float, seed: int) -> FittedClassifier:
    valid = features.is_valid[videos]
    rows = features.values[videos][valid]
    labels = task.labels[videos][np.nonzero(valid)[0]]
    return fit_classifier(task.protocol, rows, labels, num_classes=task.num_classes, c=c, seed=seed)


def _accuracy(classifier: FittedClassifier, features: VideoFeatures, task: ProbeTask, videos: IntArray) -> float:
    predicted = video_logits(classifier, features, videos).argmax(axis=1)
    return float(np.mean(predicted == task.labels[videos]))
