"""From one open clip and its title to one Sample."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from k700_text.config import AudioConfig, TextConfig, VideoConfig
from k700_text.data.audio import log_mel_tensor, silent_log_mel
from k700_text.data.sample import Sample
from k700_text.data.text import LibraryTokenizer, TitleTokenizer
from k700_text.data.video import Placement, View
from k700_text.errors import DecodeError, StorageError
from k700_text.media.clip import DEFAULT_LIMITS, DecodeLimits, FrameArray, OpenClip
from k700_text.media.decode import ClipReader
from k700_text.media.levels import SILENCE_DBFS, from_dbfs
from k700_text.media.log_mel import FloatArray

Opener = Callable[[], OpenClip]
"""Opens a clip when it is called; a DecodeError it raises is a failure of that clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleReader:
    """Reads samples from clips; small to pickle, holds no open file.

    Attributes:
        video: how frames are cut.
        audio: how the log-mel is made.
        text: how long a sample's tokens are.
        tokenizer: without one, samples have no text.
        silence_dbfs: an audio window below this level (RMS) is absent audio.
        limits: what reading one file may cost, for clips given as a path.
    """

    video: VideoConfig = field(default_factory=VideoConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    text: TextConfig = field(default_factory=TextConfig)
    tokenizer: TitleTokenizer | LibraryTokenizer | None = None
    silence_dbfs: float = SILENCE_DBFS
    limits: DecodeLimits = DEFAULT_LIMITS

    def read(
        self,
        clip: Opener | str | Path | None,
        *,
        clip_id: str,
        label: str | None = None,
        title: str | None = None,
        rng: np.random.Generator | None = None,
        view: View | None = None,
        wants_video: bool = True,
        wants_audio: bool = True,
    ) -> tuple[Sample, tuple[DecodeError, ...]]:
        """Returns the sample of one clip, and why a stream of it could not be read; a bad file raises nothing.

        A stream that is not there, or is silent, is no failure: its flag is False, that is all.

        Args:
            clip: what opens the clip, or its file; None for a clip that has none. It is closed afterwards.
            clip_id: goes into the sample.
            label: goes into the sample.
            title: its text; None or blank is no text.
            rng: random window, crop, mirror and noise (training); None cuts the ``view``.
            view: the deterministic cut (evaluation); the centre when None.
            wants_video: False leaves the frames out.
            wants_audio: False leaves the audio out.

        Raises:
            StorageError: the shard that holds the clip is missing, cut short or out of reach.
        """
        placement = Placement.random(rng, self.video) if rng is not None else (view or View()).placement()
        frames: FrameArray | None = None
        mel: FloatArray | None = None
        problems: tuple[DecodeError, ...] = ()
        if clip is not None and (wants_video or wants_audio):
            frames, mel, problems = self._decode(self._opener(clip), placement, wants_video, wants_audio)
        token_ids, text_mask = self.encode_title(title)
        sample = Sample(
            video=self._no_frames() if frames is None else torch.from_numpy(frames),
            log_mel=silent_log_mel(self.audio) if mel is None else log_mel_tensor(mel, rng, self.audio),
            token_ids=token_ids,
            text_mask=text_mask,
            has_video=frames is not None,
            has_audio=mel is not None,
            has_text=bool(text_mask.any()),
            clip_id=clip_id,
            label=label,
        )
        return sample, problems

    def read_strict(
        self,
        clip: Opener | str | Path,
        *,
        clip_id: str,
        label: str | None = None,
        title: str | None = None,
        rng: np.random.Generator | None = None,
        view: View | None = None,
        wants_audio: bool = True,
    ) -> Sample:
        """Returns the sample of one clip that must have frames; arguments as in ``read``.

        Raises:
            DecodeError: the file or one of its streams does not decode, or it has no video.
        """
        sample, problems = self.read(
            clip, clip_id=clip_id, label=label, title=title, rng=rng, view=view, wants_audio=wants_audio
        )
        if problems:
            raise problems[0]
        if not sample.has_video:
            name = str(clip) if isinstance(clip, str | Path) else clip_id
            raise DecodeError(f"{name}: no video stream", path=name)
        return sample

    def reads_text(self, title: str | None) -> bool:
        """Returns whether a sample of this title has text: there is a tokenizer, and the title is not blank."""
        return self.tokenizer is not None and title is not None and bool(title.strip())

    def _opener(self, clip: Opener | str | Path) -> Opener:
        if not isinstance(clip, str | Path):
            return clip
        return lambda: ClipReader(clip, limits=self.limits)

    def _decode(
        self, opener: Opener, placement: Placement, wants_video: bool, wants_audio: bool
    ) -> tuple[FrameArray | None, FloatArray | None, tuple[DecodeError, ...]]:
        """Returns the frames and the log-mel, None for what is absent, silent or does not decode, and the reasons."""
        frames: FrameArray | None = None
        mel: FloatArray | None = None
        problems: list[DecodeError] = []
        try:
            with closing(opener()) as clip:
                start_seconds = 0.0
                try:
                    start_seconds = self._start_seconds(clip, placement)
                    if wants_video and clip.has_video:
                        frames, start_seconds = self._read_frames(clip, placement, start_seconds)
                except StorageError:
                    raise
                except DecodeError as error:
                    problems.append(error)
                if wants_audio and clip.has_audio:
                    mel = self._read_log_mel(clip, start_seconds)
        except StorageError:  # says nothing about this clip: others of the shard are gone with it
            raise
        except DecodeError as error:
            problems.append(error)
        return frames, mel, tuple(problems)

    def _start_seconds(self, clip: OpenClip, placement: Placement) -> float:
        duration = clip.video_seconds() if clip.has_video else clip.audio_seconds()
        return placement.start_seconds(duration or 0.0, self.video, clip.frame_grid_seconds)

    def _read_frames(self, clip: OpenClip, placement: Placement, start_seconds: float) -> tuple[FrameArray, float]:
        """Returns the frames and where their window really starts."""
        window, cut = (self.video.num_frames, self.video.frame_rate), placement.cut(self.video)
        frames = clip.read_cut(start_seconds, *window, cut)
        end_seconds = clip.video_end_seconds
        if end_seconds is None or start_seconds + self.video.window_seconds <= end_seconds + 1 / self.video.frame_rate:
            return frames, start_seconds
        # The file says it is longer than it is: the window is placed again, in what there is.
        placed_again = placement.start_seconds(end_seconds, self.video, clip.frame_grid_seconds)
        if placed_again >= start_seconds:
            return frames, start_seconds
        return clip.read_cut(placed_again, *window, cut), placed_again

    def _read_log_mel(self, clip: OpenClip, video_start_seconds: float) -> FloatArray | None:
        if self.audio.window == "clip":
            mel, level = clip.read_log_mel(None, self.audio)
        else:
            middle = video_start_seconds + self.video.window_seconds / 2
            mel, level = clip.read_log_mel(middle - self.audio.window_seconds / 2, self.audio)
        return mel if level >= from_dbfs(self.silence_dbfs) else None

    def encode_title(self, title: str | None) -> tuple[Tensor, Tensor]:
        """Returns token ids, int64 (S,), and the mask, bool (S,); no title, or a blank one, is zeros and False."""
        if self.tokenizer is None or title is None or not self.reads_text(title):
            length, pad_id = self.text.max_length, 0 if self.tokenizer is None else self.tokenizer.pad_id
            return torch.full((length,), pad_id, dtype=torch.int64), torch.zeros(length, dtype=torch.bool)
        return self.tokenizer.encode(title, self.text)

    def _no_frames(self) -> Tensor:
        shape = View().placement().cut(self.video).shape
        return torch.zeros(self.video.num_frames, *shape, dtype=torch.uint8)
