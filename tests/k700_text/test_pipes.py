"""Readers that go away early, and streams that are closed: no command says a word about it, or hurts a file."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from k700_text.cli.main import _invoke, app
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World
from tests.k700_text.crawling import make_ids
from tests.k700_text.media_files import make_clip

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(str(command.name) for command in app.registered_commands)
PROGRAMS = [f"lava_model.{name}" for name in ("pretrain", "evaluate", "export", "ablate", "demo")]
WORK = {
    "annotations": "annotations val.csv",
    "crawl": "crawl --ids val.csv --out out --plan",
    "manifest": "manifest --annotations val.csv --out out --csv",
    "validate": "validate val.parquet",
    "stats": "stats val.parquet",
    "diff": "diff val.parquet val.parquet --list",
    "show": "show val.parquet --out sheet.html",
    "tokenizer": "tokenizer --manifest val.parquet --out t.json",
    "sandbox": "sandbox --no-serve --annotations made",
    "crawl, asking": "crawl --annotations val.csv --out titles --sources dumps --dump dump.csv",
    "merge": "merge titles/_ledger.sqlite --out merged",
    "probe": "probe clips --workers 2 --out probe.parquet",
    "prepare": "prepare clips --workers 2 --out prepared",
    "crawl, of a server": "crawl --annotations val.csv --out asked --sources oembed --rate oembed=1000",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pipes")
    rows = "".join(f"yoga,{each},0,10,val\n" for each in make_ids(40, "pipes"))
    (root / "val.csv").write_text(f"label,youtube_id,time_start,time_end,split\n{rows}")
    for youtube_id in make_ids(2, "pipes"):
        make_clip(root / "clips" / f"{youtube_id}_000000_000010.mp4", 1.0)
    (root / "dump.csv").write_text(f"youtube_id,title\n{make_ids(1, 'pipes')[0]},a title\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        _invoke(["manifest", "--annotations", "val.csv", "--out", "."])
        _invoke(["crawl", "--annotations", "val.csv", "--out", "titles", "--sources", "dumps", "--dump", "dump.csv"])
    return root


def start(words: str, folder: Path, **streams: int | None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *words.split()], cwd=folder, env=environment, **streams)  # type: ignore[call-overload,no-any-return]


def with_gone_reader(words: str, folder: Path, *, stderr_too: bool) -> tuple[int, bytes]:
    """Runs a program whose reader of stdout has gone before it writes; returns its exit code and stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    program = start(words, folder, stdout=writing, stderr=writing if stderr_too else subprocess.PIPE)
    os.close(writing)
    _, messages = program.communicate(timeout=120)
    return program.returncode, messages or b""


def table() -> list[object]:
    """Returns what every command does and says; most of it is slow to start."""
    quick = {WORK["stats"]}
    words = [f"{name} --help" for name in COMMANDS] + list(WORK.values())
    return [each if each in quick else pytest.param(each, marks=pytest.mark.slow) for each in words]


@pytest.mark.parametrize("words", table())
def test_no_command_minds_a_reader_that_has_gone(words: str, folder: Path) -> None:
    with SandboxServer(World(seed=0)) if "oembed" in words else nullcontext() as server:
        words += "" if server is None else f" --endpoint oembed={server.url}"
        code, messages = with_gone_reader(f"-m k700_text {words}", folder, stderr_too=False)
    assert code in (0, 1) and not [word for word in (b"Traceback", b"Broken pipe", b"ignored") if word in messages]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_program_minds_it_either(name: str, folder: Path) -> None:
    code, messages = with_gone_reader(f"-m {name} --help", folder, stderr_too=False)
    assert code in (0, 1) and not [word for word in (b"Traceback", b"Broken pipe", b"ignored") if word in messages]


def test_work_is_done_though_nobody_hears_of_it(folder: Path) -> None:
    (folder / "quiet").mkdir()
    words = "-m k700_text manifest --annotations val.csv --out quiet"
    code, _ = with_gone_reader(words, folder, stderr_too=True)
    assert code in (0, 1) and (folder / "quiet" / "val.parquet").read_bytes() == (folder / "val.parquet").read_bytes()


def test_closed_streams_take_no_file_of_ours(folder: Path) -> None:
    (folder / "closed").mkdir()
    shell = f'exec "{sys.executable}" -m k700_text manifest --annotations val.csv --out closed <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", shell], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0
    assert (folder / "closed" / "val.parquet").read_bytes() == (folder / "val.parquet").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_the_answer_is_one_line(folder: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        program = start("-m k700_text stats val.parquet", folder, stdout=full.fileno(), stderr=subprocess.PIPE)
        _, messages = program.communicate(timeout=60)
    assert program.returncode == 1 and messages.count(b"\n") == 1 and b"no space left" in messages.lower()
