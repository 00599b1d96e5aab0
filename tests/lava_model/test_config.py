"""Configurations: ranges, presets, options, and the command's answers that need no training."""

from __future__ import annotations

import contextlib
import io
import json
import math
import types
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Literal, Union, get_args, get_origin

import numpy as np
import pytest

from k700_text.checks import field_hints
from k700_text.data.text import train_tokenizer
from lava_model.config import DataConfig, LavaConfig, LossConfig, LossWeights, OptimConfig, PretrainConfig, RunConfig
from lava_model.errors import ConfigError
from lava_model.evaluate import LinearProbeOptions
from lava_model.presets import OBJECTIVES, PRESETS, preset, with_objective
from lava_model.pretrain import main
from lava_model.settings import flatten, from_dict, from_file, override, to_dict


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LavaConfig(width=0, num_layers=-1),
            r"width must be above 0 and finite, got 0; num_layers must be above 0",
        ),
        (lambda: LavaConfig(width=100), r"width \(100\) must be a multiple of num_heads \(16\)"),
        (lambda: LavaConfig(trunk_stage=5), "trunk_stage cannot be 5: use 1, 2, 3, 4$"),
        (lambda: LavaConfig(video_grid=8), r"video_grid \(8\) is finer than the 7x7 cells"),
        (lambda: LavaConfig(audio_patch_frames=7), r"num_mel_frames \(256\) must be a multiple"),
        (lambda: LavaConfig(frame_size=258), r"short_side \(256\) must be at least frame_size \(258\)"),
        (lambda: LavaConfig(frame_size=225), "frame_size must be even, got 225"),
        (
            lambda: LavaConfig(pixel_format="rgb"),
            r"pixel_format cannot be 'rgb': use yuv420p, rgb24 \(did you mean 'rgb24'\?\)",
        ),
        (lambda: DataConfig(chunk_size=0), "chunk_size must be above 0"),
        (
            lambda: LavaConfig(dropout=1.0, pooling="max"),
            r"pooling cannot be 'max': use cls, mean .*; dropout must be in 0\.\.1 and below 1, got 1.0",
        ),
        (lambda: LossConfig(temperature=0), "temperature must be above 0"),
        (lambda: OptimConfig(lr=float("nan")), "lr must be above 0 and finite, got nan"),
        (lambda: OptimConfig(warmup_fraction=1.5), "warmup_fraction must be in 0..1"),
        (lambda: OptimConfig(betas=(0.9, 1.0)), "betas must be in"),
        (lambda: DataConfig(batch_size=1), "batch_size must be at least 2"),
        (lambda: RunConfig(max_steps=0), "max_steps must be above 0"),
        (lambda: RunConfig(profile_steps=-1), "profile_steps must be finite and not below 0"),
        (lambda: RunConfig(peak_tflops=0), "peak_tflops must be above 0"),
        (lambda: DataConfig(accumulate=0, micro_batch=-1), "micro_batch must be above 0.*accumulate must be above 0"),
        (lambda: OptimConfig(ema_decay=1), r"ema_decay must be in 0\.\.1"),
        (lambda: LavaConfig(positions="fourier"), "positions cannot be 'fourier': use factorised, learned, sinusoidal"),
        (lambda: LossConfig(learn_temperature=True, temperature=0.001), "must be at least 1 / max_scale"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message) as failure:
        make()
    assert failure.value.exit_code == 2


KINDS = (LavaConfig, LossWeights, LossConfig, OptimConfig, DataConfig, RunConfig, LinearProbeOptions)
WRONG = {int: (True, 1.5, "3", math.nan, math.inf, None), float: (True, "1", math.nan, math.inf, -math.inf, 10**400)}


def wrong_values(hint, ranges=()):
    """Yields values that a field of that type must refuse; a number without a range is an oversight."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return wrong_values(options[0], options[1:])
    if origin is Literal:
        return ["nonsense", str(options[0]).upper() + " ", b"x", None, True]
    if origin in (Union, types.UnionType):
        return [value for value in wrong_values(options[0]) if value is not None]
    if origin is tuple:
        return [(), tuple(wrong_values(options[0])[:1] * len(options)), 0.5]
    if hint in (int, float):
        assert ranges, "which numbers are allowed must be said"
        return [*WRONG[hint], *([-1] if not ranges[0].holds(-1) else []), *([0] if not ranges[0].holds(0) else [])]
    return [3, b"x", *([] if hint is str else ["yes"])]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, field.name) for kind in KINDS for field in fields(kind)],
    ids=lambda it: getattr(it, "__name__", it),
)
def test_no_field_takes_what_its_type_does_not_say(kind, name):
    hint = field_hints(kind)[name]
    for value in wrong_values(hint) if not is_dataclass(hint) else [3, "av", None]:
        with pytest.raises(ConfigError) as failure:
            kind(**{name: value})
        problems = failure.value.problems
        assert len(problems) == 1 or (len(problems) == len(value) and get_origin(hint) is tuple)
        for problem in problems:
            assert problem.lstrip("-").replace("-", "_").startswith(f"{name} "), (value, problem)
            assert len(problem) < 300 and "\n" not in problem


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: OptimConfig(name="sgd"), "name cannot be 'sgd': use adamw, adam (did you mean 'adam'?)"),
        (
            lambda: OptimConfig(schedule="cosin"),
            "schedule cannot be 'cosin': use cosine, constant (did you mean 'cosine'?)",
        ),
        (lambda: LossConfig(policy="complete"), "use complete_pair, available_mean (did you mean 'complete_pair'?)"),
        (lambda: LossConfig(centroid="kmean"), "stop_grad, kmeans (did you mean 'kmeans'?)"),
        (
            lambda: LossConfig(form="nonsense"),
            "form cannot be 'nonsense': use symmetric, pooled, infonce, mil_nce (did",
        ),
        (
            lambda: RunConfig(precision="fp64"),
            "precision cannot be 'fp64': use auto, bf16, fp32 (did you mean 'fp32'?)",
        ),
        (lambda: RunConfig(max_steps=True), "max_steps cannot be True"),
        (lambda: DataConfig(num_workers=math.nan), "num_workers cannot be nan"),
        (lambda: LossWeights.of({"at": -1}), "at must be finite and not below 0, got -1"),
        *(
            (lambda name=name: RunConfig(device=name), f"device cannot be {name!r}: use auto, cpu, cuda or cuda:N")
            for name in ("gpu", "tpu", "cuda:x", "cuda:", "cuda:-1", "CPU", "cpu\n", "")
        ),
        (lambda: RunConfig(device="cudda"), "(did you mean 'cuda'?)"),
        (lambda: LavaConfig(trunk_weights=""), "trunk_weights cannot be '': use some text, it is empty"),
        (lambda: OptimConfig(betas=(2, -3)), "betas must be in 0..1 and below 1, got 2; betas must be in 0..1"),
        (
            lambda: LossWeights.of({"av": -1, "vv": 2, "at": "q"}),
            "terms vv: use av, vt, avt, at; av must be finite and",
        ),
        (lambda: LossWeights.of({"av": -1, "vv": 2, "at": "q"}), "; at cannot be 'q'"),
        (lambda: DataConfig(synthetic=True, packets="x"), "synthetic samples take the place of packets: leave one of"),
        (lambda: DataConfig(synthetic=True, tokenizer="x", val_packets="y"), "the place of tokenizer, val_packets:"),
        (lambda: LavaConfig(width="\x1b[31m"), "width cannot be '\\x1b[31m'"),
        (lambda: LavaConfig(trunk_seed=2**63), "trunk_seed must be below 9223372036854775808"),
    ],
)
def test_what_is_no_choice_is_refused_with_the_nearest(make, line):
    with pytest.raises(ConfigError) as failure:
        make()
    assert line in str(failure.value)


def test_numbers_of_numpy_and_whole_numbers_for_fractions_are_numbers():
    assert LavaConfig(width=np.int64(32), frame_rate=np.float32(5), feedforward_ratio=1).frame_rate == 5
    assert OptimConfig(betas=(0, 0.5)).betas == (0, 0.5)
    for value in (np.bool_(True), np.float64(8)):
        with pytest.raises(ConfigError, match=r"^width cannot be"):
            LavaConfig(width=value)


def test_all_faults_of_all_groups_are_told_together(capsys, tmp_path):
    told = [
        "model.width must be above 0 and finite, got 0",
        "loss.temperature must be above 0 and finite, got -1.0",
        "optim.lr must be above 0 and finite, got nan",
        "run.max_steps must be above 0 and finite, got 0",
    ]
    words = ["--model.width", "0", "--loss.temperature", "-1", "--optim.lr", "nan", "--max-steps", "0"]
    assert main([*words, "--print-config"]) == 2
    assert capsys.readouterr().err == f"error: {'; '.join(told)}\n"
    # What is at odds is told too, but for what rests on a fault; names and kinds beside ranges and choices.
    values = {
        "model": {"width": 100, "num_heads": 3, "dropout": 2, "frame_size": 0},
        "loss": {"form": "clip", "temprature": 1, "weights": {"av": 0, "vt": 0, "avt": 0}},
        "run": {"seed": -1.5},
    }
    with pytest.raises(ConfigError) as failure:
        from_dict(PretrainConfig, values)
    assert [problem.split(":")[0] for problem in failure.value.problems] == [
        "model.dropout must be in 0..1 and below 1, got 2",
        "model.frame_size must be above 0 and finite, got 0",
        "loss.form cannot be 'clip'",
        "unknown setting loss.temprature",
        "run.seed cannot be -1.5",
        "width (100) must be a multiple of num_heads (3)",
        "the loss weights av, vt, avt and at are all 0",
    ]
    with pytest.raises(ConfigError, match=r"^optim\.name cannot be 'sgd'.*; run\.precision cannot be 'fp64'"):
        from_dict(PretrainConfig, {"optim": {"name": "sgd"}, "run": {"precision": "fp64"}})


def test_paper_preset_is_the_paper():
    config = preset("paper")
    assert (config.loss.form, config.loss.centroid, config.loss.temperature) == ("pooled", "literal", 0.07)
    assert (config.optim.name, config.optim.lr, config.optim.schedule) == ("adam", 1e-5, "cosine")
    assert (config.optim.warmup_fraction, config.optim.weight_decay, config.optim.clip_norm) == (0, 0, 0)
    assert (config.data.batch_size, config.run.epochs) == (32, 25)
    assert (config.model.width, config.model.num_layers, config.model.vocab_size) == (1024, 4, 48_000)
    assert config.model.num_video_tokens == 784
    assert to_dict(config.loss.weights) == {"av": 1, "vt": 1, "avt": 1, "at": 0}
    # Nothing of what came after it.
    assert not (config.loss.learn_temperature or config.loss.mask_same_title or config.loss.mask_same_video)
    assert (config.optim.ema_decay, config.data.accumulate, config.data.micro_batch) == (0, 1, None)


def test_default_preset_and_unknown_preset():
    assert preset("lava").loss == LossConfig()
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
        (["--preset"], "argument --preset: expected one argument (see python -m lava_model.pretrain --help)"),
        (["--dry-run=yes"], "argument --dry-run: ignored explicit argument 'yes'"),
        (["--objective", "milnce"], "unknown objective 'milnce': did you mean 'mil-nce'?"),
        (["--micro-batches", "8"], "unknown option --micro-batches: did you mean --micro-batch?"),
        (["--data.micro-batch", "0"], "micro_batch must be above 0"),
        (["--wandb-project", "x"], "unknown option --wandb-project: did you mean --wandb?"),
        (["--run.peak-tflops", "-1"], "peak_tflops must be above 0"),
        (["--loss.centroid", "kmeans", "--loss.cluster-queue", "9"], "cluster_queue (9) must be at least num_clusters"),
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


# --- files ---


def test_what_print_config_prints_is_a_config_file(capsys, tmp_path):
    assert main(["--preset", "tiny", "--objective", "av", "--optim.betas", "0.8", "0.9", "--print-config"]) == 0
    printed = capsys.readouterr().out
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / "config.json").write_text(printed)
    for path in (run_folder / "config.json", run_folder):
        assert main(["--config", str(path), "--print-config"]) == 0
        assert capsys.readouterr().out == printed


def test_a_file_is_above_the_preset_and_below_objective_and_options(tmp_path):
    path = tmp_path / "settings"
    path.write_text(
        """
        # TOML, with a BOM as some editors leave it
        [optim]
        lr = 1
        betas = [0.5, 0.6]
        [loss]
        temperature = 0.5
        form = "infonce"
        weights.at = 0.25
        [data]
        micro_batch = 4
        """,
        "utf-8-sig",
    )
    config = from_file(preset("tiny"), path)
    base = preset("tiny")
    assert config == replace(
        base,
        optim=replace(base.optim, lr=1.0, betas=(0.5, 0.6)),
        loss=replace(base.loss, temperature=0.5, form="infonce", weights=LossWeights(at=0.25)),
        data=replace(base.data, micro_batch=4),
    )
    words = ["--preset", "tiny", "--config", str(path), "--objective", "mil-nce", "--optim.lr", "2"]
    resolved = resolve([*words, "--loss.weights.av", "0.125"])
    assert (resolved.optim.lr, resolved.optim.betas, resolved.data.batch_size) == (2.0, (0.5, 0.6), 32)
    assert (resolved.loss.form, resolved.loss.temperature) == ("mil_nce", 0.5)
    assert resolved.loss.weights == LossWeights(av=0.125, vt=1, avt=0, at=0)


def resolve(words: list[str]) -> PretrainConfig:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([*words, "--print-config"]) == 0
    return from_dict(PretrainConfig, json.loads(printed.getvalue()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[optim]\nlr = \n", "no TOML or JSON: Invalid value (at line 2, column 6)"),
        (
            b'{"optim":\n {"lr": 1,,}}',
            "no TOML or JSON: Expecting property name enclosed in double quotes: line 2 column",
        ),
        (b'{"run": {"seed": 1}, "run": {}}', "no TOML or JSON: 'run' is there twice"),
        (b'{"run":' * 100_000, "no TOML or JSON: maximum recursion depth exceeded"),
        (b"\xff\xfe", "no TOML or JSON: 'utf-8' codec can't decode"),
        (b"[optim]\nlrr = 1\n", "c: unknown setting optim.lrr: did you mean optim.lr?"),
        (b'optim = "adam"\n', "c: optim cannot be 'adam'"),
        (b"[loss]\nform = 'clip'\n", "c: loss.form cannot be 'clip': use symmetric, pooled, infonce, mil_nce"),
        (b"[loss]\ntemperature = nan\n", "c: loss.temperature must be above 0 and finite, got nan"),
        (b"[data]\nbatch_size = 8.5\n", "c: data.batch_size cannot be 8.5"),
        (b"[data]\nbatch_size = true\n", "c: data.batch_size cannot be True"),
        (None, "c cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(capsys, tmp_path, content, message):
    path = tmp_path / "c"
    if content is not None:
        path.write_bytes(content)
    assert main(["--config", str(path), "--print-config"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert str(path) in printed.err
    assert printed.err.count("\n") == 1


# --- objectives ---


@pytest.mark.parametrize(
    ("name", "form", "centroid", "terms"),
    [
        ("lava", "symmetric", "leave_one_out", {"av", "vt", "avt"}),
        ("paper", "pooled", "literal", {"av", "vt", "avt"}),
        ("av", "infonce", "stop_grad", {"av"}),
        ("av+vt", "infonce", "stop_grad", {"av", "vt"}),
        ("av+vt+avt", "infonce", "stop_grad", {"av", "vt", "avt"}),
        ("av+vt+at", "infonce", "stop_grad", {"av", "vt", "at"}),
        ("mil-nce", "mil_nce", "stop_grad", {"vt"}),
        ("kmeans", "infonce", "kmeans", {"av", "vt", "avt"}),
    ],
)
def test_an_objective_changes_what_it_names_and_nothing_else(name, form, centroid, terms):
    base = preset("tiny")
    loss = replace(base.loss, form="infonce", centroid="stop_grad", mask_same_title=True, num_clusters=32)
    found = with_objective(replace(base, loss=loss), name)
    weights = LossWeights(**{term: float(term in terms) for term in ("av", "vt", "avt", "at")})
    assert found == replace(base, loss=replace(loss, form=form, centroid=centroid, weights=weights))


def test_objectives_and_presets_of_one_name_have_one_loss():
    assert list(OBJECTIVES) == ["lava", "paper", "av", "av+vt", "av+vt+avt", "av+vt+at", "mil-nce", "kmeans"]
    for name in ("lava", "paper"):
        assert with_objective(preset("tiny"), name).loss == preset(name).loss
        assert with_objective(preset(name), name) == preset(name)
    learned = replace(preset("tiny"), loss=LossConfig(temperature=0.1, learn_temperature=True))
    assert with_objective(learned, "paper").loss == preset("paper").loss


def test_help_shows_every_setting(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in flatten(to_dict(preset("lava"))):
        assert f"--{name.replace('_', '-')}" in shown
    assert all(option in shown for option in ("--preset", "--config", "--objective"))
    assert all(f"\n  {name} " in shown for name in OBJECTIVES)
    assert "example:" in shown


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "pre-training needs --manifest, --clips, --tokenizer (or --synthetic"),
        (["--manifest", "no.parquet", "--clips", ".", "--tokenizer", "t.json"], 1, "no.parquet does not exist"),
        (["--device", "gpu"], 2, "device cannot be 'gpu': use auto, cpu, cuda or cuda:N"),
        (["--synthetic", "--batch-size", "4096"], 2, "synthetic_samples (2048) is below batch_size (4096)"),
        (["--synthetic", "--manifest", "no.parquet"], 2, "synthetic samples take the place of manifest: leave one"),
        (["--synthetic", "--data.synthetic-samples", "1" + "0" * 20], 2, "must be at most 1,000,000,000"),
        (["--synthetic", "--seed", str(2**32)], 2, "seed must be below 4294967296"),
        (["--synthetic", "--out", ""], 2, "out must name a folder: it is empty"),
        (["--config", ""], 2, "--config must name a file: it is empty"),
    ],
)
def test_missing_data_is_one_line(capsys, tmp_path, options, code, message):
    assert main(["--preset", "tiny", "--out", str(tmp_path / "run"), *options]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_larger_than_the_model_is_one_line(capsys, tmp_path):
    (tmp_path / "m.parquet").touch()
    train_tokenizer(["a dog on a skateboard"] * 3, tmp_path / "tok.json", 280)
    paths = [
        "--manifest",
        str(tmp_path / "m.parquet"),
        "--clips",
        str(tmp_path),
        "--tokenizer",
        str(tmp_path / "tok.json"),
    ]
    assert main(["--preset", "tiny", "--model.vocab-size", "270", "--out", str(tmp_path / "run"), *paths]) == 2
    assert "has 276 entries but the model only 270: pass --model.vocab-size 276" in capsys.readouterr().err
    (tmp_path / "tok.json").write_text("[]")
    assert main(["--preset", "tiny", "--out", str(tmp_path / "run"), *paths]) == 1
    assert "cannot be read as a tokenizer.json" in capsys.readouterr().err
