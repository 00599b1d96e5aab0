from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from k700_text.files.stamps import CACHE_TAG, are_settled, folder_stamps, settle, stamp_of, still_hold


def test_every_folder_has_a_stamp_but_hidden_ones_and_caches(tmp_path: Path) -> None:
    for name in ("a/b", ".hidden/c", "x.cache/d", "y.cache"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "x.cache" / CACHE_TAG).touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    names = {os.path.relpath(path, tmp_path) for path in folder_stamps(str(tmp_path))}
    assert names == {".", "a", "a/b", "y.cache"}
    with pytest.raises(FileNotFoundError):
        folder_stamps(str(tmp_path / "absent"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        folder_stamps(str(tmp_path / "file"))


def test_any_change_of_the_entries_is_another_stamp(tmp_path: Path) -> None:
    stamps = folder_stamps(str(tmp_path))
    for change in (
        (tmp_path / "file").touch,
        lambda: (tmp_path / "file").rename(tmp_path / "other"),
        (tmp_path / "other").unlink,
        (tmp_path / "folder").mkdir,
    ):
        assert still_hold(stamps)
        settle(stamps)
        change()
        assert not still_hold(stamps)
        stamps = folder_stamps(str(tmp_path))
    assert not still_hold({str(tmp_path / "absent"): stamp_of(tmp_path)})


def test_a_date_that_is_put_back_does_not_hide_a_change(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    before, stamp = path.stat(), stamp_of(path)
    settle({str(path): stamp})
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns and stamp_of(path) != stamp


def test_it_waits_for_ticks_and_not_for_seconds() -> None:
    now = time.time_ns()
    fine = {"x": [1, 0, now, 1]}
    assert not are_settled(fine) and settle(fine) and are_settled(fine) and not settle(fine)
    coarse = {"x": [1, 0, now // 10**9 * 10**9, 1]}
    start = time.monotonic()
    assert not settle(coarse) and not are_settled(coarse) and time.monotonic() - start < 0.5
    assert are_settled({"x": [1, now, (now // 10**9 - 4) * 10**9, 1]})
    # A date in the future, as broken clocks and archives give.
    assert are_settled({"x": [1, now + 10**18, now - 10**9, 1]})
