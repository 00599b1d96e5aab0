"""Sample, Batch and collate: what the loader gives and the model takes.

Axes: B batch, T frames, H height, W width, C colour, M mel bands, F mel frames, S tokens. Frames are RGB with channels
last, (T, H, W, C), or, with ``VideoConfig(pixel_format="yuv420p")``, planes below each other, (T, H * 3 / 2, W): see
``media.clip.PixelFormat``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import default_collate_fn_map

from k700_text.media.clip import PixelFormat
from k700_text.records import Modality
from k700_text.terminal import readable

_TensorFunction = Callable[[Tensor], Tensor]


def _show(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return repr(value)


def _repr(record: Sample | Batch) -> str:
    shown = ", ".join(f"{field.name}={_show(getattr(record, field.name))}" for field in fields(record))
    return f"{type(record).__name__}({shown})"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Sample:
    """One clip with its three modalities; a modality that is absent is zeros and its flag is False.

    Attributes:
        video: uint8, RGB (T, H, W, C), (16, 224, 224, 3) by default; or YUV 4:2:0 (T, H * 3 / 2, W), (16, 336, 224).
        log_mel: float32 (M, F), natural log of mel power; (80, 256) by default.
        token_ids: int64 (S,), padded with the tokenizer's pad id; (128,) by default.
        text_mask: bool (S,), True where a token stands; all False without a title.
        has_video: the frames are real.
        has_audio: the log-mel is real and not silence.
        has_text: the tokens are a real title.
        clip_id: which clip this is.
        label: action class, or None where the annotations have none.
    """

    video: Tensor
    log_mel: Tensor
    token_ids: Tensor
    text_mask: Tensor
    has_video: bool
    has_audio: bool
    has_text: bool
    clip_id: str
    label: str | None

    def __post_init__(self) -> None:
        _check_video(self.video)
        _check("log_mel", self.log_mel, torch.float32, 2)
        _check("token_ids", self.token_ids, torch.int64, 1)
        _check("text_mask", self.text_mask, torch.bool, 1)
        if self.token_ids.shape != self.text_mask.shape:
            raise ValueError(f"token_ids {tuple(self.token_ids.shape)} and text_mask {tuple(self.text_mask.shape)}")

    def __repr__(self) -> str:
        return _repr(self)

    @property
    def pixel_format(self) -> PixelFormat:
        """How ``video`` is laid out."""
        return PixelFormat.RGB24 if self.video.ndim == 4 else PixelFormat.YUV420P


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Batch:
    """B samples stacked; the fields of Sample with a leading B.

    Attributes:
        video: uint8 (B, T, H, W, C), or (B, T, H * 3 / 2, W). In batches of kept features in place of frames: floating
            point (B, T, P, C), P cells of a frame.
        log_mel: float32 (B, M, F).
        token_ids: int64 (B, S).
        text_mask: bool (B, S).
        has_video: bool (B,).
        has_audio: bool (B,).
        has_text: bool (B,).
        clip_id: B texts.
        label: B texts or None.
    """

    video: Tensor
    log_mel: Tensor
    token_ids: Tensor
    text_mask: Tensor
    has_video: Tensor
    has_audio: Tensor
    has_text: Tensor
    clip_id: tuple[str, ...]
    label: tuple[str | None, ...]

    def __post_init__(self) -> None:
        sizes = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"the leading dimension must be the same everywhere: {sizes}")

    def __len__(self) -> int:
        return len(self.clip_id)

    def __repr__(self) -> str:
        return _repr(self)

    @property
    def present(self) -> dict[Modality, Tensor]:
        """Which samples have which modality, bool (B,) each."""
        return {"video": self.has_video, "audio": self.has_audio, "text": self.has_text}

    @property
    def pixel_format(self) -> PixelFormat:
        """How ``video`` is laid out."""
        return PixelFormat.RGB24 if self.video.ndim == 5 else PixelFormat.YUV420P

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Returns the batch with its tensors on the device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Returns the batch in page-locked memory; DataLoader calls this when ``pin_memory=True``."""
        return self._map(lambda tensor: tensor.pin_memory())

    def clone(self) -> Batch:
        """Returns a copy with memory of its own."""
        return self._map(lambda tensor: tensor.clone())

    def rows(self, start: int, stop: int) -> Batch:
        """Returns samples ``start`` to ``stop``, not copied."""
        part = slice(start, stop)
        return self._map(lambda tensor: tensor[part], clip_id=self.clip_id[part], label=self.label[part])

    def _map(self, function: _TensorFunction, **texts: Any) -> Batch:
        return replace(
            self,
            **texts,
            video=function(self.video),
            log_mel=function(self.log_mel),
            token_ids=function(self.token_ids),
            text_mask=function(self.text_mask),
            has_video=function(self.has_video),
            has_audio=function(self.has_audio),
            has_text=function(self.has_text),
        )


def collate(samples: Iterable[Sample]) -> Batch:
    """Stacks samples into a Batch; every sample must have the same shapes.

    In a worker of a DataLoader it stacks straight into the memory that the worker hands over. A DataLoader that is
    given no ``collate_fn`` stacks samples with it too.

    Raises:
        ValueError: there are no samples, or their shapes differ.
        TypeError: they are no samples.
    """
    if isinstance(samples, Sample):
        raise TypeError("collate takes several samples, got a single one: collate([sample]) makes a batch of one")
    samples = list(samples)
    for place, sample in enumerate(samples):
        if not isinstance(sample, Sample):
            raise TypeError(
                f"collate takes what KineticsAVT gives, Samples, got {type(sample).__name__} in place {place}: give the"
                " DataLoader a collate_fn of your own for other things"
            )
    if not samples:
        raise ValueError("collate needs at least one sample")
    return Batch(
        video=_stacked("video", samples),
        log_mel=_stacked("log_mel", samples),
        token_ids=_stacked("token_ids", samples),
        text_mask=_stacked("text_mask", samples),
        has_video=torch.tensor([sample.has_video for sample in samples]),
        has_audio=torch.tensor([sample.has_audio for sample in samples]),
        has_text=torch.tensor([sample.has_text for sample in samples]),
        clip_id=tuple(sample.clip_id for sample in samples),
        label=tuple(sample.label for sample in samples),
    )


def _stacked(name: str, samples: Sequence[Sample]) -> Tensor:
    tensors: list[Tensor] = [getattr(sample, name) for sample in samples]
    clips = {tuple(tensor.shape): sample.clip_id for tensor, sample in zip(tensors, samples, strict=True)}
    if len(clips) != 1:
        found = ", ".join(f"{shape} in clip {readable(clip_id)}" for shape, clip_id in sorted(clips.items()))
        raise ValueError(
            f"{name} must have one shape in all samples of a batch, got {found}: give all datasets of a loader the same"
            " settings, and keep shapes in a transform"
        )
    stacked: Tensor = default_collate(tensors)
    return stacked


# What the documentation of default_collate gives as the way to extend it.
default_collate_fn_map[Sample] = lambda samples, *, collate_fn_map=None: collate(samples)


def _check(name: str, tensor: Tensor, dtype: torch.dtype, num_dims: int) -> None:
    if tensor.dtype != dtype or tensor.ndim != num_dims:
        raise ValueError(f"{name} must be {dtype} of {num_dims} dimensions, got {_show(tensor)}")


def _check_video(video: Tensor) -> None:
    is_rgb = video.ndim == 4 and video.shape[3] == 3
    is_yuv = video.ndim == 3 and video.shape[1] * 2 == video.shape[2] * 3
    if video.dtype != torch.uint8 or not (is_rgb or is_yuv):
        raise ValueError(f"video must be torch.uint8 (T, H, W, 3) or (T, H * 3 / 2, W), got {_show(video)}")
