"""Settings of samples hold what their types say: kind, choice, range."""

from __future__ import annotations

import math
from typing import Any

import pytest

from k700_text.checks import field_hints
from k700_text.config import AudioConfig, TextConfig, VideoConfig
from k700_text.errors import ConfigError

NUMBERS = [
    (kind, name)
    for kind in (VideoConfig, AudioConfig, TextConfig)
    for name, hint in field_hints(kind).items()
    if hint.__origin__ in (int, float)
]


def problems_of(kind: type, **values: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as failure:
        kind(**values)
    return failure.value.problems


@pytest.mark.parametrize(("kind", "name"), NUMBERS, ids=lambda it: getattr(it, "__name__", it))
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, True, "8", None])
def test_a_number_is_finite_in_range_and_no_bool(kind: type, name: str, value: Any) -> None:
    (problem,) = problems_of(kind, **{name: value})
    assert problem.startswith((f"{name} must be ", f"{name} cannot be ")) and str(value) in problem


def test_choices_are_refused_with_the_nearest_and_all_faults_together() -> None:
    found = problems_of(VideoConfig, pixel_format="rgb", num_frames=0, horizontal_flip=2)
    assert found == (
        "num_frames must be above 0 and finite, got 0",
        "horizontal_flip must be in 0..1, got 2",
        "pixel_format cannot be 'rgb': use rgb24, yuv420p (did you mean 'rgb24'?)",
    )
    assert problems_of(AudioConfig, window="align") == (
        "window cannot be 'align': use aligned, clip (did you mean 'aligned'?)",
    )
    assert problems_of(TextConfig, max_length=2) == ("max_length must be at least 3, for bos, one token, eos, got 2",)
    (shown,) = problems_of(AudioConfig, window="\x1b[31m" + "x" * 5000)
    assert "\x1b" not in shown and len(shown) < 200
