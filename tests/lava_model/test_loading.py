"""What the model's loops take from the loader: pixel formats, sources of clips, and runs of earlier versions."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from k700_text.data.text import train_tokenizer
from k700_text.errors import UsageError
from k700_text.media.decode import packets_of
from k700_text.media.packet_index import PacketRow, write_packet_index
from lava_model import Lava
from lava_model.checkpoint import TrainingState, capture_rng, check_same_run, list_checkpoints
from lava_model.config import PretrainConfig
from lava_model.data import open_data
from lava_model.describe import num_clips
from lava_model.errors import CheckpointError, DataError
from lava_model.evaluation.views import ClipViews
from lava_model.loading import batches_of
from lava_model.presets import tiny
from lava_model.pretrain import main
from lava_model.pretrained import CONFIG_FILE
from lava_model.settings import to_dict
from lava_model.synthetic import SyntheticAVT
from lava_model.trained import load_model
from lava_model.trainer import FREE_SETTINGS, Trainer
from tests.k700_text.media_files import clip_id_of, make_clip, write_manifest
from tests.k700_text.preparing import prepare_here
from tests.lava_model.tiny import TINY

NUM_CLIPS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips, their manifest and a tokenizer."""
    root = tmp_path_factory.mktemp("data")
    for number in range(NUM_CLIPS):
        make_clip(root / "clips" / f"{clip_id_of(number)}.mp4", 1.7)
    rows = [{"clip_id": clip_id_of(number), "title": f"clip {number}"} for number in range(NUM_CLIPS)]
    write_manifest(root / "manifest.parquet", rows)
    train_tokenizer(["clip 0", "clip 1"], root / "tokenizer.json", 280)
    return root


def config_of(data: Path, **changes: str) -> PretrainConfig:
    base = tiny()
    named = {
        "manifest": str(data / "manifest.parquet"),
        "clips": str(data / "clips"),
        "tokenizer": str(data / "tokenizer.json"),
    }
    return replace(
        base,
        model=replace(base.model, vocab_size=300),
        data=replace(base.data, batch_size=2, **{**named, **changes}),  # type: ignore[arg-type]  # all are texts
    )


def test_clips_come_in_the_models_pixel_format(data: Path) -> None:
    config = config_of(data)
    shapes = {}
    for pixel_format in ("yuv420p", "rgb24"):
        model = replace(config.model, pixel_format=pixel_format)
        samples = open_data(replace(config, model=model)).train
        (batch,) = batches_of(samples, [[(0, 0), (0, 1)]], num_workers=0)
        shapes[pixel_format] = tuple(batch.video.shape)
        assert batch.video.shape[1:] == (model.num_frames, *model.frame_shape())
        assert batch.pixel_format == pixel_format
    assert shapes == {"yuv420p": (2, 8, 72, 48), "rgb24": (2, 8, 48, 48, 3)}


def test_a_model_takes_either_format(data: Path) -> None:
    config = config_of(data)
    model = Lava(config.model).eval()
    found = []
    for pixel_format in ("yuv420p", "rgb24"):
        other = replace(config.model, pixel_format=pixel_format)
        view = ClipViews(other, num_views=1, wants_audio=False)
        samples = [view(clip, 0) for clip in _labelled(data)]
        (batch,) = batches_of(samples, [[0, 1, 2]], num_workers=0)
        found.append(model.encode(batch)["video"])
    assert torch.cosine_similarity(*found).min() > 0.999


def _labelled(data: Path) -> list:
    from lava_model.evaluation.datasets.folder import LabelledClip

    paths = sorted((data / "clips").glob("*.mp4"))
    return [LabelledClip(path=path, name=path.name, label="x", group=path.name) for path in paths]


@pytest.mark.parametrize("pixel_format", ["yuv420p", "rgb24"])
def test_made_up_samples_show_the_same_colours_in_both_formats(pixel_format: str) -> None:
    from lava_model.pixels import rgb_from_yuv420

    config = replace(tiny().model, pixel_format="rgb24")
    rgb = SyntheticAVT(config, 3)[0, 1].video.float().mean(0)
    other = SyntheticAVT(replace(config, pixel_format=pixel_format), 3)[0, 1].video
    shown = (rgb_from_yuv420(other) if pixel_format == "yuv420p" else other.float()).mean(0)
    cells = [picture.unfold(0, 12, 12).unfold(1, 12, 12).mean((3, 4)) for picture in (rgb, shown)]
    assert (cells[0] - cells[1]).abs().max() < 8 and cells[0].std() > 20


# --- which data a run is on ---


def test_a_clip_that_is_gone_is_another_run(data: Path, tmp_path: Path) -> None:
    """One file less shifts the order of all: the run would go on, and not be the one that it says it is."""
    clips = tmp_path / "clips"
    shutil.copytree(data / "clips", clips)
    config = config_of(data, clips=str(clips))
    config = replace(config, run=replace(config.run, out=str(tmp_path / "run"), max_steps=2, checkpoint_every=1))
    Trainer(config, open_data(config), device=torch.device("cpu")).run()
    list_checkpoints(tmp_path / "run" / "checkpoints")[-1].unlink()
    (clips / f"{clip_id_of(3)}.mp4").rename(tmp_path / "elsewhere.mp4")
    with pytest.raises(CheckpointError, match=r"other data: clip_ids changed; clip files came or went; put back"):
        Trainer(config, open_data(config), device=torch.device("cpu"))
    (tmp_path / "elsewhere.mp4").rename(clips / f"{clip_id_of(3)}.mp4")
    assert Trainer(config, open_data(config), device=torch.device("cpu")).resumed_from == 1


def test_manifests_are_folders_and_choices_too(data: Path, tmp_path: Path) -> None:
    rows = pd.read_parquet(data / "manifest.parquet")
    rows[["clip_id", "title"]].iloc[:2].to_parquet(tmp_path / "part-0.parquet")
    rows.iloc[2:].to_parquet(tmp_path / "part-1.parquet")
    whole = open_data(config_of(data))
    parts = open_data(config_of(data, manifest=str(tmp_path)))
    assert parts.fingerprint["clip_ids"] == whole.fingerprint["clip_ids"]
    assert parts.fingerprint["manifest"] != whole.fingerprint["manifest"]
    config = config_of(data, where="title != 'clip 1'")
    assert len(open_data(config).train) == len(whole.train) - 1 == num_clips(config)
    with pytest.raises(UsageError, match="has no column 'titel'"):
        open_data(config_of(data, where="titel is null"))


def test_a_packet_index_changes_nothing_and_prepared_shards_do(data: Path, tmp_path: Path) -> None:
    raw = open_data(config_of(data))
    told = {"manifest", "tokenizer", "val_manifest", "clip_ids"}
    assert set(raw.fingerprint) == told, "but for the ids as in versions that knew no shards"
    index = tmp_path / "clips.packets"
    path = data / "clips" / f"{clip_id_of(0)}.mp4"
    status = path.stat()
    row = PacketRow(
        clip_file=path.name, file_bytes=status.st_size, mtime_ns=status.st_mtime_ns, packets=packets_of(path)
    )
    write_packet_index(index, [row])
    indexed = open_data(config_of(data, packets=str(index)))
    assert indexed.fingerprint == raw.fingerprint
    assert torch.equal(indexed.train[0, 0].video, raw.train[0, 0].video)
    indexed.train[0, 1]
    assert sum(indexed.plain_reads.values()) == 1 and not raw.plain_reads

    shards = tmp_path / "shards"
    prepare_here(data / "clips", shards, data / "manifest.parquet", short_side=54)
    prepared = open_data(config_of(data, clips=str(shards)))
    # Shards serve the clips in an order of their own.
    of_shards = {name: prepared.fingerprint[name] for name in ("clips", "clip_ids")}
    assert prepared.fingerprint == {**raw.fingerprint, **of_shards}
    assert of_shards["clip_ids"] != raw.fingerprint["clip_ids"]
    assert prepared.train[0, 0].pixel_format == "yuv420p"
    state = replace(state_of(to_dict(tiny())), fingerprint=raw.fingerprint)
    with pytest.raises(CheckpointError, match="made with other data: clip_ids, clips changed"):
        check_same_run(state, to_dict(tiny()), prepared.fingerprint, free=FREE_SETTINGS, path=tmp_path)
    both = open_data(config_of(data, clips=str(shards), val_manifest=str(data / "manifest.parquet")))
    assert both.fingerprint["val_clips"] == both.fingerprint["clips"]
    url = open_data(config_of(data, clips=f"file://{shards}"))
    assert url.fingerprint == prepared.fingerprint


def test_what_does_not_exist_is_named_by_its_option(data: Path) -> None:
    for option, name in (("--clips", "clips"), ("--data.packets", "packets"), ("--val-clips", "val_clips")):
        with pytest.raises(DataError, match=rf"^{option} .*nowhere does not exist$"):
            open_data(config_of(data, **{name: str(data / "nowhere")}))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (["--batch-size", "8"], r"4 training clips are fewer than one batch of 8: pass --data.batch-size with less"),
        (["--data.accumulate", "99"], r"all 2 epochs are 4 batches, fewer than the 99 of one step"),
        (["--batch-size", "1"], r"batch_size must be at least 2, a contrast needs another sample"),
        (["--manifest", "{root}/elsewhere.parquet"], r"no clip .*: 4 without a clip file; k700-text probe DIR"),
        (["--manifest", "{root}/empty.parquet"], r"no clip to serve from .*: the manifest has no rows"),
        (["--manifest", "{root}/untitled.parquet", "--loss.weights.av", "0", "--loss.weights.avt", "0"], "has a title"),
        (["--tokenizer", "{root}/manifest.parquet"], r"is a manifest .*: name a tokenizer"),
        (["--model.vocab-size", "64"], r"has \d+ entries but the model only 64: pass --model.vocab-size"),
        (["--model.trunk-weights", "{root}/tokenizer.json"], r"tokenizer.json"),
        (["--val-manifest", "{root}/one.parquet"], r"held-out evaluation needs at least 2 clips, got 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_train_is_one_line_before_the_first_step(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], line: str
) -> None:
    rows = [{"clip_id": clip_id_of(number)} for number in range(NUM_CLIPS)]
    write_manifest(data / "untitled.parquet", rows)
    write_manifest(data / "one.parquet", rows[:1])
    write_manifest(data / "empty.parquet", [])
    write_manifest(data / "elsewhere.parquet", [{"clip_id": clip_id_of(number + 50)} for number in range(NUM_CLIPS)])
    options = ["--manifest", f"{data}/manifest.parquet", "--clips", f"{data}/clips", "--tokenizer"]
    options += [f"{data}/tokenizer.json", "--model.vocab-size", "300", "--batch-size", "2", "--epochs", "2"]
    changed = [word.format(root=data) for word in change]
    assert main(["--preset", "tiny", *options, "--device", "cpu", "--out", str(tmp_path / "run"), *changed]) in (1, 2)
    errors = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error:")]
    assert len(errors) == 1 and re.search(line, errors[0]), errors
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_options_reach_the_order(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data.chunk-size", "2", "--packets", "x.arrow", "--model.pixel-format", "rgb24", "--print-config"]
    assert main(options) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["data"]["chunk_size"], shown["data"]["packets"]) == (2, "x.arrow")
    assert shown["model"]["pixel_format"] == "rgb24"


# --- runs and models of versions without these settings ---


def without_new_settings(config: PretrainConfig) -> dict:
    values = to_dict(config)
    del values["model"]["pixel_format"]
    for name in ("packets", "val_packets", "where", "chunk_size", "buffer_chunks"):
        del values["data"][name]
    return values


def state_of(config: dict) -> TrainingState:
    model = Lava(TINY).state_dict()
    return TrainingState(
        step=1, epoch=0, total_steps=2, config=config, fingerprint={}, model=model, optimizer={}, rng=capture_rng()
    )


def test_a_run_of_an_earlier_version_goes_on_in_its_own_format() -> None:
    config = replace(tiny(), model=TINY)
    state = state_of(without_new_settings(config))
    in_rgb = to_dict(replace(config, model=replace(TINY, pixel_format="rgb24")))
    check_same_run(state, in_rgb, {}, free=FREE_SETTINGS, path=Path("x.pt"))
    with pytest.raises(CheckpointError, match=r"model.pixel_format \('rgb24' there, 'yuv420p' here\)"):
        check_same_run(state, to_dict(config), {}, free=FREE_SETTINGS, path=Path("x.pt"))


def test_models_of_an_earlier_version_are_read_as_what_they_were(tmp_path: Path) -> None:
    from lava_model.checkpoint import save_checkpoint

    Lava(TINY).save_pretrained(tmp_path / "export")
    path = tmp_path / "export" / CONFIG_FILE
    exported = json.loads(path.read_text())
    assert exported["preprocessing"]["video"].pop("pixel_format") == "yuv420p"
    del exported["model"]["pixel_format"]
    path.write_text(json.dumps(exported))
    assert Lava.from_pretrained(tmp_path / "export").config == replace(TINY, pixel_format="rgb24")

    save_checkpoint(tmp_path, state_of(without_new_settings(replace(tiny(), model=TINY))), keep=1)
    model, _ = load_model(tmp_path)
    assert model.config == replace(TINY, pixel_format="rgb24")
