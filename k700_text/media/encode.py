"""The only writer of video files: H.264 and AAC in MP4, through PyAV.

``encode_clip`` writes whole clips, for the sandbox and for tests: a file appears under its name only when it is whole.
``encode_i420`` makes the videos of prepared shards, in memory and fast to decode, and tells where their packets lie.
The same input gives the same bytes on the same version of the encoder.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from k700_text.errors import DecodeError, K700TextError
from k700_text.files.atomic import PartFile
from k700_text.media.clip import FrameArray
from k700_text.media.packets import KEY, PacketTable

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
    output = PartFile(path)
    try:
        _write(output.part, _checked(frames), frame_rate, channels, sample_rate, _x264_options(crf, preset, gop))
        output.publish()
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise K700TextError(f"cannot encode {path}: {error.strerror}") from error
    finally:
        output.discard()


# x264's macroblock tree looks at memory that was never written: with it the same frames give other bytes now and then,
# depending on what lay there before.
_REPEATABLE = "mbtree=0"


def _x264_options(crf: int, preset: str, gop: int | None) -> dict[str, str]:
    # One thread: the bytes then do not depend on the machine's cores, and many clips are encoded in parallel anyway.
    options = {"crf": str(crf), "preset": preset, "threads": "1", "x264-params": _REPEATABLE}
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
        for index, frame in enumerate(chain([first], frames)):
            container.mux(video.encode(_picture(frame, "rgb24", index, rate)))
            if sound is not None:
                sound.write_until((index + 1) / frame_rate)
        container.mux(video.encode(None))
        if sound is not None:
            sound.close()


def _picture(frame: npt.NDArray[np.uint8], pixel_format: str, index: int, rate: Fraction) -> Any:
    picture = av.VideoFrame.from_ndarray(frame, format=pixel_format)
    picture.pts, picture.time_base = index, 1 / rate
    return picture


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoQuality:
    """How videos of prepared shards are encoded.

    Attributes:
        preset: speed preset of x264.
        crf: constant rate factor of x264, 0 (lossless) to 51.
        gop: distance of key frames in frames.
    """

    preset: str
    crf: int
    gop: int


QUALITIES: Mapping[str, VideoQuality] = MappingProxyType(
    {
        "default": VideoQuality(preset="veryfast", crf=23, gop=8),
        "small": VideoQuality(preset="medium", crf=27, gop=16),
        "fine": VideoQuality(preset="veryfast", crf=20, gop=8),
    }
)

# What makes it fast to decode: no arithmetic coder, no deblocking filter, no pictures out of order, and key frames so
# close that little is decoded before a window begins.
_FAST_DECODE = {"tune": "fastdecode", "bf": "0", "sc_threshold": "0"}
# Psychovisual optimisation and adaptive quantisation please eyes at the cost of faithful pixels: without them, PSNR is
# 0.8 dB better at the same size.
_X264_PARAMS = f"{_REPEATABLE}:no-psy=1:aq-mode=0"
# Numbers of SMPTE 170M in ITU-T H.273, and of limited range in FFmpeg: files without them are guesswork for readers.
_SMPTE170M = 6
_LIMITED_RANGE = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedVideo:
    """An MP4 file in memory.

    Attributes:
        data: its bytes.
        packets: where the pictures lie in it.
        num_frames: frames encoded.
        width: pixels.
        height: pixels.
    """

    data: bytes
    packets: PacketTable
    num_frames: int
    width: int
    height: int


def encode_i420(frames: Iterable[FrameArray], *, frame_rate: float, quality: VideoQuality) -> EncodedVideo | None:
    """Returns frames as H.264 in MP4, made to be decoded fast from any place; None if there are no frames.

    Args:
        frames: uint8 (height * 3 / 2, width) each, I420, ITU-R BT.601, limited range; all of one even size.
        frame_rate: frames per second.
        quality: how well, and how far apart key frames are.

    Raises:
        ValueError: frames of another shape or type, or no frame rate.
        K700TextError: the encoder refuses the settings.
    """
    if not frame_rate > 0:
        raise ValueError(f"frame_rate must be above 0, got {frame_rate}")
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return None
    width, height = _i420_size(first)
    rate = Fraction(frame_rate).limit_denominator(1001)
    output, num_frames = io.BytesIO(), 0
    try:
        with av.open(output, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            video = _add_fast_video(container, width, height, rate, quality)
            for frame in chain([first], frames):
                if frame.shape != first.shape or frame.dtype != np.uint8:
                    raise ValueError(f"frame {num_frames} is {frame.dtype} {frame.shape}, the first {first.shape}")
                container.mux(video.encode(_picture(frame, "yuv420p", num_frames, rate)))
                num_frames += 1
            container.mux(video.encode(None))
        data = output.getvalue()
        packets = _packets_of(data)
    except av.error.FFmpegError as error:
        raise K700TextError(f"cannot encode {width}x{height} video with {quality}: {error.strerror}") from error
    return EncodedVideo(data=data, packets=packets, num_frames=num_frames, width=width, height=height)


def _i420_size(frame: FrameArray) -> tuple[int, int]:
    if frame.dtype != np.uint8 or frame.ndim != 2 or frame.shape[0] % 3 or frame.shape[1] % 2:
        raise ValueError(f"frames must be uint8 (height * 3 / 2, width), I420, got {frame.dtype} {frame.shape}")
    return frame.shape[1], frame.shape[0] // 3 * 2


def _add_fast_video(container: Any, width: int, height: int, rate: Fraction, quality: VideoQuality) -> Any:
    options = _x264_options(quality.crf, quality.preset, quality.gop) | _FAST_DECODE
    options |= {"keyint_min": str(quality.gop), "x264-params": _X264_PARAMS}
    video = container.add_stream("libx264", rate=rate, options=options)
    video.height, video.width, video.pix_fmt = height, width, "yuv420p"
    context = video.codec_context
    context.color_range = _LIMITED_RANGE
    context.colorspace = context.color_primaries = context.color_trc = _SMPTE170M
    return video


def _packets_of(data: bytes) -> PacketTable:
    """Returns the packet table of a file of ``encode_i420``: one stream, pictures in order, all of them referred to."""
    container: Any  # Its types know nothing of what a finished file is sure to have.
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        packets = [packet for packet in container.demux(stream) if packet.size]
        return PacketTable(
            codec=context.name,
            extradata=context.extradata,
            time_base=Fraction(stream.time_base),
            offsets=np.array([packet.pos for packet in packets], np.int64),
            sizes=np.array([packet.size for packet in packets], np.int64),
            pts=np.array([packet.pts for packet in packets], np.int64),
            flags=np.array([KEY * packet.is_keyframe for packet in packets], np.uint8),
            origin=Fraction(0),
            end_ticks=packets[-1].pts + packets[-1].duration,
            width=context.width,
            height=context.height,
            colour=(_SMPTE170M, _LIMITED_RANGE),
        )


def decode_i420(data: bytes, name: str) -> Iterator[FrameArray]:
    """Yields the frames of a file of ``encode_i420``, uint8 (height * 3 / 2, width), by FFmpeg's plain way.

    Raises:
        DecodeError: a frame does not decode; ``name`` is what the message calls the file.
    """
    try:
        with av.open(io.BytesIO(data), "r") as container:
            # Threads cost more than they save, and their closing may hang.
            container.streams.video[0].thread_type = "NONE"
            for frame in container.decode(video=0):
                picture: FrameArray = frame.to_ndarray(format="yuv420p").view(np.uint8)
                yield picture
    except (av.error.FFmpegError, ValueError, IndexError) as error:
        raise DecodeError(f"{name}: {getattr(error, 'strerror', None) or error}", path=name) from error


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
