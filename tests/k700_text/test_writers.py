"""Every command that writes: two at once, something planted in its way, a failing disk, a folder full of odd things."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from k700_text.cli.common import run_guarded
from k700_text.cli.main import _invoke
from k700_text.files.lock import FileLock
from tests.k700_text.media_files import make_clip
from tests.k700_text.odd_files import make_all_that_is_odd

IDS = [letter * 11 for letter in "ABCDEF"]
ANNOTATE = ["--annotations", "val.csv"]
CRAWL = ["crawl", *ANNOTATE, "--sources", "dumps", "--dump", "dump.csv", "--out"]
PROBE = ["probe", "clips", "--workers", "1", "--out"]
PREPARE = ["prepare", "clips", "--workers", "1", "--out"]
MANIFEST = ["manifest", *ANNOTATE, "--out"]
TOKENIZER = ["tokenizer", "--split", "all", "--vocab-size", "300", "--manifest", "titles/val.parquet", "--out"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything has been made once."""
    root = tmp_path_factory.mktemp("done")
    make_clip(root / "clips" / f"{IDS[0]}_000001_000003.mp4")
    for youtube_id in IDS[1:]:
        shutil.copy(root / "clips" / f"{IDS[0]}_000001_000003.mp4", root / "clips" / f"{youtube_id}_000001_000003.mp4")
    rows = "".join(f"x,{youtube_id},1,3,val\n" for youtube_id in IDS)
    (root / "val.csv").write_text("label,youtube_id,time_start,time_end,split\n" + rows)
    (root / "dump.csv").write_text("youtube_id,title\n" + "".join(f"{each},title of {each}\n" for each in IDS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for words in ([*CRAWL, "titles"], [*PROBE, "p.parquet", "--packets", "p.arrow"], [*PREPARE, "shards"]):
            assert run_guarded(lambda words=words: _invoke(words), debug=False) == 0  # type: ignore[misc]
        for words in ([*MANIFEST, "titles", "--csv"], [*TOKENIZER, "tokenizer.json"]):
            assert run_guarded(lambda words=words: _invoke(words), debug=False) == 0  # type: ignore[misc]
    return root


@pytest.fixture
def here(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, in which commands run."""
    shutil.copytree(done, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and not path.name.endswith((".lock", "-shm", "-wal"))
    }


def one_line(capsys: pytest.CaptureFixture[str], words: Sequence[str], code: int = 1) -> str:
    """Runs a command that fails, and returns the one line of error."""
    capsys.readouterr()
    assert run_guarded(lambda: _invoke(list(words)), debug=False) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


# --- two at once ---


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


LOCKED = [
    (".p.parquet.lock", [*PROBE, "p.parquet"]),
    (".p.arrow.lock", [*PROBE, "q.parquet", "--packets", "p.arrow"]),
    ("shards/.prepare.lock", [*PREPARE, "shards"]),
    ("titles/_ledger.sqlite.lock", [*CRAWL, "titles"]),
    ("titles/_ledger.sqlite.lock", ["merge", "titles/_ledger.sqlite", "--out", "titles"]),
    ("titles/_ledger.sqlite.lock", [*MANIFEST, "titles", "--reparse"]),
    ("titles/.demo.lock", ["demo", "--out", "titles"]),
]


@pytest.mark.parametrize(("lock", "words"), LOCKED, ids=lambda value: value if isinstance(value, str) else value[0])
def test_a_second_writer_is_refused_in_one_line(
    here: Path, lock: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with FileLock(here / lock, "the first"):
        before = content(here)
        line = one_line(capsys, words)
    assert line.startswith("error: another ") and f"(process {os.getpid()} on " in line and "wait for it to end" in line
    assert content(here) == before


def test_a_second_manifest_waits_for_the_first(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = FileLock(here / "titles" / ".manifest.lock", "the first")
    signal.signal(signal.SIGALRM, lambda *_: lock.release())
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    _invoke([*MANIFEST, "titles"])
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and f"(process {os.getpid()} on " in errors and "waiting for it to end" in errors


@pytest.mark.slow
def test_two_probes_at_once_leave_every_row_once(here: Path) -> None:
    words = [sys.executable, "-m", "k700_text", *PROBE, "new.parquet"]
    runs = [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [run.communicate(timeout=60)[1] for run in runs]
    refused = [text for text in errors if text]
    assert all(text.startswith("error: another probe is writing new.parquet") for text in refused) and len(refused) < 2
    assert pq.read_table("new.parquet")["clip_file"].to_pylist() == sorted(f"{each}_000001_000003.mp4" for each in IDS)


# --- planted ---


def to_a_victim(victim: Path, path: Path) -> None:
    path.symlink_to(victim)


def a_second_name(victim: Path, path: Path) -> None:
    path.hardlink_to(victim)


def a_pipe(victim: Path, path: Path) -> None:
    os.mkfifo(path)


FIXED = [
    ("p.parquet", [*PROBE, "p.parquet"]),
    (".p.parquet.journal", [*PROBE, "p.parquet"]),
    (".p.parquet.lock", [*PROBE, "p.parquet"]),
    ("p.arrow", [*PROBE, "p.parquet", "--packets", "p.arrow"]),
    ("shards/.prepare.lock", [*PREPARE, "shards"]),
    ("shards/index.arrow", [*PREPARE, "shards"]),
    ("titles/val.parquet", [*MANIFEST, "titles"]),
    ("titles/val.csv", [*MANIFEST, "titles", "--csv"]),
    ("titles/.manifest.lock", [*MANIFEST, "titles"]),
    ("titles/_ledger.sqlite.lock", [*CRAWL, "titles"]),
    ("tokenizer.json", [*TOKENIZER, "tokenizer.json"]),
    (
        "made/val.csv",
        ["sandbox", "--no-serve", "--num-classes", "1", "--clips-per-class", "1", "--annotations", "made"],
    ),
]


def planted() -> list[object]:
    """Every name with everything planted there; of a few names all of it is quick enough."""
    quick = ("titles/val.parquet", "titles/.manifest.lock")
    return [
        (name, words, plant) if plant is to_a_victim or name in quick else slow(name, words, plant)
        for name, words in FIXED
        for plant in (to_a_victim, a_second_name, a_pipe)
    ]


@pytest.mark.parametrize(
    ("name", "words", "plant"), planted(), ids=lambda value: value[0] if isinstance(value, list) else None
)
def test_nothing_is_written_through_what_lies_under_a_fixed_name(
    here: Path,
    name: str,
    words: list[str],
    plant: Callable[[Path, Path], None],
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    victim, path = here / "victim", here / name
    victim.write_text("precious")
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    plant(victim, path)
    code = run_guarded(lambda: _invoke(words), debug=False)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert victim.read_text() == "precious"
    # A whole file takes the place of a second name; all else is told.
    if code or plant is not a_second_name:
        assert code == 1 and len(errors) == 1 and Path(name).name in errors[0]
        assert path.is_fifo() or path.samefile(victim)
    else:
        assert path.read_bytes() != b"precious" and path.stat().st_nlink == 1


@pytest.mark.parametrize("name", ["titles/val.parquet.part", "titles/val.csv.part", "p.parquet.journal.1.part"])
def test_names_of_half_files_of_before_mean_nothing(here: Path, name: str) -> None:
    (here / "victim").write_text("precious")
    (here / name).symlink_to(here / "victim")
    _invoke([*MANIFEST, "titles", "--csv"])
    _invoke([*PROBE, "p.parquet"])
    assert (here / "victim").read_text() == "precious" and (here / name).is_symlink()


def test_an_output_that_is_no_file_is_told_before_the_work(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "/dev/null" in one_line(capsys, [*PROBE, "/dev/null"])
    assert not Path("/dev/null.journal").exists() and Path("/dev/null").is_char_device()


# --- odd folders ---


@pytest.mark.slow
def test_probe_and_prepare_pass_what_is_odd_and_list_it(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "odd"
    root.mkdir()
    make_all_that_is_odd(root, (here / "clips" / f"{IDS[0]}_000001_000003.mp4").read_bytes())
    _invoke(["probe", str(root), "--workers", "1", "--out", "odd.parquet", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["video_status"] == {"usable": 6} and answer["num_links_outside"] == 1
    assert sum(map(len, answer["left_out"].values())) == 9
    _invoke(["prepare", str(root), "--workers", "1", "--out", "odd", "--json"])
    said, answer = capsys.readouterr(), None
    answer = json.loads(said.out)
    assert answer["num_done"] == answer["num_clips"] == 4 and sum(map(len, answer["left_out"].values())) == 11
    assert said.err.count("left out: ") == 5 and said.err.isascii() and "\x1b" not in said.err


# --- failing disks ---


@pytest.fixture(scope="session")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes a disk fail, compiled."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler here, or no Linux")
    library = tmp_path_factory.mktemp("failing") / "failing_disk.so"
    source = Path(__file__).with_name("failing_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def run_on(
    library: Path, words: Sequence[str], path: str, operation: str, number: int, after: int
) -> subprocess.CompletedProcess[str]:
    settings = {"FAIL_PATH": path, "FAIL_OP": operation, "FAIL_ERRNO": str(number), "FAIL_AFTER": str(after)}
    return subprocess.run(
        [sys.executable, "-m", "k700_text", *words],
        env={**os.environ, **settings, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


WRITES = [
    slow(".p.parquet.", 0, [*PROBE, "p.parquet"]),
    slow("q.parquet.journal", 400, [*PROBE, "q.parquet"]),
    pytest.param("shards2/.clips-000000.tar", 5000, [*PREPARE, "shards2"], marks=pytest.mark.slow),
    slow("val.parquet", 0, [*MANIFEST, "titles"]),
    slow("val.csv", 0, [*MANIFEST, "titles", "--csv"]),
    ("new/_ledger.sqlite", 60_000, [*CRAWL, "new"]),
    slow("new/_ledger.sqlite", 60_000, ["merge", "titles/_ledger.sqlite", "--out", "new"]),
    pytest.param("tokenizer.json", 0, [*TOKENIZER, "tokenizer.json"], marks=pytest.mark.slow),
]


@pytest.mark.parametrize("number", [errno.ENOSPC, pytest.param(errno.EIO, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("path", "after", "words"), WRITES, ids=lambda value: str(value).partition(" ")[0])
def test_a_disk_that_does_not_take_what_is_written_is_one_line_and_nothing_old_is_lost(
    here: Path, failing: Path, path: str, after: int, words: list[str], number: int
) -> None:
    before = content(here)
    run = run_on(failing, words, path, "write", number, after)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    errors = [line for line in run.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and path.rpartition("/")[2].strip(".") in errors[0]
    found = content(here)
    assert {name: found.get(name) for name in before} == before
    assert {Path(name).suffix for name in found.keys() - before.keys()} <= {".journal", ".sqlite", ".json"}
    # With room again the same command ends well.
    assert run_guarded(lambda: _invoke(words), debug=False) == 0


READS = [
    ("BBBBBBBBBBB", 0, [*PROBE, "q.parquet"], 0),
    pytest.param("BBBBBBBBBBB", 20_000, [*PREPARE, "shards2"], 0, marks=pytest.mark.slow),
    slow("clips-000000.tar", 0, ["prepare", "--verify", "--out", "shards"], 1),
    slow("val.csv", 0, [*MANIFEST, "titles"], 1),
    slow("p.parquet", 0, [*MANIFEST, "titles", "--probe", "p.parquet"], 1),
    pytest.param("titles/val.parquet", 0, ["stats", "titles/val.parquet"], 1, marks=pytest.mark.slow),
    slow("_ledger.sqlite", 0, [*MANIFEST, "titles"], 1),
    slow(".p.parquet.journal", 0, [*PROBE, "p.parquet"], 1),
]


@pytest.mark.parametrize(("path", "after", "words", "code"), READS, ids=lambda value: str(value).partition(" ")[0])
def test_a_disk_that_cannot_be_read_is_one_line_or_the_cost_of_one_clip(
    here: Path, failing: Path, path: str, after: int, words: list[str], code: int
) -> None:
    before = content(here)
    run = run_on(failing, words, path, "read", errno.EIO, after)
    assert run.returncode == code and "Traceback" not in run.stderr
    if code == 0:
        assert run.stdout.count("Input/output error") == 1
    else:
        lines = run.stderr.splitlines()
        assert len(lines) == 1 and (path in lines[0] or "1 problems found" in lines[0])
    found = content(here)
    assert {name: found.get(name) for name in before} == before


def test_a_disk_that_fails_midway_in_a_ledger_is_not_called_a_damaged_ledger(here: Path, failing: Path) -> None:
    # The header and the first pages come; what the table holds does not.
    after = 3 * 4096
    run = run_on(failing, [*MANIFEST, "titles"], "ledger.sqlite", "read", errno.EIO, after)
    assert run.returncode == 1 and len(run.stderr.splitlines()) == 1
    assert "check the disk" in run.stderr and "damaged" not in run.stderr


@pytest.mark.slow
def test_what_failed_for_the_machine_is_measured_again(here: Path, failing: Path) -> None:
    run = run_on(failing, [*PROBE, "q.parquet", "--packets", "q.arrow"], "BBBBBBBBBBB", "read", errno.EIO, 0)
    assert run.returncode == 0 and pq.read_table("q.parquet")["reason"].null_count == len(IDS) - 1
    _invoke([*PROBE, "q.parquet", "--packets", "q.arrow"])
    assert Path("q.parquet").read_bytes() == Path("p.parquet").read_bytes()


# --- killed ---


@pytest.mark.slow
def test_a_probe_killed_at_any_moment_ends_as_one_that_was_left_alone(done: Path, tmp_path: Path) -> None:
    for number in range(150):
        name = f"{number:011d}_000001_000003.mp4"
        (tmp_path / "clips").mkdir(exist_ok=True)
        shutil.copy(done / "clips" / f"{IDS[0]}_000001_000003.mp4", tmp_path / "clips" / name)
    words = [sys.executable, "-m", "k700_text", *PROBE[:3], "2", "--out"]
    quiet = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    subprocess.run([*words, "whole.parquet", "--packets", "whole.arrow"], check=True, **quiet)  # type: ignore[call-overload]
    for attempt in range(20):
        run = subprocess.Popen([*words, "out.parquet", "--packets", "out.arrow"], **quiet)  # type: ignore[call-overload]
        time.sleep(0.3 + 0.13 * attempt)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        for name in ("out.parquet", "out.arrow"):
            assert not (tmp_path / name).exists() or attempt > 3
    subprocess.run([*words, "out.parquet", "--packets", "out.arrow"], check=True, **quiet)  # type: ignore[call-overload]
    for name in ("parquet", "arrow"):
        assert (tmp_path / f"out.{name}").read_bytes() == (tmp_path / f"whole.{name}").read_bytes()
    assert not list(tmp_path.glob(".*.part"))
