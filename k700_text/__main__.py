"""``python -m k700_text`` is the k700-text command."""

from __future__ import annotations

import sys

from k700_text.starting import EXIT_INTERRUPTED, end_at_once


def run() -> None:
    """Runs the command; a signal while it is still being imported ends it with one line."""
    end_at_once()
    try:
        from k700_text.cli.main import run as run_command
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: nothing was begun\n")
        sys.exit(EXIT_INTERRUPTED)
    run_command()


if __name__ == "__main__":
    run()
