from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from k700_text.errors import DecodeError
from k700_text.media.clip import AudioBlock, Cut, DecodeLimits, FrameMark, PixelFormat
from k700_text.media.decode import ClipReader, container
from k700_text.media.decode.pictures import FrameCutter
from k700_text.media.decode.shape import orientation_of, pixel_aspect_of, square_size
from k700_text.media.encode import encode_clip
from tests.k700_text.media_files import SAMPLES, frame_number, make_clip, needs_samples, numbered_frames, tone

pytestmark = pytest.mark.filterwarnings("error")


class FullDecode:
    """The reference: decodes everything, and shows the last frame that is not after a time."""

    def __init__(self, path: Path) -> None:
        with av.open(str(path), metadata_errors="ignore") as container:
            stream = container.streams.best("video")
            assert stream is not None and stream.time_base is not None
            self.frames = list(container.decode(stream))
            if path.suffix == ".avi":  # stores no presentation times: one frame after the other
                assert isinstance(stream, av.VideoStream) and stream.average_rate is not None
                dts = [frame.dts for frame in self.frames if frame.dts is not None]
                assert dts == list(range(dts[0], dts[0] + len(dts))) and len(self.frames) - len(dts) <= 1
                self.times = np.arange(len(self.frames)) / float(stream.average_rate)
            else:
                ticks = np.array([frame.pts for frame in self.frames])
                assert (np.diff(ticks) > 0).all()
                self.times = (ticks - ticks[0]) * float(stream.time_base)
            self.pixel_aspect = pixel_aspect_of(stream)

    def chosen(self, start: float, num_frames: int, rate: float) -> list[av.VideoFrame]:
        wanted = start + np.arange(num_frames) / rate
        return [self.frames[max(0, np.flatnonzero(self.times <= time + 1e-6)[-1:].sum())] for time in wanted]

    def shown(self, start: float, num_frames: int, rate: float) -> np.ndarray[Any, Any]:
        chosen = self.chosen(start, num_frames, rate)
        width, height = square_size(chosen[0].width, chosen[0].height, self.pixel_aspect)
        size: Any = {"width": width, "height": height}
        return np.stack([np.rot90(f.to_ndarray(format="rgb24", **size), round(f.rotation / 90)) for f in chosen])

    def cut(self, start: float, num_frames: int, rate: float, cut: Cut) -> np.ndarray[Any, Any]:
        cutter = FrameCutter(cut, num_frames, limits=DecodeLimits(), name="reference", pixel_aspect=self.pixel_aspect)
        for position, frame in enumerate(self.chosen(start, num_frames, rate)):
            cutter.put(position, 1, frame, orientation_of(frame))
        return cutter.frames()


def read(path: Path, start: float, num_frames: int = 16, rate: float = 10.0) -> np.ndarray[Any, Any]:
    with ClipReader(path) as reader:
        return reader.read_frames(start, num_frames, rate)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "a:b %d [1].mp4")


def test_frames_are_chosen_by_time(clip: Path) -> None:
    frames = read(clip, 0.4, num_frames=5, rate=10.0)
    assert frames.shape == (5, 48, 64, 3) and frames.dtype == np.uint8
    # 25 frames a second: 0.4 s is frame 10, then every 2.5 frames, rounded down.
    assert [frame_number(frame) for frame in frames] == [10, 12, 15, 17, 20]


@pytest.mark.parametrize("start", [-3.0, 0.0, 1.23, 1.99])
def test_any_start_equals_a_full_decode(clip: Path, start: float) -> None:
    assert np.array_equal(read(clip, start), FullDecode(clip).shown(start, 16, 10.0))


def test_past_the_end_shows_the_last_frame(clip: Path) -> None:
    assert [frame_number(frame) for frame in read(clip, 50.0, num_frames=3)] == [49, 49, 49]


def test_reads_of_one_reader_do_not_disturb_each_other(clip: Path) -> None:
    with ClipReader(clip) as reader:
        late = reader.read_frames(1.0, 8, 10.0)
        sound = reader.read_audio(0.2, 0.5, 16_000)
        early = reader.read_frames(0.0, 8, 10.0)
        num_frames = sum(isinstance(event, FrameMark) for event in reader.scan())
        assert np.allclose(reader.read_audio(0.2, 0.5, 16_000), sound, atol=1e-5)
        assert np.array_equal(reader.read_frames(1.0, 8, 10.0), late)
    assert num_frames == 50
    assert np.array_equal(early, read(clip, 0.0, 8))


def test_the_file_is_opened_once(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(
        container.av, "open", lambda file, *a, _open=av.open, **k: opened.append(file) or _open(file, *a, **k)
    )
    with ClipReader(clip) as reader:
        reader.read_frames(1.0, 16, 10.0)
        reader.read_audio(0.5, 1.0, 16_000)
    assert len(opened) == 1


def test_audio_stands_where_its_timestamps_put_it(tmp_path: Path) -> None:
    # Silence with a click at 1.5 s; AAC smears it over a few milliseconds.
    sound = np.zeros(3 * 44_100, dtype=np.float32)
    sound[round(1.5 * 44_100) :][:40] = 0.9
    path = make_clip(tmp_path / "click.mp4", 3.0, audio=sound, rate=10.0)
    with ClipReader(path) as reader:
        for start in (0.0, 0.7, 1.45):
            heard = reader.read_audio(start, 1.6, 16_000)
            assert heard.shape == (25_600,) and heard.dtype == np.float32
            assert np.abs(heard).argmax() / 16_000 == pytest.approx(1.5 - start, abs=0.003)


def test_audio_window_equals_the_same_part_of_the_whole(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "tone.mp4", 3.0, audio=tone(3.0), rate=10.0)
    with ClipReader(path) as reader:
        whole = reader.read_audio(0.0, 3.0, 44_100)
        part = reader.read_audio(1.0, 1.0, 44_100)
    assert np.abs(part - whole[44_100:88_200]).max() < 2e-3
    assert np.sqrt(np.mean(part**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.04)


def test_zeros_stand_where_the_stream_has_nothing(clip: Path) -> None:
    with ClipReader(clip) as reader:
        before_and_in = reader.read_audio(-0.5, 1.0, 16_000)
        after = reader.read_audio(5.0, 1.0, 16_000)
    assert not before_and_in[:7_800].any() and np.abs(before_and_in[8_300:]).max() > 0.4
    assert not after.any()


# AAC's low-frequency channel, one of the six, keeps nothing of a 440 Hz tone.
@pytest.mark.parametrize(("num_channels", "share"), [(2, 1.0), (6, 5 / 6)])
def test_mono_is_the_mean_of_the_channels(tmp_path: Path, num_channels: int, share: float) -> None:
    # The same tone in all channels: a mix that adds powers or weights the centre would be louder.
    path = make_clip(tmp_path / "wide.mp4", audio=np.tile(tone(2.0, amplitude=0.3), (num_channels, 1)))
    with ClipReader(path) as reader:
        assert reader.info.audio_channels == num_channels
        level = np.sqrt(np.mean(reader.read_audio(0.5, 1.0, 16_000) ** 2))
    assert level == pytest.approx(share * 0.3 / np.sqrt(2), rel=0.04)


def test_scan_gives_every_frame_and_sample(clip: Path) -> None:
    with ClipReader(clip) as reader:
        events = list(reader.scan())
    marks = [event for event in events if isinstance(event, FrameMark)]
    num_samples = sum(event.channels.shape[1] for event in events if isinstance(event, AudioBlock))
    assert [mark.time_seconds for mark in marks] == pytest.approx([index / 25 for index in range(50)])
    assert {(mark.width, mark.height) for mark in marks} == {(64, 48)}
    assert num_samples / 44_100 == pytest.approx(2.0, abs=0.05)


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def write_image(path: Path) -> Path:
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png" if path.suffix == ".png" else "mjpeg", rate=1)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "rgb24" if path.suffix == ".png" else "yuvj420p"
        for frame in [av.VideoFrame.from_ndarray(numbered_frames(1)[0], format="rgb24")]:
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: folder / "absent.mp4", "no such file"),
        (lambda folder: folder, "not a regular file"),
        (lambda folder: write_bytes(folder / "empty.mp4", b""), "empty"),
        (lambda folder: write_bytes(folder / "text.mp4", b"this is not a film\n" * 100), "."),
        (lambda folder: write_bytes(folder / "noise.mp4", bytes(range(256)) * 64), "."),
        (lambda folder: write_bytes(folder / "list.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"), "."),
        (lambda folder: write_bytes(folder / "list.ffconcat", b"ffconcat version 1.0\nfile a.mp4\n"), "."),
        (lambda folder: write_image(folder / "picture.png"), "."),
        (lambda folder: write_image(folder / "picture.jpg"), "."),
    ],
)
def test_what_is_no_clip_is_a_decode_error_of_one_line(tmp_path: Path, make: Any, reason: str) -> None:
    path = make(tmp_path)
    with pytest.raises(DecodeError, match=reason) as caught:
        read(path, 0.0)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.path == str(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(DecodeError, match="regular file"):
        read(tmp_path / "pipe.mp4", 0.0)


def test_a_truncated_file_gives_what_it_still_holds(clip: Path, tmp_path: Path) -> None:
    # Matroska keeps no index at its end, so half of it is still a clip.
    whole = tmp_path / "whole.mkv"
    with av.open(str(clip)) as source, av.open(str(whole), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    half = write_bytes(tmp_path / "half.mkv", whole.read_bytes()[: whole.stat().st_size // 2])
    with ClipReader(half) as reader:
        num_frames = sum(isinstance(event, FrameMark) for event in reader.scan())
        frames = reader.read_frames(1.9, 4, 10.0)
    assert 5 < num_frames < 49
    assert frame_number(frames[0]) == num_frames - 1


def test_an_mp4_cut_off_before_its_index_is_a_decode_error(clip: Path, tmp_path: Path) -> None:
    half = write_bytes(tmp_path / "half.mp4", clip.read_bytes()[: clip.stat().st_size // 2])
    try:
        frames = read(half, 0.0)
    except DecodeError as error:
        assert str(half) in str(error)
    else:  # an index at the front: what is left decodes
        assert frame_number(frames[0]) == 0


@pytest.mark.parametrize("position", [0.3, 0.6, 0.9])
def test_damage_never_escapes_as_a_foreign_error(clip: Path, tmp_path: Path, position: float) -> None:
    content = bytearray(clip.read_bytes())
    first = int(position * len(content))
    content[first : first + 200] = np.random.default_rng(0).bytes(200)
    damaged = write_bytes(tmp_path / "damaged.mp4", bytes(content))
    try:
        with ClipReader(damaged) as reader:
            assert reader.read_frames(0.5, 16, 10.0).shape == (16, 48, 64, 3)
            reader.read_audio(0.0, 1.0, 16_000)
            list(reader.scan())
    except DecodeError as error:
        assert str(damaged) in str(error)


def test_limits_are_kept(clip: Path) -> None:
    with (
        pytest.raises(DecodeError, match="64x48 pixels"),
        ClipReader(clip, limits=DecodeLimits(max_pixels=100)) as reader,
    ):
        reader.read_frames(0.0, 1, 10.0)
    with pytest.raises(DecodeError, match="too long"), ClipReader(clip, limits=DecodeLimits(max_frames=10)) as reader:
        list(reader.scan())
    with pytest.raises(DecodeError, match="too long"), ClipReader(clip, limits=DecodeLimits(max_seconds=0)) as reader:
        reader.read_frames(0.0, 1, 10.0)
    with pytest.raises(DecodeError, match="limit"), ClipReader(clip) as reader:
        reader.read_audio(0.0, 1e6, 16_000)


@pytest.mark.parametrize("arguments", [(float("nan"), 1, 10.0), (0.0, 0, 10.0), (0.0, -1, 10.0), (0.0, 1, 0.0)])
def test_a_bad_argument_is_a_value_error(clip: Path, arguments: tuple[float, int, float]) -> None:
    with ClipReader(clip) as reader:
        with pytest.raises(ValueError, match="bad window"):
            reader.read_frames(*arguments)
        with pytest.raises(ValueError, match="bad window"):
            reader.read_cut(*arguments, Cut(size=16, share=1.0))


def test_streams_that_are_not_there_are_named(tmp_path: Path) -> None:
    mute = tmp_path / "mute.mp4"
    encode_clip(mute, numbered_frames(5), frame_rate=10.0)
    with ClipReader(mute) as reader:
        assert reader.info.has_video_stream and not reader.info.has_audio_stream
        with pytest.raises(DecodeError, match="no audio stream"):
            reader.read_audio(0.0, 1.0, 16_000)


def sample_files() -> list[Path]:
    return sorted(path for path in SAMPLES.rglob("*.*") if path.is_file()) if SAMPLES.is_dir() else []


class TestRealFiles:
    pytestmark = needs_samples

    @pytest.mark.parametrize("path", sample_files(), ids=lambda path: path.name)
    def test_every_file_equals_a_full_decode(self, path: Path) -> None:
        with ClipReader(path) as reader:
            if reader.info.has_audio_stream:
                assert np.abs(reader.read_audio(0.2, 1.0, 16_000)).max() > 1e-3
            if not reader.info.has_video_stream:
                assert path.suffix in (".wav", ".mp3")
                return
            if path.name == "corrupted.mp4":
                return
            reference, end = FullDecode(path), reader.video_seconds()
            for start in (0.0, end / 3, end * 0.8):
                ours = reader.read_frames(start, 4, 10.0)
                assert np.array_equal(ours, reference.shown(start, 4, 10.0)), start
                for pixel_format in PixelFormat:
                    cut = Cut(size=48, share=0.6, along_long_side=0.8, is_mirrored=True, pixel_format=pixel_format)
                    assert np.array_equal(reader.read_cut(start, 4, 10.0, cut), reference.cut(start, 4, 10.0, cut))

    def test_damage_ends_the_video_until_the_next_key_frame(self) -> None:
        # FFmpeg goes on, with pictures that refer to one that is not there; all that came before are shown.
        path = SAMPLES / "decord" / "corrupted.mp4"
        reference = FullDecode.__new__(FullDecode)
        reference.frames = []
        with av.open(str(path)) as source, pytest.raises(av.error.InvalidDataError):
            for frame in source.decode(video=0):
                reference.frames.append(frame)
        reference.times = np.arange(len(reference.frames)) / 10
        reference.pixel_aspect = 1.0
        with ClipReader(path) as reader:
            marks = [mark for mark in reader.scan() if isinstance(mark, FrameMark)]
            assert len(marks) == 29 and reader.num_damaged_video == 1
            assert [mark.time_seconds for mark in marks] == pytest.approx([index / 10 for index in range(29)])
            assert len(reference.frames) == 28
            assert np.array_equal(reader.read_frames(0.0, 28, 10.0), reference.shown(0.0, 28, 10.0))
            last = reader.read_frames(4.0, 2, 10.0)
            assert np.array_equal(last[0], last[1])
            assert reader.video_end_seconds == pytest.approx(2.9)

    @pytest.mark.parametrize("degrees", [0, 90, 180, 270])
    def test_frames_are_turned_clockwise_by_what_the_file_says(self, degrees: int) -> None:
        # Four scenes of a keyboard, held four ways; turned as their names say, its letters stand upright.
        path = SAMPLES / "decord" / f"video_{degrees}.mov"
        with av.open(str(path)) as container:
            stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
        assert stored.shape == (320, 568, 3)
        assert np.array_equal(read(path, 0.0, 1)[0], np.rot90(stored, -degrees // 90))

    def test_resampled_frames_are_turned(self) -> None:
        with ClipReader(SAMPLES / "decord" / "video_90.mov") as reader:
            pictures = list(reader.resampled(30.0, 160, max_seconds=9.0))
        assert [picture.shape for picture in pictures] == [(284 * 3 // 2, 160)] * 3
