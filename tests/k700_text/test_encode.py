"""What encode_clip writes is read back with PyAV itself, not with the project's reader."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from k700_text.errors import DecodeError, K700TextError
from k700_text.media.encode import QUALITIES, EncodedVideo, VideoQuality, decode_i420, encode_clip, encode_i420
from k700_text.media.packets import KEY
from k700_text.media.quality import psnr_db


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


def i420_frames(count: int, height: int = 48, width: int = 64) -> list[npt.NDArray[np.uint8]]:
    """Smooth pictures that move, uint8 (height * 3 / 2, width)."""
    rows, columns = np.mgrid[: height * 3 // 2, :width]
    return [
        (110 + 60 * np.sin((rows + 3 * k) / 9) * np.cos((columns - 2 * k) / 7)).astype(np.uint8) for k in range(count)
    ]


def encoded(frames: list[npt.NDArray[np.uint8]], **values: object) -> EncodedVideo:
    video = encode_i420(frames, **{"frame_rate": 10.0, "quality": QUALITIES["default"], **values})  # type: ignore[arg-type] - values of any kind are the point
    assert video is not None
    return video


@pytest.mark.parametrize("name", sorted(QUALITIES))
def test_every_quality_reads_back(name: str) -> None:
    frames = i420_frames(40)
    video = encoded(frames, quality=QUALITIES[name])
    assert (video.num_frames, video.width, video.height) == (40, 64, 48)
    decoded = list(decode_i420(video.data, "clip"))
    assert len(decoded) == 40 and psnr_db(decoded, frames) > 36
    with av.open(io.BytesIO(video.data)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        shown = list(container.decode(video=0))
    assert [frame.time for frame in shown] == pytest.approx([k / 10 for k in range(40)])
    assert [frame.key_frame for frame in shown] == [k % QUALITIES[name].gop == 0 for k in range(40)]


def test_qualities_are_in_their_order() -> None:
    frames = i420_frames(16, 96, 128)
    sizes = {name: len(encoded(frames, quality=quality).data) for name, quality in QUALITIES.items()}
    assert sizes["small"] < sizes["default"] < sizes["fine"]


def test_the_packet_table_points_at_whole_pictures() -> None:
    video = encoded(i420_frames(20))
    table = video.packets
    assert (table.codec, table.width, table.height, len(table)) == ("h264", 64, 48, 20)
    assert table.seconds.tolist() == pytest.approx([k / 10 for k in range(20)])
    assert table.end_seconds == pytest.approx(2.0)
    assert np.flatnonzero(table.flags & KEY).tolist() == [0, 8, 16]
    for offset, size in zip(table.offsets.tolist(), table.sizes.tolist(), strict=True):
        # Every packet is a whole number of units, each with its length before it.
        position = offset
        while position < offset + size:
            position += 4 + int.from_bytes(video.data[position : position + 4], "big")
        assert position == offset + size


def test_the_same_frames_give_the_same_bytes() -> None:
    assert encoded(i420_frames(12)).data == encoded(i420_frames(12)).data


@pytest.mark.parametrize("frame_rate", [5.0, 12.5, 29.97])
def test_any_frame_rate_is_kept(frame_rate: float) -> None:
    video = encoded(i420_frames(10), frame_rate=frame_rate)
    assert video.packets.seconds.tolist() == pytest.approx([k / frame_rate for k in range(10)], abs=1e-4)


def test_no_frames_are_no_video() -> None:
    assert encode_i420(iter([]), frame_rate=10.0, quality=QUALITIES["default"]) is None


@pytest.mark.parametrize(
    ("frames", "values", "message"),
    [
        ([np.zeros((48, 64, 3), np.uint8)], {}, "must be uint8"),
        ([np.zeros((72, 64), np.float32)], {}, "must be uint8"),
        ([np.zeros((70, 64), np.uint8)], {}, "must be uint8"),
        ([np.zeros((72, 63), np.uint8)], {}, "must be uint8"),
        ([np.zeros((72, 64), np.uint8), np.zeros((72, 62), np.uint8)], {}, r"frame 1 is uint8 \(72, 62\), the first"),
        ([np.zeros((72, 64), np.uint8)], {"frame_rate": 0.0}, "frame_rate"),
    ],
)
def test_frames_that_are_no_i420_are_refused(
    frames: list[npt.NDArray[np.uint8]], values: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encoded(frames, **values)


def test_an_unknown_preset_is_one_clear_line() -> None:
    with pytest.raises(K700TextError, match="cannot encode 64x48 video with"):
        encoded(i420_frames(2), quality=VideoQuality(preset="nope", crf=20, gop=8))


@pytest.mark.parametrize("damage", [b"", b"no film", None])
def test_damaged_bytes_do_not_decode_in_silence(damage: bytes | None) -> None:
    data = encoded(i420_frames(20)).data if damage is None else damage
    with pytest.raises(DecodeError, match="clip: "):
        list(decode_i420(data[:-300], "clip"))


ENCODES = """
import hashlib, sys, tempfile
from pathlib import Path
import numpy as np
from tests.k700_text.test_encode import encoded, i420_frames
from k700_text.media.encode import QUALITIES, encode_clip
digest = hashlib.sha256()
for name in QUALITIES:
    digest.update(encoded(i420_frames(20, 224, 298), quality=QUALITIES[name]).data)
with tempfile.TemporaryDirectory() as folder:
    frames = [np.repeat(frame[:160, :212, None], 3, axis=2) for frame in i420_frames(20, 224, 298)]
    encode_clip(Path(folder) / "a.mp4", frames, frame_rate=10.0)
    digest.update((Path(folder) / "a.mp4").read_bytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_bytes_do_not_depend_on_what_lay_in_memory_before() -> None:
    root = Path(__file__).resolve().parents[2]
    digests = set()
    # The C library fills memory with this byte before it is handed out (glibc; elsewhere it does nothing).
    for filling in ("0", "85", "170"):
        environment = {**os.environ, "MALLOC_PERTURB_": filling}
        command = [sys.executable, "-c", ENCODES]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
        digests.add(done.stdout)
    assert len(digests) == 1
