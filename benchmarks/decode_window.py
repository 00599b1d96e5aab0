"""16 frames at 10 fps from a random place of a 340x256 H.264 clip with the default GOP: ours beside plain PyAV.

Plain PyAV opens, seeks to the key frame, decodes, converts the frames of the window to RGB and picks. The frames are
compared and must be equal. Expected before measuring: about even, since decoding dominates both (loader notes, 1a) and
ours saves only the conversion of two frames in three. The packet index that doubles the rate is not built.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from k700_text.media.decode import ClipReader
from k700_text.media.encode import encode_clip

NUM_FRAMES, FRAME_RATE, NUM_WINDOWS = 16, 10.0, 40


def make_clip(path: Path) -> None:
    """Writes ten seconds of moving texture at 30 fps, with the encoder's default GOP of 250 frames."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (64, 85, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    frames = (np.roll(texture, (2 * index, 3 * index), (0, 1))[:256, :340] for index in range(300))
    encode_clip(path, frames, frame_rate=30.0, preset="medium")


def plain(path: Path, start: float) -> np.ndarray:
    """Returns the frames shown at the wanted times, converting every frame of the window."""
    wanted = [start + index / FRAME_RATE for index in range(NUM_FRAMES)]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        container.seek(int(start / stream.time_base), stream=stream)
        one_frame_seconds = float(1 / stream.average_rate)
        times, frames = [], []
        for frame in container.decode(stream):
            seconds = float(frame.pts * stream.time_base)
            if seconds < start - one_frame_seconds:
                continue
            times.append(seconds)
            frames.append(frame.to_ndarray(format="rgb24"))
            if seconds > wanted[-1]:
                break
    return np.stack([frames[np.searchsorted(times, moment + 1e-6) - 1] for moment in wanted])


def ours(path: Path, start: float) -> np.ndarray:
    """Returns the same frames through ClipReader."""
    with ClipReader(path) as reader:
        return reader.read_frames(start, NUM_FRAMES, FRAME_RATE)


def main() -> None:
    """Times both on the same windows in turn and prints medians of CPU time and their ratio."""
    starts = np.random.default_rng(1).uniform(0, 8.3, NUM_WINDOWS)
    milliseconds: dict[str, list[float]] = {"plain PyAV": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        make_clip(path)
        for start in starts:
            pictures = []
            for name, read in (("plain PyAV", plain), ("ours", ours)):
                before = time.process_time()
                pictures.append(read(path, float(start)))
                milliseconds[name].append(1000 * (time.process_time() - before))
            assert np.array_equal(*pictures)
    medians = {name: statistics.median(values) for name, values in milliseconds.items()}
    print(f"{'':12}{'CPU ms per window':>18}")
    for name, value in medians.items():
        print(f"{name:12}{value:18.1f}")
    ratio = medians["plain PyAV"] / medians["ours"]
    print(json.dumps({"benchmark": "decode_window", **medians, "ratio": ratio, "windows": NUM_WINDOWS}))


if __name__ == "__main__":
    main()
