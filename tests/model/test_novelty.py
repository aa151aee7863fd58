"""Novelty against its definition in plain loops, and what it says of sets of a new kind."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from iotid.model.novelty import LIMIT, Novelty, _limits, _unlikeness


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


def _expected(asked: list[Counter[Any]], train: list[Counter[Any]], own: list[int | None]) -> list[float]:
    """Unlikeness by definition; ``own``: the training set that a set is a part of."""
    unlike = []
    for held, mine in zip(asked, own, strict=True):
        others = [theirs for number, theirs in enumerate(train) if number != mine]

        def idf(thing: Any, others: list[Counter[Any]] = others) -> float:
            return float(np.log((1 + len(train)) / (1 + sum(thing in theirs for theirs in others))))

        def of_training(thing: Any) -> float:
            return float(np.log((1 + len(train)) / (1 + sum(thing in theirs for theirs in train))))

        def vector(held: Counter[Any], weigh: Any) -> dict[Any, float]:
            return {thing: (1 + np.log(times)) * weigh(thing) for thing, times in held.items()}

        def norm(weights: dict[Any, float]) -> float:
            return max(float(np.sqrt(sum(weight**2 for weight in weights.values()))), 1e-9)

        weights, known = vector(held, idf), set().union(*others)
        cosines = []
        for number, theirs in enumerate(train):
            there = vector(theirs, of_training)
            product = sum(weight * there.get(thing, 0) for thing, weight in weights.items())
            cosines.append(0 if number == mine else product / norm(weights) / norm(there))
        never = sum(idf(thing) for thing in held if thing not in known) / max(sum(map(idf, held)), 1e-9)
        unlike.append((1 - max(cosines) + never) / 2)
    return unlike


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_unlikeness__is_the_mean_of_two_shares(seed: int) -> None:
    chance = np.random.default_rng(seed)
    train, asked = _sequences(8, seed), _sequences(6, seed + 1, values=6)
    flows_AN = chance.integers(0, 3, (4, 8)) + np.eye(4, 8, dtype=int)
    flows_BN = chance.integers(0, 3, (3, 6)) + np.eye(3, 6, dtype=int)
    novelty = Novelty().fit(train, csr_matrix(flows_AN), np.array([0, 0, 1, 1]), 3)
    sets = [_things(train, flows) for flows in flows_AN]
    unlike_B = _expected([_things(asked, flows) for flows in flows_BN], sets, [None] * 3)
    looks = novelty.looks(asked, csr_matrix(flows_BN))
    np.testing.assert_allclose(_unlikeness(looks), unlike_B, atol=1e-5)
    among_others = _expected(sets, sets, [*range(4)])
    looks_A = novelty._looks(train, csr_matrix(flows_AN), np.arange(4))
    np.testing.assert_allclose(_unlikeness(looks_A), among_others, atol=1e-5)
    limit_B = novelty._limit_C[looks[:, :-1].argmax(axis=1)]
    below_B = np.clip(unlike_B / limit_B, 0, 1) + np.clip((unlike_B - limit_B) / np.maximum(1 - limit_B, 1e-9), 0, 1)
    np.testing.assert_allclose(novelty.scores(looks), below_B / 2, atol=1e-5)


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


def test_scores__learned_kinds_pass_and_new_ones_do_not() -> None:
    labels = [0, 1, 2] * 10
    novelty = Novelty().fit(*_kinds(labels, 1), np.array(labels), 3)
    again = Novelty.from_arrays(novelty.to_arrays())
    assert (again.scores(again.looks(*_kinds([0, 1, 2] * 5, 2))) < LIMIT).mean() > 0.9
    new_B = again.scores(again.looks(*_kinds([7, 8, 9], 3)))
    assert (new_B > LIMIT).all()
    np.testing.assert_allclose(new_B, novelty.scores(novelty.looks(*_kinds([7, 8, 9], 3))))


def test_scores__of_learned_kinds_behind_one_address_are_new_alone_and_known_together() -> None:
    labels = [0, 1, 2] * 10
    novelty = Novelty().fit(*_kinds(labels, 1), np.array(labels), 3)

    def looks(kinds: list[int]) -> NDArray[np.float64]:
        sequences, flows = _kinds(kinds, 2)
        return novelty.looks(sequences, csr_matrix(flows.sum(axis=0)))

    found, kind_C = np.array([[True, True, True]]), np.arange(3)
    assert novelty.scores(looks([0, 1, 2])) > LIMIT > novelty.scores_together(looks([0, 1, 2]), found, kind_C)
    assert novelty.scores_together(looks([7, 8, 9]), found, kind_C) > LIMIT
    assert novelty.scores_together(looks([0, 8, 9]), found, kind_C) > LIMIT
    single = np.array([[True, False, False]])
    np.testing.assert_allclose(novelty.scores_together(looks([0]), single, kind_C), novelty.scores(looks([0])))


def test_fit__a_labels_only_set_says_nothing_of_limits() -> None:
    novelty = Novelty().fit(*_kinds([0, 1, 2], 1), np.array([0, 1, 2]), 3)
    assert (novelty.scores(novelty.looks(*_kinds([7, 8, 9], 3))) <= LIMIT).all()


def _drawn(mean_C: list[float], sets: list[int], spread: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Unlikenesses of so many sets of each class around its mean, and their labels."""
    label = np.repeat(np.arange(len(sets)), sets)
    return np.random.default_rng(1).normal(np.array(mean_C)[label], spread), label


def test_limits__of_a_class_that_repeats_itself_is_lower_than_of_one_that_does_not() -> None:
    unlike, label = _drawn([0.3, 0.6], [200, 200], 0.05)
    quiet, busy = _limits(unlike, np.arange(400), label, 2, 0.95)
    np.testing.assert_allclose([quiet, busy], [0.3 + 1.64 * 0.05, 0.6 + 1.64 * 0.05], atol=0.02)


def test_limits__of_a_class_with_one_set_has_room_for_what_classes_differ() -> None:
    unlike, label = _drawn([0.3, 0.4, 0.5, 0.6, 0.4], [50, 50, 50, 50, 1], 0.02)
    *_, least_known = limits = _limits(unlike, np.arange(201), label, 5, 0.95)
    assert least_known > 0.6
    assert limits[1] < 0.5  # the same mean, known by fifty sets


def test_limits__are_the_same_in_whatever_order_sets_come() -> None:
    unlike, label = _drawn([0.3, 0.6, 0.4], [5, 3, 2], 0.05)
    order = np.random.default_rng(2).permutation(10)
    expected = _limits(unlike, np.arange(10), label, 3, 0.95)
    np.testing.assert_allclose(_limits(unlike[order], order, label, 3, 0.95), expected)
