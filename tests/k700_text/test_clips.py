"""Sources of clips on real files: with and without packet tables, prepared, and what happens when files change."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from k700_text.config import AudioConfig
from k700_text.data.clips import ClipSource, FolderClips, clip_source
from k700_text.data.store import PlainRead
from k700_text.errors import ConfigError, DecodeError, ManifestError, StorageError, UsageError
from k700_text.media.clip import Cut, FrameArray
from k700_text.media.decode import packets_of
from k700_text.media.packet_index import PacketIndex, PacketRow, write_packet_index
from k700_text.media.prepare import PrepareRun, run_plan
from k700_text.media.shards import PreparedSettings
from tests.k700_text.media_files import clip_id_of, frame_number, make_clip

CUT = Cut(size=32, share=0.8)
NAMES = [f"{clip_id_of(number)}.mp4" for number in range(3)]


def row_of(root: Path, name: str, tables_of: str | None = None) -> PacketRow:
    """Returns the index row of a file; with the tables of another one, if that is named."""
    status = (root / name).stat()
    packets = packets_of(root / (tables_of or name))
    return PacketRow(clip_file=name, file_bytes=status.st_size, mtime_ns=status.st_mtime_ns, packets=packets)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    make_clip(root / NAMES[0], 2.2)
    make_clip(root / NAMES[1], 1.6, audio=None, width=48, height=64)
    make_clip(root / NAMES[2], 2.0, rate=20.0)
    return root


@pytest.fixture
def clips(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals, tmp_path / "clips"))


@pytest.fixture
def index(clips: Path, tmp_path: Path) -> Path:
    write_packet_index(tmp_path / "clips.packets", [row_of(clips, name) for name in NAMES])
    return tmp_path / "clips.packets"


class Notes(Counter[PlainRead]):
    """Counts what it is called with."""

    def __call__(self, why: PlainRead) -> None:
        self[why] += 1


def frames_of(source: ClipSource, place: str | int, notes: Notes) -> FrameArray:
    clip = source.open(place, notes)
    try:
        return clip.read_cut(0.3, 8, 10.0, CUT)
    finally:
        clip.close()


def test_packet_tables_give_what_the_files_give(clips: Path, index: Path) -> None:
    plain, indexed, notes = FolderClips(clips), FolderClips(clips, PacketIndex(index)), Notes()
    for name in NAMES:
        one, other = plain.open(name, notes), indexed.open(name, notes)
        assert (one.has_video, one.has_audio, one.video_seconds()) == (
            other.has_video,
            other.has_audio,
            other.video_seconds(),
        )
        assert other.frame_grid_seconds is None and other.name == one.name
        assert np.array_equal(one.read_cut(0.2, 9, 10.0, CUT), other.read_cut(0.2, 9, 10.0, CUT))
        if one.has_audio:
            for start in (None, 0.1):
                (mel, level), (other_mel, other_level) = (
                    clip.read_log_mel(start, AudioConfig()) for clip in (one, other)
                )
                assert np.abs(mel - other_mel).mean() < 0.01 and level == pytest.approx(other_level, rel=1e-3)
        for clip in (one, other):
            clip.close()
            clip.close()
    assert not notes


def test_what_has_no_table_that_fits_is_read_plainly_and_counted(clips: Path, tmp_path: Path) -> None:
    plain = [frames_of(FolderClips(clips), name, Notes()) for name in NAMES]
    stale, refused = row_of(clips, NAMES[0]), row_of(clips, NAMES[1])
    os.utime(clips / NAMES[0])
    path = tmp_path / "clips.packets"
    write_packet_index(
        path,
        [
            stale,
            PacketRow(
                **{
                    **{name: getattr(refused, name) for name in ("clip_file", "file_bytes", "mtime_ns")},
                    "packets": "vp9, not h264",
                }
            ),
        ],
    )
    notes, indexed = Notes(), FolderClips(clips, PacketIndex(path))
    for name, expected in zip(NAMES, plain, strict=True):
        assert np.array_equal(frames_of(indexed, name, notes), expected)
    assert notes == {PlainRead.CHANGED: 1, PlainRead.NO_TABLE: 1, PlainRead.NOT_INDEXED: 1}


def test_the_tables_of_another_file_are_found_out(clips: Path, tmp_path: Path) -> None:
    # Size and date are those of the file, only the tables are not.
    path = tmp_path / "clips.packets"
    write_packet_index(path, [row_of(clips, NAMES[0], tables_of=NAMES[2])])
    notes, indexed = Notes(), FolderClips(clips, PacketIndex(path))
    clip = indexed.open(NAMES[0], notes)
    frames = clip.read_cut(0.3, 8, 10.0, CUT)
    assert [frame_number(frame) for frame in frames] == [int((0.3 + k / 10) * 25 + 1e-6) for k in range(8)]
    mel, level = clip.read_log_mel(0.1, AudioConfig())
    clip.close()
    expected = FolderClips(clips).open(NAMES[0], notes)
    expected_mel, expected_level = expected.read_log_mel(0.1, AudioConfig())
    expected.close()
    assert np.abs(mel - expected_mel).mean() < 0.01 and level == pytest.approx(expected_level, rel=1e-3)
    assert notes == {PlainRead.MISFIT: 1}


def test_a_file_that_went_bad_is_a_failure_with_and_without_tables(clips: Path, index: Path) -> None:
    path = clips / NAMES[0]
    status, content = path.stat(), bytearray(path.read_bytes())
    # Of the same size and date, so that the tables are believed: only the data is gone.
    content[200:] = bytes(len(content) - 200)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    notes = Notes()
    for packets in (None, PacketIndex(index)):
        with pytest.raises(DecodeError, match=NAMES[0]):
            frames_of(FolderClips(clips, packets), NAMES[0], notes)
    assert notes == {PlainRead.MISFIT: 1}
    (clips / NAMES[1]).unlink()
    with pytest.raises(DecodeError, match=f"{NAMES[1]}: no such file"):
        frames_of(FolderClips(clips, PacketIndex(index)), NAMES[1], notes)
    (clips / NAMES[2]).write_bytes((clips / NAMES[2]).read_bytes()[:3000])
    with pytest.raises(DecodeError, match=NAMES[2]):
        frames_of(FolderClips(clips, PacketIndex(index)), NAMES[2], notes)
    assert notes == {PlainRead.MISFIT: 1, PlainRead.CHANGED: 2}


def test_a_damaged_table_is_no_failure_of_the_clip(clips: Path, index: Path) -> None:
    expected = frames_of(FolderClips(clips), NAMES[0], Notes())
    table = PacketIndex(index).packets(0)
    assert table is not None
    content, blob = index.read_bytes(), table.to_bytes()
    assert content.count(blob) == 1
    index.write_bytes(content.replace(blob, bytes(len(blob))))
    notes = Notes()
    assert np.array_equal(frames_of(FolderClips(clips, PacketIndex(index)), NAMES[0], notes), expected)
    assert notes == {PlainRead.MISFIT: 1}


def test_a_pipe_in_the_place_of_a_clip_is_not_waited_for(clips: Path, index: Path) -> None:
    (clips / NAMES[0]).unlink()
    os.mkfifo(clips / NAMES[0])
    with pytest.raises(DecodeError, match="not a regular file"):
        frames_of(FolderClips(clips, PacketIndex(index)), NAMES[0], Notes())


def test_no_file_stays_open(clips: Path, index: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.packets"
    write_packet_index(wrong, [row_of(clips, name, tables_of=NAMES[2]) for name in NAMES])
    before = len(list(Path("/dev/fd").iterdir()))
    for path in (index, wrong):
        source = FolderClips(clips, PacketIndex(path))
        for _ in range(3):
            for name in NAMES:
                frames_of(source, name, Notes())
        del source
    assert len(list(Path("/dev/fd").iterdir())) == before


@pytest.fixture(scope="module")
def shards(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    run_plan(PrepareRun(root=originals, out=out, settings=PreparedSettings(short_side=48), workers=1, num_samples=0))
    return out


def _read(source: ClipSource, place: str | int, results: Any) -> None:
    results.put(frames_of(source, place, Notes()))


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("files", "fork"),
        ("tables", "fork"),
        ("shards", "fork"),
        ("remote", "fork"),
        ("tables", "spawn"),
        ("remote", "spawn"),
    ],
)
def test_another_process_reads_the_same(
    clips: Path, index: Path, shards: Path, kind: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(clips.parent / "home"))
    named: dict[str, tuple[Any, Path | None]] = {
        "files": (clips, None),
        "tables": (clips, index),
        "shards": (shards, None),
        "remote": (f"local://{shards}", None),
    }
    source = clip_source(*named[kind], AudioConfig())
    place = source.locate(pa.chunked_array([[clip_id_of(0)]]))[0].as_py()
    # Used before, so that a forked process gets what is open.
    expected = frames_of(source, place, Notes())
    context = multiprocessing.get_context(method)
    results = context.Queue()
    processes = [context.Process(target=_read, args=(source, place, results)) for _ in range(2)]
    for process in processes:
        process.start()
    assert all(np.array_equal(results.get(timeout=60), expected) for _ in processes)
    for process in processes:
        process.join()
    assert np.array_equal(frames_of(source, place, Notes()), expected)
    assert len(pickle.dumps(source)) < 1000


def test_shards_find_their_clips_and_say_what_changes(shards: Path) -> None:
    source = clip_source(shards, None, AudioConfig())
    ids = pa.chunked_array([[clip_id_of(2), clip_id_of(9)], [clip_id_of(0)]])
    places = source.locate(ids).to_pylist()
    assert places[1] is None and sorted(place for place in places if place is not None) == [0, 2]
    assert list(source.stamps()) == [str(shards / "index.arrow")]
    clip = source.open(places[2], Notes())
    assert clip.frame_grid_seconds == pytest.approx(0.1) and clip.has_audio


def test_arguments_that_do_not_go_together(clips: Path, index: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rename that file"):
        clip_source({clip_id_of(0): "\udcff.mp4"}, None, AudioConfig()).locate(pa.chunked_array([[clip_id_of(0)]]))
    with pytest.raises(UsageError, match="mapping"):
        clip_source({}, index, AudioConfig())
    with pytest.raises(UsageError, match="leave out packets"):
        clip_source(shards, index, AudioConfig())
    with pytest.raises(ConfigError, match="prepared with audio num_mels 80, asked for is 64"):
        clip_source(shards, None, AudioConfig(num_mels=64))
    with pytest.raises(ManifestError, match="no such packet index"):
        clip_source(clips, tmp_path / "absent", AudioConfig())
    with pytest.raises(StorageError, match="no prepared shards there"):
        clip_source(f"file://{clips}", None, AudioConfig())
