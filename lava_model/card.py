"""The model card: README.md of an exported model, made of its settings and of what is known of its training.

The same settings and facts give the same text. What is not known is said to be not known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from k700_text.terminal import one_line
from lava_model.config import LavaConfig
from lava_model.contrast import FORMS
from lava_model.facts import Coverage, ModelFacts, Number
from lava_model.modalities import MODALITIES, PAIRS, SPACES, TERMS, TermName

CARD_MARK = "library_name: lava_model"
"""Tells a card of ours from another README.md."""

UNKNOWN = "not known"


def model_card(
    config: LavaConfig,
    facts: ModelFacts,
    preprocessing: Mapping[str, Mapping[str, Any]],
    *,
    num_parameters: Mapping[str, int],
) -> str:
    """Returns the card as Markdown with the front matter that the Hub reads.

    Args:
        config: shape of the model.
        facts: how it was made.
        preprocessing: what is done to a clip and its title before the model sees them, by part and name.
        num_parameters: ``trained`` and ``frozen``.
    """
    sections = [
        _front_matter(facts),
        _TITLE,
        _use(config, facts),
        _architecture(config, num_parameters),
        _training(facts),
        _data(facts),
        _heldout(facts),
        _limits(config, facts),
        _table("Preprocessing", preprocessing_rows(preprocessing)),
        _LICENCE,
    ]
    return "\n\n".join(sections) + "\n"


_TITLE = """# LAVA: language, audio and vision in joint spaces

A model of `lava_model`: three encoders (video, audio, title) and the projection heads of the spaces av, vt and avt,
trained by contrast on clips and the titles of the videos they are from, after *LAVA: Language Audio Vision Alignment
for Contrastive Video Pre-Training* (ICML 2022 Pre-training Workshop). What of it was trained, the loss terms tell."""

_LICENCE = """## Licence

The code is Apache-2.0. What these weights may be used for depends on the data that they were trained on, which is not
decided here: see the data. Titles belong to their uploaders and videos to their owners."""


def _front_matter(facts: ModelFacts) -> str:
    tags = ["video", "audio", "text", "video-text", "audio-visual", "contrastive-learning", "multimodal", "lava"]
    return "\n".join(
        [
            "---",
            CARD_MARK,
            "pipeline_tag: feature-extraction",
            "license: other",
            "license_name: see-data",
            "license_link: README.md#licence",
            "tags:",
            *(f"- {tag}" for tag in tags),
            "---",
        ]
    )


def _use(config: LavaConfig, facts: ModelFacts) -> str:
    place = json.dumps(facts.repo_id or "path/to/this/folder")
    return f"""## Use

```bash
pip install 'k700-text[train{",hub" if facts.repo_id else ""}]'
```

```python
from lava_model import Lava

model = Lava.from_pretrained({place})
batch = model.read(["a.mp4", "b.mp4"], titles=["a dog on a skateboard", None])
features = model.encode(batch, modalities=("video", "audio", "text"))  # each (2, {config.width}), before the heads
embeddings = model.embed(batch)  # unit norm: embeddings.vt_video @ embeddings.vt_text.T
```

A clip without sound or title has `has_audio` or `has_text` False, and zeros. Titles need the tokenizer beside the
weights; nothing is unpickled or run when the model is loaded."""


def _architecture(config: LavaConfig, num_parameters: Mapping[str, int]) -> str:
    trunk = config.trunk_weights if config.trunk_weights in ("imagenet", "random") else "from a file"
    rows = {
        "parameters": f"{_count(num_parameters['trained'])} trained, {_count(num_parameters['frozen'])} frozen",
        "trunk": f"ResNet-18 up to stage {config.trunk_stage}, frozen, weights: {trunk}",
        "transformers": f"one for each modality: layers {config.num_layers}, width {config.width}, heads"
        f" {config.num_heads}, feed-forward {config.feedforward_width}, pooling {config.pooling}, positions"
        f" {config.positions}",
        "video tokens": f"{config.num_video_tokens} ({config.num_frames} frames, {config.video_grid} x"
        f" {config.video_grid} cells)",
        "audio tokens": f"{config.num_audio_tokens} ({config.audio_patch_frames} mel frames each)",
        "text tokens": f"{config.max_text_length} at most, vocabulary {config.vocab_size}",
        "spaces": f"av, vt, avt, each of {config.embedding_dim} dimensions",
    }
    return _table("Architecture", rows)


def _training(facts: ModelFacts) -> str:
    said = facts.settings
    if said is None:
        return f"## Training\n\n{UNKNOWN.capitalize()}: exported without the record of a run."
    weights = " + ".join(
        f"{_plain(said[f'loss.weights.{term}'])} {term.upper()}" for term in TERMS if said.get(f"loss.weights.{term}")
    )
    temperature = _say(said, "loss.temperature")
    if said.get("loss.learn_temperature"):
        temperature += " at the start, learned"
    has_centroid = said.get("loss.weights.avt", 1) > 0
    rows = {
        "loss": f"{_say(said, 'loss.form')}; {weights or UNKNOWN}",
        "centroid of AVT": _say(said, "loss.centroid") if has_centroid else "none",
        "missing modality": _say(said, "loss.policy") if has_centroid else "none",
        "negatives": _say(said, "loss.negatives"),
        "temperature": temperature,
        "steps": UNKNOWN if facts.steps is None else f"{facts.steps:,}",
        "batch of each process": _say(said, "data.batch_size"),
        "processes": _plain(facts.world_size or UNKNOWN),
        "batches a step": _say(said, "data.accumulate"),
        "optimiser": _say(said, "optim.name"),
        "learning rate": f"{_say(said, 'optim.lr')} at its peak, {_say(said, 'optim.schedule')}",
        "weight decay": _say(said, "optim.weight_decay"),
        "precision": _say(said, "run.precision"),
        "device": facts.device or UNKNOWN,
        "seed": _say(said, "run.seed"),
        "code": ", ".join(facts.commits) if facts.commits else UNKNOWN,
        "packages": ", ".join(f"{name} {version}" for name, version in (facts.versions or {}).items()) or UNKNOWN,
    }
    if facts.lengths:
        rows["length of the schedule"] = f"changed on the way: {facts.lengths}"
    if facts.begun_with:
        rows["begun with"] = facts.begun_with
    if said.get("optim.ema_decay"):
        rows["weights"] = f"moving average over the steps, decay {_plain(said['optim.ema_decay'])}"
    return _table("Training", rows)


def _data(facts: ModelFacts) -> str:
    if _says(facts, "data.synthetic"):
        return (
            f"## Data\n\nMade-up samples, {_say(facts.settings or {}, 'data.synthetic_samples')} of them: no real clip."
        )
    rows = _coverage(facts.coverage) if facts.coverage else {"clips": UNKNOWN}
    rows |= {f"{name} (content)": digest for name, digest in (facts.data or {}).items()}
    return _table("Data", rows)


def _coverage(coverage: Coverage) -> dict[str, str]:
    total = coverage.num_clips

    def share(count: int) -> str:
        return f"{count:,} ({100 * count / total:.0f} %)" if total else "0"

    unmeasured = f"; not measured: {coverage.num_audio_unknown:,}" if coverage.num_audio_unknown else ""
    return {
        "clips": f"{total:,}",
        "with sound": share(coverage.num_audio) + unmeasured,
        "with a title": share(coverage.num_text),
        "with frames, sound and a title": share(coverage.num_all) + unmeasured,
        **{f"titles by {source}": share(count) for source, count in coverage.title_sources.items()},
    }


def _heldout(facts: ModelFacts) -> str:
    heldout = facts.heldout
    if not heldout:
        return f"## Held-out numbers\n\n{UNKNOWN.capitalize()}: the training recorded none."
    settings = facts.settings or {}
    rows = [("loss", heldout.get("loss"), heldout.get("chance"))]
    for term in TERMS:
        if settings.get(f"loss.weights.{term}", 1):
            rows.append((f"loss {term.upper()}", heldout.get(f"loss_{term}"), _term_chance(term, heldout, settings)))
    used = [each for term, each in TERMS.items() if settings.get(f"loss.weights.{term}", 1)]
    for name, pair in PAIRS.items():
        num = heldout.get(f"num_all_{name}")
        if num and any(term.trains(pair.space, *pair.modalities) for term in used):
            row = f"recall@1 {name.upper()}, among all {num}"
            rows.append((row, heldout.get(f"recall_at_1_all_{name}"), 1 / num))
    shown = [f"| {name} | {_number(value)} | {_number(chance)} |" for name, value, chance in rows if value is not None]
    size = _number(heldout.get("batch_size"))
    is_older = facts.steps is not None and facts.heldout_step != facts.steps
    warning = f" **This model is that of step {facts.steps}: these numbers are of an earlier one.**" if is_older else ""
    return "\n".join(
        [
            "## Held-out numbers",
            "",
            f"After {facts.heldout_step} steps, losses in fixed batches of {size} held-out clips. Chance is a model"
            f" that knows nothing; of single terms, for their mean number of rows.{warning}",
            "",
            "| | value | chance |",
            "|---|---|---|",
            *shown,
        ]
    )


def _term_chance(term: TermName, heldout: Mapping[str, Number], settings: Mapping[str, Any]) -> float | None:
    """Returns the loss of a term to which all is the same, for the mean number of rows; None where it is not ln N."""
    num = heldout.get(f"num_{term}")
    is_masked = settings.get("loss.mask_same_title") or settings.get("loss.mask_same_video")
    if not num or num < 2 or is_masked or "loss.form" not in settings:
        return None
    if TERMS[term].is_joint and (
        settings.get("loss.centroid") == "kmeans" or settings.get("loss.policy") != "complete_pair"
    ):
        return None
    form = FORMS.get(settings["loss.form"])
    return None if form is None else TERMS[term].num_contrasts * form.chance(num)


def _limits(config: LavaConfig, facts: ModelFacts) -> str:
    lines = ["Titles are what uploaders wrote: in many languages, often about something else than the clip."]
    if _says(facts, "loss.form") == "pooled":
        lines.append(
            "The loss is pooled (eq. 1 of the paper): one aligned pair in a batch brings it near 0, so a small loss"
            " does not mean that the modalities are aligned. Look at recall@1."
        )
    if _says(facts, "loss.centroid") == "literal":
        lines.append(
            "The centroid holds each modality against a mean that it is part of: a small AVT loss does not mean that"
            " the modalities agree."
        )
    if untrained := _untrained(facts):
        lines.append(f"No loss term used these, they are as they were drawn: {', '.join(untrained)}.")
    if config.trunk_weights == "random":
        lines.append("The trunk was never trained: its features are those of random weights.")
    if _says(facts, "data.synthetic"):
        lines.append("It was trained on made-up samples and knows nothing of real clips.")
    lines.append(
        "Much of a probe's accuracy may come from the frozen trunk alone: compare with `trunk_only` and `random_init`"
        " of `python -m lava_model.evaluate linear-probe`."
    )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _untrained(facts: ModelFacts) -> list[str]:
    """Returns the parts that the loss left alone; none where its weights are not known."""
    said = facts.settings or {}
    if any(f"loss.weights.{name}" not in said for name in TERMS):
        return []
    used = [term for name, term in TERMS.items() if said[f"loss.weights.{name}"] > 0]
    encoders = [f"the {each} encoder" for each in MODALITIES if not any(each in term.modalities for term in used)]
    heads = [
        f"the head {space}_{modality}"
        for space, modalities in SPACES.items()
        for modality in modalities
        if not any(term.trains(space, modality) for term in used)
    ]
    return encoders + heads


def preprocessing_rows(preprocessing: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns the preprocessing as rows of a table."""
    return {
        f"{part}.{name}": ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for part, values in preprocessing.items()
        for name, value in values.items()
    }


def _table(title: str, rows: Mapping[str, str]) -> str:
    cells = ((_cell(name), _cell(value)) for name, value in rows.items())
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)])


def _cell(text: str) -> str:
    """Returns text as a cell: what it quotes of settings and files is neither markup nor HTML."""
    return re.sub(r"[\\`|<\[\]]", r"\\\g<0>", one_line(text))


def _says(facts: ModelFacts, name: str) -> Any:
    return (facts.settings or {}).get(name)


def _say(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name)
    return UNKNOWN if value is None else _plain(value)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: Number) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,}"
