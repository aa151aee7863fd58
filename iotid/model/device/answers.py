"""Types of the device model's output and of its optional input, the times of flows.

Shape suffixes: B sets of flows, N pairs of a set and a distinct flow, D distinct flows, C classes, K kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Answer:
    """The device model's output for B sets of flows.

    Attributes:
        host: (B, K) probability of each kind if the address is one host.
        household: (B, K) the same if it is a household.
        log_odds: (B,) that it is a household, with a prior of one half.
        class_share: (B, C) probability of each class, given its kind.
        unexplained: (B,) share of the distinct flows that no kind found explains.
        unknown: (B,) probability that an unknown device is there.
        flows: (B, K + 1) distinct flows that are like those of one kind alone; last column: of several kinds.
        distinct: (B,) all distinct flows.
        min_devices: (B, K) least number of devices of each kind, if any: 2 where more sessions were open at the same
            time than one device had in training.
        begins: (B, K) µs since 1970 of the first packet of flows that are like those of the kind alone; 0 without
            such flows or times.
        ends: (B, K) the same of the last packet; -1 without such flows or times.
        known_tokens: (B, K) tokens known from training, summed over the distinct flows that are like those of each
            kind, alone or not.
        similarity: (B, K) to the training sets of each kind, see `model.device.similarity`.
        unlike_kind: (B, K) p-value of each kind, see `model.device.unlike_kind`; None: not asked for.
    """

    host: NDArray[np.float64]
    household: NDArray[np.float64]
    log_odds: NDArray[np.float64]
    class_share: NDArray[np.float64]
    unexplained: NDArray[np.float64]
    unknown: NDArray[np.float64]
    flows: NDArray[np.int64]
    distinct: NDArray[np.int64]
    min_devices: NDArray[np.int64]
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    known_tokens: NDArray[np.int64]
    similarity: NDArray[np.float64]
    unlike_kind: NDArray[np.float64] | None = None


class FlowTimes(NamedTuple):
    """N pairs of a set and one of its distinct flows: begin of the first equal flow and end of the last, µs."""

    set: NDArray[np.int64]
    flow: NDArray[np.int64]
    first_us: NDArray[np.int64]
    last_us: NDArray[np.int64]

    @classmethod
    def none(cls) -> FlowTimes:
        return cls(*[np.zeros(0, np.int64)] * 4)

    def spans(self, sets: int, of_kind_DK: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(B, K) each: begin and end of the flows of each kind; a flow has one kind at most. 0 and -1 without flows."""
        limits = np.iinfo(np.int64)
        begins_BK = np.full((sets, of_kind_DK.shape[1]), limits.max)
        ends_BK = np.full_like(begins_BK, limits.min)
        pair, kind = np.nonzero(of_kind_DK[self.flow])
        np.minimum.at(begins_BK, (self.set[pair], kind), self.first_us[pair])
        np.maximum.at(ends_BK, (self.set[pair], kind), self.last_us[pair])
        is_none_BK = ends_BK < begins_BK
        return np.where(is_none_BK, 0, begins_BK), np.where(is_none_BK, -1, ends_BK)
