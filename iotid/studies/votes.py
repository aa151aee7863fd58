"""Aggregates probabilities of flows or windows by vote: to captures, and from windows to flows; and ranks labels.

Shape suffixes: P flows, I flows or windows, U captures of a device, S windows of a device's traffic, C labels, G labels
or groups of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MIN_PROBABILITY = 1e-6  # in a vote, so that one flow alone does not rule out a class


def to_captures(unit_I: NDArray[np.int64], probabilities_IC: NDArray[np.float64]) -> NDArray[np.float64]:
    """(U, C) for each distinct unit, sorted: the normalised product of its probabilities, each at least 1e-6."""
    return normalised(log_votes(unit_I, probabilities_IC))


def log_votes(unit_I: NDArray[np.int64], probabilities_IC: NDArray[np.float64]) -> NDArray[np.float64]:
    """(U, C) for each distinct unit, sorted: the sum of the logarithms of its probabilities, each at least 1e-6.

    The product itself is 0 in floating point for all but a few labels if a unit has thousands of flows.
    """
    units, which_I = np.unique(unit_I, return_inverse=True)
    votes_UC = np.zeros((len(units), probabilities_IC.shape[1]))
    np.add.at(votes_UC, which_I, np.log(np.maximum(probabilities_IC, _MIN_PROBABILITY)))
    return votes_UC


def normalised(log_UC: NDArray[np.float64]) -> NDArray[np.float64]:
    """(U, C) probabilities that are proportional to the exponentials of ``log_UC``."""
    votes_UC = np.exp(log_UC - log_UC.max(axis=1, keepdims=True))
    return np.asarray(votes_UC / votes_UC.sum(axis=1, keepdims=True))


def of_groups(log_UC: NDArray[np.float64], group_C: NDArray[np.int64]) -> NDArray[np.float64]:
    """(U, G) logarithm of each group's sum of probabilities."""
    groups = range(int(group_C.max()) + 1)
    return np.column_stack([np.logaddexp.reduce(log_UC[:, group_C == group], axis=1) for group in groups])


def rank(own_U: NDArray[np.int64], log_UG: NDArray[np.float64]) -> NDArray[np.int64]:
    """(U,) rank of each unit's own label or group by probability, from 1; of equal ones the first is before the others,
    as in argmax. 0 if its probability is 0 (the logarithm -inf)."""
    own_U1 = np.take_along_axis(log_UG, own_U[:, np.newaxis], axis=1)
    is_before_UG = (log_UG > own_U1) | ((log_UG == own_U1) & (np.arange(log_UG.shape[1]) < own_U[:, np.newaxis]))
    return np.where(np.isneginf(own_U1[:, 0]), 0, 1 + is_before_UG.sum(axis=1))


def majority(unit_I: NDArray[np.int64], named_IC: NDArray[np.float64]) -> NDArray[np.float64]:
    """(U, C) for each distinct unit, sorted: the share of its windows with each label."""
    units, which_I = np.unique(unit_I, return_inverse=True)
    votes_UC = np.zeros((len(units), named_IC.shape[1]))
    np.add.at(votes_UC, which_I, named_IC)
    return np.asarray(votes_UC / votes_UC.sum(axis=1, keepdims=True))


def to_flows(
    unit_P: NDArray[np.int64],
    first_P: NDArray[np.int64],
    last_P: NDArray[np.int64],
    unit_S: NDArray[np.int64],
    start_S: NDArray[np.int64],
    seconds: int,
    probabilities_SC: NDArray[np.float64],
    prior_C: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(P, C) the mean over the windows of the flow's unit that overlap with it; ``prior_C`` without any.

    A flow lasts from second ``first_P`` to ``last_P``, both included; a window from ``start_S`` for ``seconds``.
    """
    order = np.lexsort((start_S, unit_S))
    base = min(int(start_S.min()), int(first_P.min()) - seconds)
    width = max(int(start_S.max()), int(last_P.max())) - base + 1
    key_S = unit_S[order] * width + (start_S[order] - base)
    begin_P = np.searchsorted(key_S, unit_P * width + (first_P - seconds + 1 - base))
    end_P = np.searchsorted(key_S, unit_P * width + (last_P - base), side="right")
    sums_SC = np.concatenate([np.zeros((1, probabilities_SC.shape[1])), probabilities_SC[order].cumsum(axis=0)])
    counts_P = end_P - begin_P
    means_PC = (sums_SC[end_P] - sums_SC[begin_P]) / np.maximum(counts_P, 1)[:, np.newaxis]
    return np.where((counts_P > 0)[:, np.newaxis], means_PC, prior_C)
