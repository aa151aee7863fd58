"""95 % intervals of the number of addresses (or sites) that have something, from their probabilities.

The number is Poisson-binomial: a sum of independent draws of probability p. Its cumulants are known: mean, variance
sum p(1-p), and third cumulant sum p(1-p)(1-2p), which is negative where most draws are nearly certain. The interval is
that of s - A + B, where the integer s are the certain ones, and A (certain ones that fail) and B (improbable ones that
succeed) are Poisson: a difference of Poissons (J. G. Skellam, JRSS 109, 1946), whose three cumulants are made the same
as far as an integer s allows. Poisson tails are heavier than those of a sum of draws with the same mean (W. Hoeffding,
Annals of Mathematical Statistics 27, 1956), and a little variance is added, so that small counts are covered, too. From
a variance of _NORMAL on, the expansion of Cornish and Fisher (1938) gives the same to less than one.

Intervals hold if the probabilities are calibrated and errors are independent: a model that is wrong about a kind is
wrong at many addresses at the same time, which no interval of this sort includes.

Pure functions on arrays. Shape suffixes: R numbers of which intervals are wanted, C possible values of a count.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TAIL = 0.025  # on each side
_Z = 1.959963984540054  # the normal quantile of 1 - _TAIL
_NORMAL = 400.0  # variance
_CERTAIN = 1e-9  # of rounded probabilities, a variance below this is none
_SLACK = 0.1  # variance added where draws are uncertain: without it, 29 of 9,000 intervals of few addresses cover only
# 91 to 95 %; with it, none covers less than 95 %
_REACH = 9  # standard deviations of a Poisson number that are computed; what is beyond weighs less than 1e-9


def intervals(
    expected_R: NDArray[np.float64],
    variance_R: NDArray[np.float64],
    third_cumulant_R: NDArray[np.float64],
    most_R: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(R,) lower and (R,) upper ends, both inclusive, 0 at least and ``most_R`` at most."""
    low_R = np.rint(expected_R).astype(np.int64)
    high_R = low_R.copy()
    is_normal_R = variance_R >= _NORMAL
    if is_normal_R.any():
        low_R[is_normal_R], high_R[is_normal_R] = _normal(
            expected_R[is_normal_R], variance_R[is_normal_R], third_cumulant_R[is_normal_R]
        )
    for row in np.flatnonzero((variance_R > _CERTAIN) & ~is_normal_R).tolist():
        low_R[row], high_R[row] = _skellam(float(expected_R[row]), float(variance_R[row]), float(third_cumulant_R[row]))
    return np.clip(low_R, 0, most_R), np.clip(high_R, 0, most_R)


def _skellam(expected: float, variance: float, third_cumulant: float) -> tuple[int, int]:
    """The interval of s - A + B with the cumulants given, or with a greater variance if no integer s allows them."""
    certain = round(expected - third_cumulant)
    is_even = 1 - (third_cumulant / variance) ** 2  # near 0 if all draws are nearly certain or all improbable
    spread = max(variance, abs(expected - certain)) + min(variance, _SLACK) * is_even
    failing, succeeding = (spread - expected + certain) / 2, (spread + expected - certain) / 2
    failing_C, succeeding_C = _poisson(failing), _poisson(succeeding)
    cumulated_C = np.cumsum(np.convolve(failing_C[::-1], succeeding_C))
    least = certain - len(failing_C) + 1
    low = int(np.searchsorted(cumulated_C, _TAIL, side="right"))  # P(less than low) is at most _TAIL
    high = int(np.searchsorted(cumulated_C, 1 - _TAIL, side="left"))
    return least + low, least + min(high, len(cumulated_C) - 1)


def _poisson(mean: float) -> NDArray[np.float64]:
    """(C,) probabilities of 0, 1, 2 …"""
    from scipy.special import gammaln

    if mean <= 0:
        return np.ones(1)
    count_C = np.arange(int(mean + _REACH * np.sqrt(mean) + _REACH) + 1)
    return np.asarray(np.exp(count_C * np.log(mean) - mean - gammaln(count_C + 1)))


def _normal(
    expected_R: NDArray[np.float64], variance_R: NDArray[np.float64], third_cumulant_R: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    deviation_R = np.sqrt(variance_R)
    middle_R = expected_R + third_cumulant_R / variance_R * (_Z**2 - 1) / 6
    return (
        np.floor(middle_R - _Z * deviation_R).astype(np.int64),
        np.ceil(middle_R + _Z * deviation_R).astype(np.int64),
    )
