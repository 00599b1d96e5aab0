"""What all commands share: where answers and messages go, and how a failure becomes one line and an exit code."""

from __future__ import annotations

import errno
import json
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from k700_text.confidential import hide_in_text
from k700_text.errors import AnnotationError, K700TextError
from k700_text.starting import takes_last_word
from k700_text.terminal import drop_stream, hold_streams, one_line, reader_has_gone, shown, write_out

EXIT_COMPLETE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_WORK_LEFT = 3
EXIT_INTERRUPTED = 130

JSON_VERSION = 1


class _Messages(Console):
    """Stderr; where its reader has gone the work goes on without a word."""

    def on_broken_pipe(self) -> None:
        """Rich would end the process, and silence stdout."""
        drop_stream("stderr")


stderr = _Messages(stderr=True, highlight=False, soft_wrap=True)


def emit_json(command: str, values: Mapping[str, Any]) -> None:
    """Prints one JSON object on stdout, in ASCII, with the command's name and the version of the format."""
    print(hide_in_text(json.dumps({"command": command, "version": JSON_VERSION, **values}, default=str)))


def emit_table(title: str, rows: Sequence[tuple[str, Any]]) -> None:
    """Prints a two-column table on stdout; a mapping becomes one line per entry, nothing is cut off."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(shown(name)), Text(shown(_cell(value))))  # and no markup: names of files may look like it
    Console(highlight=False).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {_cell(entry)}" for name, entry in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def say(message: str) -> None:
    """Prints one line for the person at the terminal on stderr."""
    try:
        stderr.print(shown(message), markup=False)
    except OSError:  # Nobody can hear it; that is no reason to fail.
        drop_stream("stderr")


def tell(line: str) -> None:
    """Prints one line of the answer on stdout."""
    print(one_line(line))


def run_guarded(main: Callable[[], None], *, debug: bool) -> int:
    """Runs a program and returns its exit code; a foreseen failure becomes one line on stderr.

    Args:
        main: the program; leaves by returning or raising.
        debug: show the traceback as well.
    """
    hold_streams()
    code = _guarded(main, debug=debug)
    error = write_out()
    if error is None:
        return code
    return EXIT_FAILED if isinstance(error, BrokenPipeError) else _unwritten(error)


def _unwritten(error: OSError) -> int:
    say(f"error: the answer cannot be written: {describe(error)}")
    return EXIT_FAILED


def _guarded(main: Callable[[], None], *, debug: bool) -> int:
    try:
        main()
    except typer.Exit as stop:
        return stop.exit_code
    except KeyboardInterrupt:
        if takes_last_word():
            say("interrupted: what was finished is saved; run the same command to continue")
        return EXIT_INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_FAILED  # Rich, whose reader has gone.
    except (K700TextError, OSError) as error:
        if isinstance(error, BrokenPipeError) and reader_has_gone():
            return EXIT_FAILED
        if isinstance(error, OSError) and write_out() is not None:
            return _unwritten(error)
        if debug:
            traceback.print_exc()
        say(f"error: {describe(error)}")
        return error.exit_code if isinstance(error, K700TextError) else EXIT_FAILED
    except UnicodeEncodeError as error:
        if debug:
            traceback.print_exc()
        say(f"error: {error.object!r} is not Unicode text: rename the file or folder, or use a UTF-8 locale")
        return EXIT_FAILED
    return EXIT_COMPLETE


_REMEDIES = {
    errno.EEXIST: "a file is where a folder is needed: choose another name, or move it away",
    errno.ENOTDIR: "a file is where a folder is needed: choose another name, or move it away",
    errno.EISDIR: "a folder is where a file is needed: choose another name",
    errno.ENOENT: "check the name",
    errno.EIO: "look after the disk or network drive, then run the same command again",
    errno.ELOOP: "name the file that it leads to, or remove the link",
    errno.EMLINK: "copy it and put the copy in its place",
    errno.ENXIO: "choose another name",
    errno.EADDRINUSE: "stop the program that uses it, or choose another --port",
}


def describe(error: K700TextError | OSError) -> str:
    """Returns the failure in one clear line (annotation problems: one line each)."""
    if isinstance(error, AnnotationError) and error.problems:
        return "\n".join([str(error), *(f"  {one_line(problem)}" for problem in error.problems)])
    if isinstance(error, OSError):
        where = f" {one_line(os.fsdecode(error.filename))}" if error.filename else ""
        if error.errno == errno.ENOSPC:
            return f"no space left on the device{where}: free some space and run the same command to continue"
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            return f"no permission to use{where}: {error.strerror}; choose a folder you can write to"
        remedy = _REMEDIES.get(error.errno or 0)
        return f"{error.strerror or error}{':' if where else ''}{where}{f'; {remedy}' if remedy else ''}"
    return str(error)
