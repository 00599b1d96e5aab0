"""Damaged files: each decodes or is refused with one line, within its bounds, and leaves nothing behind."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from k700_text.config import AudioConfig
from k700_text.errors import DecodeError
from k700_text.media.clip import Cut, DecodeLimits, OpenClip, PixelFormat
from k700_text.media.decode import ClipReader, PacketReader, packets_of
from k700_text.media.pool import each_result
from k700_text.media.probe import ProbeSettings, probe_clip
from tests.k700_text.media_mutations import MUTATIONS, base_files, mutated

LIMITS = DecodeLimits(max_seconds=5.0, max_pixels=2048 * 2048)
# Above the limit of one pass: a file is passed over several times, and the machine has other work.
MAX_SECONDS = 60.0
MAX_GROWTH_BYTES = 600 << 20


def read_all_ways(path: str) -> dict[str, Any]:
    """Reads a file as training does and as the probe does; runs in a process of its own, which may die of it."""
    started = time.monotonic()
    outcomes = [_read_plainly(path), _read_by_packets(path)]
    measured = probe_clip(path, Path(path).parent, ProbeSettings(max_seconds=LIMITS.max_seconds))
    if measured.video_status != "usable" or measured.audio_status != "usable":
        assert measured.reason, measured
    return {
        "outcomes": outcomes,
        "video_status": str(measured.video_status),
        "seconds": time.monotonic() - started,
        "open_files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        "pid": os.getpid(),
    }


def _read_plainly(path: str) -> str:
    try:
        with ClipReader(path, limits=LIMITS) as clip:
            return _sample_of(clip)
    except DecodeError as error:
        return _one_line(error)


def _read_by_packets(path: str) -> str:
    packets = packets_of(path)
    if isinstance(packets, str):
        assert packets and "\n" not in packets
        return "not indexed"
    file = os.open(path, os.O_RDONLY)
    try:
        return _sample_of(PacketReader(path, packets, lambda offset, size: os.pread(file, size, offset), limits=LIMITS))
    except DecodeError as error:
        return _one_line(error)
    finally:
        os.close(file)


def _sample_of(clip: OpenClip) -> str:
    problems = []
    try:
        if clip.has_video:
            start = max(0.0, clip.video_seconds() - 1.6) / 2
            for pixel_format in PixelFormat:
                cut = Cut(size=64, share=0.8, pixel_format=pixel_format)
                assert clip.read_cut(start, 16, 10.0, cut).shape == (16, *cut.shape)
    except DecodeError as error:
        problems.append(_one_line(error))
    try:
        if clip.has_audio:
            mel, level = clip.read_log_mel(0.1, AudioConfig())
            assert mel.shape == (80, 256) and 0 <= level < 1e6
    except DecodeError as error:
        problems.append(_one_line(error))
    return "; ".join(problems) or "read"


def _one_line(error: DecodeError) -> str:
    assert "\n" not in str(error) and len(str(error)) < 1000, error
    return "refused"


def attack(bases: list[Path], folder: Path, numbers: range) -> Counter[str]:
    paths = [mutated(bases, number, folder) for number in numbers]
    jobs = [(str(path),) for path in (*bases, *paths)]
    results: dict[int, dict[str, Any]] = {}
    for index, result in each_result(read_all_ways, jobs, workers=2):
        assert result is not None, f"the process died of {jobs[index]}"
        assert result["seconds"] < MAX_SECONDS, (jobs[index], result)
        results[index] = result
    for pid in {result["pid"] for result in results.values()}:
        mine = [result for _, result in sorted(results.items()) if result["pid"] == pid]
        assert max(result["open_files"] for result in mine) <= mine[0]["open_files"] + 2
        assert max(result["threads"] for result in mine) <= mine[0]["threads"] + 1
        assert mine[-1]["peak_bytes"] - mine[0]["peak_bytes"] < MAX_GROWTH_BYTES
    whole = [results[index]["outcomes"][0] for index in range(len(bases))]
    assert whole.count("read") >= len(bases) - 2, list(zip(bases, whole, strict=True))
    return Counter(outcome.partition(";")[0] for result in results.values() for outcome in result["outcomes"])


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    outcomes = attack(base_files(tmp_path, max_bytes=300_000), tmp_path, range(48))
    assert outcomes["read"] > 20 and outcomes["refused"] > 5, outcomes


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.timeout(3000)
def test_two_thousand_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    outcomes = attack(base_files(tmp_path), tmp_path, range(2000))
    assert outcomes["read"] > 500 and outcomes["refused"] > 100, outcomes


def test_every_kind_of_damage_is_made_and_the_same_seed_makes_the_same(tmp_path: Path) -> None:
    bases = base_files(tmp_path)[:3]
    (tmp_path / "again").mkdir()
    first = [mutated(bases, number, tmp_path) for number in range(200)]
    second = [mutated(bases, number, tmp_path / "again") for number in range(200)]
    assert [path.name for path in first] == [path.name for path in second]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(first, second, strict=True))
    assert all(any(name in path.name for path in first) for name in MUTATIONS)
