"""How unlike all training sets a set of flows is: what tells a device of a kind never learned from those that were.

A network is sure of what it never saw, too; what does not lie is whether the device's packets, and the pairs in which
they follow each other, were ever seen together in training.

Shape suffixes: N rows, B sets, A training sets, T things (packets and pairs) of training, Q things of the sets asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from iotid.dataset.bags import Bags
from iotid.model.vote import thin

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_KINDS = ("packets", "pairs")
_THINNED = (
    0.3  # share of a training set's flows that is kept in a further copy, to learn what little evidence looks like
)
_LEAST_LIMIT = 0.25  # few and equal training sets, too, leave room for another day
_SLICE = 1024  # sets compared with all of training at once


class Novelty:
    """The mean of two shares: 1 - the cosine to the most like training set, and what of the set training never showed.

    Things are weighed by inverse document frequency, log((1 + A) / (1 + sets that hold it)), so that what every device
    does counts for little, and in the cosine by 1 + log of their number (tf-idf: Salton and Buckley 1988). Both are 0
    for a training set and 1 for a set that shares nothing. ``limit``: what ``known_share`` of the training sets, whole
    and thinned out, stay below where they are compared with the others; 0.25 at least.
    """

    limit: float

    def __init__(self) -> None:
        self._bags = Bags(*_KINDS)

    def fit(
        self,
        sequences: Mapping[str, NDArray[np.int32]],
        flows_AN: csr_matrix,
        label_A: NDArray[np.int64],
        *,
        known_share: float = 0.97,
        seed: int = 0,
    ) -> Self:
        """``flows_AN``: how many flows of each training set are equal to each row.

        A label's only set has no others to be like, and does not count for the limit; without any other it is 1.
        """
        self._train_AT = self._bags.learn(sequences).matrix(sequences, flows_AN).astype(np.float32)
        self._weigh()
        kept_BN, kept = thin(flows_AN, _THINNED, np.random.default_rng(seed))
        own = np.concatenate([np.arange(flows_AN.shape[0]), kept])
        scores = np.concatenate(
            [self._scores(sequences, sets, who) for sets, who in ((flows_AN, own[: len(label_A)]), (kept_BN, kept))]
        )
        scores = scores[(np.bincount(label_A)[label_A] > 1)[own]]
        self.limit = max(float(np.quantile(scores, known_share)), _LEAST_LIMIT) if len(scores) else 1.0
        return self

    def scores(self, sequences: Mapping[str, NDArray[np.int32]], flows_BN: csr_matrix) -> NDArray[np.float64]:
        """(B,) from 0, like a training set, to 1, like nothing in training."""
        return self._scores(sequences, flows_BN, None)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """All that it has learned, by name."""
        train = self._train_AT
        told = {"data": train.data, "indices": train.indices, "indptr": train.indptr}
        told["shape"], told["limit"] = np.array(train.shape), np.array([self.limit])
        return {**told, **{f"bags.{kind}": known for kind, known in self._bags.to_arrays().items()}}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Novelty:
        """What ``to_arrays`` told of; KeyError: a part of it is missing."""
        from scipy.sparse import csr_matrix

        novelty = cls()
        parts = (arrays[name] for name in ("data", "indices", "indptr"))
        novelty._train_AT = csr_matrix(tuple(parts), shape=tuple(arrays["shape"].astype(int).tolist()))
        novelty._bags = Bags.from_arrays({kind: arrays[f"bags.{kind}"].astype(np.uint8) for kind in _KINDS})
        novelty.limit = float(arrays["limit"].astype(np.float64)[0])
        novelty._weigh()
        return novelty

    def _weigh(self) -> None:
        from scipy.sparse import diags

        sets = self._train_AT.shape[0]
        self._held_T = self._train_AT.getnnz(axis=0)  # training sets that hold each thing
        weighed_AT = self._train_AT @ diags(_idf(self._held_T, sets))
        self._unit_AT = diags(1 / np.maximum(_norms(weighed_AT), 1e-9)) @ weighed_AT

    def _scores(
        self, sequences: Mapping[str, NDArray[np.int32]], flows_BN: csr_matrix, own_B: NDArray[np.intp] | None
    ) -> NDArray[np.float64]:
        """``own_B``: the training set that each set is, or is a part of; it is then compared with all others."""
        from scipy.sparse import csr_matrix

        asked = Bags(*_KINDS).learn(sequences)
        place_Q = asked.places(self._bags.known)
        there = np.flatnonzero(place_Q >= 0)
        sets = self._train_AT.shape[0]
        ones, shape = np.ones(len(there)), (len(place_Q), self._train_AT.shape[1])
        of_training_QT = csr_matrix((ones, (there, place_Q[there])), shape=shape)
        held_Q = np.zeros(len(place_Q), np.int64)
        held_Q[there] = self._held_T[place_Q[there]]
        found = np.empty(flows_BN.shape[0])
        for start in range(0, len(found), _SLICE):
            rows = slice(start, start + _SLICE)
            bags_BQ = asked.matrix(sequences, flows_BN[rows])
            # of a training set itself each thing is in one set less than all of training says
            weight_BQ = bags_BQ.copy()
            weight_BQ.data = _idf(held_Q[bags_BQ.indices] - (own_B is not None), sets)
            unseen_BQ = weight_BQ.copy()
            unseen_BQ.data = weight_BQ.data * (held_Q[bags_BQ.indices] - (own_B is not None) <= 0)
            all_B = np.maximum(np.asarray(weight_BQ.sum(axis=1)).ravel(), 1e-9)
            never_B = np.asarray(unseen_BQ.sum(axis=1)).ravel() / all_B
            weighed_BQ = bags_BQ.multiply(weight_BQ).tocsr()
            cosine_BA = (weighed_BQ @ of_training_QT @ self._unit_AT.T).toarray()
            cosine_BA /= np.maximum(_norms(weighed_BQ), 1e-9)[:, np.newaxis]
            if own_B is not None:
                cosine_BA[np.arange(len(cosine_BA)), own_B[rows]] = 0
            nearest_B = cosine_BA.max(axis=1, initial=0)
            found[rows] = (1 - np.clip(nearest_B, 0, 1) + never_B) / 2
        return found


def _idf(held: NDArray[np.int64], sets: int) -> NDArray[np.float64]:
    return np.log((1 + sets) / (1 + np.maximum(held, 0)))


def _norms(matrix: csr_matrix) -> NDArray[np.float64]:
    return np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
