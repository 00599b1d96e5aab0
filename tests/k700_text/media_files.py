"""Where the real files are, and small made-up ones: clips whose every frame and moment can be told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k700_text.media.encode import encode_clip
from k700_text.schema import MANIFEST_SCHEMA, with_metadata

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SAMPLES = REAL_DATA / "videos-samples"
FIGHT = REAL_DATA / "videos-labelled" / "fight-surv"
needs_samples = [pytest.mark.realdata, pytest.mark.skipif(not SAMPLES.is_dir(), reason="no ../shared/data")]


def numbered_frames(num_frames: int, width: int = 64, height: int = 48) -> list[npt.NDArray[np.uint8]]:
    """Frame k is one shade of gray, 4 * k (k < 60), so that its number can be read off its mean."""
    return [np.full((height, width, 3), 8 + 4 * index, dtype=np.uint8) for index in range(num_frames)]


def frame_number(frame: npt.NDArray[np.uint8]) -> int:
    return round((float(frame.mean()) - 8) / 4)


def tone(seconds: float, hz: float = 440.0, rate: int = 44_100, amplitude: float = 0.5) -> npt.NDArray[np.float32]:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def make_clip(path: Path, seconds: float = 2.0, *, audio: Any = "tone", rate: float = 25.0, **size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = tone(seconds) if isinstance(audio, str) else audio
    encode_clip(path, numbered_frames(round(seconds * rate), **size), frame_rate=rate, audio=sound, crf=10)
    return path


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes a manifest; every row needs ``clip_id`` and may set any other column."""
    full = []
    for row in rows:
        defaults = {
            "youtube_id": row["clip_id"][:11],
            "split": "train",
            "start_seconds": 0.0,
            "end_seconds": 10.0,
            "availability": "unknown",
            "availability_sources": [],
            "has_text": row.get("title") is not None,
        }
        full.append({name: {**defaults, **row}.get(name) for name in MANIFEST_SCHEMA.names})
    pq.write_table(pa.Table.from_pylist(full, schema=with_metadata(MANIFEST_SCHEMA)), path)
    return path


def clip_id_of(number: int) -> str:
    return f"video{number:05d}A_000000_000010"
