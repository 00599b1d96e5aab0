"""What a probe found: the learned features beside their controls, the margin, and the record of the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lava_model.evaluation.linear_probe import FoldResult, ProbeTask, majority_share

RECORD_VERSION = 1

_CLEAR_MARGIN_STANDARD_ERRORS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Accuracies of one kind of features on the task.

    Attributes:
        name: ``learned`` or the control's name.
        runs: one tuple of fold results per repetition (random_init: one per control seed); all on the same folds.
    """

    name: str
    runs: tuple[tuple[FoldResult, ...], ...]

    @property
    def per_fold(self) -> tuple[float, ...]:
        """top1_accuracy of each fold, mean over repetitions."""
        return tuple(float(x) for x in np.mean([[fold.top1_accuracy for fold in run] for run in self.runs], axis=0))

    @property
    def mean(self) -> float:
        """Mean over folds, 0..1."""
        return float(np.mean(self.per_fold))

    @property
    def std(self) -> float:
        """Standard deviation over folds (n - 1), 0..1."""
        return float(np.std(self.per_fold, ddof=1))

    def to_json(self) -> dict[str, Any]:
        """Returns the scores as plain values."""
        return {
            "top1_accuracy": self.mean,
            "top1_accuracy_std": self.std,
            "top1_accuracy_per_fold": list(self.per_fold),
            "runs": [[asdict(fold) for fold in run] for run in self.runs],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """How far the learned features lie above the best control, fold by fold.

    Attributes:
        control: name of the best control (or chance).
        mean: mean difference of top1_accuracy, -1..1.
        std: its standard deviation over folds.
        standard_error: of the mean, corrected for train parts that overlap between folds (Nadeau and Bengio, 2003).
        num_folds_won: folds in which the learned features are better.
        num_folds: folds compared.
    """

    control: str
    mean: float
    std: float
    standard_error: float
    num_folds_won: int
    num_folds: int

    @property
    def verdict(self) -> str:
        """One plain line about what the numbers allow to say."""
        bound = _CLEAR_MARGIN_STANDARD_ERRORS * self.standard_error
        if self.mean > bound:
            claim = "the learned features are better than every control"
        elif self.mean < -bound:
            claim = f"the learned features are WORSE than {self.control}"
        else:
            claim = f"no clear difference between the learned features and {self.control}"
        return (
            f"{claim}: margin over {self.control} {100 * self.mean:+.1f} points "
            f"(standard error {100 * self.standard_error:.1f}, spread over folds {100 * self.std:.1f}, "
            f"ahead in {self.num_folds_won} of {self.num_folds} folds)"
        )


def compare(learned: Scores, controls: Sequence[Scores], task: ProbeTask) -> Margin:
    """Returns the margin over the control with the highest mean; majority-class chance counts as a control."""
    chance = majority_share(task)
    best = max(controls, key=lambda control: control.mean, default=None)
    name, of_best = ("chance", [chance] * len(task.folds))
    if best is not None and best.mean >= chance:
        name, of_best = best.name, list(best.per_fold)
    differences = np.asarray(learned.per_fold) - np.asarray(of_best)
    std = float(np.std(differences, ddof=1))
    test_over_train = float(np.mean([len(fold.test) / len(fold.train) for fold in task.folds]))
    return Margin(
        control=name,
        mean=float(np.mean(differences)),
        std=std,
        standard_error=std * math.sqrt(1 / len(differences) + test_over_train),
        num_folds_won=int(np.sum(differences > 0)),
        num_folds=len(differences),
    )


def probe_record(
    *, learned: Scores, controls: Sequence[Scores], task: ProbeTask, margin: Margin, about: dict[str, Any]
) -> dict[str, Any]:
    """Returns one run's JSON record.

    Args:
        learned: scores of the checkpoint's features.
        controls: scores on exactly the same folds, views and protocol.
        task: labels, folds and protocol.
        margin: as ``compare`` gives it.
        about: what the task does not know: data, checkpoint, view and version facts.
    """
    protocol = task.protocol
    return {
        "task": "linear_probe",
        "record_version": RECORD_VERSION,
        **about,
        "protocol": asdict(protocol) | {"selection_rule": protocol.selection_rule},
        "scaler": "standard, fitted on the train part" if protocol.standardise else "none",
        "split": {
            "kind": "stratified folds grouped by source video",
            "seeds": sorted({fold.seed for fold in task.folds}),
            "num_folds": len({fold.index for fold in task.folds}),
        },
        "scores": {scores.name: scores.to_json() for scores in (learned, *controls)},
        "chance": {"one_over_classes": 1 / task.num_classes, "majority_share_of_test": majority_share(task)},
        "margin": asdict(margin),
        "verdict": margin.verdict,
    }


def table_rows(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Returns (features, top-1 accuracy, per fold) of a record, in percent, chance last."""
    rows = [
        (
            name,
            f"{100 * scores['top1_accuracy']:.1f} ± {100 * scores['top1_accuracy_std']:.1f}",
            " ".join(f"{100 * accuracy:.1f}" for accuracy in scores["top1_accuracy_per_fold"]),
        )
        for name, scores in record["scores"].items()
    ]
    chance = record["chance"]
    rows.append(("chance: largest class", f"{100 * chance['majority_share_of_test']:.1f}", ""))
    rows.append(("chance: 1 / classes", f"{100 * chance['one_over_classes']:.1f}", ""))
    return rows
