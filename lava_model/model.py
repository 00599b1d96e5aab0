"""Lava: three encoders and the projection heads of the spaces av, vt and avt.

Axes: B batch, T frames, P cells of a frame, C channels of the trunk, D width (features), E embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lava_model.clips import OnFailure, check_batch_size, checked_paths, read_clips, token_batches, warn
from lava_model.config import LavaConfig
from lava_model.encoders.audio import AudioEncoder
from lava_model.encoders.text import TextEncoder
from lava_model.encoders.transformer import initialise_linear, whole_precision
from lava_model.encoders.video import VideoEncoder
from lava_model.errors import CheckpointError, DataError
from lava_model.facts import ModelFacts
from lava_model.files import located
from lava_model.hub import find_pretrained
from lava_model.modalities import MODALITIES, SPACES, Modality, Space
from lava_model.pretrained import read_model, write_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k700_text.data.sample import Batch
    from k700_text.data.text import TitleTokenizer


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

    def map(self, function: Callable[[Tensor], Tensor]) -> Embeddings:
        """Returns the embeddings with a function applied to each tensor."""
        return Embeddings(**{field.name: function(getattr(self, field.name)) for field in fields(self)})

    @staticmethod
    def cat(parts: Sequence[Embeddings]) -> Embeddings:
        """Returns the rows of all parts below each other."""
        names = [field.name for field in fields(Embeddings)]
        return Embeddings(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


class Lava(nn.Module):
    """The LAVA model (LAVA paper, section 2): video, audio and text in three joint spaces.

    ``tokenizer`` turns titles into token ids in ``read``; a loaded model has the one it was exported with.
    """

    def __init__(self, config: LavaConfig) -> None:
        """Builds the model; only ``config.trunk_weights`` may read a file or, for ``imagenet``, the network.

        Raises:
            WeightsError: the trunk's weights cannot be had.
        """
        super().__init__()
        self.config = config
        self.tokenizer: TitleTokenizer | None = None
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

    @torch.no_grad()
    def patches(self, batch: Batch) -> Tensor:
        """Returns what the frozen trunk makes of the frames, (B, T, P, C), without gradient.

        For whoever passes a batch through the encoders more than once: ``forward`` takes it. Its type is the trunk's
        under the caller's autocast. A video that is floating point is taken for patches already (a study's cached
        views).

        Raises:
            DataError: the frames have other shapes than the model was made for, or are not uint8.
        """
        if batch.video.is_floating_point():
            return _kept(batch.video, batch.has_video)
        config = self.config
        # Either pixel format, whatever the model was trained on: they show the same.
        _check_shape("video", batch.video, (config.num_frames, *config.frame_shape(batch.pixel_format)))
        if batch.video.dtype != torch.uint8:
            raise DataError(f"the model takes video as uint8, the batch has {batch.video.dtype}")
        patches_BTPC: Tensor = self.video_encoder.trunk(batch.video)
        return patches_BTPC

    def forward(self, batch: Batch, patches_BTPC: Tensor | None = None) -> Embeddings:
        """Returns the embeddings of all modalities in all spaces.

        An absent modality passes through its encoder all the same (the same parameters take part in each step, on
        each rank), but gives zeros and no gradient.

        Args:
            batch: the samples.
            patches_BTPC: ``patches(batch)``, or the same from elsewhere: the frames are then not looked at.

        Raises:
            DataError: the batch has other shapes than the model was made for.
        """
        features = {modality: self._features(modality, batch, patches_BTPC) for modality in MODALITIES}
        return self.project(features, batch)

    def project(self, features: Mapping[Modality, Tensor], batch: Batch) -> Embeddings:
        """Returns the embeddings of features.

        Args:
            features: float (B, width) of each modality.
            batch: which of them are present.
        """
        projected = {}
        for space, modalities in SPACES.items():
            for modality in modalities:
                head = self.heads[f"{space}_{modality}"]
                unit_BE = F.normalize(whole_precision(head(features[modality])), dim=1)
                projected[f"{space}_{modality}"] = torch.where(batch.present[modality][:, None], unit_BE, 0.0)
        return Embeddings(**projected)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the parts where the time goes, each on its own: the trunk and the three encoders.

        Not the whole: so ``patches`` is compiled too, the trunk is compiled for one part of the frames however many
        there are, and a pass over given patches needs no second graph of everything.

        Args:
            *args: as ``torch.compile`` takes them.
            **kwargs: likewise.
        """
        trunk = self.video_encoder.trunk.resnet
        for part in (trunk, self.video_encoder, self.audio_encoder, self.text_encoder):
            part.compile(*args, **kwargs)

    @torch.no_grad()
    def encode(self, batch: Batch, modalities: Sequence[Modality] = ("video",)) -> dict[str, Tensor]:
        """Returns the features float32 (B, width) of each modality, before the projection heads, in eval mode.

        Rows whose modality is absent are zero.

        Raises:
            DataError: the batch has other shapes than the model was made for.
            ValueError: an unknown modality.
        """
        self._check_modalities(modalities)
        with _eval_mode(self):
            return {modality: self._features(modality, batch) for modality in modalities}

    @torch.no_grad()
    def embed(self, batch: Batch) -> Embeddings:
        """Returns the embeddings in eval mode, without gradient."""
        with _eval_mode(self):
            embeddings: Embeddings = self(batch)
        return embeddings

    def read(
        self,
        clips: Sequence[str | Path | None],
        titles: Sequence[str | None] | None = None,
        *,
        num_windows: int = 1,
        on_failure: OnFailure = warn,
    ) -> Batch:
        """Returns clip files and their titles as a batch for this model, on its device, cut as evaluation cuts them.

        What is silent, missing or does not decode has its flag False, and zeros. All of it is held in memory: pass
        some dozens of clips at once.

        Args:
            clips: files of any format; None where there is only a title.
            titles: one for each clip, None where it has none; they need the model's ``tokenizer``.
            num_windows: windows of each clip, spread over it; window w of clip i is row ``i * num_windows + w``. One
                lies in the middle.
            on_failure: called with file and reason where a stream does not decode.

        Raises:
            DataError: a file is not there, the lengths differ, or there are titles and no tokenizer.
        """
        return read_clips(self, clips, titles, num_windows=num_windows, on_failure=on_failure)

    def encode_clips(
        self,
        clips: Sequence[str | Path | None],
        modalities: Sequence[Modality] = ("video",),
        *,
        batch_size: int = 16,
        on_failure: OnFailure = warn,
    ) -> dict[str, Tensor]:
        """Returns the features of clip files, float32 (N, width) of each modality, on the model's device.

        The same as ``encode(read(clips))``, some at a time, so that the list may be of any length. The cut is the
        window in the middle. Of a clip without sound, without a picture, or that does not decode, the row of that
        modality is zero: ``features["audio"].any(dim=1)`` tells which have it.

        Args:
            clips: files of any format; None gives zeros.
            modalities: ``video``, ``audio`` or both; only these are decoded.
            batch_size: clips that are held in memory and encoded together.
            on_failure: called with file and reason where a stream does not decode; a warning by default.

        Raises:
            DataError: a file is not there, which is found out before the first is read; or ``clips`` is no list.
            ValueError: an unknown modality, or ``text``, which no clip has.
        """
        self._check_modalities(modalities)
        if "text" in modalities:
            raise ValueError("clips have no text: encode_text takes titles")
        check_batch_size(batch_size)
        paths = checked_paths(clips)
        parts = []
        for start in range(0, len(paths), batch_size):
            some = paths[start : start + batch_size]
            batch = read_clips(self, some, None, num_windows=1, on_failure=on_failure, modalities=modalities)
            parts.append(self.encode(batch, modalities))
        return {modality: torch.cat([part[modality] for part in parts]) for modality in modalities}

    @torch.no_grad()
    def encode_text(self, titles: Sequence[str | None], *, batch_size: int = 64) -> Tensor:
        """Returns the features of titles, float32 (N, width), on the model's device.

        The same as ``encode(read([None] * N, titles), ("text",))["text"]``, some at a time and without the frames of
        no clip. The row of a title that is None or blank is zero.

        Args:
            titles: any text; what is longer than the model's ``max_text_length`` is cut.
            batch_size: titles that are encoded together.

        Raises:
            DataError: the model was exported without a tokenizer, or ``titles`` is no list of text.
        """
        parts = []
        with _eval_mode(self):
            for ids_BS, mask_BS in token_batches(self, titles, batch_size=batch_size):
                parts.append(_kept(self.text_encoder(ids_BS, mask_BS), mask_BS.any(dim=1)))
        return torch.cat(parts)

    def save_pretrained(
        self, path: str | Path, *, tokenizer: str | Path | None = None, facts: ModelFacts | None = None
    ) -> None:
        """Writes a folder that ``from_pretrained`` reads: weights, configuration, tokenizer and model card.

        Args:
            path: the folder; an earlier export there is replaced.
            tokenizer: its file; None: the one that this model was loaded with.
            facts: what the card says about the training.

        Raises:
            CheckpointError: the folder cannot be written, or the tokenizer is missing, is none, or does not fit.
        """
        write_model(self, located(path), tokenizer=None if tokenizer is None else located(tokenizer), facts=facts)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, revision: str | None = None) -> Self:
        """Returns the model of a folder or of the Hugging Face Hub, on the CPU, in eval mode; nothing is unpickled.

        Args:
            path: an exported folder; where there is none of that name, a text ``owner/name`` is looked for on the Hub.
            revision: branch, tag or commit on the Hub.

        Raises:
            CheckpointError: the folder or a file is missing, foreign, or does not fit its configuration.
            HubError: the Hub cannot be reached or has no such model.
            MissingExtraError: it is not a folder, and huggingface_hub is not installed.
        """
        return read_model(cls, find_pretrained(path, revision=revision))

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

    @staticmethod
    def _check_modalities(modalities: Sequence[Modality]) -> None:
        if isinstance(modalities, str):
            raise ValueError(f"modalities must be a sequence of names, got {modalities!r}: use ({modalities!r},)")
        unknown = sorted(set(modalities) - set(MODALITIES))
        if unknown:
            raise ValueError(f"unknown modalities {', '.join(unknown)}: use {', '.join(MODALITIES)}")

    def _features(self, modality: Modality, batch: Batch, patches_BTPC: Tensor | None = None) -> Tensor:
        config = self.config
        if modality == "video":
            patches_BTPC = self.patches(batch) if patches_BTPC is None else patches_BTPC
            _check_shape("patches", patches_BTPC, (config.num_frames, config.video_grid**2, config.trunk_channels))
            if len(patches_BTPC) != len(batch):
                raise DataError(f"the batch has {len(batch)} samples, the patches are of {len(patches_BTPC)}")
            features_BD = self.video_encoder(patches_BTPC)
        elif modality == "audio":
            _check_shape("log_mel", batch.log_mel, (config.num_mels, config.num_mel_frames))
            features_BD = self.audio_encoder(_kept(batch.log_mel, batch.has_audio))
        else:
            _check_shape("token_ids", batch.token_ids, (config.max_text_length,))
            features_BD = self.text_encoder(batch.token_ids, batch.text_mask)
        return _kept(features_BD, batch.present[modality])


def _kept(values: Tensor, present_B: Tensor) -> Tensor:
    """Returns the rows that are present, and zeros: whatever an absent one holds, a NaN too, goes no further."""
    return torch.where(present_B.view(-1, *[1] * (values.ndim - 1)), values, 0.0)


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    actual = tuple(tensor.shape[1:])
    if actual != expected:
        raise DataError(f"the model takes {name} of {expected} per sample, the batch has {actual}")


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
