from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest

from k700_text.data.store import PlainRead, Row, RowFile, RunNotes, write_rows
from k700_text.errors import ManifestError

ROWS = [
    Row("one_000000_000010", "riding (a bike)", "Café", True, None, "a/one.mp4"),
    Row("two_000000_000010", None, "", None, False, None),
    Row("three_000000_000010", "", None, False, True, "ü.mp4"),
]


def written(path: Path, rows: list[Row]) -> Path:
    table = pa.table({name: [getattr(row, name) for row in rows] for name in Row._fields})
    with path.open("wb") as file:
        write_rows(file, table, {"dropped": {"without a clip file": 3}})
    return path


def test_rows_come_back_from_a_file(tmp_path: Path) -> None:
    file = RowFile(written(tmp_path / "rows.arrow", ROWS))
    assert [file.row(index) for index in range(len(file))] == ROWS
    assert file.about == {"dropped": {"without a clip file": 3}}
    assert file.column("label").to_pylist() == ["riding (a bike)", None, ""]
    records = [row._replace(place=number) for number, row in enumerate(ROWS)]
    assert RowFile(written(tmp_path / "records.arrow", records)).row(2).place == 2


def test_they_pickle_to_their_path(tmp_path: Path) -> None:
    file = RowFile(written(tmp_path / "rows.arrow", ROWS * 1000))
    pickled = pickle.dumps(file)
    assert len(pickled) < 300
    assert pickle.loads(pickled).row(1) == ROWS[1]
    file.path.unlink()
    assert file.row(1) == ROWS[1]
    with pytest.raises(ManifestError, match="make it again"):
        pickle.loads(pickled)


def test_rows_that_are_overwritten_are_one_clear_line(tmp_path: Path) -> None:
    file = RowFile(written(tmp_path / "rows.arrow", ROWS))
    file.path.write_bytes(b"")
    with pytest.raises(ManifestError, match=r"rows\.arrow: row 1 cannot be read .*make the dataset again"):
        file.row(1)


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"not a table" * 100])
def test_what_is_no_file_of_rows_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.arrow"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match="damaged"):
        RowFile(path)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, pa.table({"x": [1]}).schema) as writer:
        writer.write_table(pa.table({"x": [1]}))
    with pytest.raises(ManifestError, match="damaged"):
        RowFile(path)


def _note(notes: RunNotes, first: int) -> None:
    for index in range(first, first + 50):
        notes.note_failure(index, f"clip{index}", "damaged")
        notes.note_plain_read(index, PlainRead.CHANGED)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_failures_of_all_processes_are_counted_once(method: str) -> None:
    notes = RunNotes(200)
    assert notes.note_failure(7, "clip7", "damaged: é\n") == 1
    assert notes.note_failure(7, "clip7", "damaged again") == 1
    context = multiprocessing.get_context(method)
    processes = [context.Process(target=_note, args=(notes, first)) for first in (0, 25, 100)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert set(notes.failures()) == {f"clip{index}" for index in [*range(75), *range(100, 150)]}
    assert notes.failures()["clip7"] == "damaged: é\n"
    assert notes.note_failure(199, "clip199", "x") == 126
    assert notes.plain_reads() == {"changed since the packet index was made": 125}


def test_reasons_of_plain_reads_are_told_apart() -> None:
    notes = RunNotes(4)
    for index, why in enumerate(PlainRead):
        notes.note_plain_read(index, why)
    assert list(notes.plain_reads().values()) == [1, 1, 1, 1] and len(notes.plain_reads()) == 4


def test_a_copy_goes_on_alone_when_the_files_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    notes = RunNotes(10)
    copy = pickle.loads(pickle.dumps(notes))
    assert list(tmp_path.iterdir())
    del notes
    assert not list(tmp_path.iterdir()), "left behind"
    assert copy.failures() == {} and copy.plain_reads() == {}
    assert copy.note_failure(1, "clip1", "damaged") == 1
    assert copy.failures() == {"clip1": "damaged"}
    shutil.rmtree(next(tmp_path.iterdir()))
    assert copy.note_failure(2, "clip2", "damaged") == 1


def test_a_failure_that_cannot_be_noted_stops_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    notes = RunNotes(10)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ManifestError, match=r"No space left on device.*set TMPDIR"):
        notes.note_failure(1, "clip1", "damaged")
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(ManifestError, match="set TMPDIR"):
        RunNotes(10)
