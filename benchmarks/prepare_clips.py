"""What ``k700-text prepare`` costs and gives: time, share of the encoder, size and likeness by quality; forms of audio.

Every clip is prepared on one core by what the command runs in each of its processes, once for each quality; PSNR and
SSIM are of the luma against the frames that went into the encoder. Hours are for 480,000 clips like these on 16 cores,
if cores scale. Audio: bytes of a clip, and the CPU time in which a sample's log-mel is read from it, as the shards
store it in both forms, and from the AAC of the clip as it came. There is no peer: tools that re-encode clips run
FFmpeg's program for it, and what they cost is what their settings cost.

Expected before measuring: 0.3 s a 340x256 clip, two thirds of it the encoder, 0.9 s a 1280x720 clip, most of it
decoding; 40 dB. A stored log-mel is read in 0.1 ms, PCM in 1 ms, AAC in 7 ms (loader notes, 3 and 4e).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from loading.clips import Corpus, make_corpora, real_corpus
from loading.sets import ClipSet, Job, make_set
from loading.timing import Target, milliseconds_in_turn, print_targets, use_one_core
from loading.windows import AUDIO

from k700_text.media.clip import DEFAULT_LIMITS, OpenClip
from k700_text.media.decode import PacketReader, packets_of
from k700_text.media.encode import QUALITIES
from k700_text.media.estimate import measure_clip
from k700_text.media.packets import ClipPackets
from k700_text.media.prepared import PreparedClips
from k700_text.media.record import ClipTask
from k700_text.media.shards import LOG_MEL, PCM16, PreparedSettings

NUM_CLIPS, NUM_CORES = 480_000, 16


def measure_quality(corpus: Corpus, quality: str) -> dict[str, float]:
    """Returns the medians over clips of what preparing one takes and gives."""
    settings = PreparedSettings(quality=quality)
    rows = []
    for path in corpus.paths:
        task = ClipTask(path.stem, None, None, None, None, None, None, path.name)
        rows.append(asdict(measure_clip(task, str(path.parent), settings, DEFAULT_LIMITS)))
    medians = {
        name: statistics.median(row[name] for row in rows)
        for name in ("seconds", "encoder_seconds", "psnr_db", "ssim", "num_bytes")
    }
    hours = medians["seconds"] * NUM_CLIPS / NUM_CORES / 3600
    lowest = min(row["psnr_db"] for row in rows)
    return {**medians, "lowest_psnr_db": lowest, "hours": hours, "gigabytes": medians["num_bytes"] * NUM_CLIPS / 1e9}


def print_qualities(corpus: Corpus, qualities: dict[str, dict[str, float]]) -> None:
    """Prints one line for each quality."""
    title = f"{corpus.name}, {len(corpus.paths)} clips"
    print(f"\n{title:28}{'CPU s':>7}{'encoder':>9}{'clips/s/core':>14}{'PSNR':>7}{'lowest':>8}{'SSIM':>8}{'kB':>6}"
          f"{'h, 480k':>9}{'GB, 480k':>10}")  # fmt: skip
    for name, row in qualities.items():
        share = row["encoder_seconds"] / row["seconds"]
        print(
            f"{name:28}{row['seconds']:7.2f}{share:9.0%}{1 / row['seconds']:14.2f}{row['psnr_db']:7.1f}"
            f"{row['lowest_psnr_db']:8.1f}{row['ssim']:8.4f}{row['num_bytes'] / 1000:6.0f}{row['hours']:9.1f}"
            f"{row['gigabytes']:10.0f}"
        )


def measure_audio(corpus: Corpus, folder: Path, num_rounds: int) -> dict[str, dict[str, float]]:
    """Returns bytes and milliseconds of each form of audio, and prints them."""
    shards = {form: PreparedClips(make_set(corpus, folder, audio=form).shards) for form in (LOG_MEL, PCM16)}
    clips = make_set(corpus, folder)
    tables = [packets_of(path) for path in clips.raw]
    if not all(isinstance(table, ClipPackets) and table.audio is not None for table in tables):
        return {}
    readers = {form: partial(_read_prepared, clips, prepared) for form, prepared in shards.items()}
    readers["AAC"] = partial(_read_aac, clips, [table.to_bytes() for table in tables if isinstance(table, ClipPackets)])
    rounds = [[(epoch, index) for index in range(len(clips.raw))] for epoch in range(num_rounds)]
    times = milliseconds_in_turn(readers, rounds)
    rows = {form: [prepared.index.row(k) for k in range(len(prepared))] for form, prepared in shards.items()}
    sizes = {form: statistics.mean(row.audio_bytes + row.level_bytes for row in rows[form]) for form in rows}
    sizes["AAC"] = statistics.mean(
        int(table.audio.sizes.sum()) for table in tables if isinstance(table, ClipPackets) and table.audio is not None
    )
    print(f"\n{'audio of a clip, log-mel of a sample':38}{'kB':>6}{'GB, 480k':>10}{'CPU ms':>8}")
    for form, value in times.items():
        print(f"{form:38}{sizes[form] / 1000:6.0f}{sizes[form] * NUM_CLIPS / 1e9:10.0f}{value:8.2f}")
    return {form: {"bytes": sizes[form], "ms": times[form]} for form in times}


def _read_prepared(clips: ClipSet, prepared: PreparedClips, job: Job) -> Any:
    number = prepared.find(clips.raw[job[1]].stem)
    assert number is not None
    return _read(prepared.open(number), clips, job)


def _read_aac(clips: ClipSet, tables: list[bytes], job: Job) -> Any:
    path = clips.raw[job[1]]
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        packets = ClipPackets.from_bytes(tables[job[1]])
        clip = PacketReader(str(path), packets, lambda offset, size: os.pread(descriptor, size, offset))
        return _read(clip, clips, job)


def _read(clip: OpenClip, clips: ClipSet, job: Job) -> Any:
    return clip.read_log_mel(clips.window(job, clips.raw).audio_start_seconds, AUDIO)


def main() -> None:
    """Measures all qualities on all kinds of clips."""
    parser = argparse.ArgumentParser(description="What preparing clips costs and gives.")
    parser.add_argument("--clips", type=Path, help="folder of real MP4 clips, measured beside the made ones")
    parser.add_argument("--work", type=Path, help="folder that keeps the made clips for the next run")
    parser.add_argument("--quick", action="store_true", help="fewer clips, one quality: under a minute, and rough")
    options = parser.parse_args()
    record: dict[str, Any] = {"benchmark": "prepare_clips"}
    targets = []
    with use_one_core(), tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        corpora = make_corpora(work, num_small=2 if options.quick else 4, num_large=1 if options.quick else 3)
        if options.clips is not None:
            corpora.append(real_corpus(options.clips))
        for corpus in corpora:
            names = ["default"] if options.quick else list(QUALITIES)
            record[corpus.name] = {name: measure_quality(corpus, name) for name in names}
            print_qualities(corpus, record[corpus.name])
            lowest = record[corpus.name]["default"]["lowest_psnr_db"]
            targets.append(Target(f"{corpus.name}: PSNR of the worst clip at the default, dB", 38, lowest))
        record["audio"] = measure_audio(corpora[0], Path(folder) / "audio", 5 if options.quick else 40)
    print_targets(targets)
    print(json.dumps({**record, "targets": [each.as_json() for each in targets]}))


if __name__ == "__main__":
    main()
