"""What is known of how a model was made: read from its run folder, kept in the export, told by the model card.

Nothing here is a guess: what a run did not record stays None, and the card says that it is not known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k700_text.files.journal import json_lines
from lava_model.settings import flatten

if TYPE_CHECKING:
    from lava_model.config import PretrainConfig
    from lava_model.data import TrainingData

Number = float | int | None

_TOLD_GROUPS = ("loss.", "optim.")
_TOLD_SETTINGS = (
    "data.batch_size",
    "data.micro_batch",
    "data.accumulate",
    "data.synthetic",
    "data.synthetic_samples",
    "run.epochs",
    "run.max_steps",
    "run.seed",
    "run.precision",
)
"""Settings that shaped the weights. Paths are left out: they say nothing to others and may say too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How many of the training clips carry what, by their manifest."""

    num_clips: int
    """Clips trained on."""
    num_audio: int
    """Clips known to have sound."""
    num_audio_unknown: int
    """Clips whose sound was never measured."""
    num_text: int
    """Clips with a title."""
    num_all: int
    """Clips with a title that are known to have frames and sound."""
    title_sources: Mapping[str, int]
    """Titles by the source they came from, most first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of how a model was made; None: not known."""

    settings: Mapping[str, Any] | None = None
    """Settings of the run that shaped the weights, by dotted name."""
    steps: int | None = None
    """Optimiser steps done."""
    lengths: str | None = None
    """Where the number of steps was changed on the way: how, in words."""
    begun_with: str | None = None
    """What the first weights were, where they were not drawn from the seed, in words."""
    world_size: int | None = None
    """Processes that trained together."""
    device: str | None = None
    """What the last start trained on."""
    commits: tuple[str, ...] | None = None
    """Commits of the code, one for each that a part of the run was made with."""
    versions: Mapping[str, str] | None = None
    """Versions of the packages, at the last start."""
    data: Mapping[str, str] | None = None
    """What the data are, by content."""
    coverage: Coverage | None = None
    """How many of the training clips carry what."""
    heldout_step: int | None = None
    """Step of the last held-out evaluation."""
    heldout: Mapping[str, Number] | None = None
    """Its numbers."""
    repo_id: str | None = None
    """Where the Hub has it."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the facts as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> ModelFacts:
        """Returns facts as ``to_dict`` gave them; what another version added, or what does not fit, is left out."""
        values = values if isinstance(values, dict) else {}
        known = {field.name: values[field.name] for field in fields(cls) if values.get(field.name) is not None}
        expected = {
            "steps": int,
            "world_size": int,
            "heldout_step": int,
            "commits": list,
            "device": str,
            "repo_id": str,
            "lengths": str,
            "begun_with": str,
        }
        known = {name: value for name, value in known.items() if isinstance(value, expected.get(name, dict))}
        if "commits" in known:
            known["commits"] = tuple(map(str, known["commits"]))
        if "heldout" in known:
            known["heldout"] = {name: value for name, value in known["heldout"].items() if _is_number(value)}
        if "coverage" in known:
            known["coverage"] = _coverage_from_dict(known["coverage"])
        return cls(**known)


def coverage_of(data: TrainingData, config: PretrainConfig) -> Coverage | None:
    """Returns how many of the clips that a run trains on carry what; None where no manifest tells.

    Raises:
        ManifestError: the manifest cannot be read.
    """
    clip_ids = getattr(data.train, "clip_ids", None)
    if config.data.manifest is None or clip_ids is None:
        return None
    import pyarrow as pa
    import pyarrow.compute as pc

    from k700_text.manifest_files import read_manifests

    columns = ["clip_id", "has_video", "has_audio", "has_text", "title_source"]
    # What a manifest that people cut down does not say is told as "not recorded", or as not known.
    table = read_manifests([config.data.manifest], columns, optional=set(columns) - {"clip_id", "has_text"})
    table = table.filter(pc.is_in(table["clip_id"], value_set=pa.array(clip_ids, table["clip_id"].type)))
    with_text = table.filter(table["has_text"])
    known_all = pc.and_(pc.fill_null(with_text["has_video"], False), pc.fill_null(with_text["has_audio"], False))
    counted = {
        str(entry["values"].as_py() or "not recorded"): entry["counts"].as_py()
        for entry in pc.value_counts(with_text["title_source"].combine_chunks())
    }
    return Coverage(
        num_clips=len(table),
        num_audio=pc.sum(table["has_audio"]).as_py() or 0,
        num_audio_unknown=table["has_audio"].null_count,
        num_text=len(with_text),
        num_all=pc.sum(known_all).as_py() or 0,
        title_sources=dict(sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))),
    )


def facts_of_run(run: Path, *, step: int) -> ModelFacts:
    """Returns what a run folder says about the model it had after a step; files that are not there say nothing.

    Args:
        run: the folder, with config.json, starts.jsonl and log.jsonl.
        step: of the checkpoint that is exported; what was measured later is another model.
    """
    starts = _json_lines(run / "starts.jsonl")
    last = starts[-1] if starts else {}
    measured = [
        line
        for line in _json_lines(run / "log.jsonl")
        if line.get("kind") == "val" and isinstance(line.get("step"), int) and line["step"] <= step
    ]
    heldout = measured[-1] if measured else {}
    return ModelFacts.from_dict(
        {
            "settings": told_settings(_json_object(run / "config.json")),
            "steps": step,
            "lengths": _lengths(starts),
            "begun_with": "weights of another model" if any(start.get("begun_with") for start in starts) else None,
            "world_size": last.get("world_size"),
            "device": last.get("device"),
            "commits": list(dict.fromkeys(_commit(start) for start in starts if start.get("git_commit"))) or None,
            "versions": last.get("versions"),
            "data": last.get("data"),
            "coverage": last.get("coverage"),
            "heldout_step": heldout.get("step"),
            "heldout": {name: value for name, value in heldout.items() if name not in ("kind", "step")} or None,
        }
    )


def _lengths(starts: Sequence[Mapping[str, Any]]) -> str | None:
    changes = [
        f"from {start['length_before']} to {start.get('total_steps')} at step {start.get('resumed_from')}"
        for start in starts
        if start.get("length_before") is not None
    ]
    return ", then ".join(dict.fromkeys(changes)) or None


def told_settings(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns those settings of a run, nested dictionaries, that shaped its weights; None if there are none."""
    flat = flatten(config)
    return {name: flat[name] for name in flat if name.startswith(_TOLD_GROUPS) or name in _TOLD_SETTINGS} or None


def _commit(start: Mapping[str, Any]) -> str:
    return f"{start['git_commit']}{' and local changes' if start.get('git_dirty') else ''}"


def _coverage_from_dict(values: Mapping[str, Any]) -> Coverage | None:
    values = {"title_sources": {}, **values}
    counts = {**values, **values["title_sources"], "title_sources": 0}
    fits = values.keys() == {field.name for field in fields(Coverage)} and all(map(_is_number, counts.values()))
    return Coverage(**values) if fits else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a JSON-lines file; a line that a kill cut short says nothing."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        return [line for _, line in json_lines(file) if line is not None]
