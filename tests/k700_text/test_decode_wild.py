"""Files as they come from the wild: every container, shifted and damaged streams, bombs, and thousands of opens."""

from __future__ import annotations

import gc
import os
import resource
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.stream import Disposition

from k700_text.errors import DecodeError
from k700_text.media import decode
from k700_text.media.clip import DEFAULT_LIMITS, AudioBlock, Cut, DecodeLimits, FrameMark, OpenClip, PixelFormat
from k700_text.media.decode import ClipReader
from k700_text.media.decode.pictures import FrameCutter, FrameScaler
from k700_text.media.decode.shape import orientation_of
from k700_text.media.encode import encode_clip
from tests.k700_text.media_files import frame_number, make_clip, numbered_frames, tone

pytestmark = pytest.mark.filterwarnings("error")

RATE = 30
FLASH_SECONDS = 1.5
MP3_DELAY = 1105  # samples that an MP3 encoder puts first, and AVI cannot tell of
SMALL_CUT = Cut(size=16, share=1.0, pixel_format=PixelFormat.YUV420P)


def flash_frames(num_frames: int = 90) -> Iterator[npt.NDArray[np.uint8]]:
    """Black, but white for three frames from 1.5 s on."""
    first = round(FLASH_SECONDS * RATE)
    for index in range(num_frames):
        yield np.full((48, 64, 3), 255 if first <= index < first + 3 else 16, np.uint8)


def click(at_seconds: float = FLASH_SECONDS, rate: int = 48_000, seconds: float = 3.0) -> npt.NDArray[np.float32]:
    """Silence, but a loud square wave for 10 ms."""
    sound = np.zeros(round(seconds * rate), np.float32)
    steps = np.arange(round(0.01 * rate))
    sound[round(at_seconds * rate) :][: len(steps)] = 0.9 * np.sign(np.sin(2 * np.pi * 1000 * (steps + 0.5) / rate))
    return sound


def texture_frames(num_frames: int, width: int = 64, height: int = 48) -> Iterator[npt.NDArray[np.uint8]]:
    """A texture that moves: no two frames are alike."""
    texture = np.random.default_rng(0).integers(30, 220, (height // 2, width // 2, 3), dtype=np.uint8)
    texture = texture.repeat(2, 0).repeat(2, 1)
    for index in range(num_frames):
        yield np.roll(texture, (index, 3 * index), (0, 1))


def write_media(
    path: Path,
    frames: Iterator[npt.NDArray[np.uint8]] | None,
    video_codec: str = "libx264",
    *,
    audio: npt.NDArray[np.float32] | None = None,
    audio_codec: str = "aac",
    audio_rate: int = 48_000,
    audio_shift: int = 0,
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    times: Callable[[int], int] | None = None,
    container_format: str | None = None,
    container_options: dict[str, str] | None = None,
    skip_packets: int = 0,
) -> Path:
    """Encodes; ``times`` gives the time of each frame in milliseconds, instead of 30 frames a second."""
    with av.open(str(path), "w", format=container_format, options=container_options or {}) as container:
        video: Any = None
        time_base = Fraction(1, RATE) if times is None else Fraction(1, 1000)
        for frame in frames or ():
            if video is None:
                fast = {"deadline": "realtime", "cpu-used": "8"} if video_codec == "libvpx" else {}
                video = container.add_stream(video_codec, rate=RATE, options={**fast, **(options or {})})
                video.height, video.width, video.pix_fmt = *frame.shape[:2], pixel_format
                video.codec_context.time_base = time_base
                sound: Any = container.add_stream(audio_codec, rate=audio_rate) if audio is not None else None
                if sound is not None:
                    sound.layout = "mono"
                index = 0
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pixel_format)
            picture.pts, picture.time_base = (index if times is None else times(index)), time_base
            index += 1
            for packet in video.encode(picture):
                skip_packets -= 1
                if skip_packets < 0:
                    container.mux(packet)
        if video is not None:
            container.mux(video.encode(None))
        if audio is None:
            return path
        if video is None:
            sound = container.add_stream(audio_codec, rate=audio_rate)
            sound.layout = "mono"
        for first in range(0, len(audio), 1024):
            block = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio[None, first : first + 1024]), "fltp", "mono")
            block.sample_rate, block.pts, block.time_base = audio_rate, first + audio_shift, Fraction(1, audio_rate)
            container.mux(sound.encode(block))
        container.mux(sound.encode(None))
    return path


def remux(
    source: Path,
    path: Path,
    *,
    video_shift: float = 0.0,
    audio_shift: float = 0.0,
    options: dict[str, str] | None = None,
) -> Path:
    """Copies the packets into another container, later by so many seconds."""
    with av.open(str(source)) as read, av.open(str(path), "w", options=options or {}) as write:
        streams = {stream.index: write.add_stream_from_template(stream) for stream in read.streams}
        for packet in read.demux():
            if packet.dts is None:
                continue
            shift = video_shift if packet.stream.type == "video" else audio_shift
            ticks = round(shift / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            packet.stream = streams[packet.stream.index]
            write.mux(packet)
    return path


def flash_and_click(path: Path, start: float) -> tuple[float, float]:
    """When the flash and when the click begins in a window, clip time."""
    with ClipReader(path) as reader:
        brightness = reader.read_cut(start, 1600, 1000.0, SMALL_CUT)[:, :16].mean(axis=(1, 2))
        loudness = np.abs(reader.read_audio(start, 1.6, 48_000))
    flash = np.flatnonzero(brightness > 130)[0] / 1000
    heard = np.flatnonzero(loudness > 0.4 * loudness.max())[0] / 48_000
    return start + float(flash), start + float(heard)


def h264_aac(folder: Path, click_at: float = FLASH_SECONDS) -> Path:
    path = folder / "source.mp4"
    encode_clip(path, flash_frames(), frame_rate=RATE, audio=click(click_at), sample_rate=48_000)
    return path


FLASHES: dict[str, Callable[[Path], Path]] = {
    "mp4": h264_aac,
    "mov": lambda folder: remux(h264_aac(folder), folder / "clip.mov"),
    "mkv": lambda folder: remux(h264_aac(folder), folder / "clip.mkv"),
    "ts": lambda folder: remux(h264_aac(folder), folder / "clip.ts"),
    "flv": lambda folder: remux(h264_aac(folder), folder / "clip.flv"),
    "fragmented mp4": lambda folder: remux(
        h264_aac(folder), folder / "clip.mp4", options={"movflags": "frag_keyframe+empty_moov"}
    ),
    "webm": lambda folder: write_media(
        folder / "clip.webm", flash_frames(), "libvpx", audio=click(), audio_codec="libopus"
    ),
    "avi": lambda folder: write_media(
        folder / "clip.avi",
        flash_frames(),
        "mpeg4",
        audio=click(FLASH_SECONDS - MP3_DELAY / 48_000),
        audio_codec="libmp3lame",
        audio_shift=MP3_DELAY,
    ),
    # Frames come out of the decoder late: in AVI their times are those of decoding.
    "avi with frames out of order": lambda folder: write_media(
        folder / "clip.avi", flash_frames(), audio=click(), audio_codec="pcm_s16le"
    ),
    "mpeg": lambda folder: write_media(
        folder / "clip.mpg", flash_frames(), "mpeg2video", audio=click(), audio_codec="mp2"
    ),
    "audio that starts later, mp4": lambda folder: remux(h264_aac(folder, 1.25), folder / "clip.mp4", audio_shift=0.25),
    "audio that starts later, mkv": lambda folder: remux(h264_aac(folder, 1.25), folder / "clip.mkv", audio_shift=0.25),
    "audio that starts later, ts": lambda folder: remux(h264_aac(folder, 1.25), folder / "clip.ts", audio_shift=0.25),
    "video that starts later, mp4": lambda folder: remux(h264_aac(folder, 1.75), folder / "clip.mp4", video_shift=0.25),
    "both start much later": lambda folder: remux(
        h264_aac(folder), folder / "clip.mkv", video_shift=100.0, audio_shift=100.0
    ),
}


@pytest.mark.parametrize("container", FLASHES)
def test_a_flash_and_a_click_at_one_instant_stay_together(container: str, tmp_path: Path) -> None:
    path = FLASHES[container](tmp_path)
    for start in (0.0, 0.9, 1.2, 1.45, 1.4995):
        flash, heard = flash_and_click(path, start)
        assert flash == pytest.approx(FLASH_SECONDS, abs=0.0015), start
        assert abs(heard - flash) < 0.010, start


def test_an_edit_list_that_cuts_off_the_start_cuts_both(tmp_path: Path) -> None:
    path = remux(
        h264_aac(tmp_path),
        tmp_path / "clip.mp4",
        video_shift=-0.5,
        audio_shift=-0.5,
        options={"avoid_negative_ts": "disabled"},
    )
    with av.open(str(path)) as container:
        assert container.streams.video[0].duration * container.streams.video[0].time_base == pytest.approx(2.5)
    for start in (0.0, 0.7):
        flash, heard = flash_and_click(path, start)
        assert flash == pytest.approx(FLASH_SECONDS - 0.5, abs=0.0015) and abs(heard - flash) < 0.010


def test_sound_that_begins_after_the_window_is_silence(tmp_path: Path) -> None:
    path = remux(h264_aac(tmp_path), tmp_path / "clip.mp4", audio_shift=1.0)
    with ClipReader(path) as reader:
        assert not reader.read_audio(0.0, 0.5, 16_000).any()


class FullDecode:
    """Everything decoded from the start by FFmpeg; shows the last frame that is not after a time."""

    def __init__(self, path: Path) -> None:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            assert isinstance(stream, av.VideoStream) and stream.time_base is not None
            self.frames = list(container.decode(stream))
            if path.suffix == ".avi":
                assert stream.average_rate is not None
                self.times = np.arange(len(self.frames)) / float(stream.average_rate)
            else:
                ticks = np.array([frame.pts for frame in self.frames], float)
                self.times = (ticks - (stream.start_time or 0)) * float(stream.time_base)
            assert (np.diff(self.times) > 0).all()

    def shown(self, time_seconds: float) -> av.VideoFrame:
        return self.frames[max(0, int(np.searchsorted(self.times - 1e-6, time_seconds, side="right")) - 1)]


def assert_frame_exact(path: Path, pixel_format: PixelFormat = PixelFormat.YUV420P) -> None:
    reference = FullDecode(path)
    end = reference.times[-1]
    starts = [-0.4, 0.0, *np.random.default_rng(0).uniform(0, end, 8), end - 0.01, end + 0.3]
    for moment in reference.times[:: max(1, len(reference.times) // 5)]:
        starts += [moment, moment - 1e-3, moment + 1e-3]
    cut = Cut(size=32, share=0.7, along_short_side=0.3, pixel_format=pixel_format)
    with ClipReader(path) as reader:
        for start in starts:
            cutter = FrameCutter(cut, 6, limits=DEFAULT_LIMITS, name="reference")
            for position in range(6):
                frame = reference.shown(start + position / 10)
                cutter.put(position, 1, frame, orientation_of(frame))
            assert np.array_equal(reader.read_cut(start, 6, 10.0, cut), cutter.frames()), start


X264_OPEN = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=30"}
X264_REFRESH = {"x264-params": "intra-refresh=1:keyint=30"}
X265 = {"x265-params": "log-level=none:open-gop=1:keyint=30"}


def uneven(index: int) -> int:
    return 33 * index + index % 4 * 9 + (700 if index > 60 else 0)


STREAMS: dict[str, dict[str, Any]] = {
    "open.mp4": {"options": X264_OPEN},
    "open.mkv": {"options": X264_OPEN},
    "open.ts": {"options": X264_OPEN},
    "refresh.mp4": {"options": X264_REFRESH},
    "refresh.ts": {"options": X264_REFRESH},
    "short.flv": {"options": {"g": "30"}},
    "short.avi": {"options": {"g": "30"}},
    "xvid.avi": {"video_codec": "mpeg4", "options": {"g": "15", "bf": "2"}},
    "mpeg2.ts": {"video_codec": "mpeg2video", "options": {"g": "15", "bf": "2"}},
    "vp8.webm": {"video_codec": "libvpx", "options": {"g": "30"}},
    "hevc.mkv": {"video_codec": "libx265", "options": X265},
    "hevc.ts": {"video_codec": "libx265", "options": X265},
    "mjpeg.mov": {"video_codec": "mjpeg", "pixel_format": "yuvj420p"},
    "uneven.mp4": {"times": uneven, "options": {"g": "30"}},
    "uneven.mkv": {"times": uneven, "options": {"g": "30"}},
    "fragments.mp4": {"container_options": {"movflags": "frag_every_frame+empty_moov+delay_moov"}},
    "headless.ts": {"options": {"g": "30"}, "skip_packets": 10},
    "headless.mkv": {"options": {"g": "30"}, "skip_packets": 10},
    "headless.mp4": {"options": {"g": "30"}, "skip_packets": 10},
}


@pytest.mark.parametrize("name", STREAMS)
def test_seeking_is_exact(name: str, tmp_path: Path) -> None:
    """However a stream may be entered: open groups of pictures, gradual refresh, no index, uneven times."""
    assert_frame_exact(write_media(tmp_path / name, texture_frames(120), **STREAMS[name]))


@pytest.mark.parametrize(
    ("name", "shift"), [("neg.mp4", -0.3), ("neg.mov", -0.3), ("late.mp4", 77.0), ("wrap.ts", 0.0)]
)
def test_seeking_is_exact_at_any_origin(name: str, shift: float, tmp_path: Path) -> None:
    source = write_media(tmp_path / "source.mp4", texture_frames(120), options={"g": "30"})
    if name == "wrap.ts":  # the clock of transport streams goes round after 26.5 hours: here in the middle of the clip
        shift = 2**33 / 90_000 - 2.0
    assert_frame_exact(
        remux(source, tmp_path / name, video_shift=shift, options={"avoid_negative_ts": "disabled"}), PixelFormat.RGB24
    )


def test_a_stream_without_timestamps_is_read_at_its_rate(tmp_path: Path) -> None:
    path = write_media(tmp_path / "raw.h264", iter(numbered_frames(50)), options={"g": "10"})
    with ClipReader(path) as reader:
        marks = [mark for mark in reader.scan() if isinstance(mark, FrameMark)]
        step = marks[1].time_seconds
        assert [mark.time_seconds for mark in marks] == pytest.approx([index * step for index in range(50)])
        frames = reader.read_frames(20 * step, 3, 1 / step)
        assert [frame_number(frame) for frame in frames] == [20, 21, 22]
        assert reader.video_seconds() == pytest.approx(50 * step, abs=step)


class TestOpenClip:
    """What the vocabulary of ``media.clip`` promises."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return make_clip(tmp_path / "clip.mp4")

    def test_a_reader_is_an_open_clip(self, path: Path) -> None:
        reader: OpenClip = ClipReader(path)
        assert (reader.name, reader.has_video, reader.has_audio) == (str(path), True, True)
        assert reader.frame_grid_seconds is None and reader.video_end_seconds is None
        assert reader.video_seconds() == 2.0 and reader.audio_seconds() == pytest.approx(2.0, abs=0.05)
        reader.read_cut(1.9, 5, 10.0, SMALL_CUT)
        assert reader.video_end_seconds == pytest.approx(2.0) and reader.missing_video_seconds < 1e-6
        reader.close()
        reader.close()

    def test_a_closed_reader_says_so(self, path: Path) -> None:
        reader = ClipReader(path)
        half_read, half_resampled = reader.scan(), reader.resampled(10.0, 32, max_seconds=9.0)
        next(half_read)
        reader.close()
        for read in (
            lambda: next(half_read),
            lambda: next(half_resampled),
            lambda: reader.read_cut(0.0, 1, 10.0, SMALL_CUT),
            lambda: reader.read_audio(0.0, 1.0, 16_000),
            lambda: list(reader.scan()),
        ):
            with pytest.raises(DecodeError, match="closed"):
                read()

    def test_two_readings_at_once_are_refused(self, path: Path) -> None:
        with ClipReader(path) as reader:
            scan = reader.scan()
            next(scan)
            reader.read_cut(0.0, 1, 10.0, SMALL_CUT)
            with pytest.raises(DecodeError, match="read elsewhere"):
                list(scan)

    def test_without_video(self, tmp_path: Path) -> None:
        path = write_media(tmp_path / "sound.wav", None, audio=tone(1.0, rate=48_000), audio_codec="pcm_s16le")
        with ClipReader(path) as reader:
            assert (reader.has_video, reader.has_audio, reader.video_seconds()) == (False, True, 0.0)
            with pytest.raises(DecodeError, match="no video stream"):
                reader.read_cut(0.0, 1, 10.0, SMALL_CUT)
            with pytest.raises(DecodeError, match="no video stream"):
                reader.resampled(10.0, 32, max_seconds=1.0)
            assert np.abs(reader.read_audio(0.2, 0.5, 16_000)).max() == pytest.approx(0.5, abs=0.02)

    def test_a_window_of_silence_is_zeros(self, tmp_path: Path) -> None:
        path = make_clip(tmp_path / "silent.mp4", audio=np.zeros(88_200, np.float32))
        with ClipReader(path) as reader:
            assert not reader.read_audio(0.0, 2.0, 16_000).any()

    def test_length_is_measured_where_none_is_declared(self, tmp_path: Path) -> None:
        path = write_media(
            tmp_path / "live.mkv", texture_frames(45), container_format="matroska", container_options={"live": "1"}
        )
        with ClipReader(path) as reader:
            assert reader.info.video_duration_seconds is None
            assert reader.video_seconds() == pytest.approx(1.5, abs=0.002)
            assert reader.video_end_seconds == reader.video_seconds()

    @pytest.mark.parametrize("start", [1e300, -1e300, 1e12])
    def test_absurd_times_show_the_ends(self, path: Path, start: float) -> None:
        with ClipReader(path) as reader:
            shown = frame_number(reader.read_frames(start, 1, 10.0)[0])
            assert shown == (49 if start > 0 else 0)
            assert not reader.read_audio(start, 0.5, 16_000).any()


class TestResampled:
    @pytest.mark.parametrize("name", ["even.mp4", "uneven.mkv"])
    def test_frames_are_those_shown_on_the_grid(self, name: str, tmp_path: Path) -> None:
        path = write_media(tmp_path / name, texture_frames(90), times=uneven if name == "uneven.mkv" else None)
        reference = FullDecode(path)
        scaler = FrameScaler(24, limits=DEFAULT_LIMITS, name="reference")
        with ClipReader(path) as reader:
            ours = list(reader.resampled(10.0, 24, max_seconds=60.0))
            end = reader.video_end_seconds
            assert end is not None and len(ours) == int(np.ceil(end * 10 - 1e-4))
            assert [*reader.resampled(10.0, 24, max_seconds=0.95)][-1].shape == (36, 32)
            assert len([*reader.resampled(10.0, 24, max_seconds=0.95)]) == 10
        for index, pixels in enumerate(ours):
            assert pixels.shape == (36, 32) and pixels.dtype == np.uint8
            assert np.array_equal(pixels, scaler.picture(reference.shown(index / 10), 0))

    def test_frames_far_apart_do_not_flood(self, tmp_path: Path) -> None:
        path = write_media(
            tmp_path / "sparse.mkv", iter(numbered_frames(3)), times=lambda index: [0, 500, 10**9][index]
        )
        with ClipReader(path) as reader:
            assert len(list(reader.resampled(10.0, 24, max_seconds=20.0))) == 200
            assert reader.read_cut(0.0, 8, 10.0, SMALL_CUT).shape == (8, 24, 16)

    @pytest.mark.parametrize("arguments", [(0.0, 24, 1.0), (10.0, 23, 1.0), (10.0, 0, 1.0), (10.0, 24, float("inf"))])
    def test_a_bad_argument_is_a_value_error(self, arguments: tuple[float, int, float], tmp_path: Path) -> None:
        path = make_clip(tmp_path / "clip.mp4", 0.2)
        frame_rate, short_side, max_seconds = arguments
        with ClipReader(path) as reader, pytest.raises(ValueError, match=r"bad resampling|short_side"):
            reader.resampled(frame_rate, short_side, max_seconds=max_seconds)


def write_sound(path: Path, channels: npt.NDArray[np.float32], codec: str, layout: str) -> Path:
    """Encodes sound of many channels, (C, N), at 48 kHz."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=48_000)
        stream.layout = layout
        resampler = av.AudioResampler(format=stream.format, layout=layout, frame_size=stream.frame_size or 1024)
        # Interleaved: PyAV does not make 8 planes of an array.
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels.T).reshape(1, -1), "flt", layout)
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


class TestMono:
    """The mean of the channels: FFmpeg's and torchcodec's own down-mix is 1.41 times as loud for stereo."""

    @pytest.mark.parametrize("layout", ["mono", "stereo", "5.1", "7.1"])
    @pytest.mark.parametrize(
        ("codec", "suffix"),
        [
            ("pcm_u8", "wav"),
            ("pcm_s16le", "wav"),
            ("pcm_s24le", "wav"),
            ("pcm_s32le", "wav"),
            ("pcm_f32le", "wav"),
            ("pcm_f64le", "wav"),
            ("flac", "mkv"),
        ],
    )
    def test_is_the_mean_of_the_channels(self, layout: str, codec: str, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"wide.{suffix}"
        num_channels = {"mono": 1, "stereo": 2, "5.1": 6, "7.1": 8}[layout]
        hz = 200.0 * np.arange(1, num_channels + 1)
        steps = np.arange(24_000) / 48_000
        channels = (0.4 * np.sin(2 * np.pi * hz[:, None] * steps)).astype(np.float32)
        write_sound(path, channels, codec, layout)
        with ClipReader(path) as reader:
            assert reader.info.audio_channels == num_channels
            heard = reader.read_audio(0.0, 0.5, 48_000)
            blocks = [block.channels for block in reader.scan() if isinstance(block, AudioBlock)]
        tolerance = 0.02 if codec == "pcm_u8" else 1e-4
        assert np.abs(heard - channels.mean(axis=0)).max() < tolerance
        assert np.abs(np.hstack(blocks)[:, : len(heard)] - channels).max() < tolerance

    @pytest.mark.parametrize(
        ("codec", "suffix", "layout"),
        [
            *[("aac", "mp4", layout) for layout in ("stereo", "5.1", "7.1")],
            *[("libopus", "webm", layout) for layout in ("stereo", "5.1", "7.1")],
            *[("ac3", "mkv", layout) for layout in ("stereo", "5.1")],
            ("mp2", "ts", "stereo"),
        ],
    )
    def test_the_same_tone_in_all_channels_is_as_loud_as_one(
        self, codec: str, suffix: str, layout: str, tmp_path: Path
    ) -> None:
        num_channels = {"stereo": 2, "5.1": 6, "7.1": 8}[layout]
        # The channel of low frequencies keeps 60 Hz; of higher tones nothing.
        sound = tone(1.0, hz=60.0, rate=48_000, amplitude=0.3)
        path = write_sound(tmp_path / f"wide.{suffix}", np.tile(sound, (num_channels, 1)), codec, layout)
        with ClipReader(path) as reader:
            assert reader.info.audio_channels == num_channels
            level = np.sqrt(np.mean(reader.read_audio(0.3, 0.5, 16_000) ** 2))
        assert level == pytest.approx(0.3 / np.sqrt(2), rel=0.06)

    @pytest.mark.parametrize("rate", [8_000, 11_025, 96_000])
    def test_any_sample_rate(self, rate: int, tmp_path: Path) -> None:
        path = make_clip(tmp_path / "clip.mp4")
        encode_clip(path, numbered_frames(20), frame_rate=10.0, audio=tone(2.0, rate=rate), sample_rate=rate)
        with ClipReader(path) as reader:
            heard = reader.read_audio(0.5, 1.0, 16_000)
        assert np.abs(heard).max() == pytest.approx(0.5, abs=0.05)
        spectrum = np.abs(np.fft.rfft(heard))
        assert abs(int(spectrum.argmax()) - 440) <= 1


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def wav(channels: int, rate: int, num_bytes: int = 4000) -> bytes:
    """A WAV file of noise that says of itself whatever it is told to."""
    data = np.random.default_rng(0).bytes(num_bytes)
    block = 2 * channels
    described = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + num_bytes)
        + b"WAVEfmt "
        + described
        + b"data"
        + data.join([struct.pack("<I", num_bytes), b""])
    )


def patched(path: Path, mark: bytes, replacement: bytes, offset: int) -> Path:
    content = bytearray(path.read_bytes())
    position = content.find(mark)
    assert position >= 0
    while position >= 0:
        content[position + offset : position + offset + len(replacement)] = replacement
        position = content.find(mark, position + 1)
    return write_bytes(path, bytes(content))


def read_everything(path: Path, limits: DecodeLimits = DEFAULT_LIMITS) -> list[str]:
    """Reads in all ways; returns why they failed. Any other error than a DecodeError of one line escapes."""
    problems = []
    try:
        with ClipReader(path, limits=limits) as reader:
            for read in (
                lambda: reader.read_cut(0.3, 8, 10.0, SMALL_CUT),
                lambda: reader.read_audio(0.0, 1.0, 16_000),
                lambda: list(reader.resampled(10.0, 32, max_seconds=5.0)),
                lambda: list(reader.scan()),
                lambda: reader.video_seconds(),
            ):
                try:
                    read()
                except DecodeError as error:
                    problems.append(str(error))
    except DecodeError as error:
        problems.append(str(error))
    assert all(problem.startswith(f"{path}: ") and "\n" not in problem for problem in problems)
    return [problem.removeprefix(f"{path}: ") for problem in problems]


class TestBombs:
    """Files that say they are huge are refused before the memory is taken, and those that never end are left."""

    @pytest.fixture(autouse=True)
    def bounded(self) -> Iterator[None]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.monotonic()
        yield
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
        assert time.monotonic() - began < 30

    def test_raw_frames_of_three_gigapixels(self, tmp_path: Path) -> None:
        path = write_bytes(
            tmp_path / "big.y4m", b"YUV4MPEG2 W60000 H60000 F25:1 C420\n" + (b"FRAME\n" + bytes(50_000)) * 3
        )
        assert read_everything(path)

    def test_a_gif_of_four_gigapixels(self, tmp_path: Path) -> None:
        path = write_media(tmp_path / "big.gif", texture_frames(5), "gif", pixel_format="rgb8")
        patched(path, b"GIF89a", struct.pack("<HH", 65_000, 65_000), 6)
        assert any("above the limit" in problem or "no frame" in problem for problem in read_everything(path))

    def test_a_stream_that_claims_more_than_its_container(self, tmp_path: Path) -> None:
        path = write_media(tmp_path / "big.webm", texture_frames(10), "libvpx")
        patched(path, b"\x9d\x01\x2a", struct.pack("<HH", 16_383, 16_383), 3)
        assert "no frame of its video stream decodes" in read_everything(path)

    def test_declared_pixels_above_the_limit(self, tmp_path: Path) -> None:
        path = make_clip(tmp_path / "clip.mp4", 0.2)
        assert read_everything(path, DecodeLimits(max_pixels=64 * 48)) == []
        assert read_everything(path, DecodeLimits(max_pixels=64 * 48 - 1)) == [
            "frames of 64x48 pixels are above the limit"
        ]

    @pytest.mark.parametrize(
        ("channels", "rate"), [(65_535, 44_100), (255, 44_100), (2, 2**31 - 1), (1, 2**32 - 1), (2, 0), (0, 8000)]
    )
    def test_audio_that_no_microphone_made(self, channels: int, rate: int, tmp_path: Path) -> None:
        assert read_everything(write_bytes(tmp_path / "strange.wav", wav(channels, rate)))

    def test_audio_of_one_hertz(self, tmp_path: Path) -> None:
        path = write_bytes(tmp_path / "slow.wav", wav(2, 1))
        with ClipReader(path) as reader:
            assert reader.read_audio(0.0, 1.0, 16_000).shape == (16_000,)

    def test_many_tiny_frames(self, tmp_path: Path) -> None:
        path = write_bytes(tmp_path / "tiny.y4m", b"YUV4MPEG2 W2 H2 F25:1 C420\n" + (b"FRAME\n" + bytes(6)) * 20_000)
        with (
            pytest.raises(DecodeError, match="too long"),
            ClipReader(path, limits=DecodeLimits(max_frames=10_000)) as reader,
        ):
            list(reader.scan())

    def test_a_file_that_never_says_anything(self, tmp_path: Path) -> None:
        empty_packet = b"\x47\x1f\xff\x10" + b"\xff" * 184
        path = write_bytes(tmp_path / "nothing.ts", empty_packet * 50_000)
        assert read_everything(path) == ["holds no video and no audio"]

    def test_reading_ends_in_time_even_where_no_packet_comes(self, tmp_path: Path) -> None:
        source = write_media(tmp_path / "source.ts", texture_frames(6))
        # Something that looks like a transport stream, of which nothing belongs to a stream that is read.
        endless = tmp_path / "endless.ts"
        with endless.open("wb") as file:
            file.write(source.read_bytes())
            for _ in range(60):
                file.write((b"\x47\x1f\xff\x10" + b"\xff" * 184) * 5_000)
        taken = []
        for _ in range(3):
            began = time.monotonic()
            with ClipReader(endless) as reader:
                assert sum(isinstance(mark, FrameMark) for mark in reader.scan()) == 6
            taken.append(time.monotonic() - began)
        # A fixed limit would be none on a machine that is fast enough.
        limits = DecodeLimits(max_seconds=min(taken) / 5)
        with pytest.raises(DecodeError, match="too long"), ClipReader(endless, limits=limits) as reader:
            list(reader.scan())

    @pytest.mark.parametrize("name", ["clip.ts", "clip.mkv", "clip.mp4", "clip.avi"])
    @pytest.mark.parametrize("kind", ["noise", "zeros"])
    def test_junk_after_the_clip(self, name: str, kind: str, tmp_path: Path) -> None:
        path = write_media(tmp_path / name, texture_frames(60))
        junk = np.random.default_rng(0).bytes(2_000_000) if kind == "noise" else bytes(2_000_000)
        write_bytes(path, path.read_bytes() + junk)
        with ClipReader(path) as reader:
            assert sum(isinstance(mark, FrameMark) for mark in reader.scan()) >= 59


class TestImages:
    @pytest.mark.parametrize("suffix", ["png", "jpg"])
    def test_an_image_under_the_name_of_a_video_is_refused(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"picture.{suffix}"
        codec, pixel_format = ("png", "rgb24") if suffix == "png" else ("mjpeg", "yuvj420p")
        write_media(path, texture_frames(1), codec, pixel_format=pixel_format, container_format="image2")
        video = path.rename(tmp_path / "clip.mp4")
        assert read_everything(video) == ["is an image, a playlist or another format that clips do not have"]

    def test_a_video_of_one_picture_is_read(self, tmp_path: Path) -> None:
        path = write_media(tmp_path / "still.avi", texture_frames(1), "mjpeg", pixel_format="yuvj420p")
        with ClipReader(path) as reader:
            assert len(reader.read_cut(0.0, 4, 10.0, SMALL_CUT)) == 4
            assert len(list(reader.resampled(10.0, 48, max_seconds=9.0))) == 1

    def test_cover_art_is_no_video(self, tmp_path: Path) -> None:
        path = tmp_path / "song.mp4"
        with av.open(str(path), "w") as container:
            sound: Any = container.add_stream("aac", rate=48_000)
            sound.layout = "mono"
            cover: Any = container.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
            cover.disposition = Disposition.attached_pic
            picture = av.VideoFrame.from_ndarray(next(texture_frames(1)), format="rgb24").reformat(format="yuvj420p")
            container.mux(cover.encode(picture))
            container.mux(cover.encode(None))
            block = av.AudioFrame.from_ndarray(tone(1.0, rate=48_000)[None], "fltp", "mono")
            block.sample_rate, block.pts, block.time_base = 48_000, 0, Fraction(1, 48_000)
            container.mux(sound.encode(block))
            container.mux(sound.encode(None))
        with av.open(str(path)) as container:
            assert len(container.streams.video) == 1
        with ClipReader(path) as reader:
            assert not reader.has_video and reader.has_audio
            assert np.abs(reader.read_audio(0.2, 0.5, 16_000)).max() > 0.4


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.webm", "clip.ts", "clip.avi", "clip.flv"])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
def test_a_truncated_tail_leaves_what_came_before(name: str, share: float, tmp_path: Path) -> None:
    path = write_media(
        tmp_path / name, texture_frames(90), {".webm": "libvpx"}.get(Path(name).suffix, "libx264"), options={"g": "15"}
    )
    if path.suffix == ".mp4":  # its index at the front
        path = remux(path, tmp_path / "fast.mp4", options={"movflags": "faststart"})
    reference = FullDecode(path)
    write_bytes(path, path.read_bytes()[: int(share * path.stat().st_size)])
    with ClipReader(path) as reader:
        times = [mark.time_seconds for mark in reader.scan() if isinstance(mark, FrameMark)]
        # Every packet that is whole is shown, but for what is lost of the group that is broken off.
        assert len(times) >= share * 90 - 16
        shown = reader.read_cut(0.0, len(times) - 4, RATE, SMALL_CUT)
        last, _ = reader.read_cut(50.0, 2, 10.0, SMALL_CUT)
        assert reader.video_end_seconds is not None and reader.video_end_seconds < share * 3.0 + 0.3
        if path.suffix not in (".ts", ".avi"):  # of these FFmpeg takes for their length what is there
            assert reader.missing_video_seconds == pytest.approx(3.0 - reader.video_end_seconds, abs=0.1)
    for position in range(0, len(shown), 7):
        cutter = FrameCutter(SMALL_CUT, 1, limits=DEFAULT_LIMITS, name="reference")
        cutter.put(0, 1, reference.shown(position / RATE), 0)
        assert np.array_equal(shown[position], cutter.frames()[0])
    assert last.shape == shown[0].shape


def test_a_stream_that_comes_up_midway_is_left_aside(tmp_path: Path) -> None:
    """PyAV's demuxer ends with an IndexError in such a file."""
    first = write_media(tmp_path / "first.flv", texture_frames(200))
    second = write_media(
        tmp_path / "second.flv",
        texture_frames(30),
        audio=tone(1.0),
        audio_codec="libmp3lame",
        audio_rate=44_100,
    )
    header_bytes = 13
    path = write_bytes(tmp_path / "both.flv", first.read_bytes() + second.read_bytes()[header_bytes:])
    with ClipReader(path) as reader:
        assert not reader.has_audio
        assert len(list(reader.scan())) == 230
    assert read_everything(path) == ["no audio stream"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", 0.2).rename(tmp_path / os.fsdecode(b"caf\xe9 %d \xff.mp4"))
    assert read_everything(path) == []


# --- The traps that are named in the design notes -------------------------------------------------------------------


def test_the_log_of_ffmpeg_is_left_alone() -> None:
    """A log callback in Python dead-locks with threaded decoders when a half-read file is closed."""
    folder = Path(decode.__file__).parent
    for path in [*folder.rglob("*.py"), folder.parent / "encode.py"]:
        text = path.read_text()
        assert "logging" not in text and "set_level" not in text and "set_libav_level" not in text, path


HAMMER = """
import sys, threading
from pathlib import Path
from k700_text.errors import DecodeError
from k700_text.media.clip import Cut
from k700_text.media.decode import ClipReader

def work(number):
    for turn in range(12):
        for path in paths[number % 2:]:
            try:
                reader = ClipReader(path)
                scan = reader.scan()
                for _ in range(turn + number):
                    next(scan, None)
                reader.read_cut(0.5, 2, 10.0, Cut(size=16, share=1.0))
                reader.close()
            except DecodeError:
                pass

paths = [Path(name) for name in sys.argv[1:]]
threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("done")
"""


def test_half_read_files_closed_in_many_threads_do_not_hang(tmp_path: Path) -> None:
    good = make_clip(tmp_path / "good.mp4")
    content = bytearray(good.read_bytes())
    content[len(content) // 2 :: 50] = b"\xff" * len(content[len(content) // 2 :: 50])
    damaged = write_bytes(tmp_path / "damaged.mp4", bytes(content))
    webm = write_media(tmp_path / "clip.webm", texture_frames(30), "libvpx")
    paths = [str(path) for path in (good, damaged, webm)]
    finished = subprocess.run([sys.executable, "-c", HAMMER, *paths], capture_output=True, text=True, timeout=60)
    assert finished.stdout.strip() == "done", finished.stderr


def held() -> tuple[int, int, int]:
    """Open files, threads, resident memory in kB."""
    gc.collect()  # FFmpeg's containers and streams, as PyAV wraps them, refer to each other
    threads = len(list(Path("/proc/self/task").iterdir()))
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024
    return len(list(Path("/proc/self/fd").iterdir())), threads, resident


def open_many(folder: Path, num_opens: int) -> None:
    """Opens good and bad files, reads a little in every way, and closes them; some of them forgets to."""
    good = make_clip(folder / "good.mp4", 0.5)
    content = good.read_bytes()
    files = [
        good,
        remux(good, folder / "clip.mkv"),
        remux(good, folder / "clip.ts"),
        write_media(folder / "clip.avi", texture_frames(15), "mpeg4"),
        write_media(folder / "clip.webm", texture_frames(15), "libvpx"),
        write_bytes(folder / "half.mp4", content[: len(content) // 2]),
        write_bytes(folder / "noise.mp4", bytes(range(256)) * 8),
        write_bytes(folder / "holes.mp4", content[:3000] + bytes(500) + content[3500:]),
        write_bytes(folder / "strange.wav", wav(255, 44_100)),
        folder / "absent.mp4",
    ]
    before: tuple[int, int, int] | None = None
    for number in range(num_opens):
        if number == num_opens // 4:
            before = held()
        try:
            reader = ClipReader(files[number % len(files)])
            scan = reader.scan()
            match number // len(files) % 5:
                case 0:
                    reader.read_cut(0.2, 2, 10.0, SMALL_CUT)
                case 1:
                    next(scan)
                case 2:
                    reader.read_audio(0.1, 0.1, 16_000)
                case 3:
                    next(reader.resampled(10.0, 32, max_seconds=1.0))
            if number % 7:
                reader.close()
        except (DecodeError, StopIteration):
            pass
    del reader, scan
    assert before is not None
    num_files, num_threads, resident = held()
    assert (num_files, num_threads) == before[:2]
    assert resident - before[2] < 8_000


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells what a process holds")
@pytest.mark.slow
def test_a_thousand_opens_leave_nothing_behind(tmp_path: Path) -> None:
    open_many(tmp_path, 1_000)
    assert threading.active_count() == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells what a process holds")
def test_a_hundred_thousand_opens_leave_nothing_behind(tmp_path: Path) -> None:
    open_many(tmp_path, 100_000)
