"""One owner per outside thing, where import-linter cannot see it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "k700_text").rglob("*.py"), *(ROOT / "lava_model").rglob("*.py")])


@pytest.mark.parametrize(
    ("pattern", "owners"),
    [
        # Columns of ours; a part of a schema may be put together anew.
        (r"\bpa\.schema\((?!\[field\.|\[schema\.|\[\]\))", {"k700_text/schema.py"}),
        (
            r"^\s*(import torch\.distributed|from torch\.distributed|from torch import distributed)",
            {"lava_model/distributed.py"},
        ),
        # Merging saves what can still be read of a damaged file, step by step.
        (r"^\s*import sqlite3|^\s*from sqlite3", {"k700_text/crawl/ledger_store.py", "k700_text/crawl/merge.py"}),
        (r"^\s*import tokenizers|^\s*from tokenizers", {"k700_text/data/text.py"}),
        (r"^\s*import huggingface_hub|^\s*from huggingface_hub", {"lava_model/hub.py"}),
    ],
)
def test_an_outside_thing_has_one_owner(pattern: str, owners: set[str]) -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert users == owners


def test_nothing_is_said_of_lava_model_inside_k700_text() -> None:
    for path in SOURCES:
        if "k700_text" in path.relative_to(ROOT).parts[0]:
            assert "lava_model" not in path.read_text(encoding="utf-8"), path
