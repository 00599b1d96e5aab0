"""Deterministic views of a clip file, cut as the model wants to see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from k700_text.data.reader import SampleReader
from k700_text.data.sample import Sample
from k700_text.data.video import View
from k700_text.errors import DecodeError
from lava_model.config import LavaConfig
from lava_model.evaluation.datasets.folder import LabelledClip


class ClipViews:
    """Reads view 0..num_views-1 of a clip: windows spread evenly over its time, the centre square, no augmentation."""

    def __init__(self, config: LavaConfig, *, num_views: int, wants_audio: bool) -> None:
        self.num_views, self.wants_audio = num_views, wants_audio
        self._reader = SampleReader(video=config.video_config(), audio=config.audio_config(), text=config.text_config())

    @property
    def settings(self) -> Mapping[str, Any]:
        """What determines a view's content beside the file."""
        audio = asdict(self._reader.audio) if self.wants_audio else None
        return {"video": asdict(self._reader.video), "audio": audio}

    def __call__(self, clip: LabelledClip, view: int) -> Sample:
        """Returns the view; ``has_video`` is False where the clip does not decode there."""
        return self._read(clip, view)[0]

    def why_undecodable(self, clip: LabelledClip) -> str:
        """Returns in words what keeps a clip from giving frames."""
        sample, problems = self._read(clip, 0)
        if problems:
            return str(problems[0])
        return "decodes only now: it changed while it was read" if sample.has_video else "no video stream"

    def _read(self, clip: LabelledClip, view: int) -> tuple[Sample, tuple[DecodeError, ...]]:
        return self._reader.read(
            clip.path,
            clip_id=clip.name,
            label=clip.label,
            view=View(temporal_index=view, num_temporal=self.num_views),
            wants_audio=self.wants_audio,
        )
