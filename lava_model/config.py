"""Validated, frozen settings of a model and of a pre-training run.

Five groups make a run: ``model`` (LavaConfig), ``loss``, ``optim``, ``data`` and ``run``. Each field carries its
meaning under it, its choices and range in its type, which one check reads; ``_at_odds`` holds the rules between fields.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Annotated, Literal

from k700_text.checks import (
    Count,
    CountOrNone,
    NotNegative,
    Positive,
    Share,
    ShareBelowOne,
    Spelled,
    Text,
    at_least,
    at_most,
    below,
    faults,
    faults_of,
    field_hints,
)
from k700_text.config import AudioConfig, TextConfig, VideoConfig
from lava_model.errors import ConfigError

LossForm = Literal["symmetric", "pooled", "infonce", "mil_nce"]
Centroid = Literal["leave_one_out", "literal", "stop_grad", "kmeans"]
Negatives = Literal["global", "local"]
MissingPolicy = Literal["complete_pair", "available_mean"]
Pooling = Literal["cls", "mean"]
Positions = Literal["factorised", "learned", "sinusoidal"]
OptimName = Literal["adamw", "adam"]
Schedule = Literal["cosine", "constant"]
Precision = Literal["auto", "bf16", "fp32"]
PixelFormat = Literal["yuv420p", "rgb24"]
Device = Annotated[str, Spelled("auto, cpu, cuda or cuda:N", r"auto|cpu|cuda(:[0-9]{1,3})?", ("auto", "cpu", "cuda"))]

EARLIER_SETTINGS = {
    "model.pixel_format": "rgb24",
    "model.positions": "factorised",
    "data.chunk_size": 1,
    "data.buffer_chunks": 128,
    "data.accumulate": 1,
    "loss.negatives": "local",
    "loss.learn_temperature": False,
    "loss.max_scale": 100.0,
    "loss.mask_same_title": False,
    "loss.mask_same_video": False,
    "loss.num_clusters": 256,
    "loss.cluster_queue": 4096,
    "loss.cluster_every": 50,
    "optim.ema_decay": 0.0,
    "run.init_from": None,
}
"""What versions did that did not have these settings, by dotted name: for their checkpoints and exported models."""

_MOST_PIXELS, _MOST_TOKENS = 2**30, 2**17
"""Of the frames of one sample: a thousand and more times those of the paper."""

_TRUNK_CHANNELS = {1: 64, 2: 128, 3: 256, 4: 512}

_is_checked = ContextVar("_is_checked", default=True)


@contextmanager
def unchecked() -> Iterator[None]:
    """Lets settings be made inside that hold anything, for who tells the faults of all groups together."""
    token = _is_checked.set(False)
    try:
        yield
    finally:
        _is_checked.reset(token)


class Settings:
    """Base of the settings classes: refuses what the types of the fields do not say, and what is at odds."""

    __slots__ = ()

    def __post_init__(self) -> None:
        if _is_checked.get() and (problems := faults_of(self) + odds_of(self)):
            raise ConfigError(problems)

    def _at_odds(self) -> list[str]:
        """Returns which fields do not go together; each of them alone is as its type says."""
        return []


def odds_of(settings: Settings) -> list[str]:
    """Returns what is at odds in settings and their groups, but for what is told of a field that has a fault itself."""
    hints = field_hints(type(settings))
    values = {name: getattr(settings, name) for name in hints}
    faulty = [name for name, value in values.items() if faults(name, value, hints[name])]
    with unchecked():
        usual = type(settings)()
        sound = type(settings)(**{**values, **{name: getattr(usual, name) for name in faulty}})
    own = [odd for odd in sound._at_odds() if not any(re.search(rf"\b{name}\b", odd) for name in faulty)]
    return own + [odd for value in values.values() if isinstance(value, Settings) for odd in odds_of(value)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LavaConfig(Settings):
    """Shape of the model and of what it reads; the defaults are the paper's (LAVA paper, section 3).

    Each size has an upper bound, far above what trains today: a model folder may be a stranger's, and what it asks for
    is refused before anything of that size is made.
    """

    width: Annotated[Count, at_most(2**15)] = 1024
    """Width of the transformers, and so of the features."""
    num_layers: Annotated[Count, at_most(256)] = 4
    """Layers of each transformer."""
    num_heads: Annotated[Count, at_most(2**10)] = 16
    """Attention heads; width / num_heads is the width of a head."""
    feedforward_ratio: Annotated[Positive, at_most(64)] = 4.0
    """Width of the feed-forward layers over ``width`` (the paper does not say; its authors' code has 1 and 4)."""
    embedding_dim: Annotated[Count, at_most(2**15)] = 1024
    """Width of the embeddings in each of the spaces av, vt and avt."""
    pooling: Pooling = "cls"
    """``cls``: output at an extra learned token; ``mean``: mean over the real tokens."""
    positions: Positions = "factorised"
    """Positional encodings: ``factorised`` (video: a learned vector for each time plus one for each cell), ``learned``
    (one for each token) or ``sinusoidal`` (fixed; video: of time, row and column). Audio and text are one row of
    tokens, so that the first two are the same there."""
    dropout: ShareBelowOne = 0.0
    """Dropout probability inside the transformers."""
    num_frames: Annotated[Count, at_most(2**12)] = 16
    """Video frames of a sample."""
    frame_size: Annotated[Count, at_most(2**12)] = 224
    """Height and width of a frame, pixels."""
    frame_rate: Positive = 10.0
    """Frames per second that a sample is taken at."""
    short_side: Annotated[Count, at_most(2**13)] = 256
    """Length the short side is scaled to before the square is cropped, pixels."""
    pixel_format: PixelFormat = "yuv420p"
    """Frames as the loader hands them over: ``yuv420p`` (half the bytes, made RGB on the device) or ``rgb24``."""
    trunk_weights: Text = "imagenet"
    """Frozen ResNet-18: ``imagenet``, ``random`` (seeded), or a file of torchvision's ResNet-18 weights."""
    trunk_stage: Literal[1, 2, 3, 4] = 4
    """Last ResNet stage used, 1 to 4."""
    trunk_seed: Annotated[int, at_least(-(2**63)), below(2**63)] = 0
    """Seed of ``trunk_weights = random``."""
    video_grid: Count = 7
    """Cells per side and frame: 7 gives 784 video tokens at 16 frames, 4 gives 256, 1 gives 16."""
    num_mels: Annotated[Count, at_most(2**10)] = 80
    """Mel bands of a sample."""
    num_mel_frames: Annotated[Count, at_most(2**16)] = 256
    """Mel frames of a sample."""
    audio_patch_frames: Count = 8
    """Mel frames of one audio token: 8 gives 32 tokens, 1 gives 256."""
    vocab_size: Annotated[Count, at_most(2**20)] = 48_000
    """Rows of the token embedding; at least the tokenizer's size."""
    max_text_length: Annotated[int, at_least(3), at_most(2**14)] = 128
    """Token ids of a sample."""

    def _at_odds(self) -> list[str]:
        problems = []
        if self.frame_size % 2:
            problems.append(f"frame_size must be even, got {self.frame_size}")
        if self.width % self.num_heads:
            problems.append(f"width ({self.width}) must be a multiple of num_heads ({self.num_heads})")
        if self.num_mel_frames % self.audio_patch_frames:
            problems.append(
                f"num_mel_frames ({self.num_mel_frames}) must be a multiple of"
                f" audio_patch_frames ({self.audio_patch_frames})"
            )
        if self.video_grid > self.trunk_grid:
            problems.append(
                f"video_grid ({self.video_grid}) is finer than the {self.trunk_grid}x{self.trunk_grid} cells that stage"
                f" {self.trunk_stage} of the trunk gives at frame_size {self.frame_size}"
            )
        if self.short_side < self.frame_size:
            problems.append(f"short_side ({self.short_side}) must be at least frame_size ({self.frame_size})")
        if self.num_frames * self.frame_size**2 > _MOST_PIXELS:
            problems.append(
                f"num_frames ({self.num_frames}) of frame_size {self.frame_size} are more than 2**30 pixels"
            )
        if self.num_video_tokens > _MOST_TOKENS:
            problems.append(
                f"num_frames ({self.num_frames}) of video_grid {self.video_grid} are more than 2**17 tokens"
            )
        return problems

    @property
    def feedforward_width(self) -> int:
        """Width of the feed-forward layers."""
        return round(self.width * self.feedforward_ratio)

    @property
    def trunk_channels(self) -> int:
        """Channels of the trunk's features."""
        return _TRUNK_CHANNELS[self.trunk_stage]

    @property
    def trunk_grid(self) -> int:
        """Cells per side that the trunk gives before pooling."""
        return math.ceil(self.frame_size / (2 << self.trunk_stage))

    @property
    def num_video_tokens(self) -> int:
        """Video tokens of a sample, without the cls token."""
        tokens: int = self.num_frames * self.video_grid**2
        return tokens

    @property
    def num_audio_tokens(self) -> int:
        """Audio tokens of a sample, without the cls token."""
        return self.num_mel_frames // self.audio_patch_frames

    def video_config(self) -> VideoConfig:
        """How the loader has to cut frames for this model."""
        return VideoConfig(
            num_frames=self.num_frames,
            frame_rate=self.frame_rate,
            size=self.frame_size,
            short_side=self.short_side,
            pixel_format=self.pixel_format,
        )

    def frame_shape(self, pixel_format: str | None = None) -> tuple[int, ...]:
        """Shape of a frame in a pixel format, by default in that of ``pixel_format``."""
        size = self.frame_size
        return (size * 3 // 2, size) if (pixel_format or self.pixel_format) == "yuv420p" else (size, size, 3)

    def audio_config(self) -> AudioConfig:
        """How the loader has to make spectrograms for this model."""
        return AudioConfig(num_mels=self.num_mels, num_mel_frames=self.num_mel_frames)

    def text_config(self) -> TextConfig:
        """How the loader has to make token ids for this model."""
        return TextConfig(max_length=self.max_text_length, vocab_size=self.vocab_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights(Settings):
    """Weight of each term in the total (eq. 5 has 1, 1, 1; other weights are the paper's future work)."""

    av: NotNegative = 1.0
    """Audio-video term, eq. 2."""
    vt: NotNegative = 1.0
    """Video-text term, eq. 3."""
    avt: NotNegative = 1.0
    """Centroid term, eq. 4."""
    at: NotNegative = 0.0
    """Audio-text term, taken in the avt space; not in the paper."""

    @classmethod
    def of(cls, weights: LossWeights | Mapping[str, float]) -> LossWeights:
        """Returns the weights; of a mapping, terms it does not name keep their default."""
        if isinstance(weights, LossWeights):
            return weights
        hints = field_hints(cls)
        unknown = sorted(set(weights) - set(hints))
        if not unknown:
            return cls(**weights)
        problems = [f"unknown loss terms {', '.join(map(str, unknown))}: use av, vt, avt, at"]
        known = {name: value for name, value in weights.items() if name in hints}
        raise ConfigError(problems + [fault for name in known for fault in faults(name, known[name], hints[name])])


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig(Settings):
    """The contrastive objective (LAVA paper, eq. 1-5)."""

    form: LossForm = "symmetric"
    """``pooled`` is eq. 1 to the letter; ``infonce``, ``symmetric`` and ``mil_nce`` are row losses."""
    centroid: Centroid = "leave_one_out"
    """What a modality is held against in eq. 4: the mean of all (``literal``), the same without gradient
    (``stop_grad``), the mean of the others (``leave_one_out``), or the k-means cluster that the mean falls into
    (``kmeans``, as Chen et al. 2021, which the paper argues against)."""
    policy: MissingPolicy = "complete_pair"
    """Rows of eq. 4: those with all modalities, or those with at least two (``available_mean``)."""
    negatives: Negatives = "global"
    """Whose rows are negatives: those of all processes, or (``local``) of the own one only. One process: the same."""
    mask_same_title: bool = False
    """Rows with the same title are no negatives of each other where text takes part (VT, AVT, AT)."""
    mask_same_video: bool = False
    """Clips of the same YouTube video are no negatives of each other, in any term."""
    temperature: Positive = 0.07
    """Divides the cosine similarities; where it is learned, its first value."""
    learn_temperature: bool = False
    """Learn log(1 / temperature), one for all terms."""
    max_scale: Positive = 100.0
    """Upper limit of 1 / temperature where it is learned."""
    num_clusters: Count = 256
    """Clusters of ``centroid = kmeans``."""
    cluster_queue: Count = 4096
    """Newest mean embeddings that ``kmeans`` clusters."""
    cluster_every: Count = 50
    """Steps between two runs of ``kmeans``."""
    weights: LossWeights = field(default_factory=LossWeights)
    """Weight of each term."""

    def _at_odds(self) -> list[str]:
        problems = []
        if self.learn_temperature and self.temperature * self.max_scale < 1:
            problems.append(f"temperature ({self.temperature}) must be at least 1 / max_scale ({1 / self.max_scale:g})")
        if self.centroid == "kmeans" and self.cluster_queue < self.num_clusters:
            problems.append(f"cluster_queue ({self.cluster_queue}) must be at least num_clusters ({self.num_clusters})")
        if self.weights == LossWeights(av=0, vt=0, avt=0, at=0):
            problems.append("the loss weights av, vt, avt and at are all 0: nothing would train")
        return problems


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig(Settings):
    """Optimiser and learning-rate schedule."""

    name: OptimName = "adamw"
    """``adamw`` (decoupled weight decay) or ``adam``."""
    lr: Positive = 1e-4
    """Peak learning rate."""
    weight_decay: NotNegative = 0.05
    """Weight decay of matrices; norms, biases, positions and token embeddings have none."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.98)
    """Decay of the two moment estimates."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    schedule: Schedule = "cosine"
    """Shape of the learning rate after warm-up."""
    warmup_fraction: Share = 0.05
    """Share of all steps in which the learning rate rises linearly from near 0."""
    final_lr_fraction: Share = 0.0
    """Learning rate at the last step over the peak."""
    clip_norm: NotNegative = 1.0
    """Gradients longer than this are scaled down to it; 0 is off."""
    ema_decay: ShareBelowOne = 0.0
    """Decay of a moving average of the weights, which then is what is evaluated and exported; 0 is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig(Settings):
    """What is trained on and how it is fed."""

    manifest: str | None = None
    """Parquet manifest of the training clips, or a folder of them; who wrote it does not matter."""
    clips: str | None = None
    """Folder of the clip files, or folder or URL of shards of ``k700-text prepare``."""
    packets: str | None = None
    """Packet index of the folder of clip files: the same frames in about two thirds of the time."""
    tokenizer: str | None = None
    """tokenizer.json made by ``k700-text tokenizer``."""
    val_manifest: str | None = None
    """Parquet manifest of held-out clips in the same or another folder; none: no held-out evaluation."""
    val_clips: str | None = None
    """Folder or URL of the held-out clips; none: ``clips``."""
    val_packets: str | None = None
    """Packet index of ``val_clips``."""
    where: str | None = None
    """Which rows of both manifests, as ``has_text and has_audio`` (docs/loader.md); none: all."""
    synthetic: bool = False
    """Train on made-up samples with a shared latent instead: needs no files, shows that training works."""
    synthetic_samples: Annotated[Count, at_most(10**9)] = 2048
    """Number of made-up training samples."""
    batch_size: Annotated[int, at_least(2, "a contrast needs another sample")] = 32
    """Samples that are contrasted with each other on one process."""
    micro_batch: Count | None = None
    """Samples that go through the model at once: less memory for the same loss and gradient (GradCache), for one more
    forward pass of the encoders; none: all of a batch."""
    accumulate: Count = 1
    """Batches whose gradients are averaged for one optimiser step. It adds no negatives: ``micro_batch`` does, with a
    larger ``batch_size``."""
    num_workers: CountOrNone = 8
    """Loader processes, no more than there are cores; 0 decodes in the training process."""
    chunk_size: Count = 1
    """Neighbouring clips that are read together: 1 mixes all clips, 64 is good for shards behind a URL."""
    buffer_chunks: Count = 128
    """Chunks that are mixed with each other, where ``chunk_size`` is above 1."""

    def _at_odds(self) -> list[str]:
        problems = []
        if self.synthetic and self.synthetic_samples < self.batch_size:
            problems.append(f"synthetic_samples ({self.synthetic_samples}) is below batch_size ({self.batch_size})")
        files = ("manifest", "clips", "packets", "tokenizer", "val_manifest", "val_clips", "val_packets", "where")
        real = [name for name in files if getattr(self, name) is not None]
        if self.synthetic and real:
            problems.append(f"synthetic samples take the place of {', '.join(real)}: leave one of the two out")
        return problems


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig(Settings):
    """Length, place and bookkeeping of a run."""

    out: str = "runs/lava"
    """Run folder; when it exists the run continues."""
    init_from: Text | None = None
    """Run folder, step_*.pt file or exported model whose weights the run begins with; all else begins anew. None:
    weights of the seed."""
    epochs: Count = 25
    """Passes over the training clips."""
    max_steps: Count | None = None
    """Stops earlier than ``epochs``; the learning-rate schedule ends there too."""
    seed: Annotated[CountOrNone, below(2**32)] = 0
    """Seed of initialisation, order and augmentation: what numpy's generator takes."""
    device: Device = "auto"
    """``auto`` (cuda if there is one), ``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Precision = "auto"
    """``auto``: bf16 autocast on cuda, fp32 elsewhere. The loss is always fp32; TF32 stays off."""
    compile: bool = False
    """Compile the model with torch.compile."""
    log_every: Count = 10
    """Steps between lines of log.jsonl."""
    eval_every: CountOrNone = 500
    """Steps between held-out evaluations; 0: only at the start and the end."""
    eval_batches: Count = 8
    """Held-out batches of an evaluation at most."""
    checkpoint_every: Count = 500
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Newest checkpoints kept."""
    tensorboard: bool = False
    """Write TensorBoard files too."""
    wandb: str | None = None
    """Log to this Weights & Biases project too."""
    profile_steps: CountOrNone = 0
    """Steps to record with torch.profiler, early in this start of the run; 0 is off."""
    peak_tflops: Positive | None = None
    """What the device can do at most in the precision used, for the share of it that is used (MFU); none: known
    devices by name, no MFU on others."""

    def _at_odds(self) -> list[str]:
        return [] if self.out else ["out must name a folder: it is empty"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(Settings):
    """A whole pre-training run."""

    model: LavaConfig = field(default_factory=LavaConfig)
    """Shape of the model."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The objective."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and schedule."""
    data: DataConfig = field(default_factory=DataConfig)
    """Training data."""
    run: RunConfig = field(default_factory=RunConfig)
    """Length, place and bookkeeping."""
