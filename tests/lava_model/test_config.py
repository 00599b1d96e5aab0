"""Configurations: ranges, presets, options, and the command's answers that need no training."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace

import pytest

from lava_model.config import DataConfig, LavaConfig, LossConfig, OptimConfig, PretrainConfig, RunConfig
from lava_model.describe import cost, num_tokens, transformer_flops
from lava_model.errors import ConfigError
from lava_model.presets import PRESETS, preset
from lava_model.pretrain import main
from lava_model.settings import flatten, from_dict, override, to_dict


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LavaConfig(width=0, num_layers=-1),
            r"width must be above 0 and finite, got 0; num_layers must be above 0",
        ),
        (lambda: LavaConfig(width=100), r"width \(100\) must be a multiple of num_heads \(16\)"),
        (lambda: LavaConfig(trunk_stage=5), "trunk_stage must be 1, 2, 3 or 4"),
        (lambda: LavaConfig(video_grid=8), r"video_grid \(8\) is finer than the 7x7 cells"),
        (lambda: LavaConfig(audio_patch_frames=7), r"num_mel_frames \(256\) must be a multiple"),
        (lambda: LavaConfig(frame_size=258), r"short_side \(256\) must be at least frame_size \(258\)"),
        (lambda: LavaConfig(frame_size=225), "frame_size must be even, got 225"),
        (lambda: LavaConfig(pixel_format="rgb"), "pixel_format must be 'yuv420p' or 'rgb24', got 'rgb'"),
        (lambda: DataConfig(chunk_size=0), "chunk_size must be above 0"),
        (lambda: LavaConfig(dropout=1.0, pooling="max"), r"pooling must be 'cls' or 'mean'.*dropout"),
        (lambda: LossConfig(temperature=0), "temperature must be above 0"),
        (lambda: OptimConfig(lr=float("nan")), "lr must be above 0 and finite, got nan"),
        (lambda: OptimConfig(warmup_fraction=1.5), "warmup_fraction must be in 0..1"),
        (lambda: OptimConfig(betas=(0.9, 1.0)), "betas must be in"),
        (lambda: DataConfig(batch_size=1), "batch_size must be at least 2"),
        (lambda: RunConfig(max_steps=0), "max_steps must be above 0"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message) as failure:
        make()
    assert failure.value.exit_code == 2


def test_paper_preset_is_the_paper():
    config = preset("paper")
    assert (config.loss.form, config.loss.centroid, config.loss.temperature) == ("pooled", "literal", 0.07)
    assert (config.optim.name, config.optim.lr, config.optim.schedule) == ("adam", 1e-5, "cosine")
    assert (config.optim.warmup_fraction, config.optim.weight_decay, config.optim.clip_norm) == (0, 0, 0)
    assert (config.data.batch_size, config.run.epochs) == (32, 25)
    assert (config.model.width, config.model.num_layers, config.model.vocab_size) == (1024, 4, 48_000)
    assert config.model.num_video_tokens == 784
    assert set(flatten(to_dict(config.loss.weights)).values()) == {1.0, 0.0}


def test_default_preset_and_unknown_preset():
    assert preset("lava").loss == LossConfig(form="symmetric", centroid="leave_one_out")
    with pytest.raises(ConfigError, match="unknown preset 'papr': did you mean 'paper'"):
        preset("papr")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    config = preset(name)
    assert from_dict(PretrainConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_every_setting_is_explained():
    import inspect
    import re

    for kind in (LavaConfig, LossConfig, OptimConfig, DataConfig, RunConfig, PretrainConfig):
        assert is_dataclass(kind)
        source = inspect.getsource(kind)
        for field in fields(kind):
            assert re.search(rf"^    {field.name}: [^\n]*\n    \"\"\"\S", source, re.MULTILINE), field.name


def test_loader_settings_follow_the_model():
    model = preset("tiny").model
    assert (model.video_config().size, model.video_config().num_frames) == (model.frame_size, model.num_frames)
    assert model.video_config().window_seconds == pytest.approx(1.6)
    assert model.audio_config().num_mel_frames == model.num_mel_frames
    assert model.text_config().max_length == model.max_text_length


def test_from_dict_names_every_problem():
    values = {"model": {"widht": 3, "num_layers": "four"}, "optim": {"betas": [0.9]}, "lss": {}}
    with pytest.raises(ConfigError) as failure:
        from_dict(PretrainConfig, values)
    assert failure.value.problems == (
        "unknown setting model.widht: did you mean model.width?",
        "model.num_layers cannot be 'four'",
        "optim.betas cannot be [0.9]",
        "unknown setting lss: did you mean loss?",
    )


def test_dotted_options_are_applied():
    options = [
        "--optim.lr",
        "1e-3",
        "--optim.betas",
        "0.8",
        "0.9",
        "--loss.form",
        "pooled",
        "--loss.weights.at",
        "0.5",
        "--data.synthetic",
    ]
    config = override(preset("tiny"), [*options, "--run.max_steps=7"], program="x")
    assert (config.optim.lr, config.optim.betas, config.loss.form) == (1e-3, (0.8, 0.9), "pooled")
    assert (config.loss.weights.at, config.data.synthetic, config.run.max_steps) == (0.5, True, 7)
    assert config.model == preset("tiny").model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optim.lrr", "1"], "unknown option --optim.lrr: did you mean --optim.lr?"),
        (["--max-step", "1"], "unknown option --max-step: did you mean --max-steps?"),
        (["--batchsize", "1"], "unknown option --batchsize: did you mean --batch-size?"),
        (["--temperature", "1"], "unknown option --temperature: did you mean --loss.temperature?"),
        (["--optim.lr", "fast"], "could not convert string to float: 'fast'"),
        (["--loss.form", "clip"], "invalid choice 'clip'"),
        (["--model.width", "100", "--model.num-heads", "3"], "must be a multiple of num_heads"),
        (["--preset", "nano"], "unknown preset 'nano'"),
        (["stray"], "stray"),
    ],
)
def test_options_that_do_not_fit_are_one_line_and_exit_2(capsys, options, message):
    assert main(options) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_print_config_is_json_that_reads_back(capsys):
    assert main(["--preset", "tiny", "--optim.lr", "3e-4", "--print-config"]) == 0
    config = from_dict(PretrainConfig, json.loads(capsys.readouterr().out))
    assert config == replace(preset("tiny"), optim=replace(preset("tiny").optim, lr=3e-4))


def test_help_shows_every_setting(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for name in flatten(to_dict(preset("lava"))):
        assert f"--{name.replace('_', '-')}" in shown
    assert "--preset" in shown
    assert "example:" in shown


def test_dry_run_answers_as_text_and_json(capsys):
    assert main(["--preset", "paper", "--dry-run"]) == 0
    assert "GFLOP per sample" in capsys.readouterr().out
    assert main(["--preset", "paper", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cost"]["trained_parameters"] == pytest.approx(210e6, rel=0.01)


def test_cost_is_that_of_the_notes():
    # GFLOP per sample computed by hand for 784 video tokens, 8-frame audio patches, feed-forward 4x
    found = cost(preset("paper"))
    assert found.trunk_flops == pytest.approx(58.0e9, rel=0.005)
    assert found.forward_flops["video"] == pytest.approx(89.9e9, rel=0.005)
    assert found.forward_flops["audio"] == pytest.approx(3.4e9, rel=0.02)
    assert found.forward_flops["text"] == pytest.approx(13.3e9, rel=0.005)
    assert found.train_flops == pytest.approx(378e9, rel=0.005)
    assert found.state_bytes == pytest.approx(3.4e9, rel=0.02)
    assert transformer_flops(257, LavaConfig()) == pytest.approx(27.2e9, rel=0.01)
    assert num_tokens(replace(LavaConfig(), pooling="mean")) == {"video": 784, "audio": 32, "text": 128}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "pre-training needs --manifest, --clips, --tokenizer (or --synthetic"),
        (["--manifest", "no.parquet", "--clips", ".", "--tokenizer", "t.json"], 1, "no.parquet does not exist"),
        (["--device", "gpu"], 2, "is not a device"),
        (["--synthetic", "--batch-size", "4096"], 2, "synthetic_samples (2048) is below batch_size (4096)"),
    ],
)
def test_missing_data_is_one_line(capsys, tmp_path, options, code, message):
    assert main(["--preset", "tiny", "--out", str(tmp_path / "run"), *options]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_larger_than_the_model_is_one_line(capsys, tmp_path):
    (tmp_path / "m.parquet").touch()
    tokenizer = {"model": {"vocab": {f"t{i}": i for i in range(9000)}}, "added_tokens": []}
    (tmp_path / "tok.json").write_text(json.dumps(tokenizer))
    paths = [
        "--manifest",
        str(tmp_path / "m.parquet"),
        "--clips",
        str(tmp_path),
        "--tokenizer",
        str(tmp_path / "tok.json"),
    ]
    assert main(["--preset", "tiny", "--out", str(tmp_path / "run"), *paths]) == 2
    assert "has 9000 entries but the model only 8192: pass --model.vocab-size 9000" in capsys.readouterr().err
    (tmp_path / "tok.json").write_text("[]")
    assert main(["--preset", "tiny", "--out", str(tmp_path / "run"), *paths]) == 1
    assert "cannot be read as a tokenizer.json" in capsys.readouterr().err
