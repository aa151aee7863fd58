"""P-values of sets against their kinds: held-out scores, uniformity on ordinary sets, and sets with foreign flows.

Shape suffixes: B sets, D distinct flows, K kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from iotid.model.device.token_features import SetTokens, TokenFeatures, Vocabulary
from iotid.model.device.unlike_kind import UnlikeKind

_KINDS, _OWN, _RARE, _SETS = 4, 12, 200, 30
_FLOWS = _KINDS * (_OWN + _RARE)  # of each kind: usual ones, and rare ones of which most are new in each set
_EACH_RARE = (0.0, 0.02, 0.05, 0.2)  # kinds differ in how much of their traffic is rare


def _world() -> dict[str, NDArray[np.int32]]:
    random = np.random.default_rng(5)
    there = np.arange(4) < random.integers(2, 5, (_FLOWS, 1))
    return {"packet_length": (random.integers(2, 5000, (_FLOWS, 4)) * there).astype(np.int32)}


_WORLD = _world()


def _sets(kinds: Sequence[int], flows: Sequence[int], random: np.random.Generator) -> csr_matrix:
    """(B, D) sets of these kinds with so many flows each."""
    rows = []
    for kind, number in zip(kinds, flows, strict=True):
        rare = random.random(number) < _EACH_RARE[kind]
        flow = np.where(rare, _OWN + random.integers(0, _RARE, number), random.integers(0, _OWN, number))
        rows.append(np.bincount(kind * (_OWN + _RARE) + flow, minlength=_FLOWS))
    return csr_matrix(np.array(rows))


def _fitted(
    flows_BD: csr_matrix, kind_B: NDArray[np.int64], recording_B: NDArray[np.int64] | None = None
) -> tuple[UnlikeKind, Vocabulary, NDArray[np.float32]]:
    vocabulary = Vocabulary.of(_WORLD)
    tokens = vocabulary.tokenize(_WORLD, flows_BD)
    recording_B = np.arange(len(kind_B)) if recording_B is None else recording_B
    features = TokenFeatures(tokens.counts, kind_B, np.arange(_KINDS), _KINDS)
    return UnlikeKind.of(tokens, kind_B, recording_B, _KINDS), vocabulary, features.of_kind_KT


@pytest.fixture(scope="module")
def kinds_B() -> NDArray[np.int64]:
    return np.repeat(np.arange(_KINDS), _SETS)


@pytest.fixture(scope="module")
def fitted(kinds_B: NDArray[np.int64]) -> tuple[UnlikeKind, Vocabulary, NDArray[np.float32]]:
    random = np.random.default_rng(1)
    return _fitted(_sets(kinds_B, random.integers(5, 300, len(kinds_B)), random), kinds_B)


def _p_values(fitted: tuple[UnlikeKind, Vocabulary, NDArray[np.float32]], flows_BD: csr_matrix) -> NDArray[np.float64]:
    unlike, vocabulary, of_kind_KT = fitted
    return unlike.p_values(vocabulary.tokenize(_WORLD, flows_BD), of_kind_KT)


def _ordinary(
    fitted: tuple[UnlikeKind, Vocabulary, NDArray[np.float32]], number: int, flows: int
) -> NDArray[np.float64]:
    """P-values of new sets, of all kinds alike, against their own kind."""
    kinds = np.arange(number) % _KINDS
    p_BK = _p_values(fitted, _sets(kinds, [flows] * number, np.random.default_rng(flows)))
    return np.asarray(p_BK[np.arange(number), kinds])


def _tokens_of(flow: int) -> set[tuple[object, ...]]:
    """The tokens of a flow, of the types of `token_features.TOKENS`."""
    ids = [int(each) for each in _WORLD["packet_length"][flow]]
    packets = [each for each in ids if each]
    pairs = pairwise(packets)
    return {("sequence", *ids), *(("packet", each) for each in packets), *(("pair", *pair) for pair in pairs)}


def test_of__scores_are_those_of_each_set_against_the_other_recordings() -> None:
    random = np.random.default_rng(3)
    kind_B = np.repeat([0, 1, 2, 3], [6, 5, 1, 4])
    recording_B = np.array([0, 0, 1, 2, 3, 4, 0, 1, 1, 2, 3, 9, 0, 0, 0, 1])  # kind 2 has one, kind 3 two
    flows_BD = _sets(kind_B, random.integers(3, 60, len(kind_B)), random)
    unlike, _, _ = _fitted(flows_BD, kind_B, recording_B)
    shares = {}
    for number, (kind, recording) in enumerate(zip(kind_B, recording_B, strict=True)):
        others = np.flatnonzero((kind_B == kind) & (recording_B != recording))
        if len(others):
            known = set[tuple[object, ...]]().union(*(_tokens_of(d) for d in flows_BD[others].indices))
            own = flows_BD[number]
            foreign = [len(_tokens_of(d) - known) / len(_tokens_of(d)) for d in own.indices]
            shares[number] = np.dot(foreign, own.data) / own.data.sum()
    mean = np.mean(list(shares.values()))
    scores, usual = [], np.zeros(_KINDS)
    for number, share in shares.items():
        beside = [each for other, each in shares.items() if kind_B[other] == kind_B[number] and other != number]
        expected = max((sum(beside) + 2 * mean) / (len(beside) + 2), 1e-4)
        flows = flows_BD[number].sum()
        scores.append(np.log((share * flows + 5 * expected) / (flows + 5) / expected))
        usual[kind_B[number]] = max((share + sum(beside) + 2 * mean) / (len(beside) + 3), 1e-4)
    np.testing.assert_allclose(unlike.scores, sorted(scores), atol=1e-8)
    np.testing.assert_allclose(unlike.usual, usual, atol=1e-12)
    assert unlike.usual[2] == 0
    assert max(scores) > 0


@pytest.mark.parametrize("flows", [2, 5, 20, 100, 1000])
def test_p_values__of_ordinary_sets_of_any_size_are_seldom_small(
    flows: int, fitted: tuple[UnlikeKind, Vocabulary, NDArray[np.float32]]
) -> None:
    p_B = _ordinary(fitted, 800, flows)
    assert np.mean(p_B <= 0.05) < 0.09
    assert np.mean(p_B <= 0.25) < 0.33


def test_p_values__of_ordinary_sets_of_all_kinds_are_about_uniform(
    kinds_B: NDArray[np.int64], fitted: tuple[UnlikeKind, Vocabulary, NDArray[np.float32]]
) -> None:
    random = np.random.default_rng(2)
    kinds = np.tile(kinds_B, 8)
    p_BK = _p_values(fitted, _sets(kinds, random.integers(5, 300, len(kinds)), random))
    p_B = p_BK[np.arange(len(kinds)), kinds]
    for level in (0.05, 0.1, 0.2, 0.5):
        assert abs(np.mean(p_B <= level) - level) < 0.06, level
    assert p_BK.min() >= 1 / (1 + len(fitted[0].scores))
    assert p_BK.max() <= 1


@pytest.mark.parametrize("flows", [5, 50, 500])
def test_p_values__of_another_kinds_sets_are_small(
    flows: int, fitted: tuple[UnlikeKind, Vocabulary, NDArray[np.float32]]
) -> None:
    kinds = np.arange(40) % _KINDS
    p_BK = _p_values(fitted, _sets(kinds, [flows] * 40, np.random.default_rng(4)))
    is_other_BK = kinds[:, np.newaxis] != np.arange(_KINDS)
    assert p_BK[is_other_BK].max() <= 0.05


def test_p_values__fall_with_the_number_of_equal_foreign_flows(
    fitted: tuple[UnlikeKind, Vocabulary, NDArray[np.float32]],
) -> None:
    own = _sets([1], [200], np.random.default_rng(6))
    scan = csr_matrix(([1], ([0], [3 * (_OWN + _RARE)])), shape=(1, _FLOWS))  # one flow of kind 3
    p_B = _p_values(fitted, vstack([own + number * scan for number in (0, 1, 20, 400)]).tocsr())[:, 1]
    assert (np.diff(p_B) <= 0).all()
    assert p_B[0] > 0.05
    assert p_B[-1] <= 0.02


def test_p_values__are_nan_of_kinds_with_one_recording_or_none() -> None:
    kind_B = np.array([0, 0, 1, 1, -1])
    flows_BD = _sets(np.maximum(kind_B, 2), [20] * 5, np.random.default_rng(8))
    unlike, vocabulary, of_kind_KT = _fitted(flows_BD, kind_B, np.array([0, 1, 0, 0, 0]))
    p_BK = unlike.p_values(vocabulary.tokenize(_WORLD, flows_BD), of_kind_KT)
    assert np.isnan(p_BK).tolist() == [[False, True, True, True]] * 5
    assert len(unlike.scores) == 2


def test_p_values__without_sets_and_without_flows(fitted: tuple[UnlikeKind, Vocabulary, NDArray[np.float32]]) -> None:
    assert _p_values(fitted, csr_matrix((0, _FLOWS))).shape == (0, _KINDS)
    assert (_p_values(fitted, csr_matrix((1, _FLOWS))) > 0.2).all()
    nothing, vocabulary, of_kind_KT = _fitted(csr_matrix((0, _FLOWS)), np.zeros(0, np.int64))
    assert len(nothing.scores) == 0
    tokens: SetTokens = vocabulary.tokenize(_WORLD, csr_matrix((1, _FLOWS)))
    assert np.isnan(nothing.p_values(tokens, of_kind_KT)).all()
