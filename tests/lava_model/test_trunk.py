"""The frozen trunk and its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import sklearn
import torch
import torchvision

from lava_model.config import LavaConfig
from lava_model.encoders import trunk as trunk_module
from lava_model.encoders.trunk import IMAGENET_MEAN, IMAGENET_STD, Trunk
from lava_model.encoders.trunk_weights import load_trunk_weights
from lava_model.errors import WeightsError
from lava_model.presets import tiny

SMALL = replace(tiny().model, width=32, num_heads=2, num_frames=3, vocab_size=50, max_text_length=12)
PHOTO = Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg"


def frames(config: LavaConfig, batch: int = 2, pixel_format: str = "rgb24") -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, config.num_frames, *config.frame_shape(pixel_format))
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def resnet18() -> torch.nn.Module:
    """A ResNet-18 whose BatchNorms have seen something."""
    torch.manual_seed(5)
    whole = torchvision.models.resnet18(weights=None).eval()
    for module in whole.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    return whole


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    return Trunk(SMALL)


@pytest.fixture(scope="module")
def weights_file(resnet18: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(resnet18.state_dict(), path)
    return path


def test_trunk_is_torchvisions_resnet_on_normalised_frames(resnet18, weights_file):
    config = replace(SMALL, trunk_weights=str(weights_file), trunk_stage=4, frame_size=64, short_side=64, video_grid=2)
    video = frames(config)
    features = Trunk(config)(video)

    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    pixels = ((video.double() / 255 - mean) / std).float().flatten(0, 1).permute(0, 3, 1, 2)
    body = torch.nn.Sequential(*list(resnet18.children())[:-2])
    with torch.no_grad():
        expected = body(pixels).flatten(2).transpose(1, 2).reshape(2, 3, 4, 512)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_a_photograph_goes_in_as_torchvisions_preset_of_these_weights_has_it():
    photo_CHW = torchvision.io.decode_image(str(PHOTO))[:, :224, :224]
    preset = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=224, resize_size=224)
    seen = []
    trunk = Trunk(replace(SMALL, frame_size=224, short_side=224))
    trunk.resnet.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    trunk(photo_CHW.permute(1, 2, 0)[None, None])
    torch.testing.assert_close(seen[0][0], preset(photo_CHW), rtol=0, atol=1e-5)


def test_trunk_pools_to_the_grid(weights_file, resnet18, tmp_path):
    safetensors.torch.save_file(resnet18.state_dict(), tmp_path / "r.safetensors")
    config = replace(SMALL, trunk_weights=str(tmp_path / "r.safetensors"), frame_size=64, short_side=64, video_grid=8)
    fine = Trunk(config)(frames(config))
    assert torch.equal(fine, Trunk(replace(config, trunk_weights=str(weights_file)))(frames(config)))
    coarse = Trunk(replace(config, video_grid=4))(frames(config))
    assert fine.shape == (2, 3, 64, 128)
    expected = fine.reshape(2, 3, 4, 2, 4, 2, 128).mean(dim=(3, 5)).flatten(2, 3)
    torch.testing.assert_close(coarse, expected, rtol=1e-4, atol=1e-5)


def test_eval_mode_cannot_be_left():
    trunk = Trunk(SMALL)
    trunk.train()
    trunk.resnet.apply(lambda module: module.train())  # somebody reaches past us, and the next train() mends it
    torch.nn.Sequential(trunk).train()
    assert not any(module.training for module in trunk.modules())
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    assert not trunk(frames(SMALL)).requires_grad


def test_a_frame_does_not_see_the_others(trunk):
    # BatchNorm in training mode, as in the authors' code, would fail here.
    video = frames(SMALL, batch=3)
    trunk.train()
    torch.testing.assert_close(trunk(video)[1, 2], trunk(video[1:2, 2:])[0, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames_at_once", [0.5, 1, 2.5, 4, 6])
def test_in_how_many_parts_frames_go_through_changes_nothing(trunk, frames_at_once, monkeypatch):
    video = frames(SMALL)
    expected = trunk(video)
    monkeypatch.setattr(trunk_module, "_PIXELS_AT_ONCE_CPU", int(frames_at_once * SMALL.frame_size**2))
    sizes = []
    hook = trunk.resnet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    found = trunk(video)
    hook.remove()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert sum(sizes) == 6
    assert max(sizes) <= max(1, frames_at_once)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("pixel_format", ["rgb24", "yuv420p"])
@pytest.mark.parametrize("stage", [2, 4])
def test_all_maps_lie_in_channels_last_order(pixel_format, stage):
    config = replace(SMALL, trunk_stage=stage, frame_size=64, short_side=64, video_grid=2)
    trunk = Trunk(config)
    orders = []

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        for maps in (inputs[0], output):
            orders.append(maps.is_contiguous(memory_format=torch.channels_last))

    for module in trunk.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.MaxPool2d)):
            module.register_forward_hook(look)
    features = trunk(frames(config, pixel_format=pixel_format))
    assert len(orders) > 20
    assert all(orders)
    assert features.is_contiguous()


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


def test_a_random_trunk_has_the_weights_that_torchvision_draws():
    with torch.random.fork_rng():
        torch.manual_seed(SMALL.trunk_seed)
        drawn = torchvision.models.resnet18(weights=None).state_dict()
    ours = Trunk(replace(SMALL, trunk_stage=4, video_grid=1)).resnet.state_dict()
    assert {*drawn} - {*ours} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(drawn[name], tensor) for name, tensor in ours.items())


# --- weights: what is asked for, or one clear line ---


@pytest.fixture(scope="module")
def first_stages(resnet18: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a trunk of two stages needs."""
    return {name: tensor for name, tensor in resnet18.state_dict().items() if not name.startswith(("layer3", "layer4"))}


def refusal(path: Path, trunk: Trunk) -> str:
    with pytest.raises(WeightsError) as failure:
        load_trunk_weights(trunk.resnet, str(path))
    assert "\n" not in str(failure.value)
    return str(failure.value)


def test_weights_never_fall_back(trunk, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"cannot be downloaded.*--model\.trunk-weights") as failure:
        Trunk(replace(SMALL, trunk_weights="imagenet"))
    assert "\n" not in str(failure.value)
    with pytest.raises(WeightsError, match="no trunk weights at"):
        Trunk(replace(SMALL, trunk_weights=str(tmp_path / "absent.pth")))
    (tmp_path / "text.pth").write_text("not tensors")
    assert "is no file of tensors" in refusal(tmp_path / "text.pth", trunk)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    assert "cannot be read as tensors" in refusal(tmp_path / "cut.safetensors", trunk)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    assert "does not hold a mapping of names to tensors" in refusal(tmp_path / "list.pth", trunk)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("layer1.0.conv1.weight", None, "layer1.0.conv1.weight is missing"),
        ("bn1.running_var", torch.zeros(7), r"bn1.running_var is (7,) instead of (64,)"),
        ("conv1.weight", torch.zeros(64, 3, 7, 7).fill_(float("nan")), "conv1.weight holds values that are not finite"),
        ("bn1.weight", torch.full((64,), float("inf")), "bn1.weight holds values that are not finite"),
        ("conv1.weight", torch.zeros(64, 3, 7, 7, dtype=torch.int8), "conv1.weight is int8, not floating point"),
    ],
)
def test_weights_that_do_not_fit_name_the_first_tensor(trunk, first_stages, tmp_path, name, tensor, message):
    state = {key: value for key, value in first_stages.items() if key != name}
    torch.save(state if tensor is None else {**state, name: tensor}, tmp_path / "other.pth")
    found = refusal(tmp_path / "other.pth", trunk)
    assert message in found
    assert "does not hold the weights of torchvision's ResNet-18" in found


def test_only_the_stages_in_use_are_looked_at_and_files_of_before_batch_counts_are_read(first_stages, tmp_path):
    old = {name: tensor for name, tensor in first_stages.items() if "num_batches_tracked" not in name}
    torch.save({**old, "layer3.0.conv1.weight": torch.zeros(1)}, tmp_path / "old.pth")
    trunk = Trunk(replace(SMALL, trunk_weights=str(tmp_path / "old.pth")))
    found = trunk.resnet.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in old.items() if not name.startswith("fc"))
