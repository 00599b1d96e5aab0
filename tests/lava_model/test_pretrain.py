"""The command as a whole: what it prints and what it leaves."""

from __future__ import annotations

import json

from lava_model.pretrain import main

SMALL = [
    *("--preset", "tiny", "--synthetic", "--device", "cpu", "--data.synthetic-samples", "40", "--batch-size", "8"),
    *("--model.width", "16", "--model.num-heads", "2", "--model.num-layers", "1", "--model.embedding-dim", "8"),
    *("--model.num-frames", "1", "--model.frame-size", "16", "--model.short-side", "16", "--model.trunk-stage", "1"),
    *("--model.vocab-size", "100", "--model.max-text-length", "12", "--run.eval-batches", "1"),
]


def test_numbers_and_answer_of_a_run(tmp_path, capsys):
    out = tmp_path / "run"
    words = [*SMALL, "--objective", "av+vt", "--micro-batch", "4", "--max-steps", "4", "--run.log-every", "2"]
    words += ["--tensorboard", "--run.peak-tflops", "1", "--out", str(out), "--json"]
    assert main(words) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert (answer["world_size"], answer["temperature"]) == (1, 0.07)
    assert answer["mfu_percent"] == answer["train"]["mfu_percent"] > 0
    assert {"cos_positive_av", "cos_negative_vt", "uniformity_at", "recall_at_1_av"} <= answer["val"].keys()
    assert len([line for line in printed.err.splitlines() if " MFU " in line]) == 2
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [("val", 0), ("train", 2), ("train", 4), ("val", 4)]
    assert list((out / "tensorboard").iterdir())
    # The folder's own settings start the same run: it is finished.
    assert main(["--config", str(out), "--json"]) == 0
    again = capsys.readouterr()
    assert "is finished at step 4" in again.err
    assert json.loads(again.out)["val"] == answer["val"]
