from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from k700_text.data.sample import Batch, Sample, collate
from lava_model import Lava
from lava_model.checkpoint import TrainingState, save_checkpoint
from lava_model.errors import CheckpointError
from lava_model.evaluation.datasets.folder import LabelledClip
from lava_model.evaluation.features import (
    ClipFeatures,
    ExtractionSettings,
    FeatureSource,
    extract_features,
    select_features,
    weights_fingerprint,
)
from lava_model.evaluation.sources import feature_sources, untrained
from lava_model.trained import load_model
from tests.lava_model.tiny import TINY

SETTINGS = ExtractionSettings(num_views=3, reading={"size": 32}, batch_size=4)


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.fixture(scope="module")
def model() -> Lava:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Lava(TINY).eval()


@pytest.fixture
def clips(tmp_path: Path) -> list[LabelledClip]:
    found = []
    for number in range(5):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(b"x" * (number + 1))
        found.append(LabelledClip(path=path, name=path.name, label=f"c{number % 2}", group=path.stem))
    return found


def read_view(clip: LabelledClip, view: int) -> Sample:
    """Frames that depend on clip and view; clip 3 never decodes, view 1 of clip 1 does not; odd clips are silent."""
    number = int(clip.path.stem)
    generator = torch.Generator().manual_seed(100 * number + view)
    decodes = number != 3 and (number, view) != (1, 1)
    return Sample(
        video=torch.randint(0, 256, (2, 32, 32, 3), generator=generator).to(torch.uint8) * int(decodes),
        log_mel=torch.randn(80, 256, generator=generator),
        token_ids=torch.zeros(4, dtype=torch.int64),
        text_mask=torch.zeros(4, dtype=torch.bool),
        has_video=decodes,
        has_audio=number % 2 == 0,
        has_text=False,
        clip_id=clip.name,
        label=clip.label,
    )


class CountingReader:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, clip: LabelledClip, view: int) -> Sample:
        self.count += 1
        return read_view(clip, view)


def mean_pixel(batch: Batch) -> Mapping[str, Tensor]:
    return {"video": batch.video.float().mean(dim=(1, 2, 3)), "audio": batch.log_mel.mean(dim=2)}


PIXELS = FeatureSource(name="learned", fingerprint="pixels", encode=mean_pixel)


def test_rows_lie_at_their_clip_and_view(clips: list[LabelledClip]) -> None:
    found = extract_features([PIXELS], clips, read_view, SETTINGS)["learned"]
    assert found.features["video"].shape == (5, 3, 3)
    for number, clip in enumerate(clips):
        for view in range(3):
            sample = read_view(clip, view)
            expected = mean_pixel(collate([sample]))["video"][0].numpy()
            np.testing.assert_allclose(found.features["video"][number, view], expected, rtol=1e-6)
            assert found.has_video[number, view] == sample.has_video
            assert found.has_audio[number, view] == sample.has_audio
    assert found.is_decodable.tolist() == [True, True, True, False, True]


def test_features_do_not_depend_on_batches_or_workers(clips: list[LabelledClip], model: Lava) -> None:
    sources = feature_sources(model, modalities=("video",), control_seeds=[0], device="cpu")
    one = extract_features(sources, clips, read_view, replace(SETTINGS, batch_size=15))
    other = extract_features(sources, clips, read_view, replace(SETTINGS, batch_size=2, num_workers=1))
    for name in one:
        np.testing.assert_allclose(one[name].features["video"], other[name].features["video"], atol=1e-5)


def test_features_may_be_views_of_the_batch(clips: list[LabelledClip]) -> None:
    source = FeatureSource(name="raw", fingerprint="raw", encode=lambda batch: {"audio": batch.log_mel[:, 0]})
    found = extract_features([source], clips, read_view, replace(SETTINGS, batch_size=2))["raw"].features["audio"]
    expected = [[read_view(clip, view).log_mel[0].numpy() for view in range(3)] for clip in clips]
    np.testing.assert_array_equal(found, expected)


def test_progress_counts_views_up_to_all(clips: list[LabelledClip]) -> None:
    seen: list[tuple[int, int]] = []
    extract_features([PIXELS], clips, read_view, SETTINGS, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 15), (8, 15), (12, 15), (15, 15)]


def test_the_cache_saves_the_second_reading(clips: list[LabelledClip], tmp_path: Path) -> None:
    reader = CountingReader()
    first = extract_features([PIXELS], clips, reader, SETTINGS, cache_folder=tmp_path / "cache")["learned"]
    again = extract_features([PIXELS], clips, reader, SETTINGS, cache_folder=tmp_path / "cache")["learned"]
    assert reader.count == 15
    np.testing.assert_array_equal(first.features["video"], again.features["video"])
    np.testing.assert_array_equal(first.has_video, again.has_video)
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_only_what_is_missing_is_extracted(clips: list[LabelledClip], tmp_path: Path) -> None:
    extract_features([PIXELS], clips, read_view, SETTINGS, cache_folder=tmp_path / "cache")

    def refuse(batch: Batch) -> Mapping[str, Tensor]:
        raise AssertionError("was in the cache")

    other = replace(PIXELS, name="other", fingerprint="other")
    sources = [replace(PIXELS, encode=refuse), other]
    assert set(extract_features(sources, clips, read_view, SETTINGS, cache_folder=tmp_path / "cache")) == {
        "learned",
        "other",
    }


@pytest.mark.parametrize("change", ["weights", "views", "reading", "size", "time", "clips", "damage"])
def test_the_cache_is_not_used_for_anything_else(clips: list[LabelledClip], tmp_path: Path, change: str) -> None:
    reader, source, settings, cache = CountingReader(), PIXELS, SETTINGS, tmp_path / "cache"
    extract_features([source], clips, reader, settings, cache_folder=cache)
    reader.count = 0
    if change == "weights":
        source = replace(source, fingerprint="others")
    elif change == "views":
        settings = replace(settings, num_views=2)
    elif change == "reading":
        settings = replace(settings, reading={"size": 64})
    elif change == "size":
        clips[0].path.write_bytes(b"longer than before")
    elif change == "time":
        os.utime(clips[0].path, ns=(1, 1))
    elif change == "clips":
        clips = clips[:-1]
    else:
        next(cache.iterdir()).write_bytes(b"\x00" * 20)
    extract_features([source], clips, reader, settings, cache_folder=cache)
    assert reader.count == len(clips) * settings.num_views


def test_batch_size_and_workers_do_not_change_the_cache(clips: list[LabelledClip], tmp_path: Path) -> None:
    reader = CountingReader()
    for batch_size in (2, 15):
        extract_features(
            [PIXELS], clips, reader, replace(SETTINGS, batch_size=batch_size), cache_folder=tmp_path / "cache"
        )
    assert reader.count == 15


def test_clips_that_do_not_decode_are_left_out_and_never_zeros(clips: list[LabelledClip]) -> None:
    found = extract_features([PIXELS], clips, read_view, SETTINGS)["learned"]
    chosen = select_features(found, ["video"])
    assert chosen.values.shape == (4, 3, 3)
    assert chosen.is_valid.tolist() == [[True] * 3, [True, False, True], [True] * 3, [True] * 3]
    assert np.all(np.abs(chosen.values[chosen.is_valid]).sum(axis=1) > 0)


def test_several_modalities_have_unit_length_each_and_zeros_without_sound() -> None:
    rng = np.random.default_rng(0)
    has_audio = np.array([[True, False], [False, True]])
    found = ClipFeatures(
        features={
            "video": 7 * rng.normal(size=(2, 2, 4)).astype(np.float32),
            "audio": 9 * rng.normal(size=(2, 2, 3)).astype(np.float32),
        },
        has_video=np.ones((2, 2), bool),
        has_audio=has_audio,
    )
    values = select_features(found, ["audio", "video"]).values
    np.testing.assert_allclose(np.linalg.norm(values[..., 3:], axis=2), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(values[..., :3], axis=2), has_audio.astype(float), rtol=1e-6)
    bit = select_features(found, ["video", "has_audio"]).values
    np.testing.assert_array_equal(bit[..., 4], has_audio.astype(np.float32))
    np.testing.assert_array_equal(bit[..., :4], values[..., 3:])


def test_the_learned_source_is_what_encode_gives(clips: list[LabelledClip], model: Lava) -> None:
    batch = collate([read_view(clip, 0) for clip in clips])
    expected = model.encode(batch, ("audio", "video"))
    sources = feature_sources(model, modalities=("audio", "video"), control_seeds=[], device="cpu")
    for _ in range(2):  # the trunk's memory of the last frames changes nothing
        found = sources[0].encode(batch)
        for name, features_BD in expected.items():
            torch.testing.assert_close(found[name], features_BD)
    other = collate([read_view(clip, 2) for clip in clips])
    assert not torch.equal(sources[0].encode(other)["video"], expected["video"])


def test_trunk_only_is_the_mean_over_time_and_space(clips: list[LabelledClip]) -> None:
    model = untrained(Lava(TINY), seed=3)
    batch = collate([read_view(clip, 0) for clip in clips])
    expected = model.video_encoder.trunk(batch.video).mean(dim=(1, 2))
    sources = feature_sources(model, modalities=("video",), control_seeds=[], device="cpu")
    torch.testing.assert_close(sources[1].encode(batch)["video"], expected)


def test_an_untrained_model_keeps_the_trunk_and_nothing_else(model: Lava) -> None:
    state = torch.get_rng_state()
    fresh, again, other = untrained(model, 1), untrained(model, 1), untrained(model, 2)
    assert torch.equal(torch.get_rng_state(), state)
    prints = [weights_fingerprint(each, {}) for each in (fresh, again, other, model)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    assert fresh.video_encoder.trunk is model.video_encoder.trunk
    assert not torch.equal(fresh.video_encoder.token.weight, model.video_encoder.token.weight)


def test_a_fingerprint_is_of_names_values_and_settings() -> None:
    layer = torch.nn.Linear(2, 2)
    before = weights_fingerprint(layer, {"a": 1})
    assert weights_fingerprint(layer, {"a": 1}) == before
    assert weights_fingerprint(layer, {"a": 2}) != before
    with torch.no_grad():
        layer.weight[0, 0] += 1e-6
    assert weights_fingerprint(layer, {"a": 1}) != before


def test_a_run_an_export_and_a_checkpoint_give_the_same_model(tmp_path: Path) -> None:
    model = untrained(Lava(TINY), seed=4)
    run = tmp_path / "run"
    model.save_pretrained(run / "export")
    (run / "config.json").write_text("{}")  # the run's settings, not those of an exported model
    found = [load_model(run), load_model(run / "export")]
    checkpoints = [save_checkpoint(run / "checkpoints", _state(model, step), keep=2) for step in (1, 20)]
    found += [load_model(run), load_model(checkpoints[0])]
    assert [path for _, path in found] == [run / "export", run / "export", checkpoints[1], checkpoints[0]]
    assert len({weights_fingerprint(each, {}) for each, _ in found}) == 1
    sources = [feature_sources(each, modalities=("video",), control_seeds=[0], device="cpu") for each, _ in found]
    assert len({tuple(source.fingerprint for source in each) for each in sources}) == 1


def _state(model: Lava, step: int) -> TrainingState:
    return TrainingState(
        step=step,
        epoch=0,
        total_steps=20,
        config={"model": asdict(model.config)},
        fingerprint={},
        model=model.state_dict(),
        optimizer={},
        rng={},
    )


def test_a_place_without_a_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no "):
        load_model(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="neither an exported model"):
        load_model(tmp_path)
    path = save_checkpoint(tmp_path, replace(_state(Lava(TINY), 1), model={}), keep=1)
    with pytest.raises(CheckpointError, match="does not hold") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
