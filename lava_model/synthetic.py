"""Made-up samples whose three modalities show one hidden vector: training works if they find each other.

They need no files, so a machine without data can try a training run, and tests can know what is learnable.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from k700_text.data.epochs import SharedEpoch, address_of
from k700_text.data.sample import Sample
from lava_model.config import LavaConfig
from lava_model.errors import ConfigError
from lava_model.pixels import yuv_from_rgb

_NUM_LATENTS = 8
_NUM_BINS = 8
_FIRST_WORD = 4
_VIDEO_CELLS, _AUDIO_BANDS, _AUDIO_SEGMENTS = 4, 10, 4
_MAPS_KEY, _LATENT_KEY, _SAMPLE_KEY = 0, 1, 2


class SyntheticAVT(Dataset[Sample]):
    """Map-style data set of Samples that fit a model; an item is an index or an (epoch, index) pair.

    The hidden vector of an index never changes; noise on video and audio differs from epoch to epoch. A plain index is
    of the epoch that was set (``set_epoch``), or of another one each time, as in ``KineticsAVT``. The video shows
    the vector as colours of a 4x4 grid, the log-mel as levels of bands and times, the text as one word for each
    component. Frames come in the model's pixel format.
    """

    def __init__(
        self,
        config: LavaConfig,
        num_samples: int,
        *,
        seed: int = 0,
        first_index: int = 0,
        audio_fraction: float = 0.8,
        text_fraction: float = 0.8,
    ) -> None:
        """Prepares the maps from hidden vector to modalities.

        Args:
            config: gives the shapes.
            num_samples: length of the data set.
            seed: same seed, same samples.
            first_index: where this part starts: parts that do not overlap share no hidden vector.
            audio_fraction: share of samples that have audio.
            text_fraction: share of samples that have text.

        Raises:
            ConfigError: the model is too small to hold the words.
        """
        self.config = config
        self.num_samples = num_samples
        self.seed = seed
        self.first_index = first_index
        self.audio_fraction = audio_fraction
        self.text_fraction = text_fraction
        words = _FIRST_WORD + _NUM_LATENTS * _NUM_BINS
        if config.vocab_size < words or config.max_text_length < _NUM_LATENTS + 2:
            raise ConfigError(
                f"synthetic data need vocab_size >= {words} and max_text_length >= {_NUM_LATENTS + 2},"
                f" got {config.vocab_size} and {config.max_text_length}"
            )
        maps = np.random.default_rng((seed, _MAPS_KEY))
        self._video_map = maps.standard_normal((_NUM_LATENTS, _VIDEO_CELLS * _VIDEO_CELLS * 3)).astype(np.float32)
        self._epoch = SharedEpoch()
        self._audio_map = maps.standard_normal((_NUM_LATENTS, _AUDIO_BANDS * _AUDIO_SEGMENTS)).astype(np.float32)

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        epoch, index = address_of(item, self.num_samples)
        number = self.first_index + index
        hidden = np.random.default_rng((self.seed, _LATENT_KEY, number))
        latent = hidden.uniform(-1, 1, _NUM_LATENTS).astype(np.float32)
        has_audio, has_text = hidden.random() < self.audio_fraction, hidden.random() < self.text_fraction
        noise = np.random.default_rng((self.seed, _SAMPLE_KEY, number, *(epoch or self._epoch.key())))
        token_ids, text_mask = self._text(latent, has_text)
        return Sample(
            video=self._video(latent, noise),
            log_mel=self._log_mel(latent, noise, has_audio),
            token_ids=token_ids,
            text_mask=text_mask,
            has_video=True,
            has_audio=bool(has_audio),
            has_text=bool(has_text),
            clip_id=f"synthetic{number:08d}_000000_000010",
            label=None,
        )

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch plain indexes are of, in this process and in all workers, running ones included.

        Raises:
            ValueError: it is negative, or has more than 63 bits.
            TypeError: it is no whole number.
        """
        self._epoch.set(epoch)

    def _video(self, latent: NDArray[np.float32], noise: np.random.Generator) -> torch.Tensor:
        frames, size = self.config.num_frames, self.config.frame_size
        cells = 112 + 25 * (latent @ self._video_map).reshape(_VIDEO_CELLS, _VIDEO_CELLS, 3)
        if self.config.pixel_format == "rgb24":
            picture = _spread(cells, size).clip(0, 223).astype(np.uint8)
        else:
            luma, *tints = yuv_from_rgb(torch.from_numpy(cells.clip(0, 223))).numpy().transpose(2, 0, 1)
            # The noise is 16 on average: it makes pictures lighter, as it does in RGB, but gives them no tint.
            planes = [_spread(luma, size), *(_spread(tint - 16, size // 2).reshape(-1, size) for tint in tints)]
            picture = np.concatenate(planes).astype(np.uint8)
        return torch.from_numpy(picture + noise.integers(0, 32, (frames, *picture.shape), dtype=np.uint8))

    def _log_mel(self, latent: NDArray[np.float32], noise: np.random.Generator, has_audio: bool) -> torch.Tensor:
        num_mels, num_frames = self.config.num_mels, self.config.num_mel_frames
        if not has_audio:
            return torch.zeros(num_mels, num_frames)
        levels = (latent @ self._audio_map).reshape(_AUDIO_BANDS, _AUDIO_SEGMENTS)
        bands = np.arange(num_mels) * _AUDIO_BANDS // num_mels
        segments = np.arange(num_frames) * _AUDIO_SEGMENTS // num_frames
        hiss = noise.standard_normal((num_mels, num_frames), dtype=np.float32)
        return torch.from_numpy(-6 + 2 * levels[bands][:, segments] + hiss)

    def _text(self, latent: NDArray[np.float32], has_text: bool) -> tuple[torch.Tensor, torch.Tensor]:
        token_ids = torch.zeros(self.config.max_text_length, dtype=torch.int64)
        text_mask = torch.zeros(self.config.max_text_length, dtype=torch.bool)
        if has_text:
            bins = ((latent + 1) / 2 * _NUM_BINS).astype(np.int64).clip(0, _NUM_BINS - 1)
            words = _FIRST_WORD + np.arange(_NUM_LATENTS) * _NUM_BINS + bins
            token_ids[: _NUM_LATENTS + 2] = torch.tensor([1, *words.tolist(), 2])
            text_mask[: _NUM_LATENTS + 2] = True
        return token_ids, text_mask


def _spread(cells: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Returns square cells (4, 4, ...) as a picture (size, size, ...)."""
    rows = np.arange(size) * _VIDEO_CELLS // size
    picture: NDArray[np.float32] = cells[rows][:, rows]
    return picture
