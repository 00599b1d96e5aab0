"""Reading clips from prepared shards: only the bytes of a record that a sample needs, and no demuxer."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow as pa

from k700_text.config import AudioConfig
from k700_text.errors import DecodeError, StorageError
from k700_text.files.storage import ByteRange, Storage, open_storage
from k700_text.media.clip import DEFAULT_LIMITS, Cut, DecodeLimits, FrameArray, LogMelTrack, Waveform
from k700_text.media.decode import PacketReader
from k700_text.media.levels import Sound
from k700_text.media.log_mel import FloatArray, read_log_mel, track_window, whole_track
from k700_text.media.packets import ClipPackets
from k700_text.media.shards import (
    CHECKED_BYTES,
    INDEX_FILE,
    PCM16,
    SETTINGS_FILE,
    PreparedSettings,
    ShardIndex,
    ShardRow,
    damaged_blocks,
)

_FULL_SCALE = np.float32(2.0**15)
_F2, _F4 = np.dtype("<f2"), np.dtype("<f4")


_MAX_OFFSET = (1 << 63) - 1  # of a file


class PreparedClips:
    """The clips of a folder or URL of prepared shards. Pickles to its location.

    Args:
        location: folder or URL that ``k700-text prepare`` has written.
        limits: what reading one clip may cost.

    Attributes:
        settings: what is the same in all shards.
        index: the rows of all clips.

    Raises:
        StorageError: it holds no prepared shards, or a file of it is missing or damaged.
        SchemaMismatchError: it was written by another version.
        MissingExtraError: it is a URL, and fsspec is not installed.
    """

    def __init__(self, location: str | os.PathLike[str], *, limits: DecodeLimits = DEFAULT_LIMITS) -> None:
        self._storage = open_storage(location)
        self._limits = limits
        where = self._storage.location
        if not self._storage.exists(SETTINGS_FILE):
            raise StorageError(f"{where}: no prepared shards there (no {SETTINGS_FILE}): check the name", path=where)
        text = self._storage.read_file(SETTINGS_FILE)
        self.settings = PreparedSettings.from_json(text, f"{where}/{SETTINGS_FILE}")
        self.index = ShardIndex(self._storage.local_file(INDEX_FILE))

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self._storage.location, self._limits)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def location(self) -> str:
        """Absolute path or URL."""
        return self._storage.location

    def find(self, clip_id: str) -> int | None:
        """Returns the row number of a clip that is in a shard, None where there is none."""
        return self.index.find(clip_id)

    def find_all(self, clip_ids: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Returns the row numbers of many clips, int32; null for one that is in no shard."""
        return self.index.find_all(clip_ids)

    def open(self, row_number: int) -> PreparedClip:
        """Returns the clip of a row; nothing is read yet.

        Raises:
            DecodeError: the clip is in no shard (it was skipped; the message says why), or its row is damaged.
        """
        return PreparedClip(self._storage, self.index.row(row_number), self.settings, limits=self._limits)


def _opened(location: str, limits: DecodeLimits) -> PreparedClips:
    return PreparedClips(location, limits=limits)


class PreparedClip:
    """One record of a shard, as an ``OpenClip``: what is read of it is checked against its checksums first.

    A record that is damaged is a DecodeError, as a clip file is; a shard that is missing, cut short or out of reach is
    a StorageError, from whatever method meets it.
    """

    def __init__(
        self, storage: Storage, row: ShardRow, settings: PreparedSettings, *, limits: DecodeLimits = DEFAULT_LIMITS
    ) -> None:
        self.name = f"{storage.location}/{row.shard}: {row.clip_id}"
        if row.is_skipped:
            raise DecodeError(f"{self.name} was skipped when clips were prepared: {row.reason}", path=self.name)
        self._storage = storage
        self._row = row
        self._settings = settings
        self._limits = limits
        self._video: PacketReader | None = None

    @property
    def has_video(self) -> bool:
        """There are frames in the record."""
        return self._row.has_video

    @property
    def has_audio(self) -> bool:
        """There is audio in the record."""
        return self._row.has_audio

    @property
    def frame_grid_seconds(self) -> float:
        """Time between frames."""
        return 1 / self._settings.frame_rate

    @property
    def video_end_seconds(self) -> float:
        """Clip time at which the last frame ends."""
        return self._row.video_seconds

    def video_seconds(self) -> float:
        """Returns the length of the video, 0 without one."""
        return self._row.video_seconds

    def audio_seconds(self) -> float | None:
        """Returns the length of the audio, None without any."""
        return self._row.audio_seconds if self._row.has_audio else None

    def read_cut(self, start_seconds: float, num_frames: int, frame_rate: float, cut: Cut) -> FrameArray:
        """Returns the frames shown at ``start_seconds + k / frame_rate``, cut: uint8 (T, *cut.shape).

        Only the groups of pictures that hold them are read and decoded.

        Raises:
            DecodeError: there is no video, or it is damaged.
        """
        if not self.has_video:
            raise DecodeError(f"{self.name}: no video stream", path=self.name)
        if self._video is None:
            try:
                packets = ClipPackets.from_bytes(self._row.packets or b"")
            except ValueError as error:
                raise DecodeError(f"{self.name}: its packet table is damaged ({error})", path=self.name) from error
            self._video = PacketReader(self.name, packets, self._read, limits=self._limits)
        return self._video.read_cut(start_seconds, num_frames, frame_rate, cut)

    def read_log_mel(self, start_seconds: float | None, config: AudioConfig) -> tuple[FloatArray, float]:
        """Returns a log-mel spectrogram, float32 (M, F), and the level of its audio, RMS in full scale.

        A stored spectrogram is cut at the frame nearest to the start, half a hop off at most.

        Raises:
            DecodeError: there is no audio, or it is damaged.
            ConfigError: a spectrogram of another kind than ``config`` is stored.
        """
        self._require_audio()
        self._settings.check_audio(config)
        if self._settings.audio == PCM16:
            mel, level = read_log_mel(self, start_seconds, config)
            if self._row.level_bytes:
                seconds = (self._row.audio_seconds or 0.0) if start_seconds is None else config.window_seconds
                level = self._level(start_seconds or 0.0, seconds)
            return mel, level
        if start_seconds is None:
            return whole_track(self._track(0, self._row.num_audio_steps), config)
        first = round(start_seconds * config.sample_rate / config.hop_length)
        begin = min(max(0, first), self._row.num_audio_steps)
        end = min(max(begin, first + config.num_mel_frames), self._row.num_audio_steps)
        return track_window(self._track(begin, end), first - begin, config)

    def read_audio(self, start_seconds: float, duration_seconds: float, sample_rate: int) -> Waveform:
        """Returns a stretch as mono float32 (N,), N = round(duration * rate); zeros where there is nothing.

        Raises:
            DecodeError: there is no audio, it is damaged, or it is not stored as a waveform of this sample rate.
        """
        self._require_audio()
        if self._settings.audio != PCM16 or self._settings.sample_rate != sample_rate:
            raise DecodeError(f"{self.name}: holds no waveform at {sample_rate} Hz", path=self.name)
        waveform = np.zeros(round(duration_seconds * sample_rate), dtype=np.float32)
        first = round(start_seconds * sample_rate)
        begin, end = max(0, first), min(self._row.num_audio_steps, first + len(waveform))
        if begin < end:
            row = self._row
            offset = row.audio_offset + row.audio_bytes - 2 * (row.num_audio_steps - begin)
            samples = np.frombuffer(self._read(offset, 2 * (end - begin)), dtype="<i2")
            waveform[begin - first : end - first] = samples / _FULL_SCALE
        return waveform

    def read_sound(self, start_seconds: float, duration_seconds: float, sample_rate: int) -> Sound:
        """Returns a stretch as ``read_audio`` does, and how loud its mono mix is."""
        return Sound.of_mono(self.read_audio(start_seconds, duration_seconds, sample_rate), sample_rate)

    def close(self) -> None:
        """Closes it; safe to call twice."""
        if self._video is not None:
            self._video.close()

    def _require_audio(self) -> None:
        if not self.has_audio:
            raise DecodeError(f"{self.name}: no audio stream", path=self.name)

    def _track(self, begin: int, end: int) -> LogMelTrack:
        """Returns frames of the stored spectrogram: rows of a time-first array lie side by side."""
        row, num_mels = self._row, self._settings.num_mels
        log_mel, levels = self._read_many(
            self._rows(row.audio_offset + row.audio_bytes, begin, end, num_mels * _F2.itemsize),
            self._rows(row.level_offset + row.level_bytes, begin, end, _F4.itemsize),
        )
        return LogMelTrack(
            log_mel=np.frombuffer(log_mel, _F2).reshape(-1, num_mels), mean_square=np.frombuffer(levels, _F4)
        )

    def _level(self, start_seconds: float, seconds: float) -> float:
        """Returns the level (RMS) of a stretch, as it was heard before it was mixed: what stands beside a waveform."""
        row, hop_seconds = self._row, self._settings.hop_length / self._settings.sample_rate
        num_hops = max(1, row.num_audio_steps // self._settings.hop_length)
        first, num_wanted = round(start_seconds / hop_seconds), max(1, round(seconds / hop_seconds))
        begin, end = max(0, first), min(num_hops, first + num_wanted)
        if begin >= end:
            return 0.0
        offset = row.level_offset + row.level_bytes - (num_hops - begin) * _F4.itemsize
        levels = np.frombuffer(self._read(offset, (end - begin) * _F4.itemsize), _F4)
        return float(np.sqrt(levels.sum() / num_wanted))

    def _rows(self, array_end: int, begin: int, end: int, row_bytes: int) -> tuple[int, int]:
        """Returns offset and size of rows of an array that ends where given."""
        # Counted from the end: what comes before the numbers of an .npy differs in length.
        return array_end - (self._row.num_audio_steps - begin) * row_bytes, (end - begin) * row_bytes

    def _read(self, offset: int, size: int) -> bytes:
        return self._read_many((offset, size))[0]

    def _read_many(self, *ranges: tuple[int, int]) -> list[bytes]:
        """Returns stretches of the shard (offset, size), read together with what they share checksums with."""
        wider = [self._checked_range(offset, size) for offset, size in ranges]
        pieces = self._storage.read_many(wider)
        found = []
        for (offset, size), around, piece in zip(ranges, wider, pieces, strict=True):
            self._check(piece, around.offset)
            found.append(piece[offset - around.offset :][:size])
        return found

    def _checked_range(self, offset: int, size: int) -> ByteRange:
        row = self._row
        before = (offset - row.record_offset) % CHECKED_BYTES
        end = offset + size
        end += -(end - row.record_offset) % CHECKED_BYTES
        begin = offset - before
        if not row.record_offset <= offset <= offset + size <= min(row.record_offset + row.record_bytes, _MAX_OFFSET):
            where = f"{self.name}: byte {offset} of the shard is none of its record"
            raise DecodeError(f"{where}: remove the index and run the same `k700-text prepare` again", path=self.name)
        return ByteRange(row.shard, begin, max(0, min(end, row.record_offset + row.record_bytes) - begin))

    def _check(self, data: bytes, offset: int) -> None:
        """Raises DecodeError if bytes of the record, from the beginning of a checked stretch on, are damaged.

        That says nothing about other records, as a StorageError would.
        """
        row = self._row
        damaged = damaged_blocks(data, row.checksums, (offset - row.record_offset) // CHECKED_BYTES)
        if damaged:
            where = row.record_offset + damaged[0] * CHECKED_BYTES
            raise DecodeError(
                f"{self.name}: damaged near byte {where} of the shard: copy the shard again, or remove it and its "
                ".arrow and run the same `k700-text prepare` again",
                path=self.name,
            )
