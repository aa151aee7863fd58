"""Similarity of a set of flows to the training sets of each kind, in several views; for what cannot be named.

A network whose devices have other firmware, servers or paths than those of training shares few packets with them, and
the device model rightly names none. Which kind is the most similar is still useful: as a candidate, not as a name.

A view is a type of tokens: sequences, packets and pairs of packets with all characteristics; and for characteristics
with ``views`` in the registry, packets or pairs with this one alone, for example lengths without TCP windows, which
depend on proxies and other ends, too. In each view the cosine between the tokens of the set and those of each class
(square root of the share of its training sets with the token), weighted by inverse document frequency over classes,
is a similarity between 0 and 1. Views are combined by the geometric mean: a kind must be similar in most of them.
A view in which all classes have the same tokens cannot distinguish them and is left out; if this is so of all views,
as of a single class, nothing is rare, and all tokens have the same weight.

Shape suffixes: B sets of flows, D distinct flows, A training sets, C classes with a kind, T tokens of a view, K kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iotid.dataset.arrays import exact_keys
from iotid.dataset.characteristics import CHARACTERISTICS
from iotid.dataset.tokens import TokenCounts

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix, csr_matrix

    from iotid.model.device.token_features import SetTokens, Vocabulary

# of a view: the number of a token type of the vocabulary, or a characteristic and the tokens with it alone
_Tokens = int | tuple[str, TokenCounts]
_LEAST = 0.01  # added to each cosine: a view without common tokens is evidence against a kind, but not proof
_DECIMALS = 9  # so that nothing in common is exactly 0


@dataclass(frozen=True)
class _View:
    """``of_class`` (C, T): unit vectors; ``weight`` (T,): of the tokens."""

    of_class: csr_matrix
    weight: NDArray[np.float64]

    @classmethod
    def of(cls, present_AT: csr_matrix, class_A: NDArray[np.int64], classes: int, *, by_rarity: bool = True) -> _View:
        from scipy.sparse import csr_matrix, diags

        sets_C = np.bincount(class_A, minlength=classes)
        of_class_CA = csr_matrix((1 / sets_C[class_A], (class_A, np.arange(len(class_A)))), (classes, len(class_A)))
        share_CT = (of_class_CA @ present_AT).sqrt()
        weight_T = np.log((1 + classes) / (1 + share_CT.getnnz(axis=0)))
        if not by_rarity:
            weight_T = np.ones(len(weight_T))
        return cls(_unit_rows(share_CT @ diags(weight_T)), weight_T)

    def cosines(self, counts_BT: csr_matrix) -> NDArray[np.float64]:
        """(B, C), whatever the number of times that a set has a token."""
        from scipy.sparse import diags

        return np.asarray((_unit_rows(_binary(counts_BT) @ diags(self.weight)) @ self.of_class.T).toarray())


class KindSimilarity:
    """Compares sets of flows with the training sets of each kind."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        characteristics: Sequence[str],
        tokens_AT: csr_matrix,
        class_A: NDArray[np.int64],
        kind_C: NDArray[np.int64],
    ) -> None:
        """``tokens_AT``: which tokens of ``vocabulary`` are in each training set; ``class_A``: its class, -1 for an
        unknown device; ``kind_C``: the kind of each class of the model, -1 for none."""
        self.kinds = int(kind_C.max(initial=-1)) + 1
        is_known_A = np.append(kind_C, -1)[class_A] >= 0
        classes, class_A = np.unique(class_A[is_known_A], return_inverse=True)
        self._kind_of, present_AT = kind_C[classes], _binary(tokens_AT[is_known_A])
        self._starts = vocabulary.starts
        present_AT, names = present_AT.tocsc(), sorted(characteristics)  # as `dataset.tokens` orders them
        present: list[tuple[_Tokens, csr_matrix]] = [
            (number, self._block(present_AT, number)) for number in range(len(vocabulary.kinds))
        ]
        for name in names if len(names) > 1 else ():
            for kind in CHARACTERISTICS[name].views:
                known, to_alone = _projected(vocabulary.keys(kind), names, name)
                block = present[vocabulary.kinds.index(kind)][1]
                present.append(((name, TokenCounts.from_arrays({kind: known})), _binary(block @ to_alone)))
        for by_rarity in (True, False):
            views = [(of, _View.of(each, class_A, len(classes), by_rarity=by_rarity)) for of, each in present]
            self._views = [(of, view) for of, view in views if view.of_class.count_nonzero()]
            if self._views:
                break

    def similarity(
        self, tokens: SetTokens, sequences: Mapping[str, NDArray[np.int32]], flows_BD: csr_matrix
    ) -> NDArray[np.float64]:
        """(B, K) similarity to each kind, that of its most similar class, from 0 (nothing in common) to 1 (equal).

        ``tokens``: of the sets, by the vocabulary; ``sequences`` and ``flows_BD``: what they were made from.
        """
        log_BC = np.zeros((len(tokens), len(self._kind_of)))  # the sum over views: each is as large, so one at a time
        present_BT = _binary(tokens.counts).tocsc()
        for of, view in self._views:
            if isinstance(of, int):
                counts = self._block(present_BT, of)
            else:
                name, tokens_alone = of
                counts = tokens_alone.matrix({name: sequences[name]}, flows_BD)
            log_BC += np.log(view.cosines(counts) + _LEAST)
        mean_BC = np.exp(log_BC / len(self._views)) - _LEAST if self._views else log_BC  # no view: no tokens at all
        out_BK = np.zeros((len(tokens), self.kinds))
        for kind in np.unique(self._kind_of):
            out_BK[:, kind] = mean_BC[:, self._kind_of == kind].max(axis=1)
        return np.clip(np.round(out_BK, _DECIMALS), 0, 1)

    def _block(self, present: csc_matrix, number: int) -> csr_matrix:
        return present[:, self._starts[number] : self._starts[number + 1]].tocsr()


def _projected(keys_TW: NDArray[np.uint8], names: Sequence[str], name: str) -> tuple[NDArray[np.uint8], csr_matrix]:
    """The distinct tokens with one characteristic alone, and (T, distinct) the one of each token.

    ``keys_TW``: bytes of tokens of one or more packets, each with the int32 ids of all ``names``.
    """
    from scipy.sparse import csr_matrix

    packets = keys_TW.shape[1] // (4 * len(names))  # not -1 in reshape: there may be no tokens, such as pairs
    ids = keys_TW.view(np.int32).reshape(len(keys_TW), packets, len(names))[:, :, names.index(name)]
    known, which_T = np.unique(exact_keys(ids), return_inverse=True)
    ones = np.ones(len(which_T), np.float32)
    to_alone = csr_matrix((ones, (np.arange(len(which_T)), which_T)), (len(which_T), len(known)))
    return known.view(np.uint8).reshape(len(known), known.itemsize), to_alone


def _binary(matrix: csr_matrix) -> csr_matrix:
    return (matrix > 0).astype(np.float64).tocsr()


def _unit_rows(matrix: csr_matrix) -> csr_matrix:
    from scipy.sparse import diags

    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return (diags(1 / np.where(length > 0, length, 1)) @ matrix).tocsr()
