"""Votes of captures and flows, against reference loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotid.studies.votes import log_votes, majority, of_groups, rank, to_captures, to_flows


def test_to_captures__multiplies_probabilities_and_bounds_a_single_veto() -> None:
    answers_IC = np.array([[0.4, 0.6], [0.9, 0.1], [0.0, 1.0], [0.9999999, 0.0000001]])
    votes_UC = to_captures(np.array([7, 7, 9, 9]), answers_IC)
    np.testing.assert_allclose(votes_UC[0], np.array([0.36, 0.06]) / 0.42)
    np.testing.assert_allclose(votes_UC[1], [0.5, 0.5], rtol=1e-6)  # 1e-6 of each against 1 of the other
    outvoted_UC = to_captures(np.array([7] * 10), np.array([[0.4, 0.6]] * 9 + [[0.9, 0.1]]))
    assert outvoted_UC.argmax(axis=1).tolist() == [1]


def test_rank__adds_up_the_labels_of_a_kind_and_gives_0_to_what_is_impossible() -> None:
    kind_C = np.array([0, 1, 1, 2, 3])
    with np.errstate(divide="ignore"):
        log_UC = np.log([[0.3, 0.25, 0.25, 0.2, 0.0]] * 5)
    assert rank(np.arange(5), log_UC).tolist() == [1, 2, 3, 4, 0]  # of equal labels the first is before the other
    log_UG = of_groups(log_UC, kind_C)
    np.testing.assert_allclose(np.exp(log_UG[0]), [0.3, 0.5, 0.2, 0.0])
    assert rank(kind_C, log_UG).tolist() == [2, 1, 1, 3, 0]


def test_rank__of_votes_is_that_of_their_logarithms_where_the_product_is_0() -> None:
    unit_I, own_U = np.zeros(3000, np.int64), np.array([2])
    answers_IC = np.tile([0.8, 0.15, 0.04, 0.01], (3000, 1))
    assert to_captures(unit_I, answers_IC)[0].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert rank(own_U, log_votes(unit_I, answers_IC)).tolist() == [3]


def test_majority__counts_answers() -> None:
    shares_UC = majority(np.array([9, 7, 9, 9]), np.eye(2)[[0, 1, 1, 1]])
    np.testing.assert_allclose(shares_UC, [[0, 1], [1 / 3, 2 / 3]])


@pytest.mark.parametrize("seconds", [1, 1800])
@given(seed=st.integers(0, 10_000))
def test_to_flows__is_the_mean_of_the_windows_that_overlap_a_flow(seconds: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    flows, samples, classes = chance.integers(1, 12), chance.integers(1, 30), 3
    unit_P, unit_S = chance.integers(0, 3, flows), chance.integers(0, 3, samples)
    first_P = chance.integers(0, 6 * seconds, flows)
    last_P = first_P + chance.integers(0, 3 * seconds, flows)
    start_S = chance.integers(0, 7, samples) * seconds
    probabilities_SC = chance.dirichlet([1.0] * classes, samples)
    prior_C = np.array([0.2, 0.3, 0.5])
    found_PC = to_flows(unit_P, first_P, last_P, unit_S, start_S, seconds, probabilities_SC, prior_C)
    for number in range(flows):
        reached = [
            probabilities_SC[s]
            for s in range(samples)
            if unit_S[s] == unit_P[number]
            and start_S[s] <= last_P[number]
            and start_S[s] + seconds - 1 >= first_P[number]
        ]
        np.testing.assert_allclose(found_PC[number], np.mean(reached, axis=0) if reached else prior_C, atol=1e-9)
