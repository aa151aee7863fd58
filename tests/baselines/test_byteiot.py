"""ByteIoT's half hours and nearest neighbours, against slow twins."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from iotid import baselines
from iotid.baselines import byteiot
from iotid.baselines.byteiot import ByteIot, distances
from iotid.dataset import DeviceTraffic

TrafficOf = Callable[[Sequence[dict[str, Any]]], DeviceTraffic]


def _distance(p: Sequence[float], q: Sequence[float]) -> float:
    return math.sqrt(sum((math.sqrt(a) - math.sqrt(b)) ** 2 for a, b in zip(p, q, strict=True)) / 2)


def _distributions(seed: int, count: int) -> np.ndarray:
    counts = np.random.default_rng(seed).poisson(0.8, (count, 12)) + np.eye(12)[np.arange(count) % 12]
    return counts / counts.sum(axis=1, keepdims=True)


def test_samples__equal_half_hours_counted_in_dictionaries(
    traffic_of: TrafficOf, random_rows: list[dict[str, Any]]
) -> None:
    bins: dict[tuple[str, str, int], Counter[tuple[int, bool]]] = defaultdict(Counter)
    label = {}
    for row in random_rows:
        key = row["capture_file"], row["device"], row["second"] // 1800 * 1800
        bins[key][row["frame_length"], row["sent"]] += row["packets"]
        label[row["device"]] = row["label"]
    pairs = sorted({pair for counted in bins.values() for pair in counted})
    found = byteiot.samples(traffic_of(random_rows))
    assert list(zip(found.capture, found.device, found.label, found.start_s, strict=True)) == [
        ("abc".index(capture), int(device[-1]), label[device], start) for capture, device, start in sorted(bins)
    ]
    expected = [[counted[pair] / counted.total() for pair in pairs] for _, counted in sorted(bins.items())]
    np.testing.assert_allclose(found.features.toarray(), expected)
    assert len(pairs) == 8


def test_samples__bins_start_at_whole_half_hours(traffic_of: TrafficOf) -> None:
    rows = [
        {"second": 1799, "frame_length": 60},
        {"second": 1800, "frame_length": 60, "sent": False},
        {"second": 3599, "frame_length": 60, "sent": False},
    ]
    assert byteiot.samples(traffic_of(rows)).start_s.tolist() == [0, 1800]
    assert byteiot.samples(traffic_of(rows)).features.toarray().tolist() == [[0, 1], [1, 0]]
    assert byteiot.samples(traffic_of([])).features.shape == (0, 0)


_COUNTS = st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any)


@given(counts=st.tuples(_COUNTS, _COUNTS))
def test_distances__equal_their_definition_0_for_equals_1_for_nothing_in_common(
    counts: tuple[list[int], list[int]],
) -> None:
    p, q = ([each / sum(of) for each in of] for of in counts)
    (to_itself, found) = distances(csr_matrix([p]), csr_matrix([p, q]))[0].tolist()
    assert to_itself == 0
    assert found == pytest.approx(_distance(p, q), abs=1e-6)
    if not any(a and b for a, b in zip(p, q, strict=True)):
        assert found == 1


def test_byteiot__labels_are_those_of_the_nearest_of_all_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = _distributions(1, 60), _distributions(2, 40)
    label = np.random.default_rng(3).choice([0, 2, 3], 60)
    baseline = ByteIot().fit(csr_matrix(train), label, 4)
    answers = baseline.probabilities(csr_matrix(test))
    for row, answer in zip(test.tolist(), answers, strict=True):
        nearest = min(range(60), key=lambda t: (round(_distance(row, train[t].tolist()), 9), t))
        assert answer.tolist() == np.eye(4)[label[nearest]].tolist()
    monkeypatch.setattr(byteiot, "_BLOCK", 150)
    assert (baseline.probabilities(csr_matrix(test)) == answers).all(), "whatever the size of a block"


def test_byteiot__of_equal_distances_the_first_in_training_is_nearer() -> None:
    train = csr_matrix([[0.3, 0.7, 0], [0.7, 0.3, 0], [0.3, 0.7, 0]])
    baseline = ByteIot().fit(train, np.array([2, 1, 0]), 3)
    asked = csr_matrix([[0.3, 0.7, 0], [0.5, 0.5, 0], [0, 0, 1]])
    assert baseline.probabilities(asked).argmax(axis=1).tolist() == [2, 2, 2]


def test_byteiot__pairs_that_training_never_has_do_not_change_who_is_nearest() -> None:
    train, test = _distributions(1, 60), _distributions(2, 200)
    train = train[:, :7] + 0.01
    train = np.hstack([train, np.zeros((60, 5))])
    train /= train.sum(axis=1, keepdims=True)
    assert (test[:, 7:].sum(axis=1) > 0).mean() > 0.9
    label = np.arange(60)
    wide = ByteIot().fit(csr_matrix(train), label, 60).probabilities(csr_matrix(test))
    narrow = ByteIot().fit(csr_matrix(train[:, :7]), label, 60).probabilities(csr_matrix(test[:, :7]))
    assert (wide == narrow).all()


def test_window_baselines__byteiot_reads_half_hours(traffic_of: TrafficOf, random_rows: list[dict[str, Any]]) -> None:
    baseline = baselines.window_baselines(1)["byteiot"]
    bins = baseline.samples(traffic_of(random_rows))
    answers = baseline.classifier.fit(bins.features, bins.label, 3).probabilities(bins.features)
    assert answers.argmax(axis=1).tolist() == bins.label.tolist(), "each bin is nearest to itself"
    assert "ByteIoT" in baseline.classifier.origin
