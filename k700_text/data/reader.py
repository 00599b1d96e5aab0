"""From one clip file and its title to one Sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from k700_text.config import AudioConfig, TextConfig, VideoConfig
from k700_text.data.audio import log_mel, silent_log_mel, with_noise
from k700_text.data.sample import Sample
from k700_text.data.text import TitleTokenizer
from k700_text.data.video import Placement, View, cut_frames
from k700_text.errors import DecodeError
from k700_text.media.clip import DEFAULT_LIMITS, DecodeLimits, FrameArray, Waveform
from k700_text.media.decode import ClipReader
from k700_text.media.levels import SILENCE_DBFS, from_dbfs, rms

_MAX_CLIP_AUDIO_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleReader:
    """Reads samples from clip files; small to pickle, holds no open file.

    Attributes:
        video: how frames are cut.
        audio: how the log-mel is made.
        text: how long a sample's tokens are.
        tokenizer: without one, samples have no text.
        silence_dbfs: an audio window below this level (RMS) is absent audio.
        limits: what reading one file may cost.
    """

    video: VideoConfig = field(default_factory=VideoConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    text: TextConfig = field(default_factory=TextConfig)
    tokenizer: TitleTokenizer | None = None
    silence_dbfs: float = SILENCE_DBFS
    limits: DecodeLimits = DEFAULT_LIMITS

    def read(
        self,
        path: str | Path | None,
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
            path: the clip file; None for a clip that has none.
            clip_id: goes into the sample.
            label: goes into the sample.
            title: its text; None or blank is no text.
            rng: random window, crop, mirror and noise (training); None cuts the ``view``.
            view: the deterministic cut (evaluation); the centre when None.
            wants_video: False leaves the frames out.
            wants_audio: False leaves the audio out.
        """
        placement = Placement.random(rng, self.video) if rng is not None else (view or View()).placement()
        frames, waveform, problems = self._decode(path, placement, wants_video, wants_audio)
        has_audio = waveform is not None and rms(waveform) >= from_dbfs(self.silence_dbfs)
        if waveform is not None and has_audio:
            mel = log_mel(waveform, self.audio)
            mel = with_noise(mel, rng, self.audio) if rng is not None else mel
        else:
            mel = silent_log_mel(self.audio)
        token_ids, text_mask = self._encode(title)
        sample = Sample(
            video=self._no_frames() if frames is None else cut_frames(frames, placement, self.video),
            log_mel=mel,
            token_ids=token_ids,
            text_mask=text_mask,
            has_video=frames is not None,
            has_audio=has_audio,
            has_text=bool(text_mask.any()),
            clip_id=clip_id,
            label=label,
        )
        return sample, problems

    def read_strict(
        self,
        path: str | Path,
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
            path, clip_id=clip_id, label=label, title=title, rng=rng, view=view, wants_audio=wants_audio
        )
        if problems:
            raise problems[0]
        if not sample.has_video:
            raise DecodeError(f"{path}: no video stream", path=str(path))
        return sample

    def reads_text(self, title: str | None) -> bool:
        """Returns whether a sample of this title has text: there is a tokenizer, and the title is not blank."""
        return self.tokenizer is not None and title is not None and bool(title.strip())

    def _decode(
        self, path: str | Path | None, placement: Placement, wants_video: bool, wants_audio: bool
    ) -> tuple[FrameArray | None, Waveform | None, tuple[DecodeError, ...]]:
        if path is None or not (wants_video or wants_audio):
            return None, None, ()
        frames: FrameArray | None = None
        waveform: Waveform | None = None
        problems: list[DecodeError] = []
        try:
            with ClipReader(path, limits=self.limits) as reader:
                start_seconds = 0.0
                try:
                    start_seconds = self._start_seconds(reader, placement)
                    if wants_video and reader.info.has_video_stream:
                        frames, start_seconds = self._read_frames(reader, placement, start_seconds)
                except DecodeError as error:
                    problems.append(error)
                if wants_audio and reader.info.has_audio_stream:
                    waveform = self._read_audio(reader, start_seconds)
        except DecodeError as error:
            problems.append(error)
        return frames, waveform, tuple(problems)

    def _start_seconds(self, reader: ClipReader, placement: Placement) -> float:
        has_video = reader.info.has_video_stream
        duration = reader.video_seconds() if has_video else reader.info.audio_duration_seconds
        return placement.start_seconds(duration or 0.0, self.video)

    def _read_frames(self, reader: ClipReader, placement: Placement, start_seconds: float) -> tuple[FrameArray, float]:
        """Returns the frames and where their window really starts."""
        frames = reader.read_frames(start_seconds, self.video.num_frames, self.video.frame_rate)
        end_seconds = reader.video_end_seconds
        if end_seconds is None or start_seconds + self.video.window_seconds <= end_seconds + 1 / self.video.frame_rate:
            return frames, start_seconds
        # The file says it is longer than it is: the window is placed again, in what there is.
        placed_again = placement.start_seconds(end_seconds, self.video)
        if placed_again >= start_seconds:
            return frames, start_seconds
        return reader.read_frames(placed_again, self.video.num_frames, self.video.frame_rate), placed_again

    def _read_audio(self, reader: ClipReader, video_start_seconds: float) -> Waveform:
        if self.audio.window == "clip":
            declared = reader.info.audio_duration_seconds or self.audio.window_seconds
            return reader.read_audio(0.0, min(declared, _MAX_CLIP_AUDIO_SECONDS), self.audio.sample_rate)
        middle = video_start_seconds + self.video.window_seconds / 2
        start_seconds = middle - self.audio.window_seconds / 2
        return reader.read_audio(start_seconds, self.audio.window_seconds, self.audio.sample_rate)

    def _encode(self, title: str | None) -> tuple[Tensor, Tensor]:
        if self.tokenizer is None or title is None or not self.reads_text(title):
            length = self.text.max_length
            return torch.zeros(length, dtype=torch.int64), torch.zeros(length, dtype=torch.bool)
        return self.tokenizer.encode(title, self.text)

    def _no_frames(self) -> Tensor:
        size = self.video.size
        return torch.zeros(self.video.num_frames, size, size, 3, dtype=torch.uint8)
