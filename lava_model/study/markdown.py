"""The record of a study as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lava_model.evaluation.retrieval import chance
from lava_model.study.summary import PAIRS

_MEANS = {"mean_recall_at_1": "mean R@1 of AV, VT, AT", "mean_recall_at_5": "mean R@5"}
_R_AT_5 = {f"{name}_recall_at_5": f"{title}: R@5" for name, title in PAIRS.items()}
_WITHIN = {name: f"{name}_within_video_recall_at_1" for name in PAIRS}
_PROBE = {"probe_top1": "probe"}


def markdown(record: Mapping[str, Any]) -> str:
    """Returns what was held equal, the tables with chance and controls, and the differences to the reference."""
    tables = [_main_table(record), _ranks_table(record), _differences_table(record)]
    return "\n\n".join([f"**{record['question']}**", _setup(record), *("\n".join(rows) for rows in tables if rows)])


def _setup(record: Mapping[str, Any]) -> str:
    """Returns what was held equal, and how to read the tables."""
    setup, probe = record["setup"], record["setup"]["probe"]
    changed = ", ".join(f"{name} {value}" for name, value in setup["changed"].items())
    steps = sorted({run["steps"] for runs in record["results"].values() for run in runs})
    words = [
        f"Preset {setup['preset']}{f' with {changed}' if changed else ''}; {setup['num_train']:,} training clips,"
        f" {' or '.join(map(str, steps))} steps of {setup['batch_size']}; {setup['num_seeds']}"
        f" {'seed' if setup['num_seeds'] == 1 else 'seeds'} (initial weights and order, the same for all variants);"
        f" augmentation frozen to {setup['num_views']} {'view' if setup['num_views'] == 1 else 'views'} of each clip.",
        f"Retrieval: at once among all of {setup['num_held_out']:,} held-out clips that have both modalities, mean of"
        " both directions, in percent; losses of different forms have different scales and rank nothing.",
    ]
    if any(found.get("within_video") for found in _retrievals(record).values()):
        words.append(
            "Identity only: expected of who knows which video each clip is of and nothing else, clips of one video in"
            " random order. Within a video: retrieval among the clips of the right video, of those with two or more."
        )
    if setup["num_seeds"] > 1:
        words.append("Mean ± standard deviation over seeds.")
    if any(found["differences"] for found in record["summary"].values()):
        words.append(
            "Differences: paired by seed, with how often they are above 0; bold where zero lies outside their 95 %"
            " interval by Student's t, with no correction for the number of comparisons."
        )
    if probe is not None:
        words.append(
            f"Probe: top-1 of a linear classifier on the video features of {probe['num_clips']} labelled clips of"
            f" {probe['num_videos']} other videos."
        )
    return " ".join(words)


def _main_table(record: Mapping[str, Any]) -> list[str]:
    summary = record["summary"]
    columns = {**_MEANS, **_R_AT_5, **_PROBE, "train_seconds": "s a run"}
    rows = {
        name: {key: _spread(value, key) for key, value in found["measures"].items()} for name, found in summary.items()
    }
    controls = {f"*{name}*": {"probe_top1": _percent(value)} for name, value in _controls(record).items()}
    return _table("variant", columns, {**rows, **_guesses(record), **controls})


def _ranks_table(record: Mapping[str, Any]) -> list[str]:
    rows: dict[str, dict[str, str]] = {}
    for name, found in record["summary"].items():
        measures = found["measures"]
        rows[name] = {key: _spread(measures[key], key) for key in _WITHIN.values() if key in measures}
        for pair in PAIRS:
            if f"{pair}_mean_rank" in measures:
                recall, rank = measures[f"{pair}_recall_at_1"]["mean"], measures[f"{pair}_mean_rank"]["mean"]
                rows[name][pair] = f"{_percent(recall)}, {rank:.1f}"
    columns: dict[str, str] = {}
    for pair, title in PAIRS.items():
        columns |= {pair: f"{title}: R@1, mean rank", _WITHIN[pair]: f"{title}: R@1 within a video"}
    return _table("variant", columns, {**rows, **_guesses(record)})


def _guesses(record: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Returns the rows of those who learned nothing: by chance and, where that is more, by knowing the video."""
    by_chance: dict[str, str] = {}
    by_video: dict[str, str] = {}
    for pair, found in _retrievals(record).items():
        guess = chance(found["num_clips"])
        by_chance[f"{pair}_recall_at_5"] = _percent(guess.recall_at_5)
        by_chance[pair] = f"{_percent(guess.recall_at_1)}, {guess.mean_rank:.0f} of {guess.num_clips}"
        if within := found.get("within_video"):
            known = found["identity_only"]
            by_video[f"{pair}_recall_at_5"] = _percent(known["recall_at_5"])
            by_video[pair] = f"{_percent(known['recall_at_1'])}, {known['mean_rank']:.1f}"
            by_chance[_WITHIN[pair]] = by_video[_WITHIN[pair]] = _percent(within["chance"])
    return {"*chance*": by_chance, **({"*identity only*": by_video} if by_video else {})}


def _differences_table(record: Mapping[str, Any]) -> list[str]:
    rows = {
        name: {key: _difference(value) for key, value in found["differences"].items()}
        for name, found in record["summary"].items()
        if found["differences"]
    }
    columns = {**_MEANS, **_R_AT_5, **_PROBE}
    return _table(f"minus {record['reference']}, points", columns, rows) if rows else []


def _retrievals(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns one result of each retrieval: clips and controls are the same for all runs."""
    runs = [run for runs in record["results"].values() for run in runs]
    return {name: found for run in runs for name, found in run["retrieval"].items()}


def _controls(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns the mean accuracy of each kind of control, over its seeds."""
    kinds: dict[str, list[float]] = {}
    for name, scores in record["controls"].items():
        kinds.setdefault(name.rstrip("0123456789").rstrip("_"), []).append(scores["top1_accuracy"])
    return {name: statistics.fmean(values) for name, values in kinds.items()}


def _spread(found: Mapping[str, Any], key: str) -> str:
    if key == "train_seconds":
        return f"{found['mean']:.0f}"
    return _percent(found["mean"]) + ("" if found["std"] is None else f" ± {_percent(found['std'])}")


def _difference(found: Mapping[str, Any]) -> str:
    spread = "" if found["std"] is None else f" ± {_percent(found['std'])}"
    text = f"{100 * found['mean']:+.1f}{spread}, {found['num_above']}/{found['num']}"
    return f"**{text}**" if found["is_clear"] else text


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _table(head: str, columns: Mapping[str, str], rows: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Returns the lines of a table; columns that no row has anything for are left out."""
    shown: Sequence[str] = [key for key in columns if any(key in row for row in rows.values())]
    return [
        f"| {head} | " + " | ".join(columns[key] for key in shown) + " |",
        "|" + "---|" * (len(shown) + 1),
        *(f"| {name} | " + " | ".join(row.get(key, "") for key in shown) + " |" for name, row in rows.items()),
    ]
