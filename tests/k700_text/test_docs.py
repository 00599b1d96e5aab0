from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from k700_text.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # the app is a group


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_an_example_and_a_chapter(name: str) -> None:
    assert "Example: k700-text" in COMMANDS[name].help
    assert f"## k700-text {name}\n" in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def test_generated_docs_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docs.generate", "--check"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_no_page_links_to_a_file_that_is_not_there() -> None:
    import re

    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("manifests/*.md")]
    assert len(pages) > 3
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_state_of_a_video_is_explained() -> None:
    import re

    from k700_text.records import Availability

    page = (ROOT / "docs" / "manifest.md").read_text(encoding="utf-8")
    chapter = page.partition("## What `availability` says")[2].partition("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| ([a-z ]+) \|", chapter, re.MULTILINE))
    wanted = {each: "alive" if each.is_alive else "gone" if each.is_gone else "not known" for each in Availability}
    assert told == {each.value: word for each, word in wanted.items()}
