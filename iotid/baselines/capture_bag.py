"""Logistic regression on whole captures as bags: what simple counting reaches where devices, not flows, are named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from iotid.dataset.tokens import TokenCounts

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_STRENGTH = 30.0  # inverse of the penalty


class CaptureBag:
    """A capture of a device is the bag of its flows' sequences, of its packets and of its pairs of following packets.

    Things that training never saw are left out. Multinomial logistic regression with an L2 penalty. This project's own,
    after the bags of words of text classification: no paper's recipe.

    Shape suffixes: N rows, B bags, C classes.
    """

    origin = "logistic regression on a capture's bag of sequences, packets and pairs (ours)"

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._bags = TokenCounts("sequences", "packets", "pairs")

    def fit(
        self, sequences: Mapping[str, NDArray[np.int32]], flows_BN: csr_matrix, label_B: NDArray[np.int64], classes: int
    ) -> Self:
        """``flows_BN``: how many flows of each bag are equal to each row of ``sequences``."""
        from sklearn.linear_model import LogisticRegression

        self._classes = classes
        self._model: Any = LogisticRegression(C=_STRENGTH, max_iter=400, tol=1e-3, random_state=self._seed)
        self._model.fit(self._bags.learn(sequences).matrix(sequences, flows_BN), label_B)
        return self

    def probabilities(self, sequences: Mapping[str, NDArray[np.int32]], flows_BN: csr_matrix) -> NDArray[np.float64]:
        """(B, C) of bags, given as in ``fit``."""
        found_BC = np.zeros((flows_BN.shape[0], self._classes))
        found_BC[:, self._model.classes_] = self._model.predict_proba(self._bags.matrix(sequences, flows_BN))
        return found_BC
