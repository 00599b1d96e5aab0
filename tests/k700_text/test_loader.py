from __future__ import annotations

import gc
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from k700_text import Batch, BatchLoader, KineticsAVT, Sample, collate
from k700_text.config import VideoConfig
from k700_text.data import slots, workers
from k700_text.data.epochs import SharedEpoch
from k700_text.data.sampler import StepSampler
from k700_text.errors import DecodeError, LoaderError, SchemaMismatchError, UsageError
from tests.k700_text.made import Made
from tests.k700_text.media_files import clip_id_of, make_clip, write_manifest

TENSORS = ("video", "log_mel", "token_ids", "text_mask", "has_video", "has_audio", "has_text")
# Batches that differ in length, one longer than those before it, and a last one that is not full.
ORDER = [[(0, index) for index in range(7)], [(1, 3), (0, 2)], [(2, index) for index in range(11)], [(0, 1)]]


class At(Made):
    """Made samples; something else happens at one address."""

    def __init__(self, address: Any, event: Callable[[], Any]) -> None:
        self.address = address
        self.event = event

    def __getitem__(self, address: int | tuple[int, int]) -> Sample:
        if address == self.address and (instead := self.event()) is not None:
            return instead  # type: ignore[no-any-return]  # whatever the test wants
        return super().__getitem__(address)


def raise_decode_error() -> None:
    raise DecodeError("a.mp4: bad", path="a.mp4")


def raise_schema_error() -> None:
    raise SchemaMismatchError("other columns", expected="a", actual="b")


def raise_key_error() -> None:
    raise KeyError("lost")


def of_another_shape() -> Sample:
    other = Made()
    other.num_frames = 4
    return other[9]


def sleep() -> None:
    time.sleep(0.2)


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


def same(one: Batch, other: Batch) -> bool:
    tensors = all(torch.equal(getattr(one, name), getattr(other, name)) for name in TENSORS)
    return tensors and (one.clip_id, one.label) == (other.clip_id, other.label)


def all_same(some: Iterable[Batch], others: Iterable[Batch]) -> bool:
    """Compares while the batches are valid."""
    return all(same(one, other) for one, other in zip(some, others, strict=True))


def expected(order: list[Any] = ORDER) -> list[Batch]:
    return [collate([Made()[address] for address in addresses]) for addresses in order]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.fixture
def no_process_stays() -> Iterator[None]:
    yield
    gc.collect()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_batches_are_those_of_the_plain_data_loader(num_workers: int, chunk: int) -> None:
    plain = list(DataLoader(Made(), batch_sampler=ORDER, collate_fn=collate))  # type: ignore[arg-type]  # addresses
    with BatchLoader(Made(), ORDER, num_workers=num_workers, chunk=chunk) as loader:
        assert len(loader) == 4
        assert all_same(loader, plain)
        assert all_same(loader, plain), "and again, with the same processes"
    assert all_same(loader, plain), "and after closing, with new ones"
    loader.close()


@pytest.mark.parametrize("context", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_processes_may_be_started_afresh(context: str) -> None:
    with BatchLoader(Made(), ORDER, num_workers=1, context=context) as loader:
        assert all_same(loader, expected())
        assert all_same(loader, expected())


def test_clips_come_out_of_processes_as_they_come_out_of_this_one(tmp_path: Path) -> None:
    for number in range(3):
        make_clip(tmp_path / "clips" / f"{clip_id_of(number)}.mp4", 1.7)
    rows = [{"clip_id": clip_id_of(number), "title": None} for number in range(3)]
    manifest = write_manifest(tmp_path / "manifest.parquet", rows)
    (tmp_path / "clips" / f"{clip_id_of(2)}.mp4").write_bytes(b"no film")
    video = VideoConfig(size=32, short_side=36, pixel_format="yuv420p")
    dataset = KineticsAVT(manifest, tmp_path / "clips", video=video, seed=3)
    order = list(StepSampler(3, 2, num_steps=5))
    here = [collate([dataset[address] for address in addresses]) for addresses in order]
    assert all_same(BatchLoader(dataset, order, num_workers=2), here)
    assert set(dataset.failures) == {clip_id_of(2)}


def test_the_plain_data_loader_takes_the_same_samples() -> None:
    plain = DataLoader(
        Made(),
        batch_sampler=ORDER,  # type: ignore[arg-type]  # addresses of two numbers
        collate_fn=collate,
        num_workers=1,
        persistent_workers=True,
        pin_memory=False,
        multiprocessing_context="spawn",
    )
    assert all_same(plain, expected())
    assert all_same(plain, expected())


def test_any_order_will_do() -> None:
    by_torch = BatchSampler(SequentialSampler(Made()), batch_size=5, drop_last=False)
    assert [batch.clip_id[0] for batch in BatchLoader(Made(), by_torch, num_workers=1)] == [
        "clip 0 0",
        "clip 0 5",
        "clip 0 10",
    ]
    endless = iter(BatchLoader(Made(), StepSampler(12, 4), num_workers=2))
    assert [len(next(endless)) for _ in range(9)] == [4] * 9
    assert list(BatchLoader(Made(), [], num_workers=2)) == []
    with pytest.raises(ValueError, match="batch without addresses"):
        list(BatchLoader(Made(), [[1], []], num_workers=0))
    with pytest.raises(TypeError):
        len(BatchLoader(Made(), StepSampler(12, 4), num_workers=0))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_lies_in_its_slot_until_the_next_one_is_asked_for(num_workers: int) -> None:
    order = [[index] for index in range(12)]
    views = list(BatchLoader(Made(), order, num_workers=num_workers, num_slots=2))
    assert len({view.video.data_ptr() for view in views}) == 2
    assert not all_same(views, expected(order))
    assert all_same(BatchLoader(Made(), order, num_workers=num_workers, copy=True), expected(order))
    assert all_same(list(BatchLoader(Made(), order, num_workers=num_workers, copy=True)), expected(order))


def test_the_last_batch_outlives_its_loader() -> None:
    last = list(BatchLoader(Made(), ORDER, num_workers=1))[-1]
    gc.collect()
    assert same(last, expected()[-1])


def test_the_random_numbers_of_the_consumer_are_its_own() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]  # legacy tuple
    for num_workers in (0, 2):
        list(BatchLoader(Made(), ORDER, num_workers=num_workers))
    after = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]  # legacy tuple
    assert torch.equal(before[0], after[0]) and before[1] == after[1]


class Threads(Made):
    """Tells in its tokens how many threads a process has for torch and for the others."""

    def __getitem__(self, address: int | tuple[int, int]) -> Sample:
        sample = super().__getitem__(0)
        sample.token_ids[0] = torch.get_num_threads()
        sample.token_ids[1] = max(each["num_threads"] for each in threadpool_info())
        return sample


def test_a_process_has_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (batch,) = BatchLoader(Threads(), [[0]], num_workers=1, copy=True)
    finally:
        torch.set_num_threads(before)
    assert batch.token_ids[0, :2].tolist() == [1, 1]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_what_the_dataset_raises_comes_at_its_turn_and_as_it_was(num_workers: int, no_process_stays: None) -> None:
    batches = iter(BatchLoader(At((1, 3), raise_decode_error), ORDER, num_workers=num_workers))
    assert same(next(batches), expected()[0])
    with pytest.raises(DecodeError, match=r"^a\.mp4: bad$") as caught:
        next(batches)
    assert caught.value.path == "a.mp4"
    with pytest.raises(StopIteration):
        next(batches)
    with pytest.raises(SchemaMismatchError, match=r"^other columns$") as other:
        list(BatchLoader(At((0, 1), raise_schema_error), ORDER, num_workers=num_workers))
    assert other.value.expected == "a"
    with pytest.raises(KeyError, match="lost") as foreign:
        list(BatchLoader(At((0, 1), raise_key_error), ORDER, num_workers=num_workers))
    if num_workers:
        assert "raise_key_error" in "".join(foreign.value.__notes__), "where it was raised is told"
    with pytest.raises(TypeError, match=r"gave int for \(0, 1\), not a Sample"):
        list(BatchLoader(At((0, 1), lambda: 5), ORDER, num_workers=num_workers))


def test_a_loader_goes_on_after_a_failure() -> None:
    dataset = At((1, 3), raise_decode_error)
    loader = BatchLoader(dataset, ORDER, num_workers=2)
    for _ in range(2):
        with pytest.raises(DecodeError):
            list(loader)
    loader.order = ORDER[2:]
    assert all_same(loader, expected()[2:])


class UnpicklableError(Exception):
    """An error that does not travel."""

    def __init__(self) -> None:
        super().__init__("odd")
        self.what = lambda: None


def raise_unpicklable() -> None:
    raise UnpicklableError


def test_an_error_that_does_not_travel_is_told_in_words() -> None:
    with pytest.raises(RuntimeError, match="UnpicklableError: odd"):
        list(BatchLoader(At((0, 1), raise_unpicklable), ORDER, num_workers=1))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_of_different_shapes_are_refused_by_name(num_workers: int) -> None:
    with pytest.raises(LoaderError, match=r"video is \(4, 12, 8\) in clip clip 0 9 but \(3, 12, 8\) in clip clip 0 "):
        list(BatchLoader(At((1, 3), of_another_shape), ORDER, num_workers=num_workers))


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (kill_myself, r"died \(killed by SIGKILL\) at item \(1, 3\).* memory.*use fewer loader processes"),
        (crash, r"died \(killed by SIGSEGV\) at item \(1, 3\): its decoder crashed"),
        (
            lambda: os._exit(3),
            r"died \(exit code 3\) at item \(1, 3\): what it read, or the dataset's transform, ended it",
        ),
    ],
)
def test_a_process_that_dies_is_told_at_once(event: Callable[[], None], message: str, no_process_stays: None) -> None:
    started = time.monotonic()
    with pytest.raises(LoaderError, match=message) as caught:
        list(BatchLoader(At((1, 3), event), ORDER, num_workers=2))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 5


def test_a_process_that_is_killed_while_it_waits_is_told_at_once(no_process_stays: None) -> None:
    batches = iter(BatchLoader(Made(), StepSampler(12, 4), num_workers=2))
    next(batches)
    for process in multiprocessing.active_children():
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(LoaderError, match="SIGKILL"):
        for _ in range(10):
            next(batches)


def test_half_a_message_of_a_dead_process_ends_the_others_without_a_word() -> None:
    memory = slots.SharedMemory(2)
    for left_behind in (b"\0\0\0\x05ab", b"\0\0\0\x02ab", b""):
        reader, writer = multiprocessing.Pipe(duplex=False)
        os.write(writer.fileno(), left_behind)
        writer.close()
        assert workers._next_piece(reader, memory) is None
        reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_any_use_of_a_loader_and_any_death_of_its_processes(seed: int, no_process_stays: None) -> None:
    rng = random.Random(seed)
    num_deaths = 0
    for _ in range(40):
        options = {"num_slots": rng.randint(2, 5), "chunk": rng.choice([1, 2, 4, 9])}
        with BatchLoader(Made(), [], num_workers=rng.randint(0, 4), **options) as loader:  # type: ignore[arg-type]  # numbers
            is_wounded = False
            for _ in range(rng.randint(1, 4)):
                lengths = [rng.randint(1, 14) for _ in range(rng.randint(0, 8))]
                loader.order = order = [
                    [(rng.randint(0, 3), rng.randint(0, 11)) for _ in range(length)] for length in lengths
                ]
                last, victim = rng.choice([99, 99, rng.randint(0, 6)]), rng.choice([None] * 5 + [1])
                try:
                    for number, (batch, wanted) in enumerate(zip(loader, expected(order), strict=False)):
                        assert same(batch, wanted)
                        if number == victim and (living := multiprocessing.active_children()):
                            os.kill(rng.choice(living).pid or 0, signal.SIGKILL)
                            is_wounded = True
                        if number == last:
                            break
                except LoaderError as error:
                    assert is_wounded and "SIGKILL" in str(error)
                    is_wounded = False
                    num_deaths += 1
    assert num_deaths


def test_a_process_deaf_to_everything_is_ended_all_the_same(
    monkeypatch: pytest.MonkeyPatch, no_process_stays: None
) -> None:
    monkeypatch.setattr(workers, "_GOODBYE_SECONDS", 0.1)
    loader = BatchLoader(At((0, 5), lambda: time.sleep(1000)), [[(0, 1)], [(0, 5)]], num_workers=1)
    next(iter(loader))
    started = time.monotonic()
    loader.close()
    assert time.monotonic() - started < 5


def test_processes_that_cannot_start_are_one_line(no_process_stays: None) -> None:
    with pytest.raises(LoaderError, match=r"cannot be started: .*lambda"):
        list(BatchLoader(At(0, lambda: None), ORDER, num_workers=1, context="spawn"))


def test_too_little_memory_is_told_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "free_bytes", lambda file: 50_000)
    with pytest.raises(LoaderError, match=r"2 slots for batches of 7 need 0 MB of shared memory, there are 0 MB: use"):
        list(BatchLoader(Made(), ORDER, num_workers=0))
    with pytest.raises(LoaderError, match=r"3 slots for batches of 7"):
        list(BatchLoader(Made(), ORDER, num_workers=1, num_slots=3))


@pytest.mark.parametrize("largest", [1000, 40_000])
def test_a_limit_of_file_sizes_is_one_line_wherever_memory_is_shared(largest: int) -> None:
    """For the epoch of a dataset, for the words that processes share, and for the slots."""

    def ask() -> list[str]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        found = []
        # Memory that was shared before would do for one more epoch.
        for shares in (
            lambda: [SharedEpoch() for _ in range(1000)],
            lambda: list(BatchLoader(Made(), ORDER, num_workers=0)),
            lambda: list(BatchLoader(Made(), ORDER, num_workers=1)),
        ):
            try:
                shares()
                found.append("shared")
            except LoaderError as error:
                found.append(str(error))
        return found

    texts = in_a_copy(ask)
    assert all("ulimit -f" in text and "\n" not in text for text in (texts[1:] if largest > 4096 else texts)), texts


def in_a_copy(ask: Callable[[], list[str]]) -> list[str]:
    """Calls a function in a copy of this process, and returns the lines that it returns."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, "\n".join(ask()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().split("\n")
    os.waitpid(child, 0)
    return lines


def test_without_anonymous_files_a_nameless_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.delattr(os, "posix_fallocate")
    assert all_same(BatchLoader(Made(), ORDER, num_workers=1), expected())


def test_containers_bound_memory(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100\nactive_file 50\n")
    assert slots._container_room(tmp_path) == 250
    assert slots.free_bytes(0)


def test_iterations_may_be_left_and_begun_again() -> None:
    with BatchLoader(Made(), StepSampler(12, 4), num_workers=2) as loader:
        for _ in range(5):
            for batch in loader:
                assert batch.clip_id[0] == "clip 0 " + str(StepSampler(12, 4).batch(0)[0][1])
                break
        older = iter(loader)
        next(older)
        newer = iter(loader)
        next(newer)
        with pytest.raises(RuntimeError, match="another one has begun"):
            next(older)
        assert len(next(newer)) == 4
        loader.close()
        with pytest.raises(RuntimeError, match="the loader was closed"):
            next(newer)


def test_what_is_left_behind_is_not_read_to_its_end() -> None:
    slow = At(0, sleep)
    with BatchLoader(slow, [[0] * 40] * 9, num_workers=1, chunk=40) as loader:
        loader.order = [[1], *loader.order]
        next(iter(loader))
        loader.order = [[1]]
        started = time.monotonic()
        assert len(list(loader)) == 1
    assert time.monotonic() - started < 4


def test_a_slow_disk_shows_as_waiting() -> None:
    for num_workers in (0, 1):
        loader = BatchLoader(At(0, sleep), [[0], [1]], num_workers=num_workers)
        for _ in loader:
            waited = loader.wait_seconds
            time.sleep(0.1)
        assert waited >= 0.2
        assert loader.wait_seconds < waited + 0.1, "what the consumer does is not waiting"


def test_descriptors_and_memory_are_given_back(no_process_stays: None) -> None:
    def use(num_workers: int) -> int:
        for _ in range(3):
            list(BatchLoader(Made(), ORDER, num_workers=num_workers))
            next(iter(BatchLoader(Made(), ORDER, num_workers=num_workers)))
        gc.collect()
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the listing's own descriptor has to be counted alike

    assert use(2) == use(2)
    assert use(0) == use(0)


def test_many_small_messages_do_not_block_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_capacity", lambda pipe: 500)
    order = [[(number, index % 12) for index in range(300)] for number in range(6)]
    assert all_same(BatchLoader(Made(), order, num_workers=2, chunk=1), expected(order))


@pytest.mark.parametrize("options", [{"num_workers": -1}, {"num_workers": 1, "num_slots": 1}, {"chunk": 0}])
def test_bad_arguments(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="bad loader"):
        BatchLoader(Made(), ORDER, **{"num_workers": 0, **options})


# --- programs that end before their loader does ---


def consume_for_ever(pids: Any) -> None:
    os.setsid()
    loader = BatchLoader(Made(), StepSampler(12, 4), num_workers=2)
    for number, _ in enumerate(loader):
        if not number:
            for process in multiprocessing.active_children():
                pids.put(process.pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_consumer_that_is_killed_leaves_no_processes(number: signal.Signals) -> None:
    context = multiprocessing.get_context("fork")
    pids = context.SimpleQueue()
    consumer = context.Process(target=consume_for_ever, args=(pids,))
    consumer.start()
    found = [pids.get(), pids.get()]
    assert consumer.pid is not None and all(map(is_running, found))
    os.kill(consumer.pid, number)
    consumer.join()
    assert consumer.exitcode == -number
    assert wait_until(lambda: not any(map(is_running, found)))


_PROGRAM = """
import sys, time
sys.path[:0] = {path!r}
from tests.k700_text.made import Made
from k700_text import BatchLoader
from k700_text.data.sampler import StepSampler

if __name__ == "__main__":
    loader = BatchLoader(Made(), StepSampler(12, 4), num_workers=2, context={context!r})
    try:
        for batch in loader:
            print("ready", flush=True)
            {then}
    except KeyboardInterrupt:
        print("interrupted")
"""


def program(request: pytest.FixtureRequest, then: str, context: str = "fork") -> subprocess.Popen[str]:
    text = _PROGRAM.format(path=[str(request.config.rootpath)], context=context, then=then)
    path = request.getfixturevalue("tmp_path") / "program.py"
    path.write_text(text)
    return subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=request.config.rootpath,
    )


def group_is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_program_ends_that_leaves_its_loop_and_forgets_the_loader(
    request: pytest.FixtureRequest, context: str
) -> None:
    with program(request, "break", context) as left:
        out, error = left.communicate(timeout=60)
    assert (left.returncode, out, error) == (0, "ready\n", "")
    assert wait_until(lambda: group_is_empty(left.pid))


def test_an_interruption_is_the_programs_own_affair(request: pytest.FixtureRequest) -> None:
    with program(request, "time.sleep(60)") as interrupted:
        assert interrupted.stdout is not None
        assert interrupted.stdout.readline() == "ready\n"
        os.killpg(interrupted.pid, signal.SIGINT)
        out, error = interrupted.communicate(timeout=60)
    assert (interrupted.returncode, out, error) == (0, "interrupted\n", "")
    assert wait_until(lambda: group_is_empty(interrupted.pid))


@pytest.mark.slow
def test_a_program_that_every_process_would_begin_again_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(
        "from k700_text import BatchLoader\nlist(BatchLoader(None, [[0]], num_workers=1, context='spawn'))\n"
    )
    ended = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=False)
    last = ended.stderr.splitlines()[-1]
    assert "LoaderError: a loader process did not start (exit code 1)" in last and "__main__" in last


# --- leaving slots later than the loop does, as on a GPU ---


class LateCopy:
    """Copies a batch only after it was asked a few times whether it has."""

    def __init__(self, source: Batch, target: Batch) -> None:
        self.source, self.target = source, target
        self.num_questions = 0

    def query(self) -> bool:
        self.num_questions += 1
        if self.num_questions > 2:
            self.synchronize()
            return True
        return False

    def synchronize(self) -> None:
        for name in TENSORS:
            getattr(self.target, name).copy_(getattr(self.source, name))


class LateHandOver:
    """Yields batches that are copied while the program goes on."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def prepare(self, slots: Any) -> None:
        self.calls.append(f"prepare for {slots.capacity}")

    def give(self, batch: Batch) -> tuple[Batch, LateCopy]:
        there = batch.clone()
        for name in TENSORS:
            getattr(there, name).zero_()
        return there, LateCopy(batch, there)

    def forget(self) -> None:
        self.calls.append("forget")


@pytest.mark.parametrize("num_slots", [2, 4])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_slot_is_filled_again_only_when_its_copy_is_done(num_workers: int, num_slots: int) -> None:
    order = [[(number, index) for index in range(5)] for number in range(12)] + ORDER
    with BatchLoader(Made(), order, num_workers=num_workers, num_slots=num_slots) as loader:
        hand_over = loader._hand_over = LateHandOver()
        assert not same(next(iter(loader)), expected(order)[0]), "not yet there"
        batches = list(loader)
    assert all_same(batches, expected(order))
    changes = [f"prepare for {capacity}" for capacity in (5, 7, 11)]
    assert [call for call in hand_over.calls if call != "forget"] == changes
    assert hand_over.calls[-1] == "forget", "in the end, and before other slots are made"


# --- on a GPU ---


@pytest.mark.parametrize(("device", "message"), [("gpu", "'gpu' names no device"), ("cuda:99", r"torch sees \d GPUs")])
def test_a_device_that_is_not_there_is_told_at_once(device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BatchLoader(Made(), ORDER, num_workers=0, device=device)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("pin_memory", [None, False])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_come_to_the_device_and_stay(num_workers: int, pin_memory: bool | None) -> None:
    order = [[(number, index) for index in range(12)] for number in range(40)]
    loader = BatchLoader(
        Made(), order, num_workers=num_workers, num_slots=2, device="cuda", pin_memory=pin_memory, chunk=5
    )
    batches = list(loader)
    assert all(batch.video.is_cuda and batch.has_text.is_cuda for batch in batches)
    assert all_same((batch.to("cpu") for batch in batches), expected(order))


@pytest.mark.gpu
@needs_gpu
def test_a_slot_is_not_filled_again_while_it_is_copied() -> None:
    order = [[(number, index) for index in range(12)] for number in range(30)]
    busy = torch.randn(4096, 4096, device="cuda")
    kept = []
    for batch in BatchLoader(Made(), order, num_workers=2, num_slots=2, device="cuda"):
        kept.append(batch)
        for _ in range(10):  # the next copy waits behind this
            busy = busy @ busy / 64
    assert all_same((batch.to("cpu") for batch in kept), expected(order))


@pytest.mark.gpu
@needs_gpu
def test_slots_are_page_locked_and_what_cannot_be_is_staged(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = BatchLoader(Made(), ORDER, num_workers=1, device="cuda")
    assert all_same((batch.to("cpu") for batch in loader), expected())
    assert loader._filler is not None and loader._filler._slots is not None
    assert loader._filler._slots.memory.is_pinned()
    loader.close()
    monkeypatch.setattr("k700_text.data.handover._page_locked", lambda memory, device: False)
    assert all_same((batch.to("cpu") for batch in BatchLoader(Made(), ORDER, num_workers=1, device="cuda")), expected())
    assert all_same(BatchLoader(Made(), ORDER, num_workers=0, pin_memory=True), expected())
