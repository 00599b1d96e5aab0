"""The peers, run from their own packages. Each gives uint8 frames of the window, (16, 3, 224, 224), and its audio.

Install what is wanted; what is missing is named in the tables and left out:

    pip install torchcodec==0.17.0 decord==0.6.0 opencv-python-headless webdataset
    pip install --no-deps pytorchvideo==0.1.5 video2dataset==1.3.0
    pip install fvcore iopath parameterized          # for PyTorchVideo

torchcodec needs FFmpeg's shared libraries. Where the system has none that it knows, it is given those in PyAV's wheel:
both then decode with the very same library.

Choices in the peers' favour: one decoder thread (video2dataset's own is 4, which costs CPU time); 16 frames are picked
before anything else is done to them; they stay uint8 and are cut by torchvision's v2 functions, the fastest way that
we know. VideoClips decodes the audio of every file that has some: where only video is compared it reads copies without
sound; its scan of all files at the start is left out. Two rows show a peer as its own documentation has it:
video2dataset's decoder and resizer, and PyTorchVideo's EncodedVideo with the transforms of its tutorial (subsample,
divide, normalise, scale the short side, crop: on floats). These import a module that torchvision has since renamed;
it is given the new one under the old name, that is all.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
import types
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from fractions import Fraction
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torchaudio
from torch import Tensor
from torchvision.transforms import Compose, Lambda, RandomCrop, RandomHorizontalFlip, _functional_tensor
from torchvision.transforms.v2 import functional as F

from loading.windows import AUDIO, VIDEO, Window, draw_rounds

PYAV_NAIVE = "PyAV, the naive loop, float32"
TORCHCODEC = "torchcodec exact"
TORCHCODEC_SOUND = "torchcodec exact + audio range + mel"
VIDEO_CLIPS = "torchvision VideoClips"
VIDEO_CLIPS_SOUND = "torchvision VideoClips + mel of its audio"
PYTORCHVIDEO = "PyTorchVideo EncodedVideo, its transforms"
PYTORCHVIDEO_UINT8 = "PyTorchVideo EncodedVideo, v2 transforms"
VIDEO2DATASET = "video2dataset (decord) + resizer"
_FFMPEG = "K700_BENCH_FFMPEG"

Read = Callable[[Window], object]


def provide_ffmpeg() -> None:
    """Starts this program again, once, with FFmpeg's libraries out of PyAV's wheel where the linker finds them.

    Does nothing where torchcodec is missing or finds an FFmpeg of the system.
    """
    if _FFMPEG in os.environ:
        atexit.register(shutil.rmtree, os.environ[_FFMPEG], ignore_errors=True)
        return
    if importlib.util.find_spec("torchcodec") is None or sys.platform != "linux":
        return
    from torchcodec import _core

    wheel = Path(av.__file__).parent.parent / "av.libs"
    if _core.ops._FFMPEG_AVAILABLE or not wheel.is_dir():
        return
    folder = Path(tempfile.mkdtemp(prefix="ffmpeg-of-pyav-"))
    for library in wheel.iterdir():
        (folder / library.name).symlink_to(library)
        plain = re.match(r"(lib(?:av|sw)\w+)-[0-9a-f]+\.so\.(\d+)", library.name)
        if plain:
            (folder / f"{plain[1]}.so.{plain[2]}").symlink_to(library)
    paths = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    environment = {**os.environ, _FFMPEG: str(folder), "LD_LIBRARY_PATH": os.pathsep.join(paths)}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def cut(frames_TCHW: Tensor, window: Window) -> Tensor:
    """Returns the window's square of frames (T, C, H, W), scaled and mirrored, uint8 (T, C, 224, 224)."""
    height, width = frames_TCHW.shape[-2:]
    left, top, side = window.cut.box(width, height)
    square = F.resized_crop(frames_TCHW, top, left, side, side, [VIDEO.size, VIDEO.size], antialias=True)
    return F.horizontal_flip(square) if window.cut.is_mirrored else square


def pyav_naive(window: Window) -> Tensor:
    """The loop of many repositories: every frame of the window to RGB, to float, cut, normalised; float32."""
    wanted = np.array(_wanted(window))
    times, frames = [], []
    with av.open(str(window.path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        container.seek(int(window.start_seconds / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time < window.start_seconds - 0.1:
                continue
            times.append(frame.time)
            frames.append(frame.to_ndarray(format="rgb24"))
            if frame.time > wanted[-1]:
                break
    chosen = np.clip(np.searchsorted(times, wanted + 1e-6) - 1, 0, None)
    pictures = torch.from_numpy(np.stack([frames[k] for k in chosen])).permute(0, 3, 1, 2).float() / 255
    return F.normalize(cut(pictures, window), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def torchcodec_frames(window: Window) -> Tensor:
    """Torchcodec's exact mode, whole frames, uint8 (T, C, H, W)."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(window.path), seek_mode="exact", num_ffmpeg_threads=1)
    end = decoder.metadata.end_stream_seconds - 1e-3
    return decoder.get_frames_played_at([min(second, end) for second in _wanted(window)]).data


def torchcodec_video(window: Window) -> Tensor:
    """The same, cut."""
    return cut(torchcodec_frames(window), window)


def torchcodec_log_mel(window: Window) -> Tensor:
    """Torchcodec's audio of the window alone, 16 kHz mono, and torchaudio's mel, float32 (M, F)."""
    from torchcodec.decoders import AudioDecoder

    decoder = AudioDecoder(str(window.path), sample_rate=AUDIO.sample_rate, num_channels=1)
    begin = window.audio_start_seconds
    samples = decoder.get_samples_played_in_range(max(0.0, begin), begin + AUDIO.window_seconds)
    waveform = torch.zeros(round(AUDIO.window_seconds * AUDIO.sample_rate))
    first = max(0, round(-begin * AUDIO.sample_rate))
    part = samples.data[0, : len(waveform) - first]
    waveform[first : first + len(part)] = part
    return torch.log(_mel()(waveform)[:, : AUDIO.num_mel_frames] + AUDIO.log_floor)


def torchcodec_tri_modal(window: Window) -> tuple[Tensor, Tensor]:
    """Frames and log-mel."""
    return torchcodec_video(window), torchcodec_log_mel(window)


class VideoClipsPeer:
    """torchvision's VideoClips at 10 fps; the clip that begins nearest to the window's start."""

    def __init__(self, paths: tuple[Path, ...], *, with_sound: bool) -> None:
        importlib.import_module("torchcodec")
        from torchvision.datasets.video_utils import VideoClips

        self._with_sound = with_sound
        files = {path: path if with_sound else without_sound(path) for path in paths}
        with redirect_stderr(StringIO()):
            self._clips = {
                path: VideoClips(
                    [str(file)],
                    clip_length_in_frames=VIDEO.num_frames,
                    frame_rate=VIDEO.frame_rate,
                    output_format="TCHW",
                )
                for path, file in files.items()
            }

    def __call__(self, window: Window) -> Tensor | tuple[Tensor, Tensor]:
        """Reads a window: frames, and with sound the log-mel of the 1.6 seconds that it gives."""
        clips = self._clips[window.path]
        index = min(round(window.start_seconds * VIDEO.frame_rate), clips.num_clips() - 1)
        frames, sound, _, _ = clips.get_clip(index)
        if not self._with_sound:
            return cut(frames, window)
        waveform = torchaudio.functional.resample(sound.mean(0), _sample_rate(window.path), AUDIO.sample_rate)
        return cut(frames, window), torch.log(_mel()(waveform) + AUDIO.log_floor)


def pytorchvideo_frames(window: Window) -> Tensor:
    """PyTorchVideo's EncodedVideo with PyAV: all frames of the window, float32 (C, T, H, W), 0..255."""
    from pytorchvideo.data.encoded_video import EncodedVideo

    video = EncodedVideo.from_path(str(window.path), decode_audio=False, decoder="pyav")
    begin = Fraction(window.start_seconds)
    frames_CTHW: Tensor = video.get_clip(begin, begin + Fraction(VIDEO.window_seconds))["video"]
    video.close()
    return frames_CTHW


def pytorchvideo_uint8(window: Window) -> Tensor:
    """16 of them, cut as the other peers' frames."""
    frames_CTHW = pytorchvideo_frames(window)
    chosen = torch.linspace(0, frames_CTHW.shape[1] - 1, VIDEO.num_frames).long()
    return cut(frames_CTHW[:, chosen].permute(1, 0, 2, 3).to(torch.uint8), window)


class PyTorchVideoPeer:
    """EncodedVideo with the training transforms of its tutorial on Kinetics."""

    def __init__(self) -> None:
        importlib.import_module("pytorchvideo")
        sys.modules.setdefault("torchvision.transforms.functional_tensor", _functional_tensor)
        from pytorchvideo.transforms import Normalize, RandomShortSideScale, UniformTemporalSubsample

        self._transform = Compose(
            [
                UniformTemporalSubsample(VIDEO.num_frames),
                Lambda(lambda frames: frames / 255.0),
                Normalize((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
                RandomShortSideScale(min_size=VIDEO.short_side, max_size=320),
                RandomCrop(VIDEO.size),
                RandomHorizontalFlip(p=0.5),
            ]
        )

    def __call__(self, window: Window) -> Tensor:
        """Reads a window; float32 (C, T, H, W)."""
        frames: Tensor = self._transform(pytorchvideo_frames(window))
        return frames


class Video2DatasetPeer:
    """video2dataset's VideoDecorder and VideoResizer, out of its package but without the rest (wandb, fire, ...)."""

    def __init__(self) -> None:
        decode, transform = (_video2dataset_module(name) for name in ("video_decode", "transform"))
        with redirect_stdout(StringIO()):
            self._decode = decode.VideoDecorder(n_frames=VIDEO.num_frames, fps=int(VIDEO.frame_rate), num_threads=1)
            self._resize = transform.VideoResizer(size=VIDEO.short_side, crop_size=VIDEO.size, random_crop=True)

    def __call__(self, window: Window) -> Tensor:
        """Reads a window; float16 (T, H, W, C). Its own random start is replaced by the window's."""
        self._decode._initpid, self._decode._prng = os.getpid(), _Start(window.start_seconds)
        frames, _ = self._decode("clip.mp4", window.path.read_bytes())
        frames = self._resize({"mp4": frames})["mp4"]
        return frames.flip(2) if window.cut.is_mirrored else frames


class _Start:
    """Stands for a random generator that draws a window's start, and the first of the frame rates."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def choice(self, values: Any, size: int) -> np.ndarray:
        """Returns what VideoDecorder asks for: one of a list of rates, or a first frame below a number."""
        if isinstance(values, list):
            return np.array(values[:size])
        return np.array([min(values - 1, int(self._seconds * 30))])


def without_sound(path: Path) -> Path:
    """Returns a copy of a clip without its audio, made once."""
    copy = Path(_scratch().name) / path.name
    if not copy.exists():
        with av.open(str(path)) as source, av.open(str(copy), "w") as target:
            stream = source.streams.video[0]
            track = target.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream = track
                    target.mux(packet)
    return copy


@cache
def _sample_rate(path: Path) -> int:
    with av.open(str(path)) as container:
        return int(container.streams.audio[0].rate)


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="clips-without-sound-")


def video_peers(paths: tuple[Path, ...]) -> tuple[dict[str, Read], dict[str, str]]:
    """Returns the peers' ways to a window's frames that work here, and why the others do not, by name."""
    makers: dict[str, Callable[[], Read]] = {
        PYAV_NAIVE: lambda: pyav_naive,
        TORCHCODEC: lambda: torchcodec_video,
        VIDEO_CLIPS: lambda: VideoClipsPeer(paths, with_sound=False),
        PYTORCHVIDEO: PyTorchVideoPeer,
        PYTORCHVIDEO_UINT8: lambda: pytorchvideo_uint8,
        VIDEO2DATASET: Video2DatasetPeer,
    }
    return _working(makers, paths)


def sound_peers(paths: tuple[Path, ...]) -> tuple[dict[str, Read], dict[str, str]]:
    """Returns the same for frames and log-mel."""
    makers: dict[str, Callable[[], Read]] = {
        TORCHCODEC_SOUND: lambda: torchcodec_tri_modal,
        VIDEO_CLIPS_SOUND: lambda: VideoClipsPeer(paths, with_sound=True),
    }
    return _working(makers, paths)


def _working(makers: dict[str, Callable[[], Read]], paths: tuple[Path, ...]) -> tuple[dict[str, Read], dict[str, str]]:
    """Returns those that read a window of the first file, and why the others do not."""
    ways: dict[str, Read] = {}
    missing: dict[str, str] = {}
    (windows,) = draw_rounds(paths[:1], 1, seed=0)
    for name, make in makers.items():
        try:
            way = make()
            way(windows[0])
        except ImportError as error:
            missing[name] = f"not installed: {error}"
        except Exception as error:  # noqa: BLE001 - a peer may fail in any way, and its line says how
            missing[name] = f"does not run: {type(error).__name__}: {error}".splitlines()[0]
        else:
            ways[name] = way
    return ways, missing


def _wanted(window: Window) -> list[float]:
    return [window.start_seconds + index / VIDEO.frame_rate for index in range(VIDEO.num_frames)]


@cache
def _mel() -> Callable[[Tensor], Tensor]:
    transform: Callable[[Tensor], Tensor] = torchaudio.transforms.MelSpectrogram(
        sample_rate=AUDIO.sample_rate,
        n_fft=AUDIO.fft_size,
        win_length=AUDIO.window_length,
        hop_length=AUDIO.hop_length,
        n_mels=AUDIO.num_mels,
        mel_scale="htk",
    )
    return transform


def _video2dataset_module(name: str) -> Any:
    """Returns a module of its loader; the package itself imports its downloader first, and a dozen others with it."""
    spec = importlib.util.find_spec("video2dataset")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("No module named 'video2dataset'")
    package = types.ModuleType("video2dataset_dataloader")
    package.__path__ = [str(Path(spec.submodule_search_locations[0]) / "dataloader")]
    sys.modules.setdefault(package.__name__, package)
    return importlib.import_module(f"{package.__name__}.{name}")
