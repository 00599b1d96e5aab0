"""One sample from a clip as it came: 16 frames at 10 fps, cut to 224x224, and the log-mel around them; ours and peers.

Clips are H.264 with the encoder's default GOP, 340x256 and 1280x720, made by a script, and any real ones that
``--clips DIR`` names. Every window (random place, square and mirror image) goes through every contender, in turn, on
one core; times are CPU time of the process, all threads. Frames and sound of our indexed path are compared with those
of our plain one, and must be equal; torchcodec's whole frames with ours.

Our packet tables are made before, once for each clip; what that costs is printed. Peers need installing:
``benchmarks/loading/peers.py`` says how, and what was chosen for each.

Expected before measuring: decoding takes 85 to 95 % of a sample, three quarters of it from the key frame to the
window, so nothing that decodes all of it gets far from torchcodec. Leaving out the pictures that nothing refers to
saves 40 % of that, the missing probe 3 ms (340x256) or 12 ms (1280x720): 1.7 to 1.9 times torchcodec for YUV, less
for RGB, which has to be converted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from loading import peers
from loading.clips import Corpus, make_corpora, real_corpus
from loading.timing import Target, milliseconds_in_turn, print_targets, print_times, ratio, use_one_core
from loading.windows import AUDIO, VIDEO, Window, draw_rounds

from k700_text.media.clip import OpenClip, PixelFormat
from k700_text.media.decode import ClipReader, PacketReader, packets_of
from k700_text.media.packets import ClipPackets

RGB, YUV = PixelFormat.RGB24, PixelFormat.YUV420P
NUM_ROUNDS, NUM_QUICK_ROUNDS = 12, 2
MAX_CHECKED = 40
Tables = dict[Path, bytes]


class Indexed:
    """Opens a clip with its packet table, kept as bytes as the packet index does; nothing stays open."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def __call__(self, window: Window, pixel_format: PixelFormat, *, with_sound: bool) -> Any:
        """Reads a window."""
        descriptor = os.open(window.path, os.O_RDONLY)
        try:
            packets = ClipPackets.from_bytes(self._tables[window.path])
            clip = PacketReader(str(window.path), packets, lambda offset, size: os.pread(descriptor, size, offset))
            return _read(clip, window, pixel_format, with_sound)
        finally:
            os.close(descriptor)


def plain(window: Window, pixel_format: PixelFormat, *, with_sound: bool) -> Any:
    """Reads a window without a table, through the demuxer."""
    with ClipReader(window.path) as clip:
        return _read(clip, window, pixel_format, with_sound)


def _read(clip: OpenClip, window: Window, pixel_format: PixelFormat, with_sound: bool) -> Any:
    cut = window.in_format(pixel_format)
    frames = clip.read_cut(window.start_seconds, VIDEO.num_frames, VIDEO.frame_rate, cut)
    return (frames, clip.read_log_mel(window.audio_start_seconds, AUDIO)[0]) if with_sound else frames


def make_tables(corpus: Corpus) -> tuple[Tables, dict[str, float]]:
    """Returns the packet tables of all clips, and what making and keeping one takes."""
    tables, milliseconds = {}, []
    for path in corpus.paths:
        before = time.process_time()
        packets = packets_of(path)
        milliseconds.append(1000 * (time.process_time() - before))
        if isinstance(packets, str):
            sys.exit(f"{path}: cannot be indexed: {packets}")
        tables[path] = packets.to_bytes()
    return tables, {
        "ms": statistics.median(milliseconds),
        "bytes": statistics.mean(len(each) for each in tables.values()),
    }


def check_equal(indexed: Indexed, window: Window) -> None:
    """Exits unless our two paths give the same bytes for a window."""
    for pixel_format in PixelFormat:
        ours = indexed(window, pixel_format, with_sound=True)
        if not all(map(np.array_equal, ours, plain(window, pixel_format, with_sound=True))):
            sys.exit(f"{window}: the indexed path gives another {pixel_format.value} or sound than the plain one")


def difference_from_torchcodec(window: Window) -> float:
    """Returns the mean difference of our whole frames, RGB, from torchcodec's: 0..255."""
    with ClipReader(window.path) as clip:
        ours = clip.read_frames(window.start_seconds, VIDEO.num_frames, VIDEO.frame_rate)
    theirs = peers.torchcodec_frames(window).permute(0, 2, 3, 1).numpy()
    return float(np.abs(ours.astype(np.int16) - theirs).mean(axis=(1, 2, 3)).max())


def measure(corpus: Corpus, *, num_rounds: int) -> tuple[list[Target], dict[str, Any]]:
    """Measures all contenders on one kind of clips and prints their tables."""
    tables, cost = make_tables(corpus)
    indexed = Indexed(tables)
    ours: dict[str, Callable[[Window], object]] = {}
    for sound, with_sound in (("", False), (" + log-mel", True)):
        for colour, pixel_format in (("RGB", RGB), ("YUV", YUV)):
            ours[f"ours plain, {colour}{sound}"] = partial(plain, pixel_format=pixel_format, with_sound=with_sound)
            ours[f"ours indexed, {colour}{sound}"] = partial(indexed, pixel_format=pixel_format, with_sound=with_sound)
    video, no_video = peers.video_peers(corpus.paths)
    sound_too, no_sound = peers.sound_peers(corpus.paths)

    windows = [window for each in draw_rounds(corpus.paths, num_rounds, seed=1) for window in each]
    checked = windows[: 3 if num_rounds <= NUM_QUICK_ROUNDS else MAX_CHECKED]
    for window in checked:
        check_equal(indexed, window)
    difference = None
    if peers.TORCHCODEC in video:
        difference = max(map(difference_from_torchcodec, checked[:12]))

    times = milliseconds_in_turn({**video, **sound_too, **ours}, draw_rounds(corpus.paths, num_rounds, seed=1))
    is_tri_modal = {name: "mel" in name for name in [*times, *no_video, *no_sound]}
    print(f"\n== {corpus.name}: {len(corpus.paths)} clips of {corpus.kilobytes:.0f} kB, {len(windows)} windows")
    for title, wanted in (("frames alone", False), ("frames and log-mel", True)):
        rows = {name: value for name, value in times.items() if is_tri_modal[name] is wanted}
        print_times(title, rows, no_sound if wanted else no_video)
    print(f"a packet table takes {cost['ms']:.1f} ms to make, once, and {cost['bytes']:.0f} bytes")
    print(f"indexed and plain gave the same bytes on {len(checked)} windows, as YUV and RGB, and the same sound")
    if difference is not None:
        print(f"whole frames differ from torchcodec's by {difference:.3f} of 255 in the mean of the worst frame")
    record = {"ms": times, "missing": {**no_video, **no_sound}, "table": cost, "torchcodec_difference": difference}
    return targets_of(corpus, times), {"windows": len(windows), "kilobytes": corpus.kilobytes, **record}


def targets_of(corpus: Corpus, times: dict[str, float]) -> list[Target]:
    """Returns what was to be reached on one kind of clips."""
    sound_target = 1.7 if corpus.height > 256 else 1.5
    wanted: Sequence[tuple[str, str, float]] = (
        (peers.TORCHCODEC, "ours indexed, YUV", 1.6),
        (peers.TORCHCODEC, "ours indexed, RGB", 1.4),
        (peers.TORCHCODEC_SOUND, "ours indexed, YUV + log-mel", sound_target),
        (peers.VIDEO_CLIPS, "ours indexed, YUV", 2.0),
        (peers.VIDEO_CLIPS_SOUND, "ours indexed, YUV + log-mel", 2.0),
        (peers.VIDEO2DATASET, "ours indexed, YUV", 2.0),
        (peers.PYTORCHVIDEO, "ours indexed, YUV", 4.0),
    )
    return [
        Target(f"{corpus.name}: {mine} against {peer}", target, ratio(times, peer, mine))
        for peer, mine, target in wanted
    ]


def main() -> None:
    """Measures on all kinds of clips."""
    parser = argparse.ArgumentParser(description="Samples from clips as they came, ours beside the peers.")
    parser.add_argument("--clips", type=Path, help="folder of real MP4 clips with sound, measured beside the made ones")
    parser.add_argument("--work", type=Path, help="folder that keeps the made clips for the next run")
    parser.add_argument("--rounds", type=int, help=f"windows of each clip, {NUM_ROUNDS} by default")
    parser.add_argument("--quick", action="store_true", help="fewer clips and windows: under a minute, and rough")
    options = parser.parse_args()
    peers.provide_ffmpeg()
    num_rounds = options.rounds or (NUM_QUICK_ROUNDS if options.quick else NUM_ROUNDS)
    targets: list[Target] = []
    record: dict[str, Any] = {"benchmark": "loader_raw", "rounds": num_rounds}
    with use_one_core(), tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        corpora = make_corpora(work, num_small=2 if options.quick else 4, num_large=1 if options.quick else 3)
        if options.clips is not None:
            corpora.append(real_corpus(options.clips))
        for corpus in corpora:
            # Large frames take six times as long.
            rounds = num_rounds if corpus.height <= 256 else max(1, num_rounds // 3)
            reached, record[corpus.name] = measure(corpus, num_rounds=rounds)
            targets += reached
    print_targets(targets)
    print(json.dumps({**record, "targets": [each.as_json() for each in targets]}))


if __name__ == "__main__":
    main()
