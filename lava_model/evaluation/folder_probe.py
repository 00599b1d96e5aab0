"""The linear probe of a folder of labelled clips, from files to record."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lava_model
from lava_model.device import choose_device
from lava_model.errors import DataError
from lava_model.evaluation.datasets.folder import LabelledClip, LabelledFolder, list_folder, require_split
from lava_model.evaluation.features import (
    ClipFeatures,
    ExtractionSettings,
    Progress,
    extract_features,
    select_features,
)
from lava_model.evaluation.linear_probe import ProbeTask, make_task, probe
from lava_model.evaluation.protocols import Protocol, get_protocol
from lava_model.evaluation.results import Scores, compare, probe_record
from lava_model.evaluation.sources import LEARNED, RANDOM_INIT, TRUNK_ONLY, feature_sources
from lava_model.evaluation.views import ClipViews
from lava_model.modalities import Modality
from lava_model.settings import to_dict
from lava_model.trained import load_model

if TYPE_CHECKING:
    from lava_model.evaluate import LinearProbeOptions

Say = Callable[[str], None]

MODALITIES: dict[str, tuple[Modality, ...]] = {"video": ("video",), "audio+video": ("audio", "video")}


def probe_folder(options: LinearProbeOptions, *, say: Say, on_progress: Progress) -> dict[str, Any]:
    """Probes a checkpoint and its controls on a folder of labelled clips and returns the run's record.

    Args:
        options: as the command line gives them.
        say: takes one line for the person at the terminal.
        on_progress: takes (views done, views in all).

    Raises:
        LavaError: one clear line about a checkpoint, folder or table that cannot be used.
    """
    started = time.monotonic()
    protocol, cache = _protocol(options), _cache_folder(options.cache)
    device = str(choose_device(options.device, option="--device"))
    folder = list_folder(Path(options.data), None if options.groups is None else Path(options.groups))
    for note in folder.notes:
        say(f"note: {note}")
    model, found_at = load_model(Path(options.checkpoint))
    modalities = MODALITIES[options.modalities]
    views = ClipViews(model.config, num_views=protocol.num_views, wants_audio="audio" in modalities)
    sources = feature_sources(model, modalities=modalities, control_seeds=range(options.control_seeds), device=device)
    settings = ExtractionSettings(
        num_views=protocol.num_views,
        reading=views.settings,
        batch_size=options.batch_size,
        num_workers=options.workers,
        device=device,
    )
    features = extract_features(sources, folder.clips, views, settings, cache_folder=cache, on_progress=on_progress)
    clips, undecodable = _decodable(folder, features[LEARNED], views, say)
    task = _task(clips, protocol, options, say)
    learned, controls = _score(features, modalities, task)
    about = {
        "lava_model_version": lava_model.__version__,
        "checkpoint": {"path": str(found_at), "sha256": sources[0].fingerprint, "model": to_dict(model.config)},
        "modalities": options.modalities,
        "backbone_layer": "output of the transformers, before the projection heads",
        "combination": "unit length each, concatenated, zeros without sound" if len(modalities) > 1 else "none",
        "views": {"num_views": protocol.num_views, "aggregation": "mean of logits", **views.settings},
        "data": _data_facts(options, folder, clips, features[LEARNED], heard=views.wants_audio)
        | {"undecodable": undecodable},
        "seconds": round(time.monotonic() - started, 1),
    }
    margin = compare(learned, controls, task)
    return probe_record(learned=learned, controls=controls, task=task, margin=margin, about=about)


def _protocol(options: LinearProbeOptions) -> Protocol:
    protocol = get_protocol(options.protocol)
    return protocol if options.views is None else replace(protocol, num_views=options.views)


def _cache_folder(wanted: str | None) -> Path:
    if wanted is not None:
        return Path(wanted)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lava_model" / "features"


def _decodable(
    folder: LabelledFolder, features: ClipFeatures, views: ClipViews, say: Say
) -> tuple[list[LabelledClip], dict[str, str]]:
    """Returns the clips to probe, and why each of the others gave no frames."""
    pairs = list(zip(folder.clips, features.is_decodable, strict=True))
    kept = [clip for clip, is_decodable in pairs if is_decodable]
    lost = {clip.name: views.why_undecodable(clip) for clip, is_decodable in pairs if not is_decodable}
    if not kept:
        raise DataError(f"none of the {len(lost)} clips decodes, the first because: {next(iter(lost.values()))}")
    if lost:
        say(f"note: {len(lost)} of {len(pairs)} clips do not decode and are left out of train and test:")
        for reason in lost.values():
            say(f"  {reason}")
    require_split(kept, "what decodes")
    return kept, lost


def _task(clips: Sequence[LabelledClip], protocol: Protocol, options: LinearProbeOptions, say: Say) -> ProbeTask:
    labels, groups = [clip.label for clip in clips], [clip.group for clip in clips]
    task = make_task(labels, groups, protocol=protocol, num_folds=options.folds, seeds=range(options.seeds))
    num_folds = len(task.folds) // options.seeds
    if num_folds < options.folds:
        say(f"note: {num_folds} folds instead of {options.folds}: a class has clips of {num_folds} source videos only")
    return task


def _score(
    features: Mapping[str, ClipFeatures], modalities: Sequence[Modality], task: ProbeTask
) -> tuple[Scores, list[Scores]]:
    """Probes learned features and controls on the same folds."""

    def scores(name: str, source_names: Sequence[str], parts: Sequence[str]) -> Scores:
        runs = (probe(select_features(features[source], parts), task) for source in source_names)
        return Scores(name=name, runs=tuple(runs))

    untrained = [name for name in features if name.startswith(RANDOM_INIT)]
    controls = [scores(TRUNK_ONLY, [TRUNK_ONLY], ["video"]), scores(RANDOM_INIT, untrained, modalities)]
    if "audio" in modalities:
        # Zeros tell which clips have sound at all; what that alone is worth must not count as hearing.
        controls.append(scores("has_audio_bit", [LEARNED], ["video", "has_audio"]))
    return scores(LEARNED, [LEARNED], modalities), controls


def _data_facts(
    options: LinearProbeOptions,
    folder: LabelledFolder,
    clips: Sequence[LabelledClip],
    features: ClipFeatures,
    *,
    heard: bool,
) -> dict[str, Any]:
    return {
        "folder": options.data,
        "groups_file": options.groups,
        "grouping": dict(folder.grouping),
        "num_listed": len(folder.clips),
        "num_probed": len(clips),
        "num_groups": len({clip.group for clip in clips}),
        # Where video alone is probed nobody listened: that is not silence.
        "num_with_sound": int(features.has_audio[features.is_decodable].any(axis=1).sum()) if heard else None,
        "classes": dict(sorted(Counter(clip.label for clip in clips).items())),
        "notes": list(folder.notes),
    }
