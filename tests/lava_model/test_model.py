"""Lava: shapes, counts and absent modalities."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from k700_text.data.sample import Batch, collate
from lava_model import Embeddings, Lava, LavaConfig
from lava_model.errors import DataError
from lava_model.modalities import MODALITIES
from lava_model.objective import Objective
from lava_model.optim import build_optimizer
from lava_model.presets import tiny
from lava_model.synthetic import SyntheticAVT

SMALL = replace(tiny().model, width=32, num_heads=2, embedding_dim=16, num_frames=2, vocab_size=100, max_text_length=12)
OBJECTIVE = Objective(tiny().loss, SMALL.embedding_dim)


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
    OBJECTIVE(model(batch), batch).total.backward()
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
        OBJECTIVE(model(one), one).total.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=0, atol=1e-7)


def test_a_batch_without_text_still_touches_the_text_encoder(model, batch):
    # Ranks of a distributed run must all have the same parameters in their graph.
    empty = replace(batch, has_text=torch.zeros(6, dtype=torch.bool), text_mask=torch.zeros_like(batch.text_mask))
    model.zero_grad()
    OBJECTIVE(model(empty), empty).total.backward()
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


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, (784, 32)),
        ({"video_grid": 4, "audio_patch_frames": 1, "feedforward_ratio": 1.0}, (256, 256)),
        ({"video_grid": 1, "pooling": "mean", "positions": "learned", "num_heads": 4}, (16, 32)),
        (
            {"trunk_stage": 3, "video_grid": 14, "num_frames": 4, "positions": "sinusoidal", "pixel_format": "rgb24"},
            (784, 32),
        ),
    ],
)
def test_nothing_on_the_way_to_the_gradient_looks_at_a_value(changes, tokens):
    # On the meta device there are no values: a wait for the GPU, or a shape that depends on data, would raise. Frames
    # are uint8 up to the trunk.
    config = replace(LavaConfig(vocab_size=100), **changes)
    assert (config.num_video_tokens, config.num_audio_tokens) == tokens
    with torch.device("meta"):
        model = Lava(config)
        batch = Batch(
            video=torch.zeros(3, config.num_frames, *config.frame_shape(), dtype=torch.uint8),
            log_mel=torch.zeros(3, 80, 256),
            token_ids=torch.zeros(3, 128, dtype=torch.int64),
            text_mask=torch.zeros(3, 128, dtype=torch.bool),
            **{f"has_{modality}": torch.zeros(3, dtype=torch.bool) for modality in MODALITIES},
            clip_id=("a", "b", "c"),
            label=(None,) * 3,
        )
    seen = []
    model.video_encoder.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    embeddings = model(batch)
    assert seen == [torch.uint8]
    torch.stack([getattr(embeddings, field.name) for field in fields(Embeddings)]).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_samples_are_told_apart_before_training(pooling):
    # A random trunk sees all made-up pictures alike, so that videos start close together, but not in one point.
    config = replace(SMALL, width=64, pooling=pooling)
    torch.manual_seed(0)
    samples = SyntheticAVT(config, 8, audio_fraction=1, text_fraction=1)
    embeddings = Lava(config).embed(collate([samples[0, index] for index in range(8)]))
    pairs = torch.triu_indices(8, 8, offset=1).unbind(0)
    for field, limit in (("avt_video", 0.999), ("avt_audio", 0.95), ("avt_text", 0.95)):
        values = getattr(embeddings, field)
        cosines = (values @ values.T)[pairs]
        assert cosines.mean() < limit
        assert cosines.std() > 1e-3


# --- the trunk once, the encoders more often ---


@pytest.mark.parametrize("precision", ["fp32", "fp64", "bf16"])
def test_a_pass_over_patches_is_the_pass_over_frames_bit_for_bit(batch, precision):
    torch.manual_seed(0)
    model = Lava(SMALL)
    dtype = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16}[precision]
    if precision == "fp64":
        model.double()
    no_frames = replace(batch, video=torch.zeros(6, dtype=torch.uint8))
    gradients = []
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        patches_BTPC = model.patches(batch)
        assert patches_BTPC.shape == (6, 2, 9, 128)
        assert patches_BTPC.dtype == dtype
        assert not patches_BTPC.requires_grad
        for embeddings in (model(batch), model(no_frames, patches_BTPC)):
            model.zero_grad()
            OBJECTIVE(embeddings, batch).total.backward()
            values = [getattr(embeddings, field.name) for field in fields(Embeddings)]
            gradients.append([*values, *(p.grad.clone() for p in model.parameters() if p.requires_grad)])
    assert gradients[0][0].dtype == (dtype if precision == "fp64" else torch.float32)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*gradients, strict=True))


def test_what_are_no_frames_and_no_patches_is_refused(model, batch):
    patches_BTPC = model.patches(batch)
    with pytest.raises(DataError, match="the batch has 6 samples, the patches are of 1"):
        model(batch, patches_BTPC[:1])
    with pytest.raises(DataError, match=r"takes patches of \(2, 9, 128\) per sample, the batch has \(9, 2, 128\)"):
        model(batch, patches_BTPC.transpose(1, 2))
    with pytest.raises(DataError, match=r"takes patches of .* the batch has \(2, 48, 48, 3\)"):
        model(replace(batch, video=torch.zeros(6, 2, 48, 48, 3)))
    with pytest.raises(DataError, match=r"takes video as uint8, the batch has torch\.int64"):
        model(replace(batch, video=batch.video.long()))


def test_training_leaves_the_trunk_as_it_is(batch):
    torch.manual_seed(0)
    model = Lava(SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = build_optimizer(model, tiny().optim)
    for _ in range(2):
        model.train()
        assert not any(module.training for module in model.video_encoder.trunk.modules())
        optimizer.zero_grad()
        OBJECTIVE(model(batch), batch).total.backward()
        optimizer.step()
    same = {name for name, tensor in model.state_dict().items() if torch.equal(before[name], tensor)}
    assert same == {name for name in before if ".trunk." in name}
    assert sum("running_mean" in name for name in same) == 10


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # what the compiler itself warns about is not ours
def test_a_compiled_model_is_the_model_and_is_compiled_once(batch):
    config = replace(SMALL, num_layers=1)
    torch.manual_seed(0)
    plain, model = Lava(config), Lava(config)
    model.load_state_dict(plain.state_dict())
    model.compile(fullgraph=True)  # a break in the graph raises
    samples = SyntheticAVT(SMALL, 12, audio_fraction=0.6, text_fraction=0.6)
    other = collate([samples[0, index] for index in range(6, 12)])
    assert not torch.equal(other.has_text, batch.has_text)
    for number, one in enumerate([batch, other]):
        # As GradCache has it: the trunk once, the encoders without gradient, then with. Once that has been seen, other
        # masks and other clips compile nothing anew, nor does a pass over frames.
        with torch._dynamo.config.patch(error_on_recompile=number > 0):
            patches_BTPC = model.patches(one)
            with torch.no_grad():
                first = model(one, patches_BTPC)
            found = model(one, patches_BTPC) if number == 0 else model(one)
            OBJECTIVE(found, one).total.backward()
        expected = plain(one)
        OBJECTIVE(expected, one).total.backward()
        for field in fields(Embeddings):
            for passed in (first, found):
                value = getattr(expected, field.name)
                torch.testing.assert_close(getattr(passed, field.name), value, rtol=0, atol=1e-5)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_bf16_autocast_gives_float32_embeddings_close_to_float32_ones(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.embed(batch)
    assert mixed.av_video.dtype == torch.float32
    assert torch.cosine_similarity(mixed.av_video, model.embed(batch).av_video).min() > 0.99
