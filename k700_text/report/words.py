"""What a sheet says beside its pictures, the same in HTML and in a picture."""

from __future__ import annotations

from typing import Any

from k700_text.report.sheet import ShownClip

_FLAGS = {"text": "has_text", "audio": "has_audio", "video": "has_video"}
_STATES = {True: "yes", False: "no", None: "not probed"}


def flags_of(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns name and value (yes, no, not probed) of the training flags of a row."""
    return [(name, _STATES[row[column]]) for name, column in _FLAGS.items()]


def facts_of(clip: ShownClip) -> list[str]:
    """Returns what else is known: the span, the state on the web, the streams, the loudness."""
    row = clip.row
    facts = [row["clip_id"], row["split"]]
    if row["start_seconds"] is not None and row["end_seconds"] is not None:
        facts.append(f"{row['start_seconds']:g} to {row['end_seconds']:g} s")
    facts.append(f"on the web: {row['availability']}")
    if row["title_source"] is not None:
        facts.append(f"title from {row['title_source']}")
    if row["video_status"] is not None:
        facts.append(f"probed: video {row['video_status']}, audio {row['audio_status']}")
    if clip.log_mel is not None:
        facts.append("loudness: silence" if clip.level_dbfs is None else f"loudness: {clip.level_dbfs:.1f} dBFS")
    return [str(fact) for fact in facts]
