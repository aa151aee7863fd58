"""Converts sets of flows to counts of tokens: sequences, packets, and pairs of consecutive packets.

Shape suffixes: N rows, M packets kept of each, K characteristics, B sets, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from iotid.dataset.arrays import exact_keys, side_by_side

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_Found = tuple[NDArray[np.int64], NDArray[np.void]]  # of all tokens of a type: the row that each is in, and its key


class TokenCounts:
    """Counts the tokens that ``learn`` has seen; others are ignored. ``kinds``: token types, any of KINDS.

    A packet is the tuple of its characteristics. The weight of a token that occurs n times in a set is 1 + log n.
    """

    def __init__(self, *kinds: str) -> None:
        self._kinds = kinds
        self.known: list[NDArray[np.void]] = []

    def learn(self, sequences: Mapping[str, NDArray[np.int32]]) -> Self:
        """Learn the tokens of these rows; forget those known before."""
        self.known = [np.unique(KINDS[kind](sequences)[1]) for kind in self._kinds]
        return self

    def indices_in(self, known: Sequence[NDArray[np.void]]) -> NDArray[np.int64]:
        """(T,) index of each token in ``known`` of another TokenCounts of the same kinds; -1 if it is not there."""
        found, before = [], 0
        for own, others in zip(self.known, known, strict=True):
            index = _index(others, own)
            found.append(np.where(index >= 0, index + before, -1))
            before += len(others)
        return np.concatenate(found)

    def sequence_indices(self, sequences: Mapping[str, NDArray[np.int32]]) -> NDArray[np.int64]:
        """(N,) index of each row's whole sequence among the known tokens of the first kind; -1 if it is unknown."""
        return _index(self.known[0], _sequences(sequences)[1])

    def to_arrays(self) -> dict[str, NDArray[np.uint8]]:
        """The known tokens as bytes: (T, width) of each kind."""
        return {
            kind: known.view(np.uint8).reshape(len(known), known.itemsize)
            for kind, known in zip(self._kinds, self.known, strict=True)
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.uint8]]) -> TokenCounts:
        counts = cls(*arrays)
        counts.known = [exact_keys(known) for known in arrays.values()]
        return counts

    def matrix(self, sequences: Mapping[str, NDArray[np.int32]], flows_BN: csr_matrix) -> csr_matrix:
        """(B, T) token weights of sets with ``flows_BN`` flows equal to each row of ``sequences``."""
        from scipy.sparse import coo_matrix, hstack

        blocks = []
        for kind, known in zip(self._kinds, self.known, strict=True):
            row, keys = KINDS[kind](sequences)
            index = _index(known, keys)
            seen = index >= 0
            ones, shape = np.ones(int(seen.sum())), (flows_BN.shape[1], len(known))
            blocks.append(flows_BN @ coo_matrix((ones, (row[seen], index[seen])), shape=shape).tocsr())
        counts_BT = hstack(blocks).tocsr()
        counts_BT.data = 1 + np.log(counts_BT.data)
        return counts_BT


def _index(known: NDArray[np.void], keys: NDArray[np.void]) -> NDArray[np.int64]:
    """Index of each key in the sorted ``known``; -1 if it is not there."""
    if not len(known):
        return np.full(len(keys), -1)
    index = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[index] == keys, index, -1)


def _sequences(sequences: Mapping[str, NDArray[np.int32]]) -> _Found:
    keys = exact_keys(side_by_side(sequences))
    return np.arange(len(keys)), keys


def _packets(sequences: Mapping[str, NDArray[np.int32]]) -> _Found:
    ids_NMK, there_NM = _by_packet(sequences)
    return np.nonzero(there_NM)[0], exact_keys(ids_NMK[there_NM])


def _pairs(sequences: Mapping[str, NDArray[np.int32]]) -> _Found:
    ids_NMK, there_NM = _by_packet(sequences)
    followed_NM = there_NM[:, :-1] & there_NM[:, 1:]
    pairs = np.concatenate([ids_NMK[:, :-1], ids_NMK[:, 1:]], axis=2)[followed_NM]
    return np.nonzero(followed_NM)[0], exact_keys(pairs)


def _by_packet(sequences: Mapping[str, NDArray[np.int32]]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """((N, M, K) ids, (N, M) whether there is a packet)."""
    ids_NMK = np.stack([sequences[name] for name in sorted(sequences)], axis=2)
    return ids_NMK, ids_NMK[:, :, 0] != 0  # all characteristics have as many values (`Encoding.encode`)


KINDS: Mapping[str, Callable[[Mapping[str, NDArray[np.int32]]], _Found]] = {
    "sequences": _sequences,
    "packets": _packets,
    "pairs": _pairs,
}
