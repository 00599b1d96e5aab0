"""The linear classifiers of the protocols, behind one function: rows in, logits out.

Axes: R rows (one view of one video each), D width, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from lava_model.evaluation.protocols import Protocol

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
_Rows = Callable[[FloatArray], npt.NDArray[np.float64]]

_MAX_ITERATIONS = 2000


@dataclass(frozen=True, slots=True)
class FittedClassifier:
    """A fitted classifier.

    Attributes:
        logits: float32 (R, D) rows to float64 (R, K) logits, for any R above 0.
        converged: the solver reached its tolerance; always True where there is no tolerance.
    """

    logits: _Rows
    converged: bool


def fit_classifier(
    protocol: Protocol, rows_RD: FloatArray, labels_R: IntArray, *, num_classes: int, c: float, seed: int
) -> FittedClassifier:
    """Fits the protocol's scaler and classifier.

    Args:
        protocol: which classifier, and whether features are standardised.
        rows_RD: float32 features.
        labels_R: int64 in 0..num_classes-1; a class without a row gets logits of minus infinity.
        num_classes: columns of the logits.
        c: inverse regularisation strength; not used by adam_linear.
        seed: of the order of rows (adam_linear) and of the solver's draws (linear_svm).
    """
    scale = StandardScaler().fit(rows_RD).transform if protocol.standardise else _unchanged
    if protocol.classifier == "adam_linear":
        decide, classes, converged = _fit_adam(protocol, scale(rows_RD), labels_R, num_classes, seed)
    else:
        decide, classes, converged = _fit_sklearn(protocol, scale(rows_RD), labels_R, c, seed)

    def logits(rows: FloatArray) -> npt.NDArray[np.float64]:
        decisions = decide(scale(rows))
        if decisions.ndim == 1:  # scikit-learn gives the difference of the two logits
            decisions = np.stack([-decisions / 2, decisions / 2], axis=1)
        spread = np.full((len(rows), num_classes), -np.inf)
        spread[:, classes] = decisions
        return spread

    return FittedClassifier(logits, converged)


def _unchanged(rows: FloatArray) -> FloatArray:
    return rows


def _fit_sklearn(
    protocol: Protocol, rows: FloatArray, labels: IntArray, c: float, seed: int
) -> tuple[_Rows, IntArray, bool]:
    if protocol.classifier == "linear_svm":
        model = LinearSVC(C=c, max_iter=_MAX_ITERATIONS, random_state=seed)
    else:
        model = LogisticRegression(C=c, max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(rows, labels)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return model.decision_function, model.classes_, converged


def _fit_adam(
    protocol: Protocol, rows: FloatArray, labels: IntArray, num_classes: int, seed: int
) -> tuple[_Rows, IntArray, bool]:
    generator = torch.Generator().manual_seed(seed)
    rows_RD, labels_R = torch.as_tensor(rows, dtype=torch.float32), torch.from_numpy(labels)
    layer = torch.nn.Linear(rows_RD.shape[1], num_classes)
    # From zero: the problem is convex, and at 1e-4 a short run on few videos would mostly show its initial weights.
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimiser = torch.optim.Adam(layer.parameters(), lr=protocol.learning_rate)
    for _ in range(protocol.num_epochs):
        order = torch.randperm(len(rows_RD), generator=generator)
        for start in range(0, len(order), protocol.batch_size):
            chosen = order[start : start + protocol.batch_size]
            optimiser.zero_grad()
            torch.autograd.backward(torch.nn.functional.cross_entropy(layer(rows_RD[chosen]), labels_R[chosen]))
            optimiser.step()

    def decide(rows: FloatArray) -> npt.NDArray[np.float64]:
        with torch.no_grad():
            logits: npt.NDArray[np.float64] = layer(torch.as_tensor(rows, dtype=torch.float32)).double().numpy()
        return logits

    return decide, np.arange(num_classes), True
