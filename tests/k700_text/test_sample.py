from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from k700_text import Batch, Sample, collate
from k700_text.media.clip import PixelFormat


def sample(number: int = 0, **changes: Any) -> Sample:
    values: dict[str, Any] = {
        "video": torch.full((4, 8, 8, 3), number, dtype=torch.uint8),
        "log_mel": torch.full((5, 6), float(number)),
        "token_ids": torch.full((7,), number),
        "text_mask": torch.ones(7, dtype=torch.bool),
        "has_video": True,
        "has_audio": number % 2 == 0,
        "has_text": False,
        "clip_id": f"clip{number}",
        "label": None,
    }
    return Sample(**(values | changes))


def test_collate_stacks_every_field_in_order() -> None:
    batch = collate([sample(0), sample(1), sample(2)])
    assert len(batch) == 3
    assert batch.video.shape == (3, 4, 8, 8, 3) and batch.video.dtype == torch.uint8
    assert batch.video[:, 0, 0, 0, 0].tolist() == [0, 1, 2] == batch.token_ids[:, 0].tolist()
    assert batch.has_audio.tolist() == [True, False, True] and batch.has_audio.dtype == torch.bool
    assert batch.clip_id == ("clip0", "clip1", "clip2") and batch.label == (None, None, None)


def test_to_moves_the_tensors_and_keeps_the_rest() -> None:
    batch = collate([sample(3)]).to("meta")
    assert batch.video.device.type == batch.has_text.device.type == "meta" and batch.clip_id == ("clip3",)


def test_rows_are_a_part_of_every_field_that_is_not_copied() -> None:
    batch = collate([sample(0), sample(1), sample(2)])
    part = batch.rows(1, 3)
    assert len(part) == 2 and part.clip_id == ("clip1", "clip2") and part.has_audio.tolist() == [False, True]
    assert part.video.data_ptr() == batch.video[1:].data_ptr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": torch.zeros(4, 8, 8, 3)}, r"video must be torch.uint8 .*, got \(4, 8, 8, 3\) float32"),
        ({"video": torch.zeros(4, 8, 8, 4, dtype=torch.uint8)}, r"got \(4, 8, 8, 4\) uint8"),
        ({"video": torch.zeros(4, 8, 8, dtype=torch.uint8)}, r"\(T, H \* 3 / 2, W\), got \(4, 8, 8\) uint8"),
        ({"log_mel": torch.zeros(5, 6, dtype=torch.float64)}, "log_mel must be torch.float32"),
        ({"token_ids": torch.zeros(7)}, "token_ids must be torch.int64"),
        ({"text_mask": torch.zeros(3, dtype=torch.bool)}, "token_ids .* and text_mask"),
    ],
)
def test_a_wrong_sample_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(**change)


def test_a_ragged_batch_is_refused_and_the_repr_shows_shapes() -> None:
    batch = collate([sample(0), sample(1)])
    with pytest.raises(ValueError, match="leading dimension"):
        replace(batch, clip_id=("one",))
    with pytest.raises(ValueError, match="at least one sample"):
        collate([])
    assert "video=(2, 4, 8, 8, 3) uint8" in repr(batch) and isinstance(batch, Batch)


def test_planes_below_each_other_are_a_video_too() -> None:
    planes = sample(video=torch.zeros(4, 12, 8, dtype=torch.uint8))
    assert planes.pixel_format is PixelFormat.YUV420P and sample().pixel_format is PixelFormat.RGB24
    batch = collate([planes, planes])
    assert batch.video.shape == (2, 4, 12, 8) and batch.pixel_format is PixelFormat.YUV420P
    assert collate([sample()]).pixel_format is PixelFormat.RGB24
    assert batch.to("meta").pixel_format is PixelFormat.YUV420P


def test_samples_of_different_shapes_are_named() -> None:
    other = sample(video=torch.zeros(4, 12, 8, dtype=torch.uint8))
    with pytest.raises(
        ValueError,
        match=r"video must have one shape .* got \(4, 8, 8, 3\) in clip clip0, \(4, 12, 8\) in clip clip1: give all",
    ):
        collate([sample(), replace(other, clip_id="clip1")])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (sample(), r"got a single one: collate\(\[sample\]\)"),
        ([sample(), {"video": 1}], "Samples, got dict in place 1: give the DataLoader a collate_fn of your own"),
        ([torch.zeros(3)], "got Tensor in place 0"),
        ({"video": 1}, "got str in place 0"),
        ([collate([sample()])], "got Batch in place 0"),
    ],
)
def test_what_is_no_sample_is_named(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message) as caught:
        collate(given)
    assert "\n" not in str(caught.value)


class _Samples(Dataset[Sample]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        return sample(index)


def test_samples_are_read_once_though_collate_goes_over_them_often() -> None:
    batch = collate(sample(number) for number in (1, 2))
    assert batch.clip_id == ("clip1", "clip2") and batch.video[:, 0, 0, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_without_a_collate_fn_gives_batches_too(num_workers: int) -> None:
    batches = list(DataLoader(_Samples(), batch_size=3, num_workers=num_workers))
    assert [type(batch) for batch in batches] == [Batch, Batch]
    assert [batch.clip_id for batch in batches] == [("clip0", "clip1", "clip2"), ("clip3",)]
    targets, batch = default_collate([(7, sample(1)), (8, sample(2))])
    assert targets.tolist() == [7, 8] and batch.clip_id == ("clip1", "clip2"), "what wraps samples"


@pytest.mark.parametrize("options", [{"collate_fn": collate}, {}])
def test_a_worker_stacks_into_what_it_hands_over(options: dict[str, Any]) -> None:
    batches = list(DataLoader(_Samples(), batch_size=2, num_workers=1, **options))
    assert all(batch.video.is_shared() for batch in batches)
    assert [batch.video[:, 0, 0, 0, 0].tolist() for batch in batches] == [[0, 1], [2, 3]]
