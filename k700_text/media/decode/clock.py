"""Reading when frames are shown, in clip time, from the timestamps that files have: uneven, negative or missing."""

from __future__ import annotations

from enum import Enum
from fractions import Fraction
from typing import Any


class TimeSource(Enum):
    """What tells when frames of a stream are shown."""

    PTS = "pts"
    """Every frame its own presentation time; should one lack it, its decoding time."""
    SOME_PTS = "some_pts"
    """Presentation times that only some frames have: decoding times would put frames that are reordered too early."""
    DTS = "dts"
    """Decoding times, in the order in which frames come out of the decoder."""


class Clock:
    """Reads frame times of one stream in seconds of clip time, and bridges missing timestamps.

    Attributes:
        step_seconds: what a frame lasts that says nothing about it.
        time_seconds: of the frame read last.
        duration_seconds: of the frame read last.
        went_back: the frame read last lies before the one read before it.
    """

    def __init__(self, stream: Any, source: TimeSource, origin: Fraction, step_seconds: float) -> None:
        self.step_seconds = step_seconds
        self.time_seconds = 0.0
        self.duration_seconds = step_seconds
        self.went_back = False
        self._source = source
        # Whole numbers, once: Fractions for every frame cost more than decoding a packet of audio.
        base = Fraction(stream.time_base) if stream is not None else Fraction(1)
        self._ticks_scale = base.numerator * origin.denominator
        self._offset = origin.numerator * base.denominator
        self._divisor = base.denominator * origin.denominator
        self._seconds_per_tick = float(base)
        self._num_read = 0

    def can_tell(self, frame: Any) -> bool:
        """Returns whether the frame has a time of its own."""
        return self._ticks(frame) is not None

    def read(self, frame: Any) -> float:
        """Returns when the frame begins; one without a time begins where the one before it ended."""
        ticks = self._ticks(frame)
        if ticks is not None:
            seconds = (ticks * self._ticks_scale - self._offset) / self._divisor
        else:
            seconds = self.time_seconds + self.step_seconds if self._num_read else 0.0
        self.went_back = self._num_read > 0 and seconds < self.time_seconds
        self._num_read += 1
        self.time_seconds = seconds
        self.duration_seconds = frame.duration * self._seconds_per_tick if frame.duration else self.step_seconds
        return seconds

    @property
    def end_seconds(self) -> float:
        """When the frame read last ends."""
        return self.time_seconds + self.duration_seconds

    def _ticks(self, frame: Any) -> int | None:
        if self._source is TimeSource.PTS:
            ticks = frame.pts if frame.pts is not None else frame.dts
        elif self._source is TimeSource.SOME_PTS or (frame.dts is None and not self._num_read):
            ticks = frame.pts
        else:
            ticks = frame.dts
        return None if ticks is None else int(ticks)
