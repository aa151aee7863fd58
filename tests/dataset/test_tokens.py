"""Bags against counting by hand."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from iotid.dataset.tokens import TokenCounts

_SEQUENCES = {
    "packet_length": np.array([[2, 3, 0], [2, 2, 3], [4, 0, 0], [5, 3, 2]], np.int32),
    "tcp_window": np.array([[2, 2, 0], [2, 2, 2], [2, 0, 0], [3, 2, 2]], np.int32),
}


def _counts(*kinds: str, flows: list[list[int]]) -> list[list[float]]:
    bags = TokenCounts(*kinds).learn(_SEQUENCES).matrix(_SEQUENCES, csr_matrix(np.array(flows))).toarray()
    return [sorted(np.round(np.exp(row[row > 0] - 1), 9).tolist()) for row in bags]


def test_matrix__counts_each_kind_of_thing() -> None:
    flows = [[0, 2, 0, 0], [1, 0, 0, 0]]
    assert _counts("sequences", flows=flows) == [[2], [1]]
    assert _counts("packets", flows=flows) == [[2, 4], [1, 1]]  # (3, 2) twice and (2, 2) four times
    assert _counts("pairs", flows=flows) == [[2, 2], [1]]
    assert _counts("sequences", "packets", "pairs", flows=flows) == [[2, 2, 2, 2, 4], [1, 1, 1, 1]]


def test_matrix__leaves_out_what_was_not_learned() -> None:
    few = {name: ids_NM[:2] for name, ids_NM in _SEQUENCES.items()}
    bags = TokenCounts("sequences", "packets").learn(few)
    found = bags.matrix(_SEQUENCES, csr_matrix(np.array([[0, 0, 1, 1]]))).toarray()
    # of the last two rows training knows the packets (3, 2) and (2, 2), which the last one holds
    assert found.shape == (1, 2 + 2)
    assert found.sum() == 2
