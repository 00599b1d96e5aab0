"""What the programs of this package have in common: exit codes, progress on stderr, one line for what goes wrong."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from k700_text.errors import K700TextError
from k700_text.starting import EXIT_INTERRUPTED as EXIT_INTERRUPTED
from k700_text.starting import end_interrupted, ending_at_once, interrupting, takes_last_word
from k700_text.terminal import drop_stream, hold_streams, one_line, reader_has_gone, shown, write_out
from lava_model.errors import ConfigError, LavaError, MissingExtraError

EXIT_COMPLETE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
IMPORT_SECONDS = 5.0
"""After this long a person at a terminal is told what is waited for."""


class Parser(argparse.ArgumentParser):
    """One whose complaint is one line, like those of all other options."""

    def error(self, message: str) -> NoReturn:
        """Raises a ConfigError."""
        raise ConfigError(f"{message} (see {self.prog} --help)")


def run_program(run: Callable[[list[str]], int], arguments: Sequence[str] | None, *, interrupted: str) -> int:
    """Returns the exit code of a program; an error becomes one line, with its traceback after ``--debug``.

    Args:
        run: takes the words of the command line and returns the exit code.
        arguments: these words; None: those of this process, which then is this program: a second Ctrl-C ends it at
            once, and so does a first one that it does not obey within seconds.
        interrupted: what to do after Ctrl-C, SIGTERM or SIGUSR1, for the line about it.
    """
    hold_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    code = _guarded(run, words, f"interrupted: {interrupted}", is_own=arguments is None)
    error = write_out()
    if error is None:
        return code
    return EXIT_FAILED if isinstance(error, BrokenPipeError) else _unwritten(error)


def _guarded(run: Callable[[list[str]], int], words: list[str], last_words: str, *, is_own: bool) -> int:
    try:
        with interrupting(last_words=last_words if is_own else None):
            return run(words)
    except KeyboardInterrupt:
        if takes_last_word():
            say(last_words)
        if is_own:
            write_out()
            end_interrupted()  # Threads and processes that still work are not waited for.
        return EXIT_INTERRUPTED
    except SystemExit as stop:  # argparse has shown its help
        return stop.code if isinstance(stop.code, int) else EXIT_COMPLETE
    except (LavaError, K700TextError, OSError) as error:
        if isinstance(error, BrokenPipeError) and reader_has_gone():
            return EXIT_FAILED
        if isinstance(error, OSError) and write_out() is not None:
            return _unwritten(error)
        if "--debug" in words:
            traceback.print_exc()
        say(f"{_rank_prefix()}error: {one_line(str(error))}")
        return error.exit_code if isinstance(error, LavaError | K700TextError) else EXIT_FAILED


def _unwritten(error: OSError) -> int:
    say(f"error: the answer cannot be written: {one_line(str(error))}")
    return EXIT_FAILED


def import_modules(*names: str, purpose: str) -> None:
    """Imports the modules that take seconds, before anything is begun: a signal ends the process with one line.

    Where it takes long, as the first time from a slow disk, a line on a terminal says what is waited for.

    Args:
        names: modules that will be used.
        purpose: what needs them, for the message.

    Raises:
        MissingExtraError: one of them needs a package that is not installed.
    """
    patience = threading.Timer(IMPORT_SECONDS, say, ["loading PyTorch and what else is needed ..."])
    patience.daemon = True
    if sys.stderr.isatty():
        patience.start()
    try:
        with ending_at_once():
            for name in names:
                importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"{purpose} needs {error.name or error}: pip install 'k700-text[train]'") from error
    finally:
        patience.cancel()


def say(line: str) -> None:
    """Prints a line of progress; stdout is for the answer."""
    try:
        print(shown(line), file=sys.stderr, flush=True)
    except OSError:  # Nobody can hear it; that is no reason to fail.
        drop_stream("stderr")


def tell(text: str) -> None:
    """Prints lines of the answer on stdout."""
    print(shown(text))


def _rank_prefix() -> str:
    """Returns which of several processes speaks; nothing where there is one."""
    return "" if os.environ.get("WORLD_SIZE", "1") == "1" else f"[rank {os.environ.get('RANK', '?')}] "
