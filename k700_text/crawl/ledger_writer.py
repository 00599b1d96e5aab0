"""The thread that writes a ledger: everybody else only queues, and waits for nothing but room and ``flush``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from k700_text.crawl.ledger_store import INSERT_OUTCOME, Connection, insert_outcomes, translated
from k700_text.errors import LedgerError

BATCH_OUTCOMES = 5000
BATCH_SECONDS = 0.05
QUEUE_OUTCOMES = 20_000


class LedgerWriter:
    """Commits batches; after a failure it only empties its queue.

    Args:
        path: the SQLite file.
        connection: to it; closed at the end.
    """

    def __init__(self, path: Path, connection: Connection) -> None:
        self._path = path
        self._file = _inode(path)
        self._connection = connection
        self._failure: LedgerError | None = None
        self._queue: list[tuple[str, tuple[Any, ...]]] = []
        self._num_added = 0
        self._num_committed = 0
        self._is_urgent = False
        self._is_closing = False
        self._has_ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises LedgerError once writing has failed."""
        if self._failure:
            raise self._failure

    def add(self, item: tuple[str, tuple[Any, ...]]) -> None:
        """Queues (statement, values)."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or len(self._queue) < QUEUE_OUTCOMES)
            self._check_open()
            self._queue.append(item)
            self._num_added += 1
            if len(self._queue) in (1, BATCH_OUTCOMES):
                self._changed.notify_all()

    def flush(self) -> None:
        """Returns when everything queued so far is committed."""
        with self._changed:
            self._check_open()
            target = self._num_added
            self._is_urgent = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._has_ended or self._num_committed >= target)
            self.check()

    def close(self) -> None:
        """Commits what is queued and ends the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()

    def _check_open(self) -> None:
        self.check()
        if self._has_ended:
            raise LedgerError(f"{self._path} is closed: run the same command to continue")

    def _write(self) -> None:
        try:
            while batch := self._next_batch():
                if not self._failure:
                    self._commit(batch)
                with self._changed:
                    self._num_committed += len(batch)
                    self._changed.notify_all()
        finally:
            # Also after a second interruption closed the file under those who still write: nobody waits for ever.
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()
            self._connection.close()

    def _next_batch(self) -> list[tuple[str, tuple[Any, ...]]]:
        """Returns what is queued, after giving more a moment to come; nothing only at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_closing)
            self._changed.wait_for(
                lambda: self._is_urgent or self._is_closing or len(self._queue) >= BATCH_OUTCOMES, BATCH_SECONDS
            )
            batch, self._queue = self._queue, []
            self._is_urgent = False
            self._changed.notify_all()
            return batch

    def _commit(self, batch: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        try:
            if _inode(self._path) != self._file:
                raise LedgerError(f"{self._path} was deleted or replaced while in use: run the same command again")
            with translated(self._path), self._connection as connection:
                for statement, items in groupby(batch, key=lambda item: item[0]):
                    rows = [values for _, values in items]
                    if statement == INSERT_OUTCOME:
                        insert_outcomes(connection, rows)
                    else:
                        connection.executemany(statement, rows)
        except LedgerError as error:
            self._failure = error
        except (ValueError, OverflowError) as error:
            self._failure = LedgerError(f"{self._path} cannot hold an answer: {error}")


def _inode(path: Path) -> int | None:
    """Tells files of one name apart: SQLite goes on writing into one that was deleted, and so for nobody."""
    try:
        return path.stat().st_ino
    except OSError:
        return None
