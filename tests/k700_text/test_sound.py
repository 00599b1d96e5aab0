"""What is heard: levels, silence and the mono mix of odd sound, the same by probe, from raw clips and from shards."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from k700_text.config import AudioConfig, VideoConfig
from k700_text.data.reader import SampleReader
from k700_text.data.video import View
from k700_text.errors import DecodeError
from k700_text.media.decode import ClipReader, PacketReader, packets_of
from k700_text.media.decode import sound as sound_module
from k700_text.media.levels import Loudness, Sound, from_dbfs, listen, mix, to_dbfs
from k700_text.media.measure import probe_clip
from k700_text.media.packets import ClipPackets
from k700_text.media.prepared import PreparedClips
from tests.k700_text.preparing import prepare_here

FloatArray = npt.NDArray[np.float32]
RATE = 44_100
VIDEO = VideoConfig(num_frames=4, size=16, short_side=16)
AUDIO = AudioConfig(num_mel_frames=50)
NUM_VIEWS = 3


def sine(hz: float, seconds: float = 3.0, amplitude: float = 0.3, rate: int = RATE) -> FloatArray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate + 0.4)).astype(np.float32)


def noise(seconds: float = 3.0, amplitude: float = 0.1, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(0, amplitude, round(seconds * RATE)).astype(np.float32)


Part = tuple[FloatArray, int]
"""Channels (C, N) and their sample rate."""


def write_film(
    path: Path, parts: Sequence[Part], codec: str, *, video_seconds: float = 3.0, audio_start: float = 0.0
) -> Path:
    """Writes pictures with sound that may change its sample rate and channels, each part by an encoder of its own.

    Packets of AC-3 and MP2 say themselves what they hold, whatever the container says.
    """
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        layouts = {1: "mono", 2: "stereo", 6: "5.1"}
        stream: Any = out.add_stream(codec, rate=parts[0][1], layout=layouts[len(parts[0][0])])
        packets: list[Any] = []
        for index in range(round(10 * video_seconds)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9 * index % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            packets += video.encode(frame)
        packets += video.encode(None)
        seconds = audio_start
        for number, (channels, rate) in enumerate(parts):
            encoder: Any = stream.codec_context if number == 0 else av.CodecContext.create(codec, "w")
            if number:
                encoder.sample_rate, encoder.layout = rate, layouts[len(channels)]
                encoder.format = stream.codec_context.format
                encoder.time_base = Fraction(1, rate)
            for packet in _encoded(encoder, channels, rate, seconds):
                packet.stream = stream
                packets.append(packet)
            seconds += channels.shape[1] / rate
        out.start_encoding()
        for packet in sorted(packets, key=lambda packet: packet.pts * packet.time_base):
            out.mux(packet)
    return path


def _encoded(encoder: Any, channels: FloatArray, rate: int, seconds: float) -> Iterator[Any]:
    encoder.open(strict=False)
    is_float = encoder.format.name in ("fltp", "flt")
    samples = channels if is_float else (channels * 32767).astype(np.int16)
    step = encoder.frame_size or 1024
    for at in range(0, samples.shape[1], step):
        piece = np.ascontiguousarray(samples[:, at : at + step])
        if not encoder.format.is_planar:
            piece = piece.T.reshape(1, -1).copy()
        frame = av.AudioFrame.from_ndarray(piece, format=encoder.format.name, layout=encoder.layout.name)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = at + round(seconds * rate)
        yield from encoder.encode(frame)
    yield from encoder.encode(None)


def stereo(left: FloatArray, right: FloatArray, rate: int = RATE) -> list[Part]:
    return [(np.stack([left, right]), rate)]


def six(*loud: FloatArray) -> list[Part]:
    """5.1 of which the first channels are loud."""
    channels = np.zeros((6, len(loud[0])), np.float32)
    channels[: len(loud)] = loud
    return [(channels, RATE)]


def opposite_in(begin: float, end: float) -> list[Part]:
    left = sine(440)
    right = left.copy()
    right[round(begin * RATE) : round(end * RATE)] *= -1
    return stereo(left, right)


def damaged() -> FloatArray:
    samples = sine(440)
    samples[::100], samples[7::1000], samples[9::1000] = np.nan, np.inf, -np.inf
    samples[11::1000] = 1e30
    return samples


ALL, NONE = (True, True, True), (False, False, False)
# Codec, sound, what probe says, and which of the windows at the beginning, in the middle and at the end have audio.
FILMS: dict[str, tuple[str, list[Part], str, tuple[bool, ...]]] = {
    "plain.mkv": ("pcm_s16le", stereo(sine(440), sine(440)), "usable", ALL),
    "opposite.mkv": ("pcm_s16le", stereo(sine(440), -sine(440)), "usable", ALL),
    "opposite-and-offset.mkv": ("pcm_s16le", stereo(sine(440) + 0.2, 0.2 - sine(440)), "usable", ALL),
    "opposite-at-first.mkv": ("pcm_s16le", opposite_in(0, 1.2), "usable", ALL),
    "opposite-at-last.mkv": ("pcm_f32le", opposite_in(1.8, 3), "usable", ALL),
    "opposite-pair-of-six.mkv": ("pcm_s16le", six(sine(440), -sine(440)), "usable", ALL),
    "opposite-and-coded.mp4": ("aac", stereo(sine(440), -sine(440)), "usable", ALL),
    "one-side-dead.mkv": ("pcm_s16le", stereo(sine(440), 0 * sine(440)), "usable", ALL),
    "one-soft-of-six.mkv": ("pcm_s16le", six(sine(440, amplitude=0.0032)), "usable", ALL),  # -53 dB
    "no-numbers.mkv": ("pcm_f32le", stereo(damaged(), damaged()), "usable", ALL),
    "offset.mkv": ("pcm_s16le", [(np.full((1, 3 * RATE), 0.5, np.float32), RATE)], "silent", NONE),
    "two-offsets.mkv": ("pcm_f32le", stereo(0 * sine(1) + 0.3, 0 * sine(1) - 0.1), "silent", NONE),
    "offset-with-sound.mkv": ("pcm_s16le", [(sine(440)[None] + 0.4, RATE)], "usable", ALL),
    "drift.mkv": ("pcm_f32le", [(np.linspace(-0.9, 0.9, 3 * RATE, dtype=np.float32)[None] ** 3, RATE)], "silent", NONE),
    "infrasound.mkv": ("pcm_s16le", [(sine(7)[None], RATE)], "near_silent", NONE),
    "ultrasound.mkv": ("pcm_s16le", stereo(sine(20_500), sine(20_500)), "near_silent", NONE),
    "ultrasound.mov": ("pcm_f32le", [(sine(17_000, rate=48_000)[None], 48_000)], "near_silent", NONE),
    "high-and-opposite.mkv": ("pcm_s16le", stereo(sine(9_000), -sine(9_000)), "near_silent", NONE),
    "ultrasound-and-hum.mkv": ("pcm_s16le", [((sine(19_000) + 0.3 * sine(7))[None], RATE)], "near_silent", NONE),
    "ultrasound-with-sound.mkv": ("pcm_s16le", [((sine(440) + 2 * sine(20_500))[None], RATE)], "usable", ALL),
    "dither.mkv": ("pcm_s16le", stereo(noise(amplitude=3e-5), noise(amplitude=3e-5, seed=1)), "near_silent", NONE),
    "opposite-dither.mkv": ("pcm_s16le", stereo(noise(amplitude=9e-5), -noise(amplitude=9e-5)), "near_silent", NONE),
    "rate.ts": ("ac3", [(sine(440, 1.5)[None], RATE), (sine(440, 1.5, rate=48_000)[None], 48_000)], "usable", ALL),
    "rate-at-once.ts": (
        "ac3",
        [(sine(440, 0.05, rate=32_000)[None], 32_000), (sine(440, 2.95, rate=48_000)[None], 48_000)],
        "usable",
        ALL,
    ),
    "rate-to-and-fro.ts": (
        "mp2",
        [(sine(440, 0.5, rate=rate)[None], rate) for rate in (48_000, 32_000) * 3],
        "usable",
        ALL,
    ),
    "mono-stereo-six.mkv": (
        "ac3",
        [(np.tile(sine(440, 1.0), (count, 1)), RATE) for count in (1, 2, 6)],
        "usable",
        ALL,
    ),
    "late.mkv": ("pcm_s16le", [(sine(440, 1.0)[None], RATE)], "partial", (False, False, True)),
    "late.mov": ("pcm_s16le", [(sine(440, 1.0)[None], RATE)], "partial", (False, False, True)),
    "late.ts": ("ac3", [(sine(440, 1.0)[None], RATE)], "partial", (False, False, True)),
    "early.mkv": ("pcm_s16le", [(sine(440, 1.0)[None], RATE)], "partial", (True, False, False)),
    "after-the-video.mov": ("pcm_s16le", [(sine(440, 3.0)[None], RATE)], "partial", NONE),
}
STARTS = {**dict.fromkeys(("late.mkv", "late.mov", "late.ts"), 2.0), "after-the-video.mov": 3.6}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("films")
    (root / "clips").mkdir()
    for name, (codec, parts, _, _) in FILMS.items():
        write_film(root / "clips" / name, parts, codec, audio_start=STARTS.get(name, 0.0))
    for kind, audio in (("mel", "log-mel"), ("pcm", "pcm16")):
        prepare_here(root / "clips", root / kind, audio=audio)
    return root


def flags(clip: Any) -> tuple[bool, ...]:
    reader = SampleReader(video=VIDEO, audio=AUDIO)
    found = []
    for index in range(NUM_VIEWS):
        sample, problems = reader.read(clip, clip_id="x", view=View(temporal_index=index, num_temporal=NUM_VIEWS))
        assert not problems
        # What is absent is zeros; a log-mel of silence, which is no zeros, is never handed out for sound.
        assert sample.has_audio == bool(sample.log_mel.any())
        if sample.has_audio:
            assert float(sample.log_mel.max()) > math.log(AUDIO.log_floor) + 3
        found.append(sample.has_audio)
    return tuple(found)


@pytest.mark.parametrize("name", FILMS)
def test_probe_raw_clips_and_shards_agree_on_what_is_heard(films: Path, name: str) -> None:
    _, _, status, expected = FILMS[name]
    probe = probe_clip(films / "clips" / name, films)
    assert (probe.video_status, probe.audio_status) == ("usable", status), probe.reason
    assert flags(films / "clips" / name) == expected
    for kind in ("mel", "pcm"):
        clips = PreparedClips(films / kind)
        row = clips.find(name)
        assert row is not None
        assert flags(lambda clips=clips, row=row: clips.open(row)) == expected, kind


def test_a_clip_read_by_its_packets_is_heard_alike(films: Path) -> None:
    path = films / "clips" / "opposite-and-coded.mp4"
    packets = packets_of(path)
    assert isinstance(packets, ClipPackets)
    data = path.read_bytes()
    indexed = PacketReader("x", packets, lambda at, size: data[at : at + size])
    with ClipReader(path) as plain:
        for start in (0.0, 0.73, 1.9):
            ours, theirs = indexed.read_sound(start, 1.0, 16_000), plain.read_sound(start, 1.0, 16_000)
            np.testing.assert_array_equal(ours.waveform, theirs.waveform)
            assert ours.loudness.level(0.0, 1.0) == theirs.loudness.level(0.0, 1.0) > 0.1


def test_waveforms_of_shards_without_levels_have_that_of_the_mix(films: Path) -> None:
    clips = PreparedClips(films / "pcm")
    levels = {}
    for name in ("plain.mkv", "opposite.mkv", "one-side-dead.mkv"):
        row = clips.find(name)
        assert row is not None
        clip = clips.open(row)
        clip._row = replace(clip._row, level_bytes=0, level_offset=0)
        levels[name] = clip.read_log_mel(0.5, AUDIO)[1], clips.open(row).read_log_mel(0.5, AUDIO)[1]
    loud = 0.3 / math.sqrt(2)
    assert levels["plain.mkv"] == pytest.approx((loud, loud), rel=0.02)
    assert levels["opposite.mkv"] == pytest.approx((loud, loud), rel=0.02)
    assert levels["one-side-dead.mkv"] == pytest.approx((loud / 2, loud), rel=0.02)


def test_long_sound_is_mixed_in_pieces_that_do_not_show(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opposite-at-first.mkv", "opposite-pair-of-six.mkv", "rate-to-and-fro.ts", "mono-stereo-six.mkv"):
        with ClipReader(films / "clips" / name) as reader:
            at_once = reader.read_sound(0.0, 3.0, 16_000)
        with monkeypatch.context() as patch, ClipReader(films / "clips" / name) as reader:
            patch.setattr(sound_module, "_MAX_VALUES", 20_000)
            in_pieces = reader.read_sound(0.0, 3.0, 16_000)
        np.testing.assert_array_equal(in_pieces.waveform, at_once.waveform)
        assert in_pieces.loudness.level(0.0, 3.0) == pytest.approx(at_once.loudness.level(0.0, 3.0), rel=0.01)


def hertz(waveform: FloatArray, rate: int = 16_000) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(spectrum.argmax() * rate / len(waveform))


@pytest.mark.parametrize("name", [name for name, film in FILMS.items() if film[3] == ALL])
def test_the_tone_is_heard_in_every_window_at_its_level(films: Path, name: str) -> None:
    with ClipReader(films / "clips" / name) as reader:
        for start in (0.1, 1.1, 1.3, 1.9):
            waveform = reader.read_audio(start, 1.0, 16_000)
            assert hertz(waveform - waveform.mean()) == pytest.approx(440, abs=2)
            loud = reader.read_sound(start, 1.0, 16_000).loudness.level(0.0, 1.0)
            expected = 0.0032 if "soft" in name else 0.3
            assert loud == pytest.approx(expected / math.sqrt(2), rel=0.1)


def test_levels_are_of_the_channels_and_peaks_too(films: Path) -> None:
    level = to_dbfs(0.3 / math.sqrt(2))
    for name in ("plain", "opposite", "opposite-and-offset", "one-side-dead", "offset-with-sound"):
        probe = probe_clip(films / "clips" / f"{name}.mkv", films)
        assert probe.audio_rms_dbfs == pytest.approx(level, abs=0.1)
        assert probe.audio_silent_fraction == 0
    assert probe.audio_peak_dbfs == pytest.approx(to_dbfs(0.7), abs=0.01)
    offset = probe_clip(films / "clips" / "offset.mkv", films)
    assert (offset.audio_rms_dbfs, offset.audio_silent_fraction) == (None, 1.0)
    assert offset.audio_peak_dbfs == pytest.approx(to_dbfs(0.5), abs=0.01)
    assert offset.reason == "nothing of the audio is heard: it is a constant, or too high"


def mixed(*channels: FloatArray) -> FloatArray:
    stacked = np.stack(channels)
    return mix(stacked, RATE, listen(stacked, RATE))


@pytest.mark.parametrize("seed", range(3))
def test_ordinary_channels_are_their_mean_bit_for_bit(seed: int) -> None:
    left, right, third = noise(seed=seed), 0.6 * noise(seed=seed + 10) + sine(300), sine(2_000)
    np.testing.assert_array_equal(mixed(left), left)
    for other in (right, left, 0 * left, 0.9 * left + 0.1 * right, np.roll(left, 40), -0.7 * left):
        np.testing.assert_array_equal(mixed(left, other), (left + other) * np.float32(0.5))
    exact = (left.astype(np.float64) + right + third) / 3
    np.testing.assert_array_equal(mixed(left, right, third), exact.astype(np.float32))


def test_where_channels_cancel_the_loudest_is_taken_and_nowhere_else() -> None:
    left = sine(440)
    right = left.copy()
    right[RATE : 2 * RATE] *= -0.99
    block = RATE // 20
    inside = slice(RATE + block, 2 * RATE - block)
    # The first of those that are about as loud, so that it is the same one wherever a window begins.
    np.testing.assert_array_equal(mixed(right, left)[inside], right[inside])
    faint = left + 0.01 * sine(900)
    np.testing.assert_array_equal(mixed(0.001 * faint, left, -left)[inside], left[inside])
    result = mixed(left, right)
    np.testing.assert_array_equal(result[inside], left[inside])
    mean = (left + right) * np.float32(0.5)
    np.testing.assert_array_equal(result[: RATE - block], mean[: RATE - block])
    np.testing.assert_array_equal(result[2 * RATE + block :], mean[2 * RATE + block :])


@pytest.mark.parametrize(
    ("hz", "least", "most"), [(0, -200, -110), (5, -200, -95), (10, -80, -60), (50, -2, 0), (400, -0.3, 0)]
)
def test_what_is_too_low_is_not_heard(hz: float, least: float, most: float) -> None:
    tone = sine(hz, amplitude=math.sqrt(2)) if hz else np.ones(3 * RATE, np.float32)
    level = Sound.of_mono(tone, RATE).loudness.level(0.0, 3.0)
    assert least <= 20 * math.log10(level + 1e-12) <= most + 0.01


@pytest.mark.parametrize("rate", [1, 90, 200, 8_000, 768_000])
def test_every_sample_rate_can_be_listened_to(rate: int) -> None:
    for num_samples in (1, 2, rate, 3 * rate + 1):
        waveform = np.ones(num_samples, np.float32)
        sound = Sound.of_mono(waveform, rate)
        assert sound.loudness.level(0.0, num_samples / rate) < 1e-5


def test_loudness_outside_of_what_was_heard_is_silence() -> None:
    loudness = Loudness()
    for start in (1.0, 3.0):
        loudness.add(start, RATE, RATE, listen(sine(440, 1.0, amplitude=math.sqrt(2))[None], RATE))
    squares = loudness.mean_squares(np.array([0.0, 1.0, 2.0, 3.0, 3.5, 4.0, 6.0]))
    np.testing.assert_allclose(squares, [0, 1, 0, 1, 1, 0], atol=0.01)
    assert loudness.level(-2.0, 2.5) == 0 and from_dbfs(0.0) == 1


def test_a_rate_that_changes_is_resampled_where_it_is(films: Path) -> None:
    expected = sine(440, rate=16_000)
    with ClipReader(films / "clips" / "rate.ts") as reader:
        whole = reader.read_audio(0.0, 3.0, 16_000)
        # Encoders begin some milliseconds late, each part by itself.
        assert hertz(whole[:23_000]) == hertz(whole[25_000:]) == pytest.approx(440, abs=1)
        assert np.abs(whole).reshape(-1, 800).max(axis=1)[1:-1].min() > 0.25
        window = reader.read_audio(1.0, 1.0, 16_000)
    np.testing.assert_allclose(window, whole[16_000:32_000], atol=0.01)
    assert len(whole) == len(expected)


@pytest.mark.parametrize(("rate", "num_channels"), [(800_000, 1), (2**31 - 1, 2), (16_000, 255)])
def test_audio_that_cannot_be_is_told(tmp_path: Path, rate: int, num_channels: int) -> None:
    path = write_wave(tmp_path / "odd.wav", rate, num_channels)
    probe = probe_clip(path, tmp_path)
    reason = f"audio of {num_channels} channels at {rate} Hz is none that can be read"
    assert probe.audio_status == "undecodable" and probe.reason == f"no video stream; {reason}"
    with ClipReader(path) as reader, pytest.raises(DecodeError, match=reason):
        reader.read_audio(0.0, 1.0, 16_000)


def test_audio_that_cannot_be_costs_no_pictures(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mkv", [(sine(440, rate=800_000)[None], 800_000)], "pcm_s16le")
    probe = probe_clip(path, tmp_path)
    assert (probe.video_status, probe.audio_status) == ("usable", "undecodable")
    sample, problems = SampleReader(video=VIDEO, audio=AUDIO).read(path, clip_id="x")
    assert (sample.has_video, sample.has_audio, len(problems)) == (True, False, 1)


@pytest.mark.parametrize("rate", [1, 7, 60])
def test_a_sample_rate_below_what_is_heard_is_silence_for_all(tmp_path: Path, rate: int) -> None:
    path = write_wave(tmp_path / "slow.wav", rate, 1)
    assert probe_clip(path, tmp_path).audio_status == "silent"
    assert flags(path) == NONE


def write_wave(path: Path, rate: int, num_channels: int) -> Path:
    """Writes the head of a WAV file as asked for, whatever it is, and some sound."""
    data = noise(0.1).repeat(num_channels)
    content = (data * 32767).astype("<i2").tobytes()
    numbers = struct.pack("<IHHIIHH", 16, 1, num_channels, rate, rate * num_channels * 2 % 2**32, num_channels * 2, 16)
    head = b"RIFF" + struct.pack("<I", 36 + len(content)) + b"WAVEfmt " + numbers
    path.write_bytes(head + b"data" + struct.pack("<I", len(content)) + content)
    return path
