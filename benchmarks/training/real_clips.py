"""Lays out the real clips of ``../shared/data`` for a study: ``python benchmarks/training/real_clips.py OUT``.

Seven longer files with sound, and the clips of ``fight-surv`` whose video has sound, are cut into pieces: pairs of
frames and sound, of which nobody knows the titles. Held out is either one video in three (``--hold-out video``, pieces
of two seconds): does what was learned carry over? Or every other second of each video (``--hold-out time``): is it
about the video at all? The clips of ``fight-surv`` whose videos have no sound are the labelled ones of a probe: none of
their videos is trained on.

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

FRAME_RATE, SAMPLE_RATE = 25.0, 44_100
PIECE_SECONDS = {"video": 2, "time": 1}
VIDEOS_FOR_ONE_HELD_OUT = 3
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
        seconds: how long it is.
        number: how many of the video come before it.
    """

    path: Path
    video: str
    start_seconds: int
    seconds: int
    number: int

    @property
    def clip_id(self) -> str:
        """Named as a clip of Kinetics, with the video's name as eleven characters."""
        name = self.video if len(self.video) == 11 else hashlib.sha256(self.video.encode()).hexdigest()[:11]
        return f"{name}_{self.seconds * self.number:06d}_{self.seconds * (self.number + 1):06d}"


def pieces_of(files: dict[Path, str], seconds: int) -> Iterator[Piece]:
    """Yields whole pieces of files, given with their videos; a file that is shorter is one piece."""
    numbers: dict[str, int] = defaultdict(int)
    for path, video in files.items():
        with ClipReader(path) as reader:
            count = max(1, int(reader.video_seconds() // seconds))
        for place in range(count):
            yield Piece(path, video, place * seconds, seconds, numbers[video])
            numbers[video] += 1


def fight_clips(folder: Path) -> tuple[dict[Path, str], dict[Path, str]]:
    """Returns the clips whose video has sound somewhere, and the others, with their videos."""
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with_sound = {row["youtube_id"] for row in rows if float(row["audio_rms"] or 0) > 0}
    videos = {folder / row["clip"]: row["youtube_id"] for row in rows}
    heard = {path: video for path, video in videos.items() if video in with_sound}
    return heard, {path: video for path, video in videos.items() if video not in with_sound}


def write_piece(piece: Piece, path: Path) -> None:
    """Writes a piece as a clip, unless it is there."""
    if path.exists():
        return
    with ClipReader(piece.path) as reader:
        frames = reader.read_frames(piece.start_seconds, round(piece.seconds * FRAME_RATE), FRAME_RATE)
        audio = None
        if reader.has_audio:
            audio = reader.read_audio(piece.start_seconds, piece.seconds, SAMPLE_RATE)
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


def is_held_out(piece: Piece, pieces: list[Piece], by: str) -> bool:
    """Whether a piece is not trained on."""
    if by == "time":
        return piece.number % 2 == 1
    return piece.video in sorted({other.video for other in pieces})[::VIDEOS_FOR_ONE_HELD_OUT]


def main() -> None:
    """Writes everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--hold-out", choices=PIECE_SECONDS, default="video")
    asked = parser.parse_args()
    heard, unheard = fight_clips(asked.data / "videos-labelled" / "fight-surv")
    files = {asked.data / "videos-samples" / name: Path(name).stem for name in LONG_FILES} | heard
    pieces = list(pieces_of(files, PIECE_SECONDS[asked.hold_out]))
    (asked.out / "clips").mkdir(parents=True, exist_ok=True)
    for piece in pieces:
        write_piece(piece, asked.out / "clips" / f"{piece.clip_id}.mp4")
    for split in ("train", "val"):
        chosen = [piece for piece in pieces if is_held_out(piece, pieces, asked.hold_out) == (split == "val")]
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
