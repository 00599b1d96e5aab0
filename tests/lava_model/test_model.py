"""Lava: shapes, counts, absent modalities, and a model as a folder."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
import torch

from k700_text.data.sample import Batch, collate
from lava_model import Embeddings, Lava, LavaConfig
from lava_model.errors import CheckpointError, DataError
from lava_model.loss import batch_loss
from lava_model.presets import tiny
from lava_model.synthetic import SyntheticAVT

SMALL = replace(tiny().model, width=32, num_heads=2, embedding_dim=16, num_frames=2, vocab_size=100, max_text_length=12)


@pytest.fixture(scope="module")
def model() -> Lava:
    torch.manual_seed(0)
    return Lava(SMALL)


@pytest.fixture(scope="module")
def batch() -> Batch:
    samples = SyntheticAVT(SMALL, 6, audio_fraction=0.6, text_fraction=0.6)
    batch = collate([samples[0, index] for index in range(6)])
    assert 0 < batch.has_audio.sum() < 6
    assert 0 < batch.has_text.sum() < 6
    return batch


def test_embeddings_are_unit_norm_where_present_and_zero_elsewhere(model, batch):
    embeddings = model(batch)
    assert isinstance(embeddings, Embeddings)
    for field in fields(Embeddings):
        values = getattr(embeddings, field.name)
        present = getattr(batch, f"has_{field.name.split('_')[1]}")
        assert values.shape == (6, 16)
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.norm(dim=1), present.float())
    assert embeddings.of("vt", "text") is embeddings.vt_text
    with pytest.raises(ValueError, match="audio is not projected into the vt space"):
        embeddings.of("vt", "audio")


def test_gradient_reaches_every_trained_parameter(model, batch):
    model.zero_grad()
    batch_loss(model(batch), batch, tiny().loss).total.backward()
    untouched = [
        name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert untouched == []
    assert all(p.grad is None for name, p in model.named_parameters() if "trunk" in name)


def test_what_an_absent_modality_holds_changes_nothing(model, batch):
    noise = torch.randn(batch.log_mel.shape)
    spoilt = replace(batch, log_mel=torch.where(batch.has_audio[:, None, None], batch.log_mel, noise))
    gradients = []
    for one in (batch, spoilt):
        model.zero_grad()
        batch_loss(model(one), one, tiny().loss).total.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=0, atol=1e-7)


def test_a_batch_without_text_still_touches_the_text_encoder(model, batch):
    # Ranks of a distributed run must all have the same parameters in their graph.
    empty = replace(batch, has_text=torch.zeros(6, dtype=torch.bool), text_mask=torch.zeros_like(batch.text_mask))
    model.zero_grad()
    batch_loss(model(empty), empty, tiny().loss).total.backward()
    gradients = [p.grad for p in model.text_encoder.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_encode_gives_features_in_eval_mode_and_restores_the_mode(model, batch):
    model.train()
    features = model.encode(batch, ("video", "audio", "text"))
    assert model.training
    assert list(features) == ["video", "audio", "text"]
    for modality, values in features.items():
        assert values.shape == (6, 32)
        assert not values.requires_grad
        assert torch.equal(values.any(dim=1), getattr(batch, f"has_{modality}"))
    assert list(model.encode(batch)) == ["video"]
    torch.testing.assert_close(model.encode(batch)["video"], features["video"])
    with pytest.raises(ValueError, match="unknown modalities sound"):
        model.encode(batch, ("sound",))


def test_embed_needs_no_gradient(model, batch):
    assert not model.embed(batch).av_video.requires_grad


def test_other_shapes_are_refused_with_both_shapes(model, batch):
    with pytest.raises(DataError, match=r"takes video of \(2, 72, 48\) per sample, the batch has \(1, 72, 48\)"):
        model(replace(batch, video=batch.video[:, :1]))
    in_rgb = torch.zeros(6, 2, 32, 32, 3, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"takes video of \(2, 48, 48, 3\) per sample, the batch has \(2, 32, 32, 3\)"):
        model(replace(batch, video=in_rgb))
    with pytest.raises(DataError, match="takes token_ids"):
        model(replace(batch, token_ids=batch.token_ids[:, :5], text_mask=batch.text_mask[:, :5]))


def test_samples_do_not_see_each_other(model, batch):
    alone = collate([SyntheticAVT(SMALL, 6, audio_fraction=0.6, text_fraction=0.6)[0, 2]])
    torch.testing.assert_close(model.embed(alone).av_video[0], model.embed(batch).av_video[2], rtol=1e-4, atol=1e-5)


def test_paper_size_has_the_expected_parameters():
    with torch.device("meta"):
        model = Lava(LavaConfig())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    transformer = 4 * (12 * 1024**2 + 13 * 1024) + 2 * 1024 + 1024
    video = 2 * 512 + 513 * 1024 + (16 + 49) * 1024 + transformer
    audio = 641 * 1024 + 1025 * 1024 + 32 * 1024 + transformer
    text = 48_000 * 1024 + 128 * 1024 + transformer
    assert trained == video + audio + text + 7 * 1025 * 1024
    assert trained == pytest.approx(210e6, rel=0.01)
    assert frozen == 11_176_512


def test_audio_and_video_token_options_fit():
    for config in (
        replace(SMALL, audio_patch_frames=1),
        replace(SMALL, video_grid=1),
        replace(SMALL, pooling="mean", dropout=0.1, feedforward_ratio=1.0, trunk_stage=1),
    ):
        samples = SyntheticAVT(config, 2)
        assert Lava(config)(collate([samples[0, 0], samples[0, 1]])).avt_audio.shape == (2, 16)


def test_bf16_autocast_gives_float32_embeddings_close_to_float32_ones(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.embed(batch)
    assert mixed.av_video.dtype == torch.float32
    assert torch.cosine_similarity(mixed.av_video, model.embed(batch).av_video).min() > 0.99


# --- a model as a folder ---


def test_a_saved_model_comes_back_exactly(model, batch, tmp_path):
    (tmp_path / "tok.json").write_text('{"model": {}}')
    model.save_pretrained(tmp_path / "model", tokenizer=tmp_path / "tok.json")
    again = Lava.from_pretrained(tmp_path / "model")
    assert again.config == SMALL
    assert not again.training
    assert not any(p.requires_grad for p in again.video_encoder.trunk.parameters())
    assert all(p.requires_grad for p in again.heads.parameters())
    for field in fields(Embeddings):
        assert torch.equal(getattr(again.embed(batch), field.name), getattr(model.embed(batch), field.name))
    assert (tmp_path / "model" / "tokenizer.json").read_text() == '{"model": {}}'
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["preprocessing"]["video"]["size"] == 48
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_reading_a_model_never_looks_for_trunk_weights(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["trunk_weights"] = "imagenet"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Lava.from_pretrained(tmp_path).config.trunk_weights == "imagenet"


def _spoil(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config["model"].update(changes)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "clip"}'), "not the configuration of"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04junk"), "cannot be read as safetensors"),
        (lambda folder: _spoil(folder, widht=3), "unknown setting widht: did you mean width"),
        (lambda folder: _spoil(folder, embedding_dim=8), "another shape of heads.av_video.weight and 13 more"),
        (lambda folder: _spoil(folder, num_layers=3), "lacks audio_encoder.transformer.blocks.2"),
        (lambda folder: _spoil(folder, num_layers=1), "has the foreign audio_encoder.transformer.blocks.1"),
    ],
)
def test_a_folder_that_does_not_fit_is_one_line(model, tmp_path, spoil, message):
    model.save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=message) as failure:
        Lava.from_pretrained(tmp_path)
    assert "\n" not in str(failure.value)


def test_saving_with_a_missing_tokenizer_fails_before_the_folder_looks_whole(model, tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        model.save_pretrained(tmp_path / "m", tokenizer=tmp_path / "absent.json")
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        Lava.from_pretrained(tmp_path / "m")
