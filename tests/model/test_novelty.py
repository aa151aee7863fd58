"""Novelty against its definition in plain loops, and what it says of sets of a new kind."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from iotid.model.novelty import Novelty


def _sequences(rows: int, seed: int, values: int = 4) -> dict[str, NDArray[np.int32]]:
    chance = np.random.default_rng(seed)
    there = np.arange(3) < chance.integers(1, 4, (rows, 1))
    ids = chance.integers(2, 2 + values, (rows, 3)) * there
    return {"packet_length": ids.astype(np.int32), "tcp_window": (ids % 3 + 2 * there).astype(np.int32)}


def _things(sequences: dict[str, NDArray[np.int32]], flows: NDArray[np.int64]) -> Counter[Any]:
    held: Counter[Any] = Counter()
    for row, times in enumerate(flows.tolist()):
        packets = [tuple(int(ids[row, at]) for ids in sequences.values()) for at in range(3)]
        packets = [packet for packet in packets if packet[0]]
        for thing in [*packets, *pairwise(packets)]:
            held[thing] += times
    return +held


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_scores__are_the_mean_of_two_shares(seed: int) -> None:
    chance = np.random.default_rng(seed)
    train, asked = _sequences(8, seed), _sequences(6, seed + 1, values=6)
    flows_AN = chance.integers(0, 3, (4, 8)) + np.eye(4, 8, dtype=int)
    flows_BN = chance.integers(0, 3, (3, 6)) + np.eye(3, 6, dtype=int)
    found_B = Novelty().fit(train, csr_matrix(flows_AN), np.array([0, 0, 1, 1])).scores(asked, csr_matrix(flows_BN))
    sets = [_things(train, flows) for flows in flows_AN]

    def idf(thing: Any) -> float:
        return float(np.log(5 / (1 + sum(thing in held for held in sets))))

    def vector(held: Counter[Any]) -> dict[Any, float]:
        return {thing: (1 + np.log(times)) * idf(thing) for thing, times in held.items()}

    def norm(weights: dict[Any, float]) -> float:
        return max(float(np.sqrt(sum(weight**2 for weight in weights.values()))), 1e-9)

    for flows, found in zip(flows_BN, found_B, strict=True):
        held = _things(asked, flows)
        mine, all_known = vector(held), set().union(*sets)
        cosines = [
            sum(weight * theirs.get(thing, 0) for thing, weight in mine.items()) / norm(mine) / norm(theirs)
            for theirs in map(vector, sets)
        ]
        never = sum(idf(thing) for thing in held if thing not in all_known) / max(sum(map(idf, held)), 1e-9)
        assert found == pytest.approx((1 - max(cosines) + never) / 2, abs=1e-5)


def _kinds(kinds: list[int], seed: int) -> tuple[dict[str, NDArray[np.int32]], csr_matrix]:
    """Sets of ten flows: eight of the kind's own lengths, two that every kind shows."""
    chance = np.random.default_rng(seed)
    rows = [[2 + 10 * kind + chance.integers(4) for _ in range(3)] for kind in kinds for _ in range(8)]
    ids = np.array([*rows, [500, 501, 502]], np.int32)
    flows = np.zeros((len(kinds), len(ids)), np.int64)
    for number in range(len(kinds)):
        flows[number, 8 * number : 8 * number + 8] = 1
    flows[:, -1] = 2
    return {"packet_length": ids}, csr_matrix(flows)


def test_limit__lets_learned_kinds_pass_and_holds_new_ones() -> None:
    labels = [0, 1, 2] * 10
    novelty = Novelty().fit(*_kinds(labels, 1), np.array(labels))
    assert 0 < novelty.limit < 0.6
    again = Novelty.from_arrays(novelty.to_arrays())
    assert (again.scores(*_kinds([0, 1, 2] * 5, 2)) < again.limit).mean() > 0.9
    new_B = again.scores(*_kinds([7, 8, 9], 3))
    assert (new_B > again.limit).all()
    np.testing.assert_allclose(new_B, novelty.scores(*_kinds([7, 8, 9], 3)))


def test_fit__a_labels_only_set_says_nothing_of_the_limit() -> None:
    novelty = Novelty().fit(*_kinds([0, 1, 2], 1), np.array([0, 1, 2]))
    assert novelty.limit == 1.0
