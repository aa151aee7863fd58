"""Logistic regression on token counts of whole captures; predicts devices, not flows."""

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
    """A capture of a device is a bag of its flows' sequences, packets and pairs of consecutive packets.

    Tokens that are not in training are ignored. Multinomial logistic regression with an L2 penalty. Ours, after
    the bag of words of text classification.

    Shape suffixes: N rows, B captures, C classes.
    """

    origin = "logistic regression on a capture's bag of sequences, packets and pairs (ours)"

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._counts = TokenCounts("sequences", "packets", "pairs")

    def fit(
        self, sequences: Mapping[str, NDArray[np.int32]], flows_BN: csr_matrix, label_B: NDArray[np.int64], classes: int
    ) -> Self:
        """``flows_BN``: how many flows of each capture are equal to each row of ``sequences``."""
        from sklearn.linear_model import LogisticRegression

        self._classes = classes
        self._model: Any = LogisticRegression(C=_STRENGTH, max_iter=400, tol=1e-3, random_state=self._seed)
        self._model.fit(self._counts.learn(sequences).matrix(sequences, flows_BN), label_B)
        return self

    def probabilities(self, sequences: Mapping[str, NDArray[np.int32]], flows_BN: csr_matrix) -> NDArray[np.float64]:
        """(B, C) of captures, with arguments as in ``fit``."""
        found_BC = np.zeros((flows_BN.shape[0], self._classes))
        found_BC[:, self._model.classes_] = self._model.predict_proba(self._counts.matrix(sequences, flows_BN))
        return found_BC
