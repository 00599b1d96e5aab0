"""Reading prepared clips: the same pixels and sounds as plain decoding gives, from as few bytes as needed."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import fsspec
import numpy as np
import numpy.typing as npt
import pytest

from k700_text import KineticsAVT
from k700_text.config import AudioConfig
from k700_text.errors import ConfigError, DecodeError, ManifestError, StorageError
from k700_text.files.storage import open_storage
from k700_text.media.clip import DEFAULT_LIMITS, Cut, OpenClip, PixelFormat
from k700_text.media.decode import ClipReader
from k700_text.media.encode import encode_clip
from k700_text.media.estimate import measure_clip
from k700_text.media.log_mel import log_mel
from k700_text.media.prepared import PreparedClip, PreparedClips
from k700_text.media.quality import psnr_db
from k700_text.media.record import ClipTask
from k700_text.media.shards import CHECKED_BYTES, PreparedSettings, member_key
from tests.k700_text.media_files import SAMPLES, clip_id_of, make_clip, needs_samples, tone, write_manifest
from tests.k700_text.preparing import gray_of, make_clips, prepare_here

KINETICS = (
    "torchvision/R6llTwEh07w.mp4",
    "torchvision/SOX5yA1l24A.mp4",
    "torchvision/WUzgd7C1pWA.mp4",
    "mmaction2/part_0.mp4",
)
AUDIO = AudioConfig(num_mel_frames=64)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    manifest = make_clips(root)
    prepare_here(root / "clips", root / "mel", manifest, shard_size=4, short_side=48)
    prepare_here(root / "clips", root / "pcm", manifest, shard_size=4, short_side=48, audio="pcm16")
    return root


def opened(folder: Path | str, number: int) -> PreparedClip:
    clips = PreparedClips(folder)
    row = clips.find(clip_id_of(number))
    assert row is not None
    return clips.open(row)


def plain_frames(folder: Path, clip: PreparedClip) -> npt.NDArray[np.uint8]:
    """All frames of the member, by PyAV alone: (T, H * 3 / 2, W)."""
    row = clip._row
    with tarfile.open(folder / row.shard) as tar:
        file = tar.extractfile(f"{member_key(row.clip_id)}.mp4")
        assert file is not None
        with av.open(io.BytesIO(file.read())) as container:
            return np.stack([frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)])


def test_shards_of_other_clips_say_what_to_prepare(world: Path, tmp_path: Path) -> None:
    val = write_manifest(tmp_path / "val.parquet", [{"clip_id": clip_id_of(number + 70)} for number in range(3)])
    with pytest.raises(
        ManifestError, match=r"3 without a clip file; these shards .*k700-text prepare DIR .*val.parquet"
    ):
        KineticsAVT(val, world / "mel")


def test_a_prepared_clip_is_an_open_clip(world: Path) -> None:
    clip: OpenClip = opened(world / "mel", 0)
    assert clip.has_video and clip.has_audio and clip.name.endswith(f".tar: {clip_id_of(0)}")
    assert clip.frame_grid_seconds == pytest.approx(0.1)
    assert clip.video_seconds() == clip.video_end_seconds == pytest.approx(2.0)
    assert clip.audio_seconds() == pytest.approx(2.0, abs=0.05)
    clip.close()
    clip.close()


def test_frames_are_those_shown_at_tenths_of_seconds(world: Path) -> None:
    clip = opened(world / "mel", 1)
    cut = Cut(size=48, share=1.0, pixel_format=PixelFormat.YUV420P)
    whole = clip.read_cut(0.0, 20, 10.0, cut)
    # The source has 25 frames a second; a tenth is two and a half of them.
    assert gray_of(whole[:, :48]) == [k * 25 // 10 for k in range(20)]
    assert gray_of(clip.read_cut(0.5, 4, 5.0, cut)[:, :48]) == [12, 17, 22, 27]
    assert gray_of(clip.read_cut(0.0, 5, 25.0, cut)[:, :48]) == [0, 0, 0, 2, 2]
    assert gray_of(clip.read_cut(1.8, 4, 10.0, cut)[:, :48]) == [45, 47, 47, 47]
    assert gray_of(clip.read_cut(-0.2, 3, 10.0, cut)[:, :48]) == [0, 0, 0]


@pytest.mark.parametrize("start", [0.0, 0.3, 0.7, 0.8, 1.6])
def test_a_window_is_bit_for_bit_that_of_plain_decoding(world: Path, start: float) -> None:
    clip = opened(world / "mel", 2)
    plain = plain_frames(world / "mel", clip)
    window = clip.read_cut(start, 4, 10.0, Cut(size=48, share=1.0, pixel_format=PixelFormat.YUV420P))
    first = round(start * 10)
    # 64x48, so that the square is in the middle.
    np.testing.assert_array_equal(window[:, :48], plain[first : first + 4, :48, 8:56])
    blue = plain[first : first + 4, 48:60].reshape(4, 24, 32)[:, :, 4:28]
    np.testing.assert_array_equal(window[:, 48:60].reshape(4, 24, 24), blue)


@pytest.mark.parametrize("pixel_format", list(PixelFormat))
def test_a_member_read_as_a_file_gives_the_same_window(world: Path, tmp_path: Path, pixel_format: PixelFormat) -> None:
    clip = opened(world / "mel", 2)
    with tarfile.open(world / "mel" / clip._row.shard) as tar:
        tar.extract(f"{clip_id_of(2)}.mp4", tmp_path, filter="data")
    cut = Cut(size=32, share=0.8, along_long_side=0.1, is_mirrored=True, pixel_format=pixel_format)
    with ClipReader(tmp_path / f"{clip_id_of(2)}.mp4") as reader:
        np.testing.assert_array_equal(clip.read_cut(0.4, 8, 10.0, cut), reader.read_cut(0.4, 8, 10.0, cut))


def test_only_the_groups_of_pictures_needed_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (100, 96, 128, 3), dtype=np.uint8)
    (tmp_path / "clips").mkdir()
    encode_clip(tmp_path / "clips" / "a.mp4", noise, frame_rate=10.0, crf=10, audio=tone(10.0))
    prepare_here(tmp_path / "clips", tmp_path / "out")
    clips = PreparedClips(tmp_path / "out")
    clip, row = clips.open(0), clips.index.row(0)
    reads: list[int] = []
    read = type(clips._storage).read

    def spy(self: Any, name: str, offset: int, size: int) -> bytes:
        reads.append(size)
        return read(self, name, offset, size)

    monkeypatch.setattr(type(clips._storage), "read", spy)
    clip.read_cut(2.4, 16, 10.0, Cut(size=96, share=1.0))
    assert len(reads) == 1 and reads[0] < 0.16 * row.video_bytes + 3 * CHECKED_BYTES < row.video_bytes / 2
    reads.clear()
    clip.read_log_mel(2.4, AudioConfig())
    assert len(reads) == 2 and sum(reads) < 256 * 160 + 256 * 4 + 4 * CHECKED_BYTES < row.audio_bytes


@pytest.mark.parametrize("start", [None, -0.3, 0.0, 0.52, 1.7, 9.0])
@pytest.mark.parametrize("kind", ["mel", "pcm"])
def test_log_mel_and_level_are_those_of_the_raw_clip(world: Path, kind: str, start: float | None) -> None:
    stored, level = opened(world / kind, 3).read_log_mel(start, AUDIO)
    with ClipReader(world / "clips" / f"{clip_id_of(3)}.mp4") as reader:
        raw, raw_level = reader.read_log_mel(start, AUDIO)
    assert stored.shape == raw.shape == (80, 64) and stored.dtype == np.float32
    # Of blocks of 50 ms, which begin elsewhere in a raw window.
    assert level == pytest.approx(raw_level, rel=0.02, abs=1e-6)
    # The rim of a raw window is computed from a mirror image of itself; where the clip begins and ends, a raw window
    # holds zeros on one side of that moment, and a stored one the mirror image; 16 bits have a noise of their own.
    times = (start or 0.0) + np.arange(64) * (0.01 if start is not None else 2.0 / 64)
    is_inside = (np.abs(times) > 0.02) & (np.abs(times - 2.0) > 0.06)
    is_inside[[0, 1, -2, -1]] = False
    compared = (raw > -4) & is_inside
    assert compared.sum() > 100 or start == 9.0
    assert np.abs(stored - raw)[compared].max(initial=0) < (0.02 if kind == "pcm" else 0.03)


def test_pcm_gives_any_log_mel_of_its_rate(world: Path) -> None:
    clip = opened(world / "pcm", 0)
    config = AudioConfig(num_mels=40, hop_length=200, window_length=512, num_mel_frames=20)
    waveform = clip.read_audio(0.5, config.window_seconds, 16_000)
    np.testing.assert_array_equal(clip.read_log_mel(0.5, config)[0], log_mel(waveform, config))
    with pytest.raises(ConfigError, match="sample_rate"):
        clip.read_log_mel(0.5, AudioConfig(sample_rate=8000))
    with pytest.raises(DecodeError, match="no waveform at 8000 Hz"):
        clip.read_audio(0.0, 1.0, 8000)


def test_a_stored_log_mel_of_another_kind_is_refused(world: Path) -> None:
    with pytest.raises(ConfigError, match="num_mels 80, asked for is 40"):
        opened(world / "mel", 0).read_log_mel(0.0, AudioConfig(num_mels=40))
    with pytest.raises(DecodeError, match="no waveform"):
        opened(world / "mel", 0).read_audio(0.0, 1.0, 16_000)


def test_a_clip_without_a_stream_says_so(world: Path) -> None:
    mute, blind = opened(world / "mel", 5), opened(world / "mel", 6)
    assert (mute.has_video, mute.has_audio, mute.audio_seconds()) == (True, False, None)
    assert (blind.has_video, blind.has_audio, blind.video_seconds()) == (False, True, 0.0)
    with pytest.raises(DecodeError, match="no audio stream"):
        mute.read_log_mel(0.0, AUDIO)
    with pytest.raises(DecodeError, match="no video stream"):
        blind.read_cut(0.0, 1, 10.0, Cut(size=16, share=1.0))


def test_a_skipped_clip_says_why(world: Path) -> None:
    clips = PreparedClips(world / "mel")
    assert clips.find(clip_id_of(8)) is None
    row = next(k for k in range(len(clips)) if clips.index.row(k).clip_id == clip_id_of(8))
    with pytest.raises(DecodeError, match=f"{clip_id_of(8)} was skipped when clips were prepared: the file is empty"):
        clips.open(row)


def test_members_are_of_public_formats(world: Path) -> None:
    seen: set[str] = set()
    for folder in ("mel", "pcm"):
        for path in (world / folder).glob("*.tar"):
            with tarfile.open(path) as tar:
                for member in tar:
                    data = tar.extractfile(member).read()  # type: ignore[union-attr] - only files are in there
                    suffix = member.name.partition(".")[2]
                    seen.add(suffix)
                    if suffix == "mel.npy":
                        array = np.load(io.BytesIO(data))
                        assert array.dtype == np.float16 and array.shape[1] == 80 and 190 < len(array) < 210
                    elif suffix == "level.npy":
                        array = np.load(io.BytesIO(data))
                        assert array.dtype == np.float32 and np.median(array) == pytest.approx(0.125, rel=0.1)
                    elif suffix == "wav":
                        with wave.open(io.BytesIO(data)) as file:
                            assert file.getparams()[:3] == (1, 2, 16_000)
                    elif suffix == "json":
                        facts = json.loads(data)
                        assert facts["clip_id"] == member.name.partition(".")[0] and facts["label"]
    assert seen == {"mp4", "mel.npy", "level.npy", "wav", "json"}


def test_the_description_tells_what_the_manifest_and_the_record_hold(world: Path) -> None:
    row = opened(world / "mel", 0)._row
    text = (world / "mel" / row.shard).read_bytes()[row.json_offset :][: row.json_bytes]
    facts = json.loads(text)
    assert facts.pop("audio_seconds") == pytest.approx(2.0, abs=0.05)
    assert facts == {
        "clip_id": clip_id_of(0),
        "split": "train",
        "label": "another label",
        "title": "A title – with more than ASCII",
        "youtube_id": clip_id_of(0)[:11],
        "start_seconds": 0.0,
        "end_seconds": 10.0,
        "clip_file": f"{clip_id_of(0)}.mp4",
        "has_video": True,
        "has_audio": True,
        "frame_rate": 10.0,
        "num_frames": 20,
        "width": 64,
        "height": 48,
        "video_seconds": 2.0,
        "audio_sample_rate": 16_000,
    }


def test_it_pickles_to_its_location_and_a_moved_folder_works(world: Path, tmp_path: Path) -> None:
    clips = PreparedClips(world / "mel")
    assert len(pickle.dumps(clips)) < 600
    moved = tmp_path / "elsewhere"
    shutil.copytree(world / "mel", moved)
    cut = Cut(size=16, share=1.0)
    frames = (
        pickle.loads(pickle.dumps(PreparedClips(moved))).open(clips.find(clip_id_of(1))).read_cut(0.5, 3, 10.0, cut)
    )
    np.testing.assert_array_equal(frames, opened(world / "mel", 1).read_cut(0.5, 3, 10.0, cut))
    for path in moved.iterdir():
        assert str(world).encode() not in path.read_bytes()


def test_an_object_store_gives_the_same(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = fsspec.filesystem("memory")
    store.put(str(world / "mel"), "/bucket", recursive=True)
    url = next(f"memory:/{path.rpartition('/')[0]}" for path in store.find("/bucket") if path.endswith("index.arrow"))
    try:
        cut = Cut(size=48, share=1.0)
        remote, local = opened(url, 0), opened(world / "mel", 0)
        np.testing.assert_array_equal(remote.read_cut(0.9, 8, 10.0, cut), local.read_cut(0.9, 8, 10.0, cut))
        np.testing.assert_array_equal(remote.read_log_mel(0.2, AUDIO)[0], local.read_log_mel(0.2, AUDIO)[0])
        assert len(list(tmp_path.rglob("*index.arrow"))) == 1
    finally:
        store.rm("/bucket", recursive=True)


def test_a_missing_shard_is_named(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "mel", tmp_path / "out")
    clip = opened(tmp_path / "out", 0)
    (tmp_path / "out" / clip._row.shard).unlink()
    with pytest.raises(StorageError, match=rf"out/{clip._row.shard}: no such file: .*prepare"):
        opened(tmp_path / "out", 0).read_cut(0.0, 2, 10.0, Cut(size=16, share=1.0))


def test_a_folder_that_is_no_prepared_one_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no prepared shards there \(no prepared\.json\)"):
        PreparedClips(tmp_path)


@pytest.mark.parametrize("part", ["video", "audio", "level"])
def test_one_flipped_bit_is_an_error_wherever_it_is_read(world: Path, tmp_path: Path, part: str) -> None:
    shutil.copytree(world / "mel", tmp_path / "out")
    row = opened(world / "mel", 0)._row
    path = tmp_path / "out" / row.shard
    data = bytearray(path.read_bytes())
    data[getattr(row, f"{part}_offset") + getattr(row, f"{part}_bytes") // 2] ^= 4
    path.write_bytes(data)
    clip = opened(tmp_path / "out", 0)
    with pytest.raises(DecodeError, match=rf"{row.shard}: {row.clip_id}: damaged near byte \d+ of the shard") as caught:
        if part == "video":
            clip.read_cut(0.0, 20, 10.0, Cut(size=16, share=1.0))
        else:
            clip.read_log_mel(None, AUDIO)
    assert not isinstance(caught.value, StorageError)


def test_a_packet_table_that_is_damaged_is_an_error(world: Path) -> None:
    clips = PreparedClips(world / "mel")
    clip = opened(world / "mel", 0)
    row = clip._row
    for packets in (None, b"", b"nonsense", (row.packets or b"")[:-9]):
        broken = PreparedClip(open_storage(world / "mel"), replace(row, packets=packets), clips.settings)
        with pytest.raises(DecodeError, match="its packet table is damaged") as caught:
            broken.read_cut(0.0, 2, 10.0, Cut(size=16, share=1.0))
        assert not isinstance(caught.value, StorageError)


def test_a_turned_and_odd_clip_is_stored_as_it_is_shown(tmp_path: Path) -> None:
    make_clip(tmp_path / "clips" / "upright.mp4", seconds=1.0, width=48, height=64)
    prepare_here(tmp_path / "clips", tmp_path / "out", short_side=32)
    row = PreparedClips(tmp_path / "out").index.row(0)
    assert (row.width, row.height) == (32, 42)


def test_a_long_clip_is_cut_and_that_is_said(tmp_path: Path) -> None:
    make_clip(tmp_path / "clips" / "long.mp4", seconds=3.0, rate=10.0)
    make_clip(tmp_path / "clips" / "short.mp4", seconds=2.0, rate=10.0)
    prepare_here(tmp_path / "clips", tmp_path / "out", max_seconds=2.0)
    index = PreparedClips(tmp_path / "out").index
    rows = {index.row(k).clip_id: index.row(k) for k in range(2)}
    assert [(row.num_frames, row.num_audio_steps) for row in rows.values()] == [(20, 200)] * 2
    assert rows["long.mp4"].reason == "longer than 2 s, the rest is left out" and rows["short.mp4"].reason is None


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real")
    (root / "clips").mkdir()
    for path in KINETICS:
        shutil.copy(SAMPLES / path, root / "clips")
    prepare_here(root / "clips", root / "out")
    return root


class TestRealClips:
    pytestmark = needs_samples

    def test_windows_are_those_of_plain_decoding(self, real: Path) -> None:
        clips = PreparedClips(real / "out")
        rng = np.random.default_rng(5)
        assert len(clips) == len(KINETICS)
        for number in range(len(clips)):
            clip = clips.open(number)
            row = clip._row
            plain = plain_frames(real / "out", clip)
            side = min(row.width, row.height)
            cut = Cut(size=side, share=1.0, pixel_format=PixelFormat.YUV420P)
            box = cut.box(row.width, row.height)
            for _ in range(5):
                first = int(rng.integers(0, row.num_frames))
                window = clip.read_cut(first / 10, 16, 10.0, cut)
                expected = plain[np.minimum(np.arange(first, first + 16), row.num_frames - 1)]
                expected = expected[:, box.top : box.top + side, box.left : box.left + side]
                np.testing.assert_array_equal(window[:, :side], expected)

    @pytest.mark.slow
    def test_the_default_quality_keeps_38_db(self, real: Path) -> None:
        for path in KINETICS:
            name = Path(path).name
            task = ClipTask(name, None, None, None, None, None, None, name)
            figures = measure_clip(task, str(real / "clips"), PreparedSettings(), DEFAULT_LIMITS)
            assert figures.psnr_db is not None and figures.psnr_db >= 38, name
            assert figures.ssim is not None and figures.ssim > 0.97, name
            assert figures.num_bytes < 1_000_000, name

    def test_stored_frames_are_those_of_the_source(self, real: Path) -> None:
        clips = PreparedClips(real / "out")
        cut = Cut(size=224, share=0.875, pixel_format=PixelFormat.YUV420P)
        for number in range(len(clips)):
            clip = clips.open(number)
            with ClipReader(real / "clips" / clip._row.clip_file) as reader:
                raw = reader.read_cut(0.3, 6, 10.0, cut)
            stored = clip.read_cut(0.3, 6, 10.0, cut)
            assert psnr_db(list(stored), list(raw)) > 37, clip.name


def test_a_place_that_no_file_has_is_one_line(world: Path) -> None:
    clip = opened(world / "mel", 0)
    row = clip._row
    for offset in (1 << 62, row.record_offset + row.record_bytes, -row.audio_bytes):
        clip._row = replace(row, audio_offset=offset)
        with pytest.raises(DecodeError, match="none of its record"):
            clip.read_log_mel(0.0, AUDIO)
