"""How unlike the training sets of a kind a set of flows is: a conformal p-value for each kind.

A set's score is its share of foreign tokens: the mean over all its flows, also equal ones, of the share of the flow's
tokens that no training set of the kind has. Kinds differ in how much of a new set is foreign, and the shares of small
sets vary more than those of large ones, so the share is drawn towards the kind's usual one by the weight of a few
flows, and divided by it. The p-value is the share of training sets whose score, without the tokens of their own
recording, is at least as great: cross-conformal prediction (Vovk, Annals of Mathematics and Artificial Intelligence 74,
2015) with a fold for each recording. Scores of all kinds are one list, as those of one kind are too few for small
p-values.

To leave out a recording, nothing is trained again: its tokens that no other recording of its kind has are foreign.

Shape suffixes: B sets of flows, A training sets, D distinct flows, H held-out sets, R recordings of kinds, T tokens,
K kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iotid.model.arrays import Spec

if TYPE_CHECKING:
    from iotid.model.device.token_features import SetTokens

_FLOWS = 5  # weight of the kind's usual share, in flows
_SETS = 2  # weight of all kinds' mean in a kind's usual share, in sets
_LEAST_SHARE = 1e-4  # usual share of kinds whose held-out sets have no foreign token: of 32 packets' flows, one in 100
_DECIMALS = 9  # of scores: last bits depend on the order of flows


@dataclass(frozen=True)
class UnlikeKind:
    """``usual`` (K,): usual share of foreign tokens; 0 of kinds with fewer than two recordings, which cannot be held
    out. ``scores`` (H,): of held-out training sets of all kinds, sorted."""

    usual: NDArray[np.float64]
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, tokens: SetTokens, kind_A: NDArray[np.int64], recording_A: NDArray[np.int64], kinds: int) -> UnlikeKind:
        """From the training sets; ``kind_A``: -1 of unknown devices."""
        from scipy.sparse import csr_matrix

        known = np.flatnonzero(kind_A >= 0)
        pairs, which_A = np.unique(np.stack([kind_A[known], recording_A[known]]), axis=1, return_inverse=True)
        kind_R = pairs[0]
        recordings_K = np.bincount(kind_R, minlength=kinds)
        to_recordings = csr_matrix((np.ones(len(known)), (which_A.ravel(), known)), (len(kind_R), len(kind_A)))
        in_recording_RT = (to_recordings @ tokens.counts > 0).astype(np.float64)
        to_kinds = csr_matrix((np.ones(len(kind_R)), (kind_R, np.arange(len(kind_R)))), (kinds, len(kind_R)))
        of_others_KT = (to_kinds @ in_recording_RT).toarray() > 1
        held_out = known[recordings_K[kind_A[known]] > 1]
        kind_H = kind_A[held_out]
        share_H = _foreign_shares(tokens[held_out], of_others_KT)[np.arange(len(held_out)), kind_H]
        flows_H = _flows(tokens[held_out])
        mean = float(share_H.mean()) if len(share_H) else 0.0
        sets_K, sum_K = np.bincount(kind_H, minlength=kinds), np.bincount(kind_H, share_H, kinds)
        without_own_H = (sum_K[kind_H] - share_H + _SETS * mean) / (sets_K[kind_H] - 1 + _SETS)
        scores_H = _scores(share_H, flows_H, np.maximum(without_own_H, _LEAST_SHARE))
        usual_K = np.maximum((sum_K + _SETS * mean) / (sets_K + _SETS), _LEAST_SHARE)
        return cls(np.where(sets_K > 0, usual_K, 0.0), np.sort(scores_H))

    def p_values(self, tokens: SetTokens, of_kind_KT: NDArray[np.float32]) -> NDArray[np.float64]:
        """(B, K) how seldom a set of the kind is so unlike its other sets: 1 over the number of held-out sets to 1,
        small if unlike; NaN of kinds that were not held out. ``of_kind_KT``: tokens of each kind's training sets."""
        is_calibrated_K = self.usual > 0
        usual_K = np.where(is_calibrated_K, self.usual, 1.0)
        scores_BK = _scores(_foreign_shares(tokens, of_kind_KT), _flows(tokens)[:, np.newaxis], usual_K)
        as_great_BK = len(self.scores) - np.searchsorted(self.scores, scores_BK)
        return np.where(is_calibrated_K, (1 + as_great_BK) / (1 + len(self.scores)), np.nan)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        return {"usual": self.usual, "scores": self.scores}

    @staticmethod
    def specs(kinds: int) -> dict[str, Spec]:
        """Specifications of ``to_arrays``."""
        return {"usual": Spec("F64", (kinds,), 0, 1), "scores": Spec("F64", ("H",))}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> UnlikeKind:
        """The inverse of ``to_arrays``; raises a ValueError if the scores are not sorted."""
        usual_K, scores_H = (arrays[name].astype(np.float64) for name in ("usual", "scores"))
        if (np.diff(scores_H) < 0).any():
            raise ValueError("array unlike_kind.scores: must be non-decreasing")
        return cls(usual_K, scores_H)


def _flows(tokens: SetTokens) -> NDArray[np.float64]:
    return np.asarray(tokens.flows.sum(axis=1), np.float64).ravel()


def _foreign_shares(tokens: SetTokens, known_KT: NDArray[np.generic]) -> NDArray[np.float64]:
    """(B, K) the mean over a set's flows of the share of their tokens that ``known_KT`` lacks."""
    number_D = np.maximum(tokens.in_flow.getnnz(axis=1) + tokens.unseen_in_flow, 1)
    foreign_DK = 1 - (tokens.in_flow @ known_KT.T.astype(np.float64)) / number_D[:, np.newaxis]
    return np.asarray(tokens.flows @ foreign_DK) / np.maximum(_flows(tokens), 1)[:, np.newaxis]


def _scores(share: NDArray[np.float64], flows: NDArray[np.float64], usual: NDArray[np.float64]) -> NDArray[np.float64]:
    """log of the share, drawn towards the usual one, over the usual one."""
    drawn = (share * flows + usual * _FLOWS) / (flows + _FLOWS)
    return np.asarray(np.round(np.log(drawn / usual), _DECIMALS))
