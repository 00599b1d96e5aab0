from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lava_model.errors import ConfigError, DataError
from lava_model.evaluation.classifiers import fit_classifier
from lava_model.evaluation.linear_probe import (
    FoldResult,
    ProbeTask,
    VideoFeatures,
    choose_c,
    majority_share,
    make_task,
    probe,
    video_logits,
)
from lava_model.evaluation.protocols import PROTOCOLS, get_protocol
from lava_model.evaluation.results import Scores, compare, probe_record, table_rows
from lava_model.evaluation.splits import grouped_folds

NUM_CLASSES, NUM_GROUPS, CLIPS_PER_GROUP, NUM_VIEWS, WIDTH = 3, 60, 3, 2, 12
LOGISTIC = replace(get_protocol("logistic"), c_grid=(1e-3, 1e-1, 10.0), num_selection_folds=2)


def toy_labels() -> tuple[list[str], list[str]]:
    """180 videos: 60 groups of 3 clips, one class a group."""
    groups = [f"video{number // CLIPS_PER_GROUP}" for number in range(NUM_GROUPS * CLIPS_PER_GROUP)]
    return [f"class{(number // CLIPS_PER_GROUP) % NUM_CLASSES}" for number in range(len(groups))], groups


def toy_task(num_folds: int = 5, seeds: tuple[int, ...] = (0,)) -> ProbeTask:
    labels, groups = toy_labels()
    return make_task(labels, groups, protocol=LOGISTIC, num_folds=num_folds, seeds=seeds)


def video_features(values: np.ndarray) -> VideoFeatures:
    return VideoFeatures(values=values.astype(np.float32), is_valid=np.ones(values.shape[:2], bool))


def noise(task: ProbeTask, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(task.labels), NUM_VIEWS, WIDTH))


def mean_accuracy(results: tuple[FoldResult, ...]) -> float:
    return float(np.mean([result.top1_accuracy for result in results]))


@st.composite
def labelled_groups(draw: st.DrawFn) -> tuple[list[int], list[str]]:
    """Videos of 2 to 4 classes, each with clips of 3 or more groups; groups may hold clips of several classes."""
    num_classes = draw(st.integers(2, 4))
    pairs = [(label, f"own{label}_{number}") for label in range(num_classes) for number in range(3)]
    pairs += draw(st.lists(st.tuples(st.integers(0, num_classes - 1), st.sampled_from("abcdefgh")), max_size=40))
    shuffled = draw(st.permutations(pairs))
    return [label for label, _ in shuffled], [group for _, group in shuffled]


@given(labelled_groups(), st.integers(2, 5), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_no_group_falls_on_both_sides(videos: tuple[list[int], list[str]], num_folds: int, seed: int) -> None:
    labels, groups = np.array(videos[0]), np.array(videos[1])
    folds = grouped_folds(labels, groups.tolist(), num_folds=num_folds, seed=seed)
    assert 2 <= len(folds) <= num_folds
    for fold in folds:
        assert not set(groups[fold.train]) & set(groups[fold.test])
        assert set(labels[fold.train]) == set(labels)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(labels)))


def test_folds_repeat_with_their_seed_and_change_with_it() -> None:
    labels, groups = toy_labels()
    numbers = np.unique(labels, return_inverse=True)[1]
    first, again, other = (grouped_folds(numbers, groups, num_folds=5, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a.test, b.test) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a.test, b.test) for a, b in zip(first, other, strict=True))


def test_a_class_of_a_single_group_cannot_be_split() -> None:
    with pytest.raises(DataError, match="two videos of every class"):
        grouped_folds(np.array([0, 0, 1, 1]), ["a", "b", "c", "c"], num_folds=2, seed=0)


def test_classes_that_share_three_videos_in_a_ring_cannot_be_split_in_two() -> None:
    # Either side of any division into two holds both videos of one class.
    labels, groups = np.array([0, 0, 1, 1, 2, 2]), ["a", "b", "b", "c", "c", "a"]
    with pytest.raises(DataError, match="keeps every class in training"):
        grouped_folds(labels, groups, num_folds=2, seed=0)


def test_separable_features_give_100_percent() -> None:
    task = toy_task()
    values = 0.1 * noise(task)
    values[np.arange(len(task.labels)), :, task.labels] += 5
    assert [result.top1_accuracy for result in probe(video_features(values), task)] == [1.0] * 5


def test_noise_gives_chance() -> None:
    task = toy_task(seeds=(0, 1, 2))
    assert mean_accuracy(probe(video_features(noise(task)), task)) == pytest.approx(1 / 3, abs=0.08)


def test_features_that_name_the_source_video_but_not_the_class_give_chance() -> None:
    labels, groups = toy_labels()
    task = toy_task(seeds=(0, 1))
    of_group = np.random.default_rng(5).normal(size=(NUM_GROUPS, 64))
    numbers = np.unique(groups, return_inverse=True)[1]
    values = np.repeat(of_group[numbers][:, None], NUM_VIEWS, axis=1)
    features = video_features(values)
    assert mean_accuracy(probe(features, task)) == pytest.approx(1 / 3, abs=0.12)
    # The same features look perfect as soon as groups are ignored: the leak that the grouped split closes.
    leaky = make_task(labels, [str(n) for n in range(len(labels))], protocol=LOGISTIC, num_folds=5, seeds=[0])
    assert mean_accuracy(probe(features, leaky)) > 0.9


def test_c_is_chosen_without_the_test_part() -> None:
    task = toy_task()
    values = noise(task)
    values[np.arange(len(task.labels)), :, task.labels] += 0.7
    features, rng = video_features(values), np.random.default_rng(1)
    for fold in task.folds:
        labels, changed = task.labels.copy(), values.copy()
        labels[fold.test] = rng.integers(0, NUM_CLASSES, len(fold.test))
        changed[fold.test] = rng.normal(size=changed[fold.test].shape) * 100
        assert choose_c(video_features(changed), replace(task, labels=labels), fold) == choose_c(features, task, fold)


def test_c_depends_on_the_train_part() -> None:
    """The counterpart of the test above: the choice is a choice."""
    task = toy_task()
    fold = task.folds[0]
    chosen = {choose_c(video_features(noise(task, seed)), task, fold) for seed in range(6)}
    assert len(chosen) > 1


def test_c_is_not_chosen_where_no_video_can_be_held_out() -> None:
    task = make_task(["x", "x", "y", "y"], ["a", "b", "c", "d"], protocol=LOGISTIC, num_folds=2, seeds=[0])
    results = probe(video_features(np.random.default_rng(0).normal(size=(4, 1, 3))), task)
    assert {(result.c, result.c_was_chosen) for result in results} == {(0.1, False)}


def test_the_scaler_is_fitted_on_the_train_part() -> None:
    """Test videos, however far away, change nothing about the classifier."""
    task = toy_task()
    fold = task.folds[0]
    values = noise(task)
    far = values.copy()
    far[fold.test] *= 1e4
    kept = int(fold.test[0])
    far[kept] = values[kept]
    near_logits, far_logits = (_logits_of(video_features(v), task, kept) for v in (values, far))
    np.testing.assert_array_equal(near_logits, far_logits)


def _logits_of(features: VideoFeatures, task: ProbeTask, video: int) -> np.ndarray:
    train = task.folds[0].train
    rows = features.values[train].reshape(-1, WIDTH)
    labels = np.repeat(task.labels[train], NUM_VIEWS)
    classifier = fit_classifier(task.protocol, rows, labels, num_classes=NUM_CLASSES, c=0.1, seed=0)
    return video_logits(classifier, features, np.array([video]))


def test_logits_are_averaged_over_the_valid_views_of_a_video() -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(60, 4)).astype(np.float32), rng.integers(0, 3, 60)
    classifier = fit_classifier(LOGISTIC, rows, labels, num_classes=3, c=1.0, seed=0)
    values = rng.normal(size=(2, 3, 4)).astype(np.float32)
    valid = np.array([[True, True, False], [True, True, True]])
    logits = video_logits(classifier, VideoFeatures(values=values, is_valid=valid), np.array([1, 0]))
    np.testing.assert_allclose(logits[0], classifier.logits(values[1]).mean(axis=0))
    np.testing.assert_allclose(logits[1], classifier.logits(values[0, :2]).mean(axis=0))


def test_a_video_without_a_valid_view_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one valid view"):
        VideoFeatures(values=np.zeros((2, 1, 3), np.float32), is_valid=np.array([[True], [False]]))


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
@pytest.mark.parametrize("num_classes", [2, 3])
def test_every_protocol_learns_what_is_separable(name: str, num_classes: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), 40)
    rows = (rng.normal(size=(len(labels), 5)) * 0.1 + 6 * np.eye(5)[labels]).astype(np.float32)
    protocol = replace(PROTOCOLS[name], num_epochs=10)
    classifier = fit_classifier(protocol, rows, labels, num_classes=num_classes, c=1.0, seed=0)
    logits = classifier.logits(rows)
    assert logits.shape == (len(labels), num_classes)
    assert np.mean(logits.argmax(axis=1) == labels) > 0.9


def test_binary_logits_differ_by_the_decision_value() -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(50, 4)).astype(np.float32), np.arange(50) % 2
    logits = fit_classifier(LOGISTIC, rows, labels, num_classes=2, c=1.0, seed=0).logits(rows)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(rows)
    expected = LogisticRegression(C=1.0, max_iter=2000).fit(scaled, labels).predict_proba(scaled)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_a_class_without_training_rows_is_never_predicted() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    classifier = fit_classifier(LOGISTIC, rows, np.array([0, 2] * 10), num_classes=3, c=1.0, seed=0)
    assert np.all(np.isneginf(classifier.logits(rows)[:, 1]))


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown protocol 'mmv2': expected one of logistic"):
        get_protocol("mmv2")


def _scores(name: str, *runs: list[float]) -> Scores:
    def fold(index: int, accuracy: float) -> FoldResult:
        return FoldResult(
            seed=0,
            fold=index,
            num_train=144,
            num_test=36,
            c=1.0,
            c_was_chosen=True,
            top1_accuracy=accuracy,
            converged=True,
        )

    return Scores(name=name, runs=tuple(tuple(fold(i, accuracy) for i, accuracy in enumerate(run)) for run in runs))


def test_scores_average_repetitions_before_folds() -> None:
    scores = _scores("random_init", [0.2, 0.4], [0.4, 0.8])
    assert scores.per_fold == pytest.approx((0.3, 0.6))
    assert scores.mean == pytest.approx(0.45)
    assert scores.std == pytest.approx(0.3 / np.sqrt(2))


@pytest.mark.parametrize(
    ("learned", "words"),
    [
        ([0.9, 0.92, 0.91, 0.9, 0.93], "better than every control: margin over trunk_only +31.2 points"),
        ([0.61, 0.58, 0.66, 0.55, 0.62], "no clear difference between the learned features and trunk_only"),
        ([0.4, 0.41, 0.42, 0.4, 0.39], "WORSE than trunk_only"),
    ],
)
def test_the_verdict_says_what_the_margin_over_the_best_control_allows(learned: list[float], words: str) -> None:
    controls = [_scores("trunk_only", [0.6] * 5), _scores("random_init", [0.5] * 5, [0.55] * 5)]
    margin = compare(_scores("learned", learned), controls, toy_task())
    assert words in margin.verdict


def test_chance_is_a_control_where_it_beats_the_others() -> None:
    task = toy_task()
    margin = compare(_scores("learned", [0.3] * 5), [_scores("trunk_only", [0.2] * 5)], task)
    assert margin.control == "chance"
    assert margin.mean == pytest.approx(0.3 - majority_share(task))


def test_the_record_tells_the_protocol_and_every_fold() -> None:
    task = toy_task()
    learned, control = _scores("learned", [0.9] * 5), _scores("trunk_only", [0.6] * 5)
    margin = compare(learned, [control], task)
    record = probe_record(learned=learned, controls=[control], task=task, margin=margin, about={"views": 4})
    assert record["protocol"]["classifier"] == "logistic_regression"
    assert "grouped by source video" in record["protocol"]["selection_rule"]
    assert record["chance"] == {"one_over_classes": 1 / 3, "majority_share_of_test": pytest.approx(1 / 3, abs=0.05)}
    assert [fold["c"] for fold in record["scores"]["learned"]["runs"][0]] == [1.0] * 5
    names = [row[0] for row in table_rows(record)]
    assert names == ["learned", "trunk_only", "chance: largest class", "chance: 1 / classes"]
    assert table_rows(record)[0][1] == "90.0 ± 0.0"
