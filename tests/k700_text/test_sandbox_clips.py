"""Generated clips are real media files; their class shows in motion and sound, and not in how a frame looks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import av
import numpy as np
import numpy.typing as npt
import pytest

from k700_text.cli import progress
from k700_text.cli.main import _invoke
from k700_text.errors import ConfigError
from k700_text.records import Clip, Split
from k700_text.sandbox.clips import (
    ClipConfig,
    Flaw,
    clip_path,
    clip_scene,
    flaw_of,
    generate_clips,
    generate_labelled_folder,
)
from k700_text.sandbox.motion import Look, draw_look, pose_at, render
from k700_text.sandbox.scene import Action, Place, Scene, Tempo
from k700_text.sandbox.sound import SAMPLE_RATE, synthesise
from k700_text.sandbox.world import Miniature, World, ids_by_action, make_kinetics

WORLD = World(0)
FLAWLESS = ClipConfig(no_audio=0, silent=0, missing=0, corrupt=0, width=96, height=64)
Frames = npt.NDArray[np.uint8]


def miniature(num_classes: int = 2, clips_per_class: int = 2) -> Miniature:
    return make_kinetics(
        WORLD, num_classes=num_classes, clips_per_class=clips_per_class, val_per_class=0, test_per_class=0
    )


def read(path: Path) -> tuple[Frames, npt.NDArray[np.float32] | None, float]:
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate or 0)
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return frames, None, rate
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    return frames, sound, rate


def test_files_decode_and_last_as_long_as_annotated(tmp_path: Path) -> None:
    mini = miniature(num_classes=3, clips_per_class=2)
    ticks: list[tuple[int, int]] = []
    report = generate_clips(
        mini, tmp_path, config=FLAWLESS, workers=1, on_progress=lambda done, total: ticks.append((done, total))
    )
    count = len(mini.clips)
    assert (report.num_clips, report.num_written, report.num_kept) == (count, count, 0)
    assert ticks == [(done, count) for done in range(count + 1)]  # the first before there is a file
    for clip in mini.clips:
        path = tmp_path / str(clip.label) / f"{clip.clip_id}.mp4"
        assert path == tmp_path / clip_path(clip)
        frames, sound, rate = read(path)
        length = clip.end_seconds - clip.start_seconds
        assert rate in FLAWLESS.frame_rates
        assert frames.shape[1:] == (64, 96, 3) and len(frames) == round(length * rate)
        assert sound is not None
        assert sound.shape[1] / SAMPLE_RATE == pytest.approx(length, abs=0.05)
        assert -32 < 20 * np.log10(np.sqrt(np.mean(sound.mean(0) ** 2))) < -8


def test_finished_files_are_kept_and_missing_ones_come_back_the_same(tmp_path: Path) -> None:
    mini = miniature()
    generate_clips(mini, tmp_path, config=FLAWLESS, workers=1)
    contents = {path: path.read_bytes() for path in tmp_path.rglob("*.mp4")}
    lost = tmp_path / clip_path(mini.clips[0])
    lost.unlink()
    report = generate_clips(mini, tmp_path, config=FLAWLESS, workers=1)
    assert (report.num_written, report.num_kept) == (1, len(mini.clips) - 1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.mp4")} == contents


def test_processes_write_the_same_bytes(tmp_path: Path) -> None:
    mini = miniature(clips_per_class=3)
    generate_clips(mini, tmp_path / "one", config=FLAWLESS, workers=1)
    generate_clips(mini, tmp_path / "two", config=FLAWLESS, workers=2)
    assert len(mini.clips) > 4  # fewer are not spread
    for clip in mini.clips:
        path = clip_path(clip)
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()


def test_flaws_are_what_they_say(tmp_path: Path) -> None:
    mini = miniature(num_classes=2, clips_per_class=8)
    config = replace(FLAWLESS, no_audio=0.25, silent=0.25, missing=0.25, corrupt=0.25)
    report = generate_clips(mini, tmp_path, config=config, workers=1)
    assert sum(report.flaws.values()) == len(mini.clips) and report.flaws["none"] == 0
    assert all(report.flaws[flaw] for flaw in Flaw if flaw is not Flaw.NONE)
    assert report.num_written == len(mini.clips) - report.flaws["missing"]
    for clip in mini.clips:
        flaw, path = flaw_of(WORLD, clip, config), tmp_path / clip_path(clip)
        assert path.exists() == (flaw is not Flaw.MISSING)
        if flaw is Flaw.CORRUPT:
            with pytest.raises(av.error.FFmpegError):
                av.open(str(path)).close()
        elif flaw in (Flaw.NO_AUDIO, Flaw.SILENT):
            _, sound, _ = read(path)
            assert sound is None if flaw is Flaw.NO_AUDIO else (sound is not None and not sound.any())


@pytest.mark.parametrize(
    "settings", [{"missing": 1.2}, {"silent": -0.1}, {"width": 97}, {"frame_rates": ()}, {"frame_rates": (0.0,)}]
)
def test_bad_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ClipConfig(**settings)


def test_the_labelled_folder_holds_other_videos_in_groups(tmp_path: Path) -> None:
    config = replace(FLAWLESS, missing=0.5, corrupt=0.5)
    report = generate_labelled_folder(
        WORLD, tmp_path, num_classes=2, videos_per_class=2, clips_per_video=2, config=config, workers=1
    )
    paths = sorted(tmp_path.rglob("*.mp4"))
    assert len(paths) == report.num_written == 8
    assert {path.parent.name for path in paths} == {str(action) for action in tuple(Action)[:2]}
    ids = {path.name[:11] for path in paths}
    assert len(ids) == 4 and not ids & {clip.youtube_id for clip in make_kinetics(WORLD).clips}
    for path in paths:
        assert len(read(path)[0]) >= 40
    one, two = (np.median(read(path)[0], axis=0) for path in paths if path.name[:11] == paths[0].name[:11])
    assert np.abs(one - two).mean() < 12  # one video, one background


# --- what the class governs ---


def motion(frames: Frames) -> dict[str, float]:
    """Spread of the changing pixels' centre per axis, in fractions of the frame, and how much changes at all."""
    background = np.median(frames.astype(np.float32), axis=0)
    changed = np.abs(frames - background).max(axis=-1) > 30
    area = changed.mean(axis=(1, 2))
    rows, columns = np.arange(frames.shape[1]) / frames.shape[1], np.arange(frames.shape[2]) / frames.shape[2]
    seen = changed[area > 0.002]
    if not len(seen):
        return {"x": 0.0, "y": 0.0, "area": float(area.mean())}
    weight = seen.sum(axis=(1, 2))
    x = (seen.sum(axis=1) * columns).sum(axis=1) / weight
    y = (seen.sum(axis=2) * rows).sum(axis=1) / weight
    return {"x": float(x.std()), "y": float(y.std()), "area": float(area.mean())}


def rendered(action: Action, youtube_id: str, tempo: Tempo = Tempo.MEDIUM, place: Place = Place.HIGH) -> Frames:
    scene, look = Scene(action, tempo, place), draw_look(0, youtube_id)
    frames = render(scene, look, start_seconds=3.0, num_frames=80, frame_rate=20.0, height=60, width=80)
    return np.stack(list(frames))


SHOWS: dict[Action, Callable[[dict[str, float]], bool]] = {
    Action.SLIDING: lambda m: m["x"] > 0.15 and m["y"] < 0.06,
    Action.BOUNCING: lambda m: m["y"] > 0.10 and m["x"] < 0.06,
    Action.CROSSING: lambda m: m["x"] > 0.12 and m["y"] > 0.08,
    Action.FIGURE_EIGHT: lambda m: m["x"] > 0.12 and m["y"] > 0.08,
    Action.CIRCLING: lambda m: m["x"] > 0.06 and m["y"] > 0.08,
    Action.STANDING: lambda m: m["area"] == 0,
    Action.PULSING: lambda m: m["x"] < 0.05 and m["y"] < 0.05 and m["area"] > 0.001,
}


@pytest.mark.parametrize("action", SHOWS)
def test_the_class_governs_the_motion(action: Action) -> None:
    ids = [f"motion{index}" for index in range(12)]
    shown = [SHOWS[action](motion(rendered(action, youtube_id))) for youtube_id in ids]
    assert sum(shown) >= 11, [motion(rendered(action, youtube_id)) for youtube_id in ids]


def test_the_motion_survives_the_encoder(tmp_path: Path) -> None:
    mini = miniature(num_classes=2, clips_per_class=3)  # sliding and bouncing
    generate_clips(mini, tmp_path, config=FLAWLESS, workers=1)
    for clip in mini.clips:
        measured = motion(read(tmp_path / clip_path(clip))[0])
        assert (measured["x"] > measured["y"]) == (clip.label == Action.SLIDING)


def test_the_class_is_not_in_the_look_of_one_frame() -> None:
    """A nearest-mean classifier on a frame's colours is near chance (0.1), so that looks do not tell it."""
    features, labels = [], []
    for youtube_id, action in ids_by_action(WORLD, "look test", tuple(Action), 30):
        look = draw_look(0, youtube_id)
        (frame,) = render(
            WORLD.scene(youtube_id), look, start_seconds=1.0, num_frames=1, frame_rate=10.0, height=48, width=64
        )
        features.append(np.concatenate((frame.mean(axis=(0, 1)), frame.std(axis=(0, 1)))))
        labels.append(tuple(Action).index(action))
    matrix, classes = np.array(features), np.array(labels)
    correct = 0
    for index in range(len(classes)):
        others = np.arange(len(classes)) != index
        means = np.stack([matrix[others & (classes == label)].mean(axis=0) for label in range(len(Action))])
        correct += int(np.argmin(np.linalg.norm(means - matrix[index], axis=1)) == classes[index])
    assert correct / len(classes) < 0.25, correct / len(classes)


def test_poses_stay_inside_the_frame() -> None:
    for action in Action:
        for index in range(10):
            look: Look = draw_look(0, f"inside{index}")
            for place in Place:
                for seconds in np.arange(0, 4, 0.05):
                    pose = pose_at(Scene(action, Tempo.FAST, place), look, float(seconds))
                    assert 0.05 < pose.x < 0.95 and 0.05 < pose.y < 0.95 and pose.scale > 0.2


def sound_of(scene: Scene, youtube_id: str, seconds: float = 5.0) -> npt.NDArray[np.float32]:
    return synthesise(
        scene, seed=0, youtube_id=youtube_id, start_seconds=0.0, duration_seconds=seconds, num_channels=1
    )[0]


@pytest.mark.parametrize("action", [Action.BOUNCING, Action.CIRCLING, Action.PULSING, Action.BLINKING])
@pytest.mark.parametrize("tempo", Tempo)
def test_sound_and_motion_share_the_tempo(action: Action, tempo: Tempo) -> None:
    sound = sound_of(Scene(action, tempo, Place.LOW), "tempo")
    block = SAMPLE_RATE // 50
    level = np.sqrt((sound[: len(sound) // block * block].reshape(-1, block) ** 2).mean(axis=1))
    spectrum = np.abs(np.fft.rfft((level - level.mean()) * np.hanning(len(level)), 4096))
    hertz = np.fft.rfftfreq(4096, 1 / 50)[np.argmax(spectrum)]
    assert hertz == pytest.approx(1 / tempo.period_seconds, rel=0.12)
    look, scene = draw_look(0, "tempo"), Scene(Action.SLIDING, tempo, Place.LOW)
    assert pose_at(scene, look, 0.3).x == pytest.approx(pose_at(scene, look, 0.3 + tempo.period_seconds).x)


@pytest.mark.parametrize("action", Action)
def test_sound_and_motion_share_the_place(action: Action) -> None:
    def strongest_hertz(place: Place) -> float:
        sound = sound_of(Scene(action, Tempo.MEDIUM, place), "place", seconds=2.0)
        return float(np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)[np.argmax(np.abs(np.fft.rfft(sound)))])

    assert strongest_hertz(Place.HIGH) > 1.8 * strongest_hertz(Place.LOW)
    look = draw_look(0, "place")

    def mean_y(place: Place) -> float:
        return float(np.mean([pose_at(Scene(action, Tempo.MEDIUM, place), look, t / 10).y for t in range(36)]))

    assert mean_y(Place.HIGH) < mean_y(Place.LOW) - 0.1


def test_a_clip_shows_its_label_and_its_videos_tempo() -> None:
    clip = Clip(
        youtube_id="dQw4w9WgXcQ", split=Split.TRAIN, start_seconds=0, end_seconds=5, label=str(Action.SPIRALLING)
    )
    scene = WORLD.scene(clip.youtube_id)
    assert clip_scene(WORLD, clip) == replace(scene, action=Action.SPIRALLING)
    assert clip_scene(WORLD, replace(clip, label=None)) == scene


# --- the command ---


def test_the_command_writes_annotations_and_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0.0)
    folders = ["--annotations", str(tmp_path / "mini"), "--clips", str(tmp_path / "clips")]
    _invoke(
        ["sandbox", "--no-serve", "--json", "--num-classes", "1", "--clips-per-class", "0", "--workers", "1", *folders]
    )
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    lines = printed.err.splitlines()  # one before the first clip, and one for each
    assert len(lines) == facts["clip_files"]["written"] + 1 and lines[-1].startswith("clips: 20/20")
    assert (facts["command"], facts["clips"], facts["labels"]) == ("sandbox", 20, ["sliding sideways"])
    assert facts["clip_files"]["written"] == len(list((tmp_path / "clips").rglob("*.mp4")))
    assert sorted(path.name for path in (tmp_path / "mini").iterdir()) == ["test.csv", "train.csv", "val.csv"]
    assert len((tmp_path / "mini" / "val.csv").read_text(encoding="utf-8").splitlines()) == 11


def test_the_command_serves_until_it_is_interrupted() -> None:
    command = [sys.executable, "-c", "from k700_text.cli.main import run; run()", "sandbox", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        facts = json.loads(process.stdout.readline())
        assert f"--endpoint data-api={facts['url']}" in facts["endpoint_options"]
        with urlopen(f"{facts['url']}/deepmind-media/Datasets/kinetics700.tar.gz", timeout=10) as reply:
            assert reply.status == 200
        process.stderr.readline()  # it is serving: from here on Ctrl-C stops it
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=20)
        assert process.returncode == 0
        assert messages.strip() == "stopped after 1 requests"
