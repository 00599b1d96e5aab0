"""Signals that ask a program to stop before it has begun: while it is still being imported.

An interrupt raised inside an import may be swallowed by it, or come out as another error; and one that no handler waits
for yet ends the process without a word. So a program that starts first calls ``end_at_once``, before the imports that
take time, and ``interrupt`` when it begins its work.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_INTERRUPTED = 130
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Of a person, of the system, and of schedulers that give notice."""


def end_at_once() -> None:
    """From now on SIGTERM, SIGUSR1 and Ctrl-C end the process with one line on stderr and exit code 130."""
    _handle(_end)


def interrupt() -> None:
    """From now on these signals raise KeyboardInterrupt."""
    _handle(signal.default_int_handler)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Makes these signals end the process inside, where modules are imported and nothing is begun."""
    before = _handle(_end)
    try:
        yield
    finally:
        _put_back(before)


@contextmanager
def interrupting() -> Iterator[None]:
    """Makes these signals raise KeyboardInterrupt inside; after the work of a whole program they have no effect."""
    before = _handle(signal.default_int_handler)
    try:
        yield
    finally:
        # What was asked for is done or saved: a signal now would only spoil the exit code.
        _put_back({number: signal.SIG_IGN if handler is _end else handler for number, handler in before.items()})


@contextmanager
def without_handlers() -> Iterator[None]:
    """Lets these signals end the process as the system does, where it waits for long in a call that runs no handler."""
    before = _handle(signal.SIG_DFL)
    try:
        yield
    finally:
        _put_back(before)


_Handler = Callable[[int, FrameType | None], Any] | int | None


def _handle(handler: _Handler) -> dict[int, _Handler]:
    """Sets a handler and returns those before it; what is ignored stays so, and so does all in other threads."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found: dict[int, _Handler] = {number: signal.getsignal(number) for number in STOPPING}
    before = {number: old for number, old in found.items() if old is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    return before


def _put_back(handlers: dict[int, _Handler]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    # Not by an exception, which an import may swallow, nor by buffers, which may be half full.
    os.write(2, b"interrupted: nothing was begun\n")
    os._exit(EXIT_INTERRUPTED)
