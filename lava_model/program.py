"""What the programs of this package have in common: exit codes, progress on stderr, one line for what goes wrong."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from k700_text.errors import K700TextError
from lava_model.errors import ConfigError, LavaError

EXIT_COMPLETE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """One whose complaint is one line, like those of all other options."""

    def error(self, message: str) -> NoReturn:
        """Raises a ConfigError."""
        raise ConfigError(f"{message} (see {self.prog} --help)")


def run_program(run: Callable[[list[str]], int], arguments: Sequence[str] | None, *, interrupted: str) -> int:
    """Returns the exit code of a program; an error becomes one line, with its traceback after ``--debug``.

    Args:
        run: takes the words of the command line and returns the exit code.
        arguments: these words; None: those of this process.
        interrupted: what to do after Ctrl-C, for the line about it.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return run(words)
    except KeyboardInterrupt:
        say(f"interrupted: {interrupted}")
        return EXIT_INTERRUPTED
    except (LavaError, K700TextError, OSError) as error:
        if "--debug" in words:
            traceback.print_exc()
        say(f"{_rank_prefix()}error: {error}")
        return error.exit_code if isinstance(error, LavaError | K700TextError) else EXIT_FAILED


def say(line: str) -> None:
    """Prints a line of progress; stdout is for the answer."""
    # A file name may hold bytes that are no text: shown, they must not break the message.
    print(line.encode("utf-8", "backslashreplace").decode(), file=sys.stderr, flush=True)


def _rank_prefix() -> str:
    """Returns which of several processes speaks; nothing where there is one."""
    return "" if os.environ.get("WORLD_SIZE", "1") == "1" else f"[rank {os.environ.get('RANK', '?')}] "
