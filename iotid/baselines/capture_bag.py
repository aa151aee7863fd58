"""Logistic regression on whole captures as bags: what simple counting reaches where devices, not flows, are named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from iotid.baselines.sequences import exact_keys, side_by_side

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_STRENGTH = 30.0  # inverse of the penalty


class CaptureBag:
    """A capture of a device is the bag of its flows' sequences, of its packets and of its pairs of following packets.

    A packet is the tuple of all its characteristics. Each thing counts 1 + log of how often it is in the bag; things
    that training never saw are left out. Multinomial logistic regression with an L2 penalty. This project's own, after
    the bags of words of text classification: no paper's recipe.

    Shape suffixes: N rows, M packets kept of each, B bags, T things, C classes.
    """

    origin = "logistic regression on a capture's bag of sequences, packets and pairs (ours)"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fit(
        self, sequences: Mapping[str, NDArray[np.int32]], flows_BN: csr_matrix, label_B: NDArray[np.int64], classes: int
    ) -> Self:
        """``flows_BN``: how many flows of each bag are equal to each row of ``sequences``."""
        from sklearn.linear_model import LogisticRegression

        self._classes = classes
        kinds = _things(sequences)
        self._known = [np.unique(keys) for _, keys in kinds]
        self._model: Any = LogisticRegression(C=_STRENGTH, max_iter=400, tol=1e-3, random_state=self._seed)
        self._model.fit(self._bags(kinds, flows_BN), label_B)
        return self

    def probabilities(self, sequences: Mapping[str, NDArray[np.int32]], flows_BN: csr_matrix) -> NDArray[np.float64]:
        """(B, C) of bags, given as in ``fit``."""
        found_BC = np.zeros((flows_BN.shape[0], self._classes))
        found_BC[:, self._model.classes_] = self._model.predict_proba(self._bags(_things(sequences), flows_BN))
        return found_BC

    def _bags(self, kinds: list[tuple[NDArray[np.int64], NDArray[np.void]]], flows_BN: csr_matrix) -> csr_matrix:
        from scipy.sparse import coo_matrix, hstack

        parts = []
        for known, (row, keys) in zip(self._known, kinds, strict=True):
            place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            seen = known[place] == keys
            ones, shape = np.ones(int(seen.sum())), (flows_BN.shape[1], len(known))
            parts.append(flows_BN @ coo_matrix((ones, (row[seen], place[seen])), shape=shape).tocsr())
        bags_BT = hstack(parts).tocsr()
        bags_BT.data = 1 + np.log(bags_BT.data)
        return bags_BT


def _things(sequences: Mapping[str, NDArray[np.int32]]) -> list[tuple[NDArray[np.int64], NDArray[np.void]]]:
    """Of the three kinds of things: the row that each is in, and its key."""
    ids_NMK = np.stack([sequences[name] for name in sorted(sequences)], axis=2)
    there_NM = ids_NMK[:, :, 0] != 0
    followed_NM = there_NM[:, :-1] & there_NM[:, 1:]
    pairs = np.concatenate([ids_NMK[:, :-1], ids_NMK[:, 1:]], axis=2)[followed_NM]
    return [
        (np.arange(len(ids_NMK)), exact_keys(side_by_side(sequences))),
        (np.nonzero(there_NM)[0], exact_keys(ids_NMK[there_NM])),
        (np.nonzero(followed_NM)[0], exact_keys(pairs)),
    ]
