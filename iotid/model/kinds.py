"""Which kinds of devices a set of flows speaks of: one, or several that are behind one address.

A kind is all classes of one vendor and type: look-alikes share their flows, so hardly any flow is sure of one of them,
while many are sure that it is one of them. Distinct flows that are sure of one kind beside others that are sure of
another are two devices, unless a device of the one is often taken for the other: devices of one vendor share their
chatter, and a network is sure of much that it never saw. How often, is counted on the distinct flows of the validation
part, and what a device shows must be more than such mistakes make likely.

Shape suffixes: N devices or flows, C classes, K kinds, P pairs of a device and two kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from iotid.dataset.devices import merged_name

SURE = 0.9  # a flow is sure of a kind from this probability on
# Scores differ in their last bits with the batch that a flow was scored in; no decision may hang on those.
DECIMALS = 6
_PRIOR = 20.0  # flows that the rate of all kinds counts as, beside those that validation shows of a kind
_DEVICES_DIFFER = (
    100.0  # ... all of which count as this many at most: no two devices of a kind are taken for others alike
)


def kinds_of(labels: Sequence[str], known_devices: Mapping[str, Mapping[str, str | None]]) -> NDArray[np.int64]:
    """(C,) the kind of each class; look-alikes, which share vendor and type, have one."""
    names = [merged_name(label, known_devices.get(label, {})) for label in labels]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def sure_of(probabilities: NDArray[np.floating], kind_C: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, 2 C) of flows whose most probable kind has at least SURE; zeros of all others.

    1 in the column of the best class of that kind; and C columns on, the probabilities of the kind's classes.
    """
    rows, C = len(probabilities), len(kind_C)
    sure = np.zeros((rows, 2 * C))
    if not rows:
        return sure
    kind_N = (probabilities @ members(kind_C)).argmax(axis=1)
    of_kind = np.where(kind_C == kind_N[:, np.newaxis], probabilities, 0)
    sure[np.arange(rows), of_kind.argmax(axis=1)] = 1
    sure[:, C:] = of_kind
    return np.where((np.round(of_kind.sum(axis=1), DECIMALS) >= SURE)[:, np.newaxis], sure, 0)


@dataclass(frozen=True)
class Confusion:
    """``flows`` (K, K): of distinct flows of each kind that training did not learn from, how many were sure of each."""

    flows: NDArray[np.float64]

    @classmethod
    def of(
        cls, probabilities_NC: NDArray[np.floating], label_N: NDArray[np.int64], kind_C: NDArray[np.int64]
    ) -> Confusion:
        """Of N distinct flows with these probabilities and labels."""
        is_of_CK = members(kind_C)
        sure_NK = sure_of(probabilities_NC, kind_C)[:, : len(kind_C)] @ is_of_CK
        return cls(is_of_CK[label_N].T @ sure_NK)

    def found(self, count_NK: NDArray[np.floating], least_flows: int, chance: float) -> NDArray[np.bool_]:
        """(N, K) the kinds that are there, where ``count_NK`` of a device's distinct flows are sure of each.

        A kind of which at least ``least_flows`` are sure, and so many that, beside each other kind of which as many are
        or more, a device of that other kind alone would show them with less than ``chance``: with beta-binomial
        probability, as each kind's rate of such mistakes is known from some flows only.
        """
        from scipy.stats import betabinom

        wrong_KK, right_KK = self._rates()
        may_be_NK = count_NK >= least_flows
        found_NK = may_be_NK.copy()
        device, kind, other = np.nonzero(may_be_NK[:, :, np.newaxis] & may_be_NK[:, np.newaxis, :])
        count_P, beside_P = count_NK[device, kind], count_NK[device, other]
        is_less_P = (count_P < beside_P) | ((count_P == beside_P) & (kind > other))  # of two alike the first is there
        device, kind, other, count_P, beside_P = (each[is_less_P] for each in (device, kind, other, count_P, beside_P))
        tail_P = betabinom.sf(count_P - 1, count_P + beside_P, wrong_KK[other, kind], right_KK[other, kind])
        is_mistake_P = np.round(tail_P, 2 * DECIMALS) >= chance
        found_NK[device[is_mistake_P], kind[is_mistake_P]] = False
        return found_NK

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """All that was counted, by name."""
        return {"flows": self.flows}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """What ``to_arrays`` told of; KeyError: a part of it is missing."""
        return cls(arrays["flows"].astype(np.float64))

    def _rates(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(K, K) of beta distributions: how often flows of a kind are sure of another, and how often they are not."""
        all_K1 = self.flows.sum(axis=1, keepdims=True)
        mistakes = all_K1.sum() - np.trace(self.flows)
        usual = (mistakes + 1) / (all_K1.sum() + 2) / max(len(self.flows) - 1, 1)  # of any two kinds
        wrong_KK, all_KK = self.flows + usual * _PRIOR, all_K1 + _PRIOR
        cut_KK = np.minimum(1, _DEVICES_DIFFER / all_KK)
        return wrong_KK * cut_KK, (all_KK - wrong_KK) * cut_KK


def members(kind_C: NDArray[np.int64]) -> NDArray[np.float64]:
    """(C, K) 1 where a class is of a kind."""
    return (kind_C[:, np.newaxis] == np.arange(kind_C.max(initial=-1) + 1)).astype(np.float64)
