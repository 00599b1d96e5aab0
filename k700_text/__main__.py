"""``python -m k700_text`` is the k700-text command."""

from __future__ import annotations

import sys


def run() -> None:
    """Runs the command; Ctrl-C while it is still being imported ends it without a traceback."""
    try:
        from k700_text.cli.main import run as run_command
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: nothing was begun\n")
        sys.exit(130)
    run_command()


if __name__ == "__main__":
    run()
