"""Frozen features of labelled clips: several deterministic views of each, extracted once and kept on disk.

Decoding costs more than encoding, so all sources of features (the checkpoint and its controls) see each batch while it
is in memory. A clip that does not decode is never a row of zeros: it is told by name and left out of train and test.

Axes: N clips, V views of each, D width, B batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import BatchSampler, Dataset, SequentialSampler

import k700_text
from k700_text.data.sample import Batch, Sample
from k700_text.files.atomic import whole_path
from lava_model.evaluation.datasets.folder import LabelledClip
from lava_model.evaluation.linear_probe import BoolArray, VideoFeatures
from lava_model.loading import batches_of

FEATURES_VERSION = 2
"""Raised when the same weights and clips would give other features than before."""

Encode = Callable[[Batch], Mapping[str, Tensor]]
ReadView = Callable[[LabelledClip, int], Sample]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSource:
    """Something that turns a batch into features, and what identifies it.

    Attributes:
        name: ``learned``, ``trunk_only`` or ``random_init_<seed>``.
        fingerprint: hash of weights and settings; two sources with one fingerprint give the same features.
        encode: Batch to float (B, D) per modality; runs without gradient.
    """

    name: str
    fingerprint: str
    encode: Encode


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFeatures:
    """Features of N clips from one source.

    Attributes:
        features: float32 (N, V, D) per modality; only meaningful where the modality is present.
        has_video: bool (N, V); the view's frames decoded.
        has_audio: bool (N, V); the view has sound that is not silence.
    """

    features: Mapping[str, npt.NDArray[np.float32]]
    has_video: BoolArray
    has_audio: BoolArray

    @property
    def is_decodable(self) -> BoolArray:
        """Bool (N,): at least one view decoded."""
        return np.asarray(self.has_video.any(axis=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionSettings:
    """How clips are read and encoded.

    Attributes:
        num_views: deterministic views of each clip.
        reading: plain values that determine what a view holds (frames, rate, size, audio settings).
        batch_size: views encoded together; does not change the features.
        num_workers: reading processes; 0 reads in this one.
        device: where the sources live.
    """

    num_views: int
    reading: Mapping[str, Any]
    batch_size: int = 16
    num_workers: int = 0
    device: str = "cpu"


def extract_features(
    sources: Sequence[FeatureSource],
    clips: Sequence[LabelledClip],
    read_view: ReadView,
    settings: ExtractionSettings,
    *,
    cache_folder: Path | None = None,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, ClipFeatures]:
    """Returns the features of every clip by source name, from the cache where it holds them.

    Args:
        sources: names are unique.
        clips: files to read.
        read_view: gives one view (0..num_views-1) of a clip; ``has_video`` is False where it does not decode.
        settings: how.
        cache_folder: holds one safetensors file per source, named by the hash of fingerprint, settings and clips (name,
            size, time of change); None keeps nothing.
        on_progress: called with (views done, views in all) after each batch.
    """
    found: dict[str, ClipFeatures] = {}
    files = {} if cache_folder is None else {s.name: _cache_file(cache_folder, s, clips, settings) for s in sources}
    for name, file in files.items():
        if (cached := _load(file, len(clips), settings.num_views)) is not None:
            found[name] = cached
    missing = [source for source in sources if source.name not in found]
    if missing:
        found |= _extract(missing, clips, read_view, settings, on_progress)
    for source in missing:
        if source.name in files:
            _save(files[source.name], found[source.name])
    return found


def weights_fingerprint(module: nn.Module, settings: Mapping[str, Any]) -> str:
    """Returns the sha256 of a module's weights and buffers (names, types, shapes, bytes) and of its settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data if values.numel() else b"")
    return digest.hexdigest()


def select_features(clip_features: ClipFeatures, modalities: Sequence[str]) -> VideoFeatures:
    """Returns what the probe sees, for the decodable clips only.

    One modality: the features as they are. Several: each scaled to unit length and concatenated, zeros where sound is
    missing, as in the LAVA paper. ``has_audio`` names the presence bit itself.
    """
    keep = clip_features.is_decodable
    parts = [_part(clip_features, modality) for modality in modalities]
    if len(parts) > 1:
        parts = [_unit_length(part) for part in parts]
    return VideoFeatures(values=np.concatenate(parts, axis=2)[keep], is_valid=clip_features.has_video[keep])


def _part(clip_features: ClipFeatures, modality: str) -> npt.NDArray[np.float32]:
    heard = clip_features.has_audio[..., None].astype(np.float32)
    if modality == "has_audio":
        return heard
    features = clip_features.features[modality]
    return np.where(heard > 0, features, np.float32(0)) if modality == "audio" else features


def _unit_length(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return (features / np.where(length > 0, length, 1)).astype(np.float32)


class _Views(Dataset[Sample]):
    """Every view of every clip, views of one clip next to each other."""

    def __init__(self, clips: Sequence[LabelledClip], read_view: ReadView, num_views: int) -> None:
        self.clips, self.read_view, self.num_views = clips, read_view, num_views

    def __len__(self) -> int:
        return len(self.clips) * self.num_views

    def __getitem__(self, index: int) -> Sample:
        return self.read_view(self.clips[index // self.num_views], index % self.num_views)


def _extract(
    sources: Sequence[FeatureSource],
    clips: Sequence[LabelledClip],
    read_view: ReadView,
    settings: ExtractionSettings,
    on_progress: Progress,
) -> dict[str, ClipFeatures]:
    views = _Views(clips, read_view, settings.num_views)
    order = BatchSampler(SequentialSampler(views), settings.batch_size, drop_last=False)
    batches = batches_of(views, order, num_workers=settings.num_workers, device=torch.device(settings.device))
    rows: dict[str, list[Mapping[str, npt.NDArray[np.float32]]]] = {source.name: [] for source in sources}
    has_video, has_audio, done = [], [], 0
    for batch in batches:
        # Copies: the batch is valid only until the next one is asked for.
        has_video.append(batch.has_video.cpu().numpy().copy())
        has_audio.append(batch.has_audio.cpu().numpy().copy())
        for source in sources:
            with torch.inference_mode():
                encoded = source.encode(batch)
            rows[source.name].append({name: tensor.float().cpu().numpy().copy() for name, tensor in encoded.items()})
        done += len(batch)
        on_progress(done, len(views))
    shape = (len(clips), settings.num_views)
    return {
        name: ClipFeatures(
            features={key: np.concatenate([row[key] for row in parts]).reshape(*shape, -1) for key in parts[0]},
            has_video=np.concatenate(has_video).reshape(shape),
            has_audio=np.concatenate(has_audio).reshape(shape),
        )
        for name, parts in rows.items()
    }


def _cache_file(
    folder: Path, source: FeatureSource, clips: Sequence[LabelledClip], settings: ExtractionSettings
) -> Path:
    stats = [clip.path.stat() for clip in clips]
    key = {
        "features_version": FEATURES_VERSION,
        "k700_text": k700_text.__version__,
        "source": source.fingerprint,
        "num_views": settings.num_views,
        "reading": dict(settings.reading),
        "clips": [[clip.name, stat.st_size, stat.st_mtime_ns] for clip, stat in zip(clips, stats, strict=True)],
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    return folder / f"{source.name}-{digest[:32]}.safetensors"


def _load(file: Path, num_clips: int, num_views: int) -> ClipFeatures | None:
    try:
        tensors = load_file(file)
    except (FileNotFoundError, SafetensorError):  # a damaged file is made again
        return None
    has_video, has_audio = tensors.pop("has_video"), tensors.pop("has_audio")
    if has_video.shape != (num_clips, num_views):
        return None
    return ClipFeatures(features=tensors, has_video=has_video, has_audio=has_audio)


def _save(file: Path, clip_features: ClipFeatures) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = dict(clip_features.features) | {
        "has_video": clip_features.has_video,
        "has_audio": clip_features.has_audio,
    }
    with whole_path(file) as part:
        save_file(tensors, part)
