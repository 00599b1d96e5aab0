from __future__ import annotations

import copy
import itertools
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    SequentialSampler,
    Subset,
    random_split,
)

from k700_text import Batch, BatchLoader, KineticsAVT, Sample, collate
from k700_text.config import VideoConfig
from k700_text.data import loader
from k700_text.data.epochs import SharedEpoch
from k700_text.data.text import train_tokenizer
from lava_model.presets import preset
from lava_model.synthetic import SyntheticAVT
from tests.k700_text.media_files import clip_id_of, make_clip, write_manifest

NUM_CLIPS = 4
Look = dict[str, bytes]
"""What every clip looked and sounded like in one iteration, by clip id."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for number in range(NUM_CLIPS):
        make_clip(root / f"{clip_id_of(number)}.mp4", 2.2)
    write_manifest(root / "m.parquet", [{"clip_id": clip_id_of(number)} for number in range(NUM_CLIPS)])
    return root


@pytest.fixture
def dataset(folder: Path) -> KineticsAVT:
    return make(folder)


def make(folder: Path, **options: Any) -> KineticsAVT:
    video = VideoConfig(size=16, short_side=18, num_frames=2)
    return KineticsAVT(folder / "m.parquet", folder, video=video, **options)


def look_of(samples: Iterable[Sample]) -> Look:
    return {sample.clip_id: sample.video.numpy().tobytes() + sample.log_mel.numpy().tobytes() for sample in samples}


def look(batches: Iterable[Batch]) -> Look:
    """Goes through a loader once."""
    rows = ((batch, row) for batch in batches for row in range(len(batch)))
    return {
        batch.clip_id[row]: batch.video[row].numpy().tobytes() + batch.log_mel[row].numpy().tobytes()
        for batch, row in rows
    }


def all_differ(*looks: Look) -> bool:
    assert all(one.keys() == looks[0].keys() for one in looks)
    return all(len({one[clip_id] for one in looks}) == len(looks) for clip_id in looks[0])


def of_epoch(dataset: KineticsAVT, epoch: int) -> Look:
    return look_of(dataset[(epoch, index)] for index in range(len(dataset)))


WRAPPERS: dict[str, Callable[[KineticsAVT], Dataset[Sample]]] = {
    "alone": lambda dataset: dataset,
    "subset": lambda dataset: Subset(dataset, [2, 0]),
    "slice": lambda dataset: dataset[1:],
    "split": lambda dataset: random_split(dataset, [3, 1])[0],
    "concat": lambda dataset: ConcatDataset([Subset(dataset, [1]), dataset[2:]]),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(("num_workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_epochs_differ_and_seeds_repeat_though_nobody_sets_one(
    dataset: KineticsAVT, wrapper: str, num_workers: int, persistent: bool
) -> None:
    def run() -> list[Look]:
        torch.manual_seed(7)
        batches: DataLoader[Batch] = DataLoader(
            WRAPPERS[wrapper](dataset),  # type: ignore[arg-type]  # what collate makes of samples
            batch_size=2,
            shuffle=True,
            num_workers=num_workers,
            persistent_workers=persistent,
            collate_fn=collate,
        )
        return [look(batches) for _ in range(3)]

    first = run()
    assert all_differ(*first)
    if wrapper == "alone":
        assert run() == first


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_an_epoch_that_is_set_reaches_workers_that_run(dataset: KineticsAVT, context: str) -> None:
    batches: DataLoader[Batch] = DataLoader(
        ConcatDataset([dataset[:2], dataset[2:]]),  # type: ignore[arg-type]  # what collate makes of samples
        batch_size=3,
        num_workers=2 if context == "fork" else 1,
        persistent_workers=True,
        multiprocessing_context=context,
        collate_fn=collate,
    )
    assert all_differ(look(batches), look(batches))
    for epoch in (5, 0, 5):
        dataset.set_epoch(epoch)
        assert look(batches) == of_epoch(dataset, epoch)


def seed_alike(worker: int) -> None:
    torch.manual_seed(worker)


def test_workers_that_are_always_seeded_alike_still_differ(dataset: KineticsAVT) -> None:
    batches: DataLoader[Batch] = DataLoader(
        dataset,  # type: ignore[arg-type]  # what collate makes of samples
        num_workers=1,
        worker_init_fn=seed_alike,
        collate_fn=collate,
    )
    assert all_differ(look(batches), look(batches))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_loader_counts_its_iterations(
    dataset: KineticsAVT, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_iterations", itertools.count(11))
    order = BatchSampler(SequentialSampler(dataset), batch_size=3, drop_last=False)
    before = torch.get_rng_state()
    with BatchLoader(dataset, order, num_workers=num_workers) as batches:
        assert [look(batches), look(batches)] == [of_epoch(dataset, 11), of_epoch(dataset, 12)]
        another = BatchLoader(Subset(dataset, range(NUM_CLIPS)), order, num_workers=num_workers)
        assert look(another) == of_epoch(dataset, 13), "who makes a loader for every epoch has other epochs too"
        dataset.set_epoch(3)
        assert look(batches) == look(batches) == of_epoch(dataset, 3), "its processes run already"
    assert torch.equal(torch.get_rng_state(), before)


def test_ranks_of_an_epoch_share_its_samples_out(dataset: KineticsAVT) -> None:
    dataset.set_epoch(4)
    parts = []
    for rank in range(2):
        sampler: DistributedSampler[Sample] = DistributedSampler(dataset, num_replicas=2, rank=rank, seed=1)
        sampler.set_epoch(4)
        parts.append(look(DataLoader(dataset, batch_size=2, sampler=sampler, collate_fn=collate)))  # type: ignore[arg-type]
    assert not parts[0].keys() & parts[1].keys()
    assert parts[0] | parts[1] == of_epoch(dataset, 4)


def test_fixed_cuts_have_no_epochs_and_draw_nothing(folder: Path) -> None:
    dataset = make(folder, train=False)
    before = torch.get_rng_state()
    first = look_of(dataset[:])
    dataset.set_epoch(9)
    assert first == look_of(dataset[:]) and torch.equal(torch.get_rng_state(), before)
    assert first == look(DataLoader(dataset, num_workers=1, collate_fn=collate))  # type: ignore[arg-type]


def test_copies_go_their_own_way(dataset: KineticsAVT) -> None:
    dataset.set_epoch(2)
    copies = [copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))]
    dataset.set_epoch(3)
    copies[1].set_epoch(6)
    for one, epoch in zip((dataset, *copies), (3, 2, 6), strict=True):
        assert look_of([one[0]]) == look_of([dataset[(epoch, 0)]])


def _set_in_child(epoch: SharedEpoch, answers: Any) -> None:
    answers.put(epoch.key())
    epoch.set(8)
    answers.put(epoch.key())
    # Its own workers have the child's.
    worker = multiprocessing.get_context("fork").Process(target=lambda: answers.put(epoch.key()))
    worker.start()
    worker.join()


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_child_that_sets_it_leaves_its_parents_alone(context: str) -> None:
    epoch, how = SharedEpoch(5), multiprocessing.get_context(context)
    answers = how.SimpleQueue()
    child = how.Process(target=_set_in_child, args=(epoch, answers))
    child.start()
    assert [answers.get() for _ in range(3)] == [(5,), (8,), (8,)]
    child.join()
    assert epoch.key() == (5,) and child.exitcode == os.EX_OK


@pytest.mark.parametrize("epoch", [-1, 2**63])
def test_epochs_that_are_none(dataset: KineticsAVT, epoch: int) -> None:
    with pytest.raises(ValueError, match=r"epoch must be in 0\.\."):
        dataset.set_epoch(epoch)
    with pytest.raises(TypeError):
        dataset.set_epoch(1.5)  # type: ignore[arg-type]  # what is tested


def test_the_loop_of_the_docs_runs_as_it_stands(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "loader.md").read_text("utf-8")
    block = page.partition("## In your own loop")[2].partition("```python\n")[2].partition("```")[0]
    assert "range(10)" in block and "num_workers=4" in block
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prepared").symlink_to(folder)
    rows = [{"clip_id": clip_id_of(number), "label": f"label {number}"} for number in range(3)]
    (tmp_path / "titles").mkdir()
    write_manifest(tmp_path / "titles" / "train.parquet", rows)
    train_tokenizer(["a title"], tmp_path / "tokenizer.json", 300)
    names: dict[str, Any] = {}
    exec(block.replace("range(10)", "range(2)").replace("num_workers=4", "num_workers=1"), names)
    assert sorted(names["targets"].tolist()) == [0, 1, 2] and names["batch"].video.shape == (3, 16, 224, 224, 3)


def test_made_up_samples_have_the_same_epochs() -> None:
    """Of the epoch that was set, else other noise each time; an address says its own."""
    config = preset("tiny").model
    samples = SyntheticAVT(config, 4)

    def noise(index: object) -> bytes:
        return samples[index].video.numpy().tobytes()  # type: ignore[index]

    assert noise(1) != noise(1) and noise(-1) != noise(3)
    assert noise((5, 1)) == noise((5, 1)) != noise((6, 1))
    samples.set_epoch(5)
    assert noise(1) == noise(1) == noise((5, 1)) == noise((5, -3))
    loader = DataLoader(samples, batch_size=4, num_workers=1, collate_fn=collate, persistent_workers=True)
    for epoch in (5, 6):
        samples.set_epoch(epoch)
        assert [batch.video[1].numpy().tobytes() for batch in loader] == [noise((epoch, 1))]
    with pytest.raises(ValueError, match=r"epoch must be in 0\.\."):
        samples.set_epoch(-1)
