"""Sets of flows as bags of what is in them: their sequences, their packets, their pairs of following packets.

Shape suffixes: N rows, M packets kept of each, K characteristics, B bags, T things.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from iotid.dataset.arrays import exact_keys, side_by_side

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_Found = tuple[NDArray[np.int64], NDArray[np.void]]  # of all things of a kind: the row that each is in, and its key


class TokenCounts:
    """Counts of the things that ``learn`` has met; others are left out. ``kinds``: any of KINDS.

    A packet is the tuple of all its characteristics. A thing that is n times in a bag counts 1 + log n.
    """

    def __init__(self, *kinds: str) -> None:
        self._kinds = kinds
        self.known: list[NDArray[np.void]] = []

    def learn(self, sequences: Mapping[str, NDArray[np.int32]]) -> Self:
        """Know the things of these rows from now on, and no others."""
        self.known = [np.unique(KINDS[kind](sequences)[1]) for kind in self._kinds]
        return self

    def places(self, known: Sequence[NDArray[np.void]]) -> NDArray[np.int64]:
        """(T,) where each of this bag's things stands among those that another of the same kinds knows; -1: nowhere."""
        found, before = [], 0
        for own, others in zip(self.known, known, strict=True):
            place = _place(others, own)
            found.append(np.where(place >= 0, place + before, -1))
            before += len(others)
        return np.concatenate(found)

    def of_rows(self, sequences: Mapping[str, NDArray[np.int32]]) -> NDArray[np.int64]:
        """(N,) where each row's whole sequence stands among the known ones, which are this bag's first kind."""
        return _place(self.known[0], _sequences(sequences)[1])

    def to_arrays(self) -> dict[str, NDArray[np.uint8]]:
        """What is known, as bytes: (things, width) of each kind."""
        return {
            kind: known.view(np.uint8).reshape(len(known), known.itemsize)
            for kind, known in zip(self._kinds, self.known, strict=True)
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.uint8]]) -> TokenCounts:
        bags = cls(*arrays)
        bags.known = [exact_keys(known) for known in arrays.values()]
        return bags

    def matrix(self, sequences: Mapping[str, NDArray[np.int32]], flows_BN: csr_matrix) -> csr_matrix:
        """(B, T) of the bags that hold ``flows_BN`` flows equal to each row of ``sequences``."""
        from scipy.sparse import coo_matrix, hstack

        parts = []
        for kind, known in zip(self._kinds, self.known, strict=True):
            row, keys = KINDS[kind](sequences)
            place = _place(known, keys)
            seen = place >= 0
            ones, shape = np.ones(int(seen.sum())), (flows_BN.shape[1], len(known))
            parts.append(flows_BN @ coo_matrix((ones, (row[seen], place[seen])), shape=shape).tocsr())
        bags_BT = hstack(parts).tocsr()
        bags_BT.data = 1 + np.log(bags_BT.data)
        return bags_BT


def _place(known: NDArray[np.void], keys: NDArray[np.void]) -> NDArray[np.int64]:
    """Where each key stands among the sorted ``known``; -1: it is not there."""
    if not len(known):
        return np.full(len(keys), -1)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[place] == keys, place, -1)


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
    """(N, M, K) ids, and (N, M) whether there is a packet."""
    ids_NMK = np.stack([sequences[name] for name in sorted(sequences)], axis=2)
    return ids_NMK, ids_NMK[:, :, 0] != 0


KINDS: Mapping[str, Callable[[Mapping[str, NDArray[np.int32]]], _Found]] = {
    "sequences": _sequences,
    "packets": _packets,
    "pairs": _pairs,
}
