"""The frozen trunk and the three encoders."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import safetensors.torch
import torch
import torchvision

from lava_model.config import LavaConfig
from lava_model.encoders.audio import AudioEncoder, standardise
from lava_model.encoders.text import TextEncoder
from lava_model.encoders.trunk import IMAGENET_MEAN, IMAGENET_STD, Trunk
from lava_model.encoders.video import VideoEncoder
from lava_model.errors import WeightsError
from lava_model.presets import tiny

SMALL = replace(tiny().model, width=32, num_heads=2, num_frames=3, vocab_size=50, max_text_length=12)


def frames(config: LavaConfig, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    size = config.frame_size
    return torch.randint(0, 256, (batch, config.num_frames, size, size, 3), dtype=torch.uint8, generator=generator)


def test_trunk_is_torchvisions_resnet_on_normalised_frames(tmp_path):
    torch.manual_seed(5)
    whole = torchvision.models.resnet18(weights=None).eval()
    for module in whole.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    torch.save(whole.state_dict(), tmp_path / "resnet18.pth")
    config = replace(
        SMALL, trunk_weights=str(tmp_path / "resnet18.pth"), trunk_stage=4, frame_size=64, short_side=64, video_grid=2
    )
    video = frames(config)
    features = Trunk(config)(video)

    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    pixels = ((video.double() / 255 - mean) / std).float().flatten(0, 1).permute(0, 3, 1, 2)
    body = torch.nn.Sequential(*list(whole.children())[:-2])
    with torch.no_grad():
        expected = body(pixels).flatten(2).transpose(1, 2).reshape(2, 3, 4, 512)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_trunk_reads_safetensors_too_and_pools_to_the_grid(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    safetensors.torch.save_file(state, tmp_path / "r.safetensors")
    config = replace(SMALL, trunk_weights=str(tmp_path / "r.safetensors"), frame_size=64, short_side=64, video_grid=8)
    fine = Trunk(config)(frames(config))
    coarse = Trunk(replace(config, video_grid=4))(frames(config))
    assert fine.shape == (2, 3, 64, 128)
    expected = fine.reshape(2, 3, 4, 2, 4, 2, 128).mean(dim=(3, 5)).flatten(2, 3)
    torch.testing.assert_close(coarse, expected, rtol=1e-4, atol=1e-5)


def test_trunk_never_trains():
    encoder = VideoEncoder(SMALL)
    before = {name: tensor.clone() for name, tensor in encoder.trunk.state_dict().items()}
    encoder.train()
    encoder(frames(SMALL)).sum().backward()
    assert encoder.training
    assert not any(module.training for module in encoder.trunk.modules())
    assert not any(parameter.requires_grad for parameter in encoder.trunk.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.trunk.state_dict().items())
    assert encoder.token.weight.grad is not None


def test_random_trunk_depends_on_its_seed_only():
    torch.manual_seed(1)
    first = Trunk(SMALL)(frames(SMALL))
    drawn = torch.rand(1)
    torch.manual_seed(2)
    second = Trunk(SMALL)(frames(SMALL))
    assert torch.equal(first, second)
    assert not torch.equal(first, Trunk(replace(SMALL, trunk_seed=1))(frames(SMALL)))
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1)), "building the trunk disturbs the caller's random numbers"


def test_trunk_weights_never_fall_back(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"cannot be downloaded.*--model\.trunk-weights") as failure:
        Trunk(replace(SMALL, trunk_weights="imagenet"))
    assert "\n" not in str(failure.value)
    with pytest.raises(WeightsError, match="no trunk weights at"):
        Trunk(replace(SMALL, trunk_weights=str(tmp_path / "absent.pth")))
    (tmp_path / "text.pth").write_text("not tensors")
    with pytest.raises(WeightsError, match="cannot be read as tensors"):
        Trunk(replace(SMALL, trunk_weights=str(tmp_path / "text.pth")))
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="does not hold the weights of torchvision's ResNet-18"):
        Trunk(replace(SMALL, trunk_weights=str(tmp_path / "other.pth")))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_changes_nothing(pooling):
    torch.manual_seed(0)
    encoder = TextEncoder(replace(SMALL, pooling=pooling)).eval()
    token_ids = torch.randint(0, 50, (3, 12))
    mask = torch.arange(12) < torch.tensor([[5], [12], [0]])
    other = torch.where(mask, token_ids, 7)
    features = encoder(token_ids, mask)
    assert features.shape == (3, 32)
    assert features.isfinite().all()
    torch.testing.assert_close(features, encoder(other, mask))
    changed = token_ids.clone()
    changed[0, 0] = (changed[0, 0] + 1) % 50
    assert not torch.allclose(features[0], encoder(changed, mask)[0])


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_batch_without_any_text_has_finite_gradients(pooling):
    encoder = TextEncoder(replace(SMALL, pooling=pooling))
    encoder(torch.zeros(2, 12, dtype=torch.int64), torch.zeros(2, 12, dtype=torch.bool)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters() if parameter.grad is not None)


def test_position_matters_to_every_encoder():
    torch.manual_seed(0)
    text, audio, video = TextEncoder(SMALL), AudioEncoder(SMALL), VideoEncoder(SMALL)
    token_ids = torch.arange(12)[None]
    assert not torch.allclose(
        text(token_ids, torch.ones(1, 12, dtype=torch.bool)),
        text(token_ids.flip(1), torch.ones(1, 12, dtype=torch.bool)),
    )
    log_mel = torch.randn(1, 80, 256)
    patches = log_mel.reshape(1, 80, 32, 8)
    assert not torch.allclose(audio(log_mel), audio(patches.flip(2).reshape(1, 80, 256)), atol=1e-4)
    clip = frames(SMALL, batch=1)
    assert not torch.allclose(video(clip), video(clip.flip(1)), atol=1e-4)


def test_standardised_log_mel_ignores_level_and_gain_of_the_recording():
    log_mel = torch.randn(2, 80, 256)
    standard = standardise(log_mel)
    assert standard.mean().item() == pytest.approx(0, abs=1e-4)
    assert standard.std().item() == pytest.approx(1, abs=1e-2)
    torch.testing.assert_close(standardise(log_mel - 7), standard, rtol=1e-3, atol=1e-3)
    assert standardise(torch.zeros(1, 80, 256)).abs().max() == 0


def test_features_of_a_random_trunk_are_of_ordinary_size():
    features = VideoEncoder(tiny().model)(frames(tiny().model))
    assert 0.1 < features.std().item() < 10
    assert math.isfinite(features.abs().max().item())
