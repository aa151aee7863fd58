"""A random forest on sequences of raw values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from iotid.baselines.sequences import RawValues
from iotid.dataset.arrays import side_by_side

if TYPE_CHECKING:
    from iotid.dataset import EncodedFlows, Encoding


class RandomForest:
    """Breiman's random forest (Machine Learning 45, 2001), with scikit-learn's defaults, on the zero-padded raw values.

    Not the method of one paper: random forests are the strongest classical classifier of Pinheiro et al. 2019 and of
    IoT SENTINEL's successors; here on the same input as the ensemble. A row has the weight ``num_flows``; each tree's
    bootstrap sample is of rows, not of flows.
    """

    origin = "random forest on sequences (scikit-learn's defaults, after Breiman 2001)"

    def __init__(self, encoding: Encoding, seed: int, *, trees: int = 100) -> None:
        self._raw = RawValues(encoding)
        self._seed = seed
        self._trees = trees

    def fit(self, train: EncodedFlows, num_classes: int) -> Self:
        from sklearn.ensemble import RandomForestClassifier

        # n_jobs=-1: all cores that this process may use (affinity and cgroup quota)
        self._forest: Any = RandomForestClassifier(self._trees, random_state=self._seed, n_jobs=-1)
        self._forest.fit(self._points(train.sequences), train.label, sample_weight=train.num_flows)
        # the order in which threads add the trees' votes would change the last digits
        self._forest.set_params(n_jobs=1)
        self._num_classes = num_classes
        return self

    def probabilities(self, sequences: Mapping[str, NDArray[np.int32]]) -> NDArray[np.float64]:
        points_ND = self._points(sequences)
        probabilities_NC = np.zeros((len(points_ND), self._num_classes))
        probabilities_NC[:, self._forest.classes_] = self._forest.predict_proba(points_ND)
        return probabilities_NC

    def _points(self, sequences: Mapping[str, NDArray[np.int32]]) -> NDArray[np.float32]:
        return side_by_side(self._raw.decode(sequences)).astype(np.float32)
