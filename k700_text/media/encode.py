"""The only writer of video files: H.264 and AAC in MP4, through PyAV.

Clips are written by the sandbox, by `prepare` and by tests. A file appears under its name only when it is whole: it is
written beside it under a temporary name first. The same input gives the same bytes on the same version of the encoder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from k700_text.errors import K700TextError

AAC_SAMPLE_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
_AAC_FRAME = 1024


def encode_clip(
    path: str | Path,
    frames: Iterable[npt.NDArray[np.uint8]],
    *,
    frame_rate: float,
    audio: npt.NDArray[np.float32] | None = None,
    sample_rate: int = 44_100,
    crf: int = 23,
    preset: str = "veryfast",
    gop: int | None = None,
) -> None:
    """Writes an MP4 file with H.264 video (yuv420p) and, where given, AAC audio.

    Args:
        path: file to write; its folder exists. A file of that name is replaced, at the end and at once.
        frames: RGB uint8 (H, W, 3) each, all of one even height and width; at least one.
        frame_rate: frames per second.
        audio: float32 (N,) or (channels, N) in [-1, 1], 1, 2 or 6 channels; no audio stream when None.
        sample_rate: hertz of the audio; one that AAC knows.
        crf: constant rate factor of x264, 0 (lossless) to 51.
        preset: speed preset of x264.
        gop: longest distance of key frames in frames; the encoder's own (250) when None.

    Raises:
        ValueError: frames or audio of another shape, type or rate than stated.
        K700TextError: the encoder refuses the settings.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if not frame_rate > 0:
        raise ValueError(f"frame_rate must be above 0, got {frame_rate}")
    channels = None if audio is None else _as_channels(audio, sample_rate)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _write(part, _checked(frames), frame_rate, channels, sample_rate, _x264_options(crf, preset, gop))
        part.replace(path)
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise K700TextError(f"cannot encode {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _x264_options(crf: int, preset: str, gop: int | None) -> dict[str, str]:
    # One thread: the bytes then do not depend on the machine's cores, and many clips are encoded in parallel anyway.
    options = {"crf": str(crf), "preset": preset, "threads": "1"}
    return options if gop is None else {**options, "g": str(gop), "keyint_min": "1"}


def _write(
    part: Path,
    frames: Iterator[npt.NDArray[np.uint8]],
    frame_rate: float,
    audio: npt.NDArray[np.float32] | None,
    sample_rate: int,
    x264_options: dict[str, str],
) -> None:
    first = next(frames, None)
    if first is None:
        raise ValueError("a clip needs at least one frame")
    rate = Fraction(frame_rate).limit_denominator(1001)
    # bitexact: no encoder name or date in the container.
    with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=rate, options=x264_options)
        video.height, video.width, video.pix_fmt = first.shape[0], first.shape[1], "yuv420p"
        sound = None if audio is None else _AudioTrack(container, audio, sample_rate)
        for index, frame in enumerate(_chain(first, frames)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = index, 1 / rate
            container.mux(video.encode(picture))
            if sound is not None:
                sound.write_until((index + 1) / frame_rate)
        container.mux(video.encode(None))
        if sound is not None:
            sound.close()


def _chain(first: npt.NDArray[np.uint8], rest: Iterator[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.uint8]]:
    yield first
    yield from rest


def _checked(frames: Iterable[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.uint8]]:
    shape: tuple[int, ...] | None = None
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"frame {index} must be uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
        if frame.shape[0] % 2 or frame.shape[1] % 2:
            raise ValueError(f"height and width must be even for yuv420p, got {frame.shape[0]}x{frame.shape[1]}")
        if shape not in (None, frame.shape):
            raise ValueError(f"frame {index} has shape {frame.shape}, the first one {shape}")
        shape = frame.shape
        yield np.ascontiguousarray(frame)


def _as_channels(audio: npt.NDArray[np.float32], sample_rate: int) -> npt.NDArray[np.float32]:
    """Returns (channels, N), clipped to [-1, 1]."""
    channels = audio[None, :] if audio.ndim == 1 else audio
    if channels.ndim != 2 or channels.shape[0] not in _LAYOUTS or not np.issubdtype(channels.dtype, np.floating):
        raise ValueError(f"audio must be float (N,) or (1, 2 or 6 channels, N), got {audio.dtype} {audio.shape}")
    if sample_rate not in AAC_SAMPLE_RATES:
        raise ValueError(f"AAC knows no sample rate of {sample_rate} Hz: use one of {AAC_SAMPLE_RATES}")
    if not np.isfinite(channels).all():
        raise ValueError("audio must be finite")
    return np.ascontiguousarray(np.clip(channels, -1.0, 1.0), dtype=np.float32)


class _AudioTrack:
    """Feeds the audio to the muxer no further than the video has come, so that the file is interleaved."""

    def __init__(self, container: Any, audio: npt.NDArray[np.float32], sample_rate: int) -> None:
        self._container, self._audio, self._sample_rate = container, audio, sample_rate
        self._layout = _LAYOUTS[audio.shape[0]]
        # The fast coder costs a third of the default one and hears no worse at the encoder's own 128 kb/s.
        self._stream = container.add_stream("aac", rate=sample_rate, layout=self._layout, options={"aac_coder": "fast"})
        self._position = 0

    def write_until(self, seconds: float) -> None:
        """Encodes whole AAC frames up to the given time."""
        end = min(self._audio.shape[1], int(seconds * self._sample_rate))
        while self._position + _AAC_FRAME <= end:
            self._encode(self._position + _AAC_FRAME)

    def close(self) -> None:
        """Encodes the rest."""
        while self._position < self._audio.shape[1]:
            self._encode(min(self._position + _AAC_FRAME, self._audio.shape[1]))
        self._container.mux(self._stream.encode(None))

    def _encode(self, end: int) -> None:
        block = np.ascontiguousarray(self._audio[:, self._position : end])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=self._layout)
        frame.sample_rate, frame.pts, frame.time_base = (
            self._sample_rate,
            self._position,
            Fraction(1, self._sample_rate),
        )
        self._container.mux(self._stream.encode(frame))
        self._position = end
