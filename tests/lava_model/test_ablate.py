"""Studies: the same as single runs, seed by seed, never done twice, and told in a table that adds up."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

from k700_text.data.sample import Batch, Sample
from k700_text.media.encode import encode_clip
from lava_model import Lava
from lava_model.ablate import main
from lava_model.config import LossWeights, PretrainConfig
from lava_model.data import TrainingData
from lava_model.errors import DataError
from lava_model.evaluation.retrieval import chance, retrieve
from lava_model.loading import batches_of
from lava_model.presets import tiny
from lava_model.study.markdown import markdown
from lava_model.study.runs import StoppedError, StudyData, run_all
from lava_model.study.scoring import held_out, is_trained
from lava_model.study.summary import Spread, summarise
from lava_model.study.variants import STUDIES, Variant
from lava_model.study.views import CachedViews, cache_views
from lava_model.synthetic import SyntheticAVT
from lava_model.trainer import Trainer

OPTIONS = [
    *("--synthetic", "--device", "cpu", "--data.synthetic-samples", "24", "--data.batch-size", "8", "--views", "2"),
    *("--model.width", "16", "--model.num-heads", "2", "--model.num-layers", "1", "--model.embedding-dim", "8"),
    *("--model.num-frames", "1", "--model.frame-size", "32", "--model.short-side", "32", "--model.trunk-stage", "1"),
    *("--model.vocab-size", "100", "--model.max-text-length", "12", "--run.eval-batches", "2", "--max-steps", "3"),
]
FORMS = ["forms", *OPTIONS, "--only", "symmetric,pooled", "--seeds", "2"]


pytestmark = pytest.mark.usefixtures("one_thread")


def small_config(out: Path) -> PretrainConfig:
    base = tiny()
    shape = {"width": 16, "num_heads": 2, "num_layers": 1, "embedding_dim": 8, "num_frames": 2, "trunk_stage": 1}
    frames = {"frame_size": 32, "short_side": 32, "vocab_size": 100, "max_text_length": 12}
    return replace(
        base,
        model=replace(base.model, **shape, **frames),
        data=replace(base.data, batch_size=8),
        run=replace(base.run, out=str(out), epochs=2, log_every=1, eval_every=0, eval_batches=2, device="cpu"),
    )


def views_of(samples: SyntheticAVT, folder: Path, num_views: int) -> CachedViews:
    torch.manual_seed(5)
    model = Lava(samples.config)
    return cache_views(folder, samples, model, num_clips=len(samples), num_views=num_views, key={})


# --- cached views


def test_views_are_what_the_trunk_makes_of_the_samples_of_their_epoch(tmp_path: Path) -> None:
    config = small_config(tmp_path).model
    samples = SyntheticAVT(config, 70)
    views = views_of(samples, tmp_path / "views", 2)
    assert len(views) == 70 and views.clip_ids[3] == samples[3].clip_id and all(views.decodable())
    addresses = [(0, 3), (1, 69), (5, 3), (4, 40)]
    batch = views.batch(addresses)
    model = Lava(config)
    for place, (epoch, index) in enumerate(addresses):
        (decoded,) = batches_of(samples, [[(epoch % 2, index)]], num_workers=0)
        torch.testing.assert_close(batch.video[place], model.patches(decoded)[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(batch.log_mel[place], decoded.log_mel[0])
        assert torch.equal(batch.token_ids[place], decoded.token_ids[0])
        assert (bool(batch.has_audio[place]), bool(batch.has_text[place])) == (
            bool(decoded.has_audio[0]),
            bool(decoded.has_text[0]),
        )
        assert batch.clip_id[place] == decoded.clip_id[0]
    torch.testing.assert_close(model.embed(batch).av_video[0], model.embed(batch.rows(0, 1)).av_video[0])


class NoReader:
    def __getitem__(self, address: tuple[int, int]) -> Sample:
        raise AssertionError(f"{address} is read again")


def test_views_are_made_once_and_again_for_another_key(tmp_path: Path) -> None:
    config = small_config(tmp_path).model
    samples, model = SyntheticAVT(config, 3), Lava(config)
    kinds: dict[str, Any] = {"num_clips": 3, "num_views": 1}
    (tmp_path / "views-of-a-killed-run.partial").mkdir()
    made = cache_views(tmp_path / "views", samples, model, **kinds, key={"data": "one"})
    kept = cache_views(tmp_path / "views", NoReader(), model, **kinds, key={"data": "one"})
    assert torch.equal(made.batch([(0, 1)]).video, kept.batch([(9, 1)]).video)
    with pytest.raises(AssertionError, match="is read again"):
        cache_views(tmp_path / "views", NoReader(), model, **kinds, key={"data": "other"})


class CountedReader:
    """Counts the samples that are read, slowly enough for another process to come."""

    def __init__(self, samples: SyntheticAVT) -> None:
        self.samples, self.num_read = samples, 0

    def __getitem__(self, address: tuple[int, int]) -> Sample:
        self.num_read += 1
        time.sleep(0.02)
        return self.samples[address]


def test_those_who_share_a_study_make_its_views_once(tmp_path: Path) -> None:
    """A study is divided by ``--only``, and all its processes may begin at once."""
    config = small_config(tmp_path).model
    reader, model = CountedReader(SyntheticAVT(config, 5)), Lava(config)
    with ThreadPoolExecutor(3) as pool:
        asked = [
            pool.submit(cache_views, tmp_path / "views", reader, model, num_clips=5, num_views=2, key={})
            for _ in range(3)
        ]
        found = [each.result() for each in asked]
    assert reader.num_read == 10
    assert all(torch.equal(views.batch([(1, 4)]).video, found[0].batch([(1, 4)]).video) for views in found)


def test_damaged_views_are_named(tmp_path: Path) -> None:
    views_of(SyntheticAVT(small_config(tmp_path).model, 3), tmp_path / "views", 1)
    (folder,) = tmp_path.glob("views-*")
    (folder / "video.npy").write_bytes(b"not numpy")
    with pytest.raises(DataError, match=r"cached views in .* cannot be read"):
        CachedViews(folder)


def test_training_on_cached_views_is_training_on_the_samples(tmp_path: Path) -> None:
    config = small_config(tmp_path / "samples")
    samples, val = SyntheticAVT(config.model, 24), SyntheticAVT(config.model, 16, first_index=24)
    losses = {}
    for name in ("samples", "views"):
        mine = replace(config, run=replace(config.run, out=str(tmp_path / name)))
        data = TrainingData(train=samples, val=val, fingerprint={})
        if name == "views":
            data = replace(data, train=views_of(samples, tmp_path / "train", 2), val=views_of(val, tmp_path / "val", 1))
        Trainer(mine, data, device=torch.device("cpu")).run()
        lines = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text("utf-8").splitlines()]
        losses[name] = [line["loss"] for line in lines]
    assert len(losses["views"]) == 8  # 6 steps, held out before and after
    assert losses["views"] == pytest.approx(losses["samples"], rel=1e-4)


# --- runs


class Stopping:
    """Views that ask this process to stop while a batch is read."""

    def __init__(self, views: CachedViews) -> None:
        self.views, self.num_read = views, 0

    def __len__(self) -> int:
        return len(self.views)

    def batch(self, addresses: Sequence[tuple[int, int]]) -> Batch:
        self.num_read += 1
        if self.num_read == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.views.batch(addresses)


def test_a_study_stopped_by_a_signal_goes_on_where_it_was(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    train = views_of(SyntheticAVT(config.model, 24), tmp_path / "train", 1)
    val = views_of(SyntheticAVT(config.model, 16), tmp_path / "val", 1)
    data = StudyData(training=TrainingData(train=train, val=val, fingerprint={}), held_out=val, probing=None)
    stopping = replace(data, training=replace(data.training, train=Stopping(train)))
    variants, lines = [Variant(name="one", config=config)], list[str]()
    with pytest.raises(StoppedError, match="SIGTERM"):
        run_all(variants, range(1), stopping, tmp_path / "stopped", say=lines.append)
    assert lines == [] and not list(tmp_path.glob("stopped/*/*/result.json"))
    went_on = run_all(variants, range(1), data, tmp_path / "stopped", say=lines.append)["one"][0]
    at_once = run_all(variants, range(1), data, tmp_path / "at-once", say=lines.append)["one"][0]
    assert went_on["retrieval"] == at_once["retrieval"] and went_on["steps"] == 6
    assert went_on["train_seconds"] is None and at_once["train_seconds"] > 0


# --- retrieval


def test_retrieval_equals_sorting_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    first_NE, second_NE = torch.randn(40, 6, generator=generator), torch.randn(40, 6, generator=generator)
    second_NE += 0.7 * first_NE
    valid_N = torch.rand(40, generator=generator) < 0.8
    rows = valid_N.nonzero().flatten().tolist()
    ranks = []
    for queries, keys in ((first_NE, second_NE), (second_NE, first_NE)):
        for row in rows:
            order = sorted(rows, key=lambda other: -float(queries[row].double() @ keys[other].double()))
            ranks.append(order.index(row) + 1)
    found = retrieve(first_NE, second_NE, valid_N)
    assert found is not None and found.num_clips == len(rows)
    assert found.recall_at_1 == pytest.approx(np.mean([rank == 1 for rank in ranks]))
    assert found.recall_at_5 == pytest.approx(np.mean([rank <= 5 for rank in ranks]))
    assert found.mean_rank == pytest.approx(np.mean(ranks))


def test_a_constant_is_at_chance_and_one_clip_is_no_retrieval() -> None:
    same_NE, valid_N = torch.ones(9, 4), torch.ones(9, dtype=torch.bool)
    found = retrieve(same_NE, same_NE, valid_N)
    assert found is not None
    assert (found.mean_rank, found.recall_at_1) == (chance(9).mean_rank, 0)
    assert retrieve(same_NE, same_NE, torch.arange(9) == 3) is None


def test_only_what_a_loss_trains_is_retrieved(tmp_path: Path) -> None:
    config = small_config(tmp_path).model
    views = views_of(SyntheticAVT(config, 20), tmp_path / "views", 1)
    model = Lava(config)
    assert set(held_out(model, views, LossWeights(av=1, vt=0, avt=0))) == {"av"}
    assert set(held_out(model, views, LossWeights(av=1, vt=1, avt=0, at=1))) == {"av", "vt", "avt_at"}
    assert all(is_trained(name, LossWeights()) for name in held_out(model, views, LossWeights()))


def test_held_out_retrieval_comes_with_its_controls(tmp_path: Path) -> None:
    """The video is that of the clip id, and a clip without the modality is no rival."""
    config = small_config(tmp_path).model
    views = views_of(SyntheticAVT(config, 24), tmp_path / "views", 1)
    videos = [f"video{number // 4:06d}" for number in range(24)]
    views.clip_ids = [f"{video}_{number:06d}_{number + 1:06d}" for number, video in enumerate(videos)]
    found = held_out(Lava(config), views, LossWeights(av=1, vt=0, avt=0))["av"]
    batch = views.batch([(0, row) for row in range(24)])
    has_both = (batch.has_video & batch.has_audio).tolist()
    sizes = [sum(has and video == name for has, video in zip(has_both, videos, strict=True)) for name in set(videos)]
    assert found["identity_only"]["recall_at_1"] == pytest.approx(sum(size > 0 for size in sizes) / sum(sizes))
    assert found["within_video"]["num_clips"] == sum(size for size in sizes if size > 1) < 24
    assert 0 <= found["within_video"]["recall_at_1"] <= 1


# --- the table


def run_with(recall: float, probe: float) -> dict[str, Any]:
    found = {"num_clips": 50, "recall_at_1": recall, "recall_at_5": 2 * recall, "mean_rank": 9.0}
    return {"retrieval": {"av": found}, "probe": {"top1_accuracy": probe}, "train_seconds": None, "steps": 3}


def test_differences_are_paired_by_seed_and_clear_as_a_t_test_says() -> None:
    one, other = [0.10, 0.14, 0.12], [0.13, 0.18, 0.15]
    results = {
        "ours": [run_with(value, 0.5) for value in one],
        "theirs": [run_with(value, 0.4 + value) for value in other],
    }
    summary = summarise(results, "ours")
    found = summary["theirs"]["differences"]["av_recall_at_1"]
    differences = np.subtract(other, one)
    assert found["mean"] == pytest.approx(differences.mean()) and found["num_above"] == 3
    assert found["std"] == pytest.approx(differences.std(ddof=1))
    assert found["is_clear"] is bool(ttest_1samp(differences, 0).pvalue < 0.05)
    assert summary["ours"]["measures"]["av_recall_at_1"]["mean"] == pytest.approx(0.12)
    assert summary["ours"]["differences"] == {} and "vt_recall_at_1" not in summary["ours"]["measures"]
    for spread in (Spread.of([0.4, 0.1, -0.1]), Spread.of([0.4, 0.35, 0.45, 0.5])):
        values = [0.4, 0.1, -0.1] if spread.num == 3 else [0.4, 0.35, 0.45, 0.5]
        assert spread.is_clear is bool(ttest_1samp(values, 0).pvalue < 0.05)
    assert not Spread.of([0.4]).is_clear


def with_controls(run: dict[str, Any], within: float) -> dict[str, Any]:
    video = {"num_clips": 50, "recall_at_1": 0.216, "recall_at_5": 0.902, "mean_rank": 3.1}
    inside = {"num_clips": 50, "num_videos": 11, "recall_at_1": within, "chance": 0.22}
    found = {**run["retrieval"]["av"], "identity_only": video, "within_video": inside}
    return {**run, "retrieval": {"av": found}}


def test_the_table_shows_what_the_video_alone_gives_and_what_is_found_within() -> None:
    one, other = with_controls(run_with(0.27, 0.5), 0.31), with_controls(run_with(0.24, 0.5), 0.27)
    results = {"ours": [one, other]}
    setup: dict[str, Any] = {"preset": "tiny", "changed": {}, "num_train": 9, "batch_size": 8, "num_seeds": 2}
    setup |= {"num_views": 1, "num_held_out": 50, "probe": None}
    record = {"question": "?", "reference": "ours", "setup": setup, "controls": {}, "results": results}
    shown = markdown({**record, "summary": summarise(results, "ours")})
    tables = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines() if line.startswith("| ")]
    ranks = {
        cells[0]: cells[1:] for cells in tables[tables.index(next(row for row in tables if "mean rank" in row[1])) :]
    }
    assert ranks["variant"] == ["AV, av space: R@1, mean rank", "AV, av space: R@1 within a video"]
    assert ranks["ours"] == ["25.5, 9.0", "29.0 ± 2.8"]
    assert ranks["*chance*"] == ["2.0, 26 of 50", "22.0"] and ranks["*identity only*"] == ["21.6, 3.1", "22.0"]
    assert "| *identity only* | 90.2 |" in shown and "knows which video each clip is of" in shown
    # Of one clip a video the control would be 100 for anyone, and is left out.
    alone = {**one["retrieval"]["av"], "within_video": None}
    results = {"ours": [{**one, "retrieval": {"av": alone}}]}
    assert "identity" not in markdown({**record, "results": results, "summary": summarise(results, "ours")}).lower()


# --- the command


def test_a_study_trains_each_variant_once_from_the_same_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    assert main([*FORMS, "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((out / "forms.json").read_text("utf-8"))
    assert set(record["results"]) == {"symmetric", "pooled"}
    runs = sorted(out.glob("forms/*/seed-*"))
    starts = {}
    for run in runs:
        first = json.loads((run / "log.jsonl").read_text("utf-8").splitlines()[0])
        starts[run.name, run.parent.name] = (first["recall_at_1_av"], first["recall_at_1_vt"], first["loss_av"])
    assert len(runs) == 4
    # Held out before the first step: retrieval tells the weights, whatever the form.
    assert starts["seed-0", "symmetric"][:2] == starts["seed-0", "pooled"][:2]
    assert starts["seed-0", "symmetric"] != starts["seed-1", "symmetric"]
    times = {path: path.stat().st_mtime_ns for path in out.glob("forms/*/seed-*/[!.]*")}

    assert main([*FORMS, "--out", str(out)]) == 0
    answer = capsys.readouterr()
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert answer.err.count("was finished before") == 4
    assert answer.out.rstrip("\n") == markdown(record)
    rows = [line for line in answer.out.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in rows[:4]}) == 1 and "*chance*" in answer.out

    (out / "forms" / "pooled" / "seed-1" / "result.json").unlink()
    assert main([*FORMS, "--out", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    # The training was finished, only its result was not kept: the checkpoint gives the same numbers.
    assert again["results"]["pooled"][1]["retrieval"] == record["results"]["pooled"][1]["retrieval"]

    of_earlier_version = json.loads((runs[0] / "result.json").read_text("utf-8"))
    for found in of_earlier_version["retrieval"].values():
        del found["within_video"], found["identity_only"]
    (runs[0] / "result.json").write_text(json.dumps(of_earlier_version))
    assert main([*FORMS, "--out", str(out), "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out)["results"]["pooled"][0]["retrieval"]
        == record["results"]["pooled"][0]["retrieval"]
    )

    for damaged in ("[]", "{"):
        (runs[0] / "result.json").write_text(damaged)
        assert main([*FORMS, "--out", str(out)]) == 1
        assert "result.json cannot be read as a result: remove it" in capsys.readouterr().err
    (runs[0] / "result.json").unlink()
    assert main([*FORMS, "--out", str(out), "--optim.lr", "0.5"]) == 1
    assert "is the result of other settings: use another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["loses"], "unknown study 'loses': did you mean 'losses'?"),
        (["forms", "--only", "symmetric,poled"], "unknown variants poled: there are symmetric, pooled"),
        (["forms", "--synthetic"], "--out must be given"),
        (["forms", "--synthetic", "--out", "x", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["forms", "--synthetic", "--out", "x", "--sedes", "2"], "unknown option --sedes: did you mean --seeds?"),
        (["forms", "--out", "x", "--optim.rate", "1"], "unknown option --optim.rate"),
        (["forms", "--synthetic", "--out", "x", "--probe", "nope"], "--probe nope is no folder"),
        (["forms", "--synthetic", "--out", "x", "--groups", "nope"], "--groups tells the source videos of"),
        (["forms", "--out", "x"], "pre-training needs --manifest, --clips, --tokenizer"),
        ([], "the following arguments are required: STUDY"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) in (1, 2)
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1


@pytest.mark.parametrize("name", STUDIES)
def test_variants_differ_in_what_the_study_asks_about_alone(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    assert STUDIES[name].reference in names and len(set(names)) == len(names) > 1
    assert len({line.split(maxsplit=1)[1] for line in lines}) == len(lines)
    changed = {word for line in lines for word in line.split() if word.startswith(("loss.", "optim.", "data.", "run."))}
    allowed = {"losses": {"loss.form", "loss.centroid"}, "forms": {"loss.form"}, "policies": {"loss.policy"}}
    allowed |= {"rates": {"loss.form", "optim.lr"}}
    terms = {"loss.form", "loss.centroid", *(f"loss.weights.{term}" for term in ("av", "vt", "avt", "at"))}
    assert changed == allowed.get(name, terms)


@pytest.mark.slow
def test_the_probe_of_a_study_is_that_of_the_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lava_model.evaluate import main as evaluate

    rng = np.random.default_rng(0)
    for label in ("dim", "lit"):
        (tmp_path / "clips" / label).mkdir(parents=True)
        for number in range(6):
            level = rng.integers(40, 150) + (60 if label == "lit" else 0)
            frames = np.clip(rng.normal(level, 30, (30, 32, 32, 3)), 0, 255).astype(np.uint8)
            encode_clip(tmp_path / "clips" / label / f"{label}{number}.mp4", frames, frame_rate=10)
    out, clips = tmp_path / "study", str(tmp_path / "clips")
    assert main([*FORMS, "--seeds", "1", "--probe", clips, "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    run = out / "forms" / "symmetric" / "seed-0"
    words = ["--checkpoint", str(run), "--data", clips, "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    assert evaluate(["linear-probe", *words, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    learned = record["results"]["symmetric"][0]["probe"]
    assert learned["top1_accuracy_per_fold"] == pytest.approx(scores["learned"]["top1_accuracy_per_fold"])
    for control in ("trunk_only", "random_init"):
        mine = record["controls"][control if control == "trunk_only" else "random_init_0"]
        assert mine["top1_accuracy"] == pytest.approx(scores[control]["top1_accuracy"])
    assert "| *trunk_only* |" in markdown(record)
