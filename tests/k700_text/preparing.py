"""What the tests of prepared shards share: a folder of clips of every kind, and shards made of them in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np

from k700_text.media.prepare import PrepareRun, ShardJob, write_shard
from k700_text.media.prepare_plan import make_plan
from k700_text.media.shards import SETTINGS_FILE, PreparedSettings, write_index
from tests.k700_text.media_files import clip_id_of, make_clip, tone, write_manifest

NUM_GOOD = 5
NUM_ROWS = 11
"""Rows of the manifest of ``make_clips``: 5 good clips, one of them twice, one without sound, one without video, two
that do not decode, one without a file."""


def make_sound(path: Path, seconds: float = 2.0) -> Path:
    """Writes an MP4 file without video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100, layout="mono")
        samples = tone(seconds)
        for first in range(0, len(samples), 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, first : first + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44_100, first
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make_clips(root: Path) -> Path:
    """Makes clips of every kind in ``root/clips``, and returns their manifest."""
    clips = root / "clips"
    for number in range(NUM_GOOD):
        make_clip(clips / f"{clip_id_of(number)}.mp4", audio=tone(2.0, hz=300.0 + 100 * number))
    make_clip(clips / f"{clip_id_of(5)}.mp4", audio=None)
    make_sound(clips / f"{clip_id_of(6)}.mp4")
    (clips / f"{clip_id_of(7)}.mp4").write_bytes(b"no film" * 50)
    (clips / f"{clip_id_of(8)}.mp4").touch()
    rows: list[dict[str, Any]] = [
        {"clip_id": clip_id_of(number), "label": f"label {number % 3}", "split": "val" if number == 4 else "train"}
        for number in range(10)
    ]
    rows[0]["title"] = "A title – with more than ASCII"
    rows.append({**rows[0], "label": "another label"})
    assert len(rows) == NUM_ROWS
    return write_manifest(root / "manifest.parquet", rows)


def prepare_here(root: Path, out: Path, manifest: Path | None = None, **settings: Any) -> PrepareRun:
    """Does what ``run_plan`` does, without processes."""
    run = PrepareRun(
        root=root,
        out=out,
        settings=PreparedSettings(**settings),
        manifests=[] if manifest is None else [manifest],
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / SETTINGS_FILE).write_text(run.settings.to_json())
    plan = make_plan(root, out, run.manifests, shard_size=run.settings.shard_size)
    for task in plan.shards():
        write_shard(ShardJob(out=out, root=root, task=task, settings=run.settings, limits=run.limits))
    write_index(out)
    return run


def content(folder: Path) -> dict[str, bytes]:
    """Returns all files of a folder of shards but the lock."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".prepare.lock"}


def gray_of(frames: np.ndarray[Any, np.dtype[np.uint8]]) -> list[int]:
    """Returns the numbers of ``numbered_frames`` that luma planes (T, H, W) show."""
    shades = (frames.reshape(len(frames), -1).mean(axis=1) - 16) * 255 / 219
    return [round(shade) for shade in (shades - 8) / 4]
