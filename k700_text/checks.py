"""What the fields of a settings class may hold, read from their types: one check for all of them.

A type says the kind (``int``, ``str``), the choices (``Literal``) and, by ``Annotated``, the range::

    width: Count = 1024
    schedule: Literal["cosine", "constant"] = "cosine"
    max_steps: Count | None = None

Every fault is told, not the first alone.
"""

from __future__ import annotations

import difflib
import functools
import math
import numbers
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

_MOST_SHOWN = 80


class Within(NamedTuple):
    """A range, in words and as a test; NaN is in none."""

    words: str
    holds: Callable[[float], bool]


def at_least(limit: int, why: str = "") -> Within:
    """Returns the range of finite numbers from ``limit`` on; ``why`` goes on in the message."""
    return Within(f"at least {limit}{why and f', {why}'}", lambda value: limit <= value < math.inf)


def at_most(limit: int) -> Within:
    """Returns the range up to ``limit``."""
    return Within(f"at most {limit:,}", lambda value: value <= limit)


def below(limit: int) -> Within:
    """Returns the range below ``limit``."""
    return Within(f"below {limit}", lambda value: value < limit)


@dataclass(frozen=True, slots=True)
class Spelled:
    """Text that a pattern matches as a whole; in words for the message, which names the nearest of the ``usual``."""

    words: str
    pattern: str
    usual: tuple[str, ...] = ()


_POSITIVE = Within("above 0 and finite", lambda value: 0 < value < math.inf)
_NOT_NEGATIVE = Within("finite and not below 0", lambda value: 0 <= value < math.inf)

Count = Annotated[int, _POSITIVE]
CountOrNone = Annotated[int, _NOT_NEGATIVE]
"""Of which there may be none: 0."""
Positive = Annotated[float, _POSITIVE]
NotNegative = Annotated[float, _NOT_NEGATIVE]
Text = Annotated[str, Spelled("some text, it is empty", r"(?s).+")]
Share = Annotated[float, Within("in 0..1", lambda value: 0 <= value <= 1)]
ShareBelowOne = Annotated[float, Within("in 0..1 and below 1", lambda value: 0 <= value < 1)]


def faults_of(settings: Any, prefix: str = "") -> list[str]:
    """Returns why fields of a settings object, and of those it holds, are not what their types say, in order.

    Args:
        settings: an instance of a dataclass.
        prefix: what to put before the fields' names.
    """
    hints = field_hints(type(settings))
    return [
        fault
        for field in fields(settings)
        for fault in faults(prefix + field.name, getattr(settings, field.name), hints[field.name])
    ]


def field_hints(cls: Callable[..., Any]) -> dict[str, Any]:
    """Returns the types of a class's fields, ranges included."""
    return _hints(cls)


@functools.cache
def _hints(cls: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def faults(name: str, value: Any, hint: Any) -> list[str]:
    """Returns why a value is not what a type says; nothing where it is."""
    origin, options = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        is_own = hint in type(value).__mro__
        return faults_of(value, f"{name}.") if is_own else [_no_kind(name, value)]
    if origin is Annotated:
        return faults(name, value, options[0]) or _outside(name, value, options[1:])
    if origin is Literal:
        is_known = any(value == option and type(value) is type(option) for option in options)
        return [] if is_known else [_no_choice(name, value, options)]
    if origin in (Union, types.UnionType):
        tried = [faults(name, value, option) for option in options]
        return [] if [] in tried else tried[0]
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(options):
            return [_no_kind(name, value)]
        entries = zip(value, options, strict=True)
        return [fault for entry, option in entries for fault in faults(name, entry, option)]
    return [] if _is_kind(value, hint) else [_no_kind(name, value)]


def _outside(name: str, value: Any, ranges: Sequence[Within | Spelled]) -> list[str]:
    for allowed in ranges:
        if isinstance(allowed, Within):
            if not allowed.holds(value):
                return [f"{name} must be {allowed.words}, got {_cut(str(value))}"]
        elif not re.fullmatch(allowed.pattern, value):
            return [f"{_no_kind(name, value)}: use {allowed.words}{_nearest(value, allowed.usual)}"]
    return []


def _is_kind(value: Any, kind: Any) -> bool:
    if kind not in (int, float):
        return isinstance(value, kind)
    # numpy's numbers are registered there; a bool is a number that no setting means.
    wanted: type[Any] = numbers.Integral if kind is int else numbers.Real
    return not isinstance(value, bool) and isinstance(value, wanted) and (kind is int or _is_float(value))


def _is_float(value: Any) -> bool:
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _no_kind(name: str, value: Any) -> str:
    return f"{name} cannot be {_shown(value)}"


def _no_choice(name: str, value: Any, choices: tuple[Any, ...]) -> str:
    return f"{_no_kind(name, value)}: use {', '.join(map(str, choices))}{_nearest(value, choices)}"


def _nearest(value: Any, choices: Sequence[Any]) -> str:
    texts = [choice for choice in choices if isinstance(choice, str)]
    near = difflib.get_close_matches(value, texts, n=1, cutoff=0.0) if isinstance(value, str) and value else []
    return f" (did you mean {near[0]!r}?)" if near else ""


def _shown(value: Any) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
