"""The transformer against one written with loops, and what the three encoders put before it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lava_model.config import LavaConfig
from lava_model.encoders.audio import AudioEncoder, standardise
from lava_model.encoders.positions import grid_sinusoids, sinusoids
from lava_model.encoders.text import TextEncoder
from lava_model.encoders.transformer import Transformer
from lava_model.encoders.video import VideoEncoder
from lava_model.presets import tiny
from tests.lava_model import naive

SMALL = replace(tiny().model, width=12, num_heads=2, num_frames=3, vocab_size=50, max_text_length=6)
POSITIONS = ("factorised", "learned", "sinusoidal")


def patches(config: LavaConfig, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, config.num_frames, config.video_grid**2, config.trunk_channels)


def assert_same_gradients(module: torch.nn.Module, found: torch.Tensor, expected: torch.Tensor) -> None:
    """Values and the gradients of all parameters."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    weights = torch.randn_like(expected)
    pairs = zip(
        torch.autograd.grad((found * weights).sum(), parameters),
        torch.autograd.grad((expected * weights).sum(), parameters, retain_graph=True),
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


# --- the transformer ---


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize(("num_heads", "feedforward_ratio"), [(1, 1.0), (3, 4.0)])
def test_transformer_is_the_one_with_loops(pooling, num_heads, feedforward_ratio):
    torch.manual_seed(1)
    config = replace(SMALL, pooling=pooling, num_heads=num_heads, feedforward_ratio=feedforward_ratio)
    transformer = Transformer(config).double()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(3, 4, 12, dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [False, True, False, True]])
    rows = [[token for token, kept in zip(*row, strict=True) if kept] for row in zip(tokens, mask, strict=True)]
    expected = torch.stack([naive.features(transformer, row) for row in rows])
    assert_same_gradients(transformer, transformer(tokens, mask), expected)
    whole = torch.stack([naive.features(transformer, list(row)) for row in tokens])
    assert_same_gradients(transformer, transformer(tokens), whole)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_row_without_any_token_is_finite_forward_and_backward(pooling):
    torch.manual_seed(0)
    transformer = Transformer(replace(SMALL, pooling=pooling))
    tokens = torch.randn(2, 6, 12, requires_grad=True)
    mask = torch.tensor([[False] * 6, [True] * 6])
    features = transformer(tokens, mask)
    features.sum().backward()
    gradients = [tokens.grad, *(parameter.grad for parameter in transformer.parameters())]
    assert features.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)
    torch.testing.assert_close(features[1:], transformer(tokens[1:], mask[1:]), rtol=1e-5, atol=1e-6)


def test_dropout_is_for_training():
    torch.manual_seed(0)
    transformer = Transformer(replace(SMALL, dropout=0.3))
    tokens = torch.randn(2, 6, 12)
    assert not torch.equal(transformer(tokens), transformer(tokens))
    transformer.eval()
    assert torch.equal(transformer(tokens), transformer(tokens))
    same = Transformer(SMALL)
    same.load_state_dict(transformer.state_dict())
    torch.testing.assert_close(transformer(tokens), same(tokens))


def test_the_stream_does_not_grow_with_depth():
    # Residual branches start at (2 L)^-1/2: with 24 layers as with 2, what comes out is as large as what went in.
    torch.manual_seed(0)
    tokens = torch.randn(4, 16, 64)
    for num_layers in (2, 24):
        transformer = Transformer(replace(SMALL, width=64, num_layers=num_layers))
        stream = tokens
        with torch.no_grad():
            for block in transformer.blocks:
                stream = block(stream, None)
        assert 1 < (stream.square().mean() / tokens.square().mean()).sqrt().item() < 1.5


# --- text ---


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_text_is_its_tokens_and_padding_changes_nothing(pooling, positions):
    torch.manual_seed(0)
    encoder = TextEncoder(replace(SMALL, pooling=pooling, positions=positions)).double()
    token_ids = torch.randint(0, 50, (3, 6))
    mask = torch.arange(6) < torch.tensor([[2], [6], [1]])
    if positions == "sinusoidal":
        placed = [(2 / 12) ** 0.5 * torch.tensor(naive.sinusoid(s, 12), dtype=torch.float64) for s in range(6)]
    else:
        placed = list(encoder.positions)
    rows = [
        [encoder.token.weight[row[s]] + placed[s] for s in range(kept)]
        for row, kept in zip(token_ids.tolist(), (2, 6, 1), strict=True)
    ]
    expected = torch.stack([naive.features(encoder.transformer, row) for row in rows])
    assert_same_gradients(encoder, encoder(token_ids, mask), expected)
    # The reference has no padding at all: what padding holds is in no value and in no gradient.
    assert_same_gradients(encoder, encoder(torch.where(mask, token_ids, 7), mask), expected)


# --- audio ---


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_audio_tokens_are_patches_of_the_standardised_log_mel(positions):
    torch.manual_seed(0)
    config = replace(SMALL, num_mels=3, num_mel_frames=8, audio_patch_frames=4, positions=positions, num_layers=1)
    encoder = AudioEncoder(config).double()
    log_mel = torch.randn(2, 3, 8)
    double = log_mel.double()
    mean, deviation = double.mean(dim=(1, 2)), double.std(dim=(1, 2), correction=0)
    rows = []
    for sample in range(2):
        tokens = []
        for patch in range(2):
            values = [
                (double[sample, mel, 4 * patch + frame] - mean[sample]) / (deviation[sample] + 1e-3)
                for frame in range(4)
                for mel in range(3)
            ]
            sinusoid = torch.tensor(naive.sinusoid(patch, 12), dtype=torch.float64)
            position = sinusoid if encoder.positions is None else encoder.positions[patch]
            tokens.append(encoder.mlp(torch.stack(values)) + position)
        rows.append(naive.features(encoder.transformer, tokens))
    assert_same_gradients(encoder, encoder(log_mel), torch.stack(rows))


def test_standardised_log_mel_ignores_level_and_gain_of_the_recording():
    log_mel = torch.randn(2, 80, 256)
    standard = standardise(log_mel)
    assert standard.mean().item() == pytest.approx(0, abs=1e-4)
    assert standard.std().item() == pytest.approx(1, abs=1e-2)
    torch.testing.assert_close(standardise(log_mel - 7), standard, rtol=1e-3, atol=1e-3)
    assert standardise(torch.zeros(1, 80, 256)).abs().max() == 0


# --- video ---


@pytest.mark.parametrize("positions", POSITIONS)
def test_video_tokens_are_patches_at_their_place(positions):
    torch.manual_seed(0)
    encoder = VideoEncoder(replace(SMALL, num_layers=1, positions=positions)).double()
    sinusoids_TPD = grid_sinusoids(3, 3, 12, torch.zeros(0, dtype=torch.float64))
    position = {
        "factorised": lambda t, p: encoder.time_positions[t] + encoder.space_positions[p],
        "learned": lambda t, p: encoder.positions[t * 9 + p],
        "sinusoidal": lambda t, p: sinusoids_TPD[t, p],
    }[positions]
    seen = patches(SMALL, batch=1)
    norm = encoder.feature_norm
    rows = [encoder.token(norm(seen[0, t, p].double())) + position(t, p) for t in range(3) for p in range(9)]
    expected = naive.features(encoder.transformer, rows)[None]
    torch.testing.assert_close(encoder(seen), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("positions", POSITIONS)
def test_position_matters_to_every_encoder(positions):
    torch.manual_seed(0)
    config = replace(SMALL, positions=positions)
    text, audio, video = TextEncoder(config), AudioEncoder(config), VideoEncoder(config)
    ids, mask = torch.arange(6)[None], torch.ones(1, 6, dtype=torch.bool)
    assert not torch.allclose(text(ids, mask), text(ids.flip(1), mask), atol=1e-4)
    log_mel = torch.randn(1, 80, 256)
    flipped = log_mel.reshape(1, 80, 32, 8).flip(2).reshape(1, 80, 256)
    assert not torch.allclose(audio(log_mel), audio(flipped), atol=1e-4)
    seen = patches(config, batch=1)
    turned = (seen.flip(1), seen.unflatten(2, (3, 3)).transpose(2, 3).flatten(2, 3))
    for other in turned:
        assert not torch.allclose(video(seen), video(other), atol=1e-4)


def test_sinusoidal_positions_are_in_no_checkpoint_and_in_every_model():
    config = replace(SMALL, positions="sinusoidal")
    for kind in (TextEncoder, AudioEncoder, VideoEncoder):
        torch.manual_seed(0)
        built = kind(config)
        with torch.device("meta"):
            loaded = kind(config)
        assert not any("position" in name for name in built.state_dict())
        loaded.load_state_dict(built.state_dict(), assign=True)
        inputs = {
            TextEncoder: (torch.arange(6)[None], torch.ones(1, 6, dtype=torch.bool)),
            AudioEncoder: (torch.ones(1, 80, 256),),
            VideoEncoder: (torch.ones(1, 3, 9, 128),),
        }[kind]
        assert torch.equal(built(*inputs), loaded(*inputs))
    assert torch.equal(sinusoids(5, 12, torch.zeros(0)), sinusoids(6, 12, torch.zeros(0))[:5])
