"""Configurations as plain dictionaries, from files and from dotted options; unknown keys are refused."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from k700_text.checks import faults, faults_of, field_hints
from lava_model.config import Settings, odds_of, unchecked
from lava_model.errors import ConfigError, MissingExtraError
from lava_model.files import located

ConfigT = TypeVar("ConfigT")


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a configuration as nested dictionaries of JSON values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in _walk(asdict(config))}


def _walk(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, dict(_walk(value)) if isinstance(value, dict) else value) for name, value in values.items()]


def at_home(config: ConfigT) -> ConfigT:
    """Returns a configuration whose paths have a ``~`` in front spelled out, which a shell does not in ``--a=~/b``."""
    assert is_dataclass(config)
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    spelled = {
        name: at_home(value) if is_dataclass(value) else str(located(value))
        for name, value in values.items()
        if is_dataclass(value) or (isinstance(value, str) and value.startswith("~"))
    }
    whole: Any = config
    changed: ConfigT = replace(whole, **spelled)
    return changed


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested dictionaries as one with dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return flat


def from_dict(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Returns a configuration of nested dictionaries; keys that are left out keep their default.

    Raises:
        ConfigError: an unknown key (with the nearest name), a value of another type or out of range.
    """
    problems: list[str] = []
    with unchecked():
        config: ConfigT = _build(cls, values, "", problems)
    if problems := problems + (odds_of(config) if isinstance(config, Settings) else []):
        raise ConfigError(problems)
    return config


def from_file(base: ConfigT, path: Path) -> ConfigT:
    """Returns a configuration with the settings of a file; what it leaves out stays as in ``base``.

    Args:
        base: what the file changes.
        path: TOML or JSON, told apart by its content, with the groups as tables or objects; or a run folder, whose
            config.json it is.

    Raises:
        ConfigError: the file cannot be read or parsed (with the line), or its settings do not fit.
    """
    path = path / "config.json" if path.is_dir() else path
    values = _values(path)
    try:
        return from_dict(type(base), _merged(to_dict(base), values))
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from error


def names_in(path: Path) -> frozenset[str]:
    """Returns the dotted names of the settings that a file as ``from_file`` takes it holds.

    Raises:
        ConfigError: it cannot be read or parsed.
    """
    return frozenset(flatten(_values(path / "config.json" if path.is_dir() else path)))


def _values(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8-sig")
        # A JSON object starts with a brace, and no TOML document does.
        if text.lstrip().startswith("{"):
            values: dict[str, Any] = json.loads(text, object_pairs_hook=_without_doubles)
            return values
        return tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror or error}") from error
    # Of JSON, of TOML, bytes that are no text, brackets without end; a parser's message names line and column.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--config {path} is no TOML or JSON: {error}") from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return values


def _merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        name: _merged(base[name], value)
        if isinstance(value, Mapping) and isinstance(base.get(name), Mapping)
        else value
        for name, value in values.items()
    }
    return {**base, **both}


def _build(cls: Any, values: Mapping[str, Any], prefix: str, problems: list[str]) -> Any:
    hints = field_hints(cls)
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            problems.append(_unknown(prefix + name, [prefix + known for known in hints]))
        elif is_dataclass(hints[name]) and isinstance(value, Mapping):
            arguments[name] = _build(hints[name], value, f"{prefix}{name}.", problems)
        else:
            found = faults(prefix + name, value, hints[name])
            problems += found
            arguments[name] = value if found else _cast(value, hints[name])
    return cls(**arguments)


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"unknown setting {name}: did you mean {near[0]}?" if near else f"unknown setting {name}"


def _cast(value: Any, hint: Any) -> Any:
    if get_origin(hint) is Annotated:
        return _cast(value, get_args(hint)[0])
    if get_origin(hint) is tuple:
        return tuple(value)
    return float(value) if hint is float else value


def override(config: ConfigT, options: Sequence[str], *, program: str, also_known: Sequence[str] = ()) -> ConfigT:
    """Returns the configuration with dotted options applied (``--optim.lr 1e-4``), and ``~`` in paths spelled out.

    Args:
        config: what the options change.
        options: words of the command line.
        program: its name, for the help.
        also_known: options of the program that are no settings; an unknown option may be meant for one of them.

    Raises:
        ConfigError: an unknown option (with the nearest name) or a value that does not fit.
        MissingExtraError: tyro is not installed.
        SystemExit: ``--help`` was asked for; it is printed.
    """
    try:
        import tyro
    except ImportError as error:
        raise MissingExtraError("reading options needs tyro: pip install 'k700-text[train]'") from error
    _refuse_unknown(options, [f"--{name.replace('_', '-')}" for name in flatten(to_dict(config))], also_known)
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages), unchecked():
            changed = tyro.cli(type(config), default=config, args=list(options), prog=program)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(_one_line(messages.getvalue())) from stop
    if isinstance(changed, Settings) and (problems := faults_of(changed) + odds_of(changed)):
        has_groups = any(map(is_dataclass, field_hints(type(changed)).values()))
        raise ConfigError(problems if has_groups else [_as_option(problem) for problem in problems])
    return at_home(changed)


def _as_option(problem: str) -> str:
    name, _, rest = problem.partition(" ")
    return f"--{name.replace('_', '-')} {rest}"


def _refuse_unknown(options: Sequence[str], known: Sequence[str], also_known: Sequence[str]) -> None:
    problems = []
    for option in options:
        name = option.split("=")[0].replace("_", "-")
        if name.startswith("--") and name != "--help" and name.replace(".no-", ".") not in known:
            problems.append(f"unknown option {name}: did you mean {_nearest(name, [*also_known, *known])}?")
    if problems:
        raise ConfigError(problems)


def _nearest(name: str, known: Sequence[str]) -> str:
    """Returns the option most like a name; an undotted name is held against the last part of dotted ones too."""

    def likeness(option: str) -> float:
        whole = difflib.SequenceMatcher(None, name, option).ratio()
        if "." in name:
            return whole
        return max(whole, difflib.SequenceMatcher(None, name, f"--{option.split('.')[-1]}").ratio() - 1e-6)

    return max(known, key=likeness)


def _one_line(box: str) -> str:
    """Returns the message of the frame that tyro draws around it, without the help that follows."""
    words = []
    for line in box.splitlines()[1:]:
        text = line.strip("│╭╮╰╯─ \t")
        if not text:
            break
        words.append(text)
    return " ".join(words) or "options that do not fit: see --help"
