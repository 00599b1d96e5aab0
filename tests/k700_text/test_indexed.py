from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from k700_text.config import AudioConfig
from k700_text.errors import DecodeError
from k700_text.media.clip import DEFAULT_LIMITS, Cut, DecodeLimits, PixelFormat
from k700_text.media.decode import ClipReader, PacketReader, bare, check_packets, packets_of
from k700_text.media.packets import DROPPABLE, KEY, ClipPackets
from tests.k700_text.media_files import FIGHT, SAMPLES, needs_samples, tone

CUT = Cut(size=32, share=0.8, along_long_side=0.3, pixel_format=PixelFormat.YUV420P)


def moving_frames(num_frames: int, width: int, height: int) -> Iterator[np.ndarray[Any, Any]]:
    """A texture that drifts, with noise that no frame shares with another: no two frames are alike."""
    rng = np.random.default_rng(7)
    texture = rng.integers(0, 256, (height // 8 + 1, width // 8 + 80, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    for index in range(num_frames):
        picture = texture[:height, 3 * index : 3 * index + width].copy()
        picture[::5, ::3] ^= rng.integers(0, 32, picture[::5, ::3].shape, dtype=np.uint8)
        yield picture


def make(
    path: Path,
    num_frames: int = 60,
    *,
    width: int = 96,
    height: int = 64,
    codec: str = "libx264",
    audio_codec: str | None = None,
    pixel_format: str = "yuv420p",
    set_up: Callable[[Any], None] | None = None,
    **options: str,
) -> Path:
    """Encodes a clip of 25 frames a second with the given options of the encoder."""
    rate = 25
    options = {"preset": "veryfast", "threads": "1", **options} if codec.startswith("libx26") else options
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(codec, rate=rate, options=options)
        video.width, video.height, video.pix_fmt = width, height, pixel_format
        if set_up is not None:
            set_up(video.codec_context)
        audio: Any = None if audio_codec is None else container.add_stream(audio_codec, rate=44_100, layout="stereo")
        for picture in moving_frames(num_frames, width, height):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None:
            sound = tone(num_frames / rate, hz=330) + tone(num_frames / rate, hz=1700, amplitude=0.2)
            noise = np.random.default_rng(1).normal(0, 0.05, len(sound)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.stack([sound, sound + noise]), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = 44_100, 0, Fraction(1, 44_100)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


class Indexed:
    """A clip file read by its packets; counts what is read of it."""

    def __init__(self, path: Path, packets: ClipPackets | None = None, limits: DecodeLimits = DEFAULT_LIMITS) -> None:
        found = packets_of(path) if packets is None else packets
        assert isinstance(found, ClipPackets), found
        self.packets, self.content = found, path.read_bytes()
        self.reads: list[tuple[int, int]] = []
        self.reader = PacketReader(str(path), found, self._read, limits=limits)

    def _read(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        return self.content[offset : offset + size]


def windows(seed: int, count: int, seconds: float) -> list[tuple[float, int, float]]:
    rng = np.random.default_rng(seed)
    return [
        (float(rng.uniform(-0.3, seconds + 0.3)), int(rng.integers(1, 17)), float(rng.choice([4, 10, 25, 29.97, 60])))
        for _ in range(count)
    ]


def assert_exact(path: Path, count: int, *, size: int = 32, seed: int = 0) -> Indexed:
    indexed = Indexed(path)
    with ClipReader(path) as plain:
        for number, (start, num_frames, rate) in enumerate(windows(seed, count, plain.video_seconds())):
            pixel_format = list(PixelFormat)[number % 2]
            cut = Cut(
                size=size, share=0.9, along_short_side=0.4, pixel_format=pixel_format, is_mirrored=number % 3 == 0
            )
            theirs, ours = (reader.read_cut(start, num_frames, rate, cut) for reader in (plain, indexed.reader))
            assert np.array_equal(theirs, ours), (path.name, start, num_frames, rate)
        assert indexed.reader.video_seconds() == pytest.approx(plain.video_seconds(), abs=1e-9)
        assert indexed.reader.audio_seconds() == plain.audio_seconds()
        assert (indexed.reader.has_video, indexed.reader.has_audio) == (plain.has_video, plain.has_audio)
    return indexed


KINDS: dict[str, dict[str, Any]] = {
    "b-frames": {"bf": "3", "x264-params": "b-pyramid=normal:ref=4:scenecut=0", "preset": "medium"},
    "b-frames without pyramid": {"bf": "2", "x264-params": "b-pyramid=none", "g": "30"},
    "gop 12": {"g": "12", "keyint_min": "12"},
    "gop 1": {"g": "1"},
    "fast decode": {"g": "8", "tune": "fastdecode", "bf": "0"},
    "slices": {"x264-params": "slices=4", "g": "25"},
    "340x256": {"width": 340, "height": 256, "num_frames": 75},
    "odd size": {"width": 98, "height": 66, "x264-params": "crop-rect=0,0,0,0"},
    "interlaced": {"x264-params": "tff=1"},
    "full range": {"pixel_format": "yuvj420p"},
    "constrained": {"profile": "baseline", "g": "10"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_those_of_the_plain_path(tmp_path: Path, kind: str) -> None:
    assert_exact(make(tmp_path / "clip.mp4", **KINDS[kind]), 14)


def test_large_pictures_are_exact(tmp_path: Path) -> None:
    assert_exact(make(tmp_path / "clip.mp4", 26, width=1280, height=720), 3, size=224)


def test_half_of_the_b_frames_are_never_decoded(tmp_path: Path) -> None:
    indexed = Indexed(make(tmp_path / "clip.mp4", **KINDS["b-frames"]))
    video = indexed.packets.video
    assert video is not None
    assert np.count_nonzero(video.flags & DROPPABLE) > len(video) / 3
    assert len(video.select([2.0]).packets) < len(video) / 2


@pytest.mark.parametrize("duration", [0.3, 2.56])
def test_sound_is_that_of_the_plain_path(tmp_path: Path, duration: float) -> None:
    path = make(tmp_path / "clip.mp4", 100, audio_codec="aac")
    indexed = Indexed(path)
    for number, (start, _, _) in enumerate(windows(3, 8, 4.0)):
        rate = (16_000, 44_100)[number % 2]
        with ClipReader(path) as plain:
            theirs = plain.read_audio(start, duration, rate)
        ours = indexed.reader.read_audio(start, duration, rate)
        assert theirs.shape == ours.shape and np.abs(theirs - ours).max() <= 1e-5, start
    for start_seconds in (None, 1.0):
        with ClipReader(path) as plain:
            theirs, level = plain.read_log_mel(start_seconds, AudioConfig())
        ours, our_level = indexed.reader.read_log_mel(start_seconds, AudioConfig())
        assert np.abs(theirs - ours).max() < 1e-3 and our_level == pytest.approx(level)


@pytest.mark.parametrize("priming", [0, 1024, 1500, 2112, 3000])
def test_what_the_audio_encoder_put_before_the_sound_is_not_heard(tmp_path: Path, priming: int) -> None:
    path = make(tmp_path / "clip.mp4", 25, audio_codec="aac")
    content = bytearray(path.read_bytes())
    place = content.index((1024).to_bytes(4, "big"), content.rindex(b"elst"))
    content[place : place + 4] = priming.to_bytes(4, "big")
    path.write_bytes(content)
    indexed = Indexed(path)
    assert indexed.packets.audio is not None
    heard_from = indexed.packets.audio.heard_from
    assert heard_from == (0 if priming else None)
    for start in (-0.1, 0.0, 0.31, 0.312, 0.32, 0.33, 0.34, 0.5):
        with ClipReader(path) as plain:
            theirs = plain.read_audio(start, 0.2, 44_100)
        assert np.abs(theirs - indexed.reader.read_audio(start, 0.2, 44_100)).max() <= 1e-5, start


def test_pictures_of_a_turned_clip_are_turned(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", 20)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    for matrix, turns in ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2), ((0, 1, -1, 0), 3):
        values = [matrix[0] << 16, matrix[1] << 16, 0, matrix[2] << 16, matrix[3] << 16, 0, 0, 0, 1 << 30]
        content[place : place + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
        path.write_bytes(content)
        indexed = assert_exact(path, 3)
        assert indexed.packets.video is not None and indexed.packets.video.orientation == turns


def set_full_range(context: Any) -> None:
    context.color_range, context.colorspace = 2, 1


def test_clips_of_several_sizes_and_colours_share_a_thread(tmp_path: Path) -> None:
    # A decoder goes from clip to clip; what it knows of one must not show in the next.
    paths = [
        make(tmp_path / "a.mp4", 30),
        make(tmp_path / "full.mp4", 30, pixel_format="yuvj420p", set_up=set_full_range),
        make(tmp_path / "b.mp4", 30, width=64, height=96, g="5"),
        make(tmp_path / "bt709.mp4", 30, set_up=lambda context: setattr(context, "colorspace", 1)),
    ]
    readers = [Indexed(path).reader for path in paths]
    expected = []
    for path in paths:
        with ClipReader(path) as plain:
            expected.append(plain.read_cut(0.5, 4, 10.0, CUT))
    for order in ((0, 1, 0, 2, 3, 1, 3, 0), (3, 2, 1, 0, 1, 2, 3)):
        for number in order:
            assert np.array_equal(readers[number].read_cut(0.5, 4, 10.0, CUT), expected[number]), (order, number)


def test_one_decoder_takes_one_clip_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    create = av.CodecContext.create
    monkeypatch.setattr(bare, "_kept", bare._Kept())
    monkeypatch.setattr(bare.av.CodecContext, "create", lambda *args: made.append(create(*args)) or made[-1])
    readers = [Indexed(make(tmp_path / f"{width}.mp4", 20, width=width)).reader for width in (64, 96)]
    made.clear()
    for reader in readers * 3:
        reader.read_cut(0.2, 4, 10.0, CUT)
    assert made == []
    indexed = Indexed(tmp_path / "64.mp4")
    indexed.content = indexed.content[:-2000]
    with pytest.raises(DecodeError):
        indexed.reader.read_cut(0.2, 4, 10.0, CUT)
    readers[0].read_cut(0.2, 4, 10.0, CUT)
    assert len(made) == 1  # the one that met an error was thrown away


def test_a_decoder_is_not_used_again_after_a_fork(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", 20)
    reader = Indexed(path).reader
    expected = reader.read_cut(0.2, 4, 10.0, CUT)
    decoders = list(bare._kept.decoders.values())

    def child(answers: Any) -> None:
        same = np.array_equal(reader.read_cut(0.2, 4, 10.0, CUT), expected)
        answers.put((same, any(new is old for new in bare._kept.decoders.values() for old in decoders)))

    answers = multiprocessing.get_context("fork").SimpleQueue()
    process = multiprocessing.get_context("fork").Process(target=child, args=(answers,))
    process.start()
    assert answers.get() == (True, False)
    process.join(10)
    assert process.exitcode == 0


def test_threads_decode_at_the_same_time(tmp_path: Path) -> None:
    paths = [make(tmp_path / f"{width}.mp4", 40, width=width) for width in (64, 96, 128)]
    expected = [Indexed(path).reader.read_cut(0.4, 8, 10.0, CUT) for path in paths]
    problems: list[str] = []

    def work(number: int) -> None:
        for turn in range(12):
            choice = (number + turn) % 3
            if not np.array_equal(Indexed(paths[choice]).reader.read_cut(0.4, 8, 10.0, CUT), expected[choice]):
                problems.append(f"{number} {turn}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def test_only_the_needed_bytes_are_read_and_at_once(tmp_path: Path) -> None:
    indexed = Indexed(make(tmp_path / "clip.mp4", 100, audio_codec="aac", g="5", keyint_min="5"))
    video = indexed.packets.video
    assert video is not None
    indexed.reader.read_cut(2.0, 4, 25.0, CUT)  # of the group that begins at frame 50
    ((begin, size),) = indexed.reads
    needed = video.select([2.0 + index / 25 for index in range(4)]).packets
    assert needed[0] == 50 and len(needed) <= 5
    assert (begin, begin + size) == (video.offsets[50], (video.offsets + video.sizes)[needed].max())


def test_far_packets_are_read_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k700_text.media.decode.indexed._MAX_GAP_BYTES", 500)
    indexed = assert_exact(make(tmp_path / "clip.mp4", 60, g="10", keyint_min="10"), 3)
    indexed.reads.clear()
    indexed.reader.read_cut(0.0, 3, 1.0, CUT)
    assert len(indexed.reads) == 3
    monkeypatch.setattr("k700_text.media.decode.indexed._MAX_RUN_BYTES", 1)
    assert_exact(tmp_path / "clip.mp4", 3)


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "clip.mkv": ("its container is matroska,webm, not MP4", {}),
    "clip.ts": ("its container is mpegts, not MP4", {}),
    "mpeg4.mp4": ("its video is mpeg4, not H.264", {"codec": "mpeg4"}),
    "444.mp4": ("its pixels are yuv444p, not 4:2:0 of eight bits", {"pixel_format": "yuv444p"}),
    "open.mp4": ("its groups of pictures are open", {"x264-params": "open-gop=1:scenecut=0", "g": "10", "bf": "3"}),
    "refresh.mp4": ("its groups of pictures are open", {"x264-params": "intra-refresh=1", "g": "20"}),
    "mp3.mp4": ("its audio is mp3float, not AAC", {"audio_codec": "libmp3lame"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_clips_are_told_by_their_reason(tmp_path: Path, name: str) -> None:
    reason, options = REFUSED[name]
    assert packets_of(make(tmp_path / name, 40, **options)) == reason


def test_broken_files_have_a_reason_too(tmp_path: Path) -> None:
    whole = make(tmp_path / "clip.mp4", 30).read_bytes()
    path = tmp_path / "bad.mp4"
    assert packets_of(path) == "no such file"
    for content, reason in ((b"", "the file is empty"), (b"text" * 50, "no media file")):
        path.write_bytes(content)
        found = packets_of(path)
        assert isinstance(found, str) and reason in found
    # The index of packets goes before their bytes, so that a tail can be missing.
    fast = tmp_path / "fast.mp4"
    with (
        av.open(str(tmp_path / "clip.mp4")) as source,
        av.open(str(fast), "w", options={"movflags": "+faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    assert isinstance(packets_of(fast), ClipPackets)
    path.write_bytes(fast.read_bytes()[: len(whole) * 2 // 3])
    assert packets_of(path) == "it is cut off"


def remuxed(source: Path, target: Path, change: Callable[[int, bytes], bytes]) -> Path:
    """Copies a clip without its sound, the bytes of every packet changed."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for number, packet in enumerate(reader.demux(video=0)):
            if packet.size:
                changed = av.Packet(change(number, bytes(packet)))
                changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
                changed.is_keyframe, changed.stream = packet.is_keyframe, stream
                writer.mux(changed)
    return target


def test_parameter_sets_within_the_stream_must_be_those_of_the_file(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", 20, g="5")
    other = make(tmp_path / "other.mp4", 5, width=128)

    def sets(clip: Path) -> bytes:
        packets = packets_of(clip)
        assert isinstance(packets, ClipPackets) and packets.video is not None
        data = packets.video.extradata
        size = int.from_bytes(data[6:8], "big")
        return b"\0\0" + data[6 : 8 + size]

    for number in (0, 10):
        same = remuxed(path, tmp_path / "same.mp4", lambda at, data, n=number: sets(path) * (at == n) + data)
        assert_exact(same, 3)
    changed = remuxed(path, tmp_path / "changed.mp4", lambda at, data: sets(other) * (at == 10) + data)
    assert packets_of(changed) == "it changes its parameter sets midway"


def test_a_pass_over_a_file_has_limits(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", 20)
    assert packets_of(path, limits=DecodeLimits(max_frames=10)) == "it has more packets than the limit"
    assert packets_of(path, limits=DecodeLimits(max_pixels=1000)) == "frames of 96x64 pixels are above the limit"


def test_reading_has_limits(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", 20, audio_codec="aac")
    packets = packets_of(path)
    assert isinstance(packets, ClipPackets)
    for limits, reason in (
        (DecodeLimits(max_frames=3), "above the limit"),
        (DecodeLimits(max_pixels=96 * 64 - 1), "96x64 pixels are above the limit"),
        (DecodeLimits(max_seconds=0.0), "takes too long"),
    ):
        with pytest.raises(DecodeError, match=reason):
            Indexed(path, packets, limits).reader.read_cut(0.3, 8, 25.0, CUT)
    with pytest.raises(DecodeError, match="20 s of audio is above the limit"):
        Indexed(path, packets, DecodeLimits(max_audio_seconds=10.0)).reader.read_audio(0.0, 20.0, 16_000)


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", 10, audio_codec="aac")
    packets = Indexed(path).packets
    no_video = Indexed(path, replace(packets, video=None)).reader
    no_audio = Indexed(path, replace(packets, audio=None)).reader
    with pytest.raises(DecodeError, match="no video stream"):
        no_video.read_cut(0.0, 1, 10.0, CUT)
    with pytest.raises(DecodeError, match="no audio stream"):
        no_audio.read_log_mel(None, AudioConfig())
    assert (no_video.video_seconds(), no_video.video_end_seconds, no_audio.audio_seconds()) == (0.0, None, None)
    assert no_audio.video_end_seconds == pytest.approx(0.4)
    for start, count, rate in ((float("nan"), 1, 10.0), (0.0, 0, 10.0), (0.0, 1, 0.0)):
        with pytest.raises(ValueError, match="bad window"):
            no_audio.read_cut(start, count, rate, CUT)
    with pytest.raises(ValueError, match="bad stretch"):
        no_video.read_audio(0.0, -1.0, 16_000)


def test_a_file_that_is_not_what_its_table_says_is_an_error(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", 30, audio_codec="aac")
    packets = Indexed(path).packets
    other = make(tmp_path / "other.mp4", 30, width=128, crf="30")
    for content in (other.read_bytes(), path.read_bytes()[:5000], bytes(path.stat().st_size), os.urandom(200_000)):
        indexed = Indexed(path, packets)
        indexed.content = content
        with pytest.raises(DecodeError, match=r"clip\.mp4: .*"):
            indexed.reader.read_cut(0.3, 8, 25.0, CUT)
    indexed.content = b""
    with pytest.raises(DecodeError, match="ends before byte"):
        indexed.reader.read_audio(0.3, 1.0, 16_000)


def test_an_error_of_the_disk_is_told(tmp_path: Path) -> None:
    def read(offset: int, size: int) -> bytes:
        raise OSError(5, "Input/output error")

    packets = Indexed(make(tmp_path / "clip.mp4", 10)).packets
    with pytest.raises(DecodeError, match=r"^it: .*Input/output error$"):
        PacketReader("it", packets, read).read_cut(0.0, 4, 10.0, CUT)


def test_damage_is_an_error_or_the_same_picture(tmp_path: Path) -> None:
    # Damage that a decoder cannot notice gives the same wrong picture on both ways.
    path = make(tmp_path / "clip.mp4", 50, g="25", bf="0")
    whole = path.read_bytes()
    packets = Indexed(path).packets
    assert packets.video is not None
    rng = np.random.default_rng(5)
    num_errors = 0
    for _ in range(40):
        content = bytearray(whole)
        packet = int(rng.integers(len(packets.video)))
        place = int(packets.video.offsets[packet] + rng.integers(packets.video.sizes[packet]))
        content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        indexed = Indexed(path, packets)
        try:
            ours = indexed.reader.read_cut(0.9, 16, 25.0, CUT)
        except DecodeError:
            num_errors += 1
            continue
        with ClipReader(path) as plain:
            assert np.array_equal(plain.read_cut(0.9, 16, 25.0, CUT), ours), (packet, place)
    assert 3 < num_errors < 37


def test_a_check_finds_tables_that_are_wrong(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", 60, audio_codec="aac", bf="2", g="12")
    packets = Indexed(path).packets
    assert packets.video is not None and packets.audio is not None
    assert check_packets(path, packets, seed=1) is None
    pts = packets.video.pts.copy()
    late = replace(packets.video, pts=pts + 512)
    no_reference = replace(packets.video, flags=np.where(packets.video.flags & KEY, KEY, DROPPABLE).astype(np.uint8))
    deaf = replace(packets.audio, pts=packets.audio.pts + 2205)
    assert check_packets(path, replace(packets, audio=None), seed=1) == "it has other streams"
    for wrong in (
        replace(packets, video=late),
        replace(packets, video=no_reference),
        replace(packets, video=replace(packets.video, colour=(1, 2), orientation=2)),
        replace(packets, audio=deaf),
    ):
        assert check_packets(path, wrong, seed=1) is not None
    path.write_bytes(b"no longer a clip")
    assert "no media file" in str(check_packets(path, packets, seed=1))


class TestRealFiles:
    pytestmark = needs_samples

    REASONS = (
        ("corrupted.mp4", "the lengths within a packet do not add up"),
        ("h264_10bits.mp4", "its pixels are yuv420p10le, not 4:2:0 of eight bits"),
        ("h265_video.mp4", "its video is hevc, not H.264"),
        ("av1_video.mkv", "its container is matroska,webm, not MP4"),
    )

    @pytest.mark.parametrize("name", ["R6llTwEh07w.mp4", "SOX5yA1l24A.mp4", "WUzgd7C1pWA.mp4"])
    def test_kinetics_clips_are_exact(self, name: str) -> None:
        path = SAMPLES / "torchvision" / name
        assert check_packets(path, Indexed(path).packets, seed=0) is None

    @pytest.mark.parametrize(("name", "reason"), REASONS)
    def test_reasons(self, name: str, reason: str) -> None:
        (path,) = SAMPLES.rglob(name)
        assert packets_of(path) == reason

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    def test_every_file_is_exact_or_has_a_reason(self) -> None:
        files = [path for root in (SAMPLES, FIGHT) for path in root.rglob("*") if path.suffix in _SUFFIXES]
        num_indexed = 0
        for path in files:
            packets = packets_of(path)
            if isinstance(packets, str):
                assert packets and "\n" not in packets
                continue
            num_indexed += 1
            for seed in range(2):
                assert check_packets(path, packets, seed=seed) is None, path
        assert num_indexed >= 74


_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".wav"})
