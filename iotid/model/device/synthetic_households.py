"""Synthetic households: unions of training sets of flows whose kinds are known.

An address has the traffic of all devices behind it. So the device model learns from unions of sets of several kinds,
complete and with flows removed at random ("thinned"), also with unknown devices, whose sets are of no learned kind.

Shape suffixes: B sets of flows, D distinct flows, H households, M members of households, K kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_THINNED, _LEAST_SHARE = 0.3, 0.3  # share of thinned households, and the least share of flows that remains
_TWO_UNITS = 0.1  # share of households with a second device of one of their kinds
_SEVERAL_SETS = 0.2  # share of members with several sets of one recording


class Household(NamedTuple):
    """``members``: indices of each member's sets; ``kinds``: the kind of each member, -1 for an unknown device."""

    members: list[NDArray[np.int64]]
    kinds: list[int]


@dataclass(frozen=True)
class SamplingPool:
    """Sets to draw from: ``kind`` (B,), -1 for an unknown device; ``recording`` (B,): sets of one recording are of one
    device; ``usable`` (B,): sets that may be drawn."""

    kind: NDArray[np.int64]
    recording: NDArray[np.int64]
    usable: NDArray[np.bool_]

    def kinds(self) -> NDArray[np.int64]:
        """The kinds with a usable set."""
        found: NDArray[np.int64] = np.unique(self.kind[self.usable & (self.kind >= 0)])
        return found

    def sets_of(self, kind: int) -> NDArray[np.int64]:
        return np.flatnonzero(self.usable & (self.kind == kind))

    def singles(self) -> list[Household]:
        """Households of one device: one for each set, and one for each recording with several sets."""
        rows = np.flatnonzero(self.usable)
        alone = [Household([np.array([row])], [int(self.kind[row])]) for row in rows]
        pairs, which = np.unique(np.stack([self.kind[rows], self.recording[rows]]), axis=1, return_inverse=True)
        same_recording = [rows[which.ravel() == number] for number in range(pairs.shape[1])]
        return alone + [Household([sets], [int(self.kind[sets[0]])]) for sets in same_recording if len(sets) > 1]

    def draw(
        self, number: int, sizes: Sequence[int], unknowns: Sequence[int], random: np.random.Generator
    ) -> list[Household]:
        """Draw ``number`` random households, with a number of kinds from ``sizes`` and of unknown devices from
        ``unknowns``."""
        kinds = self.kinds()
        sets_of = {int(kind): self.sets_of(kind) for kind in (*kinds.tolist(), -1)}
        found = []
        for size, beside in zip(random.choice(sizes, number), random.choice(unknowns, number), strict=True):
            chosen = random.choice(kinds, min(size, len(kinds)), replace=False).tolist()
            chosen += chosen[:1] * (random.random() < _TWO_UNITS) + [-1] * (int(beside) if len(sets_of[-1]) else 0)
            if chosen:
                found.append(Household([self._member(sets_of[kind], random) for kind in chosen], chosen))
        return found

    def _member(self, sets: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
        one = random.choice(sets)
        same_recording = sets[self.recording[sets] == self.recording[one]]
        if len(same_recording) == 1 or random.random() >= _SEVERAL_SETS:
            return np.array([one])
        return random.choice(same_recording, random.integers(2, len(same_recording) + 1), replace=False)


def flows_of_households(
    flows_BD: csr_matrix, households: Sequence[Household], kinds: int, random: np.random.Generator
) -> tuple[csr_matrix, NDArray[np.bool_]]:
    """(H, D) flows of each household, some thinned at random, and (H, K) the kinds with any flow left."""
    from scipy.sparse import coo_matrix

    members = [member for household in households for member in household.members]
    household_M = np.repeat(np.arange(len(households)), [len(household.members) for household in households])
    kind_M = np.array([kind for household in households for kind in household.kinds], np.int64)
    sets, row = np.concatenate(members), np.repeat(np.arange(len(members)), [len(member) for member in members])
    shape = (len(members), flows_BD.shape[0])
    flows_MD = (coo_matrix((np.ones(len(sets)), (row, sets)), shape=shape).tocsr() @ flows_BD).tocsr()
    is_thinned_H = random.random(len(households)) < _THINNED
    share_H = np.where(is_thinned_H, random.uniform(_LEAST_SHARE, 1, len(households)), 1.0)
    share = np.repeat(share_H[household_M], np.diff(flows_MD.indptr))
    flows_MD.data = random.binomial(flows_MD.data.astype(np.int64), share).astype(np.float64)
    flows_MD.eliminate_zeros()
    present_HK = np.zeros((len(households), kinds), np.bool_)
    is_present_M = (kind_M >= 0) & (np.diff(flows_MD.indptr) > 0)
    present_HK[household_M[is_present_M], kind_M[is_present_M]] = True
    joined = coo_matrix(
        (np.ones(len(members)), (household_M, np.arange(len(members)))), shape=(len(households), len(members))
    )
    return (joined.tocsr() @ flows_MD).tocsr(), present_HK
