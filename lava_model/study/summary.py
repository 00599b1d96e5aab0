"""Results over seeds as numbers: mean and spread, and differences to the reference with seeds as pairs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.special import stdtrit

from lava_model.modalities import RETRIEVALS

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Results of runs by variant, one a seed, the same seeds for all."""

_Measure = Callable[[Mapping[str, Any]], float | None]

PAIRS = {name: f"{name.removeprefix('avt_').upper()}, {space} space" for name, (space, *_) in RETRIEVALS.items()}
"""The retrievals by name, and what tables call them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A number over seeds.

    Attributes:
        mean: over them.
        std: standard deviation (n - 1); None of one.
        num: seeds.
    """

    mean: float
    std: float | None
    num: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Returns mean and deviation of one value or more."""
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(mean=statistics.fmean(values), std=std, num=len(values))

    @property
    def is_clear(self) -> bool:
        """As a difference: zero is outside its 95 % interval by Student's t. Of one seed nothing is clear."""
        if self.std is None:
            return False
        return bool(abs(self.mean) > stdtrit(self.num - 1, 0.975) * self.std / math.sqrt(self.num))


def _retrieval(name: str, measure: str) -> _Measure:
    def read(result: Mapping[str, Any]) -> float | None:
        found = result["retrieval"].get(name)
        return None if found is None else float(found[measure])

    return read


def _within_video(name: str) -> _Measure:
    def read(result: Mapping[str, Any]) -> float | None:
        found = result["retrieval"].get(name, {}).get("within_video")
        return None if found is None else float(found["recall_at_1"])

    return read


def _mean(measure: str) -> _Measure:
    """Mean over AV, VT and AT, the first two in their own spaces if these are trained, else in avt."""

    def read(result: Mapping[str, Any]) -> float | None:
        found = result["retrieval"]
        pairs = [found.get("av", found.get("avt_av")), found.get("vt", found.get("avt_vt")), found.get("avt_at")]
        values = [float(pair[measure]) for pair in pairs if pair is not None]
        return statistics.fmean(values) if len(values) == len(pairs) else None

    return read


def _probe(result: Mapping[str, Any]) -> float | None:
    return None if result["probe"] is None else float(result["probe"]["top1_accuracy"])


MEASURES: dict[str, _Measure] = {
    "mean_recall_at_1": _mean("recall_at_1"),
    "mean_recall_at_5": _mean("recall_at_5"),
    **{
        f"{name}_{measure}": _retrieval(name, measure)
        for measure in ("recall_at_1", "recall_at_5", "mean_rank")
        for name in PAIRS
    },
    **{f"{name}_within_video_recall_at_1": _within_video(name) for name in PAIRS},
    "probe_top1": _probe,
    "train_seconds": lambda result: result["train_seconds"],
}
"""What is told of each run, by name; None where it was not measured or not trained."""


def summarise(results: Results, reference: str) -> dict[str, Any]:
    """Returns for each variant the spread of each measure and of its paired difference to the reference.

    A measure that a variant does not train is left out of it; without the reference there are no differences.
    """
    return {
        name: {
            "measures": {key: asdict(Spread.of(values)) for key in MEASURES if (values := _values(runs, key))},
            "differences": {} if name == reference else _differences(runs, results.get(reference, ())),
        }
        for name, runs in results.items()
    }


def _values(runs: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [value for run in runs if (value := MEASURES[key](run)) is not None]


def _differences(runs: Sequence[Mapping[str, Any]], of_reference: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = {}
    for key, measure in MEASURES.items():
        pairs = [(measure(run), measure(other)) for run, other in zip(runs, of_reference, strict=False)]
        if differences := [own - other for own, other in pairs if own is not None and other is not None]:
            spread = Spread.of(differences)
            num_above = sum(difference > 0 for difference in differences)
            found[key] = {**asdict(spread), "num_above": num_above, "is_clear": spread.is_clear}
    return found
