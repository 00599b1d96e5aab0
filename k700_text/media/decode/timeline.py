"""How long the streams of a file are and where its clock jumps, told by its packets: a file may declare anything.

Recordings that were joined or interrupted have times that begin again, or that leap ahead. As FFmpeg's own programs do,
the clock then goes on where it was, for all streams of the file by the same step, so that sound and pictures stay
together. Where one stream pauses while another goes on, nothing has jumped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# FFmpeg's dts_delta_threshold, and how far it lets decoding times go back.
_MAX_AHEAD_SECONDS = 10.0
_MAX_BACK_SECONDS = 0.1


@dataclass(slots=True)
class Track:
    """One stream of a timeline; times are the container's, jumps mended.

    Attributes:
        step_seconds: what a packet lasts that says nothing about it.
        start_seconds: when its first packet begins, None before it came.
        end_seconds: when its last packet ends.
        num_packets: how many it has.
        num_untimed: how many of them do not say when they are shown.
        shifts: number of a packet, and by how much it and those after it are shown later than they say, seconds.
    """

    step_seconds: float
    start_seconds: float | None = None
    end_seconds: float = 0.0
    num_packets: int = 0
    num_untimed: int = 0
    shifts: list[tuple[int, float]] = field(default_factory=list)
    _part: int = 0
    _decoded_seconds: float | None = None
    _next_seconds: float = 0.0


class Timeline:
    """The clock of a file, from all its packets in the order in which they lie there.

    Args:
        steps: what a packet lasts that says nothing about it, by index of the stream.
        can_leap: times of this format may leap ahead without meaning it.

    Attributes:
        tracks: by index of the stream.
        jumps: the clock of the file jumps.
    """

    def __init__(self, steps: dict[int, float], *, can_leap: bool) -> None:
        self.tracks = {index: Track(step) for index, step in steps.items()}
        self.jumps = False
        self._can_leap = can_leap
        # Of every part between jumps: by how much it is late, and where it begins in the file.
        self._parts: list[tuple[float, int]] = [(0.0, 0)]
        self._place = 0
        self._known: set[int] = set()

    def add(self, packet: Any) -> None:
        """Takes the next packet of the file."""
        track = self.tracks.get(packet.stream.index)
        if track is None or not packet.size:
            return
        if packet.pos is not None:
            self._place = packet.pos
        base = packet.time_base
        seconds_per_tick = base.numerator / base.denominator
        shown = packet.pts if packet.pts is not None else packet.dts
        if packet.dts is not None:
            self._follow(track, packet.dts * seconds_per_tick)
        track.num_packets += 1
        track.num_untimed += packet.pts is None
        if self._can_leap and packet.is_keyframe:
            self._known.add(_mark(packet))
        lasts = packet.duration * seconds_per_tick if packet.duration else track.step_seconds
        shift = self._parts[track._part][0]
        if packet.dts is not None:
            track._decoded_seconds = packet.dts * seconds_per_tick + shift
            track._next_seconds = track._decoded_seconds + lasts
        if packet.is_discard:  # an edit list leaves it out
            return
        if shown is None:
            track.end_seconds += track.step_seconds or lasts
            return
        begin = shown * seconds_per_tick + shift
        track.start_seconds = begin if track.start_seconds is None else track.start_seconds
        track.end_seconds = max(track.end_seconds, begin + lasts)

    def knows(self, packet: Any) -> bool:
        """Returns whether decoding may begin with a packet, which came whole and with its own times."""
        return not self._can_leap or _mark(packet) in self._known

    def _follow(self, track: Track, seconds: float) -> None:
        """Finds the part that a packet decoded at a time belongs to; a new one where the clock has jumped."""
        newest = len(self._parts) - 1
        if track._part == newest and self._fits(track, seconds, newest):
            return
        later = [part for part in range(newest, track._part, -1) if self._fits(track, seconds, part)]
        if self._fits(track, seconds, track._part):
            # What lies before the jump in the file belongs to what was before it.
            later = [part for part in later if self._place >= self._parts[part][1]]
        elif not later:
            self._parts.append((track._next_seconds - seconds, self._place))
            later = [newest + 1]
            self.jumps = True
        if later:
            track._part = later[0]
            track.shifts.append((track.num_packets, self._parts[later[0]][0]))

    def _fits(self, track: Track, seconds: float, part: int) -> bool:
        seconds += self._parts[part][0]
        if track._decoded_seconds is None:
            return True
        if seconds < track._decoded_seconds - _MAX_BACK_SECONDS:
            return False
        soon = max(other._next_seconds for other in self.tracks.values()) + _MAX_AHEAD_SECONDS
        return not self._can_leap or seconds <= soon


def _mark(packet: Any) -> int:
    return hash((packet.stream.index, packet.pos, packet.pts, packet.dts, packet.size))


class Shifter:
    """Moves the packets of one pass over a file that jumps, from its first packet on, to the mended clock."""

    def __init__(self, timeline: Timeline) -> None:
        self._left: dict[int, list[tuple[int, float]]] = {
            index: track.shifts[::-1] for index, track in timeline.tracks.items()
        }
        self._num_packets = dict.fromkeys(self._left, 0)
        self._shifts = dict.fromkeys(self._left, 0.0)

    def move(self, packet: Any) -> None:
        """Changes the times of the next packet of a stream."""
        index = packet.stream.index
        if not packet.size or index not in self._left:
            return
        left = self._left[index]
        while left and left[-1][0] <= self._num_packets[index]:
            self._shifts[index] = left.pop()[1]
        self._num_packets[index] += 1
        ticks = round(self._shifts[index] / packet.time_base)
        if ticks:
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
