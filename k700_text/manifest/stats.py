"""Counts over manifest files: coverage, availability, audio; columns stay in Arrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from k700_text.manifest_files import read_manifests

NUM_EXTREMES = 5
_COLUMNS = (
    *("youtube_id", "split", "label", "title", "title_source", "availability", "video_status"),
    *("audio_status", "has_video", "has_audio", "has_text"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCoverage:
    """How many clips of one label have a title."""

    label: str
    num_clips: int
    num_titles: int

    @property
    def share(self) -> float:
        """Share of clips with a title, 0..1."""
        return self.num_titles / self.num_clips


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestStats:
    """What manifest files hold.

    Attributes:
        num_clips: rows.
        num_videos: distinct videos.
        num_labels: distinct labels.
        clips_by_split: rows by split.
        titles_by_split: rows with a title by split.
        titles_by_source: rows with a title by the source of the title.
        num_distinct_titles: distinct titles.
        availability: rows by state of the video.
        video_status: rows by worth of the video stream; ``not_probed`` for null.
        audio_status: rows by worth of the audio stream; ``not_probed`` for null.
        num_complete: rows that carry video, audio and text.
        lowest_coverage: labels with the smallest share of titles.
        highest_coverage: labels with the largest share of titles.
    """

    num_clips: int
    num_videos: int
    num_labels: int
    clips_by_split: Mapping[str, int]
    titles_by_split: Mapping[str, int]
    titles_by_source: Mapping[str, int]
    num_distinct_titles: int
    availability: Mapping[str, int]
    video_status: Mapping[str, int]
    audio_status: Mapping[str, int]
    num_complete: int
    lowest_coverage: tuple[LabelCoverage, ...]
    highest_coverage: tuple[LabelCoverage, ...]

    @property
    def num_titles(self) -> int:
        """Rows with a title."""
        return sum(self.titles_by_split.values())

    def rows(self) -> list[tuple[str, str]]:
        """Returns the counts as table rows."""
        rows = [
            ("clips", str(self.num_clips)),
            ("videos", str(self.num_videos)),
            ("labels", str(self.num_labels)),
            ("titles", _share(self.num_titles, self.num_clips)),
            ("distinct titles", str(self.num_distinct_titles)),
            ("video, audio and text", _share(self.num_complete, self.num_clips)),
        ]
        for split, count in self.clips_by_split.items():
            rows.append((f"{split}: titles", _share(self.titles_by_split.get(split, 0), count)))
        for name in ("titles_by_source", "availability", "video_status", "audio_status"):
            counts: Mapping[str, int] = getattr(self, name)
            heading = name.replace("titles_by_source", "titles from").replace("_status", "").replace("_", " ")
            rows += [(f"{heading} {value}", _share(count, self.num_clips)) for value, count in counts.items()]
        for heading, labels in (("fewest titles", self.lowest_coverage), ("most titles", self.highest_coverage)):
            rows += [(f"{heading}: {each.label}", _share(each.num_titles, each.num_clips)) for each in labels]
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Returns the counts as plain values."""
        return {"num_titles": self.num_titles, **asdict(self)}


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.1%})" if whole else str(part)


def manifest_stats(paths: Sequence[str | Path]) -> ManifestStats:
    """Returns what manifest files, and folders of them, hold together.

    Raises:
        ManifestError: a file is missing or not Parquet, or a folder holds none.
        SchemaMismatchError: a file has not the columns.
    """
    table = read_manifests(paths, _COLUMNS)
    with_title = table.filter(table["has_text"])
    complete = pc.and_(pc.and_(table["has_video"], table["has_audio"]), table["has_text"])
    labels = _label_coverage(table)
    return ManifestStats(
        num_clips=len(table),
        num_videos=pc.count_distinct(table["youtube_id"]).as_py(),
        num_labels=len(labels),
        clips_by_split=_counts(table["split"]),
        titles_by_split=_counts(with_title["split"]),
        titles_by_source=_counts(with_title["title_source"]),
        num_distinct_titles=pc.count_distinct(with_title["title"]).as_py(),
        availability=_counts(table["availability"]),
        video_status=_counts(table["video_status"]),
        audio_status=_counts(table["audio_status"]),
        num_complete=pc.sum(pc.fill_null(complete, False)).as_py() or 0,
        lowest_coverage=tuple(labels[:NUM_EXTREMES]),
        highest_coverage=tuple(reversed(labels[NUM_EXTREMES:][-NUM_EXTREMES:])),
    )


def _counts(values: pa.ChunkedArray) -> dict[str, int]:
    """Returns how often each value occurs, most frequent first; null counts as ``not_probed``."""
    pairs = pc.value_counts(pc.fill_null(values, "not_probed")).to_pylist()
    return {
        pair["values"]: pair["counts"] for pair in sorted(pairs, key=lambda pair: (-pair["counts"], pair["values"]))
    }


def _label_coverage(table: pa.Table) -> list[LabelCoverage]:
    """Returns the coverage of every label, the lowest first."""
    labelled = table.filter(pc.is_valid(table["label"])).select(["label", "has_text"])
    labelled = labelled.set_column(1, "has_text", labelled["has_text"].cast(pa.int64()))
    grouped = labelled.group_by("label").aggregate([("has_text", "sum"), ("has_text", "count")])
    coverage = [
        LabelCoverage(label=row["label"], num_clips=row["has_text_count"], num_titles=row["has_text_sum"])
        for row in grouped.to_pylist()
    ]
    return sorted(coverage, key=lambda each: (each.share, each.label))
