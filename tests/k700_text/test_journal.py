from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from k700_text.files.journal import Journal

HEADER = {"settings": "a"}


def make(path: Path, names: str) -> Journal:
    journal = Journal(path, HEADER)
    journal.resume(lambda note: True)
    with journal.appending() as note:
        for name in names:
            note(name, (1, 2), {"value": name * 2})
    return journal


def names_in(journal: Journal) -> str:
    return "".join(note["clip_file"] for note in journal.notes())


def test_what_is_noted_is_there_in_order(tmp_path: Path) -> None:
    journal = make(tmp_path / "j", "cab")
    first, *_ = journal.notes()
    assert first == {"stamp": [1, 2], "clip_file": "c", "value": "cc"}
    assert names_in(journal) == "cab" and names_in(Journal(tmp_path / "j", {"settings": "b"})) == ""


@pytest.mark.parametrize("kept", ["abcdef", "", "ace", "bdf", "def", "abc"])
def test_unwanted_notes_go_and_each_is_asked_about_once(tmp_path: Path, kept: str) -> None:
    journal = make(tmp_path / "j", "abcdef")
    asked: list[str] = []

    def is_wanted(note: dict[str, str]) -> bool:
        asked.append(note["clip_file"])
        return note["clip_file"] in kept

    journal.resume(is_wanted)
    assert asked == list("abcdef") and names_in(journal) == kept
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


def test_a_journal_of_which_nothing_goes_is_left_as_it_is(tmp_path: Path) -> None:
    journal = make(tmp_path / "j", "abc")
    before = (tmp_path / "j").stat()
    journal.resume(lambda note: True)
    after = (tmp_path / "j").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("tail", [b'{"stamp": [1', b"\xff\xfe\x00", b'{"stamp": [1, 2]}\n', b"[1]\n", b"null\n"])
def test_torn_and_strange_lines_go(tmp_path: Path, tail: bytes) -> None:
    journal = make(tmp_path / "j", "ab")
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(whole + tail)
    assert names_in(journal) == "ab"
    journal.resume(lambda note: True)
    assert (tmp_path / "j").read_bytes() == whole
    assert names_in(make(tmp_path / "j", "c")) == "abc"


@pytest.mark.parametrize("content", [b"", b"no journal", b'{"settings": "other"}\n{"stamp": [], "clip_file": "x"}\n'])
def test_another_file_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    journal = make(tmp_path / "j", "a")
    assert names_in(journal) == "a"
    assert json.loads((tmp_path / "j").read_text().splitlines()[0]) == HEADER


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from k700_text.files.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]), {})\n"
        "journal.resume(lambda note: True)\n"
        "with journal.appending() as note:\n"
        "    for number in range(100): note(str(number), (1, 2), {})\n"
    )
    full = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "j"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert full.stderr.splitlines()[-1] == f"OSError: [Errno 27] File too large: '{tmp_path / 'j'}'"
    assert (tmp_path / "j").stat().st_size == 1000
    assert [note["clip_file"] for note in Journal(tmp_path / "j", {}).notes()] == [str(k) for k in range(27)]
