"""What a set of flows shows: its tokens, and how they agree with what each kind showed in training.

Tokens are whole sequences, packets, and pairs of packets that follow each other. They are weighted by inverse document
frequency over the training sets, log((1 + A) / (1 + sets that show it)), so that what everyone does counts for little
(Salton and Buckley 1988); one that training never showed has the greatest weight.

Shape suffixes: D distinct flows, B sets of flows, A training sets, T tokens of training, K kinds, F features, P
distinct groups of kinds, E entries of a sparse matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iotid.dataset.characteristics import OUT_OF_VOCABULARY
from iotid.dataset.tokens import TokenCounts

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

TOKENS = ("sequences", "packets", "pairs")
FEATURES = (
    "logit",  # of the kind's own regression
    "contained",  # greatest weighted share of a training set of the kind that is in the set
    "distinctive",  # the same of what no unknown device showed, weighted by how few kinds did; mean of the greatest 3
    "unseen",  # weighted share of the set that training never showed
    "explained",  # weighted share of the set that the kind showed in training
    "unexplained",  # ... that neither the kind nor those found beside it showed
    "own",  # log(1 + weight of what only this kind explains, none found beside it, and no unknown device showed)
    "usual",  # of what a class of the kind usually shows and none found beside it explains, the greatest weighted share
    "tokens",  # log(1 + number of tokens)
    "found",  # kinds found
)
_BLOCK = 1 << 22  # cells of a dense matrix at once
_MOST_LOGIT = 12.0
_LITTLE = (0.2, 0.5)  # of a flow is explained where it counts as unexplained
# what a token of every training set weighs in a flow, so that a flow of such tokens alone can be explained
_NEXT_TO_NOTHING = 1e-9


@dataclass(frozen=True)
class Shown:
    """What B sets show: ``counts`` (B, T): 1 + log of how often each token of training is in each; ``unseen`` (B,): how
    many others are. Of their D distinct flows ``tokens`` (D, T) and ``unseen_of`` (D,); ``flows`` (B, D): how many."""

    counts: csr_matrix
    unseen: NDArray[np.float64]
    tokens: csr_matrix
    unseen_of: NDArray[np.float64]
    flows: csr_matrix

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Shown:
        return Shown(self.counts[rows], self.unseen[rows], self.tokens, self.unseen_of, self.flows[rows])

    def __len__(self) -> int:
        return len(self.unseen)


class Vocabulary:
    """All tokens of training, by which sets become rows of numbers."""

    def __init__(self, bags: TokenCounts) -> None:
        self._bags = bags
        self.starts = np.cumsum([0, *map(len, bags.known)])  # of each of TOKENS

    @classmethod
    def of(cls, sequences: Mapping[str, NDArray[np.int32]]) -> Vocabulary:
        """Values out of the vocabulary stand for many, so flows with one teach no token."""
        clean_D = np.logical_and.reduce([(ids != OUT_OF_VOCABULARY).all(axis=1) for ids in sequences.values()])
        return cls(TokenCounts(*TOKENS).learn({name: ids[clean_D] for name, ids in sequences.items()}))

    def read(self, sequences: Mapping[str, NDArray[np.int32]], flows_BD: csr_matrix) -> Shown:
        """``flows_BD``: how many flows of each set are equal to each row of ``sequences``."""
        from scipy.sparse import csr_matrix, identity

        asked = TokenCounts(*TOKENS).learn(sequences)
        place = asked.indices_in(self._bags.known)
        is_seen = place >= 0
        shape, seen = (len(place), int(self.starts[-1])), np.flatnonzero(is_seen)
        to_training = csr_matrix((np.ones(len(seen)), (seen, place[seen])), shape=shape)
        counts_BQ, tokens_DQ = (
            asked.matrix(sequences, flows_BD),
            asked.matrix(sequences, identity(flows_BD.shape[1], format="csr")),
        )
        unseen_B, unseen_D = (_binary(each) @ (~is_seen).astype(np.float64) for each in (counts_BQ, tokens_DQ))
        return Shown(
            (counts_BQ @ to_training).tocsr(), unseen_B, _binary(tokens_DQ @ to_training), unseen_D, flows_BD.tocsr()
        )

    def sequence_tokens(self, sequences: Mapping[str, NDArray[np.int32]]) -> NDArray[np.int64]:
        """(D,) the token of each whole sequence; -1 of one that is none."""
        return self._bags.sequence_indices(sequences)

    def to_arrays(self) -> dict[str, NDArray[np.uint8]]:
        return self._bags.to_arrays()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.uint8]]) -> Vocabulary:
        """KeyError: a part is missing; ValueError: its tokens are not sorted, each once."""
        for name in TOKENS:
            if not _rise(arrays[name]):
                raise ValueError(f"array devices.tokens.{name}: must rise")
        return cls(TokenCounts.from_arrays({name: arrays[name] for name in TOKENS}))


class Evidence:
    """What the training sets of each kind showed."""

    def __init__(self, shown_AT: csr_matrix, class_A: NDArray[np.int64], kind_C: NDArray[np.int64], kinds: int) -> None:
        """``shown_AT``: which tokens are in each training set; ``class_A``: its class, -1 of an unknown device."""
        from scipy.sparse import diags

        kind_A = np.append(kind_C, -1)[class_A]
        known = np.flatnonzero(kind_A >= 0)
        self.kinds, self._kind_A, known_AT = kinds, kind_A[known], _binary(shown_AT)[known]
        A, T = known_AT.shape
        sets_T = np.asarray(known_AT.sum(axis=0)).ravel()
        self.weight_T, self.unseen_weight = np.log((1 + A) / (1 + sets_T)), float(np.log(1 + A))
        self._weight_in_flows_T = self.weight_T + _NEXT_TO_NOTHING
        classes, which_A = np.unique(class_A[known], return_inverse=True)
        # of each class that has sets, how many of them show a token: the classes of a kind may differ in what is usual
        self._kind_of_usual, self._usual = kind_C[classes], np.zeros((len(classes), T), np.float32)
        self.showed_KT = np.zeros((kinds, T), np.float32)
        for number, kind in enumerate(self._kind_of_usual):
            self._usual[number] = known_AT[which_A == number].mean(axis=0)
            self.showed_KT[kind] = np.maximum(self.showed_KT[kind], self._usual[number] > 0)
        kinds_T = self.showed_KT.sum(axis=0)
        by_unknowns_T = np.asarray(_binary(shown_AT)[kind_A < 0].sum(axis=0)).ravel() > 0
        rare_T = np.where(kinds_T > 0, np.log((1 + kinds) / (1 + np.maximum(kinds_T, 1))), 0) * ~by_unknowns_T
        self._own_KT = self.showed_KT * ~by_unknowns_T
        self._unknowns_T = np.where(kinds_T > 0, 0, self.weight_T)  # what unknown devices alone showed
        self._weighted = [(known_AT @ diags(weight_T)).tocsr() for weight_T in (self.weight_T, rare_T)]
        self._all_A = [np.maximum(np.asarray(each.sum(axis=1)).ravel(), 1e-9) for each in self._weighted]

    def features(self, shown: Shown, logits_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B, K, F) FEATURES of each set and kind; kinds of a logit above 0 count as found."""
        rows = max(1, _BLOCK // max(1, len(self._kind_A) + self.showed_KT.shape[1]))
        blocks = [slice(start, start + rows) for start in range(0, len(shown), rows)]
        found = [self._features(shown[block], logits_BK[block]) for block in blocks]
        return np.concatenate([np.zeros((0, self.kinds, len(FEATURES))), *found])

    def unexplained(self, shown: Shown, found_BK: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(B, 4) distinct flows of which the kinds found explain less than a fifth, a half; the weight of all that they
        do not explain; and the distinct flows.
        """
        groups_PK, group_B = _groups(found_BK)
        flows_BD, showed_BT = _binary(shown.flows), _binary(shown.counts)
        out_B4 = np.zeros((len(shown), 4))
        out_B4[:, 2], out_B4[:, 3] = self._weight_of(shown), np.diff(flows_BD.indptr)
        for group, found_K in enumerate(groups_PK):
            rows = np.flatnonzero(group_B == group)
            by_T = self.showed_KT[found_K].any(axis=0) * self._weight_in_flows_T
            flows = np.unique(flows_BD[rows].indices)  # of these sets alone: all flows by all groups would be much
            share_1D = self._share_of_flows(shown, by_T[np.newaxis], flows)
            below_D2 = share_1D < np.array(_LITTLE)
            out_B4[rows, :2] = flows_BD[rows][:, flows] @ below_D2.astype(np.float64)
            out_B4[rows, 2] -= showed_BT[rows] @ by_T
        return out_B4

    def explained_by(self, shown: Shown) -> NDArray[np.bool_]:
        """(D, K) which kinds explain each distinct flow by half or more."""
        return self._share_of_flows(shown, self.showed_KT * self._weight_in_flows_T) >= _LITTLE[1]

    def _share_of_flows(
        self, shown: Shown, by_PT: NDArray[np.float64], flows: slice | NDArray[np.integer] = slice(None)
    ) -> NDArray[np.float64]:
        """(D, P) the share by weight of each of these distinct flows that ``by_PT``, weights of some tokens, are."""
        tokens_DT = shown.tokens[flows]
        all_D = tokens_DT @ self._weight_in_flows_T + self.unseen_weight * shown.unseen_of[flows]
        return np.asarray((tokens_DT @ by_PT.T) / np.maximum(all_D, _NEXT_TO_NOTHING)[:, np.newaxis])

    def _weight_of(self, shown: Shown) -> NDArray[np.float64]:
        showed_BT = _binary(shown.counts)
        return np.maximum(showed_BT @ self.weight_T + self.unseen_weight * shown.unseen, 1e-9)

    def _features(self, shown: Shown, logits_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        found_BK = logits_BK > 0
        showed_BT, all_B = _binary(shown.counts), self._weight_of(shown)
        groups_PK, group_B = _groups(found_BK)
        by_PT = groups_PK.astype(np.float32) @ self.showed_KT  # how many of the kinds found showed each token
        by_E = by_PT[np.repeat(group_B, np.diff(showed_BT.indptr)), showed_BT.indices]
        weight_E = self.weight_T[showed_BT.indices]
        free, alone = (_times(showed_BT, weight_E * (by_E == number)) for number in (0, 1))  # of no kind found, of one

        def without_own(of_free: NDArray[np.floating], of_alone: NDArray[np.floating]) -> NDArray[np.floating]:
            """A kind that was found is no explanation beside itself."""
            return np.where(found_BK, of_alone, of_free)

        own_BK, own_beside_unknowns_BK = (
            without_own(free @ showed_KT.T, alone @ showed_KT.T) for showed_KT in (self.showed_KT, self._own_KT)
        )
        left_B = np.asarray(free.sum(axis=1)).ravel() + self.unseen_weight * shown.unseen
        left_BK = left_B[:, np.newaxis] - np.where(found_BK, 0, own_BK)
        usual_BK = np.zeros(found_BK.shape)
        weighted = self._usual * self.weight_T.astype(np.float32)
        there = [_times(showed_BT, by_E == number) @ weighted.T for number in (0, 1)]
        expected = [((by_PT == number) @ weighted.T)[group_B] for number in (0, 1)]
        for number, kind in enumerate(self._kind_of_usual):
            there_B, expected_B = (
                np.where(found_BK[:, kind], alone[:, number], free[:, number]) for free, alone in (there, expected)
            )
            usual_BK[:, kind] = np.maximum(usual_BK[:, kind], there_B / (expected_B + 1e-6))
        contained, distinctive = (
            np.asarray((showed_BT @ each.T).todense()) / whole_A
            for each, whole_A in zip(self._weighted, self._all_A, strict=True)
        )
        explained_BK = (showed_BT.multiply(self.weight_T).tocsr() @ self.showed_KT.T) / all_B[:, np.newaxis]
        per_set = [
            (self.unseen_weight * shown.unseen + showed_BT @ self._unknowns_T) / all_B,
            np.log1p(np.diff(showed_BT.indptr) + shown.unseen),
            found_BK.sum(axis=1).astype(np.float64),
        ]
        unseen_BK, tokens_BK, number_BK = (np.repeat(each[:, np.newaxis], self.kinds, axis=1) for each in per_set)
        return np.stack(
            [
                np.clip(logits_BK, -_MOST_LOGIT, _MOST_LOGIT),
                self._greatest(contained, 1),
                self._greatest(distinctive, 3),
                unseen_BK,
                explained_BK,
                left_BK / all_B[:, np.newaxis],
                np.log1p(np.maximum(own_beside_unknowns_BK, 0)),
                usual_BK,
                tokens_BK,
                number_BK,
            ],
            axis=2,
        )

    def _greatest(self, share_BA: NDArray[np.float64], most: int) -> NDArray[np.float64]:
        """(B, K) the mean of the greatest shares of each kind's sets."""
        out_BK = np.zeros((len(share_BA), self.kinds))
        for kind in np.unique(self._kind_A):
            own = np.sort(share_BA[:, self._kind_A == kind], axis=1)
            out_BK[:, kind] = own[:, -most:].mean(axis=1)
        return out_BK


def _rise(rows_TW: NDArray[np.uint8]) -> bool:
    """Whether each row is behind the one before it, in the order of their bytes."""
    for start in range(0, len(rows_TW) - 1, _BLOCK >> 8):
        rows = rows_TW[start : start + (_BLOCK >> 8) + 1]
        differ = rows[1:] != rows[:-1]
        first, row = differ.argmax(axis=1), np.arange(len(differ))
        if not (rows[1:][row, first] > rows[:-1][row, first]).all():
            return False
    return True


def only_one(explained_DK: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(D, K + 1) which kind alone explains each flow; last, whether several do."""
    kinds_D = explained_DK.sum(axis=1)[:, np.newaxis]
    return np.hstack([explained_DK & (kinds_D == 1), kinds_D > 1])


def sums_of_flows(shown: Shown, number_DX: NDArray[np.generic]) -> NDArray[np.int64]:
    """(B, X) the sums of whole numbers of the distinct flows of each set."""
    return np.rint(_binary(shown.flows) @ number_DX.astype(np.float64)).astype(np.int64)


def _binary(matrix: csr_matrix) -> csr_matrix:
    return (matrix > 0).astype(np.float32).tocsr()


def _groups(found_BK: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """(P, K) the distinct groups of kinds found, and (B,) the group of each set: far fewer than sets."""
    groups_PK, group_B = np.unique(found_BK, axis=0, return_inverse=True)
    return groups_PK, group_B.ravel()


def _times(matrix: csr_matrix, factor_E: NDArray[np.generic]) -> csr_matrix:
    scaled = matrix.copy()
    scaled.data = matrix.data * factor_E
    return scaled
