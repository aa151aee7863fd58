"""Captures as bags: what they hold, and that they tell apart what single flows cannot."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from iotid.baselines.capture_bag import CaptureBag

# rows: two flows that every device has, and two that only some devices have
_SEQUENCES = {
    "packet_length": np.array([[2, 3, 0], [2, 2, 3], [4, 0, 0], [5, 3, 2]], np.int32),
    "tcp_window": np.array([[2, 2, 0], [2, 2, 2], [2, 0, 0], [3, 2, 2]], np.int32),
}


def test_fit__names_bags_whose_flows_are_mostly_shared() -> None:
    flows_BN = csr_matrix(np.array([[90, 3, 1, 0], [80, 5, 2, 0], [70, 2, 0, 1], [95, 9, 0, 2]]))
    bag = CaptureBag(1).fit(_SEQUENCES, flows_BN, np.array([0, 0, 2, 2]), 3)
    answers_BC = bag.probabilities(_SEQUENCES, csr_matrix(np.array([[60, 4, 3, 0], [99, 1, 0, 1]])))
    assert answers_BC.argmax(axis=1).tolist() == [0, 2]
    np.testing.assert_allclose(answers_BC.sum(axis=1), 1)
    assert not answers_BC[:, 1].any()  # a class that training had no bag of


def test_probabilities__things_never_seen_are_left_out() -> None:
    flows_BN = csr_matrix(np.array([[1, 0, 1, 0], [1, 0, 0, 1]]))
    bag = CaptureBag(1).fit(_SEQUENCES, flows_BN, np.array([0, 1]), 2)
    strange = {name: np.vstack([ids_NM, np.full((1, 3), 9, np.int32)]) for name, ids_NM in _SEQUENCES.items()}
    with_strange = bag.probabilities(strange, csr_matrix(np.array([[1, 0, 1, 0, 7]])))
    np.testing.assert_allclose(with_strange, bag.probabilities(_SEQUENCES, flows_BN[:1]))
