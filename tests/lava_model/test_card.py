"""The model card: valid front matter, a snippet that runs, and no claim that the run does not make."""

from __future__ import annotations

import json
import math
import re
import textwrap
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from k700_text import KineticsAVT
from k700_text.data.text import train_tokenizer
from lava_model import Lava
from lava_model.card import UNKNOWN, model_card
from lava_model.config import LossConfig, LossWeights, PretrainConfig
from lava_model.data import TrainingData
from lava_model.facts import Coverage, ModelFacts, coverage_of, facts_of_run, told_settings
from lava_model.pretrained import preprocessing
from lava_model.settings import to_dict
from tests.k700_text.media_files import clip_id_of, make_clip, write_manifest
from tests.lava_model.tiny import TINY

ROOT = Path(__file__).resolve().parents[2]
RUN = PretrainConfig(loss=LossConfig(form="pooled", centroid="literal"))
FACTS = ModelFacts(
    settings=told_settings(to_dict(RUN)),
    steps=12_000,
    world_size=2,
    device="a GPU",
    commits=("c0ffee",),
    versions={"torch": "2.11"},
    data={"manifest": "sha256:0"},
    coverage=Coverage(
        num_clips=400,
        num_audio=300,
        num_audio_unknown=20,
        num_text=200,
        num_all=100,
        title_sources={"oembed": 150, "wayback": 50},
    ),
    heldout_step=12_000,
    heldout={"loss": 1.25, "chance": 10.5, "loss_av": 0.5, "num_av": 28.0, "batch_size": 32}
    | {"recall_at_1_all_vt": 0.25, "num_all_vt": 200, "loss_at": 0.0},
)


def card(facts: ModelFacts, **changes: object) -> str:
    config = replace(TINY, **changes)
    return model_card(config, facts, preprocessing(config), num_parameters={"trained": 2_000_000, "frozen": 10})


def front_matter(text: str) -> dict[str, object]:
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert match
    return yaml.safe_load(match[1])


def cell(text: str, name: str) -> str:
    match = re.search(rf"^\| {re.escape(name)} \| (.*) \|$", text, re.MULTILINE)
    assert match, name
    return match[1]


def python_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_front_matter_is_what_the_hub_reads():
    data = front_matter(card(FACTS))
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == (
        "lava_model",
        "feature-extraction",
        "other",
    )
    assert "video" in data["tags"]
    # Which clips a run had, its files do not tell by name: no data set is claimed.
    assert "datasets" not in data


def test_what_the_run_says_is_in_the_card():
    text = card(FACTS)
    assert cell(text, "loss") == "pooled; 1 AV + 1 VT + 1 AVT"
    assert cell(text, "centroid of AVT") == "literal"
    assert cell(text, "steps") == "12,000"
    assert cell(text, "processes") == "2"
    assert cell(text, "learning rate") == "0.0001 at its peak, cosine"
    assert cell(text, "code") == "c0ffee"
    assert cell(text, "with sound") == "300 (75 %); not measured: 20"
    assert cell(text, "with frames, sound and a title") == "100 (25 %); not measured: 20"
    assert cell(text, "titles by wayback") == "50 (12 %)"
    assert "After 12000 steps" in text
    assert "a small loss does not mean that the modalities are aligned" in text
    assert "small AVT loss does not mean" in text
    assert UNKNOWN not in text


def test_numbers_stand_beside_chance():
    text = card(FACTS)
    assert cell(text, "loss AV") == f"0.5 | {math.log(28):.3g}"
    assert re.search(r"^\| loss \| 1.25 \| 10.5 \|$", text, re.MULTILINE)
    assert cell(text, "recall@1 VT, among all 200") == "0.25 | 0.005"
    assert "loss AT" not in text  # has no weight
    # Where chance is not ln N, none is given.
    for loss in (replace(RUN.loss, mask_same_title=True), replace(RUN.loss, centroid="kmeans")):
        facts = replace(FACTS, settings=told_settings(to_dict(replace(RUN, loss=loss))))
        term = "AV" if loss.mask_same_title else "AVT"
        text = card(replace(facts, heldout={"loss_av": 1.5, "num_av": 8.0, "loss_avt": 1.5, "num_avt": 8.0}))
        assert cell(text, f"loss {term}") == "1.5 | -"


def test_other_runs_say_other_things():
    run = replace(
        RUN,
        loss=replace(RUN.loss, form="mil_nce", learn_temperature=True, weights=LossWeights(av=0, avt=0, vt=0.5)),
        optim=replace(RUN.optim, ema_decay=0.999),
        data=replace(RUN.data, synthetic=True),
    )
    text = card(replace(FACTS, settings=told_settings(to_dict(run)), coverage=None, heldout=None, repo_id="me/lava"))
    assert cell(text, "loss") == "mil_nce; 0.5 VT"
    assert cell(text, "temperature") == "0.07 at the start, learned"
    assert cell(text, "weights") == "moving average over the steps, decay 0.999"
    assert "Made-up samples" in text
    assert "knows nothing of real clips" in text
    assert "The trunk was never trained" in text
    assert 'from_pretrained("me/lava")' in text
    assert "small loss does not mean" not in text
    assert "trunk was never trained" not in card(FACTS, trunk_weights="imagenet")
    path = "/home/me/resnet.pth"
    assert path not in card(FACTS, trunk_weights=path)


def test_what_no_term_trained_is_not_passed_off_as_trained():
    run = replace(RUN, loss=replace(RUN.loss, weights=LossWeights(av=1, vt=0, avt=0)))
    heldout = {**(FACTS.heldout or {}), "recall_at_1_all_av": 0.5, "num_all_av": 100}
    text = card(replace(FACTS, settings=told_settings(to_dict(run)), heldout=heldout))
    heads = "the head vt_video, the head vt_text, the head avt_video, the head avt_audio, the head avt_text"
    assert f"as they were drawn: the text encoder, {heads}." in text
    assert (cell(text, "centroid of AVT"), cell(text, "missing modality")) == ("none", "none")
    assert cell(text, "recall@1 AV, among all 100") == "0.5 | 0.01"
    assert "recall@1 VT" not in text and "as they were drawn" not in card(FACTS)
    # All pairs without a centroid leave one head alone.
    pairs = replace(RUN, loss=replace(RUN.loss, weights=LossWeights(avt=0, at=1)))
    assert "as they were drawn: the head avt_video." in card(replace(FACTS, settings=told_settings(to_dict(pairs))))


def test_numbers_of_an_earlier_step_say_so():
    assert "these numbers are of an earlier one" not in card(FACTS)
    assert "This model is that of step 12500: these numbers are of an earlier" in card(replace(FACTS, steps=12_500))


def test_what_is_not_known_is_said_to_be_not_known():
    text = card(ModelFacts())
    for title in ("Training", "Held-out numbers"):
        assert re.search(rf"^## {title}\n\nNot known", text, re.MULTILINE)
    assert cell(text, "clips") == UNKNOWN
    for name in ("temperature", "seed", "code", "packages", "processes"):
        assert cell(card(ModelFacts(settings={})), name) == UNKNOWN


def test_facts_come_back_from_json_and_foreign_ones_say_nothing():
    assert ModelFacts.from_dict(json.loads(json.dumps(FACTS.to_dict()))) == FACTS
    assert ModelFacts.from_dict(None) == ModelFacts.from_dict({"steps": "many", "new": 1}) == ModelFacts()
    foreign = {
        "coverage": {"num_clips": "x"},
        "heldout": {"loss": "low", "chance": 3},
        "commits": [1],
        "settings": {"a|": []},
    }
    facts = ModelFacts.from_dict(foreign)
    assert (facts.coverage, facts.heldout, facts.commits) == (None, {"chance": 3}, ("1",))
    assert card(facts)
    assert cell(card(replace(FACTS, versions={"a": "1 |\n2"})), "packages") == r"a 1 \| 2"


def test_a_run_without_records_says_nothing(tmp_path):
    assert facts_of_run(tmp_path, step=3) == ModelFacts(steps=3)
    (tmp_path / "config.json").write_text("[")
    (tmp_path / "starts.jsonl").write_text("3\n")
    (tmp_path / "log.jsonl").write_text('{"kind": "val"}\n')
    assert facts_of_run(tmp_path, step=3) == ModelFacts(steps=3)


def test_coverage_counts_the_clips_that_are_served(tmp_path):
    states = [  # title source, sound, whether there is a file
        ("oembed", True, True),
        ("oembed", False, True),
        ("wayback", None, True),
        (None, True, True),
        ("oembed", True, False),
    ]
    clips = {}
    rows = []
    for number, (source, has_audio, has_file) in enumerate(states):
        title = None if source is None else f"title {number}"
        known = {"title": title, "title_source": source, "has_audio": has_audio, "has_video": True}
        rows.append({"clip_id": clip_id_of(number), **known})
        if has_file:
            (tmp_path / f"{number}.mp4").touch()
            clips[clip_id_of(number)] = str(tmp_path / f"{number}.mp4")
    manifest = write_manifest(tmp_path / "manifest.parquet", rows)
    train_tokenizer(["title"], tmp_path / "tok.json", 260)
    served = KineticsAVT(manifest, clips, tokenizer=tmp_path / "tok.json")
    run = replace(RUN, data=replace(RUN.data, manifest=str(manifest)))
    found = coverage_of(TrainingData(train=served, val=None, fingerprint={}), run)
    assert found is not None
    assert asdict(found) == {
        "num_clips": served.num_clips,
        "num_audio": 2,
        "num_audio_unknown": 1,
        "num_text": served.num_with["text"],
        "num_all": 1,
        "title_sources": {"oembed": 2, "wayback": 1},
    }
    assert coverage_of(TrainingData(train=[], val=None, fingerprint={}), RUN) is None  # type: ignore[arg-type]


PAGES = [
    page for page in (ROOT / "README.md", ROOT / "docs/pretraining.md") if "model.read(" in page.read_text("utf-8")
]


@pytest.mark.parametrize("page", ["the card", *PAGES], ids=lambda page: getattr(page, "name", page))
def test_the_snippets_run(page, tmp_path, monkeypatch):
    text = page.read_text("utf-8") if isinstance(page, Path) else card(FACTS)
    texts = [text for text in python_of(text) if "model.read(" in text]
    places = re.findall(r'from_pretrained\("(.*?)"\)', "".join(texts))
    assert texts
    monkeypatch.chdir(tmp_path)
    train_tokenizer(["a dog on a skateboard"], Path("tok.json"), 280)
    Lava(replace(TINY, vocab_size=300, trunk_stage=1)).save_pretrained("made", tokenizer="tok.json")
    for place in places:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).symlink_to(tmp_path / "made")
    for name in ("a.mp4", "b.mp4"):
        make_clip(Path(name), 2.0)
    for text in texts:
        names: dict[str, object] = {}
        exec(textwrap.dedent(text), names)  # what a reader would paste
        features = names["features"]["video"]
        assert features.shape[1] == 32
        assert features.any(dim=1).all()  # of frames that were seen


def test_what_the_facts_quote_is_neither_markup_nor_html() -> None:
    hostile = "\x1b]0;x\x07 | <img src=x onerror=alert(1)> [click](http://a.b) `code` \u202e\n## Licence\n\nFree"
    settings = {**(FACTS.settings or {}), "optim.name": hostile}
    changed = replace(
        FACTS, settings=settings, device=hostile, versions={hostile: hostile}, repo_id=f'a/b")\n```\n{hostile}'
    )
    text = card(changed)
    assert not any(sign in text for sign in ("\x1b", "\x07", "\u202e"))
    assert text.count("\n## Licence") == card(FACTS).count("\n## Licence") == 1
    table_rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)[|]", row)) for row in table_rows} <= {3, 4}
    assert not any(re.search(r"(?<!\\)[<\[`]", row) for row in table_rows if "onerror" in row)
    assert text.count("\n```") == card(FACTS).count("\n```")
