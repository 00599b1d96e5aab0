"""Lava: three encoders and the projection heads of the spaces av, vt and avt.

Axes: B batch, D width (features), E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lava_model.config import LavaConfig
from lava_model.encoders.audio import AudioEncoder
from lava_model.encoders.text import TextEncoder
from lava_model.encoders.transformer import initialise_linear
from lava_model.encoders.video import VideoEncoder
from lava_model.errors import CheckpointError, DataError
from lava_model.export import read_model, write_model
from lava_model.modalities import MODALITIES, SPACES, Modality, Space

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k700_text.data.sample import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Unit-norm float32 (B, E) embeddings, named space_modality; rows of an absent modality are zero."""

    av_video: Tensor
    av_audio: Tensor
    vt_video: Tensor
    vt_text: Tensor
    avt_video: Tensor
    avt_audio: Tensor
    avt_text: Tensor

    def of(self, space: Space, modality: Modality) -> Tensor:
        """Returns the embeddings (B, E) of a modality in a space."""
        if modality not in SPACES[space]:
            raise ValueError(f"{modality} is not projected into the {space} space")
        embeddings_BE: Tensor = getattr(self, f"{space}_{modality}")
        return embeddings_BE


class Lava(nn.Module):
    """The LAVA model (LAVA paper, section 2): video, audio and text in three joint spaces."""

    def __init__(self, config: LavaConfig) -> None:
        """Builds the model; only ``config.trunk_weights`` may read a file or, for ``imagenet``, the network.

        Raises:
            WeightsError: the trunk's weights cannot be had.
        """
        super().__init__()
        self.config = config
        self.video_encoder = VideoEncoder(config)
        self.audio_encoder = AudioEncoder(config)
        self.text_encoder = TextEncoder(config)
        self.heads = nn.ModuleDict(
            {
                f"{space}_{modality}": nn.Linear(config.width, config.embedding_dim)
                for space, modalities in SPACES.items()
                for modality in modalities
            }
        )
        for head in self.heads.values():
            assert isinstance(head, nn.Linear)
            initialise_linear(head)

    def forward(self, batch: Batch) -> Embeddings:
        """Returns the embeddings of all modalities in all spaces.

        An absent modality passes through its encoder all the same (the same parameters take part in each step, on
        each rank), but gives zeros and no gradient.

        Raises:
            DataError: the batch has other shapes than the model was made for.
        """
        present = _presence(batch)
        features = {modality: self._features(modality, batch) for modality in MODALITIES}
        projected = {}
        for space, modalities in SPACES.items():
            for modality in modalities:
                head = self.heads[f"{space}_{modality}"]
                unit_BE = F.normalize(head(features[modality]).float(), dim=1)
                projected[f"{space}_{modality}"] = torch.where(present[modality][:, None], unit_BE, 0.0)
        return Embeddings(**projected)

    @torch.no_grad()
    def encode(self, batch: Batch, modalities: Sequence[Modality] = ("video",)) -> dict[str, Tensor]:
        """Returns the features float32 (B, width) of each modality, before the projection heads, in eval mode.

        Rows whose modality is absent are zero.

        Raises:
            DataError: the batch has other shapes than the model was made for.
            ValueError: an unknown modality.
        """
        if isinstance(modalities, str):
            raise ValueError(f"modalities must be a sequence of names, got {modalities!r}: use ({modalities!r},)")
        unknown = sorted(set(modalities) - set(MODALITIES))
        if unknown:
            raise ValueError(f"unknown modalities {', '.join(unknown)}: use {', '.join(MODALITIES)}")
        with _eval_mode(self):
            return {modality: self._features(modality, batch) for modality in modalities}

    @torch.no_grad()
    def embed(self, batch: Batch) -> Embeddings:
        """Returns the embeddings in eval mode, without gradient."""
        with _eval_mode(self):
            embeddings: Embeddings = self(batch)
        return embeddings

    def save_pretrained(self, path: str | Path, *, tokenizer: str | Path | None = None) -> None:
        """Writes a folder that ``from_pretrained`` reads: model.safetensors, config.json and the tokenizer.

        Raises:
            CheckpointError: the folder cannot be written, or the tokenizer is missing.
        """
        write_model(self, Path(path), tokenizer=None if tokenizer is None else Path(tokenizer))

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """Returns the model of a folder, on the CPU, in eval mode; nothing is unpickled or downloaded.

        Raises:
            CheckpointError: the folder or a file is missing, foreign, or does not fit its configuration.
        """
        return read_model(cls, Path(path))

    @classmethod
    def from_state(cls, config: LavaConfig, state: Mapping[str, Tensor], *, source: str | Path) -> Self:
        """Returns a model that takes over the tensors of a checkpoint, the trunk's included.

        Args:
            config: shape of the model.
            state: its ``state_dict``.
            source: where the state is from, for the message.

        Raises:
            CheckpointError: the tensors are not those of such a model.
        """
        with torch.device("meta"):
            model = cls(config)
        try:
            model.load_state_dict(state, assign=True)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the checkpoint in {source} does not hold a model of its own settings: was it made by another version?"
            ) from error
        return model

    def _features(self, modality: Modality, batch: Batch) -> Tensor:
        config = self.config
        if modality == "video":
            # Either pixel format, whatever the model was trained on: they show the same.
            _check_shape("video", batch.video, (config.num_frames, *config.frame_shape(batch.pixel_format)))
            features_BD = self.video_encoder(batch.video)
        elif modality == "audio":
            _check_shape("log_mel", batch.log_mel, (config.num_mels, config.num_mel_frames))
            features_BD = self.audio_encoder(batch.log_mel)
        else:
            _check_shape("token_ids", batch.token_ids, (config.max_text_length,))
            features_BD = self.text_encoder(batch.token_ids, batch.text_mask)
        return torch.where(_presence(batch)[modality][:, None], features_BD, 0.0)


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    actual = tuple(tensor.shape[1:])
    if actual != expected:
        raise DataError(f"the model takes {name} of {expected} per sample, the batch has {actual}")


def _presence(batch: Batch) -> dict[Modality, Tensor]:
    return {"video": batch.has_video, "audio": batch.has_audio, "text": batch.has_text}


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
