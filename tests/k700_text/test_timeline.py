"""What files declare is not what they hold: lengths, clocks that jump, and pictures after a seek."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from k700_text.data.reader import SampleReader
from k700_text.data.video import View
from k700_text.media.clip import DEFAULT_LIMITS, AudioBlock, Cut, PixelFormat
from k700_text.media.decode import ClipReader, PacketReader, packets_of
from k700_text.media.decode.joints import has_second_header
from k700_text.media.measure import _Stretches, probe_clip
from k700_text.media.record import ClipTask, prepare_clip
from k700_text.media.shards import PreparedSettings
from k700_text.records import AudioStatus, VideoStatus
from tests.k700_text.odd_files import (
    edited,
    joined,
    marked_frames,
    moved,
    number_of,
    retimed_tags,
    rewritten,
    write_clip,
)

WHOLE = Cut(size=48, share=1.0)
NUM_VIEWS = 5
USABLE = VideoStatus.USABLE, AudioStatus.USABLE
FRAGMENTS = "frag_keyframe+empty_moov+delay_moov+default_base_moof"


def long_clip(path: Path, **options: object) -> Path:
    """Six seconds of pictures at ten a second."""
    options = {"frames": marked_frames(60), "fps": 10, "sound_seconds": 6.0} | options
    return write_clip(path, **options)  # type: ignore[arg-type]


def lying(path: Path, box: bytes, offset: int, number: int, order: str = ">") -> Path:
    return rewritten(long_clip(path, codec="mpeg4" if path.suffix == ".avi" else "libx264", sound_codec="libmp3lame" if path.suffix == ".avi" else "aac"), box, offset, number, order)  # fmt: skip # noqa: E501


def remuxed(path: Path, **options: str) -> Path:
    return moved(long_clip(path.with_name("source.mp4")), path, lambda _, seconds: seconds, **options)


def late_pictures(path: Path) -> Path:
    of_windows = {"codec": "wmv2", "sound_codec": "libmp3lame"} if path.suffix == ".wmv" else {}
    source = long_clip(
        path.with_name(f"source{path.suffix if of_windows else '.mp4'}"), sound_seconds=9.0, **of_windows
    )
    return moved(source, path, lambda kind, seconds: seconds + 2.0 * (kind == "video"))


LENGTHS: dict[str, Callable[[Path], Path]] = {
    "long sound.mkv": lambda path: long_clip(path, sound_seconds=12.0),
    "long sound.flv": lambda path: long_clip(path, sound_seconds=12.0),
    "long sound.webm": lambda path: long_clip(path, codec="libvpx", sound_codec="libopus", sound_seconds=12.0),
    "long sound.wmv": lambda path: long_clip(path, codec="wmv2", sound_codec="libmp3lame", sound_seconds=12.0),
    "pictures later.wmv": late_pictures,
    "long sound.ts": lambda path: long_clip(path, sound_seconds=12.0),
    "header says less.mp4": lambda path: lying(path, b"mdhd", 16, 30_000),
    "header says more.mp4": lambda path: lying(path, b"mdhd", 16, 10**8),
    "header says more.avi": lambda path: lying(path, b"strh", 36, 200, "<"),
    "header says less.avi": lambda path: lying(path, b"strh", 36, 20, "<"),
    "fragments.mp4": lambda path: remuxed(path, movflags="frag_keyframe+empty_moov"),
    "no length.mkv": lambda path: remuxed(path, live="1"),
    "pictures later.mkv": late_pictures,
    "pictures later.ts": late_pictures,
    "pictures later.mp4": late_pictures,
}


def views_of(path: Path) -> list[float]:
    """Returns the seconds at which the evaluation windows of a clip of 10 pictures a second begin."""
    views = [View(temporal_index=index, num_temporal=NUM_VIEWS) for index in range(NUM_VIEWS)]
    samples = [SampleReader().read(path, clip_id="clip", view=view, wants_audio=False)[0] for view in views]
    return [number_of(sample.video[0].numpy()) / 10 for sample in samples]


@pytest.mark.parametrize("name", LENGTHS)
def test_windows_are_spread_over_what_there_is(name: str, tmp_path: Path) -> None:
    path = LENGTHS[name](tmp_path / name)
    with ClipReader(path) as clip:
        assert clip.video_seconds() == pytest.approx(6.0, abs=0.12)
    assert views_of(path) == pytest.approx(np.linspace(0, 4.4, NUM_VIEWS), abs=0.25)
    assert probe_clip(path, tmp_path).video_status is VideoStatus.USABLE
    task = ClipTask("clip", None, None, None, None, None, None, path.name)
    record = prepare_clip(task, tmp_path, PreparedSettings(short_side=48), DEFAULT_LIMITS)
    assert (record.row.reason, record.row.num_frames) == (None, pytest.approx(60, abs=1))
    packets = packets_of(path)
    if not isinstance(packets, str):
        assert PacketReader("clip", packets, lambda at, size: b"").video_seconds() == pytest.approx(6.0, abs=0.12)


def test_training_windows_are_uniform_over_what_there_is(tmp_path: Path) -> None:
    path = long_clip(tmp_path / "clip.mkv", sound_seconds=12.0)
    reader = SampleReader()
    starts = []
    for seed in range(60):
        sample, _ = reader.read(path, clip_id="clip", rng=np.random.default_rng(seed), wants_audio=False)
        starts.append(number_of(sample.video[0].numpy()) / 10)
    counts, _ = np.histogram(starts, bins=4, range=(0.0, 4.4))
    assert counts.min() >= 7 and counts.max() <= 25  # of 15 expected in each


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.flv"])
def test_a_file_that_was_cut_off_is_a_part(name: str, tmp_path: Path) -> None:
    source = long_clip(tmp_path / "source.mp4")
    path = moved(source, tmp_path / name, lambda _, seconds: seconds, **({"movflags": "faststart"} if name.endswith("4") else {}))  # fmt: skip # noqa: E501
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    probe = probe_clip(path, tmp_path)
    assert (probe.video_status, probe.audio_status) == (VideoStatus.PARTIAL, AudioStatus.PARTIAL)
    with ClipReader(path) as clip:
        end = clip.video_seconds()
    assert 2.0 < end < 4.6
    assert views_of(path) == pytest.approx(np.linspace(0, end - 1.6, NUM_VIEWS), abs=0.2)


def two_parts(path: Path, start: float, **options: object) -> Path:
    parts = [path.with_name(f"part{index}{path.suffix}") for index in range(2)]
    write_clip(parts[0], **options)  # type: ignore[arg-type]
    write_clip(parts[1], start=start, hz=1700.0, **options)  # type: ignore[arg-type]
    return joined(path, *parts)


def tags_alone(path: Path) -> Path:
    """A live stream that was taken up again: the tags of the second part, without its header."""
    two_parts(path, 0.0)
    first, second = (path.with_name(f"part{index}.flv").read_bytes() for index in range(2))
    path.write_bytes(first + second[13:])
    return path


def fragments(path: Path) -> Path:
    """Fragments of an MP4 behind each other, each recording with its own header."""
    two_parts(path, 0.0)
    parts = [path.with_name(f"part{index}.mp4") for index in range(2)]
    return joined(path, *[remuxed_fragments(part) for part in parts])


def remuxed_fragments(part: Path) -> Path:
    return moved(part, part.with_name(f"fragments {part.name}"), lambda _, seconds: seconds, movflags=FRAGMENTS)


def sound_alone_again(path: Path) -> Path:
    """Only the clock of the sound begins again where the second part does."""
    tags_alone(path)
    lasts = [-1, 0]

    def move(kind: str, milliseconds: int) -> int:
        lasts[0], lasts[1] = milliseconds, lasts[1] or (milliseconds < lasts[0] - 1000)
        return milliseconds + 2000 * (kind == "video" and lasts[1])

    return retimed_tags(path, move)


def sound_leaps(path: Path) -> Path:
    source = write_clip(path.with_name("source.ts"), frames=marked_frames(60), sound_seconds=2.4)
    return moved(source, path, lambda kind, seconds: seconds + 3600.0 * (kind == "audio" and seconds > 1.2))


JUMPS: dict[str, Callable[[Path], Path]] = {
    "again.ts": lambda path: two_parts(path, 0.0),
    "again, pictures out of order.ts": lambda path: two_parts(path, 0.0, options={"bf": "2"}),
    "again.mpg": lambda path: two_parts(path, 0.0, codec="mpeg2video", sound_codec="mp2"),
    "again.mkv": lambda path: two_parts(path, 0.0),
    "again.flv": tags_alone,
    "the sound alone again.flv": sound_alone_again,
    "on.mkv": lambda path: two_parts(path, 2.0),
    "on.webm": lambda path: two_parts(path, 2.0, codec="libvpx", sound_codec="libopus"),
    "half a second back.ts": lambda path: two_parts(path, 1.5),
    "an hour ahead.ts": lambda path: two_parts(path, 3600.0),
    "an hour ahead.mpg": lambda path: two_parts(path, 3600.0, codec="mpeg2video", sound_codec="mp2"),
}


def hertz(waveform: np.ndarray, rate: int = 16_000) -> float:  # type: ignore[type-arg]
    return float(np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))).argmax() * rate / len(waveform))


@pytest.mark.parametrize("name", JUMPS)
def test_sound_and_pictures_of_a_joined_file_are_of_one_part(name: str, tmp_path: Path) -> None:
    path = JUMPS[name](tmp_path / name)
    probe = probe_clip(path, tmp_path)
    assert (probe.video_status, probe.audio_status) == USABLE
    assert probe.num_frames == 100 and probe.clip_duration_seconds == pytest.approx(4.0, abs=0.2)
    with ClipReader(path) as clip:
        assert clip.video_seconds() == pytest.approx(4.0, abs=0.2)
        shown = clip.read_frames(0.0, 40, 10.0)
        numbers = [number_of(picture) for picture in shown]
        assert numbers[:20] == pytest.approx(np.arange(20) * 2.5, abs=1.1)
        # The second part begins up to a frame of sound later: as late for both.
        assert numbers[23:38] == pytest.approx(np.arange(23, 38) * 2.5 - 50, abs=4.1)
        for start in (0.3, 1.4, 2.4, 3.4):
            picture = clip.read_frames(start, 1, 10.0)[0]
            assert np.array_equal(picture, shown[round(start * 10)]), "the same moment shows the same picture"
            assert hertz(clip.read_audio(start, 0.3, 16_000)) == pytest.approx(400 if start < 2 else 1700, abs=20)


@pytest.mark.parametrize(
    ("name", "end"),
    # FFmpeg leaves out the first group of pictures of a second header.
    [("again.avi", 4.08), ("again in fragments.mp4", 3.6)],
)
def test_what_is_joined_with_its_tables_goes_on(name: str, end: float, tmp_path: Path) -> None:
    path = tmp_path / name
    fragments(path) if path.suffix == ".mp4" else two_parts(path, 0.0, codec="mpeg4", sound_codec="libmp3lame")
    probe = probe_clip(path, tmp_path)
    assert (probe.video_status, probe.audio_status) == USABLE
    assert probe.clip_duration_seconds == pytest.approx(end, abs=0.05)
    with ClipReader(path) as clip:
        assert clip.video_seconds() == pytest.approx(end, abs=0.05)
        numbers = [number_of(picture) for picture in clip.read_frames(0.0, 36, 10.0)]
        assert numbers[:20] == pytest.approx(np.arange(20) * 2.5, abs=3.1)
        skipped = 10 if path.suffix == ".mp4" else 0
        # Each part of an AVI shows its first picture twice.
        assert numbers[22:34] == pytest.approx(np.arange(22, 34) * 2.5 - 50 + skipped, abs=5.1)
        for start, hz in ((3.1, 1700), (0.3, 400), (2.6, 1700)):
            assert number_of(clip.read_frames(start, 1, 10.0)[0]) == numbers[round(start * 10)]
            assert hertz(clip.read_audio(start, 0.3, 16_000)) == pytest.approx(hz, abs=20)


@pytest.mark.parametrize("num_bytes", [0, 1 << 20, (1 << 20) - 30])
def test_a_second_header_is_found_wherever_it_lies(num_bytes: int, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv")
    first = path.read_bytes()
    num_void = max(0, num_bytes - len(first) - 8)
    filling = (b"\x1a\x45\xdf\xa3" * (num_void // 4 + 1))[:num_void]
    path.write_bytes(first + filling)
    assert not has_second_header(path, "matroska,webm")
    path.write_bytes(first + filling + first)
    assert has_second_header(path, "matroska,webm")


@pytest.mark.parametrize("first_sound", [None, 1.2, 1.7])
def test_sound_that_ends_before_a_part_does_or_is_not_in_it_stays_with_its_pictures(
    first_sound: float | None, tmp_path: Path
) -> None:
    first = write_clip(tmp_path / "first.ts", sound_seconds=first_sound)
    path = joined(tmp_path / "clip.ts", first, write_clip(tmp_path / "second.ts", hz=1700.0))
    with ClipReader(path) as clip:
        assert clip.video_seconds() == pytest.approx(4.0, abs=0.1)
        assert np.abs(clip.read_audio((first_sound or 0.0) + 0.1, 1.8 - (first_sound or 0.0), 16_000)).max() < 0.01
        assert hertz(clip.read_audio(2.1, 0.3, 16_000)) == pytest.approx(1700, abs=20)
        if first_sound is not None:
            assert hertz(clip.read_audio(0.5, 0.3, 16_000)) == pytest.approx(400, abs=20)
        assert number_of(clip.read_frames(2.6, 1, 10.0)[0]) == pytest.approx(15, abs=2)


@pytest.mark.parametrize("name", ["again.flv", "edits.mp4", "long sound.mkv"])
def test_what_is_shown_does_not_depend_on_what_was_asked_before(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "again.flv":
        sound_alone_again(path)
    elif name == "edits.mp4":
        edited(long_clip(path, options={"g": "60"}), (0.0, 2.0), (3.55, 5.55))
    else:
        long_clip(path, sound_seconds=9.0)
    with ClipReader(path) as fresh, ClipReader(path) as asked:
        assert asked.audio_seconds() is not None
        end = asked.video_seconds()
        assert np.array_equal(fresh.read_frames(0.0, 40, 10.0), asked.read_frames(0.0, 40, 10.0))
        for start in (2.6, 1.1, 3.3):
            assert np.array_equal(fresh.read_frames(start, 1, 10.0), asked.read_frames(start, 1, 10.0))
            assert np.array_equal(fresh.read_audio(start, 0.3, 16_000), asked.read_audio(start, 0.3, 16_000))
    probe = probe_clip(path, tmp_path)
    assert probe.video_status is VideoStatus.USABLE and probe.clip_duration_seconds == pytest.approx(end, abs=0.1)


def test_pictures_between_two_edits_are_left_out(tmp_path: Path) -> None:
    path = edited(long_clip(tmp_path / "clip.mp4", options={"g": "60"}), (0.0, 2.0), (3.55, 5.55))
    with ClipReader(path) as clip:
        assert clip.video_seconds() == pytest.approx(4.0, abs=0.1)
        assert number_of(clip.read_frames(1.5, 1, 10.0)[0]) == 15
        assert number_of(clip.read_frames(3.0, 1, 10.0)[0]) == pytest.approx(45.5, abs=0.6)


@pytest.mark.parametrize(
    ("name", "options"), [("clip.ts", {}), ("clip.ogg", {"sound_codec": "libopus"}), ("clip.mka", {})]
)
def test_joined_sound_without_pictures(name: str, options: dict[str, str], tmp_path: Path) -> None:
    path = two_parts(tmp_path / name, 0.0, frames=[], **options)
    with ClipReader(path) as fresh, ClipReader(path) as asked:
        assert asked.audio_seconds() == pytest.approx(4.0, abs=0.3)
        for clip in (fresh, asked):
            for start in (3.4, 0.3, 2.4):
                assert hertz(clip.read_audio(start, 0.3, 16_000)) == pytest.approx(400 if start < 2 else 1700, abs=20)


def test_sound_that_lies_twice_at_one_place_covers_it_once() -> None:
    stretches = _Stretches()
    for begin in (0.0, 1.0, 0.5, 4.0):
        stretches.add(AudioBlock(begin, np.zeros((1, 1000), np.float32), 1000))
    assert stretches.within(0.25, 4.5) == pytest.approx(1.75 + 0.5)
    assert stretches.within(2.0, 4.0) == 0.0


def test_a_leap_of_the_sound_alone_leaves_the_pictures(tmp_path: Path) -> None:
    path = sound_leaps(tmp_path / "clip.ts")
    assert (probe_clip(path, tmp_path).video_status, probe_clip(path, tmp_path).audio_status) == USABLE
    with ClipReader(path) as clip:
        assert number_of(clip.read_frames(2.0, 1, 10.0)[0]) == 50
        assert np.abs(clip.read_audio(1.8, 0.3, 16_000)).max() > 0.3


def pausing(path: Path, pause: float, *, sound_pauses: bool) -> Path:
    """The pictures stand still for a while from 1 s on."""
    source = write_clip(path.with_name("source.mp4"), sound_seconds=2.0 if sound_pauses else 30.0)
    return moved(source, path, lambda kind, seconds: seconds + pause * (seconds > 1 and (sound_pauses or kind == "video")))  # fmt: skip # noqa: E501


@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".flv", ".mp4"])
@pytest.mark.parametrize("pause", [3.0, 15.0])
def test_a_pause_of_the_pictures_with_the_sound_going_on_is_no_jump(suffix: str, pause: float, tmp_path: Path) -> None:
    path = pausing(tmp_path / f"clip{suffix}", pause, sound_pauses=False)
    with ClipReader(path) as clip:
        assert clip.video_seconds() == pytest.approx(2.0 + pause, abs=0.1)
        moments = 0.5, 1.0 + pause / 2, 1.5 + pause
        shown = [number_of(clip.read_frames(moment, 1, 10.0)[0]) for moment in moments]
        assert shown == pytest.approx([12, 25, 37], abs=1.1)
    status = probe_clip(path, tmp_path).video_status
    assert status is (VideoStatus.USABLE if pause < 10 else VideoStatus.PARTIAL)


@pytest.mark.parametrize("suffix", [".mkv", ".flv", ".mp4"])
def test_an_hour_without_pictures_and_sound_is_not_covered(suffix: str, tmp_path: Path) -> None:
    path = pausing(tmp_path / f"clip{suffix}", 3600.0, sound_pauses=True)
    probe = probe_clip(path, tmp_path)
    assert (probe.video_status, probe.audio_status) == (VideoStatus.PARTIAL, AudioStatus.PARTIAL)


def noisy_frames(num_frames: int = 75) -> list[np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(0)
    picture = rng.integers(30, 220, (24, 32, 3), np.uint8).repeat(2, 0).repeat(2, 1)
    return [np.roll(picture, (index, 3 * index), (0, 1)) for index in range(num_frames)]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.mpg", "mpeg1video", {"bf": "2", "g": "12"}),
        ("clip.mpg", "mpeg2video", {"bf": "2", "g": "12"}),
        ("clip.mpg", "mpeg4", {"bf": "2", "g": "12"}),
        ("clip.ts", "mpeg2video", {"bf": "2", "g": "12"}),
        ("clip.avi", "mpeg4", {"bf": "2", "g": "12"}),
        ("clip.mkv", "libx264", {"x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=15"}),
        ("clip.ts", "libx264", {"x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=15"}),
    ],
)
def test_the_same_moment_shows_the_same_picture(name: str, codec: str, options: dict[str, str], tmp_path: Path) -> None:
    path = write_clip(tmp_path / name, frames=noisy_frames(), codec=codec, options=options, sound_seconds=None)
    assert_same_after_seek(path, num_starts=25)


def assert_same_after_seek(path: Path, num_starts: int) -> None:
    """Windows read after a seek are those of one reading from the start."""
    cut = Cut(size=32, share=1.0, pixel_format=PixelFormat.YUV420P)
    with ClipReader(path) as clip:
        end = clip.video_seconds()
        rate = 100.0
        num_moments = min(600, round(end * rate))
        everything = clip.read_cut(0.0, num_moments, rate, cut)
        for start in np.random.default_rng(1).integers(0, num_moments - 1, num_starts).tolist():
            shown = clip.read_cut(start / rate, min(30, num_moments - start), rate, cut)
            assert np.array_equal(shown, everything[start : start + len(shown)]), start / rate


@pytest.mark.realdata
def test_the_same_moment_shows_the_same_picture_in_real_files(real_data: Path) -> None:
    names = ["videos-odd/grid-mpg/*.mpg", "videos-samples/decord/*.mkv", "videos-samples/torchvision/*.avi"]
    paths = [path for name in names for path in sorted(real_data.glob(name))]
    assert len(paths) >= 17
    for path in paths:
        assert_same_after_seek(path, num_starts=6)
