"""The same clips as a folder with a packet index, as prepared shards, and as files that peers can read."""

from __future__ import annotations

import io
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from k700_text.config import AudioConfig, VideoConfig
from k700_text.data.dataset import KineticsAVT
from k700_text.data.text import TitleTokenizer, train_tokenizer
from k700_text.data.video import Placement
from k700_text.media.decode import packets_of
from k700_text.media.packet_index import PacketRow, write_packet_index
from k700_text.media.prepare import PrepareRun, run_plan
from k700_text.media.shards import PreparedSettings
from k700_text.schema import MANIFEST_SCHEMA, with_metadata
from loading.clips import Corpus
from loading.windows import VIDEO, Window, seconds_of

SEED = 0
_WORDS = ("how", "to", "the", "best", "first", "school", "kids", "funny", "dog", "guitar", "lesson", "river", "2014")

Job = tuple[int, int]
"""Epoch and index of a sample."""


@dataclass(frozen=True)
class ClipSet:
    """One kind of clips, ready to be read in every way.

    Attributes:
        name: of the kind.
        clips: folder of the clips as they came.
        manifest: names them.
        packets: their packet index.
        shards: folder of the prepared ones.
        titles: by index.
        raw: the clips, by index.
        prepared: MP4 files of the prepared video with the sound of the clip, by index.
        tokenizer: for the titles.
    """

    name: str
    clips: Path
    manifest: Path
    packets: Path
    shards: Path
    titles: tuple[str, ...]
    raw: tuple[Path, ...]
    prepared: tuple[Path, ...]
    tokenizer: TitleTokenizer

    def dataset(self, pixel_format: str, *, prepared: bool, audio: AudioConfig | None = None) -> KineticsAVT:
        """Returns our dataset of them; index k is clip k."""
        video = VideoConfig(pixel_format=pixel_format)
        options: dict[str, Any] = {"tokenizer": self.tokenizer, "seed": SEED, "video": video, "audio": audio}
        if prepared:
            return KineticsAVT(self.manifest, self.shards, **options)
        return KineticsAVT(self.manifest, self.clips, packets=self.packets, **options)

    def window(self, job: Job, files: tuple[Path, ...]) -> Window:
        """Returns the window that our dataset cuts for a job, of the peers' file."""
        epoch, index = job
        placement = Placement.random(np.random.default_rng([SEED, epoch, index]), VIDEO)
        start = placement.start_seconds(seconds_of(files[index]), VIDEO)
        return Window(files[index], start, placement.cut(VIDEO))


def make_set(corpus: Corpus, folder: Path, *, quality: str = "default", audio: str = "log-mel") -> ClipSet:
    """Makes everything of a corpus that is not in the folder yet."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    titles = [" ".join(rng.choice(_WORDS, rng.integers(4, 12))) for _ in range(1000)]
    clips = folder / "clips"
    clips.mkdir(exist_ok=True)
    ids = [f"bench{number:06d}_000000_000010" for number in range(len(corpus.paths))]
    for clip_id, path in zip(ids, corpus.paths, strict=True):
        if not (clips / f"{clip_id}.mp4").exists():
            shutil.copy(path, clips / f"{clip_id}.mp4")
    raw = tuple(clips / f"{clip_id}.mp4" for clip_id in ids)
    manifest, packets, shards = folder / "manifest.parquet", folder / "packets.arrow", folder / f"{quality}-{audio}"
    _write_manifest(manifest, ids, titles)
    write_packet_index(packets, [_packet_row(path, clips) for path in raw])
    settings = PreparedSettings(quality=quality, audio=audio)
    run_plan(PrepareRun(root=clips, out=shards, settings=settings, manifests=[manifest], workers=1, num_samples=0))
    return ClipSet(
        name=corpus.name,
        clips=clips,
        manifest=manifest,
        packets=packets,
        shards=shards,
        titles=tuple(titles[: len(ids)]),
        raw=raw,
        prepared=tuple(_with_sound(shards, path, folder / f"{quality}-mp4") for path in raw),
        tokenizer=train_tokenizer(titles, folder / "tokenizer.json", vocab_size=600),
    )


def prepared_members(shards: Path, suffix: str) -> dict[str, bytes]:
    """Returns the members of all shards whose names end with the suffix, by clip id."""
    members = {}
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                if member.name.endswith(suffix) and content is not None:
                    members[Path(member.name).name.removesuffix(suffix)] = content.read()
    return members


def _write_manifest(path: Path, ids: list[str], titles: list[str]) -> None:
    rows = [
        {
            **dict.fromkeys(MANIFEST_SCHEMA.names),
            "clip_id": clip_id,
            "youtube_id": clip_id[:11],
            "split": "train",
            "start_seconds": 0.0,
            "end_seconds": 10.0,
            "availability": "unknown",
            "availability_sources": [],
            "title": title,
            "has_text": True,
        }
        for clip_id, title in zip(ids, titles, strict=False)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=with_metadata(MANIFEST_SCHEMA)), path)


def _packet_row(path: Path, root: Path) -> PacketRow:
    status = path.stat()
    return PacketRow(
        clip_file=str(path.relative_to(root)),
        file_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        packets=packets_of(path),
    )


def _with_sound(shards: Path, raw: Path, folder: Path) -> Path:
    """Returns an MP4 file of the prepared video and the clip's own sound, nothing encoded again."""
    path = folder / raw.name
    if path.exists():
        return path
    folder.mkdir(exist_ok=True)
    video = io.BytesIO(prepared_members(shards, ".mp4")[raw.stem])
    with av.open(video) as frames, av.open(str(raw)) as sound, av.open(str(path), "w") as target:
        sources = [(frames, frames.streams.video[0]), (sound, sound.streams.audio[0])]
        tracks = [target.add_stream_from_template(stream) for _, stream in sources]
        packets = []
        for (container, stream), track in zip(sources, tracks, strict=True):
            for packet in container.demux(stream):
                if packet.dts is not None:
                    seconds = float(packet.dts * packet.time_base)
                    packet.stream = track
                    packets.append((seconds, packet))
        for _, packet in sorted(packets, key=lambda each: each[0]):
            target.mux(packet)
    return path
