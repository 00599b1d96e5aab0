"""Signals that ask a program to stop: while it is still being imported, while it works, and when it does not listen.

An interrupt raised inside an import may be swallowed by it, or come out as another error; and one that no handler waits
for yet ends the process without a word. So a program that starts first calls ``end_at_once``, before the imports that
take time, and ``interrupt`` when it begins its work.

An interrupt reaches the main thread only, between two steps of Python: a call that takes long, a lock, or another
thread that does not end may keep it for ever. ``interrupt_surely`` has a thread that looks after it.
"""

from __future__ import annotations

import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

EXIT_INTERRUPTED = 130
PATIENCE_SECONDS = 8.0
"""How long a program may take to end by itself after the first signal."""
# A group, a shell and a scheduler may all pass on what was meant once.
_ECHO_SECONDS = 0.2
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Of a person, of the system, and of schedulers that give notice."""


def end_at_once() -> None:
    """From now on SIGTERM, SIGUSR1 and Ctrl-C end the process with one line on stderr and exit code 130."""
    _handle(_end)


def interrupt() -> None:
    """From now on these signals raise KeyboardInterrupt."""
    _handle(signal.default_int_handler)


def interrupt_surely() -> None:
    """From now on the first of these signals raises KeyboardInterrupt; the program ends at the second one at once.

    It also ends if it has not done so ``PATIENCE_SECONDS`` after the first. Such an end has one line on stderr and exit
    code 130, takes child processes along, and writes nothing more: it is for programs that may be killed at any moment.
    """
    if _handle(_interrupt_once):
        _watch("interrupted: what was finished is saved; run the same command to continue")


def _watch(last_words: str) -> None:
    """Starts the thread that looks after the signals; once in a process."""
    global _last_word
    if _last_word is not None:
        return
    _last_word = threading.Lock()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Written when the signal comes, whatever the main thread is at.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    # Not to that thread: where the main thread holds signals back for a moment, they are to wait for it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    threading.Thread(target=_insist, args=(reader, last_words), name="interrupts", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def patience(seconds: float, *, ended_by: Sequence[int] = STOPPING) -> Iterator[None]:
    """Lets a program take so long to end after the first signal, where it has others to wait for, or much to save.

    Args:
        seconds: may be infinite.
        ended_by: signals that end it at once when they come second.
    """
    global _patience_seconds, _ended_by
    before = _patience_seconds, _ended_by
    _patience_seconds, _ended_by = seconds, ended_by
    try:
        yield
    finally:
        _patience_seconds, _ended_by = before


def ends_surely() -> bool:
    """Returns whether this process ends at once at the second signal, so that nobody else needs to see to it."""
    return _last_word is not None


def takes_last_word() -> bool:
    """Returns True for one of the program and what ends it surely: that one says that it was interrupted."""
    return _last_word is None or _last_word.acquire(blocking=False)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Makes these signals end the process inside, where modules are imported and nothing is begun."""
    before = _handle(_end)
    try:
        yield
    finally:
        _put_back(before)


@contextmanager
def interrupting(*, last_words: str | None = None) -> Iterator[None]:
    """Makes these signals raise KeyboardInterrupt inside; after the work of a whole program they have no effect.

    Args:
        last_words: of a process that does nothing else: it then ends as surely as ``interrupt_surely`` says, with
            these. None: whoever called the program handles the interrupt.
    """
    before = _handle(signal.default_int_handler if last_words is None else _interrupt_once)
    if before and last_words is not None:
        _watch(last_words)
    try:
        yield
    finally:
        # What was asked for is done or saved: a signal now would only spoil the exit code. Where the program is ending
        # for one, the second one still is to be heard.
        if _do_nothing not in map(signal.getsignal, before):
            _put_back({number: signal.SIG_IGN if handler is _end else handler for number, handler in before.items()})


@contextmanager
def without_handlers() -> Iterator[None]:
    """Lets these signals end the process as the system does, where it waits for long in a call that runs no handler."""
    before = _handle(signal.SIG_DFL)
    try:
        yield
    finally:
        _put_back(before)


@contextmanager
def held_back() -> Iterator[None]:
    """Lets these signals wait until the end, where something is begun that must not be left half done.

    Blocking them in the main thread is not enough: another thread of any library would take them for it.
    """
    noted: list[int] = []
    before = _handle(lambda number, frame: noted.append(number))
    try:
        yield
    finally:
        _put_back(before)
        for number in noted[:1]:
            handler = before[number]
            if callable(handler):
                handler(number, None)
            else:
                signal.raise_signal(number)


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


_patience_seconds = PATIENCE_SECONDS
_ended_by: Sequence[int] = STOPPING
_last_word: threading.Lock | None = None


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    _handle(_do_nothing)
    raise KeyboardInterrupt


def _do_nothing(number: int, frame: FrameType | None) -> None:
    # Not ignored: then nobody would hear of it.
    pass


def _insist(reader: int, last_words: str) -> None:
    """Waits for the first signal, then for the second one or for patience to end, and ends the process."""
    while not _comes(STOPPING, reader, math.inf):
        pass
    began = time.monotonic()
    while (left := began + _patience_seconds - time.monotonic()) > 0:
        if _comes(_ended_by, reader, left) and time.monotonic() - began > _ECHO_SECONDS:
            break
    if takes_last_word():
        # A progress bar may have hidden the cursor.
        shown = b"\x1b[?25h\n" if os.isatty(2) else b""
        os.write(2, shown + f"{last_words}\n".encode())
    end_interrupted()


def end_interrupted() -> NoReturn:
    """Ends the process with exit code 130, and all that it has started: nobody is waited for any more."""
    for child in list(_descendants("self")):
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
    os._exit(EXIT_INTERRUPTED)


def _comes(numbers: Sequence[int], reader: int, seconds: float) -> bool:
    """Waits for signals, no longer than that; returns whether one of these came."""
    ready, _, _ = select.select([reader], [], [], None if math.isinf(seconds) else seconds)
    # Nothing may be looked up before: whom the second signal is to end may have changed while this waited.
    return bool(ready) and any(number in numbers for number in os.read(reader, 64))


def _descendants(process: int | str) -> Iterator[int]:
    """Yields the processes that one has started, and theirs, on systems that tell."""
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError, ValueError):
            for child in map(int, task.read_text().split()):
                yield from _descendants(child)
                # It ends by itself, after it has tidied up behind the others.
                if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes():
                    yield child


def _end(number: int, frame: FrameType | None) -> None:
    # Not by an exception, which an import may swallow, nor by buffers, which may be half full.
    os.write(2, b"interrupted: nothing was begun\n")
    os._exit(EXIT_INTERRUPTED)
