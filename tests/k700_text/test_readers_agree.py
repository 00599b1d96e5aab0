"""One file, four readers: probe, and the loader on raw clips, by packet index and on prepared shards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from k700_text.config import AudioConfig, VideoConfig
from k700_text.data.dataset import KineticsAVT
from k700_text.data.reader import SampleReader
from k700_text.data.sample import Sample
from k700_text.media.clip import Cut, OpenClip, PixelFormat
from k700_text.media.decode import ClipReader, packets_of
from k700_text.media.measure import probe_clip
from k700_text.media.packet_index import PacketRow, write_packet_index
from k700_text.media.prepared import PreparedClips
from k700_text.media.quality import psnr_db
from k700_text.records import AudioStatus, VideoStatus
from tests.k700_text.media_files import clip_id_of, tone, write_manifest
from tests.k700_text.odd_files import joined, marked_frames, moved, turned, write_clip
from tests.k700_text.preparing import prepare_here

VIDEO = VideoConfig(num_frames=4, frame_rate=5.0, size=64, short_side=64)
AUDIO = AudioConfig(num_mel_frames=64)
# They have no place in a folder of clips, and are read by their path.
SOUND_ALONE = frozenset({".mp3", ".wav"})
MAX_SECONDS = 3.0
CUT = Cut(size=64, share=1.0, pixel_format=PixelFormat.YUV420P)
ONE = 1 << 16
# What lossy coding leaves of small, busy pictures; another moment, place or shape is far below.
MIN_PSNR_DB = 22.0


def opposed(path: Path) -> Path:
    """Stereo whose right channel is the left one upside down."""
    wave = tone(2.0, rate=16_000)
    source = write_clip(path.with_suffix(".mkv"), sound_seconds=None)
    with av.open(str(source)) as read, av.open(str(path), "w") as write:
        video: Any = write.add_stream_from_template(read.streams.video[0])
        sound: Any = write.add_stream("aac", rate=16_000, layout="stereo")
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                write.mux(packet)
        for first in range(0, len(wave), 1024):
            block = np.stack([wave[first : first + 1024], -wave[first : first + 1024]])
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "fltp", "stereo")
            frame.sample_rate, frame.pts = 16_000, first
            write.mux(sound.encode(frame))
        write.mux(sound.encode(None))
    source.unlink()
    return path


def two_parts(path: Path, start: float, rates: tuple[int, int] = (16_000, 16_000)) -> Path:
    """Two files as one; the times of the second one begin at ``start``."""
    parts = [path.with_name(f"part{number}{path.suffix}") for number in range(2)]
    for part, begin, hz, rate in zip(parts, (0.0, start), (400.0, 1700.0), rates, strict=True):
        write_clip(part, start=begin, hz=hz, rate=rate)
    joined(path, *parts)
    for part in parts:
        part.unlink()
    return path


def shifted(path: Path, by: float) -> Path:
    source = write_clip(path.with_name(f"source{path.suffix}"))
    moved(source, path, lambda _, seconds: seconds + by, avoid_negative_ts="disabled")
    source.unlink()
    return path


MADE: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "plain": (".mp4", write_clip),
    "long sound in mkv": (".mkv", lambda path: write_clip(path, sound_seconds=5.0)),
    "long sound in flv": (".flv", lambda path: write_clip(path, sound_seconds=5.0)),
    "long sound in webm": (
        ".webm",
        lambda path: write_clip(path, codec="libvpx", sound_codec="libopus", sound_seconds=5.0),
    ),
    "times begin again": (".ts", lambda path: two_parts(path, 0.0)),
    "times leap ahead": (".ts", lambda path: two_parts(path, 3600.0)),
    "clock goes round": (".ts", lambda path: write_clip(path, start=2**33 / 90_000 - 2.4)),
    "mirrored": (".mp4", lambda path: turned(write_clip(path), (-ONE, 0), (0, ONE))),
    "mirrored and turned": (".mp4", lambda path: turned(write_clip(path), (0, -ONE), (-ONE, 0))),
    "wide pixels": (".mp4", lambda path: write_clip(path, frames=marked_frames(50, 256, 192), aspect=Fraction(16, 11))),
    "wide pixels, turned": (
        ".mp4",
        lambda path: turned(
            write_clip(path, frames=marked_frames(50, 256, 192), aspect=Fraction(16, 11)), (0, ONE), (-ONE, 0)
        ),
    ),
    "program stream": (
        ".mpg",
        lambda path: write_clip(path, codec="mpeg2video", sound_codec="mp2", options={"bf": "2"}),
    ),
    "edit list cuts the start": (".mp4", lambda path: shifted(path, -0.52)),
    "video begins later": (".mp4", lambda path: shifted(path, 0.4)),
    "opposite phase": (".mp4", opposed),
    "sample rate changes": (".ts", lambda path: two_parts(path, 2.0, (16_000, 32_000))),
}


@dataclass(frozen=True)
class World:
    """A folder of clips, its packet index and its prepared shards, as datasets and as clips that can be opened."""

    root: Path
    paths: dict[str, Path]
    raw: KineticsAVT
    indexed: KineticsAVT
    prepared: KineticsAVT
    shards: PreparedClips

    @classmethod
    def of(cls, root: Path, paths: list[tuple[str, Path]], *, num_views: int) -> World:
        clips = dict(paths)
        manifest = write_manifest(root / "manifest.parquet", [{"clip_id": path.stem} for path in clips.values()])
        write_packet_index(root / "packets.arrow", (_row(path) for path in clips.values()))
        prepare_here(root / "clips", root / "shards", manifest, short_side=96, max_seconds=MAX_SECONDS)

        def dataset(folder: str, packets: Path | None = None) -> KineticsAVT:
            return KineticsAVT(
                manifest, root / folder, train=False, require=(), video=VIDEO, audio=AUDIO, packets=packets,
                num_views=num_views, max_failures=10_000,
            )  # fmt: skip

        return cls(
            root=root,
            paths=clips,
            raw=dataset("clips"),
            indexed=dataset("clips", root / "packets.arrow"),
            prepared=dataset("shards"),
            shards=PreparedClips(root / "shards"),
        )

    def check(self, name: str) -> None:
        """All readers find the same streams, and show the same pictures."""
        path = self.paths[name]
        probe = probe_clip(path, self.root)
        if path.suffix in SOUND_ALONE:
            sample, _ = SampleReader(audio=AUDIO).read(path, clip_id=path.stem)
            assert not sample.has_video and sample.has_audio == (probe.audio_status is AudioStatus.USABLE)
            return
        raw, indexed, prepared = (samples_of(dataset, path.stem) for dataset in (self.raw, self.indexed, self.prepared))
        has_video = probe.video_status in (VideoStatus.USABLE, VideoStatus.PARTIAL)
        for one, other, stored in zip(raw, indexed, prepared, strict=True):
            assert one.has_video == other.has_video == stored.has_video == has_video
            assert torch.equal(one.video, other.video)
            assert one.has_audio == other.has_audio == stored.has_audio
            assert torch.allclose(one.log_mel, other.log_mel, atol=1e-3)
        # A stretch of a usable track may be silent, but not all of it.
        assert any(sample.has_audio for sample in raw) == (probe.audio_status is AudioStatus.USABLE)
        if has_video:
            assert_same_pictures(
                path, self.shards.open(self.shards.find(path.stem) or 0), probe.clip_duration_seconds or 0
            )


def samples_of(dataset: KineticsAVT, clip_id: str) -> list[Sample]:
    """Returns the views of a clip; datasets have orders of their own."""
    first = dataset.clip_ids.index(clip_id) * dataset.num_views
    return [dataset[first + view] for view in range(dataset.num_views)]


def _row(path: Path) -> PacketRow:
    status = path.stat()
    return PacketRow(
        clip_file=path.name, file_bytes=status.st_size, mtime_ns=status.st_mtime_ns, packets=packets_of(path)
    )


def assert_same_pictures(path: Path, stored: OpenClip, seconds: float) -> None:
    """The shard shows what the file shows, at the same moments and in the same shape."""
    with ClipReader(path) as plain:
        for start in {0.0, round(min(seconds, MAX_SECONDS) / 2, 1)}:
            theirs, ours = (clip.read_cut(start, 4, 5.0, CUT) for clip in (plain, stored))
            assert psnr_db(theirs[:, :64], ours[:, :64]) > MIN_PSNR_DB, start


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("made")
    (root / "clips").mkdir()
    names = [(name, root / "clips" / f"{clip_id_of(index)}{MADE[name][0]}") for index, name in enumerate(MADE)]
    for name, path in names:
        MADE[name][1](path)
    return World.of(root, names, num_views=2)


@pytest.mark.parametrize("name", MADE)
def test_readers_agree_on_made_files(name: str, made: World) -> None:
    made.check(name)


SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".mpg", ".flv", ".mp3", ".wav"})


@pytest.mark.realdata
@pytest.mark.slow
def test_readers_agree_on_real_files(real_data: Path, tmp_path: Path) -> None:
    files = [
        path
        for folder in ("videos-samples", "videos-odd")
        for path in sorted((real_data / folder).rglob("*"))
        if path.suffix in SUFFIXES
    ]
    assert len(files) >= 60
    (tmp_path / "clips").mkdir()
    names = []
    for index, file in enumerate(files):
        path = tmp_path / "clips" / f"{clip_id_of(index)}{file.suffix}"
        shutil.copyfile(file, path)
        names.append((str(file.relative_to(real_data)), path))
    world = World.of(tmp_path, names, num_views=1)
    wrong = {}
    for name, _ in names:
        try:
            world.check(name)
        except AssertionError as error:
            wrong[name] = " ".join(str(error).split())[:200]
    assert not wrong, wrong
