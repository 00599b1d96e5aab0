"""What encode_clip writes is read back with PyAV itself, not with the project's reader."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from k700_text.errors import K700TextError
from k700_text.media.encode import encode_clip


def ramp_frames(count: int, height: int = 48, width: int = 64) -> list[npt.NDArray[np.uint8]]:
    return [np.full((height, width, 3), 10 + 8 * index, dtype=np.uint8) for index in range(count)]


def tone(seconds: float, sample_rate: int, hertz: float = 440.0) -> npt.NDArray[np.float32]:
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


@pytest.mark.parametrize("frame_rate", [12.5, 20.0, 29.97])
def test_video_reads_back(tmp_path: Path, frame_rate: float) -> None:
    path = tmp_path / "clip.mp4"
    encode_clip(path, iter(ramp_frames(25)), frame_rate=frame_rate, crf=10)
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        frames = list(container.decode(video=0))
    assert len(frames) == 25
    assert (frames[0].width, frames[0].height, frames[0].format.name) == (64, 48, "yuv420p")
    assert [frame.time for frame in frames] == pytest.approx([index / frame_rate for index in range(25)], abs=2e-4)
    means = [frame.to_ndarray(format="rgb24").mean() for frame in frames]
    assert means == pytest.approx([10 + 8 * index for index in range(25)], abs=4)


@pytest.mark.parametrize("channels", [None, 1, 2, 6])
def test_audio_reads_back(tmp_path: Path, channels: int | None) -> None:
    sample = tone(2.0, 44_100)
    audio = sample if channels is None else np.stack([sample] * channels)
    path = tmp_path / "clip.mp4"
    encode_clip(path, ramp_frames(20), frame_rate=10.0, audio=audio)
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.channels) == ("aac", 44_100, channels or 1)
        decoded = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    middle = decoded[0, 20_000:64_100]
    spectrum = np.abs(np.fft.rfft(middle))
    assert np.argmax(spectrum) == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_gop_sets_the_key_frames(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    encode_clip(path, ramp_frames(24), frame_rate=10.0, gop=6)
    with av.open(str(path)) as container:
        keys = [index for index, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert set(keys) >= {0} and max(np.diff([*keys, 24])) <= 6


def test_same_input_gives_same_bytes_and_replaces_the_old_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a.mp4", tmp_path / "b.mp4"
    second.write_bytes(b"old")
    for path in (first, second):
        encode_clip(path, ramp_frames(10), frame_rate=10.0, audio=tone(1.0, 16_000), sample_rate=16_000)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        ([], {}, "at least one frame"),
        ([np.zeros((4, 4, 3), np.float32)], {}, "uint8"),
        ([np.zeros((5, 4, 3), np.uint8)], {}, "even"),
        ([np.zeros((16, 16, 3), np.uint8), np.zeros((16, 18, 3), np.uint8)], {}, "frame 1 has shape"),
        (ramp_frames(2), {"frame_rate": 0.0}, "frame_rate"),
        (ramp_frames(2), {"audio": np.zeros((3, 10), np.float32)}, "channels"),
        (ramp_frames(2), {"audio": np.full(10, np.nan, np.float32)}, "finite"),
        (ramp_frames(2), {"audio": np.zeros(10, np.float32), "sample_rate": 44_000}, "sample rate"),
    ],
)
def test_bad_arguments_say_what_is_wrong(
    tmp_path: Path, frames: list[npt.NDArray[np.uint8]], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encode_clip(tmp_path / "clip.mp4", frames, **{"frame_rate": 10.0, **options})
    assert list(tmp_path.iterdir()) == []


def test_a_preset_that_does_not_exist_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises((K700TextError, OSError), match=r"clip\.mp4"):
        encode_clip(tmp_path / "clip.mp4", ramp_frames(2), frame_rate=10.0, preset="nope")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_an_os_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"clip\.mp4"):
        encode_clip(tmp_path / "absent" / "clip.mp4", ramp_frames(2), frame_rate=10.0)


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="frame 2"):
        encode_clip(path, [*ramp_frames(2), np.zeros((2, 2, 3), np.uint8)], frame_rate=10.0)
    assert path.read_bytes() == b"old"
