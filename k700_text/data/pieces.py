"""Pieces of batches: what one process reads at a time, and what it says of it.

Only this travels between processes, and it is small: addresses one way, names of clips the other way.
"""

from __future__ import annotations

import pickle
import traceback
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from k700_text.data.epochs import reading_for
from k700_text.data.sample import Sample
from k700_text.data.slots import SharedMemory, Slots
from k700_text.errors import K700TextError

GENERATION, PROGRESS = 0, 1
"""Words of the shared memory: which iteration is under way; then two for each worker, its piece and its place there."""

Name = tuple[str, str | None]
"""clip_id and label of a sample."""


class Samples(Protocol):
    """A map-style dataset of samples."""

    def __getitem__(self, address: Any, /) -> Sample:
        """Returns the sample of an address."""


class Piece(NamedTuple):
    """A part of a batch, for one process to read.

    Attributes:
        number: tells pieces apart.
        generation: the iteration that it belongs to.
        epoch: of plain indexes, where the dataset was not told another.
        slot: of the batch.
        capacity: samples that a slot holds.
        first: place of its first sample in the batch.
        addresses: what to ask the dataset for.
    """

    number: int
    generation: int
    epoch: int
    slot: int
    capacity: int
    first: int
    addresses: Sequence[Any]


class Answer(NamedTuple):
    """What became of a piece.

    Attributes:
        number: of the piece.
        names: of the samples that lie in the slot now.
        error: why the sample after them does not; the others were not read.
    """

    number: int
    names: list[Name]
    error: Exception | None = None


class PieceReader:
    """Reads pieces into the slots, in whatever process it is.

    Args:
        dataset: gives the samples.
        memory: where the slots are.
        first_word: of the two that tell how far it is.
    """

    def __init__(self, dataset: Samples, memory: SharedMemory, first_word: int = PROGRESS) -> None:
        self._dataset = dataset
        self._memory = memory
        self._first_word = first_word
        self._slots: Slots | None = None

    def read(self, piece: Piece) -> Answer:
        """Reads a piece; stops early if its iteration is over."""
        names: list[Name] = []
        words, word = self._memory.words, self._first_word
        # In this order: whoever looks after a death finds a place that the piece has.
        words[word + 1] = 0
        words[word] = piece.number
        try:
            for place, address in enumerate(piece.addresses):
                words[word + 1] = place
                if words[GENERATION] != piece.generation:
                    break
                with reading_for(piece.epoch):
                    sample = self._dataset[address]
                if not isinstance(sample, Sample):
                    raise TypeError(f"the dataset gave {type(sample).__name__} for {address!r}, not a Sample")
                if self._slots is None or self._slots.capacity != piece.capacity:
                    self._slots = self._memory.slots(piece.capacity, sample)
                self._slots.write(piece.slot, piece.first + place, sample)
                names.append((sample.clip_id, sample.label))
        except Exception as error:  # noqa: BLE001 - it is raised again where the batch is asked for.
            return Answer(piece.number, names, error)
        return Answer(piece.number, names)


class InThisProcess:
    """Reads pieces here, one at a time, when their answer is asked for."""

    def __init__(self, dataset: Samples, memory: SharedMemory) -> None:
        self._memory = memory
        self._reader = PieceReader(dataset, memory)
        self._todo: deque[Piece] = deque()

    def begin(self, generation: int) -> None:
        """Begins an iteration."""
        self.stop()
        self._memory.words[GENERATION] = generation

    def stop(self) -> None:
        """Ends the iteration: what is left of it is forgotten."""
        self._todo.clear()

    def put(self, piece: Piece) -> None:
        """Takes a piece."""
        self._todo.append(piece)

    def answers(self) -> list[Answer]:
        """Returns at least one answer."""
        return [self._reader.read(self._todo.popleft())]

    def close(self) -> None:
        """Gives the memory back."""
        self._memory.close()


def packed(answer: Answer) -> bytes:
    """Returns an answer as bytes; an error goes without calling its constructor, which may want more than a text."""
    error = answer.error
    if error is None:
        return pickle.dumps((answer.number, answer.names, None))
    where = "" if isinstance(error, K700TextError) else "".join(traceback.format_exception(error))
    number, names, _ = answer
    try:
        message = pickle.dumps((number, names, (type(error), error.args, error.__dict__, where)))
        if str(unpacked(message).error) == str(error):
            return message
    except Exception:  # noqa: BLE001 - whatever the error's own content raises when it is pickled.
        pass
    return pickle.dumps((number, names, (RuntimeError, (f"{type(error).__name__}: {error}",), {}, where)))


def unpacked(message: bytes) -> Answer:
    """Returns the answer again."""
    number, names, failure = pickle.loads(message)
    if failure is None:
        return Answer(number, names)
    kind, arguments, state, where = failure
    error: Exception = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    if where:
        error.add_note(f"in a loader process:\n{where}")
    return Answer(number, names, error)
