"""Intervals of the number of addresses: they cover what is drawn from the probabilities, also for small counts."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from iotid.census.network.intervals import intervals


def _interval(p_N: NDArray[np.float64]) -> tuple[int, int]:
    spread_N = p_N * (1 - p_N)
    sums = [np.array([values.sum()]) for values in (p_N, spread_N, spread_N * (1 - 2 * p_N))]
    low, high = intervals(*sums, np.array([len(p_N)]))
    return int(low[0]), int(high[0])


def _exact(p_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(0), P(1) … of the number of successes, by convolution."""
    probability = np.ones(1)
    for p in p_N:
        probability = np.convolve(probability, [1 - p, p])
    return probability


REGIMES = {
    "nearly certain": lambda random, n: 1 - 0.05 * random.random(n),
    "improbable": lambda random, n: 0.05 * random.random(n),
    "any": lambda random, n: random.random(n),
    "sharp": lambda random, n: random.beta(0.1, 0.3, n),
    "even": lambda random, n: np.full(n, 0.5),
    "same": lambda random, n: np.full(n, random.random()),
}


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("addresses", [1, 2, 3, 5, 10, 40, 200, 1500])
def test_intervals__cover_the_exact_distribution(regime: str, addresses: int) -> None:
    random = np.random.default_rng(addresses)
    for _ in range(20):
        p_N = REGIMES[regime](random, addresses)
        low, high = _interval(p_N)
        probability = _exact(p_N)
        assert probability[low : high + 1].sum() >= 0.9499, (low, high, p_N[:5])


@pytest.mark.parametrize("regime", REGIMES)
def test_intervals__are_not_much_wider_than_exact_ones(regime: str) -> None:
    random = np.random.default_rng(7)
    for addresses in (10, 40, 200, 1500):
        p_N = REGIMES[regime](random, addresses)
        cumulated = np.cumsum(_exact(p_N))
        exact = np.searchsorted(cumulated, 0.975) - np.searchsorted(cumulated, 0.025, side="right")
        low, high = _interval(p_N)
        assert high - low <= 1.25 * exact + 2


def test_intervals__drawn_numbers_of_many_sites_are_covered() -> None:
    random = np.random.default_rng(11)
    p_N = random.beta(0.2, 0.8, 3000)
    drawn = (random.random((2000, 3000)) < p_N).sum(axis=1)
    low, high = _interval(p_N)
    assert ((low <= drawn) & (drawn <= high)).mean() >= 0.94


def test_intervals__of_what_is_certain_are_one_number() -> None:
    assert _interval(np.ones(7)) == (7, 7)
    assert _interval(np.zeros(7)) == (0, 0)


def test_intervals__of_one_address_are_within_it() -> None:
    assert _interval(np.array([0.5])) == (0, 1)
    assert _interval(np.array([0.99])) == (1, 1)
    assert _interval(np.array([0.01])) == (0, 0)


def test_intervals__large_variance_joins_small_one_without_a_step() -> None:
    ends = [_interval(np.full(n, 0.4)) for n in (1666, 1668)]  # variance 399.8 and 400.3
    assert abs(ends[0][0] - ends[1][0]) <= 2
    assert abs(ends[0][1] - ends[1][1]) <= 2
