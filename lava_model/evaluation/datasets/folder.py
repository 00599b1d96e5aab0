"""Any folder of labelled clips, ``DIR/<label>/**/*.mp4``, and which source video each clip was cut from.

Two clips of one video look alike, so a split that puts them on both sides measures memory, not recognition. Every clip
therefore carries a group, its source video, and every split keeps groups whole.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from k700_text.media.files import LINKS_NOWHERE, NO_TEXT, UNREADABLE, is_text, some_names, walk_clip_files
from k700_text.media.names import VIDEO_EXTENSIONS, suffix_of, without_copy_mark, youtube_id_of
from lava_model.errors import DataError

CLIP_COLUMNS = ("clip", "clip_file", "file", "path")
GROUP_COLUMNS = ("group", "youtube_id", "video", "video_id")

# UCF-101 and UCF-50 write v_Biking_g01_c02, UCF-11 v_biking_01_02.
_UCF_STEM = re.compile(r"v_(?P<class>[A-Za-z]+|[a-z_]+(?=_\d\d_))_(?:g(?P<group>\d+)_c\d+|(?P<number>\d\d)_\d\d)")
_HMDB_TAIL = re.compile(r"_[a-z]_(?:nm|cm)_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledClip:
    """One clip file.

    Attributes:
        path: the file.
        name: path below the data folder, with ``/``.
        label: name of the first folder below the data folder.
        group: source video; clips that share it never fall on both sides of a split.
    """

    path: Path
    name: str
    label: str
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFolder:
    """The clips of a folder, sorted by name.

    Attributes:
        clips: at least two classes, each of at least two groups.
        grouping: how many groups came from where (``table``, ``kinetics``, ``ucf``, ``hmdb``, ``file``), in clips.
        notes: what the person should know before trusting the numbers, one line each.
    """

    clips: tuple[LabelledClip, ...]
    grouping: Mapping[str, int]
    notes: tuple[str, ...] = ()


def list_folder(folder: Path, groups_file: Path | None = None) -> LabelledFolder:
    """Lists the clips below ``folder/<label>/`` with their labels and source videos.

    Args:
        folder: one sub-folder per class; files beside them and hidden folders are not read.
        groups_file: CSV with one column of CLIP_COLUMNS and one of GROUP_COLUMNS; without it file names tell.

    Raises:
        DataError: no folder, no clips, fewer than two classes, a class cut from a single video, or a table that
            does not cover every clip.
    """
    if not folder.is_dir():
        raise DataError(f"no folder at {folder}: give a folder with one sub-folder of clips per class")
    files, notes = _clip_files(folder)
    table = None if groups_file is None else _read_groups(groups_file)
    clips, origins = [], Counter[str]()
    for label, path in files:
        name = path.relative_to(folder).as_posix()
        origin, group = group_of_name(path.stem, label) if table is None else ("table", table.find(name))
        origins[origin] += 1
        clips.append(LabelledClip(path=path, name=name, label=label, group=group))
    require_split(clips, str(folder))
    if origins["file"]:
        notes.append(
            f"{origins['file']} of {len(clips)} clips are grouped by file, because their names tell no source video: "
            "clips of one video may fall on both sides of a split (--groups FILE.csv tells the videos)"
        )
    return LabelledFolder(clips=tuple(clips), grouping=dict(origins), notes=tuple(notes))


def group_of_name(stem: str, label: str) -> tuple[str, str]:
    """Returns (kind of name, source video) for a file name without its suffix.

    ``kinetics``: the youtube_id, in every spelling of a clip that the loader knows. ``ucf``: class and gXX. ``hmdb``:
    what stands before the class, the same film in all classes. ``file``: the stem itself, where the name follows none
    of these. Copies (``x (1)``) are of the source that the file is a copy of.
    """
    stem = without_copy_mark(stem)
    if (youtube_id := youtube_id_of(stem)) is not None:
        return "kinetics", youtube_id
    if match := _UCF_STEM.fullmatch(stem):
        return "ucf", f"{match['class'].lower()}_g{match['group'] or match['number']}"
    if (tail := _HMDB_TAIL.search(stem)) and tail.end() == len(stem):
        # HMDB-51 spells the class in the name as it spells the folder; elsewhere the class stays part of the source.
        return "hmdb", stem[: tail.start()].removesuffix(f"_{label.replace(' ', '_')}")
    return "file", stem


def require_split(clips: Sequence[LabelledClip], where: str) -> None:
    """Raises DataError unless there are two classes, each with clips of at least two source videos."""
    groups_of_label: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        groups_of_label[clip.label].add(clip.group)
    if not clips:
        raise DataError(f"no clips in {where}: expected <label>/*.mp4 (or {', '.join(sorted(VIDEO_EXTENSIONS))})")
    if len(groups_of_label) < 2:
        raise DataError(f"{where} holds the single class {next(iter(groups_of_label))!r}: a probe needs two or more")
    lonely = sorted(label for label, groups in groups_of_label.items() if len(groups) < 2)
    if lonely:
        raise DataError(
            f"{len(lonely)} of {len(groups_of_label)} classes in {where} come from a single source video "
            f"({', '.join(map(repr, lonely[:3]))}): a split by video needs at least two per class"
        )


def _clip_files(folder: Path) -> tuple[list[tuple[str, Path]], list[str]]:
    files: list[tuple[str, Path]] = []
    notes: list[str] = []
    halves: list[str] = []
    others: Counter[str] = Counter()
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    beside = [path.name for path in entries if path.is_file() and suffix_of(path.name) in VIDEO_EXTENSIONS]
    left_out = defaultdict[str, list[str]](list)
    left_out[LINKS_NOWHERE] = [path.name for path in entries if path.is_symlink() and not path.exists()]
    class_folders = [path for path in entries if path.is_dir()]
    # Labels and groups go into tables.
    left_out[NO_TEXT] = [path.name for path in class_folders if not is_text(path.name)]
    for class_folder in (path for path in class_folders if is_text(path.name)):
        try:
            found = walk_clip_files(class_folder, takes_links=True).as_texts()
        except OSError:
            left_out[UNREADABLE].append(class_folder.name)
            continue
        files += sorted((class_folder.name, class_folder / name) for name in found.clip_files)
        halves += [f"{class_folder.name}/{name}" for name in found.half_downloads]
        others.update(found.other_suffixes)
        for reason, names in found.left_out.items():
            left_out[reason] += [f"{class_folder.name}/{name}" for name in names]
        if not found.clip_files:
            notes.append(f"folder {class_folder.name!r} holds no clips and is not a class")
    if halves:
        notes.append(f"{len(halves)} files are left out, which are half downloads and no clips: {some_names(halves)}")
    if beside:
        notes.append(f"{len(beside)} clips are left out, which lie in no class folder: {some_names(beside)}")
    notes += [f"left out: {len(names)} {reason}: {some_names(names)}" for reason, names in left_out.items() if names]
    if others:
        kinds = [f"{suffix or 'no suffix'} ({count})" for suffix, count in sorted(others.items())]
        notes.append(f"{others.total()} files are left out, whose suffix is none of a video: {some_names(kinds)}")
    return files, notes


@dataclass(frozen=True, slots=True)
class _GroupTable:
    """Groups by path and, where a path is spelled from another root, by file name (None: the name is not unique)."""

    source: Path
    by_path: Mapping[str, str]
    by_file: Mapping[str, str | None]

    def find(self, name: str) -> str:
        group = self.by_path.get(name) or self.by_file.get(PurePosixPath(name).name)
        if group is None:
            raise DataError(f"{self.source} names no group for clip {name}: add a row for it")
        return group


def _read_groups(groups_file: Path) -> _GroupTable:
    try:
        # utf-8-sig: spreadsheets put a byte-order mark before the first column's name.
        with groups_file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            clip_column = _column(rows.fieldnames or (), CLIP_COLUMNS, groups_file)
            group_column = _column(rows.fieldnames or (), GROUP_COLUMNS, groups_file)
            pairs = [(row[clip_column] or "", (row[group_column] or "").strip()) for row in rows]
    except OSError as error:
        raise DataError(f"cannot read {groups_file}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{groups_file} is not a CSV table in UTF-8: {error}") from error
    by_path: dict[str, str] = {}
    by_file: dict[str, str | None] = {}
    for clip, group in pairs:
        path = PurePosixPath(clip.strip().replace("\\", "/"))
        if not group:
            raise DataError(f"{groups_file} has no {group_column} for clip {clip!r}: fill it in")
        if by_path.setdefault(str(path), group) != group:
            raise DataError(f"{groups_file} names two groups for clip {clip!r}: keep one")
        by_file[path.name] = group if by_file.get(path.name, group) == group else None
    return _GroupTable(groups_file, by_path, by_file)


def _column(present: Iterable[str], wanted: Sequence[str], source: Path) -> str:
    names = list(present)
    for name in wanted:
        if name in names:
            return name
    raise DataError(f"{source} has none of the columns {', '.join(wanted)} (its columns: {', '.join(names) or 'none'})")
