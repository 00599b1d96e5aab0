"""Our training step, whole and in parts, on batches that lie on the device already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from k700_text.data.sample import Batch
from lava_model.config import LavaConfig, PretrainConfig
from lava_model.modalities import MODALITIES
from lava_model.model import Embeddings, Lava
from lava_model.objective import Objective
from lava_model.step import TrainStep

TRUNK, LOSS, OPTIMISER, REST = "trunk", "heads and loss", "optimiser", "rest"
_LONGEST_TITLE = 24
_LEARNING_RATE = 1e-6


def random_batch(config: LavaConfig, size: int, device: torch.device, *, pixel_format: str | None = None) -> Batch:
    """Returns noise in the shapes of a model: 80 % of the rows with sound, 75 % with a title of 4 to 24 tokens."""
    generator = torch.Generator(device).manual_seed(0)

    def integers(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.randint(low, high, shape, dtype=dtype, device=device, generator=generator)

    has_text = torch.rand(size, device=device, generator=generator) < 0.75
    length = integers(4, min(_LONGEST_TITLE, config.max_text_length) + 1, size, 1)
    text_mask = (torch.arange(config.max_text_length, device=device) < length) & has_text[:, None]
    return Batch(
        video=integers(0, 256, size, config.num_frames, *config.frame_shape(pixel_format), dtype=torch.uint8),
        log_mel=torch.randn(size, config.num_mels, config.num_mel_frames, device=device, generator=generator),
        token_ids=integers(0, config.vocab_size, size, config.max_text_length) * text_mask,
        text_mask=text_mask,
        has_video=torch.ones(size, dtype=torch.bool, device=device),
        has_audio=torch.rand(size, device=device, generator=generator) < 0.8,
        has_text=has_text,
        clip_id=tuple(f"benchmark{row:02d}_000000_000010" for row in range(size)),
        label=(None,) * size,
    )


class Ours:
    """A model that trains, and its parts."""

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        torch.manual_seed(0)
        self.config = config
        self.device = device
        self.model = Lava(config.model).to(device)
        self.objective = Objective(config.loss, config.model.embedding_dim).to(device)
        self.step = TrainStep(self.model, self.objective, config, device=device)

    def whole(self, batch: Batch, micro_batch: int | None = None) -> Callable[[], None]:
        """Returns a function that makes one training step, by micro-batches if it is given a size."""
        config = replace(self.config, data=replace(self.config.data, micro_batch=micro_batch))

        def step() -> None:
            # The same optimiser for all: another one would take memory that training does not.
            self.step.config = config
            self.step(iter([batch]), 0, _LEARNING_RATE)

        return step

    def forward_only(self, batch: Batch) -> Callable[[], None]:
        """Returns a function that passes patches through the encoders without gradient: what GradCache adds."""
        with self.step.autocast:
            patches_BTPC = self.model.patches(batch)

        def forward() -> None:
            with torch.no_grad(), self.step.autocast:
                self.model(batch, patches_BTPC)

        return forward

    def parts(self, batch: Batch) -> dict[str, Callable[[], None]]:
        """Returns functions that run one part each, forward and backward where it trains."""
        model, autocast = self.model, self.step.autocast
        with autocast:
            patches_BTPC = model.patches(batch)
        inputs = {
            "video": (model.video_encoder, (patches_BTPC,)),
            "audio": (model.audio_encoder, (batch.log_mel,)),
            "text": (model.text_encoder, (batch.token_ids, batch.text_mask)),
        }
        gradient_BD = torch.randn(len(batch), self.config.model.width, device=self.device)
        features = {modality: torch.randn_like(gradient_BD).requires_grad_() for modality in MODALITIES}

        def trunk() -> None:
            with autocast:
                model.patches(batch)

        def encoder(modality: str) -> None:
            module, arguments = inputs[modality]
            module.zero_grad()
            with autocast:
                features_BD = module(*arguments)
            features_BD.backward(gradient_BD)

        def loss() -> None:
            model.heads.zero_grad()
            with autocast:
                embeddings: Embeddings = model.project(features, batch)
            self.objective(embeddings, batch).total.backward()

        def optimiser() -> None:
            trained = [parameter for group in self.step.optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            self.step.optimizer.step()

        self.whole(batch)()  # leaves gradients for the optimiser
        return {
            TRUNK: trunk,
            **{modality: lambda modality=modality: encoder(modality) for modality in MODALITIES},
            LOSS: loss,
            OPTIMISER: optimiser,
        }
