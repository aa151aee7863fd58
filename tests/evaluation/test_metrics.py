"""Metrics against hand-worked numbers and scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve

from iotid.evaluation import metrics

# True classes are rows: 8 of 10 right, 3 of 5 right, 0 of 5 right; class 3 has no flows and one wrong answer.
_HAND = np.array([[8, 1, 0, 1], [2, 3, 0, 0], [5, 0, 0, 0], [0, 0, 0, 0]])


def _random_rows(seed: int, classes: int = 6, rows: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    label = random.integers(0, classes - 1, rows)  # the last class is never true, but is answered
    predicted = np.where(random.random(rows) < 0.6, label, random.integers(0, classes, rows))
    return label, predicted, random.integers(1, 50, rows)


def test_confusion_matrix__weighted_rows_equal_scikit_learn_and_repeated_rows() -> None:
    label, predicted, num_flows = _random_rows(1)
    confusion = metrics.confusion_matrix(label, predicted, num_flows, 6)
    assert (confusion == oracle.confusion_matrix(label, predicted, labels=range(6), sample_weight=num_flows)).all()
    repeated = np.repeat(label, num_flows), np.repeat(predicted, num_flows)
    assert (confusion == metrics.confusion_matrix(*repeated, np.ones(num_flows.sum()), 6)).all()


def test_metrics__equal_hand_worked_numbers() -> None:
    values = metrics.metrics(_HAND)
    assert values["accuracy"] == pytest.approx(11 / 20)
    assert values["macro_precision"] == pytest.approx((8 / 15 + 3 / 4 + 0) / 3)
    assert values["macro_recall"] == pytest.approx((0.8 + 0.6 + 0) / 3)
    # equation 10 for each class, then the mean: 2PR/(P+R)
    first, second = 2 * (8 / 15) * 0.8 / (8 / 15 + 0.8), 2 * 0.75 * 0.6 / 1.35
    assert values["macro_f1"] == pytest.approx((first + second + 0) / 3)
    assert values["balanced_accuracy"] == values["macro_recall"]


@pytest.mark.parametrize("seed", range(5))
def test_metrics__equal_scikit_learn_over_the_classes_present(seed: int) -> None:
    label, predicted, num_flows = _random_rows(seed)
    values = metrics.metrics(metrics.confusion_matrix(label, predicted, num_flows, 6))
    expected = oracle.precision_recall_fscore_support(
        label, predicted, labels=np.unique(label), average="macro", sample_weight=num_flows, zero_division=0
    )
    assert [values[name] for name in ("macro_precision", "macro_recall", "macro_f1")] == pytest.approx(expected[:3])
    assert values["accuracy"] == pytest.approx(oracle.accuracy_score(label, predicted, sample_weight=num_flows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns that class 5 is answered and never true
        balanced = oracle.balanced_accuracy_score(label, predicted, sample_weight=num_flows)
    assert values["balanced_accuracy"] == pytest.approx(balanced)


def test_metrics__many_matrices_at_once_equal_each_alone() -> None:
    stack = np.stack([_HAND, _HAND.T + 1, np.eye(4, dtype=int)])
    together = metrics.metrics(stack)
    for index, matrix in enumerate(stack):
        alone = {name: float(value) for name, value in metrics.metrics(matrix).items()}
        assert {name: float(value[index]) for name, value in together.items()} == pytest.approx(alone)


def test_per_class__without_test_flows_is_null_and_never_answered_has_precision_zero() -> None:
    table = metrics.per_class(_HAND, ["a", "b", "c", "d"])
    assert table[0] == {
        "label": "a",
        "precision": pytest.approx(8 / 15),
        "recall": pytest.approx(0.8),
        "f1": pytest.approx(0.64),
        "support": 10,
    }
    assert table[2] == {"label": "c", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 5}
    assert table[3] == {"label": "d", "precision": None, "recall": None, "f1": None, "support": 0}


def test_resample__draws_as_many_flows_as_there_are_and_no_cell_that_was_empty() -> None:
    drawn = metrics.resample(_HAND, 50, seed=3)
    assert (drawn.sum(axis=(1, 2)) == _HAND.sum()).all()
    assert not drawn[:, _HAND == 0].any()


def test_resample__spread_equals_a_bootstrap_over_flows_one_by_one() -> None:
    label, predicted, num_flows = _random_rows(2, rows=60)
    flow_label, flow_predicted = np.repeat(label, num_flows), np.repeat(predicted, num_flows)
    random = np.random.default_rng(0)
    slow = []
    for _ in range(600):
        drawn = random.integers(0, len(flow_label), len(flow_label))
        slow.append(metrics.confusion_matrix(flow_label[drawn], flow_predicted[drawn], np.ones(len(drawn)), 6))
    fast = metrics.resample(metrics.confusion_matrix(label, predicted, num_flows, 6), 600, seed=1)
    for name, value in metrics.metrics(np.stack(slow)).items():
        ours = metrics.metrics(fast)[name]
        assert ours.mean() == pytest.approx(value.mean(), abs=4 * value.std() / np.sqrt(600))
        assert ours.std() == pytest.approx(value.std(), rel=0.15)


def test_scores__same_seed_same_interval_around_the_value() -> None:
    first, second = metrics.scores(_HAND, 200, seed=1), metrics.scores(_HAND, 200, seed=1)
    assert first == second != metrics.scores(_HAND, 200, seed=2)
    for score in first.values():
        assert score["low"] is not None
        assert score["high"] is not None
        assert score["low"] < score["value"] < score["high"]


def test_scores__perfect_answers_have_no_spread_and_no_resamples_no_interval() -> None:
    perfect = metrics.scores(np.diag([5, 3, 0]), 100, seed=1)
    assert all(score == {"value": 1.0, "low": 1.0, "high": 1.0} for score in perfect.values())
    assert metrics.scores(_HAND, 0, seed=1)["accuracy"] == {"value": pytest.approx(0.55), "low": None, "high": None}


def _three(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """True classes, two systems' answers, one of them mostly a copy of the other, and flows."""
    label, ours, num_flows = _random_rows(seed)
    random = np.random.default_rng(seed + 100)
    theirs = np.where(random.random(len(label)) < 0.9, ours, random.integers(0, 6, len(label)))
    return label, ours, theirs, num_flows


def test_paired_difference__interval_equals_a_paired_bootstrap_over_flows_one_by_one() -> None:
    label, ours, theirs, num_flows = _three(1)
    found = metrics.paired_difference(label, ours, theirs, num_flows, 6, 2000, 1)
    each = np.repeat(np.stack([label, ours, theirs]), num_flows, axis=1)
    random = np.random.default_rng(2)

    def difference(flows: np.ndarray) -> float:
        true, first, second = flows
        return sum(
            sign * oracle.f1_score(true, answer, labels=np.unique(true), average="macro", zero_division=0)
            for sign, answer in ((1, first), (-1, second))
        )

    assert found["value"] == pytest.approx(difference(each))
    drawn = [difference(each[:, random.integers(0, each.shape[1], each.shape[1])]) for _ in range(200)]
    assert [found["low"], found["high"]] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=2e-3)


@pytest.mark.parametrize("seed", range(3))
def test_paired_difference__is_narrower_than_the_scores_intervals(seed: int) -> None:
    label, ours, theirs, num_flows = _three(seed)
    found = metrics.paired_difference(label, ours, theirs, num_flows, 6, 200, 1)
    back = metrics.paired_difference(label, theirs, ours, num_flows, 6, 200, 1)
    assert found["low"] <= found["value"] <= found["high"]
    assert back["value"] == pytest.approx(-found["value"])
    alone = metrics.scores(metrics.confusion_matrix(label, ours, num_flows, 6), 200, 1)["macro_f1"]
    assert found["high"] - found["low"] < alone["high"] - alone["low"]
    assert metrics.paired_difference(label, ours, theirs, num_flows, 6, 200, 1) == found


def test_paired_difference__equal_answers_have_none_and_no_resamples_no_interval() -> None:
    label, ours, theirs, num_flows = _three(1)
    assert metrics.paired_difference(label, ours, ours, num_flows, 6, 50, 1) == {"value": 0, "low": 0, "high": 0}
    found = metrics.paired_difference(label, ours, theirs, num_flows, 6, 0, 1)
    assert (found["low"], found["high"]) == (None, None)


def test_paired_difference__one_row_is_enough() -> None:
    one = np.array([0])
    assert metrics.paired_difference(one, one, np.array([1]), one + 3, 2, 10, 1) == {"value": 1, "low": 1, "high": 1}


def test_expected_calibration_error__equals_hand_worked_numbers_with_weights() -> None:
    # one bin holds 3 flows at 0.9 of which 2 are right, another 1 flow at 0.5 that is wrong
    bins = metrics.reliability(np.array([0.9, 0.9, 0.5]), np.array([True, False, False]), np.array([2, 1, 1]))
    assert metrics.expected_calibration_error(bins) == pytest.approx(3 / 4 * (0.9 - 2 / 3) + 1 / 4 * 0.5)
    assert sum(each["flows"] for each in bins) == 4
    assert [each["accuracy"] for each in bins if not each["flows"]] == [None] * 13


def test_reliability__bins_equal_scikit_learns_calibration_curve() -> None:
    random = np.random.default_rng(4)
    confidence = random.random(2000)
    right = random.random(2000) < confidence**2
    bins = metrics.reliability(confidence, right, np.ones(2000))
    accuracy, mean_confidence = calibration_curve(right, confidence, n_bins=metrics.RELIABILITY_BINS)
    assert [each["accuracy"] for each in bins] == pytest.approx(accuracy)
    assert [each["confidence"] for each in bins] == pytest.approx(mean_confidence)


def test_reliability__certain_and_impossible_answers_fall_into_the_outer_bins() -> None:
    bins = metrics.reliability(np.array([0.0, 1.0]), np.array([False, True]), np.array([1, 1]))
    assert (bins[0]["flows"], bins[-1]["flows"]) == (1, 1)
    assert metrics.expected_calibration_error(bins) == 0


def test_merge__adds_the_cells_of_classes_with_one_name() -> None:
    confusion = np.array([[5, 1, 2], [3, 7, 0], [1, 1, 9]])
    merged, names = metrics.merge(confusion, ["plug", "cam", "plug"])
    assert names == ["cam", "plug"]
    assert merged.tolist() == [[7, 3], [2, 5 + 2 + 1 + 9]]


def test_macro_f1__equals_scikit_learn_over_the_classes_that_have_flows() -> None:
    random = np.random.default_rng(0)
    true, named = random.choice([0, 1, 3], 200), random.integers(0, 4, 200)
    confusion_CC = np.zeros((5, 5))
    np.add.at(confusion_CC, (true, named), 1)
    assert metrics.macro_f1(confusion_CC) == pytest.approx(
        oracle.f1_score(true, named, labels=[0, 1, 3], average="macro")
    )
