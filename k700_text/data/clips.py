"""Where a dataset's clips come from: a folder of files, some files by name, or prepared shards.

A source finds the clips of a manifest once, and opens one of them in any process. It pickles to paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from k700_text.config import AudioConfig
from k700_text.data.store import PlainRead
from k700_text.errors import DecodeError, UsageError
from k700_text.files.stamps import Stamp, folder_stamps, stamp_of
from k700_text.media.clip import DEFAULT_LIMITS, Cut, DecodeLimits, FrameArray, OpenClip
from k700_text.media.decode import ClipReader, PacketReader
from k700_text.media.files import index_clips
from k700_text.media.log_mel import FloatArray
from k700_text.media.packet_index import PacketIndex
from k700_text.media.prepared import PreparedClips
from k700_text.media.shards import is_prepared

_Read = TypeVar("_Read")

Clips = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]
"""A folder of clip files, a folder or URL of prepared shards, or the file of every clip id."""

NotePlainRead = Callable[[PlainRead], None]
"""Is told why a clip is read without its packet table."""


class ClipSource(Protocol):
    """Opens the clips that it has found."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def identity(self) -> str | None:
        """What ``locate`` depends on beside ``stamps``; None if its answer is not to be kept."""

    def stamps(self) -> dict[str, Stamp]:
        """Returns what changes when the clips do, by path: read before ``locate``, compared when its answer is used."""

    def locate(self, clip_ids: pa.ChunkedArray) -> pa.Array:
        """Returns where each clip is, large_string or int64; null for one that it does not have."""

    def skipped(self, clip_ids: pa.ChunkedArray) -> pa.Array:
        """Returns why clips that were there were left out when others were prepared, text; null for all others."""

    def open(self, place: str | int, note_plain_read: NotePlainRead) -> OpenClip:
        """Returns a clip, open.

        Raises:
            DecodeError: it cannot be opened.
        """


def clip_source(clips: Clips, packets: str | os.PathLike[str] | None, audio: AudioConfig) -> ClipSource:
    """Returns the source that arguments of ``KineticsAVT`` name.

    Raises:
        UsageError: a folder does not exist, or there are packet tables for what is no folder of clip files.
        ConfigError: the shards hold audio of another kind than asked for.
        StorageError: a file of the prepared shards is missing or damaged.
    """
    if isinstance(clips, Mapping):
        if packets is not None:
            raise UsageError("packets= goes with a folder of clip files, not with a mapping: give the folder")
        return FileClips(clips)
    if "://" in os.fspath(clips) or is_prepared(clips):
        if packets is not None:
            raise UsageError(
                f"{clips} holds prepared shards, which have packet tables of their own: leave out packets="
            )
        return ShardClips(PreparedClips(clips), audio)
    return FolderClips(clips, None if packets is None else PacketIndex(os.fspath(packets)))


class FileClips:
    """Clip files by clip id."""

    name = "the clips given"
    identity = None

    def __init__(self, files: Mapping[str, str | os.PathLike[str]], *, limits: DecodeLimits = DEFAULT_LIMITS) -> None:
        self._files = files
        self._limits = limits

    def __getstate__(self) -> dict[str, Any]:
        # The rows have the paths by now.
        return {"_files": {}, "_limits": self._limits}

    def stamps(self) -> dict[str, Stamp]:
        """Returns nothing: what it finds is not kept."""
        return {}

    def locate(self, clip_ids: pa.ChunkedArray) -> pa.Array:
        """Returns the files."""
        paths = (self._files.get(clip_id) for clip_id in clip_ids.to_pylist())
        try:
            return pa.array([None if path is None else os.fspath(path) for path in paths], pa.large_string())
        except UnicodeEncodeError as error:
            raise UsageError(f"{error.object!r} is not UTF-8 text: rename that file or folder") from error

    def skipped(self, clip_ids: pa.ChunkedArray) -> pa.Array:
        """Returns nothing: what a file holds is seen when it is read."""
        return pa.nulls(len(clip_ids), pa.string())

    def open(self, place: str | int, note_plain_read: NotePlainRead) -> OpenClip:
        """Returns the file, open."""
        return ClipReader(str(place), limits=self._limits)


class FolderClips:
    """The clip files below a folder; those with a packet table that fits them are read by it."""

    def __init__(
        self, root: str | os.PathLike[str], packets: PacketIndex | None = None, *, limits: DecodeLimits = DEFAULT_LIMITS
    ) -> None:
        self.name = f"{os.fspath(root)} (files named after their clip_id)"
        self._root = str(Path(root).absolute())
        self._packets = packets
        self._limits = limits

    @property
    def identity(self) -> str:
        """The folder."""
        return f"files in {os.path.realpath(self._root)}"

    def stamps(self) -> dict[str, Stamp]:
        """Returns the stamps of all folders, which tell of every file that came, went or was renamed."""
        try:
            return folder_stamps(self._root)
        except FileNotFoundError as error:
            raise UsageError(f"{error.filename}: no such folder") from error
        except OSError as error:
            raise UsageError(f"{error.filename}: not a folder that can be read ({error.strerror})") from error

    def locate(self, clip_ids: pa.ChunkedArray) -> pa.Array:
        """Returns the files, relative to the folder."""
        return index_clips(self._root).find(clip_ids)

    def skipped(self, clip_ids: pa.ChunkedArray) -> pa.Array:
        """Returns nothing: what a file holds is seen when it is read."""
        return pa.nulls(len(clip_ids), pa.string())

    def open(self, place: str | int, note_plain_read: NotePlainRead) -> OpenClip:
        """Returns the file, open."""
        path = f"{self._root}/{place}"
        if self._packets is None:
            return ClipReader(path, limits=self._limits)
        clip = _by_packets(path, str(place), self._packets, self._limits)
        if isinstance(clip, PlainRead):
            note_plain_read(clip)
            return ClipReader(path, limits=self._limits)
        return _WatchedClip(*clip, lambda: ClipReader(path, limits=self._limits), note_plain_read)


class ShardClips:
    """The clips of prepared shards."""

    def __init__(self, clips: PreparedClips, audio: AudioConfig) -> None:
        clips.settings.check_audio(audio)
        self._clips = clips

    @property
    def name(self) -> str:
        """Where the shards are."""
        return f"the prepared shards in {self._clips.location}"

    @property
    def identity(self) -> str:
        """Where the shards are, and their index: of remote shards that is a copy, another one for another content."""
        return f"shards in {self._clips.location} by {self._clips.index.path}"

    def stamps(self) -> dict[str, Stamp]:
        """Returns the stamp of the index, which is written when shards are."""
        path = str(self._clips.index.path)
        return {path: stamp_of(path)}

    def locate(self, clip_ids: pa.ChunkedArray) -> pa.Array:
        """Returns the row numbers of the records, in the order in which they are stored."""
        return self._clips.find_all(clip_ids).cast(pa.int64())

    def skipped(self, clip_ids: pa.ChunkedArray) -> pa.Array:
        """Returns why clips were skipped."""
        return self._clips.index.skipped(clip_ids)

    def open(self, place: str | int, note_plain_read: NotePlainRead) -> OpenClip:
        """Returns the record."""
        return self._clips.open(int(place))


class _OpenFile:
    """A file that is read at any place."""

    def __init__(self, path: str) -> None:
        # Not to wait for a writer, should it be a pipe.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(self._descriptor)
        self.stamp = (status.st_size, status.st_mtime_ns)
        self._is_open = True

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self._descriptor)


def _by_packets(
    path: str, name: str, index: PacketIndex, limits: DecodeLimits
) -> tuple[PacketReader, _OpenFile] | PlainRead:
    """Returns a file to be read by its packet table, or why it cannot be."""
    number = index.find(name)
    if number is None:
        return PlainRead.NOT_INDEXED
    try:
        packets = index.packets(number)
    except DecodeError:  # its table is damaged, not the clip
        return PlainRead.MISFIT
    if packets is None:
        return PlainRead.NO_TABLE
    try:
        file = _OpenFile(path)
    except OSError:
        return PlainRead.CHANGED
    if file.stamp != index.stamp(number):
        file.close()
        return PlainRead.CHANGED
    return PacketReader(path, packets, file.read, limits=limits), file


class _WatchedClip:
    """A file read by its packet table; should it not decode that way, it is read from then on without."""

    def __init__(
        self, clip: PacketReader, file: _OpenFile, open_plain: Callable[[], OpenClip], note: NotePlainRead
    ) -> None:
        self._clip: OpenClip = clip
        self._file = file
        self._open_plain = open_plain
        self._note = note

    @property
    def name(self) -> str:
        """The file."""
        return self._clip.name

    @property
    def has_video(self) -> bool:
        """There is a video stream."""
        return self._clip.has_video

    @property
    def has_audio(self) -> bool:
        """There is an audio stream."""
        return self._clip.has_audio

    @property
    def frame_grid_seconds(self) -> float | None:
        """None: the clip is as it came."""
        return self._clip.frame_grid_seconds

    @property
    def video_end_seconds(self) -> float | None:
        """Clip time at which the video ends, if known."""
        return self._clip.video_end_seconds

    def video_seconds(self) -> float:
        """Returns the length of the video."""
        return self._clip.video_seconds()

    def audio_seconds(self) -> float | None:
        """Returns the length of the audio."""
        return self._clip.audio_seconds()

    def read_cut(self, start_seconds: float, num_frames: int, frame_rate: float, cut: Cut) -> FrameArray:
        """Returns frames, as every ``OpenClip``."""
        return self._read(lambda clip: clip.read_cut(start_seconds, num_frames, frame_rate, cut))

    def read_log_mel(self, start_seconds: float | None, config: AudioConfig) -> tuple[FloatArray, float]:
        """Returns a log-mel spectrogram and its level, as every ``OpenClip``."""
        return self._read(lambda clip: clip.read_log_mel(start_seconds, config))

    def close(self) -> None:
        """Closes it; safe to call twice."""
        self._clip.close()
        self._file.close()

    def _read(self, read: Callable[[OpenClip], _Read]) -> _Read:
        try:
            return read(self._clip)
        except DecodeError:
            if not isinstance(self._clip, PacketReader):
                raise
        self._note(PlainRead.MISFIT)
        self._clip.close()
        self._clip = self._open_plain()
        return read(self._clip)
