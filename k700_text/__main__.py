"""``python -m k700_text`` is the k700-text command."""

from __future__ import annotations

from k700_text.cli.main import run

run()
