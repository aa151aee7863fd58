"""Tokens of sets, and features of kinds, against their definitions in plain loops.

Shape suffixes: B sets, A training sets, D distinct flows, T tokens, C classes, K kinds.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import log
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from iotid.dataset.characteristics import OUT_OF_VOCABULARY
from iotid.model.device.token_features import FEATURES, TOKENS, TokenFeatures, Vocabulary, only_one, sums_of_flows

_KIND_C = np.array([0, 0, 1, 2, 3, -1])  # the last class is of unknown devices
_CLASS_A = np.array([3, 0, -1, 1, 2, 0, 3, 5, 2, 1])
_KINDS = 4
_NO_SETS = 3  # the kind that training has no set of


def _sequences(rows: int, values: int, random: np.random.Generator) -> dict[str, NDArray[np.int32]]:
    there = np.arange(4) < random.integers(1, 5, (rows, 1))
    lengths, windows = (random.integers(2, 2 + values, (rows, 4)) * there for _ in range(2))
    return {"packet_length": lengths.astype(np.int32), "tcp_window": windows.astype(np.int32)}


def _tokens(sequences: dict[str, NDArray[np.int32]], flow: int) -> Counter[Any]:
    """What is in one flow, and how often."""
    lengths, windows = (sequences[name][flow].tolist() for name in ("packet_length", "tcp_window"))
    packets = [(length, window) for length, window in zip(lengths, windows, strict=True) if length]
    return Counter([(*lengths, *windows), *packets, *(("pair", one, other) for one, other in pairwise(packets))])


def _in_set(sequences: dict[str, NDArray[np.int32]], flows_D: NDArray[np.int64]) -> Counter[Any]:
    held: Counter[Any] = Counter()
    for flow, times in enumerate(flows_D.tolist()):
        for token, number in _tokens(sequences, flow).items():
            held[token] += times * number
    return +held


class _Case:
    """Training sets of kinds 0 (of two classes) to 2 and of unknown devices, and sets to ask about that show some of
    the same."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.train = _sequences(12, 3, random)
        self.train_AD = random.poisson(0.4, (10, 12)) + np.eye(10, 12, dtype=np.int64)
        new = _sequences(6, 5, random)
        self.queries = {name: np.vstack([ids[:8], new[name]]) for name, ids in self.train.items()}
        self.query_flows_BD = random.poisson(0.4, (7, 14)) + np.eye(7, 14, 3, dtype=np.int64)
        self.query_flows_BD[:, :4] *= random.integers(1, 5, (7, 4))
        self.logits_BK = random.normal(0, 6, (7, _KINDS))
        self.vocabulary = Vocabulary.of(self.train)
        self.tokens = self.vocabulary.tokenize(self.queries, csr_matrix(self.query_flows_BD))
        counts_AT = self.vocabulary.tokenize(self.train, csr_matrix(self.train_AD)).counts
        self.token_features = TokenFeatures(counts_AT, _CLASS_A, _KIND_C, _KINDS)

        self.known = {token for flow in range(12) for token in _tokens(self.train, flow)}
        self.sets = [  # class, kind and tokens of each that is no unknown device's
            (label, int(_KIND_C[label]), set(_in_set(self.train, flows)))
            for label, flows in zip(_CLASS_A.tolist(), self.train_AD, strict=True)
            if label >= 0 and _KIND_C[label] >= 0
        ]
        self.showed = [set().union(*(held for _, of, held in self.sets if of == kind)) for kind in range(_KINDS)]
        unknowns = [
            set(_in_set(self.train, flows))
            for label, flows in zip(_CLASS_A.tolist(), self.train_AD, strict=True)
            if label < 0 or _KIND_C[label] < 0
        ]
        self.has_unknown: set[Any] = set().union(*unknowns)
        self.held = [_in_set(self.queries, flows) for flows in self.query_flows_BD]

    def weight(self, token: Any) -> float:
        return log((1 + len(self.sets)) / (1 + sum(token in held for *_, held in self.sets)))

    def rare(self, token: Any) -> float:
        kinds = sum(token in showed for showed in self.showed)
        return log((1 + _KINDS) / (1 + kinds)) if kinds and token not in self.has_unknown else 0.0

    def usual(self, label: int, token: Any) -> float:
        own = [token in held for of, _, held in self.sets if of == label]
        return sum(own) / len(own) if own else 0.0

    def share_of_flow(self, flow: int, tokens: set[Any]) -> float:
        """By weight, of what is in a flow, that which is among these tokens."""
        own = set(_tokens(self.queries, flow))
        return sum(map(self.weight, own & tokens)) / sum(map(self.weight, own))

    def features(self, row: int, kind: int) -> list[float]:
        """FEATURES by their definitions."""
        held, found = set(self.held[row]), set(np.flatnonzero(self.logits_BK[row] > 0).tolist())
        beside: set[Any] = set().union(*(self.showed[other] for other in found - {kind}))
        whole, classes = sum(map(self.weight, held)), np.flatnonzero(kind == _KIND_C).tolist()

        def share_of_sets(weight: Any, most: int) -> float:
            own = [theirs for _, of, theirs in self.sets if of == kind]
            shares = sorted(sum(map(weight, held & theirs)) / max(sum(map(weight, theirs)), 1e-9) for theirs in own)
            return sum(shares[-most:]) / len(shares[-most:]) if shares else 0.0

        def usually(label: int, tokens: set[Any]) -> float:
            return sum(self.usual(label, token) * self.weight(token) for token in tokens - beside)

        return [
            float(np.clip(self.logits_BK[row, kind], -12, 12)),
            share_of_sets(self.weight, 1),
            share_of_sets(self.rare, 3),
            sum(map(self.weight, held - set().union(*self.showed))) / whole,
            sum(map(self.weight, held & self.showed[kind])) / whole,
            sum(map(self.weight, held - beside - self.showed[kind])) / whole,
            log(1 + sum(map(self.weight, (held & self.showed[kind]) - beside - self.has_unknown))),
            max(usually(label, held) / (usually(label, self.known) + 1e-6) for label in classes),
            log(1 + len(held)),
            len(found),
        ]


@pytest.fixture(params=range(4))
def case(request: pytest.FixtureRequest) -> _Case:
    return _Case(request.param)


def test_read__counts_the_tokens_of_training_and_the_others(case: _Case) -> None:
    columns = [sorted(1 + np.log(n) for token, n in held.items() if token in case.known) for held in case.held]
    for row, expected in enumerate(columns):
        np.testing.assert_allclose(np.sort(case.tokens.counts[row].data), expected)
    assert case.tokens.unseen.tolist() == [len(set(held) - case.known) for held in case.held]
    of_flow = [set(_tokens(case.queries, flow)) for flow in range(14)]
    assert case.tokens.unseen_in_flow.tolist() == [len(tokens - case.known) for tokens in of_flow]
    assert np.diff(case.tokens.in_flow.indptr).tolist() == [len(tokens & case.known) for tokens in of_flow]
    assert max(case.tokens.unseen) > 0 < min(map(len, columns))


def test_read__a_column_is_the_same_token_in_every_set(case: _Case) -> None:
    again = case.vocabulary.tokenize(case.train, csr_matrix(case.train_AD)).counts.toarray()
    sets = [_in_set(case.train, flows) for flows in case.train_AD]
    by_token = Counter(tuple(1 + log(held[token]) if token in held else 0.0 for held in sets) for token in case.known)
    by_column = Counter(map(tuple, again.T.tolist()))
    np.testing.assert_allclose(sorted(by_column.elements()), sorted(by_token.elements()))


def test_of__a_flow_with_an_out_of_vocabulary_id_adds_no_token() -> None:
    clean = {"packet_length": np.array([[2, 3, 0]], np.int32), "tcp_window": np.array([[4, 4, 0]], np.int32)}
    dirty = {
        "packet_length": np.array([[2, 3, 0], [2, 5, 6], [7, OUT_OF_VOCABULARY, 0]], np.int32),
        "tcp_window": np.array([[4, 4, 0], [4, OUT_OF_VOCABULARY, 4], [4, 4, 0]], np.int32),
    }
    vocabulary = Vocabulary.of(dirty)
    assert np.diff(vocabulary.starts).tolist() == [1, 2, 1]  # one sequence, two packets, one pair
    tokens = vocabulary.tokenize(dirty, csr_matrix(np.eye(3)))
    # of the second flow its first packet is known; of the third nothing
    assert np.diff(tokens.counts.indptr).tolist() == [4, 1, 0]
    assert tokens.unseen.tolist() == [0, 1 + 2 + 2, 1 + 2 + 1]
    expected = Vocabulary.of(clean).to_arrays()
    assert {name: array.tolist() for name, array in vocabulary.to_arrays().items()} == {
        name: expected[name].tolist() for name in TOKENS
    }


def test_to_arrays__the_same_vocabulary_comes_back(case: _Case) -> None:
    again = Vocabulary.from_arrays(case.vocabulary.to_arrays())
    tokens = again.tokenize(case.queries, csr_matrix(case.query_flows_BD))
    assert (tokens.counts != case.tokens.counts).nnz == 0
    assert tokens.unseen.tolist() == case.tokens.unseen.tolist()
    with pytest.raises(KeyError, match="pairs"):
        Vocabulary.from_arrays({name: case.vocabulary.to_arrays()[name] for name in ("sequences", "packets")})


def test_features__equal_their_definitions(case: _Case) -> None:
    found_BKF = case.token_features.features(case.tokens, case.logits_BK)
    expected = [[case.features(row, kind) for kind in range(_KINDS)] for row in range(7)]
    for index, name in enumerate(FEATURES):
        np.testing.assert_allclose(found_BKF[:, :, index], np.array(expected)[:, :, index], atol=1e-5, err_msg=name)


def test_features__are_the_same_in_blocks_of_any_size(case: _Case, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = case.token_features.features(case.tokens, case.logits_BK)
    monkeypatch.setattr("iotid.model.device.token_features._BLOCK", 1)
    np.testing.assert_allclose(case.token_features.features(case.tokens, case.logits_BK), whole, rtol=1e-6)
    none = case.tokens[np.zeros(0, np.int64)]
    assert case.token_features.features(none, np.zeros((0, _KINDS))).shape == (0, _KINDS, len(FEATURES))


def test_unexplained__equals_its_definition(case: _Case) -> None:
    found_BK = case.logits_BK > 0
    found_BK[0] = False
    expected = []
    for row in range(7):
        showed: set[Any] = set().union(*(case.showed[kind] for kind in np.flatnonzero(found_BK[row])))
        shares = [case.share_of_flow(flow, showed) for flow in np.flatnonzero(case.query_flows_BD[row]).tolist()]
        left = sum(map(case.weight, set(case.held[row]) - showed))
        assert all(abs(share - limit) > 1e-9 for share in shares for limit in (0.2, 0.5))
        expected.append([sum(share < 0.2 for share in shares), sum(share < 0.5 for share in shares), left, len(shares)])
    np.testing.assert_allclose(case.token_features.unexplained(case.tokens, found_BK), expected, atol=1e-5)
    assert expected[0][0] == expected[0][3]  # nothing is found, nothing is explained


def test_unexplained__a_flow_of_every_training_set_is_explained() -> None:
    sequences = {"packet_length": np.array([[2, 3], [4, 0]], np.int32)}
    vocabulary = Vocabulary.of(sequences)
    tokens = vocabulary.tokenize(sequences, csr_matrix(np.array([[1, 0], [2, 1]])))
    features = TokenFeatures(tokens.counts, np.array([0, 1]), np.arange(2), 2)
    left_B4 = features.unexplained(tokens, np.array([[True, False], [True, False]]))
    assert left_B4[:, [1, 3]].tolist() == [[0, 1], [1, 2]]
    # both kinds explain the first flow, the second one alone the other
    explained_DK, tokens_D = features.explained_by(tokens), np.diff(tokens.in_flow.indptr)
    assert sums_of_flows(tokens, only_one(explained_DK)).tolist() == [[0, 0, 1], [0, 1, 1]]
    assert sums_of_flows(tokens, explained_DK).tolist() == [[1, 1], [1, 2]]
    # of the first flow a sequence, two packets and a pair; a packet that is a flow by itself shows two
    assert sums_of_flows(tokens, explained_DK * tokens_D[:, np.newaxis]).tolist() == [[4, 4], [4, 6]]


def test_sums_of_flows__counts_distinct_flows_that_one_kind_alone_half_explains(case: _Case) -> None:
    expected, expected_like = np.zeros((7, _KINDS + 1), np.int64), np.zeros((7, _KINDS), np.int64)
    for row in range(7):
        for flow in np.flatnonzero(case.query_flows_BD[row]).tolist():
            shares = [case.share_of_flow(flow, showed) for showed in case.showed]
            assert all(abs(share - 0.5) > 1e-9 for share in shares)
            kinds = [kind for kind, share in enumerate(shares) if share > 0.5]
            expected_like[row, kinds] += 1
            if kinds:
                expected[row, kinds[0] if len(kinds) == 1 else _KINDS] += 1
    explained_DK = case.token_features.explained_by(case.tokens)
    assert sums_of_flows(case.tokens, explained_DK).tolist() == expected_like.tolist()
    found = sums_of_flows(case.tokens, only_one(explained_DK))
    assert found.tolist() == expected.tolist()
    assert not found[:, _NO_SETS].any()
    assert found[:, _KINDS].any()
    assert (found.sum(axis=1) <= np.count_nonzero(case.query_flows_BD, axis=1)).all()


def test_sums_of_flows__an_unseen_flow_is_like_the_kind_with_half_of_its_tokens() -> None:
    trained = np.array([range(2, 10), range(12, 20)], np.int32)
    vocabulary = Vocabulary.of({"packet_length": trained})
    counts_AT = vocabulary.tokenize({"packet_length": trained}, csr_matrix(np.eye(2))).counts
    features = TokenFeatures(counts_AT, np.array([0, 1]), np.arange(2), 2)
    last, half, both = trained.copy(), trained[:1].copy(), trained[:1].copy()
    last[:, 7:], half[:, 4:], both[:, 4:] = 30, range(30, 34), trained[1, 4:]
    one, none = np.log(3 / 2), np.log(3)  # weights of what one set showed, and none
    assert 13 * one / (13 * one + 3 * none) > 0.5 > 7 * one / (7 * one + 9 * none) > 0.2
    tokens = vocabulary.tokenize(
        {"packet_length": np.vstack([last, half, both])}, csr_matrix(np.array([[3, 1, 0, 0], [0, 2, 1, 1]]))
    )
    explained_DK = features.explained_by(tokens)
    assert sums_of_flows(tokens, only_one(explained_DK)).tolist() == [[1, 1, 0], [0, 1, 0]]
    assert sums_of_flows(tokens, explained_DK).tolist() == [[1, 1], [0, 1]]


def test_features__do_not_depend_on_the_order_of_training_sets(case: _Case) -> None:
    order = np.random.default_rng(1).permutation(10)
    counts_AT = case.vocabulary.tokenize(case.train, csr_matrix(case.train_AD)).counts
    again = TokenFeatures(vstack([counts_AT[row] for row in order]).tocsr(), _CLASS_A[order], _KIND_C, _KINDS)
    np.testing.assert_allclose(
        again.features(case.tokens, case.logits_BK),
        case.token_features.features(case.tokens, case.logits_BK),
        rtol=1e-5,
    )
