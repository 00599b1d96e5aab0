"""How long the streams of a file are and where its clock jumps, told by its packets: a file may declare anything.

Recordings that were joined or interrupted have times that begin again, or that leap ahead. As FFmpeg's own programs do,
the clock then goes on where it was, for all streams of the file by the same step, so that sound and pictures stay
together. Where one stream pauses while another goes on, nothing has jumped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

# FFmpeg's dts_delta_threshold, and how far it lets decoding times go back.
_MAX_AHEAD_SECONDS = 10.0
_MAX_BACK_SECONDS = 0.1


class Track:
    """One stream of a timeline; times are the container's, jumps mended.

    Args:
        stream: the stream.
        step_seconds: what a packet lasts that says nothing about it.

    Attributes:
        start_seconds: when its first packet with a time begins, None before it came.
        num_packets: how many it has.
        num_untimed: how many of them do not say when they are shown.
        shifts: number of a packet, and by how much it and those after it are shown later than they say, seconds.
    """

    def __init__(self, stream: Any, step_seconds: float) -> None:
        self.start_seconds: float | None = None
        self.num_packets = self.num_untimed = 0
        self.shifts: list[tuple[int, float]] = []
        self.part = 0
        self.shift = 0.0
        # Whole ticks: a pass over all packets costs as much as Python does for each.
        self.seconds_per_tick: float = stream.time_base.numerator / stream.time_base.denominator
        self.step = round(step_seconds / self.seconds_per_tick)
        self.decoded: int | None = None
        self.next = 0
        self.earliest: float = -math.inf
        self.latest: float = math.inf
        self._end = 0
        self._has_end = False
        self._end_before = 0.0

    @property
    def end_seconds(self) -> float:
        """When its last packet ends."""
        return max(self._end_before, self._end * self.seconds_per_tick + self.shift) if self._has_end else 0.0

    @property
    def next_seconds(self) -> float:
        """When its next packet is to be decoded."""
        return self.next * self.seconds_per_tick + self.shift

    def go_on(self, part: int, shift: float) -> None:
        """Enters another part."""
        self._end_before, self._end = self.end_seconds, self._end if not self._has_end else -(2**62)
        self.part, self.shift = part, shift
        self.shifts.append((self.num_packets, shift))

    def extend(self, begin: int, lasts: int) -> None:
        """Takes note of when a packet is shown."""
        if not self._has_end:
            self._has_end = True
            self.start_seconds = begin * self.seconds_per_tick + self.shift
            self._end = begin + lasts
        elif begin + lasts > self._end:
            self._end = begin + lasts

    def append(self, lasts: int) -> None:
        """Takes note of a packet that is shown when the one before it ended."""
        self._has_end = True
        self._end += lasts


class Timeline:
    """The clock of a file, from all its packets in the order in which they lie there.

    Args:
        steps: streams, and what a packet of each lasts that says nothing about it, seconds.
        can_leap: times of this format may leap ahead without meaning it.

    Attributes:
        tracks: by index of the stream.
        jumps: the clock of the file jumps.
    """

    def __init__(self, steps: Iterable[tuple[Any, float]], *, can_leap: bool) -> None:
        self.tracks = {stream.index: Track(stream, step) for stream, step in steps}
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
        shown, decoded, place = packet.pts, packet.dts, packet.pos
        if self._can_leap and _is_torn(shown, decoded, track.seconds_per_tick):
            shown = None
        lasts = packet.duration or track.step
        if place is not None:
            self._place = place
        if decoded is not None:
            if not track.earliest <= decoded <= track.latest or track.part != len(self._parts) - 1:
                self._follow(track, decoded)
            track.decoded, track.next = decoded, decoded + lasts
            track.earliest = decoded - _MAX_BACK_SECONDS / track.seconds_per_tick
            if self._can_leap:
                track.latest = track.next + _MAX_AHEAD_SECONDS / track.seconds_per_tick
        if self._can_leap and packet.is_keyframe:
            self._known.add(_mark(packet))
        track.num_packets += 1
        if shown is None:
            track.num_untimed += 1
            shown = decoded
        if packet.is_discard:  # an edit list leaves it out
            return
        if shown is None:
            track.append(track.step or lasts)
        else:
            track.extend(shown, lasts)

    def knows(self, packet: Any) -> bool:
        """Returns whether decoding may begin with a packet, which came whole and with its own times."""
        return not self._can_leap or _mark(packet) in self._known

    def _follow(self, track: Track, decoded: int) -> None:
        """Finds the part that a packet decoded at a time belongs to; a new one where the clock has jumped."""
        newest = len(self._parts) - 1
        later = [part for part in range(newest, track.part, -1) if self._fits(track, decoded, part)]
        if self._fits(track, decoded, track.part):
            # What lies before the jump in the file belongs to what was before it.
            later = [part for part in later if self._place >= self._parts[part][1]]
        elif not later:
            shift = track.next_seconds - decoded * track.seconds_per_tick
            self._parts.append((shift, self._place))
            later = [newest + 1]
            self.jumps = True
        if later:
            track.go_on(later[0], self._parts[later[0]][0])

    def _fits(self, track: Track, decoded: int, part: int) -> bool:
        if track.decoded is None:
            return True
        seconds = decoded * track.seconds_per_tick + self._parts[part][0]
        if seconds < track.decoded * track.seconds_per_tick + track.shift - _MAX_BACK_SECONDS:
            return False
        soon = max(other.next_seconds for other in self.tracks.values()) + _MAX_AHEAD_SECONDS
        return not self._can_leap or seconds <= soon


def _is_torn(shown: int | None, decoded: int | None, seconds_per_tick: float) -> bool:
    """Returns whether FFmpeg took the time at which a packet is shown from behind a jump."""
    if shown is None or decoded is None:
        return False
    return not -_MAX_BACK_SECONDS <= (shown - decoded) * seconds_per_tick <= _MAX_AHEAD_SECONDS


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
        if _is_torn(packet.pts, packet.dts, float(packet.time_base)):
            packet.pts = None
        ticks = round(self._shifts[index] / packet.time_base)
        if ticks:
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
