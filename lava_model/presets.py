"""Named whole configurations, and named objectives that go on top of any of them.

``--preset``: ``lava`` (default), ``paper`` (to the letter), ``tiny`` (two CPU cores). ``--objective``: what is
contrasted with what, and how; everything else is left alone, so that runs that differ in it compare objectives only.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from lava_model.config import DataConfig, LavaConfig, LossConfig, LossWeights, OptimConfig, PretrainConfig, RunConfig
from lava_model.errors import ConfigError

NamedT = TypeVar("NamedT")


def lava() -> PretrainConfig:
    """The default: the paper's encoders with the form and centroid that learned best in docs/benchmarks.md.

    AdamW with warm-up, its rate and the batch of 256 are usual choices and not measured here.
    """
    return PretrainConfig(data=DataConfig(batch_size=256))


def paper() -> PretrainConfig:
    """The LAVA paper to the letter: eq. 1 pooled, literal centroid, Adam 1e-5 with cosine, batch 32, 25 epochs."""
    return PretrainConfig(
        loss=LossConfig(form="pooled", centroid="literal", temperature=0.07),
        optim=OptimConfig(
            name="adam",
            lr=1e-5,
            weight_decay=0.0,
            betas=(0.9, 0.999),
            warmup_fraction=0.0,
            clip_norm=0.0,
        ),
        data=DataConfig(batch_size=32),
        run=RunConfig(epochs=25),
    )


def tiny() -> PretrainConfig:
    """A small model with a random trunk that trains on two CPU cores in minutes; for demos and tests."""
    return PretrainConfig(
        model=LavaConfig(
            width=128,
            num_layers=2,
            num_heads=4,
            embedding_dim=64,
            pooling="mean",
            num_frames=8,
            frame_rate=5.0,
            frame_size=48,
            short_side=54,
            trunk_weights="random",
            trunk_stage=2,
            video_grid=3,
            vocab_size=8192,
            max_text_length=32,
        ),
        optim=OptimConfig(lr=1e-3, warmup_fraction=0.1),
        data=DataConfig(batch_size=32, num_workers=0),
        run=RunConfig(epochs=10, log_every=10, eval_every=50, eval_batches=4, checkpoint_every=50),
    )


PRESETS: dict[str, Callable[[], PretrainConfig]] = {"lava": lava, "paper": paper, "tiny": tiny}


def _terms(**weights: float) -> Callable[[LossConfig], LossConfig]:
    return lambda loss: replace(loss, weights=LossWeights(**{"av": 0.0, "vt": 0.0, "avt": 0.0, **weights}))


def _lava(loss: LossConfig) -> LossConfig:
    return replace(loss, form="symmetric", centroid="leave_one_out", weights=LossWeights())


def _paper(loss: LossConfig) -> LossConfig:
    return replace(
        loss, form="pooled", centroid="literal", temperature=0.07, learn_temperature=False, weights=LossWeights()
    )


def _mil_nce(loss: LossConfig) -> LossConfig:
    return replace(_terms(vt=1.0)(loss), form="mil_nce")


def _kmeans(loss: LossConfig) -> LossConfig:
    return replace(loss, centroid="kmeans", weights=LossWeights())


OBJECTIVES: dict[str, tuple[str, Callable[[LossConfig], LossConfig]]] = {
    "lava": ("symmetric form, leave-one-out centroid; terms AV, VT, AVT", _lava),
    "paper": ("eq. 1 pooled, literal centroid, fixed temperature 0.07; terms AV, VT, AVT", _paper),
    "av": ("term AV", _terms(av=1.0)),
    "av+vt": ("terms AV, VT", _terms(av=1.0, vt=1.0)),
    "av+vt+avt": ("terms AV, VT and the centroid's AVT", _terms(av=1.0, vt=1.0, avt=1.0)),
    "av+vt+at": ("terms AV, VT and AT, all pairs without a centroid", _terms(av=1.0, vt=1.0, at=1.0)),
    "mil-nce": ("term VT in the form of MIL-NCE (Miech et al. 2020)", _mil_nce),
    "kmeans": ("terms AV, VT and AVT against clusters of k-means (Chen et al. 2021)", _kmeans),
}
"""What each is, in words, and the change that it makes; what it does not name stays as the preset has it."""


def preset(name: str) -> PretrainConfig:
    """Returns a preset by name.

    Raises:
        ConfigError: there is no preset of that name; the text names the nearest.
    """
    return _named(PRESETS, name, "preset")()


def with_objective(config: PretrainConfig, name: str) -> PretrainConfig:
    """Returns the configuration with an objective by name.

    Raises:
        ConfigError: there is no objective of that name; the text names the nearest.
    """
    _, change = _named(OBJECTIVES, name, "objective")
    return replace(config, loss=change(config.loss))


def _named(known: Mapping[str, NamedT], name: str, kind: str) -> NamedT:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise ConfigError(f"unknown {kind} {name!r}: did you mean {near[0]!r}? There are {', '.join(known)}")
    return known[name]
