"""A model as a folder: what goes in comes out, what does not belong together is refused; the export program."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from k700_text.data.sample import collate
from k700_text.data.text import train_tokenizer
from lava_model import Embeddings, Lava
from lava_model.checkpoint import TrainingState, save_checkpoint
from lava_model.config import PretrainConfig
from lava_model.data import digest
from lava_model.errors import CheckpointError
from lava_model.export import main
from lava_model.facts import ModelFacts
from lava_model.pretrained import FILES, read_facts
from lava_model.settings import override, to_dict
from lava_model.synthetic import SyntheticAVT
from tests.lava_model.tiny import TINY

CONFIG = replace(TINY, vocab_size=300, max_text_length=12, pooling="mean", trunk_stage=1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tok.json"
    train_tokenizer(["a dog on a skateboard", "two cats"] * 3, path, 280)
    return path


@pytest.fixture(scope="module")
def model() -> Lava:
    torch.manual_seed(0)
    return Lava(CONFIG).eval()


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rewrite(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# --- there and back ---


def test_a_saved_model_comes_back_exactly(model, tokenizer, tmp_path):
    batch = collate([SyntheticAVT(CONFIG, 4)[0, index] for index in range(4)])
    model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    assert sorted(content_of(tmp_path / "model")) == sorted(FILES)
    again = Lava.from_pretrained(tmp_path / "model")
    assert (again.config, again.training) == (CONFIG, False)
    assert again.tokenizer.path == tmp_path / "model" / "tokenizer.json"
    assert {p.requires_grad for p in again.video_encoder.trunk.parameters()} == {False}
    assert {p.requires_grad for p in again.heads.parameters()} == {True}
    for name, tensor in model.state_dict().items():
        other = again.state_dict()[name]
        assert torch.equal(other, tensor), name
        assert other.stride() == tensor.stride(), name
    for field in fields(Embeddings):
        assert torch.equal(getattr(again.embed(batch), field.name), getattr(model.embed(batch), field.name))


@pytest.mark.parametrize("changes", [{"positions": "sinusoidal"}, {"positions": "learned", "pooling": "cls"}])
def test_every_kind_of_model_comes_back(changes, tmp_path):
    config = replace(CONFIG, **changes)
    batch = collate([SyntheticAVT(config, 2)[0, index] for index in range(2)])
    model = Lava(config)
    model.save_pretrained(tmp_path)
    assert torch.equal(Lava.from_pretrained(tmp_path).embed(batch).avt_video, model.embed(batch).avt_video)


def test_the_same_model_and_facts_give_the_same_bytes(model, tokenizer, tmp_path):
    facts = ModelFacts(steps=3, commits=("abc",), settings={"loss.form": "pooled"})
    for name in ("first", "second"):
        model.save_pretrained(tmp_path / name, tokenizer=tokenizer, facts=facts)
    # Written again from what was read, and over an earlier export.
    loaded = Lava.from_pretrained(tmp_path / "first")
    assert read_facts(tmp_path / "first") == facts
    loaded.save_pretrained(tmp_path / "first", facts=read_facts(tmp_path / "first"))
    loaded.save_pretrained(tmp_path / "third", facts=facts)
    assert content_of(tmp_path / "first") == content_of(tmp_path / "second") == content_of(tmp_path / "third")


def test_half_precision_is_written_as_float32(tmp_path):
    model = Lava(CONFIG).bfloat16()
    model.save_pretrained(tmp_path)
    again = Lava.from_pretrained(tmp_path)
    assert torch.equal(again.heads["av_video"].weight, model.heads["av_video"].weight.float())


def test_symbolic_links_and_relative_paths_lead_to_the_model(model, tokenizer, tmp_path, monkeypatch):
    # The Hub's cache is such a folder: every file a link into a store of blobs.
    model.save_pretrained(tmp_path / "blobs", tokenizer=tokenizer)
    (tmp_path / "snapshot").mkdir()
    for name in FILES:
        (tmp_path / "snapshot" / name).symlink_to(Path("..") / "blobs" / name)
    (tmp_path / "link").symlink_to("snapshot")
    monkeypatch.chdir(tmp_path)
    for place in ("snapshot", "link", "./blobs/../link", tmp_path / "link"):
        assert Lava.from_pretrained(place).tokenizer.vocab_size > 0


def test_reading_a_model_never_looks_for_trunk_weights(model, tmp_path):
    model.save_pretrained(tmp_path)
    rewrite(tmp_path / "config.json", lambda content: content["model"].update(trunk_weights="imagenet"))
    assert Lava.from_pretrained(tmp_path).config.trunk_weights == "imagenet"


def test_an_export_of_version_1_is_read(model, tokenizer, tmp_path):
    """As lava_model 0.1.0 wrote it: no card, no digests, no positions, what trains listed with the preprocessing."""
    model.save_pretrained(tmp_path, tokenizer=tokenizer)
    (tmp_path / "README.md").unlink()
    settings = {name: value for name, value in to_dict(CONFIG).items() if name not in ("positions", "pixel_format")}
    parts = {"video": CONFIG.video_config(), "audio": CONFIG.audio_config(), "text": CONFIG.text_config()}
    listed = {part: asdict(values) for part, values in parts.items()}  # type: ignore[call-overload]  # all dataclasses
    del listed["video"]["pixel_format"]
    earlier = {"format": "lava-model", "format_version": 1, "model": settings, "preprocessing": listed}
    (tmp_path / "config.json").write_text(json.dumps(earlier))
    again = Lava.from_pretrained(tmp_path)
    assert again.config == replace(CONFIG, pixel_format="rgb24")
    assert again.tokenizer is not None
    assert read_facts(tmp_path) == ModelFacts()
    (tmp_path / "tokenizer.json").unlink()
    assert Lava.from_pretrained(tmp_path).tokenizer is None


# --- what does not belong together ---


def _weights(folder: Path, **tensors: torch.Tensor) -> None:
    state = {**safetensors.torch.load_file(folder / "model.safetensors"), **tensors}
    safetensors.torch.save_file(state, folder / "model.safetensors")


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _claim(path: Path, size: int) -> None:
    """A header that tells of more than the file holds."""
    header = json.dumps({"heads.av_video.bias": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}})
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(64))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _settings(**changes: object) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder / "config.json", lambda content: content["model"].update(changes))


def _sampled(part: str, **changes: object) -> Callable[[Path], None]:
    return lambda folder: rewrite(
        folder / "config.json", lambda content: content["preprocessing"][part].update(changes)
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config\.json is missing, so writing it was cut short"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff{}"), "cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "clip"}'), "not the configuration of"),
        (
            lambda folder: rewrite(folder / "config.json", lambda content: content.update(format_version=3)),
            "format version 3, this lava_model reads 1 to 2: install a newer one",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04junk"), "cannot be read as safetensors"),
        (lambda folder: _cut_short(folder / "model.safetensors"), "cannot be read as safetensors"),
        (lambda folder: _claim(folder / "model.safetensors", 2**60), "cannot be read as safetensors"),
        (lambda folder: os.truncate(folder / "config.json", 2**40), "bytes are more than"),
        (lambda folder: _pipe(folder / "config.json"), r"config\.json is missing"),
        (_settings(width=10**9), "width must be at most 32,768, got 1000000000"),
        (_settings(num_layers=10**6), "num_layers must be at most 256"),
        (_settings(vocab_size=2**40), "vocab_size must be at most 1,048,576"),
        (_settings(max_text_length=2**31), "max_text_length must be at most 16,384"),
        (_settings(feedforward_ratio=1e9), "feedforward_ratio must be at most 64"),
        (_settings(num_frames=4096, frame_size=4096, short_side=4096), r"are more than 2\*\*30 pixels"),
        (_settings(num_frames=4096, video_grid=8), r"are more than 2\*\*17 tokens"),
        (_settings(widht=3), "unknown setting widht: did you mean width"),
        (_settings(embedding_dim=8), "another shape of heads.av_video.weight and 13 more"),
        (_settings(num_layers=3), "lacks audio_encoder.transformer.blocks.1"),
        (
            _settings(vocab_size=270),
            "preprocessing.text.vocab_size is 300, but of these model settings .* makes it 270",
        ),
        (_sampled("audio", hop_length=200), "preprocessing.audio.hop_length is 200, .* makes it 160"),
        (_sampled("pixels", mean=[0.5, 0.5, 0.5]), "preprocessing.pixels.mean is"),
        (_sampled("video", deinterlace=True), "preprocessing.video.deinterlace is True, .* makes it None"),
        (lambda folder: _weights(folder, extra=torch.zeros(1)), "has the foreign extra"),
        (
            lambda folder: _weights(folder, **{"heads.av_video.bias": torch.zeros(16, dtype=torch.float16)}),
            "has another type of heads.av_video.bias",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text('{"model": {}}'), "is not a tokenizer file"),
        (
            lambda folder: train_tokenizer(["quite another"] * 3, folder / "tokenizer.json", 270),
            "not the tokenizer that the model was exported with",
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_one_line(exported, tmp_path, spoil, message):
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in exported.items():
        (folder / name).write_bytes(content)
    spoil(folder)
    with pytest.raises(CheckpointError, match=message) as failure:
        Lava.from_pretrained(folder)
    assert "\n" not in str(failure.value)


@pytest.fixture(scope="module")
def exported(model, tokenizer, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("exported")
    model.save_pretrained(folder, tokenizer=tokenizer)
    return content_of(folder)


def test_what_is_no_export_is_named(model, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    model.save_pretrained(run / "export")
    for name in (
        "clips/a.MP4",
        "titles/val.parquet",
        "shards/prepared.json",
        "begun/starts.jsonl",
        "begun/config.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "going" / "checkpoints").mkdir(parents=True)
    (tmp_path / "going" / "checkpoints" / "step_00000001.pt").touch()
    for place, message in [
        (tmp_path / "absent", "there is no such folder"),
        (tmp_path / "absent" / "owner" / "name", "there is no such folder"),
        (tmp_path, "config.json is missing"),
        (tmp_path / "empty", "config.json is missing: it is a folder with nothing in it"),
        (tmp_path / "clips", "it is a folder of clips"),
        (tmp_path / "titles", "it is a folder of manifests"),
        (tmp_path / "shards", "it is prepared shards, which are for --clips"),
        (
            tmp_path / "begun",
            "is not the configuration of an exported LAVA model: it is a run that has no checkpoint yet",
        ),
        (tmp_path / "going", f"it is a run that has not ended (python -m lava_model.export {tmp_path / 'going'} --out"),
        (tmp_path / "going" / "checkpoints", "it is checkpoints of a run"),
        (run / "config.json", "is a file: give the folder"),
        (run, f"did you mean {run / 'export'}?"),
    ]:
        with pytest.raises(CheckpointError) as failure:
            Lava.from_pretrained(place)
        assert message in str(failure.value)


def test_a_tilde_is_the_home_folder_wherever_a_model_is_named(model, tokenizer, tmp_path, monkeypatch, capsys):
    """As in ``--out=~/b``, or in Python, where no shell spells it out."""
    monkeypatch.setenv("HOME", str(tmp_path))
    model.save_pretrained("~/model", tokenizer=tokenizer)
    assert Lava.from_pretrained("~/model").config == CONFIG
    assert main(["~/model", "--out=~/again"]) == 0
    assert content_of(tmp_path / "again").keys() == content_of(tmp_path / "model").keys()
    options = override(PretrainConfig(), ["--run.out=~/run", "--data.clips", "~/clips"], program="p")
    assert (options.run.out, options.data.clips) == (f"{tmp_path}/run", f"{tmp_path}/clips")
    with pytest.raises(CheckpointError, match="there is no such folder: ~nobody-of-that-name/model"):
        Lava.from_pretrained("~nobody-of-that-name/model")


# --- writing ---


def test_a_tokenizer_that_is_missing_none_or_too_large_is_refused(model, tokenizer, tmp_path):
    (tmp_path / "none.json").write_text('{"model": {}}')
    small = Lava(replace(CONFIG, vocab_size=100))
    for one, path, message in [
        (model, tmp_path / "absent.json", "no such tokenizer"),
        (model, tmp_path / "none.json", "is not a tokenizer file"),
        (small, tokenizer, "has 280 entries, 100 fit"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            one.save_pretrained(tmp_path / "model", tokenizer=path)
        assert not (tmp_path / "model").exists()


def test_a_failed_write_leaves_the_earlier_export_whole(model, tokenizer, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path, tokenizer=tokenizer)
    before = content_of(tmp_path)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(CheckpointError, match=r"cannot be written to .*No space left"):
        Lava(CONFIG).save_pretrained(tmp_path)
    assert content_of(tmp_path) == before


def test_a_kill_between_two_files_leaves_no_folder_that_looks_whole(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path)
    replace_file = Path.replace

    def killed(path: Path, target: Path) -> None:
        if Path(target).name == "config.json":
            raise KeyboardInterrupt
        replace_file(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Lava(CONFIG).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="writing it was cut short"):
        Lava.from_pretrained(tmp_path)
    monkeypatch.undo()
    model.save_pretrained(tmp_path)
    assert Lava.from_pretrained(tmp_path).config == CONFIG


def test_a_tokenizer_of_an_earlier_export_does_not_stay_behind(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path, tokenizer=tokenizer)
    model.save_pretrained(tmp_path)
    assert "tokenizer.json" not in content_of(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "README.md"])
def test_other_peoples_files_are_not_written_over(name, model, tmp_path):
    (tmp_path / name).write_text('{"run": {}}')
    with pytest.raises(CheckpointError, match="holds something else than an exported model"):
        model.save_pretrained(tmp_path)
    assert content_of(tmp_path) == {name: b'{"run": {}}'}


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_weights_that_nobody_here_wrote_stay(name, model, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(CheckpointError, match=rf"holds something else than an exported model \(its {name}\)"):
        model.save_pretrained(tmp_path)
    assert content_of(tmp_path) == {name: b"mine"}


def test_an_export_that_was_cut_short_is_written_again_and_a_file_is_no_folder(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "out", tokenizer=tokenizer)
    (tmp_path / "out" / "config.json").unlink()
    model.save_pretrained(tmp_path / "out", tokenizer=tokenizer)
    assert Lava.from_pretrained(tmp_path / "out").tokenizer is not None
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is no folder: a model cannot be written there"):
        model.save_pretrained(tmp_path / "file")


def test_all_files_can_be_read_by_those_who_can_read_one(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize(
    ("place", "message"), [("", "the place of the model is empty"), ("deep", "cannot be read as JSON")]
)
def test_no_place_and_endless_brackets_are_one_line(place, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=message):
        Lava.from_pretrained(place)


# --- the program ---


@pytest.fixture
def run(model, tokenizer, tmp_path) -> Path:
    """A run folder as training leaves it, with a moving average of one head."""
    run = tmp_path / "run"
    config = PretrainConfig(model=CONFIG)
    config = replace(config, data=replace(config.data, manifest="train.parquet", tokenizer=str(tokenizer)))
    run.mkdir()
    (run / "config.json").write_text(json.dumps(to_dict(config)))
    start = {"data": {"manifest": "sha256:0"}, "git_commit": "c0ffee", "git_dirty": True, "versions": {"torch": "2"}}
    (run / "starts.jsonl").write_text(json.dumps({**start, "git_commit": None}) + "\n" + json.dumps(start) + "\n{")
    lines = [{"kind": "val", "step": step, "loss": 5.0 - step, "chance": 6.0, "num_av": 8.0} for step in (0, 2, 4)]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    state = TrainingState(
        step=3,
        epoch=0,
        total_steps=4,
        config=to_dict(config),
        fingerprint={"manifest": "sha256:0", "tokenizer": digest(tokenizer)},
        model=model.state_dict(),
        optimizer={},
        rng={},
        ema={"heads.av_video.bias": torch.full((16,), 7.0)},
        world_size=2,
    )
    save_checkpoint(run / "checkpoints", state, keep=1)
    return run


def test_a_run_is_exported_with_its_average_its_tokenizer_and_its_facts(run, model, tmp_path, capsys):
    assert main([str(run), "--out", str(tmp_path / "out"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["source"] == str(run / "checkpoints" / "step_00000003.pt")
    again = Lava.from_pretrained(tmp_path / "out")
    assert again.tokenizer is not None
    assert (again.heads["av_video"].bias == 7).all()
    assert torch.equal(again.heads["av_audio"].weight, model.heads["av_audio"].weight)
    facts = read_facts(tmp_path / "out")
    assert (facts.steps, facts.world_size, facts.commits) == (3, 2, ("c0ffee and local changes",))
    assert (facts.heldout_step, facts.heldout) == (2, {"loss": 3.0, "chance": 6.0, "num_av": 8.0})
    assert facts.settings is not None
    assert facts.settings["loss.form"] == "symmetric"
    assert str(tmp_path) not in (tmp_path / "out" / "config.json").read_text()

    # The checkpoint by itself says the same; the export of the export is the same, byte for byte.
    for source in (run / "checkpoints" / "step_00000003.pt", tmp_path / "out"):
        assert main([str(source), "--out", str(tmp_path / "again")]) == 0
        assert content_of(tmp_path / "again") == content_of(tmp_path / "out")
    assert capsys.readouterr().out.startswith("the model is in ")


def test_a_tokenizer_that_moved_is_asked_for_and_another_is_refused(run, tokenizer, tmp_path, capsys):
    checkpoint = next((run / "checkpoints").iterdir())
    state = torch.load(checkpoint, weights_only=True)
    state["config"]["data"]["tokenizer"] = "moved.json"
    torch.save(state, checkpoint)
    out = ["--out", str(tmp_path / "out")]
    assert main([str(run), *out]) == 1
    assert "is not at moved.json any more, or has changed: pass --tokenizer" in capsys.readouterr().err
    train_tokenizer(["quite another"] * 3, tmp_path / "other.json", 270)
    assert main([str(run), *out, "--tokenizer", str(tmp_path / "other.json")]) == 1
    assert "is not the tokenizer that" in capsys.readouterr().err
    assert main([str(run), *out, "--tokenizer", str(tokenizer)]) == 0
    # The export at the end of the run has it too.
    Lava.from_pretrained(tmp_path / "out").save_pretrained(run / "export")
    assert main([str(run), *out]) == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["absent", "--out", "out"], 1, "there is no absent: give"),
        ([".", "--out", "out"], 1, "holds neither an exported model"),
        (["absent"], 2, "the following arguments are required: --out"),
        (["absent", "--out", "out", "--private"], 2, "--private and --revision go with --push"),
        (["absent", "--ouf", "out"], 2, "--out"),
        (["absent", "--out", "out", "--push", "nobody"], 1, "'nobody' is not the name of a model on the Hub"),
    ],
)
def test_a_wrong_command_line_is_one_line(words, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == code
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
