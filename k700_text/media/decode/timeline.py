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
# Streams lie side by side in a file, but not to the frame.
_SIDE_BY_SIDE_SECONDS = 1.0


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
        self.first = 0
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

    def enter_whole(self, part: int, shift: float) -> None:
        """Puts all of it into another part, it having been in none but the first."""
        self.shifts = [(0, shift)]
        self.part, self.shift = part, shift
        self.start_seconds = self.start_seconds + shift if self.start_seconds is not None else None

    def amend(self, shift: float) -> None:
        """Moves what it has of the part it is in."""
        self.shifts[-1] = self.shifts[-1][0], shift
        self.shift = shift

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
        if packet.is_discard:  # an edit list leaves it out; its times may be any
            track.num_packets += 1
            track.num_untimed += shown is None
            return
        if decoded is not None:
            if not track.earliest <= decoded <= track.latest or track.part != len(self._parts) - 1:
                self._follow(track, decoded)
            track.first = decoded if track.decoded is None else track.first
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
            if self._goes_on(track, decoded):
                later = [part for part in later if self._is_beside(track, decoded, part)]
        elif not later:
            later = [self._jump(track, decoded)]
        if later:
            track.go_on(later[0], self._parts[later[0]][0])

    def _jump(self, track: Track, decoded: int) -> int:
        """Returns the part that begins with a packet; the newest if that has hardly begun, moved to where this ends."""
        self.jumps = True
        seconds, newest = decoded * track.seconds_per_tick, len(self._parts) - 1
        shift = track.next_seconds - seconds
        if newest > track.part and shift > self._parts[newest][0] and self._is_young(newest, seconds):
            # The stream that showed the jump first had ended long before this one.
            self._parts[newest] = shift, self._parts[newest][1]
            for other in self.tracks.values():
                if other.part == newest:
                    other.amend(shift)
            return newest
        self._parts.append((shift, self._place))
        for other in self.tracks.values():
            if other is not track and self._came_early(other, seconds, track.next_seconds):
                other.enter_whole(newest + 1, shift)
        return newest + 1

    def _is_young(self, part: int, seconds: float) -> bool:
        """Returns whether all that a part has lies, on the file's own clock, within a moment of a time."""
        latest = self._latest(track for track in self.tracks.values() if track.part == part)
        return abs(latest - self._parts[part][0] - seconds) <= _SIDE_BY_SIDE_SECONDS

    def _came_early(self, track: Track, seconds: float, ends: float) -> bool:
        """Returns whether a stream began with the part that another one now begins, and not before that."""
        if track.decoded is None or track.shifts or not self._can_leap:
            return False
        first, last = track.first * track.seconds_per_tick, track.next_seconds
        is_beside = max(abs(first - seconds), abs(last - seconds)) <= _SIDE_BY_SIDE_SECONDS
        return is_beside and ends - last > _SIDE_BY_SIDE_SECONDS

    def _goes_on(self, track: Track, decoded: int) -> bool:
        """Returns whether a packet comes when the one before it ended."""
        return track.decoded is not None and abs(decoded - track.next) * track.seconds_per_tick <= _MAX_BACK_SECONDS

    def _is_beside(self, track: Track, decoded: int, part: int) -> bool:
        """Returns whether a packet, were it of a part, would lie beside what else there is of it."""
        seconds = decoded * track.seconds_per_tick + self._parts[part][0]
        others = (other for other in self.tracks.values() if other.part == part)
        return abs(self._latest(others) - seconds) <= _SIDE_BY_SIDE_SECONDS / 2

    def _fits(self, track: Track, decoded: int, part: int) -> bool:
        if track.decoded is None:
            return True
        seconds = decoded * track.seconds_per_tick + self._parts[part][0]
        if seconds < track.decoded * track.seconds_per_tick + track.shift - _MAX_BACK_SECONDS:
            return False
        return not self._can_leap or seconds <= self._latest(self.tracks.values()) + _MAX_AHEAD_SECONDS

    @staticmethod
    def _latest(tracks: Iterable[Track]) -> float:
        return max((track.next_seconds for track in tracks if track.decoded is not None), default=0.0)


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
