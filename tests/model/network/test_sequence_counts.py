"""Sequence counts against a dictionary of tuples, and the posterior with a network's probabilities."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from iotid.dataset import EncodedFlows
from iotid.model.network.sequence_counts import SequenceCounts

_CLASSES = 3


def _rows(seed: int, count: int) -> EncodedFlows:
    """Few values, so that rows repeat, under several labels, too."""
    chance = np.random.default_rng(seed)
    sequences = {name: chance.integers(0, 2, (count, 3)).astype(np.int32) for name in ("packet_length", "tcp_window")}
    return EncodedFlows(sequences, chance.integers(0, _CLASSES, count), chance.integers(1, 9, count))


def _whole(rows: EncodedFlows) -> list[tuple[Any, ...]]:
    return [tuple(np.concatenate([ids[i] for ids in rows.sequences.values()])) for i in range(len(rows.label))]


@given(st.integers(0, 10_000), st.integers(0, 40))
def test_seen__equals_the_counts_of_a_dictionary(seed: int, count: int) -> None:
    train, queries = _rows(seed, count), _rows(seed + 1, 25)
    counted: Counter[tuple[Any, int]] = Counter()
    for row, label, flows in zip(_whole(train), train.label.tolist(), train.num_flows.tolist(), strict=True):
        counted[row, label] += flows
    expected = [[counted[row, label] for label in range(_CLASSES)] for row in _whole(queries)]
    assert SequenceCounts.of(train).lookup(queries.sequences, _CLASSES).tolist() == expected


def test_posterior__is_the_networks_without_counts_and_near_the_counts_with_many() -> None:
    train = EncodedFlows({"packet_length": np.array([[5, 6]], np.int32)}, np.array([2]), np.array([30]))
    queries = {"packet_length": np.array([[5, 7], [5, 6]], np.int32)}
    network_NC = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]], np.float32)
    joined_NC = SequenceCounts.of(train).posterior(queries, network_NC)
    np.testing.assert_allclose(joined_NC[0], network_NC[0], rtol=1e-6)
    np.testing.assert_allclose(joined_NC[1], [0.5 / 31, 0.3 / 31, 30.2 / 31], rtol=1e-6)


@pytest.mark.parametrize(("right", "weighs"), [(0, "less"), (1, "more")])
def test_fitted__trusts_the_network_as_far_as_validation_confirms(right: int, weighs: str) -> None:
    ids = np.array([[5]] * 2, np.int32)
    train = EncodedFlows({"packet_length": ids[:1]}, np.array([0]), np.array([10]))
    network_NC = np.array([[0.1, 0.8, 0.1]], np.float32)  # the counts say 0, the network 1
    validation = EncodedFlows({"packet_length": ids[:1]}, np.array([right]), np.array([20]))
    strength = SequenceCounts.of(train).fitted(validation, network_NC).strength
    assert (strength < 0.01) if weighs == "less" else (strength > 1e4)


def test_fitted__finds_the_likeliest_strength() -> None:
    train, validation = _rows(1, 60), _rows(2, 60)
    network_NC: NDArray[Any] = np.random.default_rng(3).dirichlet([1.0] * _CLASSES, 60)
    counts = SequenceCounts.of(train).fitted(validation, network_NC)

    def likelihood(strength: float) -> float:
        count_NC = counts.lookup(validation.sequences, _CLASSES) + strength * network_NC
        probability_N = (count_NC / count_NC.sum(axis=1, keepdims=True))[np.arange(60), validation.label]
        return float(validation.num_flows @ np.log(probability_N))

    assert all(likelihood(counts.strength) >= likelihood(counts.strength * factor) for factor in (0.5, 0.9, 1.1, 2))


def test_to_arrays__the_same_counts_come_back() -> None:
    counts = SequenceCounts.of(_rows(1, 30))
    again = SequenceCounts.from_arrays(counts.to_arrays())
    queries = _rows(4, 20).sequences
    np.testing.assert_array_equal(again.lookup(queries, _CLASSES), counts.lookup(queries, _CLASSES))
    assert again.strength == counts.strength
