from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k700_text.files.arrow_values import ValueFile

TYPES = [
    (pa.string(), st.text()),
    (pa.large_string(), st.text()),
    (pa.binary(), st.binary()),
    (pa.large_binary(), st.binary()),
    (pa.bool_(), st.booleans()),
    (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.float64(), st.floats(allow_nan=False)),
]


def write(path: Path, batches: list[pa.RecordBatch]) -> Path:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return path


@settings(deadline=None)
@given(st.data())
def test_values_are_what_arrow_reads(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    kind, values = data.draw(st.sampled_from(TYPES))
    content: list[list[Any]] = data.draw(st.lists(st.lists(st.none() | values, max_size=20), min_size=1, max_size=3))
    batches = [pa.RecordBatch.from_arrays([pa.array(each, kind)], names=["x"]) for each in content]
    file = ValueFile(write(tmp_path_factory.mktemp("values") / "x.arrow", batches))
    everything = [value for each in content for value in each]
    assert len(file) == len(everything) and file.table()["x"].to_pylist() == everything
    assert [file.value("x", number) for number in range(len(file))] == everything


def test_a_slice_of_a_table_is_written_as_what_it_holds(tmp_path: Path) -> None:
    table = pa.table({"x": ["a", None, "ccc", "d"], "y": [True, None, False, True]})
    file = ValueFile(write(tmp_path / "x.arrow", table.slice(1, 2).combine_chunks().to_batches()))
    assert [(file.value("x", number), file.value("y", number)) for number in range(2)] == [(None, None), ("ccc", False)]


def test_it_goes_on_with_the_file_it_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "x.arrow", [pa.RecordBatch.from_arrays([pa.array(["old"])], names=["x"])])
    file = ValueFile(path)
    write(tmp_path / "new.arrow", [pa.RecordBatch.from_arrays([pa.array([7])], names=["y"])]).replace(path)
    assert file.value("x", 0) == "old" and file.table()["x"].to_pylist() == ["old"]
    assert ValueFile(path).value("y", 0) == 7


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_damaged_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "x.arrow", [pa.RecordBatch.from_arrays([pa.array(["text"] * 100)], names=["x"])])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises((pa.ArrowException, OSError)):
        ValueFile(path)


def test_what_is_cut_short_later_is_an_error_of_the_system(tmp_path: Path) -> None:
    columns = {"x": ["text"] * 1000, "y": [1.5] * 1000, "z": [None, True] * 500}
    file = ValueFile(write(tmp_path / "x.arrow", pa.table(columns).to_batches()))
    os.truncate(file.path, 100)
    for name in columns:
        with pytest.raises(OSError, match=r"row 999 cannot be read .*x\.arrow"):
            file.value(name, 999)


@pytest.mark.parametrize("wrong", [2**40, 2**62, -8])
def test_places_written_over_later_are_an_error_of_the_system(tmp_path: Path, wrong: int) -> None:
    texts = pa.table({"x": pa.array(["text"] * 3, pa.large_string())})
    file = ValueFile(write(tmp_path / "x.arrow", texts.to_batches()))
    content = file.path.read_bytes()
    ends = struct.pack("<4q", 0, 4, 8, 12)
    file.path.write_bytes(content.replace(ends, struct.pack("<4q", 0, wrong, 8, 12)))
    assert content.count(ends) == 1 and file.value("x", 2) == "text"
    for number in (0, 1):
        with pytest.raises(OSError, match=r"x\.arrow|Invalid argument"):
            file.value("x", number)


def test_files_are_closed_with_it(tmp_path: Path) -> None:
    path = write(tmp_path / "x.arrow", [pa.RecordBatch.from_arrays([pa.array(["text"])], names=["x"])])
    for _ in range(20):
        assert ValueFile(path).value("x", 0) == "text"
    # Files of other tests come and go with the garbage collector: only this one's tell anything.
    assert not [each for each in Path("/proc/self/fd").iterdir() if os.path.realpath(each) == str(path.resolve())]
