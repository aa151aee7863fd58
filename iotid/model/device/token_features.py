"""Tokens of sets of flows, and features that compare them with the tokens of each kind in training.

Tokens are sequences of whole flows, packets, and pairs of consecutive packets. Their weight is the inverse document
frequency over the training sets, log((1 + A) / (1 + sets with the token)), so that common tokens count little (Salton
and Buckley 1988); a token that is not in training has the greatest weight.

Shape suffixes: D distinct flows, B sets of flows, A training sets, T tokens of training, K kinds, F features, P
distinct combinations of kinds, E entries of a sparse matrix.
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
    "logit",  # of the kind, by the token classifier
    "contained",  # weighted share of a training set of the kind that is in this set; the greatest of its training sets
    "distinctive",  # the same without tokens of unknown devices, weighted by rarity among kinds; mean of the greatest 3
    "unseen",  # weighted share of this set that is not in training
    "explained",  # weighted share of this set that is in training sets of the kind
    "unexplained",  # ... that is in training sets of neither this kind nor the other kinds found
    "own",  # log(1 + weight of tokens of this kind, but of no other kind found nor any unknown device)
    "usual",  # weighted share of a class's usual tokens, without those of other kinds found; greatest of its classes
    "tokens",  # log(1 + number of tokens)
    "found",  # kinds found
)
_BLOCK = 1 << 22  # cells of a dense matrix in one step
_MOST_LOGIT = 12.0
_UNEXPLAINED_BELOW = (0.2, 0.5)  # a flow with a smaller explained share counts as unexplained
# added to a token's weight within a flow: tokens in every training set have weight 0, but must explain their flow
_EPSILON = 1e-9


@dataclass(frozen=True)
class SetTokens:
    """Tokens of B sets.

    Attributes:
        counts: (B, T) 1 + log of how often the set has each token of training, if at all.
        unseen: (B,) number of its tokens that are not in training.
        in_flow: (D, T) whether each distinct flow has the token.
        unseen_in_flow: (D,) number of its tokens that are not in training.
        flows: (B, D) number of equal flows.
    """

    counts: csr_matrix
    unseen: NDArray[np.float64]
    in_flow: csr_matrix
    unseen_in_flow: NDArray[np.float64]
    flows: csr_matrix

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> SetTokens:
        return SetTokens(self.counts[rows], self.unseen[rows], self.in_flow, self.unseen_in_flow, self.flows[rows])

    def __len__(self) -> int:
        return len(self.unseen)


class Vocabulary:
    """All tokens of training; turns sets of flows into token counts."""

    kinds = TOKENS

    def __init__(self, tokens: TokenCounts) -> None:
        self._tokens = tokens
        self.starts = np.cumsum([0, *map(len, tokens.known)])  # of each of TOKENS

    @classmethod
    def of(cls, sequences: Mapping[str, NDArray[np.int32]]) -> Vocabulary:
        """The tokens of these sequences, without flows with an out-of-vocabulary value, which stands for many
        values."""
        clean_D = np.logical_and.reduce([(ids != OUT_OF_VOCABULARY).all(axis=1) for ids in sequences.values()])
        return cls(TokenCounts(*TOKENS).learn({name: ids[clean_D] for name, ids in sequences.items()}))

    def tokenize(self, sequences: Mapping[str, NDArray[np.int32]], flows_BD: csr_matrix) -> SetTokens:
        """The tokens of B sets; ``flows_BD``: how many flows of each set are equal to each row of ``sequences``."""
        from scipy.sparse import csr_matrix, identity

        own = TokenCounts(*TOKENS).learn(sequences)
        index = own.indices_in(self._tokens.known)
        is_seen = index >= 0
        shape, seen = (len(index), int(self.starts[-1])), np.flatnonzero(is_seen)
        to_training = csr_matrix((np.ones(len(seen)), (seen, index[seen])), shape=shape)
        counts_BQ, tokens_DQ = (
            own.matrix(sequences, flows_BD),
            own.matrix(sequences, identity(flows_BD.shape[1], format="csr")),
        )
        unseen_B, unseen_D = (_binary(each) @ (~is_seen).astype(np.float64) for each in (counts_BQ, tokens_DQ))
        return SetTokens(
            (counts_BQ @ to_training).tocsr(), unseen_B, _binary(tokens_DQ @ to_training), unseen_D, flows_BD.tocsr()
        )

    def keys(self, kind: str) -> NDArray[np.uint8]:
        """(T, width) the bytes of all tokens of a type."""
        return self._tokens.to_arrays()[kind]

    def sequence_tokens(self, sequences: Mapping[str, NDArray[np.int32]]) -> NDArray[np.int64]:
        """(D,) the token of each whole sequence; -1 for an unknown sequence."""
        return self._tokens.sequence_indices(sequences)

    def to_arrays(self) -> dict[str, NDArray[np.uint8]]:
        return self._tokens.to_arrays()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.uint8]]) -> Vocabulary:
        """The inverse of ``to_arrays``; raises a KeyError if an array is missing, a ValueError if its tokens are not
        sorted and distinct."""
        for name in TOKENS:
            if not _is_increasing(arrays[name]):
                raise ValueError(f"array devices.tokens.{name}: must be strictly increasing")
        return cls(TokenCounts.from_arrays({name: arrays[name] for name in TOKENS}))


class TokenFeatures:
    """Features of sets, from the tokens of each kind's training sets."""

    def __init__(
        self, tokens_AT: csr_matrix, class_A: NDArray[np.int64], kind_C: NDArray[np.int64], kinds: int
    ) -> None:
        """``tokens_AT``: which tokens are in each training set; ``class_A``: its class, -1 for an unknown device."""
        from scipy.sparse import diags

        kind_A = np.append(kind_C, -1)[class_A]
        known = np.flatnonzero(kind_A >= 0)
        self.kinds, self._kind_A, known_AT = kinds, kind_A[known], _binary(tokens_AT)[known]
        A, T = known_AT.shape
        sets_T = np.asarray(known_AT.sum(axis=0)).ravel()
        self.weight_T, self.unseen_weight = np.log((1 + A) / (1 + sets_T)), float(np.log(1 + A))
        self._weight_in_flows_T = self.weight_T + _EPSILON
        classes, which_A = np.unique(class_A[known], return_inverse=True)
        # the share of each class's sets with a token: the classes of a kind may differ in what is usual
        self._kind_of_usual, self._usual = kind_C[classes], np.zeros((len(classes), T), np.float32)
        self.of_kind_KT = np.zeros((kinds, T), np.float32)
        for number, kind in enumerate(self._kind_of_usual):
            self._usual[number] = known_AT[which_A == number].mean(axis=0)
            self.of_kind_KT[kind] = np.maximum(self.of_kind_KT[kind], self._usual[number] > 0)
        kinds_T = self.of_kind_KT.sum(axis=0)
        of_unknowns_T = np.asarray(_binary(tokens_AT)[kind_A < 0].sum(axis=0)).ravel() > 0
        rare_T = np.where(kinds_T > 0, np.log((1 + kinds) / (1 + np.maximum(kinds_T, 1))), 0) * ~of_unknowns_T
        self._own_KT = self.of_kind_KT * ~of_unknowns_T
        self._unknowns_T = np.where(kinds_T > 0, 0, self.weight_T)  # of tokens of unknown devices alone
        self._weighted = [(known_AT @ diags(weight_T)).tocsr() for weight_T in (self.weight_T, rare_T)]
        self._all_A = [np.maximum(np.asarray(each.sum(axis=1)).ravel(), 1e-9) for each in self._weighted]

    def features(self, tokens: SetTokens, logits_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B, K, F) FEATURES of each set and kind; kinds with a logit above 0 count as found."""
        rows = max(1, _BLOCK // max(1, len(self._kind_A) + self.of_kind_KT.shape[1]))
        blocks = [slice(start, start + rows) for start in range(0, len(tokens), rows)]
        found = [self._features(tokens[block], logits_BK[block]) for block in blocks]
        return np.concatenate([np.zeros((0, self.kinds, len(FEATURES))), *found])

    def unexplained(self, tokens: SetTokens, found_BK: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(B, 4) number of distinct flows of which the kinds found explain less than a fifth, and less than a half;
        weight of all tokens that they do not explain; number of distinct flows."""
        combination_PK, combination_B = _combinations(found_BK)
        flows_BD, present_BT = _binary(tokens.flows), _binary(tokens.counts)
        out_B4 = np.zeros((len(tokens), 4))
        out_B4[:, 2], out_B4[:, 3] = self._weight_of(tokens), np.diff(flows_BD.indptr)
        for group, found_K in enumerate(combination_PK):
            rows = np.flatnonzero(combination_B == group)
            by_T = self.of_kind_KT[found_K].any(axis=0) * self._weight_in_flows_T
            flows = np.unique(
                flows_BD[rows].indices
            )  # of these sets only: all flows by all combinations would be too large
            share_1D = self._share_of_flows(tokens, by_T[np.newaxis], flows)
            below_D2 = share_1D < np.array(_UNEXPLAINED_BELOW)
            out_B4[rows, :2] = flows_BD[rows][:, flows] @ below_D2.astype(np.float64)
            out_B4[rows, 2] -= present_BT[rows] @ by_T
        return out_B4

    def explained_by(self, tokens: SetTokens) -> NDArray[np.bool_]:
        """(D, K) which kinds explain half or more of each distinct flow."""
        return self._share_of_flows(tokens, self.of_kind_KT * self._weight_in_flows_T) >= _UNEXPLAINED_BELOW[1]

    def _share_of_flows(
        self, tokens: SetTokens, by_PT: NDArray[np.float64], flows: slice | NDArray[np.integer] = slice(None)
    ) -> NDArray[np.float64]:
        """(D, P) weighted share of each distinct flow that is in its tokens with the weights ``by_PT`` (0: not
        counted)."""
        tokens_DT = tokens.in_flow[flows]
        all_D = tokens_DT @ self._weight_in_flows_T + self.unseen_weight * tokens.unseen_in_flow[flows]
        return np.asarray((tokens_DT @ by_PT.T) / np.maximum(all_D, _EPSILON)[:, np.newaxis])

    def _weight_of(self, tokens: SetTokens) -> NDArray[np.float64]:
        present_BT = _binary(tokens.counts)
        return np.maximum(present_BT @ self.weight_T + self.unseen_weight * tokens.unseen, 1e-9)

    def _features(self, tokens: SetTokens, logits_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        found_BK = logits_BK > 0
        present_BT, all_B = _binary(tokens.counts), self._weight_of(tokens)
        combination_PK, combination_B = _combinations(found_BK)
        by_PT = combination_PK.astype(np.float32) @ self.of_kind_KT  # how many of the kinds found have each token
        by_E = by_PT[np.repeat(combination_B, np.diff(present_BT.indptr)), present_BT.indices]
        weight_E = self.weight_T[present_BT.indices]
        # tokens of no kind found, and of one
        free, alone = (_times(present_BT, weight_E * (by_E == number)) for number in (0, 1))

        def without_own(of_free: NDArray[np.floating], of_alone: NDArray[np.floating]) -> NDArray[np.floating]:
            """Not counting the kind itself among the kinds found."""
            return np.where(found_BK, of_alone, of_free)

        own_BK, own_beside_unknowns_BK = (
            without_own(free @ of_kind_KT.T, alone @ of_kind_KT.T) for of_kind_KT in (self.of_kind_KT, self._own_KT)
        )
        left_B = np.asarray(free.sum(axis=1)).ravel() + self.unseen_weight * tokens.unseen
        left_BK = left_B[:, np.newaxis] - np.where(found_BK, 0, own_BK)
        usual_BK = np.zeros(found_BK.shape)
        weighted = self._usual * self.weight_T.astype(np.float32)
        there = [_times(present_BT, by_E == number) @ weighted.T for number in (0, 1)]
        expected = [((by_PT == number) @ weighted.T)[combination_B] for number in (0, 1)]
        for number, kind in enumerate(self._kind_of_usual):
            there_B, expected_B = (
                np.where(found_BK[:, kind], alone[:, number], free[:, number]) for free, alone in (there, expected)
            )
            usual_BK[:, kind] = np.maximum(usual_BK[:, kind], there_B / (expected_B + 1e-6))
        contained, distinctive = (
            np.asarray((present_BT @ each.T).todense()) / whole_A
            for each, whole_A in zip(self._weighted, self._all_A, strict=True)
        )
        explained_BK = (present_BT.multiply(self.weight_T).tocsr() @ self.of_kind_KT.T) / all_B[:, np.newaxis]
        per_set = [
            (self.unseen_weight * tokens.unseen + present_BT @ self._unknowns_T) / all_B,
            np.log1p(np.diff(present_BT.indptr) + tokens.unseen),
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
        """(B, K) the mean of the ``most`` greatest shares of each kind's sets."""
        out_BK = np.zeros((len(share_BA), self.kinds))
        for kind in np.unique(self._kind_A):
            own = np.sort(share_BA[:, self._kind_A == kind], axis=1)
            out_BK[:, kind] = own[:, -most:].mean(axis=1)
        return out_BK


def _is_increasing(rows_TW: NDArray[np.uint8]) -> bool:
    """Whether the rows are strictly increasing in the order of their bytes."""
    for start in range(0, len(rows_TW) - 1, _BLOCK >> 8):
        rows = rows_TW[start : start + (_BLOCK >> 8) + 1]
        differ = rows[1:] != rows[:-1]
        first, row = differ.argmax(axis=1), np.arange(len(differ))
        if not (rows[1:][row, first] > rows[:-1][row, first]).all():
            return False
    return True


def only_one(explained_DK: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(D, K + 1) whether each kind alone explains the flow; last column: whether several kinds do."""
    kinds_D = explained_DK.sum(axis=1)[:, np.newaxis]
    return np.hstack([explained_DK & (kinds_D == 1), kinds_D > 1])


def sums_of_flows(tokens: SetTokens, number_DX: NDArray[np.generic]) -> NDArray[np.int64]:
    """(B, X) sums of integers over the distinct flows of each set."""
    return np.rint(_binary(tokens.flows) @ number_DX.astype(np.float64)).astype(np.int64)


def _binary(matrix: csr_matrix) -> csr_matrix:
    return (matrix > 0).astype(np.float32).tocsr()


def _combinations(found_BK: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """(P, K) the distinct combinations of kinds found, far fewer than sets, and (B,) the combination of each set."""
    combination_PK, combination_B = np.unique(found_BK, axis=0, return_inverse=True)
    return combination_PK, combination_B.ravel()


def _times(matrix: csr_matrix, factor_E: NDArray[np.generic]) -> csr_matrix:
    scaled = matrix.copy()
    scaled.data = matrix.data * factor_E
    return scaled
