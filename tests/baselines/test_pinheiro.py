"""One-second windows and the classifiers of Pinheiro et al., against slow twins and scikit-learn's own answers."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from iotid import baselines
from iotid.baselines import pinheiro
from iotid.baselines.pinheiro import Pinheiro, PinheiroVote
from iotid.dataset import DeviceTraffic

TrafficOf = Callable[[Sequence[dict[str, Any]]], DeviceTraffic]
ALL = [name for name in baselines.window_baselines(1) if name.startswith("pinheiro")]


def _windows(seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Windows of labels 0 and 2 that overlap."""
    random = np.random.default_rng(seed)
    label_S = random.choice([0, 2], count)
    return random.normal([500, 100, 2000], [200, 50, 900], (count, 3)) + 150 * label_S[:, np.newaxis], label_S


def test_samples__equal_windows_counted_packet_by_packet(
    traffic_of: TrafficOf, random_rows: list[dict[str, Any]]
) -> None:
    lengths: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    label = {}
    for row in random_rows:
        if row["sent"]:
            lengths[row["capture_file"], row["device"], row["second"]] += [row["frame_length"]] * row["packets"]
            label[row["device"]] = row["label"]
    found = pinheiro.samples(traffic_of(random_rows))
    keys = sorted(lengths)
    assert list(zip(found.capture, found.device, found.label, found.start_s, strict=True)) == [
        ("abc".index(capture), int(device[-1]), label[device], second) for capture, device, second in keys
    ]
    expected = [
        (statistics.mean(of), statistics.stdev(of) if len(of) > 1 else 0, sum(of))
        for of in map(lengths.get, keys)
        if of
    ]
    np.testing.assert_allclose(found.features, expected, atol=1e-9)
    several = pinheiro.samples(traffic_of(random_rows), drop_single=True)
    kept = [len(lengths[key]) > 1 for key in keys]
    assert 0 < sum(kept) < len(kept)
    for column, all_of_it in zip(several, found, strict=True):
        np.testing.assert_array_equal(column, all_of_it[kept])


def test_samples__one_packet_has_no_deviation_and_received_packets_do_not_count(traffic_of: TrafficOf) -> None:
    rows = [
        {"second": 7, "frame_length": 60},
        {"second": 7, "frame_length": 1514, "sent": False, "packets": 9},
        {"second": 8, "frame_length": 1514, "sent": False},
    ]
    found = pinheiro.samples(traffic_of(rows))
    assert found.start_s.tolist() == [7]
    assert found.features.tolist() == [[60, 0, 60]]
    assert pinheiro.samples(traffic_of(rows), drop_single=True).features.shape == (0, 3)
    assert pinheiro.samples(traffic_of([])).features.shape == (0, 3)


def test_samples__a_second_is_of_one_capture_device_and_label(traffic_of: TrafficOf) -> None:
    rows = [
        {"frame_length": 60},
        {"frame_length": 60, "capture_file": "b"},
        {"frame_length": 60, "device": "02:00:00:00:00:02"},
        {"frame_length": 60, "device": "02:00:00:00:00:02", "second": 1, "label": 1},
    ]
    found = pinheiro.samples(traffic_of(rows))
    places = zip(found.capture.tolist(), found.device.tolist(), found.label.tolist(), strict=True)
    assert list(places) == [(0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 0, 0)]


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("knn", KNeighborsClassifier(3)),
        ("tree", DecisionTreeClassifier(random_state=5)),
        ("forest", RandomForestClassifier(random_state=5)),
    ],
)
def test_pinheiro__answers_are_those_of_scikit_learns_defaults(name: str, oracle: Any) -> None:
    (train_SD, label_S), (test_SD, _) = _windows(1), _windows(2)
    repeated_SD = np.repeat(test_SD, 2, axis=0)
    found_SC = Pinheiro(name, 5).fit(train_SD, label_S, 4).probabilities(repeated_SD)
    expected = oracle.fit(train_SD, label_S).predict_proba(repeated_SD)
    np.testing.assert_allclose(found_SC[:, [0, 2]], expected, atol=1e-12)
    assert not found_SC[:, [1, 3]].any(), "labels without samples"


def test_pinheiro__svm_learns_from_the_windows_that_the_seed_draws() -> None:
    (train_SD, label_S), (test_SD, _) = _windows(1), _windows(2)
    whole = SVC().fit(train_SD, label_S).predict(test_SD)
    found = Pinheiro("svm", 5, svm_windows=300).fit(train_SD, label_S, 3).probabilities(test_SD)
    assert found.argmax(axis=1).tolist() == whole.tolist()
    assert set(found.ravel().tolist()) == {0, 1}
    drawn = np.random.default_rng(5).choice(300, 20, replace=False)
    few = Pinheiro("svm", 5, svm_windows=20).fit(train_SD, label_S, 3).probabilities(test_SD).argmax(axis=1)
    assert few.tolist() == SVC().fit(train_SD[drawn], label_S[drawn]).predict(test_SD).tolist()
    assert few.tolist() != whole.tolist()


@pytest.mark.parametrize("name", ALL)
def test_every_rival__rows_sum_to_one_and_a_seed_gives_the_same_answers(name: str) -> None:
    (train_SD, label_S), (test_SD, _) = _windows(1), _windows(2)
    first, again = (
        baselines.window_baselines(3)[name].classifier.fit(train_SD, label_S, 3).probabilities(test_SD) for _ in range(2)
    )
    assert first.sum(axis=1) == pytest.approx(1)
    assert (first >= 0).all()
    assert not first[:, 1].any()
    assert (first == again).all()
    assert "Pinheiro et al. 2019" in baselines.window_baselines(3)[name].classifier.origin


@pytest.mark.parametrize("name", ALL)
def test_every_rival__learns_from_one_window_and_answers_for_none(name: str) -> None:
    classifier = baselines.window_baselines(3)[name].classifier.fit(np.array([[60.0, 0, 60]]), np.array([1]), 3)
    assert classifier.probabilities(np.array([[60.0, 0, 60], [999, 9, 9]])).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert classifier.probabilities(np.empty((0, 3))).shape == (0, 3)


class _Says:
    def __init__(self, *labels: int) -> None:
        self._labels = list(labels)

    def probabilities(self, features_SD: np.ndarray) -> np.ndarray:
        return np.eye(3)[self._labels] * 0.4 + 0.2


def test_vote__most_of_four_equal_voices_decide_and_a_tie_is_the_first_label() -> None:
    vote = PinheiroVote(1).fit(*_windows(1), 3)
    vote._members = [_Says(2, 2), _Says(2, 2), _Says(1, 0), _Says(2, 0)]  # type: ignore[list-item]
    answers = vote.probabilities(np.zeros((2, 3)))
    assert answers.tolist() == [[0, 0.25, 0.75], [0.5, 0, 0.5]]
    assert answers.argmax(axis=1).tolist() == [2, 0]


def test_vote__asks_the_four_members_of_its_own_seed() -> None:
    (train_SD, label_S), (test_SD, _) = _windows(1), _windows(2)
    votes_SC = np.zeros((len(test_SD), 3))
    for name in pinheiro.MEMBERS:
        votes_SC += np.eye(3)[Pinheiro(name, 4).fit(train_SD, label_S, 3).probabilities(test_SD).argmax(axis=1)]
    assert (PinheiroVote(4).fit(train_SD, label_S, 3).probabilities(test_SD) == votes_SC / 4).all()
