"""What names of files say: which are clips, which are half downloads, and which clip or video each of them is.

Everything that looks into a folder of clips goes by this: the loader, ``probe``, ``prepare``, and linear probes.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

VIDEO_EXTENSIONS = frozenset(
    {".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg"}
    | {".mpg", ".mts", ".ogm", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv"}
)
"""Suffixes of files that are taken for clips, in any case."""

CONTROL_EXTENSIONS = (".aria2", ".ytdl")
"""Suffixes that a downloader adds to the name of a file for one of its own, which goes when that file is whole."""

# Who leaves them: .part .ytdl .temp and -Frag yt-dlp and youtube-dl, .part Firefox, .crdownload Chrome, .opdownload
# Opera, .download Safari (a folder), .partial Edge and rclone, .filepart WinSCP, .!ut .!qb .bc! those of torrents.
_UNFINISHED = frozenset(
    {".part", ".temp", ".tmp", ".download", ".partial", ".filepart", ".dtapart", ".!ut", ".!qb", ".bc!"}
)
_BROWSERS = frozenset({".crdownload", ".opdownload"})
_SOUND_EXTENSIONS = frozenset({".aac", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".weba"})
_MEDIA_EXTENSIONS = VIDEO_EXTENSIONS | _SOUND_EXTENSIONS
_FRAGMENT = re.compile(r"-frag\d+(\.part)?$")
# One stream of several that were to be merged, by the id of its format: .f137.mp4, .f140-drc.m4a, .fhls-1080.mp4. Other
# letters behind the f are words (.final.mp4); for names of clips, whose authors add none, a few more ids are known.
_FORMAT = re.compile(
    r"f(\d{2,}p?([+=_-][\w+=-]*)?|(hls|dash|https?|m3u8|mpd|ism|mss|rtmp|rtsp)(?![a-z])[\w+=-]*)", re.ASCII
)
_CLIP_FORMAT = re.compile(r"f(\d|[shlmf]d|[hlms]q|low|medium|high|audio|video|source)([+=_-][\w+=-]*)?", re.ASCII)
_CLIP = re.compile(r"[A-Za-z0-9_-]{11}_\d+_\d+")

# A name without its folders and its last suffix: a video id, or with times behind it a clip, or that with more behind
# it. The id has 11 characters whatever they are, so that times are found where they are though ids hold _ and digits.
# One expression for the whole path would take twice as long.
_FOLDERS, _SUFFIX = r"(?s)^.*/", r"\.[^.]*$"
_STEM = r"(?s)^(?P<video>[A-Za-z0-9_-]{11})(?:_(?P<start>[0-9]+)_(?P<end>[0-9]+)(?P<rest>[_.\- (\[].*)?)?$"
_PYTHON_STEM = re.compile(_STEM)
_TIME_DIGITS = 6
_BATCH_FILES = 1 << 16
# What systems add to the name of a copy: "x (1)", "x - Copy (2)", "x copy 3".
_COPY = re.compile(r"( ?\(\d{1,3}\)| - copy( \(\d+\))?| copy( \d+)?)$", re.IGNORECASE)


def suffix_of(name: str) -> str:
    """Returns the suffix of a file name in lower case, with its dot; empty without one."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def is_half_download(name: str) -> bool:
    """Returns whether the name of a file says that it is not whole, or one stream of several that were to be merged."""
    suffix = suffix_of(name)
    stem = name[: len(name) - len(suffix)].lower()
    if suffix in _BROWSERS or suffix in CONTROL_EXTENSIONS:
        return True
    if suffix in _UNFINISHED or _FRAGMENT.search(name.lower()):
        whole = _FRAGMENT.sub("", name.lower())
        return any(f".{part}" in _MEDIA_EXTENSIONS for part in whole.split(".")[1:])
    dot = stem.rfind(".")
    if suffix not in _MEDIA_EXTENSIONS or dot <= 0:
        return False
    mark = stem[dot + 1 :]
    if f".{mark}" in _UNFINISHED or _FORMAT.fullmatch(mark):
        return True
    return _CLIP.fullmatch(name[:dot]) is not None and _CLIP_FORMAT.fullmatch(mark) is not None


def is_half_download_folder(name: str) -> bool:
    """Returns whether a folder holds nothing but a half download, as Safari makes them."""
    return name.lower().endswith(".download")


def parse_names(clip_files: pa.Array) -> pa.Table:
    """Returns what paths (large_string) say about clips, one row each.

    Returns:
        Columns clip_file; clip_id, as the manifest spells it, null if the name holds no times; youtube_id, null if the
        name does not begin with one; rank (int8), how plain the name is: 0 is the clip id itself.
    """
    batches = [_parsed(clip_files[start : start + _BATCH_FILES]) for start in range(0, len(clip_files), _BATCH_FILES)]
    return pa.concat_tables(batches) if batches else _parsed(clip_files)


def youtube_id_of(stem: str) -> str | None:
    """Returns the video that a name without its suffix tells as ``parse_names`` reads it, None if it tells none.

    Of names without times, 11 characters that may be words (``clip_000001``, ``my_holidays``) are no id here.
    """
    match = _PYTHON_STEM.match(stem)
    if match is None:
        return None
    video: str = match["video"]
    is_mixed = video.lower() != video and video.upper() != video
    is_word = re.fullmatch(r"[A-Za-z]+[_-]?\d*", video) is not None
    return video if match["start"] is not None or (is_mixed and not is_word) else None


def without_copy_mark(stem: str) -> str:
    """Returns a name without its suffix as it was before a system or a browser made it that of a copy."""
    return _COPY.sub("", stem) or stem


def _parsed(clip_files: pa.Array) -> pa.Table:
    names = pc.replace_substring_regex(clip_files, _FOLDERS, "")
    parts = pc.extract_regex(pc.replace_substring_regex(names, _SUFFIX, ""), _STEM)
    video, start, end, rest = (pc.struct_field(parts, name) for name in ("video", "start", "end", "rest"))
    is_clip = pc.fill_null(pc.not_equal(start, ""), False)
    starts, ends = _padded(start), _padded(end)
    clip_ids = pc.binary_join_element_wise(video, starts, ends, pa.scalar("_", video.type))
    is_spelled = pc.and_(pc.equal(starts, start), pc.equal(ends, end))
    rank = pc.add(pc.multiply(pc.cast(pc.not_equal(rest, ""), pa.int8()), 2), pc.cast(pc.invert(is_spelled), pa.int8()))
    return pa.table(
        {
            "clip_file": clip_files,
            "clip_id": pc.if_else(is_clip, clip_ids, None),
            "youtube_id": video,
            "rank": pc.fill_null(rank, 0),
        }
    )


def _padded(times: pa.Array) -> pa.Array:
    return pc.ascii_lpad(pc.ascii_ltrim(times, characters="0"), _TIME_DIGITS, "0")
