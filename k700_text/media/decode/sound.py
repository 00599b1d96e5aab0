"""From decoded pieces of audio to one stretch of it: mono, where its timestamps put it, at the rate asked for.

Mono is the mean of the channels. FFmpeg's own down-mix adds powers (stereo that agrees comes out 1.41 times as loud),
and torchcodec's does the same: whatever is compared with this must be mixed like this.

Axes: N samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from k700_text.errors import DecodeError
from k700_text.media.clip import Waveform

PREROLL_SECONDS = 0.3
"""What is decoded before the first sample that is wanted: codecs need some packets to settle."""

_MARGIN_SECONDS = 0.1
_JITTER_SECONDS = 0.02
_MAX_SAMPLE_RATE = 768_000
_MAX_CHANNELS = 64
# PyAV counts the planes of a frame up to a null pointer, and of 8 finds none: it would read what is no memory.
_TOO_MANY_PLANES = 8
_FULL_SCALE = {"u1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31}


class Stretch:
    """A stretch of audio that is put together from decoded frames.

    Args:
        start_seconds: clip time of its first sample.
        duration_seconds: its length.
        native_rate: hertz of the frames.
        name: of the clip, for messages.

    Attributes:
        first_seconds: clip time at which the first frame must begin, or earlier.
        has_begun: a frame came.
    """

    def __init__(self, start_seconds: float, duration_seconds: float, *, native_rate: int, name: str) -> None:
        # The resampler needs a little of what lies before and after.
        self.first_seconds = start_seconds - _MARGIN_SECONDS
        self.has_begun = False
        self._duration_seconds = duration_seconds
        self._rate = native_rate
        self._name = name
        self._position = 0
        self._samples = np.zeros(round((duration_seconds + 2 * _MARGIN_SECONDS) * native_rate), dtype=np.float32)

    def put(self, seconds: float, frame: AudioFrame) -> bool:
        """Adds a frame that begins at a clip time; returns False once the stretch is full.

        Raises:
            DecodeError: it has another sample rate.
        """
        if frame.sample_rate != self._rate:
            raise DecodeError(f"{self._name}: the audio sample rate changes midway", path=self._name)
        stamped = round((seconds - self.first_seconds) * self._rate)
        # Timestamps of some containers are rounded to milliseconds: small steps are no gaps.
        if not self.has_begun or abs(stamped - self._position) > _JITTER_SECONDS * self._rate:
            self._position = stamped
        self.has_begun = True
        if self._position >= len(self._samples):
            return False
        if self._position + frame.samples > 0:
            _place(self._samples, self._position, mono(frame))
        self._position += frame.samples
        return True

    def waveform(self, sample_rate: int) -> Waveform:
        """Returns the stretch at a rate, float32 (N,); zeros where no frame was."""
        waveform = _resampled(finite(self._samples), self._rate, sample_rate)
        skipped = round(_MARGIN_SECONDS * sample_rate)
        result = np.zeros(round(self._duration_seconds * sample_rate), dtype=np.float32)
        _place(result, 0, waveform[skipped : skipped + len(result)])
        return result


def mono(frame: AudioFrame) -> Waveform:
    """Returns the mean of the channels, float32 (N,); a damaged float stream may hold what is no number."""
    if frame.format.name == "fltp" and frame.layout.nb_channels <= 2:
        return _mono_of_planes(frame)
    if frame.format.is_planar and frame.layout.nb_channels >= _TOO_MANY_PLANES:
        frame = _packed(frame)
    samples: NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    full_scale = _FULL_SCALE.get(samples.dtype.str[1:])
    # One channel after the other: numpy's mean over a short first axis takes three times as long.
    mixed = samples[0].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        for channel in samples[1:]:
            mixed += channel
        mixed /= len(samples)
        if full_scale is not None:
            offset = 128.0 if samples.dtype == np.uint8 else 0.0
            mixed = (mixed - offset) / full_scale
        waveform: Waveform = mixed.astype(np.float32)
    return waveform


def _mono_of_planes(frame: AudioFrame) -> Waveform:
    """The same for what nearly all clips decode to, one or two planes of float32, at a fifth of the time."""
    first, *others = (np.frombuffer(memoryview(plane), np.float32, frame.samples) for plane in frame.planes)
    waveform: Waveform = first.copy()
    with np.errstate(invalid="ignore", over="ignore"):
        for other in others:
            waveform += other
            waveform *= 0.5
    return waveform


def _packed(frame: AudioFrame) -> AudioFrame:
    """Returns the frame with its channels interleaved."""
    resampler = AudioResampler(format=frame.format.packed, layout=frame.layout, rate=frame.sample_rate)
    [packed] = [*resampler.resample(frame), *resampler.resample(None)]
    return packed


def finite(waveform: Waveform) -> Waveform:
    """Returns the waveform with zeros in place of what is no number, in place."""
    np.nan_to_num(waveform, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return waveform


def check_audio(frame: AudioFrame, name: str) -> None:
    """Raises DecodeError for a sample rate or a number of channels that no audio has."""
    num_channels = frame.layout.nb_channels
    if not (0 < frame.sample_rate <= _MAX_SAMPLE_RATE and 0 < num_channels <= _MAX_CHANNELS):
        text = f"audio of {num_channels} channels at {frame.sample_rate} Hz is none that can be read"
        raise DecodeError(f"{name}: {text}", path=name)


def _place(buffer: Waveform, position: int, waveform: Waveform) -> None:
    """Writes the part of a waveform that falls inside the buffer."""
    first, last = max(0, position), min(len(buffer), position + len(waveform))
    if first < last:
        buffer[first:last] = waveform[first - position : last - position]


def _resampled(waveform: Waveform, rate: int, wanted_rate: int) -> Waveform:
    if rate == wanted_rate:
        return waveform
    frame = AudioFrame.from_ndarray(waveform[np.newaxis], format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = AudioResampler(format="fltp", layout="mono", rate=wanted_rate)
    pieces = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([np.zeros(0, dtype=np.float32), *(piece.to_ndarray()[0] for piece in pieces)])
