"""Lays out the real clips of ``../shared/data`` for a study: ``python benchmarks/training/real_clips.py OUT``.

Seven longer files with sound are cut into pieces of two seconds; the clips of ``fight-surv`` whose video has sound are
taken as they are. Both are pairs of frames and sound; nobody knows their titles. One video in three is held out, whole.
The clips of ``fight-surv`` whose videos have no sound are the labelled ones of a probe: none of their videos is trained
on.

Writes OUT/clips, OUT/train.csv, OUT/val.csv, OUT/labelled and OUT/groups.csv; what there is of sound, ``k700-text
probe`` tells.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from k700_text.media.decode import ClipReader
from k700_text.media.encode import encode_clip

PIECE_SECONDS, FRAME_RATE, SAMPLE_RATE = 2, 25.0, 44_100
HELD_OUT_EVERY = 3
LONG_FILES = (
    "decord/flipping_a_pancake.mkv",
    "mmaction2/handwork_2430612613790195194.mp4",
    "mmaction2/test.avi",
    "torchcodec/nasa_13013.mp4",
    "torchvision/R6llTwEh07w.mp4",
    "torchvision/SOX5yA1l24A.mp4",
    "torchvision/WUzgd7C1pWA.mp4",
)


@dataclass(frozen=True)
class Piece:
    """A stretch of a file that becomes a clip of its own.

    Attributes:
        path: the file.
        video: the video that it is of, as pieces of one video must not fall on both sides.
        start_seconds: where it begins in the file.
        number: how many of the video come before it.
    """

    path: Path
    video: str
    start_seconds: float
    number: int

    @property
    def clip_id(self) -> str:
        """Named as a clip of Kinetics, with the video's name as eleven characters."""
        name = self.video if len(self.video) == 11 else hashlib.sha256(self.video.encode()).hexdigest()[:11]
        return f"{name}_{PIECE_SECONDS * self.number:06d}_{PIECE_SECONDS * (self.number + 1):06d}"


def pieces_of_long_files(folder: Path) -> Iterator[Piece]:
    """Yields whole pieces, without the rest at the end of a file."""
    for name in LONG_FILES:
        path = folder / name
        with ClipReader(path) as reader:
            count = int(reader.video_seconds() // PIECE_SECONDS)
        yield from (Piece(path, path.stem, PIECE_SECONDS * number, number) for number in range(count))


def fight_clips(folder: Path) -> tuple[list[Piece], dict[Path, str]]:
    """Returns the clips whose video has sound somewhere, and the others with their videos."""
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with_sound = {row["youtube_id"] for row in rows if float(row["audio_rms"] or 0) > 0}
    numbers: dict[str, int] = defaultdict(int)
    heard, unheard = [], {}
    for row in rows:
        path, video = folder / row["clip"], row["youtube_id"]
        if video in with_sound:
            heard.append(Piece(path, video, 0.0, numbers[video]))
            numbers[video] += 1
        else:
            unheard[path] = video
    return heard, unheard


def write_piece(piece: Piece, path: Path) -> None:
    """Writes a piece as a clip, unless it is there."""
    if path.exists():
        return
    with ClipReader(piece.path) as reader:
        frames = reader.read_frames(piece.start_seconds, round(PIECE_SECONDS * FRAME_RATE), FRAME_RATE)
        audio = None
        if reader.has_audio:
            audio = reader.read_audio(piece.start_seconds, PIECE_SECONDS, SAMPLE_RATE)
    height, width = (size // 2 * 2 for size in frames.shape[1:3])
    kept = (frame[:height, :width] for frame in frames)
    encode_clip(path, kept, frame_rate=FRAME_RATE, audio=audio, sample_rate=SAMPLE_RATE, crf=18)


def write_annotations(path: Path, pieces: list[Piece], split: str) -> None:
    """Writes clips in the spelling of the official files."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("label", "youtube_id", "time_start", "time_end", "split"))
        for piece in pieces:
            youtube_id, start, end = piece.clip_id.rsplit("_", 2)
            rows.writerow(("real", youtube_id, int(start), int(end), split))


def main() -> None:
    """Writes everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    asked = parser.parse_args()
    heard, unheard = fight_clips(asked.data / "videos-labelled" / "fight-surv")
    pieces = [*pieces_of_long_files(asked.data / "videos-samples"), *heard]
    (asked.out / "clips").mkdir(parents=True, exist_ok=True)
    for piece in pieces:
        write_piece(piece, asked.out / "clips" / f"{piece.clip_id}.mp4")
    held_out = set(sorted({piece.video for piece in pieces})[::HELD_OUT_EVERY])
    for split in ("train", "val"):
        chosen = [piece for piece in pieces if (piece.video in held_out) == (split == "val")]
        write_annotations(asked.out / f"{split}.csv", chosen, split)
        print(f"{split}: {len(chosen)} clips of {len({piece.video for piece in chosen})} videos")
    with (asked.out / "groups.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("clip", "youtube_id"))
        for path, video in unheard.items():
            link = asked.out / "labelled" / path.parent.name / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(path.resolve())
            rows.writerow((f"{path.parent.name}/{path.name}", video))
    print(f"labelled: {len(unheard)} clips of {len(set(unheard.values()))} videos")


if __name__ == "__main__":
    main()
