"""The commands crawl, manifest, validate and stats from outside: processes, exit codes, kills."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from k700_text.cli import main
from k700_text.cli.common import run_guarded
from k700_text.cli.options import read_removal_list
from k700_text.crawl import job as job_module
from k700_text.errors import NetworkDownError
from k700_text.records import Clip, Split
from k700_text.sandbox.messages import Answer
from k700_text.sandbox.server import SandboxServer
from k700_text.sandbox.world import World
from tests.k700_text.crawling import REPOSITORY, call, command, finished, make_ids, write_annotations


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(World(seed=0)) as running:
        yield running


def invoke(*arguments: str | Path) -> int:
    """Runs a command in this process, which is quicker."""
    return run_guarded(lambda: main._invoke([str(argument) for argument in arguments]), debug=False)


def crawl_arguments(server: SandboxServer, annotations: Path, out: Path, rate: float = 1e6) -> list[str | Path]:
    places = [f"--endpoint={name}={server.url}" for name in ("oembed", "data-api")]
    rates = [f"--rate=oembed={rate}", f"--rate=data-api={rate}"]
    return ["crawl", "--annotations", annotations, "--out", out, *places, *rates]


def test_crawl_manifest_validate_stats(
    server: SandboxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(120))
    out = tmp_path / "out"
    result = call(*crawl_arguments(server, annotations, out), "--json", YOUTUBE_API_KEY="AIza-secret-key")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["command"] == "crawl" and summary["num_ids"] == 120 and not summary["work_left"]
    assert "AIza-secret-key" not in result.stdout + result.stderr
    assert pq.read_metadata(out / "val.parquet").num_rows == 120
    before = (out / "val.parquet").read_bytes()
    assert invoke("manifest", "--annotations", annotations, "--out", out, "--csv", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 2
    assert (out / "val.parquet").read_bytes() == before and (out / "val.csv").exists()
    assert invoke("validate", out / "val.parquet", "--json") == 0
    assert json.loads(capsys.readouterr().out)["valid"] is True
    assert invoke("stats", out / "val.parquet", "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_titles"] == summary["num_titles"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_130(server: SandboxServer, tmp_path: Path, number: signal.Signals) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(2000))
    arguments = crawl_arguments(server, annotations, tmp_path / "out", rate=100)
    process = subprocess.Popen(
        command(*arguments), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while server.count() < 40 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == 130, messages
    assert "run the same command to continue" in messages and "Traceback" not in messages
    # Answers of 403 may be held back when the signal comes.
    assert server.count() - 20 <= len(finished(tmp_path / "out" / "_ledger.sqlite")) <= server.count()


def test_work_left_is_exit_code_3_with_the_time_to_resume(
    server: SandboxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(30))
    server.script("oembed", [Answer(status=429, headers={"Retry-After": "7200"})] * 8)
    assert invoke(*crawl_arguments(server, annotations, tmp_path / "out")) == 3
    assert "resume after 20" in capsys.readouterr().err
    assert pq.read_metadata(tmp_path / "out" / "val.parquet").num_rows == 30


def test_an_archive_that_waits_for_the_live_sources_is_not_said_to_fail(
    server: SandboxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(30))
    server.script("oembed", [Answer(status=429, headers={"Retry-After": "7200"})] * 8)
    arguments = crawl_arguments(server, annotations, tmp_path / "out")
    assert invoke(*arguments, f"--endpoint=wayback={server.url}", "--sources=oembed,wayback") == 3
    messages = capsys.readouterr().err
    assert "wayback: 30 videos left (the sources before it" in messages and "failed" not in messages


def test_the_official_annotations_are_downloaded_where_none_are_given(tmp_path: Path) -> None:
    clips = [
        Clip(youtube_id=each, split=Split.VAL, start_seconds=0, end_seconds=10, label="yoga") for each in make_ids(5)
    ]
    with SandboxServer(World(seed=0), clips=clips) as server:
        places = [f"--endpoint={name}={server.url}" for name in ("oembed", "annotations")]
        assert invoke("crawl", "--out", tmp_path, "--split", "validate", "--rate", "oembed=1e6", *places) == 0
    assert pq.read_metadata(tmp_path / "val.parquet").num_rows == 5


def test_limit_asks_about_the_first_videos_and_keeps_every_row(server: SandboxServer, tmp_path: Path) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(30))
    assert invoke(*crawl_arguments(server, annotations, tmp_path), "--limit", "7") == 0
    assert set(server.ids_asked("oembed")) == set(sorted(make_ids(30))[:7])
    assert pq.read_metadata(tmp_path / "val.parquet").num_rows == 30


def test_plan_asks_nothing(server: SandboxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(30))
    assert invoke(*crawl_arguments(server, annotations, tmp_path), "--plan", "--json") == 0
    (plan,) = json.loads(capsys.readouterr().out)["plan"]["sources"]
    assert plan["num_requests"] == 30 and server.count() == 0


def test_a_plan_says_what_a_key_would_save(
    server: SandboxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(1200))
    command = crawl_arguments(server, annotations, tmp_path, rate=1.0)
    assert invoke(*command, "--plan") == 0
    text = " ".join(re.sub(r"[^\x00-\x7f]", " ", capsys.readouterr().out).split())
    assert "left out: YOUTUBE_API_KEY is not set" in text and "24 requests, 24 quota units" in text
    assert "up to 1,200 requests" in text and "total" in text and "1200" not in text
    assert invoke(*command, "--plan", "--json") == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["num_requests"] == 1200 and plan["without_key"]["num_requests"] == 24
    # By name, or with the key, nothing is left out.
    assert invoke(*command, "--plan", "--json", "--sources", "oembed") == 0
    assert json.loads(capsys.readouterr().out)["plan"]["without_key"] is None
    monkeypatch.setenv("YOUTUBE_API_KEY", "any")
    assert invoke(*command, "--plan", "--json") == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["without_key"] is None and [each["source"] for each in plan["sources"]] == ["data-api", "oembed"]
    assert server.count() == 0


def test_dumps_alone_ask_nobody_and_their_titles_need_no_network(
    server: SandboxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_network(*arguments: object, **options: object) -> None:
        raise NetworkDownError("no way out: check the network", host="h")

    ids = make_ids(3)
    annotations = write_annotations(tmp_path / "validate.csv", ids)
    (tmp_path / "dump.csv").write_text(f"id,title\n{ids[0]},of a dump\n")
    command = ["crawl", "--annotations", annotations, "--dump", tmp_path / "dump.csv"]
    assert invoke(*command, "--out", tmp_path / "a", "--sources", "dumps") == 0
    assert "K700_TEXT_CONTACT" not in capsys.readouterr().err
    monkeypatch.setattr(job_module, "crawl", without_network)
    assert invoke(*command, "--out", tmp_path / "b", "--endpoint", f"oembed={server.url}") == 1
    told = capsys.readouterr().err
    assert "val.parquet: has what the dumps told" in told and "check the network" in told
    for out in ("a", "b"):
        titles = {row["youtube_id"]: row["title"] for row in pq.read_table(tmp_path / out / "val.parquet").to_pylist()}
        assert titles == {ids[0]: "of a dump", ids[1]: None, ids[2]: None}


def test_tables_for_people(server: SandboxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(5))
    assert invoke(*crawl_arguments(server, annotations, tmp_path)) == 0
    assert invoke("manifest", "--annotations", annotations, "--out", tmp_path / "new") == 0
    assert "no ledger" in capsys.readouterr().err
    assert invoke("validate", tmp_path / "val.parquet") == 0
    assert "valid" in capsys.readouterr().out
    assert invoke("stats", tmp_path / "val.parquet") == 0
    assert "titles" in capsys.readouterr().out
    shuffled = pq.read_table(tmp_path / "val.parquet").take([4, 3, 2, 1, 0])
    pq.write_table(shuffled, tmp_path / "shuffled.parquet")
    assert invoke("validate", tmp_path / "shuffled.parquet") == 1
    assert "not sorted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--sources", "oembd"], 2, "did you mean oembed?"),
        (["--endpoint", "anotations=http://x"], 2, "did you mean annotations?"),
        (["--endpoint", "oembed"], 2, "expected SOURCE=VALUE"),
        (["--endpoint", "oembed=ftp://x"], 2, "expected http(s)://host[:port]"),
        (["--rate", "data_api=1"], 2, "did you mean data-api?"),
        (["--rate", "oembed=1e-300"], 2, "one a day or more"),
        (["--sources", "nonsense"], 2, "known: dumps, data-api, oembed"),
        (["--rate", "oembed=fast"], 2, "expected a number"),
        (["--rate", "oembed=-1"], 2, "expected a number"),
        (["--split", "all"], 2, "unknown split"),
        (["--sources", "data-api"], 1, "set YOUTUBE_API_KEY"),
        (["--annotations", "absent.csv"], 1, "no such annotation file"),
        (["--limit", "0"], 2, "--limit"),
        (["--recheck-after", "900000"], 2, "--recheck-after"),
        (["--recheck-after", "inf"], 2, "--recheck-after"),
    ],
)
def test_every_mistake_is_one_line(
    tmp_path: Path, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(3))
    given = [] if "--annotations" in arguments else ["--annotations", str(annotations)]
    assert invoke("crawl", "--out", tmp_path / "out", *given, *arguments) == code
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err and printed.err.count("\n") == 1


def test_a_broken_ledger_and_a_broken_manifest_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = write_annotations(tmp_path / "validate.csv", make_ids(3))
    (tmp_path / "_ledger.sqlite").write_bytes(b"junk" * 4000)
    (tmp_path / "x.parquet").write_bytes(b"junk")
    places: list[str | Path] = ["--annotations", annotations, "--out", tmp_path]
    manifest: list[str | Path] = [tmp_path / "x.parquet"]
    for arguments in (["crawl", *places], ["manifest", *places], ["stats", *manifest], ["validate", *manifest]):
        assert invoke(*arguments) == 1
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.realdata
def test_the_real_validation_set(real_data: Path, server: SandboxServer, tmp_path: Path) -> None:
    annotations = real_data / "kinetics" / "rocksyne" / "kinetics700" / "validate.csv"
    result = call(*crawl_arguments(server, annotations, tmp_path), "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["num_ids"] == 33_856
    asked = server.ids_asked("oembed")
    assert len(asked) == 33_856 and set(asked.values()) == {1}
    before = (tmp_path / "val.parquet").read_bytes()
    assert pq.read_metadata(tmp_path / "val.parquet").num_rows == 33_909
    assert call("manifest", "--annotations", annotations, "--out", tmp_path).returncode == 0
    assert (tmp_path / "val.parquet").read_bytes() == before
    assert call("validate", tmp_path / "val.parquet").returncode == 0


def test_a_second_crawl_asks_nothing_and_keeps_the_measurements(server: SandboxServer, tmp_path: Path) -> None:
    youtube_id = make_ids(1)[0]
    annotations, out = write_annotations(tmp_path / "val.csv", [youtube_id]), tmp_path / "out"
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / f"{youtube_id}_000000_000010.mp4").write_bytes(b"no film")
    assert invoke(*crawl_arguments(server, annotations, out)) == 0
    assert invoke("probe", tmp_path / "clips", "--out", tmp_path / "p.parquet", "--workers", 1) == 0
    assert invoke("manifest", "--annotations", annotations, "--out", out, "--probe", tmp_path / "p.parquet") == 0
    before, num_requests = (out / "val.parquet").read_bytes(), server.count()
    assert invoke(*crawl_arguments(server, annotations, out)) == 0
    assert server.count() == num_requests
    assert (out / "val.parquet").read_bytes() == before
    assert pq.read_table(out / "val.parquet")["video_status"].to_pylist() == ["undecodable"]


def test_answers_survive_a_locale_that_cannot_spell_them(tmp_path: Path) -> None:
    arguments = ["manifest", "--annotations", write_annotations(tmp_path / "val.csv", make_ids(1))]
    out = tmp_path / "t\u00eftel"
    done = call(*arguments, "--out", out, "--json", PYTHONIOENCODING="ascii")
    assert (done.returncode, json.loads(done.stdout)["files"]) == (0, [str(out / "val.parquet")])
    assert call(*arguments, "--out", out, PYTHONIOENCODING="ascii").returncode == 0
    # Nor must it be text at all.
    done = call(*arguments, "--out", tmp_path / "lat\udce9")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    with (tmp_path / "lat\udce9" / "val.parquet").open("rb") as file:
        assert pq.read_metadata(file).num_rows == 1


def test_a_file_in_place_of_a_folder_is_one_line_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = write_annotations(tmp_path / "val.csv", make_ids(1))
    for out in (annotations, annotations / "deeper"):
        assert invoke("manifest", "--annotations", annotations, "--out", out) == 1
        assert "val.csv" in (message := capsys.readouterr().err) and "choose another name" in message


def test_ctrl_c_while_the_command_is_imported_is_quiet() -> None:
    program = (
        "import builtins, runpy, sys\n"
        "real = builtins.__import__\n"
        "def interrupted(name, *others, **named):\n"
        "    if name == 'typer': raise KeyboardInterrupt\n"
        "    return real(name, *others, **named)\n"
        "builtins.__import__ = interrupted\n"
        "runpy.run_module('k700_text.__main__', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY
    )
    assert (done.returncode, done.stderr) == (130, "interrupted: nothing was begun\n")


@pytest.mark.parametrize("arguments", [["crawl", "--sources", "oembed"], ["manifest"]])
def test_a_removal_list_in_another_encoding_is_one_line(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    annotations, listed = write_annotations(tmp_path / "validate.csv", make_ids(3)), tmp_path / "ids.txt"
    listed.write_text("\n".join(make_ids(2)), encoding="utf-16")
    given = ["--annotations", annotations, "--out", tmp_path / "out", "--removal-list", listed]
    assert invoke(*arguments, *given) == 2
    messages = capsys.readouterr().err
    assert "is not UTF-8 text" in messages and messages.count("\n") == 1


def test_a_removal_list_from_another_system_is_read(tmp_path: Path) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_bytes(b"\xef\xbb\xbf# ours\r\n" + "\r\n".join(make_ids(2)).encode() + b"  # why\r\n\r\n")
    assert read_removal_list(listed) == make_ids(2)
