"""The runs of a study: each through the Trainer in a folder of its own, none done twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lava_model.config import PretrainConfig
from lava_model.data import TrainingData, open_data
from lava_model.device import choose_device
from lava_model.errors import ConfigError, DataError
from lava_model.evaluation.datasets.folder import LabelledClip, list_folder
from lava_model.evaluation.features import weights_fingerprint
from lava_model.evaluation.linear_probe import make_task
from lava_model.evaluation.protocols import Protocol, get_protocol
from lava_model.evaluation.views import ClipViews
from lava_model.files import write_json
from lava_model.model import Lava
from lava_model.run_folder import held
from lava_model.settings import flatten, to_dict
from lava_model.study.scoring import Probing, held_out, probe_controls, probe_learned
from lava_model.study.variants import Variant
from lava_model.study.views import CachedViews, cache_views
from lava_model.trainer import Trainer

RESULT_FILE = "result.json"
NUM_FOLDS = 5

Say = Callable[[str], None]
_READING: tuple[str, ...] = (
    *("num_frames", "frame_size", "frame_rate", "short_side", "pixel_format", "trunk_stage", "video_grid"),
    *("num_mels", "num_mel_frames", "vocab_size", "max_text_length"),
)
"""Settings of the model that determine a cached view, beside the trunk's weights."""


class StoppedError(Exception):
    """A signal asked to stop; the run's checkpoint is saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyData:
    """What all runs of a study share.

    Attributes:
        training: cached training and held-out views.
        held_out: the latter again, all of them.
        probing: labelled clips, if any.
    """

    training: TrainingData
    held_out: CachedViews
    probing: Probing | None


def open_study_data(
    config: PretrainConfig, folder: Path, *, num_views: int, probe: Path | None, groups: Path | None, say: Say
) -> StudyData:
    """Returns the data of a study as cached views, which are made first where they are not there yet.

    Args:
        config: the base configuration; its seed is that of the augmentation.
        folder: to keep the views in.
        num_views: augmented views of each training clip.
        probe: folder of labelled clips.
        groups: table of their source videos; None: file names tell.
        say: takes a line of progress.

    Raises:
        ConfigError: there are no held-out clips.
        DataError: data that are missing or damaged.
        K700TextError: a file cannot be read.
    """
    raw = open_data(config)
    if raw.val is None:
        raise ConfigError("a study ranks by held-out clips: pass --val-manifest (or --synthetic)")
    for note in raw.notes:
        say(f"note: {note}")
    model = Lava(config.model).to(choose_device(config.run.device)).eval()
    trunk = model.video_encoder.trunk
    reading = {name: value for name, value in to_dict(config.model).items() if name in _READING}
    key = {"reading": reading, "trunk": weights_fingerprint(trunk, {})}
    of_train = {name: value for name, value in raw.fingerprint.items() if not name.startswith("val_")}
    of_val = {name: value for name, value in raw.fingerprint.items() if name not in ("manifest", "clips")}

    def cached(name: str, reader: Any, num_clips: int, num_views: int, **more: Any) -> CachedViews:
        return cache_views(
            folder / name,
            reader,
            model,
            num_clips=num_clips,
            num_views=num_views,
            key={**key, **more},
            num_workers=config.data.num_workers,
            say=say,
        )

    train = cached("train", raw.train, len(raw.train), num_views, data=of_train, seed=config.run.seed)
    val = cached("val", raw.val, len(raw.val), 1, data=of_val)
    if raw.failures:
        say(f"note: {len(raw.failures)} training clips did not decode and take part without the stream that failed")
    return StudyData(
        training=replace(
            raw, train=train, val=val, fingerprint={**raw.fingerprint, "views": f"{num_views}, seed {config.run.seed}"}
        ),
        held_out=val,
        probing=None if probe is None else _probing(config, cached, probe, groups, say),
    )


def _probing(
    config: PretrainConfig, cached: Callable[..., CachedViews], folder: Path, groups: Path | None, say: Say
) -> Probing:
    listed = list_folder(folder, groups)
    for note in listed.notes:
        say(f"note: {note}")
    protocol = get_protocol("logistic")
    reader = _LabelledViews(config, listed.clips, protocol)
    clips = [[clip.name, clip.path.stat().st_size] for clip in listed.clips]
    views = cached("probe", reader, len(listed.clips), protocol.num_views, clips=clips)
    keep = views.decodable()
    if not all(keep):
        say(f"note: {keep.count(False)} labelled clips do not decode and are left out")
    kept = [clip for clip, is_kept in zip(listed.clips, keep, strict=True) if is_kept]
    labels, sources = [clip.label for clip in kept], [clip.group for clip in kept]
    return Probing(views=views, task=make_task(labels, sources, protocol=protocol, num_folds=NUM_FOLDS, seeds=range(1)))


class _LabelledViews:
    """Views of labelled clips by (view, clip)."""

    def __init__(self, config: PretrainConfig, clips: tuple[LabelledClip, ...], protocol: Protocol) -> None:
        self._clips = clips
        self._read = ClipViews(config.model, num_views=protocol.num_views, wants_audio=False)

    def __getitem__(self, address: tuple[int, int]) -> Any:
        view, index = address
        return self._read(self._clips[index], view)


def run_all(
    variants: list[Variant], seeds: range, data: StudyData, folder: Path, *, say: Say
) -> dict[str, list[dict[str, Any]]]:
    """Returns the results by variant, one a seed; runs that are finished are read, not repeated.

    Seed by seed, so that a study that is stopped early still compares all variants.

    Raises:
        DataError: a folder holds a result of other settings or data.
        StoppedError: a signal asked to stop.
        LavaError: what the Trainer raises.
    """
    results: dict[str, list[dict[str, Any]]] = {variant.name: [] for variant in variants}
    total = len(seeds) * len(variants)
    number = 0
    for seed in seeds:
        for variant in variants:
            number += 1
            out = folder / variant.name / f"seed-{seed}"
            config = replace(variant.config, run=replace(variant.config.run, seed=seed, out=str(out)))
            with held(out):
                result = _finished(out, config, data)
                state = "was finished before"
                if result is None:
                    result = _run(config, data)
                    write_json(out / RESULT_FILE, result)
                    state = "finished"
            say(f"run {number}/{total}  {variant.name}, seed {seed}: {_brief(result)}  {state}")
            results[variant.name].append(result)
    return results


def _run(config: PretrainConfig, data: StudyData) -> dict[str, Any]:
    device = choose_device(config.run.device)
    trainer = Trainer(config, data.training, device=device)
    ended = trainer.run()
    if not ended.finished:
        raise StoppedError(ended.stopped_by)
    in_one_go = ended.resumed_from is None and ended.samples_per_second
    num_samples = ended.step * config.data.batch_size * config.data.accumulate
    return {
        **_identity(config, data),
        "steps": ended.step,
        "train_seconds": num_samples / ended.samples_per_second if in_one_go else None,
        "retrieval": held_out(trainer.evaluated, data.held_out, config.loss.weights),
        "probe": None if data.probing is None else probe_learned(trainer.evaluated, data.probing),
    }


def _identity(config: PretrainConfig, data: StudyData) -> dict[str, Any]:
    """What a result is of: all settings but those of bookkeeping, and the data."""
    settings = flatten(to_dict(config))
    bookkeeping = (
        *("run.out", "run.device", "run.log_every", "run.checkpoint_every", "run.keep_checkpoints"),
        "run.init_from",  # which no study takes
    )
    return {
        "settings": {name: value for name, value in settings.items() if name not in bookkeeping},
        "data": data.training.fingerprint,
        "probed_clips": None if data.probing is None else len(data.probing.task.labels),
    }


def _finished(out: Path, config: PretrainConfig, data: StudyData) -> dict[str, Any] | None:
    path = out / RESULT_FILE
    if not path.is_file():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text("utf-8"))
        other = [name for name, value in _identity(config, data).items() if result[name] != value]
        has_controls = all("within_video" in found for found in result["retrieval"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read as a result: remove it to train that run anew") from error
    if other:
        raise DataError(f"{path} is the result of other {', '.join(other)}: use another --out")
    # Earlier versions kept no controls of retrieval: the checkpoint, asked again, gives the same numbers and these.
    return result if has_controls else None


def _brief(result: Mapping[str, Any]) -> str:
    parts = [f"{name} {100 * value['recall_at_1']:.1f} %" for name, value in result["retrieval"].items()]
    probed = result["probe"]
    return "R@1 " + ", ".join(parts) + (f"; probe {100 * probed['top1_accuracy']:.1f} %" if probed else "")


def controls(config: PretrainConfig, data: StudyData, seeds: range, folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the probe's controls, made once and kept in the folder."""
    if data.probing is None:
        return {}
    path = folder / "controls.json"
    wanted = {"probed_clips": len(data.probing.task.labels), "model": to_dict(config.model), "seeds": list(seeds)}
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if kept["of"] == wanted:
            found: dict[str, dict[str, Any]] = kept["controls"]
            return found
    model = Lava(config.model).to(choose_device(config.run.device)).eval()
    made = probe_controls(model, data.probing, seeds)
    write_json(path, {"of": wanted, "controls": made})
    return made
