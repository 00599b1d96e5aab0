"""Generated clip files: H.264 and AAC whose motion, sound and title belong together, plus a few flawed files."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from k700_text.errors import ConfigError, K700TextError
from k700_text.files.atomic import write_whole
from k700_text.media.encode import encode_clip
from k700_text.media.pool import each_result
from k700_text.records import Clip, Split
from k700_text.sandbox.motion import draw_look, render
from k700_text.sandbox.scene import Action, Scene, scene_of, seeded
from k700_text.sandbox.sound import SAMPLE_RATE, synthesise
from k700_text.sandbox.world import Miniature, World, ids_by_action


class Flaw(StrEnum):
    """What is wrong with a clip file."""

    NONE = "none"
    NO_AUDIO = "no_audio"
    SILENT = "silent"
    MISSING = "missing"
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipConfig:
    """How clip files are made."""

    no_audio: float = 0.06
    """Share of the files without an audio stream."""
    silent: float = 0.05
    """Share of the files whose audio is digital silence."""
    missing: float = 0.03
    """Share of the annotated clips that have no file."""
    corrupt: float = 0.02
    """Share of the files that cannot be opened."""
    height: int = 120
    """Pixels, even."""
    width: int = 160
    """Pixels, even."""
    frame_rates: tuple[float, ...] = (20.0, 20.0, 20.0, 30.0, 12.5)
    """Frames per second, one drawn for each video."""

    def __post_init__(self) -> None:
        shares = (self.no_audio, self.silent, self.missing, self.corrupt)
        if min(shares) < 0 or sum(shares) > 1:
            raise ConfigError(f"shares of flawed clips must be at least 0 and add up to at most 1, got {shares}")
        if self.height % 2 or self.width % 2 or min(self.height, self.width) < 16:
            raise ConfigError(f"clips need an even size of at least 16 pixels, got {self.width}x{self.height}")
        if not self.frame_rates or min(self.frame_rates) <= 0:
            raise ConfigError(f"frame rates must be above 0, got {self.frame_rates}")


@dataclass(frozen=True, slots=True)
class GenerationReport:
    """What a generation did.

    Attributes:
        num_clips: annotated clips.
        num_written: files written now.
        num_kept: files that were there already.
        flaws: number of clips with each flaw, over all clips.
        seconds: time that it took.
    """

    num_clips: int
    num_written: int
    num_kept: int
    flaws: dict[str, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Job:
    seed: int
    clip: Clip
    path: Path
    config: ClipConfig = field(default_factory=ClipConfig)


def flaw_of(world: World, clip: Clip, config: ClipConfig) -> Flaw:
    """Returns what is wrong with a clip's file: a pure function of the world's seed and the clip."""
    return _flaw(world.seed, clip, config)


def clip_path(clip: Clip) -> Path:
    """Returns the place of a clip's file below the clips folder: ``<label>/<clip_id>.mp4``."""
    return Path(clip.label or "unlabelled") / f"{clip.clip_id}.mp4"


def clip_scene(world: World, clip: Clip) -> Scene:
    """Returns what a clip shows: the action is its label, tempo and place are its video's."""
    return _scene(world.seed, clip)


def generate_clips(
    miniature: Miniature,
    out_dir: str | Path,
    *,
    config: ClipConfig | None = None,
    workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> GenerationReport:
    """Writes the clip files of a miniature Kinetics; files that are there already are kept.

    Args:
        miniature: annotations and their world.
        out_dir: folder to write ``<label>/<clip_id>.mp4`` into.
        config: size, frame rates and shares of flawed files.
        workers: processes.
        on_progress: called with (done, total) before the first clip and after each.

    Raises:
        OSError: a file cannot be written.
        K700TextError: a worker process was killed.
    """
    return _generate(miniature.world, miniature.clips, Path(out_dir), config or ClipConfig(), workers, on_progress)


def generate_labelled_folder(
    world: World,
    out_dir: str | Path,
    *,
    num_classes: int = 10,
    videos_per_class: int = 12,
    clips_per_video: int = 2,
    config: ClipConfig | None = None,
    workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> GenerationReport:
    """Writes an evaluation set ``<label>/<clip_id>.mp4`` of videos that no miniature holds; every file has video.

    Several clips come from the same video and share its appearance: split by youtube_id, never by clip.

    Args:
        world: where the videos live.
        out_dir: folder to write into.
        num_classes: classes, the same ones as make_kinetics takes.
        videos_per_class: videos of each class.
        clips_per_video: clips cut from each video.
        config: size, frame rates, and shares of files without audio.
        workers: processes.
        on_progress: called with (done, total) before the first clip and after each.
    """
    clips = tuple(labelled_clips(world, num_classes, videos_per_class, clips_per_video))
    flawless = replace(config or ClipConfig(), missing=0.0, corrupt=0.0)
    return _generate(world, clips, Path(out_dir), flawless, workers, on_progress)


def labelled_clips(world: World, num_classes: int, videos_per_class: int, clips_per_video: int) -> Iterator[Clip]:
    """Yields the clips of generate_labelled_folder."""
    if not 1 <= num_classes <= len(Action):
        raise ConfigError(f"num_classes must be in 1..{len(Action)}, got {num_classes}")
    for youtube_id, action in ids_by_action(world, "labelled folder", tuple(Action)[:num_classes], videos_per_class):
        rng = seeded("labelled", world.seed, youtube_id)
        start = rng.randrange(0, 60)
        for _ in range(clips_per_video):
            yield Clip(
                youtube_id=youtube_id,
                split=Split.TEST,
                start_seconds=float(start),
                end_seconds=float(start + 4),
                label=str(action),
            )
            start += 4 + rng.randrange(0, 6)


def _generate(
    world: World,
    clips: Sequence[Clip],
    out_dir: Path,
    config: ClipConfig,
    workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> GenerationReport:
    started = time.monotonic()
    flaws = Counter(str(_flaw(world.seed, clip, config)) for clip in clips)
    jobs = [_Job(world.seed, clip, out_dir / clip_path(clip), config) for clip in clips]
    for folder in sorted({job.path.parent for job in jobs}):
        folder.mkdir(parents=True, exist_ok=True)
    wanted = [job for job in jobs if _flaw(world.seed, job.clip, config) is not Flaw.MISSING]
    todo = [job for job in wanted if not job.path.exists()]
    done = len(jobs) - len(todo)
    if on_progress is not None and todo:
        on_progress(done, len(jobs))  # a bar from the start, not after the first clip
    for _ in _run(todo, workers):
        done += 1
        if on_progress is not None:
            on_progress(done, len(jobs))
    return GenerationReport(
        num_clips=len(clips),
        num_written=len(todo),
        num_kept=len(wanted) - len(todo),
        flaws={str(flaw): flaws[str(flaw)] for flaw in Flaw},
        seconds=time.monotonic() - started,
    )


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[None]:
    lost: list[str] = []
    few = len(jobs) <= 4  # Not worth the start of a process.
    for _ in each_result(
        _write_clip, ((job,) for job in jobs), workers=1 if few else workers, on_lost=lambda _, why: lost.append(why)
    ):
        if lost:
            raise K700TextError(f"a process that writes clips {lost[0]}: run the same command to continue")
        yield


def _write_clip(job: _Job) -> None:
    clip, config = job.clip, job.config
    rng = seeded("file", job.seed, clip.youtube_id)
    frame_rate = rng.choice(config.frame_rates)
    num_channels = rng.choice((1, 1, 2))
    flaw = _flaw(job.seed, clip, config)
    frames = render(
        _scene(job.seed, clip),
        draw_look(job.seed, clip.youtube_id),
        start_seconds=clip.start_seconds,
        num_frames=round((clip.end_seconds - clip.start_seconds) * frame_rate),
        frame_rate=frame_rate,
        height=config.height,
        width=config.width,
    )
    if flaw is Flaw.CORRUPT:
        _write_corrupt(job, frames, frame_rate)
        return
    audio = None if flaw is Flaw.NO_AUDIO else _audio(job, num_channels)
    if audio is not None and flaw is Flaw.SILENT:
        audio = np.zeros_like(audio)
    encode_clip(job.path, frames, frame_rate=frame_rate, audio=audio, sample_rate=SAMPLE_RATE)


def _audio(job: _Job, num_channels: int) -> npt.NDArray[np.float32]:
    clip = job.clip
    return synthesise(
        _scene(job.seed, clip),
        seed=job.seed,
        youtube_id=clip.youtube_id,
        start_seconds=clip.start_seconds,
        duration_seconds=clip.end_seconds - clip.start_seconds,
        num_channels=num_channels,
    )


def _write_corrupt(job: _Job, frames: Iterable[npt.NDArray[np.uint8]], frame_rate: float) -> None:
    """Writes a download that broke off before its index, a file of noise, or an empty one."""
    rng = seeded("corrupt", job.seed, job.clip.clip_id)
    kind = rng.choice(("broken off", "noise", "empty"))
    content = b""
    if kind == "noise":
        content = rng.randbytes(20_000)
    if kind == "broken off":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "whole.mp4"
            encode_clip(path, frames, frame_rate=frame_rate)
            whole = path.read_bytes()
        media = whole.index(b"mdat") - 4
        content = whole[: whole.index(b"moov") - 4] + whole[media : media + (len(whole) - media) // 2]
    write_whole(job.path, content)


def _flaw(seed: int, clip: Clip, config: ClipConfig) -> Flaw:
    shares = {
        Flaw.MISSING: config.missing,
        Flaw.CORRUPT: config.corrupt,
        Flaw.NO_AUDIO: config.no_audio,
        Flaw.SILENT: config.silent,
    }
    draw = seeded("flaw", seed, clip.clip_id, clip.label).random()
    for flaw, share in shares.items():
        if draw < share:
            return flaw
        draw -= share
    return Flaw.NONE


def _scene(seed: int, clip: Clip) -> Scene:
    scene = scene_of(seed, clip.youtube_id)
    return scene if clip.label is None else replace(scene, action=Action(clip.label))
