"""Similarity of sets of flows to kinds, on tokens counted by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from iotid.model.device.similarity import KindSimilarity
from iotid.model.device.token_features import Vocabulary

# five distinct flows of two packets: ids of length and window
_LENGTHS = np.array([[2, 3], [2, 4], [5, 6], [7, 7], [5, 9]], np.int32)
_WINDOWS = np.array([[2, 2], [2, 2], [3, 3], [4, 4], [8, 8]], np.int32)
_FLOWS = {"packet_length": _LENGTHS, "tcp_window": _WINDOWS}
# training: class 0 (kind 0) in two sets, class 1 (kind 1), class 2 (kind 1), and an unknown device
_SETS = csr_matrix(np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]]))
_CLASS = np.array([0, 0, 1, 2, -1])
_KIND = np.array([0, 1, 1])


def _similarity(names: tuple[str, ...] = ("packet_length", "tcp_window")) -> tuple[KindSimilarity, Vocabulary]:
    learned = {name: _FLOWS[name][:4] for name in names}
    vocabulary = Vocabulary.of(learned)
    tokens = vocabulary.tokenize(learned, _SETS).counts
    return KindSimilarity(vocabulary, list(names)[::-1], tokens, _CLASS, _KIND), vocabulary


def _ask(flows: list[list[int]], names: tuple[str, ...] = ("packet_length", "tcp_window")) -> NDArray[np.float64]:
    similarity, vocabulary = _similarity(names)
    asked, flows_BD = {name: _FLOWS[name] for name in names}, csr_matrix(np.array(flows))
    return similarity.similarity(vocabulary.tokenize(asked, flows_BD), asked, flows_BD)


def test_similarity__is_1_for_a_set_equal_to_the_only_one_of_a_class() -> None:
    found_BK = _ask([[0, 0, 1, 0, 0], [0, 0, 0, 3, 0]])  # class 1, class 2: both are of kind 1
    np.testing.assert_allclose(found_BK[:, 1], 1, atol=1e-6)
    np.testing.assert_allclose(found_BK[:, 0], 0, atol=1e-9)


def test_similarity__of_one_common_flow_by_hand() -> None:
    """Class 0 has flow 0 in both of its sets, flow 1 in one; the set asked about has flow 0 alone."""
    # each token of class 0 is in this class alone: equal weights. Tokens of flow 0, of both: shares 1, 1/2
    by_sequence = 1 / np.hypot(1, np.sqrt(0.5))  # one token of two
    by_packet = (1 + 1) / (np.sqrt(2) * np.sqrt(1 + 1 + 0.5))  # (2, 2) and (3, 2), and (4, 2) in half of the sets
    cosines = np.array([by_sequence, by_packet, by_sequence, by_packet, by_sequence])  # lengths, pairs of lengths
    expected = np.exp(np.log(cosines + 0.01).mean()) - 0.01
    np.testing.assert_allclose(_ask([[1, 0, 0, 0, 0]])[0], [expected, 0], atol=1e-9)


def test_similarity__equal_lengths_with_other_windows_are_similar() -> None:
    """Flow 4 has the first length of flow 2, of class 1, with a window that is not in training."""
    of_both, of_lengths_alone = _ask([[0, 0, 0, 0, 1]])[0], _ask([[0, 0, 0, 0, 1]], ("packet_length",))[0]
    assert of_both[0] == of_both[0].clip(0, 1e-9)
    assert 0 < of_both[1] < of_lengths_alone[1] < 1


def test_similarity__does_not_depend_on_how_often_or_on_other_sets() -> None:
    alone, often, among = _ask([[1, 0, 1, 0, 0]]), _ask([[9, 0, 4, 0, 0]]), _ask([[0, 1, 0, 1, 0], [1, 0, 1, 0, 0]])
    assert alone.tolist() == often.tolist() == among[1:].tolist()


@pytest.mark.parametrize("flows", [[[0, 0, 0, 0, 0]], []])
def test_similarity__of_no_flows_and_of_no_sets(flows: list[list[int]]) -> None:
    similarity, vocabulary = _similarity()
    flows_BD = csr_matrix(np.array(flows).reshape(-1, 5))
    found_BK = similarity.similarity(vocabulary.tokenize(_FLOWS, flows_BD), _FLOWS, flows_BD)
    assert found_BK.shape == (len(flows), 2)
    assert not found_BK.any()


def test_similarity__a_kind_without_training_sets_is_never_similar() -> None:
    similarity, vocabulary = _similarity()
    tokens = vocabulary.tokenize(_FLOWS, _SETS_ASKED).counts
    other = KindSimilarity(vocabulary, ["packet_length", "tcp_window"], tokens, np.array([0]), np.array([0, 1]))
    found_BK = other.similarity(vocabulary.tokenize(_FLOWS, _SETS_ASKED), _FLOWS, _SETS_ASKED)
    assert similarity.kinds == other.kinds == 2
    assert found_BK[0, 1] == 0


def test_similarity__of_a_model_that_learned_no_pairs_of_packets() -> None:
    """As with flow.max_packets=1."""
    flows = {name: ids[:, :1] for name, ids in _FLOWS.items()}
    vocabulary, asked = Vocabulary.of(flows), csr_matrix(np.eye(5))
    tokens = vocabulary.tokenize(flows, asked)
    similarity = KindSimilarity(vocabulary, list(flows), tokens.counts, np.array([0, 0, 1, 2, -1]), _KIND)
    found_BK = similarity.similarity(tokens, flows, asked)
    assert found_BK[0, 0] > found_BK[0, 1]
    assert found_BK[3, 1] > found_BK[3, 0]


def test_similarity__a_view_without_weight_is_left_out() -> None:
    """Don't fragment is the same in all training sets: as if it were not there, not even in the flows asked about."""
    windows = ("packet_length", "tcp_window")
    flows = _FLOWS | {"dont_fragment": np.full_like(_LENGTHS, 3)}
    learned = {name: ids[:4] for name, ids in flows.items()}
    vocabulary = Vocabulary.of(learned)
    similarity = KindSimilarity(vocabulary, list(flows), vocabulary.tokenize(learned, _SETS).counts, _CLASS, _KIND)
    asked = csr_matrix(np.array([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0]]))
    tokens = vocabulary.tokenize(flows, asked)
    found_BK = similarity.similarity(tokens, {name: flows[name] for name in windows}, asked)
    assert found_BK.tobytes() == _ask([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0]]).tobytes()


@pytest.mark.parametrize(("classes", "kinds"), [([0, 0], [0]), ([0, 1], [0, 0])])
def test_similarity__a_single_kind_is_ranked_by_what_is_common(classes: list[int], kinds: list[int]) -> None:
    """Its classes have the same flows, so no token is rarer than another."""
    learned = {name: ids[:2] for name, ids in _FLOWS.items()}
    vocabulary = Vocabulary.of(learned)
    counts = vocabulary.tokenize(learned, csr_matrix(np.ones((2, 2)))).counts
    similarity = KindSimilarity(vocabulary, list(_FLOWS), counts, np.array(classes), np.array(kinds))
    asked = csr_matrix(np.array([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 1, 0, 0]]))
    equal, partly, other = similarity.similarity(vocabulary.tokenize(_FLOWS, asked), _FLOWS, asked)[:, 0].tolist()
    assert (equal, other) == (pytest.approx(1), 0)
    assert 0.2 < partly < 0.9


def test_similarity__memory_does_not_grow_with_the_number_of_views() -> None:
    """A census of many addresses and classes: a few matrices of both, not one for each view."""
    sets, classes = 4000, 200
    ids = np.arange(2, 2 + classes, dtype=np.int32)[:, np.newaxis] + np.zeros(3, np.int32)
    flows = dict.fromkeys(("packet_length", "server_port", "tcp_mss", "tcp_options", "ttl_class", "dont_fragment"), ids)
    vocabulary = Vocabulary.of(flows)
    learned = vocabulary.tokenize(flows, csr_matrix(np.eye(classes))).counts
    similarity = KindSimilarity(vocabulary, list(flows), learned, np.arange(classes), np.arange(classes) % 7)
    flows_BD = csr_matrix(np.eye(classes)[np.arange(sets) % classes])
    tokens = vocabulary.tokenize(flows, flows_BD)
    tracemalloc.start()
    try:
        similarity.similarity(tokens, flows, flows_BD)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * sets * classes * 8


_SETS_ASKED = csr_matrix(np.array([[1, 1, 0, 0, 0]]))
