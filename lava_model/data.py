"""The samples of a run: Kinetics clips by their manifest, or made-up ones; with a fingerprint of what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from k700_text.data.sample import Sample
from k700_text.errors import TokenizerError
from lava_model.config import DataConfig, LavaConfig, LossWeights, PretrainConfig
from lava_model.errors import ConfigError, DataError
from lava_model.loading import Stacked
from lava_model.modalities import TERMS, Modality
from lava_model.synthetic import SyntheticAVT


class Samples(Sized, Protocol):
    """A map-style data set; an item is addressed by (epoch, index)."""

    def __getitem__(self, item: tuple[int, int], /) -> Sample:
        """Returns the sample as it looks in that epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """What a run trains on and is measured on."""

    train: Samples | Stacked
    """Augmented samples."""
    val: Samples | Stacked | None
    """Held-out samples with deterministic views, if any."""
    fingerprint: dict[str, str]
    """What the data are, by content: a resumed run must find the same."""
    tokenizer: Path | None = None
    """The tokenizer's file, which goes into the export."""
    notes: tuple[str, ...] = ()
    """What a person should know about the clips before training, one line each."""

    @property
    def failures(self) -> Mapping[str, str]:
        """Why training clips did not decode so far, by clip id; made-up samples have none."""
        found: Mapping[str, str] = getattr(self.train, "failures", {})
        return found

    @property
    def plain_reads(self) -> Mapping[str, int]:
        """Number of training clips that were read without their packet table so far, by reason."""
        found: Mapping[str, int] = getattr(self.train, "plain_reads", {})
        return found


def open_data(config: PretrainConfig, world_size: int = 1) -> TrainingData:
    """Returns the data that a configuration names.

    Args:
        config: of the run.
        world_size: processes of the run, each with a batch of its own.

    Raises:
        ConfigError: paths are missing from the configuration, or the tokenizer is larger than the model's vocabulary.
        DataError: a file is not there.
        K700TextError: a file cannot be read.
    """
    data = config.data
    if data.synthetic:
        return _synthetic(config, world_size)
    needed = {"--manifest": data.manifest, "--clips": data.clips, "--tokenizer": data.tokenizer}
    absent = [option for option, value in needed.items() if value is None]
    if absent:
        raise ConfigError(f"pre-training needs {', '.join(absent)} (or --synthetic to try it without data)")
    assert data.manifest is not None and data.clips is not None and data.tokenizer is not None
    return _kinetics(config, Path(data.manifest), data.clips, Path(data.tokenizer))


def check_vocabulary(tokenizer: Path, config: LavaConfig) -> None:
    """Refuses a tokenizer with more entries than the model has token embeddings.

    Raises:
        ConfigError: it has more.
        DataError: it is no tokenizer file.
    """
    from k700_text.data.text import TitleTokenizer

    try:
        size = TitleTokenizer(tokenizer).vocab_size
    except TokenizerError as error:
        raise DataError(str(error)) from error
    if size > config.vocab_size:
        raise ConfigError(
            f"{tokenizer} has {size} entries but the model only {config.vocab_size}: pass --model.vocab-size {size}"
        )


def _kinetics(config: PretrainConfig, manifest: Path, clips: str, tokenizer: Path) -> TrainingData:
    from k700_text.data.dataset import KineticsAVT

    data, model = config.data, config.model
    val_manifest = None if data.val_manifest is None else Path(data.val_manifest)
    val_clips, val_packets = data.val_clips or clips, data.val_packets if data.val_clips else data.packets
    _check_existence(data)
    check_vocabulary(tokenizer, model)

    def opened(rows: Path, source: str, packets: str | None, train: bool) -> KineticsAVT:
        return KineticsAVT(
            rows,
            source,
            packets=packets,
            where=data.where,
            tokenizer=tokenizer,
            train=train,
            seed=config.run.seed,
            video=model.video_config(),
            audio=model.audio_config(),
            text=model.text_config(),
        )

    train = opened(manifest, clips, data.packets, True)
    val = None if val_manifest is None else opened(val_manifest, val_clips, val_packets, False)
    return TrainingData(
        train=train,
        val=val,
        fingerprint={
            "manifest": _digest_of_manifest(manifest),
            "tokenizer": digest(tokenizer),
            "val_manifest": "none" if val_manifest is None else _digest_of_manifest(val_manifest),
            "clip_ids": _digest_of_ids(train.clip_ids),
            **_shards("clips", clips),
            **(
                {} if val is None else {"val_clip_ids": _digest_of_ids(val.clip_ids), **_shards("val_clips", val_clips)}
            ),
        },
        tokenizer=tokenizer,
        notes=(
            *_notes("training", train.num_with, train.dropped, config.loss.weights),
            *(_notes("held-out", val.num_with, val.dropped, config.loss.weights) if val is not None else ()),
        ),
    )


def _check_existence(data: DataConfig) -> None:
    named = ("manifest", "clips", "tokenizer", "packets", "val_manifest", "val_clips", "val_packets")
    for name in named:
        path = getattr(data, name)
        if path is not None and "://" not in path and not Path(path).exists():
            option = name.replace("_", "-")
            raise DataError(f"--{'data.' if 'packets' in name else ''}{option} {path} does not exist")


def _shards(name: str, clips: str) -> dict[str, str]:
    """Returns what prepared shards hold, by content; nothing for clip files, as versions did that knew no shards.

    The frames of shards are not those of the clips that they were made of. A packet index changes nothing.
    """
    from k700_text.media.prepared import PreparedClips
    from k700_text.media.shards import is_prepared

    return {name: digest(PreparedClips(clips).index.path)} if is_prepared(clips) else {}


_NAMES: dict[Modality, str] = {"audio": "sound", "text": "a title"}


def _notes(kind: str, num_with: Mapping[str, int], dropped: Mapping[str, int], weights: LossWeights) -> tuple[str, ...]:
    """Returns what the clips lack; refuses clips that leave no term of the loss anything to contrast."""
    there: dict[Modality, bool] = {"video": True, "audio": num_with["audio"] > 0, "text": num_with["text"] > 0}
    wanted = [term for term in TERMS if getattr(weights, term)]
    absent = " or ".join(word for modality, word in _NAMES.items() if not there[modality])
    if not any(TERMS[term].has_rows(there) for term in wanted):
        raise DataError(
            f"no {kind} clip has {absent}, so the loss terms {', '.join(wanted)} have nothing to contrast: crawl"
            " titles, or use clips with sound"
        )
    manifest = "manifest" if kind == "training" else f"{kind} manifest"
    notes = [
        f"{count} {'row is' if count == 1 else 'rows are'} left out of the {manifest}, {reason}"
        for reason, count in dropped.items()
    ]
    if absent:
        notes.append(f"no {kind} clip has {absent}: the loss terms that need it stay 0")
    return tuple(notes)


def _synthetic(config: PretrainConfig, world_size: int) -> TrainingData:
    count, seed = config.data.synthetic_samples, config.run.seed
    # A run may go on with twice the processes and half the batch: what it is measured on stays.
    num_val = config.data.batch_size * world_size * config.run.eval_batches
    return TrainingData(
        train=SyntheticAVT(config.model, count, seed=seed),
        val=SyntheticAVT(config.model, num_val, seed=seed, first_index=count),
        fingerprint={"synthetic": f"{count} samples, seed {seed}"},
    )


def digest(path: Path) -> str:
    """Returns what tells a file's content from another, as a run records it."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_manifest(path: Path) -> str:
    """Returns what tells a manifest's content from another: of a folder that of all files in it."""
    from k700_text.manifest_files import manifest_files

    files = manifest_files([path])
    return digest(path) if files == [path] else _digest_of_ids([digest(file) for file in files])


def _digest_of_ids(clip_ids: Sequence[str]) -> str:
    """Returns what tells the clips that are served, in their order: one file more or less is another order of all."""
    return "sha256:" + hashlib.sha256("\n".join(clip_ids).encode()).hexdigest()


def batches_per_epoch(num_samples: int, config: PretrainConfig, world_size: int) -> int:
    """Returns the batches of a pass over the data; what does not fill a batch is left for another epoch.

    Raises:
        DataError: there are fewer samples than one batch.
    """
    needed = config.data.batch_size * world_size
    if num_samples < needed:
        raise DataError(
            f"{num_samples} training clips are fewer than one batch of {needed}: pass --data.batch-size with less"
        )
    return num_samples // needed


def total_steps(num_samples: int, config: PretrainConfig, world_size: int) -> int:
    """Returns the optimiser steps of the whole run, the length of the learning-rate schedule.

    Raises:
        DataError: there are fewer samples than one batch, or all epochs are less than one step.
    """
    num_batches = config.run.epochs * batches_per_epoch(num_samples, config, world_size)
    steps = num_batches // config.data.accumulate
    if not steps:
        raise DataError(
            f"all {config.run.epochs} epochs are {num_batches} batches, fewer than the {config.data.accumulate} of one"
            " step: pass --data.accumulate with less"
        )
    return min(steps, config.run.max_steps or steps)
