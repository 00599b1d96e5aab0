"""From decoded pieces of audio to one stretch of it: mono, where its timestamps put it, at the rate asked for.

Mono is the mean of the channels, but where they cancel (see ``levels.mix``). FFmpeg's own down-mix adds powers (stereo
that agrees comes out 1.41 times as loud), and torchcodec's does the same: whatever is compared with this must be mixed
like this.

Axes: N samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from k700_text.media.clip import Waveform
from k700_text.media.levels import Channels, Loudness, Run, Sound, block_length, listen, mix

PREROLL_SECONDS = 0.3
"""What is decoded before the first sample that is wanted: codecs need some packets to settle."""

_MARGIN_SECONDS = 0.1
_JITTER_SECONDS = 0.02
_MAX_SAMPLE_RATE = 768_000
_MAX_CHANNELS = 64
# PyAV counts the planes of a frame up to a null pointer, and of 8 finds none: it would read what is no memory.
_TOO_MANY_PLANES = 8
_FULL_SCALE = {"u1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31, "i8": 2.0**63}
# What is above it, full scale being 1, is damage; float files whose full scale is 32768 are not.
_MAX_SAMPLE = 1e9
# Values of all channels that are gathered before they are mixed: 16 MiB.
_MAX_VALUES = 1 << 22


@dataclass(frozen=True, slots=True)
class _Track:
    """Mono sound of one sample rate: pieces, each with its place in the stretch, samples."""

    sample_rate: int
    pieces: list[tuple[int, Waveform]] = field(default_factory=list)

    @property
    def start(self) -> int:
        return self.pieces[0][0] if self.pieces else 0

    @property
    def end(self) -> int:
        return max((place + len(piece) for place, piece in self.pieces), default=0)


class Stretch:
    """A stretch of audio that is put together from decoded frames.

    Where the sample rate changes midway, what comes before and behind is resampled each by itself.

    Args:
        start_seconds: clip time of its first sample.
        duration_seconds: its length.

    Attributes:
        first_seconds: clip time at which the first frame must begin, or earlier.
    """

    def __init__(self, start_seconds: float, duration_seconds: float) -> None:
        # The resampler needs a little of what lies before and after.
        self.first_seconds = start_seconds - _MARGIN_SECONDS
        self._duration_seconds = duration_seconds
        self._end: tuple[int, int] | None = None
        self._run: Run | None = None
        self._tracks: list[_Track] = []
        self._loudness = Loudness()

    def put(self, seconds: float, frame: AudioFrame) -> bool:
        """Adds a frame that begins at a clip time; returns False once the stretch is full."""
        rate, num_channels = frame.sample_rate, frame.layout.nb_channels
        place = self._place_of(seconds, rate)
        if place >= self._length(rate):
            return False
        self._end = place + frame.samples, rate
        if self._end[0] <= 0:
            return True
        run = self._run
        if run is None or (run.sample_rate, run.num_channels, run.end) != (rate, num_channels, place):
            self._close_run()
            run = self._run = Run(rate, num_channels, place)
        run.add(channels_of(frame))
        if run.num_values > _MAX_VALUES:
            self._listen(run, block_length(rate))
        return True

    def sound(self, sample_rate: int) -> Sound:
        """Returns the stretch at a rate, N = round(duration * rate); zeros where no frame was."""
        self._close_run()
        skipped = round(_MARGIN_SECONDS * sample_rate)
        waveform = np.zeros(round(self._duration_seconds * sample_rate), dtype=np.float32)
        for number, track in enumerate(self._tracks):
            is_last = number == len(self._tracks) - 1
            start = 0 if number == 0 else max(0, track.start)
            end = self._length(track.sample_rate) if is_last else min(track.end, self._length(track.sample_rate))
            samples = np.zeros(max(0, end - start), dtype=np.float32)
            for place, piece in track.pieces:
                _place(samples, place - start, piece)
            resampled = _resampled(samples, track.sample_rate, sample_rate)
            _add(waveform, round(start * sample_rate / track.sample_rate) - skipped, resampled)
        return Sound(waveform, self._loudness)

    def _length(self, sample_rate: int) -> int:
        return round((self._duration_seconds + 2 * _MARGIN_SECONDS) * sample_rate)

    def _place_of(self, seconds: float, sample_rate: int) -> int:
        stamped = round((seconds - self.first_seconds) * sample_rate)
        if self._end is None:
            return stamped
        end, end_rate = self._end
        end = end if end_rate == sample_rate else round(end * sample_rate / end_rate)
        # Timestamps of some containers are rounded to milliseconds: small steps are no gaps.
        return stamped if abs(stamped - end) > _JITTER_SECONDS * sample_rate else end

    def _close_run(self) -> None:
        if self._run is not None and self._run.num_values:
            self._listen(self._run, 1)
        self._run = None

    def _listen(self, run: Run, multiple: int) -> None:
        place, rate = run.start, run.sample_rate
        channels = cleaned(run.take(multiple))
        if not channels.shape[1]:
            return
        blocks = listen(channels, rate)
        if not self._tracks or self._tracks[-1].sample_rate != rate:
            self._tracks.append(_Track(rate))
        self._tracks[-1].pieces.append((place, mix(channels, rate, blocks)))
        self._loudness.add(place / rate - _MARGIN_SECONDS, channels.shape[1], rate, blocks)


def channels_of(frame: AudioFrame) -> Channels:
    """Returns the samples of a frame, of which damaged ones may be no numbers; they may lie where the decoder put them.

    They are not to be written to.
    """
    num_channels = frame.layout.nb_channels
    if frame.format.name == "fltp" and num_channels < _TOO_MANY_PLANES:
        # What nearly all clips decode to, at a fifth of the time.
        return [np.frombuffer(memoryview(plane), np.float32, frame.samples) for plane in frame.planes]
    if frame.format.is_planar and num_channels >= _TOO_MANY_PLANES:
        frame = _packed(frame)
    samples: NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, num_channels).T
    full_scale = _FULL_SCALE.get(samples.dtype.str[1:])
    with np.errstate(invalid="ignore", over="ignore"):
        if full_scale is not None:
            offset = 128.0 if samples.dtype == np.uint8 else 0.0
            samples = (samples - offset) / full_scale
        channels: Waveform = np.ascontiguousarray(samples, np.float32)
    return channels


def cleaned(channels: Waveform) -> Waveform:
    """Returns channels, at least one sample of each, with zeros in place of what is no number or no sound."""
    if channels.size and not max(channels.max(), -channels.min()) <= _MAX_SAMPLE:
        channels = np.where(np.abs(channels) <= _MAX_SAMPLE, channels, np.float32(0))
    return channels


def _packed(frame: AudioFrame) -> AudioFrame:
    """Returns the frame with its channels interleaved."""
    resampler = AudioResampler(format=frame.format.packed, layout=frame.layout, rate=frame.sample_rate)
    [packed] = [*resampler.resample(frame), *resampler.resample(None)]
    return packed


def oddity_of(frame: AudioFrame) -> str | None:
    """Returns what is odd about a frame whose sample rate or number of channels no audio has, None of others."""
    num_channels = frame.layout.nb_channels
    if 0 < frame.sample_rate <= _MAX_SAMPLE_RATE and 0 < num_channels <= _MAX_CHANNELS:
        return None
    return f"audio of {num_channels} channels at {frame.sample_rate} Hz is none that can be read"


def _place(buffer: Waveform, position: int, waveform: Waveform) -> None:
    """Writes the part of a waveform that falls inside the buffer."""
    first, last = max(0, position), min(len(buffer), position + len(waveform))
    if first < last:
        buffer[first:last] = waveform[first - position : last - position]


def _add(buffer: Waveform, position: int, waveform: Waveform) -> None:
    """Adds the part of a waveform that falls inside the buffer."""
    first, last = max(0, position), min(len(buffer), position + len(waveform))
    if first < last:
        buffer[first:last] += waveform[first - position : last - position]


def _resampled(waveform: Waveform, rate: int, wanted_rate: int) -> Waveform:
    if rate == wanted_rate or not len(waveform):
        return waveform
    frame = AudioFrame.from_ndarray(waveform[np.newaxis], format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = AudioResampler(format="fltp", layout="mono", rate=wanted_rate)
    pieces = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([np.zeros(0, dtype=np.float32), *(piece.to_ndarray()[0] for piece in pieces)])
