"""The processes that read samples into shared slots: all take pieces of batches from one pipe, so none has to wait."""

from __future__ import annotations

import fcntl
import os
import pickle
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, util
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from k700_text.data.pieces import GENERATION, PROGRESS, Answer, Piece, PieceReader, Samples, packed, unpacked
from k700_text.data.slots import TAKING_WORK, SharedMemory, free_bytes, megabytes
from k700_text.errors import LoaderError

_GOODBYE_SECONDS = 1.0
_PARENT_CHECK_SECONDS = 0.5
_IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SMALLEST_PIPE = 4096

_AT_NONE = -1
"""Place of a process that has started and has not had a piece."""


class Workers:
    """Processes that read pieces; they end with this object and with this process, however that ends.

    Args:
        dataset: gives the samples; reaches the processes as they are started.
        memory: where the slots are.
        number: of processes.
        context: how they are started.

    Raises:
        LoaderError: they cannot be started.
    """

    def __init__(self, dataset: Samples, memory: SharedMemory, number: int, context: BaseContext) -> None:
        self._memory = memory
        self._tasks_reader, self._tasks = context.Pipe(duplex=False)
        # The rest is for the goodbyes.
        self._room = _capacity(self._tasks) * 3 // 4
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._sent: dict[int, int] = {}
        self._pieces: dict[int, Piece] = {}
        self._processes: dict[Connection, BaseProcess] = {}
        # Before multiprocessing's own end-of-program work, which would wait for ever for the deaf.
        self._end = util.Finalize(
            self, _end_all, (self._processes, self._tasks, self._tasks_reader, memory), exitpriority=100
        )
        try:
            with _signals_held_back(), _one_thread_each():
                for index in range(number):
                    self._start(dataset, index, context)
        # A dataset that does not pickle raises one of the first three, a process that may have no children the fourth.
        except (TypeError, AttributeError, pickle.PicklingError, AssertionError, OSError) as error:
            self.close()
            raise LoaderError(f"loader processes cannot be started: {error}") from error
        self._tasks_reader.close()

    def begin(self, generation: int) -> None:
        """Begins an iteration, once nobody is at a piece of the one before.

        Raises:
            LoaderError: a process died.
        """
        self.stop()
        while self._pieces:
            self.answers()
        self._memory.words[GENERATION] = generation

    def stop(self) -> None:
        """Ends the iteration: who is at a piece of it leaves off after the sample under way."""
        self._memory.words[GENERATION] = 0
        for number, _ in self._waiting:
            del self._pieces[number]
        self._waiting.clear()

    def put(self, piece: Piece) -> None:
        """Hands out a piece."""
        self._pieces[piece.number] = piece
        self._waiting.append((piece.number, pickle.dumps(piece)))
        self._send()

    def answers(self) -> list[Answer]:
        """Waits for answers; returns at least one.

        Raises:
            LoaderError: a process died.
        """
        answers = []
        for reader in connection.wait(self._processes):
            assert isinstance(reader, Connection)
            try:
                message = reader.recv_bytes()
            # A process that dies closes its end, if need be in the middle of an answer.
            except (EOFError, OSError):
                raise self._death() from None
            answers.append(unpacked(message))
        for answer in answers:
            del self._pieces[answer.number], self._sent[answer.number]
        self._send()
        return answers

    def close(self) -> None:
        """Ends the processes and gives the memory back."""
        self._end()

    def _start(self, dataset: Samples, index: int, context: BaseContext) -> None:
        mine, theirs = context.Pipe(duplex=False)
        # A forked process has this end too, and would never learn that there is no more work.
        not_theirs = self._tasks if context.get_start_method() == "fork" else None
        process: BaseProcess = context.Process(  # type: ignore[attr-defined]  # typeshed leaves it out of BaseContext
            target=_work,
            args=(index, dataset, self._memory, self._tasks_reader, theirs, not_theirs),
            name=f"loader process {index}",
            daemon=True,
        )
        try:
            process.start()
        except BaseException:
            mine.close()
            raise
        finally:
            theirs.close()
        self._processes[mine] = process

    def _send(self) -> None:
        # Never more than the pipe holds: this process must not wait for one that waits for it.
        while self._waiting and (not self._sent or sum(self._sent.values()) + len(self._waiting[0][1]) < self._room):
            number, message = self._waiting.popleft()
            self._sent[number] = len(message) + 8
            with suppress(BrokenPipeError):  # All are dead, as reading their answers will show.
                self._tasks.send_bytes(message)

    def _death(self) -> LoaderError:
        by_sentinel = {process.sentinel: process for process in self._processes.values()}
        for sentinel in connection.wait(by_sentinel, _GOODBYE_SECONDS):
            by_sentinel[sentinel].join(_GOODBYE_SECONDS)  # type: ignore[index]  # the numbers that it was given
        codes = [process.exitcode for process in self._processes.values()]
        # One that was killed may have left half a message behind, of which others ended: it comes first.
        code = min((code for code in codes if code is not None), default=None)
        index = codes.index(code)
        number, place = self._memory.words[PROGRESS + 2 * index : PROGRESS + 2 * index + 2]
        if not number and place != _AT_NONE and (code or 0) >= 0:
            return LoaderError(
                f"a loader process did not start ({_ending(code)}): what is on stderr tells why; if it begins the whole"
                " program again, call this under `if __name__ == '__main__':`"
            )
        piece = self._pieces.get(number)
        what = f"a loader process died ({_ending(code)})"
        if piece is not None:
            what += f" at item {piece.addresses[place]!r}"
        if code == -signal.SIGSEGV:
            return LoaderError(f"{what}: its decoder crashed; leave that clip out, or report it")
        if code is None or code >= 0:
            return LoaderError(f"{what}: what it read, or the dataset's transform, ended it; stderr may tell more")
        room = free_bytes(self._memory.file)
        left = "" if room is None else f" ({megabytes(room)} are free now, batches take {megabytes(self._memory.size)})"
        return LoaderError(
            f"{what}, most often for want of memory{left}: use fewer loader processes, 0 to read in the main one,"
            " or smaller batches"
        )


def _ending(code: int | None) -> str:
    if code is None:
        return "it closed its pipe"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _end_all(
    processes: dict[Connection, BaseProcess], tasks: Connection, tasks_reader: Connection, memory: SharedMemory
) -> None:
    try:
        memory.words[GENERATION] = 0
        tasks_reader.close()
        with suppress(OSError):
            for _ in processes:
                tasks.send_bytes(b"")
        tasks.close()
    finally:
        deadline = time.monotonic() + _GOODBYE_SECONDS
        for reader, process in processes.items():
            reader.close()
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join(_GOODBYE_SECONDS)
        processes.clear()
        memory.close()


def _work(
    index: int,
    dataset: Samples,
    memory: SharedMemory,
    tasks: Connection,
    answers: Connection,
    not_mine: Connection | None,
) -> None:
    """What a process does until it is sent home or its parent is gone."""
    if not_mine is not None:
        not_mine.close()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    _prepare(index)
    memory.words[PROGRESS + 2 * index + 1] = _AT_NONE
    reader = PieceReader(dataset, memory, PROGRESS + 2 * index)
    with suppress(BrokenPipeError, ConnectionResetError):
        while (piece := _next_piece(tasks, memory)) is not None:
            answers.send_bytes(packed(reader.read(piece)))


def _next_piece(tasks: Connection, memory: SharedMemory) -> Piece | None:
    """Takes a piece; None if there is nothing more to do."""
    try:
        with memory.locked(TAKING_WORK):
            message = tasks.recv_bytes()
        return Piece(*pickle.loads(message)) if message else None
    except Exception:  # noqa: BLE001 - what follows half a message, that of a process killed while it took it, is noise.
        return None


def _prepare(index: int) -> None:
    # The whole group is signalled, and the parent alone decides when its workers end.
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED_SIGNALS)
    torch.set_num_threads(1)
    threadpool_limits(1)
    # Samples must not depend on these; if a transform of somebody else's does, workers at least differ.
    random.seed(index)
    np.random.seed(index)
    torch.manual_seed(index)


def _end_with_parent(parent: int) -> None:
    # Its end of the pipes may live on in other processes that it forked.
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    os._exit(1)


def _capacity(pipe: Connection) -> int:
    if hasattr(fcntl, "F_GETPIPE_SZ"):
        return fcntl.fcntl(pipe.fileno(), fcntl.F_GETPIPE_SZ)
    return _SMALLEST_PIPE


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Processes started inside begin deaf to what would end them before they can say how they take it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Libraries of processes started afresh inside have one thread from their first moment."""
    before = {name: os.environ.get(name) for name in _THREAD_SETTINGS}
    os.environ.update(dict.fromkeys(_THREAD_SETTINGS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
