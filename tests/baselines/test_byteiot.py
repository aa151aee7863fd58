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
KINDS = ("hellinger", "total_variation")


def _distance(p: Sequence[float], q: Sequence[float], kind: str) -> float:
    if kind == "total_variation":
        return sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
    return math.sqrt(sum((math.sqrt(a) - math.sqrt(b)) ** 2 for a, b in zip(p, q, strict=True)) / 2)


def _distributions(seed: int, count: int) -> np.ndarray:
    counts = np.random.default_rng(seed).poisson(0.8, (count, 12)) + np.eye(12)[np.arange(count) % 12]
    return counts / counts.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_samples__equal_half_hours_counted_in_dictionaries(
    traffic_of: TrafficOf, random_rows: list[dict[str, Any]], bidirectional: bool
) -> None:
    bins: dict[tuple[str, str, int], Counter[tuple[int, bool]]] = defaultdict(Counter)
    label = {}
    for row in random_rows:
        if row["sent"] or bidirectional:
            key = row["capture_file"], row["device"], row["second"] // 1800 * 1800
            bins[key][row["frame_length"], row["sent"]] += row["packets"]
            label[row["device"]] = row["label"]
    pairs = sorted({pair for counted in bins.values() for pair in counted})
    found = byteiot.samples(traffic_of(random_rows), bidirectional=bidirectional)
    assert list(zip(found.capture, found.device, found.label, found.start_s, strict=True)) == [
        ("abc".index(capture), int(device[-1]), label[device], start) for capture, device, start in sorted(bins)
    ]
    expected = [[counted[pair] / counted.total() for pair in pairs] for _, counted in sorted(bins.items())]
    np.testing.assert_allclose(found.features.toarray(), expected)
    assert len(pairs) == (8 if bidirectional else 4)


def test_samples__bins_start_at_whole_half_hours_and_a_bin_without_sent_packets_may_be_none(
    traffic_of: TrafficOf,
) -> None:
    rows = [
        {"second": 1799, "frame_length": 60},
        {"second": 1800, "frame_length": 60, "sent": False},
        {"second": 3599, "frame_length": 60, "sent": False},
    ]
    assert byteiot.samples(traffic_of(rows)).start_s.tolist() == [0, 1800]
    assert byteiot.samples(traffic_of(rows)).features.toarray().tolist() == [[0, 1], [1, 0]]
    assert byteiot.samples(traffic_of(rows), bidirectional=False).start_s.tolist() == [0]
    assert byteiot.samples(traffic_of([])).features.shape == (0, 0)


_COUNTS = st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any)


@pytest.mark.parametrize("kind", KINDS)
@given(counts=st.tuples(_COUNTS, _COUNTS))
def test_distances__equal_their_definition_are_0_of_equals_and_1_of_nothing_in_common(
    kind: Any, counts: tuple[list[int], list[int]]
) -> None:
    p, q = ([each / sum(of) for each in of] for of in counts)
    (to_itself, found) = distances(csr_matrix([p]), csr_matrix([p, q]), kind)[0].tolist()
    assert to_itself == 0
    assert found == pytest.approx(_distance(p, q, kind), abs=1e-6)
    if not any(a and b for a, b in zip(p, q, strict=True)):
        assert found == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("neighbours", [1, 4])
def test_byteiot__answers_are_those_of_all_distances_one_by_one(
    kind: Any, neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = _distributions(1, 60), _distributions(2, 40)
    label = np.random.default_rng(3).choice([0, 2, 3], 60)
    rival = ByteIot(neighbours=neighbours, distance=kind).fit(csr_matrix(train), label, 4)
    answers = rival.probabilities(csr_matrix(test))
    for row, answer in zip(test.tolist(), answers, strict=True):
        nearest = sorted(range(60), key=lambda t: (round(_distance(row, train[t].tolist(), kind), 9), t))[:neighbours]
        votes = Counter(label[nearest].tolist())
        assert answer == pytest.approx([votes[number] / neighbours for number in range(4)], abs=1e-5)
        best = max(votes.values())
        assert answer.argmax() == next(label[t] for t in nearest if votes[label[t]] == best)
    np.testing.assert_allclose(answers.sum(axis=1), 1)
    monkeypatch.setattr(byteiot, "_BLOCK", 150)
    assert (rival.probabilities(csr_matrix(test)) == answers).all(), "whatever the size of a block"


def test_byteiot__of_equal_distances_the_first_in_training_is_nearer() -> None:
    train = csr_matrix([[0.3, 0.7, 0], [0.7, 0.3, 0], [0.3, 0.7, 0]])
    rival = ByteIot().fit(train, np.array([2, 1, 0]), 3)
    asked = csr_matrix([[0.3, 0.7, 0], [0.5, 0.5, 0], [0, 0, 1]])
    assert rival.probabilities(asked).argmax(axis=1).tolist() == [2, 2, 2]


def test_byteiot__a_votes_tie_goes_to_the_nearest_and_never_against_the_most() -> None:
    train = csr_matrix([[1, 0], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    asked = csr_matrix([[1.0, 0]])
    tied = ByteIot(neighbours=4).fit(train, np.array([1, 0, 0, 1]), 2)
    assert tied.probabilities(asked)[0] == pytest.approx([0.5, 0.5], abs=1e-6)
    assert tied.probabilities(asked).argmax() == 1
    assert ByteIot(neighbours=3).fit(train, np.array([1, 0, 0, 1]), 2).probabilities(asked).argmax() == 0
    assert ByteIot(neighbours=9).fit(train, np.array([1, 0, 0, 0]), 2).probabilities(asked).argmax() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_byteiot__pairs_that_training_never_has_do_not_change_who_is_nearest(kind: Any) -> None:
    train, test = _distributions(1, 60), _distributions(2, 200)
    train = train[:, :7] + 0.01
    train = np.hstack([train, np.zeros((60, 5))])
    train /= train.sum(axis=1, keepdims=True)
    assert (test[:, 7:].sum(axis=1) > 0).mean() > 0.9
    label = np.arange(60)
    wide = ByteIot(distance=kind).fit(csr_matrix(train), label, 60).probabilities(csr_matrix(test))
    narrow = ByteIot(distance=kind).fit(csr_matrix(train[:, :7]), label, 60).probabilities(csr_matrix(test[:, :7]))
    assert (wide == narrow).all()


def test_window_rivals__byteiot_reads_half_hours(traffic_of: TrafficOf, random_rows: list[dict[str, Any]]) -> None:
    rival = baselines.window_baselines(1)["byteiot"]
    bins = rival.samples(traffic_of(random_rows))
    answers = rival.classifier.fit(bins.features, bins.label, 3).probabilities(bins.features)
    assert answers.argmax(axis=1).tolist() == bins.label.tolist(), "each bin is nearest to itself"
    assert "ByteIoT" in rival.classifier.origin
