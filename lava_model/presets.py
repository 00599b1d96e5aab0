"""Named whole configurations: ``lava`` (default), ``paper`` (to the letter), ``tiny`` (two CPU cores)."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from lava_model.config import DataConfig, LavaConfig, LossConfig, OptimConfig, PretrainConfig, RunConfig
from lava_model.errors import ConfigError


def lava() -> PretrainConfig:
    """The default: the paper's encoders with a symmetric loss, leave-one-out centroid and AdamW with warm-up."""
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


def preset(name: str) -> PretrainConfig:
    """Returns a preset by name.

    Raises:
        ConfigError: there is no preset of that name; the text names the nearest.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)
        raise ConfigError(f"unknown preset {name!r}: did you mean {near[0]!r}? There are {', '.join(PRESETS)}")
    return PRESETS[name]()
