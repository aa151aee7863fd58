"""Kinds: flows that are sure of one, and which are there together, against the rules in plain loops."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import beta

from iotid.model.kinds import SURE, Confusion, kinds_of, sure_of

LABELS = ("camera", "plug", "lamp", "bell", "scale")
KNOWN = {
    "camera": {"vendor": "Acme", "type": "camera"}, "bell": {"vendor": "Acme", "type": "camera"},
    "plug": {"vendor": "Volt", "type": "plug"}, "lamp": {"vendor": "", "type": ""},
}  # fmt: skip


def sure_twin(rows: list[list[float]], kinds: list[set[int]]) -> list[list[float]]:
    told = []
    for row in rows:
        shares = [sum(row[place] for place in kind) for kind in kinds]
        best = kinds[shares.index(max(shares))]
        kept = [row[place] if place in best else 0.0 for place in range(len(row))]
        counted = [float(place == kept.index(max(kept))) for place in range(len(row))]
        told.append([*counted, *kept] if round(max(shares), 6) >= SURE else [0.0] * 2 * len(row))
    return told


def test_sure_of__equals_the_rule_done_flow_by_flow_and_look_alikes_are_one_kind() -> None:
    kind_C = kinds_of(LABELS, KNOWN)
    assert len(set(kind_C.tolist())) == 4
    probabilities = np.random.default_rng(4).dirichlet(np.full(5, 0.1), 300)
    sure = sure_of(probabilities, kind_C)
    np.testing.assert_allclose(sure, sure_twin(probabilities.tolist(), [{0, 3}, {1}, {2}, {4}]))
    assert 0 < (sure[:, :5].sum(axis=1) == 0).sum() < 300
    assert sure_of(np.zeros((0, 5)), kind_C).shape == (0, 10)
    assert sure_of(np.array([[0.5, 0.05, 0.05, 0.4, 0.0]]), kind_C).tolist() == [[1, 0, 0, 0, 0, 0.5, 0, 0, 0.4, 0]]


def test_confusion__counts_flows_that_are_sure_by_what_they_are_of() -> None:
    rows = [[0.5, 0, 0, 0.45, 0.05], [0.02, 0.95, 0, 0.03, 0], [0.6, 0.4, 0, 0, 0], [0, 1, 0, 0, 0]]
    kind_C = kinds_of(LABELS, KNOWN)
    counted = Confusion.of(np.array(rows), np.array([3, 0, 0, 1]), kind_C)
    camera, plug = kind_C[0], kind_C[1]
    expected = np.zeros((4, 4))
    expected[camera, camera], expected[camera, plug], expected[plug, plug] = 1, 1, 1
    assert counted.flows.tolist() == expected.tolist()
    assert Confusion.from_arrays(counted.to_arrays()).flows.tolist() == expected.tolist()


def at_least(seen: int, of: int, wrong: float, right: float) -> float:
    """The chance of so many mistakes, whose rate is as known as by these counts."""
    chances = (comb(of, k) * beta(k + wrong, of - k + right) / beta(wrong, right) for k in range(seen, of + 1))
    return float(sum(chances))


@given(
    st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), min_size=3, max_size=3),
    st.lists(st.integers(0, 25), min_size=3, max_size=3),
)
def test_found__equals_the_rule_in_plain_loops(flows: list[list[int]], counts: list[int]) -> None:
    shown = sum(map(sum, flows))
    usual = (shown - sum(flows[kind][kind] for kind in range(3)) + 1) / (shown + 2) / 2
    expected = []
    for kind, count in enumerate(counts):
        chances = [0.0]
        for other, beside in enumerate(counts):
            if other != kind and beside >= 3 and (beside > count or (beside == count and other < kind)):
                cut = min(1, 100 / (sum(flows[other]) + 20))
                wrong = cut * (flows[other][kind] + 20 * usual)
                right = cut * (sum(flows[other]) - flows[other][kind] + 20 * (1 - usual))
                chances.append(at_least(count, count + beside, wrong, right))
        expected.append(None if 0.9e-3 < max(chances) < 1.1e-3 else count >= 3 and max(chances) < 1e-3)
    found = Confusion(np.array(flows, float)).found(np.array([counts], float), 3, 1e-3)[0].tolist()
    assert all(rule is None or told == rule for told, rule in zip(found, expected, strict=True))


def test_found__needs_more_flows_of_a_kind_that_the_other_is_often_taken_for() -> None:
    confusion = Confusion(np.array([[45.0, 5, 0], [0, 50, 0], [0, 0, 50]]))
    few, many = np.array([[40, 0, 8.0], [40, 8, 0]]), np.array([[40, 40.0, 0]])
    assert confusion.found(few, 3, 1e-3).tolist() == [[True, False, True], [True, False, False]]
    assert confusion.found(many, 3, 1e-3).tolist() == [[True, True, False]]


@pytest.mark.parametrize("counts", [[0, 0, 0], [2, 0, 0], [2, 2, 2]])
def test_found__too_few_flows_find_nothing(counts: list[int]) -> None:
    assert not Confusion(np.eye(3) * 50).found(np.array([counts], float), 3, 1e-3).any()
    assert Confusion(np.zeros((3, 3))).found(np.zeros((0, 3)), 3, 1e-3).shape == (0, 3)
