"""What the README tells people to type is typed: in the order printed, in an empty folder, against the sandbox."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from k700_text.cli.main import app
from lava_model import pretrain
from lava_model.evaluate import LinearProbeOptions

ROOT = Path(__file__).resolve().parents[1]
_OUR_PROGRAMS = (["-m", "lava_model.pretrain"], ["-m", "lava_model.evaluate"])
# Given by the person, not made by a command.
_GIVEN = {"ucf101", "a.mp4", "b.mp4", "owner/name"}
_WRITES = ("--out", "--packets")
_IS_PATH = re.compile(r"[\w./-]+(\.(csv|parquet|json|arrow|mp4)|/[\w.-]+)|clips|prepared|titles")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Returns the language and the text of every block of a page that is to be run, in their order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in found if language in ("bash", "python") and "make demo" not in text]


def commands(text: str) -> Iterator[list[str]]:
    """Gives the words of each of our commands in a block of shell lines."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        program = words[0].removeprefix(".venv/bin/") if words else ""
        if program == "k700-text" or (program == "python" and words[1:3] in _OUR_PROGRAMS):
            yield words


def readme_commands() -> list[list[str]]:
    return [words for language, text in blocks(ROOT / "README.md") if language == "bash" for words in commands(text)]


def test_the_readme_goes_from_the_lists_to_the_probe() -> None:
    names = [words[1] if words[1] != "-m" else words[2] for words in readme_commands()]
    assert names == [
        *("crawl", "crawl", "probe", "manifest", "stats", "show", "tokenizer", "prepare"),
        *("lava_model.pretrain", "lava_model.evaluate"),
    ]


def page_commands() -> list[list[str]]:
    """Returns the commands of all pages."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = [
        words for page in pages for language, text in blocks(page) if language == "bash" for words in commands(text)
    ]
    return [list(words) for words in dict.fromkeys(map(tuple, found))]


@pytest.mark.parametrize("words", page_commands(), ids=" ".join)
def test_every_command_takes_the_options_that_a_page_gives_it(words: list[str]) -> None:
    if words[1] != "-m":
        known: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # the app is a group
        names = {name for option in known[words[1]].params for name in option.opts} | {"--help"}
    elif words[2] == "lava_model.pretrain":
        assert pretrain.main([*words[3:], "--print-config"]) == 0
        return
    else:
        names = {f"--{name.replace('_', '-')}" for name in LinearProbeOptions.__dataclass_fields__}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= names


def test_what_the_readme_names_is_made_before() -> None:
    made = set(_GIVEN)
    for language, text in blocks(ROOT / "README.md"):
        if language == "python":
            wanted = {name for name in re.findall(r'"([^"\s]+)"', text) if _IS_PATH.fullmatch(name)}
            assert wanted and wanted <= made | {"runs/lava/export"}, text
            continue
        made |= {f"{split}.csv" for split in ("train", "val") if "annotations/$split.csv" in text}
        made |= {"clips"} if "tar -xzf" in text else set()
        for words in commands(text):
            new, wanted = _files(words)
            assert wanted <= made, f"{shlex.join(words)} needs {wanted - made}, which nothing before makes"
            made |= new


def _files(words: list[str]) -> tuple[set[str], set[str]]:
    """Returns what a command makes and what it takes."""
    new, wanted = set(), set()
    for before, word in itertools.pairwise(words):
        if not word.startswith("-") and _IS_PATH.fullmatch(word) and before != "-m":
            (new if before in _WRITES else wanted).add(word)
    lists = {word for before, word in itertools.pairwise(words) if before == "--annotations"}
    if lists:
        new |= {f"titles/{Path(name).stem}.parquet" for name in lists}
    return new, wanted


# curl, from a folder in place of the web: the address is the last word, -O keeps the name.
_CURL = """#!/bin/bash
cp "{web}/$(basename "${{@: -1}}")" .
"""
_K700_TEXT = """#!/bin/bash
if [ "$1" = crawl ]; then set -- "$@" {endpoints}; fi
exec {python} -m k700_text "$@"
"""
# A preset for two cores, and only some steps.
_PYTHON = """#!/bin/bash
if [ "$2" = lava_model.pretrain ]; then set -- "$@" --preset tiny --max-steps 2 --device cpu; fi
if [ "$2" = lava_model.evaluate ]; then set -- "$@" --views 1 --device cpu; fi
exec {python} "$@"
"""


@pytest.mark.slow
def test_the_readme_works_as_it_is_printed(tmp_path: Path) -> None:
    from k700_text.sandbox.clips import generate_clips, generate_labelled_folder
    from k700_text.sandbox.server import SandboxServer
    from k700_text.sandbox.services.annotations import annotations_csv
    from k700_text.sandbox.world import World, make_kinetics

    web, home = tmp_path / "web", tmp_path / "home"
    web.mkdir()
    (home / ".venv" / "bin").mkdir(parents=True)
    world = World(0)
    miniature = make_kinetics(world, num_classes=2, clips_per_class=20)
    generate_clips(miniature, tmp_path / "made")
    generate_labelled_folder(world, home / "ucf101", num_classes=2, videos_per_class=4)
    made = {path.stem: path for path in sorted((tmp_path / "made").rglob("*.mp4"))}
    for split in ("train", "val"):
        clips = [clip for clip in miniature.clips if clip.split == split]
        (web / f"{split}.csv").write_text(annotations_csv(clips), encoding="utf-8")
        (web / f"k700_2020_{split}_path.txt").write_text(f"https://s3.test/k700_{split}_001.tar.gz\n", encoding="utf-8")
        with tarfile.open(web / f"k700_{split}_001.tar.gz", "w:gz") as archive:
            for clip in clips:
                if clip.clip_id in made:
                    archive.add(made[clip.clip_id], f"./{clip.clip_id}.mp4")
    for name, path in zip(("a.mp4", "b.mp4"), made.values(), strict=False):
        shutil.copy(path, home / name)
    with SandboxServer(world, clips=miniature.clips) as server:
        sources = {"oembed": server.url, "thumbnail": server.url, "wayback": server.archive_url}
        endpoints = " ".join(f"--endpoint {name}={url} --rate {name}=1000" for name, url in sources.items())
        _write_program(home / ".venv/bin/k700-text", _K700_TEXT.format(endpoints=endpoints, python=sys.executable))
        _write_program(home / ".venv/bin/python", _PYTHON.format(python=sys.executable))
        _write_program(home / "bin" / "curl", _CURL.format(web=web))
        _type_the_readme(home)
    assert (home / "runs/lava/export").is_dir() and (home / "titles/val.parquet").exists()


def _write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def _type_the_readme(home: Path) -> None:
    """Runs every block in a shell or in one Python session, and checks the shapes that comments tell."""
    environment = {
        **os.environ,
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    for language, text in blocks(ROOT / "README.md"):
        words = (
            ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", _checked(text)]
        )
        done = subprocess.run(
            words, cwd=home, env=environment, check=False, capture_output=True, text=True, encoding="utf-8"
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def _checked(text: str) -> str:
    """Returns Python lines with the shapes of their comments as assertions: ``x  # uint8 (2, 3)``."""
    checks = re.findall(r"^(batch\.\w+)  # (\w+) (\([\d, ]+\))", text, re.MULTILINE)
    told = [f"assert ({name}.dtype, tuple({name}.shape)) == (torch.{kind}, {shape})" for name, kind, shape in checks]
    assert "batch.video" not in text or len(told) == 3, "the README tells no shapes any more"
    return "\n".join(["import torch", text, *told])
