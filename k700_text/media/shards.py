"""Training shards: plain tar files that WebDataset and ``tar`` read, and an index for reading any part of any clip.

::

    OUT/prepared.json        format version and settings, the same for all shards
    OUT/train-000000.tar     for every clip: {clip_id}.mp4, {clip_id}.mel.npy (or .wav) and .level.npy, {clip_id}.json
    OUT/train-000000.arrow   the index rows of that shard; it is written last, so that a shard with it is whole
    OUT/index.arrow          the rows of all shards, in the order they are stored

A clip that could not be prepared has a row that says why, and nothing in the tar. No path in here is absolute.
"""

from __future__ import annotations

import bisect
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from k700_text import __version__
from k700_text.config import AudioConfig, require_positive
from k700_text.errors import ConfigError, SchemaMismatchError, StorageError
from k700_text.files.arrow_values import ValueFile
from k700_text.files.atomic import PartFile, whole_file
from k700_text.files.checksum import OPEN_SEAL, is_sealed, sealed
from k700_text.files.storage import open_storage
from k700_text.media.packets import ClipPackets, PacketTable
from k700_text.schema import SHARD_INDEX_SCHEMA, SHARD_SCHEMA, check_schema, with_metadata

SETTINGS_FILE = "prepared.json"
INDEX_FILE = "index.arrow"
CHECKED_BYTES = 16 * 1024
"""Length of the stretches of a record that have a checksum each."""

_FORMAT = 2
_BATCH_ROWS = 65_536
_TAR_BLOCK = tarfile.BLOCKSIZE
_PARTS = ("video", "audio", "level", "json")
LOG_MEL = "log-mel"
PCM16 = "pcm16"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSettings:
    """What is the same in all shards of a folder."""

    frame_rate: float = 10.0
    """Frames per second."""
    short_side: int = 256
    """Pixels that the short side of larger frames is scaled to."""
    quality: str = "default"
    """Name of the preset of the video encoder."""
    audio: str = LOG_MEL
    """``log-mel``: log-mel spectrogram; ``pcm16``: mono waveform, 16 bits; either with the level of every hop."""
    sample_rate: int = 16_000
    """Hertz of the audio."""
    num_mels: int = 80
    """As in ``AudioConfig``, and so are the four below; with ``pcm16``, only ``hop_length`` has a meaning."""
    hop_length: int = 160
    window_length: int = 400
    fft_size: int = 512
    log_floor: float = 1e-6
    max_seconds: float = 60.0
    """What lies behind this is left out of longer clips."""
    shard_size: int = 500
    """Clips of a shard."""

    def __post_init__(self) -> None:
        require_positive(frame_rate=self.frame_rate, max_seconds=self.max_seconds, shard_size=self.shard_size)
        if not 0.1 <= self.frame_rate <= 240:
            raise ConfigError(f"frame_rate must be in 0.1..240, got {self.frame_rate:g}")
        if self.max_seconds > 3600:
            raise ConfigError(f"max_seconds must be at most 3600, got {self.max_seconds:g}")
        if self.short_side < 16 or self.short_side % 2:
            raise ConfigError(f"short_side must be even and at least 16, got {self.short_side}")
        if self.audio not in (LOG_MEL, PCM16):
            raise ConfigError(f"audio must be '{LOG_MEL}' or '{PCM16}', got {self.audio!r}")
        self.audio_config()

    def audio_config(self) -> AudioConfig:
        """Returns the settings of the stored spectrogram."""
        return AudioConfig(**{name: getattr(self, name) for name in _STORED_AUDIO})

    def check_audio(self, config: AudioConfig) -> None:
        """Raises ConfigError if a log-mel of this kind cannot be read from what is stored."""
        names = ("sample_rate",) if self.audio == PCM16 else _STORED_AUDIO
        problems = [
            f"the clips were prepared with audio {name} {getattr(self, name)}, asked for is {getattr(config, name)}"
            for name in names
            if getattr(config, name) != getattr(self, name)
        ]
        if problems:
            raise ConfigError([*problems, "prepare them again, or with --audio pcm16, from which any log-mel is made"])

    def to_json(self) -> str:
        """Returns the text of ``prepared.json``."""
        content = {"format": _FORMAT, "tool_version": __version__, "settings": asdict(self), "seal": OPEN_SEAL}
        return sealed(json.dumps(content, indent=2).encode() + b"\n").decode()

    @classmethod
    def from_json(cls, text: str | bytes, path: str) -> Self:
        """Returns the settings of a ``prepared.json``.

        Raises:
            StorageError: this is no such file; ``path`` is what the message calls it.
            SchemaMismatchError: it is of another version.
        """
        try:
            content = json.loads(text)
            version = content["format"]
            if version != _FORMAT:
                raise SchemaMismatchError(
                    f"{path}: shards of format {version}, this version reads {_FORMAT}: prepare the clips again",
                    expected=str(_FORMAT),
                    actual=str(version),
                )
            settings = cls(**content["settings"])
            if not is_sealed(text.encode() if isinstance(text, str) else text):
                raise ValueError("its checksum does not fit: it was altered since it was written")
            return settings
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            raise StorageError(f"{path} is damaged ({error}): restore a copy", path=path) from error


_STORED_AUDIO = ("sample_rate", "num_mels", "hop_length", "window_length", "fft_size", "log_floor")


def is_prepared(location: str | os.PathLike[str]) -> bool:
    """Returns whether a folder or URL holds prepared shards."""
    return open_storage(location).exists(SETTINGS_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRow:
    """A row of the index; its columns are described in ``schema.SHARD_COLUMNS``."""

    clip_id: str
    split: str | None
    label: str | None
    clip_file: str
    source_bytes: int
    reason: str | None = None
    has_video: bool = False
    has_audio: bool = False
    num_frames: int = 0
    width: int = 0
    height: int = 0
    video_seconds: float = 0.0
    audio_seconds: float = 0.0
    num_audio_steps: int = 0
    shard: str = ""
    record_offset: int = 0
    record_bytes: int = 0
    video_offset: int = 0
    video_bytes: int = 0
    audio_offset: int = 0
    audio_bytes: int = 0
    level_offset: int = 0
    level_bytes: int = 0
    json_offset: int = 0
    json_bytes: int = 0
    packets: bytes | None = None
    checksums: bytes = b""

    @property
    def is_skipped(self) -> bool:
        """Nothing of the clip is in the shard."""
        return not self.record_bytes


class ShardWriter:
    """Writes one shard; a context manager. Its files have their names only when they are whole and on disk.

    The same rows and members give the same bytes. OSError passes through, and leaves no file behind.

    Args:
        folder: where to write.
        name: name of the shard, without a suffix.
    """

    def __init__(self, folder: str | Path, name: str) -> None:
        self._tar = Path(folder) / f"{name}.tar"
        self._rows: list[ShardRow] = []
        self._position = 0

    def __enter__(self) -> Self:
        self._output = PartFile(self._tar)
        return self

    def __exit__(self, *details: object) -> None:
        self._output.discard()

    def skip(self, row: ShardRow) -> None:
        """Takes a clip that cannot be prepared; its row has the reason."""
        self._rows.append(replace(row, shard=self._tar.name, record_offset=self._position))

    def add(self, row: ShardRow, members: Mapping[str, tuple[str, bytes]], packets: ClipPackets | None) -> None:
        """Takes a clip.

        Args:
            row: what is known of it; where its parts lie is added here.
            members: suffix and content of its parts, under ``video``, ``audio``, ``level`` and ``json``.
            packets: where the packets of the video lie in its own file.
        """
        key = member_key(row.clip_id)
        places: dict[str, Any] = {"record_offset": self._position}
        blob = bytearray()
        for part in (part for part in _PARTS if part in members):
            suffix, content = members[part]
            blob += _tar_header(f"{key}.{suffix}", len(content))
            places |= {f"{part}_offset": self._position + len(blob), f"{part}_bytes": len(content)}
            blob += content
            blob += bytes(-len(content) % _TAR_BLOCK)
        self._output.write(blob)
        self._position += len(blob)
        if packets is not None:
            places["packets"] = _moved(packets, places["video_offset"]).to_bytes()
        self._rows.append(
            replace(
                row,
                **places,
                shard=self._tar.name,
                record_bytes=len(blob),
                checksums=checksums_of(blob),
            )
        )

    def finish(self) -> list[ShardRow]:
        """Makes the shard appear, and returns its rows."""
        self._output.write(bytes(tar_end_bytes(self._position)))
        self._output.publish()
        columns = {name: [getattr(row, name) for row in self._rows] for name in SHARD_SCHEMA.names}
        table = pa.table(columns, schema=with_metadata(SHARD_SCHEMA, seal=OPEN_SEAL))
        buffer = pa.BufferOutputStream()
        with pa.ipc.new_file(buffer, table.schema) as writer:
            writer.write_table(table)
        with whole_file(self._tar.with_suffix(".arrow")) as file:
            file.write(sealed(buffer.getvalue().to_pybytes()))
        return self._rows


class ShardIndex:
    """The rows of all shards, read from ``index.arrow`` value by value. Pickles to its path.

    Opening it reads next to nothing, and a process keeps nothing of it in its memory.

    Args:
        path: the file.

    Raises:
        StorageError: it is missing or damaged.
        SchemaMismatchError: it is of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        with _index_errors(self.path):
            self._values = ValueFile(self.path)
            check_schema(self._values.schema, SHARD_INDEX_SCHEMA, self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardIndex, (self.path,)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def table(self) -> pa.Table:
        """All rows, mapped for as long as they are held."""
        with _index_errors(self.path):
            return self._values.table()

    def row(self, number: int) -> ShardRow:
        """Returns a row."""
        return ShardRow(**dict(zip(_ROW_COLUMNS, self._read(number, _ROW_COLUMNS), strict=True)))

    def find(self, clip_id: str) -> int | None:
        """Returns the number of the row of a clip that is in a shard, None where there is none."""
        place = bisect.bisect_left(range(len(self)), clip_id, key=lambda place: self._sorted_id(place))
        if place == len(self) or self._sorted_id(place) != clip_id:
            return None
        number: int = self._value("by_clip_id", place)
        return number if self._value("record_bytes", number) else None

    def find_all(self, clip_ids: pa.Array | pa.ChunkedArray | Sequence[str]) -> pa.Array:
        """Returns the row numbers of many clips, int32; null for one that is in no shard."""
        table = self.table
        stored = pc.indices_nonzero(table["record_bytes"])
        ids = table["clip_id"].take(stored).combine_chunks()
        wanted = clip_ids if isinstance(clip_ids, pa.Array | pa.ChunkedArray) else pa.array(clip_ids, pa.string())
        if isinstance(wanted, pa.ChunkedArray):
            wanted = wanted.combine_chunks()
        return stored.take(pc.index_in(wanted.cast(pa.string()), value_set=ids)).cast(pa.int32())

    def skipped(self, clip_ids: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Returns why clips were skipped when the shards were made; null for those that were not."""
        table = self.table
        rows = table.filter(pc.equal(table["record_bytes"], 0))
        wanted = clip_ids.combine_chunks() if isinstance(clip_ids, pa.ChunkedArray) else clip_ids
        places = pc.index_in(wanted.cast(pa.string()), value_set=rows["clip_id"].combine_chunks())
        # A clip may be in the shards of one split, and skipped in those of another.
        stored = pc.is_valid(self.find_all(wanted))
        return pc.if_else(stored, None, rows["reason"].combine_chunks().take(places))

    def _sorted_id(self, place: int) -> str:
        clip_id: str = self._value("clip_id", self._value("by_clip_id", place))
        return clip_id

    def _value(self, column: str, number: int) -> Any:
        return self._read(number, (column,))[0]

    def _read(self, number: int, columns: Sequence[str]) -> list[Any]:
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} is outside 0..{len(self) - 1}")
        with _index_errors(self.path):
            return self._values.row(number, columns)


_ROW_COLUMNS = tuple(each.name for each in fields(ShardRow))


def finished_shards(folder: str | Path) -> list[str]:
    """Returns the names, without suffix, of the shards of a folder that are whole, sorted."""
    folder = Path(folder)
    sidecars = (path for path in folder.glob("*-*.arrow") if not path.name.startswith("."))
    return sorted(path.stem for path in sidecars if path.with_suffix(".tar").is_file())


def read_shard_rows(folder: str | Path, name: str) -> pa.Table:
    """Returns the index rows of one shard.

    Raises:
        StorageError: the file is missing, damaged, or was renamed.
        SchemaMismatchError: it is of another version.
    """
    path = Path(folder) / f"{name}.arrow"
    with _index_errors(path):
        data = path.read_bytes()
        # Before Arrow sees it: damaged offsets lead it out of its buffers.
        if not is_sealed(data):
            raise pa.ArrowInvalid("its checksum does not fit")
        table = pa.ipc.open_file(data).read_all()
    check_schema(table.schema, SHARD_SCHEMA, path)
    others = [each for each in pc.unique(table["shard"]).to_pylist() if each != f"{name}.tar"]
    if others:
        remedy = "give both files that name again, or remove them if they are a copy"
        raise StorageError(f"{path}: holds the rows of {others[0]}: {remedy}", path=str(path))
    return table.select(SHARD_SCHEMA.names).replace_schema_metadata(None)


def rows_of(table: pa.Table) -> list[ShardRow]:
    """Returns the rows of a table as objects."""
    return [ShardRow(**row) for row in table.select(list(_ROW_COLUMNS)).to_pylist()]


def write_index(folder: str | Path) -> int:
    """Writes ``index.arrow`` from the rows of all finished shards; returns the number of rows."""
    table = index_table(folder)
    schema = with_metadata(SHARD_INDEX_SCHEMA)
    with whole_file(Path(folder) / INDEX_FILE) as file, pa.ipc.new_file(file, schema) as writer:
        for first in range(0, len(table), _BATCH_ROWS):
            writer.write_table(table.slice(first, _BATCH_ROWS).combine_chunks().cast(schema))
    return len(table)


def index_table(folder: str | Path) -> pa.Table:
    """Returns what ``index.arrow`` is to hold: the rows of all finished shards, and their order by clip id.

    Raises:
        StorageError: the rows of a shard are damaged.
        SchemaMismatchError: they are of another version.
    """
    empty = SHARD_SCHEMA.empty_table()
    table = pa.concat_tables([empty, *(read_shard_rows(folder, name) for name in finished_shards(folder))])
    keys = pa.table(
        {
            "clip_id": table["clip_id"],
            "is_skipped": pc.equal(table["record_bytes"], 0),
            "row": np.arange(len(table), dtype=np.int32),
        }
    )
    order = pc.sort_indices(keys, [(name, "ascending") for name in keys.schema.names])
    return table.append_column(SHARD_INDEX_SCHEMA.field("by_clip_id"), order.cast(pa.int32()))


def member_key(clip_id: str) -> str:
    """Returns what the members of a clip are called before their first dot, which is where WebDataset cuts names."""
    return re.sub(r"[^A-Za-z0-9_/-]", lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), clip_id)


def tar_end_bytes(size: int) -> int:
    """Returns how many zeros follow the last of ``size`` bytes of members."""
    # Two empty blocks end a tar, and readers expect its length to be a multiple of 20 blocks.
    return 2 * _TAR_BLOCK + -(size + 2 * _TAR_BLOCK) % tarfile.RECORDSIZE


def checksums_of(record: bytes | bytearray) -> bytes:
    """Returns the CRC-32 of every ``CHECKED_BYTES`` of a record, uint32 little-endian each."""
    view = memoryview(record)
    sums = [zlib.crc32(view[first : first + CHECKED_BYTES]) for first in range(0, len(view), CHECKED_BYTES)]
    return np.array(sums, dtype="<u4").tobytes()


def damaged_blocks(data: bytes, checksums: bytes, first_block: int) -> list[int]:
    """Returns the numbers of the stretches that do not have their checksum.

    Args:
        data: bytes of a record from the beginning of a stretch on, in whole stretches (the record's last may be short).
        checksums: those of the whole record.
        first_block: number of the first stretch in ``data``.
    """
    found: NDArray[Any] = np.frombuffer(checksums_of(data), dtype="<u4")
    stored = np.frombuffer(checksums, dtype="<u4")[first_block : first_block + len(found)]
    if len(stored) != len(found):
        return [first_block]
    return [first_block + int(block) for block in np.flatnonzero(found != stored)]


def _moved(packets: ClipPackets, by: int) -> ClipPackets:
    """Returns the tables of a file that lies ``by`` bytes into another one."""

    def move(table: PacketTable | None) -> PacketTable | None:
        return table and replace(table, offsets=table.offsets + by)

    return ClipPackets(video=move(packets.video), audio=move(packets.audio))


def _tar_header(name: str, size: int) -> bytes:
    # No owner, no date: the same clip gives the same bytes.
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


@contextmanager
def _index_errors(path: Path) -> Iterator[None]:
    """Turns what reading an Arrow file raises into a StorageError of one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(
            f"{path}: no such file: run the same `k700-text prepare` again, which writes it at its end", path=str(path)
        ) from error
    # The last is how a damaged column name shows.
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise StorageError(
            f"{path} is damaged ({text}): restore a copy, or move it away and prepare again", path=str(path)
        ) from error
